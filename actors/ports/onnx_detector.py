"""A model on plain ONNX Runtime: a graph that Ultralytics exported, run without Ultralytics and without torch.

The steps before and after the graph are those of Ultralytics, so both detectors give the same boxes. A fifth of the
memory, and ready in a tenth of the time. Double boxes are dropped by the graph itself where it was exported with
`nms=True` (or has an end-to-end head), otherwise here.
"""

import ast
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from actors.ports.detector import (
    CARD_REMEDY,
    DETECTIONS_MAX,
    INSTALL_HINT,
    IOU,
    OFFLINE,
    REMEDY,
    VERSION_CHARS,
    DetectorError,
    Sight,
    card_of,
    check_given,
    digest,
    failures,
    sort_out,
    why,
)
from actors.ports.images import Image, LibraryMissing, opencv

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]
else:
    Floats: TypeAlias = Any

PADDING = 114
"""The grey around a frame that is not of the model's shape; the model was trained with it."""
ROW = 6
"""x1, y1, x2, y2, score, class: what a graph gives that drops double boxes itself."""
CANDIDATES_MAX = 30_000
RANKS = 4
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@attrs.frozen
class Fit:
    """How a frame of `size` (height, width) lies in the model's input: its new size, and the padding before it."""

    size: tuple[int, int]
    new: tuple[int, int]
    top: int
    left: int


@attrs.frozen
class _Graph:
    """The session, and what the file says of itself."""

    session: Any
    input_name: str
    kind: Any
    side: tuple[int, int]
    batch: int | None
    """How many images one run takes; None for any number."""
    names: dict[int, str]


class OnnxDetector:
    """An `.onnx` file. `confidence` is the least score of a detection, `threads` how many cores one image may use.

    `device` is 'cpu', 'cuda', 'cuda:1' …, or 'auto': a graphics card if this ONNX Runtime was built for one.
    """

    def __init__(
        self, path: Path | str, confidence: float = 0.25, *, iou: float = IOU, threads: int = 1, device: str = "auto"
    ) -> None:
        self._path = Path(path).expanduser()
        self._given = str(path)
        self._confidence = confidence
        self._iou = iou
        self._threads = threads
        self._asked = device
        self._graph: _Graph | None = None
        self._failures: tuple[type[Exception], ...] = ()
        self._version = ""

    @property
    def model_name(self) -> str:
        """The file's name without its ending."""
        return self._path.stem

    @property
    def model_version(self) -> str:
        """The first digits of the SHA-256 of the file; empty until loaded."""
        return self._version

    @property
    def device(self) -> str:
        """Where the model runs, once loaded: cpu, or cuda:0 and so on."""
        return "" if self._graph is None else _device_of(self._graph, self._asked)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what the model can see, once loaded."""
        return () if self._graph is None else tuple(self._graph.names.values())

    def load(self) -> None:
        """Import ONNX Runtime, load the file, predict once; `DetectorError` names what is wrong."""
        check_given(self._given, self._path)
        try:
            opencv()
        except LibraryMissing as exc:
            raise DetectorError(str(exc)) from exc
        runtime = _import_runtime()
        import numpy as np  # noqa: PLC0415 (only where there is a model to load)

        self._failures = failures()
        available, card = runtime.get_available_providers(), card_of(self._asked)
        if card is not None and CUDA not in available:
            has = ", ".join(available)
            raise DetectorError(f"MODEL_DEVICE {self._asked}: this onnxruntime has only {has}; {CARD_REMEDY}")
        try:
            graph = _open(runtime, self._path, self._threads, providers_for(self._asked, available))
            blank = np.zeros((*graph.side, 3), np.uint8)
            self._run(graph, [blank])
            version = digest(self._path)[:VERSION_CHARS]
        except self._failures as exc:
            raise DetectorError(f"MODEL_PATH {self._given} can't be loaded as a model ({why(exc)}); {REMEDY}") from exc
        if card is not None and _device_of(graph, self._asked) == "cpu":
            raise DetectorError(f"MODEL_DEVICE {self._asked}: onnxruntime could not start CUDA; {CARD_REMEDY}")
        self._version = version
        self._graph = graph

    def detect(self, image: Image) -> Sight:
        """The boxes above the confidence, in pixels of `image`."""
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[Image]) -> list[Sight]:
        """As `detect`, for each image; a graph for any number of images gets them all at once."""
        assert self._graph is not None, "load() comes before detect()"
        started = time.perf_counter()
        try:
            found = self._run(self._graph, images)
        except self._failures as exc:
            raise DetectorError(f"model {self.model_name} failed on an image ({why(exc)}); {REMEDY}") from exc
        names = self._graph.names
        detections = [sort_out(rows.tolist(), names, image) for rows, image in zip(found, images, strict=True)]
        each_ms = round((time.perf_counter() - started) * 1000 / len(images), 2)
        return [Sight(boxes, each_ms) for boxes in detections]

    def _run(self, graph: _Graph, images: Sequence[Image]) -> list[Floats]:
        """The rows of each image, in its own pixels."""
        found: list[Floats] = []
        step = graph.batch or len(images)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            fits = [fit(image.shape[:2], graph.side) for image in part]
            blob = fill(part, fits, graph.side, graph.batch or len(part), graph.kind)
            (answer, *_) = graph.session.run(None, {graph.input_name: blob})
            for place, raw in zip(fits, answer, strict=False):  # a fixed batch answers for its empty places too
                rows = keep(raw, self._confidence, self._iou)
                found.append(back(rows, place))
        return found


# --- before and after the graph: what Ultralytics does, without torch


def fit(size: tuple[int, int], side: tuple[int, int]) -> Fit:
    """Where a frame lies in the input: as large as its proportions allow, in the middle, the odd pixel at the end."""
    if 0 in size:
        raise ValueError("the image is empty")
    gain = min(side[0] / size[0], side[1] / size[1])
    new = (max(round(size[0] * gain), 1), max(round(size[1] * gain), 1))
    return Fit(size, new, round((side[0] - new[0]) / 2 - 0.1), round((side[1] - new[1]) / 2 - 0.1))


def fill(images: Sequence[Image], fits: Sequence[Fit], side: tuple[int, int], places: int, kind: Any) -> Floats:
    """The graph's input: colours first (red, green, blue), 0 to 1, grey around."""
    import numpy as np  # noqa: PLC0415

    cv2 = opencv()
    blob = np.full((places, 3, *side), np.float32(PADDING) / np.float32(255), np.float32)
    for target, image, place in zip(blob, images, fits, strict=False):
        height, width = place.new
        small = image if place.size == place.new else cv2.resize(image, (width, height))
        inside = target[:, place.top : place.top + height, place.left : place.left + width]
        np.divide(small[:, :, ::-1].transpose(2, 0, 1), np.float32(255), out=inside)
    return blob.astype(kind, copy=False)


