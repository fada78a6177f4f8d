"""buffer_writer while the disk refuses: memory keeps what it can, outcomes wait, and the last moment is used."""

from types import SimpleNamespace

import pytest
import trio
from structlog.testing import capture_logs

from actors import buffer_writer
from actors.messages import Fate, Outcome, Receipt
from actors.ports.buffer import Buffer
from actors.ports.opening import DiskTrouble
from actors.ports.sqlite import BufferUnwritable
from actors.ports.store import Store
from actors.settings import WhenFull
from actors.tail import TAIL_MAX
from tests.actors.test_buffer_writer import Lane, Syncs, body, start


async def test_without_any_disk_memory_delivers_live_and_says_that_it_is_not_durable(folder, autojump_clock):
    lane = Lane()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane)
        await writer.log(body())
        lane.broken = True
        began = trio.current_time()
        receipts = await writer.log(body(1), body(2), body(3))
        assert trio.current_time() == began, "vision does not wait for a dead disk"
        assert receipts == (Receipt("stream", None, durable=False),) * 3
        assert writer.books.value.in_memory == 3
        assert "Read-only" in writer.books.value.trouble
        live = [writer.stored.receive_nowait() for _ in range(4)]
        assert [record.payload for record in live[1:]] == [body(1), body(2), body(3)], "no number without a disk"
        await writer.control.send(Outcome(Fate.SENT, (live[1].seq,)))
        await writer.control.send(Outcome(Fate.RELEASED, (live[2].seq, live[3].seq), "timed out"))
        page = await writer.page()
        assert [record.payload for record in page.records] == [body(2), body(3)]
        await writer.control.send(Outcome(Fate.RELEASED, tuple(record.seq for record in page.records)))
        lane.broken = False
        await trio.sleep(1.5)
        assert writer.books.value.in_memory == 0
        assert writer.books.value.trouble == ""
        assert [record.seq for record in (writer.stored.receive_nowait(), writer.stored.receive_nowait())] == [2, 3]
        assert (await writer.log(body())) == (Receipt("stream", 4, durable=True),)
        writer.stop()


async def test_outcomes_told_to_a_dead_disk_are_written_when_it_comes_back(folder, autojump_clock):
    lane = Lane()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane)
        await writer.log(body(), body())
        lane.broken = True
        await writer.control.send(Outcome(Fate.SENT, (1, 2)))
        await trio.sleep(5)
        assert writer.books.value.pending == 2
        assert (await writer.page()).records == (), "still in flight: nothing goes out twice"
        lane.broken = False
        await trio.sleep(1.5)
        assert writer.books.value.pending == 0
        assert writer.books.value.in_flight == 0
        writer.stop()


