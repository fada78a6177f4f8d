"""buffer_writer: nothing leaves before it is durable, nothing is in flight twice, nothing waits for the network."""

import sqlite3
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_util import AsyncValue

from actors import buffer_writer, groups
from actors.messages import Accept, Books, Entry, Fate, Outcome, Page, PageRequest, Receipt
from actors.ports.disk import Disk, look_over
from actors.ports.opening import DiskTrouble, StoreOptions
from actors.ports.store import Store
from actors.reply import Reply
from actors.seqs import Stored
from actors.settings import WhenFull
from actors.strokes import PATIENCE_S
from actors.tail import json_bytes


@attrs.define
class Lane:
    """The way to the disk, as a switch."""

    broken: bool = False

    async def __call__(self, function, /, *args, **kwargs):
        await trio.lowlevel.checkpoint()
        if self.broken and getattr(function, "__name__", "") != "close":
            raise DiskTrouble("Read-only file system")
        return function(*args, **kwargs)


@attrs.define
class Writer:
    """The actor with a test at the other end of each of its channels."""

    disk: Disk
    books: AsyncValue[Books]
    accepts: trio.MemorySendChannel[Accept]
    control: trio.MemorySendChannel[PageRequest | Outcome]
    stored: trio.MemoryReceiveChannel[Stored]
    nudges: trio.MemoryReceiveChannel[None]

    async def log(self, *bodies: bytes) -> tuple[Receipt, ...]:
        reply = Reply[tuple[Receipt, ...]]()
        await self.accepts.send(Accept(tuple(Entry("frame", 1.0, body) for body in bodies), reply))
        return await reply.wait()

    async def page(self, after: int = 0, records_max: int = 100) -> Page:
        reply = Reply[Page]()
        await self.control.send(PageRequest(after, records_max, 1 << 20, reply))
        return await reply.wait()

    @property
    def store(self) -> Store:
        assert self.disk.store
        return self.disk.store

    def stop(self) -> None:
        self.accepts.close()
        self.control.close()


def body(number: int = 0, size: int = 20) -> bytes:
    return b'{"image_id":"frame_%d","timestamp":1.0,"pad":"%s"}' % (number, b"x" * size)


@attrs.define
class Syncs:
    """The journal's fsync, as a switch and a counter."""

    count: int = 0
    broken: bool = False

    def __call__(self, fd: int) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.count += 1


def start(
    nursery: trio.Nursery,
    folder: Path,
    *,
    sync: Syncs | None = None,
    live: int = 100,
    when_full: WhenFull = WhenFull.BLOCK,
    capacity_bytes: int = 64 << 20,
    group_min: int = 1,
    group_wait_s: float = 0.1,
    lane: Lane | None = None,
    accept_lane: Lane | None = None,
    opened: bool = True,
) -> Writer:
    options = StoreOptions(
        db_path=folder / "buffer.db",
        capacity_bytes=capacity_bytes,
        cleanup_days=7,
        journal=True,
        now=lambda: 1_000.0 + trio.current_time(),
        new_id=lambda _: "stream",
        sync=sync or Syncs(),
    )
    open_store = partial(Store.open, "cam", options)
    disk = Disk(open_store() if opened else None, open_store, lane or Lane(), accept_lane or lane or Lane())
    accepts_in, accepts = trio.open_memory_channel[Accept](64)
    control_in, control = trio.open_memory_channel[PageRequest | Outcome](64)
    stored, stored_out = trio.open_memory_channel[Stored](live)
    nudges, nudges_out = trio.open_memory_channel[None](1)
    books = AsyncValue(Books())
    nursery.start_soon(
        partial(
            buffer_writer.run,
            accepts,
            control,
            stored,
            nudges,
            disk=disk,
            books=books,
            when_full=when_full,
            group_min=group_min,
            group_wait_s=group_wait_s,
        )
    )
    return Writer(disk, books, accepts_in, control_in, stored_out, nudges_out)


