"""Room kept on the disk, so that a full one can still record an acknowledgement or a deletion."""

import contextlib
import os
from pathlib import Path

import attrs


@attrs.define
class Reserve:
    """A file of `size` bytes that is given up when the disk is full, and made again when there is room."""

    path: Path
    size: int
    held: bool = attrs.field(default=False, init=False)

    @property
    def size_bytes(self) -> int:
        """What it takes of the disk now."""
        return self.size if self.held else 0

    def make(self) -> bool:
        """Take the room, if that leaves as much again free; says whether it is held."""
        if self.held:
            return True
        try:
            room = os.statvfs(self.path.parent)
            if self.path.exists() and self.path.stat().st_size == self.size:
                self.held = True
            elif room.f_bavail * room.f_frsize >= 2 * self.size:
                fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(fd, 0, self.size)
                finally:
                    os.close(fd)
                self.held = True
        except OSError:
            self.release()
        return self.held

    @property
    def room(self) -> bool:
        """Whether the room is held and as much again is free, so that what comes can be written, too."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False
        return self.held and disk.f_bavail * disk.f_frsize >= self.size

    def release(self) -> None:
        """Give the room up for what must be written now."""
        self.held = False
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
