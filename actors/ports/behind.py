"""What SQLite's write-ahead log holds behind a bit that flipped, or a frame that is missing: SQLite ends the log there.

While the journal is out of service and a full disk takes no checkpoint, the log is all there is of a prediction. Each
payload has its checksum beside it. That a number was given out is also told by SQLite's own sequence, where the frame
that it is in still has its checksum (sqlite.org/walformat).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec

from actors.ports.loose import PAGE_BYTES, payloads_in
from actors.ports.rows import Row, row_of

LOG_BYTES_MAX = 64 * 1024 * 1024
"""A larger log is not looked into, for the memory it would take. One gets there only where somebody else's `sqlite3`
has read in the database for hours, which keeps the log from being emptied.
"""
_LOG_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
_FRAME_BYTES = _FRAME_HEAD_BYTES + PAGE_BYTES
_SEQUENCE = re.compile(rb"\x03\x2f([\x01-\x06])prediction_buffer")
"""The record of the table's sequence: the length of its head, a text of 17 bytes, an integer of a size by its code."""
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)


@attrs.frozen
class Behind:
    """What the log tells of the numbers above those that SQLite reads: their rows, and the highest given out (or 0)."""

    rows: tuple[Row, ...] = ()
    last_seq: int = 0


def read_log(db_path: Path) -> bytes:
    """The log as the last process left it: SQLite, once it has the database open, writes over what it does not read.

    Empty where there is no database that it could belong to: SQLite would delete it. `OSError`.
    """
    log = db_path.with_name(db_path.name + "-wal")
    if not log.exists() or not db_path.exists() or not db_path.stat().st_size:
        return b""
    return log.read_bytes() if log.stat().st_size <= LOG_BYTES_MAX else b""


def look_behind(log: bytes, *, above: int, now: float) -> Behind:
    """What the log tells of the numbers above the highest that SQLite reads; accepted no later than `now`."""
    log = _committed(log)
    rows: dict[int, Row] = {}
    for payload in payloads_in(log, head_bytes=_LOG_HEAD_BYTES, step_bytes=_FRAME_BYTES, above=above):
        try:
            row = row_of(payload, now)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        row.buffered_at = min(now, row.timestamp)
        rows[row.seq] = row
    return Behind(tuple(rows[seq] for seq in sorted(rows)), max([0, *rows, *_sequences(log, above)]))


def _committed(log: bytes) -> bytes:
    """The log up to the end of its last transaction: what stands behind that was rolled back, or is from another time.

    Its last frame says how many pages the database has then. (Where the bit that flipped makes that a 0, which takes a
    power of two, the transaction is taken for one that was rolled back.)
    """
    ours = (log[16:24], log[40:48])  # what all frames of this time repeat, by the log's head and by the first of them
    for number in reversed(range((len(log) - _LOG_HEAD_BYTES) // _FRAME_BYTES)):
        start = _LOG_HEAD_BYTES + number * _FRAME_BYTES
        salt = log[start + 8 : start + 16]
        if any(log[start + 4 : start + 8]) and any(_bits_apart(salt, one) <= 1 for one in ours):
            return log[: start + _FRAME_BYTES]
    return b""


def _bits_apart(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def _sequences(log: bytes, above: int) -> Iterator[int]:
    """Every number above `above` that a sound frame tells as the table's sequence."""
    for found in _SEQUENCE.finditer(log):
        seq = int.from_bytes(log[found.end() : found.end() + _INTEGER_BYTES[found[1][0]]], "big", signed=True)
        if seq > above and _is_sound(log, (found.start() - _LOG_HEAD_BYTES) // _FRAME_BYTES):
            yield seq


def _is_sound(log: bytes, number: int) -> bool:
    """Whether the frame follows from the checksum that stands in the frame before it, or in the log's head."""
    start = _LOG_HEAD_BYTES + number * _FRAME_BYTES
    frame = log[start : start + _FRAME_BYTES]
    before = log[start - _FRAME_BYTES + 16 : start - _FRAME_BYTES + 24] if number else log[24:32]
    if len(frame) < _FRAME_BYTES or len(before) < 8:
        return False
    first, second = struct.unpack(">2I", before)
    covered = frame[:8] + frame[_FRAME_HEAD_BYTES:]
    for one, other in struct.iter_unpack(">2I" if log[3] & 1 else "<2I", covered):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.pack(">2I", first, second) == frame[16:24]
