import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Delivery, Traffic, Trouble
from actors.pacing import (
    BATCH_MIN,
    IN_FLIGHT_MAX,
    LIVE_PAUSE_S,
    LIVE_SLICE_S,
    SLICE_S,
    UNDER_WAY_MAX,
    Pace,
    live_near,
    next_due,
    next_pace,
    page_size,
    rate_per_s,
    rested_at,
    turn_at,
)

GOOD = Delivery(Trouble.NONE, records=32, seconds=0.05)


def after(pace, *deliveries):
    for delivery in deliveries:
        pace = next_pace(pace, delivery, generation=pace.generation)
    return pace


def test_grows_the_batch_first_and_then_the_requests_in_flight():
    pace, seen = Pace(32), []
    for _ in range(14):
        seen.append((pace.batch_size, pace.in_flight))
        pace = after(pace, GOOD)
    assert seen == [(n, 1) for n in (32, 64, 128, 256, 512, 1000)] + [(1000, n) for n in (2, 3, 4, 5, 6, 7, 8, 8)]


def test_a_cloud_that_says_it_takes_more_gets_it_as_long_as_that_occupies_it_briefly():
    way_s, record_s = 0.05, 1e-6
    pace, seen = Pace(512), []
    for _ in range(6):
        seconds = way_s + pace.batch_size * pace.in_flight * record_s
        pace = after(pace, attrs.evolve(GOOD, records=pace.batch_size, seconds=seconds, records_max=4000))
        seen.append((pace.batch_size, pace.in_flight))
    assert seen == [(1024, 1), (2048, 1), (4000, 1), (4000, 2), (4000, 3), (4000, 3)]


def test_batches_that_bytes_keep_small_are_sent_eight_at_once_as_ever():
    """Predictions of 4 KiB: a mebibyte holds 256, and a page that may hold more has no more."""
    pace = Pace(32)
    for _ in range(20):
        most = min(pace.batch_size, 256)
        pace = after(pace, attrs.evolve(GOOD, records=most, seconds=0.05, records_max=4000))
    assert pace.in_flight >= IN_FLIGHT_MAX - 1
    assert pace.batch_size == 1024


def test_a_cloud_that_needs_its_time_for_a_thousand_gets_no_more_at_once():
    """Other devices' live batches wait behind each POST."""
    pace, record_s = Pace(32), 60e-6
    for _ in range(30):
        seconds = 0.001 + pace.batch_size * pace.in_flight * record_s
        pace = after(pace, attrs.evolve(GOOD, records=pace.batch_size, seconds=seconds, records_max=4000))
        assert pace.batch_size <= 1024
        assert pace.batch_size * record_s <= SLICE_S


def test_a_cloud_that_takes_fewer_gets_no_more_than_it_said():
    assert after(Pace(4000), attrs.evolve(GOOD, records_max=1000)).batch_size == 1000
    pace = Pace(32)
    for _ in range(20):
        pace = after(pace, attrs.evolve(GOOD, records_max=100))
    assert (pace.batch_size, pace.in_flight) == (100, IN_FLIGHT_MAX)


def test_trouble_halves_the_requests_first_and_then_the_batch():
    pace, seen = Pace(1000, in_flight=8), []
    for _ in range(5):
        pace = after(pace, Delivery(Trouble.BUSY, records=0, seconds=0.1, retry_after_s=1))
        seen.append((pace.batch_size, pace.in_flight))
    assert seen == [(1000, 4), (1000, 2), (1000, 1), (500, 1), (250, 1)]


def test_being_turned_away_again_and_again_makes_no_batch_smaller_than_a_busy_cloud_gains_by():
    """Else whoever was turned away often would need many POSTs for what others send in one, and come last of all."""
    busy, pace = Delivery(Trouble.BUSY, records=0, seconds=0.1, retry_after_s=1), Pace(1000)
    sizes = []
    for _ in range(7):
        pace = after(pace, busy)
        sizes.append(pace.batch_size)
    assert sizes == [500, 250, 125, 62, 62, 62, 62]
    assert after(Pace(20), busy).batch_size == 20, "nor is one made larger that an operator has set smaller"
    assert after(Pace(62), attrs.evolve(busy, trouble=Trouble.FAILED)).batch_size == 31, "a slow way may take less"


def test_a_failure_halves_as_well():
    assert after(Pace(1000, in_flight=8), Delivery(Trouble.FAILED, records=0, seconds=30.0)).in_flight == 4


def test_one_overload_told_by_eight_answers_halves_once():
    pace = Pace(1000, in_flight=8)
    for _ in range(8):
        pace = next_pace(pace, Delivery(Trouble.BUSY, records=0, seconds=0.1), generation=0)
    assert (pace.batch_size, pace.in_flight, pace.generation) == (1000, 4, 1)
    assert next_pace(pace, GOOD, generation=0) == pace, "an answer from before the halving is no reason to grow"


