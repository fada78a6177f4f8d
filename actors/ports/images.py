"""A frame and its pixels: out of a file, of encoded bytes or of an array, and an error that names what can't be read.

OpenCV is imported by the functions that need it and nowhere else, so that a device without it can still log
predictions made elsewhere.
"""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from actors.ports.cursors import Mark

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Image: TypeAlias = npt.NDArray[np.uint8]
    """Height x width x 3 (blue, green, red), 8 bits each."""
else:
    Image: TypeAlias = Any

ImageGiven: TypeAlias = "str | Path | bytes | Image"
"""What `decode_image` takes: a file's path, the bytes of a JPEG, PNG …, or an array."""

IMAGE_ID_CHARS_MAX = 256
IMAGE_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is refused rather than read into memory."""
IMAGE_PIXELS_MAX = 160_000_000
"""A larger image is refused rather than unpacked: no camera gives one, and this one takes 1 GB while it is decoded."""
OPENCV_SETTINGS = {
    "OPENCV_LOG_LEVEL": "OFF",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(IMAGE_PIXELS_MAX),
}
"""Read by OpenCV once, when it is imported. What goes wrong stands in our own errors."""
OPENCV_OVERSIZE = "CV_IO_MAX_IMAGE_PIXELS"


class FrameUnreadable(Exception):
    """One image that can't be read; `path` names it, `reason` says why. The source goes on with the next one."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class SourceDown(Exception):
    """The source gives no frames just now, and the text says why. Close it, wait a little, open it again."""


class NoFrameYet(Exception):
    """The source has nothing now and may have something later: ask again after a pause."""


class LibraryMissing(Exception):
    """OpenCV is not there, and images can't be read without it."""


@attrs.frozen(eq=False)
class Frame:
    """One image, where it came from, and when (seconds since 1970). `image_id` is never given twice by a source.

    `mark` is what the source wants to hear of again once the prediction is durable.
    """

    image_id: str
    source: str
    image: Image
    captured_at: float
    mark: Mark | None = None


def decode_image(image: ImageGiven) -> Image:
    """The pixels of a path, encoded bytes or an array (grey and BGRA become BGR).

    `FrameUnreadable` names what can't be read and why; `LibraryMissing` without OpenCV.
    """
    if isinstance(image, bytes):
        return _decode_bytes(image, f"{len(image)} bytes")
    if isinstance(image, str | os.PathLike):
        return _decode_bytes(_file_bytes(Path(image)), str(image))
    return as_bgr(image)


def image_id(source: str, name: str) -> str:
    """`source/name` in valid Unicode, shortened in front where it is too long for the wire."""
    text = f"{source}/{os.fsencode(name).decode('utf-8', 'backslashreplace')}"
    return text if len(text) <= IMAGE_ID_CHARS_MAX else "…" + text[1 - IMAGE_ID_CHARS_MAX :]


def _file_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(IMAGE_BYTES_MAX + 1)
    except OSError as exc:
        raise FrameUnreadable(str(path), exc.strerror or str(exc)) from exc
    if len(data) > IMAGE_BYTES_MAX:
        raise FrameUnreadable(str(path), f"larger than {IMAGE_BYTES_MAX} bytes")
    return data


def _decode_bytes(data: bytes, label: str) -> Image:
    cv2 = opencv()
    if not data:
        raise FrameUnreadable(label, "empty")
    import numpy as np  # noqa: PLC0415 (see the module's docstring)

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        reason = f"not an image that OpenCV can decode ({exc.err})"
        if OPENCV_OVERSIZE in exc.err:
            reason = f"more than {IMAGE_PIXELS_MAX:,} pixels, or than OPENCV_IO_MAX_IMAGE_PIXELS where that is set"
        raise FrameUnreadable(label, reason) from exc
    if image is None:
        raise FrameUnreadable(label, "not an image that OpenCV can decode, or cut short")
    return as_bgr(image)


def as_bgr(image: Any) -> Image:
    """An array as BGR, checked; grey and BGRA are converted. `FrameUnreadable` says what is wrong with it."""
    cv2 = opencv()
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or kind != "uint8" or 0 in shape:
        seen = type(image).__name__ if shape is None else f"{kind} of shape {shape}"
        raise FrameUnreadable("array", f"must hold pixels as uint8, height x width x 3 (BGR), not {seen}")
    match shape:
        case (_, _, 3):
            return image  # type: ignore[no-any-return]
        case (_, _, 4):
            return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)  # type: ignore[no-any-return]
        case (_, _) | (_, _, 1):
            return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]
        case _:
            raise FrameUnreadable("array", f"must be height x width x 3 (BGR), not of shape {shape}")


def opencv() -> ModuleType:
    """The library, imported at the first call; `LibraryMissing` where it is not installed."""
    for name, value in OPENCV_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import cv2  # noqa: PLC0415 (see the module's docstring)
    except ImportError as exc:
        raise LibraryMissing(f"reading images takes OpenCV ({exc}); pip install 'holdfast[yolo]'") from exc
    return cv2
