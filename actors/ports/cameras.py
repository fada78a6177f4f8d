"""Frames out of OpenCV's video capture: a video file, a camera, a stream."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from actors.ports.images import Frame, FrameUnreadable, SourceDown, as_bgr, image_id, opencv

STREAM_TIMEOUT_MS = 10_000
"""How long a network camera may take to open, and to give its next frame."""


@attrs.define(eq=False)
class VideoSource:
    """A video file, from its first frame to its last."""

    name: str
    path: Path
    live: bool = attrs.field(default=False, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _capture: Any = attrs.field(default=None, init=False)
    _count: int = attrs.field(default=0, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def open(self) -> None:
        """Open the file; `SourceDown` while it is not there."""
        cv2 = opencv()
        if not self.path.is_file():
            raise SourceDown(f"video {self.path} does not exist; put it there, or correct SOURCES")
        self._capture = cv2.VideoCapture(str(self.path))
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, self._count)

    def read(self) -> Frame | None:
        """The next frame; a file without a single one is `FrameUnreadable`, once."""
        there, image = (False, None) if self._ended else self._capture.read()
        if there:
            self._count += 1
            return Frame(image_id(self.name, f"frame-{self._count:06d}"), self.name, as_bgr(image), self._now())
        first_end, self._ended = not self._ended, True
        if self._count == 0 and first_end:
            raise FrameUnreadable(str(self.path), "no frame can be read; is it a video in a format that FFmpeg knows?")
        return None

    def close(self) -> None:
        """Close the file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


@attrs.define(eq=False)
class CameraSource:
    """A camera by its index, device file or stream address; each frame is dated when it arrives."""

    name: str
    address: int | str
    live: bool = attrs.field(default=True, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _capture: Any = attrs.field(default=None, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _count: int = attrs.field(default=0, init=False)

    def open(self) -> None:
        """Connect; `SourceDown` if nobody answers in time. The text never shows the password in an address."""
        cv2 = opencv()
        self.close()
        if isinstance(self.address, str) and "://" in self.address:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
            self._capture = cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, limits)
        else:
            self._capture = cv2.VideoCapture(self.address)
        if not self._capture.isOpened():
            self.close()
            raise SourceDown(f"camera {shown(self.address)} can't be opened; is it connected, and free for this user?")
        self._started_at = self._started_at or self._now()

    def read(self) -> Frame:
        """The next frame; `SourceDown` when none comes."""
        there, image = (False, None) if self._capture is None else self._capture.read()
        if not there:
            raise SourceDown(f"camera {shown(self.address)} gives no frames")
        self._count += 1
        ident = image_id(self.name, f"{self._started_at:.3f}-{self._count:06d}")
        return Frame(ident, self.name, as_bgr(image), self._now())

    def close(self) -> None:
        """Release the camera."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def shown(address: int | str) -> str:
    """An address fit for a log: without the user and password it may carry."""
    text = str(address)
    if "://" not in text or "@" not in text:
        return text
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
