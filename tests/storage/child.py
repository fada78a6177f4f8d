"""A device process without eyes or network: one store at a time, each in a child of its own, to be recorded or killed.

    python -m tests.storage.child

Every line on stdin is an `Order` as JSON; it is carried out by a fork (imports are paid for once), which tells on
stdout what it does. The forks share nothing but the folder, exactly like one device process after another.
"""

import contextlib
import ctypes
import errno
import os
import random
import resource
import secrets
import signal
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import google_crc32c
import msgspec

from actors.messages import Entry, Fate, Outcome
from actors.ports import marks
from actors.ports import store as store_room
from actors.ports.journal import Journal
from actors.ports.opening import BufferFull, DiskTrouble, StoreOptions
from actors.ports.salvage import damage_marker
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from actors.seqs import Stored

DEVICE = "cam-1"
STREAM = "stream-1"
CAPACITY_BYTES = 4 << 20
NOTE = struct.Struct("<cIQI")
"""kind, length of the path, offset, length of the data; then path and data (`keep_synced.c` writes the same)."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one fork does."""

    act: str
    folder: str
    tag: str = "t"
    seed: int = 0
    log: str = ""
    capacity_bytes: int = CAPACITY_BYTES
    cleanup_days: float = 7.0
    journal: bool = True
    sync: bool = True
    trouble: str = ""
    """What goes wrong in a workload: "journal" (its calls fail now and then), "database" (it is replaced)."""
    segment_bytes_max: int = 4_000
    file_bytes_max: int = 0
    fail_from: int = 0
    """Of the calls that change a file, the first that fails; and how many do, and with which error."""
    fail_calls: int = 0
    fail_with: int = 0
    halved: int = 0
    """So many writes among them take half of their bytes instead."""


class Clock:
    """Seconds since 1970, as far as these stores know."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def body(tag: str, number: int) -> bytes:
    """A prediction that shows who made it; sizes vary."""
    pad = b"x" * (number * 37 % 90)
    return b'{"image_id":"%s-%d","timestamp":%d.0,"pad":"%s"}' % (tag.encode(), number, number, pad)


def entries(tag: str, first: int, number: int) -> list[Entry]:
    return [Entry(f"{tag}-{n}", float(n), body(tag, n)) for n in range(first, first + number)]


def options(order: Order, clock: Clock) -> StoreOptions:
    return StoreOptions(
        db_path=Path(order.folder) / "buffer.db",
        capacity_bytes=order.capacity_bytes,
        cleanup_days=order.cleanup_days,
        journal=order.journal,
        now=clock,
        new_id=lambda _: STREAM,
        sync=os.fdatasync if order.sync else lambda _: None,
    )


def small_strokes(segment_bytes_max: int) -> None:
    """Make a few records enough to fill a segment, a stroke, or a range of what is confirmed."""
    defaults = Journal.__init__.__kwdefaults__
    assert defaults is not None
    assert "segment_bytes_max" in defaults
    defaults["segment_bytes_max"] = segment_bytes_max
    store_room.STROKE_ROWS = 4
    marks.RANGE_MIN = 2


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


# --- acts


def load(order: Order) -> None:
    """Accept, deliver, evict and reclaim as fast as the disk lets it, until it is killed."""
    rng = random.Random(order.seed)
    clock = Clock(1_000.0 + order.seed)
    tell("opening")
    store = Store.open(DEVICE, options(order, clock))
    tell(f"open {store.recovered.predictions}")
    made, after = 0, 0
    while True:
        clock.now += rng.choice((0.1, 20.0))
        try:
            number = rng.randint(1, 24)
            acknowledge(store.accept(entries(order.tag, made, number)), order.tag)
            made += number
        except BufferFull:
            tell("evict")
            store.evict()
        page = store.pending(after, rng.randint(1, 40), 1 << 20)
        after = page[-1].seq if page and rng.random() < 0.7 else 0
        fate = Fate.QUARANTINED if rng.random() < 0.02 else Fate.SENT
        confirmed = page[: rng.randint(0, len(page))]
        tell(f"{fate.value} " + " ".join(str(record.seq) for record in confirmed))
        losses = tuple(store.losses())
        tell("explained " + " ".join(str(seq) for loss in losses for seq in range(loss.from_seq, loss.to_seq + 1)))
        store.settle([Outcome(fate, tuple(record.seq for record in confirmed), "refused", losses)])
        tell("tidy")
        store.tidy()
        tell("load")


def acknowledge(records: list[Stored], tag: str) -> None:
    """Print number and checksum, as the device hands out its receipts."""
    tell("ack " + " ".join(f"{record.seq}:{google_crc32c.value(record.payload)}" for record in records))


def limited(order: Order) -> None:
    """Fill a disk on which no file may grow beyond a size; then, with the limit gone, go on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    clock = Clock(1_000.0)
    store = Store.open(DEVICE, options(order, clock))
    resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_bytes_max, resource.RLIM_INFINITY))
    first, refused = 0, 0
    while refused < 20:
        clock.now += 5.0
        try:
            acknowledge(store.accept(entries(order.tag, first, 10)), order.tag)
            first += 10
            store.tidy()
        except DiskTrouble:
            refused += 1
    tell(f"refused {refused}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    acknowledge(store.accept(entries(order.tag, first, 10)), order.tag)
    clock.now += 20.0
    store.tidy()
    tell("back")


class Diary:
    """What the recorded process was told and what it told, in the order of its system calls."""

    def __init__(self, log: str) -> None:
        self._fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, seqs: list[tuple[int, int]]) -> None:
        data = msgspec.json.encode([what, seqs])
        os.write(self._fd, NOTE.pack(b"M", 0, 0, len(data)) + data)


