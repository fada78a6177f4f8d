"""Own the disk: make predictions durable in groups, hand them on, and write down what became of them."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import structlog
import trio
from msgspec.structs import replace
from trio_util import AsyncValue

from actors.claims import Claims
from actors.groups import GROUP_BYTES_MAX, answer, gather
from actors.messages import Accept, Books, Entry, Fate, Outcome, Page, PageRequest, Stream
from actors.ports.chores import perform
from actors.ports.disk import Disk, look_over, look_up
from actors.ports.forks import renumber
from actors.ports.opening import BufferFull, DiskTrouble, StoreLocked
from actors.ports.store import Store
from actors.seqs import Seqs, Stored, seqs_of
from actors.settings import WhenFull
from actors.streams import stream_of
from actors.strokes import Strokes
from actors.tail import Tail
from actors.tasks import Chore, TaskKind, TaskRefused

CONTROL_MAX = 256
"""Outcomes that share one trip to the disk."""
TIDY_EVERY_S = 1.0
RETRY_S = 1.0
"""How long an accept, or an outcome, waits before it tries a full or failing disk again."""
CLOSE_S = 3.0
"""The shield around the final flush ends here: a disk that hangs must not hang the shutdown."""

log = structlog.get_logger()


async def run(
    accepts: trio.MemoryReceiveChannel[Accept],
    control: trio.MemoryReceiveChannel[PageRequest | Outcome | Chore],
    stored: trio.MemorySendChannel[Stored],
    nudges: trio.MemorySendChannel[None],
    *,
    disk: Disk,
    books: AsyncValue[Books],
    when_full: WhenFull,
    group_min: int,
    group_wait_s: float,
) -> None:
    """Serve both inboxes until both have ended, then flush and close the store, also when cancelled.

    A group commits as soon as it holds `group_min` predictions or `group_wait_s` after its first; with `group_min` 1
    it is whatever waits. While the disk takes nothing at all, memory keeps a bounded tail for the live lane.
    """
    desk = _Desk(disk, books, stored, nudges, when_full)
    desk.note()  # before any number leaves: the uplink frames it with the stream that the books name
    try:
        with control:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.tidy_now_and_then)
                nursery.start_soon(desk.strokes.run)
                nursery.start_soon(desk.serve_control, control)
                await desk.serve_accepts(accepts, group_min, group_wait_s)
                await desk.control_ended.wait()
                nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await desk.close()


@attrs.define
class _Desk:
    """What the two inboxes share: the disk, the tail, and which numbers are in flight."""

    disk: Disk
    books: AsyncValue[Books]
    stored: trio.MemorySendChannel[Stored]
    nudges: trio.MemorySendChannel[None]
    when_full: WhenFull
    tail: Tail = attrs.field(factory=Tail, init=False)
    in_flight: Claims = attrs.field(factory=Claims, init=False)
    unsettled: list[Outcome] = attrs.field(factory=list, init=False)
    """Outcomes that the disk has not taken yet: of all that was delivered since it stopped taking any."""
    settling: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    turned_away: int = attrs.field(default=0, init=False)
    renumbered: int = attrs.field(default=0, init=False)
    trouble: str = attrs.field(default="", init=False)
    waits: bool = attrs.field(default=False, init=False)
    """An accept waits for room: BUFFER_WHEN_FULL is `block`."""
    delivers: bool = attrs.field(default=True, init=False)
    """Whether anybody takes what is passed on: not where delivery is switched off, nor once the pipeline ends."""
    strokes: Strokes = attrs.field(init=False, default=attrs.Factory(lambda self: Strokes(self.disk), takes_self=True))
    control_ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    # --- accepts

    async def serve_accepts(
        self, accepts: trio.MemoryReceiveChannel[Accept], group_min: int, group_wait_s: float
    ) -> None:
        with accepts, self.stored, self.nudges:
            self.nudge()
            async for first in accepts:
                group, entries = await gather(first, accepts, group_min, group_wait_s)
                records = await self.make_durable(entries)
                self.answer(group, records)
                self.hand_on(records)
                self.note()
                await self.strokes.ask()

    async def make_durable(self, entries: Sequence[Entry]) -> list[Stored]:
        """The entries, numbered and fsynced; kept in memory where there is no disk; none if a policy refused them."""
        tidied = False
        while True:
            try:
                records = await self.disk.accept(entries)
            except DiskTrouble as exc:
                self.in_trouble(str(exc))
                kept = self.keep_in_memory(entries)
                if kept is not None:
                    return kept
                await trio.sleep(RETRY_S)
            except BufferFull as exc:
                self.in_trouble(f"buffer full: {exc}")
                if not tidied:
                    tidied = True
                    while await self.made_room(Store.tidy):
                        await trio.lowlevel.checkpoint()
                elif self.when_full is WhenFull.DROP_NEWEST:
                    self.turned_away += len(entries)
                    return []
                elif self.when_full is WhenFull.DROP_OLDEST and await self.made_room(Store.evict):
                    self.nudge()
                else:
                    tidied, self.waits = False, True
                    await trio.sleep(RETRY_S)
            else:
                self.waits = False
                self.in_trouble("")
                return records

    async def made_room(self, stroke: Callable[[Store], int | bool]) -> bool:
        """One stroke of clean-up or eviction; whether it got something done and more may follow."""
        try:
            return bool(await self.disk.do(stroke))
        except DiskTrouble as exc:
            self.in_trouble(str(exc))
            return False

    def keep_in_memory(self, entries: Sequence[Entry]) -> list[Stored] | None:
        """The tail's part of it, by the operator's policy; None if the caller has to wait."""
        if self.when_full is WhenFull.DROP_OLDEST:
            self.turned_away += self.tail.drop_oldest(len(entries) - self.tail.room)
        if len(entries) <= self.tail.room:
            return self.tail.take(entries)
        if self.when_full is WhenFull.DROP_NEWEST:
            self.turned_away += len(entries)
            return []
        return None

    def answer(self, group: Sequence[Accept], records: Sequence[Stored]) -> None:
        """A receipt for every entry, to whoever asked."""
        streams = self.disk.store.names.streams if self.disk.store else (Stream("", ""),)
        seq = records[0].seq if records else 0
        answer(group, records, stream_of(streams, seq).stream_id)  # one group is of one stream

    def hand_on(self, records: Sequence[Stored]) -> None:
        """Pass predictions to the live lane, never waiting for it: what does not fit is the backlog's."""
        if not self.delivers:
            return
        passed_on = 0
        numbers = seqs_of([record.seq for record in records])
        if self.in_flight.free(numbers) is not numbers:  # a page took some before their receipt came back to the loop
            records = [record for record in records if record.seq not in self.in_flight]
        try:
            for record in records:
                self.stored.send_nowait(record)
                passed_on += 1
        except trio.WouldBlock:
            pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.delivers = False
        self.in_flight.take(seqs_of([record.seq for record in records[:passed_on]]))
        if passed_on < len(records):
            self.nudge()

    # --- outcomes and pages

    async def serve_control(self, control: trio.MemoryReceiveChannel[PageRequest | Outcome | Chore]) -> None:
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
                elif isinstance(message, Chore):
                    await self.do_chore(message)
        self.control_ended.set()

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes down, now or when the disk takes them; until then their numbers stay in flight."""
        for outcome in outcomes:
            handles = Seqs(span for span in outcome.seqs.spans if span[0] < 0)
            if outcome.fate is not Fate.RELEASED:
                self.tail.forget(handles)
            self.in_flight.give_back(handles)
            numbers = Seqs(span for span in outcome.seqs.spans if span[0] > 0)
            if numbers or outcome.losses:
                self.unsettled.append(attrs.evolve(outcome, seqs=numbers))
        try:
            await self.write_outcomes()
        except DiskTrouble as exc:
            self.in_trouble(str(exc))
        if any(outcome.fate is Fate.RELEASED for outcome in outcomes):
            self.nudge()
        self.note()

    async def write_outcomes(self) -> None:
        """Bring what is unsettled to the disk. `DiskTrouble`: it stays unsettled."""
        async with self.settling:
            while self.unsettled:
                told = list(self.unsettled)
                await self.write(told)
                del self.unsettled[: len(told)]
                for outcome in told:
                    self.in_flight.give_back(outcome.seqs)
                if any(outcome.fate is Fate.RELEASED for outcome in told):
                    self.nudge()

    async def write(self, outcomes: Sequence[Outcome]) -> None:
        """`Store.settle` in the disk's lane, and new numbers for what the cloud has another prediction under."""
        forked = Seqs(span for outcome in outcomes if outcome.fate is Fate.CONFLICTED for span in outcome.seqs.spans)
        if forked:
            self.renumbered += await self.disk.do(partial(renumber, seqs=forked))
            self.nudge()
        await self.disk.do(lambda store: store.settle(outcomes))

    async def turn_page(self, request: PageRequest) -> None:
        """Answer with the next pending predictions that are not in flight, and claim them for the asker."""
        after = request.after
        try:
            found, losses = await self.disk.do(partial(look_up, request))
        except DiskTrouble as exc:
            self.in_trouble(str(exc))
            idle = list(self.tail.idle(self.in_flight, request.bytes_max).items())[: request.records_max]
            page = Page([Stored(handle, entry.body) for handle, entry in idle], after, exhausted=True)
        else:
            free = self.in_flight.free(found.seqs)
            cursor = found.seqs[0 if request.newest else -1] if found else after
            records = found if free is found.seqs else [record for record in found if record.seq not in self.in_flight]
            page = Page(records, cursor, exhausted=not found, losses=tuple(losses))
        self.in_flight.take(page.records.seqs)
        request.reply.put(page)

    async def do_chore(self, chore: Chore) -> None:
        """An operator's work on the rows at rest; whatever became pending by it is worth a nudge."""
        under_way = frozenset(self.in_flight)
        try:
            done = await self.disk.do(lambda store: perform(store, chore.task, under_way))
        except (DiskTrouble, BufferFull) as exc:
            chore.reply.put(TaskRefused(str(exc)))
            return
        tell = log.debug if chore.task.kind is TaskKind.FLUSH else log.info  # whoever looks changes nothing
        tell("chore_done", task=chore.task.kind.value, **attrs.asdict(done))
        self.note()
        self.nudge()
        chore.reply.put(done)

    # --- now and then

    async def tidy_now_and_then(self) -> None:
        while True:
            try:
                if await self.disk.open():
                    self.note()
                if self.unsettled or self.tail:
                    await self.catch_up()
                await self.take_account()
            except (DiskTrouble, BufferFull) as exc:
                self.in_trouble(str(exc))
            self.note()
            await trio.sleep(TIDY_EVERY_S)

    async def catch_up(self) -> None:
        """The disk gets what it did not take when it was told. `DiskTrouble`, `BufferFull`."""
        while await self.disk.do(Store.tidy):
            await trio.lowlevel.checkpoint()
        await self.write_outcomes()
        await self.save_tail()

    async def take_account(self) -> None:
        """Clean up what is due, and see how the disk stands then. `DiskTrouble`."""
        while (looked := await self.disk.do(look_over)) is None:
            await trio.lowlevel.checkpoint()
        # Nobody may have asked for any since; who waits for more than there is asks again himself.
        # That this look came through says nothing of room, nor of a disk that is read-only: it needs nothing written.
        if "full" in self.trouble:
            lasts = not await self.disk.do(Store.has_room)
        else:
            lasts = bool(self.disk.store and self.disk.store.journal_trouble)
        if self.trouble and not (self.waits or lasts):
            self.in_trouble("")
        seen, any_losses = looked
        # A database that was replaced may bring up what was sent or lost, on a link that never went away.
        if any_losses or self.books.value.pending > len(self.in_flight):
            self.nudge()
        if gone := seen.set_aside_dropped - self.books.value.set_aside_dropped:
            log.warning("set_aside_dropped", copies=gone, kept_bytes=seen.set_aside_bytes, reason="room")
        self.books.value = replace(seen, in_memory=len(self.tail), turned_away=self.turned_away)

    async def save_tail(self) -> None:
        """The disk is back: what memory kept, and no lane has in its hands, becomes durable, a group at a time, since
        all of it at once may be more than there is room for. `DiskTrouble`, `BufferFull`.
        """
        while idle := self.tail.idle(self.in_flight, GROUP_BYTES_MAX):
            handles = seqs_of(idle)
            self.in_flight.take(handles)
            try:
                records = await self.disk.accept(list(idle.values()))
                self.tail.forget(idle)
            finally:
                self.in_flight.give_back(handles)
            self.in_trouble("")  # the disk has just taken them
            log.info("memory_saved", predictions=len(records))
            self.hand_on(records)

    async def close(self) -> None:
        """Everything that the disk takes; what it does not is told.

        No lane is left that could say what became of what it had in its hands: that is saved too, for a second time in
        the cloud is better than never. There may be room again, or be made, and nobody have looked since.
        """
        self.in_flight.give_back(seqs_of(self.tail.entries))
        with contextlib.suppress(DiskTrouble, StoreLocked):
            if self.tail:
                await self.disk.open()
            left = len(self.tail) + 1
            while 0 < len(self.tail) < left:
                left = len(self.tail)
                while await self.made_room(Store.tidy):
                    await trio.lowlevel.checkpoint()
                with contextlib.suppress(BufferFull):
                    await self.save_tail()
        if self.tail:
            log.error("lost_from_memory", predictions=len(self.tail), reason="the disk took nothing until the end")
        await self.disk.close()

    def note(self) -> None:
        """Show the counts that have just changed; sizes and ages follow with the next tidy stroke."""
        seen = self.books.value
        if store := self.disk.store:
            seen = replace(
                seen,
                stream_id=store.names.streams[-1].stream_id,
                streams=store.names.streams,
                last_seq=store.last_seq,
                failed=store.failed_count,
                sent=store.sent_count,
                degraded=store.journal_trouble,
            )
        self.books.value = replace(
            seen,
            pending=(store.pending_count if store else 0) + len(self.tail),
            in_flight=len(self.in_flight),
            in_memory=len(self.tail),
            turned_away=self.turned_away,
            renumbered=self.renumbered,
            trouble=self.trouble,
            disk_answered_at=self.disk.answered_at,
        )

    def in_trouble(self, trouble: str) -> None:
        """Say once when the disk begins to refuse, and once when it no longer does."""
        if bool(trouble) != bool(self.trouble):
            if trouble:
                log.error("disk_trouble", error=trouble)
            else:
                log.info("disk_trouble_over", was=self.trouble)
                self.nudge()  # a page that could not be read is worth asking for again
            self.trouble = trouble
            self.note()

    def nudge(self) -> None:
        """Tell recovery that something is pending; one nudge waiting is as good as many."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.nudges.send_nowait(None)
