"""The device's figures in the format that Prometheus reads: one table of them, filled from the status."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.messages import LinkState
from actors.status import ALERT_NAMES, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MIB = 2**20

Samples = Mapping[tuple[str, ...], float]
"""Values by the values of the labels."""


@attrs.frozen
class Figure:
    """One metric: its name without `_total`, what it says, its labels, and how it is read off the status."""

    name: str
    help: str
    read: Callable[[Status], float | Samples | None]
    counts: bool = False
    """Whether it only ever grows while the process lives."""
    labels: tuple[str, ...] = ()

    @property
    def exposed_name(self) -> str:
        """The name on the page."""
        return f"{self.name}_total" if self.counts else self.name

    @property
    def kind(self) -> str:
        """`counter` or `gauge`."""
        return "counter" if self.counts else "gauge"

    def family(self, status: Status) -> Metric:
        """The metric, as of that status. A figure that is not known now has no sample."""
        make: Any = CounterMetricFamily if self.counts else GaugeMetricFamily
        family: Metric = make(self.name, self.help, labels=self.labels)
        value = self.read(status)
        samples = value if isinstance(value, Mapping) else {} if value is None else {(): value}
        for labels, sample in samples.items():
            family.add_metric(labels, sample)  # type: ignore[attr-defined]
        return family


def _seconds_ms(value: float) -> float:
    return value / 1_000


FIGURES: tuple[Figure, ...] = (
    Figure("holdfast_healthy", "1 while GET /health says ok.", lambda s: s["healthy"]),
    Figure("holdfast_ready", "1 while GET /ready says ready.", lambda s: s["ready"]),
    Figure(
        "holdfast_alert",
        "1 while the alert of that name holds.",
        lambda s: {(name,): float(name in s["alerts"]) for name in ALERT_NAMES},
        labels=("alert",),
    ),
    Figure(
        "holdfast_accepted_predictions",
        "Predictions that got a number, over the life of the stream.",
        lambda s: s["last_seq"],
        counts=True,
    ),
    Figure(
        "holdfast_sent_predictions",
        "Predictions that the cloud confirmed, over the life of the stream.",
        lambda s: s["sent"],
        counts=True,
    ),
    Figure(
        "holdfast_evicted_predictions",
        "Predictions given up to make room, over the life of the stream.",
        lambda s: s["evicted"],
        counts=True,
    ),
    Figure(
        "holdfast_damaged_predictions",
        "Predictions whose bytes went bad at rest, set aside and explained, over the life of the stream.",
        lambda s: s["damaged"],
        counts=True,
    ),
    Figure(
        "holdfast_turned_away_predictions",
        "Predictions that got no number since start, because the disk was full or refused.",
        lambda s: s["turned_away"],
        counts=True,
    ),
    Figure("holdfast_pending_predictions", "Predictions that the cloud has not confirmed.", lambda s: s["pending"]),
    Figure(
        "holdfast_oldest_pending_age_seconds",
        "How long the oldest pending prediction has waited; 0 while none does.",
        lambda s: s["oldest_pending_age_s"] or 0.0,
    ),
    Figure("holdfast_in_flight_predictions", "Predictions that a lane has in its hands.", lambda s: s["in_flight"]),
    Figure("holdfast_quarantined_predictions", "Predictions that the cloud refused for good.", lambda s: s["failed"]),
    Figure("holdfast_memory_only_predictions", "Predictions that no disk holds.", lambda s: s["in_memory"]),
    Figure(
        "holdfast_buffer_size_bytes", "Disk that the buffer and the journal use.", lambda s: round(s["size_mb"] * MIB)
    ),
    Figure("holdfast_buffer_capacity_bytes", "BUFFER_MAX_SIZE_MB.", lambda s: round(s["capacity_mb"] * MIB)),
    Figure(
        "holdfast_buffer_full_in_seconds",
        "When the buffer is full if it goes on growing like this; absent while it does not grow.",
        lambda s: s["full_in_s"],
    ),
    Figure("holdfast_journal_degraded", "1 while SQLite takes the commits.", lambda s: bool(s["degraded"])),
    Figure("holdfast_disk_trouble", "1 while the disk refuses.", lambda s: bool(s["trouble"])),
    Figure("holdfast_disk_silent_seconds", "Since the disk last answered.", lambda s: s["disk_silent_s"]),
    Figure("holdfast_loop_lag_seconds", "How late the last look of the monitor came.", lambda s: s["loop_lag_s"]),
    Figure("holdfast_link_up", "1 while the link to the cloud is up.", lambda s: s["is_connected"]),
    Figure(
        "holdfast_link_state",
        "1 for the state that the link is in.",
        lambda s: {(state.value,): float(state.value == s["link"]["state"]) for state in LinkState},
        labels=("state",),
    ),
    Figure("holdfast_link_state_age_seconds", "How long the link has been so.", lambda s: s["link"]["for_s"]),
    Figure("holdfast_recovery_active", "1 while a backlog is drained.", lambda s: s["recovery_active"]),
    Figure("holdfast_recovery_runs", "Drains begun since start.", lambda s: s["recovery_count"], counts=True),
    Figure("holdfast_posts", "Requests with predictions, since start.", lambda s: s["posts"], counts=True),
    Figure("holdfast_retried_posts", "Requests of a live batch after its first.", lambda s: s["retried"], counts=True),
    Figure(
        "holdfast_sent_bytes", "Bodies sent since start, before compression.", lambda s: s["bytes_sent"], counts=True
    ),
    Figure(
        "holdfast_duplicate_predictions",
        "Predictions that the cloud had already, since start.",
        lambda s: s["duplicates"],
        counts=True,
    ),
    Figure(
        "holdfast_rejected_predictions",
        "Predictions that the cloud refused for good, since start.",
        lambda s: s["rejected"],
        counts=True,
    ),
    Figure("holdfast_frames", "Frames that the model has seen since start.", lambda s: s["frames"], counts=True),
    Figure(
        "holdfast_unreadable_frames",
        "Images that could not be read or judged, since start.",
        lambda s: s["unreadable"],
        counts=True,
    ),
    Figure(
        "holdfast_skipped_frames",
        "Frames of live sources that a fresher one replaced, since start.",
        lambda s: s["skipped"],
        counts=True,
    ),
    Figure(
        "holdfast_inference_seconds", "The last frame's time in the model.", lambda s: _seconds_ms(s["inference_ms"])
    ),
    Figure("holdfast_cameras_down", "Cameras that give no frames.", lambda s: len(s["cameras_down"])),
    Figure(
        "holdfast_model_info",
        "1; the labels name the model that is loaded.",
        lambda s: {(s["model"], s["model_version"]): 1.0} if s["model_version"] else {},
        labels=("model", "version"),
    ),
)
"""Every metric of ours."""


@attrs.frozen
class _FromStatus(Collector):
    status: Callable[[], Status]

    def collect(self) -> Iterator[Metric]:
        now = self.status()
        yield from (figure.family(now) for figure in FIGURES)

    def describe(self) -> Iterable[Metric]:
        """No names in advance: otherwise the registry would ask for a status to learn them."""
        return ()


@attrs.define
class Metrics:
    """`GET /metrics`: ours, and what the operating system says of the process."""

    status: Callable[[], Status]
    _registry: CollectorRegistry = attrs.field(factory=lambda: CollectorRegistry(auto_describe=False), init=False)

    def __attrs_post_init__(self) -> None:
        self._registry.register(_FromStatus(self.status))
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """The text of this moment."""
        return generate_latest(self._registry)
