"""Every way to lose a prediction, through the real cloud: the audit names each missing number, and why."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.audit import compare
from actors.ports import salvage
from actors.ports.account import read_account
from actors.ports.buffer import Buffer, Totals
from actors.ports.chores import DISCARDED
from actors.ports.replay import BAD_SECTOR
from actors.ports.sqlite import BufferDamaged
from actors.seqs import Seqs
from actors.settings import WhenFull
from actors.streams import OTHER_STREAM
from actors.tasks import Task, TaskKind
from cloud.wire import LOSSES_MAX
from tests.world import DEVICE, World, open_world, prediction, predictions

Gaps = list[tuple[int, int, str | None]]


@pytest.fixture
async def world(folder: Path, autojump_clock: trio.abc.Clock) -> AsyncIterator[World]:
    async with open_world(folder) as opened:
        yield opened


async def gaps(world: World, device: str = DEVICE) -> Gaps:
    """What the cloud's audit says is missing of the device's latest stream."""
    audit = (await world.web.get(f"/devices/{device}/audit")).raise_for_status().json()
    stream = audit["streams"][-1]
    assert stream["unexplained"] == 0, stream
    return [(gap["from_seq"], gap["to_seq"], gap["reason"]) for gap in stream["gaps"]]


async def all_home(device: Any) -> None:
    with trio.fail_after(300):
        await trio.sleep(2)
        await device.cells.books.wait_value(lambda books: books.pending == 0)
    await trio.sleep(2)


async def evicted(world: World) -> Gaps:
    """A buffer at its cap drops the oldest, by the operator's policy."""
    world.wire.up = False
    large = prediction(confidence_scores=(0.123456,) * 2_000)
    async with world.device(buffer_max_size_mb=16, buffer_when_full=WhenFull.DROP_OLDEST) as device:
        while not device.status()["evicted"]:
            assert device.status()["last_seq"] < 2_000, "16 MB hold no more than this"
            await device.log_many([large] * 50)
            await trio.sleep(1)  # the books are brought up to date once a second
        world.wire.up = True
        await all_home(device)
        lost = device.status()["evicted"]
    return [(1, lost, "evicted")]


async def bad_sector(world: World) -> Gaps:
    """Two payloads changed at rest."""
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(9))
    with closing(sqlite3.connect(world.folder / "buffer.db")) as db, db:
        db.execute("UPDATE buffer_predictions SET prediction_data = replace(prediction_data, '.0', '.9') WHERE id > 7")
    world.wire.up = True
    async with world.device() as device:
        await all_home(device)
    return [(8, 9, BAD_SECTOR)]


async def discarded(world: World) -> Gaps:
    """An operator gave pending ones up."""
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(9))
        await trio.sleep(60)
        done = await device.perform(Task(kind=TaskKind.DISCARD, spans=((2, 3), (6, 6))))
        assert done.changed == 3
        world.wire.up = True
        await all_home(device)
    return [(2, 3, DISCARDED), (6, 6, DISCARDED)]


async def quarantined_and_dropped(world: World) -> Gaps:
    """The cloud refused one for good (an older device wrote it, with no checksum), and an operator gave it up."""
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(9))
    change = (
        "replace(prediction_data, '\"inference_time_ms\":1.5', '\"inference_time_ms\":-1.5'), payload_crc32c = NULL"
    )
    with closing(sqlite3.connect(world.folder / "buffer.db")) as db, db:
        db.execute(f"UPDATE buffer_predictions SET prediction_data = {change} WHERE id = 5")
    world.wire.up = True
    async with world.device() as device:
        await all_home(device)
        assert device.status()["failed"] == 1
        ((first, last, why),) = await gaps(world)
        assert (first, last) == (5, 5)
        assert "inference_time_ms" in (why or ""), "the cloud knows why before anybody gives it up"
        assert (await device.perform(Task(kind=TaskKind.DISCARD, spans=((5, 5),)))).changed == 1
        await device.log(prediction())
        await trio.sleep(60)
    return [(5, 5, DISCARDED)]


async def another_stream(world: World) -> Gaps:
    """The device's id has changed: its numbers go on where those of the other name end."""
    async with world.device(edge_device_id="cam-of-yesterday") as device:
        await device.log_many(predictions(6))
        await all_home(device)
    async with world.device() as device:
        await device.log_many(predictions(2))
        await all_home(device)
    return [(1, 6, OTHER_STREAM)]


