"""What stands beside us: the physical limit, the naive reference, and the queues that a Python user would pick.

All take groups of encoded predictions, and each group is on the disk when `put` returns.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import diskcache
import litequeue
import msgspec
import persistqueue

from cloud.wire import Prediction


class Durable(Protocol):
    """A place that takes groups of encoded predictions."""

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""

    def close(self) -> None:
        """Bring everything where it belongs, and let go of the files."""


class Limit:
    """The physical limit: the same bytes appended to a file, one write and one fdatasync a group."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "limit.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""
        os.write(self._fd, b"\n".join(group) + b"\n")
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Nothing more is due."""
        os.close(self._fd)


class Naive:
    """The naive reference: the users' table with four indexes in WAL/FULL, one INSERT a record, a commit a group."""

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "naive.db", isolation_level=None)
        self.connection.executescript(
            """
            PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS prediction_buffer (
                id INTEGER PRIMARY KEY AUTOINCREMENT, prediction_data TEXT NOT NULL, image_id TEXT NOT NULL,
                timestamp REAL NOT NULL, buffered_at REAL NOT NULL, sent_at REAL, status TEXT DEFAULT 'pending',
                retry_count INTEGER DEFAULT 0, last_error TEXT);
            CREATE INDEX IF NOT EXISTS by_status ON prediction_buffer (status);
            CREATE INDEX IF NOT EXISTS by_image ON prediction_buffer (image_id);
            CREATE INDEX IF NOT EXISTS by_time ON prediction_buffer (timestamp DESC);
            CREATE INDEX IF NOT EXISTS by_arrival ON prediction_buffer (buffered_at DESC);
            """
        )
        self.last = 0

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""
        now = time.time()
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO prediction_buffer (prediction_data, image_id, timestamp, buffered_at) VALUES (?, ?, ?, ?)",
            [(one.decode(), f"camera-01/frame-{self.last + n:09d}", now + n / 1e6, now) for n, one in enumerate(group)],
        )
        self.connection.execute("COMMIT")
        self.last += len(group)

    def confirm(self, first: int, last: int) -> None:
        """The cloud has these: mark them sent, in a commit of their own."""
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "UPDATE prediction_buffer SET status = 'sent', sent_at = ? WHERE id = ?",
            [(time.time(), number) for number in range(first, last + 1)],
        )
        self.connection.execute("COMMIT")

    def close(self) -> None:
        """SQLite checkpoints by itself."""
        self.connection.close()


class Litequeue:
    """litequeue, forced to synchronous=FULL (its default loses the last puts in a power cut)."""

    def __init__(self, folder: Path) -> None:
        self._queue = litequeue.LiteQueue(str(folder / "litequeue.db"))
        self._queue.conn.execute("PRAGMA synchronous = FULL")

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""
        with self._queue.transaction():
            for one in group:
                self._queue.put(one.decode())

    def close(self) -> None:
        """Close its connection."""
        self._queue.close()


class Diskcache:
    """diskcache.Deque, forced to synchronous=FULL."""

    def __init__(self, folder: Path) -> None:
        self._cache = diskcache.Cache(str(folder / "diskcache"), eviction_policy="none", sqlite_synchronous=2)
        self._deque = diskcache.Deque.fromcache(self._cache)

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""
        with self._deque.transact():
            for one in group:
                self._deque.append(one)

    def close(self) -> None:
        """Close its connection."""
        self._cache.close()


class PersistQueue:
    """persist-queue's SQLite queue, forced to synchronous=FULL; it has no way to put several in one commit."""

    def __init__(self, folder: Path) -> None:
        self._queue = persistqueue.SQLiteQueue(str(folder / "persistqueue"), auto_commit=True)
        # It offers no other way.
        cast("Any", self._queue)._putter.execute("PRAGMA synchronous = FULL")  # noqa: SLF001

    def put(self, group: Sequence[bytes]) -> None:
        """Durable when it returns."""
        for one in group:
            self._queue.put(one)

    def close(self) -> None:
        """Close its connections."""
        self._queue.close()


PEERS: dict[str, Callable[[Path], Durable]] = {
    "litequeue": Litequeue,
    "diskcache": Diskcache,
    "persist-queue": PersistQueue,
}


def rate(make: Callable[[Path], Durable], folder: Path, load: Sequence[Prediction], size: int) -> float:
    """Predictions a second in groups of `size`, encoding and closing included."""
    folder.mkdir(parents=True)
    began = time.perf_counter()
    with contextlib.closing(make(folder)) as place:
        for start in range(0, len(load), size):
            place.put([msgspec.json.encode(one) for one in load[start : start + size]])
    return len(load) / (time.perf_counter() - began)


def latencies(make: Callable[[Path], Durable], folder: Path, load: Sequence[Prediction]) -> list[float]:
    """Seconds that each prediction takes, one at a time."""
    folder.mkdir(parents=True)
    seen = []
    with contextlib.closing(make(folder)) as place:
        for one in load:
            began = time.perf_counter()
            place.put([msgspec.json.encode(one)])
            seen.append(time.perf_counter() - began)
    return seen
