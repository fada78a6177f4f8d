"""Ranges of what is confirmed: against a plain set of numbers, and through the buffer that keeps them."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Fate, Outcome
from actors.ports.account import read_account
from actors.ports.chores import perform
from actors.ports.confirmed import Confirmed, confirm, read_confirmed, retract
from actors.ports.forks import renumber
from actors.ports.opening import DiskTrouble, NoBooks
from actors.ports.reading import open_reading
from actors.ports.schema import MIGRATIONS
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.ports.store import Store
from actors.seqs import Seqs, seqs_of
from actors.tasks import Task, TaskKind
from cloud.wire import SEQ_MAX
from tests.actors.ports.stores import FORMAT_4, Disk, entries, seqs_pending

HIGH = 60
spans = st.tuples(st.integers(1, HIGH), st.integers(1, HIGH)).map(lambda pair: (min(pair), max(pair)))


@pytest.fixture
def world(folder) -> Disk:
    (folder / "d").mkdir()
    return Disk(folder / "d", {})


def written(world: Disk, count: int = 100) -> Store:
    """A store whose rows are all in SQLite, pending."""
    store = world.open()
    store.accept(entries(count))
    assert store.flush_if_writable()
    return store


def sent(first: int, last: int) -> Outcome:
    return Outcome(Fate.SENT, Seqs([(first, last)]))


def ranges_in(world: Disk) -> list[tuple[int, int, float]]:
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        return connection.execute("SELECT from_seq, to_seq, sent_at FROM buffer_confirmed ORDER BY from_seq").fetchall()


def confirmed_and_set(steps):
    """What a row of additions and cuts comes to, in ranges and number by number."""
    ranges, numbers = Confirmed(), set()
    for adds, (first, last) in steps:
        if adds:
            for part in ranges.free(first, last):
                ranges.add(*part)
            numbers |= set(range(first, last + 1))
        else:
            ranges.cut(first, last)
            numbers -= set(range(first, last + 1))
    return ranges, numbers


@given(st.lists(st.tuples(st.booleans(), spans)), spans)
def test_ranges_are_the_numbers_that_were_added_and_not_cut(steps, asked):
    ranges, numbers = confirmed_and_set(steps)
    wanted = set(range(asked[0], asked[1] + 1))
    assert ranges.count == len(numbers)
    assert ranges.within(1, SEQ_MAX) == list(seqs_of(sorted(numbers)).spans), "in order, neighbours as one"
    assert [*Seqs(ranges.within(*asked))] == sorted(numbers & wanted)
    assert [*Seqs(ranges.free(*asked))] == sorted(wanted - numbers)


@given(st.lists(st.tuples(st.booleans(), spans)), st.integers(0, HIGH), st.integers(0, HIGH))
def test_gaps_hold_all_that_is_not_confirmed_in_order(steps, at, above):
    ranges, numbers = confirmed_and_set(steps)
    up = [seq for low, high in ranges.gaps(at) for seq in range(low + 1, min(high, HIGH + 1))]
    assert up == [seq for seq in range(at + 1, HIGH + 1) if seq not in numbers]
    down = [seq for low, high in ranges.gaps_down(at + 1, above) for seq in reversed(range(low + 1, high))]
    assert down == [seq for seq in range(at, above, -1) if seq not in numbers]


@given(st.lists(spans, max_size=6), st.lists(spans, max_size=4))
def test_table_says_what_memory_says(added, cut):
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in MIGRATIONS:
            connection.executescript(migration)
        ranges = Confirmed()
        for span in added:
            for part in ranges.free(*span):
                confirm(connection, *part, 1.5)
                ranges.add(*part)
        for span in cut:
            before = ranges.count
            ranges.cut(*span)
            assert retract(connection, *span) == before - ranges.count
        assert read_confirmed(connection).within(1, SEQ_MAX) == ranges.within(1, SEQ_MAX)


def test_a_batch_is_confirmed_by_one_row_and_its_own_are_not_touched(world):
    store = written(world)
    world.now = 2_000.0
    store.settle([sent(1, 60), sent(61, 70)])
    assert ranges_in(world) == [(1, 70, 2_000.0)]
    assert seqs_pending(store) == list(range(71, 101))
    assert (store.pending_count, store.sent_count) == (30, 70)
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        assert connection.execute("SELECT DISTINCT status FROM buffer_predictions").fetchall() == [("pending",)]
        shown = "SELECT status, count(*), min(sent_at), max(sent_at) FROM prediction_buffer GROUP BY status ORDER BY 1"
        assert connection.execute(shown).fetchall() == [("pending", 30, None, None), ("sent", 70, 2_000.0, 2_000.0)]
    store.close()


def test_confirmed_twice_is_counted_once(world):
    store = written(world)
    store.settle([sent(1, 60)])
    store.settle([sent(20, 80), sent(70, 90)])
    assert (store.pending_count, store.sent_count) == (10, 90)
    assert seqs_pending(store) == list(range(91, 101))
    store.close()


def test_few_rows_and_rows_with_others_between_them_get_a_mark_each(world):
    store = written(world)
    store.settle([Outcome(Fate.QUARANTINED, Seqs([(30, 30)]), "refused")])
    store.settle([sent(1, 50), sent(60, 62)])
    assert ranges_in(world) == []
    marked = (*range(1, 30), *range(31, 51), 60, 61, 62)
    waiting = (*range(51, 60), *range(63, 101))
    assert world.rows() == dict.fromkeys(marked, "sent") | dict.fromkeys(waiting, "pending") | {30: "failed"}
    assert store.sent_count == 52
    store.close()


def test_ranges_are_there_again_after_a_kill(world):
    store = written(world)
    store.settle([sent(21, 60)])
    store = world.kill(store)
    assert seqs_pending(store) == [*range(1, 21), *range(61, 101)]
    assert (store.pending_count, store.sent_count) == (60, 40)
    store.close()


def test_newest_first_passes_over_what_is_confirmed(world):
    store = written(world)
    store.settle([sent(41, 90)])
    first = store.pending(0, 15, 1 << 20, newest=True)
    assert [*first.seqs] == [*range(36, 41), *range(91, 101)]
    assert [*store.pending(36, 15, 1 << 20, newest=True).seqs] == list(range(21, 36))
    store.close()


def test_a_page_goes_on_behind_a_range(world):
    store = written(world, 400)
    store.settle([sent(101, 300)])
    assert [*store.pending(90, 50, 1 << 20).seqs] == [*range(91, 101), *range(301, 341)]
    store.close()


def test_what_fails_or_is_tried_again_within_a_range_stays_confirmed(world):
    store = written(world)
    store.settle([sent(1, 50)])
    store.settle(
        [Outcome(Fate.QUARANTINED, Seqs([(40, 60)]), "refused"), Outcome(Fate.RELEASED, Seqs([(1, 70)]), "no")]
    )
    assert store.failed_count == 10
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        found = connection.execute("SELECT id, status, retry_count, last_error FROM prediction_buffer").fetchall()
    assert [row for row in found if row[0] in (40, 50)] == [(40, "sent", 0, None), (50, "sent", 0, None)]
    assert [row for row in found if row[0] in (51, 61)] == [(51, "failed", 0, "refused"), (61, "pending", 1, "no")]
    store.close()


def test_eviction_passes_over_what_is_confirmed(world):
    store = written(world, 700)
    store.settle([sent(11, 100)])
    assert store.evict() == 512
    assert seqs_pending(store) == list(range(603, 701))
    assert [(loss.from_seq, loss.to_seq) for loss in store.losses()] == [(1, 10), (101, 602)]
    assert world.rows().keys() == {*range(11, 101), *range(603, 701)}
    store.close()


def test_clean_up_gives_a_range_up_stroke_by_stroke_oldest_first(world):
    store = written(world, 1_000)
    store.settle([sent(5, 7)])
    world.now = 3_000.0
    store.settle([sent(101, 900)])
    assert store._buffer.delete_sent(503, sent_before=4_000.0) == 503
    assert ranges_in(world) == [(601, 900, 3_000.0)]
    assert store._buffer.delete_sent(503, sent_before=3_000.0) == 0, "confirmed at that time, not before it"
    assert store._buffer.delete_sent(503, sent_before=4_000.0) == 300
    assert ranges_in(world) == []
    assert seqs_pending(store) == [*range(1, 5), *range(8, 101), *range(901, 1_001)]
    store.close()
    store = world.open()
    assert (store.pending_count, store.sent_count) == (197, 803)
    store.close()


def test_clean_up_goes_on_from_range_to_range_until_its_stroke_is_full(world):
    """One that ends early says that nothing is left: the next would come in an hour, and evict what waits meanwhile."""
    store = written(world, 1_200)
    for first in range(1, 1_200, 40):
        store.settle([sent(first, first + 29), sent(first + 35, first + 36)])
    assert len(ranges_in(world)) == 30
    assert store._buffer.delete_sent(512, sent_before=2_000.0) == 512
    done = perform(store, Task(kind=TaskKind.CLEAN_UP, sent_before=2_000.0))
    assert (done.changed, done.more) == (30 * 32 - 512, False)
    assert ranges_in(world) == []
    assert store.pending_count == 240
    store.close()
    store = world.open()
    assert not store.recovered.buffer_set_aside
    store.close()


@pytest.mark.parametrize("change", ["to_seq = 64", "from_seq = 33", "to_seq = 64, crc32c = 0x6f5f3e2d"])
@pytest.mark.parametrize("give_up", ["delete", "replay"])
def test_a_range_that_has_changed_under_a_running_device_takes_nothing_with_it(world, change, give_up):
    """A bit flips after the device has read it: the table then names rows that nobody else has."""
    store = written(world)
    store.settle([sent(41, 50)])
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        connection.execute(f"UPDATE buffer_confirmed SET {change}")
    task = Task(kind=TaskKind.REPLAY, spans=((45, 60),))
    if give_up == "delete":
        task = Task(kind=TaskKind.CLEAN_UP, sent_before=2_000.0)
    with pytest.raises(BufferDamaged, match="buffer_confirmed"):
        perform(store, task)
    store.rebuild()
    assert set(seqs_pending(store)) >= {*range(1, 41), *range(51, 101)}
    store.close()


def test_a_whole_range_that_memory_does_not_know_is_not_given_up(world):
    store = written(world)
    store.settle([sent(41, 50)])
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        confirm(connection, 61, 80, 1.0)
    with pytest.raises(BufferDamaged, match="61 to 80 is more than was confirmed"):
        store._buffer.delete_sent(512, sent_before=2_000.0)
    store.close()


def test_numbers_of_a_renumbering_whose_count_failed_are_not_given_out_again(world, monkeypatch):
    """The rows are committed by then; what failed is only a look at them."""
    store = written(world)
    with monkeypatch.context() as patch:
        patch.setattr(store._buffer, "highest_seq", failing)
        with pytest.raises(DiskTrouble):
            renumber(store, Seqs([(1, 5)]))
    assert store.accept(entries(1))[0].seq == 106
    store.close()


def failing(**_):
    raise BufferUnwritable("disk I/O error")


def test_what_is_pending_again_is_found_however_far_the_look_had_come(world):
    store = written(world)
    store.settle([Outcome(Fate.QUARANTINED, Seqs([(5, 5)]), "refused"), sent(6, 100)])
    store.settle([sent(1, 4)])
    assert seqs_pending(store) == []
    perform(store, Task(kind=TaskKind.RESET_FAILED, spans=((5, 5),)))
    assert seqs_pending(store) == [5]
    assert store.books().oldest_pending_at == 1_000.0
    store.close()


def test_many_gaps_without_anything_pending_are_walked_once(world, monkeypatch):
    """A second's account, and each look for what is next, would pass them all again."""
    store = written(world, 900)
    for first in range(1, 900, 9):
        store.settle([sent(first, first + 7), Outcome(Fate.QUARANTINED, Seqs([(first + 8, first + 8)]), "refused")])
    assert len(ranges_in(world)) == 100
    assert seqs_pending(store) == []
    store.accept(entries(1))  # waits, but not in SQLite
    walked: list[tuple[int, int]] = []
    gaps, gaps_down = Confirmed.gaps, Confirmed.gaps_down

    def noted(found):
        for gap in found:
            walked.append(gap)
            yield gap

    monkeypatch.setattr(Confirmed, "gaps", lambda *asked: noted(gaps(*asked)))
    monkeypatch.setattr(Confirmed, "gaps_down", lambda *asked: noted(gaps_down(*asked)))
    assert store.books().oldest_pending_at == 1_000.0
    assert not store._buffer.pending(0, 10, 1 << 20)
    assert not store._buffer.pending(0, 10, 1 << 20, newest=True)
    assert len(walked) < 5
    store.close()


