"""Wire the device together: ports, channels, actors, and the one way to stop them. No logic."""

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec

import attrs
import structlog
import trio

from actors import batcher, buffer_writer, connectivity, fitting, inference, monitor, notifier, recovery, uplink
from actors.handle import Control, Pipeline
from actors.inference import ImageRequest
from actors.messages import (
    Accept,
    AlertChange,
    Batch,
    Report,
)
from actors.ports.annotate import Annotator
from actors.ports.client import CloudClient
from actors.ports.detector import Detector
from actors.ports.disk import Disk
from actors.ports.frames import Source
from actors.ports.lane import RunSync, leaving_lane, thread_lane
from actors.ports.opening import new_stream_id
from actors.ports.replay import Recovered
from actors.seqs import Stored
from actors.settings import Settings
from actors.status import Cells
from cloud.wire import BATCH_BYTES_MAX

__all__ = ["Pipeline", "Ports", "open_pipeline"]

ACCEPTS_MAX = 1_024
"""Accepts that may wait for the disk; a caller beyond that waits in `log()`."""
CONTROL_MAX = 64
LIVE_MAX = 1_024
"""Durable predictions that may wait for the batcher; what does not fit is the backlog's."""
LIVE_BATCHES_MAX = 2
REPORTS_MAX = 16
ALERT_CHANGES_MAX = 64
"""Alerts that may wait for the webhook; more are logged only."""
REQUESTS_MAX = 4
FLUSH_RESERVE_S = buffer_writer.CLOSE_S
"""Of the grace of a shutdown so much is kept for the disk, and the network gets the rest."""
RECOVERY_JITTER_S = 0.5
"""A drain begins after a random pause of up to so long, so that a fleet does not return in one instant."""

P = ParamSpec("P")
log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class Ports:
    """The world as the pipeline meets it. A test hands in another one; `None` means what the settings say."""

    now: Callable[[], float] = time.time
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    lane: Callable[[], RunSync] = thread_lane
    sources: Sequence[Source] | None = None
    detector: Detector | None = None
    client: CloudClient | None = None
    new_id: Callable[[float], str] = new_stream_id
    sync: Callable[[int], None] = os.fdatasync


@asynccontextmanager
async def open_pipeline(settings: Settings, ports: Ports | None = None) -> AsyncIterator[Pipeline]:
    """A device that runs for as long as the `async with` block, and stops within `SHUTDOWN_GRACE_SECONDS` after it.

    Raises `StoreLocked` if another process has the buffer, `StoreMisplaced` if its path can't be one, and
    `SourcesWrong`. A defect in an actor ends the block loudly, with an ExceptionGroup; everything accepted is on the
    disk even then.
    """
    world = ports or Ports()
    sources = fitting.sources(settings, world.now) if world.sources is None else world.sources
    accepts_in, accepts = trio.open_memory_channel[Accept](ACCEPTS_MAX)
    requests_in, requests = trio.open_memory_channel[ImageRequest](REQUESTS_MAX)
    control_in, control = trio.open_memory_channel[Control](CONTROL_MAX)
    async with world.client or fitting.client(settings, world.lane()) as client:
        cells = Cells()
        disk = await fitting.disk(
            settings,
            world.lane,
            now=world.now,
            new_id=world.new_id,
            sync=world.sync,
            model=lambda: fitting.model_in_use(settings, cells.vision.value),
        )
        pipeline = Pipeline(
            device_id=settings.edge_device_id,
            recovered=disk.store.recovered if disk.store else Recovered(),
            cells=cells,
            settings=settings,
            client=client,
            bounds=fitting.bounds(settings, watches=bool(sources)),
            stopping=trio.Event(),
            accepts=accepts_in,
            control=control_in.clone(),
            requests=requests_in,
            now=world.now,
            draw=world.lane(),
        )
        house = _House(settings, world, pipeline, disk, client)
        try:
            async with trio.open_nursery() as watchers:
                house.start_watch(watchers)
                with pipeline._scope as scope:  # noqa: SLF001 - made here, for this
                    async with trio.open_nursery() as nursery:
                        house.start_delivery(nursery, accepts, control_in, control)
                        house.start_vision(nursery, requests, accepts_in.clone(), sources)
                        yield pipeline
                        pipeline.stop()
                        grace_s = settings.shutdown_grace_seconds
                        grace_s -= min(FLUSH_RESERVE_S, grace_s / 2)
                        scope.deadline = min(scope.deadline, trio.current_time() + grace_s)
                watchers.cancel_scope.cancel()
        finally:
            pipeline._close()  # noqa: SLF001