async def test_receipt_comes_after_the_sync_and_carries_the_number(folder, autojump_clock):
    sync = Syncs()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, sync=sync)
        before = sync.count
        assert await writer.log(body()) == (Receipt("stream", 1, durable=True),)
        assert sync.count > before
        assert (await writer.stored.receive()).seq == 1
        writer.stop()


async def test_what_waits_shares_one_sync(folder, autojump_clock):
    sync = Syncs()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, sync=sync)
        await writer.log(body())
        before = sync.count
        async with trio.open_nursery() as callers:
            for number in range(50):
                callers.start_soon(writer.log, body(number))
        assert sync.count - before <= 2
        assert writer.books.value.last_seq == 51
        writer.stop()


async def test_journal_that_cannot_be_written_leaves_the_commits_to_sqlite(folder, autojump_clock):
    """Receipts stay durable, the state is shown, and the journal takes over again by itself."""
    sync = Syncs()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, sync=sync)
        sync.broken = True
        assert await writer.log(body()) == (Receipt("stream", 1, durable=True),)
        assert (await writer.stored.receive()).seq == 1
        assert "No space left" in writer.books.value.degraded
        with sqlite3.connect(folder / "buffer.db") as connection:
            assert connection.execute("SELECT id FROM prediction_buffer").fetchall() == [(1,)]
        connection.close()
        sync.broken = False
        await trio.sleep(1.5)
        assert await writer.log(body()) == (Receipt("stream", 2, durable=True),)
        assert writer.books.value.degraded == ""
        assert len(list((folder / "buffer-journal").iterdir())) == 1
        writer.stop()


async def test_database_damaged_while_running_is_replaced_and_nothing_is_lost(folder, autojump_clock):
    """The live stream goes on, what reads is saved, and the journal gives back what only it holds."""
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0)
        for _ in range(40):
            await writer.log(*(body(number, 300) for number in range(50)))
        await trio.sleep(20)
        page = await writer.page(records_max=10)
        await writer.control.send(Outcome(Fate.SENT, tuple(record.seq for record in page.records)))
        writer.store._buffer.checkpoint(wait=True)
        writer.store._buffer._connection.execute("PRAGMA shrink_memory")
        database = folder / "buffer.db"
        with database.open("r+b") as file:
            file.seek(40 * 4096)
            file.write(b"\xa5" * 4096 * 60)
        await writer.log(body())
        await trio.sleep(20)
        found: set[int] = set()
        after = 0
        while not (page := await writer.page(after, 500)).exhausted:
            found.update(record.seq for record in page.records)
            after = page.cursor
        assert found >= set(range(11, 2002)), "all that was not delivered is still pending"
        assert (await writer.log(body()))[0].seq == 2002
        assert list(folder.glob("buffer.db.corrupt-*"))
        writer.stop()


async def test_group_waits_for_company_but_not_longer_than_told(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, group_min=3, group_wait_s=0.1)
        began = trio.current_time()
        await writer.log(body())
        assert trio.current_time() - began == pytest.approx(0.1)
        began = trio.current_time()
        await writer.log(body(), body(), body())
        assert trio.current_time() == began
        writer.stop()


async def test_full_live_lane_never_holds_up_an_accept(folder, autojump_clock):
    """The network's queue is full: accepts go on at once, and the rest comes as backlog, each number once."""
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=5)
        began = trio.current_time()
        for number in range(20):
            await writer.log(body(number))
        assert trio.current_time() == began
        await writer.nudges.receive()
        page = await writer.page()
        assert [record.seq for record in page.records] == list(range(6, 21))
        live = [writer.stored.receive_nowait().seq for _ in range(5)]
        assert live == [1, 2, 3, 4, 5]
        writer.stop()


async def test_a_number_is_never_in_two_lanes_at_once(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=2)
        await writer.log(*(body(number) for number in range(6)))
        first = await writer.page(records_max=2)
        assert first.records == ()
        assert not first.exhausted
        second = await writer.page(after=first.cursor)
        assert [record.seq for record in second.records] == [3, 4, 5, 6]
        assert (await writer.page()).records == (), "all pending numbers are in flight"
        await writer.control.send(Outcome(Fate.RELEASED, (4, 5)))
        assert [record.seq for record in (await writer.page()).records] == [4, 5]
        await writer.control.send(Outcome(Fate.SENT, (4, 5)))
        assert (await writer.page()).records == ()
        assert writer.books.value.pending == 4
        writer.stop()


