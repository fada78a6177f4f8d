"""The model behind a small door: `load` it once, then `detect` what an image shows.

Here Ultralytics runs it, imported when a model is loaded and kept offline: nothing is downloaded or installed, nothing
is reported home. One owner at a time: calls must not overlap. Other detectors: `detectors.py` chooses.
"""

import atexit
import hashlib
import importlib
import math
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs

from actors.ports.images import Image, LibraryMissing, opencv
from cloud.wire import Detection

INSTALL_HINT = "pip install 'holdfast[yolo]'"
OFFLINE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_OFFLINE": "1",
    "YOLO_VERBOSE": "0",
}
"""Read by Ultralytics and ONNX Runtime when imported. Both report home by default, the latter through sockets and
a database of its own. The safe load takes the weights out of a `.pt` without running code that came with them."""
REPORTER = "openvino_telemetry"
"""OpenVINO's reports home. It can't be told to keep quiet, but goes without where this package is not installed."""
IOU = 0.6
DETECTIONS_MAX = 300
VERSION_CHARS = 12
CLASS_CHARS_MAX = 256
WARM_UP_SIDE_PX = 256
CHUNK_BYTES = 1024 * 1024
REASON_CHARS_MAX = 200
REMEDY = "give the path of a trained model's file (.onnx, .pt), or leave MODEL_PATH unset for the built-in one"

CARD_REMEDY = "take MODEL_DEVICE=auto or cpu, or install the runtime's build for CUDA and the card's driver"


class DetectorError(Exception):
    """The model can't be loaded, or fails on an image; the text names the model and what to do."""


@attrs.frozen
class Sight:
    """What the model saw in one image, and how long it took (milliseconds, with pre- and post-processing)."""

    detections: tuple[Detection, ...]
    inference_ms: float


