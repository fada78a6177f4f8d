"""Rows of `buffer_predictions`, and the quick way to put many of them in."""

import sqlite3
from collections.abc import Callable, Sequence

import google_crc32c
import msgspec

from actors.ports.give_way import GiveWay
from actors.ports.journal import Scan

ROWS_A_STATEMENT = 50
"""Many in one statement take half of the time of as many statements."""
_FRESH = "id, prediction_data, image_id, timestamp, buffered_at, payload_crc32c"
_ALL = _FRESH + ", status, sent_at, retry_count, last_error"
give_way = GiveWay()
"""Between two statements; how busy the machine is, is the same for all buffers of a process."""


class Row(msgspec.Struct, gc=False):
    """A row of `buffer_predictions`; `seq` is its `id`, times are seconds since 1970.

    `crc32c` is of the payload as it was accepted.
    """

    seq: int
    payload: bytes
    image_id: str
    timestamp: float
    buffered_at: float
    crc32c: int
    status: str = "pending"
    sent_at: float | None = None
    retry_count: int = 0
    last_error: str | None = None

    @property
    def fresh(self) -> bool:
        """Whether it is as it was accepted: waiting, never tried."""
        return self.status == "pending" and not self.retry_count and self.last_error is None


def fresh_row(seq: int, payload: bytes, image_id: str, timestamp: float, buffered_at: float) -> Row:
    """A row of a prediction that was never tried, with the checksum of its payload."""
    return Row(seq, payload, image_id, timestamp, buffered_at, google_crc32c.value(payload))


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Put rows in, skipping numbers that are there already; says how many were new."""
    others = [row for row in rows if not row.fresh]
    fresh = [row for row in rows if row.fresh] if others else rows
    return _insert(connection, _FRESH, _fresh_values, fresh) + _insert(connection, _ALL, _all_values, others)


def _insert(
    connection: sqlite3.Connection, columns: str, values_of: Callable[[Row], tuple[object, ...]], rows: Sequence[Row]
) -> int:
    head = f"INSERT OR IGNORE INTO buffer_predictions ({columns}) VALUES "  # noqa: S608
    one = f"({', '.join('?' for _ in columns.split(','))})"
    added = 0
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        if start:
            give_way()
        values: list[object] = []
        some = rows[start : start + ROWS_A_STATEMENT]
        for row in some:
            values += values_of(row)
        added += connection.execute(head + ", ".join([one] * len(some)), values).rowcount
    return added


def _fresh_values(row: Row) -> tuple[object, ...]:
    return row.seq, row.payload.decode(), row.image_id, row.timestamp, row.buffered_at, row.crc32c


def _all_values(row: Row) -> tuple[object, ...]:
    return *_fresh_values(row), row.status, row.sent_at, row.retry_count, row.last_error


class _Columns(msgspec.Struct):
    """What a payload has to be read for when its row is made anew."""

    seq: int
    image_id: str
    timestamp: float


def rows_of(seen: Scan, now: float) -> list[Row]:
    """The rows that a segment's good lines make, all pending; accepted no later than `now`.

    When that was is in no line. It was not before the session began nor, if clocks were right, before the image was
    taken: the later of both is told, and is the same whenever it is read.
    """
    began_at = seen.header.started_at if seen.header else 0.0
    rows = [row_of(payload, began_at) for _, payload in seen.records]
    for row in rows:
        row.buffered_at = min(now, max(began_at, row.timestamp))
    return rows


def row_of(payload: bytes, buffered_at: float) -> Row:
    """The row that a numbered payload makes, pending. `msgspec.DecodeError`."""
    columns = msgspec.json.decode(payload, type=_Columns)
    return fresh_row(columns.seq, payload, columns.image_id, columns.timestamp, buffered_at)
