"""Which requests share a commit: those that wait, and those that are being read and come soon enough."""

from collections.abc import Sequence

import pytest
import trio

from cloud import wire
from cloud.ledger import Batch, LedgerUnavailable
from cloud.ledger.pieces import PIECE_RECORDS_MAX
from cloud.ledger.queue import GATHER_RECORDS_MAX, GATHER_S, CommitQueue
from tests.cloud.world import batch

SOON_S = GATHER_S / 4


@pytest.mark.parametrize(
    ("reading_s", "commits"),
    [
        ((0.0,), [(0.0, 1)]),
        ((0.0, SOON_S, 2 * SOON_S), [(2 * SOON_S, 3)]),
        ((0.0, 1.0), [(GATHER_S, 1), (1.0, 1)]),
        ((0.0, SOON_S, 1.0, 1.0 + SOON_S), [(GATHER_S, 2), (1.0 + SOON_S, 2)]),
    ],
    ids=["alone at once", "all that come soon", "not for a slow body", "again for the next"],
)
async def test_a_commit_waits_for_batches_that_are_being_read_and_no_longer_than_a_moment(
    autojump_clock, reading_s, commits
):
    assert await played(reading_s) == commits


async def test_a_request_that_is_refused_after_all_is_not_waited_for(autojump_clock):
    assert await played((0.0,), refused_s=SOON_S) == [(SOON_S, 1)]


@pytest.mark.parametrize(
    ("records", "commits"),
    [
        (GATHER_RECORDS_MAX, [(0.0, 1), (SOON_S, 1)]),
        (GATHER_RECORDS_MAX // 2, [(SOON_S, 2)]),
    ],
    ids=["large ones are stored while the next is read", "small ones share it"],
)
async def test_a_commit_waits_for_nobody_where_enough_predictions_wait_already(autojump_clock, records, commits):
    assert await played((0.0, SOON_S), records=records) == commits


async def played(
    reading_s: Sequence[float], *, records: int = 1, refused_s: float | None = None
) -> list[tuple[float, int]]:
    """When each commit began and how many batches it had, where requests that begin together take so long to read."""
    seen: list[tuple[float, int]] = []
    queue = CommitQueue(10, 10_000_000)
    began = trio.current_time()

    async def commit(batches: Sequence[Batch]) -> list[wire.Answer]:
        seen.append((round(trio.current_time() - began, 6), len(batches)))
        await trio.lowlevel.checkpoint()
        return [wire.Answer(accepted=1) for _ in batches]

    async def ask(seq: int, seconds: float) -> None:
        with queue.expect():
            await trio.sleep(seconds)
            of = batch(*range(seq * records, (seq + 1) * records))
            assert (await queue.ingest(of)).accepted == 1

    async def give_up(seconds: float) -> None:
        with queue.expect():
            await trio.sleep(seconds)

    async with queue.serving(commit), trio.open_nursery() as nursery:
        for seq, seconds in enumerate(reading_s, 1):
            nursery.start_soon(ask, seq, seconds)
        if refused_s is not None:
            nursery.start_soon(give_up, refused_s)
    return seen


@pytest.mark.parametrize(
    ("came", "commits"),
    [
        (["large"], [(1, 1500)] * 3),
        (["large", "small"], [(2, 1501), (1, 1500), (1, 1500)]),
        (["large", "large"], [(1, 1500)] * 6),
        (["middling"] * 5, [(2, 2000), (2, 2000), (1, 1000)]),
        (["small"] * 3, [(3, 3)]),
    ],
    ids=[
        "alone",
        "a small one beside it goes with its first piece",
        "one after the other",
        "as many as one piece would be",
        "small ones together",
    ],
)
async def test_a_large_batch_is_stored_in_pieces_and_small_ones_share_a_commit(autojump_clock, came, commits):
    assert await turns([(0.0, kind) for kind in came]) == commits


async def test_a_small_batch_waits_for_one_piece_of_a_large_one_and_neither_for_ever(autojump_clock):
    """Each commit takes a second; another small batch comes in the middle of each."""
    came = [(0.0, "large"), *((0.5 + second, "small") for second in range(4))]
    seen = await turns(came, commit_s=1.0)
    assert seen == [(1, 1500), (1, 1), (2, 1501), (1, 1), (2, 1501)]


async def test_what_fails_in_the_middle_is_not_confirmed_and_not_stored_twice_when_it_comes_again():
    stored: set[int] = set()
    fails = [False, True]

    async def commit(batches: Sequence[Batch]) -> list[wire.Answer]:
        await trio.lowlevel.checkpoint()
        if fails and fails.pop(0):
            raise LedgerUnavailable("the disk is full")
        answers = []
        for each in batches:
            seqs = {record.seq for record in each.records if record.seq}
            answers.append(wire.Answer(accepted=len(seqs - stored), duplicates=len(seqs & stored)))
            stored.update(seqs)
        return answers

    queue = CommitQueue(10, 10_000_000)
    async with queue.serving(commit):
        with pytest.raises(LedgerUnavailable, match="the disk is full"):
            await queue.ingest(batch(*range(1, 4001)))
        assert queue.waiting == 0
        answer = await queue.ingest(batch(*range(1, 4001)))
    assert (answer.accepted, answer.duplicates, len(stored)) == (2_000, 2_000, 4_000)


async def turns(came: Sequence[tuple[float, str]], *, commit_s: float = 0.0) -> list[tuple[int, int]]:
    """Of each commit how many batches and how many predictions it had, where batches came at such times."""
    seen: list[tuple[int, int]] = []
    sizes = {"small": 1, "middling": PIECE_RECORDS_MAX // 2, "large": 2 * PIECE_RECORDS_MAX + 500}
    queue = CommitQueue(100, 10_000_000)

    async def commit(batches: Sequence[Batch]) -> list[wire.Answer]:
        seen.append((len(batches), sum(len(each.records) for each in batches)))
        await trio.sleep(commit_s)
        return [wire.Answer(accepted=len(each.records)) for each in batches]

    async def ask(number: int, at_s: float, size: int) -> None:
        await trio.sleep(at_s)
        answer = await queue.ingest(batch(*range(number * 10_000 + 1, number * 10_000 + 1 + size)))
        assert answer.accepted == size

    async with queue.serving(commit), trio.open_nursery() as nursery:
        for number, (at_s, kind) in enumerate(came):
            nursery.start_soon(ask, number, at_s, sizes[kind])
    return seen
