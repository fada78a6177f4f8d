"""Commands beside a running device: they ask it, and its counters stay exact."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.ports.control_socket import SOCKET_PATH_BYTES_MAX, control_path
from tests.commands_world import Shell

APP = Path(__file__).parents[3] / "app.py"
PATIENCE_S = 60.0


@attrs.define
class Running:
    """A device in a process of its own, without sources: what is accepted comes through `POST /predictions`."""

    shell: Shell
    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, Any]]:
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for(self, event: str, after: int = 0) -> dict[str, Any]:
        """The first such event behind the first `after` events."""
        found: dict[str, Any] = until(
            lambda: next((seen for seen in self.events()[after:] if seen["event"] == event), None)
        )
        return found

    def hang_up(self) -> int:
        """SIGHUP; says how many events there were before."""
        before = len(self.events())
        self.process.send_signal(signal.SIGHUP)
        return before


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail("it never came")


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    home = tmp_path / "d"
    home.mkdir(mode=0o700)
    monkeypatch.chdir(home)
    shell = Shell(home, {"SOURCES": "none", "BUFFER_CLEANUP_DAYS": "7"})
    log = tmp_path / "log"
    with (
        log.open("wb") as sink,
        subprocess.Popen([sys.executable, APP], cwd=home, env=shell.environment(), stderr=sink) as process,
    ):
        device = Running(shell, process, log)
        try:
            device.wait_for("status_endpoint")
            until(control_path(shell.db_path).exists)
            yield device
        finally:
            process.kill()


def exported(count: int) -> str:
    prediction = {
        "image_id": "frame",
        "timestamp": 1.0,
        "model_name": "m",
        "model_version": "v",
        "inference_time_ms": 1.0,
        "detections": [],
        "defect_detected": False,
        "confidence_scores": [],
    }
    return "".join(json.dumps({"prediction": prediction}) + "\n" for _ in range(count))


@pytest.mark.process
def test_everything_is_asked_of_the_device_and_its_counters_stay_exact(running, tmp_path):
    shell = running.shell
    door = control_path(shell.db_path)
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    (tmp_path / "rows.jsonl").write_text(exported(450))

    assert shell.json("buffer", "import", tmp_path / "rows.jsonl", "--as-new", "--yes")["accepted_as_new"] == 450
    status = shell.json("status")
    assert (status["source"], status["pending"], status["last_seq"]) == ("device", 450, 450)
    assert "cam: running" in shell.run("status").stdout

    shell.said("buffer", "export", "-o", tmp_path / "all.jsonl")
    stats = shell.json("buffer", "stats")
    assert (stats["last_seq"], stats["pending"], stats["in_journal"]) == (450, 450, 0)
    free = until(lambda: shell.json("status")["in_flight"] == 0)
    assert free
    assert shell.json("buffer", "discard", "--where", "id <= 100", "--yes")["changed"] == 100
    assert shell.json("status")["pending"] == 350
    assert shell.json("buffer", "import", tmp_path / "all.jsonl")["restored"] == 100
    assert shell.json("status")["pending"] == 450
    assert shell.json("buffer", "reset-failed")["changed"] == 0
    assert shell.json("buffer", "replay", "--where", "1", "--yes")["changed"] == 0
    assert shell.json("buffer", "cleanup")["changed"] == 0
    assert shell.json("buffer", "repair") == {"damage": [], "left": []}
    shell.said("buffer", "vacuum")
    assert {seen["task"] for seen in running.events() if seen["event"] == "chore_done"} >= {"discard", "restore"}

    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE_S) == 0
    assert not door.exists()
    assert running.events()[-1]["pending"] == 450
    assert shell.json("status")["source"] == "buffer"
    assert len(shell.rows()) == 450


@pytest.mark.process
def test_a_hang_up_changes_what_may_change_and_names_what_may_not(running, folder):
    toml = running.shell.folder / "holdfast.toml"
    toml.write_text('batch_size = 3\nlog_level = "debug"\nbuffer_max_size_mb = 64\n')
    before = running.hang_up()
    assert running.wait_for("settings_reread", before)["changed"] == ["BATCH_SIZE", "LOG_LEVEL"]
    assert running.wait_for("settings_need_restart", before)["names"] == ["BUFFER_MAX_SIZE_MB"]

    toml.write_text("batch_size = 0\nmax_retries = 1\n")
    before = running.hang_up()
    told = running.wait_for("settings_wrong", before)
    assert "BATCH_SIZE" in told["problems"][0]
    assert "stay in force" in told["then"]

    toml.write_text('log_level = "warning"\nbuffer_when_full = "drop_oldest"\n')
    before = running.hang_up()
    assert running.wait_for("settings_need_restart", before)["names"] == ["BUFFER_WHEN_FULL"]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE_S) == 0
    assert {seen["level"] for seen in running.events()[before:]} == {"warning"}


@pytest.mark.process
def test_a_killed_device_leaves_a_door_that_is_in_nobodys_way(running):
    door = control_path(running.shell.db_path)
    running.process.kill()
    running.process.wait(PATIENCE_S)
    assert door.exists()
    assert running.shell.json("buffer", "reset-failed")["changed"] == 0
    assert running.shell.json("status")["source"] == "buffer"


@pytest.mark.process
def test_a_moved_folder_takes_its_backlog_along_whatever_the_device_is_called(running, tmp_path):
    shell = running.shell
    (tmp_path / "rows.jsonl").write_text(exported(5))
    shell.json("buffer", "import", tmp_path / "rows.jsonl", "--as-new", "--yes")
    running.process.kill()
    running.process.wait(PATIENCE_S)
    moved = tmp_path / ("elsewhere-" + "long" * 25)
    shell.folder.rename(moved)
    there = Shell(moved, {**shell.settings, "EDGE_DEVICE_ID": "renamed"})
    assert len(os.fsencode(control_path(there.db_path))) > SOCKET_PATH_BYTES_MAX
    log = tmp_path / "log2"
    with (
        log.open("wb") as sink,
        subprocess.Popen([sys.executable, APP], cwd=moved, env=there.environment(), stderr=sink) as process,
    ):
        try:
            device = Running(there, process, log)
            assert "recovered 5 predictions" in device.wait_for("recovered")["summary"]
            until(lambda: there.json("status")["source"] == "device")
            status = there.json("status")
            assert (status["source"], status["pending"], status["last_seq"]) == ("device", 5, 5)
            assert there.json("buffer", "discard", "--where", "id = 1", "--yes")["changed"] == 1
        finally:
            process.kill()
