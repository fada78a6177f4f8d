"""`python -m bench.sink DELAY_S`: the fastest HTTP sink we could make. It counts predictions and says so, no more.

A thread a connection, and almost all of its time in C: receiving, decompressing, counting. It prints its port.
"""

import gzip
import itertools
import socket
import sys
import threading
import time

import zstandard

KEY = b'{"seq":'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nholdfast-wire: 1\r\naccept-encoding: zstd, gzip\r\n"
    b"holdfast-batch-max: 4000\r\n"
    b"content-length: %d\r\n\r\n%s"
)


def serve(connection: socket.socket, delay_s: float) -> None:
    """Answer request after request until the other side hangs up."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    inflater = zstandard.ZstdDecompressor()
    buffer = bytearray()
    with connection:
        while True:
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                if not _more(connection, buffer):
                    return
            head = bytes(buffer[:end]).lower()
            length = _length(head)
            while len(buffer) < end + 4 + length:
                if not _more(connection, buffer):
                    return
            body = bytes(memoryview(buffer)[end + 4 : end + 4 + length])
            del buffer[: end + 4 + length]
            if b"content-encoding: zstd" in head:
                body = inflater.decompress(body, max_output_size=2**24)
            elif b"content-encoding: gzip" in head:  # a POST that was quicker than the first word of what is taken here
                body = gzip.decompress(body)
            text = b'{"accepted":%d}' % _count(body)
            if delay_s:
                time.sleep(delay_s)
            connection.sendall(ANSWER % (len(text), b"" if head.startswith(b"head") else text))


def _count(body: bytes) -> int:
    """Our own bodies number their predictions; a plain client's are counted by a key that each of them has once."""
    return body.count(KEY) or body.count(b'"image_id":')


def _more(connection: socket.socket, buffer: bytearray) -> bool:
    data = connection.recv(1 << 20)
    buffer += data
    return bool(data)


def _length(head: bytes) -> int:
    _, found, rest = head.partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def main() -> None:
    """Listen until killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/log", flush=True)
    for _ in itertools.count():
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, float(sys.argv[1])), daemon=True).start()


if __name__ == "__main__":
    main()
