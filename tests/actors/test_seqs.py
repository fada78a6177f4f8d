"""Numbers as runs against plain lists and sets, and payloads that come apart byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.claims import Claims
from actors.seqs import Stored, payloads_of, seqs_of

NUMBERS = st.lists(st.integers(-20, 60), unique=True, max_size=40)


@given(NUMBERS)
def test_numbers_keep_their_order_whatever_it_is(numbers):
    seqs = seqs_of(numbers)
    assert (list(seqs), len(seqs)) == (numbers, len(numbers))
    assert [seqs[index] for index in range(len(seqs))] == numbers
    assert [seqs[-index] for index in range(1, len(seqs) + 1)] == numbers[::-1]
    assert list(seqs[1:7]) == numbers[1:7]
    for outside in (len(numbers), -len(numbers) - 1):
        with pytest.raises(IndexError):
            seqs[outside]


def test_a_thousand_numbers_that_follow_on_are_one_run():
    assert seqs_of(range(5, 1005)).spans == ((5, 1004),)
    assert seqs_of([3, 4, 7, 6]).spans == ((3, 4), (7, 7), (6, 6))


@given(NUMBERS, NUMBERS)
def test_equal_are_the_same_numbers_in_the_same_order(some, others):
    assert (seqs_of(some) == seqs_of(others)) == (some == others)
    assert seqs_of(some) == tuple(some)
    if some == others:
        assert hash(seqs_of(some)) == hash(seqs_of(others))


def records(*seqs):
    """Some of them damaged: what comes apart is not for JSON to say."""
    return tuple(Stored(seq, b'{"seq":%d,"text":"a,b]}\xc3\xa9\\""}' % seq * (seq % 3)) for seq in seqs)


@given(NUMBERS, NUMBERS)
def test_numbers_added_are_the_same_as_numbers_taken_together(some, others):
    assert seqs_of(some) + seqs_of(others) == seqs_of(some + others)


@given(NUMBERS, NUMBERS)
def test_payloads_come_apart_and_together_byte_for_byte(some, others):
    load = payloads_of(records(*some))
    assert load == records(*some)
    assert load.size == sum(len(record.payload) for record in records(*some))
    assert (load[:3], load[3:]) == (records(*some)[:3], records(*some)[3:])
    assert [load[index] for index in range(len(load))] == list(load)
    others = [number for number in others if number not in some]
    assert load + payloads_of(records(*others)) == records(*some, *others)


@given(st.lists(st.tuples(st.booleans(), NUMBERS), max_size=30))
def test_claims_against_a_set(steps):
    claims, known = Claims(), set()
    for take, numbers in steps:
        assert list(claims.free(seqs_of(numbers))) == [number for number in numbers if number not in known]
        if take:
            fresh = seqs_of(number for number in numbers if number not in known)
            claims.take(fresh)
            known |= set(numbers)
        else:
            claims.give_back(seqs_of(numbers))
            known -= set(numbers)
        assert len(claims) == len(known)
        assert {number for number in range(-20, 61) if number in claims} == known


def test_what_nobody_has_claimed_is_free_without_a_look_at_each_number():
    claims, page = Claims(), seqs_of(range(1, 1001))
    claims.take(seqs_of(range(2000, 2032)))
    assert claims.free(page) is page