def answered(pace, seconds):
    return after(pace, attrs.evolve(GOOD, seconds=seconds))


def test_a_cloud_that_takes_one_after_the_other_is_kept_busy_with_one_waiting():
    """Each request under way adds its time to all of them: more than two only make the live ones wait."""
    pace, seen = Pace(1000), []
    for _ in range(30):
        seen.append(pace.in_flight)
        pace = answered(pace, 0.04 * pace.in_flight)
    assert seen == [1, *[2] * 29]
    assert answered(attrs.evolve(pace, in_flight=5), 0.2).in_flight == 4


def test_a_far_cloud_that_never_queues_gets_all_that_may_be_under_way():
    pace = Pace(1000)
    for _ in range(10):
        pace = answered(pace, 0.3)
    assert pace.in_flight == IN_FLIGHT_MAX


def test_one_queue_seen_by_five_answers_is_one_step_back():
    pace = attrs.evolve(Pace(1000, in_flight=5), best_s=0.04)
    for _ in range(5):
        pace = next_pace(pace, attrs.evolve(GOOD, seconds=0.2), generation=0)
    assert (pace.in_flight, pace.generation) == (4, 1)


def test_a_way_that_became_longer_is_taken_for_a_queue_only_for_a_while():
    pace, seen = attrs.evolve(Pace(1000, in_flight=8), best_s=0.05), []
    for _ in range(30):
        pace = answered(pace, 0.3)
        seen.append(pace.in_flight)
    assert min(seen) == 1
    assert pace.in_flight == IN_FLIGHT_MAX


def test_quick_answers_are_no_sign_of_load_whatever_the_best_was():
    pace = after(Pace(1000, in_flight=4), attrs.evolve(GOOD, seconds=0.001))
    assert after(pace, attrs.evolve(GOOD, seconds=0.019)).in_flight == 6


# --- beside live batches


def beside_live(pace, way_s, record_s, deliveries=40):
    """The paces of a drain beside live batches of one, to a cloud that needs so long for each record."""
    seen = []
    for _ in range(deliveries):
        seen.append(pace)
        seconds = way_s + pace.live_size * record_s
        delivery = attrs.evolve(GOOD, records=pace.live_size, seconds=seconds, records_max=4000)
        pace = next_pace(pace, delivery, generation=pace.generation, live_s=way_s + record_s)
    return seen


def test_beside_live_batches_it_begins_small_whatever_went_before():
    grown = Pace(4000, in_flight=3, best_s=0.04, way_s=0.002)
    assert page_size(grown, None, beside_live=True) == 32
    assert page_size(grown, 20.0, beside_live=True) == 20


@pytest.mark.parametrize(
    ("way_s", "record_s", "sizes"),
    [
        (0.005, 45e-6, [32, 64]),
        (0.005, 1e-6, [32, 64, 128, 256, 512, 1000]),
        (0.05, 45e-6, [32, 64, 128, 256, 512]),
        (0.3, 45e-6, [32, 64, 128, 256, 512, 1000]),
        (0.005, 400e-6, [32]),
        (0.3, 1e-7, [32, 64, 128, 256, 512, 1000]),
    ],
)
def test_beside_live_batches_one_occupies_the_cloud_as_long_as_a_live_one_may_wait(way_s, record_s, sizes):
    """A cloud that stores 22,000 a second takes 45 microseconds a record: 1,000 would be in the way for 45 ms, which is
    much where an answer takes 5 ms, and little where it takes 300.
    """
    paces = beside_live(Pace(32), way_s, record_s)
    seen = [pace.live_size for pace in paces]
    assert seen[: len(sizes)] == sizes
    assert set(seen[len(sizes) :]) == {sizes[-1]}, "and it stays there"
    slice_s = max(LIVE_SLICE_S, min(way_s, SLICE_S))
    assert all(size * record_s <= slice_s or size < 4 * BATCH_MIN for size in seen)


def test_what_goes_on_beside_live_batches_leaves_the_pace_without_them_as_it_was():
    before = Pace(1000, in_flight=5, best_s=0.04, way_s=0.002)
    after_all = beside_live(before, 0.001, 45e-6)[-1]
    assert after_all == attrs.evolve(before, live_size=64, live_best_s=0.001045, size_max=4000)


