"""Everything that changes the SQLite ledger. Each function is called inside one open transaction."""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence

from msgspec import UNSET

from cloud import wire
from cloud.ledger import Batch, Gap, Record, sqlite_rollups
from cloud.ledger.books import REASON_CHARS_MAX, sort_out
from cloud.ledger.ranges import Span, covered, join, overlay, runs, size, uncovered
from cloud.ledger.rollups import lateness_s, roll_up

INSERT = """INSERT INTO predictions (device_no, stream_no, model_no, seq, timestamp, received_at, late,
    defect_detected, classes, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_TOUCHING = """SELECT low, high{more} FROM {table} WHERE stream_no = :stream AND low <= :high_next
    AND high >= :low_before
    AND low >= coalesce((SELECT max(low) FROM {table} WHERE stream_no = :stream AND low <= :low), 0)"""
_STORED_TOUCHING = _TOUCHING.format(table="stored_ranges", more="")
_EXPLAINED_TOUCHING = _TOUCHING.format(table="explained_ranges", more=", reason")


def ingest(db: sqlite3.Connection, batch: Batch) -> wire.Answer:
    """Store one batch; the answer holds once the transaction has been committed."""
    device_no = _device(db, batch)
    stream_no = _stream(db, device_no, batch.stream_id)
    first, repeats, unnumbered = sort_out(batch.records)
    known = _note_stored(db, stream_no, first)
    fresh = [record for seq, record in first.items() if seq not in known]
    _insert(db, batch, device_no, stream_no, [*fresh, *unnumbered])
    repeats += [first[seq] for seq in known]
    conflicting, conflicts_new = _compare(db, stream_no, repeats, batch.received_at)
    rejected_new = _explain_all(db, stream_no, batch)
    db.execute(
        "UPDATE streams SET unnumbered = unnumbered + ?, duplicates = duplicates + ?, conflicts = conflicts + ?,"
        " rejected = rejected + ?, last_seq = max(last_seq, ?) WHERE stream_no = ?",
        (
            len(unnumbered), len(repeats) - len(conflicting), conflicts_new, rejected_new, _highest(batch, first),
            stream_no,
        ),
    )  # fmt: skip
    return wire.Answer(
        accepted=len(fresh) + len(unnumbered),
        duplicates=len(repeats) - len(conflicting),
        conflicts=len(conflicting),
        conflicting=conflicting or UNSET,
        rejected=list(batch.rejected),
        delivery="at-least-once" if unnumbered or batch.stream_id is None else "exactly-once",
    )


def _highest(batch: Batch, first: Iterable[int]) -> int:
    """The highest number that the batch speaks of, 0 if of none."""
    told = [loss.to_seq for loss in batch.losses]
    if batch.stream_id is not None:
        told += [rejection.seq for rejection in batch.rejected if rejection.seq is not None]
    return max(max(first, default=0), max(told, default=0))


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


def _device(db: sqlite3.Connection, batch: Batch) -> int:
    row = db.execute(
        """INSERT INTO devices (edge_device_id, first_seen_at, last_seen_at, last_was_late, pending, last_lateness_s)
        VALUES (:device, :at, :at, :late, :pending, :lateness)
        ON CONFLICT (edge_device_id) DO UPDATE SET last_seen_at = :at, last_was_late = :late,
            pending = coalesce(:pending, pending), last_lateness_s = iif(:empty, last_lateness_s, :lateness)
        RETURNING device_no""",
        {
            "device": batch.device_id, "at": batch.received_at, "late": batch.late, "pending": batch.pending,
            "lateness": lateness_s(batch), "empty": not batch.records,
        },
    ).fetchone()  # fmt: skip
    return int(row[0])


def _stream(db: sqlite3.Connection, device_no: int, stream_id: str | None) -> int:
    key = (device_no, stream_id or "")
    found = db.execute("SELECT stream_no FROM streams WHERE device_no = ? AND stream_id = ?", key).fetchone()
    if found is None:
        found = db.execute(
            "INSERT INTO streams (device_no, stream_id) VALUES (?, ?) RETURNING stream_no", key
        ).fetchone()
    return int(found[0])


def _model(db: sqlite3.Connection, name: str, version: str) -> int:
    key = (name, version)
    found = db.execute("SELECT model_no FROM models WHERE model_name = ? AND model_version = ?", key).fetchone()
    if found is None:
        found = db.execute(
            "INSERT INTO models (model_name, model_version) VALUES (?, ?) RETURNING model_no", key
        ).fetchone()
    return int(found[0])


def _note_stored(db: sqlite3.Connection, stream_no: int, seqs: Iterable[int]) -> list[int]:
    """Merge the numbers into the stream's ranges; those that were there already."""
    known: list[int] = []
    for span in runs(seqs):
        touching = [Span(*row) for row in db.execute(_STORED_TOUCHING, _window(stream_no, span))]
        for part in covered(touching, span):
            known.extend(range(part.low, part.high + 1))
        _count_stored(db, stream_no, uncovered(touching, span))
        merged = join(touching, span)
        if touching == [merged]:
            continue
        db.execute(
            "DELETE FROM stored_ranges WHERE stream_no = ? AND low BETWEEN ? AND ?",
            (stream_no, merged.low, merged.high),
        )
        db.execute("INSERT INTO stored_ranges VALUES (?, ?, ?)", (stream_no, merged.low, merged.high))
    return known


