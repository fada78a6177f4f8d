"""Which requests share a commit: those that wait, and those that are being read and come soon enough."""

from collections.abc import Sequence

import pytest
import trio

from cloud import wire
from cloud.ledger import Batch
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
