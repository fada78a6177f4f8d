"""Where frames come from: files, videos, cameras and the built-in samples, each read one frame at a time.

A source is synchronous: whoever owns it calls it from a lane of its own.
"""

import glob
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from actors.ports.cameras import CameraSource, VideoSource, shown
from actors.ports.images import (
    Frame,
    FrameUnreadable,
    Image,
    ImageGiven,
    LibraryMissing,
    SourceDown,
    decode_image,
    image_id,
    opencv,
)

__all__ = [
    "CameraSource",
    "FolderSource",
    "Frame",
    "FrameUnreadable",
    "Image",
    "ImageGiven",
    "LibraryMissing",
    "SampleSource",
    "Source",
    "SourceDown",
    "SourcesWrong",
    "VideoSource",
    "decode_image",
    "image_id",
    "parse_sources",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
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
    """Gives frames, one `read` after another. `open` after `close` goes on where the source stood."""

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
        """The next frame; None when the source has ended. Raises `FrameUnreadable` (read on) or `SourceDown`."""
        ...

    def close(self) -> None:
        """Let go of the device or file; harmless when it is not open."""
        ...


@attrs.define(eq=False)
class FolderSource:
    """The image files of a folder that match `pattern`, sorted by name, each read once."""

    name: str
    folder: Path
    pattern: str = "*"
    live: bool = attrs.field(default=False, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _waiting: Iterator[Path] | None = attrs.field(default=None, init=False)

    def open(self) -> None:
        """List the files once; `SourceDown` while the folder, or the one file that was named, is not there."""
        opencv()  # missing, it is missed now
        if self._waiting is not None:
            return
        try:
            found = _images(self.folder, self.pattern) if self.folder.is_dir() else None
        except OSError as exc:
            raise SourceDown(f"folder {self.folder} can't be read ({exc.strerror}); mend its permissions") from exc
        if found is None:
            raise SourceDown(f"folder {self.folder} does not exist; create or mount it, or correct SOURCES")
        if not found and not glob.has_magic(self.pattern.replace("[[]", "")):
            raise SourceDown(f"image {self.folder / self.pattern} does not exist; put it there, or correct SOURCES")
        self._waiting = iter(found)

    def read(self) -> Frame | None:
        """The next file's image; `FrameUnreadable` for a file that holds none."""
        path = next(self._waiting or iter(()), None)
        if path is None:
            return None
        image = decode_image(path)
        return Frame(image_id(self.name, str(path.relative_to(self.folder))), self.name, image, self._now())

    def close(self) -> None:
        """Nothing is held open between two reads."""


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
        self._paths = _images(self.folder, "*")
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


def _images(folder: Path, pattern: str) -> list[Path]:
    found = (folder / hit for hit in glob.iglob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 (takes an escaped name)
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def parse_sources(
    text: str, *, now: Callable[[], float] = time.time, sample_period_s: float = SAMPLE_PERIOD_S
) -> tuple[Source, ...]:
    """The sources that the SOURCES setting names; `SourcesWrong` if it can't be understood. Opens nothing.

    An empty text and `none` mean no source at all.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    if given == ["none"]:
        return ()
    sources = tuple(_parse(part, now, sample_period_s) for part in given)
    name, times = Counter(source.name for source in sources).most_common(1)[0] if sources else ("", 0)
    if times > 1:
        raise SourcesWrong(f"SOURCES: {times} sources are called {name!r}; name them apart: first=…,second=…")
    return sources


def _parse(part: str, now: Callable[[], float], sample_period_s: float) -> Source:
    named = re.fullmatch(r"([A-Za-z0-9_.-]{1,64})=(.+)", part)
    name, spec = named.groups() if named else ("", part)
    if spec == "samples":
        return SampleSource(name or "samples", sample_period_s, now=now)
    if spec.isdecimal():
        return CameraSource(name or f"camera-{spec}", int(spec), now=now)
    if "://" in spec:
        return _stream(name, spec, now)
    return _on_disk(name, Path(spec).expanduser(), now)


def _on_disk(name: str, path: Path, now: Callable[[], float]) -> Source:
    """What a path means. One that does not exist yet is taken by its looks: a disk may be mounted later."""
    magic, suffix = glob.has_magic(str(path)) and not path.exists(), path.suffix.lower()
    if path.is_relative_to("/dev"):
        return CameraSource(name or path.name, str(path), now=now)
    if magic:
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        return FolderSource(name or fixed.resolve().name or "root", fixed, str(path.relative_to(fixed)), now=now)
    if path.is_dir() or (not suffix and len(path.parts) > 1 and not path.exists()):
        return FolderSource(name or path.resolve().name or "root", path, now=now)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(name or path.stem, path, now=now)
    if suffix in IMAGE_SUFFIXES:
        return FolderSource(name or path.stem, path.parent, glob.escape(path.name), now=now)
    raise SourcesWrong(f"SOURCES: {str(path)!r} is no source on this device; it takes {SOURCES_TAKE}")


def _stream(name: str, address: str, now: Callable[[], float]) -> Source:
    parts = urlsplit(address)
    if parts.scheme.lower() not in STREAM_SCHEMES or not parts.hostname:
        schemes = ", ".join(sorted(STREAM_SCHEMES))
        raise SourcesWrong(
            f"SOURCES: {shown(address)!r} is no stream's address; it takes SCHEME://HOST… with {schemes}"
        )
    return CameraSource(name or parts.hostname, address, now=now)
