"""Everything that is asked of the SQLite ledger. Each function reads inside one snapshot."""

import sqlite3

import msgspec

from cloud.ledger import Device, Gap, Page, Query, StreamAudit
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import EVER, MINUTE
from cloud.ledger.rows import account, read_device, read_page

_PREDICTIONS = """SELECT p.number, p.timestamp, p.payload, d.edge_device_id, s.stream_id, p.received_at, p.late
    FROM predictions p CROSS JOIN devices d ON d.device_no = p.device_no
    CROSS JOIN streams s ON s.stream_no = p.stream_no
    {where} ORDER BY p.timestamp DESC, p.number DESC LIMIT ?"""

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


def predictions(db: sqlite3.Connection, query: Query) -> Page:
    """A page, newest first; cut early where the payloads are very large."""
    where, values = _where(query)
    rows = db.execute(_PREDICTIONS.format(where=where), (*values, query.limit + 1))
    return read_page(query.limit, rows)


def _where(query: Query) -> tuple[str, list[object]]:
    asked: list[tuple[str, list[object]]] = []
    if query.edge_device_id is not None:
        asked.append(("p.device_no = (SELECT device_no FROM devices WHERE edge_device_id = ?)", [query.edge_device_id]))
    for column, value in (("model_name", query.model_name), ("model_version", query.model_version)):
        if value is not None:
            asked.append((f"p.model_no IN (SELECT model_no FROM models WHERE {column} = ?)", [value]))  # noqa: S608
    if query.defect_detected is not None:
        # A literal, so that SQLite can prove that the partial index serves.
        asked.append((f"p.defect_detected = {int(query.defect_detected)}", []))
    if query.class_name is not None:
        # As it stands in the list, which the intake writes: a quote inside of a name has a backslash before it.
        # SQLite's own reading of JSON would end a name at its first zero character.
        name = msgspec.json.encode(query.class_name).decode()
        asked.append(("(instr(p.classes, ?) OR instr(p.classes, ?))", [f"[{name}", f",{name}"]))
    if query.since is not None:
        asked.append(("p.timestamp >= ?", [query.since]))
    if query.until is not None:
        asked.append(("p.timestamp < ?", [query.until]))
    if query.cursor is not None:
        asked.append(("(p.timestamp, p.number) < (?, ?)", [*query.cursor]))
    conditions = " AND ".join(condition for condition, _ in asked)
    return f"WHERE {conditions}" if asked else "", [value for _, values in asked for value in values]


def devices(db: sqlite3.Connection, now: float) -> tuple[Device, ...]:
    """Every device with its sums; the cost grows with the devices, not with what they sent."""
    rows = db.execute(_DEVICES, {"ever": EVER, "minute": MINUTE, "since": now - 3600.0})
    return tuple(read_device(row) for row in rows)


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
    rows = db.execute("SELECT low, high FROM stored_ranges WHERE stream_no = ? ORDER BY low", key)
    stored = [Span(*row) for row in rows]
    rows = db.execute("SELECT low, high, reason FROM explained_ranges WHERE stream_no = ? ORDER BY low", key)
    explained = [Gap(*row) for row in rows]
    return stored, explained, max(stored[-1].high if stored else 0, explained[-1].to_seq if explained else 0)
