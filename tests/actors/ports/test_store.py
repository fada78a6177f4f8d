"""The store keeps what it acknowledged, numbers it once, and always opens."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Fate, Outcome
from actors.ports.journal import orphans
from actors.ports.opening import OWNER_BYTES, StoreLocked, StoreMisplaced
from actors.ports.schema import MIGRATIONS
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from cloud.wire import Loss
from tests.actors.ports.stores import FORMAT_4, Disk, entries, fill, sent, seqs_pending
from tests.places import MEMORY_DISK


@pytest.fixture
def disk(folder: Path) -> Callable[..., Disk]:
    (folder / "d").mkdir()
    return lambda **options: Disk(folder / "d", options)


def test_accepted_predictions_survive_a_kill_before_any_flush(disk):
    """accepted = durable: the journal alone is enough."""
    world = disk()
    store = world.open()
    store.accept(entries(5))
    store = world.kill(store)
    assert store.recovered.predictions == 5
    assert store.recovered.sessions == 1
    assert seqs_pending(store) == [1, 2, 3, 4, 5]
    assert store.accept(entries(1))[0].seq == 6
    store.close()


def test_recovery_tells_how_many_of_which_sessions_and_from_when(disk):
    world = disk()
    store = world.open()
    assert str(store.recovered) == "recovered 0 predictions from 0 earlier session(s)"
    store.accept(entries(5))
    store._flush()
    store.accept(entries(3))
    store = world.kill(store)
    assert str(store.recovered) == (
        "recovered 3 predictions from 1 earlier session(s), taken from 1970-01-01 00:00:05 to 1970-01-01 00:00:07 UTC"
    ), "five of eight were in SQLite already"
    books = store.books()
    assert (books.recovered, books.recovered_first_at, books.recovered_last_at) == (3, 5.0, 7.0)
    store.close()


def test_payload_is_the_same_bytes_before_and_after_recovery(disk):
    world = disk()
    store = world.open()
    accepted = {record.seq: record.payload for record in store.accept(entries(5))}
    store = world.kill(store)
    assert {record.seq: record.payload for record in store.pending(0, 100, 1 << 20)} == accepted
    store.close()


def test_clean_close_leaves_nothing_to_replay(disk):
    world = disk()
    store = world.open()
    store.accept(entries(5))
    store.close()
    assert orphans(world.folder / "buffer-journal") == []
    store = world.open()
    assert store.recovered.predictions == 0
    assert store.books().pending == 5
    store.close()


def test_row_confirmed_before_its_flush_is_written_once_as_sent(disk):
    world = disk()
    store = world.open()
    store.accept(entries(3))
    store.settle([sent(1, 3)])
    store.close()
    assert world.rows() == {1: "sent", 2: "pending", 3: "sent"}


def test_with_cleanup_days_0_a_confirmed_row_is_never_written(disk):
    world = disk(cleanup_days=0)
    store = world.open()
    store.accept(entries(3))
    store.settle([sent(1, 2, 3)])
    assert store.books().sent == 3
    store.close()
    assert world.rows() == {}
    store = world.open()
    assert store.accept(entries(1))[0].seq == 4, "a number that was never written is still never given out again"
    assert store.books().sent == 3
    store.close()


@pytest.mark.parametrize("cleanup_days", [0.0, 7.0])
def test_rows_that_a_replay_brings_back_are_not_counted_as_sent_twice(disk, cleanup_days):
    """Confirmed, then deleted or never written, while their segment is still there when the process is killed."""
    world = disk(cleanup_days=cleanup_days)
    store = world.open()
    store.accept(entries(3))
    store.settle([sent(1, 2, 3)])
    store.flush_if_writable()
    store._buffer.delete_sent(10, sent_before=world.now + 1)
    store = world.kill(store)
    assert (store.pending_count, store.sent_count) == (3, 0)
    store.settle([sent(1, 2, 3)])
    assert (store.last_seq, store.sent_count, store.pending_count) == (3, 3, 0)
    store.close()


def test_quarantine_keeps_the_error(disk):
    world = disk()
    store = world.open()
    store.accept(entries(2))
    store.settle([Outcome(Fate.QUARANTINED, (2,), "detections[0].confidence: too big")])
    assert store.books().failed == 1
    assert seqs_pending(store) == [1]
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        row = connection.execute("SELECT status, last_error FROM prediction_buffer WHERE id = 2").fetchone()
    connection.close()
    assert row == ("failed", "detections[0].confidence: too big")


def test_released_predictions_stay_pending_and_remember_the_attempt(disk):
    world = disk()
    store = world.open()
    store.accept(entries(2))
    assert seqs_pending(store) == [1, 2]
    store.settle([Outcome(Fate.RELEASED, (1,), "timed out"), Outcome(Fate.RELEASED, (2,))])
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        rows = connection.execute("SELECT id, retry_count, last_error FROM prediction_buffer ORDER BY id").fetchall()
    connection.close()
    assert rows == [(1, 1, "timed out"), (2, 0, None)]


def test_second_process_is_refused_at_once_and_by_name(disk):
    world = disk()
    store = world.open()
    with pytest.raises(StoreLocked, match=r"process \d+ has this buffer open"):
        world.open()
    store.close()
    world.open().close()


@pytest.mark.parametrize("process_id", [7, 4_194_304])
def test_lock_names_its_owner_in_the_same_bytes_whoever_that_is(disk, monkeypatch, process_id):
    """Every byte of the buffer counts in its cap: a longer number would evict earlier, in some processes only."""
    monkeypatch.setattr(os, "getpid", lambda: process_id)
    world = disk()
    store = world.open()
    assert (world.folder / "buffer.db.lock").stat().st_size == OWNER_BYTES
    with pytest.raises(StoreLocked, match=rf"process {process_id} has this buffer open"):
        world.open()
    store.close()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_a_buffer_path_that_is_no_file_is_refused_and_left_as_it_was(disk, make):
    """As root, making `/dev/null` private to us would break the whole machine."""
    world = disk()
    path = world.folder / "buffer.db"
    make(path)
    path.chmod(0o755)
    with pytest.raises(StoreMisplaced, match=r"BUFFER_DB_PATH: .*buffer\.db: is no file; name a file"):
        world.open()
    assert path.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in world.folder.iterdir()] == ["buffer.db"]


def test_full_buffer_refuses_and_an_eviction_leaves_a_tombstone(disk):
    world = disk(capacity_bytes=420_000)
    store = world.open()
    accepted = fill(store)
    assert accepted >= 200, "a third of the room: what is on its way lies in three places"
    assert store.size_bytes() <= 420_000
    while store.tidy():
        pass
    gone = store.evict()
    assert gone > 0
    assert store.losses() == [Loss(1, gone, "evicted")]
    assert seqs_pending(store) == list(range(gone + 1, accepted + 1))
    store.settle([Outcome(Fate.SENT, (), losses=(Loss(1, gone, "evicted"),))])
    assert store.losses() == []
    store.close()


def test_tombstones_survive_a_kill(disk):
    world = disk()
    store = world.open()
    store.accept(entries(10))
    gone = store.evict()
    store = world.kill(store)
    assert store.losses()[0].to_seq == gone
    store.close()


def test_disk_stays_bounded_while_sent_rows_make_room(disk):
    """Ten times the capacity goes through; every byte stays counted and below the cap."""
    world = disk(capacity_bytes=2_000_000)
    store = world.open()
    for _ in range(400):
        world.now += 60.0
        batch = store.accept(entries(100, size=300))
        store.settle([sent(*(record.seq for record in batch))])
        while store.tidy():
            pass
        on_disk = sum(file.stat().st_size for file in world.folder.rglob("*") if file.is_file())
        assert on_disk <= 2_000_000
    assert store.books().pending == 0
    assert store.books().sent == 40_000
    store.close()


def test_damaged_segment_saves_the_good_and_names_the_lost(disk):
    world = disk()
    store = world.open()
    store.accept(entries(5))
    shutil.copytree(world.folder, world.folder.with_name("hit"))
    store.close()
    world.folder = world.folder.with_name("hit")
    segment = orphans(world.folder / "buffer-journal")[0]
    data = bytearray(segment.read_bytes())
    data[data.index(b'"seq":3,"image_id"') + 12] ^= 1
    segment.write_bytes(data)
    store = world.open()
    assert seqs_pending(store) == [1, 2, 4, 5]
    assert store.recovered.lost == 1
    assert store.losses() == [Loss(3, 3, "bad_sector")]
    assert store.recovered.bytes_set_aside > 0
    kept = list((world.folder / "buffer-quarantine").iterdir())
    assert b"frame_2" in kept[0].read_bytes() or b'"seq":3' in kept[0].read_bytes()
    assert store.accept(entries(1))[0].seq == 6
    store.close()


@pytest.mark.parametrize("wreck", ["garbage", "empty_header", "newer", "truncated"])
def test_unusable_database_is_set_aside_and_the_journal_goes_on(disk, wreck):
    world = disk()
    store = world.open()
    stream = store.stream_id
    store.accept(entries(5))
    shutil.copytree(world.folder, world.folder.with_name("hit"))
    store.close()
    world.folder = world.folder.with_name("hit")
    database = world.folder / "buffer.db"
    for end in ("-wal", "-shm"):
        database.with_name(database.name + end).unlink(missing_ok=True)
    match wreck:
        case "garbage":
            database.write_bytes(b"this is no database" * 500)
        case "empty_header":
            database.write_bytes(bytes(4096))
        case "newer":
            database.unlink()
            connection = sqlite3.connect(database)
            connection.execute("PRAGMA user_version = 99")
            connection.close()
        case "truncated":
            database.write_bytes(database.read_bytes()[:1000] or b"x" * 1000)
    store = world.open()
    assert store.stream_id == stream, "the journal's numbers are this stream's"
    assert seqs_pending(store) == [1, 2, 3, 4, 5]
    assert "corrupt" in store.recovered.buffer_set_aside
    assert store.accept(entries(1))[0].seq == 6
    store.close()


def test_malformed_page_found_while_running_is_set_aside_and_the_rest_saved(disk):
    """Rows that still read are salvaged, also behind the damage; no number is given out twice."""
    world = disk()
    store = world.open()
    store.accept(entries(900, size=400))
    store.close()
    database = world.folder / "buffer.db"
    data = bytearray(database.read_bytes())
    middle = data.index(b'{"seq":450,') // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    database.write_bytes(data)
    store = world.open()
    with pytest.raises(BufferDamaged):
        seqs_pending(store)
    store.rebuild()
    pending = seqs_pending(store)
    assert len(pending) > 800
    assert pending[0] == 1
    assert pending[-1] == 900
    assert store.accept(entries(1))[0].seq == 901
    store.close()


def test_journal_of_another_stream_is_kept_whole_and_not_mixed_in(disk, tmp_path):
    world = disk()
    store = world.open()
    store.accept(entries(2))
    shutil.copytree(world.folder, tmp_path / "two")
    store.close()
    other = Disk(tmp_path / "two", {}, streams=7)
    for file in (tmp_path / "two").glob("buffer.db*"):
        file.unlink()
    connection = sqlite3.connect(tmp_path / "two" / "fresh.db")
    connection.close()
    (tmp_path / "two" / "fresh.db").unlink()
    aside = tmp_path / "away"
    shutil.move(tmp_path / "two" / "buffer-journal", aside)
    other.open().close()
    shutil.move(aside, tmp_path / "two" / "buffer-journal")
    store = other.open()
    assert seqs_pending(store) == []
    assert len(list((tmp_path / "two" / "buffer-quarantine").glob("*.other-stream"))) == 1
    store.close()


def test_trouble_of_the_journal_ends_by_itself_although_nothing_is_accepted(disk):
    failing = [True]

    def sync(_):
        if failing[0]:
            raise OSError(5, "Input/output error")

    world = disk(sync=sync)
    store = world.open()
    assert store.accept(entries(3))[-1].seq == 3
    assert "Input/output error" in store.journal_trouble
    store.tidy()
    assert "Input/output error" in store.journal_trouble
    failing[0] = False
    assert store.accept(entries(1))[0].seq == 4
    assert store.journal_trouble, "no group tries what was refused a moment ago"
    store.tidy()
    assert store.journal_trouble == ""
    store = world.kill(store)
    assert seqs_pending(store) == [1, 2, 3, 4]
    assert store.accept(entries(1))[0].seq == 5
    store.close()


def test_without_the_journal_every_accept_is_a_commit(disk):
    world = disk(journal=False)
    store = world.open()
    store.accept(entries(3))
    assert orphans(world.folder / "buffer-journal") == []
    store = world.kill(store)
    assert seqs_pending(store) == [1, 2, 3]
    store.close()


def test_old_sent_rows_are_cleaned_up(disk):
    world = disk()
    store = world.open()
    store.accept(entries(3))
    store.settle([sent(1, 2)])
    assert seqs_pending(store) == [3]
    world.now += 8 * 86_400
    while store.tidy():
        pass
    store.close()
    assert world.rows() == {3: "pending"}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(1, 40)),
        st.tuples(st.sampled_from(["sent", "failed", "released"]), st.integers(0, 2**16)),
        st.tuples(st.sampled_from(["kill", "close", "flush", "evict", "tear"]), st.integers(0, 2**16)),
    ),
    max_size=14,
)


@attrs.define
class Model:
    """What a store must know, in the plainest form; `step` does the same to both and compares."""

    world: Disk
    store: Store
    payloads: dict[int, bytes] = attrs.Factory(dict)
    owed: set[int] = attrs.Factory(set)
    settled: set[int] = attrs.Factory(set)

    def step(self, name: str, number: int) -> None:
        some = {seq for seq in self.owed if (seq * 2654435761 >> 7 ^ number) & 1}
        getattr(self, name)(number, some)

    def accept(self, number, some):
        for record in self.store.accept(entries(number)):
            assert record.seq not in self.payloads, "a number was given out twice"
            self.payloads[record.seq] = record.payload
            self.owed.add(record.seq)

    def sent(self, number, some):
        self.store.settle([sent(*some)])
        self.settle(some)

    def failed(self, number, some):
        self.store.settle([Outcome(Fate.QUARANTINED, tuple(some), "why")])
        self.settle(some)

    def released(self, number, some):
        self.store.settle([Outcome(Fate.RELEASED, tuple(some), "no answer")])

    def evict(self, number, some):
        self.store.evict()
        self.settle({seq for loss in self.store.losses() for seq in range(loss.from_seq, loss.to_seq + 1)} & self.owed)

    def flush(self, number, some):
        self.world.now += 20.0
        self.store.tidy()

    def settle(self, seqs):
        self.owed -= seqs
        self.settled |= seqs

    def close(self, number, some):
        self.store.close()
        self.store = self.world.open()
        self.compare()

    def kill(self, number, some):
        self.store = self.world.kill(self.store)
        self.compare()

    def tear(self, number, some):
        self.store = tear(self.world, self.store, number)
        self.compare()

    def compare(self):
        found: dict[int, bytes] = {}
        while page := self.store.pending(max(found, default=0), 1000, 1 << 20):
            found |= {record.seq: record.payload for record in page}
        assert self.owed <= found.keys(), "an acknowledged prediction is gone"
        assert found.keys() <= self.owed | self.settled
        assert all(self.payloads[seq] == payload for seq, payload in found.items())
        assert self.store.pending_count == len(found)
        # A kill may take a 'sent' mark (the cloud knows the number), never an owed row.
        self.owed, self.settled = set(found), self.settled - found.keys()


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_store_against_a_plain_model(steps):
    """Whatever happens in whatever order: every acknowledged number is pending, settled or buried, and only once."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        (Path(folder) / "d").mkdir()
        world = Disk(Path(folder) / "d", {})
        model = Model(world, world.open())
        for name, number in steps:
            model.step(name, number)
        model.compare()
        model.store.close()


