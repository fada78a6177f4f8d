"""A bit that flips in a database at rest: the device starts, delivers what is good, and can account for every number.

SQLite has no checksums. It believes a number, a status, an index and its own schema, whatever stands there.
"""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
import google_crc32c
import pytest

from actors.messages import Fate, Outcome
from actors.ports.account import Account, read_account
from actors.ports.chores import perform
from actors.ports.first_page import PAGE_BYTES
from actors.ports.opening import NoBooks
from actors.ports.salvage import last_number, mark_damaged
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from actors.seqs import Seqs
from actors.tasks import Task, TaskKind
from cloud.wire import number_payload
from tests.actors.ports.stores import DEVICE, Disk, entries, sent, seqs_pending
from tests.places import ROOT

T = TypeVar("T")
COUNT, IN_JOURNAL = 60, 3
"""How many lie in the database, and how many the journal alone holds when the device is killed."""
BY_RANGE = range(1, 21)
"""Confirmed when their rows were in the database already."""
SENT, FAILED, LOST = (*BY_RANGE, 55, 56), range(31, 33), (41, 42, 50)
LAST = COUNT + IN_JOURNAL
WAITING = [seq for seq in range(21, LAST + 1) if seq not in (*SENT, *FAILED, *LOST)]
SMALL: dict[str, object] = {"capacity_bytes": 1 << 20}
STRIDE = 11
"""Of the bytes that are not zero, every so many is tried; 11 has no factor in common with a page, a row or a cell."""
ROUNDS_MAX = 10
"""More than any drain here takes, a replacement of the database in its middle included."""


@pytest.fixture
def world(folder: Path) -> Disk:
    """A buffer with rows in every state, all in the database file but for the last ones, which the journal holds."""
    (folder / "d").mkdir()
    world = Disk(folder / "d", SMALL)
    store = world.open()
    store.accept(entries(COUNT))
    store.flush_if_writable()
    store.settle([sent(*SENT), Outcome(Fate.QUARANTINED, Seqs([(FAILED[0], FAILED[-1])]), "refused")])
    perform(store, Task(kind=TaskKind.DISCARD, spans=tuple((seq, seq) for seq in LOST)))
    store.close()
    left = shutil.copytree(world.folder, folder / "killed")
    store = world.open()
    store.accept(entries(LAST)[COUNT:])
    shutil.copytree(world.folder / "buffer-journal", left / "buffer-journal", dirs_exist_ok=True)
    store.close()
    world.folder = left
    assert not (left / "buffer.db-wal").exists(), "what lies there too would hide the damage"
    return world


@attrs.define
class Life:
    """What a device makes of a database: it mends it when it must, and sends all that waits."""

    store: Store
    delivered: dict[int, bytes] = attrs.field(factory=dict)
    rebuilt: int = 0

    def drain(self) -> None:
        """Until nothing is pending."""
        for _ in range(ROUNDS_MAX):
            page = self.mended(lambda: self.store.pending(0, 10, 1 << 20))
            if not page:
                return
            for record in page:
                assert self.delivered.setdefault(record.seq, record.payload) == record.payload
            assert len(set(page.seqs)) == len(page), "a number twice in one batch"
            seqs = page.seqs
            self.mended(lambda seqs=seqs: self.store.settle([sent(*seqs)]))  # type: ignore[misc]
        pytest.fail(f"it never ends: {self.store.pending_count} pending")

    def mended(self, work: Callable[[], T]) -> T:
        """As the disk's actor does it."""
        try:
            return work()
        except BufferDamaged:
            self.rebuilt += 1
            self.store.rebuild()
            return work()

    def account(self, copy: Disk) -> Account:
        """As `audit` reads it; where it can't, the operator is told to repair the buffer, and does."""
        try:
            return read_account(copy.folder / "buffer.db")
        except NoBooks as exc:
            if "`buffer repair`" not in str(exc):
                raise
            self.store.rebuild()
            return read_account(copy.folder / "buffer.db")

    def explained(self) -> set[int]:
        """The numbers with a tombstone that the cloud is told of."""
        losses = self.mended(self.store.losses)
        return {seq for loss in losses for seq in range(loss.from_seq, loss.to_seq + 1)}


def flipped(world: Disk, change: Callable[[bytearray], None]) -> Disk:
    """A copy whose database is changed."""
    copy = Disk(world.folder.with_name("copy"), SMALL, streams=world.streams)
    shutil.rmtree(copy.folder, ignore_errors=True)
    shutil.copytree(world.folder, copy.folder)
    database = copy.folder / "buffer.db"
    data = bytearray(database.read_bytes())
    change(data)
    database.write_bytes(data)
    return copy


