"""How fast the backlog drains: more at once while the cloud keeps up, half as much on trouble, little beside live
batches. Pure.
"""

import math

import attrs

from actors.messages import Delivery, Traffic, Trouble
from cloud.wire import BATCH_RECORDS_MAX

IN_FLIGHT_MAX = 8
"""Requests of the backlog that may be under way at once; the uplink has as many workers."""
UNDER_WAY_MAX = 12_000
"""Predictions that may be under way at once, in however few requests: they are what the memory of a drain is."""
LATENCY_FREE_S = 0.02
"""Answers as fast as this say nothing of load, however they compare with the best. Much more, and the first live batch
would feel the backlog's requests in front of it."""
QUEUED_MIN, QUEUED_MAX = 0.75, 1.25
"""How many of our POSTs may wait in the cloud's queue: about one keeps a cloud busy that works on one after the other,
and more would only be in the way of the live ones."""
SLICE_S = 0.1
"""A POST of more than any cloud takes may occupy it for so long: other devices have live batches of their own."""
LIVE_NEAR_S = 2.0
"""A live batch so short a time ago says that another one is near."""
LIVE_SLICE_S = 0.005
"""Beside live batches one POST of the backlog is under way, and may take so much longer than a live one does, or twice
as long: a live one that meets it waits for no more than about its own time."""
LIVE_BEST_GROWTH = 1.1
"""By so much the quickest answer to a live batch is taken for longer at each answer to the backlog, if the last one
took longer: that one may have waited for the backlog itself, or the way has become longer."""
LIVE_PAUSE_S = 0.05
"""Beside live batches the backlog has its turn right after one of them, when the next is farthest away, or where none
comes for so long."""
LIVE_RECORDS_PER_S = 10_000
"""And before that it rests for as long as this says: what is stored is synced into databases, and live batches wait for
the disk meanwhile. About half of it is what then goes, a hundred times what a camera brings at 30 a second."""
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
    live_size: int = BATCH_MIN
    """Predictions in one POST beside live batches; one is under way then."""
    live_best_s: float = math.inf
    """The quickest answer to a live batch of late."""
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


def next_pace(pace: Pace, delivery: Delivery, *, generation: int, live_s: float | None = None) -> Pace:
    """The pace after a delivery whose POST began under `generation`; one from before the last halving is no news.

    `live_s`: how long the last live batch took that was stored, if the POST went beside live ones.
    """
    if generation != pace.generation:
        return pace
    size_max = delivery.records_max
    pace = attrs.evolve(
        pace,
        size_max=size_max,
        batch_size=min(pace.batch_size, size_max),
        live_size=min(pace.live_size, size_max),
    )
    match delivery.trouble:
        case Trouble.NONE:
            return _faster(pace, delivery) if live_s is None else _fitted(pace, delivery, live_s)
        case Trouble.TOO_LARGE:
            # The uplink remembers how many bytes passed; growing again costs no second 413.
            return _smaller(pace) if live_s is None else _live_smaller(pace, least=1)
        case Trouble.BUSY:
            pace = _live_smaller(pace, least=BATCH_MIN)
            at_least = pace.in_flight == 1 and pace.batch_size < 2 * BATCH_MIN
            return attrs.evolve(pace, generation=pace.generation + 1) if at_least else _slower(pace)
        case Trouble.FAILED:
            return _slower(_live_smaller(pace, least=1))


