"""Give predictions up in the open: their rows go, and a tombstone says which numbers and why."""

import sqlite3
from collections.abc import Iterable


def bury_pending(connection: sqlite3.Connection, ranges: Iterable[tuple[int, int]], reason: str, now: float) -> int:
    """Delete the pending rows of these ranges and leave a tombstone for each range; says how many rows there were."""
    gone = 0
    for first, last in ranges:
        gone += connection.execute(
            "DELETE FROM buffer_predictions WHERE id BETWEEN ? AND ? AND status = 'pending'", (first, last)
        ).rowcount
        bury_range(connection, first, last, reason, now)
    return gone


def bury_range(connection: sqlite3.Connection, first: int, last: int, reason: str, now: float) -> None:
    """Write a tombstone; one that ends just before it, with the same reason and still unconfirmed, grows instead."""
    grown = connection.execute(
        "UPDATE buffer_losses SET to_seq = ?, lost_at = ? WHERE to_seq = ? AND reason = ? AND confirmed_at IS NULL",
        (last, now, first - 1, reason),
    ).rowcount
    if not grown:
        connection.execute(
            "INSERT OR REPLACE INTO buffer_losses (from_seq, to_seq, reason, lost_at) VALUES (?, ?, ?, ?)",
            (first, last, reason, now),
        )
