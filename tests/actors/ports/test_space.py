"""BUFFER_MAX_SIZE_MB counts every byte, and what was set aside never eats the room of what is owed."""

import os
from pathlib import Path

import pytest

from actors.messages import Fate, Outcome
from actors.ports.buffer import Buffer
from actors.ports.cursors import Cursor, Mark
from actors.ports.journal import orphans
from actors.ports.opening import BufferFull, cursor_folder
from actors.ports.store import Store
from tests.actors.ports.stores import Disk, entries, fill, sent, seqs_pending

YEAR_S = 365 * 86_400.0


@pytest.fixture
def world(folder: Path) -> Disk:
    (folder / "d").mkdir(mode=0o700)
    return Disk(folder / "d", {"capacity_bytes": 4 << 20})


def on_disk(world: Disk) -> int:
    return sum(file.stat().st_size for file in world.folder.rglob("*") if file.is_file())


def filled_with_large_ones(world: Disk) -> Store:
    """A store with as much in it as rows on their way leave room for."""
    store = world.open()
    while fill(store, size=12_000, at_once=10):
        store.close()  # moves all of it to SQLite, and the journal's room is free again
        store = world.open()
    return store


def spoil_database(world: Disk) -> None:
    """Every page but the first few is overwritten, as a dying card does."""
    database = world.folder / "buffer.db"
    data = database.read_bytes()
    database.write_bytes(data[:100] + b"\xa5" * (len(data) - 100))


def spoil_segment(world: Disk) -> None:
    segment = orphans(world.folder / "buffer-journal")[0]
    data = bytearray(segment.read_bytes())
    data[data.index(b'"seq":3,"image_id"') + 12] ^= 1
    segment.write_bytes(data)


def with_everything(world: Disk) -> Store:
    """A store beside which lies all that ever may: a database and a line set aside, a cursor, the reserve."""
    store = world.open()
    store.accept(entries(200, size=300))
    store.close()
    spoil_database(world)
    store = world.open()
    store.accept(entries(5))
    store = world.kill(store)
    store = world.kill(store)
    store.accept(entries(5))
    cursor = Cursor(cursor_folder(world.folder / "buffer.db") / "camera.jsonl", of="camera")
    cursor.open()
    cursor.note([Mark(f"frame-{number}", (number,)) for number in range(500)])
    return store


def test_every_byte_in_the_folder_is_counted(world):
    store = with_everything(world)
    assert list(world.folder.glob("buffer.db.corrupt-*"))
    store.tidy()
    assert store.size_bytes() == on_disk(world)
    store.close()


def test_database_that_breaks_again_and_again_never_eats_the_cap(world):
    """The oldest copies go first, are counted and told; the newest stays to be looked at."""
    for number in range(12):
        store = world.open()
        store.accept(entries(1_200, size=300))
        store.settle([Outcome(Fate.SENT, tuple(seqs_pending(store)))])
        store.close()
        os.utime(world.folder / "buffer.db", (1_000 + number, 1_000 + number))
        spoil_database(world)
        os.utime(world.folder / "buffer.db", (1_000 + number, 1_000 + number))
        world.now += 10
        store = world.open()
        assert on_disk(world) <= 4 << 20
        assert store.size_bytes() == on_disk(world)
        assert store.books().set_aside_bytes <= 1 << 20
        dropped = store.books().set_aside_dropped
        store.close()
    assert dropped > 0
    kept = sorted(file.name for file in world.folder.glob("buffer.db.corrupt-*"))
    assert kept[-1].startswith(f"buffer.db.corrupt-{int(world.now)}")


def test_what_was_set_aside_makes_room_before_anything_owed_is_refused(world):
    store = world.open()
    store.accept(entries(1_800, size=300))
    store.close()
    spoil_database(world)
    store = world.open()
    assert store.books().set_aside_bytes > 500_000
    fill(store)
    while store.tidy():
        pass
    assert store.books().set_aside_bytes == 0
    assert store.books().set_aside_dropped == 1
    assert len(store.accept(entries(100, size=300))) == 100
    store.close()


def test_sent_rows_make_room_before_what_was_set_aside(world):
    store = world.open()
    store.accept(entries(1_200, size=300))
    store.close()
    spoil_database(world)
    store = world.open()
    aside = store.books().set_aside_bytes
    assert aside > 300_000
    fill(store)
    store.settle([sent(*seqs_pending(store))])
    while store.tidy():
        pass
    assert store.books().set_aside_bytes == aside
    store.close()


