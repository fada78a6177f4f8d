"""The whole device against the real cloud app, on a virtual clock: exact times, real files, every word it gives."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from actors import batcher, connectivity, monitor, recovery, uplink
from actors.handle import CallTooLarge
from actors.messages import LinkState, PipelineClosed, Receipt
from actors.pipeline import RECOVERY_JITTER_S, Pipeline
from actors.ports.frames import FrameUnreadable
from actors.ports.opening import BufferFull, DiskTrouble, StoreLocked
from actors.ports.store import Store
from actors.settings import WhenFull
from cloud.wire import Detection, Prediction, WireError
from tests.world import DEVICE, HALF, World, open_world, prediction, predictions

FLUSH_RESERVE_S = 3.0


@pytest.fixture
async def world(folder: Path, autojump_clock: trio.abc.Clock) -> AsyncIterator[World]:
    assert trio.lowlevel.current_clock() is autojump_clock, "the test itself must ask for the clock"
    async with open_world(folder) as opened:
        yield opened


async def until(time: float) -> None:
    await trio.sleep_until(time)


# --- times


async def test_batch_leaves_at_32_and_the_rest_ten_seconds_after_its_first(world, autojump_clock):
    async with world.device() as device:
        await until(5.0)
        await device.log_many(predictions(33))
        await until(9.0)
        await device.log(prediction(33))
        await until(20.0)
        assert [(post.at, len(post.seqs), post.late) for post in world.wire.posts] == [
            (5.0, 32, False),
            (15.0, 2, False),
        ]
    assert len(await world.stored()) == 34


async def test_idle_device_probes_every_thirty_seconds(world, autojump_clock):
    async with world.device():
        await until(100.0)
        assert world.wire.probes == [0.0, 30.0, 60.0, 90.0]


async def test_traffic_is_proof_of_life_and_puts_the_probe_off(world, autojump_clock):
    async with world.device() as device:
        await until(20.0)
        await device.log_many(predictions(32))
        await until(60.0)
        assert world.wire.probes == [0.0, 50.0]


async def test_probe_gives_up_after_five_seconds(world, autojump_clock):
    async with world.device() as device:
        await until(1.0)
        world.wire.silent = True
        link = device.cells.link
        await link.wait_value(lambda link: link.state is LinkState.DOWN)
        assert trio.current_time() == 35.0


async def test_recovery_begins_when_the_link_is_up(world, autojump_clock):
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(40))
        link = device.cells.link
        await until(100.0)
        world.wire.up = True
        await link.wait_value(lambda link: link.state is LinkState.UP)
        up_at = trio.current_time()
        assert 100.0 <= up_at <= 130.0
        await trio.sleep(RECOVERY_JITTER_S)
        assert [(post.at - up_at, post.late) for post in world.wire.posts] == [(HALF * RECOVERY_JITTER_S, True)] * 2
        assert sorted(world.wire.seqs) == list(range(1, 41))
        await until(trio.current_time() + 100)
        assert len(world.wire.posts) == 2, "nothing goes twice"


async def test_live_batch_is_tried_again_after_growing_pauses_then_left_to_the_backlog(world, autojump_clock):
    """Full jitter below 1, 2, 4 seconds; of each the middle."""
    async with world.device() as device:
        await until(5.0)
        world.wire.posts_to_lose = 4
        await device.log_many(predictions(32))
        await until(12.0)
        assert world.wire.offers == [5.0, 5.5, 6.5, 8.5, 8.5 + HALF * RECOVERY_JITTER_S]
        assert 5.0 in world.wire.probes, "a failure asks for a probe at once"
        says(device.status(), retried=3, sent=32, pending=0)
        assert [post.late for post in world.wire.posts] == [True]


async def test_while_down_a_probe_comes_at_least_every_thirty_seconds(world, autojump_clock):
    world.wire.up = False
    async with world.device():
        await until(600.0)
    pauses = [b - a for a, b in zip(world.wire.attempts, world.wire.attempts[1:], strict=False)]
    assert max(pauses) <= 30.0
    assert len(pauses) > 20


# --- accepting


async def test_receipts_do_not_wait_for_the_network(world, autojump_clock):
    world.wire.silent = True
    async with world.device() as device:
        for number in range(200):
            receipt = await device.log(prediction(number))
            assert receipt == Receipt("stream", number + 1, durable=True)
        assert trio.current_time() == 0.0
        await device.log_many(predictions(3_000))
        await until(60.0)
        for number in range(200):
            await device.log(prediction(number))
        assert trio.current_time() == 60.0


async def test_what_overflows_the_live_lane_goes_by_the_backlog_and_nothing_goes_twice(world, autojump_clock):
    async with world.device() as device:
        await device.log_many(predictions(3_000))
        await until(60.0)
        assert sorted(world.wire.seqs) == list(range(1, 3_001))
        assert {post.late for post in world.wire.posts} == {False, True}
        assert device.status()["pending"] == 0


async def test_a_backlog_goes_in_batches_as_large_as_a_quick_cloud_says_it_takes(world, autojump_clock):
    world.wire.up = False
    async with world.device() as device:
        await device.log_many(predictions(5_000))
        await until(100.0)
        world.wire.up = True
        await until(200.0)
        assert sorted(world.wire.seqs) == list(range(1, 5_001)), "each of them once"
        sizes = [len(post.seqs) for post in world.wire.posts]
        assert sizes[:6] == [32, 64, 128, 256, 512, 1024]
        assert sizes[6:] == [1024, 1960], "the first was read ahead, the last is what is left"
        assert device.status()["pending"] == 0


async def test_many_share_one_fsync(world, autojump_clock):
    async with world.device() as device:
        await device.log(prediction())  # the segment's header and folder are behind us
        before = world.syncs.count
        receipts = await device.log_many(predictions(100))
        assert world.syncs.count == before + 1
        assert [receipt.seq for receipt in receipts] == list(range(2, 102))
        assert await device.log_many([]) == ()


async def test_a_call_that_can_never_fit_is_refused_at_once_and_names_the_setting(world, autojump_clock):
    many = [large_prediction(number) for number in range(45)]
    async with world.device(buffer_max_size_mb=16) as device:
        with trio.fail_after(1), pytest.raises(CallTooLarge, match=r"BUFFER_MAX_SIZE_MB=16\b.*several calls"):
            await device.log_many(many)
        assert device.status()["last_seq"] == 0
        with trio.fail_after(1):
            receipts = await device.log_many(many[:9])
        assert [receipt.seq for receipt in receipts] == list(range(1, 10))


def large_prediction(number: int) -> Prediction:
    """One of some 120 KB."""
    return prediction(number, detections=(Detection("scratch", 0.25, (1.0, 2.0, 3.0, 4.0)),) * 1_900)


async def test_a_bad_prediction_is_refused_by_name_and_its_group_with_it(world, autojump_clock):
    async with world.device() as device:
        with pytest.raises(WireError, match=r"confidence_scores\[0\]"):
            await device.log(prediction(confidence_scores=(1.5,)))
        with pytest.raises(WireError, match="image_id"):
            await device.log_many([prediction(), prediction(image_id="")])
        assert device.status()["last_seq"] == 0
        assert (await device.log(prediction())).seq == 1
    assert world.rows() == {1: "sent"}


# --- stopping


async def test_last_partial_batch_is_offered_once_and_confirmed_before_the_block_ends(world, autojump_clock):
    async with world.device() as device:
        await until(1.0)
        await device.log_many(predictions(5))
    assert trio.current_time() == 1.0
    assert [(post.at, post.seqs) for post in world.wire.posts] == [(1.0, (1, 2, 3, 4, 5))]
    assert set(world.rows().values()) == {"sent"}
    assert device.status()["sent"] == 5


async def test_last_batch_is_offered_only_once_when_the_cloud_does_not_answer_it(world, autojump_clock):
    async with world.device() as device:
        await until(1.0)
        world.wire.up = False
        await device.log_many(predictions(5))
    assert trio.current_time() == 1.0
    assert world.wire.offers == [1.0]
    assert set(world.rows().values()) == {"pending"}


async def test_stop_into_a_black_hole_ends_with_the_grace_and_all_is_on_the_disk(world, autojump_clock):
    async with world.device(shutdown_grace_seconds=8.0) as device:
        await until(1.0)
        world.wire.silent = True
        await device.log_many(predictions(40))
        await until(2.0)
    assert trio.current_time() == 2.0 + 8.0 - FLUSH_RESERVE_S
    assert world.rows() == dict.fromkeys(range(1, 41), "pending")
    assert not list((world.folder / "buffer-journal").iterdir())


async def test_skipping_the_network_ends_at_once_and_all_is_on_the_disk(world, autojump_clock):
    async with world.device(shutdown_grace_seconds=60.0) as device:
        await until(1.0)
        world.wire.silent = True
        await device.log_many(predictions(40))
        await until(2.0)
        device.skip_network()
    assert trio.current_time() == 2.0
    assert world.rows() == dict.fromkeys(range(1, 41), "pending")


async def test_after_the_end_nothing_is_accepted(world, autojump_clock):
    async with world.device() as device:
        pass
    with pytest.raises(PipelineClosed):
        await device.log(prediction())
    with pytest.raises(PipelineClosed):
        await device.process_image(b"")
    assert world.rows() == {}


async def test_who_waits_for_room_is_told_at_the_end_that_nothing_was_accepted(world, autojump_clock, monkeypatch):
    def full(store: Store, entries: Any) -> Any:
        raise BufferFull("no room")

    told: list[int] = []

    async def log(device: Pipeline, number: int) -> None:
        with pytest.raises(PipelineClosed):
            await device.log(prediction(number))
        told.append(number)

    monkeypatch.setattr(Store, "accept_in_journal", full)
    async with trio.open_nursery() as outside:
        async with world.device(shutdown_grace_seconds=5.0) as device:
            for number in range(100):  # more than fit into the inbox
                outside.start_soon(log, device, number)
            await until(3.2)
            assert "no room" in device.status()["trouble"]
            assert told == []
        assert trio.current_time() == pytest.approx(3.2 + 5.0 - 2.5, abs=1e-9), (
            "half of a short grace is kept for the disk"
        )
    assert sorted(told) == list(range(100))
    assert world.rows() == {}


async def test_full_is_no_longer_said_once_there_is_room_though_nobody_asks_for_it(world, autojump_clock, monkeypatch):
    def full(store: Store, entries: Any) -> Any:
        raise BufferFull("no room")

    async with world.device(buffer_when_full=WhenFull.DROP_NEWEST) as device:
        await until(0.5)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "accept_in_journal", full)
            assert not (await device.log(prediction())).accepted
        assert "no room" in device.status()["trouble"]
        await until(2.5)
        assert device.status()["trouble"] == ""


async def test_who_waits_for_an_image_is_told_at_the_end(world, autojump_clock, monkeypatch):
    """A disk that takes nothing keeps the answer back; the end of the device must not leave the asker waiting."""
    told: list[str] = []

    def full(store: Store, entries: Any) -> Any:
        raise BufferFull("no room")

    async def ask(device: Pipeline, name: str) -> None:
        with pytest.raises(PipelineClosed):
            await device.process_image(np.zeros((4, 6, 3), np.uint8), image_id=name)
        told.append(name)

    monkeypatch.setattr(Store, "accept_in_journal", full)
    with trio.fail_after(100):
        async with trio.open_nursery() as outside, world.device() as device:
            outside.start_soon(ask, device, "part-1")
            await until(3.0)
            assert told == []
    assert told == ["part-1"]


# --- restarts


async def test_switched_off_delivery_keeps_everything_until_it_is_on_again(world, autojump_clock):
    async with world.device(cloud_logging_enabled=False) as device:
        await device.log_many(predictions(50))
        await until(100.0)
        assert device.status()["pending"] == 50
    assert world.wire.attempts == []
    assert world.rows() == dict.fromkeys(range(1, 51), "pending")
    async with world.device() as device:
        await until(110.0)
        assert device.status()["pending"] == 0
    assert [item["seq"] for item in await world.stored()] == list(range(1, 51))


async def test_one_buffer_serves_one_process(world, autojump_clock):
    async with world.device() as device:
        with pytest.raises(StoreLocked, match="has this buffer open"):
            async with world.device():
                pass
        assert (await device.log(prediction())).durable


# --- the disk


def fail_until(time: float, method: str, patch: pytest.MonkeyPatch) -> None:
    """A method of the store that raises `DiskTrouble` up to a moment."""
    works = getattr(Store, method)

    def may_fail(store: Store, *args: Any, **how: Any) -> Any:
        if trio.current_time() < time:
            raise DiskTrouble("disk I/O error")
        return works(store, *args, **how)

    patch.setattr(Store, method, may_fail)


async def test_a_backlog_page_that_the_disk_refuses_is_asked_for_again(world, autojump_clock, monkeypatch):
    """No release, no new start and no change of the link may be needed to bring the backlog home."""
    async with world.device(cloud_logging_enabled=False) as device:
        await device.log_many(predictions(50))
    fail_until(20.0, "pending", monkeypatch)
    async with world.device() as device:
        await until(15.0)
        assert "disk I/O error" in device.status()["trouble"]
        assert device.status()["pending"] == 50
        await until(25.0)
        assert device.status()["pending"] == 0


async def test_what_was_released_into_a_failing_disk_is_asked_for_once_that_is_written_down(
    world, autojump_clock, monkeypatch
):
    """The outcome waits for the disk, while accepts go through: its numbers must not wait for another outage."""
    world.wire.up = False
    fail_until(20.5, "settle", monkeypatch)
    async with world.device() as device:
        await device.log_many(predictions(40))
        await until(5.0)
        world.wire.up = True
        await until(20.1)  # between two strokes of tidying: the accept finds a disk in order
        await device.log(prediction(40))
        await until(60.0)
        assert device.status()["pending"] == 0


async def test_trouble_that_is_over_is_not_shown_any_longer_even_if_nothing_new_is_accepted(
    world, autojump_clock, monkeypatch
):
    async with world.device() as device:
        await device.log_many(predictions(5))
        await device.cells.books.wait_value(lambda books: books.pending == 0)
        fail_until(20.0, "tidy", monkeypatch)
        await until(15.0)
        assert "disk I/O error" in device.status()["trouble"]
        await until(25.0)
        assert device.status()["trouble"] == ""


# --- vision


async def test_process_image_tells_the_documented_keys_and_lands_in_the_cloud(world, autojump_clock):
    async with world.device() as device:
        result = await device.process_image(np.zeros((4, 6, 3), np.uint8), image_id="part-7")
        assert result == {
            "image_id": "part-7",
            "detections": [{"class": "scratch", "confidence": 0.9, "bbox": [1.0, 2.0, 3.0, 4.0]}],
            "defect_detected": True,
            "inference_time_ms": 2.5,
            "logged_to_cloud": True,
        }
        with pytest.raises(FrameUnreadable):
            await device.process_image(b"no image at all")
        assert device.status()["frames"] == 1
    (stored,) = await world.stored()
    assert (stored["image_id"], stored["seq"], stored["model_name"]) == ("part-7", 1, "fake")
    assert stored["detections"] == result["detections"]


# --- what it tells


def says(status: Any, **expected: Any) -> None:
    assert {name: status[name] for name in expected} == expected


async def test_status_has_the_documented_keys_and_they_are_right(world, autojump_clock):
    async with world.device(buffer_max_size_mb=100) as device:
        await device.log_many(predictions(32))
        await until(5.0)
        world.wire.up = False
        await device.log_many(predictions(3))
        await until(50.0)
        status = device.status()
        # The account of the buffer, and that of the cloud logging, as the documents name them.
        says(status, pending=3, sent=32, failed=0, capacity_mb=100.0, is_connected=False)
        says(status, recovery_active=False, recovery_count=0, retried=0, buffered=3)
        assert status["capacity_percent"] == pytest.approx(status["size_mb"])
        assert status["size_mb"] > 0
        # And more.
        assert (status["edge_device_id"], status["stream_id"], status["last_seq"]) == (DEVICE, "stream", 35)
        assert status["oldest_pending_age_s"] == 45.0
        assert status["link"]["state"] == "down"
        assert "refused" in status["last_error"]
        error_at = trio.current_time() - status["last_error_age_s"]
        assert 15.0 <= error_at < 50.0, "the batch of three closes ten seconds after its first"
        world.wire.up = True
        await until(100.0)
        says(device.status(), last_error=status["last_error"], last_error_age_s=100.0 - error_at)
        says(device.status(), pending=0, sent=35, is_connected=True, recovery_count=1, recovery_active=False)
        msgspec.json.encode(device.status())


async def test_a_plain_client_with_curl_lives_beside_a_device(world, autojump_clock):
    async with world.device() as device:
        await device.log(prediction(1))
        fields = msgspec.json.decode(msgspec.json.encode(prediction(2)))
        plain = {"edge_device_id": "by-hand", "predictions": [fields]}
        answer = await world.web.post("/log", json=plain)
        assert answer.status_code == 200
        assert (answer.json()["accepted"], answer.json()["delivery"]) == (1, "at-least-once")
    (found,) = await world.stored("by-hand")
    says(found, **fields)
    assert [item["image_id"] for item in await world.stored()] == ["frame_1"]


# --- defects


class Defect(Exception):
    pass


@pytest.mark.parametrize(
    "where",
    [
        (batcher, "_gather"),
        (uplink._Uplink, "_post"),
        (recovery._Recovery, "_drain"),
        (connectivity._Watch, "_probe"),
        (monitor, "holding"),
    ],
    ids=lambda where: where[0].__name__,
)
async def test_a_defect_in_an_actor_ends_the_block_loudly_and_loses_nothing(world, autojump_clock, monkeypatch, where):
    def fail(*args: Any, **knobs: Any) -> Any:
        raise Defect

    async def live() -> None:
        async with world.device() as device:
            await until(1.0)
            await device.log_many(predictions(40))
            monkeypatch.setattr(*where, fail)
            world.wire.up = False
            await until(100.0)
            world.wire.up = True
            await until(200.0)

    with pytest.raises(ExceptionGroup) as caught:
        await live()
    assert caught.group_contains(Defect)
    assert set(world.rows()) == set(range(1, 41))


async def test_an_error_of_the_caller_leaves_what_was_accepted_on_the_disk(world, autojump_clock):
    async def live() -> None:
        async with world.device() as device:
            await device.log_many(predictions(5))
            raise Defect

    with pytest.raises(ExceptionGroup) as caught:
        await live()
    assert caught.group_contains(Defect)
    assert set(world.rows()) == {1, 2, 3, 4, 5}
