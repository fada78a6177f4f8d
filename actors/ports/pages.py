"""Read a page of the backlog: SQLite itself joins the payloads, in C and without the interpreter's lock."""

import sqlite3

from actors.seqs import Payloads, Seqs, Stored, payloads_of, seqs_of
from cloud.wire import SEQ_MAX

CHUNK_RECORDS = 100
"""A page is read in pieces of so many: the largest records there are then make 25 MiB, not 250."""
_OLDEST = "SELECT id, prediction_data FROM prediction_buffer WHERE status = 'pending' AND id > ? ORDER BY id LIMIT ?"
_NEWEST = (
    "SELECT id, prediction_data FROM prediction_buffer WHERE status = 'pending' AND id < ? ORDER BY id DESC LIMIT ?"
)
# SQLite aggregates an ordered subquery with a LIMIT in its order.
_JOINED = (
    "SELECT count(*), min(id), max(id), CAST(group_concat(prediction_data, ',') AS BLOB),"
    " group_concat(length(CAST(prediction_data AS BLOB)), ',') FROM (SELECT * FROM ({}) ORDER BY id)"
)
_NUMBERS = "SELECT id FROM ({}) ORDER BY id"


def read_page(
    connection: sqlite3.Connection, after: int, records_max: int, bytes_max: int, *, newest: bool
) -> Payloads:
    """Pending predictions, their numbers in order; at least one if there is any. Lets SQLite's errors through.

    The oldest with numbers above `after`; with `newest` the newest ones below it (0: from the end).
    """
    page, at, inner = Payloads(), after, _OLDEST
    if newest:
        at, inner = after or SEQ_MAX, _NEWEST
    while (left := records_max - len(page)) > 0:
        some = (at, min(left, CHUNK_RECORDS))
        count, first, last, body, sizes = connection.execute(_JOINED.format(inner), some).fetchone()
        if not count:
            break
        if page.size + len(body) > bytes_max:
            # Perhaps fewer of them fit; the first one does in any case.
            return page or _singly(connection, inner, some, bytes_max)
        holes = last - first + 1 != count
        seqs = connection.execute(_NUMBERS.format(inner), some) if holes else ()
        chunk = Payloads(seqs_of([seq for (seq,) in seqs]) if holes else Seqs([(first, last)]), body, sizes)
        page, at = (chunk + page, first) if newest else (page + chunk, last)
    return page


def _singly(connection: sqlite3.Connection, inner: str, some: tuple[int, int], bytes_max: int) -> Payloads:
    """As many of a chunk as fit, and one in any case."""
    page: list[Stored] = []
    size = 0
    for seq, payload in connection.execute(f"SELECT id, CAST(prediction_data AS BLOB) FROM ({inner})", some):  # noqa: S608
        size += len(payload)
        if page and size > bytes_max:
            break
        page.append(Stored(seq, payload))
    return payloads_of(sorted(page, key=lambda record: record.seq))
