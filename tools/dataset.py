"""Write the splits that the built-in model is trained and measured on, in the layout that Ultralytics reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.surfaces import CLASSES, Box, Image, compose, sample

SIZE_PX = 256
"""Side of every frame in pixels, and the model's input size."""

QUALITY_MIN, QUALITY_SPREAD = 78, 18
"""The JPEG qualities of the frames: from the first, this many values, going round with the seed."""


@dataclass(frozen=True, slots=True)
class Split:
    """A named run of seeds, one frame each; no two splits share a seed."""

    name: str
    seed_first: int
    seed_room: int

    def seeds(self, count: int) -> range:
        """The split's first `count` seeds."""
        if count > self.seed_room:
            raise ValueError(f"split {self.name} has room for {self.seed_room} frames, not {count}")
        return range(self.seed_first, self.seed_first + count)


TRAIN = Split("train", 0, 1_000_000)
VAL = Split("val", 1_000_000, 1_000_000)
TEST = Split("test", 2_000_000, 1_000_000)
CLEAN = Split("clean", 3_000_000, 1_000_000)
TUNE = Split("tune", 4_000_000, 1_000_000)
"""Clean frames as well: `tools.calibrate` sets the scale of the confidences by them."""


def label_line(box: Box, size: int) -> str:
    """A box as Ultralytics wants it: class id, then centre x, centre y, width and height as parts of the frame."""
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    parts = " ".join(f"{value / size:.6f}" for value in (x, y, box.width, box.height))
    return f"{box.class_id} {parts}\n"


def write_jpeg(path: Path, image: Image, seed: int) -> None:
    """Write the frame at the JPEG quality that its seed stands for."""
    quality = QUALITY_MIN + seed % QUALITY_SPREAD
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise OSError(f"could not write {path}")


def write_split(root: Path, split: Split, count: int) -> None:
    """Write `count` frames and their label files under `root`."""
    images, labels = root / "images" / split.name, root / "labels" / split.name
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for seed in split.seeds(count):
        image, boxes = sample(seed, SIZE_PX)
        write_jpeg(images / f"{seed:07d}.jpg", image, seed)
        (labels / f"{seed:07d}.txt").write_text("".join(label_line(box, SIZE_PX) for box in boxes))


def write_dataset(root: Path, counts: dict[Split, int]) -> Path:
    """Write every split and the description that names them; gives the description's path."""
    for split, count in counts.items():
        write_split(root, split, count)
    lines = [f"path: {root.resolve()}"]
    lines += [f"{split.name}: images/{split.name}" for split in counts]
    lines += ["names:", *(f"  {class_id}: {name}" for class_id, name in enumerate(CLASSES))]
    description = root / "surfaces.yaml"
    description.write_text("\n".join(lines) + "\n")
    return description


def clean_frames(split: Split, count: int) -> Iterator[Image]:
    """Frames without a defect, as the model would get them: after a trip through JPEG."""
    for seed in split.seeds(count):
        image, _ = compose(seed, (), SIZE_PX)
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY_MIN + seed % QUALITY_SPREAD])
        yield np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
