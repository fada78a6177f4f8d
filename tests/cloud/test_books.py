"""What a stream's numbers come to: decided in memory, against a model of sets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloud.ledger import Gap
from cloud.ledger.books import Book, windows
from cloud.ledger.ranges import Span
from tests.cloud.world import batch

seqs = st.integers(1, 30)
told = st.lists(
    st.one_of(st.lists(seqs, max_size=8), st.tuples(seqs, seqs, st.sampled_from(["evicted", "expired"]))), max_size=15
)


@given(told)
def test_a_book_keeps_exactly_what_was_stored_and_why_the_rest_will_not_come(told):
    book = Book([], [])
    stored: set[int] = set()
    reasons: dict[int, str] = {}
    for one in told:
        if isinstance(one, list):
            assert book.note_stored(set(one)) == stored & set(one)
            stored |= set(one)
        else:
            low, high, reason = min(one[:2]), max(one[:2]), one[2]
            news = any(reasons.get(n) != reason for n in range(low, high + 1))
            assert book.explain(Gap(low, high, reason)) == news
            reasons |= dict.fromkeys(range(low, high + 1), reason)
    assert {n for span in book.stored for n in range(span.low, span.high + 1)} == stored
    assert len(book.stored) == sum(n - 1 not in stored for n in stored), "ranges that adjoin must be merged"
    assert {n: gap.reason for gap in book.explained for n in range(gap.from_seq, gap.to_seq + 1)} == reasons
    assert book.explained == sorted(book.explained, key=lambda gap: gap.from_seq)
    assert (book.stored_more, book.explained_more) == (len(stored), len(reasons.keys() - stored))
    assert book.last_seq == max([0, *stored, *reasons])


@given(st.lists(seqs, max_size=8), st.lists(st.tuples(seqs, seqs), max_size=3), st.lists(seqs, max_size=3))
def test_windows_hold_all_that_is_spoken_of_with_its_neighbours_and_nothing_else(sent, lost, refused):
    losses = [(min(ends), max(ends), "x") for ends in lost]
    found = windows([batch(*sent, losses=losses), batch(rejected=[(seq, "bad") for seq in refused])])
    spoken = {*sent, *refused, *(n for low, high, _ in losses for n in range(low, high + 1))}
    near = {m for n in spoken for m in (n - 1, n, n + 1)}
    assert [n for span in found for n in range(span.low, span.high + 1)] == sorted(near), "each once and in order"
    assert all(one.high + 1 < other.low for one, other in itertools.pairwise(found)), "or they were one"


def test_what_comes_without_a_stream_has_no_window():
    assert windows([batch(None, stream=None), batch()]) == []
    assert windows([batch(5, 9, losses=[(2, 3, "x")], rejected=[(11, "bad")])]) == [Span(1, 6), Span(8, 12)]
