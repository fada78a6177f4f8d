"""Rows of either store as a reader of the ledger takes them."""

from collections.abc import Iterable, Sequence
from typing import Any

from cloud.ledger import (
    Bucket,
    Conflict,
    ConflictCursor,
    ConflictPage,
    Cursor,
    Device,
    Gap,
    Page,
    SeriesQuery,
    Stats,
    StatsQuery,
    StoredPrediction,
    StreamAudit,
    Tally,
)
from cloud.ledger.ranges import Span, gaps
from cloud.ledger.rollups import Rollup, starts

PAGE_BYTES_MAX = 8 * 1024 * 1024
"""A page of very large predictions ends early, so that no answer is larger than about this."""
GAPS_MAX = 1_000
"""How many gaps of a stream are listed; all of them are counted."""
SCAN_ROWS_MAX = 20_000
"""How many predictions one question looks at whose filter no index serves: it costs the same however many there are."""


def read_page(limit: int, rows: Iterable[tuple[Any, ...]], floor: Cursor | None = None) -> Page:
    """A page of up to `limit` out of one row more: number, timestamp, payload, device, stream, received_at, late.

    `floor`: the last prediction that was looked at, where there may be more behind it; None: all were.
    """
    items: list[StoredPrediction] = []
    last: Cursor | None = None
    size = 0
    for number, timestamp, payload, device, stream, received_at, late in rows:
        if len(items) == limit or (items and size + len(payload) > PAGE_BYTES_MAX):
            return Page(tuple(items), last)
        items.append(StoredPrediction(payload, device, stream or None, received_at, bool(late)))
        size += len(payload)
        last = Cursor(timestamp, number)
    return Page(tuple(items), floor)


def read_conflicts(limit: int, rows: Iterable[tuple[Any, ...]]) -> ConflictPage:
    """A page of up to `limit` out of one row more: stream, seq, digest, received_at, payload stored and received."""
    items: list[Conflict] = []
    last: ConflictCursor | None = None
    size = 0
    for stream, seq, digest, received_at, stored, received in rows:
        bytes_more = len(stored or "") + len(received)
        if len(items) == limit or (items and size + bytes_more > PAGE_BYTES_MAX):
            return ConflictPage(tuple(items), last)
        items.append(Conflict(stream, seq, received_at, stored, received))
        size += bytes_more
        last = ConflictCursor(stream, seq, bytes(digest))
    return ConflictPage(tuple(items), None)


def read_stats(query: StatsQuery, sums: Sequence[float | None], by: Sequence[Iterable[tuple[str, int, int]]]) -> Stats:
    """What the rollups of a widened question come to: their sums, and the counts by device and by model."""
    whole = Rollup.from_row(sums)
    by_edge_device, by_model = ({name: Tally(int(count), int(bad)) for name, count, bad in rows} for rows in by)
    return Stats(
        total=whole.tally(),
        by_edge_device=by_edge_device,
        by_model=by_model,
        whole=whole.bucket(query.since or 0.0),
        inference_histogram=tuple(whole.inference_counts),
        since=query.since,
        until=query.until,
    )


def read_series(query: SeriesQuery, rows: Iterable[Sequence[Any]]) -> tuple[Bucket, ...]:
    """Every bucket out of the rows of those that are not empty: the start, and the sums."""
    found = {row[0]: Rollup.from_row(row[1:]) for row in rows}
    empty = Rollup()
    return tuple(found.get(start, empty).bucket(start) for start in starts(query))


def read_device(row: Sequence[Any]) -> Device:
    """A row of the fleet table."""
    device, first, last, late, pending, lateness_s, *counts = row
    return Device(
        edge_device_id=device,
        first_seen_at=first,
        last_seen_at=last,
        last_was_late=bool(late),
        pending=pending,
        tally=Tally(*counts[:2]),
        last_hour=Tally(*counts[2:4]),
        last_lateness_s=lateness_s,
        missing=counts[4],
        unexplained=counts[5],
    )


def account(
    stream_id: str,
    stored: Sequence[Span],
    explained: Sequence[Gap],
    counters: Sequence[int],
) -> StreamAudit:
    """A stream's audit, out of its ranges (disjoint and in order) and counters.

    These are: unnumbered, duplicates, conflicts, rejected.
    """
    unnumbered, duplicates, conflicts, rejected = counters
    last_seq = max(stored[-1].high if stored else 0, explained[-1].to_seq if explained else 0)
    missing = known = count = 0
    listed: list[Gap] = []
    for gap in gaps(stored, explained, last_seq):
        size = gap.to_seq - gap.from_seq + 1
        missing += size
        known += size if gap.reason is not None else 0
        count += 1
        if count <= GAPS_MAX:
            listed.append(gap)
    return StreamAudit(
        stream_id=stream_id or None,
        last_seq=last_seq,
        stored=last_seq - missing,
        unnumbered=unnumbered,
        duplicates=duplicates,
        conflicts=conflicts,
        rejected=rejected,
        missing=missing,
        explained=known,
        gaps=tuple(listed),
        gaps_total=count,
    )
