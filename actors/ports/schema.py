"""The buffer's tables, as numbered steps from one version to the next, and what makes sense in them."""

import sqlite3

import google_crc32c

MIGRATIONS = (
    """
    CREATE TABLE prediction_buffer (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        prediction_data TEXT NOT NULL,
        image_id TEXT NOT NULL,
        timestamp REAL NOT NULL,
        buffered_at REAL NOT NULL,
        sent_at REAL,
        status TEXT DEFAULT 'pending',
        retry_count INTEGER DEFAULT 0,
        last_error TEXT
    );
    CREATE INDEX prediction_buffer_pending ON prediction_buffer (id) WHERE status = 'pending';
    CREATE INDEX prediction_buffer_failed ON prediction_buffer (id) WHERE status = 'failed';
    CREATE TABLE buffer_metadata (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        stream_id TEXT NOT NULL,
        stream_crc32c INTEGER NOT NULL,
        device_id TEXT NOT NULL,
        created_at REAL NOT NULL,
        last_seq INTEGER NOT NULL DEFAULT 0,
        total_buffered INTEGER NOT NULL DEFAULT 0,
        total_sent INTEGER NOT NULL DEFAULT 0,
        total_failed INTEGER NOT NULL DEFAULT 0,
        total_evicted INTEGER NOT NULL DEFAULT 0,
        last_cleanup REAL
    );
    CREATE TABLE buffer_losses (
        from_seq INTEGER PRIMARY KEY,
        to_seq INTEGER NOT NULL,
        reason TEXT NOT NULL,
        lost_at REAL NOT NULL,
        confirmed_at REAL
    );
    """,
    """
    CREATE INDEX prediction_buffer_by_time ON prediction_buffer (timestamp);
    """,
    """
    ALTER TABLE prediction_buffer ADD COLUMN payload_crc32c INTEGER;
    """,
    """
    CREATE INDEX prediction_buffer_by_image ON prediction_buffer (id >> 10, image_id);
    """,
    """
    ALTER TABLE prediction_buffer RENAME TO buffer_predictions;
    CREATE TABLE buffer_confirmed (
        from_seq INTEGER PRIMARY KEY,
        to_seq INTEGER NOT NULL,
        sent_at REAL NOT NULL,
        crc32c INTEGER NOT NULL
    );
    CREATE VIEW prediction_buffer AS SELECT p.id, p.prediction_data, p.image_id, p.timestamp, p.buffered_at,
        ifnull(c.sent_at, p.sent_at) AS sent_at, iif(c.sent_at IS NULL, p.status, 'sent') AS status, p.retry_count,
        iif(c.sent_at IS NULL, p.last_error, NULL) AS last_error, p.payload_crc32c
    FROM buffer_predictions p LEFT JOIN buffer_confirmed c ON p.status = 'pending' AND c.to_seq >= p.id
        AND c.from_seq = (SELECT max(from_seq) FROM buffer_confirmed WHERE from_seq <= p.id);
    """,
)
"""Step n brings `PRAGMA user_version` from n to n + 1; a step that has been released is never edited.

Every index costs flash for each prediction (`docs/cost.md` has the measurement). By time it is a tenth of what a
prediction costs anyhow. By image alone it would be a page of 4 KiB, twice, for each prediction: names are the user's
own, and random ones land on another page each. So the index by image is in parts, one for each 1,024 numbers in a row:
what is inserted falls into the last of them, and a look-up (`OF_IMAGE`) asks each part once, a thousand of them
in a million rows.

SQLite has no checksums. `payload_crc32c` is the CRC-32C of the bytes of `prediction_data`, the one that stands in the
journal's line; NULL in a row of an older version, which goes unchecked.

Since format 5 the rows stand in `buffer_predictions`, and `prediction_buffer` is a view of them: what the cloud has
confirmed of rows that were written as pending stands in `buffer_confirmed`, as ranges with a checksum (`confirmed.py`).
"""

VIEW = MIGRATIONS[4][MIGRATIONS[4].index("CREATE VIEW") :].strip().rstrip(";")
"""As SQLite keeps it."""
ROWS, ROWS_BEFORE = "buffer_predictions", "prediction_buffer"
"""The table of the rows, and what it was called up to format 4."""


BY_IMAGE = "prediction_buffer_by_image"
OF_IMAGE = """
WITH RECURSIVE part(n) AS (
    SELECT (SELECT min(id) FROM main.{rows}) >> 10
    UNION ALL SELECT n + 1 FROM part WHERE n < (SELECT max(id) FROM main.{rows}) >> 10)
SELECT found.id FROM part CROSS JOIN main.{rows} AS found ON found.id >> 10 = part.n AND found.image_id = ?
LIMIT ?
"""
"""The numbers of the rows with an image's name, at most so many, by way of the index by image; to be formatted with the
name of the rows' table.
"""
HIGHEST = """
SELECT last_seq FROM buffer_metadata UNION ALL SELECT max(id) FROM {rows}
UNION ALL SELECT max(to_seq) FROM buffer_losses WHERE reason != ?
UNION ALL SELECT seq FROM sqlite_sequence WHERE name = '{rows}'
"""
"""The highest numbers that any table speaks of, tombstones with one reason apart: SQLite has no checksums, so one
witness is not enough. To be formatted with the name of the rows' table.
"""


def rows_table(connection: sqlite3.Connection) -> str:
    """What the table of the rows is called in a database that may be of an older version. Lets SQLite's errors out."""
    known = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?"
    return ROWS if connection.execute(known, (ROWS,)).fetchone() else ROWS_BEFORE


def is_stream(stream_id: object, crc: object) -> bool:
    """Whether a stream's name is still the one that was written: a wrong one would orphan the journal."""
    return isinstance(stream_id, str) and google_crc32c.value(stream_id.encode(errors="replace")) == crc


def mended_stream(name: object, crc: object) -> str | None:
    """A stream's name as it was written, where no more than one bit of it or its checksum has flipped; else None."""
    if not isinstance(name, bytes) or not isinstance(crc, int):
        return None
    if ((google_crc32c.value(name) ^ crc) & 0xFFFFFFFF).bit_count() <= 1:
        return name.decode(errors="replace")
    number = int.from_bytes(name)
    others = ((number ^ 1 << bit).to_bytes(len(name)) for bit in range(8 * len(name)))
    return next((other.decode(errors="replace") for other in others if google_crc32c.value(other) == crc), None)


def is_tombstone(first: object, last: object, reason: object) -> bool:
    """Whether these columns still make sense: SQLite has no checksums, and types are only its advice."""
    return isinstance(first, int) and isinstance(last, int) and 1 <= first <= last and isinstance(reason, str)
