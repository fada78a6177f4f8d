"""Frames of a size for the benchmarks of seeing, and the two models that are shown them."""

from pathlib import Path
from typing import Any

from actors.ports.frames import SAMPLE_FOLDER, decode_image

SMALL, STOCK = "built-in, 256 px", "YOLO11n, 640 px"
FRAME_SIZE = {SMALL: (256, 256), STOCK: (1280, 720)}
"""Width and height of what a model is shown."""
WARM_UP = 20
"""Frames that are not counted."""


def images(width: int, height: int, count: int) -> list[Any]:
    """The sample frames, over and over, at this size."""
    import cv2  # noqa: PLC0415 - only where frames are needed

    paths = sorted(SAMPLE_FOLDER.iterdir())
    return [cv2.resize(decode_image(paths[number % len(paths)]), (width, height)) for number in range(count)]


def folder_of(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A new folder with so many JPEG files of this size."""
    import cv2  # noqa: PLC0415

    folder.mkdir()
    whole = [cv2.imencode(".jpg", image)[1].tobytes() for image in images(*size, 12)]
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(whole[number % len(whole)])
    return folder
