"""Clouds over a tile: layers of fractal fields that drift with the wind, from cirrus to overcast, and their shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from . import sky
from .noise import Field, fractal, rng, step
from .terrain import Mask
from .tiles import RESOLUTION, Tile

THICK, THIN, CIRRUS, SHADE = 0.60, 0.20, 0.06, 0.30
"""Opacity from which a pixel counts as thick cloud, thin cloud, cirrus; loss of direct light that counts as shadow."""


@dataclass(frozen=True)
class _Type:
    """How a kind of cloud looks: spectrum, growth of optical depth inwards (and its square, `core`), height in m,
    limit of the opacity."""

    slope: float
    outer: float
    stretch: float
    growth: float
    low: float
    high: float
    limit: float
    core: float = 2.5
    ice: bool = False


_TYPES = {
    "cumulus": _Type(2.05, 7.0, 1.0, 2.2, 700, 1800, 0.99),
    "stratocumulus": _Type(2.2, 4.0, 1.6, 1.6, 600, 1500, 0.98),
    "stratus": _Type(2.5, 2.0, 1.3, 2.2, 300, 900, 0.99),
    "altocumulus": _Type(1.9, 9.0, 1.8, 0.9, 2500, 4500, 0.93, 0.8),
    "cirrus": _Type(1.9, 2.5, 4.0, 0.35, 7000, 9500, 0.55, 0.0, True),
}


@dataclass(frozen=True, eq=False)
class Clouds:
    """All (y, x), 0..1. alpha: opacity seen from above. shade: share of the direct sunlight taken away. bright: of
    the cloud against a flat one (about 0.5..1.2). ice: share of the opacity that is cirrus. cirrus: its own opacity."""

    alpha: Field
    shade: Field
    bright: Field
    ice: Field
    cirrus: Field

    @property
    def shadow(self) -> Mask:
        """Ground in cloud shadow that no cloud covers."""
        return np.asarray((self.shade > SHADE) & (self.alpha < THIN))


def at(seed: int, tile: Tile, time: np.datetime64, sun: sky.Sun) -> Clouds:
    """Clouds over a tile. In minutes they drift with the wind of the day; every day has fields of its own."""
    day = time.astype("datetime64[D]")
    cover = sky.cloudiness(seed, tile, time)
    gen = rng("weather", seed, tile.zone, str(day))
    kinds = ["cumulus", "stratocumulus", "altocumulus"] if cover < 0.75 else ["stratocumulus", "stratus", "stratus"]
    kind = str(gen.choice(kinds))
    wind, direction = float(gen.gamma(3.0, 3.0)), float(gen.uniform(0, 2 * np.pi))
    jitter = float(gen.uniform(-1.0, 0.5))
    veil = float(gen.uniform(0.1, 0.9)) if gen.random() < 0.3 and cover > 0.001 else 0.0
    seconds = float((time - day) / np.timedelta64(1, "s")) - 36000.0
    drift = (wind * seconds / RESOLUTION * np.sin(direction), wind * seconds / RESOLUTION * np.cos(direction))
    n = tile.size
    none = np.zeros((n, n), np.float32)
    alpha, bright, shade, cirrus = none, np.ones((n, n), np.float32), none, none
    if cover > 0.0:
        alpha, bright, shade = _layer(
            rng("layer", seed, tile.name, str(day)), n, _TYPES[kind], cover, direction, drift, jitter, sun
        )
    if veil > 0.0:
        cirrus, _, more = _layer(
            rng("veil", seed, tile.name, str(day)), n, _TYPES["cirrus"], veil, direction + 0.4,
            (3.0 * drift[0], 3.0 * drift[1]), jitter, sun,
        )  # fmt: skip
        shade = shade + more - shade * more
        total = alpha + cirrus - alpha * cirrus
        ice = (cirrus / np.maximum(total, np.float32(1e-6))).astype("f4")
        return Clouds(total, shade, bright, ice, cirrus)
    return Clouds(alpha, shade, bright, none, cirrus)


def _layer(
    gen: np.random.Generator, n: int, t: _Type, cover: float, direction: float, drift: tuple[float, float],
    jitter: float, sun: sky.Sun,
) -> tuple[Field, Field, Field]:  # fmt: skip
    """(opacity, brightness, shade) of a layer that covers about `cover` of the sky."""
    wide = 2 * n  # so that clouds outside the tile cast shadows into it, and drift in
    scale = n / 512
    field = fractal(gen, wide, slope=t.slope, outer=2 * t.outer * scale, stretch=t.stretch, angle=direction,
                    shift=(drift[0] % wide, drift[1] % wide))  # fmt: skip
    # broken cloud comes in groups: the threshold itself varies over kilometres
    group = np.tile(fractal(gen, n, slope=2.5, outer=1.0), (2, 2))
    field = np.float32(np.sqrt(0.7)) * field + np.float32(np.sqrt(0.3)) * group
    threshold = float(special.ndtri(1.0 - np.clip(cover, 1e-4, 0.9999)))
    inside = np.maximum(field - np.float32(threshold), 0.0)
    depth = np.float32(t.growth * np.exp(jitter)) * inside + np.float32(t.core) * inside * inside
    opacity = np.float32(t.limit) * (1.0 - np.exp(-depth))
    height = t.low + (t.high - t.low) * float(gen.random())
    reach = height / np.tan(max(sun.elevation, 0.12)) / RESOLUTION
    rows, columns = np.cos(sun.azimuth) * reach, -np.sin(sun.azimuth) * reach  # away from the sun: rows grow south
    origin = n // 2
    shade = _moved(opacity, origin, n, rows, columns)
    if t.low < 2500:  # the layer is thick itself: its base casts a shadow beside it
        shade = np.maximum(shade, _moved(opacity, origin, n, 0.8 * rows, 0.8 * columns) * np.float32(0.9))
    window = (slice(origin, origin + n),) * 2
    here, thick = opacity[window], np.minimum(inside[window], 2.0)
    bright = 0.68 + 0.30 * step(thick, 0.0, 1.8)
    if not t.ice:  # the side to the sun is brighter
        soft = ndimage.gaussian_filter(inside[window], 1.2)
        dy, dx = np.gradient(soft)
        lit = -(dx * np.sin(sun.azimuth) - dy * np.cos(sun.azimuth)) / np.tan(max(sun.elevation, 0.25))
        bright = bright * (1.0 + np.clip(1.1 * lit, -0.28, 0.22))
    return here.astype("f4"), bright.astype("f4"), shade.astype("f4")


def _moved(opacity: Field, origin: int, n: int, rows: float, columns: float) -> Field:
    """The n x n window at `origin` of a periodic field that is moved by (rows, columns), to the pixel."""
    size = opacity.shape[0]
    y = (np.arange(origin, origin + n) - round(rows)) % size
    x = (np.arange(origin, origin + n) - round(columns)) % size
    return opacity[y[:, None], x[None, :]]
