"""Checks of the disk: the folder, its permissions, the room on it, how fast it syncs, and the buffer itself."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from actors.commands.checks import Check, Verdict, failed, ok, warn
from actors.commands.words import count, size
from actors.ports.opening import NoBooks
from actors.ports.reading import open_reading
from actors.settings import Settings

SYNCS = 20
SYNC_SLOW_S = 0.05
"""An accept waits for one sync, so slower ones hold up a camera of 20 frames a second."""
FREE_MIN_BYTES = 64 * 2**20
FAILED_MAX = 100

Found = TypeVar("Found")


async def disk(settings: Settings, runs: bool) -> AsyncIterator[Check]:
    """All of them, each in a thread: a disk that hangs holds up nothing but its line.

    Nothing but a small file in the folder is written, and that is removed.
    """
    del runs
    folder = settings.buffer_db_path.parent
    there, rights = await _aside(partial(place, folder))
    yield rights
    if rights.verdict is Verdict.FAIL:
        return
    if there == folder:
        yield await _aside(partial(permissions, folder))
    yield await _aside(partial(room, there, settings))
    yield await _aside(partial(sync_speed, there))
    yield await _aside(partial(books, settings))


async def _aside(work: Callable[[], Found]) -> Found:
    """In a thread that is left behind if it never comes back."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def place(folder: Path) -> tuple[Path, Check]:
    """The folder itself, or the one above it that is there, and whether this user may write in it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        return there, failed("folder", f"{folder}: this user may not write in {there}", _RIGHTS)
    state = "" if there == folder else ", made at the first start"
    return there, ok("folder", f"{folder} is writable{state}")


_RIGHTS = "give the folder to the user that the device runs as, or set BUFFER_DB_PATH"


def permissions(folder: Path) -> Check:
    """Whether others can read the predictions."""
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return warn("permissions", f"{folder} is {mode:o}: others may look in", f"chmod 700 {folder}")
    return ok("permissions", f"{folder} is {mode:o}")


def room(there: Path, settings: Settings) -> Check:
    """Whether the buffer can grow to its cap."""
    free = shutil.disk_usage(there).free
    cap = settings.buffer_max_size_mb * 2**20
    used = sum(path.stat().st_size for path in there.glob(f"{settings.buffer_db_path.stem}*") if path.is_file())
    seen = f"{size(free)} free, the buffer may grow to {size(cap)}"
    if free < FREE_MIN_BYTES:
        return failed("room", seen, "free some of the disk, or set BUFFER_DB_PATH to a larger one")
    if free < cap - used:
        return warn("room", seen, "set BUFFER_MAX_SIZE_MB to what there is, or free some of the disk")
    return ok("room", seen)


def sync_speed(there: Path) -> Check:
    """How long the disk takes to make a small write durable: the median of some."""
    took = []
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".holdfast-doctor-") as file:
            for _ in range(SYNCS):
                began = time.perf_counter()
                file.write(bytes(4096))
                file.flush()
                os.fdatasync(file.fileno())
                took.append(time.perf_counter() - began)
    except OSError as exc:
        return failed("sync", f"{there}: {exc.strerror}", "the disk takes no writes: is it full, read-only or broken?")
    median_s = statistics.median(took)
    seen = f"{1000 * median_s:.1f} ms to make a write durable, {1000 * max(took):.1f} ms at worst"
    if median_s > SYNC_SLOW_S:
        return warn("sync", seen, "set BUFFER_FLUSH_INTERVAL above 1, so that several predictions share one sync")
    return ok("sync", seen)


def books(settings: Settings) -> Check:
    """Whether the buffer reads, and what it holds."""
    if not settings.buffer_db_path.exists():
        return ok("buffer", f"none yet at {settings.buffer_db_path}; the first start makes it")
    try:
        with open_reading(settings.buffer_db_path) as reading:
            stats = reading.stats()
    except NoBooks as exc:
        return failed("buffer", str(exc), "app.py buffer repair")
    seen = f"{count(stats['pending'])} pending, {count(stats['failed'])} quarantined"
    if stats["failed"] > FAILED_MAX:
        return warn("buffer", seen, "app.py buffer list --status failed shows why; buffer reset-failed tries again")
    return ok("buffer", seen)
