"""What the service counts, as Prometheus reads it: base units, and labels of few values only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import attrs
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cloud import wire
from cloud.ledger import Batch, Device
from cloud.presence import PRESENCES, presence_of

CONTENT_TYPE = CONTENT_TYPE_LATEST
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@attrs.define(eq=False)
class Metrics:
    """Every number of one service, in a registry of its own."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    received_bytes: Counter
    accepted: Counter
    duplicates: Counter
    conflicts: Counter
    rejected: Counter
    queued: Gauge
    commit_seconds: Histogram
    devices: Gauge

    @classmethod
    def create(cls) -> "Metrics":
        """All at zero."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Gauge(
            "holdfast_cloud_build_info", "Always 1; the version is the label.", ["version"], registry=registry
        )
        build.labels(version("holdfast")).set(1)

        def count(name: str, text: str) -> Counter:
            return Counter(f"holdfast_cloud_{name}", text, registry=registry)

        return cls(
            registry=registry,
            requests=Counter(
                "holdfast_cloud_requests",
                "Requests that were answered; status 499: the client went first.",
                ["method", "route", "status"],
                registry=registry,
            ),
            seconds=Histogram(
                "holdfast_cloud_request_seconds",
                "From a request's headers to the last byte of its answer.",
                ["route"],
                buckets=SECONDS,
                registry=registry,
            ),
            received_bytes=count("body_bytes", "Bytes of batches, as received."),
            accepted=count("predictions_ingested", "Predictions stored for the first time."),
            duplicates=count("predictions_duplicate", "Predictions that were stored already."),
            conflicts=count("predictions_conflicting", "Numbers that came again with another payload."),
            rejected=count("predictions_rejected", "Records that do not keep the contract."),
            queued=Gauge("holdfast_cloud_queue_batches", "Batches that wait for their commit.", registry=registry),
            commit_seconds=Histogram(
                "holdfast_cloud_commit_seconds",
                "From a batch checked to its commit, waiting included.",
                buckets=SECONDS,
                registry=registry,
            ),
            devices=Gauge(
                "holdfast_cloud_devices",
                "Devices by state; absent while the store does not answer.",
                ["state"],
                registry=registry,
            ),
        )

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Count a batch as waiting, and the time until it is settled."""
        began = trio.current_time()
        self.queued.inc()
        try:
            yield
        finally:
            self.queued.dec()
        self.commit_seconds.observe(trio.current_time() - began)

    def count(self, batch: Batch, answer: wire.Answer) -> None:
        """Enter a batch that was committed."""
        self.accepted.inc(answer.accepted)
        self.duplicates.inc(answer.duplicates)
        self.conflicts.inc(answer.conflicts)
        self.rejected.inc(len(batch.rejected))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Enter an exchange that is over."""
        self.requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def exposition(self, devices: Iterable[Device] | None, now: float) -> bytes:
        """The text of `GET /metrics`; `devices` is None while the store does not answer."""
        self.devices.clear()
        if devices is not None:
            states = [presence_of(device, now) for device in devices]
            for state in PRESENCES:
                self.devices.labels(state).set(states.count(state))
        return generate_latest(self.registry)
