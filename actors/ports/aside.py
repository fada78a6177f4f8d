"""What could not be read is set aside for whoever wants to look at it, within bounds: the oldest copies go first."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import attrs

from actors.ports.opening import StoreOptions
from actors.ports.private import make_folder, sync_folder, write_private


@attrs.frozen
class Copy:
    """A damaged database with its companions, or a file of the quarantine folder."""

    paths: tuple[Path, ...]
    size_bytes: int
    written_at: float


@attrs.define
class Aside:
    """The copies beside one buffer. Not for two threads at once; every method blocks on the disk."""

    options: StoreOptions
    dropped: int = attrs.field(default=0, init=False)
    """Copies given up since this process began."""
    size_bytes: int = attrs.field(default=0, init=False)
    """What the copies take, as of the last look."""
    bytes_beside: int = attrs.field(default=0, init=False)
    """Every byte of ours in the buffer's folder but the database's, the journal's and the reserve's own.

    That is the copies, the sources' cursors, the lock, and the marker of a database that is being replaced.
    """

    def look(self) -> None:
        """Measure anew."""
        names = names_in(self.options.db_path.parent)
        self.size_bytes = sum(copy.size_bytes for copy in copies(self.options, names))
        self.bytes_beside = bytes_beside(self.options, names)

    def keep(self, name: str, data: bytes) -> Path | None:
        """Bytes that could not be read, for whoever wants to look; None where the disk, or the bound, has no room."""
        path = self.options.quarantine_folder / name
        if len(data) > self.options.set_aside_bytes_max:
            return None
        try:
            make_folder(path.parent)
            write_private(path, data)
            sync_folder(path.parent)
        except OSError:
            return None
        self.keep_within(self.options.set_aside_bytes_max)
        return path

    def keep_within(self, bytes_max: int) -> int:
        """Give up the oldest copies until the rest takes no more than that; says how many went."""
        found = copies(self.options, names_in(self.options.db_path.parent))
        self.size_bytes = sum(copy.size_bytes for copy in found)
        before = self.dropped
        for copy in found:
            if self.size_bytes <= bytes_max:
                break
            for path in copy.paths:
                path.unlink(missing_ok=True)
            self.size_bytes -= copy.size_bytes
            self.dropped += 1
        self.bytes_beside = bytes_beside(self.options, names_in(self.options.db_path.parent))
        return self.dropped - before

    def drop_oldest(self) -> int:
        """Give up one copy, if there is any; says how many went."""
        return self.keep_within(self.size_bytes - 1) if self.size_bytes else 0


def copies(options: StoreOptions, names: Sequence[str]) -> list[Copy]:
    """All that was set aside, oldest first. `names`: what the buffer's folder holds."""
    files: dict[str, list[Path]] = defaultdict(list)
    begins = f"{options.db_path.name}.corrupt-"
    for name in names:
        if name.startswith(begins):
            files[re.sub(r"(-wal|-shm|\.page-1)$", "", name)].append(options.db_path.with_name(name))
    folder = options.quarantine_folder
    if folder.name in names:
        for name in names_in(folder):
            files[name].append(folder / name)
    found = [_copy(tuple(paths)) for paths in files.values()]
    return sorted(found, key=lambda copy: (copy.written_at, copy.paths))


def _copy(paths: tuple[Path, ...]) -> Copy:
    facts = [path.stat() for path in paths]
    return Copy(paths, sum(fact.st_size for fact in facts), max(fact.st_mtime for fact in facts))


def bytes_beside(options: StoreOptions, names: Sequence[str]) -> int:
    """What `Aside.bytes_beside` is, from the files themselves. `names`: what the buffer's folder holds."""
    database, folder = options.db_path.name, str(options.db_path.parent)
    counted_elsewhere = (database, f"{database}-wal", f"{database}-shm", options.reserve_path.name)
    files = [name for name in names if name.startswith(database) and name not in counted_elsewhere]
    folders = [path for path in (options.quarantine_folder, options.cursor_folder) if path.name in names]
    return sum(_size(f"{folder}/{name}") for name in files) + sum(folder_bytes(path) for path in folders)


def names_in(folder: Path) -> list[str]:
    """What a folder holds; nothing if it is not there, or no folder."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - looked at every second; a glob costs ten times as much
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: str) -> int:
    """0 for a file that its owner has just replaced (a cursor is written by another thread), and for a folder."""
    try:
        found = os.stat(path)  # noqa: PTH116 - asked for at every look, and three times as fast
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def folder_bytes(folder: Path) -> int:
    """All bytes in a folder; 0 if it is not there."""
    return sum(_size(f"{folder}/{name}") for name in names_in(folder))