@attrs.frozen
class _House:
    """What the actors are wired from."""

    settings: Settings
    world: Ports
    pipeline: Pipeline
    disk: Disk
    client: CloudClient

    def start_watch(self, nursery: trio.Nursery) -> None:
        """monitor, and notifier where somebody wants to hear of alerts."""
        changes_in, changes = trio.open_memory_channel[AlertChange](ALERT_CHANGES_MAX)
        pipeline, world = self.pipeline, self.world
        _start(nursery, monitor.run, changes_in, cells=pipeline.cells, bounds=pipeline.bounds, now=world.now)
        webhook = fitting.webhook(self.settings, world.lane)
        if webhook is None:
            changes.close()
        else:
            _start(nursery, notifier.run, changes, webhook=webhook, device_id=pipeline.device_id, rng=world.rng)

    def start_vision(
        self,
        nursery: trio.Nursery,
        requests: trio.MemoryReceiveChannel[ImageRequest],
        accepts: trio.MemorySendChannel[Accept],
        sources: Sequence[Source],
    ) -> None:
        """inference, with the detector that the settings ask for unless one was given."""
        settings, given = self.settings, self.world.detector
        make = self.make_detector
        _start(
            nursery,
            inference.run,
            requests,
            accepts,
            sources=sources,
            detector=given or make(),
            make_detector=None if given else make,
            exchanges=self.pipeline.exchanges,
            defect_classes=None if settings.defect_classes is None else frozenset(settings.defect_classes),
            draw=None if settings.annotate_dir is None else Annotator(settings.annotate_dir).draw,
            stall_s=settings.camera_stall_seconds,
            # What a model still does when the grace is over is of no use to anybody.
            run_detect=thread_lane(leaves=True) if self.world.lane is thread_lane else self.world.lane(),
            run_frames=self.world.lane,
            run_live=leaving_lane if self.world.lane is thread_lane else self.world.lane,
            stopping=self.pipeline.stopping,
            vision=self.pipeline.cells.vision,
            now=self.world.now,
            rng=self.world.rng,
        )

    def make_detector(self) -> Detector:
        """The one that the settings in force ask for."""
        return fitting.detector(self.pipeline.settings)

    def start_delivery(
        self,
        nursery: trio.Nursery,
        accepts: trio.MemoryReceiveChannel[Accept],
        control_in: trio.MemorySendChannel[Control],
        control: trio.MemoryReceiveChannel[Control],
    ) -> None:
        """buffer_writer, and behind it the four that deliver; none of those where delivery is switched off."""
        settings = self.settings
        stored_in, stored = trio.open_memory_channel[Stored](LIVE_MAX)
        nudges_in, nudges = trio.open_memory_channel[None](1)
        _start(
            nursery,
            buffer_writer.run,
            accepts,
            control,
            stored_in,
            nudges_in,
            disk=self.disk,
            books=self.pipeline.cells.books,
            when_full=settings.buffer_when_full,
            group_min=settings.buffer_flush_interval,
            group_wait_s=settings.buffer_flush_ms / 1_000,
        )
        if not settings.cloud_logging_enabled:
            stored.close()
            nudges.close()
            control_in.close()
            return
        live_in, live = trio.open_memory_channel[Batch](LIVE_BATCHES_MAX)
        backlog_in, backlog = trio.open_memory_channel[Batch](1)
        _start(
            nursery,
            batcher.run,
            stored,
            live_in,
            knobs=self.pipeline.knobs,
            bytes_max=BATCH_BYTES_MAX,
        )
        _start(
            nursery,
            recovery.run,
            nudges,
            control_in.clone(),
            backlog_in,
            link=self.pipeline.cells.link,
            drain=self.pipeline.cells.drain,
            traffic=self.pipeline.cells.traffic,
            knobs=self.pipeline.knobs,
            start_jitter_s=RECOVERY_JITTER_S,
            rng=self.world.rng,
        )
        self.start_link(nursery, live, backlog, control_in)

    def start_link(
        self,
        nursery: trio.Nursery,
        live: trio.MemoryReceiveChannel[Batch],
        backlog: trio.MemoryReceiveChannel[Batch],
        outcomes: trio.MemorySendChannel[Control],
    ) -> None:
        """uplink and connectivity: the two that speak to the cloud."""
        settings, cells = self.settings, self.pipeline.cells
        reports_in, reports = trio.open_memory_channel[Report](REPORTS_MAX)
        _start(
            nursery,
            uplink.run,
            live,
            backlog,
            outcomes,
            reports_in,
            link=cells.link,
            stopping=self.pipeline.stopping,
            traffic=cells.traffic,
            books=cells.books,
            client=self.client,
            device_id=settings.edge_device_id,
            session_id=f"{self.world.rng.getrandbits(64):016x}",
            knobs=self.pipeline.knobs,
            rng=self.world.rng,
            now=self.world.now,
        )
        _start(
            nursery,
            connectivity.run,
            reports,
            link=cells.link,
            client=self.client,
            rng=self.world.rng,
            interval_s=settings.connectivity_interval_seconds,
            timeout_s=settings.connectivity_timeout_seconds,
        )


def _start(nursery: trio.Nursery, actor: Callable[P, Awaitable[None]], /, *channels: P.args, **knobs: P.kwargs) -> None:
    """Start an actor under the name of its file."""
    nursery.start_soon(partial(actor, *channels, **knobs), name=actor.__module__.rpartition(".")[2])
