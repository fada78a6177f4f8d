"""The uplink's two lanes, and what whoever paces the backlog sees of the live one, at exact virtual times."""

import math

import pytest
import trio

from actors.messages import Fate
from actors.uplink import GIVE_WAY_S
from tests.actors.test_uplink import World, late, live, pauses, says


@pytest.fixture
async def world():
    async with trio.open_nursery() as servers:
        yield World(servers)
        servers.cancel_scope.cancel()


async def test_live_never_waits_for_the_backlog_of_which_eight_are_under_way(autojump_clock, world):
    async def slow(envelope):
        if envelope.late:
            await trio.sleep(20)
        return await world.store(envelope)

    world.script = [slow] * 20
    batches = [late(seq) for seq in range(1, 11)]
    for batch in batches:
        await world.backlog.send(batch)
    await trio.sleep(1)
    await world.live.send(live(11))
    await trio.sleep(1)
    assert world.at == [0.0] * 8 + [1.0]
    assert world.stored == [11]
    assert await world.end() == {Fate.SENT: list(range(1, 12))}
    assert [(await batch.reply.wait()).seconds for batch in batches] == [20.0] * 10


async def test_a_backlog_batch_lets_a_live_one_under_way_go_first_but_not_for_ever(autojump_clock, world):
    async def slow(envelope):
        await trio.sleep(next(times))
        return await world.store(envelope)

    times = iter([0.1, 0.0, 20.0, 0.0])
    world.script = [slow] * 4
    quick, stuck = late(2), late(4)
    await world.live.send(live(1))
    await trio.sleep(0.01)
    await world.backlog.send(quick)
    await trio.sleep(0.99)
    await world.live.send(live(3))
    await trio.sleep(0.01)
    await world.backlog.send(stuck)
    await trio.sleep(29)
    assert world.at == pytest.approx([0.0, 0.1, 1.0, 1.01 + GIVE_WAY_S])
    assert [(await batch.reply.wait()).seconds for batch in (quick, stuck)] == [0.0, 0.0], "the wait is no POST's time"


async def test_whoever_paces_the_backlog_sees_when_a_live_batch_is_under_way_and_when_one_was(autojump_clock, world):
    async def slow(envelope):
        await trio.sleep(3.0)
        return await world.store(envelope)

    def seen():
        traffic = world.traffic.value
        return traffic.live_under_way, traffic.live_at, traffic.live_s

    world.script = [says(500), slow]
    assert seen() == (False, -math.inf, math.inf)
    await trio.sleep(1.0)
    await world.live.send(live(1))
    await trio.sleep(0.0)
    again_at = 1.0 + pauses(1)[0]
    await trio.sleep(again_at - 1.001)
    assert seen() == (False, -math.inf, math.inf), "a try that failed leaves the way free"
    await trio.sleep(1.0)
    assert seen() == (True, -math.inf, math.inf)
    await trio.sleep(3.0)
    assert seen() == (False, again_at + 3.0, 3.0)
