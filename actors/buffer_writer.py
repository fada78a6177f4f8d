"""Own the disk: make predictions durable in groups, hand them on, and write down what became of them."""

import contextlib
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors.messages import Accept, Books, Entry, Fate, Outcome, Page, PageRequest, Receipt, Stored
from actors.ports.lane import RunSync
from actors.ports.opening import DiskTrouble
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import BufferFull, Store
from actors.settings import WhenFull

GROUP_ENTRIES_MAX = 4_096
CONTROL_MAX = 256
"""Outcomes that share one trip to the disk."""
TIDY_EVERY_S = 1.0
RETRY_S = 1.0
"""How long an accept, or an outcome, waits before it tries a full or failing disk again."""
CLOSE_S = 3.0
"""The shield around the final flush ends here: a disk that hangs must not hang the shutdown."""

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


async def run(
    accepts: trio.MemoryReceiveChannel[Accept],
    control: trio.MemoryReceiveChannel[PageRequest | Outcome],
    stored: trio.MemorySendChannel[Stored],
    nudges: trio.MemorySendChannel[None],
    *,
    store: Store,
    run_sync: RunSync,
    books: AsyncValue[Books],
    when_full: WhenFull,
    group_min: int,
    group_wait_s: float,
) -> None:
    """Serve both inboxes until both have ended, then flush and close the store, also when cancelled.

    A group commits as soon as it holds `group_min` predictions or `group_wait_s` after its first; with `group_min` 1
    it is whatever waits. Raises `BufferDamaged` when the database turns out to be malformed: the next start sets it
    aside and goes on from the journal.
    """
    desk = _Desk(store, run_sync, books, nudges)
    try:
        with control:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.tidy_now_and_then)
                nursery.start_soon(desk.serve_control, control)
                await desk.serve_accepts(accepts, stored, when_full, group_min, group_wait_s)
                await desk.control_ended.wait()
                nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await run_sync(store.close)


