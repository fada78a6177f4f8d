"""The device at a glance: every actor's state cell, put together for whoever asks. Pure."""

from typing import TypedDict

import attrs
from trio_util import AsyncValue

from actors.alerts import ALERTS, Scene, capacity_percent, holding, oldest_pending_age_s
from actors.messages import Books, Drain, Link, LinkState, Pulse, Traffic, Vision
from actors.readiness import Bounds, age_s, failing, unready

RATE_S = 10
"""The rates of a pulse are means over so many seconds."""
ALERT_NAMES = tuple(ALERTS)
"""What `alerts` may hold."""


@attrs.frozen(kw_only=True)
class Cells:
    """Every actor's state cell. An actor writes its own; anybody may read."""

    books: AsyncValue[Books] = attrs.field(factory=lambda: AsyncValue(Books()))
    link: AsyncValue[Link] = attrs.field(factory=lambda: AsyncValue(Link(LinkState.UNKNOWN)))
    drain: AsyncValue[Drain] = attrs.field(factory=lambda: AsyncValue(Drain()))
    traffic: AsyncValue[Traffic] = attrs.field(factory=lambda: AsyncValue(Traffic()))
    vision: AsyncValue[Vision] = attrs.field(factory=lambda: AsyncValue(Vision()))
    pulse: AsyncValue[Pulse] = attrs.field(factory=lambda: AsyncValue(Pulse()))


class LinkStatus(TypedDict):
    """The link: its state, why, and for how many seconds it has been so."""

    state: str
    reason: str
    for_s: float


class AlertStatus(TypedDict):
    """One alert that holds: what an operator reads of it, and for how many seconds it has held."""

    detail: str
    for_s: float


class Status(TypedDict):
    """The device at a glance. Counts are predictions, sizes are MiB, ages are seconds."""

    edge_device_id: str
    healthy: bool
    failing: list[str]
    ready: bool
    unready: list[str]
    stream_id: str
    last_seq: int
    pending: int
    sent: int
    failed: int
    evicted: int
    damaged: int
    turned_away: int
    in_flight: int
    in_memory: int
    oldest_pending_age_s: float | None
    size_mb: float
    capacity_mb: float
    capacity_percent: float
    full_in_s: float | None
    is_connected: bool
    link: LinkStatus
    recovery_active: bool
    recovery_count: int
    recovery_sent: int
    recovery_per_s: float
    recovery_eta_s: float | None
    recovered_at_start: int
    recovered_first_at: float | None
    recovered_last_at: float | None
    set_aside_mb: float
    set_aside_dropped: int
    buffered: int
    posts: int
    bytes_sent: int
    retried: int
    duplicates: int
    rejected: int
    last_error: str
    last_error_age_s: float | None
    frames: int
    frames_per_s: float
    accepted_per_s: float
    delivered_per_s: float
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
    disk_silent_s: float
    loop_lag_s: float
    alerts: list[str]
    alert_details: dict[str, AlertStatus]


def status_of(device_id: str, cells: Cells, *, now: float, monotonic: float, bounds: Bounds) -> Status:
    """The account of this moment; `now` is wall-clock seconds, `monotonic` the loop's clock."""
    books, link, drain = cells.books.value, cells.link.value, cells.drain.value
    traffic, vision, pulse = cells.traffic.value, cells.vision.value, cells.pulse.value
    wrong = failing(books, pulse, monotonic=monotonic)
    missing = (*wrong, *unready(books, link, vision, pulse, bounds=bounds))
    found = holding(Scene(books, link, vision, pulse, now, traffic))
    return Status(
        edge_device_id=device_id,
        healthy=not wrong,
        failing=list(wrong),
        ready=not missing,
        unready=list(missing),
        stream_id=books.stream_id,
        last_seq=books.last_seq,
        pending=books.pending,
        sent=books.sent,
        failed=books.failed,
        evicted=books.evicted,
        damaged=books.damaged,
        turned_away=books.turned_away,
        in_flight=books.in_flight,
        in_memory=books.in_memory,
        oldest_pending_age_s=oldest_pending_age_s(books, now),
        size_mb=books.size_bytes / 2**20,
        capacity_mb=books.capacity_bytes / 2**20,
        capacity_percent=capacity_percent(books),
        full_in_s=pulse.full_in_s,
        is_connected=link.state is LinkState.UP,
        link=LinkStatus(state=link.state.value, reason=link.reason, for_s=max(0.0, monotonic - link.since)),
        recovery_active=drain.active,
        recovery_count=drain.runs,
        recovery_sent=drain.sent,
        recovery_per_s=drain.rate_per_s,
        recovery_eta_s=recovery_eta_s(books, drain, pulse),
        recovered_at_start=books.recovered,
        recovered_first_at=books.recovered_first_at,
        recovered_last_at=books.recovered_last_at,
        set_aside_mb=books.set_aside_bytes / 2**20,
        set_aside_dropped=books.set_aside_dropped,
        buffered=books.pending,
        posts=traffic.posts,
        bytes_sent=traffic.bytes_sent,
        retried=traffic.retried,
        duplicates=traffic.duplicates,
        rejected=traffic.rejected,
        last_error=traffic.last_error,
        last_error_age_s=None if traffic.last_error_at is None else age_s(traffic.last_error_at, monotonic),
        frames=vision.frames,
        frames_per_s=pulse.frames_per_s,
        accepted_per_s=pulse.accepted_per_s,
        delivered_per_s=pulse.delivered_per_s,
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
        disk_silent_s=age_s(books.disk_answered_at, monotonic),
        loop_lag_s=pulse.lag_s,
        alerts=sorted(found),
        alert_details={
            name: AlertStatus(detail=found[name], for_s=max(0.0, monotonic - pulse.alert_since.get(name, monotonic)))
            for name in sorted(found)
        },
    )


def recovery_eta_s(books: Books, drain: Drain, pulse: Pulse) -> float | None:
    """When the drain is through if it goes on like this; None outside a drain, or while more comes than goes.

    None, too, while the mean of the last seconds still holds some from before the drain: it would tell of half an hour
    where seconds are left.
    """
    if not drain.active or pulse.looked_at is None or pulse.looked_at - drain.since < RATE_S:
        return None
    shrinking_per_s = pulse.delivered_per_s - pulse.accepted_per_s
    return books.pending / shrinking_per_s if shrinking_per_s > 0 else None


def summary(status: Status) -> str:
    """The status in one line."""
    wrong = f"; {', '.join(status['alerts'])}" if status["alerts"] else ""
    return f"{status['pending']} pending, {status['sent']} sent, link {status['link']['state']}{wrong}"
