"""A device process to order about, and what must hold of a folder that it left."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import google_crc32c
import msgspec

from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store
from tests.storage.child import CAPACITY_BYTES, DEVICE, Clock, Order, entries, options

ROOT = Path(__file__).parents[2]
LATER = 9_000_000.0
"""A wall clock beyond all that the recorded processes have seen."""


@attrs.define
class Device:
    """The process that forks a child for every order."""

    process: subprocess.Popen[bytes]

    def start(self, order: Order) -> int:
        """Begin; says the child's process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()
        word, pid = self.line().split()
        assert word == "pid"
        return int(pid)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process is gone"
        return line.decode().rstrip("\n")

    def until_end(self) -> tuple[int, list[str]]:
        """The exit code (negative: the signal), and all that the child told."""
        lines: list[str] = []
        while not (line := self.line()).startswith("end "):
            lines.append(line)
        return int(line.removeprefix("end ")), lines

    def run(self, order: Order) -> list[str]:
        self.start(order)
        code, lines = self.until_end()
        assert code == 0
        return lines


@contextmanager
def device(**environment: str) -> Iterator[Device]:
    """The process; it does not outlive the test."""
    command = [sys.executable, "-u", "-m", "tests.storage.child"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, env=os.environ | environment) as process:
        try:
            yield Device(process)
        finally:
            process.kill()


@attrs.frozen
class Found:
    """What a start made of a folder."""

    pending: dict[int, int]
    """Number -> checksum of the payload; so are the next two."""
    failed: dict[int, int]
    sent: dict[int, int]
    buried: frozenset[int]
    last_seq: int
    next_seq: int
    pending_count: int


def reopen(folder: Path, capacity_bytes: int = CAPACITY_BYTES) -> Store:
    """The store, as the next device process would open it."""
    order = Order(act="", folder=str(folder), capacity_bytes=capacity_bytes, sync=False)
    return Store.open(DEVICE, options(order, Clock(LATER)))


def start(folder: Path, capacity_bytes: int = CAPACITY_BYTES) -> Found:
    """Open the store, look at everything, accept one more, and close it."""
    store = reopen(folder, capacity_bytes)
    try:
        return look(store, folder)
    finally:
        store.close()


def look(store: Store, folder: Path, *, accepts: bool = True) -> Found:
    """Everything that the store holds, and the number that it gives out next (unless it `accepts`: is about to)."""
    last_seq, count = store.last_seq, store.pending_count
    pending: dict[int, int] = {}
    after = 0
    while page := store.pending(after, 1000, 1 << 20):
        for record in page:
            assert record.seq not in pending
            pending[record.seq] = google_crc32c.value(record.payload)
        after = page[-1].seq
    with closing(sqlite3.connect(folder / "buffer.db")) as connection:
        rows = connection.execute(
            "SELECT status, id, CAST(prediction_data AS BLOB) FROM prediction_buffer WHERE status != 'pending'"
        ).fetchall()
        losses = connection.execute("SELECT from_seq, to_seq FROM buffer_losses").fetchall()
    others = {
        status: {seq: google_crc32c.value(data) for found, seq, data in rows if found == status}
        for status in ("failed", "sent")
    }
    if not all(isinstance(number, int) for loss in losses for number in loss):
        raise BufferDamaged(f"tombstones that can't be read: {losses}")
    buried = frozenset(seq for first, last in losses for seq in range(first, last + 1))
    next_seq = store.accept(entries("next", 0, 1))[0].seq if accepts else last_seq + 1
    return Found(pending, others["failed"], others["sent"], buried, last_seq, next_seq, count)


@attrs.define
class Told:
    """What a device's users know: the receipts it handed out, and what it was told to do with them."""

    payloads: dict[int, int] = attrs.Factory(dict)
    settled: dict[str, set[int]] = attrs.Factory(lambda: {"sent": set(), "quarantined": set()})
    evicts: bool = False
    explained: set[int] = attrs.Factory(set)
    """Numbers whose loss the cloud has taken note of."""

    def note(self, what: str, seqs: dict[int, int]) -> None:
        """Take one mark of the process into the books."""
        match what:
            case "ack":
                twice = self.payloads.keys() & seqs.keys()
                assert not twice, f"given out twice: {sorted(twice)}"
                self.payloads |= seqs
            case "sent" | "quarantined":
                self.settled[what] |= seqs.keys()
            case "explained":
                self.explained |= seqs.keys()
            case "evict":
                self.evicts = True

    def check(self, found: Found, *, hit: frozenset[int] = frozenset()) -> None:
        """Every receipt was kept: the record is there, once, as it was, or its end has a reason.

        The numbers in `hit` were damaged on the disk: they are there as they were, or buried.
        """
        there = found.pending | found.failed | found.sent
        assert len(there) == len(found.pending) + len(found.failed) + len(found.sent), "a number twice"
        wrong = {seq for seq, crc in self.payloads.items() if there.get(seq, crc) != crc}
        assert not wrong, f"other payloads than acknowledged: {sorted(wrong)}"
        gone = self.payloads.keys() - there.keys() - self.settled["sent"] - self.explained
        explained = found.buried & (self.payloads.keys() if self.evicts else hit)
        assert gone <= explained, f"acknowledged and gone: {sorted(gone - explained)}"
        assert found.sent.keys() <= self.settled["sent"], "marked as sent, but nobody said so"
        assert found.failed.keys() <= self.settled["quarantined"]
        assert found.next_seq == found.last_seq + 1
        assert found.next_seq > max(self.payloads, default=0), "a number would be given out twice"
        holes = set(range(1, found.next_seq)) - there.keys() - found.buried - self.settled["sent"] - self.explained
        assert not holes, f"no reason for {sorted(holes)}"
        assert found.pending_count == len(found.pending)
        both = found.buried & found.pending.keys()
        assert not both, f"pending, and buried as well: {sorted(both)}"
