"""What the service's answers look like, as types: for the OpenAPI document and the test that reads real answers."""

from msgspec import Struct

from cloud import wire
from cloud.ledger import Bucket, Gap


class Batch(wire.Envelope, frozen=True, kw_only=True):
    """The body of `POST /log`. A plain client may send `edge_device_id` and `predictions` alone."""

    predictions: list[wire.Prediction]  # type: ignore[assignment]  # the envelope leaves them unread


class Problem(Struct, omit_defaults=True):
    """What went wrong (RFC 9457): where, and what to do about it."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str | None = None
    request_id: str | None = None


class State(Struct):
    """`ok` or `ready`."""

    status: str


class Index(Struct):
    """What there is to ask for."""

    service: str
    endpoints: dict[str, str]


class Tally(Struct):
    """Counts of all time: retention does not lower them."""

    total_predictions: int
    defects_detected: int
    defect_rate: float


class Lateness(Struct):
    """Seconds from capture to arrival; null where there is nothing."""

    mean: float | None
    max: float | None


class InferenceTimes(Struct):
    """In ms. `counts` are predictions up to each of `up_to`, and above the last."""

    mean: float | None
    p50: float | None
    p95: float | None
    up_to: list[float]
    counts: list[int]


class Stats(Tally):
    """What was stored, or what the question picked of it; the bounds as they were widened."""

    since: float | None
    until: float | None
    late: int
    clock_wrong: int
    lateness_s: Lateness
    inference_ms: InferenceTimes
    by_edge_device: dict[str, Tally]
    by_model: dict[str, Tally]


class Series(Struct):
    """The same over time."""

    bucket_s: int
    buckets: list[Bucket]


class StoredPrediction(wire.Prediction, frozen=True, kw_only=True):
    """A prediction as it was sent, also what we do not know of it, and what the ledger adds.

    `late` came out of the device's backlog; `clock_wrong` marks a capture time that can't be right.
    """

    edge_device_id: str
    stream_id: str | None
    received_at: float
    late: bool
    clock_wrong: bool


class Page(Struct):
    """Newest first. `next_cursor` is null behind the last page, and there alone.

    A page may have fewer predictions than its limit, even none: of a filter without an index so many are looked at.
    """

    predictions: list[StoredPrediction]
    next_cursor: str | None


class Device(Tally):
    """`state` is `live`, `late` or `silent`; `pending` is the backlog that the device last reported."""

    edge_device_id: str
    state: str
    first_seen_at: float
    last_seen_at: float
    last_was_late: bool
    pending: int | None
    last_lateness_s: float | None
    missing: int
    unexplained: int
    last_hour: Tally


class Devices(Struct):
    """Every device that ever sent something."""

    devices: list[Device]


class Sums(Struct, kw_only=True):
    """Accepted against stored. `explained` + `unexplained` = `missing`."""

    stored: int
    unnumbered: int
    duplicates: int
    conflicts: int
    rejected: int
    missing: int
    explained: int
    unexplained: int


class Stream(Sums, kw_only=True):
    """One stream's account, and the first of its gaps."""

    stream_id: str | None
    first_seq: int
    last_seq: int
    gaps: list[Gap]
    gaps_total: int


class Audit(Sums, kw_only=True):
    """A device's account: sums, then each stream."""

    edge_device_id: str
    streams: list[Stream]


class Conflict(Struct):
    """A number that came again with another payload. `stored` came first; null once retention has dropped it."""

    stream_id: str
    seq: int
    received_at: float
    stored: wire.Prediction | None
    received: wire.Prediction


class Conflicts(Struct):
    """By stream and number. `next_cursor` is null behind the last page."""

    edge_device_id: str
    conflicts: list[Conflict]
    next_cursor: str | None
