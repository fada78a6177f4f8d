"""The queue before a store: requests wait here, and one writer commits all small ones that wait in one transaction."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from cloud import wire
from cloud.ledger import Batch, LedgerBusy, LedgerUnavailable
from cloud.ledger.pieces import PIECE_RECORDS_MAX, joined, pieces_of

GROUP_BATCHES_MAX = 128
"""How many waiting requests share one commit."""
GATHER_S = 0.01
"""How long a commit waits for requests that are being read: most of what a small batch costs is its commit's."""
GATHER_RECORDS_MAX = 500
"""Where so many wait already their commit waits for no more: it stores them while the loop reads the next ones. A batch
of more is a large one."""
CLOSE_S_MAX = 10.0
"""How long the commit of what still waits may take once the ledger closes."""

Commit = Callable[[Sequence[Batch]], Awaitable[Sequence[wire.Answer]]]
"""Stores batches in one transaction and answers each; `LedgerUnavailable` where nothing was stored."""


@attrs.define(eq=False)
class _Waiting:
    """A request in the queue, and what becomes of it."""

    batch: Batch
    settled: trio.Event = attrs.field(factory=trio.Event)
    outcome: wire.Answer | LedgerUnavailable = attrs.field(factory=lambda: LedgerUnavailable("the ledger was closed"))
    left: deque[Batch] = attrs.field(init=False)
    """The pieces that are not stored yet."""
    answers: list[wire.Answer] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.left = deque(pieces_of(self.batch))

    @property
    def large(self) -> bool:
        """Whether its commit is long for whoever waits behind it."""
        return len(self.batch.records) > GATHER_RECORDS_MAX


def next_group(line: Sequence[_Waiting], *, after_large: bool) -> list[_Waiting]:
    """Who of those that wait has a piece in the next commit.

    As much of large ones as a piece may be, and none right after others while small ones wait. So these wait for one
    piece, and the large ones for one commit of small ones.
    """
    small = [waiting for waiting in line if not waiting.large][:GROUP_BATCHES_MAX]
    if small and after_large:
        return small
    large: list[_Waiting] = []
    records = 0
    for waiting in line:
        if waiting.large:
            records += len(waiting.left[0].records)
            if large and records > PIECE_RECORDS_MAX:
                break
            large.append(waiting)
    return [*small, *large]


@attrs.define(eq=False)
class CommitQueue:
    """**Synopsis:** `async with queue.serving(commit): answer = await queue.ingest(batch)`."""

    _waiting_max: int
    _waiting_bytes_max: int
    _send: trio.MemorySendChannel[_Waiting] = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel[_Waiting] = attrs.field(init=False)
    waiting: int = 0
    """Requests that wait for their commit, or for the end of one under way."""
    _waiting_bytes: int = 0
    _waiting_records: int = 0
    _expected: int = 0
    """Requests whose batch is on its way here, waits, or has just been answered."""
    _moved: trio.Event = attrs.field(init=False, factory=trio.Event)
    """Set when a batch has come or will not come."""
    commits: int = 0
    """Transactions that stored something since the ledger was opened."""

    def __attrs_post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[_Waiting](self._waiting_max)

    @property
    def busy(self) -> bool:
        """Whether `ingest` would be turned away now."""
        return self.waiting >= self._waiting_max or self._waiting_bytes >= self._waiting_bytes_max

    @contextmanager
    def expect(self) -> Iterator[None]:
        """A batch is on its way: until it is here or the block is left, a commit waits a moment for it."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._moved.set()

    async def ingest(self, batch: Batch) -> wire.Answer:
        """Queue the batch and answer after the commit that holds it; `LedgerBusy` at once when too much waits."""
        if self.busy:
            raise LedgerBusy(retry_after_s=1)
        waiting = _Waiting(batch)
        # Counted until it is settled, not until the asker goes away: it takes memory that long.
        self.waiting += 1
        self._waiting_bytes += batch.bytes_plain
        self._waiting_records += len(batch.records)
        try:
            self._send.send_nowait(waiting)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._settle(waiting)
            raise LedgerUnavailable("the ledger is closed") from exc
        self._moved.set()
        await waiting.settled.wait()
        if isinstance(waiting.outcome, LedgerUnavailable):
            raise LedgerUnavailable(str(waiting.outcome)) from waiting.outcome
        return waiting.outcome

    @asynccontextmanager
    async def serving(self, commit: Commit) -> AsyncIterator[None]:
        """Commit what waits; at the end also what still does, for up to `CLOSE_S_MAX`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, commit, name="ledger_writer")
            with self._send:
                yield
            nursery.cancel_scope.deadline = trio.current_time() + CLOSE_S_MAX

    async def _run(self, commit: Commit) -> None:
        """Commit what waits, the next as soon as the one before is over, until the queue is closed and empty."""
        line: list[_Waiting] = []
        inbox, after_large = self._receive, False
        with inbox:
            try:
                async for first in inbox:
                    line.append(first)
                    while line:
                        await self._gather()
                        while inbox.statistics().current_buffer_used:
                            line.append(inbox.receive_nowait())
                        group = next_group(line, after_large=after_large)
                        await self._commit(commit, group)
                        after_large = any(waiting.large for waiting in group)
                        line = [waiting for waiting in line if not waiting.settled.is_set()]
            finally:
                # Only a crash or a cancelled close leaves anybody here; they hear that nothing was promised.
                while inbox.statistics().current_buffer_used:
                    line.append(inbox.receive_nowait())
                for waiting in line:
                    self._settle(waiting)

    async def _gather(self) -> None:
        with trio.move_on_after(GATHER_S):
            while self._expected > self.waiting < GROUP_BATCHES_MAX and self._waiting_records < GATHER_RECORDS_MAX:
                self._moved = trio.Event()
                await self._moved.wait()

    async def _commit(self, commit: Commit, group: Sequence[_Waiting]) -> None:
        try:
            answers = await commit([waiting.left[0] for waiting in group])
            self.commits += 1
        except LedgerUnavailable as exc:
            for waiting in group:
                waiting.outcome = exc
                self._settle(waiting)
            return
        for waiting, answer in zip(group, answers, strict=True):
            waiting.left.popleft()
            waiting.answers.append(answer)
            if not waiting.left:
                waiting.outcome = joined(waiting.answers)
                self._settle(waiting)

    def _settle(self, waiting: _Waiting) -> None:
        if not waiting.settled.is_set():
            self.waiting -= 1
            self._waiting_bytes -= waiting.batch.bytes_plain
            self._waiting_records -= len(waiting.batch.records)
            waiting.settled.set()
