import math
from functools import partial

import trio
from trio_util import AsyncValue

from actors import batcher
from actors.messages import Knobs, Lane
from actors.seqs import Stored


def stored(seq, size=10):
    return Stored(seq, b"x" * size)


class House:
    """The batcher, and both ends of its channels."""

    def __init__(self, nursery, *, size_max=32, bytes_max=1024 * 1024, linger_s=10.0, inbox_max=1000, outbox_max=100):
        self.send, inbox = trio.open_memory_channel(inbox_max)
        outbox, self.batches = trio.open_memory_channel(outbox_max)
        self.knobs = AsyncValue(Knobs(batch_size=size_max, batch_timeout_s=linger_s))
        nursery.start_soon(partial(batcher.run, inbox, outbox, knobs=self.knobs, bytes_max=bytes_max))

    def put(self, *seqs, size=10):
        for seq in seqs:
            self.send.send_nowait(stored(seq, size))

    async def batch(self):
        batch = await self.batches.receive()
        assert batch.lane is Lane.LIVE
        assert batch.reply is None
        return [record.seq for record in batch.records]


async def test_a_batch_closes_at_32_at_once(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        house.put(*range(1, 34))
        assert await house.batch() == list(range(1, 33))
        assert trio.current_time() == 0.0
        assert await house.batch() == [33]
        assert trio.current_time() == 10.0
        house.send.close()


async def test_a_batch_closes_10_s_after_its_first_not_after_its_last(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        await trio.sleep(3)
        house.put(1)
        await trio.sleep(9)
        house.put(2)
        assert await house.batch() == [1, 2]
        assert trio.current_time() == 13.0
        house.send.close()


async def test_a_batch_closes_before_it_would_exceed_its_bytes(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery, bytes_max=100)
        house.put(1, 2, 3, 4, size=40)
        assert await house.batch() == [1, 2]
        assert await house.batch() == [3, 4]
        house.put(5, 6, size=50)
        assert await house.batch() == [5, 6], "exactly full"
        assert trio.current_time() == 10.0, "only 3 and 4 had to linger"
        house.send.close()


async def test_a_payload_larger_than_a_batch_travels_alone_and_at_once(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery, bytes_max=100)
        house.put(1, size=10)
        house.put(2, size=500)
        house.put(3, size=10)
        assert await house.batch() == [1]
        assert await house.batch() == [2]
        assert trio.current_time() == 0.0
        house.send.close()
        assert await house.batch() == [3]


async def test_the_end_of_the_stream_sends_what_is_held_at_once_then_closes(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        house.put(1, 2)
        await trio.sleep(1)
        house.send.close()
        assert await house.batch() == [1, 2]
        assert trio.current_time() == 1.0
        assert [batch async for batch in house.batches] == []


async def test_the_one_that_did_not_fit_is_not_lost_at_the_end(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery, bytes_max=100)
        house.put(1, 2, size=60)
        house.send.close()
        assert await house.batch() == [1]
        assert await house.batch() == [2]
        assert [batch async for batch in house.batches] == []
        assert trio.current_time() == 0.0


async def test_a_busy_uplink_holds_the_batcher_and_nothing_is_lost(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery, size_max=2, inbox_max=math.inf, outbox_max=0)
        house.put(*range(1, 8))
        house.send.close()
        got: list[int] = []
        while len(got) < 7:
            await trio.sleep(5)
            got += await house.batch()
        assert got == list(range(1, 8))


async def test_knobs_that_change_hold_from_the_next_batch_on(autojump_clock):
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        house.put(1)
        await trio.sleep(1)
        house.knobs.value = Knobs(batch_size=2, batch_timeout_s=5.0)
        assert await house.batch() == [1]
        assert trio.current_time() == 10.0
        house.put(2, 3, 4)
        assert await house.batch() == [2, 3]
        assert await house.batch() == [4]
        assert trio.current_time() == 15.0
        nursery.cancel_scope.cancel()
