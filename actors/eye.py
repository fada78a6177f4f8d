"""See through the model: frames that wait together go through it together, and another one can take its place."""

from collections.abc import Callable, Sequence

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors.gathering import Gathering
from actors.messages import Accept, Entry, Look, Receipt, Vision
from actors.ports.annotate import Draw
from actors.ports.detector import Detector, DetectorError, Sight, detect_many
from actors.ports.frames import Frame
from actors.ports.lane import RunSync
from actors.reply import Reply
from cloud.wire import Prediction, encode_prediction

BATCH_MAX = 8
"""So many frames that wait go through the model together."""

log = structlog.get_logger()


def predict_of(
    frame: Frame, sight: Sight, model_name: str, model_version: str, defect_classes: frozenset[str] | None = None
) -> Prediction:
    """The prediction that a sight of a frame makes; any detection of a class of defects is a defect."""
    return Prediction(
        image_id=frame.image_id,
        timestamp=frame.captured_at,
        model_name=model_name,
        model_version=model_version,
        inference_time_ms=sight.inference_ms,
        detections=sight.detections,
        defect_detected=any(defect_classes is None or found.class_name in defect_classes for found in sight.detections),
        confidence_scores=tuple(detection.confidence for detection in sight.detections),
    )


def check_classes(wanted: frozenset[str] | None, known: Sequence[str], model_name: str) -> None:
    """`DetectorError` if DEFECT_CLASSES names a class that the model can't see; a model may not say what it sees."""
    strangers = sorted((wanted or frozenset()) - frozenset(known))
    if strangers and known:
        raise DetectorError(
            f"DEFECT_CLASSES: {', '.join(strangers)}: no such class in model {model_name}; it has {', '.join(known)}"
        )


@attrs.define(eq=False)
class _Glimpse:
    """A frame that waits for the model, and what it said."""

    frame: Frame
    answer: Sight | DetectorError | None = None
    detector: Detector | None = None


@attrs.define(eq=False)
class Eye:
    """The model, and the account of what it saw."""

    detector: Detector
    run_detect: RunSync
    gathering: Gathering
    vision: AsyncValue[Vision]
    defect_classes: frozenset[str] | None
    sketch: Callable[[Frame, Sight], None] | None = None
    _loading: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _loaded: bool = attrs.field(default=False, init=False)
    _looking: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _waiting: list[_Glimpse] = attrs.field(factory=list, init=False)

    async def load(self) -> None:
        """Load the model, the first time; `DetectorError` if that can't be, and the next call tries again."""
        async with self._loading:
            if not self._loaded:
                await self._load(self.detector, self.run_detect)
                self._loaded = True

    async def exchange(self, make: Callable[[], Detector], lane: RunSync) -> None:
        """Load another model beside the one that goes on meanwhile, then use it; a model that fails is not used."""
        async with self._loading:
            try:
                fresh = await lane(make)
                if self._loaded:
                    await self._load(fresh, lane)
            except DetectorError as exc:
                self.note(model_trouble=str(exc))
                log.error("model_not_exchanged", error=str(exc))  # noqa: TRY400
                return
            self.detector = fresh
            self.note(model_trouble="")

    async def _load(self, detector: Detector, lane: RunSync) -> None:
        started = trio.current_time()
        await lane(detector.load)
        classes = tuple(getattr(detector, "classes", ()))
        check_classes(self.defect_classes, classes, detector.model_name)
        self.note(
            model_name=detector.model_name,
            model_version=detector.model_version,
            model_classes=classes,
            model_trouble="",
        )
        took_s = round(trio.current_time() - started, 3)
        log.info(
            "model_loaded",
            model=detector.model_name,
            version=detector.model_version,
            device=getattr(detector, "device", "") or "its own",
            took_s=took_s,
        )

    async def see(self, frame: Frame, reply: Reply[tuple[Receipt, ...]] | None, *, at_once: bool = False) -> Prediction:
        """Look at a frame, and hand its prediction on; `DetectorError` or `WireError` if nothing can be said of it.

        With `at_once` it waits for no company on its way to the disk.
        """
        sight, detector = await self._look(frame)
        prediction = predict_of(frame, sight, detector.model_name, detector.model_version, self.defect_classes)
        entry = Entry(frame.image_id, frame.captured_at, encode_prediction(prediction))
        look = Look(frame.image_id, frame.image, sight.detections)
        self.note(frames=self.vision.value.frames + 1, inference_ms=sight.inference_ms, last=look)
        if self.sketch is not None and sight.detections:
            self.sketch(frame, sight)
        await self.gathering.add(Accept((entry,), reply), at_once=at_once)
        return prediction

    async def _look(self, frame: Frame) -> tuple[Sight, Detector]:
        """What the model says of it; whoever comes to the model takes all the frames that wait along."""
        mine = _Glimpse(frame)
        self._waiting.append(mine)
        try:
            async with self._looking:
                while mine.answer is None:
                    await self._look_at(self._waiting[:BATCH_MAX])
        finally:
            if mine.answer is None:
                self._waiting.remove(mine)
        if isinstance(mine.answer, DetectorError):
            raise mine.answer
        assert mine.detector is not None
        return mine.answer, mine.detector

    async def _look_at(self, batch: Sequence[_Glimpse]) -> None:
        detector = self.detector  # another one may take its place meanwhile
        answers = await self.run_detect(detect_many, detector, [glimpse.frame.image for glimpse in batch])
        for glimpse, answer in zip(batch, answers, strict=True):
            glimpse.answer, glimpse.detector = answer, detector
        self._waiting = [glimpse for glimpse in self._waiting if glimpse.answer is None]

    def note(self, **changes: object) -> None:
        """Write changes into the state cell."""
        self.vision.value = attrs.evolve(self.vision.value, **changes)


@attrs.define(eq=False)
class Sketcher:
    """Draws in a lane of its own, one frame at a time; what comes meanwhile is not drawn."""

    draw: Draw
    lane: RunSync
    nursery: trio.Nursery
    _busy: bool = attrs.field(default=False, init=False)

    def offer(self, frame: Frame, sight: Sight) -> None:
        """Draw it, unless another one is being drawn."""
        if not self._busy:
            self._busy = True
            self.nursery.start_soon(self._draw, frame, sight)

    async def _draw(self, frame: Frame, sight: Sight) -> None:
        await self.lane(self.draw, frame, sight.detections)
        self._busy = False