def test_a_row_whose_number_has_flipped_into_a_range_is_saved_by_its_payload(world):
    written(world).close()
    store = world.open()
    store.settle([sent(61, 90)])
    store.close()
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        connection.execute("DELETE FROM buffer_predictions WHERE id = 63")
        connection.execute("UPDATE buffer_predictions SET id = 63 WHERE id = 31")
    store = world.open()
    assert store.recovered.buffer_set_aside
    assert seqs_pending(store) == [*range(1, 61), *range(91, 101)]
    assert store.losses() == []
    store.close()


def test_views_of_the_operators_own_go_on_and_stop_no_upgrade(world):
    written(world).close()
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        connection.executescript(FORMAT_4)
        connection.executescript(
            "CREATE VIEW waiting AS SELECT id FROM prediction_buffer WHERE status = 'pending';"
            "CREATE VIEW broken AS SELECT no_such FROM prediction_buffer;"
        )
    store = world.open()
    assert not store.recovered.buffer_set_aside
    store.settle([sent(1, 50)])
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        assert connection.execute("SELECT count(*) FROM waiting").fetchone() == (50,)
    store.close()


@pytest.mark.parametrize(
    "damage", [(b"ifnull(c.sent_at", b"\xe9fnull(c.sent_at"), (b"p.retry_count", b"p.retry_coun4")]
)
def test_a_view_that_is_damaged_is_made_anew_and_told_until_then(world, damage):
    """A device needs it for nothing: only who looks would meet it."""
    store = written(world)
    store.settle([sent(1, 50)])
    store.close()
    database = world.folder / "buffer.db"
    assert database.read_bytes().count(damage[0]) == 1
    database.write_bytes(database.read_bytes().replace(*damage))
    with pytest.raises(NoBooks), open_reading(database) as reading:
        reading.rows(count_max=5)
    store = world.open()
    assert not store.recovered.buffer_set_aside
    assert world.rows()[50] == "sent"
    store.close()


