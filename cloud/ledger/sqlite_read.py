"""Everything that is asked of the SQLite ledger. Each function reads inside one snapshot."""

import sqlite3
from collections.abc import Iterable

import msgspec

from cloud.ledger import (
    Bucket,
    ConflictPage,
    ConflictQuery,
    Cursor,
    Device,
    Gap,
    Page,
    Query,
    SeriesQuery,
    Stats,
    StatsQuery,
    StreamAudit,
    rollups,
    rows,
)
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import COLUMNS, EVER, MINUTE
from cloud.ledger.rows import account, read_conflicts, read_device, read_page, read_series, read_stats

_SUMS = ", ".join(f"{'max' if '_max_' in column else 'sum'}({column})" for column in COLUMNS)
_CONFLICTS = """SELECT s.stream_id, c.seq, c.digest, c.received_at, p.payload, c.payload
    FROM streams s CROSS JOIN conflicts c ON c.stream_no = s.stream_no
    LEFT JOIN predictions p ON p.stream_no = c.stream_no AND p.seq = c.seq
    WHERE s.device_no = ? AND (s.stream_id, c.seq, c.digest) > (?, ?, ?)
    ORDER BY s.stream_id, c.seq, c.digest LIMIT ?"""

_PREDICTIONS = """SELECT p.number, p.timestamp, p.payload, d.edge_device_id, s.stream_id, p.received_at, p.late
    FROM predictions p CROSS JOIN devices d ON d.device_no = p.device_no
    CROSS JOIN streams s ON s.stream_no = p.stream_no
    {where} ORDER BY p.timestamp DESC, p.number DESC LIMIT ?"""

_FLOOR = """SELECT p.timestamp, p.number FROM predictions p {where}
    ORDER BY p.timestamp DESC, p.number DESC LIMIT 1 OFFSET ?"""

_DEVICES = """WITH ever AS (
        SELECT device_no, sum(predictions) AS predictions, sum(defects) AS defects
        FROM rollups WHERE grain_s = :ever GROUP BY device_no),
    hour AS (
        SELECT device_no, sum(predictions) AS predictions, sum(defects) AS defects
        FROM rollups WHERE grain_s = :minute AND start > :since GROUP BY device_no),
    gaps AS (
        SELECT device_no, sum(last_seq - stored) AS missing, sum(last_seq - stored - explained) AS unexplained
        FROM streams GROUP BY device_no)
    SELECT edge_device_id, first_seen_at, last_seen_at, last_was_late, pending, last_lateness_s,
        coalesce(ever.predictions, 0), coalesce(ever.defects, 0), coalesce(hour.predictions, 0),
        coalesce(hour.defects, 0), coalesce(missing, 0), coalesce(unexplained, 0)
    FROM devices LEFT JOIN ever USING (device_no) LEFT JOIN hour USING (device_no) LEFT JOIN gaps USING (device_no)
    ORDER BY edge_device_id"""


def check(db: sqlite3.Connection) -> None:
    """Touch the tables, so that a missing or damaged file shows."""
    db.execute("SELECT count(*) FROM (SELECT 1 FROM devices LIMIT 1)").fetchone()


def stats(db: sqlite3.Connection, query: StatsQuery, now: float) -> Stats:
    """Tallies by device and by model, and what everything comes to."""
    grain = rollups.grain_of(query, now)
    query = rollups.widen(query, grain)
    where, values = _of_rollups(query, grain)
    by = [
        db.execute(f"SELECT {name}, sum(predictions), sum(defects) {where} GROUP BY 1 ORDER BY 1", values).fetchall()
        for name in ("edge_device_id", "model_name")
    ]
    return read_stats(query, db.execute(f"SELECT {_SUMS} {where}", values).fetchone(), by)


def series(db: sqlite3.Connection, query: SeriesQuery) -> tuple[Bucket, ...]:
    """Every bucket, also the empty ones."""
    starts = rollups.starts(query)
    asked = StatsQuery(starts.start, starts.stop, query.edge_device_id, query.model_name)
    where, values = _of_rollups(asked, rollups.series_grain(query))
    found = db.execute(f"SELECT start / ? * ?, {_SUMS} {where} GROUP BY 1", (query.bucket_s, query.bucket_s, *values))
    return read_series(query, found)


def _of_rollups(query: StatsQuery, grain: int) -> tuple[str, list[object]]:
    asked: list[tuple[str, object]] = [("grain_s = ?", grain)]
    if query.since is not None:
        asked.append(("start >= ?", query.since))
    if query.until is not None:
        asked.append(("start < ?", query.until))
    if query.edge_device_id is not None:
        asked.append(("device_no = (SELECT device_no FROM devices WHERE edge_device_id = ?)", query.edge_device_id))
    if query.model_name is not None:
        asked.append(("model_no IN (SELECT model_no FROM models WHERE model_name = ?)", query.model_name))
    conditions = " AND ".join(condition for condition, _ in asked)
    # Without statistics the planner would read the whole fleet's stretch of time.
    index = "" if query.edge_device_id is None else "INDEXED BY rollups_by_device"
    return (
        f"FROM rollups {index} JOIN devices USING (device_no) JOIN models USING (model_no) WHERE {conditions}",
        [value for _, value in asked],
    )