def keep(raw: Any, confidence: float, iou: float) -> Floats:
    """Rows of x1, y1, x2, y2, score, class above the confidence, without double boxes."""
    import numpy as np  # noqa: PLC0415

    table = np.asarray(raw, np.float32)
    if table.shape[-1] == ROW:  # the graph has dropped the double boxes
        return table[table[:, 4] > confidence][:DETECTIONS_MAX]
    table = table.T
    scores, kinds = table[:, 4:].max(1), table[:, 4:].argmax(1)
    good = np.flatnonzero(scores > confidence)
    good = good[np.argsort(-scores[good], kind="stable")][:CANDIDATES_MAX]
    middle, half = table[good, :2], table[good, 2:4] / 2
    rows = np.column_stack((middle - half, middle + half, scores[good], kinds[good])).astype(np.float32)
    return rows[list(_singles(rows, iou))]


def _singles(rows: Floats, iou: float) -> Iterator[int]:
    """The indices of the rows that no better one of the same class overlaps too much; the best come first."""
    import numpy as np  # noqa: PLC0415

    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    left = np.arange(len(rows))
    for _ in range(DETECTIONS_MAX):
        if not len(left):
            return
        best, left = left[0], left[1:]
        yield int(best)
        low = np.maximum(rows[left, :2], rows[best, :2])
        high = np.minimum(rows[left, 2:4], rows[best, 2:4])
        shared = np.clip(high - low, 0, None).prod(1)
        over = shared > iou * (areas[left] + areas[best] - shared)
        left = left[~(over & (rows[left, 5] == rows[best, 5]))]


def back(rows: Floats, place: Fit) -> Floats:
    """Boxes of the input in pixels of the frame, inside it."""
    gain_y, gain_x = place.new[0] / place.size[0], place.new[1] / place.size[1]
    moved = rows.copy()
    for first, pad, gain, top in ((0, place.left, gain_x, place.size[1]), (1, place.top, gain_y, place.size[0])):
        moved[:, first : first + 3 : 2] = ((rows[:, first : first + 3 : 2] - pad) / gain).clip(0, top)
    return moved


# --- the file


def providers_for(asked: str, available: Sequence[str]) -> list[Any]:
    """What ONNX Runtime is to run on, the best first: a CUDA card unless 'cpu' is asked for or none can be."""
    if asked == "cpu" or CUDA not in available:
        return [CPU]
    return [(CUDA, {"device_id": card_of(asked) or 0}), CPU]


def _device_of(graph: _Graph, asked: str) -> str:
    return f"cuda:{card_of(asked) or 0}" if CUDA in graph.session.get_providers() else "cpu"


def _import_runtime() -> Any:
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise DetectorError(f"the model runs on onnxruntime, which can't be imported ({exc}); {INSTALL_HINT}") from exc


def _open(runtime: Any, path: Path, threads: int, providers: list[Any]) -> _Graph:
    """A session with `threads` threads that sleep when idle; `ValueError` for a graph that is no detector of ours."""
    import numpy as np  # noqa: PLC0415

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    session = runtime.InferenceSession(path.read_bytes(), options, providers=providers)
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get("task") != "detect":
        raise ValueError(f"it is a model for {facts.get('task', 'nothing it tells')!r}; it takes one for 'detect'")
    (given,) = session.get_inputs()
    shape = given.shape
    if len(shape) != RANKS or shape[1] != 3:
        raise ValueError(f"its input is {shape}; it takes images of 3 colours")
    told = ast.literal_eval(facts["imgsz"])
    height, width = (size if isinstance(size, int) else int(own) for size, own in zip(shape[2:], told, strict=True))
    names = {int(number): str(name) for number, name in ast.literal_eval(facts["names"]).items()}
    kind = np.float16 if given.type == "tensor(float16)" else np.float32
    return _Graph(session, given.name, kind, (height, width), shape[0] if isinstance(shape[0], int) else None, names)
