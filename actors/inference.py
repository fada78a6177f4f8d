"""See: frames in, predictions out; the one owner of the model, and of every camera that may fail."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import attrs
import msgspec
import structlog
import trio
from trio_util import AsyncValue

from actors.backoff import backoff_s
from actors.messages import Accept, Entry, Receipt, Reply, Vision
from actors.ports.detector import Detector, DetectorError, Sight
from actors.ports.frames import (
    Frame,
    FrameUnreadable,
    ImageGiven,
    LibraryMissing,
    Source,
    SourceDown,
    decode_image,
    image_id,
)
from actors.ports.lane import RunSync
from cloud.wire import Prediction, WireError, encode_prediction

RESTART_MULTIPLIER = 2.0
FAILURES_IN_A_ROW_MAX = 10
"""Frames one after another on which the model fails: then it is the model, and the process ends loudly."""
REQUESTS_AT_ONCE_MAX = 16
UNREADABLE_NAMED_MAX = 1_000
"""A name is logged once; so many are remembered for it."""
CLOSE_S = 5.0
"""How long the closing of a source may hold up the end."""

log = structlog.get_logger()


class ImageResult(TypedDict):
    """What `process_image` returns. `logged_to_cloud` says that the prediction was accepted for delivery."""

    image_id: str
    detections: list[dict[str, Any]]
    defect_detected: bool
    inference_time_ms: float
    logged_to_cloud: bool


ImageRefused: TypeAlias = FrameUnreadable | LibraryMissing | DetectorError | WireError
"""Why an image could not be processed; an error to raise where it was asked for."""


@attrs.frozen(eq=False)
class ImageRequest:
    """process_image -> inference: what does the model say of this image?"""

    image: ImageGiven
    reply: Reply[ImageResult | ImageRefused]
    image_id: str | None = None


async def run(
    requests: trio.MemoryReceiveChannel[ImageRequest],
    accepts: trio.MemorySendChannel[Accept],
    *,
    sources: Sequence[Source],
    detector: Detector,
    run_detect: RunSync,
    run_frames: Callable[[], RunSync],
    stopping: trio.Event,
    vision: AsyncValue[Vision],
    now: Callable[[], float],
    rng: random.Random,
    restart_after_s: float = 1.0,
    restart_max_s: float = 60.0,
) -> None:
    """Watch every source until `stopping`, answer requests until their channel ends, then close `accepts`.

    `run_detect` is the model's lane, `run_frames` makes one for each source. `DetectorError` if there are sources and
    the model can't be loaded, or keeps failing; `LibraryMissing` if they need OpenCV and it is not there.
    """
    with requests, accepts:
        eye = _Eye(detector, run_detect, accepts, vision)
        if sources and not stopping.is_set():
            await eye.load()
        knobs = (eye, stopping, rng, restart_after_s, restart_max_s)
        watches = [_Watch(source, run_frames(), *knobs) for source in sources]
        async with trio.open_nursery() as nursery:
            if watches:
                nursery.start_soon(_watch_all, watches, vision)
            desk = _Desk(eye, run_frames(), now)
            async for request in requests:
                await desk.free.acquire()
                nursery.start_soon(desk.answer, request)


# --- pure decisions


def predict_of(frame: Frame, sight: Sight, model_name: str, model_version: str) -> Prediction:
    """The prediction that a sight of a frame makes; any detection is a defect."""
    return Prediction(
        image_id=frame.image_id,
        timestamp=frame.captured_at,
        model_name=model_name,
        model_version=model_version,
        inference_time_ms=sight.inference_ms,
        detections=sight.detections,
        defect_detected=bool(sight.detections),
        confidence_scores=tuple(detection.confidence for detection in sight.detections),
    )


def result_of(prediction: Prediction, receipts: Sequence[Receipt]) -> ImageResult:
    """What the caller of `process_image` gets once the receipt is there."""
    return ImageResult(
        image_id=prediction.image_id,
        detections=[{**msgspec.to_builtins(found), "bbox": list(found.bbox)} for found in prediction.detections],
        defect_detected=prediction.defect_detected,
        inference_time_ms=prediction.inference_time_ms,
        logged_to_cloud=all(receipt.accepted for receipt in receipts),
    )


def id_of(request: ImageRequest, number: int, received_at: float) -> str:
    """The id that was asked for; else the file's name; else when the image came, and its number in this session."""
    if request.image_id is not None:
        return request.image_id
    if isinstance(request.image, str | Path):
        return image_id("image", Path(request.image).name)
    return image_id("image", f"{received_at:.3f}-{number:06d}")


# --- the shell


