"""A payload that changed at rest in SQLite is never sent: set aside, its number explained, its neighbours go on."""

import json
import sqlite3

import google_crc32c
import pytest

from actors.messages import Fate, Outcome
from actors.ports.forks import renumber
from actors.ports.reading import open_reading
from actors.ports.schema import MIGRATIONS
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from actors.seqs import Seqs
from tests.actors.ports.stores import FORMAT_4, Disk, entries, sent, seqs_pending


@pytest.fixture
def world(tmp_path) -> Disk:
    return Disk(tmp_path / "d", {})


def filled(world: Disk, count: int = 5) -> Store:
    """A store whose rows are all in SQLite, and no longer in the journal."""
    store = world.open()
    store.accept(entries(count))
    store.close()
    return world.open()


def change_a_digit(world: Disk, *seqs: int) -> None:
    """What a flipped bit may do and leave valid JSON: another time."""
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        for seq in seqs:
            changed = connection.execute(
                "UPDATE buffer_predictions SET prediction_data = replace(prediction_data, '.0,', '.9,') WHERE id = ?",
                (seq,),
            ).rowcount
            assert changed == 1
    connection.close()


def test_changed_digit_is_not_delivered_and_its_number_is_explained(world):
    store = filled(world)
    before = {record.seq: record.payload for record in store.pending(0, 10, 1 << 20)}
    change_a_digit(world, 3)
    found = {record.seq: record.payload for record in store.pending(0, 10, 1 << 20)}
    assert found == {seq: payload for seq, payload in before.items() if seq != 3}
    assert [(loss.from_seq, loss.to_seq, loss.reason) for loss in store.losses()] == [(3, 3, "bad_sector")]
    store.close()


@pytest.mark.parametrize(("count", "seq"), [(9, 1), (9, 5), (9, 9), (12, 9), (12, 10), (12, 12)])
def test_prediction_under_the_number_of_another_is_found_though_its_checksum_is_right(world, count, seq):
    """As where a bit of a row's own number has flipped. Also on a page whose numbers differ in length."""
    store = filled(world, count)
    assert seqs_pending(store) == list(range(1, count + 1))
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute(
            "UPDATE buffer_predictions SET (prediction_data, payload_crc32c) ="
            " (SELECT prediction_data, payload_crc32c FROM prediction_buffer WHERE id = ?) WHERE id = ?",
            (seq - 1 or count, seq),
        )
    connection.close()
    with pytest.raises(BufferDamaged, match=f"row {seq}: what stands there is another prediction"):
        store.pending(0, count, 1 << 20)
    store.close()


def test_checksum_that_is_no_number_any_more_is_damage_and_not_the_end_of_the_device(world):
    store = filled(world)
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("UPDATE buffer_predictions SET payload_crc32c = 'x[,' WHERE id = 2")
    connection.close()
    assert seqs_pending(store) == [1, 3, 4, 5]
    store.close()


def test_counters_are_exact_after_it(world):
    store = filled(world)
    change_a_digit(world, 2, 3, 5)
    assert seqs_pending(store) == [1, 4]
    assert (store.pending_count, store.books().pending, store.books().damaged) == (2, 2, 3)
    store.settle([Outcome(Fate.SENT, (1, 4))])
    assert (store.pending_count, store.sent_count) == (0, 2)
    store.close()
    assert world.rows() == {1: "sent", 4: "sent"}
    store = world.open()
    assert (store.pending_count, store.sent_count, store.last_seq) == (0, 2, 5)
    assert store.books().damaged == 3, "known for the life of the stream, not of the process"
    store.close()


def test_what_was_set_aside_can_be_read_by_a_person(world):
    store = filled(world)
    change_a_digit(world, 2, 3)
    store.pending(0, 10, 1 << 20)
    (path,) = (world.folder / "buffer-quarantine").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["seq"], line["payload"]["timestamp"]) for line in lines] == [(2, 6.9), (3, 7.9)]
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_newest_first_and_pages_that_must_be_cut_check_as_well(world):
    store = filled(world, 250)
    change_a_digit(world, 7, 120, 249)
    assert 249 not in [record.seq for record in store.pending(0, 50, 1 << 20, newest=True)]
    assert seqs_pending(store) == [seq for seq in range(1, 251) if seq not in (7, 120, 249)]
    change_a_digit(world, 1)
    assert store.pending(0, 10, 1)[0].seq == 2, "one that alone is larger than the page"
    store.close()


def test_two_that_changed_in_the_same_way_do_not_make_up_for_each_other(world):
    """The same bits of both flip, so both checksums are off by the same pattern."""
    store = filled(world, 20)
    change_a_digit(world, 10, 11)
    assert seqs_pending(store) == [*range(1, 10), *range(12, 21)]
    store.close()


def test_one_with_a_line_break_in_it_is_delivered_as_it_is(world):
    """No version has written such a one; an operator's hand may have, with its checksum."""
    store = filled(world)
    odd = b'{"seq":3,\n"image_id":"x"}'
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute(
            "UPDATE buffer_predictions SET prediction_data = ?, payload_crc32c = ? WHERE id = 3",
            (odd.decode(), google_crc32c.value(odd)),
        )
    connection.close()
    found = store.pending(0, 10, 1 << 20)
    assert [record.seq for record in found] == [1, 2, 3, 4, 5]
    assert found[2].payload == odd
    assert store.pending(0, 10, len(found[0].payload) + 1).seqs == [1]
    store.close()