async def test_pages_carry_losses_until_they_are_confirmed(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0)
        await writer.log(body())
        writer.store.evict()
        page = await writer.page()
        assert [(loss.from_seq, loss.to_seq, loss.reason) for loss in page.losses] == [(1, 1, "evicted")]
        assert (await writer.page(after=1)).losses == ()
        await writer.control.send(Outcome(Fate.SENT, (), losses=page.losses))
        assert (await writer.page()).losses == ()
        writer.stop()


async def test_page_that_met_damage_tells_at_once_what_it_has_cost(folder, autojump_clock):
    """Whoever waits for the backlog to be empty must not find it empty while a loss is still untold."""
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0)
        await writer.log(body(1), body(2), body(3))
        assert len((await writer.page(records_max=1)).records) == 1
        with sqlite3.connect(folder / "buffer.db") as connection:
            connection.execute("UPDATE buffer_predictions SET prediction_data = '{}' WHERE id = 3")
        connection.close()
        page = await writer.page(after=1)
        assert [record.seq for record in page.records] == [2]
        assert [(loss.from_seq, loss.to_seq, loss.reason) for loss in page.losses] == [(3, 3, "bad_sector")]
        writer.stop()


async def fill(writer: Writer) -> list[Receipt]:
    """A device that keeps logging; the receipts so far are in the list that it returns at once."""
    receipts: list[Receipt] = []
    for _ in range(3_000):
        with trio.move_on_after(2):
            receipts.extend(await writer.log(body(size=300)))
            continue
        break
    return receipts


async def test_block_makes_accepts_wait_until_a_delivery_makes_room(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0, capacity_bytes=400_000)
        receipts = await fill(writer)
        assert 200 < len(receipts) < 3_000
        assert all(receipt.durable for receipt in receipts)
        assert "buffer full" in writer.books.value.trouble
        page = await writer.page(records_max=1000)
        await writer.control.send(Outcome(Fate.SENT, tuple(record.seq for record in page.records)))
        with trio.fail_after(5):
            await writer.log(body())
        writer.stop()


async def test_callers_that_pile_up_before_a_full_disk_never_become_a_group_larger_than_the_room_there_is():
    """A group is accepted whole or not at all: one that outgrows the smallest buffer would wait for ever."""
    accepts_in, accepts = trio.open_memory_channel[Accept](64)
    waiting = [Accept((Entry("frame", 1.0, body(size=100_000)),)) for _ in range(64)]
    for accept in waiting[1:]:
        accepts_in.send_nowait(accept)
    group, entries = await groups.gather(waiting[0], accepts, 1, 0.0)
    assert len(group) == len(entries) == groups.GROUP_BYTES_MAX // 100_000 + 1
    assert 3 * json_bytes(entries) < 16 << 20


async def test_drop_oldest_never_waits_and_buries_what_it_dropped(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0, capacity_bytes=400_000, when_full=WhenFull.DROP_OLDEST)
        receipts = await fill(writer)
        assert [receipt.seq for receipt in receipts] == list(range(1, 3_001))
        losses = (await writer.page()).losses
        assert losses[0].from_seq == 1
        assert {loss.reason for loss in losses} == {"evicted"}
        gone = sum(loss.to_seq - loss.from_seq + 1 for loss in losses)
        assert gone + writer.store.pending_count == 3_000, "every number is pending or explained"
        on_disk = sum(file.stat().st_size for file in folder.rglob("*"))
        assert on_disk <= 420_000
        writer.stop()


async def test_drop_newest_turns_away_with_a_receipt_that_says_so(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0, capacity_bytes=400_000, when_full=WhenFull.DROP_NEWEST)
        receipts = await fill(writer)
        kept = [receipt for receipt in receipts if receipt.durable]
        assert [receipt.seq for receipt in kept] == list(range(1, len(kept) + 1))
        assert {receipt.seq for receipt in receipts if not receipt.durable} == {None}
        assert writer.books.value.turned_away == 3_000 - len(kept)
        writer.stop()


