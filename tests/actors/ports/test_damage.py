"""What a start makes of every kind of damage: the good is saved, the bad set aside to the byte, the lost explained."""

import errno
import gc
import os
import shutil
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import google_crc32c
import pytest

from actors.ports.buffer import Buffer
from actors.ports.journal import encode_line, orphans
from actors.ports.opening import DiskTrouble, StoreLocked
from actors.ports.private import write_private
from actors.ports.rows import Row
from actors.ports.salvage import damage_marker, mark_damaged
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.ports.store import Store
from chaos.sim.oracle import handles_below
from cloud.wire import Loss, number_payload
from tests.actors.ports.stores import Disk, entries, sent, seqs_pending

PAGE_BYTES = 4096


@pytest.fixture
def world(folder: Path) -> Disk:
    (folder / "d").mkdir()
    return Disk(folder / "d", {})


def killed(world: Disk, count: int = 5) -> Path:
    """A store that was killed with its last predictions in the journal alone, `count` flushed before; its segment."""
    store = world.open()
    store.accept(entries(count))
    store.close()
    store = world.open()
    store.accept(entries(count))
    left = world.folder.with_name("killed")
    shutil.copytree(world.folder, left)
    store.close()
    world.folder = left
    return orphans(left / "buffer-journal")[0]


def set_aside(world: Disk) -> int:
    folder = world.folder / "buffer-quarantine"
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


def accounted(store: Store) -> set[int]:
    """Every number that is pending or explained; none is both."""
    pending = set(seqs_pending(store))
    buried = {seq for loss in store.losses() for seq in range(loss.from_seq, loss.to_seq + 1)}
    assert not pending & buried
    return pending | buried


def test_hole_told_by_a_replay_that_was_killed_hides_no_other_one(world, monkeypatch):
    """The tombstone is written before the first insert; in between the process dies, and then another line goes bad."""
    segment = killed(world)
    data = bytearray(segment.read_bytes())
    lines = data.splitlines(keepends=True)
    data[sum(map(len, lines[:4])) - 9] ^= 1  # 8, the third of the lines from 6 to 10
    segment.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(Buffer, "insert", Mock(side_effect=InterruptedError))
        with pytest.raises(DiskTrouble):
            world.open()
    world.folder = shutil.copytree(world.folder, world.folder.with_name("again"))
    data[sum(map(len, lines[:3])) - 9] ^= 1
    orphans(world.folder / "buffer-journal")[0].write_bytes(data)
    store = world.open()
    assert accounted(store) == set(range(1, 11))
    assert [(loss.from_seq, loss.to_seq) for loss in store.losses()] in ([(7, 8)], [(7, 7), (8, 8)])
    assert store.accept(entries(1))[0].seq == 11
    store.close()


def test_lost_number_at_the_end_is_counted_by_every_later_start(world):
    """Nothing but its tombstone speaks of it: whoever leaves that out counts one sent prediction too few."""
    segment = killed(world, 1)
    data = bytearray(segment.read_bytes())
    data[-9] ^= 1
    segment.write_bytes(data)
    store = world.open()
    store.settle([sent(1)])
    for _ in range(2):
        store = world.kill(store)
        assert (store.sent_count, store.pending_count) == (1, 0)
    store.close()


def test_segment_that_repeats_and_skips_gives_each_number_once_and_explains_the_gap(world):
    segment = killed(world)
    head, *lines = segment.read_bytes().splitlines(keepends=True)
    other = encode_line(
        7, payload := number_payload(7, b'{"image_id":"another","timestamp":1.0}'), google_crc32c.value(payload)
    )
    segment.write_bytes(head + lines[0] + lines[1] + lines[0] + other + lines[4])
    store = world.open()
    assert seqs_pending(store) == [1, 2, 3, 4, 5, 6, 7, 10]
    assert store.losses() == [Loss(8, 9, "bad_sector")]
    assert [bytes(record.payload) for record in store.pending(6, 1, 1 << 20)] == [
        number_payload(7, entries(2)[1].body)
    ], "the first line under a number holds"
    assert store.recovered.predictions == 3
    assert store.accept(entries(1))[0].seq == 11
    store.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"no segment at all", b"two lines\nof text\n", bytes(PAGE_BYTES), os.urandom(3_000), b"{}\n" * 40],
    ids=["empty", "newline", "torn", "text", "zeroes", "noise", "json"],
)
def test_foreign_file_among_the_segments_is_set_aside_to_the_byte(world, data):
    killed(world)
    foreign = world.folder / "buffer-journal" / "00000000000000000099-foreign.jsonl"
    foreign.write_bytes(data)
    store = world.open()
    assert seqs_pending(store) == list(range(1, 11))
    assert store.losses() == []
    assert store.recovered.bytes_set_aside == set_aside(world) == len(data)
    assert not foreign.exists()
    store.close()


