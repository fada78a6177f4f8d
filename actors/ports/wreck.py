"""What still reads of a damaged database: a row or a page that does not costs none beside it."""

import contextlib
import sqlite3
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from actors.ports.rows import Row
from actors.ports.schema import ROWS, rows_table
from cloud.wire import SEQ_MAX


def table_of(connection: sqlite3.Connection) -> str:
    """The table of the rows."""
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        return rows_table(connection)
    return ROWS


def salvaged_rows(path: Path) -> Generator[Any]:
    """The rows of a damaged database from both ends of the table, up to the first that does not read.

    The checksum is None in one of an older version.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for row in from_both_ends(connection, _select(connection)):
            yield Row(*row)


def rows_asked_for(path: Path, seqs: Iterable[int]) -> Generator[Any]:
    """Those rows that read when each is asked for alone: one that does not keeps nobody from what stands behind it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        one = f"{_select(connection)} rowid = ?"
        for seq in seqs:
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                for row in connection.execute(one, (seq,)):
                    yield Row(*row)


def _select(connection: sqlite3.Connection) -> str:
    """The columns of a row, of those of a condition that is still to be added."""
    table, checksum = table_of(connection), "NULL"
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        connection.execute(f"SELECT payload_crc32c FROM {table} LIMIT 0")  # noqa: S608
        checksum = "payload_crc32c"
    return (
        f"SELECT id, CAST(prediction_data AS BLOB), image_id, timestamp, buffered_at, {checksum},"  # noqa: S608
        f" status, sent_at, retry_count, last_error FROM {table} NOT INDEXED WHERE"
    )


def from_both_ends(connection: sqlite3.Connection, query: str) -> Generator[tuple[Any, ...]]:
    """What a query reads, which begins with its numbers and lacks their bounds: up to the first that does not read, and
    down to it.

    Python looks for the next row before it gives one out, and drops that one with an error: it is asked for alone.
    """
    highest = -SEQ_MAX
    for order, beyond, end in (("ASC", ">", -SEQ_MAX), ("DESC", "<", SEQ_MAX)):
        at, part = end, f"{query} rowid {beyond} ? ORDER BY rowid {order} LIMIT ?"
        for count_max in (-1, 1):
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                for row in connection.execute(part, (at, count_max)):
                    if order == "DESC" and row[0] <= highest:
                        return
                    at = row[0]
                    yield row
        highest = at
