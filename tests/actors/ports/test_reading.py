"""A buffer as an operator reads it: what only the journal holds is told like the rows, and the same each time."""

import sqlite3
from contextlib import closing

import pytest

from actors.messages import Entry
from actors.ports import journal
from actors.ports.account import read_account
from actors.ports.opening import NoBooks, unlock
from actors.ports.reading import open_reading
from chaos.sim.oracle import handles_below
from tests.actors.ports.stores import Disk

BEGAN_AT = 1_000.0


@pytest.fixture
def disk(folder) -> Disk:
    """Killed before a row was in the database: an image of long ago, one of just now, and one of a clock ahead."""
    world = Disk(folder, {})
    world.now = BEGAN_AT
    store = world.open()
    taken = [(f"frame_{at:g}", at) for at in (7.0, 1_020.0, 9_000.0)]
    store.accept([Entry(name, at, b'{"image_id":"%s","timestamp":%f}' % (name.encode(), at)) for name, at in taken])
    store._buffer.close()
    unlock(store._lock_fd)
    world.now = 5_000.0
    return world


def buffered_at(disk: Disk) -> list[float]:
    with open_reading(disk.folder / "buffer.db") as view:
        return [row["buffered_at"] for row in view.rows(count_max=10)]


def test_a_row_that_only_the_journal_holds_tells_the_same_time_twice(disk):
    """Its line does not hold when it was accepted: it was not before its image was taken, nor before its session."""
    assert buffered_at(disk) == buffered_at(disk) == [BEGAN_AT, 1_020.0, 9_000.0]


def test_the_start_that_replays_it_keeps_that_time_unless_it_is_yet_to_come(disk):
    disk.open().close()
    assert buffered_at(disk) == [BEGAN_AT, 1_020.0, disk.now]


def test_a_segment_without_a_header_has_the_images_own_times(disk):
    (segment,) = journal.orphans(disk.folder / "buffer-journal")
    _, _, lines = segment.read_bytes().partition(b"\n")
    segment.write_bytes(lines)
    assert buffered_at(disk) == [7.0, 1_020.0, 9_000.0]
    disk.open().close()
    assert buffered_at(disk) == [7.0, 1_020.0, disk.now]


def test_what_the_journal_holds_counts_as_pending(disk):
    with open_reading(disk.folder / "buffer.db") as view:
        stats = view.stats()
    assert (stats["pending"], stats["in_journal"], stats["oldest_pending_at"]) == (3, 3, BEGAN_AT)


def test_a_segment_that_goes_while_somebody_looks_is_no_trouble(disk, monkeypatch):
    """The device moves rows on and deletes segments; `audit` and `buffer …` beside it ended with a traceback."""
    there = journal.orphans(disk.folder / "buffer-journal")
    monkeypatch.setattr(journal, "orphans", lambda folder: [folder / "0-gone.jsonl", *there])
    assert len(buffered_at(disk)) == 3
    assert read_account(disk.folder / "buffer.db").waiting == ((1, 3),)


def test_a_refused_look_leaves_no_file_open(tmp_path):
    """The error that tells why would else hold it for as long as somebody holds the error."""
    database = tmp_path / "other.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE of_another_program (number INTEGER)")
    with pytest.raises(NoBooks) as refused, open_reading(database):
        pass
    assert not handles_below(tmp_path), refused.value
