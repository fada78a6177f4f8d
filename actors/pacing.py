"""How fast the backlog drains: more at once while the cloud keeps up, half as much on trouble. Pure."""

import math

import attrs

from actors.messages import Delivery, Trouble
from cloud.wire import BATCH_RECORDS_MAX

IN_FLIGHT_MAX = 8
"""Requests of the backlog that may be under way at once; the uplink has as many workers."""
UNDER_WAY_MAX = 12_000
"""Predictions that may be under way at once, in however few requests: their rows are to be in the buffer's cache still
when they are marked, and they are what the memory of a drain is."""
LATENCY_FREE_S = 0.02
"""Answers as fast as this say nothing of load, however they compare with the best. Much more, and a live batch
would feel the backlog's requests in front of it."""
QUEUED_MIN, QUEUED_MAX = 0.75, 1.25
"""How many of our POSTs may wait in the cloud's queue: about one keeps a cloud busy that works on one after the other,
and more would only be in the way of the live ones."""
LIVE_QUEUED_MIN, LIVE_QUEUED_MAX = 0.1, 0.5
"""The same while live batches go out."""
LIVE_SLICE_S = 0.02
"""While live batches go out, a POST of the backlog may occupy the cloud for so long: a live one waits for it."""
SLICE_S = 0.1
"""A POST of more than any cloud takes may occupy it for so long: other devices have live batches of their own."""
BATCH_MIN = 32
"""For the sake of that, or of a busy cloud, it is made no smaller: what a POST of less than two of these takes is the
way's own time and the cloud's time for any POST, and halves of it would be twice as many POSTs."""


@attrs.frozen
class Pace:
    """How much of the backlog may be under way."""

    batch_size: int
    """Predictions in one POST."""
    in_flight: int = 1
    """POSTs under way at once."""
    best_s: float = math.inf
    """The quickest answer seen at this batch size."""
    way_s: float = math.inf
    """The quickest answer seen at any size: nearly what the way itself takes."""
    size_max: int = BATCH_RECORDS_MAX
    """Predictions that the cloud takes in one POST."""
    generation: int = 0
    """Grows with each step back, so that one overload, told by eight answers, is heeded once."""

    @property
    def growing(self) -> bool:
        """Whether batches are still smaller than any cloud takes: they become larger before more are under way."""
        return self.batch_size < min(self.size_max, BATCH_RECORDS_MAX)


def next_pace(pace: Pace, delivery: Delivery, *, generation: int) -> Pace:
    """The pace after a delivery whose POST began under `generation`; one from before the last halving is no news."""
    if generation != pace.generation:
        return pace
    size_max = delivery.records_max
    pace = attrs.evolve(pace, size_max=size_max, batch_size=min(pace.batch_size, size_max))
    match delivery.trouble:
        case Trouble.NONE:
            return _faster(pace, delivery)
        case Trouble.TOO_LARGE:
            # The uplink remembers how many bytes passed; growing again costs no second 413.
            return _smaller(pace)
        case Trouble.BUSY if pace.in_flight == 1 and pace.batch_size < 2 * BATCH_MIN:
            return attrs.evolve(pace, generation=pace.generation + 1)
        case Trouble.BUSY | Trouble.FAILED:
            return _slower(pace)


def _faster(pace: Pace, delivery: Delivery) -> Pace:
    """By TCP Vegas: of n requests under way, n * (1 - best time / time) wait in a queue (Brakmo and Peterson, 1995)."""
    seconds, live = delivery.seconds, delivery.live
    # Alone under way, a request waits for nobody: its time is the way's own, also when that has become longer.
    best_s = seconds if pace.in_flight == 1 else min(pace.best_s, seconds)
    way_s = seconds if pace.batch_size < 2 * BATCH_MIN else min(pace.way_s, seconds)
    pace = attrs.evolve(pace, best_s=best_s, way_s=way_s)
    queued = pace.in_flight * (1 - best_s / seconds) if seconds > LATENCY_FREE_S else 0.0
    if queued > (LIVE_QUEUED_MAX if live else QUEUED_MAX) and pace.in_flight > 1:
        return attrs.evolve(pace, in_flight=pace.in_flight - 1, generation=pace.generation + 1)
    occupied_s = seconds - way_s
    if live and occupied_s > LIVE_SLICE_S:
        return _smaller(pace) if pace.batch_size >= 2 * BATCH_MIN else pace
    brief = 2 * occupied_s <= (LIVE_SLICE_S if live else SLICE_S)
    doubled = min(pace.batch_size * 2, pace.size_max)
    fits = doubled * pace.in_flight <= UNDER_WAY_MAX
    # What bytes have kept smaller becomes no larger, and fewer requests under way would only make it slower.
    full = pace.growing or delivery.records >= pace.batch_size
    if pace.batch_size < doubled and fits and full and (brief or (pace.growing and not live)):
        # Another size has another best time.
        return attrs.evolve(pace, batch_size=doubled, best_s=math.inf)
    if pace.growing:
        return pace
    if queued < (LIVE_QUEUED_MIN if live else QUEUED_MIN):
        in_flight_max = min(IN_FLIGHT_MAX, UNDER_WAY_MAX // pace.batch_size)
        return attrs.evolve(pace, in_flight=max(pace.in_flight, min(pace.in_flight + 1, in_flight_max)))
    return pace


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