def _faster(pace: Pace, delivery: Delivery) -> Pace:
    """By TCP Vegas: of n requests under way, n * (1 - best time / time) wait in a queue (Brakmo and Peterson, 1995)."""
    seconds = delivery.seconds
    # Alone under way, a request waits for nobody: its time is the way's own, also when that has become longer.
    best_s = seconds if pace.in_flight == 1 else min(pace.best_s, seconds)
    way_s = seconds if pace.batch_size < 2 * BATCH_MIN else min(pace.way_s, seconds)
    pace = attrs.evolve(pace, best_s=best_s, way_s=way_s)
    queued = pace.in_flight * (1 - best_s / seconds) if seconds > LATENCY_FREE_S else 0.0
    if queued > QUEUED_MAX and pace.in_flight > 1:
        return attrs.evolve(pace, in_flight=pace.in_flight - 1, generation=pace.generation + 1)
    brief = 2 * (seconds - way_s) <= SLICE_S
    doubled = min(pace.batch_size * 2, pace.size_max)
    fits = doubled * pace.in_flight <= UNDER_WAY_MAX
    # What bytes have kept smaller becomes no larger, and fewer requests under way would only make it slower.
    full = pace.growing or delivery.records >= pace.batch_size
    if pace.batch_size < doubled and fits and full and (brief or pace.growing):
        # Another size has another best time.
        return attrs.evolve(pace, batch_size=doubled, best_s=math.inf)
    if pace.growing:
        return pace
    if queued < QUEUED_MIN:
        in_flight_max = min(IN_FLIGHT_MAX, UNDER_WAY_MAX // pace.batch_size)
        return attrs.evolve(pace, in_flight=max(pace.in_flight, min(pace.in_flight + 1, in_flight_max)))
    return pace


def _fitted(pace: Pace, delivery: Delivery, live_s: float) -> Pace:
    """Beside live batches: as large as occupies the cloud no longer than a live one may wait."""
    best_s = min(live_s, pace.live_best_s * LIVE_BEST_GROWTH)
    if math.isinf(best_s):
        return pace
    pace = attrs.evolve(pace, live_best_s=best_s)
    occupied_s = delivery.seconds - best_s
    slice_s = min(SLICE_S, max(LIVE_SLICE_S, best_s))
    if occupied_s > slice_s:
        return _live_smaller(pace, least=BATCH_MIN)
    # What took more than a third would, doubled, be near the whole of it, and soon be halved again.
    if 3 * occupied_s <= slice_s and delivery.records >= pace.live_size:
        doubled = min(2 * pace.live_size, pace.size_max, BATCH_RECORDS_MAX)
        return attrs.evolve(pace, live_size=max(pace.live_size, doubled))
    return pace


def _slower(pace: Pace) -> Pace:
    """Half as many predictions under way: fewer requests first, then smaller ones."""
    if pace.in_flight == 1:
        return _smaller(pace)
    return attrs.evolve(pace, in_flight=pace.in_flight // 2, best_s=math.inf, generation=pace.generation + 1)


def _smaller(pace: Pace) -> Pace:
    return attrs.evolve(pace, batch_size=max(1, pace.batch_size // 2), best_s=math.inf, generation=pace.generation + 1)


def _live_smaller(pace: Pace, *, least: int) -> Pace:
    return attrs.evolve(pace, live_size=pace.live_size // 2) if pace.live_size >= 2 * least else pace


def page_size(pace: Pace, records_per_s_max: float | None, *, beside_live: bool = False) -> int:
    """Predictions to ask for at once: under a cap never more than a second's worth, so that it is no burst."""
    size = pace.live_size if beside_live else pace.batch_size
    if records_per_s_max is None:
        return size
    return max(1, min(size, int(records_per_s_max)))


def live_near(traffic: Traffic, now: float) -> bool:
    """Whether live batches go through, so that another one is to be expected."""
    return traffic.live_under_way or now - traffic.live_at < LIVE_NEAR_S


def rested_at(landed_at: float, records: int) -> float:
    """When the backlog has rested beside live batches, after so many of it were answered for at `landed_at`."""
    return landed_at + records / LIVE_RECORDS_PER_S


def turn_at(live_at: float, rested_at: float) -> float:
    """When it has its next turn then; the last live batch was stored at `live_at`."""
    return live_at if live_at > rested_at else rested_at + LIVE_PAUSE_S


def next_due(due_at: float, now: float, records: int, records_per_s_max: float | None) -> float:
    """When the next page may be asked for, after `records` went off at `now` under the cap."""
    if records_per_s_max is None:
        return now
    return max(due_at, now) + records / records_per_s_max


def rate_per_s(records: int, seconds: float) -> float:
    """Predictions a second; 0 before any time has passed."""
    return records / seconds if seconds > 0 else 0.0
