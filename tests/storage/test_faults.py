"""Let every single call that changes a file fail: nothing acknowledged is lost, nothing dies, all comes back by itself.

The calls are those of the journal, of SQLite (database, WAL, checkpoints), of the reserve, of the lock and of folders,
as the preloaded shim sees them.
"""

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import google_crc32c
import pytest

from actors.ports.journal import decode_line
from actors.ports.store import Store
from chaos.sim.platter import NEVER_READ, lay_out, take_in
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Device, Found, Told, device, start
from tests.storage.test_kills import keep_books

pytestmark = pytest.mark.process

ALWAYS = 1 << 40


@attrs.frozen
class Fault:
    """Which calls go wrong, and how: of `calls` in a row the first `halved` writes take half, the rest fail."""

    error: int
    calls: int = 1
    halved: int = 0
    trouble: str = ""
    """What goes wrong beside it (`Order.trouble`)."""
    stride: int = 3
    """From every how manieth call on it is tried,"""
    until: int = ALWAYS
    """and up to which."""


FAULTS = {
    "one call finds no room": Fault(errno.ENOSPC),
    "one call finds no room, and the process is killed behind it": Fault(errno.ENOSPC, trouble="killed", stride=1),
    "read-only for a while": Fault(errno.EROFS, calls=25, stride=5),
    "no room for a while, as the database is replaced": Fault(errno.ENOSPC, calls=5, trouble="database", stride=5),
    "one call meets a bad sector": Fault(errno.EIO, stride=5),
    "one call meets a bad sector, and the process is killed behind it": Fault(errno.EIO, trouble="killed", stride=5),
    "bad sectors for a while, as the database is replaced": Fault(errno.EIO, calls=5, trouble="database", stride=11),
    "half of a write, then no room": Fault(errno.ENOSPC, calls=3, halved=1, stride=5),
    "half of a write, then bad sectors, and the process is killed behind the next group": Fault(
        errno.EIO, calls=6, halved=1, trouble="killed behind the next group", stride=4
    ),
}
POINTS_MIN = 150
CALLS_OF_A_START = 91
"""So many, and the first page is read: all that is set aside is set aside by then."""


@attrs.define
class Sweep:
    """One fault from every so manieth call on, each time on the same folder, and what the device made of it."""

    process: Device
    place: Path
    log: Path
    fault: Fault
    laid: Callable[[], Told] = Told
    """Fills the empty folder; says what its users have been told so far."""
    hit: frozenset[int] = frozenset()
    points: int = 0
    tried: int = 0
    refused: int = 0
    receipts: int = 0
    aside: list[bytes] = attrs.Factory(list)
    """The copies of damaged bytes that the last start has made, or found."""

    def run(self) -> Iterator[tuple[int, Found]]:
        """The first time nothing fails: that says how many calls there are."""
        self.points = self.once(ALWAYS)[0]
        for number in range(0, min(self.points, self.fault.until), self.fault.stride):
            yield number, self.once(number)[1]

    def once(self, number: int) -> tuple[int, Found]:
        empty(self.place)
        self.log.write_bytes(b"")
        told = self.laid()
        fault = self.fault
        order = Order(
            act="faults",
            folder=str(self.place),
            fail_from=number,
            fail_calls=fault.calls,
            fail_with=fault.error,
            halved=fault.halved,
            trouble=fault.trouble,
        )
        self.process.start(order)
        code, lines = self.process.until_end()
        assert (code, lines[-1]) == (0, "well"), f"{fault}, call {number}: {lines[-3:]}"
        keep_books(told, lines)
        try:
            found = start(self.place)
            told.check(found, hit=self.hit)
        except AssertionError as exc:
            exc.add_note(f"{fault}, call {number}")
            raise
        calls, aside = (next(line.split() for line in lines if line.startswith(word)) for word in ("calls", "aside"))
        self.aside = [bytes.fromhex(copy) for copy in aside[1:]]
        self.tried += 1
        self.refused += int(calls[3]) > 0
        self.receipts += len(told.payloads)
        return int(calls[1]), found

    def __str__(self) -> str:
        return (
            f"{self.points} calls, faults of {self.fault.calls} from each {self.fault.stride}. on;"
            f" {self.refused} of {self.tried} made the store refuse a step; {self.receipts} receipts"
        )


