"""Synthetic surface-defect images with their boxes: pure functions of a seed, for training, for measuring, for samples.

A frame is one of five textures (`tools.textures`) with zero to four defects of four classes drawn into it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tools.textures import Field, clouds, surface

Image = npt.NDArray[np.uint8]
"""A BGR frame: uint8, shape (size, size, 3)."""

CLASSES = ("scratch", "dent", "stain", "crack")
"""The class names; a class's id is its place here."""

COUNT_ODDS = (0.12, 0.33, 0.30, 0.17, 0.08)
"""The chance of a frame with 0, 1, 2, 3, 4 defects."""

THIN_SIDE_MIN_PX = 12
"""Scratch and crack boxes are padded to at least this on both sides; a thinner box can hardly be hit at IoU 0.5."""

THIN_MARGIN_PX = 3
"""Room left around the marked pixels of a scratch or a crack."""

OVERLAP_MAX = 0.25
"""No two boxes of a frame share more than this part of the smaller one."""

MARKED_MIN_PX = 20
"""A defect with fewer marked pixels inside the frame is not drawn."""

TRIES_MAX = 10
"""How often a defect that does not fit is drawn anew before the frame goes without it."""


@dataclass(frozen=True, slots=True)
class Box:
    """One labelled defect: class id and pixel edges, left and top inclusive, right and bottom exclusive."""

    class_id: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    def overlap(self, other: "Box") -> float:
        """The shared area as a part (0..1) of the smaller box."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        return width * height / min(self.width * self.height, other.width * other.height)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a defect does to a surface: the grey levels it adds and how much (0..1) each pixel belongs to it."""

    change: Field
    extent: Field


def wander(
    rng: np.random.Generator, size: int, length_px: float, steps: int, bend_rad: float
) -> npt.NDArray[np.float64]:
    """A random walk of `steps` equal steps that starts in the frame; points (x, y) in pixels, shape (steps + 1, 2)."""
    start = rng.uniform(0.1, 0.9, 2) * size
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend_rad, steps))
    stride = length_px / steps * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.vstack([start, start + np.cumsum(stride, axis=0)])


def stroke(size: int, points: npt.NDArray[np.float64], widths_px: npt.NDArray[np.float64]) -> Field:
    """How much (0..1) of each pixel a polyline covers; one width for each of its segments."""
    fine = 4
    canvas = np.zeros((size * fine, size * fine), np.uint8)
    corners = [(int(x), int(y)) for x, y in np.round(points * fine)]
    for start, end, width in zip(corners[:-1], corners[1:], widths_px, strict=True):
        cv2.line(canvas, start, end, 255, max(1, round(width * fine)), cv2.LINE_AA)
    return (cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) / np.float32(255)).astype(np.float32)


def blot(rng: np.random.Generator, size: int, radius_px: float) -> Field:
    """How much (0..1) of each pixel an irregular rounded patch covers."""
    centre = rng.uniform(0.1, 0.9, 2) * size
    around = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radii = np.ones_like(around)
    for wave in range(2, 7):
        radii += 0.4 / wave * rng.normal() * np.cos(wave * around + rng.uniform(0, 2 * np.pi))
    radii = np.maximum(radii, 0.35) * radius_px
    stretch = rng.uniform(0.8, 1.25)
    x, y = radii * np.cos(around) * stretch, radii * np.sin(around) / stretch
    tilt = rng.uniform(0, np.pi)
    outline = centre + np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1)
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 8).astype(np.int32)], 255, cv2.LINE_AA, 3)
    return (canvas / np.float32(255)).astype(np.float32)


def scratch(rng: np.random.Generator, size: int, texture: float) -> Mark:
    """Long, straight or gently curved, bright or dark, sometimes with a shadow along one edge."""
    points = wander(rng, size, rng.uniform(0.18, 0.7) * size, 12, 0.04)
    extent = stroke(size, points, np.full(12, rng.uniform(1.1, 2.6)))
    sign = 1 if rng.random() < 0.5 else -1
    depth = rng.uniform(32, 75) + texture
    change = sign * depth * extent * np.clip(0.9 + 0.15 * clouds(rng, size, 3, 6), 0.55, 1.2)
    if rng.random() < 0.5:
        change -= sign * rng.uniform(12, 30) * np.roll(extent, (1, 1), (0, 1))
    return Mark(change.astype(np.float32), extent)


def dent(rng: np.random.Generator, size: int, texture: float) -> Mark:
    """A shallow round bowl: lit on one side, in shade on the other."""
    radius_px = rng.uniform(0.03, 0.11) * size
    across, down = rng.uniform(0.08, 0.92, 2) * size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    stretch = rng.uniform(0.85, 1.2)
    distance = np.hypot((x - across) * stretch, (y - down) / stretch) / radius_px
    bowl = np.exp(-1.6 * distance**2).astype(np.float32)
    lamp = rng.uniform(0, 2 * np.pi)
    shade = cv2.Sobel(bowl, cv2.CV_32F, 1, 0) * np.cos(lamp) + cv2.Sobel(bowl, cv2.CV_32F, 0, 1) * np.sin(lamp)
    shade /= np.abs(shade).max() + 1e-6
    change = (rng.uniform(30, 70) + texture) * shade - rng.uniform(0, 20) * bowl
    return Mark(change.astype(np.float32), (distance < 1.15).astype(np.float32))


