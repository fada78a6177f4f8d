"""A real device at its two doors to its own machine: HTTP on loopback, and systemd's socket."""

import json
import queue
import signal
import socket
import sqlite3
import threading
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.actors.ports.test_status_door import ONE
from tests.test_app import PATIENCE_S, device

pytestmark = pytest.mark.process


def post(url: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return answer.status, json.load(answer)


def test_what_the_door_answered_for_outlives_a_kill(tmp_path):
    with device(tmp_path, SOURCES="none") as running:
        url = running.wait_for("status_endpoint")["url"].replace("/status", "/predictions")
        status, receipts = post(url, [ONE, ONE | {"image_id": "frame_002"}])
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(timeout=PATIENCE_S)
    assert status == 201
    assert [receipt["seq"] for receipt in receipts["receipts"]] == [1, 2]
    with device(tmp_path, SOURCES="none") as running:
        running.wait_for("status_endpoint")
        assert running.stop()["pending"] == 2
    connection = sqlite3.connect(tmp_path / "device" / "buffer.db")
    rows = connection.execute("SELECT id, image_id FROM prediction_buffer ORDER BY id").fetchall()
    connection.close()
    assert rows == [(1, "frame_001"), (2, "frame_002")]


def test_a_webhook_hears_of_a_camera_that_is_not_there(tmp_path):
    heard: queue.Queue[dict[str, Any]] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "url").write_text(f"http://127.0.0.1:{server.server_port}/T0KEN\n")
        camera = f"dock={tmp_path}/video9"
        with device(
            tmp_path, SOURCES=camera, DETECTOR="onnxruntime", ALERT_WEBHOOK_URL_FILE=tmp_path / "url"
        ) as running:
            told = heard.get(timeout=PATIENCE_S)
            running.stop()
        server.shutdown()
    assert (told["alert"], told["state"], told["detail"]) == ("camera_down", "firing", "dock")
    assert "T0KEN" not in json.dumps(running.events)


def test_systemd_hears_ready_then_life_then_the_end(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)

        def heard() -> str:
            return manager.recv(4096).decode().splitlines()[0]

        with device(tmp_path, SOURCES="none", NOTIFY_SOCKET=tmp_path / "notify", WATCHDOG_USEC=1_000_000) as running:
            assert heard() == "READY=1"
            assert [heard(), heard()] == ["WATCHDOG=1"] * 2
            running.process.send_signal(signal.SIGSTOP)  # a process that hangs: the watchdog hears nothing
            manager.settimeout(1.5)
            with suppress(TimeoutError):
                heard()  # one may have been under way
            with pytest.raises(TimeoutError):
                heard()
            running.process.send_signal(signal.SIGCONT)
            manager.settimeout(PATIENCE_S)
            assert heard() == "WATCHDOG=1"
            running.process.send_signal(signal.SIGTERM)
            while (word := heard()) == "WATCHDOG=1":
                pass
            assert word == "STOPPING=1"
            assert running.process.wait(timeout=PATIENCE_S) == 0
