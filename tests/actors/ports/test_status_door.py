"""The device's own endpoints: what they answer, and with which status."""

import json
import socket
import threading
from collections.abc import Sequence

import attrs
import pytest
import trio
from msgspec.structs import replace
from quart_trio import QuartTrio

from actors.messages import Books, Link, LinkState, PipelineClosed, Pulse, Receipt, Vision
from actors.ports import status_door
from actors.ports.prediction_door import AT_ONCE_MAX, BODY_BYTES_MAX
from actors.ports.status_door import Window, create_status_app, names_of
from actors.readiness import Bounds
from actors.status import Cells, Status, status_of
from cloud.wire import BATCH_RECORDS_MAX, Prediction

GOOD = Books(stream_id="S", pending=2, last_seq=9, capacity_bytes=500 * 2**20, size_bytes=2**20, disk_answered_at=99.0)


@attrs.define(eq=False)
class Device:
    """A device's cells at second 100 of its clock."""

    cells: Cells = attrs.Factory(Cells)
    jpeg: bytes | None = None
    receipt: Receipt = attrs.Factory(lambda: Receipt("S", 7, durable=True))
    closed: bool = False
    disk: trio.Event = attrs.Factory(trio.Event)
    """Set while the disk answers."""
    logged: list[Prediction] = attrs.Factory(list)
    app: QuartTrio | None = None

    def __attrs_post_init__(self) -> None:
        self.cells.books.value = GOOD
        self.cells.link.value = Link(LinkState.UP)
        self.cells.vision.value = Vision(model_name="m", model_version="v1", inference_ms=12.5)
        self.cells.pulse.value = Pulse(looked_at=99.5)
        self.disk.set()

    def status(self) -> Status:
        return status_of("cam", self.cells, now=1.8e9, monotonic=100.0, bounds=Bounds())

    async def picture(self) -> bytes | None:
        return self.jpeg

    async def log(self, predictions: Sequence[Prediction]) -> Sequence[Receipt]:
        if self.closed:
            raise PipelineClosed
        await self.disk.wait()
        self.logged += predictions
        return [self.receipt] * len(predictions)

    @property
    def window(self) -> Window:
        return Window(self.status, self.picture, self.log)

    def client(self):
        if self.app is None:
            self.app = create_status_app(self.window, None)
        return self.app.test_client()

    async def get(self, path: str, peer: str = "127.0.0.1", host: str = "127.0.0.1:8000"):
        scope = {"client": (peer, 40_000)}
        return await self.client().get(path, scope_base=scope, headers={"Host": host})

    async def post(self, body, peer: str = "127.0.0.1", host: str = "localhost:8000", kind: str = "application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Host": host, "Content-Type": kind}
        scope = {"client": (peer, 40_000)}
        return await self.client().post("/predictions", data=data, scope_base=scope, headers=headers)


@pytest.fixture
def device() -> Device:
    return Device()


async def test_all_is_well(device):
    health, ready = await device.get("/health"), await device.get("/ready")
    assert (health.status_code, await health.get_json()) == (200, {"status": "ok"})
    assert (ready.status_code, await ready.get_json()) == (200, {"status": "ready"})


async def test_a_disk_that_hangs_fails_the_health_with_its_reason(device):
    device.cells.books.value = replace(GOOD, disk_answered_at=60.0)
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


async def test_a_client_that_says_nothing_more_is_let_go_and_holds_up_no_stop(device, monkeypatch):
    monkeypatch.setattr(status_door, "KEEP_ALIVE_S", 0.2)
    stopping = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(status_door.serve, device.window, "127.0.0.1:0", stopping)
            port = int(url.rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                heard = b""
                while piece := await client.receive_some():
                    heard += piece
            assert heard.endswith(b'{"status":"ok"}')
            stopping.set()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux: it cuts off who takes nothing")
async def test_a_client_that_takes_nothing_of_its_answer_holds_up_no_stop(device, monkeypatch):
    monkeypatch.setattr(status_door, "STALLED_S_MAX", 1.0)
    device.jpeg = bytes(32 * 2**20)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(status_door.serve, device.window, "127.0.0.1:0", trio.Event())
        client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /frame.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await trio.sleep(1.0)  # the answer has filled what the kernel holds of it
        patience = threading.Timer(20.0, client.close)  # whatever happens, the test ends
        patience.start()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 15
    patience.cancel()
    client.close()


# --- the page and its picture


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
)
async def test_the_page_comes_from_here_and_asks_nobody_else(device, path, kind):
    answer = await device.get(path)
    assert (answer.status_code, answer.mimetype) == (200, kind)
    assert "://" not in await answer.get_data(as_text=True)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


async def test_the_picture_is_the_last_frame_and_before_it_there_is_none(device):
    assert (await device.get("/frame.jpg")).status_code == 404
    device.jpeg = b"\xff\xd8"
    answer = await device.get("/frame.jpg")
    assert (answer.mimetype, await answer.get_data()) == ("image/jpeg", b"\xff\xd8")


# --- POST /predictions


ONE = {
    "image_id": "frame_001",
    "timestamp": 1769596240.2,
    "model_version": "v1.0",
    "model_name": "yolov8-defect",
    "inference_time_ms": 45.2,
    "detections": [{"class": "defect", "confidence": 0.95, "bbox": [100, 100, 200, 200]}],
    "defect_detected": True,
    "confidence_scores": [0.95],
}
RECEIPT = {"stream_id": "S", "seq": 7, "durable": True, "accepted": True}


