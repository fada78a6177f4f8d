"""A buffer that is copied or restored, an id that two devices share, an id that changes: said, and nothing is lost."""

import shutil
from functools import partial

import pytest
import trio

from actors.audit import compare
from actors.messages import LinkState
from actors.ports.account import read_account
from actors.ports.names import names_file
from cloud.sharing import APART_S, RETURNS_MIN, Sharing
from tests.world import DEVICE, World, open_world, prediction


@pytest.fixture
async def world(folder, autojump_clock):
    async with open_world(folder) as opened:
        yield opened


async def all_home(device):
    """Until the last pending prediction is confirmed."""
    with trio.fail_after(300):
        await trio.sleep(2)
        await device.cells.books.wait_value(lambda books: books.pending == 0)


async def log(device, *names):
    for name in names:
        assert (await device.log(prediction(image_id=name))).durable


async def images(world, device=DEVICE):
    return sorted(item["image_id"] for item in await world.stored(device))


async def finding(world, db_path, *devices):
    answers = {device: (await world.web.get(f"/devices/{device}/audit")).json() for device in devices or (DEVICE,)}
    return compare(read_account(db_path), answers)


def backup(world):
    copy = world.folder / "backup"
    copy.mkdir()
    for file in world.folder.glob("buffer*"):
        (shutil.copytree if file.is_dir() else shutil.copy2)(file, copy / file.name)
    return copy


