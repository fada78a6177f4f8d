"""Look at everything once a second: rates, what stands still, and alerts, each told when it begins and when it ends."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import attrs
import structlog
import trio

from actors.alerts import Scene, holding
from actors.dropping import Dropping
from actors.messages import AlertChange, Books, Pulse
from actors.readiness import Bounds, could_move, silent, stuck
from actors.status import RATE_S, Cells

LOOK_EVERY_S = 1.0
GROWTH_S = 300
"""The buffer grows in strokes: how fast shows only over minutes."""
GROWTH_MIN_S = 60
"""Before so long nothing is said of it."""
CLOCK_FIRST_YEAR = 2020
"""No device runs this before: a clock that says so was never set."""
CLOCK_SLACK_S = 5.0
"""How far the wall clock may step back unnoticed; time servers correct by less."""
CLOCK_GRUDGE_S = 3_600.0
"""A step back is held against the clock until it catches up, but no longer: perhaps it was wrong before."""

log = structlog.get_logger()


@attrs.frozen
class Sample:
    """What a look saw. `at` is monotonic seconds, counts are since start, `size_bytes` is what the disk holds."""

    at: float
    frames: int
    accepted: int
    delivered: int
    size_bytes: int


@attrs.define
class Clock:
    """Whether the wall clock can be right."""

    _at: float | None = None
    _wall: float = 0.0
    _highest: float = 0.0
    _held_since: float | None = None

    def judge(self, wall: float, at: float) -> str:
        """What speaks against the wall clock's `wall`, seen at monotonic `at`; empty if nothing does."""
        if self._at is not None and wall < self._wall + (at - self._at) - CLOCK_SLACK_S and self._held_since is None:
            self._held_since = at
            self._highest = self._wall
        self._at, self._wall = at, wall
        if self._held_since is not None and (wall >= self._highest or at - self._held_since > CLOCK_GRUDGE_S):
            self._held_since = None
        if wall < datetime(CLOCK_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp():
            return f"the clock says {told(wall)}: it was never set; timestamps are wrong, the order of numbers is not"
        if self._held_since is not None:
            return f"the clock went back to {told(wall)}, and had been at {told(self._highest)}: timestamps repeat"
        return ""


@attrs.define
class Watch:
    """What only shows from one look to the next."""

    bounds: Bounds
    samples: deque[Sample] = attrs.field(factory=lambda: deque(maxlen=GROWTH_S + 1), init=False)
    clock: Clock = attrs.field(factory=Clock, init=False)
    moved_at: float = attrs.field(default=0.0, init=False)
    found: dict[str, str] = attrs.field(factory=dict, init=False)
    """The alerts that hold, each with its sentence."""
    since: dict[str, float] = attrs.field(factory=dict, init=False)

    def look(self, cells: Cells, *, now: float, at: float, lag_s: float) -> None:
        """Write the pulse of this moment, and note the alerts that hold."""
        books, traffic, vision = cells.books.value, cells.traffic.value, cells.vision.value
        settled = traffic.sent + traffic.rejected
        sample = Sample(at, vision.frames, books.last_seq, settled, books.size_bytes)
        moved = not self.samples or settled != self.samples[-1].delivered
        if moved or not could_move(books.pending, cells.link.value):
            self.moved_at = at
        if books.capacity_bytes:  # before the first account there is nothing to compare with
            self.samples.append(sample)
        recent = self.samples[-min(len(self.samples), RATE_S + 1)] if self.samples else sample
        oldest = self.samples[0] if self.samples else sample
        pulse = Pulse(
            looked_at=at,
            lag_s=lag_s,
            frames_per_s=rate(recent.frames, sample.frames, at - recent.at),
            accepted_per_s=rate(recent.accepted, sample.accepted, at - recent.at),
            delivered_per_s=rate(recent.delivered, sample.delivered, at - recent.at),
            full_in_s=full_in_s(oldest, sample, books.capacity_bytes),
            silent=silent(books, monotonic=at),
            stuck=stuck(books.pending, cells.link.value, moved_at=self.moved_at, monotonic=at, bounds=self.bounds),
            clock_trouble=self.clock.judge(now, at),
        )
        self.found = holding(Scene(books, cells.link.value, vision, pulse, now, cells.traffic.value))
        for name in self.found:
            self.since.setdefault(name, at)
        cells.pulse.value = attrs.evolve(pulse, alert_since={name: self.since[name] for name in self.found})


def rate(before: int, now: int, seconds: float) -> float:
    """How many a second; 0 before there are two looks."""
    return max(0.0, (now - before) / seconds) if seconds > 0 else 0.0


def full_in_s(before: Sample, now: Sample, capacity_bytes: int) -> float | None:
    """When `capacity_bytes` are reached at the pace between two looks; None while nothing grows, or too early."""
    if now.at - before.at < GROWTH_MIN_S:
        return None
    growth_per_s = rate(before.size_bytes, now.size_bytes, now.at - before.at)
    return max(0, capacity_bytes - now.size_bytes) / growth_per_s if growth_per_s else None


def told(wall: float) -> str:
    """A wall-clock time as an operator reads it."""
    return datetime.fromtimestamp(wall, tz=UTC).isoformat(sep=" ", timespec="seconds")


async def run(
    changes: trio.MemorySendChannel[AlertChange],
    *,
    cells: Cells,
    bounds: Bounds,
    now: Callable[[], float],
) -> None:
    """Look once a second, and tell each alert once when it begins and once when it ends, and what a policy gives up.

    Runs until cancelled.

    Never waits for whoever hears of the changes: one that does not fit is logged, and lost to them.
    """
    watch, dropping = Watch(bounds), Dropping({"turned_away": 0})
    due = trio.current_time()
    with changes:
        while True:
            at, wall = trio.current_time(), now()
            before = watch.found
            watch.look(cells, now=wall, at=at, lag_s=max(0.0, at - due))
            for name in (name for name in watch.found if name not in before):  # in the order of the alerts' table
                log.warning("alert", name=name, detail=watch.found[name])
                tell(changes, AlertChange(name, watch.found[name], wall, began=True))
            for name in (name for name in before if name not in watch.found):
                held_s = round(at - watch.since.pop(name), 1)
                log.warning("alert_over", name=name, held_s=held_s)
                tell(changes, AlertChange(name, before[name], wall, began=False, held_s=held_s))
            for reason, more in lost_to_policy(dropping, cells.books.value, at).items():
                log.warning("given_up", reason=reason, predictions=more)
            due = trio.current_time() + LOOK_EVERY_S
            await trio.sleep_until(due)


def lost_to_policy(dropping: Dropping, books: Books, at: float) -> dict[str, int]:
    """What BUFFER_WHEN_FULL made the device give up, where that is to be told now."""
    totals = {"turned_away": books.turned_away}
    if books.capacity_bytes:  # how many the stream has evicted is known from the first account on
        totals["evicted"] = books.evicted
    return dropping.look(totals, at)


def tell(changes: trio.MemorySendChannel[AlertChange], change: AlertChange) -> None:
    """Pass it on if anybody listens and has room."""
    try:
        changes.send_nowait(change)
    except trio.WouldBlock:
        log.warning("alert_not_passed_on", name=change.name, reason="too many wait for the webhook")
    except trio.BrokenResourceError:
        return  # no webhook
