import contextlib
import itertools
import math
import random
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio_util import AsyncValue

from actors import recovery
from actors.messages import (
    Delivery,
    Drain,
    Fate,
    Knobs,
    Lane,
    Link,
    LinkState,
    Outcome,
    Page,
    PageRequest,
    Traffic,
    Trouble,
)
from actors.seqs import Stored
from cloud.wire import BATCH_BYTES_MAX, Loss

SEED = 4711
DEFAULTS = Knobs()


def jitters(start_jitter_s=4.0):
    rng = random.Random(SEED)
    while True:
        yield rng.uniform(0.0, start_jitter_s)


class World:
    """Recovery between a disk that holds what is pending and an uplink that does as it is told."""

    def __init__(self, nursery, pending=(), *, state=LinkState.UP, losses=(), latency_s=0.0, knobs=DEFAULTS, **more):
        self.pending, self.claimed, self.sent, self.losses = set(pending), set(), [], tuple(losses)
        self.latency_s, self.script = latency_s, []
        self.asked, self.posts, self.under_way, self.most_under_way = [], [], 0, 0
        self.outcomes = []
        self.link = AsyncValue(Link(state))
        self.drain = AsyncValue(Drain())
        self.traffic = AsyncValue(Traffic())
        self.nudges, nudges = trio.open_memory_channel(1)
        self.requests: Any
        requests, self.requests = trio.open_memory_channel(8)
        backlog, self.backlog = trio.open_memory_channel(0)
        self.ended = trio.Event()
        self.nursery = nursery
        given: dict[str, Any] = {"knobs": AsyncValue(knobs), "start_jitter_s": 4.0, "rng": random.Random(SEED)} | more
        cells = {"link": self.link, "drain": self.drain, "traffic": self.traffic}
        self._run = partial(recovery.run, nudges, requests, backlog, **cells, **given)
        nursery.start_soon(self._recover)
        nursery.start_soon(self._disk)
        for _ in range(8):
            nursery.start_soon(self._uplink)

    async def _recover(self):
        await self._run()
        self.ended.set()

    def nudge(self):
        with contextlib.suppress(trio.WouldBlock):
            self.nudges.send_nowait(None)

    async def _disk(self):
        async for message in self.requests:
            if isinstance(message, Outcome):
                self.outcomes.append(message)
                assert message.fate is Fate.RELEASED
                self.claimed -= set(message.seqs)
                continue
            assert isinstance(message, PageRequest)
            self.asked.append((message.after, message.records_max, trio.current_time()))
            assert message.bytes_max == BATCH_BYTES_MAX
            free = sorted(self.pending - self.claimed, reverse=message.newest)
            if message.after:
                free = [seq for seq in free if (seq < message.after if message.newest else seq > message.after)]
            page, rest = free[: message.records_max], free[message.records_max :]
            self.claimed |= set(page)
            losses, self.losses = self.losses, ()
            cursor = page[-1] if page else message.after
            message.reply.put(Page(tuple(Stored(seq, b"{}") for seq in sorted(page)), cursor, not rest, losses))

    async def _uplink(self):
        async for batch in self.backlog:
            assert batch.lane is Lane.BACKLOG
            began = trio.current_time()
            seqs = [record.seq for record in batch.records]
            self.posts.append((seqs, began))
            self.under_way += 1
            self.most_under_way = max(self.under_way, self.most_under_way)
            trouble, wait_s = self.script.pop(0) if self.script else (Trouble.NONE, 0.0)
            await trio.sleep(self.latency_s)
            self.under_way -= 1
            self.claimed -= set(seqs)
            if trouble in (Trouble.BUSY, Trouble.FAILED):
                batch.reply.put(Delivery(trouble, 0, trio.current_time() - began, wait_s))
                continue
            self.pending -= set(seqs)
            self.sent += seqs
            batch.reply.put(Delivery(trouble, len(seqs), trio.current_time() - began))

    async def live_batch(self, seconds):
        """One is under way for so long."""
        self.traffic.value = attrs.evolve(self.traffic.value, live_under_way=True)
        await trio.sleep(seconds)
        self.traffic.value = Traffic(live_at=trio.current_time(), live_s=seconds)

    async def end(self):
        self.nudges.close()
        await self.ended.wait()
        assert self.claimed == set(), "what was claimed is sent or given back"


@pytest.fixture
async def others():
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def test_a_drain_starts_after_the_seeded_pause_and_goes_oldest_first(autojump_clock, others):
    world = World(others, range(1, 201), latency_s=0.01)
    world.nudge()
    await trio.sleep(10)
    assert world.sent == list(range(1, 201))
    assert world.posts[0][1] == next(jitters())
    assert [len(seqs) for seqs, _ in world.posts] == [32, 64, 104]
    await world.end()