@attrs.define
class HungLane(Lane):
    """SQLite's lock is with another process: whoever wants it waits."""

    free: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self, function, /, *args, **kwargs):
        await self.free.wait()
        return await super().__call__(function, *args, **kwargs)


async def test_accepts_never_wait_for_whoever_holds_the_lock_of_sqlite(folder, autojump_clock):
    """The journal carries what SQLite does not take; one patience for it in all, then none, until it is back."""
    lane = HungLane()
    lane.free.set()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=lane, accept_lane=Lane(), live=0)
        await writer.log(body())
        lane.free = trio.Event()
        began = trio.current_time()
        for _ in range(100):
            receipts = await writer.log(*(body() for _ in range(100)))
            assert all(receipt.durable for receipt in receipts)
        assert trio.current_time() - began <= PATIENCE_S
        assert writer.store.held_count > 9_000
        lane.free.set()
        await trio.sleep(2)
        assert writer.store.held_count == 0
        assert writer.books.value.pending == 10_001
        assert writer.books.value.degraded == ""
        writer.stop()


async def test_rows_move_to_sqlite_beside_the_accepts(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, live=0)
        for _ in range(30):
            await writer.log(*(body() for _ in range(100)))
        await wait_all_tasks_blocked()
        assert writer.store.held_count < 1_000
        writer.stop()


async def test_stop_walks_down_and_leaves_a_clean_disk(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        await writer.log(*(body(number) for number in range(10)))
        writer.accepts.close()
        await wait_all_tasks_blocked()
        assert [record.seq async for record in writer.stored] == list(range(1, 11))
        assert len([nudge async for nudge in writer.nudges]) <= 1, "the one of the start"
        await writer.control.send(Outcome(Fate.SENT, tuple(range(1, 8))))
        writer.control.close()
    assert list((folder / "buffer-journal").iterdir()) == []
    assert writer.store.pending_count == 3


async def test_cancelled_writer_still_flushes(folder, autojump_clock):
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        await writer.log(*(body(number) for number in range(10)))
        assert list((folder / "buffer-journal").iterdir()) != []
        nursery.cancel_scope.cancel()
    assert list((folder / "buffer-journal").iterdir()) == []


async def test_no_number_leaves_before_the_stream_it_belongs_to_is_known(folder, autojump_clock):
    """The uplink frames a batch with the stream in the books: a page must not overtake a slow first clean-up."""

    class SlowTidy(Lane):
        async def __call__(self, function, /, *args, **kwargs):
            if look_over in args:
                await trio.sleep_forever()
            return await super().__call__(function, *args, **kwargs)

    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder)
        await writer.log(body())
        writer.stop()
    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, lane=SlowTidy())
        assert [record.seq for record in (await writer.page()).records] == [1]
        assert writer.books.value.stream_id == "stream"
        nursery.cancel_scope.cancel()


async def test_what_a_page_took_before_its_receipt_was_out_goes_by_one_lane_only(folder, autojump_clock):
    """The journal's thread is done, and the loop does not know yet: a page may find the rows first."""

    class SlowToReturn(Lane):
        async def __call__(self, function, /, *args, **kwargs):
            done = await super().__call__(function, *args, **kwargs)
            await trio.sleep(0.1)
            return done

    async with trio.open_nursery() as nursery:
        writer = start(nursery, folder, accept_lane=SlowToReturn())
        nursery.start_soon(writer.log, body(1), body(2))
        await trio.sleep(0.05)
        page = await writer.page(records_max=1)
        assert [record.seq for record in page.records] == [1]
        await trio.sleep(0.1)
        assert writer.stored.receive_nowait().seq == 2
        with pytest.raises(trio.WouldBlock):
            writer.stored.receive_nowait()
        assert writer.books.value.in_flight == 2
        await writer.control.send(Outcome(Fate.SENT, (1, 2)))
        await wait_all_tasks_blocked()
        assert (writer.books.value.in_flight, writer.books.value.pending) == (0, 0)
        writer.stop()