def test_what_a_live_batch_takes_is_measured_at_the_quickest_one_but_not_for_ever():
    """One or another waited for the backlog itself; and the way may have become longer."""
    pace, best = Pace(32), []
    for live_s in [0.1, 0.005, *[0.1] * 40]:
        pace = next_pace(pace, GOOD, generation=0, live_s=live_s)
        best.append(pace.live_best_s)
    assert best[:4] == pytest.approx([0.1, 0.005, 0.0055, 0.00605])
    assert best[-1] == 0.1


def test_before_a_live_batch_was_stored_nothing_is_made_of_what_one_takes():
    pace = Pace(32)
    assert next_pace(pace, GOOD, generation=0, live_s=math.inf) == pace


def test_beside_live_batches_of_which_bytes_keep_it_small_it_asks_for_no_more():
    pace = Pace(32, live_size=512)
    delivery = attrs.evolve(GOOD, records=256, seconds=0.005)
    assert next_pace(pace, delivery, generation=0, live_s=0.004).live_size == 512


def test_beside_live_batches_trouble_halves_both_and_too_large_that_which_was():
    pace = Pace(1000, in_flight=2, live_size=128)
    sizes = []
    for trouble in (Trouble.BUSY, Trouble.BUSY, Trouble.BUSY, Trouble.FAILED, Trouble.FAILED, Trouble.TOO_LARGE):
        delivery = Delivery(trouble, records=0, seconds=0.1)
        pace = next_pace(pace, delivery, generation=pace.generation, live_s=0.004)
        sizes.append((pace.batch_size, pace.in_flight, pace.live_size))
    assert sizes == [(1000, 1, 64), (500, 1, 32), (250, 1, 32), (125, 1, 16), (62, 1, 8), (62, 1, 4)]


@pytest.mark.parametrize(
    ("traffic", "near"),
    [
        (Traffic(), False),
        (Traffic(live_under_way=True), True),
        (Traffic(live_at=98.0), False),
        (Traffic(live_at=98.1), True),
    ],
)
def test_a_live_batch_is_near_while_one_is_under_way_and_two_seconds_after(traffic, near):
    assert live_near(traffic, 100.0) is near


def test_the_backlog_has_its_turn_right_after_a_live_batch_or_where_none_comes_for_a_moment():
    assert turn_at(live_at=7.0, rested_at=6.9) == 7.0
    assert turn_at(live_at=7.0, rested_at=7.01) == 7.01 + LIVE_PAUSE_S
    assert turn_at(live_at=-math.inf, rested_at=3.0) == 3.0 + LIVE_PAUSE_S


def test_before_that_it_rests_the_longer_the_more_it_has_sent():
    assert rested_at(10.0, 0) == 10.0
    assert rested_at(10.0, 1000) == 10.1


def test_too_large_halves_the_batch_and_not_the_requests():
    pace = after(Pace(1000, in_flight=4), Delivery(Trouble.TOO_LARGE, records=1000, seconds=0.1))
    assert (pace.batch_size, pace.in_flight) == (500, 4)
    assert next_pace(pace, Delivery(Trouble.TOO_LARGE, records=1000, seconds=0.1), generation=0) == pace


def test_a_cap_asks_for_no_more_than_a_second_holds():
    assert page_size(Pace(1000), None) == 1000
    assert page_size(Pace(1000), 50.0) == 50
    assert page_size(Pace(32), 50.0) == 32
    assert page_size(Pace(32), 0.5) == 1


def test_a_cap_spaces_the_pages():
    assert next_due(0.0, 100.0, 50, 50.0) == 101.0
    assert next_due(101.0, 100.2, 25, 50.0) == 101.5
    assert next_due(0.0, 100.0, 50, None) == 100.0


def test_rate_before_any_time_has_passed_is_none():
    assert rate_per_s(10, 0.0) == 0.0
    assert rate_per_s(10, 4.0) == 2.5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Trouble)),
            st.floats(0, 100),
            st.integers(0, 3),
            st.none() | st.floats(0, 100),
            st.sampled_from([500, 1000, 4000]),
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_pace_stays_within_its_bounds(steps):
    pace = Pace(32)
    for trouble, seconds, age, live, most in steps:
        old = pace
        generation = max(0, pace.generation - age)
        delivery = Delivery(trouble, records=1, seconds=seconds, records_max=most)
        pace = next_pace(pace, delivery, generation=generation, live_s=live)
        assert 1 <= pace.batch_size <= (most if generation == old.generation else old.batch_size)
        assert 1 <= pace.live_size <= min(1000, most if generation == old.generation else old.live_size)
        assert 1 <= pace.in_flight <= IN_FLIGHT_MAX
        assert pace.in_flight * pace.batch_size <= UNDER_WAY_MAX
        if trouble is not Trouble.NONE:
            assert pace.batch_size * pace.in_flight <= old.batch_size * old.in_flight
            assert pace.live_size <= old.live_size
