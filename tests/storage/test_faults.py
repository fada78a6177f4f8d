"""Let every single call that changes a file fail: nothing acknowledged is lost, nothing dies, all comes back by itself.

The calls are those of the journal, of SQLite (database, WAL, checkpoints), of the reserve, of the lock and of folders,
as the preloaded shim sees them.
"""

import errno
import shutil

import pytest

from tests.storage.child import Order
from tests.storage.fixtures import Told, device, start
from tests.storage.test_kills import keep_books

pytestmark = pytest.mark.process

FAULTS = {
    "one call finds no room": (errno.ENOSPC, 1, 3, ""),
    "one call finds no room, and the process is killed behind it": (errno.ENOSPC, 1, 1, "killed"),
    "read-only for a while": (errno.EROFS, 25, 5, ""),
    "no room for a while, as the database is replaced": (errno.ENOSPC, 5, 5, "database"),
}
"""The error, how many calls it lasts, from every how manieth call on it is tried, and what else goes wrong."""
POINTS_MIN = 150
NEVER = 1 << 40


@pytest.mark.parametrize("fault", FAULTS)
def test_call_that_fails_anywhere_costs_no_receipt_and_is_got_over(shim, folder, fault, capsys):
    problem, count, stride, trouble = FAULTS[fault]
    place = folder / "d"
    environment = {"LD_PRELOAD": str(shim), "KEEP_SYNCED_FOLDER": str(place), "KEEP_SYNCED_LOG": str(folder / "log")}
    place.mkdir()
    points, number, tried, refused, receipts = NEVER, -1, 0, 0, 0
    with device(**environment) as process:
        while number < points:
            empty(place)
            (folder / "log").write_bytes(b"")
            # The first time nothing fails: that says how many calls there are.
            order = Order(
                act="faults",
                folder=str(place),
                fail_from=number % NEVER,
                fail_calls=count,
                fail_with=problem,
                trouble=trouble,
            )
            process.start(order)
            code, lines = process.until_end()
            assert (code, lines[-1]) == (0, "well"), f"{fault}, call {number}: {lines[-3:]}"
            told = Told()
            keep_books(told, lines)
            try:
                told.check(start(place))
            except AssertionError as exc:
                exc.add_note(f"{fault}, call {number}")
                raise
            calls = next(line.split() for line in lines if line.startswith("calls "))
            points = int(calls[1]) if number < 0 else points
            refused += int(calls[3]) > 0
            receipts += len(told.payloads)
            tried += 1
            number += stride if number >= 0 else 1
    with capsys.disabled():
        print(
            f"\n{fault}: {points} calls, faults of {count} from each {stride}. on;"
            f" {refused} of {tried} made the store refuse a step; {receipts} receipts"
        )
    assert points >= POINTS_MIN
    assert refused > tried // 20


def empty(place) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
