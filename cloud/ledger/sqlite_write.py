"""Everything that changes the SQLite ledger. Each function is called inside one open transaction.

What becomes of the batches is decided in memory (`plan`), as for PostgreSQL; here it is only read and written.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cloud import wire
from cloud.ledger import Batch, Gap, sqlite_rollups
from cloud.ledger.books import Book, windows
from cloud.ledger.plan import (
    Contradiction,
    Numbered,
    Plan,
    Stream,
    StreamKey,
    by_stream,
    compare,
    devices_of,
    plan_all,
    rollups_of,
    unseen,
)
from cloud.ledger.ranges import Span

ROWS_A_STATEMENT = (250, 32, 1)
"""How many rows one statement inserts, the largest number that fits. Python lets go of its lock for a statement and
waits for it afterwards: with a row a statement, while the loop reads others, that is a thousand waits a batch."""
_COLUMNS = 10
_ROW = f"({', '.join('?' * _COLUMNS)})"
INSERT = f"""INSERT INTO predictions (device_no, stream_no, model_no, seq, timestamp, received_at, late,
    defect_detected, classes, payload) VALUES {_ROW}"""  # noqa: S608
_INSERTS = {size: INSERT + f", {_ROW}" * (size - 1) for size in ROWS_A_STATEMENT}
_WINDOW = """SELECT low, high{more} FROM {table} WHERE stream_no = :stream AND low <= :high AND high >= :low
    AND low >= coalesce((SELECT max(low) FROM {table} WHERE stream_no = :stream AND low <= :low), 0) ORDER BY low"""
_STORED = _WINDOW.format(table="stored_ranges", more="")
_EXPLAINED = _WINDOW.format(table="explained_ranges", more=", reason")

Numbers = Mapping[StreamKey, int]
"""The number that a stream has in this file."""


def ingest_all(db: sqlite3.Connection, batches: Sequence[Batch]) -> list[wire.Answer]:
    """Store the batches; the answers hold once the transaction has been committed."""
    devices = _note_devices(db, batches)
    numbers = _number_streams(db, devices, batches)
    streams = _open_streams(db, numbers, batches)
    plans = plan_all(streams, batches)
    stored = {number: payload for number in unseen(streams, plans) if (payload := _payload(db, numbers, number))}
    for conflict in compare(streams, plans, stored):
        streams[conflict.number.stream].conflicts += _keep_aside(db, numbers, conflict)
    _insert(db, devices, numbers, plans)
    _close_streams(db, numbers, streams)
    return [plan.answer() for plan in plans]


def forget(db: sqlite3.Connection, older_than: float, rows_max: int) -> int:
    """Delete up to `rows_max` predictions received before `older_than`; how many went.

    Predictions lie in the order of their arrival, so the oldest page is looked at and no index is needed. Ranges and
    rollups stay: the audit and the statistics speak of all that was ever stored.
    """
    gone = db.execute(
        "DELETE FROM predictions WHERE number IN (SELECT number FROM predictions ORDER BY number LIMIT ?)"
        " AND received_at < ?",
        (rows_max, older_than),
    ).rowcount
    db.execute("DELETE FROM conflicts WHERE received_at < ?", (older_than,))
    return gone


def _note_devices(db: sqlite3.Connection, batches: Sequence[Batch]) -> dict[str, int]:
    """Note what the devices told of themselves; the number of each in this file."""
    found: dict[str, int] = {}
    for device_id, seen in devices_of(batches):
        row = db.execute(
            """INSERT INTO devices (edge_device_id, first_seen_at, last_seen_at, last_was_late, pending,
                last_lateness_s)
            VALUES (:device, :first_at, :last_at, :late, :pending, :lateness_s)
            ON CONFLICT (edge_device_id) DO UPDATE SET last_seen_at = :last_at, last_was_late = :late,
                pending = coalesce(:pending, pending), last_lateness_s = iif(:empty, last_lateness_s, :lateness_s)
            RETURNING device_no""",
            {"device": device_id, **seen._asdict()},
        ).fetchone()
        found[device_id] = int(row[0])
    return found


def _number_streams(
    db: sqlite3.Connection, devices: Mapping[str, int], batches: Sequence[Batch]
) -> dict[StreamKey, int]:
    """Make the streams that are new."""
    found: dict[StreamKey, int] = {}
    for key in by_stream(batches):
        name = (devices[key.edge_device_id], key.stream_id)
        row = db.execute("SELECT stream_no FROM streams WHERE device_no = ? AND stream_id = ?", name).fetchone()
        if row is None:
            row = db.execute(
                "INSERT INTO streams (device_no, stream_id) VALUES (?, ?) RETURNING stream_no", name
            ).fetchone()
        found[key] = int(row[0])
    return found


def _model(db: sqlite3.Connection, name: str, version: str) -> int:
    key = (name, version)
    found = db.execute("SELECT model_no FROM models WHERE model_name = ? AND model_version = ?", key).fetchone()
    if found is None:
        found = db.execute(
            "INSERT INTO models (model_name, model_version) VALUES (?, ?) RETURNING model_no", key
        ).fetchone()
    return int(found[0])


def _open_streams(db: sqlite3.Connection, numbers: Numbers, batches: Sequence[Batch]) -> dict[StreamKey, Stream]:
    """Read of each stream the ranges around the numbers that came."""
    found: dict[StreamKey, Stream] = {}
    for key, its in by_stream(batches).items():
        stored: list[Span] = []
        explained: list[Gap] = []
        for span in windows(its):
            asked = {"stream": numbers[key], "low": span.low, "high": span.high}
            stored += (Span(*row) for row in db.execute(_STORED, asked) if not stored or row[0] > stored[-1].low)
            explained += (
                Gap(*row) for row in db.execute(_EXPLAINED, asked) if not explained or row[0] > explained[-1].from_seq
            )
        found[key] = Stream(Book(stored, explained))
    return found


def _payload(db: sqlite3.Connection, numbers: Numbers, number: Numbered) -> str | None:
    """What is stored under a number; None once retention has dropped it."""
    row = db.execute(
        "SELECT payload FROM predictions WHERE stream_no = ? AND seq = ?", (numbers[number.stream], number.seq)
    ).fetchone()
    return None if row is None else str(row[0])


def _keep_aside(db: sqlite3.Connection, numbers: Numbers, conflict: Contradiction) -> int:
    """Keep another payload of a number; 0 if exactly that one was kept before."""
    return db.execute(
        "INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?, ?)",
        (numbers[conflict.number.stream], conflict.number.seq, *conflict[1:]),
    ).rowcount


def _insert(db: sqlite3.Connection, devices: Mapping[str, int], numbers: Numbers, plans: Sequence[Plan]) -> None:
    """Store what is new, and add to the rollups."""
    sums = rollups_of(plans)
    named = {(key.model_name, key.model_version): None for _, key in sums}
    models = {model: _model(db, *model) for model in named}
    rows = list(_rows(devices, numbers, models, plans))
    at = 0
    for size, insert in _INSERTS.items():
        while at + size <= len(rows):
            db.execute(insert, [*itertools.chain.from_iterable(rows[at : at + size])])
            at += size
    sqlite_rollups.add(
        db,
        [
            (devices[device_id], models[key.model_name, key.model_version], key, rollup)
            for (device_id, key), rollup in sums.items()
        ],
    )


def _rows(
    devices: Mapping[str, int], numbers: Numbers, models: Mapping[tuple[str, str], int], plans: Iterable[Plan]
) -> Iterator[tuple[object, ...]]:
    for plan in plans:
        device_no, stream_no, batch = devices[plan.key.edge_device_id], numbers[plan.key], plan.batch
        late, received_at = batch.late, batch.received_at
        for seq, payload, timestamp, _, name, version, defect, classes in plan.fresh:
            yield (
                device_no, stream_no, models[name, version], seq, timestamp, received_at, late, defect, classes,
                payload,
            )  # fmt: skip


def _close_streams(db: sqlite3.Connection, numbers: Numbers, streams: Mapping[StreamKey, Stream]) -> None:
    """Write back what has changed of the ranges and the sums."""
    for key, stream in streams.items():
        number = numbers[key]
        gone, new = stream.stored_changes()
        db.executemany(
            "DELETE FROM stored_ranges WHERE stream_no = ? AND low = ?", [(number, span.low) for span in gone]
        )
        db.executemany("INSERT INTO stored_ranges VALUES (?, ?, ?)", [(number, *span) for span in new])
        known, told = stream.explained_changes()
        db.executemany(
            "DELETE FROM explained_ranges WHERE stream_no = ? AND low = ?", [(number, gap.from_seq) for gap in known]
        )
        db.executemany(
            "INSERT INTO explained_ranges VALUES (?, ?, ?, ?)",
            [(number, gap.from_seq, gap.to_seq, gap.reason) for gap in told],
        )
        db.execute(
            "UPDATE streams SET last_seq = max(last_seq, ?), stored = stored + ?, explained = explained + ?,"
            " unnumbered = unnumbered + ?, duplicates = duplicates + ?, conflicts = conflicts + ?,"
            " rejected = rejected + ? WHERE stream_no = ?",
            (*stream.sums(), number),
        )
