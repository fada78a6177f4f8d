"""The predictions that every benchmark stores and sends: about 330 bytes of JSON, detections as a camera makes them."""

import random
from collections.abc import Iterator, Sequence

import msgspec

from actors.messages import Entry
from cloud.wire import Detection, Prediction

START = 1_790_000_000.0
CLASSES = ("scratch", "dent", "crack", "stain")


def predictions(count: int, *, seed: int = 7) -> Iterator[Prediction]:
    """`count` predictions, 30 a second, each frame with one or two boxes of slowly drifting objects."""
    rng = random.Random(seed)  # noqa: S311 - a benchmark's load
    x, y = 320.0, 240.0
    for number in range(count):
        x, y = (x + rng.gauss(0, 3)) % 560, (y + rng.gauss(0, 3)) % 400
        boxes = tuple(_box(rng, x + 40 * index, y) for index in range(1 if rng.random() < 0.7 else 2))
        yield Prediction(
            image_id=f"camera-01/frame-{number:09d}",
            timestamp=round(START + number / 30, 3),
            model_version="v1.0",
            model_name="yolov8-defect",
            inference_time_ms=round(rng.gauss(45, 2), 2),
            detections=boxes,
            defect_detected=True,
            confidence_scores=tuple(box.confidence for box in boxes),
        )


def _box(rng: random.Random, x: float, y: float) -> Detection:
    corners = (x, y, x + rng.uniform(30, 60), y + rng.uniform(30, 60))
    x1, y1, x2, y2 = (round(corner, 1) for corner in corners)
    return Detection(class_name=rng.choice(CLASSES), confidence=round(rng.uniform(0.3, 0.99), 4), bbox=(x1, y1, x2, y2))


def entries(load: Sequence[Prediction]) -> list[Entry]:
    """The same as the disk's owner takes them."""
    return [Entry(one.image_id, one.timestamp, msgspec.json.encode(one)) for one in load]


def groups(items: Sequence[Prediction], size: int) -> list[Sequence[Prediction]]:
    """`items` in groups of `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]
