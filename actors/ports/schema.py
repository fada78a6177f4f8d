"""The buffer's tables, as numbered steps from one version to the next."""

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
)
"""Step n brings `PRAGMA user_version` from n to n + 1; a step that has been released is never edited."""
