"""The ledger in one SQLite file: requests queue up, and one writer commits all that waits in one transaction."""

import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import attrs
import structlog
import trio

from cloud import wire
from cloud.ledger import (
    EVERYTHING,
    Batch,
    Bucket,
    Device,
    LedgerBusy,
    LedgerUnavailable,
    LedgerUnusable,
    Page,
    Query,
    SeriesQuery,
    Stats,
    StatsQuery,
    StoredPrediction,
    StreamAudit,
    sqlite_read,
    sqlite_rollups,
    sqlite_write,
)
from cloud.ledger.lane import RunSync, thread_lane
from cloud.ledger.pages import pages
from cloud.ledger.queue import CLOSE_S_MAX, CommitQueue
from cloud.ledger.schema import migrate

MEMORY = ":memory:"
"""A ledger without a file, for tests and simulations."""
SWEEP_ROWS_MAX = 500
"""One stroke of retention; requests are committed between strokes."""
BUSY_S_MAX = 5.0
"""How long a transaction waits for another process that writes to the same file."""
WAL_TRIES_MAX = 100
WAL_PAUSE_S = 0.05

Synchronous = Literal["FULL", "NORMAL", "OFF"]
T = TypeVar("T")
log = structlog.get_logger()


@attrs.define(eq=False)
class _Files:
    """The two connections; in memory they are one and the same."""

    writing: sqlite3.Connection
    reading: sqlite3.Connection

    def close(self) -> None:
        self.reading.close()
        self.writing.close()


@attrs.define(eq=False)
class SqliteLedger:
    """**Synopsis:** `async with open_ledger(path) as ledger: answer = await ledger.ingest(batch)`."""

    _files: _Files
    _write_lane: RunSync
    _read_lane: RunSync
    _queue: CommitQueue
    _now: Callable[[], float]
    _reads_max: int
    _reads: int = 0
    _trouble: str = ""

    @property
    def busy(self) -> bool:
        """Whether `ingest` would be turned away now."""
        return self._queue.busy

    @property
    def commits(self) -> int:
        """Transactions that stored something since the ledger was opened."""
        return self._queue.commits

    async def ingest(self, batch: Batch) -> wire.Answer:
        """Queue the batch and answer after the commit that holds it."""
        return await self._queue.ingest(batch)

    async def check(self) -> None:
        """Read; after a failed commit also write, since only that shows whether the disk is back."""
        await self._read(sqlite_read.check)
        if self._trouble:
            await self._write(_touch)

    async def stats(self, query: StatsQuery = EVERYTHING) -> Stats:
        """Tallies out of the rollups."""
        return await self._read(partial(sqlite_rollups.stats, query=query, now=self._now()))

    async def series(self, query: SeriesQuery) -> tuple[Bucket, ...]:
        """Every bucket of the question, out of the rollups."""
        return await self._read(partial(sqlite_rollups.series, query=query))

    async def predictions(self, query: Query) -> Page:
        """A page, newest first."""
        return await self._read(partial(sqlite_read.predictions, query=query))

    def export(self, query: Query) -> AsyncGenerator[tuple[StoredPrediction, ...], None]:
        """Page by page, newest first, until nothing is left."""
        return pages(self.predictions, query)

    async def devices(self) -> tuple[Device, ...]:
        """Every device, by its id."""
        return await self._read(partial(sqlite_read.devices, now=self._now()))

    async def audit(self, device_id: str) -> tuple[StreamAudit, ...] | None:
        """Every stream's account, or None for an unknown device."""
        return await self._read(partial(sqlite_read.audit, device_id=device_id))

    async def commit(self, batches: Sequence[Batch]) -> list[wire.Answer]:
        """Store them in one transaction."""
        return await self._write(partial(sqlite_write.ingest_all, batches=batches))

    async def sweep(self, retention_s: float | None, interval_s: float) -> None:
        """Forget predictions older than `retention_s` (None: none), and old minutes, now and every `interval_s`."""
        while True:
            await self.sweep_once(retention_s)
            await trio.sleep(interval_s)

    async def sweep_once(self, retention_s: float | None) -> None:
        """One round of that; requests are committed between its strokes."""
        now = self._now()
        forgotten = 0
        try:
            while await self._write(partial(sqlite_rollups.forget_minutes, now=now, rows_max=SWEEP_ROWS_MAX)):
                pass
            while retention_s is not None and (
                gone := await self._write(
                    partial(sqlite_write.forget, older_than=now - retention_s, rows_max=SWEEP_ROWS_MAX)
                )
            ):
                forgotten += gone
        except LedgerUnavailable as exc:
            log.warning("retention_postponed", error=str(exc))
        if forgotten:
            log.info("retention_swept", forgotten=forgotten)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            result = await self._write_lane(_transact, self._files.writing, "BEGIN IMMEDIATE", work)
        except LedgerUnavailable as exc:
            if not self._trouble:
                log.error("ledger_unavailable", error=str(exc))  # noqa: TRY400  (the cause is in the text)
            self._trouble = str(exc)
            raise
        self._trouble = ""
        return result

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._reads >= self._reads_max:
            raise LedgerBusy(retry_after_s=1)
        self._reads += 1
        try:
            return await self._read_lane(_transact, self._files.reading, "BEGIN", work)
        finally:
            self._reads -= 1


