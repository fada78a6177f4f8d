"""Python's own system calls, met where the program makes them: each is asked of the simulated disk, then made.

Only what lies below a simulated disk is touched; every other path and descriptor goes to the system as it came.
"""
# ruff: noqa: PTH115 - these stand in for the very functions that pathlib calls

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from chaos.sim.drive import DISK_BYTES, Drive, Mounts

BLOCK_BYTES = 4096
_WRITES = os.O_WRONLY | os.O_RDWR


@attrs.frozen
class Room:
    """What `os.statvfs` says of a simulated disk."""

    f_bavail: int
    f_frsize: int = BLOCK_BYTES
    f_blocks: int = DISK_BYTES // BLOCK_BYTES


@contextlib.contextmanager
def python_intercepted(mounts: Mounts, token: Callable[[], str]) -> Iterator[None]:
    """Within the block, what Python does to a file below `mounts` is asked of, and noted by, its drive.

    `token` stands in for `secrets.token_hex`, which names segments: a seed has to replay.
    """
    usual = _Usual()
    calls = _Calls(mounts, usual)
    try:
        for name in _Calls.STANDING_IN:
            setattr(os, name, getattr(calls, name))
        io.open = calls.open_file
        secrets.token_hex = lambda nbytes=None: token()  # noqa: ARG005 - its real name
        yield
    finally:
        for name in _Calls.STANDING_IN:
            setattr(os, name, getattr(usual, name))
        io.open = usual.open_file
        secrets.token_hex = usual.token_hex


class _Usual:
    """The system's own functions."""

    def __init__(self) -> None:
        self.open, self.write, self.ftruncate = os.open, os.write, os.ftruncate
        self.fsync, self.fdatasync = os.fsync, os.fdatasync
        self.unlink, self.rename, self.mkdir = os.unlink, os.rename, os.mkdir
        self.posix_fallocate, self.statvfs = os.posix_fallocate, os.statvfs
        self.open_file = io.open
        self.token_hex = secrets.token_hex


class _Calls:
    """What stands in for them."""

    STANDING_IN = (
        *("open", "write", "ftruncate", "fsync", "fdatasync"),
        *("unlink", "rename", "mkdir", "posix_fallocate", "statvfs"),
    )

    def __init__(self, mounts: Mounts, usual: _Usual) -> None:
        self.mounts, self.usual = mounts, usual

    def _find(self, path: Any) -> tuple[Drive, str] | None:
        if isinstance(path, int):
            with contextlib.suppress(OSError):
                return self.mounts.find(os.readlink(f"/proc/self/fd/{path}"))
            return None
        return self.mounts.find(os.fspath(path)) if isinstance(path, str | os.PathLike) else None

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        found = self._find(path)
        if found is None:
            return self.usual.open(path, flags, *more, **named)
        drive, inside = found
        life = drive.life
        exists = os.path.lexists(path)
        if drive.read_only and flags & (_WRITES | os.O_CREAT):
            drive.ask("c", inside)
        makes = bool(flags & os.O_CREAT) and not exists
        if makes:
            drive.ask("c", inside)
        fd = self.usual.open(path, flags, *more, **named)
        if makes:
            drive.note(life, "c", inside)
        elif flags & os.O_TRUNC:
            drive.note(life, "t", inside, 0)
        return fd

    def open_file(self, file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        """What such a file holds is learnt when it is synced, or when the process is gone."""
        found = self._find(file) if set(mode) & set("wax+") and not isinstance(file, int) else None
        if found is None:
            return self.usual.open_file(file, mode, *more, **named)
        drive, inside = found
        life, exists = drive.life, os.path.lexists(file)
        drive.ask("w", inside)
        opened = self.usual.open_file(file, mode, *more, **named)
        if not exists:
            drive.note(life, "c", inside)
        return opened

    def write(self, fd: int, data: Any, /) -> int:
        found = self._find(fd)
        if found is None:
            return self.usual.write(fd, data)
        drive, inside = found
        life = drive.life
        at, size = os.fstat(fd).st_size, len(data)
        if 0 < drive.free_bytes < size and not drive.read_only:
            data = bytes(data[: drive.free_bytes])  # as much as there is room for, as the system does it
        drive.ask("w", inside, at, len(data))
        written = self.usual.write(fd, data)
        drive.note(life, "w", inside, at, bytes(data[:written]))
        return written

    def ftruncate(self, fd: int, length: int) -> None:
        found = self._find(fd)
        if found is not None:
            drive, inside = found
            life = drive.life
            drive.ask("t", inside, length)
        self.usual.ftruncate(fd, length)
        if found is not None:
            drive.note(life, "t", inside, length)

    def fsync(self, fd: Any) -> None:
        found = self._find(fd)
        if found is None:
            self.usual.fsync(fd)
            return
        drive, inside = found
        life = drive.life
        drive.ask("s", inside)
        if life == drive.life and not inside.endswith(".jsonl"):
            drive.take_in(drive.folder / inside, inside)
        drive.note(life, "s", inside)

    fdatasync = fsync

    def unlink(self, path: Any, **named: Any) -> None:
        found = self._find(path) if os.path.lexists(path) else None
        if found is not None:
            drive, inside = found
            life = drive.life
            drive.ask("u", inside)
        self.usual.unlink(path, **named)
        if found is not None:
            drive.note(life, "u", inside)

    def rename(self, source: Any, target: Any, **named: Any) -> None:
        found, there = self._find(source), self._find(target)
        if found is not None:
            assert there is not None
            drive, inside = found
            life = drive.life
            drive.take_in(drive.folder / inside, inside)
            drive.ask("r", inside)
        self.usual.rename(source, target, **named)
        if found is not None and there is not None:
            drive.note(life, "r", inside, 0, there[1].encode())

    def mkdir(self, path: Any, *more: Any, **named: Any) -> None:
        found = self._find(path) if not os.path.lexists(path) else None
        if found is not None:
            drive, inside = found
            life = drive.life
            drive.ask("m", inside)
        self.usual.mkdir(path, *more, **named)
        if found is not None:
            drive.note(life, "m", inside)

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        found = self._find(fd)
        if found is None:
            self.usual.posix_fallocate(fd, offset, length)
            return
        drive, inside = found
        life = drive.life
        if length > drive.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        drive.ask("t", inside, length)
        self.usual.ftruncate(fd, length)
        drive.note(life, "t", inside, length)

    def statvfs(self, path: Any) -> Any:
        found = self._find(path)
        return self.usual.statvfs(path) if found is None else Room(found[0].free_bytes // BLOCK_BYTES)