def test_zeroed_page_of_a_segment_costs_its_own_lines_and_says_which(world):
    segment = killed(world, 200)
    data = segment.read_bytes()
    segment.write_bytes(data[:PAGE_BYTES] + bytes(PAGE_BYTES) + data[2 * PAGE_BYTES :])
    store = world.open()
    assert accounted(store) == set(range(1, 401))
    lost = sum(loss.to_seq - loss.from_seq + 1 for loss in store.losses())
    assert 0 < lost == store.recovered.lost < 60
    assert store.recovered.bytes_set_aside == set_aside(world) >= PAGE_BYTES
    store.close()


def test_missing_header_costs_nothing(world):
    segment = killed(world)
    segment.write_bytes(segment.read_bytes().partition(b"\n")[2])
    store = world.open()
    assert seqs_pending(store) == list(range(1, 11))
    assert store.recovered.lost == 0
    store.close()


def test_zeroed_page_of_the_database_is_replaced_and_what_reads_is_saved(world):
    store = world.open()
    store.accept(entries(900, size=400))
    store.close()
    database = world.folder / "buffer.db"
    data = database.read_bytes()
    at = data.index(b'{"seq":450,') // PAGE_BYTES * PAGE_BYTES
    database.write_bytes(data[:at] + bytes(PAGE_BYTES) + data[at + PAGE_BYTES :])
    store = world.open()
    with pytest.raises(BufferDamaged):
        seqs_pending(store)
    store.rebuild()
    saved = seqs_pending(store)
    assert len(saved) > 800
    assert (saved[0], saved[-1]) == (1, 900)
    assert store.accept(entries(1))[0].seq == 901
    store.close()


@pytest.mark.parametrize("bad", [{5}, {3, 7}], ids=["one", "two"])
def test_row_that_does_not_read_costs_none_of_its_neighbours(world, bad):
    """Each goes on on other pages, so that only the table leads to the whole of it."""
    store = world.open()
    store.accept(entries(9, size=6_000))
    store.close()
    database = world.folder / "buffer.db"
    data = bytearray(database.read_bytes())
    for seq in bad:
        payload = data.index(b'{"seq":%d,' % seq)
        head = next(at for at in range(payload - 1, 0, -1) if data[at] == payload - at)
        data[head : head + 2] = b"\xff\x00"  # it says of itself that it is longer than the row
    database.write_bytes(data)
    mark_damaged(database)
    store = world.open()
    assert set(seqs_pending(store)) == set(range(1, 10)) - bad
    assert store.losses() == [Loss(seq, seq, "bad_sector") for seq in sorted(bad)]
    store.close()


