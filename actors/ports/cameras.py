"""Frames out of OpenCV's video capture: a video file, a camera, a stream."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog

from actors.ports.cursors import Cursor, Mark
from actors.ports.images import Frame, FrameUnreadable, SourceDown, as_bgr, image_id, opencv

STREAM_TIMEOUT_MS = 10_000
"""How long a network camera may take to open, and to give its next frame."""

log = structlog.get_logger()


@attrs.define(eq=False)
class VideoSource:
    """A video file, from its first frame to its last; a restart goes on behind the last durable one."""

    name: str
    path: Path
    cursor: Cursor = attrs.field(factory=Cursor, kw_only=True)
    recent: Callable[[], Mapping[str, float]] = attrs.field(default=dict, kw_only=True)
    live: bool = attrs.field(default=False, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _capture: Any = attrs.field(default=None, init=False)
    _count: int = attrs.field(default=0, init=False)
    _durable: int = attrs.field(default=0, init=False)
    """All frames up to this one are durable."""
    _resumed: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def open(self) -> None:
        """Open the file; `SourceDown` while it is not there."""
        cv2 = opencv()
        if not self.path.is_file():
            raise SourceDown(f"video {self.path} does not exist; put it there, or correct SOURCES")
        if not self._resumed:
            self._resume()
        self._capture = cv2.VideoCapture(str(self.path))
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, self._count)
        if self._capture.get(cv2.CAP_PROP_POS_FRAMES) != self._count:  # a format that can't jump is wound on
            self._capture = cv2.VideoCapture(str(self.path))
            for _ in range(self._count):
                self._capture.grab()

    def read(self) -> Frame | None:
        """The next frame; a file without a single one is `FrameUnreadable`, once."""
        there, image = (False, None) if self._ended else self._capture.read()
        if there:
            self._count += 1
            mark = Mark(self.path.name, (*self._stamp(), self._count))
            return Frame(self._ident(self._count), self.name, as_bgr(image), self._now(), mark)
        first_end, self._ended = not self._ended, True
        if self._count == 0 and first_end:
            raise FrameUnreadable(str(self.path), "no frame can be read; is it a video in a format that FFmpeg knows?")
        return None

    def accepted(self, marks: Sequence[Mark], passed: Sequence[Mark] = ()) -> None:
        """These frames are settled; the cursor never goes beyond one that is not."""
        for mark in sorted((*marks, *passed), key=lambda mark: mark.numbers[-1]):
            if mark.numbers[-1] == self._durable + 1:
                self._durable += 1
                self.cursor.note([mark])

    def close(self) -> None:
        """Close the file, and sync the cursor."""
        self.cursor.close()
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _resume(self) -> None:
        self._resumed = True
        self.cursor.open()
        *stamp, count = self.cursor.get(self.path.name) or (0, 0, 0)
        if tuple(stamp) == self._stamp():
            self._count = count
        recent = self.recent() if self.cursor.resumed else {}
        changed_at = self._stamp()[1] / 1e9
        while recent.get(self._ident(self._count + 1), -1.0) >= changed_at:
            self._count += 1
        self._durable = self._count
        if self._count:
            log.info("source_resumed", source=self.name, done=self._count, cursor=str(self.cursor.path))

    def _ident(self, number: int) -> str:
        return image_id(self.name, f"frame-{number:06d}")

    def _stamp(self) -> tuple[int, int]:
        facts = self.path.stat()
        return (facts.st_size, facts.st_mtime_ns)


@attrs.define(eq=False)
class CameraSource:
    """A camera by its index, device file or stream address; each frame is dated when it arrives."""

    name: str
    address: int | str
    live: bool = attrs.field(default=True, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _capture: Any = attrs.field(default=None, init=False)
    _turn: int = attrs.field(default=0, init=False)
    """Counts the times that a call was left hanging: what such a call brings at last comes too late."""
    _started_at: float = attrs.field(default=0.0, init=False)
    _count: int = attrs.field(default=0, init=False)

    def open(self) -> None:
        """Connect; `SourceDown` if nobody answers in time. The text never shows the password in an address."""
        cv2, turn = opencv(), self._turn
        self.close()
        if isinstance(self.address, str) and "://" in self.address:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
            capture = cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(self.address)
        if not capture.isOpened() or turn != self._turn:
            capture.release()
            raise SourceDown(f"camera {shown(self.address)} can't be opened; is it connected, and free for this user?")
        self._capture = capture
        self._started_at = self._started_at or self._now()

    def read(self) -> Frame:
        """The next frame; `SourceDown` when none comes."""
        turn = self._turn
        there, image = (False, None) if self._capture is None else self._capture.read()
        if not there or turn != self._turn:
            raise SourceDown(f"camera {shown(self.address)} gives no frames")
        self._count += 1
        ident = image_id(self.name, f"{self._started_at:.3f}-{self._count:06d}")
        return Frame(ident, self.name, as_bgr(image), self._now())

    def abandon(self) -> None:
        """Leave the device to the call that hangs on it; releasing it under that call could crash the process."""
        self._turn += 1
        self._capture = None

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
