"""The ledger in PostgreSQL, for any number of replicas: each commits all that waits with it in few transactions."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import psycopg
import structlog
import trio
from psycopg_pool import ConnectionPool, PoolTimeout

from cloud import wire
from cloud.ledger import Batch, LedgerBusy, LedgerUnavailable, LedgerUnusable, postgres_read, postgres_write
from cloud.ledger.desk import Desk
from cloud.ledger.lane import RunSync, thread_lane
from cloud.ledger.postgres_schema import Connection, days_ahead, drop_days, make_days, migrate
from cloud.ledger.queue import CLOSE_S_MAX, GATHER_RECORDS_MAX, CommitQueue

READERS = 4
"""Reads at a time, each with a connection and a thread of its own; others wait."""
WRITERS = 2
"""Commits at a time. More than half of a large one's time is the server's, so another is prepared meanwhile."""
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


@attrs.frozen
class _Transactions:
    """Connections out of the pool, and the lane that they are used in."""

    _run_sync: RunSync
    _pool: ConnectionPool[Connection]
    _transact: Callable[[ConnectionPool[Connection], Callable[[Connection], Any]], Any]

    async def __call__(self, work: Callable[[Connection], T], /) -> T:
        """One closure, one transaction."""
        result: T = await self._run_sync(self._transact, self._pool, work)
        return result


@attrs.define(eq=False)
class PostgresLedger(Desk[Connection]):
    """**Synopsis:** `async with open_postgres(url) as ledger: answer = await ledger.ingest(batch)`.

    Small batches share commits in one queue. Large ones of two devices are stored beside each other, one in that queue
    and one in `_beside`; those of one device would only wait for its row in the database.
    """

    _beside: CommitQueue = attrs.field(kw_only=True)
    _waiting_max: int = attrs.field(kw_only=True)
    _large: dict[CommitQueue, Counter[str]] = attrs.field(init=False)
    """How many large batches of each device wait in each queue."""

    def __attrs_post_init__(self) -> None:
        self._large = {self._beside: Counter(), self._queue: Counter()}

    @property
    def busy(self) -> bool:
        """Whether `ingest` would be turned away now."""
        return any(queue.busy for queue in self._large) or self._waiting >= self._waiting_max

    @property
    def _waiting(self) -> int:
        return sum(queue.waiting for queue in self._large)

    @property
    def commits(self) -> int:
        """Transactions that stored something since the ledger was opened."""
        return sum(queue.commits for queue in self._large)

    async def ingest(self, batch: Batch) -> wire.Answer:
        """Queue the batch and answer after the commit that holds it."""
        if self.busy:
            raise LedgerBusy(retry_after_s=1)
        if len(batch.records) <= GATHER_RECORDS_MAX:
            return await self._queue.ingest(batch)
        with self._place(batch.device_id) as queue:
            return await queue.ingest(batch)

    @contextmanager
    def _place(self, device_id: str) -> Iterator[CommitQueue]:
        """Where a large batch waits: with those of its device, else where the fewest do."""
        queue = min(self._large, key=lambda queue: (not self._large[queue][device_id], queue.waiting))
        self._large[queue][device_id] += 1
        try:
            yield queue
        finally:
            self._large[queue] -= Counter([device_id])

    async def commit(self, batches: Sequence[Batch]) -> list[wire.Answer]:
        """Store them in one transaction."""
        return await self._write(partial(postgres_write.ingest_all, batches=batches))

    async def sweep_once(self, retention_s: float | None) -> None:
        """Make the next days' partitions, drop those that are past retention, forget old minutes and conflicts.

        Of several replicas' rounds all but the first find nothing to do.
        """
        now = self._now()
        await self._write(partial(make_days, days=days_ahead(now)))
        while await self._write(partial(postgres_write.forget_minutes, now=now)):
            pass
        if retention_s is None:
            return
        older_than = now - retention_s
        while await self._write(partial(postgres_write.forget_conflicts, older_than=older_than)):
            pass
        if days := await self._write(partial(drop_days, older_than=older_than)):
            log.info("retention_swept", partitions=days)

    def touch(self, db: Connection) -> None:
        """Lock a row, which a server that may only be read refuses."""
        db.execute("SELECT name FROM holdfast_steps LIMIT 1 FOR UPDATE")


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
        "client_encoding": "utf8",
        "options": f"-c statement_timeout={STATEMENT_S_MAX}s -c timezone=UTC",
    }
    pool = ConnectionPool[Connection](
        url,
        min_size=1,
        # The readers, the writers, and who asks whether it answers.
        max_size=READERS + WRITERS + 1,
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
    opening = thread_lane()
    pool = await opening(_open, url, shown, now())
    try:
        queue, beside = (CommitQueue(waiting_max, waiting_bytes_max // WRITERS) for _ in range(WRITERS))
        ledger = PostgresLedger(
            postgres_read,
            _Transactions(thread_lane(WRITERS), pool, _transact),
            _Transactions(thread_lane(READERS), pool, _snapshot),
            _Transactions(thread_lane(), pool, _snapshot),
            queue,
            now,
            reads_max,
            beside=beside,
            waiting_max=waiting_max,
        )
        with trio.CancelScope() as scope:
            async with beside.serving(ledger.commit), ledger.serving(retention_s, sweep_interval_s):
                yield ledger
                scope.deadline = trio.current_time() + CLOSE_S_MAX
    finally:
        with trio.move_on_after(CLOSE_S_MAX, shield=True):
            await opening(pool.close)
