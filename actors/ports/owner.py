"""Whoever may change a buffer: the running device, asked through its door; without one, a store of our own."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import httpx
import msgspec

from actors.messages import Entry
from actors.ports.account import NoBooks
from actors.ports.chores import perform
from actors.ports.control_door import control_path, short_path
from actors.ports.journal import orphans
from actors.ports.opening import StoreLocked, StoreOptions, journal_folder
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from actors.tasks import Done, Task, TaskRefused
from cloud.wire import Prediction, encode_prediction

ANSWER_S = 60.0
"""How long a running device may take for one task; each is small, but its disk may be slow and busy."""
DOOR_PATIENCE_S = 5.0
"""A device that starts takes its buffer first and opens its door a moment later."""


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The door is a file of this machine; to read the certificates that are known here would take longer than to ask."""


class NoDoor(Exception):
    """No device answers at the control door of this buffer."""


class Owner(Protocol):
    """Who does the work on the rows at rest."""

    device_runs: bool

    def perform(self, task: Task) -> Done:
        """Do it. `TaskRefused`, `DiskTrouble`, `BufferFull`."""
        ...

    def accept(self, predictions: Sequence[Prediction]) -> int:
        """Make predictions durable under new numbers, like `log()`; says how many were accepted."""
        ...


@contextlib.contextmanager
def owner_of(options: StoreOptions, device_id: str) -> Iterator[Owner]:
    """The owner of the buffer that `options` describe, for as long as the block.

    `NoBooks` if there is no buffer, `StoreLocked` if a process has it that has no door, `DiskTrouble`.
    """
    path = options.db_path
    if not path.exists() and not orphans(journal_folder(path)):
        raise NoBooks(f"{path}: there is no buffer; BUFFER_DB_PATH (or --buffer-db-path) names the one to work on")
    try:
        with door(path) as device:
            yield device
    except NoDoor:
        pass
    else:
        return
    try:
        store = Store.open(device_id, options)
    except StoreLocked:
        with _door_soon(path) as device:
            yield device
        return
    own = _OwnStore(store)
    try:
        yield own
    finally:
        store.close()


@contextlib.contextmanager
def door(db_path: Path) -> Iterator["RunningDevice"]:
    """The running device behind its control door. `NoDoor`."""
    path = control_path(db_path)
    with contextlib.ExitStack() as stack:
        try:
            name = stack.enter_context(short_path(path))
            _knock(name)
        except OSError as exc:  # not there, left by a device that is gone, or not for this user
            raise NoDoor(f"{path}: {exc.strerror}") from exc
        transport = httpx.HTTPTransport(uds=name, verify=_NO_TLS)
        client = stack.enter_context(httpx.Client(transport=transport, base_url="http://device", timeout=ANSWER_S))
        device = RunningDevice(client)
        device.status()
        yield device


def _knock(name: str) -> None:
    """Whether anybody listens: a socket that was left by a device that is gone refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(name)


@contextlib.contextmanager
def _door_soon(db_path: Path) -> Iterator["RunningDevice"]:
    deadline = time.monotonic() + DOOR_PATIENCE_S
    while True:
        with contextlib.ExitStack() as stack:
            try:
                device = stack.enter_context(door(db_path))
            except NoDoor:
                if time.monotonic() > deadline:
                    raise StoreLocked(
                        f"{db_path}: another process has this buffer open and answers at no control door; if it is a"
                        " program of your own or another command, let it end first"
                    ) from None
                time.sleep(0.2)
            else:
                yield device
                return


@attrs.define
class RunningDevice:
    """A device that runs, at the other end of its control door."""

    client: httpx.Client
    device_runs: bool = attrs.field(default=True, init=False)

    def status(self) -> dict[str, Any]:
        """Its account of this moment. `NoDoor`."""
        try:
            found: dict[str, Any] = self.client.get("/status").raise_for_status().json()
        except httpx.HTTPError as exc:
            raise NoDoor(str(exc)) from exc
        return found

    def perform(self, task: Task) -> Done:
        """Ask for it. `TaskRefused`."""
        return msgspec.json.decode(self._post("/task", msgspec.json.encode(task)), type=Done)

    def accept(self, predictions: Sequence[Prediction]) -> int:
        """Have them logged as new ones. `TaskRefused`."""
        answer = msgspec.json.decode(self._post("/accept", msgspec.json.encode(predictions)))
        return int(answer["accepted"])

    def _post(self, path: str, body: bytes) -> bytes:
        try:
            answer = self.client.post(path, content=body)
        except httpx.HTTPError as exc:
            raise TaskRefused(f"the device ended while it was asked ({type(exc).__name__}); try again") from exc
        if answer.status_code != 200:
            raise TaskRefused(_reason(answer))
        return answer.content


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the device answered {answer.status_code}; its log says why"


@attrs.define
class _OwnStore:
    """The store, opened by this process since no device runs."""

    store: Store
    device_runs: bool = attrs.field(default=False, init=False)

    def perform(self, task: Task) -> Done:
        """Do it; a database that turns out to be damaged is replaced first."""
        try:
            return perform(self.store, task)
        except BufferDamaged:
            self.store.rebuild()
            return perform(self.store, task)

    def accept(self, predictions: Sequence[Prediction]) -> int:
        """Accept them as the device would."""
        entries = [Entry(one.image_id, one.timestamp, encode_prediction(one)) for one in predictions]
        return len(self.store.accept(entries))
