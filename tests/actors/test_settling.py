"""Receipts on a virtual clock: what is durable is told to its source in order, soon, and on the way to a read."""

from functools import partial

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.messages import Accept, Receipt
from actors.ports.cursors import Mark
from actors.ports.lane import run_inline
from actors.settling import ALONG_WITHIN_S, UNSETTLED_MAX
from actors.watching import SETTLE_S
from tests.actors.test_inference import FakeDetector, FakeSource
from tests.actors.test_watching import World


@attrs.define(eq=False)
class Belt(FakeSource):
    """Files that want to know what is durable."""

    durable: list[str] = attrs.field(factory=list)
    passed: list[str] = attrs.field(factory=list)

    @property
    def strokes(self) -> int:
        return len(self.at("accepted"))

    def read(self):
        frame = super().read()
        return frame and attrs.evolve(frame, mark=Mark(frame.image_id, (1,)))

    def accepted(self, marks, passed=()) -> None:
        self.events.append(("accepted", trio.current_time()))
        self.durable += [mark.key for mark in marks]
        self.passed += [mark.key for mark in passed]


def give(accept: Accept, receipt: Receipt) -> None:
    assert accept.reply is not None, "the receipt is awaited"
    accept.reply.put((receipt,))


async def answer(world, *receipts: Receipt | None) -> None:
    """Take so many accepts; answer those that have a receipt here."""
    for receipt in receipts:
        accept = await world.accepted.receive()
        if receipt is not None:
            give(accept, receipt)


DURABLE = Receipt("s", 1, durable=True)


async def test_a_frame_is_noted_only_after_its_receipt_and_the_source_does_not_end_before(autojump_clock, nursery):
    belt = Belt("belt", [1, 2, None])
    world = World(belt)
    nursery.start_soon(world.run)
    first, second = await world.accepted.receive(), await world.accepted.receive()
    await trio.sleep(5)
    assert (belt.durable, world.vision.value.finished) == ([], False)
    give(second, DURABLE)
    await wait_all_tasks_blocked()
    assert belt.durable == [], "in the order of reading"
    give(first, DURABLE)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.durable == ["belt/1", "belt/2"]
    assert belt.strokes == 1, "several in one stroke"
    world.stop()


@pytest.mark.parametrize(
    "receipt", [Receipt("s", None, durable=False), Receipt("s", None, durable=False, accepted=False)]
)
async def test_what_is_not_durable_is_not_noted(autojump_clock, nursery, receipt):
    belt = Belt("belt", [1, 2, None])
    world = World(belt)
    nursery.start_soon(world.run)
    await answer(world, receipt, DURABLE)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.durable == ["belt/2"]
    world.stop()


async def test_a_frame_that_the_model_fails_on_is_passed_and_not_called_durable(autojump_clock, nursery):
    belt = Belt("belt", [1, 2, None])
    world = World(belt, detector=FakeDetector(fails=[0]))
    nursery.start_soon(world.run)
    await answer(world, DURABLE)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert (belt.durable, belt.passed) == (["belt/2"], ["belt/1"])
    world.stop()


async def test_what_is_durable_is_told_on_the_way_to_the_next_read_and_costs_no_trip_of_its_own(
    autojump_clock, nursery
):
    trips = 0

    async def counting(function, *args, **kwargs):
        nonlocal trips
        trips += 1
        return await run_inline(function, *args, **kwargs)

    belt = Belt("belt", [1, 2, 3, None], period_s=0.125)
    world = World(belt, frames_lane=counting)
    nursery.start_soon(world.run)
    await answer(world, DURABLE, DURABLE)
    assert belt.at("accepted") == [0.125], "the first at the second read; the second, given at 0.2, waits for the third"
    await answer(world, DURABLE)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.durable == ["belt/1", "belt/2", "belt/3"]
    assert belt.at("read") == [0.0, 0.125, 0.25, 0.375]
    assert belt.at("accepted") == [0.125, 0.25, 0.4], "behind the last there is no read, and it is told at once"
    await wait_all_tasks_blocked()
    assert trips == len(belt.events) - 2, "the open, the reads, the last that is told, and the close"
    world.stop()


async def test_what_is_durable_waits_for_the_next_read_no_longer_than_told(autojump_clock, nursery):
    belt = Belt("belt", [1, 2, None], period_s=10.0)
    world = World(belt)
    nursery.start_soon(world.run)
    await answer(world, DURABLE)
    await trio.sleep(5)
    assert (belt.durable, belt.at("accepted")) == (["belt/1"], [ALONG_WITHIN_S])
    await answer(world, DURABLE)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.at("accepted") == [ALONG_WITHIN_S, 10 + ALONG_WITHIN_S]
    world.stop()


async def test_a_reader_that_waits_for_receipts_waits_for_nothing_else(autojump_clock, nursery):
    """All that may be open is open: no read will come to take along what is durable."""
    count = UNSETTLED_MAX + 2
    belt = Belt("belt", [*range(count), None])
    world = World(belt, accepts_max=2 * count)
    nursery.start_soon(world.run)
    await trio.sleep(3)
    assert len(belt.at("read")) == UNSETTLED_MAX + 1
    await answer(world, *[DURABLE] * UNSETTLED_MAX)
    await trio.sleep(ALONG_WITHIN_S / 2)
    assert (len(belt.durable), set(belt.at("accepted"))) == (UNSETTLED_MAX, {3.0})
    assert len(belt.at("read")) == count + 1
    await answer(world, *[DURABLE] * 2)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.durable == [f"belt/{number}" for number in range(count)]
    world.stop()


async def test_frames_whose_receipts_a_read_has_taken_along_make_room_for_others(autojump_clock, nursery):
    count = 3 * UNSETTLED_MAX
    belt = Belt("belt", [*range(count), None], period_s=0.01)
    world = World(belt)
    nursery.start_soon(world.run)
    nursery.start_soon(partial(answer, world, *[DURABLE] * count))
    with trio.fail_after(60):
        await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.durable == [f"belt/{number}" for number in range(count)]
    assert belt.at("read")[-1] == pytest.approx(count * belt.period_s), "nothing held it up"
    world.stop()


async def test_an_end_waits_for_receipts_but_not_for_ever(autojump_clock):
    belt = Belt("belt", list(range(1000)), period_s=1.0)
    world = World(belt)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await trio.sleep(1.5)
        give(await world.accepted.receive(), DURABLE)
        world.stop()
    assert trio.current_time() == 1.5 + SETTLE_S
    assert belt.durable == ["belt/0"]
