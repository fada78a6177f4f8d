"""What many predictions come to: counts, lateness and a histogram, summed per hour as they are stored."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Self

import attrs

from cloud.ledger import MINUTES_KEPT_S, Batch, Bucket, Record, SeriesQuery, StatsQuery, Tally

BOUNDS_MS: tuple[float, ...] = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800,
    1_000, 1_500, 2_000, 5_000, 10_000,
)  # fmt: skip
"""Upper bounds of the histogram of inference times, in ms, each included; one more count lies above the last."""
EVER, HOUR, MINUTE = 0, 3600, 60
"""The grains: seconds that one rollup spans; 0 is all time. Minutes are kept for a while, the others for good."""
CLOCK_BEHIND_S_MAX = 366 * 86_400.0
CLOCK_AHEAD_S_MAX = 86_400.0
INFERENCE_MS_MAX = 3_600_000.0
"""One absurd value must not spoil a mean for good: sums take it as an hour."""
BUCKETS_MAX = 1_500
"""How many buckets one question may ask for: a day by the minute."""


class Key(NamedTuple):
    """Whose predictions a rollup sums up, and of which stretch of time."""

    model_name: str
    model_version: str
    grain: int
    start: int


@attrs.define
class Rollup:
    """Sums over some predictions. `lateness_count` leaves out those whose clock can't be right."""

    predictions: int = 0
    defects: int = 0
    late: int = 0
    lateness_count: int = 0
    lateness_sum_s: float = 0.0
    lateness_max_s: float = 0.0
    inference_sum_ms: float = 0.0
    inference_counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS_MS) + 1))

    @classmethod
    def from_row(cls, row: Sequence[float | None]) -> Self:
        """Out of a row of `COLUMNS`; NULL, as a sum over no rows gives it, counts as 0."""
        whole = [int(value or 0) for value in row]
        lateness_sum_s, lateness_max_s, inference_sum_ms = (float(value or 0) for value in row[4:7])
        predictions, defects, late, lateness_count = whole[:4]
        return cls(
            predictions,
            defects,
            late,
            lateness_count,
            lateness_sum_s,
            lateness_max_s,
            inference_sum_ms,
            inference_counts=whole[7:],
        )

    def row(self) -> tuple[float, ...]:
        """The values of `COLUMNS`."""
        return (
            self.predictions, self.defects, self.late, self.lateness_count, self.lateness_sum_s, self.lateness_max_s,
            self.inference_sum_ms, *self.inference_counts,
        )  # fmt: skip

    def add(self, other: "Rollup") -> None:
        """Take in the predictions of `other`."""
        self.predictions += other.predictions
        self.defects += other.defects
        self.late += other.late
        self.lateness_count += other.lateness_count
        self.lateness_sum_s += other.lateness_sum_s
        self.lateness_max_s = max(self.lateness_max_s, other.lateness_max_s)
        self.inference_sum_ms += other.inference_sum_ms
        self.inference_counts = [a + b for a, b in zip(self.inference_counts, other.inference_counts, strict=True)]

    def tally(self) -> Tally:
        """The two counts that have names of old."""
        return Tally(self.predictions, self.defects)

    def bucket(self, start: float) -> Bucket:
        """The same as a reader takes it."""
        timed = sum(self.inference_counts)
        return Bucket(
            start=start,
            predictions=self.predictions,
            defects=self.defects,
            late=self.late,
            clock_wrong=self.predictions - self.lateness_count,
            lateness_mean_s=self.lateness_sum_s / self.lateness_count if self.lateness_count else None,
            lateness_max_s=self.lateness_max_s if self.lateness_count else None,
            inference_mean_ms=self.inference_sum_ms / timed if timed else None,
            inference_p50_ms=quantile_ms(self.inference_counts, 0.50),
            inference_p95_ms=quantile_ms(self.inference_counts, 0.95),
        )


COLUMNS: tuple[str, ...] = (
    "predictions", "defects", "late", "lateness_count", "lateness_sum_s", "lateness_max_s", "inference_sum_ms",
    *(f"inference_{number:02d}" for number in range(len(BOUNDS_MS) + 1)),
)  # fmt: skip
"""A rollup's columns in both stores."""


def lateness_s(batch: Batch) -> float | None:
    """How old the newest prediction of a batch was on arrival; None without any, or where its clock can't be right."""
    newest = max([record.timestamp for record in batch.records], default=None)
    if newest is None or clock_wrong(newest, batch.received_at):
        return None
    return max(batch.received_at - newest, 0.0)


def clock_wrong(timestamp: float, received_at: float) -> bool:
    """Whether a capture time can't be right: over a year before its arrival, or over a day after it."""
    return not received_at - CLOCK_BEHIND_S_MAX <= timestamp <= received_at + CLOCK_AHEAD_S_MAX


