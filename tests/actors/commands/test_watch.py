"""`watch`: what is on the screen, in any size, and in a line where there is no screen."""

import copy
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console

from actors.alerts import ALERTS
from actors.commands.status import lines_of
from actors.commands.watch import View, follow, line, screen
from actors.readiness import MODEL_MISSING, Bounds
from actors.status import Cells, status_of
from tests.commands_world import Shell

APP = Path(__file__).parents[3] / "app.py"


def found(**changes: Any) -> dict[str, Any]:
    """What a device answers, all the keys that it really has."""
    status = dict(status_of("cam-1", Cells(), now=0.0, monotonic=0.0, bounds=Bounds(model_wanted=False, stuck_s=60.0)))
    return copy.deepcopy(status | {"unready": [], "ready": True} | changes)


def shown(view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(view, width, height))
    return capture.get().splitlines()


BUSY = found(
    pending=120,
    oldest_pending_age_s=185.0,
    recovery_active=True,
    recovery_sent=80,
    recovery_per_s=40.0,
    recovery_eta_s=3.0,
    frames_per_s=5.0,
    inference_ms=12.3,
    capacity_percent=91.0,
    size_mb=455.0,
    capacity_mb=500.0,
    full_in_s=7_800.0,
    link={"state": "up", "reason": "", "for_s": 3_700.0},
    is_connected=True,
    alert_details={name: {"detail": "x" * 200, "for_s": 5.0} for name in ALERTS},
    alerts=list(ALERTS),
    cameras_down=["front", "back"],
    unreadable_last={f"{n}.jpg": "not an image" for n in range(10)},
    last_error="y" * 300,
    last_error_age_s=185.0,
)


def test_all_that_was_promised_is_on_the_screen():
    text = "\n".join(shown(View(BUSY, drain_from=200)))
    for part in (
        "cam-1",
        "up for 1 h 1 min",
        "5.0 frames/s",
        "12.3 ms",
        "120, the oldest for 3 min 5 s",
    ):
        assert part in text
    assert " 40 %  40/s  3.0 s left" in text
    assert "91 %  455.0 MiB of 500.0 MiB  full in 2 h 10 min" in text
    assert "last error  3 min 5 s ago: yyy" in text
    assert "! " in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (40, 18), (200, 60)])
def test_it_fits_whatever_happens(width, height):
    for view in (View(BUSY, drain_from=200), View(found()), View(BUSY, age_s=9.0)):
        lines = shown(view, width, height)
        assert len(lines) <= height - 1
        assert max(len(text) for text in lines) <= width


@pytest.mark.parametrize("width", [80, 60, 40])
def test_what_is_cut_off_is_seen_to_be(width):
    reason = "403: Authorization: this key is not known " + "z" * 100
    view = View(
        found(link={"state": "refused", "reason": reason, "for_s": 9.0}, last_error=reason, last_error_age_s=1.0)
    )
    lines = {text.split("  ")[0]: text.rstrip() for text in shown(view, width)}
    assert lines["link"].startswith("link        refused for 9.0 s: 403")
    for name in ("link", "last error"):
        assert lines[name].endswith("…")
        assert len(lines[name]) == width


def test_what_is_shown_once_says_nothing_of_an_end():
    console = Console(width=80, height=24, force_terminal=False)
    for live in (True, False):
        with console.capture() as capture:
            console.print(screen(View(found()), 80, 24, live=live))
        assert ("ends this" in capture.get()) is live


def test_frames_of_cameras_that_the_model_had_no_time_for_are_counted_on_the_screen_and_in_a_line():
    for text in ("\n".join(shown(View(found(skipped=12_345)))), line(View(found(skipped=12_345)))):
        assert "frames/s, 12,345 skipped" in text
    for text in ("\n".join(shown(View(found()))), line(View(found()))):
        assert "skipped" not in text


def test_a_narrow_terminal_still_says_how_long_the_disk_lasts():
    (disk,) = (text for text in shown(View(BUSY), 60, 20) if text.startswith("disk"))
    assert disk.rstrip().split("  ")[-1] == "full in 2 h 10 min"


def test_a_device_without_sources_is_not_said_to_load_a_model_for_ever():
    waits = found(ready=False, unready=[MODEL_MISSING])
    for say in (lambda status: shown(View(status)), lambda status: lines_of(status | {"source": "device"})):
        assert "model none" in "\n".join(say(found()))
        assert "model loading" in "\n".join(say(waits))


