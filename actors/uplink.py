"""Send batches to the cloud in two lanes, live and backlog, and tell what became of every prediction in them."""

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import attrs
import structlog
import trio
from trio_util import AsyncValue, wait_any

from actors.backoff import backoff_s
from actors.messages import (
    Batch,
    Books,
    Delivery,
    Fate,
    Knobs,
    Lane,
    Link,
    Outcome,
    Report,
    Sign,
    Stream,
    Traffic,
    Trouble,
)
from actors.pacing import IN_FLIGHT_MAX
from actors.ports.client import CloudClient, Unreachable
from actors.seqs import Payloads
from actors.streams import Part, below, parts_of
from actors.verdict import Piece, Room, Sense, Settlement, Verdict, join, judge, no_answer, settle
from cloud.wire import Loss, frame_batch

RETRY_PAUSE_MAX_S = 60.0
GIVE_WAY_S = 0.25
"""How long a batch of the backlog lets a live one that is under way go first, at most: that one may be stuck."""

log = structlog.get_logger()


async def run(
    live: trio.MemoryReceiveChannel[Batch],
    backlog: trio.MemoryReceiveChannel[Batch],
    outcomes: trio.MemorySendChannel[Outcome],
    reports: trio.MemorySendChannel[Report],
    *,
    link: AsyncValue[Link],
    stopping: trio.Event,
    traffic: AsyncValue[Traffic],
    books: AsyncValue[Books],
    client: CloudClient,
    device_id: str,
    session_id: str = "",
    knobs: AsyncValue[Knobs],
    rng: random.Random,
    now: Callable[[], float],
    backlog_in_flight_max: int = IN_FLIGHT_MAX,
) -> None:
    """Deliver until both lanes end. `now` gives seconds since 1970.

    The live lane sends one batch at a time and never waits for the backlog, of which up to `backlog_in_flight_max`
    batches are under way. Every prediction's fate goes to `outcomes` exactly once: sent, quarantined, or released
    (pending again). A live batch is tried 1 + `retries_max` times, a backlog batch once, and none at all while the
    link is known to be unusable; once `stopping` is set, each live batch is offered once, and the backlog no more.
    """
    with live, backlog, outcomes, reports:
        uplink = _Uplink(
            outcomes=outcomes,
            reports=reports,
            link=link,
            stopping=stopping,
            traffic=traffic,
            books=books,
            client=client,
            device_id=device_id,
            session_id=session_id,
            knobs=knobs,
            rng=rng,
            now=now,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uplink.live_lane, live, name="uplink live")
            for _ in range(backlog_in_flight_max):
                nursery.start_soon(uplink.backlog_lane, backlog, name="uplink backlog")


