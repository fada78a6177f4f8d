"""Flip bits in SQLite's write-ahead log: it ends where a checksum does not hold, and nothing accepted is lost."""

import contextlib
import random
import shutil
import sqlite3
from collections import Counter
from typing import Any

import google_crc32c
import pytest

from actors.messages import Entry
from actors.ports import buffer, replay
from actors.ports.journal import Journal, orphans
from actors.ports.opening import DiskTrouble
from actors.ports.rows import fresh_row, insert_rows
from actors.ports.sqlite import BufferUnwritable
from actors.ports.store import Store
from chaos.sim.calls import python_intercepted
from chaos.sim.drive import Drive, Mounts
from chaos.sim.platter import lay_out
from chaos.sim.sqlite_calls import sqlite_intercepted
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Told, reopen, start
from tests.storage.test_segment_flips import accepted, flipped, left_by_a_kill

RECORDS, FLUSHES = 10, 6
"""The later flushes write pages anew that the earlier ones have written."""
GROUP = 3
FRAME_BYTES = 24 + 4096
STRIDE = 173
"""Of the log's bytes every so many is hit; it has no factor in common with a frame of 4,120."""


@pytest.mark.parametrize("more", [0, 3], ids=["all in the database", "some in the log"])
def test_bit_in_the_write_ahead_log_costs_nothing(folder, monkeypatch, more):
    """What a checkpoint has moved is out of the log before its segments go: a log that ends early would hide it."""
    monkeypatch.setitem(Journal.__init__.__kwdefaults__, "segment_bytes_max", 500)

    def build(store, told, place):
        for _ in range(FLUSHES):
            accepted(store, told, "t", RECORDS)
            assert store.flush_if_writable()
        while store.tidy():
            pass
        assert not orphans(place / "buffer-journal"), "the segments are gone"
        if more:
            accepted(store, told, "m", more)
        assert store.flush_if_writable()

    state, told = left_by_a_kill(folder, build)
    log = state["buffer.db-wal"] or b""
    for at in range(0, max(1, len(log)), STRIDE):
        place = folder / "hit"
        lay_out(state | ({"buffer.db-wal": flipped(log, at, at % 8)} if log else {}), place)
        told.check(start(place))
        shutil.rmtree(place)


def test_power_cut_does_not_bring_back_a_log_whose_segments_are_gone(folder, monkeypatch):
    """It may keep the names that were removed, and not that the log was cut: a bit in that would hide newer pages."""
    monkeypatch.setitem(Journal.__init__.__kwdefaults__, "segment_bytes_max", 500)
    mounts, told = Mounts(folder), Told()
    drive = Drive(folder / "host", mounts, random.Random(1))
    order = Order(act="", folder=str(drive.folder))
    with sqlite_intercepted(mounts), python_intercepted(mounts, lambda: "0000"):
        store = Store.open(DEVICE, options(order, Clock(1_000.0)))
        for _ in range(FLUSHES):
            accepted(store, told, "t", RECORDS)
            assert store.flush_if_writable()
        store.tidy()
        state = drive.model.after_power_cut("names without data", random.Random(1))
        store.close()
    assert not any(path.endswith(".jsonl") for path in state)
    log = state["buffer.db-wal"] or b""
    for at in range(0, max(1, len(log)), STRIDE):
        lay_out(state | ({"buffer.db-wal": flipped(log, at, at % 8)} if log else {}), folder / "hit")
        told.check(start(folder / "hit"))
        shutil.rmtree(folder / "hit")


