"""Opening a store: one process at a time, and a database that can't be used is set aside, never in the way."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import msgspec

from actors.ports.buffer import Buffer
from actors.ports.journal import Model
from actors.ports.private import make_folder, sync_folder, write_private
from actors.ports.rows import Row
from actors.ports.schema import is_stream, is_tombstone
from actors.ports.sqlite import BufferDamaged, BufferUnwritable

FILL_ROWS = 1_000
"""Rows that are saved from a damaged database in one stroke: its million need not fit into memory."""
RESERVE_BYTES = 4 * 1024 * 1024
"""Kept on the disk, and below the capacity, for acknowledgements and deletions; a checkpoint must fit."""

_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.EFBIG)
"""What the disk itself says; anything else speaks of the path."""


class StoreLocked(Exception):
    """Another process has this buffer open."""


class StoreMisplaced(Exception):
    """BUFFER_DB_PATH names a place where no buffer can be: a mistake to mend, and no fault of the disk."""


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


@attrs.frozen
class Salvage:
    """What could be read of a database that was set aside."""

    aside: str = ""
    stream_id: str | None = None
    last_seq: int = 0
    paths: tuple[Path, ...] = ()
    """The databases that were set aside for the new one, oldest first; `salvaged_rows` reads them."""
    losses: tuple[tuple[int, int, str, float], ...] = ()
    """Tombstones that the cloud has not confirmed: (from, to, reason, time)."""


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
        owner = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreLocked(
            f"{path}: process {owner or '(unknown)'} has this buffer open;"
            " stop it, or give this device a BUFFER_DB_PATH of its own"
        ) from exc
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d" % os.getpid(), 0)
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


def damage_marker(db_path: Path) -> Path:
    """The file that says that the database must be replaced. Its lines name the ones that were set aside for it."""
    return db_path.with_name(db_path.name + ".damaged")


def open_buffer(options: StoreOptions) -> tuple[Buffer, Salvage]:
    """The buffer; if it is damaged, a new one, and what could be read of the old one, for `fill`.

    The marker stays until `fill` has ended: a start that is cut short in between is repeated, from all that was set
    aside for it. Each step is certain before the next begins, so that a power cut finds either side of it.
    """
    marker = damage_marker(options.db_path)
    reason = "found damaged while running"
    if not marker.exists():
        try:
            return Buffer(options.db_path), Salvage()
        except BufferDamaged as exc:
            reason = str(exc)
        except BufferUnwritable as exc:
            # SQLite also says 'readonly' of a file whose header claims a version that it only reads.
            if "readonly" not in str(exc) or not _takes_writes(options.db_path):
                raise
            reason = str(exc)
    names = _names_in(marker, options.db_path.name)
    if not names or options.db_path.with_name(names[-1]).exists():  # else: go on with a move that was cut short
        names.append(f"{options.db_path.name}.corrupt-{int(options.now())}-{len(names)}")
        write_private(marker, f"\n{names[-1]}\n".encode(), "ab")
        sync_folder(marker.parent)
    aside = options.db_path.with_name(names[-1])
    for end in ("-wal", "-shm", ""):
        file_before = options.db_path.with_name(options.db_path.name + end)
        if file_before.exists():
            file_before.rename(aside.with_name(aside.name + end))
            sync_folder(marker.parent)
    paths = [path for name in names if (path := options.db_path.with_name(name)).exists()]
    return Buffer(options.db_path), _merge(paths, f"{aside} ({reason})")


def _names_in(marker: Path, db_name: str) -> list[str]:
    """The databases that the marker names; a line that a power cut tore names none."""
    if not marker.exists():
        return []
    lines = marker.read_bytes().decode(errors="replace").splitlines()
    return [line for line in lines if re.fullmatch(re.escape(db_name) + r"\.corrupt-\d+-\d+", line)]


def _takes_writes(path: Path) -> bool:
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return False


def mark_damaged(db_path: Path) -> None:
    """Let the next opening set the database aside from the start: its damage showed only when it was read."""
    damage_marker(db_path).touch(mode=0o600)


def _merge(paths: Sequence[Path], aside: str) -> Salvage:
    """One salvage of several attempts: what their small tables say; the rows follow one by one."""
    found = [_read_books(path) for path in paths]
    return Salvage(
        aside,
        stream_id=next((one.stream_id for one in found if one.stream_id), None),
        last_seq=max((one.last_seq for one in found), default=0),
        paths=tuple(paths),
        losses=tuple(loss for one in found for loss in one.losses),
    )


def fill(buffer: Buffer, salvage: Salvage, options: StoreOptions, stream_id: str, device_id: str) -> None:
    """Give a new buffer its stream, and what was saved of the ones before it."""
    buffer.begin_stream(stream_id, device_id, options.now())
    buffer.insert([], last_seq=salvage.last_seq)
    # The first database that knows a row has it nearest to the truth; later ones are skipped by its number.
    for path in salvage.paths:
        rows = _salvaged_rows(path)
        while stroke := list(islice(rows, FILL_ROWS)):
            owed = [row for row in stroke if row.status in ("pending", "failed") and _whole(row)]
            buffer.insert(owed, last_seq=max(row.seq for row in stroke))
    for first, last, reason, lost_at in salvage.losses:
        buffer.bury([(first, last)], reason, lost_at, last_seq=last)
    buffer.keep_buried()
    buffer.checkpoint()
    damage_marker(options.db_path).unlink(missing_ok=True)
    sync_folder(options.db_path.parent)


def _read_books(path: Path) -> Salvage:
    """What a damaged database still says of its stream and of its tombstones."""
    stream_id, last_seq = None, 0
    losses: list[tuple[int, int, str, float]] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            row = connection.execute("SELECT stream_id, stream_crc32c, last_seq FROM buffer_metadata").fetchone()
            if row and is_stream(*row[:2]) and isinstance(row[2], int):
                stream_id, last_seq = row[0], row[2]
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            losses = connection.execute(
                "SELECT from_seq, to_seq, reason, lost_at FROM buffer_losses WHERE confirmed_at IS NULL"
            ).fetchall()
    return Salvage(stream_id=stream_id, last_seq=last_seq, losses=tuple(x for x in losses if is_tombstone(*x[:3])))


def _salvaged_rows(path: Path) -> Iterator[Row]:
    """The rows of a damaged database from both ends of the table, up to the first page that does not read."""
    highest = 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                for seq, payload, *rest in connection.execute(
                    "SELECT id, CAST(prediction_data AS BLOB), image_id, timestamp, buffered_at, status, sent_at,"  # noqa: S608
                    f" retry_count, last_error FROM prediction_buffer NOT INDEXED ORDER BY id {order}"
                ):
                    if order == "DESC" and seq <= highest:
                        return
                    highest = seq if order == "ASC" else highest
                    yield Row(seq, payload, *rest)


def _whole(row: Any) -> bool:
    """Whether a salvaged row is still the prediction that it was: JSON that carries its own number, and no holes."""
    sound = (
        isinstance(row.payload, bytes)
        and isinstance(row.image_id, str)
        and all(isinstance(time, int | float) for time in (row.timestamp, row.buffered_at))
        and isinstance(row.retry_count, int)
        and isinstance(row.last_error, str | None)
    )
    try:
        return sound and bool(msgspec.json.decode(row.payload).get("seq") == row.seq)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return False