def judge(copy: Disk, *, lost_max: int) -> Life:
    """Drained, every number accounted for once, and the next number the next one; also by a second start."""
    life = Life(copy.open())
    life.drain()
    original = {seq: number_payload(seq, entry.body) for seq, entry in enumerate(entries(LAST), 1)}
    assert life.store.stream_id == "stream-1"
    assert {seq: payload for seq, payload in life.delivered.items() if original.get(seq) != payload} == {}
    explained = life.explained()
    assert set(WAITING) <= life.delivered.keys() | explained, "some are lost, and nobody says so"
    assert not explained & (life.delivered.keys() | set(SENT)), "some are stored, and told as lost"
    assert len(explained - set(LOST)) <= lost_max
    assert life.mended(lambda: life.store.accept(entries(1)))[0].seq == LAST + 1
    for _ in range(2):
        life.store.close()
        life.store = copy.open()
        given_up = sum(last - first + 1 for first, last, _ in life.account(copy).given_up)
        books = life.mended(life.store.books)
        assert books.last_seq == LAST + 1 == books.pending + books.sent + books.failed + given_up
    life.store.close()
    return life


def test_no_single_bit_of_the_database_costs_more_than_a_page_or_is_left_unaccounted_for(world):
    """Each page of rows holds some twenty of them."""
    data = (world.folder / "buffer.db").read_bytes()
    tried = [at for at, byte in enumerate(data) if byte][::STRIDE]
    assert len(tried) > 1_000
    for at in tried:

        def flip(data: bytearray, at: int = at) -> None:
            data[at] ^= 1 << at % 8

        try:
            judge(flipped(world, flip), lost_max=25)
        except AssertionError as exc:
            raise AssertionError(f"bit {at % 8} of byte {at}: {exc}") from exc


def test_row_whose_status_is_no_word_is_delivered_once(world):
    """By its index it is pending, and to mark it as sent finds no such row: it would be sent for ever."""

    def spoil(data: bytearray) -> None:
        at = data.index(b"pending", data.index(b'"}frame_28'))
        data[at + 3] ^= 1

    assert judge(flipped(world, spoil), lost_max=0).rebuilt == 1


def test_row_under_its_neighbours_number_is_not_sent_as_that(world):
    """The payload is whole, and another than the one that was accepted under that number."""
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("DELETE FROM buffer_predictions WHERE id = 30")
        connection.execute("UPDATE buffer_predictions SET id = 30 WHERE id = 29")
    connection.close()
    life = Life(world.open())
    life.drain()
    assert life.delivered[29] == number_payload(29, entries(29)[-1].body)
    assert 30 not in life.delivered
    assert life.store.recovered.buffer_set_aside, "30 is nowhere, so the counts do not add up"
    life.store.close()


def shorten_the_index(data: bytearray) -> None:
    """The header of the page forgets the last three of its cells."""
    first = data.index(b"CREATE INDEX prediction_buffer_pending")
    root = data[first - 1]  # the column before the statement
    at = (root - 1) * PAGE_BYTES + 3
    cells = int.from_bytes(data[at : at + 2])
    assert len(WAITING) - IN_JOURNAL <= cells - len(BY_RANGE) <= len(WAITING)
    data[at : at + 2] = (cells - 3).to_bytes(2)


def test_index_that_has_become_shorter_hides_no_row(world):
    """What it does not list would wait for ever, and be counted as sent."""
    life = judge(flipped(world, shorten_the_index), lost_max=0)
    assert life.delivered.keys() == set(WAITING)


def test_index_that_lists_a_number_twice_sends_it_once(world):
    """And does not forget the one whose place that was."""

    def repeat(data: bytearray) -> None:
        cell = bytes([3, 1, 1, 29, 29])  # its header, and 29 as the key and as the row
        assert data.count(cell) == 1
        at = data.index(cell)
        data[at + 4] = 28

    life = judge(flipped(world, repeat), lost_max=0)
    assert life.delivered.keys() == set(WAITING)
    assert life.rebuilt == 1


