"""Measure an exported model as it ships: average precision on held-out frames, and false alarms on clean ones."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.dataset import CLEAN, SIZE_PX, TEST, Split, clean_frames
from tools.surfaces import CLASSES

NMS_IOU = 0.6
"""Of two boxes of one class that overlap more than this, the weaker is dropped; baked into the exported graph."""

CONFIDENCE_FLOOR = 0.01
"""The exported graph keeps no box below this."""

ALARM_CONFIDENCES = (0.25, 0.3, 0.4, 0.5)
"""The confidences at which false alarms are counted, weakest first."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precision, each 0..1: at IoU 0.5 for each class and as their mean, and the mean over IoU 0.5 to 0.95."""

    ap50: dict[str, float]
    map50: float
    map50_95: float


@dataclass(frozen=True, slots=True)
class Alarms:
    """What the model saw on clean frames: how many frames, and how many had a box of each confidence or more."""

    frames: int
    alarmed: dict[float, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it lies on disk: its size in bytes and the SHA-256 of its content, in hex."""

    size_bytes: int
    sha256: str


def measure_precision(model: Path, description: Path) -> Precision:
    """The precision of the model on the held-out split of the described dataset."""
    from ultralytics.models import YOLO  # noqa: PLC0415  reads its environment when imported; see tools.offline

    detector: Any = YOLO(model, task="detect")
    found = detector.val(
        data=str(description), split=TEST.name, imgsz=SIZE_PX, batch=1, iou=NMS_IOU,
        workers=0, plots=False, verbose=False, project=str(description.parent / "runs"),
    ).box  # fmt: skip
    ap50 = {CLASSES[int(class_id)]: float(ap) for class_id, ap in zip(found.ap_class_index, found.ap50, strict=True)}
    return Precision(ap50, float(found.map50), float(found.map))


def strongest_on_clean(model: Path, split: Split, count: int) -> list[float]:
    """Show the model `count` clean frames of a split; gives the score of the strongest box on each, 0 without one."""
    from ultralytics.models import YOLO  # noqa: PLC0415  reads its environment when imported; see tools.offline

    detector: Any = YOLO(model, task="detect")
    strongest = []
    for frame in clean_frames(split, count):
        boxes = detector.predict(frame, imgsz=SIZE_PX, conf=CONFIDENCE_FLOOR, verbose=False)[0].boxes
        strongest.append(max(boxes.conf.tolist(), default=0.0))
    return strongest


def measure_alarms(model: Path, count: int) -> Alarms:
    """Show the model `count` clean frames and count those on which it draws a box."""
    strongest = strongest_on_clean(model, CLEAN, count)
    return Alarms(count, {least: sum(1 for found in strongest if found >= least) for least in ALARM_CONFIDENCES})


def measure_file(path: Path) -> Stored:
    """The size and the digest of a file."""
    content = path.read_bytes()
    return Stored(len(content), hashlib.sha256(content).hexdigest())
