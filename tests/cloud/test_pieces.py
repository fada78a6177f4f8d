"""A large batch stored in pieces answers, counts and explains as one stored whole; both stores."""

import attrs
import pytest
from msgspec import UNSET

from cloud import wire
from cloud.ledger import Query
from cloud.ledger.pieces import PIECE_RECORDS_MAX, pieces_of
from tests.cloud.world import batch

MANY = 2 * PIECE_RECORDS_MAX + 500


def test_the_pieces_are_the_batch_in_its_order_and_what_else_it_says_is_said_once():
    whole = batch(*range(11, 11 + MANY), losses=[(1, 9, "evicted")], rejected=[(10, "too bad")])
    pieces = list(pieces_of(whole))
    assert [len(piece.records) for piece in pieces] == [MANY // 3] * 3
    assert sum((piece.records for piece in pieces), ()) == whole.records
    assert [(piece.losses, piece.rejected) for piece in pieces] == [
        ((), ()),
        ((), ()),
        (whole.losses, whole.rejected),
    ]


@pytest.mark.parametrize(
    "whole",
    [
        batch(),
        batch(*range(1, PIECE_RECORDS_MAX + 1)),
        batch(*range(1, MANY), stream=None),
        batch(*range(1, MANY), None),
    ],
    ids=["empty", "not large", "without a stream", "one without a number"],
)
def test_what_would_be_stored_twice_if_half_of_it_came_again_stays_whole(whole):
    assert list(pieces_of(whole)) == [whole]


async def test_a_batch_in_pieces_is_answered_as_one(opened):
    """New ones, some stored before, one with another payload, one refused, and what was given up before it."""
    async with opened() as ledger:
        await ledger.ingest(batch(*range(101, 151), 1_300))
        whole = batch(*range(100, 100 + MANY), losses=[(1, 98, "evicted")], rejected=[(99, "too bad")])
        at = 1_300 - 100
        changed = whole.records[at]._replace(payload='{"seq":1300,"image_id":"another"}')
        whole = attrs.evolve(whole, records=(*whole.records[:at], changed, *whole.records[at + 1 :]))
        answer = await ledger.ingest(whole)
        assert (answer.accepted, answer.duplicates, answer.conflicts) == (MANY - 51, 50, 1)
        assert (answer.conflicting, answer.delivery) == ([1_300], "exactly-once")
        assert [refused.seq for refused in answer.rejected] == [99]
        audit = (await ledger.audit("cam"))[0]
        assert (audit.last_seq, audit.stored, audit.conflicts) == (99 + MANY, MANY, 1)
        assert (audit.missing, audit.explained, audit.rejected) == (99, 99, 1)
        again = await ledger.ingest(batch(*range(2_000, 100 + MANY)))
        assert (again.accepted, again.duplicates, again.conflicting) == (0, MANY - 1_900, UNSET)
        page = await ledger.predictions(Query(limit=5_000))
        assert len(page.items) == MANY


def test_the_largest_batch_of_a_device_is_in_pieces():
    assert wire.RECORDS_TAKEN_MAX > PIECE_RECORDS_MAX
