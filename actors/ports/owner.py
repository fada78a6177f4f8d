"""Whoever may change a buffer: the running device, asked through its door; without one, a store of our own."""

import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import msgspec

from actors.messages import Entry
from actors.ports.chores import perform
from actors.ports.door import Door, NoDoor, door
from actors.ports.journal import orphans
from actors.ports.opening import NoBooks, StoreLocked, StoreOptions, journal_folder
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from actors.tasks import Done, Task, TaskRefused
from cloud.wire import Prediction, encode_prediction

DOOR_PATIENCE_S = 5.0
"""A device that starts takes its buffer first and opens its door a moment later."""


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
        with _running(path) as device:
            yield device
    except NoDoor:
        pass
    else:
        return
    try:
        store = Store.open(device_id, options)
    except StoreLocked:
        with _running_soon(path) as device:
            yield device
        return
    own = _OwnStore(store)
    try:
        yield own
    finally:
        store.close()


@contextlib.contextmanager
def _running(db_path: Path) -> Iterator["RunningDevice"]:
    """The device that runs on this buffer. `NoDoor`."""
    with door(db_path) as opened:
        opened.status()
        yield RunningDevice(opened)


@contextlib.contextmanager
def _running_soon(db_path: Path) -> Iterator["RunningDevice"]:
    deadline = time.monotonic() + DOOR_PATIENCE_S
    while True:
        with contextlib.ExitStack() as stack:
            try:
                device = stack.enter_context(_running(db_path))
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

    door: Door
    device_runs: bool = attrs.field(default=True, init=False)

    def perform(self, task: Task) -> Done:
        """Ask for it. `TaskRefused`."""
        return msgspec.json.decode(self._post("/task", msgspec.json.encode(task)), type=Done)

    def accept(self, predictions: Sequence[Prediction]) -> int:
        """Have them logged as new ones. `TaskRefused`."""
        answer = msgspec.json.decode(self._post("/accept", msgspec.json.encode(predictions)))
        return int(answer["accepted"])

    def _post(self, path: str, body: bytes) -> bytes:
        try:
            code, answer = self.door.ask("POST", path, body)
        except (OSError, http.client.HTTPException) as exc:
            raise TaskRefused(f"the device ended while it was asked ({type(exc).__name__}); try again") from exc
        if code != 200:
            raise TaskRefused(_reason(code, answer))
        return answer


def _reason(code: int, answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the device answered {code}; its log says why"


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
