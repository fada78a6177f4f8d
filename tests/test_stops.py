"""How a process stops: what it holds is offered once; a cloud that hangs holds it up no longer than its grace, or than
a second signal; and a line says what is left.
"""

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloud.wire import Answer, decompress, encode_answer
from tests.actors.ports.test_status_door import ONE
from tests.commands_world import make_buffer
from tests.silent import SilentCloud
from tests.test_app import PATIENCE_S, Device, device
from tests.test_doors import post

COUNT = 5
GRACE_S = 3_000.0
"""Longer than anybody waits: what ends sooner did not wait for the network."""


@pytest.fixture
def cloud() -> Iterator[SilentCloud]:
    with SilentCloud() as listening:
        yield listening


@contextmanager
def waiting_for(cloud: SilentCloud, folder: Path, *, grace_s: float) -> Iterator[Device]:
    """A device with a backlog of five, one POST under way, and nobody who will ever answer it."""
    (folder / "device").mkdir()
    make_buffer(folder / "device" / "buffer.db", COUNT)
    settings = {"SOURCES": "none", "SHUTDOWN_GRACE_SECONDS": grace_s, "TIMEOUT_SECONDS": GRACE_S}
    with device(folder, CLOUD_LOGGING_ENDPOINT=cloud.endpoint, **settings) as running:
        running.wait_for("started")
        assert cloud.posted.wait(PATIENCE_S)
        yield running


def pending(folder: Path) -> int:
    """What the buffer says, once the process is gone."""
    with closing(sqlite3.connect(folder / "device" / "buffer.db")) as connection:
        found = connection.execute("SELECT count(*) FROM prediction_buffer WHERE status = 'pending'").fetchone()
    return int(found[0])


def ended(running: Device) -> dict[str, object]:
    """The line that it ends with; exit code 0."""
    stopped = running.wait_for("stopped")
    assert running.process.wait(timeout=PATIENCE_S) == 0
    return stopped


@pytest.mark.process
def test_a_second_signal_skips_the_network_and_the_last_line_says_how_many_are_left(tmp_path, cloud):
    with waiting_for(cloud, tmp_path, grace_s=GRACE_S) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.wait_for("signal")["then"] == "stop"
        running.process.send_signal(signal.SIGTERM)
        assert running.wait_for("signal")["then"] == "skip the network"
        stopped = ended(running)
    assert stopped["pending"] == stopped["accepted"] == pending(tmp_path) == COUNT
    assert stopped["sent"] == 0


@pytest.mark.process
def test_a_cloud_that_hangs_holds_up_a_stop_no_longer_than_the_grace(tmp_path, cloud):
    with waiting_for(cloud, tmp_path, grace_s=4) as running:
        running.process.send_signal(signal.SIGTERM)
        stopped = ended(running)
    assert stopped["pending"] == stopped["accepted"] == pending(tmp_path) == COUNT


class CountingCloud(ThreadingHTTPServer):
    """Keeps the images of every batch that it was offered, and answers each with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Counting)
        self.status = status
        self.offered: list[list[str]] = []


class Counting(BaseHTTPRequestHandler):
    server: CountingCloud

    def do_HEAD(self) -> None:
        self.answer(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        batch = json.loads(decompress(body, self.headers.get("Content-Encoding", "")))["predictions"]
        self.server.offered.append([one["image_id"] for one in batch])
        self.answer(
            self.server.status, encode_answer(Answer(accepted=len(batch))) if self.server.status == 200 else b""
        )

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Holdfast-Wire", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def counting(status: int) -> Iterator[CountingCloud]:
    with CountingCloud(status) as cloud:
        threading.Thread(target=cloud.serve_forever, daemon=True).start()
        yield cloud
        cloud.shutdown()


@pytest.mark.process
@pytest.mark.parametrize(("status", "sent"), [(200, 3), (500, 0)])
def test_the_last_partial_batch_is_offered_once_and_what_nobody_took_stays(tmp_path, status, sent):
    names = ["frame_001", "frame_002", "frame_003"]
    with counting(status) as cloud:
        endpoint = f"http://127.0.0.1:{cloud.server_port}/log"
        patient = {"BATCH_SIZE": 100, "BATCH_TIMEOUT_SECONDS": 3_000, "SHUTDOWN_GRACE_SECONDS": GRACE_S}
        with device(tmp_path, SOURCES="none", CLOUD_LOGGING_ENDPOINT=endpoint, **patient) as running:
            url = running.wait_for("status_endpoint")["url"].replace("/status", "/predictions")
            post(url, [ONE | {"image_id": name} for name in names])
            assert cloud.offered == [], "the batch is not full, and its time is not up"
            stopped = running.stop()
        assert cloud.offered == [names]
    assert (stopped["accepted"], stopped["sent"]) == (3, sent)
    assert stopped["pending"] == pending(tmp_path) == 3 - sent


@pytest.mark.process
def test_a_model_that_never_loads_holds_a_stop_up_no_longer_than_the_grace(tmp_path):
    """What does not answer is a pipe in the place of the file; a slow card and a large library look the same."""
    model = tmp_path / "model.onnx"
    os.mkfifo(model)
    settings = {"MODEL_PATH": model, "DETECTOR": "onnxruntime", "SHUTDOWN_GRACE_SECONDS": 1.0}
    with device(tmp_path, CLOUD_LOGGING_ENABLED="false", **settings) as running:
        running.wait_for("started")
        running.process.send_signal(signal.SIGTERM)
        assert ended(running)["accepted"] == 0
