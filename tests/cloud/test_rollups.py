"""What many predictions come to: sums that no repeat changes, and questions that reach no further than is kept."""

import random
import statistics

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.ledger import SeriesQuery, StatsQuery, rollups
from cloud.ledger.rollups import BOUNDS_MS, EVER, HOUR, MINUTE, Rollup, clock_wrong, quantile_ms, roll_up
from tests.cloud.world import NOON, batch

DAY = 86_400.0


def test_a_batch_adds_to_all_time_to_its_hours_and_to_its_minutes():
    records = batch(1, 2).records + batch(3, timestamp=NOON + 3600, defect_detected=True).records
    found = roll_up(records, NOON + 3700, late=False)
    hour = NOON // 3600 * 3600
    assert {(key.grain, key.start): (sums.predictions, sums.defects) for key, sums in found.items()} == {
        (EVER, 0): (3, 1),
        (HOUR, hour): (2, 0),
        (HOUR, hour + 3600): (1, 1),
        (MINUTE, NOON // 60 * 60): (2, 0),
        (MINUTE, (NOON + 3600) // 60 * 60): (1, 1),
    }
    ever = found[rollups.Key("m", "v1", EVER, 0)]
    assert (ever.lateness_count, ever.lateness_sum_s, ever.lateness_max_s) == (3, 3700 + 3700 + 100, 3700)


def test_what_comes_from_the_backlog_is_counted_as_late_and_old_minutes_are_not_kept():
    found = roll_up(batch(1, 2).records, NOON + 3 * DAY, late=True)
    assert {key.grain for key in found} == {EVER, HOUR}
    assert {sums.late for sums in found.values()} == {2}


@pytest.mark.parametrize("timestamp", [0.0, -1e300, 1e300, NOON - 367 * DAY, NOON + DAY + 1])
def test_a_clock_that_can_not_be_right_is_counted_at_its_arrival_and_spoils_no_lateness(timestamp):
    assert clock_wrong(timestamp, NOON)
    found = roll_up(batch(1, timestamp=timestamp).records, NOON, late=False)
    assert {key.start for key in found} == {0, NOON // 60 * 60, NOON // 3600 * 3600}
    assert {(sums.predictions, sums.lateness_count) for sums in found.values()} == {(1, 0)}


def test_a_clock_that_is_a_little_ahead_was_not_early():
    (ever,) = [sums for key, sums in roll_up(batch(1).records, NOON - 5, late=False).items() if key.grain == EVER]
    assert (ever.lateness_count, ever.lateness_sum_s) == (1, 0.0)


def test_an_absurd_inference_time_is_taken_as_an_hour():
    (ever,) = [
        sums
        for key, sums in roll_up(batch(1, inference_time_ms=1e308).records, NOON, late=False).items()
        if key.grain == EVER
    ]
    assert (ever.inference_sum_ms, ever.inference_counts[-1]) == (rollups.INFERENCE_MS_MAX, 1)


@given(st.lists(st.floats(0, 20_000), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_bounds_of_the_value_that_holds_it(values, fraction):
    counts = [0] * (len(BOUNDS_MS) + 1)
    edges = [0.0, *BOUNDS_MS, float("inf")]
    for value in values:
        counts[next(i for i in range(len(counts)) if value <= edges[i + 1])] += 1
    got = quantile_ms(counts, fraction)
    exact = sorted(values)[max(-(-fraction * len(values) // 1) - 1, 0).__int__()]
    place = next(i for i in range(len(counts)) if exact <= edges[i + 1])
    assert got is not None
    assert edges[place] <= got <= min(edges[place + 1], BOUNDS_MS[-1])


def test_quantiles_of_a_camera_are_near_the_exact_ones():
    rng = random.Random(7)
    times = sorted(rng.gauss(45, 8) for _ in range(5_000))
    found = roll_up([batch(n, inference_time_ms=ms).records[0] for n, ms in enumerate(times, 1)], NOON, late=False)
    bucket = next(sums for key, sums in found.items() if key.grain == EVER).bucket(0.0)
    assert bucket.inference_mean_ms == pytest.approx(statistics.mean(times))
    assert bucket.inference_p50_ms == pytest.approx(times[2_500], rel=0.05)
    assert bucket.inference_p95_ms == pytest.approx(times[4_750], rel=0.05)


def test_nothing_has_neither_a_mean_nor_a_quantile():
    bucket = Rollup().bucket(5.0)
    assert attrs.asdict(bucket) == {
        "start": 5.0, "predictions": 0, "defects": 0, "late": 0, "clock_wrong": 0,
        "lateness_mean_s": None, "lateness_max_s": None,
        "inference_mean_ms": None, "inference_p50_ms": None, "inference_p95_ms": None,
    }  # fmt: skip


def test_a_rollup_comes_back_out_of_its_row():
    (sums, *_) = roll_up(batch(1, 2, defect_detected=True).records, NOON + 7, late=True).values()
    assert Rollup.from_row(sums.row()) == sums
    assert len(sums.row()) == len(rollups.COLUMNS)


@pytest.mark.parametrize(
    ("since", "until", "grain"),
    [
        (None, None, EVER),
        (NOON - 60, None, MINUTE),
        (NOON - 48 * 3600, NOON, MINUTE),
        (NOON - 49 * 3600, NOON, HOUR),
        (None, NOON, HOUR),
    ],
)
def test_a_question_is_answered_by_minutes_only_as_far_back_as_they_are_kept(since, until, grain):
    query = StatsQuery(since, until)
    assert rollups.grain_of(query, NOON) == grain
    wide = rollups.widen(query, grain)
    assert wide.since is None or (wide.since <= since and wide.since % grain == 0)
    assert wide.until is None or (wide.until >= until and wide.until % (grain or 1) == 0)


def test_buckets_cover_the_whole_question_and_start_at_multiples():
    assert list(rollups.starts(SeriesQuery(100.0, 181.0, 60))) == [60, 120, 180]
    assert list(rollups.starts(SeriesQuery(120.0, 180.0, 60))) == [120]