class Detector(Protocol):
    """A model. Both methods block, so they run in a lane, and never at the same time."""

    @property
    def model_name(self) -> str:
        """The model's name on every prediction."""
        ...

    @property
    def model_version(self) -> str:
        """Changes whenever the weights do. Known once loaded."""
        ...

    def load(self) -> None:
        """Make ready, and predict once to warm up; `DetectorError` if that can't be."""
        ...

    def detect(self, image: Image) -> Sight:
        """What `image` (BGR) shows; `DetectorError` if the model fails on it."""
        ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A model that looks at several images in one go."""

    def detect_many(self, images: Sequence[Image]) -> list[Sight]:
        """What each of `images` shows, in order; `DetectorError` if the model fails on any of them."""
        ...


def detect_many(detector: Detector, images: Sequence[Image]) -> list[Sight | DetectorError]:
    """What each image shows, or why nothing can be said of it: one bad image never costs its neighbours."""
    if isinstance(detector, BatchDetector) and len(images) > 1:
        try:
            return list(detector.detect_many(images))
        except DetectorError:
            pass  # one by one, to learn which
    return [_detect_one(detector, image) for image in images]


def _detect_one(detector: Detector, image: Image) -> Sight | DetectorError:
    try:
        return detector.detect(image)
    except DetectorError as exc:
        return exc


def default_model_path() -> Path:
    """The built-in model."""
    return Path(__file__).parent.parent / "assets" / "surface-defects.onnx"


def tidy(name: str, confidence: float, box: tuple[float, float, float, float], size: tuple[int, int]) -> Detection:
    """A box that keeps the wire's contract: inside the image (width, height), ordered, rounded to 0.1 px."""
    width, height = size
    (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    corners = (_clip(x1, width, 1), _clip(y1, height, 1), _clip(x2, width, 1), _clip(y2, height, 1))
    return Detection(name[:CLASS_CHARS_MAX] or "unnamed", _clip(confidence, 1, 4), corners)


class UltralyticsDetector:
    """A model file that Ultralytics can run: `.onnx`, `.pt`, and what else it knows.

    `confidence` is the least score of a detection. `threads` is how many cores one prediction may use; the loop needs
    one too. `device` is 'cpu', 'cuda', 'cuda:1' …, or 'auto': a graphics card if torch sees one. `config_dir` is where
    Ultralytics keeps its settings (default: a temporary folder).
    """

    def __init__(
        self,
        path: Path | str,
        confidence: float = 0.25,
        *,
        iou: float = IOU,
        threads: int = 1,
        device: str = "auto",
        config_dir: Path | None = None,
    ) -> None:
        self._path = Path(path).expanduser()
        self._given = str(path)
        self._asked = device
        self._options: dict[str, object] = {"conf": confidence, "iou": iou, "max_det": DETECTIONS_MAX, "verbose": False}
        self._options["device"] = None if device == "auto" else device
        self._threads = threads
        self._config_dir = config_dir
        self._model: Any = None
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

    def load(self) -> None:
        """Import Ultralytics, load the file, predict once; `DetectorError` names what is wrong."""
        check_given(self._given, self._path)
        yolo = _import_yolo(self._config_dir)
        import numpy as np  # noqa: PLC0415 (only where there is a model to load)
        import torch  # noqa: PLC0415

        self._failures = failures()
        card = card_of(self._asked)
        if card is not None and card >= torch.cuda.device_count():
            seen = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
            raise DetectorError(f"MODEL_DEVICE {self._asked}: {seen} here; {CARD_REMEDY}")
        blank = np.zeros((WARM_UP_SIDE_PX, WARM_UP_SIDE_PX, 3), np.uint8)
        try:
            with _calm_sessions(self._threads):
                model = yolo(str(self._path), task="detect" if self._path.suffix == ".onnx" else None)
                model.predict(blank, **self._options)
            version = digest(self._path)[:VERSION_CHARS]
        except self._failures as exc:
            raise DetectorError(
                f"MODEL_PATH {self._given} can't be loaded as a model ({why(exc)}); {remedy(exc)}"
            ) from exc
        task = getattr(model.predictor.model, "task", None) or model.task
        if task != "detect":
            raise DetectorError(f"MODEL_PATH {self._given} is a model for {task!r}; it takes one for 'detect'")
        if card is not None and model.predictor.device.type == "cpu":
            raise DetectorError(
                f"MODEL_DEVICE {self._asked}: the runtime of {self._path.name} has no CUDA; {CARD_REMEDY}"
            )
        torch.set_num_threads(self._threads)  # Ultralytics sets its own number at the first prediction
        self._version = version
        self._model = model

    @property
    def device(self) -> str:
        """Where the model runs, once loaded: cpu, or cuda:0 and so on."""
        return "" if self._model is None else str(self._model.predictor.device)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what the model can see, once loaded."""
        return () if self._model is None else tuple(str(name) for name in self._model.names.values())

    def detect(self, image: Image) -> Sight:
        """The boxes above the confidence, in pixels of `image`."""
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[Image]) -> list[Sight]:
        """As `detect`, for each image; the time is shared out evenly."""
        assert self._model is not None, "load() comes before detect()"
        started = time.perf_counter()
        try:
            results = self._model.predict(list(images), **self._options)
            seen = [(result.names, result.boxes.data.tolist()) for result in results]
        except self._failures as exc:
            raise DetectorError(f"model {self.model_name} failed on an image ({why(exc)}); {remedy(exc)}") from exc
        found = [sort_out(rows, names, image) for image, (names, rows) in zip(images, seen, strict=True)]
        each_ms = round((time.perf_counter() - started) * 1000 / len(images), 2)
        return [Sight(detections, each_ms) for detections in found]


def sort_out(rows: Sequence[Sequence[float]], names: Mapping[int, str], image: Image) -> tuple[Detection, ...]:
    """Rows of x1, y1, x2, y2, score, class as detections; what is no number never reaches the wire."""
    height, width = image.shape[:2]
    return tuple(
        tidy(str(names.get(int(kind), int(kind))), score, (x1, y1, x2, y2), (width, height))
        for x1, y1, x2, y2, score, kind in rows
        if all(map(math.isfinite, (x1, y1, x2, y2, score, kind)))
    )


def card_of(asked: str) -> int | None:
    """The number of the graphics card that MODEL_DEVICE asks for; None for 'auto' and 'cpu'."""
    kind, _, number = asked.partition(":")
    return int(number or 0) if kind == "cuda" else None


def check_given(given: str, path: Path) -> None:
    """`DetectorError` with the remedy for a MODEL_PATH that is no file with weights."""
    if re.match(r"(?i)[a-z][a-z0-9+.-]+:/", given):  # a path has lost one of the two slashes
        raise DetectorError(f"MODEL_PATH {given} is an address, and nothing is downloaded; {REMEDY}")
    if not path.exists():
        raise DetectorError(f"MODEL_PATH {given} does not exist on this device, and nothing is downloaded; {REMEDY}")
    if path.suffix.lower() in (".yaml", ".yml"):
        raise DetectorError(f"MODEL_PATH {given} describes a network but holds no weights; {REMEDY}")


def _clip(value: float, top: float, digits: int) -> float:
    return round(min(max(value, 0.0), float(top)), digits)


def why(error: Exception) -> str:
    """An error of the libraries in one line."""
    text = str(error).strip().partition("\n")[0].removeprefix("ERROR ❌️ ")
    return f"{type(error).__name__}: {text[:REASON_CHARS_MAX]}"


def remedy(error: Exception) -> str:
    """What to do about a model that can't be loaded or fails: a missing package and a graphics card have their own."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's own; it is not imported for this
        return "free memory of the card, or take a smaller model or MODEL_DEVICE=cpu"
    if "CUDA error" in str(error):
        return "such a fault of the card lasts as long as this process: restart the device"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"this format runs on the package {package}, and nothing is installed by itself: pip install {package}"
    return REMEDY


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of all the files of a model that is a folder."""
    sha = hashlib.sha256()
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if part.is_file():
            with part.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    sha.update(chunk)
    return sha.hexdigest()


def _import_yolo(config_dir: Path | None) -> Any:
    """Ultralytics' YOLO class, imported offline; `DetectorError` where it is not installed."""
    for name, value in {**OFFLINE, "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type] # which is: not installed
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = str(config_dir or _temporary_folder())
    Path(os.environ["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)
    try:
        opencv()  # before Ultralytics imports it without our settings
        return importlib.import_module("ultralytics").YOLO  # takes a second, and brings torch
    except LibraryMissing as exc:
        raise DetectorError(str(exc)) from exc
    except ImportError as exc:
        raise DetectorError(f"the model runs on ultralytics, which can't be imported ({exc}); {INSTALL_HINT}") from exc


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="holdfast-yolo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def failures() -> tuple[type[Exception], ...]:
    """What a model that is none, is damaged, or does not fit an image makes the libraries raise."""
    own = (ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError)
    more = (pickle.UnpicklingError, RuntimeError, TypeError, ValueError)
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as ort  # noqa: PLC0415
    except ImportError:
        return own + more
    found = (getattr(ort, name) for name in dir(ort))
    return own + more + tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))


@contextmanager
def _calm_sessions(threads: int) -> Iterator[None]:
    """Sessions of ONNX Runtime made inside get `threads` threads that sleep when idle.

    Its own default is a thread per core that spins while it waits, which starves the loop, and Ultralytics has no
    option for it.
    """
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError:
        yield
        return
    made = onnxruntime.InferenceSession

    def calm(model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> Any:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return made(model, options, *args, **kwargs)

    onnxruntime.InferenceSession = calm
    try:
        yield
    finally:
        onnxruntime.InferenceSession = made
