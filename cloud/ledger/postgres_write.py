"""Everything that changes the PostgreSQL ledger: many batches in one transaction, in few round trips.

The devices' rows are locked first, in the order of their ids: two replicas that store for the same device wait for each
other, and never for each other crosswise. Whatever is decided then is decided in memory (`books`), and what is new goes
in by one COPY.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import attrs
import msgspec
from msgspec import UNSET

from cloud import wire
from cloud.ledger import Batch, Gap, Record
from cloud.ledger.books import Book, explanations, sort_out, window
from cloud.ledger.postgres_schema import Connection, day_of, make_days, rows
from cloud.ledger.postgres_text import pack, unpack
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import COLUMNS, MINUTE, Key, Rollup, lateness_s, minutes_from, roll_up

SWEEP_ROWS_MAX = 500
"""One stroke of a clean-up; requests are committed between strokes."""
NUMBER_BITS = 63
BATCH_BITS = 10
"""Numbers of one batch follow each other: it has at most 2^10 records."""

_COPY = """COPY predictions (edge_device_id, stream_id, seq, number, timestamp, received_at, late, defect_detected,
    model_name, model_version, classes, payload) FROM STDIN"""
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


class StreamKey(NamedTuple):
    """A stream as the tables name it; '' for what came without."""

    edge_device_id: str
    stream_id: str


@attrs.define(eq=False)
class _Stream:
    """A stream while batches are stored: its book, its sums, and the payloads of this transaction."""

    book: Book
    before: tuple[frozenset[Span], frozenset[Gap]]
    fresh: dict[int, str] = attrs.field(factory=dict)
    unnumbered: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0


@attrs.define(eq=False)
class _Plan:
    """What is to be done about one batch."""

    batch: Batch
    key: StreamKey
    fresh: list[Record]
    unnumbered: int
    repeats: list[Record]
    conflicting: list[int] = attrs.field(factory=list)


def ingest_all(db: Connection, batches: Sequence[Batch]) -> list[wire.Answer]:
    """Store the batches; the answers hold once the transaction has been committed."""
    make_days(db, {day_of(batch.received_at) for batch in batches})
    _note_devices(db, batches)
    streams = _open_streams(db, batches)
    plans = [_plan(streams[_key(batch)], batch) for batch in batches]
    _compare(db, streams, plans)
    _copy(db, plans)
    _add_rollups(db, plans)
    _close_streams(db, streams)
    return [_answer(plan) for plan in plans]


def _key(batch: Batch) -> StreamKey:
    return StreamKey(batch.device_id, batch.stream_id or "")


def _note_devices(db: Connection, batches: Iterable[Batch]) -> None:
    """Lock the devices' rows, in order, and note what they told of themselves."""
    rows: dict[str, tuple[float, float, bool, int | None, float | None, bool]] = {}
    for batch in batches:
        seen = rows.get(batch.device_id)
        pending = batch.pending if batch.pending is not None else seen[3] if seen else None
        lateness = lateness_s(batch) if batch.records else seen[4] if seen else None
        empty = not batch.records and (seen[5] if seen else True)
        first = seen[0] if seen else batch.received_at
        rows[batch.device_id] = (first, batch.received_at, batch.late, pending, lateness, empty)
    ordered = sorted(rows.items())
    columns: list[list[object]] = [[pack(device) for device, _ in ordered]]
    columns += [[row[at] for _, row in ordered] for at in range(6)]
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
        (*columns[:6], [pack(device) for device, row in ordered if row[5]]),
    )