def test_page_of_an_index_that_does_not_read_costs_none_of_the_numbers_before_it(world):
    """Nothing leads to the rows any more: what the index names is looked for in the whole file."""
    store = world.open()
    store.accept(entries(900))
    store.close()
    database = world.folder / "buffer.db"
    with sqlite3.connect(database) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    connection.close()
    data = bytearray(database.read_bytes())
    index = (roots["prediction_buffer_pending"] - 1) * PAGE_BYTES
    assert data[index] == 2, "SQLite's mark of a page of an index that leads to others"
    last_page = int.from_bytes(data[index + 8 : index + 12])
    for page in (last_page, roots["buffer_predictions"]):
        data[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = bytes(PAGE_BYTES)
    database.write_bytes(data)
    mark_damaged(database)
    store = world.open()
    assert len(accounted(store) & set(range(1, 301))) == 300
    assert store.accept(entries(1))[0].seq == 901
    store.close()


def test_database_of_a_newer_version_is_kept_aside_whole(world):
    """What a newer Holdfast wrote stays as it was, for it; here its rows that read are saved."""
    store = world.open()
    store.accept(entries(5))
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = world.open()
    assert seqs_pending(store) == [1, 2, 3, 4, 5]
    assert "its format is 99" in store.recovered.buffer_set_aside
    (aside,) = (path for path in world.folder.glob("buffer.db.corrupt-*") if not path.name.endswith(("-wal", "-shm")))
    with sqlite3.connect(aside) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT count(*) FROM prediction_buffer").fetchone() == (5,)
    connection.close()
    store.close()


def test_disk_that_is_full_when_bad_bytes_are_set_aside_gives_up_its_reserve_and_starts(world, monkeypatch):
    """ENOSPC in the middle of a recovery: nothing is deleted, and the next try a second later has room."""
    segment = killed(world)
    data = bytearray(segment.read_bytes())
    data[data.index(b'"seq":8,"image_id"') + 12] ^= 1
    segment.write_bytes(data)
    reserve = world.folder / "buffer.db.reserve"
    assert reserve.exists()

    def write(path, data):
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write_private(path, data)

    monkeypatch.setattr("actors.ports.replay.write_private", write)
    with pytest.raises(DiskTrouble, match="No space left"):
        world.open()
    store = world.open()
    assert accounted(store) == set(range(1, 11))
    assert store.losses() == [Loss(8, 8, "bad_sector")]
    store.close()


@pytest.mark.process
def test_forked_child_may_not_write_and_does_not_keep_the_lock(world):
    store = world.open()
    store.accept(entries(2))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.accept(entries(1))
        except StoreLocked as exc:
            os.write(tell, str(exc).encode())
        else:
            os.write(tell, b"accepted")
        signal.pause()
        os._exit(0)
    try:
        assert b"forked" in os.read(told, 1_000)
        assert store.accept(entries(1))[0].seq == 3
        store.close()
        store = world.open()
        assert seqs_pending(store) == [1, 2, 3], "the child is alive, and the buffer opens"
        store.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


def test_schema_so_damaged_that_the_complaint_about_it_is_no_text_still_lets_the_device_start(folder):
    """SQLite quotes the damaged name, and Python raises UnicodeDecodeError over the quotation."""
    (folder / "d").mkdir(mode=0o700)
    world = Disk(folder / "d", {})
    store = world.open()
    store.accept(entries(3))
    store.close()
    database = world.folder / "buffer.db"
    name = b'ON "buffer_predictions" (id)'
    assert name in database.read_bytes()
    database.write_bytes(database.read_bytes().replace(name, name.replace(b"r", b"\xf2", 1)))
    store = world.open()
    assert store.recovered.buffer_set_aside
    assert (store.stream_id, seqs_pending(store)) == ("stream-1", [1, 2, 3])
    assert store.accept(entries(1))[0].seq == 4
    store.close()


@pytest.mark.parametrize("refused", ["checkpoint", "insert"])
def test_disk_that_refuses_the_new_database_leaves_no_file_open(world, monkeypatch, refused):
    """It is tried again every second: an open file more for each try, and the device has none left one day."""
    store = world.open()
    store.accept(entries(5))
    store.close()
    write_private(damage_marker(world.folder / "buffer.db"), b"", "ab")

    usual = getattr(Buffer, refused)

    def full(buffer: Buffer, *rows: Sequence[Row], **more: Any) -> object:
        if rows != ([],):  # what there is to save
            raise BufferUnwritable("database or disk is full")
        return usual(buffer, *rows, **more)

    monkeypatch.setattr(Buffer, refused, full)
    gc.disable()  # which may close some of them, some time
    try:
        with pytest.raises(DiskTrouble, match="full"):
            world.open()
        assert not handles_below(world.folder)
    finally:
        gc.enable()
    monkeypatch.undo()
    store = world.open()
    assert seqs_pending(store) == [1, 2, 3, 4, 5]
    store.close()


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_stop_tells_the_next_start_of_a_database_that_a_read_only_disk_did_not_let_it_replace(world, monkeypatch):
    store = world.open()
    store.accept(entries(3))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        with pytest.raises(DiskTrouble):
            store.rebuild()
    store.close()
    store = world.open()
    assert store.recovered.buffer_set_aside
    assert seqs_pending(store) == [1, 2, 3]
    store.close()


def test_stop_that_finds_a_damaged_database_on_a_read_only_disk_ends_in_order(world, monkeypatch):
    store = world.open()
    store.accept(entries(3))
    with monkeypatch.context() as patch:
        patch.setattr(Buffer, "insert", Mock(side_effect=BufferDamaged("malformed")))
        patch.setattr(Path, "touch", refuse)
        store.close()
    assert not handles_below(world.folder)
    store = world.open()
    assert seqs_pending(store) == [1, 2, 3]
    store.close()


@pytest.mark.parametrize("row", [9, 12, 15])
def test_a_page_that_cannot_be_is_damage_and_no_full_disk(world, row):
    """A bit flips in a row's length, and the row's rest is then on a page beyond all. SQLite calls that "full" too."""
    world.options = {"journal": False}
    store = world.open()
    for start in range(1, 17):
        store.accept(entries(1, size=150))
        store.settle([sent(start)])
    store.close()
    database = world.folder / "buffer.db"
    good = database.read_bytes()
    with sqlite3.connect(database) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'buffer_predictions'").fetchone()
    connection.close()
    page = (root - 1) * PAGE_BYTES
    pointer = page + 8 + 2 * (row - 1)
    cell = page + int.from_bytes(good[pointer : pointer + 2])  # a row's length in two bytes, then its number
    assert (good[cell] > 0x7F, good[cell + 2]) == (True, row)
    bad = bytearray(good)
    bad[cell + 1] ^= 0x80
    database.write_bytes(bad)
    store = world.open()
    assert not store.recovered.buffer_set_aside, "nobody has looked at a row that the cloud has"
    accepted: list[int] = []

    def fill_the_page() -> None:
        while len(accepted) < 20:
            accepted.extend(stored.seq for stored in store.accept(entries(1, size=150)))

    with pytest.raises(BufferDamaged):
        fill_the_page()
    store.rebuild()
    accepted += [stored.seq for stored in store.accept(entries(1))]
    assert accepted == [*range(17, 17 + len(accepted))]
    assert accounted(store) - {row} == set(accepted), "the row itself may be told as lost"
    store.close()


def without_row(world: Disk, store: Store, seq: int) -> Path:
    """The row of a number is gone from the database, its line in the journal is bad; the segment."""
    assert store.flush_if_writable()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("DELETE FROM buffer_predictions WHERE id = ?", (seq,))
    connection.close()
    (segment,) = orphans(world.folder / "buffer-journal")
    segment.write_bytes(segment.read_bytes().replace(b'"seq":%d,"image_id":"f' % seq, b'"seq":%d,"image_id":"g' % seq))
    return segment


def test_bad_line_of_a_number_that_a_damaged_database_lost_as_well_is_told(world):
    """The database said that all up to its last number was in there once; nobody looked whether it still is."""
    store = world.open()
    store.accept(entries(9))
    without_row(world, store, 6)
    store = world.kill(store)
    assert store.recovered.buffer_set_aside
    assert accounted(store) == set(range(1, 10))
    assert store.losses() == [Loss(6, 6, "bad_sector")]
    assert store.accept(entries(1))[0].seq == 10
    store.close()


def test_bad_line_of_what_memory_holds_or_the_database_is_no_loss(world):
    """Also where the database is replaced while the device runs: memory has what the journal alone was to hold."""
    store = world.open()
    store.accept(entries(9))
    segment = without_row(world, store, 6)
    store.accept(entries(3))
    bad = segment.read_bytes()
    for seq in (3, 11):
        bad = bad.replace(b'"seq":%d,"image_id":"f' % seq, b'"seq":%d,"image_id":"g' % seq)
    segment.write_bytes(bad)
    store.rebuild()
    assert accounted(store) == set(range(1, 13))
    assert store.losses() == [Loss(6, 6, "bad_sector")]
    store.close()
