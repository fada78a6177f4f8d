"""The SQLite ledger's tables, as numbered steps that are applied once and in order."""

import sqlite3

import sqlite_utils
from sqlite_utils.migrations import Migrations

from cloud.ledger import LedgerUnusable, sqlite_rollups
from cloud.ledger.ranges import gaps, size
from cloud.ledger.sqlite_read import read_ranges

steps = Migrations("holdfast_cloud")

_TABLES = (
    """CREATE TABLE devices (
        device_no INTEGER PRIMARY KEY,
        edge_device_id TEXT NOT NULL UNIQUE,
        first_seen_at REAL NOT NULL,
        last_seen_at REAL NOT NULL,
        last_was_late INTEGER NOT NULL,
        pending INTEGER)""",
    # stream_id '' stands for what came without a stream.
    """CREATE TABLE streams (
        stream_no INTEGER PRIMARY KEY,
        device_no INTEGER NOT NULL,
        stream_id TEXT NOT NULL,
        unnumbered INTEGER NOT NULL DEFAULT 0,
        duplicates INTEGER NOT NULL DEFAULT 0,
        conflicts INTEGER NOT NULL DEFAULT 0,
        rejected INTEGER NOT NULL DEFAULT 0,
        UNIQUE (device_no, stream_id))""",
    """CREATE TABLE models (
        model_no INTEGER PRIMARY KEY,
        model_name TEXT NOT NULL,
        model_version TEXT NOT NULL,
        UNIQUE (model_name, model_version))""",
    """CREATE TABLE predictions (
        number INTEGER PRIMARY KEY,
        device_no INTEGER NOT NULL,
        stream_no INTEGER NOT NULL,
        model_no INTEGER NOT NULL,
        seq INTEGER,
        timestamp REAL NOT NULL,
        received_at REAL NOT NULL,
        late INTEGER NOT NULL,
        defect_detected INTEGER NOT NULL,
        classes TEXT,
        payload TEXT NOT NULL)""",
    # A repeated number is looked up here, to compare its payload.
    "CREATE UNIQUE INDEX predictions_by_seq ON predictions (stream_no, seq) WHERE seq IS NOT NULL",
    # Newest first, since, until, the cursor; model and class filters walk along it.
    "CREATE INDEX predictions_by_time ON predictions (timestamp)",
    # edge_device_id.
    "CREATE INDEX predictions_by_device ON predictions (device_no, timestamp)",
    # defect_detected=true, which is rare where things go well.
    "CREATE INDEX predictions_with_defect ON predictions (timestamp) WHERE defect_detected = 1",
    """CREATE TABLE stored_ranges (
        stream_no INTEGER NOT NULL,
        low INTEGER NOT NULL,
        high INTEGER NOT NULL,
        PRIMARY KEY (stream_no, low)) WITHOUT ROWID""",
    """CREATE TABLE explained_ranges (
        stream_no INTEGER NOT NULL,
        low INTEGER NOT NULL,
        high INTEGER NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (stream_no, low)) WITHOUT ROWID""",
    """CREATE TABLE conflicts (
        stream_no INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        digest BLOB NOT NULL,
        received_at REAL NOT NULL,
        payload TEXT NOT NULL,
        PRIMARY KEY (stream_no, seq, digest))""",
    """CREATE TABLE tallies (
        device_no INTEGER NOT NULL,
        model_no INTEGER NOT NULL,
        predictions INTEGER NOT NULL,
        defects INTEGER NOT NULL,
        PRIMARY KEY (device_no, model_no)) WITHOUT ROWID""",
)


FIRST_TABLES = "1_first_tables"
ROLLUPS = "2_rollups"
NAMES = frozenset({FIRST_TABLES, ROLLUPS})


@steps(name=FIRST_TABLES)
def _first_tables(db: sqlite_utils.Database) -> None:
    for statement in _TABLES:
        db.execute(statement)


@steps(name=ROLLUPS)
def _rollups(db: sqlite_utils.Database) -> None:
    """Rollups instead of tallies, and streams that know their sums without a look at their ranges."""
    for statement in sqlite_rollups.TABLES:
        db.execute(statement)
    sqlite_rollups.fill(db.conn)
    db.execute("DROP TABLE tallies")
    db.execute("ALTER TABLE devices ADD COLUMN last_lateness_s REAL")
    for column in ("last_seq", "stored", "explained"):
        db.execute(f"ALTER TABLE streams ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    _count_streams(db.conn)


def _count_streams(db: sqlite3.Connection) -> None:
    for (stream_no,) in db.execute("SELECT stream_no FROM streams").fetchall():
        stored, explained, last_seq = read_ranges(db, stream_no)
        known = sum(
            gap.to_seq - gap.from_seq + 1 for gap in gaps(stored, explained, last_seq) if gap.reason is not None
        )
        db.execute(
            "UPDATE streams SET last_seq = ?, stored = ?, explained = ? WHERE stream_no = ?",
            (last_seq, size(stored), known, stream_no),
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to this version's shape; two processes may do so at once.

    `LedgerUnusable` where the file was made by a newer version.
    """
    db = sqlite_utils.Database(connection, execute_plugins=False)
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        newer = {step.name for step in steps.applied(db)} - NAMES
        if newer:
            raise LedgerUnusable(f"made by a newer version (it has {', '.join(sorted(newer))}): run that version")
        if steps.pending(db):
            steps.apply(db)
