"""A disk that loses power: replays recorded system calls and makes every state that a power cut may have left.

What a file holds is what was synced, and any part of what was written since: nothing, all, a write torn at a sector, a
later write without an earlier one. A name (made, removed, renamed) is there for certain once its folder was synced.
"""

# ruff: noqa: ARG001 - the ways to lose data share a signature

import os
import random
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import attrs

SECTOR_BYTES = 512
NEVER_READ = ("-shm", ".lock", ".reserve")
"""Files whose contents no start relies on."""


class Op(NamedTuple):
    """One recorded call: c(reate), w(rite), t(runcate), s(ync), r(ename), u(nlink), m(kdir).

    `M` is a mark of the recorded process itself.
    """

    kind: str
    path: str
    offset: int
    data: bytes


@attrs.define(eq=False)
class File:
    """A file's (or folder's) contents as synced, and the calls since."""

    synced: bytearray = attrs.Factory(bytearray)
    since: list[Op] = attrs.Factory(list)
    folder: bool = False

    def apply(self, ops: list[Op]) -> bytes:
        """The contents if, of what was written since, these calls came through."""
        data = bytearray(self.synced)
        _write_into(data, ops)
        return bytes(data)

    def sync(self) -> None:
        """All that was written is certain now."""
        _write_into(self.synced, self.since)
        self.since = []


def _write_into(data: bytearray, ops: list[Op]) -> None:
    for op in ops:
        if op.kind == "t":
            del data[op.offset :]
            data.extend(bytes(op.offset - len(data)))
        else:
            data.extend(bytes(max(0, op.offset - len(data))))
            data[op.offset : op.offset + len(op.data)] = op.data


Names = list[tuple[str, File | None]]
"""What one call does to names, at once: a rename removes one and makes another."""


@attrs.define
class Disk:
    """The disk as the calls so far have left it."""

    names: dict[str, File] = attrs.Factory(dict)
    sure: dict[str, File] = attrs.Factory(dict)
    """The names that a power cut can't take."""
    unsure: dict[str, list[Names]] = attrs.Factory(dict)
    """By folder: what has been done to its names since it was synced."""

    @classmethod
    def holding(cls, state: dict[str, bytes | None]) -> "Disk":
        """A disk on which all of this is safe (None: a folder)."""
        names = {path: File(bytearray(data or b""), folder=data is None) for path, data in state.items()}
        return cls(dict(names), dict(names))

    def do(self, op: Op) -> None:
        """Replay one call."""
        match op.kind:
            case "w" | "t":
                self.names[op.path].since.append(op)
            case "s" if op.path == "." or self.names[op.path].folder:
                for change in self.unsure.pop(op.path, []):
                    _rename(self.sure, change)
            case "s":
                self.names[op.path].sync()
            case "c" | "m":
                self._change([(op.path, File(folder=op.kind == "m"))])
            case "u":
                self._change([(op.path, None)])
            case "r":
                self._change([(op.path, None), (op.data.decode(), self.names[op.path])])
            case _:
                raise AssertionError(op)

    def _change(self, change: Names) -> None:
        _rename(self.names, change)
        folder = os.path.dirname(change[-1][0]) or "."  # noqa: PTH120 - a label, no path of this machine
        self.unsure.setdefault(folder, []).append(change)

    def now(self) -> dict[str, bytes | None]:
        """What a process sees, and what a SIGKILL leaves."""
        return {path: None if file.folder else file.apply(file.since) for path, file in self.names.items()}

    def at_risk(self) -> bool:
        """Whether a power cut could take anything."""
        files = {*self.names.values(), *self.sure.values()}
        return bool(any(self.unsure.values()) or any(file.since for file in files))

    def after_power_cut(self, variant: str, rng: random.Random) -> dict[str, bytes | None]:
        """One of the states that a power cut may leave now (`VARIANTS`)."""
        names = dict(self.sure)
        for changes in self.unsure.values():
            for change in changes:
                if NAMES_KEPT[variant](rng):
                    _rename(names, change)
        state: dict[str, bytes | None] = {}
        for path, file in sorted(names.items()):
            folder = os.path.dirname(path)  # noqa: PTH120
            if (not folder or folder in names) and not path.endswith(NEVER_READ):
                state[path] = None if file.folder else file.apply(DATA_KEPT[variant](file, rng))
        return state


def _rename(names: dict[str, File], change: Names) -> None:
    for path, file in change:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _sectors(op: Op) -> list[Op]:
    """A write as the device sees it: piece by piece, each of which is written whole or not at all."""
    if op.kind == "t":
        return [op]
    start, end = op.offset, op.offset + len(op.data)
    cuts = [start, *range(start - start % SECTOR_BYTES + SECTOR_BYTES, end, SECTOR_BYTES), end]
    return [op._replace(offset=first, data=op.data[first - start : last - start]) for first, last in pairwise(cuts)]


def _none(file: File, rng: random.Random) -> list[Op]:
    return []


def _all(file: File, rng: random.Random) -> list[Op]:
    return file.since


def _torn(file: File, rng: random.Random) -> list[Op]:
    """All calls but the last, and of that its first sectors; half of the time torn at any byte."""
    return _tear(file.since, rng)


def _prefix(file: File, rng: random.Random) -> list[Op]:
    return _tear(file.since[: rng.randrange(len(file.since) + 1)], rng)


def _tear(since: list[Op], rng: random.Random) -> list[Op]:
    if not since:
        return since
    last = since[-1]
    if last.kind == "w" and rng.random() < 0.5:
        return [*since[:-1], last._replace(data=last.data[: rng.randrange(len(last.data) + 1)])]
    pieces = _sectors(last)
    return [*since[:-1], *pieces[: rng.randrange(len(pieces) + 1)]]


def _holes(file: File, rng: random.Random) -> list[Op]:
    """Everything but one call that is not the last."""
    gone = rng.randrange(max(1, len(file.since) - 1))
    return file.since[:gone] + file.since[gone + 1 :]


def _shuffled(file: File, rng: random.Random) -> list[Op]:
    """Any sectors, the others not."""
    part = rng.random()
    return [piece for op in file.since for piece in _sectors(op) if rng.random() < part]


def _zeroed(file: File, rng: random.Random) -> list[Op]:
    """The file has grown, but what it grew by never came."""
    return [op._replace(data=bytes(len(op.data))) for op in file.since if op.offset >= len(file.synced)]


def _coin(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _yes(rng: random.Random) -> bool:
    return True


def _no(rng: random.Random) -> bool:
    return False


DATA_KEPT = {
    "synced only": _none,
    "killed": _all,
    "names without data": _none,
    "data without names": _all,
    "torn": _torn,
    "prefix": _prefix,
    "a hole": _holes,
    "any sectors": _shuffled,
    "any sectors, all names": _shuffled,
    "zeroed growth": _zeroed,
}
NAMES_KEPT = {
    "synced only": _no,
    "killed": _yes,
    "names without data": _yes,
    "data without names": _no,
    "torn": _yes,
    "prefix": _coin,
    "a hole": _yes,
    "any sectors": _coin,
    "any sectors, all names": _yes,
    "zeroed growth": _yes,
}
VARIANTS = tuple(DATA_KEPT)


def lay_out(state: dict[str, bytes | None], folder: Path) -> None:
    """Write a state into an empty folder."""
    for path, data in sorted(state.items()):
        if data is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def take_in(folder: Path) -> dict[str, bytes | None]:
    """A folder as a state."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}
