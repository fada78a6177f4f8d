"""The latest defects as drawings: boxes to scale on an empty frame, since no image ever comes here."""

import attrs

from cloud.ledger import StoredPrediction
from cloud.ledger.rollups import clock_wrong
from cloud.wire import WireError, check_payload

BOXES_MAX = 50
"""Boxes that one drawing has; the rest is counted."""
FRAME_WIDTH = 160.0
"""The drawing's own units: boxes of any size become numbers that every browser can draw."""
MARGIN_SHARE = 0.04
ASPECT_MIN, ASPECT_MAX = 0.2, 5.0
"""Width to height of a frame; a single very long box does not make a frame that nobody can see."""
PIXELS_MAX = 1e9
"""Coordinates beyond are drawn as this."""
CLASSES_MAX = 3


@attrs.frozen
class Box:
    """A rectangle in the drawing's units, and what it is."""

    x: float
    y: float
    width: float
    height: float
    class_name: str
    confidence: float


@attrs.frozen
class Drawing:
    """One prediction with its boxes. The frame is as large as the boxes need: the image's size is not known here."""

    edge_device_id: str
    image_id: str
    timestamp: float
    late: bool
    clock_wrong: bool
    model: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    boxes_total: int
    found: tuple[tuple[str, float], ...]
    """The classes and the highest confidence of each, the surest first, at most `CLASSES_MAX`."""
    classes_total: int


def drawing_of(item: StoredPrediction) -> Drawing | None:
    """How a stored prediction is drawn; None for one that was stored under another contract and can't be read."""
    try:
        prediction = check_payload(item.payload.encode())
    except WireError:
        return None
    boxes = [
        (tuple(max(-PIXELS_MAX, min(value, PIXELS_MAX)) for value in box.bbox), box) for box in prediction.detections
    ]
    # The frame starts at the image's corner, except where a box lies outside of it.
    left = min([0.0, *(corner[0] for corner, _ in boxes)])
    top = min([0.0, *(corner[1] for corner, _ in boxes)])
    wide = max([1.0, *(corner[2] - left for corner, _ in boxes)]) * (1 + MARGIN_SHARE)
    high = max([1.0, *(corner[3] - top for corner, _ in boxes)]) * (1 + MARGIN_SHARE)
    wide, high = max(wide, high * ASPECT_MIN), max(high, wide / ASPECT_MAX)
    scale = FRAME_WIDTH / wide
    best: dict[str, float] = {}
    for box in prediction.detections:
        best[box.class_name] = max(best.get(box.class_name, 0.0), box.confidence)
    ranked = sorted(best.items(), key=lambda pair: -pair[1])
    return Drawing(
        edge_device_id=item.edge_device_id,
        image_id=prediction.image_id,
        timestamp=prediction.timestamp,
        late=item.late,
        clock_wrong=clock_wrong(prediction.timestamp, item.received_at),
        model=f"{prediction.model_name} {prediction.model_version}",
        width=FRAME_WIDTH,
        height=round(high * scale, 2),
        boxes=tuple(
            Box(
                x=round((corner[0] - left) * scale, 2),
                y=round((corner[1] - top) * scale, 2),
                width=round((corner[2] - corner[0]) * scale, 2),
                height=round((corner[3] - corner[1]) * scale, 2),
                class_name=box.class_name,
                confidence=box.confidence,
            )
            for corner, box in boxes[:BOXES_MAX]
        ),
        boxes_total=len(boxes),
        found=tuple(ranked[:CLASSES_MAX]),
        classes_total=len(ranked),
    )
