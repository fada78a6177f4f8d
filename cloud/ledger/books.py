"""What a stream's numbers come to, batch by batch: decided on ranges in memory, whatever store they come from."""

from collections.abc import Iterable
from typing import cast

import attrs

from cloud import wire
from cloud.ledger import Batch, Gap, Record
from cloud.ledger.ranges import Span, covered, join, overlay, runs, size, uncovered

REASON_CHARS_MAX = 256


@attrs.define(eq=False)
class Book:
    """One stream while batches are stored.

    `stored` and `explained` are its ranges as far as they overlap or adjoin the numbers that the batches speak of;
    the counts are what has changed in the stream's sums.
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
            touching = [old for old in self.stored if old.low <= span.high + 1 and old.high >= span.low - 1]
            for part in covered(touching, span):
                known.update(range(part.low, part.high + 1))
            fresh = uncovered(touching, span)
            self.stored_more += size(fresh)
            # What was given up before is missing no more.
            reasons = [Span(gap.from_seq, gap.to_seq) for gap in self.explained]
            self.explained_more -= sum(size(covered(reasons, part)) for part in fresh)
            if fresh:
                self.stored = sorted([*(old for old in self.stored if old not in touching), join(touching, span)])
            self.last_seq = max(self.last_seq, span.high)
        return known

    def explain(self, new: Gap) -> bool:
        """Note why numbers will not come; False if exactly that was known already."""
        self.last_seq = max(self.last_seq, new.to_seq)
        touching = [old for old in self.explained if old.from_seq <= new.to_seq + 1 and old.to_seq >= new.from_seq - 1]
        after = overlay(touching, new)
        if after == touching:
            return False
        settled = [*self.stored, *(Span(gap.from_seq, gap.to_seq) for gap in touching)]
        self.explained_more += size(uncovered(settled, Span(new.from_seq, new.to_seq)))
        others = (old for old in self.explained if old not in touching)
        self.explained = sorted([*others, *after], key=lambda gap: gap.from_seq)
        return True


def window(batches: Iterable[Batch]) -> Span | None:
    """From the lowest to the highest number that batches of one stream speak of, and one beyond on either side."""
    numbers: list[int] = []
    for batch in batches:
        if batch.stream_id is None:
            continue
        numbers += [record.seq for record in batch.records if record.seq is not None]
        numbers += [rejection.seq for rejection in batch.rejected if rejection.seq is not None]
        for loss in batch.losses:
            numbers += (loss.from_seq, loss.to_seq)
    return Span(max(min(numbers) - 1, 0), min(max(numbers) + 1, wire.SEQ_MAX)) if numbers else None


def sort_out(records: Iterable[Record]) -> tuple[dict[int, Record], list[Record], list[Record]]:
    """The first of each number, later ones with a number seen before in this batch, and those without any."""
    records = list(records)
    seqs = {record.seq: record for record in records}
    if len(seqs) == len(records) and None not in seqs:
        return cast("dict[int, Record]", seqs), [], []
    first: dict[int, Record] = {}
    repeats: list[Record] = []
    unnumbered: list[Record] = []
    for record in records:
        if record.seq is None:
            unnumbered.append(record)
        elif first.setdefault(record.seq, record) is not record:
            repeats.append(record)
    return first, repeats, unnumbered


def explanations(batch: Batch) -> tuple[list[Gap], list[Gap], int]:
    """The losses and the numbered refusals of a batch as gaps, and how many refusals have no number."""
    losses = [Gap(loss.from_seq, loss.to_seq, loss.reason) for loss in batch.losses]
    numbered = [(r.seq, r.error) for r in batch.rejected if r.seq is not None and batch.stream_id is not None]
    refusals = [Gap(seq, seq, f"rejected: {error}"[:REASON_CHARS_MAX]) for seq, error in numbered]
    return losses, refusals, len(batch.rejected) - len(refusals)
