"""Ranges of numbers, both ends included: merging what was stored, overlaying what was explained, finding the gaps."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from cloud.ledger import Gap


class Span(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: int
    high: int


def runs(seqs: Iterable[int]) -> list[Span]:
    """The fewest spans that hold exactly these numbers."""
    ordered = sorted(set(seqs))
    if not ordered:
        return []
    # What a device sends at a time nearly always follows one another.
    if ordered[-1] - ordered[0] + 1 == len(ordered):
        return [Span(ordered[0], ordered[-1])]
    ends = [at for at, (seq, following) in enumerate(pairwise(ordered)) if following != seq + 1]
    lows = [ordered[0], *(ordered[at + 1] for at in ends)]
    return [Span(low, high) for low, high in zip(lows, [*(ordered[at] for at in ends), ordered[-1]], strict=True)]


def join(touching: Sequence[Span], span: Span) -> Span:
    """One span over `span` and all that overlap or adjoin it."""
    return (
        Span(min(span.low, *(t.low for t in touching)), max(span.high, *(t.high for t in touching)))
        if touching
        else span
    )


def covered(touching: Iterable[Span], span: Span) -> list[Span]:
    """The parts of `span` that lie in `touching`."""
    parts = (Span(max(t.low, span.low), min(t.high, span.high)) for t in touching)
    return [part for part in parts if part.low <= part.high]


def uncovered(touching: Iterable[Span], span: Span) -> list[Span]:
    """The parts of `span` that lie in none of `touching`, which may overlap and come in any order."""
    found: list[Span] = []
    expected = span.low
    for part in sorted(covered(touching, span)):
        if part.low > expected:
            found.append(Span(expected, part.low - 1))
        expected = max(expected, part.high + 1)
    if expected <= span.high:
        found.append(Span(expected, span.high))
    return found


def size(spans: Iterable[Span]) -> int:
    """How many numbers disjoint spans hold."""
    return sum(span.high - span.low + 1 for span in spans)


def overlay(touching: Iterable[Gap], new: Gap) -> list[Gap]:
    """What takes the place of `touching` (disjoint, overlapping or adjoining `new`): the newest reason wins.

    Neighbours with the same reason become one range, so that a stream that loses in a row keeps few of them.
    """
    low, high = new.from_seq, new.to_seq
    kept: list[Gap] = []
    for old in touching:
        if old.reason == new.reason:
            low, high = min(low, old.from_seq), max(high, old.to_seq)
            continue
        if old.from_seq < new.from_seq:
            kept.append(Gap(old.from_seq, min(old.to_seq, new.from_seq - 1), old.reason))
        if old.to_seq > new.to_seq:
            kept.append(Gap(max(old.from_seq, new.to_seq + 1), old.to_seq, old.reason))
    return sorted([*kept, Gap(low, high, new.reason)], key=lambda gap: gap.from_seq)


def holes(stored: Iterable[Span], last_seq: int) -> Iterator[Span]:
    """The numbers from 1 to `last_seq` that are not stored; `stored` is disjoint and in order."""
    expected = 1
    for span in stored:
        if span.low > expected:
            yield Span(expected, span.low - 1)
        expected = span.high + 1
    if expected <= last_seq:
        yield Span(expected, last_seq)


def gaps(stored: Iterable[Span], explained: Sequence[Gap], last_seq: int) -> Iterator[Gap]:
    """The holes, cut where their reason changes; `explained` is disjoint and in order."""
    at = 0
    for hole in holes(stored, last_seq):
        while at < len(explained) and explained[at].to_seq < hole.low:
            at += 1
        expected, ahead = hole.low, at
        while ahead < len(explained) and explained[ahead].from_seq <= hole.high:
            known = explained[ahead]
            if known.from_seq > expected:
                yield Gap(expected, known.from_seq - 1, None)
                expected = known.from_seq
            upto = min(known.to_seq, hole.high)
            yield Gap(expected, upto, known.reason)
            expected = upto + 1
            ahead += 1
        if expected <= hole.high:
            yield Gap(expected, hole.high, None)