def test_quarantine_is_listed_by_its_index(world):
    store = written(world)
    store.settle([sent(1, 50), Outcome(Fate.QUARANTINED, Seqs([(70, 71)]), "refused")])
    store.close()
    with open_reading(world.folder / "buffer.db") as reading:
        asked = f"SELECT id FROM prediction_buffer WHERE {reading.of_status('failed')}"
        plan = [row[3] for row in reading._connection.execute(f"EXPLAIN QUERY PLAN {asked}")]
    assert "SEARCH p USING INTEGER PRIMARY KEY (rowid=?)" in plan
    assert "SCAN p" not in plan


def test_repair_hears_of_a_range_that_is_not_what_was_written(world):
    store = written(world)
    store.settle([sent(1, 50)])
    store.close()
    with open_reading(world.folder / "buffer.db") as reading:
        assert reading.problems() == []
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        connection.execute("UPDATE buffer_confirmed SET to_seq = 60")
    with open_reading(world.folder / "buffer.db") as reading:
        assert reading.problems() == ["1 ranges of what is confirmed are not what was written"]
    assert read_account(world.folder / "buffer.db").waiting == ((1, 100),), "what the device will make of it"


def test_sent_again_on_demand_is_pending_again(world):
    store = written(world)
    store.settle([sent(1, 50), sent(60, 61)])
    done = perform(store, Task(kind=TaskKind.REPLAY, spans=((41, 60),)))
    assert done.changed == 11
    assert seqs_pending(store) == [*range(41, 61), *range(62, 101)]
    assert (store.pending_count, store.sent_count) == (59, 41)
    store.settle([sent(41, 60)])
    assert store.sent_count == 61
    store.close()


