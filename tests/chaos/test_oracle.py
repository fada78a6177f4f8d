"""What the oracle makes of a disk that a bit or a power cut has hit."""

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from actors.ports.journal import Header, encode_header, encode_line
from chaos.sim.books import Books, Made, Violation
from chaos.sim.coverage import Coverage
from chaos.sim.damage import flip_database, flip_log, note_unsynced
from chaos.sim.drive import Drive, Mounts
from chaos.sim.oracle import Stored, check_cloud, read_rest
from chaos.sim.plan import Plan
from tests.actors.ports.stores import Disk, entries

ROWS = 200
PAGE_BYTES = 4096


@pytest.fixture
def damaged(folder: Path) -> tuple[Path, Books]:
    """A buffer with one page of rows overwritten, and the books of what was accepted into it."""
    (folder / "d").mkdir()
    store = Disk(folder / "d", {}).open()
    store.accept(entries(ROWS))
    stream = store.stream_id
    store.close()
    path = folder / "d" / "buffer.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'buffer_predictions'").fetchone()[0]
    data = bytearray(path.read_bytes())
    children = PAGE_BYTES * (root - 1) + 12
    cell = PAGE_BYTES * (root - 1) + int.from_bytes(data[children + 4 : children + 6], "big")
    page = int.from_bytes(data[cell : cell + 4], "big")
    data[PAGE_BYTES * (page - 1)] = 77  # no kind of page
    path.write_bytes(data)
    books = Books("cam", streams=[stream])
    books.given = {(stream, seq): Made(f"frame_{seq}", {}, 0) for seq in range(1, ROWS + 1)}
    return path, books


def test_damage_that_nobody_planned_is_an_error(damaged):
    path, books = damaged
    with pytest.raises(sqlite3.DatabaseError):
        read_rest(path, books)


def test_only_the_rows_that_do_not_read_are_in_doubt(damaged):
    path, books = damaged
    books.database_hit = True
    stream, rows, _ = read_rest(path, books)
    assert stream == books.streams[-1]
    read = {row[0] for row in rows}
    assert 0 < len(read) < ROWS
    assert {1, ROWS} <= read, "the table is read from both ends"
    assert books.doubted == {(stream, seq) for seq in range(1, ROWS + 1)} - {(stream, seq) for seq in read}


@pytest.mark.parametrize("flip", [flip_database, flip_log])
def test_bit_in_a_database_that_does_not_read_may_cost_what_nobody_was_told_of_as_well(damaged, tmp_path, flip):
    """Memory kept it, say, and saved it under a number that no receipt tells."""
    path, books = damaged
    stream = books.streams[-1]
    told = {number for number in books.given if number[1] <= ROWS // 2}
    books.given = {number: books.given[number] for number in told}
    drive = Drive(tmp_path / "cam", Mounts(tmp_path), random.Random(1))

    def fill(folder: Path) -> None:
        shutil.copyfile(path, folder / "buffer.db")
        (folder / "buffer.db-wal").write_bytes(b"a log")

    drive.furnish(fill)
    flip(drive, books, random.Random(1))
    assert books.doubted == {(stream, seq) for seq in range(1, ROWS + 1)}
    assert books.unchecked <= told, "there is a checksum, so it may be gone, and not be another one"


HEADER = Header(
    holdfast_journal=1, stream_id="s", device_id="cam", session_id="a", boot_id="", started_at=1.0, first_seq=1
)


def judge_the_loss_of_2(books: Books) -> None:
    """The cloud misses it, and the device told that its line could not be read."""
    gap = {"from_seq": 2, "to_seq": 2, "reason": "bad_sector"}
    audit = {"stream_id": "s", "gaps": [gap], "conflicts": 0, "stored": 0, "explained": 1, "last_seq": 2}
    stored = Stored(audits={"cam": [audit | {"unnumbered": 0}]}, stats={"by_edge_device": {}})
    check_cloud(Plan.of(1), books, stored, Coverage())


@pytest.fixture
def torn(tmp_path: Path) -> Books:
    """The power goes while the journal has 1 for certain, and is about to sync 2 and 3."""
    drive = Drive(tmp_path / "cam", Mounts(tmp_path), random.Random(1))
    name, at = "buffer-journal/1.jsonl", 0
    drive.note(0, "c", name)
    for group in (
        encode_header(HEADER) + encode_line(1, b"{}", 0),
        encode_line(2, b"{}", 0) + encode_line(3, b"{}", 0),
    ):
        if at:
            drive.note(0, "s", name)
        drive.note(0, "w", name, at, group)
        at += len(group)
    books = Books("cam")
    note_unsynced(drive, books)
    assert books.torn == {("s", 2), ("s", 3)}
    return books


def test_number_that_nobody_was_told_of_may_be_lost_with_the_group_that_a_power_cut_tore(torn):
    judge_the_loss_of_2(torn)


def test_number_with_a_receipt_may_not(torn):
    torn.given["s", 2] = Made("frame_2", {}, 0)
    with pytest.raises(Violation, match="G3"):
        judge_the_loss_of_2(torn)


def test_number_that_nobody_was_told_of_is_not_lost_without_a_cause():
    with pytest.raises(Violation, match="G3"):
        judge_the_loss_of_2(Books("cam"))
