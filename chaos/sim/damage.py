"""What bits that flip while a device is off, and a power cut, may cost: the oracle's own reading of it."""

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from chaos.sim.books import Books, Number
from chaos.sim.drive import Drive
from chaos.sim.places import places

FILES = ("", "-wal")
"""The ends of the names of a database's files: itself, and its write-ahead log."""
_Rows = dict[Number, tuple[object, ...]]
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
    start = data.rfind(b"\n", 0, at) + 1
    lines = data[start:].split(b"\n")[: 2 if data[at : at + 1] == b"\n" else 1]
    hit = [int(found[1]) for line in lines if (found := _SEQ.match(line))]
    books.damaged.update((_owner_of(data, books), seq) for seq in hit)
    drive.flip(path.relative_to(drive.folder).as_posix(), at, rng.randrange(8))
    return f"a bit flips in {path.name} at {at}: numbers {hit}"


def note_unsynced(drive: Drive, books: Books) -> None:
    """The power is about to go: a group that the journal has not synced may tear, its first lines gone before its last.

    Whoever finds that can't know it from bytes that went bad at rest, and tells those numbers as lost; of a group that
    was acknowledged all lines were synced.
    """
    for path, file in chain(drive.model.sure.items(), drive.model.names.items()):
        if path.endswith(".jsonl"):
            owner = _owner_of(file.apply(file.since), books)
            lines = (line for op in file.since for line in op.data.split(b"\n"))
            books.torn.update((owner, int(found[1])) for line in lines if (found := _SEQ.match(line)))


def _owner_of(segment: bytes, books: Books) -> str:
    """Whose numbers these are, also where an earlier bit has hit the header."""
    stream = _stream_of(segment)
    return books.streams[-1] if books.streams and stream not in books.streams else stream or ""


def _stream_of(segment: bytes) -> str | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(segment.partition(b"\n")[0])["header"]["stream_id"])
    return None


def flip_database(drive: Drive, books: Books, rng: random.Random, *, running: bool = False) -> str:
    """Flip a bit in the database: half of them in any byte, half in each kind of place as often.

    In doubt are the rows that read otherwise now; all, if its structure is hit. A `running` device reads a page from
    the database, not from the write-ahead log, once a checkpoint has moved it there; one that starts reads the log.
    """
    path = drive.folder / "buffer.db"
    if not path.is_file() or not path.stat().st_size:
        return ""
    before = _rows_in(path)
    moved = _rows_in(path, ends=("",)) if running else None
    books.database_hit = True
    found = places(path.read_bytes(), _roots_in(path))
    number = rng.randrange(len(found.labels))
    if rng.random() < 0.5:
        kind = rng.choice(found.kinds)
        at = rng.choice(found.of(kind))
    else:
        kind, at = found.nth(number)
    drive.flip("buffer.db", at, rng.randrange(8))
    # An earlier bit may have made it unreadable.
    hit = set(books.given) if before is None else _differing(before, _rows_in(path))
    if moved is not None:
        hit |= _differing(moved, _rows_in(path, ends=("",)))
    books.doubted |= hit | (_standing_in(path, books) if before is None else set())
    books.unchecked |= {number for number in hit if before is None or before.get(number, (None,))[-1] is None}
    return f"a bit flips in the database at {at} ({kind}): {len(hit)} numbers are in doubt"


def _differing(before: _Rows, after: _Rows | None) -> set[Number]:
    """The numbers that read otherwise; all where nothing reads any more."""
    if after is None:
        return set(before)
    return {number for number in before.keys() | after.keys() if before.get(number) != after.get(number)}


def flip_log(drive: Drive, books: Books, rng: random.Random) -> str:
    """Flip a bit in SQLite's write-ahead log, which then ends there, since each of its frames has a checksum.

    A mark that is gone only sends a prediction again, and what the journal holds comes back from there. In doubt are
    the other rows that read otherwise now: the disk refused the journal or the checkpoint that would keep them, or the
    device was killed in the middle of that.
    """
    path = drive.folder / "buffer.db"
    log = path.with_name("buffer.db-wal")
    if not path.is_file() or not log.is_file() or not log.stat().st_size:
        return ""
    before = _rows_in(path)
    books.database_hit = True
    at = rng.randrange(log.stat().st_size)
    drive.flip(log.name, at, rng.randrange(8))
    hit = set(books.given) | _standing_in(path, books) if before is None else _differing(before, _rows_in(path))
    hit -= _in_journal(drive.folder)
    books.doubted |= hit
    return f"a bit flips in the write-ahead log at {at}: {len(hit)} numbers are in doubt"


def _standing_in(path: Path, books: Books) -> set[Number]:
    """The numbers of all payloads in a database's files. Where it does not read, nothing else tells of those without a
    receipt: memory kept them, say, or their caller was gone.
    """
    files = [path.with_name(path.name + end) for end in FILES]
    payloads = (found for file in files if file.exists() for found in _SEQ.finditer(file.read_bytes()))
    return {(stream, int(found[1])) for found in payloads for stream in books.streams}


def _in_journal(folder: Path) -> set[Number]:
    """The numbers of all lines in all segments."""
    segments = [path.read_bytes() for path in folder.glob("buffer-journal/*.jsonl")]
    lines = ((_stream_of(data) or "", _SEQ.match(line)) for data in segments for line in data.split(b"\n"))
    return {(stream, int(found[1])) for stream, found in lines if found}


def _roots_in(path: Path) -> dict[str, int]:
    """The first page of every table and index; none where that can't be read."""
    with peeked(path) as connection, contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0").fetchall())
    return {}


def _rows_in(path: Path, *, ends: Sequence[str] = FILES) -> _Rows | None:
    """Every number that the database speaks of, and what it says of it, by its files with these `ends`.

    The checksum of the payload comes last. None where it can't be read, or is not what SQLite would have written.
    """
    with (
        peeked(path, ends=ends) as connection,
        contextlib.suppress(sqlite3.DatabaseError, TypeError, UnicodeDecodeError),
    ):
        connection.text_factory = bytes
        if connection.execute("PRAGMA integrity_check").fetchall() != [(b"ok",)]:
            return None
        (stream, *about) = connection.execute("SELECT * FROM buffer_metadata").fetchone()[1:]
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(prediction_buffer)")]
        checked = b"payload_crc32c" in columns
        found: _Rows = {}
        for seq, *row in connection.execute("SELECT * FROM prediction_buffer"):
            found[stream.decode(), seq] = (*about, *row) if checked else (*about, *row, None)
        for first, last, *why in connection.execute("SELECT * FROM buffer_losses"):
            found |= {(stream.decode(), seq): (*about, *why, 0) for seq in range(first, last + 1)}
        return found
    return None


@contextlib.contextmanager
def peeked(path: Path, *, ends: Sequence[str] = FILES) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of a database: looking at the real one would change it."""
    copy = path.parents[1] / "copy.db"
    for end in FILES:
        copied = copy.with_name(copy.name + end)
        copied.unlink(missing_ok=True)
        if end in ends and path.with_name(path.name + end).exists():
            shutil.copyfile(path.with_name(path.name + end), copied)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        yield connection
