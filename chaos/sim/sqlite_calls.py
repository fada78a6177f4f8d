"""SQLite's own system calls, taken at its own door (a VFS): the real library on real files, with a say in each call.

The default VFS is copied and registered as the default under another name. A file that it opens below a simulated
disk gets a copy of its table of methods in which `xWrite`, `xTruncate`, `xSync` and `xClose` are ours; all others, and
all files elsewhere, are SQLite's own.
"""

import _sqlite3
import contextlib
import ctypes
import errno
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import attrs

from chaos.sim.drive import Drive, Mounts

OK, IOERR, FULL, CANTOPEN = 0, 10, 13, 14
IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = (IOERR | code << 8 for code in (3, 4, 6, 10))
OPEN_READONLY, OPEN_READWRITE, OPEN_CREATE = 1, 2, 4

_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class _Methods(Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("iVersion", c_int),
        ("xClose", _CLOSE),
        ("xRead", c_void_p),
        ("xWrite", _WRITE),
        ("xTruncate", _TRUNCATE),
        ("xSync", _SYNC),
        ("rest", c_void_p * 13),
    )


class _File(Structure):
    """`sqlite3_file`: what SQLite sees of an open file."""

    _fields_ = (("pMethods", POINTER(_Methods)),)


class _Vfs(Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("rest", c_void_p * 14),
    )


@attrs.frozen
class _Usual:
    """SQLite's own methods of one kind of file. To look one up in the C table makes a new Python function each time."""

    table: _Methods
    write: Callable[..., int]
    truncate: Callable[..., int]
    close: Callable[..., int]


@attrs.define
class _Opened:
    """A file of a simulated disk that SQLite has open; what a life that is over still does to it does not count."""

    drive: Drive | None
    life: int
    inside: str
    usual: _Usual

    def living(self) -> Drive | None:
        """Its drive, if the life in which it was opened is not over."""
        drive = self.drive
        return drive if drive is not None and drive.life == self.life else None


class SqliteUnreachable(Exception):
    """The SQLite of this Python hides its C functions: its system calls can't be met."""


def _library() -> Any:
    try:
        library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = (c_char_p,)
        library.sqlite3_vfs_register.argtypes = (POINTER(_Vfs), c_int)
        library.sqlite3_vfs_unregister.argtypes = (POINTER(_Vfs),)
    except (OSError, AttributeError) as exc:
        raise SqliteUnreachable(f"the SQLite of this Python can't be reached from outside: {exc}") from exc
    return library


_kept: list[Any] = []
"""Tables that SQLite may still point to: a file can outlive the run that opened it."""


