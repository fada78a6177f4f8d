"""The front door: what an operator can mend is told in a sentence, and a device runs and stops as it says."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from actors.ports.door import door
from actors.status import Status
from tests.places import locked_by_somebody

APP = Path(__file__).parents[1] / "app.py"
PATIENCE_S = 60.0
"""The model's first import on a busy machine."""
NOBODY = "http://127.0.0.1:9/log"
"""The discard port: nobody listens there."""


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """A clean one: nothing of whoever runs the tests, everything the device writes below `folder`."""
    own = {"BUFFER_DB_PATH": folder / "device" / "buffer.db", "CLOUD_LOGGING_ENDPOINT": NOBODY}
    system = {"PATH": os.defpath, "HOME": folder, "STATUS_BIND": "127.0.0.1:0"}
    return {name: str(value) for name, value in (system | own | settings).items()}


def refused(folder: Path, **settings: object) -> str:
    """What `python app.py` says when it does not start; exit code 2, and never a traceback."""
    env = environment(folder, **settings)
    done = subprocess.run(
        [sys.executable, APP], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# --- what an operator can mend


@pytest.mark.process
def test_wrong_settings_are_all_told_at_once(tmp_path):
    said = refused(tmp_path, BATCH_SIZE="0", TIMEOUT_SECONDS="soon", BUFFER_WHEN_FULL="panic")
    assert "3 settings are wrong" in said
    for name, value in (("BATCH_SIZE", "0"), ("TIMEOUT_SECONDS", "soon"), ("BUFFER_WHEN_FULL", "panic")):
        (line,) = (line for line in said.splitlines() if name in line)
        assert value in line
    assert not (tmp_path / "device").exists()


@pytest.mark.process
def test_missing_model_is_named_with_the_remedy(tmp_path):
    said = refused(tmp_path, MODEL_PATH=tmp_path / "none.onnx")
    assert f"{tmp_path}/none.onnx" in said
    assert "MODEL_PATH" in said


@pytest.mark.process
def test_buffer_in_use_names_the_process_that_has_it(tmp_path):
    path = tmp_path / "device" / "buffer.db"
    path.parent.mkdir()
    held = locked_by_somebody(path)
    try:
        said = refused(tmp_path)
    finally:
        os.close(held)
    assert f"process {os.getpid()} has this buffer open" in said
    assert "BUFFER_DB_PATH" in said


@pytest.mark.process
def test_source_that_can_not_be_understood_is_named(tmp_path):
    assert "gopher://x" in refused(tmp_path, SOURCES="gopher://x")


# --- a device


@attrs.define
class Device:
    """`python app.py`, and what it logged so far."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = attrs.Factory(list)

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first such event; other lines are an error, so a traceback is one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        pytest.fail(f"it ended without {event}: {self.events}")

    def stop(self) -> dict[str, Any]:
        """SIGTERM, the end it tells of, and exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        stopped = self.wait_for("stopped")
        assert self.process.wait(timeout=PATIENCE_S) == 0
        return stopped


@contextmanager
def device(folder: Path, **settings: object) -> Iterator[Device]:
    env = environment(folder, **settings)
    command = [sys.executable, str(APP)]
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Device(process)
        finally:
            process.kill()


@pytest.mark.process
def test_device_without_a_cloud_sees_keeps_tells_and_stops(tmp_path):
    with device(tmp_path) as running:
        url = running.wait_for("status_endpoint")["url"]
        assert httpx.get(url.replace("/status", "/health"), timeout=PATIENCE_S).json() == {"status": "ok"}
        began = time.monotonic()
        while (status := httpx.get(url, timeout=PATIENCE_S).json())["pending"] < 3:
            assert time.monotonic() - began < PATIENCE_S, status
            time.sleep(0.2)
        assert status.keys() == Status.__annotations__.keys()
        assert status["frames"] >= 3
        assert (status["sent"], status["is_connected"]) == (0, False)
        stopped = running.stop()
    assert stopped["accepted"] == stopped["pending"] >= 3
    connection = sqlite3.connect(tmp_path / "device" / "buffer.db")
    rows = connection.execute("SELECT id, status, prediction_data FROM prediction_buffer ORDER BY id").fetchall()
    connection.close()
    assert [(seq, status) for seq, status, _ in rows] == [(n, "pending") for n in range(1, stopped["accepted"] + 1)]
    assert json.loads(rows[0][2])["model_name"] == "surface-defects"


@pytest.mark.process
def test_taken_status_port_is_told_and_the_device_works_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with device(tmp_path, STATUS_BIND=bind) as running:
            told = running.wait_for("status_endpoint_unavailable")
            assert told["bind"] == bind
            assert "Address already in use" in told["error"]
            assert "STATUS_BIND" in told["remedy"]
            running.wait_for("model_loaded")
            deadline = time.monotonic() + PATIENCE_S
            with door(tmp_path / "device" / "buffer.db") as control:
                while not control.status()["last_seq"] and time.monotonic() < deadline:
                    time.sleep(0.1)
            assert running.stop()["accepted"] > 0


@pytest.mark.process
def test_path_that_can_not_be_a_buffer_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    problem = refused(tmp_path, BUFFER_DB_PATH=tmp_path / "file" / "buffer.db")
    assert f"BUFFER_DB_PATH: {tmp_path}/file/buffer.db" in problem
    assert "name a folder that this user may write" in problem
