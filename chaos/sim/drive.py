"""A host's disk below the real files: it fills up, turns read-only, fails to sync, and forgets what was not synced.

The files are real and lie in memory. Every call that changes one is asked of the drive first (`ask` may refuse it, or
may be the instant at which the process dies) and noted afterwards, so that the drive knows which bytes a power cut
takes (`platter.py`). A process that has died goes on for a moment on the folder of its life; the next life has another
one, laid out from what was left, so nothing that a dead process still does is ever seen.
"""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import attrs

from chaos.sim.platter import NEVER_READ, VARIANTS, Disk, Op, lay_out, take_in

DISK_BYTES = 1 << 30
SHM_BYTES = 32_768
"""SQLite's shared memory: mapped, so its size is the one thing that no call tells."""
OTHER_DATABASE = ".corrupt-"
"""In the name of a database that was set aside: documented as not counted by the cap."""


@attrs.define(eq=False)
class Drive:
    """The disk of one host. `folder` is where its files are in this life."""

    host: Path
    mounts: "Mounts"
    rng: random.Random
    life: int = 0
    model: Disk = attrs.field(factory=Disk, init=False)
    sizes: dict[str, int] = attrs.field(factory=dict, init=False)
    used_bytes: int = attrs.field(default=0, init=False)
    """All files, without those that were set aside."""
    bytes_max: int = attrs.field(default=0, init=False)
    """What the device promised to stay below; 0: nothing."""
    passed_by: int = attrs.field(default=0, init=False)
    """How far it went beyond that, at most."""
    calls: int = attrs.field(default=0, init=False)
    # --- faults
    taken_bytes: int = attrs.field(default=0, init=False)
    """What somebody else keeps of the disk."""
    read_only: bool = attrs.field(default=False, init=False)
    sync_fails: bool = attrs.field(default=False, init=False)
    journal_fails: bool = attrs.field(default=False, init=False)
    slow_s: float = attrs.field(default=0.0, init=False)
    """How much longer each call takes, on average."""
    # --- the end of a life
    fatal_in: int | None = attrs.field(default=None, init=False)
    """The process dies at this call from now."""
    fatal_after: str = attrs.field(default="", init=False)
    """The process dies at the first call after one of this kind: where the order of two calls is all that counts."""
    on_fatal: Callable[[str, str], None] | None = attrs.field(default=None, init=False)
    met: Callable[[str], None] = attrs.field(default=lambda _: None, init=False)
    """Is told of every fault that really hit something."""

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.mounts.add(self)

    @property
    def folder(self) -> Path:
        """Where the files are in this life."""
        return self.host / str(self.life)

    @property
    def free_bytes(self) -> int:
        """What is left of the disk."""
        return max(0, DISK_BYTES - self.taken_bytes - self.used_bytes)

    @property
    def well(self) -> bool:
        """Whether nothing is wrong with it now."""
        return not (self.taken_bytes or self.read_only or self.sync_fails or self.journal_fails or self.slow_s)

    def heal(self) -> None:
        """No more faults; what was lost stays lost."""
        self.taken_bytes, self.slow_s = 0, 0.0
        self.read_only = self.sync_fails = self.journal_fails = False

    def spare(self) -> None:
        """The process dies at none of its calls."""
        self.fatal_in, self.fatal_after = None, ""

    # --- calls

    def ask(self, kind: str, inside: str, offset: int = 0, size: int = 0) -> None:
        """May this call be made? `OSError` if not; and it may be the one at which the process dies."""
        self.calls += 1
        if self.fatal_in is not None:
            self.fatal_in -= 1
            if self.fatal_in <= 0:
                self.fatal_in = None
                assert self.on_fatal is not None
                self.on_fatal(kind, inside)
                return
        if self.read_only and kind != "s":
            self.met("disk read-only")
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if self.sync_fails and kind == "s" and inside.endswith(".jsonl"):
            self.met("disk does not sync")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.journal_fails and kind in "cw" and inside.endswith(".jsonl"):
            self.met("journal unwritable")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if kind in "wt" and offset + size - self.sizes.get(inside, 0) > self.free_bytes:
            self.met("disk full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def note(self, life: int, kind: str, inside: str, offset: int = 0, data: bytes = b"") -> None:
        """A process of that life has made this call."""
        if life != self.life:
            return
        if kind == self.fatal_after and self.fatal_in is None:
            self.fatal_in = 1
        if kind in "wt":
            if inside not in self.model.names:
                return  # its name is gone, and what it holds goes with it
            old = self.sizes.get(inside, 0)
            self._resize(inside, max(old, offset + len(data)) if kind == "w" else offset)
        elif kind == "u":
            self._resize(inside, 0)
            self.sizes.pop(inside, None)
        elif kind == "r":
            size = self.sizes.pop(inside, 0)
            self.used_bytes -= 0 if OTHER_DATABASE in inside else size
            self._resize(data.decode(), size)
        if kind in "wt" and inside.endswith(NEVER_READ):
            return
        if kind == "s" and inside != "." and inside not in self.model.names:
            return
        self.model.do(Op(kind, inside, offset, data))

    def _resize(self, inside: str, size: int) -> None:
        if OTHER_DATABASE not in inside:
            self.used_bytes += size - self.sizes.get(inside, 0)
        self.sizes[inside] = size
        if self.bytes_max:
            shm = SHM_BYTES if "buffer.db-wal" in self.sizes else 0
            self.passed_by = max(self.passed_by, self.used_bytes + shm - self.bytes_max)

    def take_in(self, path: Path, inside: str) -> None:
        """Learn of a file that was written by a call which nobody met: all that it holds is new."""
        if not path.is_file():
            return
        data = path.read_bytes()
        file = self.model.names.get(inside)
        if file is None:
            self.note(self.life, "c", inside)
        elif file.apply(file.since) == data:
            return
        self.note(self.life, "t", inside, 0)
        self.note(self.life, "w", inside, 0, data)

    def take_in_strays(self) -> None:
        """The same, of everything that is neither a segment nor a part of a database."""
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder).as_posix()
            if path.is_file() and not inside.endswith((".jsonl", ".db", "-wal", "-journal", *NEVER_READ)):
                self.take_in(path, inside)

    # --- the end of a life

    def move(self, *, power_cut: bool) -> str:
        """The process is gone: lay out what is left of its files in the folder of the next life; says what is."""
        self.take_in_strays()
        self.spare()
        variant = "killed"
        if power_cut:
            variant = self.rng.choice(VARIANTS)
            state = self.model.after_power_cut(variant, self.rng)
            self.model = Disk.holding(state)
        else:
            state = self.model.now()
        self._lay_out({path: data for path, data in state.items() if not path.endswith("-shm")})
        return variant

    def _lay_out(self, state: dict[str, bytes | None]) -> None:
        reserves = {path: size for path, size in self.sizes.items() if path.endswith(".reserve") and path in state}
        self.mounts.remove(self)
        self.life += 1
        self.folder.mkdir()
        lay_out(state, self.folder)
        self.sizes = {path: len(data) for path, data in state.items() if data is not None}
        for path, size in reserves.items():
            os.truncate(self.folder / path, size)
            self.sizes[path] = size
        self.used_bytes = sum(size for path, size in self.sizes.items() if OTHER_DATABASE not in path)
        self.mounts.add(self)

    def furnish(self, fill: Callable[[Path], None]) -> None:
        """Have files there before the first life; all that `fill` writes into the folder is safe."""
        self.mounts.remove(self)
        fill(self.folder)
        state = take_in(self.folder)
        self.model = Disk.holding(state)
        self.sizes = {path: len(data) for path, data in state.items() if data is not None}
        self.used_bytes = sum(self.sizes.values())
        self.mounts.add(self)

    def flip(self, inside: str, at: int, bit: int) -> None:
        """Damage one bit, on the platter and in the file, whoever may have it open."""
        self.mounts.remove(self)
        with (self.folder / inside).open("r+b") as file:
            file.seek(at)
            damaged = bytes([file.read(1)[0] ^ 1 << bit])
            file.seek(at)
            file.write(damaged)
        self.mounts.add(self)
        self.model.do(Op("w", inside, at, damaged))


@attrs.define(eq=False)
class Mounts:
    """Which drive holds a path: those of lives that are over belong to none."""

    root: Path
    _prefix: str = attrs.field(init=False)
    _by_folder: dict[str, Drive] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._prefix = f"{self.root}/"

    def add(self, drive: Drive) -> None:
        """From now on its folder is a simulated disk."""
        self._by_folder[str(drive.folder)] = drive

    def remove(self, drive: Drive) -> None:
        """What is still done to its folder is nobody's business any more."""
        del self._by_folder[str(drive.folder)]

    def find(self, path: str) -> tuple[Drive, str] | None:
        """The drive below a path, and the path inside of it (`.` is its uppermost folder)."""
        if not path.startswith(self._prefix):
            return None
        host, _, rest = path[len(self._prefix) :].partition("/")
        life, _, inside = rest.partition("/")
        drive = self._by_folder.get(f"{self._prefix}{host}/{life}")
        return None if drive is None else (drive, inside or ".")