def test_index_that_becomes_shorter_under_a_running_device_hides_no_row(world):
    life = Life(world.open())
    database = world.folder / "buffer.db"
    data = bytearray(database.read_bytes())
    shorten_the_index(data)
    with database.open("r+b") as file:
        file.write(data)
    with sqlite3.connect(database) as connection:  # a commit of another process: what the device has cached is void
        connection.execute("UPDATE buffer_metadata SET last_cleanup = 1")
    connection.close()
    life.drain()
    assert life.delivered.keys() == set(WAITING)
    assert life.rebuilt == 1
    life.store.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"SQLite format 3", b"SQLite format 2"), (b"CREATE TABLE buffer_meta", b"CREATE TABLE Cuffer_meta")],
)
def test_damaged_first_page_costs_nothing_and_is_kept(world, old, new):
    """It names every table: without it not one row is found, though all are there."""

    def change(data: bytearray) -> None:
        data[:PAGE_BYTES] = data[:PAGE_BYTES].replace(old, new, 1)

    copy = flipped(world, change)
    damaged = (copy.folder / "buffer.db").read_bytes()[:PAGE_BYTES]
    assert old not in damaged
    life = judge(copy, lost_max=0)
    assert life.delivered.keys() == set(WAITING)
    (page,) = copy.folder.glob("buffer.db.corrupt-*.page-1")
    assert page.read_bytes() == damaged
    assert page.stat().st_mode & 0o777 == 0o600


def test_damaged_first_page_of_a_database_that_was_upgraded_costs_nothing_either(folder):
    """A new database's page fits it, since the last release made its tables and indexes in the same order."""
    (folder / "d").mkdir()
    world = Disk(folder / "d", SMALL)
    database = world.folder / "buffer.db"
    with sqlite3.connect(database) as connection:
        connection.executescript((ROOT / "chaos" / "past" / "buffer-1.sql").read_text())
    connection.close()
    store = world.open()
    stream, waiting = store.stream_id, seqs_pending(store)
    assert len(waiting) == store.last_seq
    store.close()
    data = database.read_bytes()
    database.write_bytes(data.replace(b"CREATE TABLE", b"CREATE`TABLE", 1))
    life = Life(world.open())
    life.drain()
    assert life.store.stream_id == stream
    assert sorted(life.delivered) == waiting
    assert life.store.accept(entries(1))[0].seq == waiting[-1] + 1
    life.store.close()


@pytest.mark.parametrize(("old", "new"), [(b"timestamp REAL", b"timewtamp REAL"), (b"CREATE TABLE", b"CREATE`TABLE")])
def test_damaged_first_page_of_a_small_database_of_the_last_release_costs_nothing(folder, old, new):
    """It ends before the pages that a new one's first page names; and it can't be upgraded first."""
    left = folder / "left"
    left.mkdir()
    with sqlite3.connect(left / "buffer.db") as connection:
        connection.executescript((ROOT / "chaos" / "past" / "buffer-1.sql").read_text())
        connection.executescript("DELETE FROM prediction_buffer WHERE id > 9; UPDATE sqlite_sequence SET seq = 9")
        connection.execute("UPDATE buffer_metadata SET last_seq = 9, total_buffered = 9")
        connection.commit()
        connection.executescript("PRAGMA incremental_vacuum")
    connection.close()
    assert (left / "buffer.db").stat().st_size < 9 * PAGE_BYTES
    world = Disk(shutil.copytree(left, folder / "sound"), SMALL)
    store = world.open()
    stream, waiting = store.stream_id, seqs_pending(store)
    assert waiting == list(range(1, 10))
    store.close()
    data = (left / "buffer.db").read_bytes()
    assert old in data[:PAGE_BYTES]
    (left / "buffer.db").write_bytes(data.replace(old, new, 1))
    life = Life(Disk(left, SMALL).open())
    life.drain()
    assert life.store.stream_id == stream
    assert sorted(life.delivered) == waiting
    life.store.close()


def test_lost_page_that_leads_to_all_rows_costs_none(world):
    """The rows are still there; what waits among them, and is no remains of old ones, the index of that tells."""
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'buffer_predictions'").fetchone()
    connection.close()

    def wipe(data: bytearray) -> None:
        at = (root - 1) * PAGE_BYTES
        assert data[at] == 5, "SQLite's mark of a page that leads to others"
        data[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)

    life = judge(flipped(world, wipe), lost_max=0)
    assert life.delivered.keys() >= set(WAITING)


@pytest.mark.parametrize("forgotten", ["stream_id = 'stream-7'", "stream_crc32c = 0", "stream_id = x'00ff'"])
def test_database_that_has_forgotten_its_stream_goes_on_with_it(world, forgotten):
    """Under a new one, what the cloud has of it already would be stored a second time."""
    shutil.rmtree(world.folder / "buffer-journal")  # which would tell
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute(f"UPDATE buffer_metadata SET {forgotten}")
    connection.close()
    life = Life(world.open())
    life.drain()
    assert life.store.stream_id == "stream-1"
    assert life.delivered.keys() == set(WAITING[:-IN_JOURNAL])
    assert life.store.accept(entries(1))[0].seq == COUNT + 1
    life.store.close()