def test_neighbours_of_one_that_is_gone_altogether_are_delivered(world):
    store = filled(world)
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute("UPDATE buffer_predictions SET prediction_data = '' WHERE id = 1")
        connection.execute("UPDATE buffer_predictions SET prediction_data = x'00ff' WHERE id = 4")
    connection.close()
    assert seqs_pending(store) == [2, 3, 5]
    store.close()


def test_quarantined_one_that_has_changed_is_found_when_it_is_tried_again(world):
    store = filled(world)
    store.settle([Outcome(Fate.QUARANTINED, (2,), "refused")])
    change_a_digit(world, 2)
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.execute("UPDATE buffer_predictions SET status = 'pending' WHERE id = 2")
    connection.close()
    assert seqs_pending(store) == [1, 3, 4, 5]
    store.close()


def test_rows_of_an_older_version_are_delivered_unchecked(world):
    store = filled(world)
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.executescript(
            f"{FORMAT_4} DROP INDEX prediction_buffer_by_image;"
            " ALTER TABLE prediction_buffer DROP COLUMN payload_crc32c; PRAGMA user_version = 2"
        )
    connection.close()
    with open_reading(world.folder / "buffer.db") as reading:
        assert len(list(reading.export())) == 5, "an export before the device of this version has begun"
    store = world.open()
    store.accept(entries(2))
    assert seqs_pending(store) == [1, 2, 3, 4, 5, 6, 7]
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        unchecked = connection.execute("SELECT id FROM prediction_buffer WHERE payload_crc32c IS NULL").fetchall()
    connection.close()
    assert [seq for (seq,) in unchecked] == [1, 2, 3, 4, 5]


def test_damaged_database_gives_only_what_is_as_it_was(world):
    """A replacement while running: the changed row is not salvaged, and its number is told as lost."""
    store = filled(world)
    before = {record.seq: record.payload for record in store.pending(0, 10, 1 << 20)}
    change_a_digit(world, 4)
    store.rebuild()
    assert {r.seq: r.payload for r in store.pending(0, 10, 1 << 20)} == {n: p for n, p in before.items() if n != 4}
    assert [(loss.from_seq, loss.to_seq, loss.reason) for loss in store.losses()] == [(4, 4, "bad_sector")]
    assert store.books().pending == 4
    store.close()


def test_damaged_database_takes_from_the_journal_what_has_changed(world):
    store = world.open()
    before = {record.seq: record.payload for record in store.accept(entries(5))}
    store.flush_if_writable()
    change_a_digit(world, 4)
    store.rebuild()
    assert {record.seq: record.payload for record in store.pending(0, 10, 1 << 20)} == before
    assert not store.losses()
    store.close()


def test_number_whose_row_is_gone_is_told_as_lost_where_an_index_still_names_it(world):
    store = filled(world, 300)
    store.settle([sent(*range(1, 11))])
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'buffer_predictions'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray((world.folder / "buffer.db").read_bytes())
    data[(root - 1) * size : (root - 1) * size + 8] = bytes(8)
    (world.folder / "buffer.db").write_bytes(data)
    store = world.open()
    try:
        seqs_pending(store)
    except Exception:  # noqa: BLE001 - as the device does: found damaged, replaced
        store.rebuild()
    there = set(seqs_pending(store))
    told = {seq for loss in store.losses() for seq in range(loss.from_seq, loss.to_seq + 1)}
    assert there | told >= set(range(11, 301))
    assert not there & told
    assert not told & set(range(1, 11)), "the cloud has confirmed those"
    store.close()


def test_export_leaves_out_what_has_changed_and_says_so(world):
    store = filled(world)
    change_a_digit(world, 2)
    store.close()
    with open_reading(world.folder / "buffer.db") as reading:
        assert [json.loads(line)["seq"] for line in reading.export()] == [1, 3, 4, 5]
        assert reading.damaged == [2]
        assert "row 2" in " ".join(reading.problems())


def test_new_number_does_not_launder_what_has_changed(world):
    """The cloud has others under both numbers: the sound one goes out again, the changed one is given up."""
    store = filled(world, 2)
    change_a_digit(world, 2)
    assert renumber(store, Seqs([(1, 2)])) == 1
    assert seqs_pending(store) == [3]
    assert [(loss.from_seq, loss.to_seq, loss.reason) for loss in store.losses()] == [(2, 2, "bad_sector")]
    store.close()


@pytest.mark.parametrize("number", [39, 71])
def test_clean_up_takes_no_row_whose_number_a_delivered_one_bears_by_a_flipped_bit(world, number):
    """The row still stands where its own number belongs, so nobody who looks for the other's meets it."""
    store = filled(world)
    store.accept(entries(10))
    store.settle([sent(7)])
    store.close()
    database = world.folder / "buffer.db"
    with sqlite3.connect(database) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'buffer_predictions'").fetchone()
    connection.close()
    data = bytearray(database.read_bytes())
    page = (root - 1) * 4096
    pointer = page + 8 + 2 * 6
    cell = page + int.from_bytes(data[pointer : pointer + 2])  # the row's length in two bytes, then its number
    assert (data[cell] > 0x7F, data[cell + 2]) == (True, 7)
    data[cell + 2] = number
    database.write_bytes(data)
    store = world.open()
    last = store.accept(entries(number))[-1].seq

    def clean_up() -> None:
        for _ in range(3):
            world.now += 8 * 86_400.0
            store.tidy()

    with pytest.raises(BufferDamaged, match=f"row {number}"):
        clean_up()
    store.rebuild()
    assert set(seqs_pending(store)) == set(range(1, last + 1)) - {7}
    store.close()
