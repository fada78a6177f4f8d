"""A network camera for tests: JPEG after JPEG over HTTP, on 127.0.0.1, that can be silenced, cut and fed garbage."""

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

PERIOD_S = 0.02
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


class Camera(socketserver.ThreadingTCPServer):
    """Streams grey frames of 32 x 24 px to whoever connects; `mode` is 'steady', 'silent', 'garbage' or 'shut'."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Viewer)
        self.mode = "steady"
        self.viewers = 0
        _, jpeg = cv2.imencode(".jpg", np.full((24, 32, 3), 90, np.uint8))
        self.frame = jpeg.tobytes()

    @property
    def address(self) -> str:
        """With a password, as real ones have it."""
        return f"http://me:secret@127.0.0.1:{self.server_address[1]}/stream.mjpg"


class _Viewer(socketserver.BaseRequestHandler):
    server: Camera

    def handle(self) -> None:
        self.server.viewers += 1
        self.request.recv(4096)
        try:
            if self.server.mode != "shut":
                self.request.sendall(HEAD)
            while self.server.mode != "shut":
                if self.server.mode != "silent":
                    self._send(self.server.frame if self.server.mode == "steady" else b"\0" * 700)
                time.sleep(PERIOD_S)
        except OSError:
            pass  # the viewer has gone

    def _send(self, frame: bytes) -> None:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
        self.request.sendall(head.encode() + frame + b"\r\n")


@contextmanager
def camera() -> Iterator[Camera]:
    """A camera that streams from a thread of its own."""
    with Camera() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.mode = "shut"
            server.shutdown()
            thread.join()
