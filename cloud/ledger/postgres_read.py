"""Everything that is asked of the PostgreSQL ledger. Each function reads inside one snapshot."""

import math
from collections.abc import Iterable

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
)
from cloud.ledger import rows as limits
from cloud.ledger.postgres_schema import Connection, rows
from cloud.ledger.postgres_text import pack, unpack
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import COLUMNS, EVER, MINUTE
from cloud.ledger.rows import account, read_conflicts, read_device, read_page, read_series, read_stats

_SUMS = ", ".join(
    f"max({column})"
    if "_max_" in column
    else f"sum({column})::{'float8' if column.endswith(('_s', '_ms')) else 'bigint'}"
    for column in COLUMNS
)
_DEVICES = """WITH ever AS (
        SELECT edge_device_id, sum(predictions)::bigint AS predictions, sum(defects)::bigint AS defects
        FROM rollups WHERE grain_s = %(ever)s AND start = 0 GROUP BY edge_device_id),
    hour AS (
        SELECT edge_device_id, sum(predictions)::bigint AS predictions, sum(defects)::bigint AS defects
        FROM rollups WHERE grain_s = %(minute)s AND start > %(since)s GROUP BY edge_device_id),
    gaps AS (
        SELECT edge_device_id, sum(last_seq - stored)::bigint AS missing,
            sum(last_seq - stored - explained)::bigint AS unexplained
        FROM streams GROUP BY edge_device_id)
    SELECT edge_device_id, first_seen_at, last_seen_at, last_was_late, pending, last_lateness_s,
        coalesce(ever.predictions, 0), coalesce(ever.defects, 0), coalesce(hour.predictions, 0),
        coalesce(hour.defects, 0), coalesce(missing, 0), coalesce(unexplained, 0)
    FROM devices LEFT JOIN ever USING (edge_device_id) LEFT JOIN hour USING (edge_device_id)
        LEFT JOIN gaps USING (edge_device_id)
    ORDER BY edge_device_id COLLATE "C" """


_CONFLICTS = """SELECT c.stream_id, c.seq, c.digest, c.received_at, p.payload, c.payload FROM conflicts c
    LEFT JOIN LATERAL (SELECT payload FROM predictions AS old WHERE old.edge_device_id = c.edge_device_id
        AND old.stream_id = c.stream_id AND old.seq = c.seq LIMIT 1) AS p ON true
    WHERE c.edge_device_id = %s AND (c.stream_id, c.seq, c.digest) > (%s, %s, %s)
    ORDER BY c.stream_id, c.seq, c.digest LIMIT %s"""


def check(db: Connection) -> None:
    """Touch the tables, so that a missing one shows."""
    rows(db, "SELECT count(*) FROM (SELECT 1 FROM devices LIMIT 1) AS one")


def stats(db: Connection, query: StatsQuery, now: float) -> Stats:
    """Tallies by device and by model, and what everything comes to."""
    grain = rollups.grain_of(query, now)
    query = rollups.widen(query, grain)
    where, values = _of_rollups(query, grain)
    (row,) = rows(db, f"SELECT {_SUMS} FROM rollups {where}", values)  # noqa: S608
    by = [
        [
            (unpack(key), count, defects)
            for key, count, defects in rows(
                db,
                f"SELECT {name}, sum(predictions), sum(defects) FROM rollups {where} GROUP BY {name}"  # noqa: S608
                f' ORDER BY {name} COLLATE "C"',
                values,
            )
        ]
        for name in ("edge_device_id", "model_name")
    ]
    return read_stats(query, row, by)


def series(db: Connection, query: SeriesQuery) -> tuple[Bucket, ...]:
    """Every bucket, also the empty ones."""
    starts = rollups.starts(query)
    asked = StatsQuery(starts.start, starts.stop, query.edge_device_id, query.model_name)
    where, values = _of_rollups(asked, rollups.series_grain(query))
    found = rows(
        db,
        f"SELECT start / %s * %s, {_SUMS} FROM rollups {where} GROUP BY 1",  # noqa: S608
        [query.bucket_s, query.bucket_s, *values],
    )
    return read_series(query, found)


def _of_rollups(query: StatsQuery, grain: int) -> tuple[str, list[object]]:
    asked: list[tuple[str, object]] = [("grain_s = %s", grain)]
    if query.since is not None:
        asked.append(("start >= %s", math.ceil(query.since)))
    if query.until is not None:
        asked.append(("start < %s", math.ceil(query.until)))
    if query.edge_device_id is not None:
        asked.append(("edge_device_id = %s", pack(query.edge_device_id)))
    if query.model_name is not None:
        asked.append(("model_name = %s", pack(query.model_name)))
    return f"WHERE {' AND '.join(condition for condition, _ in asked)}", [value for _, value in asked]


