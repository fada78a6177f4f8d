"""The store against a plain model: random work, crashes, power cuts, damaged segments; every number accounted for."""

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.messages import Fate, Outcome
from actors.ports import marks
from actors.ports import store as store_room
from actors.ports.journal import Journal, decode_line, orphans
from actors.ports.opening import BufferFull, unlock
from actors.ports.store import Store
from tests.places import MEMORY_DISK
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Told, look

PARTS = 3
EXAMPLES = 800
"""In each part, which has examples of its own: thousands in all, on as many processors as there are."""
STEPS_MAX = 16
CAPACITY_BYTES = 260_000
SEGMENT_BYTES_MAX = 1_500
WAL_HEADER_BYTES = 32

NUMBERS = st.integers(0, 2**16)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(1, 12)),
        st.tuples(
            st.sampled_from(["sent", "drained", "failed", "released", "flush", "evict", "reclaim", "later"]), NUMBERS
        ),
        st.tuples(st.sampled_from(["kill", "power_cut", "close", "flip", "shorten"]), NUMBERS),
    ),
    max_size=STEPS_MAX,
)


@attrs.define
class Synced:
    """What of the files is certain to survive a power cut, as far as it can be told from outside."""

    journal: dict[int, int] = attrs.Factory(dict)
    """By inode: how many bytes were there at the last sync."""
    wal_bytes: int = 0
    wal_head: bytes = b""
    database: bytes = b""

    def note_journal(self, fd: int) -> None:
        found = os.fstat(fd)
        self.journal[found.st_ino] = found.st_size

    def note_database(self, folder: Path) -> None:
        """A checkpoint syncs the log before it touches the database; a log begun anew has its header synced."""
        wal = folder / "buffer.db-wal"
        head, size = (wal.read_bytes()[:WAL_HEADER_BYTES], wal.stat().st_size) if wal.exists() else (b"", 0)
        database = (folder / "buffer.db").read_bytes()
        if database != self.database:
            self.wal_bytes = size
        elif head != self.wal_head:
            self.wal_bytes = min(size, WAL_HEADER_BYTES)
        self.wal_head, self.database = head, database