@pytest.mark.parametrize("reserve_left", [False, True])
async def test_full_disk_is_in_trouble_until_it_takes_predictions_again(
    folder, autojump_clock, monkeypatch, reserve_left
):
    """Not only until the next look: for that one nothing needs to be written."""

    def refuse(*_: object) -> None:
        raise DiskTrouble(f"{folder}: the disk is full")

    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        await writer.log(body())
        if reserve_left:
            monkeypatch.setattr(Store, "accept_in_journal", refuse)
        else:
            writer.store._reserve.release()  # given up for an acknowledgement
        monkeypatch.setattr("actors.ports.reserve.os.statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))
        with capture_logs() as told:
            assert await writer.log(body(1)) == (Receipt("stream", None, durable=False),)
            _, kept = [writer.stored.receive_nowait() for _ in range(2)]
            await trio.sleep(3)  # a lane has it in its hands
            assert writer.books.value.trouble == f"{folder}: the disk is full"
            await writer.control.send(Outcome(Fate.SENT, (kept.seq,)))
            await trio.sleep(3)
            assert writer.books.value.in_memory == 0
            assert writer.books.value.trouble == f"{folder}: the disk is full"
            monkeypatch.undo()
            await trio.sleep(1.5)
        assert writer.books.value.trouble == ""
        assert [event["event"] for event in told] == ["disk_trouble", "disk_trouble_over"]
        assert await writer.log(body()) == (Receipt("stream", 2, durable=True),)
        writer.stop()


async def test_trouble_that_was_none_of_room_ends_with_the_next_look_also_on_a_disk_with_little_room(
    folder, autojump_clock, monkeypatch
):
    """Somebody's own `sqlite3` held the database for a moment, say."""

    def refuse(*_: object) -> None:
        raise DiskTrouble("database is locked")

    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        await writer.log(body())
        monkeypatch.setattr("actors.ports.reserve.os.statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "accept_in_journal", refuse)
            await writer.log(body(1))
            assert writer.books.value.trouble == "database is locked"
        _, kept = [writer.stored.receive_nowait() for _ in range(2)]
        await writer.control.send(Outcome(Fate.SENT, (kept.seq,)))  # so that there is nothing to save
        await trio.sleep(3)
        assert writer.books.value.trouble == ""
        writer.stop()


async def test_read_only_disk_is_in_trouble_once_however_often_a_prediction_comes(folder, autojump_clock, monkeypatch):
    """What memory keeps is delivered before the next look, which then finds nothing to write, and all well."""

    def refuse(*_: object, **__: object) -> None:
        raise BufferUnwritable("attempt to write a readonly database")

    sync = Syncs()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, sync=sync)
        sync.broken = True  # before a segment is begun, so that a look has none to retire
        monkeypatch.setattr(Buffer, "insert", refuse)
        with capture_logs() as told:
            for _ in range(5):
                assert await writer.log(body(1)) == (Receipt("stream", None, durable=False),)
                await writer.control.send(Outcome(Fate.SENT, (writer.stored.receive_nowait().seq,)))
                await trio.sleep(3)
                assert (writer.books.value.in_memory, bool(writer.books.value.trouble)) == (0, True)
            sync.broken = False
            monkeypatch.undo()
            await trio.sleep(1.5)
            assert writer.books.value.trouble == "", "nobody has logged since"
        assert [event["event"] for event in told] == ["disk_trouble", "disk_trouble_over"]
        writer.stop()


async def test_trouble_ends_once_what_memory_kept_is_saved_also_where_sqlite_alone_takes_it(
    folder, autojump_clock, monkeypatch
):
    def refuse(*_: object, **__: object) -> None:
        raise BufferUnwritable("attempt to write a readonly database")

    sync = Syncs()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, sync=sync, live=0)
        sync.broken = True
        with monkeypatch.context() as patch:
            patch.setattr(Buffer, "insert", refuse)
            await writer.log(body())
            await trio.sleep(3)
            assert (writer.books.value.in_memory, bool(writer.books.value.trouble)) == (1, True)
        await trio.sleep(1.5)
        assert writer.books.value.in_memory == 0
        assert writer.books.value.degraded
        assert writer.books.value.trouble == "", "nobody has logged since"
        sync.broken = False
        writer.stop()


async def test_account_that_the_disk_does_not_let_read_is_trouble_and_not_the_end(folder, autojump_clock, monkeypatch):
    usual, refused = Buffer.oldest_pending_at, True

    def read(buffer):
        if refused:
            raise BufferUnwritable("disk I/O error")
        return usual(buffer)

    monkeypatch.setattr(Buffer, "oldest_pending_at", read)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        assert (await writer.log(body())) == (Receipt("stream", 1, durable=True),)
        await trio.sleep(1.5)
        assert writer.books.value.trouble == "disk I/O error"
        refused = False
        await trio.sleep(1.5)
        assert (writer.books.value.trouble, writer.books.value.pending) == ("", 1)
        writer.stop()


@pytest.mark.parametrize(("when_full", "kept"), [(WhenFull.DROP_OLDEST, "newest"), (WhenFull.DROP_NEWEST, "oldest")])
async def test_memory_is_bounded_by_the_same_policy(folder, autojump_clock, when_full, kept):
    lane = Lane(broken=True)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, live=0, when_full=when_full)
        for number in range(TAIL_MAX + 10):
            (last,) = await writer.log(body(number))
        assert writer.books.value.in_memory == TAIL_MAX
        assert writer.books.value.turned_away == 10
        assert last.accepted is (kept == "newest")
        first = (await writer.page(records_max=1)).records[0]
        assert first.payload == (body(10) if kept == "newest" else body(0))
        lane.broken = False
        writer.stop()


