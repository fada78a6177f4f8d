"""SQLite's errors by name, transactions that never stay half-done, and a write-ahead log that stays as it is."""

import os
import sqlite3
from pathlib import Path

DISK_CODES = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
)
"""Primary result codes that speak of the disk or of another process; all others speak of the file."""
ROOM_BYTES = 1 << 20
"""A disk with so much room is not full."""


class BufferDamaged(Exception):
    """The file is no usable buffer: malformed, not a database, or written by a newer version."""


class BufferUnwritable(Exception):
    """SQLite could not write: the disk is full, read-only, or failing. The transaction was rolled back."""


class named_errors:  # noqa: N801 - used as a statement: `with named_errors():`
    """Translate SQLite's errors at this door: what is wrong with the file, and what is wrong with the disk."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode"):
            # The library's own word, not SQLite's: a text that is no UTF-8 any more.
            raise BufferDamaged(str(error)) from error
        if isinstance(error, UnicodeDecodeError):
            # What SQLite says of a damaged schema quotes it, and Python can't read that.
            raise BufferDamaged(str(error)) from error
        if isinstance(error, sqlite3.DatabaseError) and hasattr(error, "sqlite_errorcode"):
            if error.sqlite_errorcode & 0xFF in DISK_CODES:
                raise BufferUnwritable(str(error)) from error
            raise BufferDamaged(str(error)) from error


class Transaction:
    """BEGIN IMMEDIATE … COMMIT, rolled back on any error, with the errors named."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        with named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with named_errors():
            if error is None:
                try:
                    self._connection.execute("COMMIT")
                except sqlite3.Error as exc:
                    self._roll_back()
                    _tell_damaged_from_full(self._connection, exc)
                    raise
            else:
                self._roll_back()
                if isinstance(error, sqlite3.Error | UnicodeDecodeError):
                    _tell_damaged_from_full(self._connection, error)
                    raise error

    def _roll_back(self) -> None:
        # After some errors (a full disk among them) SQLite has rolled back by itself.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _tell_damaged_from_full(connection: sqlite3.Connection, error: Exception) -> None:
    """`BufferDamaged` where SQLite says "full" of a damaged file: it says so too of a page with a number beyond all.

    The whole file is read for that, so only where the disk has room.
    """
    if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
        return
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    disk = os.statvfs(path or ".")
    if disk.f_bavail * disk.f_frsize >= ROOM_BYTES:
        complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if complaint != "ok":
            raise BufferDamaged(f"{path}: {complaint}") from error


def sync_log(db_path: Path) -> None:
    """Make certain what a database's write-ahead log holds; SQLite syncs it not when it is cut. `BufferUnwritable`."""
    log = db_path.with_name(db_path.name + "-wal")
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise BufferUnwritable(f"{log}: {exc.strerror}") from exc