@attrs.define
class _Desk:
    """What the two inboxes share: the store, and which numbers are in flight."""

    store: Store
    run_sync: RunSync
    books: AsyncValue[Books]
    nudges: trio.MemorySendChannel[None]
    in_flight: set[int] = attrs.field(factory=set, init=False)
    turned_away: int = attrs.field(default=0, init=False)
    trouble: str = attrs.field(default="", init=False)
    control_ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def serve_accepts(
        self,
        accepts: trio.MemoryReceiveChannel[Accept],
        stored: trio.MemorySendChannel[Stored],
        when_full: WhenFull,
        group_min: int,
        group_wait_s: float,
    ) -> None:
        with accepts, stored, self.nudges:
            if self.store.pending_count:
                self.nudge()
            async for first in accepts:
                group = await gather(first, accepts, group_min, group_wait_s)
                records = await self.make_durable([entry for accept in group for entry in accept.entries], when_full)
                self.answer(group, records)
                self.hand_on(records, stored)
                self.note()

    async def make_durable(self, entries: Sequence[Entry], when_full: WhenFull) -> list[Stored]:
        """The entries, numbered and fsynced; an empty list if the policy turned them away."""
        tidied = False
        while True:
            try:
                records = await self.disk(self.store.accept, entries)
            except DiskTrouble as exc:
                self.in_trouble(str(exc))
                await trio.sleep(RETRY_S)
            except BufferFull as exc:
                self.in_trouble(f"buffer full: {exc}")
                if not tidied:
                    tidied = True
                    while await self.made_room(self.store.tidy):
                        await trio.lowlevel.checkpoint()
                elif when_full is WhenFull.DROP_NEWEST:
                    self.turned_away += len(entries)
                    return []
                elif when_full is WhenFull.DROP_OLDEST and await self.made_room(self.store.evict):
                    self.nudge()
                else:
                    tidied = False
                    await trio.sleep(RETRY_S)
            else:
                self.in_trouble("")
                return records

    async def made_room(self, stroke: Callable[[], int | bool]) -> bool:
        """One stroke of clean-up or eviction; whether it got something done and more may follow."""
        try:
            return bool(await self.disk(stroke))
        except DiskTrouble as exc:
            self.in_trouble(str(exc))
            return False

    def answer(self, group: Sequence[Accept], records: Sequence[Stored]) -> None:
        """A receipt for every entry, to whoever asked."""
        waiting = iter(records)
        for accept in group:
            receipts = tuple(
                Receipt(self.store.stream_id, record.seq if record else None, durable=record is not None)
                for record in (next(waiting, None) for _ in accept.entries)
            )
            if accept.reply is not None:
                accept.reply.put(receipts)

    def hand_on(self, records: Sequence[Stored], stored: trio.MemorySendChannel[Stored]) -> None:
        """Pass durable predictions to the live lane, never waiting for it: what does not fit is the backlog's."""
        for record in records:
            try:
                stored.send_nowait(record)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self.nudge()
                return
            self.in_flight.add(record.seq)

    async def serve_control(self, control: trio.MemoryReceiveChannel[PageRequest | Outcome]) -> None:
        async for first in control:
            waiting = [first]
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while len(waiting) < CONTROL_MAX:
                    waiting.append(control.receive_nowait())
            outcomes = [message for message in waiting if isinstance(message, Outcome)]
            if outcomes:
                await self.settle(outcomes)
            for message in waiting:
                if isinstance(message, PageRequest):
                    await self.turn_page(message)
        self.control_ended.set()

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes down, however long the disk makes that take; then the numbers are free again."""
        while True:
            try:
                await self.disk(self.store.settle, outcomes)
            except DiskTrouble as exc:
                self.in_trouble(str(exc))
                await trio.sleep(RETRY_S)
            else:
                break
        for outcome in outcomes:
            self.in_flight.difference_update(outcome.seqs)
        if any(outcome.fate is Fate.RELEASED for outcome in outcomes):
            self.nudge()
        self.note()

    async def turn_page(self, request: PageRequest) -> None:
        """Answer with the next pending predictions that are not in flight, and claim them for the asker."""
        try:
            page = await self.disk(self.store.pending, request.after, request.records_max, request.bytes_max)
            losses = await self.disk(self.store.losses) if request.after == 0 else []
        except DiskTrouble as exc:
            self.in_trouble(str(exc))
            request.reply.put(Page((), request.after, exhausted=True))
            return
        free = tuple(record for record in page if record.seq not in self.in_flight)
        self.in_flight.update(record.seq for record in free)
        cursor = page[-1].seq if page else request.after
        request.reply.put(Page(free, cursor, exhausted=not page, losses=tuple(losses)))

    async def tidy_now_and_then(self) -> None:
        while True:
            try:
                while await self.disk(self.store.tidy):
                    await trio.lowlevel.checkpoint()
                self.books.value = attrs.evolve(
                    await self.disk(self.store.books),
                    in_flight=len(self.in_flight),
                    turned_away=self.turned_away,
                    trouble=self.trouble,
                )
            except DiskTrouble as exc:
                self.in_trouble(str(exc))
            await trio.sleep(TIDY_EVERY_S)

    async def disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call of the store, in its lane."""
        try:
            return await self.run_sync(function, *args, **kwargs)
        except BufferDamaged as exc:
            log.exception("buffer_damaged", error=str(exc), then="the next start sets it aside and goes on")
            self.store.condemn()
            raise

    def note(self) -> None:
        """Show the counts that have just changed; sizes and ages follow with the next tidy stroke."""
        self.books.value = attrs.evolve(
            self.books.value,
            last_seq=self.store.last_seq,
            pending=self.store.pending_count,
            failed=self.store.failed_count,
            sent=self.store.sent_count,
            in_flight=len(self.in_flight),
            turned_away=self.turned_away,
            trouble=self.trouble,
        )

    def in_trouble(self, trouble: str) -> None:
        """Say once when accepts begin to wait for the disk, and once when they no longer do."""
        if bool(trouble) != bool(self.trouble):
            if trouble:
                log.error("disk_trouble", error=trouble)
            else:
                log.info("disk_trouble_over", was=self.trouble)
            self.trouble = trouble
            self.note()

    def nudge(self) -> None:
        """Tell recovery that something is pending; one nudge waiting is as good as many."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.nudges.send_nowait(None)


async def gather(
    first: Accept, accepts: trio.MemoryReceiveChannel[Accept], group_min: int, group_wait_s: float
) -> list[Accept]:
    """All that waits, and if that is fewer than `group_min` predictions, what comes within `group_wait_s`."""
    group = [first]
    count = len(first.entries)
    with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
        while count < GROUP_ENTRIES_MAX:
            group.append(accepts.receive_nowait())
            count += len(group[-1].entries)
    with trio.move_on_after(group_wait_s):
        while count < group_min:
            try:
                group.append(await accepts.receive())
            except trio.EndOfChannel:
                break
            count += len(group[-1].entries)
    return group
