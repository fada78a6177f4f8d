"""How fast the backlog drains: more at once while the cloud keeps up, half as much on trouble. Pure."""

import math

import attrs

from actors.messages import Delivery, Trouble
from cloud.wire import BATCH_RECORDS_MAX

IN_FLIGHT_MAX = 8
"""Requests of the backlog that may be under way at once; the uplink has as many workers."""
LATENCY_FREE_S = 0.02
"""Answers as fast as this say nothing of load, however they compare with the best. Much more, and a live batch
would feel the backlog's requests in front of it."""
QUEUED_MIN, QUEUED_MAX = 0.75, 1.25
"""How many of our POSTs may wait in the cloud's queue: about one keeps a cloud busy that works on one after the other,
and more would only be in the way of the live ones."""


@attrs.frozen
class Pace:
    """How much of the backlog may be under way."""

    batch_size: int
    """Predictions in one POST."""
    in_flight: int = 1
    """POSTs under way at once."""
    best_s: float = math.inf
    """The quickest answer seen at this batch size."""
    generation: int = 0
    """Grows with each step back, so that one overload, told by eight answers, is heeded once."""

    @property
    def growing(self) -> bool:
        """Whether batches may still become larger."""
        return self.batch_size < BATCH_RECORDS_MAX


def next_pace(pace: Pace, delivery: Delivery, *, generation: int) -> Pace:
    """The pace after a delivery whose POST began under `generation`; one from before the last halving is no news."""
    if generation != pace.generation:
        return pace
    match delivery.trouble:
        case Trouble.NONE:
            return _faster(pace, delivery.seconds)
        case Trouble.TOO_LARGE:
            # The uplink remembers how many bytes passed; growing again costs no second 413.
            return _smaller(pace)
        case Trouble.BUSY | Trouble.FAILED:
            return _slower(pace)


def _faster(pace: Pace, seconds: float) -> Pace:
    """By TCP Vegas: of n requests under way, n * (1 - best time / time) wait in a queue (Brakmo and Peterson, 1995)."""
    # Alone under way, a request waits for nobody: its time is the way's own, also when that has become longer.
    best_s = seconds if pace.in_flight == 1 else min(pace.best_s, seconds)
    queued = pace.in_flight * (1 - best_s / seconds) if seconds > LATENCY_FREE_S else 0.0
    if queued > QUEUED_MAX and pace.in_flight > 1:
        return attrs.evolve(pace, in_flight=pace.in_flight - 1, best_s=best_s, generation=pace.generation + 1)
    if pace.growing:
        # Another size has another best time.
        return attrs.evolve(pace, batch_size=min(pace.batch_size * 2, BATCH_RECORDS_MAX), best_s=math.inf)
    if queued < QUEUED_MIN:
        return attrs.evolve(pace, in_flight=min(pace.in_flight + 1, IN_FLIGHT_MAX), best_s=best_s)
    return attrs.evolve(pace, best_s=best_s)


def _slower(pace: Pace) -> Pace:
    """Half as many predictions under way: fewer requests first, then smaller ones."""
    if pace.in_flight == 1:
        return _smaller(pace)
    return attrs.evolve(pace, in_flight=pace.in_flight // 2, best_s=math.inf, generation=pace.generation + 1)


def _smaller(pace: Pace) -> Pace:
    return attrs.evolve(pace, batch_size=max(1, pace.batch_size // 2), best_s=math.inf, generation=pace.generation + 1)


def page_size(pace: Pace, records_per_s_max: float | None) -> int:
    """Predictions to ask for at once: under a cap never more than a second's worth, so that it is no burst."""
    if records_per_s_max is None:
        return pace.batch_size
    return max(1, min(pace.batch_size, int(records_per_s_max)))


def next_due(due_at: float, now: float, records: int, records_per_s_max: float | None) -> float:
    """When the next page may be asked for, after `records` went off at `now` under the cap."""
    if records_per_s_max is None:
        return now
    return max(due_at, now) + records / records_per_s_max


def rate_per_s(records: int, seconds: float) -> float:
    """Predictions a second; 0 before any time has passed."""
    return records / seconds if seconds > 0 else 0.0