def workload(order: Order) -> None:
    """Every kind of write that a store makes, in a fixed order; the process then ends without closing anything."""
    rng = random.Random(order.seed)
    secrets.token_hex = lambda _=None: f"{rng.randrange(1 << 16):04x}"  # type: ignore[assignment]
    clock = Clock(1_000.0 + 691_200.0 * order.seed)
    diary = Diary(order.log)
    store = Store.open(DEVICE, attrs.evolve(options(order, clock), sync=Failing(options(order, clock).sync)))
    hand = Hand(store, diary, order, clock)
    for step in steps(hand):
        step()
    if order.trouble == "database":
        hand.reclaim()
        damage_marker(Path(order.folder) / "buffer.db").touch()
    elif order.seed % 2:
        store.close()
        diary.note("closed", [])


def steps(hand: "Hand") -> list[Callable[[], None]]:
    """Every kind of write that a store makes."""
    return [
        partial(hand.accept, 3),
        partial(hand.settle, Fate.SENT, 2),
        partial(hand.accept, 1),
        partial(hand.trouble, sync=False),
        hand.flush,
        partial(hand.accept, 12),
        partial(hand.settle, Fate.QUARANTINED, 1),
        partial(hand.trouble, sync=True),
        partial(hand.accept, 12),
        partial(hand.settle, Fate.SENT, 9),
        hand.flush,
        partial(hand.accept, 7),
        hand.evict,
        hand.reclaim,
        partial(hand.trouble, sync=False),
        partial(hand.accept, 5),
        partial(hand.settle, Fate.SENT, 100),
        partial(hand.accept, 6),
        hand.evict,
        partial(hand.accept, 2),
    ]


class Teller:
    """Prints what the process was told and what it told."""

    def note(self, what: str, seqs: list[tuple[int, int]]) -> None:
        tell(" ".join([what, *(f"{seq}:{crc}" if what == "ack" else str(seq) for seq, crc in seqs)]))