def predictions(db: sqlite3.Connection, query: Query) -> Page:
    """A page, newest first; cut early where the payloads are very large, or many had to be looked at."""
    served, others = _asked(query)
    floor = _floor(db, served) if others else None
    if floor:
        served.append(("(p.timestamp, p.number) >= (?, ?)", [*floor]))
    where, values = _where([*served, *others])
    found = db.execute(_PREDICTIONS.format(where=where), (*values, query.limit + 1))
    return read_page(query.limit, found, floor)


Condition = tuple[str, list[object]]


def _asked(query: Query) -> tuple[list[Condition], list[Condition]]:
    """The conditions that an index serves, and those that are held against each row along it."""
    served: list[Condition] = []
    others: list[Condition] = []
    if query.edge_device_id is not None:
        served.append(
            ("p.device_no = (SELECT device_no FROM devices WHERE edge_device_id = ?)", [query.edge_device_id])
        )
    for column, value in (("model_name", query.model_name), ("model_version", query.model_version)):
        if value is not None:
            others.append((f"p.model_no IN (SELECT model_no FROM models WHERE {column} = ?)", [value]))  # noqa: S608
    if query.defect_detected is not None:
        # A literal, so that SQLite can prove that the partial index serves.
        indexed = query.defect_detected and query.edge_device_id is None
        (served if indexed else others).append((f"p.defect_detected = {int(query.defect_detected)}", []))
    if query.class_name is not None:
        # As it stands in the list, which the intake writes: a quote inside of a name has a backslash before it.
        # SQLite's own reading of JSON would end a name at its first zero character.
        name = msgspec.json.encode(query.class_name).decode()
        others.append(("(instr(p.classes, ?) OR instr(p.classes, ?))", [f"[{name}", f",{name}"]))
    if query.since is not None:
        served.append(("p.timestamp >= ?", [query.since]))
    if query.until is not None:
        served.append(("p.timestamp < ?", [query.until]))
    if query.cursor is not None:
        served.append(("(p.timestamp, p.number) < (?, ?)", [*query.cursor]))
    return served, others


def _floor(db: sqlite3.Connection, served: Iterable[Condition]) -> Cursor | None:
    """How far down the index one question looks; None: to its end."""
    where, values = _where(served)
    row = db.execute(_FLOOR.format(where=where), (*values, rows.SCAN_ROWS_MAX - 1)).fetchone()
    return Cursor(*row) if row else None


def _where(asked: Iterable[Condition]) -> tuple[str, list[object]]:
    asked = list(asked)
    conditions = " AND ".join(condition for condition, _ in asked)
    return f"WHERE {conditions}" if asked else "", [value for _, values in asked for value in values]


def devices(db: sqlite3.Connection, now: float) -> tuple[Device, ...]:
    """Every device with its sums; the cost grows with the devices, not with what they sent."""
    found = db.execute(_DEVICES, {"ever": EVER, "minute": MINUTE, "since": now - 3600.0})
    return tuple(read_device(row) for row in found)


def audit(db: sqlite3.Connection, device_id: str) -> tuple[StreamAudit, ...] | None:
    """Every stream's account, out of the ranges."""
    device = db.execute("SELECT device_no FROM devices WHERE edge_device_id = ?", (device_id,)).fetchone()
    if device is None:
        return None
    streams = db.execute("SELECT stream_no, stream_id FROM streams WHERE device_no = ? ORDER BY stream_no", device)
    return tuple(_audit_stream(db, *row) for row in streams.fetchall())


def _audit_stream(db: sqlite3.Connection, stream_no: int, stream_id: str) -> StreamAudit:
    counters = "SELECT unnumbered, duplicates, conflicts, rejected FROM streams WHERE stream_no = ?"
    stored, explained, _ = read_ranges(db, stream_no)
    return account(stream_id, stored, explained, db.execute(counters, (stream_no,)).fetchone())


def read_ranges(db: sqlite3.Connection, stream_no: int) -> tuple[list[Span], list[Gap], int]:
    """What is stored of a stream, what is explained, and the highest number of both."""
    key = (stream_no,)
    found = db.execute("SELECT low, high FROM stored_ranges WHERE stream_no = ? ORDER BY low", key)
    stored = [Span(*row) for row in found]
    found = db.execute("SELECT low, high, reason FROM explained_ranges WHERE stream_no = ? ORDER BY low", key)
    explained = [Gap(*row) for row in found]
    return stored, explained, max(stored[-1].high if stored else 0, explained[-1].to_seq if explained else 0)


def conflicts(db: sqlite3.Connection, query: ConflictQuery) -> ConflictPage | None:
    """A page of what came again with another payload, beside what is stored."""
    device = db.execute("SELECT device_no FROM devices WHERE edge_device_id = ?", (query.edge_device_id,)).fetchone()
    if device is None:
        return None
    after = query.cursor or ("", 0, b"")
    return read_conflicts(query.limit, db.execute(_CONFLICTS, (*device, *after, query.limit + 1)))