async def test_without_a_nudge_nothing_is_asked(autojump_clock, others):
    world = World(others, range(1, 5))
    await trio.sleep(1000)
    assert world.asked == []
    await world.end()


async def test_recovery_starts_on_link_up(autojump_clock, others):
    world = World(others, range(1, 5), state=LinkState.DOWN)
    await trio.sleep(100)
    world.nudge()
    await trio.sleep(100)
    assert world.asked == []
    world.link.value = Link(LinkState.UP)
    await trio.sleep(10)
    assert world.posts == [([1, 2, 3, 4], 200 + next(jitters()))]
    await world.end()


async def test_the_return_of_the_link_is_reason_enough_without_a_nudge(autojump_clock, others):
    world = World(others, range(1, 5))
    await trio.sleep(100)
    world.link.value = Link(LinkState.DOWN)
    await trio.sleep(100)
    world.link.value = Link(LinkState.UP)
    await trio.sleep(10)
    assert world.sent == [1, 2, 3, 4]
    await world.end()


async def test_no_drain_begins_while_the_link_is_suspect_and_one_attempt_is_let_through_when_unknown(
    autojump_clock, others
):
    world = World(others, range(1, 5), state=LinkState.SUSPECT)
    world.nudge()
    await trio.sleep(100)
    assert world.asked == []
    world.link.value = Link(LinkState.UNKNOWN)
    await trio.sleep(10)
    assert world.sent == [1, 2, 3, 4]
    await world.end()


async def test_a_link_that_goes_during_the_pause_holds_the_drain(autojump_clock, others):
    world = World(others, range(1, 5), start_jitter_s=40.0)
    pause = next(jitters(40.0))
    world.nudge()
    await trio.sleep(pause / 2)
    world.link.value = Link(LinkState.DOWN)
    await trio.sleep(100)
    assert world.asked == []
    await world.end()


async def test_the_pace_grows_to_1000_predictions_and_eight_requests_under_way(autojump_clock, others):
    world = World(others, range(1, 30_001), latency_s=0.05)
    world.nudge()
    await trio.sleep(60)
    cursors = [after for after, _, _ in world.asked]
    assert cursors[:-1] == sorted(cursors[:-1]), "oldest first"
    assert cursors[-1] == 0, "and once more, until a whole pass finds nothing"
    assert world.pending == set()
    assert max(len(seqs) for seqs, _ in world.posts) == 1000
    assert world.most_under_way == 8
    assert world.posts[0][0] == list(range(1, 33)), "it starts with one small batch"
    await world.end()


async def test_stops_within_one_request_of_a_failure_and_goes_on_from_the_oldest(autojump_clock, others):
    world = World(others, range(1, 100), latency_s=1.0)
    world.script = [(Trouble.NONE, 0), (Trouble.FAILED, 0)]
    world.nudge()
    await trio.sleep(next(jitters()) + 2.5)
    assert len(world.posts) == 2
    world.link.value = Link(LinkState.DOWN)
    await trio.sleep(100)
    assert len(world.posts) == 2
    assert not world.drain.value.active
    world.link.value = Link(LinkState.UP)
    await trio.sleep(20)
    assert world.posts[2][0][0] == 33
    assert world.pending == set()
    await world.end()


async def test_what_was_claimed_when_the_link_went_is_given_back_untried(autojump_clock, others):
    world = World(others, range(1, 100), latency_s=1.0)
    world.nudge()
    asked = trio.Event()
    original = world.requests

    class Slow:
        """A disk that takes its time over the second page."""

        def __aiter__(self):
            return self

        async def __anext__(self):
            message = await original.__anext__()
            if isinstance(message, PageRequest) and message.after == 32:
                asked.set()
                await trio.sleep(5)
            return message

    world.requests = Slow()
    await asked.wait()
    world.link.value = Link(LinkState.DOWN)
    await trio.sleep(10)
    assert world.outcomes == [Outcome(Fate.RELEASED, tuple(range(33, 97)), error=None)]
    assert len(world.posts) == 1
    await world.end()


async def test_a_cloud_that_fails_while_its_health_is_good_is_tried_ever_more_rarely(autojump_clock, others):
    world = World(others, [1], start_jitter_s=0.0)
    world.script = [(Trouble.FAILED, 0)] * 10_000
    world.nudge()
    await trio.sleep(3600)
    assert 60 < len(world.posts) < 200, "neither given up nor a hot loop"
    late = [at for _, at in world.posts if at > 600]
    gaps = [after - before for before, after in itertools.pairwise(late)]
    assert max(gaps) <= 60.0
    world.script = []
    await trio.sleep(61)
    assert world.sent == [1]
    await world.end()