def roll_up(records: Iterable[Record], received_at: float, *, late: bool) -> dict[Key, Rollup]:
    """The rollups that these predictions add to: of all time, of their hours and, while these are kept, minutes.

    Time is that of the capture; where the device's clock can't be right, it is that of the arrival.
    """
    groups: defaultdict[tuple[str, str, float], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.model_name, record.model_version, record.timestamp // MINUTE].append(record)
    found: dict[Key, Rollup] = {}
    for (name, version, minute), group in groups.items():
        sums, wrong = _sum(group, received_at)
        for start, part in ((minute, sums), (received_at // MINUTE, wrong)):
            if part.predictions:
                part.late = part.predictions if late else 0
                for key in _keys(name, version, int(start) * MINUTE, received_at):
                    found.setdefault(key, Rollup()).add(part)
    return found


def _sum(group: Sequence[Record], received_at: float) -> tuple[Rollup, Rollup]:
    """The sums of predictions of one minute, and of those among them whose clock can't be right."""
    ages = [received_at - record.timestamp for record in group]
    oldest, newest = max(ages), min(ages)
    if oldest > CLOCK_BEHIND_S_MAX or newest < -CLOCK_AHEAD_S_MAX:
        wrong = [record for record in group if clock_wrong(record.timestamp, received_at)]
        right = [record for record in group if not clock_wrong(record.timestamp, received_at)]
        return _sum(right, received_at)[0] if right else Rollup(), _count(wrong)
    sums = _count(group)
    sums.lateness_count = len(group)
    sums.lateness_sum_s = sum(ages) if newest >= 0 else sum(max(age, 0.0) for age in ages)
    sums.lateness_max_s = max(oldest, 0.0)
    return sums, Rollup()


def _count(group: Sequence[Record]) -> Rollup:
    """All sums but those of lateness."""
    times = sorted([record.inference_time_ms for record in group])
    if times[-1] > INFERENCE_MS_MAX:
        times = [min(time, INFERENCE_MS_MAX) for time in times]
    sums = Rollup(
        predictions=len(group),
        defects=sum([record.defect_detected for record in group]),
        inference_sum_ms=sum(times),
    )
    first, last = bisect_left(BOUNDS_MS, times[0]), bisect_left(BOUNDS_MS, times[-1])
    ends = [0, *(bisect_right(times, bound) for bound in BOUNDS_MS[first:last]), len(times)]
    sums.inference_counts[first : last + 1] = [end - start for start, end in pairwise(ends)]
    return sums


def _keys(name: str, version: str, minute: int, received_at: float) -> Iterator[Key]:
    """The rollups that a minute's predictions add to."""
    yield Key(name, version, EVER, 0)
    yield Key(name, version, HOUR, minute // HOUR * HOUR)
    if minute >= minutes_from(received_at):
        yield Key(name, version, MINUTE, minute)


def minutes_from(now: float) -> float:
    """Where the minutes that are kept begin: an hour before the oldest one that may be asked for."""
    return now - MINUTES_KEPT_S - HOUR


def grain_of(query: StatsQuery, now: float) -> int:
    """The coarsest grain that answers the question exactly enough: all time, minutes near by, hours otherwise."""
    if query.since is None and query.until is None:
        return EVER
    return MINUTE if query.since is not None and query.since >= now - MINUTES_KEPT_S else HOUR


def widen(query: StatsQuery, grain: int) -> StatsQuery:
    """The question with its bounds at the edges of rollups."""
    if grain == EVER:
        return query
    since = None if query.since is None else query.since // grain * grain
    until = None if query.until is None else -(-query.until // grain) * grain
    return attrs.evolve(query, since=since, until=until)


def series_grain(query: SeriesQuery) -> int:
    """Hours where they will do, since there are fewer of them."""
    return HOUR if query.bucket_s % HOUR == 0 else MINUTE


def starts(query: SeriesQuery) -> range:
    """The starts of all buckets that hold a moment of the question."""
    return range(
        int(query.since // query.bucket_s) * query.bucket_s, int(-(-query.until // query.bucket_s)) * query.bucket_s,
        query.bucket_s,
    )  # fmt: skip


def quantile_ms(counts: Sequence[int], fraction: float) -> float | None:
    """A quantile out of the histogram, linear within a count's bounds (as Prometheus' `histogram_quantile`).

    Above the last bound that bound is all that is known. None without a prediction.
    """
    total = sum(counts)
    if not total:
        return None
    rank = fraction * total
    for index, below in enumerate(accumulate(counts)):
        if below >= rank and counts[index]:
            if index == len(BOUNDS_MS):
                return BOUNDS_MS[-1]
            low = BOUNDS_MS[index - 1] if index else 0.0
            return low + (BOUNDS_MS[index] - low) * (rank - (below - counts[index])) / counts[index]
    return BOUNDS_MS[-1]
