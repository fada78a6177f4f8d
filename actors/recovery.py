"""Bring the backlog home once the link is there: page by page, in order, at a pace that the cloud can bear."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import structlog
import trio
from trio_util import AsyncValue, wait_any

from actors.backoff import backoff_s
from actors.messages import (
    Batch,
    Delivery,
    Drain,
    Fate,
    Knobs,
    Lane,
    Link,
    LinkState,
    Outcome,
    Page,
    PageRequest,
    Traffic,
    Trouble,
)
from actors.pacing import Pace, live_near, next_due, next_pace, page_size, rate_per_s, rested_at, turn_at
from actors.reply import Reply
from cloud.wire import BATCH_BYTES_MAX

RETRY_MULTIPLIER = 2.0
BUSY_JITTER_S = 2.0
"""On top of what a busy cloud asks for, so that those it turned away do not come back together. It does not grow: else
whoever was turned away often would come last of all."""
RETRY_PAUSE_MAX_S = 60.0
"""A drain that got nothing through is tried again no later than this (once the link is there)."""

log = structlog.get_logger()


async def run(
    nudges: trio.MemoryReceiveChannel[None],
    requests: trio.MemorySendChannel[PageRequest | Outcome],
    backlog: trio.MemorySendChannel[Batch],
    *,
    link: AsyncValue[Link],
    drain: AsyncValue[Drain],
    traffic: AsyncValue[Traffic],
    knobs: AsyncValue[Knobs],
    start_jitter_s: float,
    rng: random.Random,
) -> None:
    """Drain the backlog after every nudge and every time the link comes back, until `nudges` end.

    A drain begins after a random pause of up to `start_jitter_s`, and passes over the pending predictions, oldest
    (or, by the knobs, newest) first, until a whole pass finds none. It stops when a delivery fails. At the end of
    `nudges` no more pages are asked for; what is under way is waited for, what is claimed but not under way is
    released.
    """
    with nudges, requests, backlog:
        recovery = _Recovery(
            requests=requests,
            backlog=backlog,
            link=link,
            drain=drain,
            traffic=traffic,
            knobs=knobs,
            start_jitter_s=start_jitter_s,
            rng=rng,
            pace=Pace(knobs.value.batch_size),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recovery.watch_link, name="recovery link")
            nursery.start_soon(recovery.serve, name="recovery drain")
            async for _ in nudges:
                recovery.wanted.set()
            recovery.ending.set()


@attrs.define(eq=False)
class _Walk:
    """One pass over the pending predictions, from the oldest on."""

    offered: int = 0
    settled: int = 0
    trouble: Trouble = Trouble.NONE
    """Once FAILED or BUSY, this pass asks for nothing more."""
    retry_at: float = 0.0
    flying: AsyncValue[int] = attrs.field(factory=lambda: AsyncValue(0))
    """Batches that the uplink has and has not answered yet."""


@attrs.define(eq=False, kw_only=True)
class _Recovery:
    """The pace, and what asks for a drain."""

    requests: trio.MemorySendChannel[PageRequest | Outcome]
    backlog: trio.MemorySendChannel[Batch]
    link: AsyncValue[Link]
    drain: AsyncValue[Drain]
    traffic: AsyncValue[Traffic]
    knobs: AsyncValue[Knobs]
    start_jitter_s: float
    rng: random.Random
    pace: Pace
    due_at: float = 0.0
    """When the cap on predictions a second lets the next page go."""
    rested_at: float = 0.0
    """When, beside live batches, it has rested from the last batch."""
    fruitless: int = 0
    """Passes in a row that got nothing through."""
    wanted: trio.Event = attrs.field(factory=trio.Event)
    ending: trio.Event = attrs.field(factory=trio.Event)

    async def watch_link(self) -> None:
        """Whatever could not be sent while the link was away is pending: look as soon as it is back."""
        while not self.ending.is_set():
            await wait_any(self.ending.wait, partial(self.link.wait_value, _gone))
            self.wanted.set()
            await wait_any(self.ending.wait, partial(self.link.wait_value, _usable))

    async def serve(self) -> None:
        """Drain whenever that is wanted and the link is there."""
        not_before = 0.0
        while not self.ending.is_set():
            await wait_any(self.ending.wait, self.wanted.wait)
            await wait_any(self.ending.wait, partial(self.link.wait_value, _there))
            pause_s = self.rng.uniform(0.0, self.start_jitter_s)
            await self._pause_until(max(not_before, trio.current_time() + pause_s))
            if self.ending.is_set() or not _there(self.link.value):
                continue
            self.wanted = trio.Event()
            self.pace = Pace(self.knobs.value.batch_size)
            try:
                not_before = await self._drain()
            finally:
                self._finish()

    async def _drain(self) -> float:
        """Pass after pass until one finds nothing; returns when the next drain may begin at the earliest."""
        while True:
            walk = await self._walk()
            if walk.trouble is Trouble.NONE and walk.offered == 0 and self._may_go(walk):
                self.fruitless = 0
                return 0.0
            self.fruitless = 0 if walk.settled else self.fruitless + 1
            if walk.trouble is Trouble.BUSY:
                await self._pause_until(self._after_busy(walk.retry_at))
                walk.trouble = Trouble.NONE
            elif self.fruitless:
                walk.trouble = Trouble.FAILED
            if not self._may_go(walk):
                self.wanted.set()
                return self._retry_at()

    def _after_busy(self, asked: float) -> float:
        """When to go on after the cloud was busy: as it asked, and spread if it turned everything away."""
        if not self.fruitless:
            return asked
        if asked <= trio.current_time():
            return self._retry_at()
        return asked + self.rng.uniform(0.0, BUSY_JITTER_S)

    def _retry_at(self) -> float:
        """When to try again, the later the longer nothing got through."""
        return trio.current_time() + backoff_s(
            self.fruitless, multiplier=RETRY_MULTIPLIER, rng=self.rng, max_s=RETRY_PAUSE_MAX_S
        )

    async def _walk(self) -> _Walk:
        """One pass: ask for a page, hand it to the uplink, as many at once as the pace allows.

        A page that was asked for when no live batch was near is given back for a smaller one if one is now.
        """
        walk = _Walk()
        cursor = 0
        async with trio.open_nursery() as nursery:
            while await self._turn(walk):
                beside_live = self._live_near()
                page = await self._ask(cursor, beside_live=beside_live)
                # The next page is read while those before it are under way.
                await walk.flying.wait_value(self._has_room)
                if not self._may_go(walk):
                    await self._release(page)
                    break
                if self._live_near() and not beside_live and len(page.records) > self.pace.live_size:
                    await self._release(page)
                    continue
                if page.records or page.losses:
                    reply = await self._launch(page, walk)
                    land = partial(self._land, generation=self.pace.generation, beside_live=beside_live)
                    nursery.start_soon(land, reply, walk)
                if page.exhausted or page.cursor == cursor:
                    break
                cursor = page.cursor
        return walk

    async def _turn(self, walk: _Walk) -> bool:
        """Wait until another page may be asked for; False if this pass is over. While pages grow, each is measured;
        beside live batches none is read before its turn.
        """
        if self.pace.growing or self._live_near():
            await walk.flying.wait_value(self._has_room)
        await self._pause_until(self.due_at)
        if self._live_near():
            turn = turn_at(self.traffic.value.live_at, self.rested_at)
            await self._pause_until(turn, partial(self.traffic.wait_value, self._live_through))
        return self._may_go(walk)

    def _has_room(self, flying: int) -> bool:
        return flying < (1 if self._live_near() else self.pace.in_flight)

    def _live_near(self) -> bool:
        return live_near(self.traffic.value, trio.current_time())

    def _live_through(self, traffic: Traffic) -> bool:
        return traffic.live_at > self.rested_at

    def _may_go(self, walk: _Walk) -> bool:
        halted = walk.trouble in (Trouble.BUSY, Trouble.FAILED)
        return not (halted or self.ending.is_set() or _gone(self.link.value))

    async def _ask(self, after: int, *, beside_live: bool) -> Page:
        reply = Reply[Page]()
        knobs = self.knobs.value
        records_max = page_size(self.pace, knobs.records_per_s_max, beside_live=beside_live)
        await self.requests.send(PageRequest(after, records_max, BATCH_BYTES_MAX, reply, newest=knobs.newest_first))
        return await reply.wait()

    async def _release(self, page: Page) -> None:
        """Give back what was claimed and can't go; nothing was tried, so nothing is written down."""
        if page.records:
            await self.requests.send(Outcome(Fate.RELEASED, page.records.seqs))

    async def _launch(self, page: Page, walk: _Walk) -> Reply[Delivery]:
        """Hand a page to the uplink."""
        if not self.drain.value.active:
            self.drain.value = Drain(active=True, runs=self.drain.value.runs + 1, since=trio.current_time())
            log.info("drain_started", runs=self.drain.value.runs)
        reply = Reply[Delivery]()
        walk.offered += len(page.records)
        walk.flying.value += 1
        self.due_at = next_due(self.due_at, trio.current_time(), len(page.records), self.knobs.value.records_per_s_max)
        await self.backlog.send(Batch(page.records, Lane.BACKLOG, page.losses, reply))
        return reply

    async def _land(self, reply: Reply[Delivery], walk: _Walk, *, generation: int, beside_live: bool) -> None:
        """Learn how a batch went."""
        delivery = await reply.wait()
        now = trio.current_time()
        self.rested_at = rested_at(now, delivery.records) if beside_live else now
        live_s = self.traffic.value.live_s if beside_live else None
        self.pace = next_pace(self.pace, delivery, generation=generation, live_s=live_s)
        walk.settled += delivery.records
        if delivery.trouble is Trouble.BUSY:
            walk.retry_at = max(walk.retry_at, now + delivery.retry_after_s)
        if delivery.trouble in (Trouble.BUSY, Trouble.FAILED) and walk.trouble is not Trouble.FAILED:
            walk.trouble = delivery.trouble
        drain = self.drain.value
        sent = drain.sent + delivery.records
        self.drain.value = attrs.evolve(drain, sent=sent, rate_per_s=rate_per_s(sent, now - drain.since))
        walk.flying.value -= 1

    def _finish(self) -> None:
        """The drain is over: show it."""
        done = self.drain.value
        if done.active:
            self.drain.value = attrs.evolve(done, active=False)
            log.info("drain_ended", sent=done.sent, seconds=round(trio.current_time() - done.since, 3))

    async def _pause_until(self, time: float, *or_until: Callable[[], Awaitable[object]]) -> None:
        """Wait, unless the end or the loss of the link makes that pointless."""
        if time <= trio.current_time():
            return
        with trio.move_on_at(time):
            await wait_any(self.ending.wait, partial(self.link.wait_value, _gone), *or_until)


def _usable(link: Link) -> bool:
    return link.usable


def _gone(link: Link) -> bool:
    return not link.usable


def _there(link: Link) -> bool:
    """Whether a drain may begin: not while a probe is settling a suspicion."""
    return link.state in (LinkState.UNKNOWN, LinkState.UP)
