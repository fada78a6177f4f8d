"""The PostgreSQL ledger's tables, as numbered steps, and the partitions of its predictions.

Every key begins with the device, and nothing is numbered by a sequence, so `create_distributed_table(table,
'edge_device_id')` spreads each of these tables over a Citus cluster as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg import sql

from cloud.ledger import LedgerUnusable
from cloud.ledger.rollups import COLUMNS

DAY_S = 86_400
_FIRST_DAY = date(1970, 1, 1).toordinal()
DAYS_AHEAD = 7
"""How many days' partitions are made before their day comes."""
SCHEMA_LOCK = 0x686F6C64
"""The advisory lock under which tables are changed: the first four letters of our name."""
LOCK_S_MAX = 5
"""How long a change of tables waits for those who read them; it is tried again later."""

Connection = psycopg.Connection[tuple[Any, ...]]

_FIRST_TABLES = (
    """CREATE TABLE devices (
        edge_device_id text PRIMARY KEY,
        first_seen_at double precision NOT NULL,
        last_seen_at double precision NOT NULL,
        last_was_late boolean NOT NULL,
        pending bigint,
        last_lateness_s double precision)""",
    # stream_id '' stands for what came without a stream.
    """CREATE TABLE streams (
        edge_device_id text NOT NULL,
        stream_id text NOT NULL,
        first_seen_at double precision NOT NULL,
        last_seq bigint NOT NULL DEFAULT 0,
        stored bigint NOT NULL DEFAULT 0,
        explained bigint NOT NULL DEFAULT 0,
        unnumbered bigint NOT NULL DEFAULT 0,
        duplicates bigint NOT NULL DEFAULT 0,
        conflicts bigint NOT NULL DEFAULT 0,
        rejected bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (edge_device_id, stream_id))""",
    # number: a chance one a batch, then counted on; it orders what has one timestamp.
    """CREATE TABLE predictions (
        edge_device_id text NOT NULL,
        stream_id text NOT NULL,
        seq bigint,
        number bigint NOT NULL,
        timestamp double precision NOT NULL,
        received_at double precision NOT NULL,
        late boolean NOT NULL,
        defect_detected boolean NOT NULL,
        model_name text NOT NULL,
        model_version text NOT NULL,
        classes text[],
        payload text NOT NULL) PARTITION BY RANGE (received_at)""",
    # The ranges keep a number from being stored twice; a key over partitions must hold their bound.
    "CREATE UNIQUE INDEX predictions_by_seq ON predictions (edge_device_id, stream_id, seq, received_at)",
    "CREATE INDEX predictions_by_time ON predictions (timestamp, number)",
    "CREATE INDEX predictions_by_device ON predictions (edge_device_id, timestamp, number)",
    "CREATE INDEX predictions_with_defect ON predictions (timestamp, number) WHERE defect_detected",
    """CREATE TABLE stored_ranges (
        edge_device_id text NOT NULL,
        stream_id text NOT NULL,
        low bigint NOT NULL,
        high bigint NOT NULL,
        PRIMARY KEY (edge_device_id, stream_id, low))""",
    """CREATE TABLE explained_ranges (
        edge_device_id text NOT NULL,
        stream_id text NOT NULL,
        low bigint NOT NULL,
        high bigint NOT NULL,
        reason text NOT NULL,
        PRIMARY KEY (edge_device_id, stream_id, low))""",
    """CREATE TABLE conflicts (
        edge_device_id text NOT NULL,
        stream_id text NOT NULL,
        seq bigint NOT NULL,
        digest bytea NOT NULL,
        received_at double precision NOT NULL,
        payload text NOT NULL,
        PRIMARY KEY (edge_device_id, stream_id, seq, digest))""",
    # Three names of 256 characters are more than an index row holds; the model's two are in the key as a digest.
    f"""CREATE TABLE rollups (
        edge_device_id text NOT NULL,
        grain_s integer NOT NULL,
        start bigint NOT NULL,
        model_digest bytea NOT NULL,
        model_name text NOT NULL,
        model_version text NOT NULL,
        {
        ", ".join(
            f"{column} {'double precision' if column.endswith(('_s', '_ms')) else 'bigint'} NOT NULL"
            for column in COLUMNS
        )
    },
        PRIMARY KEY (edge_device_id, grain_s, start, model_digest))""",
    "CREATE INDEX rollups_by_time ON rollups (grain_s, start)",
)

STEPS: dict[str, tuple[str, ...]] = {"1_first_tables": _FIRST_TABLES}


def rows(db: Connection, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
    """What a query of our own text finds."""
    return db.execute(query.encode(), values).fetchall()


def migrate(db: Connection, now: float) -> None:
    """Bring the tables to this version's shape and make the next days' partitions, inside an open transaction.

    Replicas may do so at once. `LedgerUnusable` where the database was made by a newer version.
    """
    _lock(db)
    db.execute("CREATE TABLE IF NOT EXISTS holdfast_steps (name text PRIMARY KEY, applied_at timestamptz NOT NULL)")
    applied = {str(row[0]) for row in db.execute("SELECT name FROM holdfast_steps").fetchall()}
    newer = applied - STEPS.keys()
    if newer:
        raise LedgerUnusable(f"made by a newer version (it has {', '.join(sorted(newer))}): run that version")
    for name, statements in STEPS.items():
        if name not in applied:
            for statement in statements:
                db.execute(statement.encode())
            db.execute("INSERT INTO holdfast_steps VALUES (%s, now())", (name,))
    make_days(db, days_ahead(now))


def _lock(db: Connection) -> None:
    db.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))


def day_of(received_at: float) -> int:
    """The day of an arrival, counted from 1970 (UTC)."""
    return int(received_at // DAY_S)


def days_ahead(now: float) -> range:
    """Today and the days whose partitions are made ahead."""
    return range(day_of(now), day_of(now) + DAYS_AHEAD + 1)


def make_days(db: Connection, days: Iterable[int]) -> None:
    """Make the partitions of these days where they are missing, inside an open transaction."""
    missing = set(days) - stored_days(db)
    if not missing:
        return
    _lock(db)
    for day in sorted(missing - stored_days(db)):
        db.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF predictions FOR VALUES FROM ({}) TO ({})").format(
                _name(day), sql.Literal(float(day * DAY_S)), sql.Literal(float((day + 1) * DAY_S))
            )
        )


def drop_days(db: Connection, older_than: float) -> int:
    """Drop the partitions that hold nothing received at `older_than` or later; how many went."""
    gone = [day for day in stored_days(db) if (day + 1) * DAY_S <= older_than]
    if gone:
        _lock(db)
        db.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{LOCK_S_MAX}s")))
    for day in gone:
        db.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_name(day)))
    return len(gone)


def stored_days(db: Connection) -> set[int]:
    """The days that have a partition."""
    return days_of(db.execute(DAYS).fetchall())


DAYS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'predictions'::regclass"
)


def days_of(found: Iterable[tuple[Any, ...]]) -> set[int]:
    """The days that have a partition, out of what `DAYS` found."""
    return {date.fromisoformat(str(name)[-8:]).toordinal() - _FIRST_DAY for (name,) in found}


def _name(day: int) -> sql.Identifier:
    return sql.Identifier(f"predictions_{datetime.fromtimestamp(day * DAY_S, UTC):%Y%m%d}")