def faults(order: Order) -> None:
    """The workload, from the start on, while some calls fail; then the disk is well again, and all must be as usual."""
    shim = ctypes.CDLL(None)
    clock = Clock(1_000.0)
    shim.keep_synced_fail(
        ctypes.c_long(order.fail_from), ctypes.c_long(order.fail_calls), order.fail_with, ctypes.c_long(order.halved)
    )
    store = None
    while store is None:
        with contextlib.suppress(DiskTrouble):  # as the device does: it tries again until the disk lets it
            store = Store.open(DEVICE, options(order, clock))
    kept = (Path(order.folder) / "buffer-quarantine").glob("*")
    tell(" ".join(["aside", *(path.read_bytes().hex() for path in kept)]))
    hand = Hand(store, Teller(), order, clock)
    refused = 0
    for step in steps(hand):
        refused += not done(store, step)
        if order.trouble.startswith("killed") and shim.keep_synced_calls() > order.fail_from:
            tell(f"calls {shim.keep_synced_calls()} refused {refused}")
            if order.trouble == "killed behind the next group":
                shim.keep_synced_fail(ctypes.c_long(-1), ctypes.c_long(0), 0, ctypes.c_long(0))
                done(store, store.tidy)  # from now on the journal is tried again
                done(store, partial(hand.accept, 2))
            tell("well")
            return
    tell(f"calls {shim.keep_synced_calls()} refused {refused}")
    shim.keep_synced_fail(ctypes.c_long(-1), ctypes.c_long(0), 0, ctypes.c_long(0))
    clock.now += 20.0
    assert done(store, hand.flush), "the disk is well, and the store tidies up"
    assert done(store, partial(hand.accept, 2))
    assert not store.journal_trouble, "the journal takes the groups again"
    assert done(store, hand.flush)
    assert not store.needs_rebuild
    pending = [record.seq for record in store.pending(0, 1_000, 1 << 20)]
    assert len(pending) == store.pending_count, (pending, store.pending_count)
    tell("well")


def done(store: Store, step: Callable[[], object]) -> bool:
    """Do it as the device does (`disk.py`); False where the disk refuses. Anything else ends the process."""
    try:
        if store.needs_rebuild:
            store.rebuild()
        try:
            step()
        except BufferDamaged:
            store.rebuild()
            step()
    except (DiskTrouble, BufferFull):
        return False
    return True


class Failing:
    """A call that works until it is told to fail."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real, self.fails = real, False

    def __call__(self, *args: Any) -> Any:
        if self.fails:
            raise OSError(errno.EIO, "as ordered")
        return self.real(*args)


class Hand:
    """Does to a store what the diary says."""

    def __init__(self, store: Store, diary: "Diary | Teller", order: Order, clock: Clock) -> None:
        self.store, self.diary, self.order, self.clock = store, diary, order, clock
        self.made = 0

    def accept(self, number: int) -> None:
        records = self.store.accept(entries(self.order.tag, self.made, number))
        self.made += number
        self.diary.note("ack", [(record.seq, google_crc32c.value(record.payload)) for record in records])

    def trouble(self, *, sync: bool) -> None:
        """The ordered trouble: an accept while the journal fails; or a database that is replaced while running."""
        if self.order.trouble == "journal":
            failing = self.store._journal._sync if sync else Failing(os.write)
            assert isinstance(failing, Failing)
            usual, os.write = os.write, os.write if sync else failing
            failing.fails = True
            try:
                records = self.store.accept(entries(self.order.tag, self.made, 3))
            finally:
                failing.fails = False
                os.write = usual
            self.made += 3
            self.diary.note("ack", [(record.seq, google_crc32c.value(record.payload)) for record in records])
        elif self.order.trouble == "database" and sync:
            self.reclaim()
            self.store.rebuild()

    def settle(self, fate: Fate, number: int) -> None:
        page = self.store.pending(0, 100, 1 << 20)[:number]
        losses = tuple(self.store.losses())
        self.diary.note(fate.value, [(record.seq, 0) for record in page])
        self.diary.note("explained", [(seq, 0) for loss in losses for seq in range(loss.from_seq, loss.to_seq + 1)])
        self.store.settle([Outcome(fate, tuple(record.seq for record in page), "why", losses)])

    def flush(self) -> None:
        self.clock.now += 20.0
        self.store.tidy()

    def evict(self) -> None:
        self.diary.note("evict", [])
        self.store.evict()

    def reclaim(self) -> None:
        usual = store_room.RECLAIM_FRACTION
        store_room.RECLAIM_FRACTION = 0.0
        for _ in range(3):
            self.store.tidy()
        store_room.RECLAIM_FRACTION = usual


ACTS = {"load": load, "limited": limited, "workload": workload, "faults": faults}


def main() -> None:
    """One order after another, each in a fork that ends without any clean-up of Python's or SQLite's."""
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                tell(f"pid {os.getpid()}")
                small_strokes(order.segment_bytes_max)
                ACTS[order.act](order)
                code = 0
            except BaseException:  # noqa: BLE001 - the fork must not fall back into this loop
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        tell(f"end {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
