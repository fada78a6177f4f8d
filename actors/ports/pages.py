"""Read a page of the backlog: SQLite itself joins the payloads, in C and without the interpreter's lock.

Each payload is held against the checksum that it was accepted with, before it goes anywhere.
"""

import sqlite3
from collections.abc import Sequence

import attrs
import google_crc32c

from actors.seqs import Payloads, Seqs, Stored, joined, payloads_of, seqs_of
from cloud.wire import SEQ_MAX, join_payloads

CHUNK_RECORDS = 100
"""A page is read in pieces of so many: the largest records there are then make 25 MiB, not 250."""
_OLDEST = (
    "SELECT id, prediction_data, payload_crc32c FROM prediction_buffer"
    " WHERE status = 'pending' AND id > ? ORDER BY id LIMIT ?"
)
_NEWEST = (
    "SELECT id, prediction_data, payload_crc32c FROM prediction_buffer"
    " WHERE status = 'pending' AND id < ? ORDER BY id DESC LIMIT ?"
)
_TURNED = f"SELECT * FROM ({_NEWEST}) ORDER BY id"  # noqa: S608 - both halves stand above
_JOINED = (
    "SELECT count(*), min(id), max(id), CAST(group_concat(prediction_data, '\n') AS BLOB), group_concat(payload_crc32c)"
    " FROM ({})"
)
"""SQLite aggregates an ordered subquery with a LIMIT in its order."""
_NUMBERS = "SELECT id FROM ({}) ORDER BY id"
_SINGLY = "SELECT id, CAST(prediction_data AS BLOB), payload_crc32c FROM ({})"


@attrs.frozen
class Changed:
    """A payload that is not what was accepted under its number; `crc32c` is what it should have."""

    seq: int
    payload: bytes
    crc32c: int


class PayloadsChanged(Exception):
    """Predictions of a page are damaged; while their rows stand there, no page is read over them."""

    def __init__(self, rows: Sequence[Changed]) -> None:
        super().__init__(f"the checksums of {len(rows)} predictions are wrong")
        self.rows = rows


def read_page(
    connection: sqlite3.Connection, after: int, records_max: int, bytes_max: int, *, newest: bool
) -> Payloads:
    """Pending predictions, their numbers in order; at least one if there is any. `PayloadsChanged`.

    Lets SQLite's errors through.

    The oldest with numbers above `after`; with `newest` the newest ones below it (0: from the end).
    """
    pieces: list[Payloads] = []
    left, room, at, inner, ordered = records_max, bytes_max, after, _OLDEST, _OLDEST
    if newest:
        at, inner, ordered = after or SEQ_MAX, _NEWEST, _TURNED
    while left > 0:
        some = (at, min(left, CHUNK_RECORDS))
        count, first, last, lines, checksums = connection.execute(_JOINED.format(ordered), some).fetchone()
        if not count:
            break
        # A line each: JSON has no line break within a text, and none at all as it is written here.
        payloads = (lines or b"").split(b"\n")
        sound = len(payloads) == count and ",".join(map(str, map(google_crc32c.value, payloads))) == checksums
        if not sound and (changed := _changed(connection, inner, some)):
            raise PayloadsChanged(changed)
        if len(lines) > room and pieces:
            break
        if sound and len(lines) <= room:
            seqs = Seqs([(first, last)])
            if last - first + 1 != count:
                seqs = seqs_of([seq for (seq,) in connection.execute(_NUMBERS.format(inner), some)])
            pieces.append(Payloads(seqs, join_payloads(payloads), tuple(map(len, payloads))))
        else:  # perhaps fewer of them fit, and the first one does in any case; or one has a line break in it
            pieces.append(_singly(connection, inner, some, room))
            if len(pieces[-1]) < count:
                break
        left, room, at = left - count, room - len(lines), first if newest else last
    return joined(pieces[::-1] if newest else pieces)


def _singly(connection: sqlite3.Connection, inner: str, some: tuple[int, int], bytes_max: int) -> Payloads:
    """As many of a chunk as fit, and one in any case."""
    page: list[Stored] = []
    size = 0
    for seq, payload, _ in connection.execute(_SINGLY.format(inner), some):
        size += len(payload)
        if page and size > bytes_max:
            break
        page.append(Stored(seq, payload))
    return payloads_of(sorted(page, key=lambda record: record.seq))


def _changed(connection: sqlite3.Connection, inner: str, some: tuple[int, int]) -> list[Changed]:
    """Those of a chunk that differ from their checksum; one without (of an older version) goes unchecked."""
    rows = [(seq, payload or b"", told) for seq, payload, told in connection.execute(_SINGLY.format(inner), some)]
    return [
        Changed(seq, payload, told if isinstance(told, int) else 0)
        for seq, payload, told in rows
        if told is not None and google_crc32c.value(payload) != told
    ]