def test_nothing_that_is_confirmed_is_discarded_or_renumbered(world):
    store = written(world)
    store.settle([sent(1, 50)])
    assert perform(store, Task(kind=TaskKind.DISCARD, spans=((45, 55),))).changed == 5
    assert renumber(store, Seqs([(40, 60)])) == 5
    assert world.rows()[50] == "sent"
    assert seqs_pending(store) == [*range(61, 101), *range(101, 106)]
    store.close()


def test_operator_sees_the_counts_and_the_audit_the_spans(world):
    store = written(world)
    store.settle([sent(1, 50), Outcome(Fate.QUARANTINED, Seqs([(70, 71)]), "refused")])
    store.close()
    with open_reading(world.folder / "buffer.db") as reading:
        counts = reading.stats()
        assert (counts["pending"], counts["sent"], counts["failed"]) == (48, 50, 2)
        assert [row["id"] for row in reading.rows(among=reading.of_status("failed"), count_max=9)] == [70, 71]
        assert reading.spans("", among=reading.of_status("sent")) == [(1, 50)]
    account = read_account(world.folder / "buffer.db")
    assert account.waiting == ((51, 69), (72, 100))
    assert account.quarantined == ((70, 71),)


def test_a_buffer_of_format_4_goes_on_with_its_marks(world):
    store = world.open()
    store.accept(entries(100))
    store.settle([sent(1, 50)])  # written as sent
    store.close()
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        connection.executescript(FORMAT_4)
    with open_reading(world.folder / "buffer.db") as reading:
        assert reading.stats()["pending"] == 50
    assert read_account(world.folder / "buffer.db").waiting == ((51, 100),)
    store = world.open()
    store.settle([sent(51, 80)])
    assert seqs_pending(store) == list(range(81, 101))
    assert store.accept(entries(1))[0].seq == 101
    assert world.rows()[30] == world.rows()[60] == "sent"
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE buffer_confirmed SET to_seq = to_seq + 8",
        "UPDATE buffer_confirmed SET from_seq = from_seq - 4",
        "UPDATE buffer_confirmed SET sent_at = 'never'",
        "UPDATE buffer_confirmed SET crc32c = crc32c + 1",
    ],
)
def test_a_range_that_is_not_what_was_written_hides_nothing(world, change):
    """It would say of predictions that nobody has that the cloud has them."""
    store = written(world)
    store.settle([sent(11, 50)])
    store.close()
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        connection.execute(change)
    store = world.open()
    assert "buffer_confirmed" in store.recovered.buffer_set_aside
    assert {*range(1, 11), *range(51, 101)} <= set(seqs_pending(store))
    assert store.accept(entries(1))[0].seq == 101
    store.close()


def test_a_salvage_honours_the_ranges_that_are_whole(world):
    written(world).close()  # the journal, which knows of no mark, has given its lines up
    store = world.open()
    store.settle([sent(1, 50)])
    store.rebuild()
    assert seqs_pending(store) == list(range(51, 101))
    assert (store.pending_count, store.sent_count) == (50, 50)
    store.close()


def test_a_range_without_its_rows_is_damage(world):
    store = written(world)
    store.settle([sent(1, 50)])
    store.close()
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection, connection:
        connection.execute("DELETE FROM buffer_predictions WHERE id = 7")
    store = world.open()
    assert store.recovered.buffer_set_aside
    assert seqs_pending(store) == list(range(51, 101)), "the cloud has 7 as well"
    store.close()


def test_ranges_that_overlap_are_damage():
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in MIGRATIONS:
            connection.executescript(migration)
        confirm(connection, 1, 20, 1.0)
        confirm(connection, 20, 30, 1.0)
        with pytest.raises(BufferDamaged, match="20 to 30"):
            read_confirmed(connection)