def _touch(db: sqlite3.Connection) -> None:
    """Write a page and take it back in the same commit, to see whether the disk takes it."""
    db.execute("CREATE TABLE probe (number INTEGER)")
    db.execute("DROP TABLE probe")


def _transact(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
    """One closure, one transaction; what the database can't do now is `LedgerUnavailable`, and nothing was stored."""
    try:
        db.execute(begin)
        with db:
            return work(db)
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # A defect of ours.
    except sqlite3.DatabaseError as exc:
        raise LedgerUnavailable(str(exc)) from exc


def _open(path: str, synchronous: Synchronous) -> _Files:
    try:
        if path != MEMORY:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        writing = sqlite3.connect(path, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as exc:
        raise LedgerUnusable(f"{path}: {exc}; give a file in a folder that can be written") from exc
    try:
        _switch_to_wal(writing)
        writing.execute(f"PRAGMA synchronous = {synchronous}")
        migrate(writing)
        if path == MEMORY:
            return _Files(writing, writing)
        reading = sqlite3.connect(path, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False)
        reading.execute("PRAGMA query_only = ON")
        return _Files(writing, reading)
    except LedgerUnusable as exc:
        writing.close()
        raise LedgerUnusable(f"{path}: {exc}") from exc
    except sqlite3.Error as exc:
        writing.close()
        raise LedgerUnusable(f"{path}: {exc}; give another file, or set this one aside") from exc


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """SQLite's own timeout does not hold for this switch, and another process may be making it just now."""
    for _ in range(WAL_TRIES_MAX - 1):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return
    db.execute("PRAGMA journal_mode = WAL")


@asynccontextmanager
async def open_ledger(
    path: str,
    *,
    retention_s: float | None = None,
    run_sync: RunSync | None = None,
    now: Callable[[], float] = time.time,
    synchronous: Synchronous = "FULL",
    waiting_max: int = 256,
    waiting_bytes_max: int = 64 * 1024 * 1024,
    reads_max: int = 64,
    sweep_interval_s: float = 3600.0,
) -> AsyncIterator[SqliteLedger]:
    """A ledger in the file `path` (or `MEMORY`); closing it commits what still waits, for up to `CLOSE_S_MAX`.

    `retention_s`: None keeps everything. `run_sync`: one lane for all database work (tests run it inline); without it,
    reads and writes each get a worker thread. `LedgerUnusable` where the file can't be opened.
    """
    write_lane = run_sync or thread_lane()
    read_lane = run_sync or (write_lane if path == MEMORY else thread_lane())
    files = await write_lane(_open, path, synchronous)
    try:
        queue = CommitQueue(waiting_max, waiting_bytes_max)
        ledger = SqliteLedger(files, write_lane, read_lane, queue, now, reads_max)
        async with queue.serving(ledger.commit), trio.open_nursery() as sweeping:
            sweeping.start_soon(ledger.sweep, retention_s, sweep_interval_s, name="ledger_sweeper")
            yield ledger
            sweeping.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S_MAX, shield=True):
            await write_lane(files.close)