async def test_busy_waits_as_long_as_asked_then_starts_again_from_the_oldest_at_half_the_pace(autojump_clock, others):
    world = World(others, range(1, 97), latency_s=1.0)
    world.script = [(Trouble.NONE, 0), (Trouble.BUSY, 7.0)]
    world.nudge()
    await trio.sleep(60)
    began = next(jitters())
    assert [(seqs[0], len(seqs)) for seqs, _ in world.posts] == [(1, 32), (33, 64), (33, 32), (65, 32)]
    assert [at for _, at in world.posts] == pytest.approx([began, began + 1, began + 9, began + 10])
    await world.end()


async def test_busy_without_a_time_is_no_hot_loop(autojump_clock, others):
    world = World(others, [1], start_jitter_s=0.0)
    world.script = [(Trouble.BUSY, 0.0)] * 10_000
    world.nudge()
    await trio.sleep(3600)
    assert 60 < len(world.posts) < 300
    await world.end()


async def test_too_large_makes_a_smaller_page(autojump_clock, others):
    world = World(others, range(1, 201), latency_s=0.01)
    world.script = [(Trouble.TOO_LARGE, 0)]
    world.nudge()
    await trio.sleep(10)
    assert [size for _, size, _ in world.asked[:3]] == [32, 16, 32]
    assert world.pending == set()
    await world.end()


async def test_the_cap_holds(autojump_clock, others):
    world = World(others, range(1, 1001), knobs=Knobs(records_per_s_max=50.0))
    world.nudge()
    await trio.sleep(next(jitters()) + 10)
    assert 450 <= len(world.sent) <= 550
    await trio.sleep(15)
    assert len(world.sent) == 1000
    await world.end()


async def test_what_was_released_behind_the_cursor_is_found_by_the_next_pass(autojump_clock, others):
    world = World(others, range(1, 101), latency_s=1.0)
    world.pending -= {5}
    world.nudge()
    await trio.sleep(next(jitters()) + 1.5)
    world.pending |= {5}
    await trio.sleep(20)
    assert world.pending == set()
    assert world.sent[-1] == 5
    await world.end()


async def test_when_all_that_is_pending_is_in_flight_elsewhere_it_waits_for_a_nudge(autojump_clock, others):
    world = World(others, range(1, 5))
    world.claimed |= {1, 2, 3, 4}
    world.nudge()
    await trio.sleep(1000)
    assert len(world.asked) == 1
    assert world.drain.value.runs == 0, "a drain that finds nothing is none"
    world.claimed.clear()
    world.nudge()
    await trio.sleep(10)
    assert world.sent == [1, 2, 3, 4]
    await world.end()


async def test_losses_travel_even_without_predictions_and_no_loop_follows(autojump_clock, others):
    loss = Loss(1, 9, "evicted")
    world = World(others, (), losses=[loss])
    world.nudge()
    await trio.sleep(100)
    assert [seqs for seqs, _ in world.posts] == [[]]
    assert len(world.asked) <= 2
    await world.end()


async def test_the_progress_of_a_drain_is_shown(autojump_clock, others):
    world = World(others, range(1, 97), latency_s=1.0)
    world.nudge()
    began = next(jitters())
    await trio.sleep(began + 1.5)
    assert world.drain.value == Drain(active=True, sent=32, runs=1, rate_per_s=32.0, since=began)
    await trio.sleep(10)
    assert world.drain.value == Drain(active=False, sent=96, runs=1, rate_per_s=48.0, since=began)
    world.pending |= {100}
    world.nudge()
    await trio.sleep(10)
    assert (world.drain.value.sent, world.drain.value.runs) == (1, 2)
    await world.end()


async def test_the_end_waits_for_what_is_under_way_and_asks_for_no_more(autojump_clock, others):
    world = World(others, range(1, 1001), latency_s=5.0)
    world.nudge()
    began = next(jitters())
    await trio.sleep(began + 1)
    await world.end()
    assert trio.current_time() == began + 5
    assert (world.sent, len(world.asked)) == (list(range(1, 33)), 1)
    with pytest.raises(trio.EndOfChannel):
        await world.requests.receive()


