"""What SQLite's write-ahead log holds behind a bit that flipped, or a frame that is missing: SQLite ends the log there.

While the journal is out of service and a full disk takes no checkpoint, the log is all there is of a prediction. Its
frames are pages of tables, and each row of ours has a checksum. That a number was given out is also told by SQLite's
own sequence, where the frame that it is in still has its checksum (sqlite.org/walformat, sqlite.org/fileformat2).
"""

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs
import google_crc32c
import msgspec

from actors.ports.private import sync_folder, write_private
from actors.ports.rows import Row, row_of
from actors.ports.schema import HIGHEST, ROWS, ROWS_BEFORE, rows_table

LOG_BYTES_MAX = 64 * 1024 * 1024
"""A larger log is not looked into, for the memory it would take. One gets there only where somebody else's `sqlite3`
has read in the database for hours, which keeps the log from being emptied.
"""
_PAGE_BYTES, _LOG_HEAD_BYTES, _FRAME_HEAD_BYTES = 4096, 32, 24
_FRAME_BYTES = _FRAME_HEAD_BYTES + _PAGE_BYTES
_LEAF = 13
"""The first byte of a page with rows of a table."""
_ROW_BYTES_MAX = _PAGE_BYTES - 35
"""A larger row goes on on another page."""
_SMALL_BYTES = 64
"""A row of the sequence is smaller."""
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
_OUR_SEQUENCE = (ROWS.encode(), ROWS_BEFORE.encode())
"""By which names SQLite's sequence counts our rows."""


@attrs.frozen
class Behind:
    """What the log tells of the numbers above those that SQLite reads: their rows, and the highest given out (or 0)."""

    rows: tuple[Row, ...] = ()
    last_seq: int = 0


def take_log(db_path: Path) -> bytes:
    """The log as the last process left it, if anything stands behind its end; kept beside until `forget_log`.

    To be called before SQLite opens the database to write: from then on it writes over what it does not read, and the
    connection that closes last removes the log. `OSError`: nothing was changed, and it can be called again.
    """
    kept, log = _kept(db_path), db_path.with_name(db_path.name + "-wal")
    if not db_path.exists() or not db_path.stat().st_size:  # another database's: SQLite removes its log
        kept.unlink(missing_ok=True)
        return b""
    if kept.exists():
        return kept.read_bytes()
    if not log.exists() or not 0 < log.stat().st_size <= LOG_BYTES_MAX:
        return b""
    data = log.read_bytes()
    if not look_behind(data, above=_highest_read(db_path), now=0.0).last_seq:
        return b""
    fresh = kept.with_name(kept.name + ".new")
    write_private(fresh, data)
    fresh.rename(kept)
    sync_folder(kept.parent)
    return data


def forget_log(db_path: Path) -> None:
    """What stood behind the log is safe. `OSError`."""
    kept = _kept(db_path)
    if kept.exists():
        kept.unlink()
        sync_folder(kept.parent)


def _kept(db_path: Path) -> Path:
    return db_path.with_name(db_path.name + "-wal.kept")


def _highest_read(db_path: Path) -> int:
    """The highest number that SQLite knows of; 0 where it can't tell. Only reading, it leaves the log alone."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(db_path.absolute()))}?mode=ro", uri=True)) as reading:
            found = reading.execute(HIGHEST.format(rows=rows_table(reading)), ("",)).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return 0
    return max((seq for (seq,) in found if isinstance(seq, int)), default=0)


def look_behind(log: bytes, *, above: int, now: float) -> Behind:
    """What the log tells of the numbers above the highest that SQLite reads; accepted no later than `now`."""
    rows: dict[int, Row] = {}
    last_seq = 0
    for number in range(_committed(log)):
        start = _LOG_HEAD_BYTES + number * _FRAME_BYTES + _FRAME_HEAD_BYTES
        for columns in _rows_on(log[start : start + _PAGE_BYTES], above):
            if len(columns) == 2 and columns[0] in _OUR_SEQUENCE:
                told = columns[1]
                if isinstance(told, int) and told > last_seq and told > above and _is_sound(log, number):
                    last_seq = told
            elif (row := _prediction(columns, now)) and row.seq > above:
                rows[row.seq] = row
    return Behind(tuple(rows[seq] for seq in sorted(rows)), max([last_seq, *rows]))


def _prediction(columns: list[bytes | int | None], now: float) -> Row | None:
    """The prediction that a row holds, if it is the one that was accepted."""
    payload = columns[1] if len(columns) > 2 else None
    if not isinstance(payload, bytes) or google_crc32c.value(payload) not in columns[2:]:
        return None
    try:
        row = row_of(payload, now)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    row.buffered_at = min(now, row.timestamp)
    return row


def _rows_on(page: bytes, above: int) -> Iterator[list[bytes | int | None]]:
    """The rows on a page of a table, of those with a higher number than `above`, and of small ones; not in their order.

    A bit that flipped can make nonsense of a page: what leads out of it is passed over.
    """
    if page[0] != _LEAF:
        return
    for place in range(8, min(8 + 2 * int.from_bytes(page[3:5]), _PAGE_BYTES), 2):
        with contextlib.suppress(IndexError):
            size, at = _varint(page, int.from_bytes(page[place : place + 2]))
            seq, at = _varint(page, at)
            if size <= _ROW_BYTES_MAX and (seq > above or size < _SMALL_BYTES):
                yield _columns(page[at : at + size])


def _columns(record: bytes) -> list[bytes | int | None]:
    """Texts as bytes, and integers; of what else there is nothing is wanted."""
    head_size, at = _varint(record, 0)
    body = head_size
    columns: list[bytes | int | None] = []
    while at < head_size:
        kind, at = _varint(record, at)
        if kind >= 12:
            size = (kind - 12) // 2
            columns.append(record[body : body + size])
        elif kind in (8, 9):  # the numbers 0 and 1
            size = 0
            columns.append(kind - 8)
        elif kind < 7:
            size = _INTEGER_BYTES[kind]
            columns.append(int.from_bytes(record[body : body + size], signed=True) if kind else None)
        else:
            size = 8
            columns.append(None)
        body += size
    return columns


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends. `IndexError`."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _committed(log: bytes) -> int:
    """How many frames the log has up to the end of its last transaction: what stands behind that was rolled back, or is
    from another time.

    Its last frame says how many pages the database has then. (Where the bit that flipped makes that a 0, which takes a
    power of two, the transaction is taken for one that was rolled back.)
    """
    ours = (log[16:24], log[40:48])  # what all frames of this time repeat, by the log's head and by the first of them
    for number in reversed(range((len(log) - _LOG_HEAD_BYTES) // _FRAME_BYTES)):
        start = _LOG_HEAD_BYTES + number * _FRAME_BYTES
        salt = log[start + 8 : start + 16]
        if any(log[start + 4 : start + 8]) and any(_bits_apart(salt, one) <= 1 for one in ours):
            return number + 1
    return 0


def _bits_apart(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def _is_sound(log: bytes, number: int) -> bool:
    """Whether the frame follows from the checksum that stands in the frame before it, or in the log's head."""
    start = _LOG_HEAD_BYTES + number * _FRAME_BYTES
    frame = log[start : start + _FRAME_BYTES]
    before = log[start - _FRAME_BYTES + 16 : start - _FRAME_BYTES + 24] if number else log[24:32]
    first, second = struct.unpack(">2I", before)
    covered = frame[:8] + frame[_FRAME_HEAD_BYTES:]
    for one, other in struct.iter_unpack(">2I" if log[3] & 1 else "<2I", covered):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.pack(">2I", first, second) == frame[16:24]
