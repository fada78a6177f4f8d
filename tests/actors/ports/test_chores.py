"""An operator's work on the rows at rest: nothing vanishes unexplained, and every counter stays exact."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.messages import Entry, Fate, Outcome
from actors.ports.chores import perform, pieces
from actors.ports.opening import BufferFull, StoreOptions
from actors.ports.reading import open_reading
from actors.ports.store import Store
from actors.tasks import Done, Saved, Task, TaskKind
from cloud.wire import encode_prediction
from tests.world import prediction

NOW = 1_000.0


def options(folder: Path, **changes: Any) -> StoreOptions:
    fields: dict[str, Any] = {
        "db_path": folder / "buffer.db",
        "capacity_bytes": 64 << 20,
        "cleanup_days": 7.0,
        "journal": True,
        "now": lambda: NOW,
        "new_id": lambda _: "stream",
        "sync": lambda _: None,
    }
    return StoreOptions(**fields | changes)


@contextlib.contextmanager
def opened(folder: Path, **changes: Any) -> Iterator[Store]:
    store = Store.open("cam", options(folder, **changes))
    try:
        yield store
    finally:
        store.close()


def accept(store: Store, count: int) -> None:
    store.accept([Entry(f"frame_{n}", NOW + n, encode_prediction(prediction(n))) for n in range(count)])


def settle(store: Store, fate: Fate, *seqs: int, error: str | None = None) -> None:
    store.settle([Outcome(fate, seqs, error)])


def counts(store: Store) -> tuple[int, int, int]:
    """Pending, sent, failed: as the store counts, and as the table says once it has all rows."""
    found = (store.pending_count, store.sent_count, store.failed_count)
    with open_reading(store._options.db_path) as reading:
        stats = reading.stats()
    assert (stats["pending"], stats["failed"]) == (found[0], found[2])
    return found


def graves(folder: Path) -> list[tuple[int, int, str]]:
    with contextlib.closing(sqlite3.connect(folder / "buffer.db")) as connection:
        return connection.execute("SELECT from_seq, to_seq, reason FROM buffer_losses ORDER BY 1").fetchall()


# --- giving up


def test_what_is_discarded_leaves_a_tombstone_and_a_restart_does_not_dig_it_up(folder):
    with opened(folder) as store:
        accept(store, 10)
        settle(store, Fate.SENT, 1, 2)
        settle(store, Fate.QUARANTINED, 3, error="bad")
        done = perform(store, Task(kind=TaskKind.DISCARD, spans=((1, 4), (8, 9))))
        assert done == Done(changed=4)
        assert counts(store) == (4, 2, 0)
        assert graves(folder) == [(3, 4, "discarded"), (8, 9, "discarded")]
    with opened(folder) as store:
        assert counts(store) == (4, 2, 0)
        assert [loss.reason for loss in store.losses()] == ["discarded", "discarded"]
        assert [stored.seq for stored in store.pending(0, 100, 1 << 20)] == [5, 6, 7, 10]


def test_what_is_on_its_way_is_not_discarded_under_the_uplinks_hands(folder):
    with opened(folder) as store:
        accept(store, 5)
        done = perform(store, Task(kind=TaskKind.DISCARD, spans=((1, 5),)), in_flight={2, 3})
        assert done == Done(changed=3, in_flight=2)
        settle(store, Fate.SENT, 2, 3)
        assert counts(store) == (0, 2, 0)
        assert graves(folder) == [(1, 1, "discarded"), (4, 5, "discarded")]


# --- again


def test_quarantined_ones_are_tried_again_from_zero(folder):
    with opened(folder) as store:
        accept(store, 4)
        settle(store, Fate.QUARANTINED, 2, 3, error="bad")
        assert perform(store, Task(kind=TaskKind.RESET_FAILED, spans=((1, 4),))) == Done(changed=2)
        assert counts(store) == (4, 0, 0)
        with open_reading(folder / "buffer.db") as reading:
            assert [(row["retry_count"], row["last_error"]) for row in reading.rows(count_max=9)] == [(0, None)] * 4


def test_replayed_ones_are_pending_and_counted_as_sent_only_once_in_the_end(folder):
    with opened(folder) as store:
        accept(store, 4)
        settle(store, Fate.SENT, 1, 2, 3)
        assert perform(store, Task(kind=TaskKind.REPLAY, spans=((2, 4),))) == Done(changed=2)
        assert counts(store) == (3, 1, 0)
        settle(store, Fate.SENT, 2, 3)
        assert counts(store) == (1, 3, 0)
    with opened(folder) as store:
        assert counts(store) == (1, 3, 0)


# --- all of it


def test_whoever_looks_sees_what_was_confirmed_before_it_was_in_the_database(folder):
    """Without being asked, the device moves it there some seconds later; till then the file knows of no answer."""
    with opened(folder) as store:
        accept(store, 3)
        settle(store, Fate.SENT, 1, 2)
        with open_reading(folder / "buffer.db") as reading:
            assert (reading.stats()["pending"], reading.in_journal) == (3, 3)
        assert perform(store, Task(kind=TaskKind.FLUSH)) == Done()
        with open_reading(folder / "buffer.db") as reading:
            assert [row["status"] for row in reading.rows(count_max=9)] == ["sent", "sent", "pending"]
            assert (reading.stats()["pending"], reading.in_journal) == (1, 0)


# --- there and back


def saved(folder: Path) -> tuple[Saved, ...]:
    with open_reading(folder / "buffer.db") as reading:
        lines = [json.loads(line) for line in reading.export()]
        payloads = [line.partition(b'"prediction":')[2][:-2].decode() for line in reading.export()]
    return tuple(
        Saved(line["seq"], payload, line["buffered_at"]) for line, payload in zip(lines, payloads, strict=True)
    )


def test_restored_ones_are_the_same_bytes_under_the_same_numbers_and_their_tombstones_are_lifted(folder):
    with opened(folder) as store:
        accept(store, 6)
        before = store.pending(0, 100, 1 << 20)
        rows = saved(folder)
        perform(store, Task(kind=TaskKind.DISCARD, spans=((2, 5),)))
        assert perform(store, Task(kind=TaskKind.RESTORE, rows=rows[2:4])) == Done(changed=2)
        assert graves(folder) == [(2, 2, "discarded"), (5, 5, "discarded")]
        assert counts(store) == (4, 0, 0)
    with opened(folder) as store:
        assert counts(store) == (4, 0, 0)
        assert store.pending(0, 100, 1 << 20) == [before[0], before[2], before[3], before[5]]


def test_restored_ones_that_were_sent_and_cleaned_up_are_counted_as_sent_only_once_in_the_end(folder):
    """Of ten accepted, twelve were told as sent."""
    with opened(folder) as store:
        accept(store, 4)
        rows = saved(folder)
        settle(store, Fate.SENT, 1, 2, 3)
        perform(store, Task(kind=TaskKind.CLEAN_UP, sent_before=NOW + 1))
        perform(store, Task(kind=TaskKind.DISCARD, spans=((4, 4),)))
        assert perform(store, Task(kind=TaskKind.RESTORE, rows=rows)) == Done(changed=4)
        assert counts(store) == (4, 0, 0)
        settle(store, Fate.SENT, 1, 2, 3, 4)
        assert counts(store) == (0, 4, 0)


def test_what_is_there_is_not_restored_and_what_was_never_given_out_is_refused(folder):
    with opened(folder) as store:
        accept(store, 3)
        settle(store, Fate.SENT, 1)
        rows = saved(folder)
        foreign = Saved(9, rows[0].payload, NOW)
        broken = Saved(2, "{}", NOW)
        assert perform(store, Task(kind=TaskKind.RESTORE, rows=(*rows, foreign, broken))) == Done(refused=2)
        assert counts(store) == (2, 1, 0)


def test_restoring_leaves_room_for_what_the_device_sees(folder):
    with opened(folder, capacity_bytes=16 << 20) as store:
        accept(store, 1)
        row = saved(folder)[0]
        with pytest.raises(BufferFull, match="nothing of this was restored"):
            perform(store, Task(kind=TaskKind.RESTORE, rows=(row,) * 100_000))


# --- space


def test_clean_up_goes_in_strokes_and_spares_what_is_not_sent(folder):
    with opened(folder) as store:
        accept(store, 1_500)
        settle(store, Fate.SENT, *range(1, 1_301))
        task = Task(kind=TaskKind.CLEAN_UP, sent_before=NOW + 1)
        done = [perform(store, task) for _ in range(3)]
        assert [(one.changed, one.more) for one in done] == [(512, True), (512, True), (276, False)]
        assert counts(store) == (200, 1_300, 0)
        assert perform(store, Task(kind=TaskKind.CLEAN_UP, sent_before=NOW)) == Done()


def test_shrinking_gives_the_space_back(folder):
    with opened(folder) as store:
        accept(store, 6_000)
        settle(store, Fate.SENT, *range(1, 6_001))
        while perform(store, Task(kind=TaskKind.CLEAN_UP, sent_before=NOW + 1)).more:
            pass
        with open_reading(folder / "buffer.db") as reading:
            before = reading.stats()["database_bytes"]
        strokes = 1
        while perform(store, Task(kind=TaskKind.SHRINK)).more:
            strokes += 1
        assert strokes > 1
        assert (folder / "buffer.db").stat().st_size < before / 4


def test_rebuilding_keeps_what_is_owed(folder):
    with opened(folder) as store:
        accept(store, 5)
        settle(store, Fate.QUARANTINED, 2, error="bad")
        perform(store, Task(kind=TaskKind.DISCARD, spans=((5, 5),)))
        assert perform(store, Task(kind=TaskKind.REBUILD)) == Done(changed=4)
        assert counts(store) == (3, 0, 1)
        assert graves(folder) == [(5, 5, "discarded")]


# --- pure


@pytest.mark.parametrize(
    ("spans", "numbers_max", "expected"),
    [
        ((), 10, []),
        (((1, 3),), 10, [((1, 3),)]),
        (((1, 25),), 10, [((1, 10),), ((11, 20),), ((21, 25),)]),
        (((1, 4), (6, 9), (20, 20)), 5, [((1, 4), (6, 6)), ((7, 9), (20, 20))]),
        (((1, 5), (7, 11)), 5, [((1, 5),), ((7, 11),)]),
    ],
)
def test_ranges_are_cut_into_pieces_of_a_bounded_size(spans, numbers_max, expected):
    assert list(pieces(spans, numbers_max)) == expected
