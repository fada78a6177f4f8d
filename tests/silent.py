"""A cloud that takes every connection, is well by its own account, and answers no POST, ever."""

import socket
import threading
from types import TracebackType
from typing import Self

HEALTHY = b"HTTP/1.1 200 OK\r\nholdfast-wire: 1\r\ncontent-length: 0\r\n\r\n"
READ_BYTES = 64 * 1024


class SilentCloud:
    """Listens on a port of its own while the block runs; `posted` is set by the first POST."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}/log"
        self.posted = threading.Event()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(READ_BYTES):
                if data.startswith(b"HEAD"):
                    connection.sendall(HEALTHY)
                elif data.startswith(b"POST"):
                    self.posted.set()
        except OSError:
            return