def _open_streams(db: Connection, batches: Sequence[Batch]) -> dict[StreamKey, _Stream]:
    """Make the streams that are new, and read of the others the ranges around the numbers that came."""
    found: dict[StreamKey, list[Batch]] = {}
    for batch in batches:
        found.setdefault(_key(batch), []).append(batch)
    devices = [pack(key.edge_device_id) for key in found]
    names = [pack(key.stream_id) for key in found]
    db.execute(
        """INSERT INTO streams (edge_device_id, stream_id, first_seen_at)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::float8[]) ON CONFLICT DO NOTHING""",
        (devices, names, [batches[0].received_at for batches in found.values()]),
    )
    windows = [window(batches) or Span(1, 0) for batches in found.values()]
    asked = (devices, names, [span.low for span in windows], [span.high for span in windows])
    stored: list[list[Span]] = [[] for _ in found]
    explained: list[list[Gap]] = [[] for _ in found]
    for place, low, high in rows(db, _WINDOW.format(more="", table="stored_ranges"), asked):
        stored[place - 1].append(Span(low, high))
    for place, low, high, reason in rows(db, _WINDOW.format(more=", reason", table="explained_ranges"), asked):
        explained[place - 1].append(Gap(low, high, unpack(reason)))
    return {
        key: _Stream(Book(spans, gaps), (frozenset(spans), frozenset(gaps)))
        for key, spans, gaps in zip(found, stored, explained, strict=True)
    }


_WINDOW = """SELECT place, old.low, old.high{more}
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) WITH ORDINALITY
        AS asked (device, stream, low, high, place)
    JOIN {table} AS old ON old.edge_device_id = asked.device AND old.stream_id = asked.stream
        AND old.low <= asked.high AND old.high >= asked.low
        AND old.low >= coalesce((SELECT max(low) FROM {table} AS first WHERE first.edge_device_id = asked.device
            AND first.stream_id = asked.stream AND first.low <= asked.low), 0)
    ORDER BY place, old.low"""


def _plan(stream: _Stream, batch: Batch) -> _Plan:
    """Which records are new, which came before, and why others will not come."""
    first, repeats, unnumbered = sort_out(batch.records)
    known = stream.book.note_stored(first)
    numbered = [record for seq, record in first.items() if seq not in known]
    stream.fresh |= {record.seq: record.payload for record in numbered if record.seq is not None}
    losses, refusals, refused = explanations(batch)
    for gap in losses:
        stream.book.explain(gap)
    stream.rejected += refused + sum(stream.book.explain(gap) for gap in refusals)
    stream.unnumbered += len(unnumbered)
    repeats += [first[seq] for seq in known]
    return _Plan(batch, _key(batch), [*numbered, *unnumbered], len(unnumbered), repeats)


def _compare(db: Connection, streams: dict[StreamKey, _Stream], plans: Sequence[_Plan]) -> None:
    """Keep aside the repeats that carry another payload than the stored one.

    A prediction that retention has dropped can't be compared: its number was stored, so the repeat is a duplicate.
    """
    repeats = [(plan, record, record.seq) for plan in plans for record in plan.repeats if record.seq is not None]
    if not repeats:
        return
    asked = {(plan.key, seq) for plan, _, seq in repeats if seq not in streams[plan.key].fresh}
    payloads = {(key, seq): payload for key, stream in streams.items() for seq, payload in stream.fresh.items()}
    if asked:
        columns = (
            [pack(key.edge_device_id) for key, _ in asked], [pack(key.stream_id) for key, _ in asked],
            [seq for _, seq in asked],
        )  # fmt: skip
        order = list(asked)
        for place, payload in rows(db, _PAYLOADS, columns):
            payloads[order[place - 1]] = payload
    for plan, record, seq in repeats:
        stream = streams[plan.key]
        if payloads.get((plan.key, seq), record.payload) == record.payload:
            continue
        plan.conflicting.append(seq)
        stream.conflicts += db.execute(
            "INSERT INTO conflicts VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                pack(plan.key.edge_device_id), pack(plan.key.stream_id), seq,
                hashlib.sha256(record.payload.encode()).digest(), plan.batch.received_at, record.payload,
            ),
        ).rowcount  # fmt: skip
    for plan in plans:
        streams[plan.key].duplicates += len(plan.repeats) - len(plan.conflicting)


