"""An operator's work on the rows at rest, each piece in one transaction. Only the owner of the disk calls this."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import attrs

from actors.ports.buffer import Buffer, ranges
from actors.ports.confirmed import read_confirmed, retract
from actors.ports.opening import BufferFull
from actors.ports.rows import fresh_row, insert_rows
from actors.ports.store import Store
from actors.ports.tombstones import bury_range
from actors.tasks import Done, Saved, Task, TaskKind
from cloud.wire import WireError, check_payload

STROKE_ROWS = 512
STROKE_PAGES = 256
DISCARDED = "discarded"
"""The reason on the tombstone of what an operator gave up."""
RESTORE_FRACTION = 0.9
"""So full may restoring make the buffer, in part of its cap: the rest is for what the device sees."""


def perform(store: Store, task: Task, in_flight: Collection[int] = ()) -> Done:
    """Do it; predictions that are under way to the cloud are left alone. `DiskTrouble`, `BufferFull`."""
    match task.kind:
        case TaskKind.RESTORE:
            return _restore(store, task.rows)
        case TaskKind.REBUILD:
            store.rebuild()
            return Done(changed=store.pending_count + store.failed_count)
    return store.amend(partial(_amend, task, in_flight))


def _amend(task: Task, in_flight: Collection[int], buffer: Buffer, now: float) -> Done:
    match task.kind:
        case TaskKind.FLUSH:
            return Done()  # whoever amends has flushed before
        case TaskKind.CLEAN_UP:
            gone = buffer.delete_sent(STROKE_ROWS, sent_before=task.sent_before)
            return Done(changed=gone, more=gone == STROKE_ROWS)
        case TaskKind.SHRINK:
            return _shrink(buffer)
        case TaskKind.RESET_FAILED:
            return buffer.amend(partial(_reset_failed, task.spans))
        case TaskKind.REPLAY:
            return buffer.amend(partial(_replay, task.spans))
        case TaskKind.DISCARD:
            return buffer.amend(partial(_discard, task.spans, in_flight, now))
    raise AssertionError(task.kind)


def pieces(spans: Sequence[tuple[int, int]], numbers_max: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Ranges cut and packed into groups of at most so many numbers each, in order."""
    group: list[tuple[int, int]] = []
    room = numbers_max
    for first, last in spans:
        at = first
        while at <= last:
            end = min(last, at + room - 1)
            group.append((at, end))
            room -= end - at + 1
            at = end + 1
            if not room:
                yield tuple(group)
                group, room = [], numbers_max
    if group:
        yield tuple(group)


def _reset_failed(spans: Sequence[tuple[int, int]], connection: sqlite3.Connection) -> Done:
    changed = sum(
        connection.execute(
            "UPDATE buffer_predictions SET status = 'pending', retry_count = 0, last_error = NULL"
            " WHERE id BETWEEN ? AND ? AND status = 'failed'",
            span,
        ).rowcount
        for span in spans
    )
    return Done(changed=changed)


def _replay(spans: Sequence[tuple[int, int]], connection: sqlite3.Connection) -> Done:
    changed = sum(
        connection.execute(
            "UPDATE buffer_predictions SET status = 'pending', sent_at = NULL"
            " WHERE id BETWEEN ? AND ? AND status = 'sent'",
            span,
        ).rowcount
        for span in spans
    )
    # What a range confirms says 'pending' by itself.
    changed += sum(retract(connection, first, last) for first, last in spans)
    _uncount_sent(changed, connection)
    return Done(changed=changed)


def _discard(
    spans: Sequence[tuple[int, int]], in_flight: Collection[int], now: float, connection: sqlite3.Connection
) -> Done:
    confirmed = read_confirmed(connection)
    found = {
        seq
        for first, last in spans
        for span in confirmed.free(first, last)
        for (seq,) in connection.execute(
            "SELECT id FROM buffer_predictions WHERE id BETWEEN ? AND ? AND status IN ('pending', 'failed')", span
        )
    }
    free = found - set(in_flight)
    for first, last in ranges(free):
        connection.execute("DELETE FROM buffer_predictions WHERE id BETWEEN ? AND ?", (first, last))
        bury_range(connection, first, last, DISCARDED, now)
    return Done(changed=len(free), in_flight=len(found) - len(free))


def _restore(store: Store, rows: Sequence[Saved]) -> Done:
    books = store.books()
    if books.size_bytes + sum(len(row.payload) for row in rows) > RESTORE_FRACTION * books.capacity_bytes:
        raise BufferFull(f"no room below {RESTORE_FRACTION:.0%} of BUFFER_MAX_SIZE_MB; nothing of this was restored")
    good = [row for row in rows if 1 <= row.seq <= store.last_seq and _is_prediction(row)]
    done = store.amend(lambda buffer, _: buffer.amend(partial(_put_back, good)))
    return attrs.evolve(done, refused=len(rows) - len(good))


def _is_prediction(row: Saved) -> bool:
    try:
        return check_payload(row.payload.encode()).seq == row.seq
    except WireError:
        return False


def _put_back(rows: Sequence[Saved], connection: sqlite3.Connection) -> Done:
    """Rows that are not there become pending; a tombstone on one of their numbers is lifted, else it would win.

    One without a tombstone was confirmed and cleaned up: it counts as sent once more when it is confirmed once more.
    """
    changed = confirmed = 0
    for row in rows:
        prediction = check_payload(payload := row.payload.encode())
        fresh = fresh_row(row.seq, payload, prediction.image_id, prediction.timestamp, row.buffered_at)
        added = insert_rows(connection, [fresh])
        if added:
            changed += 1
            confirmed += not _lift_tombstone(row.seq, connection)
    _uncount_sent(confirmed, connection)
    return Done(changed=changed)


def _uncount_sent(count: int, connection: sqlite3.Connection) -> None:
    """So many will be confirmed once more, and are counted as sent again then."""
    connection.execute("UPDATE buffer_metadata SET total_sent = max(0, total_sent - ?)", (count,))


def _lift_tombstone(seq: int, connection: sqlite3.Connection) -> bool:
    """The range that holds `seq` becomes what lies before and after it; false if there is none."""
    found = connection.execute(
        "SELECT from_seq, to_seq, reason, lost_at, confirmed_at FROM buffer_losses WHERE ? BETWEEN from_seq AND to_seq",
        (seq,),
    ).fetchall()
    for first, last, *rest in found:
        connection.execute("DELETE FROM buffer_losses WHERE from_seq = ?", (first,))
        connection.executemany(
            "INSERT INTO buffer_losses (from_seq, to_seq, reason, lost_at, confirmed_at) VALUES (?, ?, ?, ?, ?)",
            [(a, b, *rest) for a, b in ((first, seq - 1), (seq + 1, last)) if a <= b],
        )
    return bool(found)


def _shrink(buffer: Buffer) -> Done:
    """Give pages back a few at a time; never the full VACUUM, which would hold every accept up while it copies all."""
    before = buffer.amend(_free_pages).changed
    buffer.shrink(STROKE_PAGES)
    after = buffer.amend(_free_pages).changed
    buffer.checkpoint()
    return Done(changed=before - after, more=0 < after < before)


def _free_pages(connection: sqlite3.Connection) -> Done:
    return Done(changed=connection.execute("PRAGMA freelist_count").fetchone()[0])