def restore(world, copy):
    for file in world.folder.glob("buffer*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for file in copy.iterdir():
        (shutil.copytree if file.is_dir() else shutil.copy2)(file, world.folder / file.name)


async def test_a_buffer_restored_from_a_backup_never_puts_two_predictions_under_one_number(world, autojump_clock):
    async with world.device() as device:
        await log(device, "a1", "a2", "a3")
        await all_home(device)
    copy = backup(world)
    async with world.device() as device:
        await log(device, "b4", "b5")
        await all_home(device)
    restore(world, copy)
    assert not (await finding(world, world.folder / "buffer.db")).good, "the audit sees it before anything is sent"
    async with world.device() as device:
        await log(device, "c4", "c5", "c6")
        await all_home(device)
        status = device.status()
        assert "numbers_taken" in status["alerts"]
        assert "2 predictions" in status["alert_details"]["numbers_taken"]["detail"]
        assert status["stream_id"] == "stream-2"
        await log(device, "c7")
        await all_home(device)
    assert await images(world) == ["a1", "a2", "a3", "b4", "b5", "c4", "c5", "c6", "c7"], "each of them, once"
    found = await finding(world, world.folder / "buffer.db")
    assert found.good, found.sentence()
    assert found.conflicts == 2
    async with world.device() as device:
        await log(device, "d")
        await all_home(device)
        assert device.status()["stream_id"] == "stream-2", "the new name outlives a restart"
    assert (await finding(world, world.folder / "buffer.db")).good


async def test_two_devices_with_a_copy_of_one_buffer_lose_nothing_to_each_other(world, autojump_clock):
    async with world.device() as device:
        await log(device, "common")
    twin_folder = backup(world)
    twin = World(twin_folder, world.wire, world.web, ids=world.ids)
    async with world.device() as one, twin.device() as other:
        for number in range(1, 8):
            for device, name in ((one, "one"), (other, "other")):
                await log(device, f"{name}-{number}")
                await trio.sleep(11)
        await all_home(one)
        await all_home(other)
        said = {name for device in (one, other) for name in device.status()["alerts"]}
        assert {"numbers_taken", "device_id_shared"} <= said
    expected = ["common", *(f"{who}-{number}" for who in ("one", "other") for number in range(1, 8))]
    assert await images(world) == sorted(expected)
    for folder in (world.folder, twin_folder):
        found = await finding(world, folder / "buffer.db")
        assert not found.missing, found.sentence()


async def test_a_changed_device_id_leaves_the_backlog_its_old_one(world, autojump_clock):
    async with world.device(edge_device_id="old", cloud_logging_enabled=False) as device:
        await log(device, "o1", "o2")
    async with world.device(edge_device_id="new") as device:
        await log(device, "n3")
        await all_home(device)
        assert device.status()["alerts"] == []
    assert (await images(world, "old"), await images(world, "new")) == (["o1", "o2"], ["n3"])
    audit = (await world.web.get("/devices/new/audit")).json()
    assert (audit["unexplained"], audit["explained"]) == (0, 2)
    assert (await finding(world, world.folder / "buffer.db", "old", "new")).good


async def test_an_id_that_changes_before_the_first_prediction_is_the_new_one_also_after_a_restart(
    world, autojump_clock
):
    """The database knows the old one alone, and the names must not be taken for another database's."""
    for name in ("old", "older than the first prediction", "new"):
        async with world.device(edge_device_id=name, cloud_logging_enabled=False):
            pass
    async with world.device(edge_device_id="new", cloud_logging_enabled=False) as device:
        receipt = await device.log(prediction(image_id="n1"))
    async with world.device(edge_device_id="new") as device:
        assert (await device.log(prediction(image_id="n2"))).stream_id == receipt.stream_id
        await all_home(device)
    assert await images(world, "new") == ["n1", "n2"]
    assert (await world.web.get("/devices/old/audit")).status_code == 404
    (stream,) = (await world.web.get("/devices/new/audit")).json()["streams"]
    assert (stream["stream_id"], stream["missing"]) == (receipt.stream_id, 0)
    assert (await finding(world, world.folder / "buffer.db", "new")).good


async def test_a_buffer_that_was_deleted_begins_a_new_stream(world, autojump_clock):
    for name in ("before", "after"):
        async with world.device() as device:
            await log(device, name)
            await all_home(device)
        for file in world.folder.glob("buffer*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert await images(world) == ["after", "before"]
    audit = (await world.web.get(f"/devices/{DEVICE}/audit")).json()
    assert (len(audit["streams"]), audit["conflicts"], audit["unexplained"]) == (2, 0, 0)


async def test_two_devices_with_buffers_of_their_own_under_one_id_hear_of_each_other(world, autojump_clock):
    other_folder = world.folder / "other"
    other_folder.mkdir()
    twin = World(other_folder, world.wire, world.web, ids=world.ids)
    async with world.device() as one, twin.device() as other:
        for number in range(RETURNS_MIN + 1):
            for device, name in ((one, "one"), (other, "other")):
                await log(device, f"{name}-{number}")
                await trio.sleep(11)
        assert "device_id_shared" in one.status()["alerts"]
        assert "device_id_shared" in other.status()["alerts"]
    assert len(await images(world)) == 2 * (RETURNS_MIN + 1)


async def test_names_that_can_not_be_read_fall_back_on_the_first_and_still_nothing_is_lost(world, autojump_clock):
    async with world.device(edge_device_id="old", cloud_logging_enabled=False) as device:
        await log(device, "o1")
    async with world.device(edge_device_id="new") as device:
        await log(device, "n2")
        await all_home(device)
    names_file(world.folder / "buffer.db").write_bytes(b"[torn")
    async with world.device(edge_device_id="new") as device:
        await log(device, "n3")
        await all_home(device)
        assert device.cells.link.value.state is LinkState.UP
    assert (await images(world, "old"), await images(world, "new")) == (["o1"], ["n2", "n3"])


def test_a_life_that_comes_back_again_and_again_is_a_second_device():
    sharing = Sharing()
    note = partial(sharing.note, "cam", at=0.0)
    assert not any(note(life) for life in ("a", "a", "b", "b", "a", "c", "c", "b", "c"))
    lives = ["x", "y"] * (RETURNS_MIN + 1)
    assert [note(life) for life in lives][-1]
    assert not note(None)
    assert not note("z"), "a new life is a new chance"
    assert not sharing.note("another", "x", 0.0)


def test_one_that_got_a_name_of_its_own_is_forgotten_after_a_while():
    sharing = Sharing()
    for turn, life in enumerate(["x", "y"] * (RETURNS_MIN + 1)):
        sharing.note("cam", life, float(turn))
    last = float(turn)
    assert sharing.note("cam", "y", last + APART_S)
    assert not sharing.note("cam", "y", last + APART_S + 1)
    assert not sharing.note("cam", "x", last + APART_S + 2), "a return begins the count anew"
