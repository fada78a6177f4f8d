"""Flip bits in SQLite's write-ahead log: it ends where a checksum does not hold, and nothing accepted is lost."""

import shutil
import sqlite3

import pytest

from actors.ports import buffer
from actors.ports.journal import Journal, orphans
from chaos.sim.platter import lay_out
from tests.storage.fixtures import start
from tests.storage.test_segment_flips import accepted, flipped, left_by_a_kill

RECORDS, FLUSHES = 10, 6
"""The later flushes write pages anew that the earlier ones have written."""
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
