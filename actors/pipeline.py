"""Wire the device together: ports, channels, actors, and the one way to stop them. No logic."""

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeAlias

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors import batcher, buffer_writer, connectivity, fitting, inference, monitor, notifier, recovery, uplink
from actors.inference import ImageRequest, ImageResult
from actors.messages import (
    Accept,
    AlertChange,
    Batch,
    Entry,
    Knobs,
    Outcome,
    PageRequest,
    Receipt,
    Reply,
    Report,
    Stored,
)
from actors.ports.annotate import Annotator, picture
from actors.ports.client import CloudClient
from actors.ports.detector import Detector
from actors.ports.disk import Disk
from actors.ports.frames import ImageGiven, Source
from actors.ports.lane import RunSync, leaving_lane, thread_lane
from actors.ports.opening import new_stream_id
from actors.ports.replay import Recovered
from actors.readiness import Bounds
from actors.settings import Settings
from actors.status import Cells, Status, status_of
from actors.tasks import Chore, Done, Task, TaskRefused
from cloud.wire import BATCH_BYTES_MAX, Prediction, encode_prediction

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
RECOVERY_JITTER_S = 1.0
"""A drain begins after a random pause of up to so long, so that a fleet does not return in one instant."""

P = ParamSpec("P")
Control: TypeAlias = PageRequest | Outcome | Chore
log = structlog.get_logger()


class PipelineClosed(Exception):
    """The pipeline has stopped, or is stopping: the prediction was not accepted."""


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


@attrs.define(eq=False, kw_only=True)
class Pipeline:
    """A running device. Made by `open_pipeline`."""

    device_id: str
    recovered: Recovered
    """What the last start saved from earlier sessions."""
    cells: Cells
    bounds: Bounds
    stopping: trio.Event
    settings: Settings
    """Those in force; `apply` replaces them."""
    exchanges: AsyncValue[int] = attrs.field(factory=lambda: AsyncValue(0), init=False)
    knobs: AsyncValue[Knobs] = attrs.field(init=False)
    _client: CloudClient
    _accepts: trio.MemorySendChannel[Accept]
    _requests: trio.MemorySendChannel[ImageRequest]
    _control: trio.MemorySendChannel[Control]
    _now: Callable[[], float]
    _draw: RunSync
    _waiting: dict[Reply[Any], object] = attrs.field(factory=dict, init=False)
    """Who still waits for an answer, and what is answered if the end comes first."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def log(self, prediction: Prediction) -> Receipt:
        """Make a prediction durable. When this returns, it has been written and fsynced (`Receipt.durable`).

        Raises `WireError` for a prediction that does not keep the contract, naming the field, and `PipelineClosed`.
        A caller that is cancelled while it waits can't know whether the prediction was accepted.
        """
        return (await self.log_many((prediction,)))[0]

    async def log_many(self, predictions: Sequence[Prediction]) -> tuple[Receipt, ...]:
        """`log` of several predictions, which share one fsync; all are checked before any is accepted."""
        entries = tuple([Entry(one.image_id, one.timestamp, encode_prediction(one)) for one in predictions])
        if not entries:
            return ()
        reply = Reply[tuple[Receipt, ...]]()
        self._waiting[reply] = ()
        try:
            try:
                # The reply is waited for in any case: a checkpoint here would only be one turn of the loop more.
                self._accepts.send_nowait(Accept(entries, reply))
            except trio.WouldBlock:
                await self._accepts.send(Accept(entries, reply))
            receipts = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if not receipts:
            raise PipelineClosed
        return receipts

    async def process_image(self, image: ImageGiven, *, image_id: str | None = None) -> ImageResult:
        """What the model says of an image (a path, the bytes of a file, or a BGR array), made durable.

        Raises `FrameUnreadable`, `DetectorError` or `LibraryMissing`, each naming the thing and the remedy, and
        `PipelineClosed`.
        """
        reply = Reply[ImageResult | inference.ImageRefused]()
        self._waiting[reply] = PipelineClosed()
        try:
            await self._requests.send(ImageRequest(image, reply, image_id))
            result = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if isinstance(result, Exception):
            raise result
        return result

    async def picture(self) -> bytes | None:
        """The last frame that the model saw, with its boxes drawn, as a JPEG; None before the first one."""
        look = self.cells.vision.value.last
        if look is None:
            return None
        return await self._draw(picture, look.image, look.detections) or None

    async def perform(self, task: Task) -> Done:
        """An operator's work on the rows at rest (`app.py buffer …`). `TaskRefused`, `PipelineClosed`."""
        reply = Reply[Done | TaskRefused]()
        self._waiting[reply] = TaskRefused("the device has ended; nothing was done")
        try:
            await self._control.send(Chore(task, reply))
            done = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if isinstance(done, TaskRefused):
            raise done
        return done

    def status(self) -> Status:
        """The device at a glance."""
        return status_of(self.device_id, self.cells, now=self._now(), monotonic=trio.current_time(), bounds=self.bounds)

    def __attrs_post_init__(self) -> None:
        self.knobs = AsyncValue(fitting.knobs(self.settings))

    def apply(self, settings: Settings) -> None:
        """Take over what may change in a running device: batching, pace, key and model (`reloading.py` says what)."""
        before, self.settings = self.settings, settings
        self.knobs.value = fitting.knobs(settings)
        if fitting.api_key(settings) != fitting.api_key(before):
            self._client.change_key(fitting.api_key(settings))
        self.reload_model()

    def reload_model(self) -> None:
        """Load MODEL_PATH anew while the model before goes on, then use it; no frame is lost. The status says which."""
        self.exchanges.value += 1

    def stop(self) -> None:
        """Begin to stop: sources end, what was accepted is flushed, the last batch is offered once."""
        self.stopping.set()
        self._requests.close()
        self._control.close()
        self._accepts.close()

    def skip_network(self) -> None:
        """Stop without waiting for the network any longer; what is accepted is still flushed to the disk."""
        self.stop()
        self._scope.cancel()

    def _close(self) -> None:
        for reply, farewell in self._waiting.items():
            if not reply.given:  # its asker may only not have run yet
                reply.put(farewell)


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
        disk = await fitting.disk(settings, world.lane(), now=world.now, new_id=world.new_id, sync=world.sync)
        pipeline = Pipeline(
            device_id=settings.edge_device_id,
            recovered=disk.store.recovered if disk.store else Recovered(),
            cells=Cells(),
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
            run_detect=self.world.lane(),
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