def test_the_last_error_is_told_with_its_age_and_nothing_is_told_before_the_first():
    for say in (lambda status: shown(View(status)), lambda status: lines_of(status | {"source": "device"})):
        text = "\n".join(say(found(last_error="503: busy", last_error_age_s=7_800.0)))
        assert "2 h 10 min ago: 503: busy" in text
        assert " ago" not in "\n".join(say(found()))


def test_a_silent_device_is_told_and_its_last_figures_stay():
    view = follow(View(BUSY), None, 4.0)
    assert view is not None
    assert "no answer for 4.0 s" in shown(view)[0]
    assert line(view) == "cam-1: no answer for 4.0 s"
    assert follow(view, found(), 1.0) == View(found(), 0.0, 0)
    assert follow(None, None, 1.0) is None


def test_a_drain_is_measured_from_the_most_that_waited():
    view = follow(None, found(pending=100), 0.0)
    view = follow(view, found(pending=90, recovery_sent=10, recovery_active=True), 1.0)
    view = follow(view, found(pending=60, recovery_sent=60, recovery_active=True), 1.0)  # 20 more came meanwhile
    assert view is not None
    assert view.drain_from == 120
    assert " 50 %" in "\n".join(shown(view))


def test_a_line_says_the_same_where_there_is_no_screen():
    assert line(View(found(pending=3, alerts=["disk_trouble"]))).endswith("disk 0 %, ALERT disk_trouble")


def test_without_a_device_it_says_so(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert "no device runs on" in Shell(folder).refused("watch")


@attrs.define
class Terminal:
    """A real one of 80x24, with `watch` in it, and in place of a device its door with one answer."""

    here: int
    device: subprocess.Popen[bytes]
    read: bytes = b""

    def until(self, pattern: bytes) -> bytes:
        """What the screen was told until that; it counts no longer."""
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern, self.read)):
            assert time.monotonic() < deadline, self.read
            if select.select([self.here], [], [], 0.1)[0]:
                self.read += os.read(self.here, 65_536)
        told, self.read = self.read[: found.end()], self.read[found.end() :]
        return told

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.here, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, key: bytes) -> bytes:
        """What the screen was told until the program had ended, with exit code 0."""
        os.write(self.here, key)
        return self.until(b"ended with 0")


@pytest.fixture
def terminal(tmp_path) -> Iterator[Terminal]:
    here, there = pty.openpty()
    door = [sys.executable, "-m", "tests.actors.commands.watched_door", str(tmp_path / "buffer.db")]
    env = Shell(tmp_path).environment() | {"TERM": "xterm"}
    with subprocess.Popen(door, cwd=APP.parent, stdout=subprocess.PIPE) as device:
        assert device.stdout is not None
        device.stdout.readline()
        # In a session of its own, whose terminal this is: Ctrl-C and the new size come as signals. The shell outlives
        # it, since what a terminal still holds is lost with the leader of its session.
        script = 'trap : INT; "$@"; echo "ended with $?"; sleep 60'
        command = ["setsid", "--ctty", "sh", "-c", script, "sh", sys.executable, str(APP), "watch"]
        fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with subprocess.Popen(command, cwd=tmp_path, env=env, stdin=there, stdout=there) as process:
            try:
                yield Terminal(here, device)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                device.kill()
    os.close(here)
    os.close(there)


LAST_LINE = b"q or Ctrl-C ends this; the device goes on"


@pytest.mark.process
@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_ends_it_and_leaves_the_terminal_as_it_was(terminal, key):
    before = termios.tcgetattr(terminal.here)
    terminal.until(b"cam-1")
    terminal.until(LAST_LINE)
    assert b"\x1b[?1049l" in terminal.press(key), "the screen of before is back"
    assert termios.tcgetattr(terminal.here) == before


@pytest.mark.process
def test_it_follows_the_size_of_the_terminal_and_stays_when_the_device_goes(terminal):
    terminal.until(LAST_LINE)
    terminal.resize(30, 18)
    terminal.until(b"q or Ctrl-C[^\r\n]*\xe2\x80\xa6")
    terminal.resize(80, 24)
    terminal.until(LAST_LINE)
    terminal.device.kill()
    terminal.until(b"no answer for ")
    terminal.press(b"q")
