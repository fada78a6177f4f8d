"""The ledger in PostgreSQL, for any number of replicas: each commits all that waits with it in one transaction."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import psycopg
import structlog
import trio
from psycopg_pool import ConnectionPool, PoolTimeout

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
    postgres_read,
    postgres_write,
)
from cloud.ledger.pages import pages
from cloud.ledger.postgres_schema import Connection, days_ahead, drop_days, make_days, migrate
from cloud.ledger.queue import CLOSE_S_MAX, CommitQueue

READERS = 4
"""Reads at a time, each with a connection and a thread of its own; others wait."""
CONNECT_S_MAX = 5
"""How long one attempt to connect may take."""
START_S_MAX = 15.0
"""How long the server may take to answer when the ledger is opened."""
START_PAUSE_S = 0.5
WAIT_S_MAX = 3.0
"""How long a request waits for a connection before it hears that the store is away."""
STATEMENT_S_MAX = 30
"""A statement that takes longer is given up by the server."""
TRIES_MAX = 3
"""How often a transaction is begun anew that the server chose as the victim of a deadlock."""

T = TypeVar("T")
log = structlog.get_logger()


@attrs.define(eq=False)
class PostgresLedger:
    """**Synopsis:** `async with open_postgres(url) as ledger: answer = await ledger.ingest(batch)`."""

    _pool: ConnectionPool[Connection]
    _queue: CommitQueue
    _now: Callable[[], float]
    _reads_max: int
    _reads: int = 0
    _writing: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _reading: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(READERS))
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
        """Read, which needs a server that answers."""
        await self._read(postgres_read.check)

    async def stats(self, query: StatsQuery = EVERYTHING) -> Stats:
        """Tallies out of the rollups."""
        return await self._read(partial(postgres_read.stats, query=query, now=self._now()))

    async def series(self, query: SeriesQuery) -> tuple[Bucket, ...]:
        """Every bucket of the question, out of the rollups."""
        return await self._read(partial(postgres_read.series, query=query))

    async def predictions(self, query: Query) -> Page:
        """A page, newest first."""
        return await self._read(partial(postgres_read.predictions, query=query))

    def export(self, query: Query) -> AsyncGenerator[tuple[StoredPrediction, ...], None]:
        """Page by page, newest first, until nothing is left."""
        return pages(self.predictions, query)

    async def devices(self) -> tuple[Device, ...]:
        """Every device, by its id."""
        return await self._read(partial(postgres_read.devices, now=self._now()))

    async def audit(self, device_id: str) -> tuple[StreamAudit, ...] | None:
        """Every stream's account, or None for an unknown device."""
        return await self._read(partial(postgres_read.audit, device_id=device_id))

    async def commit(self, batches: Sequence[Batch]) -> list[wire.Answer]:
        """Store them in one transaction."""
        return await self._write(partial(postgres_write.ingest_all, batches=batches))

    async def sweep(self, retention_s: float | None, interval_s: float) -> None:
        """Make the next days' partitions, drop those that are past retention, now and every `interval_s`."""
        while True:
            await self.sweep_once(retention_s)
            await trio.sleep(interval_s)

    async def sweep_once(self, retention_s: float | None) -> None:
        """One round of that. Of several replicas' rounds all but the first find nothing to do."""
        now = self._now()
        try:
            await self._write(partial(make_days, days=days_ahead(now)))
            while await self._write(partial(postgres_write.forget_minutes, now=now)):
                pass
            if retention_s is not None:
                older_than = now - retention_s
                while await self._write(partial(postgres_write.forget_conflicts, older_than=older_than)):
                    pass
                if days := await self._write(partial(drop_days, older_than=older_than)):
                    log.info("retention_swept", partitions=days)
        except LedgerUnavailable as exc:
            log.warning("retention_postponed", error=str(exc))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            result = await trio.to_thread.run_sync(_transact, self._pool, work, limiter=self._writing)
        except LedgerUnavailable as exc:
            if not self._trouble:
                log.error("ledger_unavailable", error=str(exc))  # noqa: TRY400  (the cause is in the text)
            self._trouble = str(exc)
            raise
        self._trouble = ""
        return result

    async def _read(self, work: Callable[[Connection], T]) -> T:
        if self._reads >= self._reads_max:
            raise LedgerBusy(retry_after_s=1)
        self._reads += 1
        try:
            return await trio.to_thread.run_sync(_snapshot, self._pool, work, limiter=self._reading)
        finally:
            self._reads -= 1


