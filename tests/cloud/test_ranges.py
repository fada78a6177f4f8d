"""Ranges against the plainest model there is: sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloud.ledger import Gap
from cloud.ledger.ranges import Span, covered, gaps, join, overlay, runs

numbers = st.integers(1, 40)
spans = st.tuples(numbers, numbers).map(lambda pair: Span(min(pair), max(pair)))


def members(ranges) -> set[int]:
    return {n for low, high in ranges for n in range(low, high + 1)}


def meet(a: Span, b: Span, *, margin: int) -> bool:
    return a.low <= b.high + margin and b.low <= a.high + margin


@given(st.lists(numbers))
def test_runs_hold_exactly_the_numbers_in_the_fewest_spans(seqs):
    found = runs(seqs)
    assert members(found) == set(seqs)
    assert all(later.low > earlier.high + 1 for earlier, later in itertools.pairwise(found))


@given(st.sets(numbers), spans)
def test_joining_a_span_to_what_it_touches_is_the_union(stored, span):
    touching = [known for known in runs(stored) if meet(known, span, margin=1)]
    assert members([join(touching, span)]) == members(touching) | members([span])
    assert members(covered(touching, span)) == stored & members([span])


@given(st.lists(st.tuples(spans, st.sampled_from("ab"))))
def test_the_newest_reason_of_a_number_wins_and_none_is_forgotten(told):
    model: dict[int, str] = {}
    ranges: list[Gap] = []
    for span, reason in told:
        touching = [gap for gap in ranges if meet(Span(gap.from_seq, gap.to_seq), span, margin=1)]
        rest = [gap for gap in ranges if gap not in touching]
        ranges = sorted([*rest, *overlay(touching, Gap(span.low, span.high, reason))], key=lambda gap: gap.from_seq)
        model |= dict.fromkeys(members([span]), reason)
    assert {n: gap.reason for gap in ranges for n in range(gap.from_seq, gap.to_seq + 1)} == model
    assert sum(gap.to_seq - gap.from_seq + 1 for gap in ranges) == len(model), "ranges overlap"


@given(st.sets(numbers), st.dictionaries(numbers, st.sampled_from("ab")))
def test_every_number_that_is_not_stored_is_in_exactly_one_gap_with_its_reason(stored, reasons):
    last = max([0, *stored, *reasons])
    explained = [
        Gap(span.low, span.high, reason)
        for reason in "ab"
        for span in runs(n for n, why in reasons.items() if why == reason)
    ]
    found = list(gaps(runs(stored), sorted(explained, key=lambda gap: gap.from_seq), last))
    assert [(n, gap.reason) for gap in found for n in range(gap.from_seq, gap.to_seq + 1)] == [
        (n, reasons.get(n)) for n in range(1, last + 1) if n not in stored
    ]
