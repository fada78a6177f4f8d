"""Which detector runs the model: Ultralytics, plain ONNX Runtime, or a callable of the user's own."""

import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from actors.ports.detector import (
    INSTALL_HINT,
    IOU,
    Detector,
    DetectorError,
    Sight,
    UltralyticsDetector,
    default_model_path,
    tidy,
    why,
)
from actors.ports.images import Image
from actors.ports.onnx_detector import OnnxDetector
from actors.settings import DetectorKind
from cloud.wire import Detection

Found: TypeAlias = tuple[str, float, tuple[float, float, float, float]]
"""A class, a confidence from 0 to 1, and a box: x1, y1, x2, y2 in pixels of the image."""

MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What a user's function may raise on an image without ending the process. Its other errors do."""


def make_detector(
    kind: DetectorKind,
    path: Path | None = None,
    confidence: float = 0.25,
    *,
    iou: float = IOU,
    device: str = "auto",
) -> Detector:
    """The detector for a model file (default: the built-in one). Opens nothing yet; `DetectorError` if none can."""
    path = path or default_model_path()
    if kind is DetectorKind.AUTO:
        kind = choose(_installed("ultralytics"), path)
    if kind is DetectorKind.ULTRALYTICS:
        return UltralyticsDetector(path, confidence, iou=iou, device=device)
    if path.suffix.lower() != ".onnx":
        raise DetectorError(
            f"MODEL_PATH {path} is no .onnx file, and ONNX Runtime runs no other; export it with "
            f"YOLO({str(path)!r}).export(format='onnx', nms=True), or {INSTALL_HINT} and leave DETECTOR at 'auto'"
        )
    return OnnxDetector(path, confidence, iou=iou, device=device)


def choose(ultralytics_installed: bool, path: Path) -> DetectorKind:
    """Ultralytics where it is installed; without it, only ONNX Runtime could run the file."""
    if ultralytics_installed:
        return DetectorKind.ULTRALYTICS
    return DetectorKind.ONNXRUNTIME if path.suffix.lower() == ".onnx" else DetectorKind.ULTRALYTICS


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class CallableDetector:
    """A function of the user's own as a detector: it gets a BGR image and gives (class, confidence, box) each.

    **Synopsis:** `open_pipeline(settings, Ports(detector=CallableDetector(find_pits, name="pits", version="3")))`
    """

    def __init__(
        self,
        function: Callable[[Image], Iterable[Found | Detection]],
        *,
        name: str,
        version: str,
        classes: Sequence[str] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._function = function
        self._prepare = prepare
        self.model_name = name
        """The name on every prediction."""
        self.model_version = version
        """Change it whenever the function's answers change."""
        self.classes = tuple(classes)
        """What it can see; empty where it does not say."""

    def load(self) -> None:
        """Call `prepare`, once, in the model's own lane."""
        if self._prepare is None:
            return
        try:
            self._prepare()
        except MISTAKES as exc:
            raise DetectorError(f"model {self.model_name} can't be prepared ({why(exc)})") from exc

    def detect(self, image: Image) -> Sight:
        """What the function says of `image`, with every box inside it."""
        started = time.perf_counter()
        height, width = image.shape[:2]
        try:
            found = tuple(_tidied(one, (width, height)) for one in self._function(image))
        except MISTAKES as exc:
            raise DetectorError(f"model {self.model_name} failed on an image ({why(exc)})") from exc
        return Sight(found, round((time.perf_counter() - started) * 1000, 2))


def _tidied(found: Found | Detection, size: tuple[int, int]) -> Detection:
    if isinstance(found, Detection):
        found = (found.class_name, found.confidence, found.bbox)
    name, confidence, (x1, y1, x2, y2) = found
    numbers = (float(confidence), float(x1), float(y1), float(x2), float(y2))
    if any(number != number for number in numbers):  # noqa: PLR0124 (that is what no number looks like)
        raise ValueError(f"a box of {name!r} holds what is no number: {numbers}")
    return tidy(str(name), numbers[0], numbers[1:], size)