@contextmanager
def sweep(shim: Path, folder: Path, fault: Fault) -> Iterator[Sweep]:
    place, log = folder / "d", folder / "log"
    place.mkdir()
    with device(LD_PRELOAD=str(shim), KEEP_SYNCED_FOLDER=str(place), KEEP_SYNCED_LOG=str(log)) as process:
        yield Sweep(process, place, log, fault)


@pytest.mark.parametrize("name", FAULTS)
def test_call_that_fails_anywhere_costs_no_receipt_and_is_got_over(shim, folder, name, capsys):
    with sweep(shim, folder, FAULTS[name]) as swept:
        for _ in swept.run():
            pass
    with capsys.disabled():
        print(f"\n{name}: {swept}")
    assert swept.points >= POINTS_MIN
    assert swept.refused > swept.tried // 20


def test_write_that_takes_half_of_its_bytes_is_gone_on_with(shim, folder):
    """A short write is a legal answer, of which nobody notices anything."""
    with sweep(shim, folder, Fault(0, halved=1, trouble="killed")) as swept:
        for _ in swept.run():
            pass
    assert swept.points >= POINTS_MIN
    assert swept.refused == 0


@attrs.frozen
class Damaged:
    """A folder as a kill left it, with a row of the database and a line of the journal that have changed since."""

    state: dict[str, bytes | None]
    receipts: dict[int, int]
    hit: frozenset[int]
    bad_line: bytes


def damage(place: Path) -> Damaged:
    place.mkdir()
    clock = Clock(1_000.0)
    store = Store.open(DEVICE, options(Order(act="", folder=str(place), sync=False), clock))
    records = store.accept(entries("old", 0, 12))
    store._journal.rotate()
    store._retire(wait=True)
    records += store.accept(entries("new", 0, 6))
    in_row, in_line = records[4], records[14]
    with closing(sqlite3.connect(place / "buffer.db")) as connection, connection:
        connection.execute("UPDATE buffer_predictions SET prediction_data = ' ' || prediction_data WHERE id = 5")
    state = {path: data for path, data in take_in(place).items() if not path.endswith(NEVER_READ)}
    store.close()
    (name,) = [path for path in state if path.startswith("buffer-journal/") and path.endswith(".jsonl")]
    segment = state[name] or b""
    line = next(line for line in segment.splitlines(keepends=True) if decode_line(line[:-1]) == (15, in_line.payload))
    bad_line = line.replace(b"image_id", b"imaGe_id")
    state[name] = segment.replace(line, bad_line)
    receipts = {record.seq: google_crc32c.value(record.payload) for record in records}
    return Damaged(state, receipts, frozenset({in_row.seq, in_line.seq}), bad_line)


def test_no_room_for_what_is_set_aside_costs_no_record_and_the_copy_is_made_once_there_is(shim, folder, capsys):
    """A start finds a damaged line, and its first page a damaged row, and a call in between finds no room."""
    before = damage(folder / "before")
    with sweep(shim, folder, Fault(errno.ENOSPC, stride=1, until=CALLS_OF_A_START)) as swept:

        def lay() -> Told:
            lay_out(before.state, swept.place)
            return Told(dict(before.receipts))

        swept.laid, swept.hit = lay, before.hit
        for number, found in swept.run():
            assert before.hit <= found.buried, f"call {number}: each has a reason"
            assert not list(swept.place.glob("buffer.db.corrupt-*")), f"call {number}: a full disk is no damage"
            assert swept.aside == [before.bad_line], f"call {number}: to the last byte"
    with capsys.disabled():
        print(f"\nas damage is set aside: {swept}")
    assert swept.refused > swept.tried // 20


def empty(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
