"""What the oracle makes of a disk that a bit or a power cut has hit."""

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from actors.ports.journal import Header, encode_header, encode_line
from actors.streams import OTHER_STREAM
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


def judge_another_stream(books: Books, copy: dict[str, object]) -> None:
    """The cloud has 1, and under a number that nobody was told of, in another stream, what may be a copy of it."""
    books.made["a"] = books.given["s", 1] = Made("a", {"image_id": "a", "defect_detected": False}, 0, number=("s", 1))
    books.database_hit = True
    audit = {"conflicts": 0, "unnumbered": 0, "stored": 1}
    first = audit | {"stream_id": "s", "gaps": [], "explained": 0, "last_seq": 1, "conflicts": 1}
    gap = {"from_seq": 1, "to_seq": 1, "reason": OTHER_STREAM}
    second = audit | {"stream_id": "t", "gaps": [gap], "explained": 1, "last_seq": 2}
    stored = Stored(
        numbered={"cam": {("s", 1): [books.made["a"].content], ("t", 2): [copy]}},
        audits={"cam": [first, second]},
        stats={"by_edge_device": {"cam": {"total_predictions": 2, "defects_detected": 0}}},
    )
    check_cloud(Plan.of(1), books, stored, Coverage())


def test_row_that_the_last_release_left_without_a_checksum_may_come_a_second_time_as_a_bit_has_changed_it():
    judge_another_stream(Books("cam", unchecked={("s", 1)}), {"image_id": "b", "defect_detected": False})


@pytest.mark.parametrize("unchecked", [set(), {("s", 9)}])
def test_row_with_a_checksum_may_not(unchecked):
    with pytest.raises(Violation, match="nobody made"):
        judge_another_stream(Books("cam", unchecked=unchecked), {"image_id": "b", "defect_detected": False})


def test_row_that_is_as_it_was_comes_once_all_the_same():
    with pytest.raises(Violation, match="is stored as"):
        judge_another_stream(Books("cam", unchecked={("s", 1)}), {"image_id": "a", "defect_detected": False})