async def test_full_memory_makes_block_wait(folder, autojump_clock):
    lane = Lane(broken=True)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, live=0)
        await writer.log(*(body() for _ in range(TAIL_MAX)))
        with trio.move_on_after(30) as patience:
            await writer.log(body())
        assert patience.cancelled_caught
        lane.broken = False
        await trio.sleep(3)
        assert writer.books.value.pending == TAIL_MAX + 1
        assert writer.books.value.in_memory == 0
        writer.stop()


async def test_device_starts_without_its_disk_and_opens_the_buffer_when_it_comes(folder, autojump_clock):
    (folder / "buffer.db").write_bytes(b"")
    lane = Lane(broken=True)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, opened=False)
        assert await writer.log(body()) == (Receipt("", None, durable=False),)
        lane.broken = False
        await trio.sleep(1.5)
        assert await writer.log(body()) == (Receipt("stream", 1, durable=True),)
        writer.stop()


async def test_without_a_buffer_what_memory_holds_is_pending(folder, autojump_clock):
    lane = Lane(broken=True)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, opened=False)
        await writer.log(body(), body())
        assert (writer.books.value.pending, writer.books.value.in_memory) == (2, 2)
        writer.stop()


async def test_memory_that_holds_more_than_a_buffer_has_room_for_is_saved_piece_by_piece(
    folder, autojump_clock, monkeypatch
):
    """All at once would never fit, and a stop would lose it."""
    monkeypatch.setattr(buffer_writer, "GROUP_BYTES_MAX", 30_000)
    async with trio.open_nursery() as nursery:
        lane = Lane(broken=True)
        writer = start(nursery, folder, live=0, capacity_bytes=1_000_000, lane=lane)
        receipts = [await writer.log(body(number, size=10_000)) for number in range(40)]
        assert not any(receipt.durable for (receipt,) in receipts)
        lane.broken = False
        await trio.sleep(10)
        assert writer.books.value.in_memory < 40, "as many as there is room for"
        with trio.move_on_after(30):
            while writer.books.value.in_memory:
                page = await writer.page(records_max=1000)
                await writer.control.send(Outcome(Fate.SENT, tuple(record.seq for record in page.records)))
                await trio.sleep(1)
        assert writer.books.value.in_memory == 0
        writer.stop()


async def test_what_memory_alone_holds_is_saved_at_the_last_moment(folder, autojump_clock):
    lane = Lane()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, live=0)
        await writer.log(body())
        lane.broken = True
        await writer.log(body())
        lane.broken = False
        writer.stop()
    assert writer.store.last_seq == 2


async def test_a_second_signal_saves_also_what_a_lane_had_in_its_hands(folder, autojump_clock):
    """The lanes are cancelled with it, and never tell what became of that."""
    lane = Lane()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane)
        await trio.sleep(0.5)
        lane.broken = True
        await writer.log(body(1), body(2))
        assert writer.books.value.in_flight == 2
        lane.broken = False
        nursery.cancel_scope.cancel()
    assert writer.store.last_seq == 2


async def test_a_disk_that_has_room_again_at_the_last_moment_is_used(folder, autojump_clock):
    """Nobody has looked since it was full."""
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0)
        await trio.sleep(0.5)
        writer.store._reserve.release()
        assert await writer.log(body()) == (Receipt("stream", None, durable=False),)
        writer.stop()
    assert writer.store.last_seq == 1


async def test_a_disk_that_came_at_the_last_moment_is_opened_for_what_memory_holds(folder, autojump_clock):
    (folder / "buffer.db").write_bytes(b"")
    lane = Lane(broken=True)
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, opened=False)
        assert await writer.log(body()) == (Receipt("", None, durable=False),)
        await trio.sleep(0.5)  # the writer's own try is over, and the next a while away
        lane.broken = False
        writer.stop()
    assert writer.store.last_seq == 1