@pytest.mark.parametrize("wait", [False, True])
def test_checkpoint_leaves_the_patience_with_other_processes_as_it_was(folder, monkeypatch, wait):
    """Only a checkpoint does without: an operator's own `sqlite3` that writes is waited for as before."""
    monkeypatch.setattr(buffer, "_BUSY_TIMEOUT_S", 0.3)
    database = buffer.Buffer(folder / "buffer.db")
    database.begin_stream("stream-1", "cam-1", 1.0)
    reader = sqlite3.connect(folder / "buffer.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM buffer_metadata").fetchone()
    assert not database.checkpoint(wait=wait), "somebody reads out of the log"
    assert database._connection.execute("PRAGMA busy_timeout").fetchone() == (300,)
    reader.close()
    assert database.checkpoint(wait=wait)
    assert not database.wal_bytes()
    database.close()


def left_in_the_log_alone(folder, monkeypatch, groups, *, before=RECORDS, group=GROUP):
    """Without the journal, on a disk that is too full for a checkpoint, SQLite's log alone holds what was accepted."""

    def no_room(self, *, wait=False):
        raise BufferUnwritable("database or disk is full")

    def build(store, told, place):
        if before:
            accepted(store, told, "before", before)
        monkeypatch.setattr(buffer.Buffer, "checkpoint", no_room)
        for number in range(groups):
            accepted(store, told, f"t{number}", group)
        monkeypatch.undo()
        assert not orphans(place / "buffer-journal")

    return left_by_a_kill(folder, build, journal=False)


@pytest.mark.parametrize("groups", [1, 6])
def test_bit_in_the_log_that_is_the_only_copy_costs_one_prediction_and_says_so(folder, monkeypatch, groups):
    """SQLite ends the log at the bit. What stands behind it is saved, and no number of it is given out again."""
    state, told = left_in_the_log_alone(folder, monkeypatch, groups)
    log = state["buffer.db-wal"]
    assert log
    buried: Counter[int] = Counter()
    for at in range(0, len(log), STRIDE):
        place = folder / "hit"
        lay_out(state | {"buffer.db-wal": flipped(log, at, at % 8)}, place)
        found = start(place)
        told.check(found, hit=frozenset(told.payloads))
        buried[len(found.buried)] += 1
        shutil.rmtree(place)
    assert max(buried) <= 1, "no more than the one that the bit is in"
    assert buried[0] > 10 * buried[1]


def test_frames_that_never_reached_the_disk_leave_no_number_without_a_reason(folder, monkeypatch):
    """A power cut in the middle of the last commit, which nobody was told of; or sectors that read as zeros later."""
    state, told = left_in_the_log_alone(folder, monkeypatch, 6)
    log = state["buffer.db-wal"]
    assert log
    for seq in sorted(told.payloads)[-GROUP:]:
        del told.payloads[seq]
    saved: Counter[int] = Counter()
    for at in range(32, len(log), FRAME_BYTES):
        place = folder / "hit"
        lay_out(state | {"buffer.db-wal": log[:at] + bytes(FRAME_BYTES) + log[at + FRAME_BYTES :]}, place)
        found = start(place)
        told.check(found)
        saved[len(found.pending)] += 1
        shutil.rmtree(place)
    assert saved.most_common(1)[0][0] == RECORDS + 6 * GROUP, "later commits write the same pages anew"


def test_predictions_that_were_rolled_back_do_not_come_back_from_the_log(folder):
    """Who was told that the disk does not take them has kept them, and may have sent them since."""

    def build(store, told, place):
        accepted(store, told, "t", RECORDS)
        connection = store._buffer._connection
        connection.execute("PRAGMA cache_size = 1")  # what does not fit goes to the log before the commit
        connection.execute("BEGIN")
        payload = b'{"seq":%d,"image_id":"x","timestamp":1.0,"filler":"%s"}'
        insert_rows(connection, [fresh_row(seq, payload % (seq, b"x" * 500), "x", 1.0, 1.0) for seq in range(7, 100)])

    state, told = left_by_a_kill(folder, build, journal=False)
    assert b'{"seq":40,' in (state["buffer.db-wal"] or b"")
    lay_out(state, folder / "hit")
    found = start(folder / "hit")
    told.check(found)
    assert found.next_seq == RECORDS + 1


