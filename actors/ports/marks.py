"""What becomes of rows that wait: confirmed, refused, tried again, cleaned up. Each inside one open transaction.

What is confirmed already, by a range, is left alone: it does not wait.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from actors.ports.confirmed import Confirmed, confirm, oldest_confirmed, retract
from actors.ports.sqlite import BufferDamaged
from actors.seqs import Seqs, Span
from cloud.wire import SEQ_MAX

RANGE_MIN = 8
"""So many rows or more are confirmed as a range; fewer get a mark each, so that ranges stay few beside the rows."""


def mark_sent(connection: sqlite3.Connection, confirmed: Confirmed, seqs: Seqs, now: float) -> tuple[int, list[Span]]:
    """Pending rows are confirmed: how many were, and those that are so by a range from now on."""
    ranges = Confirmed()
    marked = 0
    for first, last in _unconfirmed(confirmed, _as_one(seqs)):
        if last - first + 1 >= RANGE_MIN and _all_wait(connection, first, last):
            confirm(connection, first, last, now)
            ranges.add(first, last)
        else:
            marked += connection.execute(
                # By their numbers: through the index of what is pending, which changes under it, takes two passes.
                "UPDATE buffer_predictions NOT INDEXED SET status = 'sent', sent_at = ?, last_error = NULL"
                " WHERE id BETWEEN ? AND ? AND status = 'pending'",
                (now, first, last),
            ).rowcount
    marked += ranges.count
    connection.execute("UPDATE buffer_metadata SET total_sent = total_sent + ?", (marked,))
    return marked, ranges.within(1, SEQ_MAX)


def mark_failed(connection: sqlite3.Connection, confirmed: Confirmed, seqs: Seqs, error: str) -> int:
    """Pending rows go to quarantine with the cloud's error; says how many."""
    marked = sum(
        connection.execute(
            "UPDATE buffer_predictions SET status = 'failed', last_error = ?"
            " WHERE id BETWEEN ? AND ? AND status = 'pending'",
            (error, *waiting),
        ).rowcount
        for waiting in _unconfirmed(confirmed, seqs.spans)
    )
    connection.execute("UPDATE buffer_metadata SET total_failed = total_failed + ?", (marked,))
    return marked


def mark_retried(connection: sqlite3.Connection, confirmed: Confirmed, seqs: Seqs, error: str) -> None:
    """An attempt failed; the rows stay pending."""
    for waiting in _unconfirmed(confirmed, seqs.spans):
        connection.execute(
            "UPDATE buffer_predictions SET retry_count = retry_count + 1, last_error = ?"
            " WHERE id BETWEEN ? AND ? AND status = 'pending'",
            (error, *waiting),
        )


def oldest_pending(connection: sqlite3.Connection, confirmed: Confirmed, above: int, count: int) -> list[int]:
    """The lowest numbers above `above` that are pending, at most so many."""
    found: list[int] = []
    for low, high in confirmed.gaps(above):
        found += (
            seq
            for (seq,) in connection.execute(
                "SELECT id FROM buffer_predictions WHERE status = 'pending' AND id > ? AND id < ? ORDER BY id LIMIT ?",
                (low, high, count - len(found)),
            )
        )
        if len(found) >= count:
            break
    return found


def delete_sent(
    connection: sqlite3.Connection, confirmed: Confirmed, count_max: int, sent_before: float
) -> tuple[int, list[Span]]:
    """The oldest sent rows confirmed before the given time: how many went, and which were so by a range.

    `BufferDamaged` where the table and memory do not say the same of a range: nobody may have what it names.
    """
    ranges: list[Span] = []
    gone = above = 0
    while gone < count_max:
        first, last = oldest_confirmed(connection, above, sent_before) or (SEQ_MAX, 0)
        marked = connection.execute(
            "SELECT id FROM buffer_predictions WHERE status = 'sent' AND sent_at < ? AND id > ? AND id < ?"
            " ORDER BY id LIMIT ?",
            (sent_before, above, first, count_max - gone),
        )
        gone += _delete_sent(connection, [seq for (seq,) in marked])
        if not last:
            break
        above, last = last, min(last, first + count_max - gone - 1)
        if first > last:
            break
        if confirmed.within(first, last) != [(first, last)] or not _all_wait(connection, first, last):
            raise BufferDamaged(f"buffer_confirmed: {first} to {last} is more than was confirmed")
        retract(connection, first, last)
        gone += connection.execute("DELETE FROM buffer_predictions WHERE id BETWEEN ? AND ?", (first, last)).rowcount
        ranges.append((first, last))
    return gone, ranges


def _delete_sent(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Delete rows that were read as sent; `BufferDamaged` where one is not found so by its number, which is then wrong:
    it may be that of another row, which nobody has confirmed.
    """
    for seq in seqs:
        if not connection.execute("DELETE FROM buffer_predictions WHERE id = ? AND status = 'sent'", (seq,)).rowcount:
            raise BufferDamaged(f"row {seq}: it says that it was sent, and is not found by its number")
    return len(seqs)


def _unconfirmed(confirmed: Confirmed, spans: Iterable[Span]) -> Iterator[Span]:
    return (part for span in spans for part in confirmed.free(*span))


def _as_one(seqs: Seqs) -> list[Span]:
    """Each number once, and neighbours in one span: what several batches confirm is told together."""
    found = Confirmed()
    for span in seqs.spans:
        for part in found.free(*span):
            found.add(*part)
    return found.within(1, SEQ_MAX)


def _all_wait(connection: sqlite3.Connection, first: int, last: int) -> bool:
    """Whether each of these numbers has a row that says 'pending'."""
    (count,) = connection.execute(
        "SELECT count(*) FROM buffer_predictions WHERE status = 'pending' AND id BETWEEN ? AND ?", (first, last)
    ).fetchone()
    return bool(count == last - first + 1)