def test_all_that_is_made_is_private(world):
    """0600 and 0700, whatever the umask of the process says."""
    usual = os.umask(0)
    try:
        store = with_everything(world)
        spoilt = world.folder / "buffer.db.damaged"
        modes = {
            path.relative_to(world.folder).as_posix(): path.stat().st_mode & 0o777 for path in world.folder.rglob("*")
        }
        store.rebuild()
        store.close()
        assert not spoilt.exists()
    finally:
        os.umask(usual)
    wrong = {
        name: f"{mode:o}"
        for name, mode in modes.items()
        if mode != (0o700 if (world.folder / name).is_dir() else 0o600)
    }
    assert not wrong
    assert {name.partition("/")[0] for name in modes} >= {"buffer.db", "buffer-journal", "cursors"}


def test_cap_holds_while_large_predictions_move_from_the_journal_into_sqlite(world, monkeypatch):
    """On their way they lie in the journal, in the write-ahead log and in the database at once."""
    seen = []
    checkpoint = Buffer.checkpoint

    def watched(buffer: Buffer, *, wait: bool = False) -> bool:
        done = checkpoint(buffer, wait=wait)
        seen.append(on_disk(world))
        return done

    monkeypatch.setattr(Buffer, "checkpoint", watched)
    store = world.open()
    accepted = fill(store, size=20_000, at_once=4)
    store.tidy()
    accepted += fill(store, size=20_000, at_once=4)
    store.close()
    assert max(seen) <= 4 << 20
    assert accepted * 20_000 > 1 << 20, "the bound is no excuse for taking next to nothing"


def test_sent_rows_make_way_for_a_group_that_needs_more_than_the_tenth_that_is_kept_free(world):
    store = world.open()
    store.accept(entries(7, size=145_000))
    store.settle([sent(*range(1, 8))])
    store.accept(entries(1))
    store.tidy()
    large = entries(4, size=220_000)
    with pytest.raises(BufferFull):
        store.accept(large)
    for _ in range(5):
        store.tidy()
    assert store.accept(large)
    store.close()


def test_sent_rows_make_way_also_after_the_clock_went_back_by_a_year(world):
    """They were confirmed at a time that is yet to come; nothing else is there to be given up."""
    world.now += YEAR_S
    store = filled_with_large_ones(world)
    store.settle([sent(*range(1, store.last_seq + 1))])
    world.now -= YEAR_S
    assert fill(store, size=12_000, at_once=10) == 0
    for _ in range(20):
        store.tidy()
    assert fill(store, size=12_000, at_once=10) > 0
    store.close()


def test_freed_pages_go_back_to_the_file_system_many_in_a_stroke(world):
    store = world.open()
    store.accept(entries(5, size=150_000))
    store.settle([sent(*range(1, 6))])
    store.flush_if_writable()
    store._buffer.delete_sent(10, sent_before=world.now + 1)
    store._give_back()
    assert (world.folder / "buffer.db").stat().st_size < 100_000
    store.close()


def test_what_a_whole_drain_confirms_at_once_stays_below_the_cap(world):
    """A disk that took nothing for a while hears of every batch in one go, and each fate is its row written again."""
    store = filled_with_large_ones(world)
    outcomes, after = [], 0
    while page := store.pending(after, 100, 32 << 10):
        outcomes.append(Outcome(Fate.SENT, page.seqs, payload_bytes=page.size))
        after = page.seqs[-1]
    assert sum(outcome.payload_bytes for outcome in outcomes) > 2 << 20, "much of the buffer"
    store.settle(outcomes)
    assert on_disk(world) <= 4 << 20
    assert store.pending_count == 0
    assert set(world.rows().values()) == {"sent"}
    store.close()


@pytest.mark.parametrize("fate", [Fate.QUARANTINED, Fate.RELEASED])
def test_one_large_outcome_stays_below_the_cap(world, fate):
    store = filled_with_large_ones(world)
    page = store.pending(0, 1_000, 4 << 20)
    store.settle([Outcome(fate, page.seqs, "why", payload_bytes=page.size)])
    assert on_disk(world) <= 4 << 20
    assert store.failed_count == (len(page) if fate is Fate.QUARANTINED else 0)
    store.close()


def test_a_start_that_replays_empties_the_log_of_the_life_before_first(world):
    """Else the rows that it inserts would come on top, with every start that is killed."""
    log = "buffer.db-wal"
    store = world.open()
    store.accept(entries(1_000, size=300))
    world.now += 60
    store.tidy()
    store.accept(entries(10, size=300))
    assert (world.folder / log).stat().st_size > 300_000
    store = world.kill(store)
    assert store.recovered.predictions == 10
    assert (world.folder / log).stat().st_size < 100_000
    store.close()
