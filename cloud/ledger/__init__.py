"""The cloud's store of predictions: what every ledger takes and gives, whatever database lies behind it.

A ledger answers a batch only after its own commit. It knows every (device, stream, seq) it ever stored, also after
retention has dropped the prediction itself, so a repeat is a duplicate for ever and the audit stays exact.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import attrs

from cloud import wire


class LedgerBusy(Exception):
    """Too much is waiting already; nothing of this request was taken. Come back after `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after_s = retry_after_s


class LedgerUnavailable(Exception):
    """The store can't do its work now (disk full, file locked or damaged); nothing of this request was stored."""

    retry_after_s = 5


class LedgerUnusable(Exception):
    """The store can't be opened at all; the text names it and the remedy."""


# --- what goes in


class Record(NamedTuple):
    """One prediction that keeps the contract. `seq` is None where the sender gave no stream or no number."""

    seq: int | None
    payload: str
    """The record's JSON exactly as received."""
    timestamp: float
    inference_time_ms: float
    model_name: str
    model_version: str
    defect_detected: bool
    classes: str | None
    """The distinct classes among the detections as a JSON array without spaces, or None without any."""


@attrs.frozen
class Batch:
    """One POST, checked. `rejected` are the records that will not be stored; those with a number are explained."""

    device_id: str
    stream_id: str | None
    records: tuple[Record, ...]
    rejected: tuple[wire.Rejection, ...]
    losses: tuple[wire.Loss, ...]
    late: bool
    pending: int | None
    """The backlog that the device reported, in predictions."""
    received_at: float
    """Seconds since 1970, by the cloud's clock."""
    bytes_plain: int
    """The body's size once decompressed; what the waiting requests are bounded by."""
    session_id: str | None = None
    """The life of the process that sent it."""


# --- what is asked


class Cursor(NamedTuple):
    """The last item of a page: the next page starts behind it."""

    timestamp: float
    number: int


@attrs.frozen
class Query:
    """Which predictions, newest first. `since` <= timestamp < `until`, seconds since 1970."""

    edge_device_id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    defect_detected: bool | None = None
    class_name: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 100
    cursor: Cursor | None = None


@attrs.frozen
class StatsQuery:
    """Of which predictions: captured at `since` or later and before `until`, seconds since 1970; None: no bound.

    Bounds are widened to whole minutes, or to whole hours where `since` lies further back than minutes are kept.
    """

    since: float | None = None
    until: float | None = None
    edge_device_id: str | None = None
    model_name: str | None = None


EVERYTHING = StatsQuery()


@attrs.frozen
class SeriesQuery:
    """Which stretch of time, in buckets of `bucket_s` seconds that start at multiples of it since 1970.

    `bucket_s` is a multiple of 3600, or of 60 where `since` lies within the `MINUTES_KEPT_S` that minutes are kept.
    """

    since: float
    until: float
    bucket_s: int
    edge_device_id: str | None = None
    model_name: str | None = None


MINUTES_KEPT_S = 48 * 3600.0
"""How far back a question may reach by the minute; further back, hours are kept for good."""


class ConflictCursor(NamedTuple):
    """The last conflict of a page; '' for what came without a stream."""

    stream_id: str
    seq: int
    digest: bytes


@attrs.frozen
class ConflictQuery:
    """Which device's conflicts, by stream and number."""

    edge_device_id: str
    limit: int = 100
    cursor: ConflictCursor | None = None


# --- what comes out


@attrs.frozen
class StoredPrediction:
    """A prediction as it lies in the ledger. `late` says that it came out of the device's backlog."""

    payload: str
    edge_device_id: str
    stream_id: str | None
    received_at: float
    late: bool


@attrs.frozen
class Page:
    """Some predictions, newest first; `next_cursor` is None behind the last page."""

    items: tuple[StoredPrediction, ...]
    next_cursor: Cursor | None


@attrs.frozen
class Tally:
    """How many predictions were ever stored, and how many of them had a defect."""

    total_predictions: int
    defects_detected: int

    @property
    def defect_rate(self) -> float:
        """The share with a defect, 0 where there is nothing yet."""
        return self.defects_detected / self.total_predictions if self.total_predictions else 0.0


@attrs.frozen
class Bucket:
    """What the predictions of one stretch of time come to; a mean, maximum or quantile of nothing is None.

    `late` came out of a device's backlog; `clock_wrong` have a capture time that can't be right, and are left out of
    lateness, which runs from capture to arrival. The quantiles of the inference time are interpolated in a histogram of
    fixed bounds.
    """

    start: float
    predictions: int
    defects: int
    late: int
    clock_wrong: int
    lateness_mean_s: float | None
    lateness_max_s: float | None
    inference_mean_ms: float | None
    inference_p50_ms: float | None
    inference_p95_ms: float | None


@attrs.frozen
class Stats:
    """What was ever stored, or what a question picked of it; retention does not lower it.

    `since` and `until` are the bounds as they were widened. `whole` is one bucket over everything, and
    `inference_histogram` counts its predictions up to each of `rollups.BOUNDS_MS`, and above the last.
    """

    total: Tally
    by_edge_device: dict[str, Tally]
    by_model: dict[str, Tally]
    whole: Bucket
    inference_histogram: tuple[int, ...]
    since: float | None = None
    until: float | None = None


@attrs.frozen
class Device:
    """What the ledger knows of one device. `pending` is the backlog that it last reported.

    `last_hour` counts the predictions captured in the last 60 minutes. `last_lateness_s` is that of the newest
    prediction of the last batch that brought any (None: not yet, or a clock that can't be right). `missing` numbers are
    not stored, `unexplained` ones without a reason either.
    """

    edge_device_id: str
    first_seen_at: float
    last_seen_at: float
    last_was_late: bool
    pending: int | None
    tally: Tally
    last_hour: Tally
    last_lateness_s: float | None
    missing: int
    unexplained: int


@attrs.frozen
class Gap:
    """Numbers that are not stored, both ends included; `reason` is None where nobody explained them."""

    from_seq: int
    to_seq: int
    reason: str | None


@attrs.frozen
class StreamAudit:
    """One stream's account. Numbers run from 1 to `last_seq`, the highest one that anybody spoke of (0: none yet).

    `stored` + `missing` = `last_seq`, and `explained` + `unexplained` = `missing`. `gaps` lists the first of
    `gaps_total`. `stream_id` is None for what came without a stream; it and the `unnumbered` can't be audited.
    """

    stream_id: str | None
    last_seq: int
    stored: int
    unnumbered: int
    duplicates: int
    conflicts: int
    rejected: int
    missing: int
    explained: int
    gaps: tuple[Gap, ...]
    gaps_total: int

    @property
    def unexplained(self) -> int:
        """Missing numbers without a reason: what an operator must look into."""
        return self.missing - self.explained


@attrs.frozen
class Conflict:
    """A number that came again with another payload. `stored` came first; None once retention has dropped it."""

    stream_id: str
    seq: int
    received_at: float
    stored: str | None
    received: str


@attrs.frozen
class ConflictPage:
    """Some conflicts; `next_cursor` is None behind the last page."""

    items: tuple[Conflict, ...]
    next_cursor: ConflictCursor | None


class Ledger(Protocol):
    """What the routes ask of a store. Every method may raise `LedgerUnavailable`."""

    @property
    def busy(self) -> bool:
        """Whether `ingest` would be turned away now: known before a body is read."""
        ...

    def expect(self) -> AbstractContextManager[None]:
        """A batch is on its way: until it is ingested or the block is left, a commit may wait a moment for it."""
        ...

    async def ingest(self, batch: Batch) -> wire.Answer:
        """Store the batch and answer after the commit; `LedgerBusy` at once when too much is waiting."""
        ...

    async def check(self) -> None:
        """Return if the store answers, and soon."""
        ...

    async def stats(self, query: StatsQuery = EVERYTHING) -> Stats:
        """The tallies, at a cost that does not grow with the number of predictions."""
        ...

    async def series(self, query: SeriesQuery) -> tuple[Bucket, ...]:
        """Every bucket from `since` to `until`, oldest first, also the empty ones; at the same cost."""
        ...

    async def predictions(self, query: Query) -> Page:
        """A page of predictions, newest first."""
        ...

    def export(self, query: Query) -> AsyncGenerator[tuple[StoredPrediction, ...], None]:
        """All that `query` finds from its cursor on, newest first, in chunks of at most `query.limit`.

        Each chunk is a page of its own: memory is that of one chunk, the store is not held while a slow reader takes
        it, and what arrives meanwhile neither repeats nor hides anything. Close it when leaving early:
        `async with aclosing(ledger.export(query)) as chunks: async for chunk in chunks: …`
        """
        ...

    async def devices(self) -> tuple[Device, ...]:
        """Every device that ever sent something, by its id."""
        ...

    async def audit(self, device_id: str) -> tuple[StreamAudit, ...] | None:
        """The account of each stream of a device, oldest first; None for an unknown device."""
        ...

    async def conflicts(self, query: ConflictQuery) -> ConflictPage | None:
        """A page of what came again with another payload, or None for an unknown device."""
        ...