@attrs.define
class World:
    """The store, its folder, and what its users know."""

    folder: Path
    store: Store = attrs.field(init=False)
    clock: Clock = attrs.Factory(lambda: Clock(1_000.0))
    told: Told = attrs.Factory(lambda: Told(evicts=True))
    owed: set[int] = attrs.Factory(set)
    hit: set[int] = attrs.Factory(set)
    made: int = 0
    lives: int = 0
    synced: Synced = attrs.Factory(Synced)
    sizes: dict[str, int | None] = attrs.Factory(dict)
    """By name: how much of a segment was synced when the last process ended."""

    def __attrs_post_init__(self) -> None:
        (self.folder / "0").mkdir()
        self.open()

    @property
    def place(self) -> Path:
        return self.folder / str(self.lives)

    def open(self) -> None:
        order = Order(act="", folder=str(self.place), capacity_bytes=CAPACITY_BYTES)
        self.synced = Synced()
        self.store = Store.open(DEVICE, attrs.evolve(options(order, self.clock), sync=self.synced.note_journal))

    def step(self, name: str, number: int) -> None:
        some = [seq for seq in sorted(self.owed) if (seq * 2654435761 >> 7 ^ number) & 1]
        self.clock.now += 0.5
        getattr(self, name)(number, some)
        self.synced.note_database(self.place)
        assert self.store.pending_count == len(self.owed), name

    # --- work

    def accept(self, number, some):
        try:
            records = self.store.accept(entries("m", self.made, number))
        except BufferFull:
            return
        self.made += number
        self.told.note("ack", {record.seq: google_crc32c.value(record.payload) for record in records})
        self.owed.update(record.seq for record in records)

    def sent(self, number, some):
        self.told.note("sent", dict.fromkeys(some, 0))
        losses = tuple(self.store.losses())
        self.told.explained.update(seq for loss in losses for seq in range(loss.from_seq, loss.to_seq + 1))
        self.store.settle([Outcome(Fate.SENT, tuple(some), losses=losses)])
        self.owed.difference_update(some)

    def drained(self, number, some):
        """The oldest, as a page of the backlog has them."""
        self.sent(number, sorted(self.owed)[: number % 32])

    def failed(self, number, some):
        self.told.note("quarantined", dict.fromkeys(some[:3], 0))
        self.store.settle([Outcome(Fate.QUARANTINED, tuple(some[:3]), "why")])
        self.owed.difference_update(some[:3])

    def released(self, number, some):
        self.store.settle([Outcome(Fate.RELEASED, tuple(some), "no answer")])

    def flush(self, number, some):
        self.clock.now += 20.0
        self.store.tidy()

    def later(self, number, some):
        """Sent rows grow old."""
        self.clock.now += 8 * 86_400.0
        self.store.tidy()

    def reclaim(self, number, some):
        usual, store_room.RECLAIM_FRACTION = store_room.RECLAIM_FRACTION, 0.0
        try:
            while self.store.tidy():
                pass
        finally:
            store_room.RECLAIM_FRACTION = usual

    def evict(self, number, some):
        gone = self.store.evict()
        oldest = sorted(self.owed)[:gone]
        self.owed.difference_update(oldest)

    # --- ends of a process, and what the next one finds

    def close(self, number, some):
        self.store.close()
        self.open()
        self.compare(strict=True)

    def kill(self, number, some):
        """Unlike a power cut, this takes nothing that SQLite has committed: no replay undoes a mark."""
        with closing(sqlite3.connect(self.place / "buffer.db")) as connection:
            marked = connection.execute("SELECT id FROM prediction_buffer WHERE status != 'pending'").fetchall()
        self.next_life()
        assert not self.owed & {seq for (seq,) in marked}, "settled, and pending again"

    def power_cut(self, number, some):
        self.next_life(lambda: self.cut_off(random.Random(number)))

    def flip(self, number, some):
        self.next_life(lambda: self.damage(number, flips=True))

    def shorten(self, number, some):
        self.next_life(lambda: self.damage(number, flips=False))

    def next_life(self, fate=lambda: None):
        """The process is gone; something may happen to what it left; the next process starts."""
        here = self.place
        self.lives += 1
        shutil.copytree(here, self.place)
        sizes = {file.name: self.synced.journal.get(file.stat().st_ino) for file in orphans(here / "buffer-journal")}
        self.store._buffer.close()
        self.store._journal.rotate()
        unlock(self.store._lock_fd)
        self.sizes = sizes
        fate()
        self.open()
        self.compare()

    def cut_off(self, rng: random.Random) -> None:
        """What was not synced ends anywhere."""
        for file in orphans(self.place / "buffer-journal"):
            least = self.sizes[file.name]
            assert least is not None
            shorten(file, rng.randint(least, file.stat().st_size))
        wal = self.place / "buffer.db-wal"
        if wal.exists():
            size = wal.stat().st_size
            shorten(wal, rng.randint(min(size, self.synced.wal_bytes), size))

    def damage(self, number: int, *, flips: bool) -> None:
        """One bit of a segment, or its end."""
        segments = orphans(self.place / "buffer-journal")
        if not segments:
            return
        file = segments[number % len(segments)]
        data = file.read_bytes()
        at = number * 7919 % max(1, len(data))
        first = data[:at].count(b"\n")
        lines = data.split(b"\n")
        for line in lines[first : first + 1] if flips else lines[first:]:
            if record := decode_line(line):
                self.hit.add(record[0])
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :] if flips else data[:at])

    def compare(self, *, strict: bool = False) -> None:
        """Marks may be lost with a kill, records never; what was damaged is there, or explained."""
        found = look(self.store, self.place, accepts=False)
        there = found.pending.keys() | found.failed.keys() | found.sent.keys()
        # Where a segment was shortened, the numbers behind everything else are not even known to have been given out.
        for seq in [seq for seq in self.hit if seq >= found.next_seq]:
            self.told.payloads.pop(seq, None)
        self.told.check(found, hit=frozenset(self.hit))
        self.told.payloads = {
            seq: crc for seq, crc in self.told.payloads.items() if seq in there or seq not in self.hit
        }
        assert self.owed - self.hit <= found.pending.keys()
        if strict:
            assert self.owed == found.pending.keys()
        self.hit.clear()
        self.owed = set(found.pending)


def shorten(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)


@contextmanager
def small_strokes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        assert Journal.__init__.__kwdefaults__
        patch.setitem(Journal.__init__.__kwdefaults__, "segment_bytes_max", SEGMENT_BYTES_MAX)
        patch.setattr(store_room, "STROKE_ROWS", 4)
        patch.setattr(marks, "RANGE_MIN", 2)
        yield


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("part", range(PARTS))
@given(steps=STEPS)
def test_store_against_a_plain_model(monkeypatch, part, steps):
    with small_strokes(monkeypatch), tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        world = World(Path(folder))
        for name, number in steps:
            world.step(name, number)
        world.next_life()
        world.store.close()
        with closing(sqlite3.connect(world.place / "buffer.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
