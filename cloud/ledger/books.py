"""What a stream's numbers come to, batch by batch: decided on ranges in memory, whatever store they come from."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import attrgetter

import attrs

from cloud import wire
from cloud.ledger import Batch, Gap
from cloud.ledger.ranges import Span, covered, join, overlay, runs, size, uncovered

_low, _high = attrgetter("low"), attrgetter("high")
_from_seq, _to_seq = attrgetter("from_seq"), attrgetter("to_seq")


@attrs.define(eq=False)
class Book:
    """One stream while batches are stored.

    `stored` and `explained` are its ranges, disjoint and in order, as far as they overlap or adjoin the numbers that
    the batches speak of; the counts are what has changed in the stream's sums.
    """

    stored: list[Span]
    explained: list[Gap]
    last_seq: int = 0
    stored_more: int = 0
    explained_more: int = 0

    def note_stored(self, seqs: Iterable[int]) -> set[int]:
        """Merge the numbers into the ranges; those that were there already."""
        known: set[int] = set()
        for span in runs(seqs):
            around = self._stored_around(span)
            touching = self.stored[around]
            for part in covered(touching, span):
                known.update(range(part.low, part.high + 1))
            fresh = uncovered(touching, span)
            self.stored_more += size(fresh)
            # What was given up before is missing no more.
            reasons = [Span(gap.from_seq, gap.to_seq) for gap in self.explained[self._explained_around(span)]]
            self.explained_more -= sum(size(covered(reasons, part)) for part in fresh)
            self.stored[around] = [join(touching, span)]
            self.last_seq = max(self.last_seq, span.high)
        return known

    def explain(self, new: Gap) -> bool:
        """Note why numbers will not come; False if exactly that was known already."""
        self.last_seq = max(self.last_seq, new.to_seq)
        span = Span(new.from_seq, new.to_seq)
        around = self._explained_around(span)
        touching = self.explained[around]
        after = overlay(touching, new)
        if after == touching:
            return False
        settled = [*self.stored[self._stored_around(span)], *(Span(gap.from_seq, gap.to_seq) for gap in touching)]
        self.explained_more += size(uncovered(settled, span))
        self.explained[around] = after
        return True

    def _stored_around(self, span: Span) -> slice:
        """Where the stored ranges lie that overlap or adjoin a span."""
        return slice(
            bisect_left(self.stored, span.low - 1, key=_high), bisect_right(self.stored, span.high + 1, key=_low)
        )

    def _explained_around(self, span: Span) -> slice:
        return slice(
            bisect_left(self.explained, span.low - 1, key=_to_seq),
            bisect_right(self.explained, span.high + 1, key=_from_seq),
        )


def windows(batches: Iterable[Batch]) -> list[Span]:
    """The numbers that batches of one stream speak of and their neighbours; the spans neither overlap nor adjoin."""
    spans: list[Span] = []
    for batch in batches:
        if batch.stream_id is None:
            continue
        spans += runs(record.seq for record in batch.records if record.seq is not None)
        spans += runs(rejection.seq for rejection in batch.rejected if rejection.seq is not None)
        spans += (Span(loss.from_seq, loss.to_seq) for loss in batch.losses)
    found: list[Span] = []
    for span in sorted(spans):
        low, high = max(span.low - 1, 0), min(span.high + 1, wire.SEQ_MAX)
        if found and low <= found[-1].high + 1:
            found[-1] = Span(found[-1].low, max(found[-1].high, high))
        else:
            found.append(Span(low, high))
    return found
