"""Bits that flip while a device is off, and the oracle's own reading of what each of them may cost."""

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from chaos.sim.books import Books, Number
from chaos.sim.drive import Drive

_SEQ = re.compile(rb'\{"seq":(\d+),')


def fdatasync(fd: int) -> None:
    """The journal's sync, looked up when it is made: what stands in for it during a run is met too."""
    os.fdatasync(fd)


def flip_segment(drive: Drive, books: Books, rng: random.Random) -> str:
    """Flip a bit in any segment; says where, or nothing if there is none. The lines that it hits may be lost."""
    segments = sorted(drive.folder.glob("buffer-journal/*.jsonl"))
    if not segments:
        return ""
    path = rng.choice(segments)
    data = path.read_bytes()
    if not data:
        return ""
    at = rng.randrange(len(data))
    stream = _stream_of(data) or (books.streams[-1] if books.streams else "")
    start = data.rfind(b"\n", 0, at) + 1
    lines = data[start:].split(b"\n")[: 2 if data[at : at + 1] == b"\n" else 1]
    hit = [int(found[1]) for line in lines if (found := _SEQ.match(line))]
    books.damaged.update((stream, seq) for seq in hit)
    drive.flip(path.relative_to(drive.folder).as_posix(), at, rng.randrange(8))
    return f"a bit flips in {path.name} at {at}: numbers {hit}"


def _stream_of(segment: bytes) -> str | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(segment.partition(b"\n")[0])["header"]["stream_id"])
    return None


def flip_database(drive: Drive, books: Books, rng: random.Random) -> str:
    """Flip a bit in the database; whatever lay in it is in doubt, nothing else."""
    path = drive.folder / "buffer.db"
    if not path.is_file() or not path.stat().st_size:
        return ""
    inside = _numbers_in(path)
    if inside is None:
        inside = set(books.given)  # an earlier bit has made it unreadable
    books.doubted |= inside
    books.database_hit = True
    at = rng.randrange(path.stat().st_size)
    drive.flip("buffer.db", at, rng.randrange(8))
    return f"a bit flips in the database at {at}: {len(inside)} numbers are in doubt"


def _numbers_in(path: Path) -> set[Number] | None:
    """Every number that the database speaks of, its write-ahead log included; None if it can't be read."""
    try:
        with peeked(path) as connection:
            (stream,) = connection.execute("SELECT stream_id FROM buffer_metadata").fetchone()
            seqs = [seq for (seq,) in connection.execute("SELECT id FROM prediction_buffer")]
            for first, last in connection.execute("SELECT from_seq, to_seq FROM buffer_losses"):
                seqs += range(first, last + 1)
    except (sqlite3.DatabaseError, TypeError):
        return None
    return {(stream, seq) for seq in seqs}


@contextlib.contextmanager
def peeked(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of a database: looking at the real one would change it."""
    copy = path.parents[1] / "copy.db"
    for end in ("", "-wal"):
        copied = copy.with_name(copy.name + end)
        copied.unlink(missing_ok=True)
        if path.with_name(path.name + end).exists():
            shutil.copyfile(path.with_name(path.name + end), copied)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        yield connection
