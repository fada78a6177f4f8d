"""Predictions of sources on their way to the disk: alone at once, in quick succession with one fsync for many."""

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actors.gathering import GROUP_MAX, PERIOD_S, Gathering
from actors.groups import gather
from actors.messages import Accept, Entry
from actors.pipeline import Ports, open_pipeline
from actors.ports.frames import Frame
from actors.ports.lane import run_inline
from actors.settings import Settings
from tests.actors.test_inference import BLANK
from tests.world import Scratched, Syncs, now


class Rig:
    """A gathering, and the groups that the disk's owner makes of what it hands on: when, and which."""

    def __init__(self, inbox_max: int = 1000) -> None:
        giving, self.inbox = trio.open_memory_channel[Accept](inbox_max)
        self.gathering = Gathering(giving)
        self.groups: list[tuple[float, list[str]]] = []

    async def write(self) -> None:
        async for first in self.inbox:
            _, entries = await gather(first, self.inbox, 1, 0.0)
            self.groups.append((round(trio.current_time(), 6), [entry.image_id for entry in entries]))


def accept(name: object) -> Accept:
    return Accept((Entry(str(name), 1.0, b"{}"),))


@pytest.fixture
async def rig(autojump_clock, nursery):
    rig = Rig()
    nursery.start_soon(rig.gathering.run)
    nursery.start_soon(rig.write)
    await trio.testing.wait_all_tasks_blocked()
    return rig


async def test_one_that_comes_alone_leaves_at_once(rig, autojump_clock):
    for number in range(3):
        await rig.gathering.add(accept(number))
        await trio.sleep(PERIOD_S)
    assert rig.groups == [(0.0, ["0"]), (0.2, ["1"]), (0.4, ["2"])]


async def test_those_in_quick_succession_leave_together_and_none_waits_longer_than_the_period(rig, autojump_clock):
    for number in range(8):
        await rig.gathering.add(accept(number))
        await trio.sleep(0.06)
    await trio.sleep(1)
    assert rig.groups == [(0.0, ["0"]), (0.2, ["1", "2", "3"]), (0.4, ["4", "5", "6"]), (0.6, ["7"])]


async def test_a_full_group_leaves_without_waiting(rig, autojump_clock):
    for number in range(1 + GROUP_MAX):
        await rig.gathering.add(accept(number))
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert rig.groups == [(0.0, ["0"]), (0.0, [str(number) for number in range(1, 1 + GROUP_MAX)])]


async def test_one_that_somebody_waits_for_leaves_at_once_and_takes_the_others_along(rig, autojump_clock):
    for name in "ab":
        await rig.gathering.add(accept(name))
        await trio.testing.wait_all_tasks_blocked()
    await rig.gathering.add(accept("asked"), at_once=True)
    await trio.testing.wait_all_tasks_blocked()
    assert rig.groups == [(0.0, ["a"]), (0.0, ["b", "asked"])]


async def test_the_next_group_is_due_a_period_after_one_that_left_early(rig, autojump_clock):
    await rig.gathering.add(accept("alone"))
    await trio.sleep(0.05)
    await rig.gathering.add(accept("a"))
    await trio.sleep(0.05)
    await rig.gathering.add(accept("asked"), at_once=True)
    await trio.sleep(0.05)
    await rig.gathering.add(accept("b"))
    await trio.sleep(1)
    assert rig.groups == [(0.0, ["alone"]), (0.1, ["a", "asked"]), (0.3, ["b"])]


async def test_a_full_inbox_holds_the_giver_and_keeps_the_order(autojump_clock, nursery):
    rig = Rig(inbox_max=2)
    nursery.start_soon(rig.gathering.run)
    given = 0

    async def give() -> None:
        nonlocal given
        for number in range(3 * GROUP_MAX):
            await rig.gathering.add(accept(number))
            given += 1

    nursery.start_soon(give)
    await trio.sleep(60)
    assert given == GROUP_MAX, "one went alone; the last of the group behind it is held, with whoever gave it"
    nursery.start_soon(rig.write)
    await trio.sleep(1)
    taken = [int(name) for _, names in rig.groups for name in names]
    assert taken == list(range(3 * GROUP_MAX))


@attrs.define(eq=False)
class Belt:
    """A hundred frames a second; notes which of them are durable."""

    script: list[int]
    name: str = "belt"
    live: bool = True
    period_s: float = 0.01

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> Frame | None:
        return Frame(f"belt/{self.script.pop(0)}", "belt", BLANK, now()) if self.script else None


async def test_a_fast_source_asks_for_five_fsyncs_a_second_and_no_frame_is_missing(autojump_clock, folder):
    settings = Settings(buffer_db_path=folder / "buffer.db", cloud_logging_enabled=False)
    syncs = Syncs()
    sources: Any = (Belt(list(range(300))),)
    ports = Ports(now=now, lane=lambda: run_inline, sources=sources, detector=Scratched(), sync=syncs)
    async with open_pipeline(settings, ports) as pipeline:
        before = syncs.count
        await pipeline.cells.books.wait_value(lambda books: books.last_seq == 300)
        took_s = trio.current_time()
        assert took_s == pytest.approx(3.0, abs=PERIOD_S)
        assert syncs.count - before <= took_s / PERIOD_S + 3, "one a group, and the new segment's"