@pytest.mark.parametrize("state", [LinkState.UP, LinkState.DOWN, LinkState.SUSPECT])
@pytest.mark.parametrize("nudged", [True, False])
async def test_the_end_comes_at_once_whatever_is_waited_for(autojump_clock, others, state, nudged):
    world = World(others, range(1, 5), state=state, start_jitter_s=1000.0)
    if nudged:
        world.nudge()
    await trio.sleep(1)
    await world.end()
    assert trio.current_time() == 1.0
    assert world.sent == []


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_the_uplink_and_the_link_do_it_ends_with_nothing_pending(autojump_clock, others, seed):
    rng = random.Random(seed)
    world = World(others, range(1, 3000), latency_s=0.2, rng=rng)
    world.script = [(rng.choice(list(Trouble)), rng.uniform(0, 3)) for _ in range(40)]
    world.nudge()
    for _ in range(30):
        await trio.sleep(rng.expovariate(1 / 5))
        world.link.value = Link(rng.choice(list(LinkState)))
    world.link.value = Link(LinkState.UP)
    world.script.clear()
    await trio.sleep(120)
    assert world.pending == set()
    assert sorted(world.sent) == list(range(1, 3000))
    assert len(world.asked) < 2000
    assert math.isfinite(world.drain.value.rate_per_s)
    await world.end()


async def test_newest_first_brings_the_present_home_before_the_past(autojump_clock, others):
    world = World(others, range(1, 201), latency_s=0.01, knobs=Knobs(newest_first=True))
    world.nudge()
    await trio.sleep(10)
    assert [(seqs[0], seqs[-1]) for seqs, _ in world.posts] == [(169, 200), (105, 168), (1, 104)]
    assert world.pending == set()
    await world.end()


async def test_once_batches_are_full_the_next_page_is_read_while_the_others_are_under_way(autojump_clock, others):
    world = World(others, range(1, 6001), latency_s=1.0, knobs=Knobs(batch_size=1000), start_jitter_s=0.0)
    world.nudge()
    await trio.sleep(0.5)
    assert [after for after, _, _ in world.asked] == [0, 1000]
    assert len(world.posts) == 1
    world.link.value = Link(LinkState.DOWN)
    await trio.sleep(2)
    assert world.outcomes == [Outcome(Fate.RELEASED, range(1001, 2001))], "a page that can't go is given back"
    world.link.value = Link(LinkState.UP)
    await trio.sleep(20)
    assert world.pending == set()
    await world.end()


# --- beside live batches


async def test_beside_live_batches_each_turn_of_the_backlog_is_one_small_batch_right_after_one_of_them(
    autojump_clock, others
):
    """So it is through before the next one comes: here every 40 ms."""
    world = World(others, range(1, 10_001), latency_s=0.006, start_jitter_s=0.0)
    world.nudge()
    for _ in range(24):
        await world.live_batch(0.005)
        await trio.sleep(0.035)
    assert [len(seqs) for seqs, _ in world.posts] == [32, 64, 128, 256, 512, *[1000] * 6]
    at_live = (0, 1, 2, 3, 4, 6, 9, 12, 15, 18, 21)
    assert [at for _, at in world.posts] == pytest.approx([0.005 + 0.04 * n for n in at_live]), "and it rests"
    assert world.most_under_way == 1
    await world.end()


async def test_where_no_live_batch_comes_for_a_moment_the_backlog_has_its_turn_all_the_same(autojump_clock, others):
    world = World(others, range(1, 1001), latency_s=0.01, start_jitter_s=0.0)
    world.traffic.value = Traffic(live_under_way=True)
    world.nudge()
    await trio.sleep(0.3)
    assert [at for _, at in world.posts] == pytest.approx([0.05, 0.1132, 0.1764, 0.2396])
    await world.end()


async def test_the_first_live_batch_makes_the_backlog_small_and_after_the_last_it_is_as_large_as_before(
    autojump_clock, others
):
    world = World(others, range(1, 200_001), latency_s=0.1, start_jitter_s=0.0)
    world.nudge()
    await trio.sleep(0.95)
    assert (len(world.posts[-1][0]), world.under_way) == (1000, 8)
    await world.live_batch(0.1)
    before = sum(at <= 0.95 for _, at in world.posts)
    await trio.sleep(1.99)
    beside = world.posts[before:]
    assert [outcome.fate for outcome in world.outcomes] == [Fate.RELEASED], "what had been read is given back"
    assert [len(seqs) for seqs, _ in beside[:7]] == [32, 64, 128, 256, 512, 1000, 1000]
    assert [at for _, at in beside[:3]] == pytest.approx([1.05, 1.2032, 1.3596])
    assert world.under_way <= 1
    await trio.sleep(0.4)
    assert (len(world.posts[-1][0]), world.under_way) == (1000, 8)
    await trio.sleep(10)
    assert world.pending == set()
    assert sorted(world.sent) == list(range(1, 200_001))
    await world.end()


async def test_the_end_does_not_wait_for_the_backlogs_turn(autojump_clock, others):
    world = World(others, range(1, 1001), latency_s=0.01, start_jitter_s=0.0)
    world.traffic.value = Traffic(live_under_way=True)
    world.nudge()
    await trio.sleep(0.07)
    await world.end()
    assert trio.current_time() == 0.07
    assert len(world.sent) == 32
