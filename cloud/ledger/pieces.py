"""A large batch is stored in pieces, a transaction each, so that nobody's commit waits long for another's."""

from collections.abc import Iterator, Sequence

import attrs
from msgspec import UNSET

from cloud import wire
from cloud.ledger import Batch

PIECE_RECORDS_MAX = 2_000
"""Smaller pieces would make the wait shorter, but a commit more costs what 150 predictions do (`docs/cost.md`)."""


def pieces_of(batch: Batch) -> Iterator[Batch]:
    """The batch in equal parts, in the order of its records; what else it says goes with the last one.

    One whose records have no number each stays whole: sent again after half of it was stored, that half would be stored
    twice.
    """
    records = batch.records
    if len(records) <= PIECE_RECORDS_MAX or not batch.stream_id or any(record.seq is None for record in records):
        yield batch
        return
    size = -(-len(records) // -(-len(records) // PIECE_RECORDS_MAX))
    for start in range(0, len(records), size):
        some = records[start : start + size]
        last = start + size >= len(records)
        yield attrs.evolve(batch, records=some) if last else attrs.evolve(batch, records=some, rejected=(), losses=())


def joined(answers: Sequence[wire.Answer]) -> wire.Answer:
    """The answer to a batch, by those to its pieces."""
    if len(answers) == 1:
        return answers[0]
    conflicting = [seq for answer in answers if answer.conflicting is not UNSET for seq in answer.conflicting]
    return wire.Answer(
        accepted=sum(answer.accepted for answer in answers),
        duplicates=sum(answer.duplicates for answer in answers),
        conflicts=sum(answer.conflicts for answer in answers),
        conflicting=conflicting or UNSET,
        rejected=[rejection for answer in answers for rejection in answer.rejected],
        delivery=answers[0].delivery,
    )
