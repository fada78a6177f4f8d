"""The latest frames with their boxes drawn, as JPEG files in a folder that never grows beyond its bounds."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import structlog

from actors.ports.images import Frame, Image, opencv
from actors.ports.private import make_folder, open_private
from cloud.wire import Detection

FRAMES_MAX = 200
BYTES_MAX = 64 * 1024 * 1024
JPEG_QUALITY = 85
COLOURS = ((66, 66, 255), (255, 160, 50), (60, 200, 60), (0, 190, 255), (220, 80, 200))
NAME_CHARS_MAX = 120

Draw: TypeAlias = Callable[[Frame, Sequence[Detection]], None]

log = structlog.get_logger()


@attrs.define(eq=False)
class Annotator:
    """Writes into `folder`; the oldest files of ours go first. A folder that refuses a file is logged once."""

    folder: Path
    frames_max: int = FRAMES_MAX
    bytes_max: int = BYTES_MAX
    _trouble: bool = attrs.field(default=False, init=False)

    def draw(self, frame: Frame, detections: Sequence[Detection]) -> None:
        """The frame with its boxes, named by when it was taken and by its id."""
        try:
            self._write(frame, detections)
        except OSError as exc:
            if not self._trouble:
                log.warning("annotate_dir_unwritable", folder=str(self.folder), error=str(exc))
            self._trouble = True
        else:
            self._trouble = False

    def _write(self, frame: Frame, detections: Sequence[Detection]) -> None:
        data = picture(frame.image, detections)
        if not 0 < len(data) <= self.bytes_max:
            return
        make_folder(self.folder)
        self._make_room(len(data))
        path = self.folder / file_name(frame)
        half = path.with_suffix(".part")
        with open_private(half, "wb") as file:
            file.write(data)
        half.replace(path)

    def _make_room(self, size: int) -> None:
        for left in self.folder.glob("boxes-*.part"):
            left.unlink(missing_ok=True)
        with os.scandir(self.folder) as entries:
            ours = sorted(
                (entry.name, entry.stat().st_size) for entry in entries if re.fullmatch(r"boxes-.*\.jpg", entry.name)
            )
        used = sum(one for _, one in ours)
        for number, (name, one) in enumerate(ours):
            if len(ours) - number < self.frames_max and used + size <= self.bytes_max:
                return
            (self.folder / name).unlink(missing_ok=True)
            used -= one


def file_name(frame: Frame) -> str:
    """Sorts by time; holds no character that a file system might mind."""
    ident = re.sub(r"[^A-Za-z0-9._-]", "_", frame.image_id)[-NAME_CHARS_MAX:]
    return f"boxes-{frame.captured_at:017.3f}-{ident}.jpg"


def picture(image: Image, detections: Sequence[Detection]) -> bytes:
    """The image with its boxes drawn, as a JPEG; empty for one of more than 65,500 px a side, which JPEG can't hold."""
    cv2 = opencv()
    _, data = cv2.imencode(".jpg", drawn(image, detections), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return bytes(data)


def drawn(image: Image, detections: Sequence[Detection]) -> Image:
    """A copy of the image with a box, a class and a confidence for each detection."""
    cv2 = opencv()
    image = image.copy()
    for found in detections:
        colour = COLOURS[sum(found.class_name.encode()) % len(COLOURS)]
        x1, y1, x2, y2 = (round(value) for value in found.bbox)
        cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
        label = f"{found.class_name} {found.confidence:.2f}"
        cv2.putText(image, label, (x1, max(12, y1 - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return image
