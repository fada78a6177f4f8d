"""What the stores do without a service before them: bare inserts, a bare COPY, and a ledger filled with millions."""

import sqlite3
import time
from pathlib import Path

import msgspec
import psycopg

from bench.load import predictions
from cloud.ledger import Batch, Record, sqlite_write
from cloud.ledger.postgres_schema import migrate as migrate_postgres
from cloud.ledger.schema import migrate
from cloud.wire import number_payload

ROWS_A_COMMIT = 20_000
TEMPLATES = 1_000
CAMERAS = 8


def records(count: int, *, first: int = 1, timestamp: float | None = None) -> list[Record]:
    """Records as the intake makes them of the load's predictions."""
    start = time.time() - count / 30 if timestamp is None else timestamp
    return [
        Record(
            seq=first + n,
            payload=number_payload(first + n, msgspec.json.encode(one)).decode(),
            timestamp=start + n / 30,
            inference_time_ms=one.inference_time_ms,
            model_name=one.model_name,
            model_version=one.model_version,
            defect_detected=one.defect_detected,
            classes=msgspec.json.encode(sorted({box.class_name for box in one.detections})).decode(),
        )
        for n, one in enumerate(predictions(count))
    ]


def insert(folder: str, count: int, size: int) -> float:
    """Rows a second: the same rows into the same tables and indexes, a commit a batch, at full durability."""
    Path(folder).mkdir(parents=True)
    db = sqlite3.connect(Path(folder) / "direct.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    migrate(db)
    now = time.time()
    rows = [
        (1, 1, 1, seq, timestamp, now, False, defect, classes, payload)
        for seq, payload, timestamp, _, _, _, defect, classes in records(count)
    ]
    began = time.perf_counter()
    for at in range(0, count, size):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(sqlite_write.INSERT, rows[at : at + size])
        db.execute("COMMIT")
    took = time.perf_counter() - began
    db.close()
    return count / took


def copy(url: str, count: int, size: int) -> float:
    """Rows a second: the same rows into the same partition and indexes, a COPY and a commit a batch."""
    now = time.time()
    with psycopg.connect(url, autocommit=True) as db:
        with db.transaction():
            migrate_postgres(db, now)
        rows = [
            ("camera", "direct", seq, number, timestamp, now, False, defect, name, version,
             msgspec.json.decode(classes or "[]"), payload)
            for number, (seq, payload, timestamp, _, name, version, defect, classes) in enumerate(records(count))
        ]  # fmt: skip
        began = time.perf_counter()
        for at in range(0, count, size):
            with (
                db.transaction(),
                db.cursor() as cursor,
                cursor.copy(
                    "COPY predictions (edge_device_id, stream_id, seq, number, timestamp, received_at, late,"
                    " defect_detected, model_name, model_version, classes, payload) FROM STDIN"
                ) as stream,
            ):
                for row in rows[at : at + size]:
                    stream.write_row(row)
        return count / (time.perf_counter() - began)


def fill(path: str, count: int) -> float:
    """Make a ledger of so many predictions of eight cameras, over the last day, without waiting for the disk."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -400000")
    migrate(db)
    templates = records(TEMPLATES)
    began, now = time.perf_counter(), time.time()
    step = 86_400 / count
    for batch, start in enumerate(range(0, count, TEMPLATES)):
        if start % ROWS_A_COMMIT == 0:
            if db.in_transaction:
                db.execute("COMMIT")
            db.execute("BEGIN")
        # Each camera numbers its own.
        first = batch // CAMERAS * TEMPLATES + 1
        of = tuple(
            template._replace(seq=first + n, timestamp=now - 86_400 + (start + n) * step)
            for n, template in enumerate(templates)
        )
        received_at = of[-1].timestamp + 0.5
        sqlite_write.ingest_all(db, [Batch(f"camera-{batch % CAMERAS}", "fill", of, (), (), False, 0, received_at, 0)])
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return time.perf_counter() - began
