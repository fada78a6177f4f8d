"""What crosses a channel (the map: `actors/__init__.py`): frozen, small, named for what happened.

Of ours it imports only replies, numbers and the wire contract. Those that are made for every prediction, or anew with
every group, are msgspec's: made in C, in a fifth of the time.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any

import attrs
from msgspec import Struct

from actors.reply import Reply
from actors.seqs import Payloads, Seqs, payloads_of, seqs_of
from cloud.wire import BATCH_RECORDS_MAX, Detection, Loss

# --- towards the disk


class PipelineClosed(Exception):
    """The pipeline has stopped, or is stopping: the prediction was not accepted."""


class Entry(Struct, frozen=True, gc=False):
    """One prediction that asks to be made durable. `body` is its JSON, still without a number."""

    image_id: str
    timestamp: float
    body: bytes


class Receipt(Struct, frozen=True, gc=False):
    """What `log()` returns. `durable` says that the prediction was fsynced before this receipt was written.

    Without `durable` there is no `seq` either: the disk takes nothing at the moment and memory keeps the prediction for
    a live delivery (`accepted`), or a policy of the operator turned it away.
    """

    stream_id: str
    seq: int | None
    durable: bool
    accepted: bool = True
    """False if a policy turned the prediction away: nobody keeps it."""


class Accept(Struct, frozen=True, eq=False, gc=False):
    """inference, log() -> buffer_writer: make these durable, then answer with a receipt each, in order."""

    entries: tuple[Entry, ...]
    reply: Reply[tuple[Receipt, ...]] | None = None


# --- towards the cloud


@attrs.frozen
class Stream:
    """Under which name the numbers from `first_seq` on go out."""

    stream_id: str
    device_id: str
    first_seq: int = 1


class Lane(enum.Enum):
    """Which of the uplink's two lanes a batch takes."""

    LIVE = "live"
    BACKLOG = "backlog"


class Fate(enum.Enum):
    """What became of predictions that were in flight."""

    SENT = "sent"
    """The cloud confirmed them."""
    RELEASED = "released"
    """Not delivered; they are pending again and belong to nobody, until recovery asks for them."""
    QUARANTINED = "quarantined"
    """The cloud refused them for good: `status='failed'`, with its error."""
    CONFLICTED = "conflicted"
    """The cloud has other predictions under their numbers: they go out again under new ones."""


class Trouble(enum.Enum):
    """Why a backlog batch did not get through, as far as the pace of recovery cares."""

    NONE = "none"
    BUSY = "busy"
    """429 or 503: wait `retry_after_s`, then go slower."""
    FAILED = "failed"
    """No answer, or not a good one: the link is in question."""
    TOO_LARGE = "too large"
    """413: smaller batches, the link is fine."""


@attrs.frozen
class Delivery:
    """uplink -> recovery, in the batch's reply: how the POST of a backlog batch went, and how long it took."""

    trouble: Trouble
    records: int
    """How many predictions the cloud settled (confirmed or refused for good)."""
    seconds: float
    retry_after_s: float = 0.0
    records_max: int = BATCH_RECORDS_MAX
    """How many predictions the cloud takes in one POST, as it said last."""


@attrs.frozen
class Batch:
    """batcher, recovery -> uplink: what one POST carries. `reply` is asked for by recovery alone."""

    records: Payloads = attrs.field(converter=payloads_of)
    lane: Lane
    losses: tuple[Loss, ...] = ()
    reply: Reply[Delivery] | None = None


@attrs.frozen
class Outcome:
    """uplink, recovery -> buffer_writer: the fate of numbers that were in flight.

    `error` is None for RELEASED without an attempt; then nothing is written to the disk. `losses` are the ranges that
    the cloud took note of. `payload_bytes`: what lies behind `seqs` at most; to write the fate down rewrites that much.
    """

    fate: Fate
    seqs: Seqs = attrs.field(converter=seqs_of)
    error: str | None = None
    losses: tuple[Loss, ...] = ()
    payload_bytes: int = attrs.field(default=0, eq=False)


@attrs.frozen
class Page:
    """A page of the backlog, claimed for whoever asked; `cursor` is where the next page starts.

    `records` may be empty while `exhausted` is False (all of the page was already in flight). `exhausted` says that
    nothing pending lies beyond `cursor`.
    """

    records: Payloads = attrs.field(converter=payloads_of)
    cursor: int
    exhausted: bool
    losses: tuple[Loss, ...] = ()


@attrs.frozen
class PageRequest:
    """recovery -> buffer_writer: the oldest pending predictions above `after`, or the newest below it (0: all)."""

    after: int
    records_max: int
    bytes_max: int
    reply: Reply[Page]
    newest: bool = False


# --- the link


class LinkState(enum.Enum):
    """What connectivity holds to be true of the way to the cloud."""

    UNKNOWN = "unknown"
    """Nothing was tried yet."""
    UP = "up"
    SUSPECT = "suspect"
    """A send failed; a probe is on its way."""
    DOWN = "down"
    REFUSED = "refused"
    """Somebody answers, but will not take our predictions: wrong key, wrong address, captive portal."""


