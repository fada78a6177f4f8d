"""Count, say when something is wrong, and say when it is over."""

from typing import TypedDict

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors.messages import Books, Drain, Link, LinkState, Traffic, Vision

LOOK_EVERY_S = 1.0
PENDING_ALERT = 1_000
CAPACITY_ALERT_PERCENT = 90.0
FAILED_ALERT = 100

log = structlog.get_logger()


class LinkStatus(TypedDict):
    """The link: its state, why, and for how many seconds it has been so."""

    state: str
    reason: str
    for_s: float


class Status(TypedDict):
    """The device at a glance. Counts are predictions, sizes are MiB, ages are seconds."""

    edge_device_id: str
    stream_id: str
    last_seq: int
    pending: int
    sent: int
    failed: int
    evicted: int
    turned_away: int
    in_flight: int
    in_memory: int
    oldest_pending_age_s: float | None
    size_mb: float
    capacity_mb: float
    capacity_percent: float
    is_connected: bool
    link: LinkStatus
    recovery_active: bool
    recovery_count: int
    recovered_at_start: int
    buffered: int
    retried: int
    duplicates: int
    rejected: int
    last_error: str
    frames: int
    unreadable: int
    unreadable_last: dict[str, str]
    skipped: int
    model: str
    model_version: str
    model_classes: list[str]
    inference_ms: float
    cameras_down: list[str]
    sources_finished: bool
    trouble: str
    degraded: str
    alerts: list[str]


@attrs.frozen(kw_only=True)
class Cells:
    """Every actor's state cell. An actor writes its own; anybody may read."""

    books: AsyncValue[Books] = attrs.field(factory=lambda: AsyncValue(Books()))
    link: AsyncValue[Link] = attrs.field(factory=lambda: AsyncValue(Link(LinkState.UNKNOWN)))
    drain: AsyncValue[Drain] = attrs.field(factory=lambda: AsyncValue(Drain()))
    traffic: AsyncValue[Traffic] = attrs.field(factory=lambda: AsyncValue(Traffic()))
    vision: AsyncValue[Vision] = attrs.field(factory=lambda: AsyncValue(Vision()))


def status(device_id: str, cells: Cells, *, now: float, monotonic: float) -> Status:
    """The account of this moment; `now` is wall-clock seconds, `monotonic` the link's clock."""
    books, link, drain = cells.books.value, cells.link.value, cells.drain.value
    traffic, vision = cells.traffic.value, cells.vision.value
    return Status(
        edge_device_id=device_id,
        stream_id=books.stream_id,
        last_seq=books.last_seq,
        pending=books.pending,
        sent=books.sent,
        failed=books.failed,
        evicted=books.evicted,
        turned_away=books.turned_away,
        in_flight=books.in_flight,
        in_memory=books.in_memory,
        oldest_pending_age_s=oldest_pending_age_s(books, now),
        size_mb=books.size_bytes / 2**20,
        capacity_mb=books.capacity_bytes / 2**20,
        capacity_percent=capacity_percent(books),
        is_connected=link.state is LinkState.UP,
        link=LinkStatus(state=link.state.value, reason=link.reason, for_s=max(0.0, monotonic - link.since)),
        recovery_active=drain.active,
        recovery_count=drain.runs,
        recovered_at_start=books.recovered,
        buffered=books.pending,
        retried=traffic.retried,
        duplicates=traffic.duplicates,
        rejected=traffic.rejected,
        last_error=traffic.last_error,
        frames=vision.frames,
        unreadable=vision.unreadable,
        unreadable_last={unread.name: unread.reason for unread in vision.unreadable_last},
        skipped=vision.skipped,
        model=vision.model_name,
        model_version=vision.model_version,
        model_classes=list(vision.model_classes),
        inference_ms=vision.inference_ms,
        cameras_down=list(vision.cameras_down),
        sources_finished=vision.finished,
        trouble=books.trouble,
        degraded=books.degraded,
        alerts=sorted(alerts(books, link, vision)),
    )


def oldest_pending_age_s(books: Books, now: float) -> float | None:
    """How long the oldest pending prediction has waited; None when none does (its time is told a second late)."""
    if not books.pending or books.oldest_pending_at is None:
        return None
    return max(0.0, now - books.oldest_pending_at)


def capacity_percent(books: Books) -> float:
    """How full the buffer is; 0 before the first account."""
    return 100.0 * books.size_bytes / books.capacity_bytes if books.capacity_bytes else 0.0


def alerts(books: Books, link: Link, vision: Vision) -> dict[str, str]:
    """What is wrong now: a name for each alert, and what an operator reads of it."""
    found = {}
    if books.pending > PENDING_ALERT:
        found["pending_high"] = f"{books.pending} predictions wait to be delivered (alert above {PENDING_ALERT})"
    if capacity_percent(books) > CAPACITY_ALERT_PERCENT:
        found["buffer_nearly_full"] = f"the buffer is {capacity_percent(books):.0f} % full"
    if books.failed > FAILED_ALERT:
        found["failed_high"] = f"{books.failed} predictions were refused by the cloud (alert above {FAILED_ALERT})"
    if books.trouble:
        found["disk_trouble"] = books.trouble
    if books.in_memory:
        found["not_durable"] = f"{books.in_memory} predictions are kept in memory only: the disk takes nothing"
    if books.degraded:
        found["journal_unwritable"] = f"{books.degraded}; SQLite takes the commits meanwhile"
    if link.state is LinkState.REFUSED:
        found["link_refused"] = link.reason
    if vision.cameras_down:
        found["camera_down"] = ", ".join(vision.cameras_down)
    if vision.model_trouble:
        found["model_not_exchanged"] = vision.model_trouble
    return found


async def run(cells: Cells) -> None:
    """Log each alert once when it begins and once when it ends, with how long it held. Runs until cancelled."""
    since: dict[str, float] = {}
    while True:
        now = trio.current_time()
        found = alerts(cells.books.value, cells.link.value, cells.vision.value)
        for name in found.keys() - since.keys():
            log.warning("alert", name=name, detail=found[name])
            since[name] = now
        for name in since.keys() - found.keys():
            log.warning("alert_over", name=name, held_s=round(now - since.pop(name), 1))
        await trio.sleep(LOOK_EVERY_S)