def _transact(pool: ConnectionPool[Connection], work: Callable[[Connection], T]) -> T:
    """One closure, one transaction, begun anew where the server chose it as the victim of a deadlock.

    What the server can't do now is `LedgerUnavailable`. Where the connection broke at the commit, nobody knows whether
    it holds; the sender comes again, and the ranges tell.
    """
    for _ in range(TRIES_MAX - 1):
        try:
            return _once(pool, work)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue
        except _AWAY as exc:
            raise LedgerUnavailable(_words(exc)) from exc
    try:
        return _once(pool, work)
    except _AWAY as exc:
        raise LedgerUnavailable(_words(exc)) from exc


_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)


def _once(pool: ConnectionPool[Connection], work: Callable[[Connection], T]) -> T:
    with pool.connection(WAIT_S_MAX) as db, db.transaction():
        return work(db)


def _snapshot(pool: ConnectionPool[Connection], work: Callable[[Connection], T]) -> T:
    try:
        with pool.connection(WAIT_S_MAX) as db, db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return work(db)
    except _AWAY as exc:
        raise LedgerUnavailable(_words(exc)) from exc


def _words(exc: Exception) -> str:
    """The first line of what went wrong: the others quote a statement."""
    if isinstance(exc, PoolTimeout):
        return "PostgreSQL does not answer"
    return f"PostgreSQL: {str(exc).partition(chr(10))[0] or type(exc).__name__}"


def _open(url: str, shown: str, now: float) -> ConnectionPool[Connection]:
    options = {
        "autocommit": True,
        "connect_timeout": CONNECT_S_MAX,
        "application_name": "holdfast",
        "options": f"-c statement_timeout={STATEMENT_S_MAX}s -c timezone=UTC",
    }
    pool = ConnectionPool[Connection](
        url,
        min_size=1,
        # The readers, the writer, and one to spare.
        max_size=READERS + 2,
        open=False,
        check=ConnectionPool.check_connection,
        reconnect_timeout=CONNECT_S_MAX,
        kwargs=options,
    )
    try:
        with _first_connection(url, options) as db, db.transaction():
            migrate(db, now)
    except LedgerUnusable as exc:
        raise LedgerUnusable(f"{shown}: {exc}") from exc
    except psycopg.ProgrammingError as exc:
        # Its words may quote the URL, and the password in it.
        raise LedgerUnusable(f"{shown}: {type(exc).__name__}; see the URL, and the rights of its user") from None
    except psycopg.Error as exc:
        raise LedgerUnusable(f"{shown}: {_words(exc)}; see whether the server runs and takes this user") from exc
    pool.open()
    return pool


def _first_connection(url: str, options: Mapping[str, Any]) -> Connection:
    """The server may be starting, too: it is asked again for a while."""
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            return psycopg.connect(url, **options)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(START_PAUSE_S)


@asynccontextmanager
async def open_postgres(
    url: str,
    *,
    shown: str = "the PostgreSQL server",
    retention_s: float | None = None,
    now: Callable[[], float] = time.time,
    waiting_max: int = 256,
    waiting_bytes_max: int = 64 * 1024 * 1024,
    reads_max: int = 64,
    sweep_interval_s: float = 3600.0,
) -> AsyncIterator[PostgresLedger]:
    """A ledger in the database that `url` (`postgresql://…`) names; closing it commits what still waits.

    `shown` stands for the URL in what is said of it, since that may hold a password.
    `retention_s`: None keeps everything. `LedgerUnusable` where the server does not answer within `START_S_MAX` or
    can't be used; later it may go and come back, and meanwhile every call is `LedgerUnavailable`.
    """
    pool = await trio.to_thread.run_sync(_open, url, shown, now())
    try:
        queue = CommitQueue(waiting_max, waiting_bytes_max)
        ledger = PostgresLedger(pool, queue, now, reads_max)
        async with queue.serving(ledger.commit), trio.open_nursery() as sweeping:
            sweeping.start_soon(ledger.sweep, retention_s, sweep_interval_s, name="ledger_sweeper")
            yield ledger
            sweeping.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S_MAX, shield=True):
            await trio.to_thread.run_sync(pool.close)
