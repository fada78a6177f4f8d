"""Accepts go on in their own thread, whatever the rest of the store waits for; and the books stay right."""

import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from actors.messages import Fate, Outcome
from actors.ports import rows
from actors.ports import store as store_room
from actors.ports.give_way import PAUSE_S, TAKEN_S, GiveWay
from actors.ports.store import Store
from tests.actors.ports.stores import Disk, entries, seqs_pending

GROUPS = 150


@pytest.fixture
def world(folder: Path) -> Disk:
    (folder / "d").mkdir()
    return Disk(folder / "d", {})


def in_journal(store: Store, count: int) -> list[int]:
    records = store.accept_in_journal(entries(count))
    assert records is not None
    return [record.seq for record in records]


def test_accepts_go_on_while_another_process_holds_the_lock_of_sqlite(world):
    store = world.open()
    in_journal(store, 5)
    stranger = sqlite3.connect(world.folder / "buffer.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    waits = threading.Thread(target=store.flush_if_writable)
    waits.start()
    for number in range(20):
        assert in_journal(store, 1) == [6 + number]
    assert waits.is_alive(), "the flush waits for the stranger, and nobody waits for the flush"
    stranger.execute("COMMIT")
    stranger.close()
    waits.join()
    store.flush_if_writable()
    assert store.held_count == 0
    assert seqs_pending(store) == list(range(1, 26))
    store.close()


def test_stroke_offers_its_processor_between_statements(world, monkeypatch):
    """Else accepts that have woken on it wait for its end, though another processor is free."""
    offers: list[None] = []
    monkeypatch.setattr(rows, "give_way", lambda: offers.append(None))
    store = world.open()
    in_journal(store, 4 * rows.ROWS_A_STATEMENT)
    store.flush_if_writable()
    assert len(offers) == 3
    store.close()


def test_processor_is_offered_no_more_for_a_while_once_somebody_else_has_kept_it():
    """Another program, or the model: a stroke among them took twice its time."""
    clock, taken_s, offers = [5.0], [0.0002], []

    def offer():
        offers.append(clock[0])
        clock[0] += taken_s[0]

    give_way = GiveWay(offer, lambda: clock[0])
    for _ in range(10):
        give_way()
    assert len(offers) == 10
    taken_s[0] = 2 * TAKEN_S
    for _ in range(10):
        give_way()
    assert len(offers) == 11
    clock[0] += PAUSE_S
    give_way()
    assert len(offers) == 12


def test_two_threads_at_once_lose_no_number_and_count_right(world, monkeypatch):
    """One accepts; the other flushes, settles, evicts, rotates, retires, reclaims, rebuilds."""
    monkeypatch.setattr(store_room, "STROKE_ROWS", 16)
    monkeypatch.setattr(store_room, "RECLAIM_FRACTION", 0.0)
    store = world.open()
    accepted: list[int] = []
    done = threading.Event()

    def accept() -> None:
        rng = random.Random(1)
        for _ in range(GROUPS):
            accepted.extend(in_journal(store, rng.randint(1, 40)))
        done.set()

    thread = threading.Thread(target=accept)
    thread.start()
    rng, sent, failed, evicted, strokes = random.Random(2), 0, 0, 0, 0
    while not done.is_set() or strokes < 20:
        strokes += 1
        page = [record.seq for record in store.pending(0, rng.randint(1, 100), 1 << 20)]
        store.settle([Outcome(Fate.SENT, tuple(page[::2]))])
        store.settle([Outcome(Fate.QUARANTINED, tuple(page[1:3:2]), "why")])
        sent, failed = sent + len(page[::2]), failed + len(page[1:3:2])
        store.tidy()
        if strokes % 5 == 0:
            evicted += store.evict()
        if strokes == 7:
            store.rebuild()
    thread.join()
    assert accepted == list(range(1, len(accepted) + 1))
    assert store.last_seq == len(accepted)
    assert store.pending_count == len(accepted) - sent - failed - evicted
    assert len(seqs_pending(store)) == store.pending_count
    assert (store.sent_count, store.failed_count) == (sent, failed)
    store.close()
    assert list((world.folder / "buffer-journal").iterdir()) == []
    with closing(sqlite3.connect(world.folder / "buffer.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        buried = connection.execute("SELECT sum(to_seq - from_seq + 1) FROM buffer_losses").fetchone()[0]
    assert buried == evicted
