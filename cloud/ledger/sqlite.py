"""The ledger in one SQLite file: requests queue up, and one writer commits all that waits in one transaction."""

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import attrs
import structlog
import trio

from cloud import wire
from cloud.folder import make_private
from cloud.ledger import Batch, LedgerUnavailable, LedgerUnusable, sqlite_read, sqlite_rollups, sqlite_write
from cloud.ledger.desk import ANSWER_S_MAX, CHECK_S_MAX, Desk, within
from cloud.ledger.lane import RunSync, thread_lane
from cloud.ledger.queue import CLOSE_S_MAX, CommitQueue
from cloud.ledger.schema import migrate

MEMORY = ":memory:"
"""A ledger without a file, for tests and simulations."""
SWEEP_ROWS_MAX = 500
"""One stroke of retention; requests are committed between strokes."""
BUSY_S_MAX = 5.0
"""How long a transaction waits for another process that writes to the same file."""
QUESTION_S_MAX = 30.0
"""How long a question may keep the readers' lane; then it is given up, and the next one has its turn."""
STEPS_A_LOOK = 100_000
"""How many steps of SQLite's machine pass between two looks at the clock: some milliseconds."""
CHECKPOINT_PAUSE_S = 1.0
"""How long pages gather in the write-ahead log before they are taken into the file, beside the commits."""
LOG_PAGES_MAX = 16_000
"""Where the log is longer than this nevertheless (64 MiB), a commit waits until all of it is in the file."""
WAL_TRIES_MAX = 100
WAL_PAUSE_S = 0.05

QUESTION, CHANGE = "BEGIN", "BEGIN IMMEDIATE"
Synchronous = Literal["FULL", "NORMAL", "OFF"]
T = TypeVar("T")
log = structlog.get_logger()


@attrs.frozen
class _Files:
    """The connections, one a lane; in memory they are one and the same."""

    writing: sqlite3.Connection
    reading: sqlite3.Connection
    checking: sqlite3.Connection
    checkpointing: sqlite3.Connection


@attrs.frozen
class _Transactions:
    """One connection and the lane that it is used in."""

    _run_sync: RunSync
    _db: sqlite3.Connection
    _begin: str

    async def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """One closure, one transaction."""
        return await self._run_sync(_transact, self._db, self._begin, work)

    async def close(self) -> None:
        """Close the connection once nobody uses it."""
        await self._run_sync(self._db.close)


@attrs.define(eq=False)
class SqliteLedger(Desk[sqlite3.Connection]):
    """**Synopsis:** `async with open_ledger(path) as ledger: answer = await ledger.ingest(batch)`."""

    _files: _Files = attrs.field(kw_only=True)
    _checkpoint: Callable[[], Awaitable[None]] = attrs.field(kw_only=True)
    _written: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def commit(self, batches: Sequence[Batch]) -> list[wire.Answer]:
        """Store them in one transaction."""
        answers = await self._write(partial(sqlite_write.ingest_all, batches=batches))
        self._written.set()
        return answers

    async def keep_log_short(self) -> None:
        """Take what is committed from the log into the file, so that no commit has to wait until that is done."""
        while True:
            await self._written.wait()
            self._written = trio.Event()
            try:
                await within(ANSWER_S_MAX, self._checkpoint)
            except LedgerUnavailable as exc:
                log.warning("checkpoint_postponed", error=str(exc))
            await trio.sleep(CHECKPOINT_PAUSE_S)

    async def sweep_once(self, retention_s: float | None) -> None:
        """Forget old minutes, and predictions older than `retention_s` (None: none), in small strokes."""
        now = self._now()
        forgotten = 0
        while await self._write(partial(sqlite_rollups.forget_minutes, now=now, rows_max=SWEEP_ROWS_MAX)):
            pass
        while retention_s is not None and (
            gone := await self._write(
                partial(sqlite_write.forget, older_than=now - retention_s, rows_max=SWEEP_ROWS_MAX)
            )
        ):
            forgotten += gone
        if forgotten:
            log.info("retention_swept", forgotten=forgotten)

    def touch(self, db: sqlite3.Connection) -> None:
        """Write a page and take it back in the same commit, to see whether the disk takes it."""
        db.execute("CREATE TABLE probe (number INTEGER)")
        db.execute("DROP TABLE probe")


def _transact(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
    """One closure, one transaction; what the database can't do now is `LedgerUnavailable`, and nothing was stored."""
    deadline = time.monotonic() + QUESTION_S_MAX
    # What is stored is bounded already, and must not be given up half way.
    db.set_progress_handler((lambda: time.monotonic() > deadline) if begin == QUESTION else None, STEPS_A_LOOK)
    try:
        db.execute(begin)
        with db:
            return work(db)
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # A defect of ours.
    except sqlite3.DatabaseError as exc:
        late = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
        raise LedgerUnavailable(f"the question took more than {QUESTION_S_MAX:g} s" if late else str(exc)) from exc


def _checkpoint(db: sqlite3.Connection) -> None:
    """As far as nobody reads or writes what is older; what is left comes with the next one."""
    try:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError as exc:
        raise LedgerUnavailable(str(exc)) from exc


def _open(path: str, synchronous: Synchronous) -> _Files:
    try:
        if path != MEMORY:
            make_private(Path(path).parent)
        writing = _connect(path)
    except (OSError, sqlite3.Error) as exc:
        raise LedgerUnusable(f"{path}: {exc}; give a file in a folder that can be written") from exc
    try:
        _switch_to_wal(writing)
        writing.execute(f"PRAGMA synchronous = {synchronous}")
        writing.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
        migrate(writing)
        if path == MEMORY:
            return _Files(writing, writing, writing, writing)
        files = _Files(writing, _connect(path), _connect(path), _connect(path))
        files.checkpointing.execute(f"PRAGMA synchronous = {synchronous}")
        for db in (files.reading, files.checking):
            db.execute("PRAGMA query_only = ON")
    except LedgerUnusable as exc:
        writing.close()
        raise LedgerUnusable(f"{path}: {exc}") from exc
    except sqlite3.Error as exc:
        writing.close()
        raise LedgerUnusable(f"{path}: {exc}; give another file, or set this one aside") from exc
    return files


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False)


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
    reads, writes and checkpoints each get a worker thread. `LedgerUnusable` where the file can't be opened.
    """
    lanes = [run_sync] * 4 if run_sync else [thread_lane()] * 4 if path == MEMORY else [thread_lane() for _ in range(4)]
    files = await lanes[0](_open, path, synchronous)
    begins = (CHANGE, QUESTION, QUESTION, QUESTION)
    writing, reading, checking, checkpointing = map(_Transactions, lanes, attrs.astuple(files), begins)
    checkpoint = partial(lanes[3], _checkpoint, files.checkpointing)
    try:
        queue = CommitQueue(waiting_max, waiting_bytes_max)
        ledger = SqliteLedger(
            sqlite_read, writing, reading, checking, queue, now, reads_max, files=files, checkpoint=checkpoint
        )
        async with ledger.serving(retention_s, sweep_interval_s), trio.open_nursery() as nursery:
            if path != MEMORY:
                nursery.start_soon(ledger.keep_log_short, name="ledger_checkpointer")
            yield ledger
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S_MAX, shield=True):
            # The writer last: it takes the log into the file. Who reads now is not waited for.
            for transactions in (checking, reading, checkpointing):
                with trio.move_on_after(CHECK_S_MAX):
                    await transactions.close()
            await writing.close()