def test_name_of_an_image_that_looks_like_a_prediction_is_none(folder):
    """Whoever names a file could else send the numbers off to where they end."""
    payload = b'{"seq":9000000000000000000,"image_id":"%d","timestamp":1.0}'
    made = ((payload % salt, google_crc32c.value(payload % salt).to_bytes(4, "big")) for salt in range(100_000))
    name = next(body + crc for body, crc in made if crc.isascii() and crc.decode().isprintable()).decode()

    def build(store, told, place):
        (one,) = entries("t", 0, 1)
        (record,) = store.accept([Entry(name, one.timestamp, one.body)])
        told.note("ack", {record.seq: google_crc32c.value(record.payload)})
        assert store.flush_if_writable()

    state, told = left_by_a_kill(folder, build)
    assert name.encode() in (state["buffer.db-wal"] or b"")
    lay_out(state, folder / "hit")
    found = start(folder / "hit")
    told.check(found)
    assert (found.next_seq, len(found.pending)) == (2, 1)


@pytest.mark.parametrize("before", [0, 1])
def test_bit_in_the_log_of_the_very_first_predictions(folder, monkeypatch, before):
    """SQLite stores the numbers 0 and 1 without a byte of their own."""
    state, told = left_in_the_log_alone(folder, monkeypatch, 1, before=before, group=1)
    log = state["buffer.db-wal"]
    assert log
    for at in range(0, len(log), STRIDE):
        place = folder / "hit"
        lay_out(state | {"buffer.db-wal": flipped(log, at, at % 8)}, place)
        told.check(start(place), hit=frozenset(told.payloads))
        shutil.rmtree(place)


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("fails", ["insert", "bury", "_take_bad_bytes"])
def test_start_that_fails_leaves_what_stands_behind_the_log_for_the_next_one(folder, monkeypatch, groups, fails):
    """A disk that is still full, say: the first connection that closes would take the log with it."""
    state, told = left_in_the_log_alone(folder, monkeypatch, groups)
    log = state["buffer.db-wal"]
    assert log
    room = replay._Quarantine if fails == "_take_bad_bytes" else buffer.Buffer

    def full(*_: object, **__: object) -> None:
        raise BufferUnwritable("database or disk is full")

    for at in range(100, len(log), 10 * STRIDE):
        place = folder / "hit"
        torn = {"buffer-journal/00000000000000000099-00.jsonl": b"torn"}
        lay_out(state | torn | {"buffer.db-wal": flipped(log, at, at % 8)}, place)
        with monkeypatch.context() as patch, contextlib.suppress(DiskTrouble):
            patch.setattr(room, fails, full)
            reopen(place).close()
        told.check(start(place), hit=frozenset(told.payloads))
        assert not (place / "buffer.db-wal.kept").exists()
        shutil.rmtree(place)


def test_start_that_is_killed_leaves_what_stands_behind_the_log_for_the_next_one(folder, monkeypatch):
    """At the moment of the insert: SQLite has begun to write over the log by then."""
    state, told = left_in_the_log_alone(folder, monkeypatch, 3)
    log = state["buffer.db-wal"]
    assert log
    killed = folder / "killed"
    usual = buffer.Buffer.insert

    def copied(*given: Any, **more: Any) -> int:
        if not killed.exists():
            shutil.copytree(folder / "hit", killed)
        return usual(*given, **more)

    seen = 0
    for at in range(0, len(log), 5 * STRIDE):
        place = folder / "hit"
        lay_out(state | {"buffer.db-wal": flipped(log, at, at % 8)}, place)
        with monkeypatch.context() as patch:
            patch.setattr(buffer.Buffer, "insert", copied)
            reopen(place).close()
        if killed.exists():
            told.check(start(killed), hit=frozenset(told.payloads))
            shutil.rmtree(killed)
            seen += 1
        shutil.rmtree(place)
    assert seen > 10
