"""The device's own endpoints: what they answer, and with which status."""

import attrs
import pytest

from actors.messages import Books, Link, LinkState, Pulse, Vision
from actors.ports.status_door import Window, create_status_app
from actors.readiness import Bounds
from actors.status import Cells, Status, status_of

GOOD = Books(stream_id="S", pending=2, last_seq=9, capacity_bytes=500 * 2**20, size_bytes=2**20, disk_answered_at=99.0)


@attrs.define
class Device:
    """A device's cells at second 100 of its clock."""

    cells: Cells = attrs.Factory(Cells)

    def __attrs_post_init__(self) -> None:
        self.cells.books.value = GOOD
        self.cells.link.value = Link(LinkState.UP)
        self.cells.vision.value = Vision(model_name="m", model_version="v1", inference_ms=12.5)
        self.cells.pulse.value = Pulse(looked_at=99.5)

    def status(self) -> Status:
        return status_of("cam", self.cells, now=1.8e9, monotonic=100.0, bounds=Bounds())

    async def get(self, path: str):
        return await create_status_app(Window(self.status)).test_client().get(path)


@pytest.fixture
def device() -> Device:
    return Device()


async def test_all_is_well(device):
    health, ready = await device.get("/health"), await device.get("/ready")
    assert (health.status_code, await health.get_json()) == (200, {"status": "ok"})
    assert (ready.status_code, await ready.get_json()) == (200, {"status": "ready"})


async def test_a_disk_that_hangs_fails_the_health_with_its_reason(device):
    device.cells.books.value = attrs.evolve(GOOD, disk_answered_at=60.0)
    health = await device.get("/health")
    assert health.status_code == 503
    assert await health.get_json() == {"status": "failing", "reasons": ["the disk has not answered for 40 s"]}


async def test_what_does_not_move_is_alive_but_not_ready(device):
    device.cells.pulse.value = Pulse(looked_at=99.5, stuck="the link is up and 2 predictions wait")
    assert (await device.get("/health")).status_code == 200
    ready = await device.get("/ready")
    assert ready.status_code == 503
    assert await ready.get_json() == {"status": "not ready", "reasons": ["the link is up and 2 predictions wait"]}


async def test_status_is_the_whole_account(device):
    answer = await device.get("/status")
    assert answer.content_type == "application/json"
    assert (await answer.get_json()).keys() == Status.__annotations__.keys()


@pytest.mark.parametrize("path", ["/nowhere", "/status/", "/health/x"])
async def test_other_paths_are_not_there(device, path):
    assert (await device.get(path)).status_code == 404
