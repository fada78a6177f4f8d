"""An RTSP camera for tests: JPEG frames as RTP (RFC 2435) inside the RTSP connection, on 127.0.0.1."""

import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
PERIOD_S = 0.03
TICKS_PER_S = 90_000
JPEG_420, TABLES_INSIDE = 1, 255
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track1\r\n"


def rtp_jpeg(jpeg: bytes) -> bytes:
    """The payload of one packet that holds a whole JPEG: RFC 2435's header, the quantisation tables, the scan."""
    tables = b""
    at = 2
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        if jpeg[at + 1] == 0xDB:
            body = jpeg[at + 4 : at + 2 + length]
            tables += b"".join(body[start + 1 : start + 65] for start in range(0, len(body), 65))
        at += 2 + length
    (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
    scan = jpeg[at + 2 + length : -2]
    head = struct.pack(">BBHBBBB", 0, 0, 0, JPEG_420, TABLES_INSIDE, WIDTH // 8, HEIGHT // 8)
    return head + struct.pack(">BBH", 0, 0, len(tables)) + tables + scan


class Camera(socketserver.ThreadingTCPServer):
    """Streams a grey picture until `shut`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Viewer)
        self.shut = False
        _, jpeg = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        self.payload = rtp_jpeg(jpeg.tobytes())

    @property
    def address(self) -> str:
        """Where it streams."""
        return f"rtsp://127.0.0.1:{self.server_address[1]}/stream"


class _Viewer(socketserver.StreamRequestHandler):
    server: Camera

    def handle(self) -> None:
        try:
            while (method := self._answer()) not in ("PLAY", "TEARDOWN", ""):
                pass
            number = 0
            while method == "PLAY" and not self.server.shut:
                number += 1
                head = struct.pack(">BBHII", 0x80, 0x80 | 26, number, int(number * PERIOD_S * TICKS_PER_S), 7)
                packet = head + self.server.payload
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                time.sleep(PERIOD_S)
        except OSError:
            pass  # the viewer has gone

    def _answer(self) -> str:
        """Read one request and answer it; its method, empty at the end."""
        lines = []
        while (line := self.rfile.readline().decode()).strip():
            lines.append(line.strip())
        if not lines:
            return ""
        asked = "\n".join(lines)
        method = asked.partition(" ")[0]
        more, body = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
            "DESCRIBE": (f"Content-Base: {self.server.address}/\r\nContent-Type: application/sdp\r\n", SDP),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
        }.get(method, ("", ""))
        number = re.search(r"(?mi)^cseq: *(\d+)", asked)
        assert number is not None
        told = f"RTSP/1.0 200 OK\r\nCSeq: {number[1]}\r\nSession: 1\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
        self.wfile.write(told.encode())
        return method


@contextmanager
def camera() -> Iterator[Camera]:
    """A camera that streams from a thread of its own."""
    with Camera() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shut = True
            server.shutdown()
            thread.join()
