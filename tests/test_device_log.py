"""A device's log: it doesn't grow with what the device sees, and it never holds the key."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.cloud.test_process import cloud
from tests.test_app import PATIENCE_S, Device, device

pytestmark = pytest.mark.process

FEW, MANY = 6, 30
CANARY = "canary-8d1f27"


def put_frames(folder: Path, numbers: range) -> None:
    """Each one lies there whole or not at all."""
    for number in numbers:
        fresh = folder / f".{number:04d}.png"
        assert cv2.imwrite(str(fresh), np.full((32, 32, 3), number, np.uint8))
        fresh.rename(folder / f"{number:04d}.png")


def wait_for(url: str, **figures: object) -> None:
    """Until the status says all of that."""
    began = time.monotonic()
    while not figures.items() <= (status := httpx.get(url, timeout=PATIENCE_S).json()).items():
        assert time.monotonic() - began < PATIENCE_S, status
        time.sleep(0.1)


def lines(running: Device) -> Counter[str]:
    return Counter(event["event"] for event in running.events)


def test_frames_and_batches_leave_no_lines_at_the_usual_level(folder):
    """The whole log of a device that has seen and delivered few frames, beside that of one with five times as many."""
    seen = {}
    for count in (FEW, MANY):
        home = folder / str(count)
        belt = home / "belt"
        belt.mkdir(parents=True)
        put_frames(belt, range(count))
        settings = {"SOURCES": belt, "DETECTOR": "onnxruntime", "BATCH_SIZE": 1}
        with (
            cloud(home / "cloud.db") as (_, url),
            device(home, CLOUD_LOGGING_ENDPOINT=f"{url}/log", **settings) as running,
        ):
            wait_for(running.wait_for("status_endpoint")["url"], frames=count, sent=count, in_flight=0)
            running.stop()
        seen[count] = lines(running)
    seen[MANY].subtract(seen[FEW])
    # Whether the first accept meets a link that is known to be up is a matter of milliseconds.
    assert {event: more for event, more in seen[MANY].items() if more > 1} == {}


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """A cloud that refuses every key, and repeats in its answer what was sent: the URL of its /log."""

    class Refuse(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = self.headers.get("Authorization", "no key").encode()
            self.send_response(status)
            self.send_header("Holdfast-Wire", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET = do_POST = answer  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/log"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_in_no_line_whatever_is_wrong_with_it(folder, status):
    """Refused by the cloud; then a SIGHUP that finds a file with a key that no header can carry; then none at all."""
    file = folder / "key"
    file.write_text(f"{CANARY}-first\n")
    settings = {"SOURCES": "none", "CLOUD_LOGGING_API_KEY_FILE": file, "LOG_LEVEL": "debug"}
    with refusing(status) as endpoint, device(folder, CLOUD_LOGGING_ENDPOINT=endpoint, **settings) as running:
        url = running.wait_for("status_endpoint")["url"]
        while running.wait_for("alert")["name"] != "link_refused":
            pass
        told = [httpx.get(url.replace("/status", path)).text for path in ("/status", "/metrics", "/", "/ready")]
        file.write_text(f"{CANARY}-second\nand another line\n")
        running.process.send_signal(signal.SIGHUP)
        problems = running.wait_for("settings_wrong")["problems"]
        assert any("CLOUD_LOGGING_API_KEY" in problem for problem in problems)
        file.unlink()
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("settings_wrong")
        running.stop()
    assert CANARY not in repr(running.events)
    assert CANARY not in "".join(told)
