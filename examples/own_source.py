"""A source of your own: anything that gives images one after another. Here it draws them.

python examples/own_source.py [BUFFER]
"""

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import trio

from actors import CallableDetector, Ports, Settings, open_pipeline
from actors.ports.frames import Frame


class Drawing:
    """Ten images of a spot that grows. The device calls `open`, `read` and `close` in a thread of the source's own."""

    name = "drawing"
    """The first part of every `image_id`."""
    live = False
    """Not a camera: it ends, and no frame of it is ever skipped."""
    period_s = 0.0
    """As fast as it goes."""

    def __init__(self) -> None:
        self._drawn = 0

    def open(self) -> None:
        """Connect here; raise `SourceDown` if that can't be, and it is tried again later."""

    def read(self) -> Frame | None:
        """The next frame, or None at the end."""
        if self._drawn == 10:
            return None
        self._drawn += 1
        image = np.zeros((120, 160, 3), np.uint8)
        cv2.circle(image, (80, 60), 2 * self._drawn, (255, 255, 255), -1)
        return Frame(f"drawing-{self._drawn:02d}", self.name, image, captured_at=time.time())

    def close(self) -> None:
        """Let go of what `open` took."""


async def main(buffer: Path) -> None:
    """Watch the drawing to its end."""
    detector = CallableDetector(
        lambda image: [("light", image.mean() / 255, (0, 0, 160, 120))], name="mean", version="1"
    )
    settings = Settings(buffer_db_path=buffer, cloud_logging_enabled=False)
    async with open_pipeline(settings, Ports(sources=[Drawing()], detector=detector)) as pipeline:
        await pipeline.cells.vision.wait_value(lambda vision: vision.finished)
    print(f"{pipeline.status()['last_seq']} predictions are durable")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(main, Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            trio.run(main, Path(folder) / "buffer.db")