@pytest.mark.parametrize("lose", [evicted, bad_sector, discarded, quarantined_and_dropped, another_stream])
async def test_the_audit_shows_each_gap_with_its_reason(
    world: World, autojump_clock: trio.abc.Clock, lose: Callable[[World], Awaitable[Gaps]]
):
    expected = await lose(world)
    assert await gaps(world) == expected
    account = read_account(world.folder / "buffer.db")
    get = partial(world.web.get)
    answers = {one.device_id: (await get(f"/devices/{one.device_id}/audit")).json() for one in account.streams}
    found = compare(account, answers)
    assert found.good, found.sentence()
    assert found.given_up == (0 if lose is another_stream else sum(last - first + 1 for first, last, _ in expected))
    with closing(sqlite3.connect(world.folder / "buffer.db")) as db:
        assert db.execute("SELECT count(*) FROM buffer_losses WHERE confirmed_at IS NULL").fetchone() == (0,)


async def test_a_loss_is_told_again_until_the_cloud_has_confirmed_it(world: World, autojump_clock: trio.abc.Clock):
    """The answers to the first POSTs with it are lost; what the device was not told is not confirmed."""
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(3))
        await trio.sleep(60)
        await device.perform(Task(kind=TaskKind.DISCARD, spans=((1, 3),)))
        world.wire.posts_to_lose = 3
        world.wire.up = True
        await trio.sleep(120)
        assert world.wire.posts_to_lose == 0
        assert len(world.wire.posts) == 1
    assert await gaps(world) == [(1, 3, DISCARDED)]


async def test_a_loss_that_shows_while_nothing_is_pending_is_told_by_itself(
    world: World, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
):
    """What the cloud refused turns out to be damaged while a live batch's outcome is written down: no drain follows."""
    mark_sent = Buffer.mark_sent

    def meet_damage(self: Buffer, seqs: Seqs, now: float) -> int:
        monkeypatch.setattr(Buffer, "mark_sent", mark_sent)
        monkeypatch.setattr(
            salvage, "loose_payloads", lambda _: (_ for _ in ())
        )  # what stood there before is gone, too
        with closing(sqlite3.connect(self.path)) as db, db:
            changed = "UPDATE buffer_predictions SET prediction_data = replace(prediction_data, '.0', '.9')"
            db.execute(f"{changed} WHERE id IN (2, 3)")
        raise BufferDamaged("database disk image is malformed")

    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(5))
    with closing(sqlite3.connect(world.folder / "buffer.db")) as db, db:
        db.execute("UPDATE buffer_predictions SET status = 'failed', last_error = 'refused'")
    world.wire.up = True
    async with world.device() as device:
        await trio.sleep(60)
        monkeypatch.setattr(Buffer, "mark_sent", meet_damage)
        await device.log_many(predictions(32))
        await all_home(device)
        assert (device.status()["damaged"], device.status()["failed"]) == (2, 3)
        with closing(sqlite3.connect(world.folder / "buffer.db")) as db:
            told = "SELECT from_seq, to_seq, confirmed_at IS NOT NULL FROM buffer_losses"
            assert db.execute(told).fetchall() == [(2, 3, 1)], "the cloud was told while the device runs"


async def test_more_losses_than_one_post_carries_are_all_told_though_nothing_is_pending(
    world: World, autojump_clock: trio.abc.Clock
):
    losses = 2 * LOSSES_MAX + 1
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(2 * losses))
        await trio.sleep(60)
        odd = tuple((seq, seq) for seq in range(1, 2 * losses, 2))
        assert (await device.perform(Task(kind=TaskKind.DISCARD, spans=odd))).changed == losses
        world.wire.up = True
        await all_home(device)
        with closing(sqlite3.connect(world.folder / "buffer.db")) as db:
            assert db.execute("SELECT count(*) FROM buffer_losses WHERE confirmed_at IS NULL").fetchone() == (0,)


async def test_what_a_replaced_database_brings_back_as_pending_is_sent_by_itself(
    world: World, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
):
    """Damage is met by the look at the books, on a good link: the marks of what was sent are lost, harmlessly."""
    totals = Buffer.totals

    def meet_damage(self: Buffer) -> Totals:
        monkeypatch.setattr(Buffer, "totals", totals)
        raise BufferDamaged("database disk image is malformed")

    async with world.device() as device:
        await device.log_many(predictions(32))
        await all_home(device)
        await trio.sleep(60)
        monkeypatch.setattr(Buffer, "totals", meet_damage)
        await trio.sleep(3)
        await all_home(device)
        assert [post.seqs for post in world.wire.posts] == [tuple(range(1, 33))] * 2
    assert await gaps(world) == []
