"""Where frames come from: files, videos, cameras and the built-in samples, each read one frame at a time.

A source is synchronous: whoever owns it calls it from a lane of its own.
"""

import glob
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import attrs

from actors.ports.cameras import CameraSource, VideoSource, shown
from actors.ports.cursors import Cursor, Mark, cursor_path
from actors.ports.folders import IMAGE_SUFFIXES, FolderSource, images_in
from actors.ports.images import (
    Frame,
    FrameUnreadable,
    Image,
    ImageGiven,
    LibraryMissing,
    NoFrameYet,
    SourceDown,
    decode_image,
    image_id,
    opencv,
)
from actors.settings import AfterAccept

__all__ = [
    "Abandonable",
    "CameraSource",
    "FolderSource",
    "Frame",
    "FrameUnreadable",
    "Image",
    "ImageGiven",
    "LibraryMissing",
    "NoFrameYet",
    "Resumable",
    "SampleSource",
    "Source",
    "SourceDown",
    "SourcesWrong",
    "VideoSource",
    "decode_image",
    "image_id",
    "parse_sources",
]

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
STREAM_SCHEMES = frozenset({"http", "https", "rtmp", "rtsp", "rtsps", "udp"})
SAMPLE_PERIOD_S = 0.2
SAMPLE_FOLDER = Path(__file__).parent.parent / "assets" / "frames"
SOURCES_TAKE = (
    "'samples', a folder, an image, a glob, a video file, a camera's number or device file, or the address of a stream "
    "(rtsp://, http://, …), several separated by commas, each as NAME=SOURCE where it needs a name of its own"
)


class SourcesWrong(ValueError):
    """The SOURCES setting can't be understood; the text names the part and what it takes."""


class Source(Protocol):
    """Gives frames, one `read` after another. `open` after `close` goes on where the source stood.

    A source that is not `live` never skips a frame; it may be `Resumable`. One that is may be `Abandonable`.
    """

    @property
    def name(self) -> str:
        """How the operator calls it; the first part of every `image_id`."""
        ...

    @property
    def live(self) -> bool:
        """True for what never ends: a camera, a stream, the looping samples."""
        ...

    @property
    def period_s(self) -> float:
        """The least time between two reads; 0 means as fast as it goes."""
        ...

    def open(self) -> None:
        """Get ready; `SourceDown` if that can't be, `LibraryMissing` without OpenCV."""
        ...

    def read(self) -> Frame | None:
        """The next frame; None when the source has ended.

        Raises `FrameUnreadable` (read on), `NoFrameYet` (read on after a pause) or `SourceDown`.
        """
        ...

    def close(self) -> None:
        """Let go of the device or file; harmless when it is not open."""
        ...


@runtime_checkable
class Resumable(Source, Protocol):
    """A source that a restart takes up where the last durable prediction was."""

    def accepted(self, marks: Sequence[Mark], passed: Sequence[Mark] = ()) -> None:
        """The frames with these marks are durable, in the order of reading; of those `passed` nothing could be said."""
        ...


@runtime_checkable
class Abandonable(Source, Protocol):
    """A source whose calls may hang for ever."""

    def abandon(self) -> None:
        """A call hangs in its thread and is left to it: forget the device, which the next `open` opens anew."""
        ...


