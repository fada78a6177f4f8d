"""What the oracle reads of a disk that a bit has hit where the device had no reason to look again."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from chaos.sim.books import Books, Made
from chaos.sim.oracle import read_rest
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
