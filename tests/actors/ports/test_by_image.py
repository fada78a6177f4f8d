"""Rows of an image: found by an index in parts, which costs no page of its own for each prediction."""

import sqlite3
from contextlib import closing

import pytest

from actors.messages import Entry
from actors.ports import reading
from actors.ports.opening import unlock
from actors.ports.reading import open_reading
from actors.ports.schema import OF_IMAGE as OF_IMAGE_IN
from actors.ports.schema import ROWS
from tests.actors.ports.stores import FORMAT_4, Disk, entries

OF_IMAGE = OF_IMAGE_IN.format(rows=ROWS)
NAME = "hall-1/o'clock.jpg"


def named(name: str) -> Entry:
    return Entry(name, 7.0, b'{"image_id":"%s","timestamp":7.0}' % name.encode())


@pytest.fixture
def disk(folder) -> Disk:
    """Over three parts of the index; the image is in the first, in the last, and in the journal."""
    world = Disk(folder, {})
    store = world.open()
    store.accept([named(NAME), *entries(2_500), named(NAME)])
    store.close()
    store = world.open()
    store.accept([*entries(3), named(NAME)])
    store._buffer.close()  # as a kill leaves it: the last four are in the journal alone
    unlock(store._lock_fd)
    return world


def ids(found: list[dict[str, object]]) -> list[object]:
    return [row["id"] for row in found]


def test_image_is_found_in_every_part_and_in_the_journal(disk):
    with open_reading(disk.folder / "buffer.db") as view:
        assert ids(view.rows(among=view.of_image(NAME), count_max=10)) == [1, 2502, 2506]
        assert ids(view.rows("id > 1", among=view.of_image(NAME), count_max=10)) == [2502, 2506]
        assert ids(view.rows(among=view.of_image("frame_2"), count_max=10, newest=True)) == [2505, 4]
        assert view.rows(among=view.of_image("nobody"), count_max=10) == []


def test_no_look_up_reads_all_rows(disk):
    with closing(sqlite3.connect(disk.folder / "buffer.db")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {OF_IMAGE}", (NAME, 10))]
    by_index = "SEARCH found USING COVERING INDEX prediction_buffer_by_image (<expr>=? AND image_id=?)"
    assert by_index in plan
    assert not [step for step in plan if step.startswith("SCAN") and "part" not in step and "CONSTANT" not in step], (
        plan
    )


def test_image_that_was_seen_very_often_is_found_all_the_same(disk, monkeypatch):
    monkeypatch.setattr(reading, "NUMBERS_MAX", 2)
    with open_reading(disk.folder / "buffer.db") as view:
        assert view.of_image(NAME) == "image_id = 'hall-1/o''clock.jpg'"
        assert ids(view.rows(among=view.of_image(NAME), count_max=10)) == [1, 2502, 2506]


def test_buffer_of_an_older_version_is_read_without_the_index(disk):
    with closing(sqlite3.connect(disk.folder / "buffer.db")) as connection:
        connection.executescript(f"{FORMAT_4} DROP INDEX prediction_buffer_by_image; PRAGMA user_version = 3")
    with open_reading(disk.folder / "buffer.db") as view:
        assert ids(view.rows(among=view.of_image(NAME), count_max=10)) == [1, 2502, 2506]
    disk.open().close()
    with closing(sqlite3.connect(disk.folder / "buffer.db")) as connection:
        assert connection.execute(OF_IMAGE, (NAME, 10)).fetchall() == [(1,), (2502,), (2506,)], "it has been made since"