_PAYLOADS = """SELECT place, payload FROM unnest(%s::text[], %s::text[], %s::bigint[]) WITH ORDINALITY
        AS asked (device, stream, seq, place)
    CROSS JOIN LATERAL (SELECT payload FROM predictions AS old WHERE old.edge_device_id = asked.device
        AND old.stream_id = asked.stream AND old.seq = asked.seq LIMIT 1) AS found"""


def _copy(db: Connection, plans: Iterable[_Plan]) -> None:
    with db.cursor() as cursor, cursor.copy(_COPY) as copy:
        for plan in plans:
            batch = plan.batch
            device, stream = pack(plan.key.edge_device_id), pack(plan.key.stream_id)
            number = secrets.randbits(NUMBER_BITS - BATCH_BITS) << BATCH_BITS
            for record in plan.fresh:
                number += 1
                copy.write_row(
                    (
                        device, stream, record.seq, number, record.timestamp, batch.received_at, batch.late,
                        record.defect_detected, pack(record.model_name), pack(record.model_version),
                        _classes(record.classes), record.payload,
                    )
                )  # fmt: skip


def _classes(text: str | None) -> list[str] | None:
    return None if text is None else [pack(name) for name in msgspec.json.decode(text, type=list[str])]


def _add_rollups(db: Connection, plans: Iterable[_Plan]) -> None:
    found: dict[tuple[str, Key], Rollup] = {}
    for plan in plans:
        for key, rollup in roll_up(plan.fresh, plan.batch.received_at, late=plan.batch.late).items():
            found.setdefault((plan.batch.device_id, key), Rollup()).add(rollup)
    with db.cursor() as cursor:
        cursor.executemany(
            _ADD.encode(),
            [
                (
                    pack(device), key.grain, key.start, _digest(key), pack(key.model_name), pack(key.model_version),
                    *rollup.row(),
                )
                for (device, key), rollup in found.items()
            ],
        )  # fmt: skip


def _digest(key: Key) -> bytes:
    return hashlib.sha256(f"{key.model_name}\0{key.model_version}".encode()).digest()[:16]


def _close_streams(db: Connection, streams: dict[StreamKey, _Stream]) -> None:
    """Write back what has changed of the ranges and the sums."""
    with db.cursor() as cursor:
        for table, at in (("stored_ranges", 0), ("explained_ranges", 1)):
            gone, new = [], []
            for key, stream in streams.items():
                name = (pack(key.edge_device_id), pack(key.stream_id))
                before = stream.before[at]
                after = frozenset[Span | Gap](stream.book.explained if at else stream.book.stored)
                gone += [(*name, _low(span)) for span in before - after]
                new += [(*name, *_row(span)) for span in after - before]
            if gone:
                cursor.executemany(
                    f"DELETE FROM {table} WHERE edge_device_id = %s AND stream_id = %s AND low = %s".encode(),  # noqa: S608
                    gone,
                )
            if new:
                cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s, %s{', %s' * at})".encode(), new)  # noqa: S608
        cursor.executemany(
            _COUNT.encode(),
            [
                (
                    stream.book.last_seq, stream.book.stored_more, stream.book.explained_more, stream.unnumbered,
                    stream.duplicates, stream.conflicts, stream.rejected, pack(key.edge_device_id), pack(key.stream_id),
                )
                for key, stream in streams.items()
            ],
        )  # fmt: skip


def _low(span: Span | Gap) -> int:
    return span.low if isinstance(span, Span) else span.from_seq


def _row(span: Span | Gap) -> tuple[object, ...]:
    return span if isinstance(span, Span) else (span.from_seq, span.to_seq, pack(span.reason or ""))


def _answer(plan: _Plan) -> wire.Answer:
    return wire.Answer(
        accepted=len(plan.fresh),
        duplicates=len(plan.repeats) - len(plan.conflicting),
        conflicts=len(plan.conflicting),
        conflicting=plan.conflicting or UNSET,
        rejected=list(plan.batch.rejected),
        delivery="at-least-once" if plan.unnumbered or plan.batch.stream_id is None else "exactly-once",
    )


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
