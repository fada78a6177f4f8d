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

from actors.eye import Eye, Sketcher
from actors.gathering import Gathering
from actors.messages import Accept, Receipt, Vision
from actors.ports.annotate import Draw
from actors.ports.detector import Detector, DetectorError
from actors.ports.frames import (
    Frame,
    FrameUnreadable,
    ImageGiven,
    LibraryMissing,
    Source,
    decode_image,
    image_id,
)
from actors.ports.lane import RunSync
from actors.reply import Reply
from actors.watching import Watch
from cloud.wire import Prediction, WireError

REQUESTS_AT_ONCE_MAX = 16

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
    run_live: Callable[[], RunSync] | None = None,
    defect_classes: frozenset[str] | None = None,
    draw: Draw | None = None,
    make_detector: Callable[[], Detector] | None = None,
    exchanges: AsyncValue[int] | None = None,
    restart_after_s: float = 1.0,
    restart_max_s: float = 60.0,
    stall_s: float = 15.0,
) -> None:
    """Watch every source until `stopping`, answer requests until their channel ends, then close `accepts`.

    `run_detect` is the model's lane, `run_frames` makes one for each source, `run_live` one whose calls may be left
    hanging, for live sources. `defect_classes` are those that make a defect (None: all). When `exchanges` grows,
    `make_detector` makes another model, and no frame is lost over it. `DetectorError` if there are sources and the
    model can't be loaded, or keeps failing; `LibraryMissing` if they need OpenCV and it is not there.
    """
    with requests, accepts:
        gathering = Gathering(accepts)
        eye = Eye(detector, run_detect, gathering, vision, defect_classes)
        if sources and not stopping.is_set():
            await eye.load()
        async with trio.open_nursery() as helpers:
            helpers.start_soon(gathering.run)
            if draw is not None:
                eye.sketch = Sketcher(draw, run_frames(), helpers).offer
            if exchanges is not None:
                helpers.start_soon(_exchange_when_told, eye, exchanges, make_detector, run_frames())
            knobs = (eye.see, vision, stopping, rng, restart_after_s, restart_max_s, stall_s)
            lanes = {True: run_live or run_frames, False: run_frames}
            watches = [Watch(source, lanes[source.live](), *knobs) for source in sources]
            async with trio.open_nursery() as nursery:
                if watches:
                    nursery.start_soon(_watch_all, watches, gathering, vision)
                desk = _Desk(eye, run_frames(), now)
                async for request in requests:
                    await desk.free.acquire()
                    nursery.start_soon(desk.answer, request)
            helpers.cancel_scope.cancel()


# --- pure decisions


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


async def _exchange_when_told(
    eye: Eye, exchanges: AsyncValue[int], make: Callable[[], Detector] | None, lane: RunSync
) -> None:
    """Each time that `exchanges` grows; several askings while one is under way make one more."""
    done = exchanges.value
    while True:
        done = await exchanges.wait_value(lambda asked: asked > done)  # noqa: B023 - read at once
        if make is None:
            eye.note(model_trouble="the detector was given in code and can't be made anew; restart to exchange it")
        else:
            await eye.exchange(make, lane)


async def _watch_all(watches: Sequence[Watch], gathering: Gathering, vision: AsyncValue[Vision]) -> None:
    async with trio.open_nursery() as nursery:
        for watch in watches:
            nursery.start_soon(watch.run, name=f"source {watch.source.name}")
    await gathering.flush()
    if all(watch.ended for watch in watches):
        vision.value = attrs.evolve(vision.value, finished=True)


@attrs.define(eq=False)
class _Desk:
    """Answers those who ask about one image."""

    eye: Eye
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
        reply = Reply[tuple[Receipt, ...]]()
        prediction = await self.eye.see(Frame(ident, "image", image, received_at), reply, at_once=True)
        return result_of(prediction, await reply.wait())