@contextlib.contextmanager
def sqlite_intercepted(mounts: Mounts) -> Iterator[None]:
    """Within the block, what SQLite does to a file below `mounts` is asked of, and noted by, its drive."""
    library = _library()
    usual = library.sqlite3_vfs_find(None)
    vfs = _Vfs.from_buffer_copy(usual.contents)
    door = _Door(mounts, usual.contents)
    vfs.zName, vfs.pNext = b"holdfast-simulation", None
    vfs.xOpen, vfs.xDelete = door.open_callback, door.delete_callback
    _kept.append((vfs, door))
    library.sqlite3_vfs_register(byref(vfs), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_register(usual, 1)
        library.sqlite3_vfs_unregister(byref(vfs))
        door.let_go()


class _Door:
    """What stands between SQLite and the files."""

    def __init__(self, mounts: Mounts, usual: _Vfs) -> None:
        self.mounts = mounts
        self.usual = usual
        self.files: dict[int, _Opened] = {}
        """By the address of the open file."""
        self.tables: dict[int, tuple[_Usual, _Methods]] = {}
        """By the address of the usual table of methods: what of it we call, and our own table."""
        self.open_callback = _OPEN(self.open)
        self.delete_callback = _DELETE(self.delete)
        self.write_callback = _WRITE(self.write)
        self.truncate_callback = _TRUNCATE(self.truncate)
        self.sync_callback = _SYNC(self.sync)
        self.close_callback = _CLOSE(self.close)

    def open(self, vfs: int, name: int | None, file: int, flags: int, flags_out: Any) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        found = self.mounts.find(path)
        created = False
        if found is not None:
            drive, inside = found
            life = drive.life
            exists = Path(path).exists()
            if drive.read_only and flags & OPEN_READWRITE:
                if not exists:
                    return CANTOPEN
                flags = flags & ~(OPEN_READWRITE | OPEN_CREATE) | OPEN_READONLY
            if not exists and (error := _refusal(drive, "c", inside)):
                return CANTOPEN if error != errno.ENOSPC else FULL
            created = not exists
        code = int(self.usual.xOpen(vfs, name, file, flags, flags_out))
        if code == OK and found is not None:
            drive, inside = found
            if created and Path(path).exists():
                drive.note(life, "c", inside)
            self.files[file] = _Opened(drive, life, inside, self._take_over(file))
        return code

    def let_go(self) -> None:
        """The run is over: SQLite may still call, but what the run's disks have held is not kept."""
        self.mounts = Mounts(self.mounts.root)
        for opened in self.files.values():
            opened.drive = None

    def _take_over(self, file: int) -> _Usual:
        """Put our methods in place of the usual ones, which it returns."""
        opened = _File.from_address(file)
        address = ctypes.addressof(opened.pMethods.contents)
        if address not in self.tables:
            usual = _Methods.from_buffer_copy(opened.pMethods.contents)
            ours = _Methods.from_buffer_copy(usual)
            ours.xWrite, ours.xTruncate = self.write_callback, self.truncate_callback
            ours.xSync, ours.xClose = self.sync_callback, self.close_callback
            self.tables[address] = (_Usual(usual, usual.xWrite, usual.xTruncate, usual.xClose), ours)
        before, now = self.tables[address]
        opened.pMethods = ctypes.pointer(now)
        return before

    def write(self, file: int, data: int, size: int, offset: int) -> int:
        opened = self.files[file]
        drive, life, inside = opened.living(), opened.life, opened.inside
        if drive is None:
            return opened.usual.write(file, data, size, offset)
        if error := _refusal(drive, "w", inside, offset, size):
            return FULL if error == errno.ENOSPC else IOERR_WRITE
        code = opened.usual.write(file, data, size, offset)
        if code == OK:
            drive.note(life, "w", inside, offset, ctypes.string_at(data, size))
        return code

    def truncate(self, file: int, size: int) -> int:
        opened = self.files[file]
        drive, life, inside = opened.living(), opened.life, opened.inside
        if drive is None:
            return opened.usual.truncate(file, size)
        if error := _refusal(drive, "t", inside, size):
            return FULL if error == errno.ENOSPC else IOERR_TRUNCATE
        code = opened.usual.truncate(file, size)
        if code == OK:
            drive.note(life, "t", inside, size)
        return code

    def sync(self, file: int, flags: int) -> int:  # noqa: ARG002 - SQLite's signature
        # The files lie in memory: only the drive knows what a sync is.
        opened = self.files[file]
        drive, life, inside = opened.living(), opened.life, opened.inside
        if drive is None:
            return OK
        if error := _refusal(drive, "s", inside):
            return FULL if error == errno.ENOSPC else IOERR_FSYNC
        drive.note(life, "s", inside)
        if inside.endswith(("-wal", "-journal")):
            drive.note(life, "s", ".")  # SQLite syncs the folder of a log that it has made
        return OK

    def close(self, file: int) -> int:
        return self.files.pop(file).usual.close(file)

    def delete(self, vfs: int, name: bytes, sync_folder: int) -> int:
        path = name.decode()
        found = self.mounts.find(path) if Path(path).exists() else None
        if found is None:
            return int(self.usual.xDelete(vfs, name, 0))
        drive, inside = found
        life = drive.life
        if _refusal(drive, "u", inside):
            return IOERR_DELETE
        code = int(self.usual.xDelete(vfs, name, 0))
        if code == OK:
            drive.note(life, "u", inside)
            if sync_folder:
                drive.note(life, "s", ".")
        return code


def _refusal(drive: Drive, kind: str, inside: str, offset: int = 0, size: int = 0) -> int:
    """0, or the number of the error that the drive answers with."""
    try:
        drive.ask(kind, inside, offset, size)
    except OSError as exc:
        return exc.errno or errno.EIO
    return OK
