"""Everything that changes the PostgreSQL ledger: many batches in one transaction, in few round trips.

The devices' rows are locked first, in the order of their ids: two replicas that store for the same device wait for each
other, and never for each other crosswise. Whatever is decided then is decided in memory (`plan`), and what is new goes
in by one COPY.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from cloud import wire
from cloud.ledger import Batch, Gap
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
from cloud.ledger.postgres_copy import COPY, END, HEAD, rows_of
from cloud.ledger.postgres_schema import DAYS, Connection, day_of, days_of, make_days, rows
from cloud.ledger.postgres_text import pack, unpack
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import COLUMNS, MINUTE, Key, Rollup, minutes_from

Cursor = psycopg.Cursor[tuple[Any, ...]]
Rollups = Mapping[tuple[str, Key], Rollup]

SWEEP_ROWS_MAX = 500
"""One stroke of a clean-up; requests are committed between strokes."""
_COUNTERS = ("last_seq", "stored", "explained", "unnumbered", "duplicates", "conflicts", "rejected")
_COUNT = f"""UPDATE streams SET last_seq = greatest(last_seq, %s),
    {", ".join(f"{name} = {name} + %s" for name in _COUNTERS[1:])} WHERE edge_device_id = %s AND stream_id = %s"""  # noqa: S608
_ADD = f"""INSERT INTO rollups AS old (edge_device_id, grain_s, start, model_digest, model_name, model_version,
    {", ".join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s{", %s" * len(COLUMNS)})
    ON CONFLICT (edge_device_id, grain_s, start, model_digest) DO UPDATE SET
    {
    ", ".join(
        f"{name} = greatest(old.{name}, excluded.{name})"
        if "_max_" in name
        else f"{name} = old.{name} + excluded.{name}"
        for name in COLUMNS
    )
}"""  # noqa: S608


def ingest_all(db: Connection, batches: Sequence[Batch]) -> list[wire.Answer]:
    """Store the batches; the answers hold once the transaction has been committed."""
    streams = _open_streams(db, batches)
    plans = plan_all(streams, batches)
    for conflict in compare(streams, plans, _payloads(db, unseen(streams, plans))):
        streams[conflict.number.stream].conflicts += _keep_aside(db, conflict)
    rollups = _copy(db, plans)
    with db.pipeline(), db.cursor() as cursor:
        _add_rollups(cursor, rollups)
        _close_streams(cursor, streams)
    return [plan.answer() for plan in plans]


def _open_streams(db: Connection, batches: Sequence[Batch]) -> dict[StreamKey, Stream]:
    """Note the devices, make the streams that are new, and read the ranges around the numbers that came.

    All in one round trip, since none of it needs the answer to another part.
    """
    found = by_stream(batches)
    asked = [(key, span) for key, its in found.items() for span in windows(its)]
    values = (*_columns(key for key, _ in asked), [span.low for _, span in asked], [span.high for _, span in asked])
    with db.pipeline():
        days = db.execute(DAYS)
        _note_devices(db, batches)
        db.execute(
            """INSERT INTO streams (edge_device_id, stream_id, first_seen_at)
            SELECT * FROM unnest(%s::text[], %s::text[], %s::float8[]) ON CONFLICT DO NOTHING""",
            (*_columns(found), [its[0].received_at for its in found.values()]),
        )
        ranges = db.execute(_STORED, values)
        reasons = db.execute(_EXPLAINED, values)
    needed = {day_of(batch.received_at) for batch in batches}
    if needed - days_of(days):
        make_days(db, needed)
    stored: dict[StreamKey, list[Span]] = {key: [] for key in found}
    explained: dict[StreamKey, list[Gap]] = {key: [] for key in found}
    for place, low, high in ranges:
        known = stored[asked[place - 1][0]]
        # Two windows of a stream may look at the same range.
        if not known or low > known[-1].low:
            known.append(Span(low, high))
    for place, low, high, reason in reasons:
        told = explained[asked[place - 1][0]]
        if not told or low > told[-1].from_seq:
            told.append(Gap(low, high, unpack(reason)))
    return {key: Stream(Book(stored[key], explained[key])) for key in found}


def _note_devices(db: Connection, batches: Iterable[Batch]) -> None:
    """Lock the devices' rows, in order, and note what they told of themselves."""
    devices = devices_of(batches)
    columns = ([pack(device_id) for device_id, _ in devices], *zip(*(seen[:5] for _, seen in devices), strict=True))
    db.execute(
        """INSERT INTO devices AS old (edge_device_id, first_seen_at, last_seen_at, last_was_late, pending,
            last_lateness_s)
        SELECT device, first, last, late, pending, lateness FROM unnest(%s::text[], %s::float8[], %s::float8[],
            %s::boolean[], %s::bigint[], %s::float8[]) WITH ORDINALITY
            AS new (device, first, last, late, pending, lateness, place) ORDER BY place
        ON CONFLICT (edge_device_id) DO UPDATE SET last_seen_at = excluded.last_seen_at,
            last_was_late = excluded.last_was_late, pending = coalesce(excluded.pending, old.pending),
            last_lateness_s = CASE WHEN excluded.edge_device_id = ANY(%s) THEN old.last_lateness_s
                ELSE excluded.last_lateness_s END""",
        [*map(list, columns), [pack(device_id) for device_id, seen in devices if seen.empty]],
    )


def _columns(keys: Iterable[StreamKey]) -> tuple[list[str], list[str]]:
    """Streams as two arrays."""
    keys = list(keys)
    return [pack(key.edge_device_id) for key in keys], [pack(key.stream_id) for key in keys]


_WINDOW = """SELECT place, old.low, old.high{more}
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) WITH ORDINALITY
        AS asked (device, stream, low, high, place)
    JOIN {table} AS old ON old.edge_device_id = asked.device AND old.stream_id = asked.stream
        AND old.low <= asked.high AND old.high >= asked.low
        AND old.low >= coalesce((SELECT max(low) FROM {table} AS first WHERE first.edge_device_id = asked.device
            AND first.stream_id = asked.stream AND first.low <= asked.low), 0)
    ORDER BY place, old.low"""
_STORED = _WINDOW.format(more="", table="stored_ranges").encode()
_EXPLAINED = _WINDOW.format(more=", reason", table="explained_ranges").encode()


def _payloads(db: Connection, asked: Sequence[Numbered]) -> dict[Numbered, str]:
    """What is stored under these numbers, as far as retention has left it."""
    if not asked:
        return {}
    values = (*_columns(number.stream for number in asked), [number.seq for number in asked])
    return {asked[place - 1]: payload for place, payload in rows(db, _PAYLOADS, values)}


_PAYLOADS = """SELECT place, payload FROM unnest(%s::text[], %s::text[], %s::bigint[]) WITH ORDINALITY
        AS asked (device, stream, seq, place)
    CROSS JOIN LATERAL (SELECT payload FROM predictions AS old WHERE old.edge_device_id = asked.device
        AND old.stream_id = asked.stream AND old.seq = asked.seq LIMIT 1) AS found"""


def _keep_aside(db: Connection, conflict: Contradiction) -> int:
    """Keep another payload of a number; 0 if exactly that one was kept before."""
    stream, seq = conflict.number
    return db.execute(
        "INSERT INTO conflicts VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (pack(stream.edge_device_id), pack(stream.stream_id), seq, *conflict[1:]),
    ).rowcount


def _copy(db: Connection, plans: Sequence[Plan]) -> Rollups:
    """Store what is new; the sums of it are made while the server still works."""
    with db.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.write(HEAD)
        for plan in plans:
            copy.write(rows_of(plan))
        copy.write(END)
        return rollups_of(plans)


def _add_rollups(cursor: Cursor, rollups: Rollups) -> None:
    cursor.executemany(
        _ADD.encode(),
        [
            (
                pack(device), key.grain, key.start, _digest(key), pack(key.model_name), pack(key.model_version),
                *rollup.row(),
            )
            for (device, key), rollup in rollups.items()
        ],
    )  # fmt: skip


def _digest(key: Key) -> bytes:
    return hashlib.sha256(f"{key.model_name}\0{key.model_version}".encode()).digest()[:16]


def _close_streams(cursor: Cursor, streams: Mapping[StreamKey, Stream]) -> None:
    """Write back what has changed of the ranges and the sums."""
    for key, stream in streams.items():
        name = (pack(key.edge_device_id), pack(key.stream_id))
        gone, new = stream.stored_changes()
        known, told = stream.explained_changes()
        for query, changed in (
            (_FORGET.format("stored_ranges"), [(*name, span.low) for span in gone]),
            ("INSERT INTO stored_ranges VALUES (%s, %s, %s, %s)", [(*name, *span) for span in new]),
            (_FORGET.format("explained_ranges"), [(*name, gap.from_seq) for gap in known]),
            (
                "INSERT INTO explained_ranges VALUES (%s, %s, %s, %s, %s)",
                [(*name, gap.from_seq, gap.to_seq, pack(gap.reason or "")) for gap in told],
            ),
            (_COUNT, [(*stream.sums(), *name)]),
        ):
            if changed:
                cursor.executemany(query.encode(), changed)


_FORGET = "DELETE FROM {} WHERE edge_device_id = %s AND stream_id = %s AND low = %s"


def forget_minutes(db: Connection, now: float) -> int:
    """Delete some of the minutes that nobody may ask for any more; how many went."""
    return db.execute(
        """DELETE FROM rollups WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM rollups WHERE grain_s = %s AND start < %s LIMIT %s FOR UPDATE SKIP LOCKED))""",
        (MINUTE, int(minutes_from(now)), SWEEP_ROWS_MAX),
    ).rowcount


def forget_conflicts(db: Connection, older_than: float) -> int:
    """Delete some of the conflicts received before `older_than`; how many went."""
    return db.execute(
        "DELETE FROM conflicts WHERE ctid = ANY(ARRAY(SELECT ctid FROM conflicts WHERE received_at < %s LIMIT %s))",
        (older_than, SWEEP_ROWS_MAX),
    ).rowcount
