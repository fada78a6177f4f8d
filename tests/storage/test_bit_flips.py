"""Flip a bit in every byte: the store always starts, and accounts for what the bit has cost."""

import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import attrs
import google_crc32c

from actors.messages import Fate, Outcome
from actors.ports import store as store_room
from actors.ports.journal import orphans
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from chaos.sim.platter import NEVER_READ, lay_out, take_in
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Found, Told, look, reopen, start

SEED = 20_260_103
RECORDS = 6
PAGE_BYTES = 4096
GIVEN_UP = range(1, 5)
"""What the test's own eviction buries."""
HEAD_BYTES, TAIL_BYTES = 200, 64
"""Of each page of the database every byte of these parts is hit, and of the rest every `STRIDE_BYTES`th."""
STRIDE_BYTES = 67
CHANGED_MAX = 0.04
"""Records or marks that a flipped bit may change on average, unseen."""
STARTS_BLIND_MAX = 0.001
"""Of all starts, those that may go by what a damaged index says and not see a record."""
RECORDS_LOST_MAX = 0.1
"""Records that a flipped bit may cost on average, of the 17 that the database holds."""


def accepted(store: Store, told: Told, tag: str, number: int) -> None:
    records = store.accept(entries(tag, 0, number))
    told.note("ack", {record.seq: google_crc32c.value(record.payload) for record in records})


def left_by_a_kill(folder: Path, build) -> tuple[dict[str, bytes | None], Told]:
    """What lies on the disk after `build` has worked on a store that is then killed."""
    place, told = folder / "built", Told()
    place.mkdir()
    store = Store.open(DEVICE, options(Order(act="", folder=str(place), sync=False), Clock(1_000.0)))
    build(store, told, place)
    state = {path: data for path, data in take_in(place).items() if not path.endswith(NEVER_READ)}
    store.close()
    return state, told


def flipped(data: bytes | None, at: int, bit: int) -> bytes:
    assert data is not None
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_flipped_bit_in_a_segment_costs_at_most_its_own_line_and_says_so(folder, capsys):
    """A header that can't be read, or reads wrongly, costs nothing at all."""

    def build(store, told, place):
        accepted(store, told, "t", RECORDS)

    state, told = left_by_a_kill(folder, build)
    (name,) = [path for path in state if path.startswith("buffer-journal/")]
    segment = state[name]
    assert segment is not None
    rng = random.Random(SEED)
    wrong: Counter[str] = Counter()
    first: dict[str, str] = {}
    buried = 0
    for at in range(len(segment)):
        line, bit = segment[:at].count(b"\n"), rng.randrange(8)
        place = folder / "hit"
        lay_out(state | {name: flipped(segment, at, bit)}, place)
        found = start(place)
        shutil.rmtree(place)
        buried += len(found.buried)
        try:
            told.check(found, hit=frozenset({line} if line else ()))
        except AssertionError as exc:
            wrong[str(exc).split("\n")[0]] += 1
            first.setdefault(str(exc).split("\n")[0], f"byte {at} {segment[max(0, at - 12) : at + 12]!r}, bit {bit}")
    with capsys.disabled():
        print(f"\nsegment: {len(segment)} bytes hit, {buried} records buried, {sum(wrong.values())} accounts wrong")
    assert not wrong, [(count, message, first[message]) for message, count in wrong.most_common(5)]


@attrs.define
class Tally:
    """How the starts on damaged databases went."""

    ways: Counter[str] = attrs.Factory(Counter)
    changed: int = 0
    """Payloads of rows that are done with, or marks, that the flipped bit lies in: none of them is sent as it is."""
    hidden: int = 0
    """Starts after which a record that came from the journal was not pending: an index that points elsewhere."""
    set_aside: int = 0
    """Numbers that were buried because their rows were not as they had been."""
    missing: int = 0
    """Numbers that only the database held and that it has lost."""


