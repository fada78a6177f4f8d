"""Decide whether the link to the cloud is up, from what requests tell, and from probes when nothing else does."""

import math
import random

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors.backoff import backoff_s
from actors.messages import Link, LinkState, Report, Sign
from actors.ports.client import CloudClient, Unreachable
from actors.verdict import judge_probe

PROBE_MULTIPLIER = 1.05
"""While down the pauses grow by this from 1 s: about a tenth of the outage so far, until the interval bounds them."""
PROBE_SILENT_S = 1.0
"""While nobody answers at all, probes begin this often or up to twice, also beside those that still wait: they are a
burden to nobody, and a link that returns for two seconds is met."""
PROBES_MAX = 12
"""That may be under way at once; the client has room for more connections."""

log = structlog.get_logger()


@attrs.frozen
class Event:
    """A sign of the link: a request's (`probe` False), or the answer to a probe that began at `began`.

    `silent`: it failed without meeting anybody (`Unreachable`).
    """

    sign: Sign
    reason: str = ""
    probe: bool = False
    began: float = 0.0
    silent: bool = False


def advance(link: Link, event: Event, now: float) -> Link:
    """The link after an event; `since` moves only when the state changes.

    A request's success is proof, whatever was thought before. Its failure is a suspicion that a probe settles. While
    refused, a probe can tell that the cloud is there but not whether it takes our key: the link becomes unknown, so
    that one attempt is let through, and the answer to that one decides. Probes come at the long interval then, so a
    refusal costs an attempt an interval, and a key that was put right is noticed within one.
    """
    state = _next_state(link, event)
    tells_nothing_new = event.sign is Sign.ALIVE or (event.sign is Sign.FAILED and not event.probe)
    if state is link.state:
        return attrs.evolve(link, reason=link.reason if tells_nothing_new else event.reason)
    return Link(state, event.reason, now)


def _next_state(link: Link, event: Event) -> LinkState:
    match event.sign:
        case Sign.REFUSED:
            return LinkState.REFUSED
        case Sign.ALIVE if event.probe and link.state is LinkState.REFUSED:
            # A probe that began before the refusal says nothing about it.
            return LinkState.UNKNOWN if event.began > link.since else LinkState.REFUSED
        case Sign.ALIVE:
            return LinkState.UP
        case Sign.FAILED if event.probe:
            return LinkState.DOWN
        case Sign.FAILED:
            return LinkState.SUSPECT if link.usable else link.state


async def run(
    reports: trio.MemoryReceiveChannel[Report],
    *,
    link: AsyncValue[Link],
    client: CloudClient,
    rng: random.Random,
    interval_s: float = 30.0,
    timeout_s: float = 5.0,
) -> None:
    """Keep `link` true until `reports` end.

    Probes at once, then `interval_s` after the last sign of life; at once again when a request failed. While down:
    every `PROBE_SILENT_S` as long as nobody answers; with backoff and jitter, never slower than `interval_s`, where
    somebody is there to refuse.
    """
    with reports:
        link.value = attrs.evolve(link.value, since=trio.current_time())
        watch = _Watch(link=link, client=client, rng=rng, interval_s=interval_s, timeout_s=timeout_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.probe_forever, name="connectivity probe")
            async for report in reports:
                watch.note(Event(report.sign, report.reason))
            nursery.cancel_scope.cancel()


@attrs.define(eq=False, kw_only=True)
class _Watch:
    """The link's state and when the next probe is due."""

    link: AsyncValue[Link]
    client: CloudClient
    rng: random.Random
    interval_s: float
    timeout_s: float
    due_at: float = 0.0
    failures: int = 0
    """Probes in a row that somebody refused."""
    silent: bool = False
    """Whether the last probe met nobody."""
    met_at: float = -math.inf
    """When somebody was last met."""
    probes: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(PROBES_MAX))
    hurry: trio.Event = attrs.field(factory=trio.Event)
    """Set when the probe can't wait for its time."""
    told: LinkState | None = None
    """What an operator heard last of the link."""

    def _level(self, state: LinkState) -> str:
        """How loud a change is told. A cloud that answers probes and no batch makes a suspicion a second, each of which
        comes to nothing: of those, what raised it (`post_not_stored`) is enough.
        """
        if state in (LinkState.SUSPECT, self.told):
            return "debug"
        self.told = state
        return "info" if state in (LinkState.UP, LinkState.UNKNOWN) else "warning"

    def note(self, event: Event) -> None:
        """Take an event in: move the link, and the next probe's time."""
        now = trio.current_time()
        if event.probe and event.sign is Sign.FAILED and event.began < self.met_at:
            return  # it has been on its way since before somebody was met: that is old news
        old = self.link.value
        new = self.link.value = advance(old, event, now)
        if new.state is not old.state:
            getattr(log, self._level(new.state))(
                "link_changed",
                state=new.state.value,
                before=old.state.value,
                reason=new.reason,
                held_s=round(now - old.since, 3),
            )
        if event.sign is Sign.FAILED and not event.probe:
            if new.state is LinkState.SUSPECT and old.state is not LinkState.SUSPECT:
                self.due_at = now
                self.hurry.set()
            return
        was_silent, self.silent = self.silent, event.silent
        if event.silent:
            self.failures = 0
            if not was_silent:  # else the next one is due by when this one began
                self.due_at = now + self._silent_pause_s()
            return
        self.met_at = now
        self.failures = self.failures + 1 if new.state is LinkState.DOWN else 0
        self.due_at = now + self._pause_s(new)

    def _pause_s(self, link: Link) -> float:
        if link.state is not LinkState.DOWN:
            return self.interval_s
        return backoff_s(self.failures - 1, multiplier=PROBE_MULTIPLIER, rng=self.rng, max_s=self.interval_s)

    def _silent_pause_s(self) -> float:
        return min(self.rng.uniform(0.5, 1.0) * PROBE_SILENT_S, self.interval_s)

    async def probe_forever(self) -> None:
        """Probe whenever it is due."""
        async with trio.open_nursery() as nursery:
            while True:
                answered = trio.Event()
                await self.probes.acquire()
                nursery.start_soon(self._probe, answered)
                if self.silent:
                    self.due_at = trio.current_time() + self._silent_pause_s()
                else:
                    await answered.wait()
                while (pause_s := self.due_at - trio.current_time()) > 0:
                    self.hurry = trio.Event()
                    with trio.move_on_after(pause_s):
                        await self.hurry.wait()

    async def _probe(self, answered: trio.Event) -> None:
        began = trio.current_time()
        silent = False
        try:
            answer = await self.client.probe(timeout_s=self.timeout_s)
        except Unreachable as exc:
            sign, reason, silent = Sign.FAILED, f"probe: {exc.reason}", exc.silent
        else:
            sign, reason = judge_probe(answer.status, answer.headers)
        self.probes.release()
        self.note(Event(sign, reason, probe=True, began=began, silent=silent))
        answered.set()