def tear(world: Disk, store: Store, number: int) -> Store:
    """A group that was being written when the process was killed: a part of it lies behind the last good line."""
    moved = world.folder.with_name(world.folder.name + "t")
    shutil.copytree(world.folder, moved)
    store.close()
    world.folder = moved
    for path in orphans(moved / "buffer-journal")[-1:]:
        with path.open("ab") as file:
            file.write(b'{"seq":99999,"crc32c":"00000000","payload":{"seq":99999,"image_id":"torn'[: 1 + number % 70])
    return world.open()


def test_segment_stays_while_the_buffer_is_not_synced(disk):
    """A reader in another process holds the checkpoint back: the journal is still the only copy a power cut leaves."""
    world = disk()
    store = world.open()
    store.accept(entries(3))
    store.settle([sent(1)])
    reader = sqlite3.connect(world.folder / "buffer.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM prediction_buffer").fetchone()
    store._journal.rotate()
    store.tidy()
    assert len(orphans(world.folder / "buffer-journal")) == 1, "not synced, so not deleted"
    reader.execute("COMMIT")
    reader.close()
    store.tidy()
    assert orphans(world.folder / "buffer-journal") == []
    store.close()


PLANS = {  # newer SQLites add where an index is COVERING
    "SELECT id, CAST(prediction_data AS BLOB) FROM buffer_predictions WHERE status = 'pending' AND id > 7"
    " ORDER BY id LIMIT 500": "SEARCH buffer_predictions USING INDEX prediction_buffer_pending (id>?)",
    "SELECT buffered_at FROM buffer_predictions WHERE status = 'pending' ORDER BY id LIMIT 1": (
        "SCAN buffer_predictions USING INDEX prediction_buffer_pending"
    ),
    "SELECT count(*) FROM buffer_predictions WHERE status = 'pending'": (
        "SCAN buffer_predictions USING INDEX prediction_buffer_pending"
    ),
    "SELECT * FROM buffer_predictions WHERE status = 'failed' ORDER BY id": (
        "SCAN buffer_predictions USING INDEX prediction_buffer_failed"
    ),
    "SELECT * FROM buffer_predictions WHERE timestamp BETWEEN 5 AND 6 AND image_id = 'frame_1'": (
        "SEARCH buffer_predictions USING INDEX prediction_buffer_by_time (timestamp>? AND timestamp<?)"
    ),
    "SELECT image_id FROM prediction_buffer WHERE timestamp BETWEEN 5 AND 6 AND image_id = 'frame_1'": (
        "SEARCH p USING INDEX prediction_buffer_by_time (timestamp>? AND timestamp<?)"
    ),
    "SELECT image_id FROM buffer_predictions ORDER BY timestamp DESC LIMIT 10": (
        "SCAN buffer_predictions USING INDEX prediction_buffer_by_time"
    ),
}


def test_what_is_asked_for_often_has_an_index(disk):
    world = disk()
    store = world.open()
    store.accept(entries(100))
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        plans = {query: connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall() for query in PLANS}
    connection.close()
    assert {query: [row[3].replace("COVERING ", "") for row in plan] for query, plan in plans.items()} == {
        query: [plan] for query, plan in PLANS.items()
    }


def test_buffer_of_the_first_version_gets_its_index_and_keeps_its_rows(disk):
    world = disk()
    store = world.open()
    store.accept(entries(5))
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        connection.executescript(
            f"{FORMAT_4} DROP INDEX prediction_buffer_by_image; DROP INDEX prediction_buffer_by_time;"
            " ALTER TABLE prediction_buffer DROP COLUMN payload_crc32c; PRAGMA user_version = 1"
        )
    connection.close()
    store = world.open()
    assert seqs_pending(store) == [1, 2, 3, 4, 5]
    store.close()
    with sqlite3.connect(world.folder / "buffer.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'prediction_buffer_by_time'")
        assert found.fetchall()
    connection.close()