def test_flipped_bit_in_the_database_never_keeps_the_device_from_starting(folder, capsys, monkeypatch):
    """The journal's records are all there, whatever the database looks like; and accepts go on behind all numbers."""
    monkeypatch.setattr(store_room, "STROKE_ROWS", 4)
    inside: set[int] = set()

    def build(store, told, place):
        accepted(store, told, "old", 20)
        store.evict()
        page = store.pending(0, 9, 1 << 20)
        told.note("sent", {record.seq: 0 for record in page[:6]})
        store.settle([Outcome(Fate.SENT, tuple(record.seq for record in page[:6]))])
        store.settle([Outcome(Fate.QUARANTINED, tuple(record.seq for record in page[6:]), "why")])
        store._give_back()
        store._journal.rotate()
        store._retire(truncate=True)
        assert not orphans(place / "buffer-journal")
        assert len(store.pending(0, 100, 1 << 20)) == 7
        inside.update(told.payloads)
        accepted(store, told, "new", 3)

    state, told = left_by_a_kill(folder, build)
    told.evicts = True
    database = state["buffer.db"]
    assert database is not None
    assert not state.get("buffer.db-wal")
    rng = random.Random(SEED)
    tally = Tally()
    spots = [at for at in range(len(database)) if is_hit(at % PAGE_BYTES) or at % STRIDE_BYTES == 0]
    troubles: dict[str, str] = {}
    for at in spots:
        place = folder / "hit"
        bit = rng.randrange(8)
        lay_out(state | {"buffer.db": flipped(database, at, bit)}, place)
        try:
            found, way = start_damaged(place)
            tally.ways[way] += 1
            judge(found, told, inside, tally, way)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it has kept the device from starting
            trouble = f"{type(exc).__name__}: {exc}".replace(str(folder), "")[:110]
            troubles.setdefault(trouble, f"page {at // PAGE_BYTES} byte {at % PAGE_BYTES} bit {bit}")
        shutil.rmtree(place)
    with capsys.disabled():
        print(
            f"\ndatabase: {len(spots)} of {len(database)} bytes hit: {dict(tally.ways)};"
            f" {tally.set_aside} set aside and explained, {tally.changed} rows done with or marks changed unseen,"
            f" {tally.missing} lost by the database,"
            f" {tally.hidden} starts that did not see all of the journal"
        )
    assert not troubles, troubles
    assert tally.ways["set aside at the start"] > 20, "the damage that SQLite can see"
    assert tally.set_aside > 100, "the damage that only the checksums can see"
    assert tally.changed < CHANGED_MAX * len(spots)
    assert tally.hidden <= STARTS_BLIND_MAX * len(spots)
    assert tally.missing < RECORDS_LOST_MAX * len(spots)


def is_hit(at: int) -> bool:
    """Both ends of a page: its header and first pointers, and the rows that came first."""
    return at < HEAD_BYTES or at >= PAGE_BYTES - TAIL_BYTES


def start_damaged(place: Path) -> tuple[Found, str]:
    """Start as the device does: what turns out to be damaged only while running is replaced then."""
    store = reopen(place)
    try:
        way = "set aside at the start" if store.recovered.buffer_set_aside else "as if nothing had happened"
        try:
            return look(store, place), way
        except (BufferDamaged, sqlite3.DatabaseError):
            store.rebuild()
            return look(store, place), "set aside while running"
    finally:
        store.close()


def judge(found: Found, told: Told, inside: set[int], tally: Tally, way: str) -> None:
    there = found.pending | found.failed | found.sent
    new = told.payloads.keys() - inside
    before = tally.hidden
    if way == "set aside while running":
        # By then the journal's records had moved to the database, and it can lose them like all others.
        inside = inside | new
    else:
        tally.hidden += found.pending.keys() & new != new
        assert way != "set aside at the start" or tally.hidden <= before, "the journal's records"
        assert all(found.pending[seq] == told.payloads[seq] for seq in new & found.pending.keys())
    assert found.next_seq > max(told.payloads), "a number would be given out twice"
    assert found.next_seq == found.last_seq + 1
    wrong = {seq for seq in told.payloads.keys() & found.pending.keys() if found.pending[seq] != told.payloads[seq]}
    assert not wrong, "delivered as something else than what was accepted"
    tally.changed += sum(there[seq] != told.payloads[seq] for seq in inside & there.keys())
    tally.set_aside += len(inside & found.buried - told.settled["sent"] - set(GIVEN_UP))
    tally.missing += len(inside - there.keys() - found.buried - told.settled["sent"])