def _count_stored(db: sqlite3.Connection, stream_no: int, new: Sequence[Span]) -> None:
    """Count numbers that are stored for the first time; those that were given up before are missing no more."""
    found = 0
    for part in new:
        touching = [Span(*row[:2]) for row in db.execute(_EXPLAINED_TOUCHING, _window(stream_no, part))]
        found += size(covered(touching, part))
    if new:
        db.execute(
            "UPDATE streams SET stored = stored + ?, explained = explained - ? WHERE stream_no = ?",
            (size(new), found, stream_no),
        )


def _window(stream_no: int, span: Span) -> dict[str, int]:
    return {
        "stream": stream_no,
        "low": span.low,
        "low_before": span.low - 1,
        "high_next": min(span.high + 1, wire.SEQ_MAX),
    }


def _insert(db: sqlite3.Connection, batch: Batch, device_no: int, stream_no: int, records: Sequence[Record]) -> None:
    models = {model: _model(db, *model) for model in {(r.model_name, r.model_version) for r in records}}
    late, received_at = batch.late, batch.received_at
    if not records:
        return
    db.executemany(
        INSERT,
        [
            (device_no, stream_no, models[name, version], seq, timestamp, received_at, late, defect, classes, payload)
            for seq, payload, timestamp, _, name, version, defect, classes in records
        ],
    )
    sqlite_rollups.add(
        db,
        [
            (device_no, models[key.model_name, key.model_version], key, rollup)
            for key, rollup in roll_up(records, received_at, late=late).items()
        ],
    )


def _compare(
    db: sqlite3.Connection, stream_no: int, repeats: Iterable[Record], received_at: float
) -> tuple[list[int], int]:
    """The numbers of the repeats that carry another payload than the stored one, and how many of these are new.

    A prediction that retention has dropped can't be compared: its number was stored, so the repeat is a duplicate.
    """
    conflicting: list[int] = []
    kept = 0
    for record in repeats:
        stored = db.execute(
            "SELECT payload FROM predictions WHERE stream_no = ? AND seq = ?", (stream_no, record.seq)
        ).fetchone()
        if record.seq is None or stored is None or stored[0] == record.payload:
            continue
        conflicting.append(record.seq)
        digest = hashlib.sha256(record.payload.encode()).digest()
        kept += db.execute(
            "INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?, ?)",
            (stream_no, record.seq, digest, received_at, record.payload),
        ).rowcount
    return conflicting, kept


def _explain_all(db: sqlite3.Connection, stream_no: int, batch: Batch) -> int:
    """Note why numbers will not come; how many refusals were not told before (those without a number count anew)."""
    refused = 0
    for loss in batch.losses:
        _explain(db, stream_no, Gap(loss.from_seq, loss.to_seq, loss.reason))
    for rejection in batch.rejected:
        if rejection.seq is None or batch.stream_id is None:
            refused += 1
        else:
            reason = f"rejected: {rejection.error}"[:REASON_CHARS_MAX]
            refused += _explain(db, stream_no, Gap(rejection.seq, rejection.seq, reason))
    return refused


def _explain(db: sqlite3.Connection, stream_no: int, new: Gap) -> bool:
    """Note the reason of a range; False if exactly that was known already."""
    span = Span(new.from_seq, new.to_seq)
    window = _window(stream_no, span)
    touching = [Gap(*row) for row in db.execute(_EXPLAINED_TOUCHING, window)]
    after = overlay(touching, new)
    if after == touching:
        return False
    stored = [Span(*row) for row in db.execute(_STORED_TOUCHING, window)]
    settled = [*stored, *(Span(gap.from_seq, gap.to_seq) for gap in touching)]
    db.execute(
        "UPDATE streams SET explained = explained + ? WHERE stream_no = ?", (size(uncovered(settled, span)), stream_no)
    )
    db.executemany(
        "DELETE FROM explained_ranges WHERE stream_no = ? AND low = ?", [(stream_no, gap.from_seq) for gap in touching]
    )
    db.executemany(
        "INSERT INTO explained_ranges VALUES (?, ?, ?, ?)",
        [(stream_no, gap.from_seq, gap.to_seq, gap.reason) for gap in after],
    )
    return True
