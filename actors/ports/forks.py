"""Numbers that the cloud knows with other payloads: the predictions get new ones, in a stream of their own.

The buffer was copied, or restored from a backup, and its double has used the same numbers. Each prediction is kept: it
goes out again under a new number, and its old row is done with, since the cloud has that number.
"""

import sqlite3
from functools import partial

import google_crc32c

from actors.ports.buffer import Buffer
from actors.ports.confirmed import read_confirmed
from actors.ports.opening import DiskTrouble
from actors.ports.rows import fresh_row, insert_rows
from actors.ports.store import Store
from actors.seqs import Seqs
from actors.tasks import Done
from cloud.wire import SEQ_HEAD, number_payload


def renumber(store: Store, seqs: Seqs) -> int:
    """Give pending predictions new numbers, in one durable transaction; says how many. `DiskTrouble`: none has one.

    If the current stream is the one with the double, a new one begins: what is accepted from now on is safe from it.
    """
    with store.mutex:
        return store.amend(partial(_renumber, store, seqs), numbers=True).changed


def _renumber(store: Store, seqs: Seqs, buffer: Buffer, now: float) -> Done:
    current, next_seq = store.names.streams[-1], store.last_seq + 1
    try:
        if any(last >= current.first_seq for _, last in seqs.spans):
            store.names.begin(next_seq, current.device_id)
    except OSError as exc:
        raise DiskTrouble(f"a new stream could not be begun: {exc}") from exc
    return buffer.amend(partial(_copy, seqs, next_seq, now), durable=True)


def _copy(seqs: Seqs, next_seq: int, now: float, connection: sqlite3.Connection) -> Done:
    confirmed = read_confirmed(connection)
    rows = [
        row
        for first, last in seqs.spans
        for span in confirmed.free(first, last)
        for *row, checksum in connection.execute(
            "SELECT id, CAST(prediction_data AS BLOB), image_id, timestamp, buffered_at, payload_crc32c"
            " FROM buffer_predictions WHERE id BETWEEN ? AND ? AND status = 'pending' ORDER BY id",
            span,
        )
        if checksum in (None, google_crc32c.value(row[1]))  # a changed one must not get a checksum that agrees
    ]
    for new, (old, payload, *columns) in enumerate(rows, next_seq):
        again = number_payload(new, b"{" + payload[len(SEQ_HEAD % old) :])
        insert_rows(connection, [fresh_row(new, again, *columns)])
        connection.execute(
            "UPDATE buffer_predictions SET status = 'sent', sent_at = ?, last_error = ? WHERE id = ?",
            (now, f"the cloud has another prediction under this number; this one goes out as {new}", old),
        )
    connection.execute(
        "UPDATE buffer_metadata SET last_seq = max(last_seq, ?), total_buffered = total_buffered + ?,"
        " total_sent = total_sent + ?",
        (next_seq + len(rows) - 1, len(rows), len(rows)),
    )
    return Done(changed=len(rows))
