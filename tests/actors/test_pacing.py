import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Delivery, Trouble
from actors.pacing import (
    BATCH_MIN,
    IN_FLIGHT_MAX,
    LIVE_SLICE_S,
    SLICE_S,
    UNDER_WAY_MAX,
    Pace,
    next_due,
    next_pace,
    page_size,
    rate_per_s,
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


def test_beside_live_batches_no_post_becomes_longer_than_a_slice_because_the_cloud_would_take_it():
    pace = Pace(32)
    for _ in range(40):
        seconds = 0.001 + pace.batch_size * pace.in_flight * 45e-6
        pace = after(pace, attrs.evolve(GOOD, records=pace.batch_size, seconds=seconds, live=True, records_max=4000))
        assert pace.batch_size * pace.in_flight * 45e-6 <= LIVE_SLICE_S + 2 * BATCH_MIN * 45e-6


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


def beside_live(pace, way_s, record_s, deliveries=40):
    """The sizes and requests of a drain beside live batches, to a cloud that takes one POST after the other."""
    seen = []
    for _ in range(deliveries):
        seen.append((pace.batch_size, pace.in_flight))
        seconds = way_s + pace.in_flight * pace.batch_size * record_s
        pace = after(pace, attrs.evolve(GOOD, seconds=seconds, live=True))
    return seen


@pytest.mark.parametrize("way_s", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("before", [Pace(32), Pace(1000, in_flight=2, best_s=0.04, way_s=0.002)])
def test_beside_live_batches_a_post_occupies_the_cloud_no_longer_than_a_slice(before, way_s):
    """A cloud that stores 22,000 a second takes 45 microseconds a record: 1,000 would be in the way for 45 ms."""
    record_s = 45e-6
    seen = beside_live(before, way_s, record_s)[12:]
    smallest_s = 2 * BATCH_MIN * record_s  # that much of the way's own time may be a record's
    assert all(size * in_flight * record_s <= LIVE_SLICE_S + smallest_s for size, in_flight in seen)
    assert all(size >= 128 for size, _ in seen), "and no shorter than it must"


def test_beside_live_batches_a_far_and_quick_cloud_gets_all_that_may_be_under_way():
    assert beside_live(Pace(32), 0.3, 1e-7)[-1] == (1000, IN_FLIGHT_MAX)


def test_a_slow_cloud_still_gets_batches_of_32_beside_live_ones():
    for pace in (Pace(32), Pace(1000, in_flight=2, best_s=10.0, way_s=0.3)):
        seen = beside_live(pace, 0.01, 0.01)[12:]
        assert {in_flight for _, in_flight in seen} == {1}
        assert all(BATCH_MIN <= size < 4 * BATCH_MIN for size, _ in seen)


def test_without_live_batches_the_pace_grows_again():
    pace = attrs.evolve(Pace(250), way_s=0.001)
    assert after(pace, attrs.evolve(GOOD, seconds=0.03, live=True)).batch_size == 125
    assert after(pace, attrs.evolve(GOOD, seconds=0.03)).batch_size == 500


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
            st.booleans(),
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
        delivery = Delivery(trouble, records=1, seconds=seconds, live=live, records_max=most)
        pace = next_pace(pace, delivery, generation=generation)
        assert 1 <= pace.batch_size <= (most if generation == old.generation else old.batch_size)
        assert 1 <= pace.in_flight <= IN_FLIGHT_MAX
        assert pace.in_flight * pace.batch_size <= UNDER_WAY_MAX
        if trouble is not Trouble.NONE:
            assert pace.batch_size * pace.in_flight <= old.batch_size * old.in_flight
