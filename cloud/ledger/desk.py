"""What the ledgers share: the queue of writes, the bounds of reads, and how long a store may take to answer."""

import abc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

import attrs
import structlog
import trio

from cloud import wire
from cloud.ledger import (
    EVERYTHING,
    Batch,
    Bucket,
    ConflictPage,
    ConflictQuery,
    Device,
    LedgerBusy,
    LedgerUnavailable,
    Page,
    Query,
    SeriesQuery,
    Stats,
    StatsQuery,
    StoredPrediction,
    StreamAudit,
)
from cloud.ledger.pages import pages
from cloud.ledger.queue import CommitQueue

ANSWER_S_MAX = 40.0
"""How long a store may take to answer; longer than a statement may take in PostgreSQL, so that the server's own words
are heard."""
CHECK_S_MAX = 4.0
"""How long it may take where it is only asked whether it answers; a probe waits five."""

Db = TypeVar("Db")
Db_contra = TypeVar("Db_contra", contravariant=True)
Db_co = TypeVar("Db_co", covariant=True)
T = TypeVar("T")
log = structlog.get_logger()


class Questions(Protocol[Db_contra]):
    """What a store is asked, inside one snapshot: the functions of `sqlite_read` and `postgres_read`."""

    def check(self, db: Db_contra, /) -> None:
        """Touch the tables."""

    def stats(self, db: Db_contra, /, query: StatsQuery, now: float) -> Stats:
        """Tallies out of the rollups."""

    def series(self, db: Db_contra, /, query: SeriesQuery) -> tuple[Bucket, ...]:
        """Every bucket, also the empty ones."""

    def predictions(self, db: Db_contra, /, query: Query) -> Page:
        """A page, newest first."""

    def devices(self, db: Db_contra, /, now: float) -> tuple[Device, ...]:
        """Every device with its sums."""

    def audit(self, db: Db_contra, /, device_id: str) -> tuple[StreamAudit, ...] | None:
        """Every stream's account, or None for an unknown device."""

    def conflicts(self, db: Db_contra, /, query: ConflictQuery) -> ConflictPage | None:
        """A page of conflicts, or None for an unknown device."""


class Transactions(Protocol[Db_co]):
    """Where work on a database is done: one closure, one transaction, away from the loop."""

    def __call__(self, work: Callable[[Db_co], T], /) -> Awaitable[T]:
        """What the work returns; `LedgerUnavailable` where nothing was done."""
        ...


@attrs.define(eq=False)
class Desk(abc.ABC, Generic[Db]):
    """A ledger but for its store: who writes waits in the queue, who reads is bounded, nobody waits for ever.

    `_checking` does not wait behind `_reading`: a slow question must not make the service look dead.
    """

    _questions: Questions[Db]
    _writing: Transactions[Db]
    _reading: Transactions[Db]
    _checking: Transactions[Db]
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

    def expect(self) -> AbstractContextManager[None]:
        """A batch is on its way: a commit waits a moment for it."""
        return self._queue.expect()

    async def ingest(self, batch: Batch) -> wire.Answer:
        """Queue the batch and answer after the commit that holds it."""
        return await self._queue.ingest(batch)

    async def check(self) -> None:
        """Read within `CHECK_S_MAX`; after a failed commit also write: only that shows whether the disk is back."""
        await within(CHECK_S_MAX, partial(self._checking, self._questions.check))
        if self._trouble:
            await self._write(self.touch, CHECK_S_MAX)

    async def stats(self, query: StatsQuery = EVERYTHING) -> Stats:
        """Tallies out of the rollups."""
        return await self._read(partial(self._questions.stats, query=query, now=self._now()))

    async def series(self, query: SeriesQuery) -> tuple[Bucket, ...]:
        """Every bucket of the question, out of the rollups."""
        return await self._read(partial(self._questions.series, query=query))

    async def predictions(self, query: Query) -> Page:
        """A page, newest first."""
        return await self._read(partial(self._questions.predictions, query=query))

    def export(self, query: Query) -> AsyncGenerator[tuple[StoredPrediction, ...], None]:
        """Page by page, newest first, until nothing is left."""
        return pages(self.predictions, query)

    async def devices(self) -> tuple[Device, ...]:
        """Every device, by its id."""
        return await self._read(partial(self._questions.devices, now=self._now()))

    async def audit(self, device_id: str) -> tuple[StreamAudit, ...] | None:
        """Every stream's account, or None for an unknown device."""
        return await self._read(partial(self._questions.audit, device_id=device_id))

    async def conflicts(self, query: ConflictQuery) -> ConflictPage | None:
        """A page of what came again with another payload, or None for an unknown device."""
        return await self._read(partial(self._questions.conflicts, query=query))

    @abc.abstractmethod
    async def commit(self, batches: Sequence[Batch]) -> list[wire.Answer]:
        """Store them in one transaction."""

    @abc.abstractmethod
    async def sweep_once(self, retention_s: float | None) -> None:
        """One round of forgetting; requests are committed between its strokes."""

    @abc.abstractmethod
    def touch(self, db: Db) -> None:
        """Write something that changes nothing."""

    async def _write(self, work: Callable[[Db], T], seconds: float = ANSWER_S_MAX) -> T:
        try:
            result = await within(seconds, partial(self._writing, work))
        except LedgerUnavailable as exc:
            if not self._trouble:
                log.error("ledger_unavailable", error=str(exc))  # noqa: TRY400  (the cause is in the text)
            self._trouble = str(exc)
            raise
        self._trouble = ""
        return result

    async def _read(self, work: Callable[[Db], T]) -> T:
        if self._reads >= self._reads_max:
            raise LedgerBusy(retry_after_s=1)
        self._reads += 1
        try:
            return await within(ANSWER_S_MAX, partial(self._reading, work))
        finally:
            self._reads -= 1

    @asynccontextmanager
    async def serving(self, retention_s: float | None, sweep_interval_s: float) -> AsyncIterator[None]:
        """Commit what waits and forget what is old; at the end also commit what still waits."""
        async with self._queue.serving(self.commit), trio.open_nursery() as sweeping:
            sweeping.start_soon(self._sweep, retention_s, sweep_interval_s, name="ledger_sweeper")
            yield
            sweeping.cancel_scope.cancel()

    async def _sweep(self, retention_s: float | None, interval_s: float) -> None:
        while True:
            try:
                await self.sweep_once(retention_s)
            except LedgerUnavailable as exc:
                log.warning("retention_postponed", error=str(exc))
            await trio.sleep(interval_s)


async def within(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns; `LedgerUnavailable` where the store hangs: the work is then left behind."""
    with trio.move_on_after(seconds):
        return await work()
    raise LedgerUnavailable(f"the store has not answered for {seconds:.0f} s")
