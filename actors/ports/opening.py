"""Opening a store: where it lies and within which bounds, and one process at a time."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import attrs

from actors.ports.journal import Model
from actors.ports.private import make_folder
from actors.settings import Settings

RESERVE_BYTES = 4 * 1024 * 1024
"""Kept on the disk, and below the capacity, for acknowledgements and deletions; a checkpoint must fit."""
OWNER_BYTES = 20
"""The owner's process id in the lock file, padded: the buffer's size must not depend on how many digits it has."""
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.EFBIG)
"""What the disk itself says; anything else speaks of the path."""


class StoreLocked(Exception):
    """Another process has this buffer open."""


class StoreMisplaced(Exception):
    """BUFFER_DB_PATH names a place where no buffer can be: a mistake to mend, and no fault of the disk."""


class NoBooks(Exception):
    """There is no buffer to read at that place."""


class DiskTrouble(Exception):
    """The disk does not take writes at the moment; nothing of the call counts as accepted."""


class BufferFull(Exception):
    """No room below BUFFER_MAX_SIZE_MB; what happens now is the operator's policy."""


@attrs.frozen(kw_only=True)
class StoreOptions:
    """Where the store lives and within which bounds. `now` is wall-clock seconds; `new_id` names a new stream."""

    db_path: Path
    capacity_bytes: int
    cleanup_days: float
    journal: bool
    now: Callable[[], float]
    new_id: Callable[[float], str]
    model: Callable[[], Model] = Model
    """Asked at the beginning of each segment."""
    sync: Callable[[int], None] = os.fdatasync

    @property
    def journal_folder(self) -> Path:
        """Where the segments lie."""
        return journal_folder(self.db_path)

    @property
    def quarantine_folder(self) -> Path:
        """Where damaged bytes are set aside."""
        return self.db_path.with_name(self.db_path.stem + "-quarantine")

    @property
    def cursor_folder(self) -> Path:
        """Where the sources keep how far they have read."""
        return cursor_folder(self.db_path)

    @property
    def set_aside_bytes_max(self) -> int:
        """What may lie there of damaged databases and segments, as long as nothing else needs the room."""
        return self.capacity_bytes // 4

    @property
    def lock_path(self) -> Path:
        """The file whose lock says that a process has this store open."""
        return self.db_path.with_name(self.db_path.name + ".lock")

    @property
    def accept_bytes_max(self) -> int:
        """Up to here predictions are accepted; acknowledgements and deletions may go beyond."""
        return self.capacity_bytes - self.reserve_bytes

    @property
    def reserve_bytes(self) -> int:
        """How much is kept free, of the capacity and, as a file, of the disk."""
        return min(RESERVE_BYTES, self.capacity_bytes // 16)

    @property
    def reserve_path(self) -> Path:
        """The file that keeps room on the disk."""
        return self.db_path.with_name(self.db_path.name + ".reserve")


def store_options(
    settings: Settings,
    *,
    now: Callable[[], float],
    new_id: Callable[[float], str],
    sync: Callable[[int], None],
    model: Callable[[], Model] = Model,
) -> StoreOptions:
    """Where the store lives and within which bounds."""
    return StoreOptions(
        db_path=settings.buffer_db_path,
        capacity_bytes=settings.buffer_max_size_mb * 2**20,
        cleanup_days=settings.buffer_cleanup_days,
        journal=settings.enable_session_buffering,
        now=now,
        new_id=new_id,
        sync=sync,
        model=model,
    )


def journal_folder(db_path: Path) -> Path:
    """The folder of the segments: beside the database, under its name, so that two buffers never share one."""
    return db_path.with_name(db_path.stem + "-journal")


def cursor_folder(db_path: Path) -> Path:
    """The folder of the sources' cursors."""
    return db_path.parent / "cursors"


def new_stream_id(now: float) -> str:
    """A ULID: 26 characters that sort by the time they were made, the last 16 of them random."""
    number = int(now * 1000) << 80 | secrets.randbits(80)
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in range(125, -1, -5))


def _check_place(db_path: Path) -> None:
    """`StoreMisplaced` where something stands that is no file: SQLite would open a device, and we would change it."""
    try:
        is_file = stat.S_ISREG(db_path.stat().st_mode)
    except OSError:
        return  # there is nothing yet, or the lock will tell why it can't be seen
    if not is_file:
        raise StoreMisplaced(f"BUFFER_DB_PATH: {db_path}: is no file; name a file in a folder that this user may write")


def lock(options: StoreOptions) -> int:
    """Take the store for this process; the lock goes with the process, however that ends."""
    path = options.lock_path
    _check_place(options.db_path)
    try:
        make_folder(path.parent)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno in _DISK_ERRNOS:
            raise DiskTrouble(f"{path}: {exc.strerror}") from exc
        raise StoreMisplaced(f"BUFFER_DB_PATH: {path}: {exc.strerror}; name a folder that this user may write") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        owner = os.pread(fd, OWNER_BYTES, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreLocked(
            f"{path}: process {owner or '(unknown)'} has this buffer open;"
            " stop it, or give this device a BUFFER_DB_PATH of its own"
        ) from exc
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the name of its owner
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%*d" % (OWNER_BYTES, os.getpid()), 0)
    _locks.add(fd)
    return fd


def unlock(fd: int) -> None:
    """Let another process have the store."""
    _locks.discard(fd)
    os.close(fd)


_locks: set[int] = set()
"""The locks of this process. A fork shares them, and would keep the buffer closed to all others after our end."""


def _let_go_in_a_fork() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_let_go_in_a_fork)


def says_full(error: Exception) -> bool:
    """Whether it is for lack of room that something could not be written."""
    return "full" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