def stain(rng: np.random.Generator, size: int, texture: float) -> Mark:
    """An irregular soft-edged patch, mostly darker than the surface, sometimes with a rim."""
    extent = blot(rng, size, rng.uniform(0.05, 0.17) * size)
    soft = cv2.GaussianBlur(extent, (0, 0), rng.uniform(0.8, 3.0))
    sign = -1 if rng.random() < 0.75 else 1
    depth = rng.uniform(22, 50) + 0.5 * texture
    change = sign * depth * soft * np.clip(0.8 + 0.2 * clouds(rng, size, 4, 5), 0.3, 1.3)
    if rng.random() < 0.4:
        change -= rng.uniform(16, 50) * np.clip(soft - cv2.GaussianBlur(soft, (0, 0), 3), 0, 1)
    return Mark(change.astype(np.float32), extent)


def crack(rng: np.random.Generator, size: int, texture: float) -> Mark:
    """Jagged, dark, thinning towards its end, with up to three branches."""
    steps = int(rng.integers(14, 34))
    points = wander(rng, size, rng.uniform(0.25, 0.7) * size, steps, 0.5)
    extent = stroke(size, points, np.linspace(rng.uniform(1.5, 2.8), 0.9, steps))
    for _ in range(int(rng.integers(0, 4))):
        branch = wander(rng, size, rng.uniform(0.08, 0.22) * size, 8, 0.5)
        fork = points[int(rng.integers(1, steps))]
        extent = np.maximum(extent, stroke(size, branch - branch[0] + fork, np.full(8, 1.0)))
    return Mark((-(rng.uniform(42, 90) + texture) * extent).astype(np.float32), extent)


DEFECTS: tuple[Callable[[np.random.Generator, int, float], Mark], ...] = (scratch, dent, stain, crack)
"""How each class of `CLASSES` is drawn, from the frame's size in pixels and its texture's strength in grey levels."""


def widened(low: int, high: int, least: int, size: int) -> tuple[int, int]:
    """The span [low, high) grown about its middle to `least` pixels, then moved to lie inside [0, size)."""
    lack = max(0, least - (high - low))
    low, high = low - lack // 2, high + lack - lack // 2
    shift = max(0, -low) - max(0, high - size)
    return max(0, low + shift), min(size, high + shift)


def enclose(class_id: int, extent: Field) -> Box | None:
    """The box around a defect's marked pixels, or None where too little of it lies inside the frame."""
    size = extent.shape[0]
    ys, xs = np.nonzero(extent > 0.3)
    if len(xs) < MARKED_MIN_PX:
        return None
    left, right, top, bottom = int(xs.min()), int(xs.max()) + 1, int(ys.min()), int(ys.max()) + 1
    if CLASSES[class_id] in ("scratch", "crack"):
        left, right = widened(left, right, max(THIN_SIDE_MIN_PX, right - left + 2 * THIN_MARGIN_PX), size)
        top, bottom = widened(top, bottom, max(THIN_SIDE_MIN_PX, bottom - top + 2 * THIN_MARGIN_PX), size)
    return Box(class_id, left, top, right, bottom)


def add_defect(rng: np.random.Generator, grey: Field, texture: float, class_id: int, boxes: list[Box]) -> Field:
    """The surface with one more defect, whose box is appended to `boxes`; unchanged where none would fit."""
    for _ in range(TRIES_MAX):
        mark = DEFECTS[class_id](rng, grey.shape[0], texture)
        box = enclose(class_id, mark.extent)
        if box is not None and all(box.overlap(other) <= OVERLAP_MAX for other in boxes):
            boxes.append(box)
            return grey + mark.change
    return grey


def expose(rng: np.random.Generator, grey: Field) -> Image:
    """What the camera makes of the surface: sensor noise, a little blur at times, a slight tint."""
    seen = grey + rng.normal(0, rng.uniform(1, 5), grey.shape)
    if rng.random() < 0.3:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.4, 0.9)), np.float64)
    tint = np.ones(3) if rng.random() < 0.3 else 1 + rng.uniform(-0.08, 0.08, 3)
    return np.clip(seen[..., None] * tint, 0, 255).astype(np.uint8)


def compose(seed: int, class_ids: Sequence[int], size: int = 256) -> tuple[Image, list[Box]]:
    """A frame with the given defects, as many as fit: BGR uint8 (size, size, 3), and their boxes in pixels."""
    rng = np.random.default_rng(seed)
    grey, texture = surface(rng, size)
    boxes: list[Box] = []
    for class_id in class_ids:
        grey = add_defect(rng, grey, texture, class_id, boxes)
    return expose(rng, grey), boxes


def sample(seed: int, size: int = 256) -> tuple[Image, list[Box]]:
    """A frame with a random number of random defects: BGR uint8 (size, size, 3), and their boxes in pixels."""
    choice = np.random.default_rng((seed, 1))
    count = int(choice.choice(len(COUNT_ODDS), p=COUNT_ODDS))
    return compose(seed, [int(class_id) for class_id in choice.integers(len(CLASSES), size=count)], size)
