"""A detector of your own: any function that takes a BGR image and gives (class, confidence, box) each.

    python examples/own_detector.py [BUFFER]

Nothing but OpenCV is needed: no torch, no Ultralytics, no ONNX Runtime, and no cloud.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import trio

from actors.pipeline import Ports, open_pipeline
from actors.ports.detectors import CallableDetector, Found
from actors.settings import Settings

BRIGHT = 200
AREA_MIN_PX = 30


def bright_spots(image: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Iterator[Found]:
    """Every bright spot of some size, the more certain the larger."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    _, mask = cv2.threshold(grey, BRIGHT, 255, cv2.THRESH_BINARY)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    for left, top, width, height, area in stats[1:count].tolist():
        if area >= AREA_MIN_PX:
            yield "bright-spot", min(1.0, area / 500), (left, top, left + width, top + height)


async def main(buffer: Path) -> None:
    """One image in, one durable prediction out."""
    detector = CallableDetector(bright_spots, name="bright-spots", version="1", classes=["bright-spot"])
    settings = Settings(buffer_db_path=buffer, sources=("none",), cloud_logging_enabled=False)
    image = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(image, (80, 60), 12, (255, 255, 255), -1)
    async with open_pipeline(settings, Ports(detector=detector)) as pipeline:
        result = await pipeline.process_image(image, image_id="drawn")
    for found in result["detections"]:
        print(found["class"], found["confidence"], found["bbox"])
    print("durable" if result["logged_to_cloud"] else "not accepted")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(main, Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            trio.run(main, Path(folder) / "buffer.db")