@attrs.define(eq=False)
class SampleSource:
    """The built-in sample frames, over and over, one each `period_s`; the session's start makes their ids unique."""

    name: str = "samples"
    period_s: float = SAMPLE_PERIOD_S
    folder: Path = SAMPLE_FOLDER
    live: bool = attrs.field(default=True, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _paths: list[Path] = attrs.field(factory=list, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _count: int = attrs.field(default=0, init=False)

    def open(self) -> None:
        """List the samples; `SourceDown` if the installation lacks them."""
        opencv()
        self._paths = images_in(self.folder)
        if not self._paths:
            raise SourceDown(f"no sample frames in {self.folder}; install holdfast again, or set SOURCES")
        self._started_at = self._started_at or self._now()

    def read(self) -> Frame:
        """The next sample; after the last one the first again."""
        path = self._paths[self._count % len(self._paths)]
        self._count += 1
        ident = image_id(self.name, f"{self._started_at:.3f}-{self._count:06d}-{path.name}")
        return Frame(ident, self.name, decode_image(path), self._now())

    def close(self) -> None:
        """Nothing is held open between two reads."""


@attrs.frozen(kw_only=True)
class Memory:
    """What a source may know of earlier sessions: the folder of the cursors, and what the buffer took last."""

    folder: Path | None = None
    recent: Callable[[], Mapping[str, float]] = dict
    after: AfterAccept = AfterAccept.KEEP

    def cursor(self, source: str, of: Path) -> Cursor:
        """The cursor of a source that reads `of`."""
        return Cursor(cursor_path(self.folder, source) if self.folder else None, str(of.absolute()))


@attrs.frozen
class _Reader:
    now: Callable[[], float]
    sample_period_s: float
    memory: Memory


def parse_sources(
    text: str,
    *,
    now: Callable[[], float] = time.time,
    sample_period_s: float = SAMPLE_PERIOD_S,
    memory: Memory | None = None,
) -> tuple[Source, ...]:
    """The sources that the SOURCES setting names; `SourcesWrong` if it can't be understood. Opens nothing.

    An empty text and `none` mean no source at all. A folder is watched; a glob or an image is read once.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    if given == ["none"]:
        return ()
    reader = _Reader(now, sample_period_s, memory or Memory())
    sources = tuple(_parse(part, reader) for part in given)
    name, times = Counter(source.name for source in sources).most_common(1)[0] if sources else ("", 0)
    if times > 1:
        raise SourcesWrong(f"SOURCES: {times} sources are called {name!r}; name them apart: first=…,second=…")
    return sources


def _parse(part: str, reader: _Reader) -> Source:
    named = re.fullmatch(r"([A-Za-z0-9_.-]{1,64})=(.+)", part)
    name, spec = named.groups() if named else ("", part)
    if spec == "samples":
        return SampleSource(name or "samples", reader.sample_period_s, now=reader.now)
    if spec.isdecimal():
        return CameraSource(name or f"camera-{spec}", int(spec), now=reader.now)
    if "://" in spec:
        return _stream(name, spec, reader)
    return _on_disk(name, Path(spec).expanduser(), reader)


def _on_disk(name: str, path: Path, reader: _Reader) -> Source:
    """What a path means. One that does not exist yet is taken by its looks: a disk may be mounted later."""
    magic, suffix = glob.has_magic(str(path)) and not path.exists(), path.suffix.lower()
    if path.is_relative_to("/dev") and not path.is_relative_to("/dev/shm"):  # noqa: S108 - files in memory, not devices
        return CameraSource(name or path.name, str(path), now=reader.now)
    if magic:
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        return _folder(name or fixed.resolve().name or "root", fixed, str(path.relative_to(fixed)), reader)
    if path.is_dir() or (not suffix and len(path.parts) > 1 and not path.exists()):
        return _folder(name or path.resolve().name or "root", path, "*", reader, watch=True)
    if suffix in VIDEO_SUFFIXES:
        cursor = reader.memory.cursor(name or path.stem, path)
        return VideoSource(name or path.stem, path, cursor=cursor, recent=reader.memory.recent, now=reader.now)
    if suffix in IMAGE_SUFFIXES:
        return _folder(name or path.stem, path.parent, glob.escape(path.name), reader)
    raise SourcesWrong(f"SOURCES: {str(path)!r} is no source on this device; it takes {SOURCES_TAKE}")


def _folder(name: str, folder: Path, pattern: str, reader: _Reader, *, watch: bool = False) -> FolderSource:
    memory = reader.memory
    cursor = memory.cursor(name, folder / pattern)
    return FolderSource(
        name, folder, pattern, watch=watch, after=memory.after, cursor=cursor, recent=memory.recent, now=reader.now
    )


def _stream(name: str, address: str, reader: _Reader) -> Source:
    parts = urlsplit(address)
    if parts.scheme.lower() not in STREAM_SCHEMES or not parts.hostname:
        schemes = ", ".join(sorted(STREAM_SCHEMES))
        raise SourcesWrong(
            f"SOURCES: {shown(address)!r} is no stream's address; it takes SCHEME://HOST… with {schemes}"
        )
    return CameraSource(name or parts.hostname, address, now=reader.now)
