"""The recorder of system calls: how it is built, and how what it noted is read."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chaos.sim.platter import Op
from tests.storage.child import NOTE

SHIM_SOURCE = Path(__file__).with_name("keep_synced.c")


def read_log(log: bytes) -> Iterator[Op]:
    """The notes of `keep_synced.c`, up to the first one that the kill has cut."""
    at = 0
    while at + NOTE.size <= len(log):
        kind, path_bytes, offset, data_bytes = NOTE.unpack_from(log, at)
        at += NOTE.size
        if at + path_bytes + data_bytes > len(log):
            return
        path = log[at : at + path_bytes].decode()
        yield Op(kind.decode(), path, offset, log[at + path_bytes : at + path_bytes + data_bytes])
        at += path_bytes + data_bytes


def mark(op: Op) -> tuple[str, dict[int, int]]:
    """What the process said: a word, and numbers with their checksums."""
    what, seqs = msgspec.json.decode(op.data, type=tuple[str, list[tuple[int, int]]])
    return what, dict(seqs)


def build_shim(folder: Path) -> Path | None:
    """The compiled shim, or None where it can't be made: it needs Linux and a C compiler."""
    if sys.platform != "linux":
        return None
    made = folder / "keep_synced.so"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-o",
        str(made),
        str(SHIM_SOURCE),
        "-ldl",
        "-lpthread",
    ]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        return None
    return made