def test_bit_of_the_streams_name_or_its_checksum_costs_no_other_witness(world):
    """What the last release left has neither a file of names nor, after a stop, a segment."""
    shutil.rmtree(world.folder / "buffer-journal")
    (world.folder / "buffer.db.streams").unlink()
    data = (world.folder / "buffer.db").read_bytes()
    name = b"stream-1"
    crc = google_crc32c.value(name).to_bytes(4)
    at = data.index(name + crc)
    for bit in range(8 * len(name + crc)):

        def flip(data: bytearray, bit: int = bit) -> None:
            data[at + bit // 8] ^= 1 << bit % 8

        store = flipped(world, flip).open()
        assert (store.stream_id, store.last_seq) == ("stream-1", COUNT), f"bit {bit}"
        assert store.recovered.buffer_set_aside
        store.close()


def test_bit_of_the_devices_id_in_what_the_last_release_left_makes_no_other_device_of_it(world):
    """It had no file of names, so the database alone says whose its numbers are; but for the journal's headers."""
    (world.folder / "buffer.db.streams").unlink()

    def flip(data: bytearray) -> None:
        at = data.index(b"stream-1")
        data[data.index(DEVICE.encode(), at) + len(DEVICE) - 1] ^= 2

    store = flipped(world, flip).open()
    (name,) = store.names.streams
    assert (name.stream_id, name.device_id) == ("stream-1", DEVICE)
    store.close()


def test_number_that_a_tombstone_alone_speaks_of_is_not_given_out_again(world):
    """A start was killed behind its tombstone for a bad line at the end; then the database turns out to be damaged."""
    shutil.rmtree(world.folder / "buffer-journal")
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute(
            "INSERT INTO buffer_losses (from_seq, to_seq, reason, lost_at) VALUES (?, ?, 'bad_sector', 1.0)",
            (COUNT + 1, COUNT + 1),
        )
    connection.close()
    mark_damaged(world.folder / "buffer.db")
    life = Life(world.open())
    assert life.store.accept(entries(1))[0].seq == COUNT + 2
    assert COUNT + 1 in life.explained()
    life.store.close()


def test_number_that_was_confirmed_before_it_was_written_here_is_not_given_out_again(folder):
    """No row speaks of it, and what the books count does not reach it where those in quarantine do not read."""
    (folder / "d").mkdir()
    world = Disk(folder / "d", SMALL | {"cleanup_days": 0})
    store = world.open()
    store.accept(entries(2))
    store.settle([Outcome(Fate.QUARANTINED, Seqs([(1, 2)]), "refused")])
    assert store.flush_if_writable()
    store.accept(entries(6)[2:])
    store.settle([sent(3, 4, 5, 6)])
    store.close()
    database = world.folder / "buffer.db"
    with sqlite3.connect(database) as connection:
        index = "SELECT rootpage FROM sqlite_master WHERE name = 'prediction_buffer_failed'"
        (root,) = connection.execute(index).fetchone()
        assert connection.execute("SELECT max(id) FROM prediction_buffer").fetchone() == (2,)
    connection.close()
    with database.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\0")
    mark_damaged(database)
    life = Life(world.open())
    assert life.store.accept(entries(1))[0].seq == 7
    assert not life.explained()
    life.store.close()


def test_number_of_a_bad_line_is_told_as_lost_though_a_stray_page_speaks_of_it(world):
    """A log that ended early left SQLite's sequence ahead of all else; a replay must not take its word first."""
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = ?", (LAST,))
    connection.close()
    (segment,) = (world.folder / "buffer-journal").iterdir()
    data = bytearray(segment.read_bytes())
    data[-20] ^= 1
    segment.write_bytes(data)
    life = judge(world, lost_max=1)
    assert life.delivered.keys() == set(WAITING) - {LAST}


def test_tombstone_that_has_grown_buries_no_row_that_is_there(world):
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("UPDATE buffer_losses SET to_seq = 58 WHERE from_seq = 50")
    connection.close()
    life = judge(world, lost_max=0)
    assert life.delivered.keys() == set(WAITING)


@pytest.mark.parametrize(
    ("books", "sequence", "accounted", "last"),
    [
        (60, 60, 60, 60),
        (60, 60, 0, 60),  # two that agree need no third
        (64, 60, 64, 64),  # four were sent and never written here
        (60, 4156, 60, 60),  # a bit of SQLite's sequence
        (4156, 60, 60, 60),  # a bit of the books
        (44, 60, 60, 60),
        (60, 44, 60, 60),
        (60, 0, 60, 60),  # the sequence can't be read
        (0, 60, 20, 60),  # nor can the books, which count the sent: none may be given out twice
    ],
)
def test_last_number_is_the_one_that_two_of_three_witnesses_know(books, sequence, accounted, last):
    assert last_number(books, sequence, accounted) == last