@attrs.define(eq=False, kw_only=True)
class _Uplink:
    """What both lanes share: the channels, what 413 taught, and until when the cloud asked to be left alone."""

    outcomes: trio.MemorySendChannel[Outcome]
    reports: trio.MemorySendChannel[Report]
    link: AsyncValue[Link]
    stopping: trio.Event
    traffic: AsyncValue[Traffic]
    books: AsyncValue[Books]
    client: CloudClient
    device_id: str
    session_id: str
    knobs: AsyncValue[Knobs]
    rng: random.Random
    now: Callable[[], float]
    introduced: set[Stream] = attrs.field(factory=set)
    """Streams that the cloud has heard where they begin."""
    room: Room = attrs.field(factory=Room)
    busy_until: float = 0.0

    # --- the live lane

    async def live_lane(self, live: trio.MemoryReceiveChannel[Batch]) -> None:
        """One batch after the other; while the cloud is busy the lane waits, and what comes meanwhile waits behind."""
        async for batch in live:
            await self._pause(self.busy_until - trio.current_time())
            await self._deliver(batch)

    async def _deliver(self, batch: Batch) -> None:
        """Offer a batch until it is settled, the retries are used up, or trying makes no sense any more."""
        left, losses = batch.records, batch.losses
        error: str | None = None
        for attempt in itertools.count():
            if not (self.link.value.usable or self.stopping.is_set()):
                break
            if attempt:
                self._count(retried=1)
            began = trio.current_time()
            self.traffic.value = attrs.evolve(self.traffic.value, live_under_way=True)
            settlement = await self._offer(left, losses, Lane.LIVE)
            seen, now = attrs.evolve(self.traffic.value, live_under_way=False), trio.current_time()
            self.traffic.value = seen if settlement.trouble else attrs.evolve(seen, live_at=now, live_s=now - began)
            left, losses = settlement.left, settlement.losses_left
            error = settlement.left_error or error
            if settlement.trouble is None or settlement.trouble.sense is not Sense.FAILED:
                break
            if attempt >= self.knobs.value.retries_max:
                break
            multiplier = self.knobs.value.retry_multiplier
            await self._pause(backoff_s(attempt, multiplier=multiplier, rng=self.rng, max_s=RETRY_PAUSE_MAX_S))
            if self.stopping.is_set():
                break
        await self._release(left, error)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than it makes sense to: not once the link is known to be gone, nor into a stop."""
        if seconds > 0:
            with trio.move_on_after(seconds):
                await wait_any(self.stopping.wait, partial(self.link.wait_value, _unusable))

    # --- the backlog lane

    async def backlog_lane(self, backlog: trio.MemoryReceiveChannel[Batch]) -> None:
        """One of the lane's workers: each batch is offered once, then whoever sent it hears how that went."""
        async for batch in backlog:
            delivery = await self._deliver_once(batch)
            if batch.reply is not None:
                batch.reply.put(delivery)

    async def _deliver_once(self, batch: Batch) -> Delivery:
        with trio.move_on_after(GIVE_WAY_S):
            await self.traffic.wait_value(_way_free)
        busy_s = self.busy_until - trio.current_time()
        if self.stopping.is_set() or not self.link.value.usable:
            await self._release(batch.records, None)
            return Delivery(Trouble.FAILED, records=0, seconds=0.0, records_max=self.room.records_max)
        if busy_s > 0:
            await self._release(batch.records, None)
            return Delivery(
                Trouble.BUSY, records=0, seconds=0.0, retry_after_s=busy_s, records_max=self.room.records_max
            )
        began = trio.current_time()
        settlement = await self._offer(batch.records, batch.losses, Lane.BACKLOG)
        seconds = trio.current_time() - began
        await self._release(settlement.left, settlement.left_error)
        return Delivery(
            _trouble(settlement),
            records=len(settlement.sent) + len(settlement.refused),
            seconds=seconds,
            retry_after_s=settlement.trouble.retry_after_s if settlement.trouble else 0.0,
            records_max=self.room.records_max,
        )

    # --- both

    async def _offer(self, records: Payloads, losses: Sequence[Loss], lane: Lane) -> Settlement:
        """Take a batch through the cloud, stream by stream, and tell what is settled."""
        parts = parts_of(self.books.value.streams or (Stream("", self.device_id),), records, losses)
        done: list[Settlement] = []
        for part in parts:
            if done and done[-1].trouble:
                done.append(Settlement(left=part.records, losses_left=part.losses, trouble=done[-1].trouble))
            else:
                done.append(await self._settle(part, lane))
        settlement = join(done)
        await self._tell(settlement, records.size)
        return settlement

    async def _settle(self, part: Part, lane: Lane) -> Settlement:
        """One stream's part, in as many pieces as the cloud asks for."""
        steps = settle(part.records, part.losses, self.room)
        try:
            piece = next(steps)
            while True:
                piece = steps.send(await self._post(piece, part.stream, lane))
        except StopIteration as end:
            return cast("Settlement", end.value)

    async def _post(self, piece: Piece, stream: Stream, lane: Lane) -> Verdict:
        """One POST and what it means."""
        introduced = stream in self.introduced
        body = frame_batch(
            stream.device_id,
            stream.stream_id,
            piece.records.body,
            sent_at=self.now(),
            pending=self.books.value.pending,
            late=lane is Lane.BACKLOG,
            losses=piece.losses if introduced else (*below(stream), *piece.losses),
            session_id=self.session_id,
        )
        try:
            answer = await self.client.post(body)
        except Unreachable as exc:
            verdict = no_answer(exc.reason)
        else:
            self.room.heed(answer.headers)
            verdict = judge(
                answer.status,
                answer.headers,
                answer.body,
                records=len(piece.records),
                now=self.now(),
                empty=not (piece.records or piece.losses),
            )
        self._count(posts=1, bytes_sent=len(body))
        if verdict.sense is Sense.BUSY:
            self.busy_until = max(self.busy_until, trio.current_time() + verdict.retry_after_s)
        if verdict.answer is not None:
            self.introduced.add(stream)
            self.traffic.value = attrs.evolve(self.traffic.value, shared=bool(verdict.answer.shared))
        if verdict.sense is not Sense.STORED:
            self.traffic.value = attrs.evolve(
                self.traffic.value, last_error=verdict.reason, last_error_at=trio.current_time()
            )
            log.warning("post_not_stored", lane=lane.value, sense=verdict.sense.value, reason=verdict.reason)
        await self._report(Report(verdict.sign, verdict.reason))
        return verdict

    async def _report(self, report: Report) -> None:
        """Tell connectivity. A sign of life may get lost, the next one is near; bad news must arrive."""
        if report.sign is not Sign.ALIVE:
            await self.reports.send(report)
            return
        try:
            self.reports.send_nowait(report)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return  # or connectivity was cancelled in the instant of the answer, and so are we

    async def _tell(self, settlement: Settlement, size: int) -> None:
        """Pass on what is settled of a batch of `size` bytes: one outcome for the sent, one for each of the errors."""
        self._count(sent=len(settlement.sent), duplicates=settlement.duplicates, rejected=len(settlement.refused))
        if settlement.conflicts:
            log.error("conflicts", count=settlement.conflicts, seqs=settlement.conflicted.spans[:10])
        if settlement.conflicted:
            await self.outcomes.send(Outcome(Fate.CONFLICTED, settlement.conflicted))
        if settlement.sent or settlement.losses:
            losses = tuple(settlement.losses)
            await self.outcomes.send(Outcome(Fate.SENT, settlement.sent, losses=losses, payload_bytes=size))
        for error, seqs in _by_error(settlement.refused).items():
            log.error("quarantined", count=len(seqs), first_seq=seqs[0], error=error)
            await self.outcomes.send(Outcome(Fate.QUARANTINED, seqs, error=error, payload_bytes=size))

    async def _release(self, records: Payloads, error: str | None) -> None:
        """Give predictions back to the backlog; an `error` is written down with them."""
        if records:
            self._count(released=len(records))
            await self.outcomes.send(Outcome(Fate.RELEASED, records.seqs, error=error, payload_bytes=records.size))

    def _count(self, **more: int) -> None:
        seen = self.traffic.value
        self.traffic.value = attrs.evolve(seen, **{name: getattr(seen, name) + n for name, n in more.items()})


def _unusable(link: Link) -> bool:
    return not link.usable


def _way_free(traffic: Traffic) -> bool:
    return not traffic.live_under_way


def _trouble(settlement: Settlement) -> Trouble:
    """What recovery's pace makes of it."""
    if settlement.trouble is not None:
        return Trouble.BUSY if settlement.trouble.sense is Sense.BUSY else Trouble.FAILED
    return Trouble.TOO_LARGE if settlement.too_large else Trouble.NONE


def _by_error(refused: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    grouped: dict[str, list[int]] = {}
    for seq, error in refused:
        grouped.setdefault(error, []).append(seq)
    return grouped
