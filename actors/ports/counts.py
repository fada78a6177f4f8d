"""The counts of a buffer: what they must add up to, and how they are put right."""

import sqlite3

from actors.ports.sqlite import BufferDamaged

_OTHERWISE = (
    "(SELECT count(*) FROM buffer_predictions WHERE status = 'pending')"
    " + (SELECT count(*) FROM buffer_predictions WHERE status = 'failed')"
    " - (SELECT coalesce(sum(to_seq - from_seq + 1), 0) FROM buffer_confirmed)"
    " + (SELECT coalesce(sum(to_seq - from_seq + 1), 0) FROM buffer_losses)"
)
"""How many numbers wait, were refused, or were given up. Numbers have no holes: all others were sent."""
_SHORT = f"SELECT ? - total_sent - ({_OTHERWISE}) FROM buffer_metadata"  # noqa: S608 - of this file's own writing
_RECOUNT = f"UPDATE buffer_metadata SET total_sent = max(0, ? - ({_OTHERWISE}))"  # noqa: S608 - likewise
_WITHOUT_ROWS = (
    "SELECT coalesce(sum(to_seq - from_seq + 1), 0) - (SELECT count(*) FROM buffer_confirmed CROSS JOIN"
    " buffer_predictions ON id BETWEEN from_seq AND to_seq AND status = 'pending') FROM buffer_confirmed"
)
_UNDER_A_TOMBSTONE = (
    "SELECT id FROM buffer_losses CROSS JOIN buffer_predictions ON id BETWEEN from_seq AND to_seq LIMIT 1"
)


def check_counts(connection: sqlite3.Connection, last_seq: int) -> None:
    """`BufferDamaged` where what a buffer says of the numbers up to `last_seq` contradicts itself.

    Each waits, was refused, given up or counted as sent; some twice, where the journal gave back what was sent. And
    none that has a tombstone has a row. SQLite has no checksums: this is how a bit shows that made an index shorter, or
    a tombstone longer.
    """
    (short,) = connection.execute(_SHORT, (last_seq,)).fetchone()
    if short > 0:
        raise BufferDamaged(f"{short} numbers up to {last_seq} are neither there nor counted as sent")
    (without,) = connection.execute(_WITHOUT_ROWS).fetchone()
    if without:
        raise BufferDamaged(f"{without} numbers are confirmed and have no row")
    if buried := connection.execute(_UNDER_A_TOMBSTONE).fetchone():
        raise BufferDamaged(f"row {buried[0]} is there, and has a tombstone")


def recount(connection: sqlite3.Connection, last_seq: int) -> None:
    """Put the count of the sent right: a replay brings back rows that were counted, and a new database counted none."""
    connection.execute(_RECOUNT, (last_seq,))