@attrs.define(eq=False)
class _Eye:
    """The model, and the account of what it saw."""

    detector: Detector
    run_detect: RunSync
    accepts: trio.MemorySendChannel[Accept]
    vision: AsyncValue[Vision]
    _loading: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _loaded: bool = attrs.field(default=False, init=False)

    async def load(self) -> None:
        """Load the model, the first time; `DetectorError` if that can't be, and the next call tries again."""
        async with self._loading:
            if self._loaded:
                return
            started = trio.current_time()
            await self.run_detect(self.detector.load)
            self._loaded = True
        took_s = round(trio.current_time() - started, 3)
        log.info("model_loaded", model=self.detector.model_name, version=self.detector.model_version, took_s=took_s)

    async def look(self, frame: Frame) -> tuple[Prediction, Entry]:
        """What the model says of a frame; `DetectorError` or `WireError` if nothing can be said."""
        sight = await self.run_detect(self.detector.detect, frame.image)
        prediction = predict_of(frame, sight, self.detector.model_name, self.detector.model_version)
        entry = Entry(frame.image_id, frame.captured_at, encode_prediction(prediction))
        self.note(frames=self.vision.value.frames + 1, inference_ms=sight.inference_ms)
        return prediction, entry

    def note(self, **changes: object) -> None:
        """Write changes into the state cell."""
        self.vision.value = attrs.evolve(self.vision.value, **changes)


async def _watch_all(watches: Sequence["_Watch"], vision: AsyncValue[Vision]) -> None:
    async with trio.open_nursery() as nursery:
        for watch in watches:
            nursery.start_soon(watch.run, name=f"source {watch.source.name}")
    if all(watch.ended for watch in watches):
        vision.value = attrs.evolve(vision.value, finished=True)


@attrs.define(eq=False)
class _Watch:
    """One source: opened, read to its end, and opened again after a pause when it fails."""

    source: Source
    lane: RunSync
    eye: _Eye
    stopping: trio.Event
    rng: random.Random
    restart_after_s: float
    restart_max_s: float
    ended: bool = attrs.field(default=False, init=False)
    _attempt: int = attrs.field(default=0, init=False)
    _frames: int = attrs.field(default=0, init=False)
    _model_failures: int = attrs.field(default=0, init=False)
    _named: set[str] = attrs.field(factory=set, init=False)

    async def run(self) -> None:
        """Until the source has ended, or `stopping`; other sources never notice what happens here."""
        try:
            while not (self.ended or self.stopping.is_set()):
                try:
                    await self.lane(self.source.open)
                    await self._see_all()
                except SourceDown as exc:
                    await self.lane(self.source.close)
                    await self._pause(str(exc))
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self.lane(self.source.close)
        log.info("source_ended", source=self.source.name, frames=self._frames, by_itself=self.ended)

    async def _see_all(self) -> None:
        due = trio.current_time()
        while True:
            with trio.move_on_at(due):
                await self.stopping.wait()
            if self.stopping.is_set():
                return
            due = max(due + self.source.period_s, trio.current_time())
            try:
                frame = await self.lane(self.source.read)
            except FrameUnreadable as exc:
                self._turn_away(exc.path, exc.reason)
                continue
            self._mark_up()
            if frame is None:
                self.ended = True
                return
            await self._see(frame)

    async def _see(self, frame: Frame) -> None:
        try:
            _, entry = await self.eye.look(frame)
        except (DetectorError, WireError) as exc:
            self._model_failures += 1
            self._turn_away(frame.image_id, str(exc))
            if self._model_failures >= FAILURES_IN_A_ROW_MAX:
                raise
            return
        self._model_failures = 0
        self._frames += 1
        await self.eye.accepts.send(Accept((entry,)))

    async def _pause(self, reason: str) -> None:
        pause_s = self.restart_after_s + backoff_s(
            self._attempt, multiplier=RESTART_MULTIPLIER, rng=self.rng, max_s=self.restart_max_s
        )
        self._attempt += 1
        down = sorted({*self.eye.vision.value.cameras_down, self.source.name})
        self.eye.note(cameras_down=tuple(down))
        log.warning("source_down", source=self.source.name, reason=reason, again_in_s=round(pause_s, 1))
        with trio.move_on_after(pause_s):
            await self.stopping.wait()

    def _mark_up(self) -> None:
        if self._attempt:
            self._attempt = 0
            down = (name for name in self.eye.vision.value.cameras_down if name != self.source.name)
            self.eye.note(cameras_down=tuple(down))
            log.info("source_up", source=self.source.name)

    def _turn_away(self, name: str, reason: str) -> None:
        self.eye.note(unreadable=self.eye.vision.value.unreadable + 1)
        if name not in self._named and len(self._named) < UNREADABLE_NAMED_MAX:
            self._named.add(name)
            log.warning("frame_unreadable", source=self.source.name, frame=name, reason=reason)


@attrs.define(eq=False)
class _Desk:
    """Answers those who ask about one image."""

    eye: _Eye
    lane: RunSync
    now: Callable[[], float]
    free: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(REQUESTS_AT_ONCE_MAX), init=False)
    _count: int = attrs.field(default=0, init=False)

    async def answer(self, request: ImageRequest) -> None:
        """Decode, look, wait for the receipt; what can't be done is the answer too."""
        try:
            request.reply.put(await self._result(request))
        except (FrameUnreadable, LibraryMissing, DetectorError, WireError) as exc:
            request.reply.put(exc)
        finally:
            self.free.release()

    async def _result(self, request: ImageRequest) -> ImageResult:
        self._count += 1
        received_at = self.now()
        ident = id_of(request, self._count, received_at)
        image = await self.lane(decode_image, request.image)
        await self.eye.load()
        prediction, entry = await self.eye.look(Frame(ident, "image", image, received_at))
        reply = Reply[tuple[Receipt, ...]]()
        await self.eye.accepts.send(Accept((entry,), reply))
        return result_of(prediction, await reply.wait())
