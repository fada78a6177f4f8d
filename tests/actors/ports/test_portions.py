"""Fates in portions: none is lost, told twice, or larger than asked for."""

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Fate, Outcome
from actors.ports.portions import portions
from cloud.wire import Loss

LOSS = Loss(90, 95, "evicted")


def sent(first: int, last: int, size: int, losses: tuple[Loss, ...] = ()) -> Outcome:
    return Outcome(Fate.SENT, range(first, last + 1), losses=losses, payload_bytes=size)


def told(outcomes: list[Outcome]) -> list[tuple[Fate, list[int], int]]:
    return [(outcome.fate, list(outcome.seqs), outcome.payload_bytes) for outcome in outcomes]


def test_small_confirmations_are_one_transaction():
    done = list(portions([sent(1, 3, 30), sent(7, 8, 20, (LOSS,)), sent(4, 6, 30)], 100))
    assert told(done) == [(Fate.SENT, [1, 2, 3, 7, 8, 4, 5, 6], 80)]
    assert done[0].losses == (LOSS,)


def test_no_more_of_them_than_fit():
    done = portions([sent(1, 3, 60), sent(4, 6, 40), sent(7, 9, 1)], 100)
    assert told(list(done)) == [(Fate.SENT, [1, 2, 3, 4, 5, 6], 100), (Fate.SENT, [7, 8, 9], 1)]


def test_a_large_one_is_divided_and_its_losses_are_told_once():
    done = list(portions([sent(1, 5, 250, (LOSS,))], 100))
    assert told(done) == [(Fate.SENT, [1, 2], 84), (Fate.SENT, [3, 4], 84), (Fate.SENT, [5], 84)]
    assert [outcome.losses for outcome in done] == [(LOSS,), (), ()]


def test_other_fates_follow_each_with_its_own_error():
    refused = [Outcome(Fate.QUARANTINED, (4,), error, payload_bytes=9) for error in ("too big", "no class")]
    assert list(portions([refused[0], sent(1, 3, 30), refused[1]], 100)) == [sent(1, 3, 30), *refused]


def test_losses_alone_are_told():
    assert list(portions([sent(1, 0, 500, (LOSS,))], 100)) == [sent(1, 0, 0, (LOSS,))]


@given(
    st.lists(st.tuples(st.sampled_from([Fate.SENT, Fate.RELEASED]), st.integers(0, 40), st.integers(0, 900))),
    st.integers(1, 500),
)
def test_every_number_keeps_its_fate(given_, bytes_max):
    first, outcomes = 1, []
    for fate, count, size in given_:
        outcomes.append(Outcome(fate, range(first, first + count), payload_bytes=size if count else 0))
        first += count
    done = list(portions(outcomes, bytes_max))
    for fate in (Fate.SENT, Fate.RELEASED):
        before = [seq for outcome in outcomes if outcome.fate is fate for seq in outcome.seqs]
        assert [seq for outcome in done if outcome.fate is fate for seq in outcome.seqs] == before
    assert all(outcome.payload_bytes <= bytes_max or len(outcome.seqs) == 1 for outcome in done)