async def test_a_prediction_is_answered_with_its_receipt_once_it_is_durable(device):
    answer = await device.post(ONE)
    assert (answer.status_code, await answer.get_json()) == (201, RECEIPT)
    assert [one.image_id for one in device.logged] == ["frame_001"]


async def test_a_list_is_answered_with_a_receipt_each(device):
    answer = await device.post([ONE, ONE | {"image_id": "frame_002"}])
    assert (answer.status_code, await answer.get_json()) == (201, {"receipts": [RECEIPT, RECEIPT]})
    assert [one.image_id for one in device.logged] == ["frame_001", "frame_002"]


async def test_what_only_memory_holds_is_accepted_but_not_created(device):
    device.receipt = Receipt("S", None, durable=False)
    answer = await device.post(ONE)
    assert (answer.status_code, (await answer.get_json())["durable"]) == (202, False)


BAD_BOX = ONE | {"detections": [{"class": "defect", "confidence": 1.5, "bbox": [0, 0, 1, 1]}]}


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"{", 400, "body: Input data was truncated"),
        (b"", 400, "body: Input data was truncated"),
        (b"[1, ", 400, "body: "),
        (b"\xff\xfe", 400, "body: "),
        ({}, 422, "body: Object missing required field `image_id`"),
        (BAD_BOX, 422, "detections[0].confidence: "),
        ([ONE, BAD_BOX], 422, "[1].detections[0].confidence: "),
        (ONE | {"seq": 5}, 422, "seq: the device numbers what it accepts"),
        ([ONE] * (BATCH_RECORDS_MAX + 1), 413, "at most 1000"),
        (b" " * (BODY_BYTES_MAX + 1), 413, ""),
    ],
)
async def test_what_can_not_be_taken_is_named_and_none_of_it_is_taken(device, body, status, detail):
    answer = await device.post(body)
    problem = json.loads(await answer.get_data())
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert device.logged == []


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"peer": "10.0.0.9"}, 403),
        ({"host": "rebound.test:8000"}, 403),
        ({"host": "127.0.0.1.rebound.test"}, 403),
        ({"kind": "text/plain"}, 415),
        ({"kind": "application/x-www-form-urlencoded"}, 415),
    ],
)
async def test_only_programs_on_the_device_may_log(device, how, status):
    """Neither another machine, nor a page in a browser here: by a name pointed at us, or by a form."""
    assert (await device.post(ONE, **how)).status_code == status
    assert device.logged == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.0.0.1:8000", "[::1]:8000"])
async def test_the_device_itself_may_log_by_each_of_its_names(device, host):
    assert (await device.post(ONE, host=host, peer="::1" if "::" in host else "127.0.0.1")).status_code == 201


@pytest.mark.parametrize("how", [{"peer": "10.0.0.9"}, {"host": "rebound.test"}])
async def test_only_the_device_itself_sees_its_frames(device, how):
    device.jpeg = b"\xff\xd8"
    assert (await device.get("/frame.jpg", **how)).status_code == 403
    assert (await device.get("/health", **how)).status_code == 200, "probes come from elsewhere"


@pytest.mark.parametrize("path", ["/", "/page.js", "/status", "/metrics", "/health", "/ready", "/frame.jpg"])
async def test_on_loopback_a_page_that_has_its_own_name_lead_here_reads_nothing(device, path):
    """Its browser says that name in Host. Who says none is no browser; a name that was bound is the device's own."""
    device.jpeg = b"\xff\xd8"
    device.app = create_status_app(device.window, names_of("localhost:8000"))
    answer = await device.get(path, host="rebound.test:8000")
    assert (answer.status_code, json.loads(await answer.get_data())["title"]) == (403, "forbidden")
    for own in ("localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000"):
        assert (await device.get(path, host=own)).status_code == 200, own


@pytest.mark.parametrize(
    ("bind", "host", "status"),
    [
        ("127.0.0.1:8000", "", 200),
        ("127.0.0.1:8000", "rebound.test", 403),
        ("127.0.0.5:8000", "127.0.0.5:8000", 200),
        ("127.0.0.5:8000", "rebound.test", 403),
        ("[::1]:8000", "rebound.test", 403),
        ("0.0.0.0:8000", "edge-7.plant:8000", 200),
        ("10.0.0.4:8000", "edge-7.plant:8000", 200),
    ],
)
async def test_beyond_loopback_the_device_is_asked_by_any_name(device, bind, host, status):
    device.app = create_status_app(device.window, names_of(bind))
    assert (await device.get("/status", host=host)).status_code == status


async def test_turned_away_by_policy_and_stopping_are_for_later(device):
    device.receipt = Receipt("S", None, durable=False, accepted=False)
    full = await device.post(ONE)
    assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
    assert "drop_newest" in json.loads(await full.get_data())["detail"]
    device.closed = True
    stopping = await device.post(ONE)
    assert stopping.status_code == 503
    assert "stopping" in json.loads(await stopping.get_data())["detail"]


async def test_so_many_wait_for_the_disk_and_the_next_one_is_told_to_come_back(device, nursery):
    device.disk = trio.Event()
    answers: list[int] = []

    async def post() -> None:
        answers.append((await device.post(ONE)).status_code)

    for _ in range(AT_ONCE_MAX):
        nursery.start_soon(post)
    await trio.testing.wait_all_tasks_blocked()
    assert answers == []
    assert (await device.post(ONE)).status_code == 503
    device.disk.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [201] * AT_ONCE_MAX
    assert (await device.post(ONE)).status_code == 201
