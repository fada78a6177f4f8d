"""Write the sample frames that ship beside the built-in model: `python -m tools.frames [--out DIR]`."""

import argparse
from pathlib import Path

import cv2

from tools.dataset import SIZE_PX
from tools.surfaces import CLASSES, Image, compose

FRAMES_DIR = Path(__file__).resolve().parent.parent / "actors" / "assets" / "frames"
"""Where the shipped frames live."""

SEED_FIRST = 9_000_200
"""The first sample frame's seed; the ranges that `tools.dataset` draws from all end below it."""

JPEG_BYTES_MAX = 25_000
"""The quality of a frame is lowered, in steps of five from 95, until its file is no larger than this."""

CONTENTS: tuple[tuple[str, ...], ...] = (
    ("scratch",),
    ("dent",),
    ("stain",),
    ("crack",),
    (),
    ("scratch", "stain"),
    ("dent", "crack"),
    (),
    ("scratch", "scratch", "dent"),
    (),
    ("stain", "crack", "dent"),
    (),
)
"""The defects drawn into each frame, in order; an empty row is a clean surface."""


def encode(image: Image) -> bytes:
    """The frame as JPEG, at the best quality that keeps it within `JPEG_BYTES_MAX`."""
    for quality in range(95, 40, -5):
        written, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if written and len(jpeg) <= JPEG_BYTES_MAX:
            return jpeg.tobytes()
    raise ValueError(f"no quality brings the frame under {JPEG_BYTES_MAX} bytes")


def write_frames(folder: Path) -> list[Path]:
    """Write one JPEG for each row of `CONTENTS` as surface-01.jpg, surface-02.jpg, ...; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, names in enumerate(CONTENTS):
        image, _ = compose(SEED_FIRST + index, [CLASSES.index(name) for name in names], SIZE_PX)
        path = folder / f"surface-{index + 1:02d}.jpg"
        path.write_bytes(encode(image))
        paths.append(path)
    return paths


def main() -> None:
    """Parse the command line, write the frames and name each with its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FRAMES_DIR, help="folder to write into (default: %(default)s)")
    for path in write_frames(parser.parse_args().out):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