def predictions(db: Connection, query: Query) -> Page:
    """A page, newest first; cut early where the payloads are very large, or many had to be looked at."""
    served, others = _of_predictions(query)
    floor = _floor(db, served) if others else None
    if floor:
        served.append(("(timestamp, number) >= (%s, %s)", [*floor]))
    where, values = _where([*served, *others])
    found = db.cursor().stream(
        f"""SELECT number, timestamp, payload, edge_device_id, stream_id, received_at, late FROM predictions
        {where} ORDER BY timestamp DESC, number DESC LIMIT %s""".encode(),  # noqa: S608
        [*values, query.limit + 1],
    )
    return read_page(
        query.limit,
        (
            (number, timestamp, payload, unpack(device), unpack(stream), received_at, late)
            for number, timestamp, payload, device, stream, received_at, late in found
        ),
        floor,
    )


Condition = tuple[str, list[object]]


def _of_predictions(query: Query) -> tuple[list[Condition], list[Condition]]:
    """The conditions that an index serves, and those that are held against each row along it."""
    served: list[Condition] = []
    others: list[Condition] = []
    if query.edge_device_id is not None:
        served.append(("edge_device_id = %s", [pack(query.edge_device_id)]))
    for column, name in (("model_name", query.model_name), ("model_version", query.model_version)):
        if name is not None:
            others.append((f"{column} = %s", [pack(name)]))
    if query.defect_detected is not None:
        indexed = query.defect_detected and query.edge_device_id is None
        (served if indexed else others).append(
            ("defect_detected" if query.defect_detected else "NOT defect_detected", [])
        )
    if query.class_name is not None:
        others.append(("%s = ANY(classes)", [pack(query.class_name)]))
    if query.since is not None:
        served.append(("timestamp >= %s", [query.since]))
    if query.until is not None:
        served.append(("timestamp < %s", [query.until]))
    if query.cursor is not None:
        served.append(("(timestamp, number) < (%s, %s)", [*query.cursor]))
    return served, others


def _floor(db: Connection, served: Iterable[Condition]) -> Cursor | None:
    """How far down the index one question looks; None: to its end."""
    where, values = _where(served)
    found = rows(
        db,
        f"SELECT timestamp, number FROM predictions {where} ORDER BY timestamp DESC, number DESC LIMIT 1 OFFSET %s",  # noqa: S608
        [*values, limits.SCAN_ROWS_MAX - 1],
    )
    return Cursor(*found[0]) if found else None


def _where(asked: Iterable[Condition]) -> tuple[str, list[object]]:
    asked = list(asked)
    conditions = " AND ".join(condition for condition, _ in asked)
    return f"WHERE {conditions}" if asked else "", [value for _, values in asked for value in values]


def devices(db: Connection, now: float) -> tuple[Device, ...]:
    """Every device with its sums; the cost grows with the devices, not with what they sent."""
    found = rows(db, _DEVICES, {"ever": EVER, "minute": MINUTE, "since": int(now - 3600.0)})
    return tuple(read_device((unpack(device), *rest)) for device, *rest in found)


def audit(db: Connection, device_id: str) -> tuple[StreamAudit, ...] | None:
    """Every stream's account, out of the ranges."""
    device = pack(device_id)
    if not rows(db, "SELECT 1 FROM devices WHERE edge_device_id = %s", [device]):
        return None
    streams = rows(
        db,
        "SELECT stream_id, unnumbered, duplicates, conflicts, rejected FROM streams WHERE edge_device_id = %s"
        " ORDER BY first_seen_at, stream_id",
        [device],
    )
    where = "WHERE edge_device_id = %s AND stream_id = %s ORDER BY low"
    return tuple(
        account(
            unpack(stream),
            [Span(*row) for row in rows(db, f"SELECT low, high FROM stored_ranges {where}", [device, stream])],  # noqa: S608
            [
                Gap(low, high, unpack(reason))
                for low, high, reason in rows(
                    db,
                    f"SELECT low, high, reason FROM explained_ranges {where}",  # noqa: S608
                    [device, stream],
                )
            ],
            counters,
        )
        for stream, *counters in streams
    )


def conflicts(db: Connection, query: ConflictQuery) -> ConflictPage | None:
    """A page of what came again with another payload, beside what is stored."""
    device = pack(query.edge_device_id)
    if not rows(db, "SELECT 1 FROM devices WHERE edge_device_id = %s", [device]):
        return None
    stream, seq, digest = query.cursor or ("", 0, b"")
    found = rows(db, _CONFLICTS, [device, pack(stream), seq, digest, query.limit + 1])
    return read_conflicts(query.limit, ((unpack(stream), *rest) for stream, *rest in found))
