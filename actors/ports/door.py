"""Ask a running device: through the control door of its buffer, or on the port of its status endpoints.

With the standard library's HTTP alone: an operator's `status` shall not wait for a library that it has no use for.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from actors.ports.control_socket import control_path, short_path

ANSWER_S = 60.0
"""How long a running device may take for one task; each is small, but its disk may be slow and busy."""
LOOK_ANSWER_S = 5.0
"""How long one that is only looked at may take: what its files tell is told all the same."""
FLUSH = b'{"kind":"flush"}'
"""`TaskKind.FLUSH` as the door takes it, without the libraries of the device."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024


class NoDoor(Exception):
    """No device answers at the control door of this buffer."""


@attrs.define
class Door:
    """The control door of a running device."""

    _connection: http.client.HTTPConnection

    def status(self) -> dict[str, Any]:
        """The device's account of this moment. `NoDoor`."""
        try:
            code, body = self.ask("GET", "/status")
            found: dict[str, Any] = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise NoDoor(f"the device gives no account of itself: {exc}") from exc
        if code != 200:
            raise NoDoor(f"the device answers {code}")
        return found

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of an answer. `OSError`, `http.client.HTTPException`."""
        return _exchange(self._connection, method, path, body)


def flushed(db_path: Path) -> str:
    """Have the device that runs on this buffer bring what only its journal holds into the database.

    Why it did not, in words; empty if it did, or if no device is there.
    """
    try:
        with door(db_path, LOOK_ANSWER_S) as device:
            code, answer = device.ask("POST", "/task", FLUSH)
    except NoDoor:
        return ""
    except (OSError, http.client.HTTPException) as exc:
        return f"the device that runs does not answer ({type(exc).__name__})"
    return "" if code == 200 else f"the device that runs could not write all down ({answer.decode(errors='replace')})"


@contextlib.contextmanager
def door(db_path: Path, answer_s: float = ANSWER_S) -> Iterator[Door]:
    """The door of the device that runs on this buffer. `NoDoor`."""
    path = control_path(db_path)
    with contextlib.ExitStack() as stack:
        try:
            name = stack.enter_context(short_path(path))
            connection = stack.enter_context(contextlib.closing(_UnixConnection(name, answer_s)))
            connection.connect()
        except OSError as exc:  # not there, left by a device that is gone, or not for this user
            raise NoDoor(f"{path}: {exc.strerror}") from exc
        yield Door(connection)


def ask_port(url: str) -> object | None:
    """What a device says at `url`; None if nobody answers there, or something else does."""
    parts = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LOOK_ANSWER_S)
        code, body = _exchange(connection, "GET", parts.path, b"")
        found: object = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return found if code == 200 else None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, name: str, answer_s: float) -> None:
        super().__init__("device", timeout=answer_s)
        self._name = name

    def connect(self) -> None:
        """Reach the socket; what was left by a device that is gone refuses. `OSError`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


def _exchange(connection: http.client.HTTPConnection, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One request, and the connection is closed: between two of them a person may think for longer than it is kept."""
    with contextlib.closing(connection):
        connection.request(method, path, body or None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX)