@attrs.frozen
class Link:
    """The state of the link, why, and since when (seconds of the monotonic clock)."""

    state: LinkState
    reason: str = ""
    since: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether it makes sense to POST."""
        return self.state in (LinkState.UNKNOWN, LinkState.UP, LinkState.SUSPECT)


class Sign(enum.Enum):
    """What a request, or the lack of an answer, says of the link."""

    ALIVE = "alive"
    """The cloud answered as the cloud does (also 'busy' and 'too large')."""
    FAILED = "failed"
    """No answer, half an answer, or a 5xx."""
    REFUSED = "refused"


@attrs.frozen
class Report:
    """uplink -> connectivity: a sign of life, or of the lack of it, with what was seen."""

    sign: Sign
    reason: str = ""


# --- what an operator may change while the device runs


@attrs.frozen(kw_only=True)
class Knobs:
    """SIGHUP -> batcher, uplink, recovery, as a state cell: each reads it anew whenever it needs one of them."""

    batch_size: int = 32
    batch_timeout_s: float = 10.0
    retries_max: int = 3
    retry_multiplier: float = 2.0
    records_per_s_max: float | None = None
    """The fastest that a backlog is sent, in predictions a second; None: as fast as the cloud takes it."""
    newest_first: bool = False
    """The order in which a backlog is sent."""


# --- what actors show of themselves (state cells, read by the monitor)


class Books(Struct, frozen=True):
    """buffer_writer's account of the disk. Counts are predictions of this stream, sizes are bytes on disk."""

    stream_id: str = ""
    streams: tuple[Stream, ...] = ()
    """The names of its numbers, oldest first; more than one after a fork or a change of the device's id."""
    renumbered: int = 0
    """Predictions whose numbers the cloud knew with other payloads, since start."""
    degraded: str = ""
    """Why the journal is out of service and SQLite takes the commits; empty when all is well."""
    in_memory: int = 0
    """Predictions that only memory holds, because the disk takes nothing."""
    last_seq: int = 0
    pending: int = 0
    sent: int = 0
    failed: int = 0
    evicted: int = 0
    turned_away: int = 0
    """Predictions without a number that nobody keeps: refused by `drop_newest`, or given up from a full memory."""
    damaged: int = 0
    in_flight: int = 0
    oldest_pending_at: float | None = None
    """When the oldest pending prediction was accepted (seconds since 1970)."""
    size_bytes: int = 0
    capacity_bytes: int = 0
    set_aside_bytes: int = 0
    set_aside_dropped: int = 0
    """Damaged bytes kept for whoever wants to look, and such copies given up for room since this process began."""
    recovered: int = 0
    """Predictions that the last start saved from the journals of earlier sessions."""
    recovered_first_at: float | None = None
    """When the oldest of their images was taken (seconds since 1970), and the newest."""
    recovered_last_at: float | None = None
    trouble: str = ""
    """Why accepts wait, in words; empty when all is well."""
    disk_answered_at: float | None = None
    """When the disk last came back from a piece of work, also with an error (seconds of the monotonic clock)."""


@attrs.frozen
class Traffic:
    """uplink's account of its requests since start."""

    sent: int = 0
    duplicates: int = 0
    rejected: int = 0
    retried: int = 0
    """POSTs of a live batch after its first."""
    released: int = 0
    """Predictions given back to the backlog."""
    posts: int = 0
    bytes_sent: int = 0
    last_error: str = ""
    last_error_at: float | None = None
    """When that was, on the loop's clock."""
    live_under_way: bool = False
    live_at: float = -math.inf
    """When a live batch was last stored, on the loop's clock."""
    live_s: float = math.inf
    """And how long that took."""
    shared: bool = False
    """The cloud hears another process under this device's id at the same time."""


@attrs.frozen
class Drain:
    """recovery's progress through the backlog."""

    active: bool = False
    sent: int = 0
    """Predictions confirmed in this drain."""
    runs: int = 0
    """Drains begun since start."""
    rate_per_s: float = 0.0
    since: float = 0.0
    """When this drain began, on the monotonic clock."""


@attrs.frozen
class Unread:
    """An image that could not be read or judged, and why."""

    name: str
    reason: str


@attrs.frozen(eq=False)
class Look:
    """The pixels (BGR) that the model looked at last, and what it saw in them: for a page that shows it."""

    image_id: str
    image: Any
    detections: tuple[Detection, ...]


@attrs.frozen
class Vision:
    """inference's account of the sources and of the model."""

    frames: int = 0
    unreadable: int = 0
    unreadable_last: tuple[Unread, ...] = ()
    """The latest of them, each name once."""
    skipped: int = 0
    """Frames of live sources that a fresher one replaced before the model was free."""
    model_name: str = ""
    model_version: str = ""
    """Empty until the model is loaded."""
    model_classes: tuple[str, ...] = ()
    model_trouble: str = ""
    """Why the model was not exchanged when that was asked for; the one before goes on."""
    inference_ms: float = 0.0
    """The last frame's time in the model."""
    last: Look | None = None
    """One frame is kept, whatever comes; nothing is drawn before somebody asks."""
    cameras_down: tuple[str, ...] = ()
    finished: bool = False
    """All sources have ended (files); never true with a live camera."""


@attrs.frozen
class Pulse:
    """monitor's own account, a look a second: what only shows from one look to the next. Times are monotonic."""

    looked_at: float | None = None
    lag_s: float = 0.0
    """How late the last look came: how long something held up the loop."""
    frames_per_s: float = 0.0
    accepted_per_s: float = 0.0
    delivered_per_s: float = 0.0
    full_in_s: float | None = None
    """When the buffer reaches its cap if it goes on growing like this; None while it does not grow."""
    silent: str = ""
    """Why the disk must be called hung; empty while it answers, also with an error."""
    stuck: str = ""
    """Why it must be said that nothing moves; empty when it does, or has no reason to."""
    clock_trouble: str = ""
    """Why the wall clock can't be right; empty when nothing speaks against it."""
    alert_since: Mapping[str, float] = attrs.field(factory=dict)
    """The alerts that hold, and since when."""


@attrs.frozen
class AlertChange:
    """monitor -> notifier: an alert has begun, or is over after `held_s` seconds. `at` is seconds since 1970."""

    name: str
    detail: str
    at: float
    began: bool
    held_s: float = 0.0
