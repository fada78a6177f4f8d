"""What systemd is told: ready, alive only while the health would say so, stopping."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from actors.messages import Pulse
from actors.ports.systemd import keep_posted, notify, watchdog_s
from tests.actors.ports.test_status_door import Device


@attrs.frozen
class Manager:
    """The other end of NOTIFY_SOCKET."""

    address: str
    channel: socket.socket

    def heard(self) -> list[list[str]]:
        found = []
        while True:
            try:
                found.append(self.channel.recv(4096).decode().splitlines())
            except BlockingIOError:
                return found

    def environ(self, watchdog_s: float | None = None) -> dict[str, str]:
        wanted = {} if watchdog_s is None else {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_PID": str(os.getpid()), **wanted}


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@holdfast-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        yield Manager(name, channel)


async def test_ready_then_twice_in_each_watchdog_period_alive_then_stopping(manager, autojump_clock, nursery):
    stopping = trio.Event()
    nursery.start_soon(keep_posted, Device().status, stopping, manager.environ(watchdog_s=20.0))
    await trio.sleep(1)
    assert manager.heard() == [["READY=1", "STATUS=2 pending, 0 sent, link up"]]
    await trio.sleep(30)
    assert [words[0] for words in manager.heard()] == ["WATCHDOG=1"] * 3
    stopping.set()
    await trio.sleep(0.1)
    assert manager.heard()[-1] == ["STOPPING=1"]


async def test_while_the_health_fails_the_watchdog_is_left_to_bite(manager, autojump_clock, nursery):
    device = Device()
    nursery.start_soon(keep_posted, device.status, trio.Event(), manager.environ(watchdog_s=20.0))
    await trio.sleep(11)
    device.cells.pulse.value = Pulse(looked_at=0.0)
    manager.heard()
    await trio.sleep(20)
    assert manager.heard() == [["STATUS=failing: the loop has not turned for 100 s"]] * 2
    device.cells.pulse.value = Pulse(looked_at=99.0)
    await trio.sleep(10)
    assert manager.heard()[0][0] == "WATCHDOG=1"


async def test_without_a_manager_nothing_is_told():
    await keep_posted(Device().status, trio.Event(), {})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_only_heeded_if_it_means_this_process(environ, seconds):
    assert watchdog_s(environ, pid=7) == seconds


def test_a_manager_that_is_gone_is_logged_and_no_more(tmp_path):
    with capture_logs() as told:
        notify(str(tmp_path / "nobody"), "READY=1")
    assert [event["event"] for event in told] == ["systemd_not_told"]
