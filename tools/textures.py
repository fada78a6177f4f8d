"""Five kinds of undamaged surface, each a grey-level field drawn from a seeded generator."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
"""A square grey-level field: float32, shape (size, size); grey levels 0..255 once lit, unitless before."""

OVERSIZE = 1.5
"""A texture is drawn this much larger than the frame, so that no corner is empty after it is turned."""


def noise(rng: np.random.Generator, size: int) -> Field:
    """White noise of unit variance, shape (size, size)."""
    return rng.standard_normal((size, size), dtype=np.float32)


def clouds(rng: np.random.Generator, size: int, octaves: int, cells: int, fall: float = 0.55) -> Field:
    """Cloudy noise of unit variance, shape (size, size).

    The first octave has `cells` x `cells` cells; each next one has twice as many a side and `fall` times the strength.
    """
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave
        if side > size:
            break
        layer = cv2.resize(noise(rng, side), (size, size), interpolation=cv2.INTER_CUBIC)
        total += np.float32(fall**octave) * layer
    return unit(total)


def unit(field: Field) -> Field:
    """The field scaled to a standard deviation of one."""
    return np.asarray(field / field.std(), np.float32)


def brushed(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """Brushed metal: noise smeared along one direction."""
    stroke_px = int(rng.integers(25, 90)) | 1
    grain = unit(cv2.blur(noise(rng, size), (stroke_px, 1)).astype(np.float32))
    return grain + 0.4 * clouds(rng, size, 3, 4), rng.uniform(5, 13)


def painted(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """Painted or polished sheet: wide soft clouds under fine noise."""
    return 0.6 * clouds(rng, size, 3, 2) + 0.3 * noise(rng, size), rng.uniform(4, 10)


def woven(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """Woven cloth: two crossing threads whose pitch wavers a little."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    pitch_px = rng.uniform(4, 11)
    waver_px = clouds(rng, size, 3, 3) * rng.uniform(0, 1.2)
    turn = 2 * np.pi / pitch_px
    warp = np.sin(turn * (x + waver_px)) * np.sign(np.sin(turn / 2 * y))
    weft = np.sin(turn * (y + waver_px))
    return (0.7 * (warp + weft) + 0.35 * noise(rng, size)).astype(np.float32), rng.uniform(6, 14)


def cast(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """Concrete or rough casting: clouds with much fine detail."""
    return clouds(rng, size, 7, 4, rng.uniform(0.6, 0.8)), rng.uniform(6, 14)


def pebbled(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """Leather or orange peel: rounded bumps of one size."""
    bumps = cv2.GaussianBlur(noise(rng, size), (0, 0), rng.uniform(1.2, 3.2)).astype(np.float32)
    return unit(bumps) + 0.3 * clouds(rng, size, 3, 4), rng.uniform(5, 12)


TEXTURES: tuple[Callable[[np.random.Generator, int], tuple[Field, float]], ...] = (
    brushed,
    painted,
    woven,
    cast,
    pebbled,
)
"""Each gives a field of about unit variance and the strength, in grey levels, at which it is to show."""


def turned(field: Field, angle_deg: float, size: int) -> Field:
    """The middle (size, size) of the field after turning it about its centre."""
    wide = field.shape[0]
    about = cv2.getRotationMatrix2D((wide / 2, wide / 2), angle_deg, 1.0)
    whole = cv2.warpAffine(field, about, (wide, wide), borderMode=cv2.BORDER_REFLECT)
    edge = (wide - size) // 2
    return np.asarray(whole[edge : edge + size, edge : edge + size], np.float32)


def lighting(rng: np.random.Generator, size: int) -> Field:
    """One lamp: a slope of up to 45 grey levels across the frame, and a fall-off or glow at the edges."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    towards = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 45) * (x * np.cos(towards) + y * np.sin(towards))
    vignette = rng.uniform(-30, 10) * (x * x + y * y)
    return np.asarray(slope + vignette, np.float32)


def surface(rng: np.random.Generator, size: int) -> tuple[Field, float]:
    """An undamaged, lit surface in grey levels, shape (size, size), and the strength of its texture in grey levels."""
    field, strength = TEXTURES[int(rng.integers(len(TEXTURES)))](rng, int(size * OVERSIZE))
    grain = turned(field, float(rng.uniform(0, 360)), size)
    lit = rng.uniform(70, 195) + strength * grain + lighting(rng, size)
    return np.asarray(lit, np.float32), strength
