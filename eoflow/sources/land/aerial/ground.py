"""Colours of the ground: grass, soil, fields, roads, yards, water; and how they differ from date to date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoflow.sources.land.noise import fractal

from .things import Block
from .view import View

Array = NDArray[np.floating[Any]]
DRY, GREEN, SOIL, LITTER = (0.46, 0.42, 0.31), (0.25, 0.36, 0.17), (0.52, 0.45, 0.36), (0.30, 0.29, 0.21)
TAN, DUST = (0.70, 0.63, 0.51), (0.46, 0.43, 0.40)
SUMMER, WINTER = (1.0, 0.8, 0.3, 0.3, 0.2, 0.3, 0.04), (0.25, 0.2, 1.0, 0.9, 0.4, 1.0, 0.05)
"""Weights of the crops: two greens, three browns and straw, ripe, under plastic."""
ASPHALT, CONCRETE, WATER, POOL = (0.36, 0.36, 0.37), (0.68, 0.66, 0.61), (0.14, 0.20, 0.19), (0.25, 0.62, 0.70)


def _vary(gen: np.random.Generator, colour: Any, spread: float) -> Array:
    """A colour like that one."""
    out = np.asarray(colour) * np.exp(gen.normal(0, spread)) + gen.normal(0, spread / 9, 3)
    return np.asarray(np.clip(out, 0.03, 0.97), "f4")


@dataclass(frozen=True, eq=False)
class Textures:
    """Fields (y, x) of zero mean and unit variance: `low`, `mid`, `fine` belong to the place, `now` to the date."""

    low: Array
    mid: Array
    fine: Array
    now: Array
    track: Array

    @classmethod
    def of(cls, place: np.random.Generator, date: np.random.Generator, n: int) -> Textures:
        """Textures of a date; the same place gives the same fields."""
        low = fractal(place, n, slope=2.2, outer=3.0)
        mid = fractal(place, n, slope=1.5, outer=14.0)
        fine = fractal(place, n, slope=0.7, outer=n / 5)
        track = fractal(place, n, slope=1.6, outer=16.0, stretch=5.0, angle=float(place.uniform(0, np.pi)))
        now = 0.6 * fractal(date, n, slope=1.7, outer=6.0) + 0.8 * fractal(date, n, slope=0.6, outer=n / 4)
        return cls(low, mid, fine, now.astype("f4"), track)


@dataclass(eq=False)
class Painter:
    """Colours of one date. `gen` is of the place (the same draws on both dates), `date` of the date."""

    t: Textures
    v: View
    date: np.random.Generator

    def grass(self, at: Any, green: float, rough: float = 1.0) -> Array:
        """Grass at pixels `at`, more or less green."""
        g = np.clip(green + 0.28 * self.t.low[at] + 0.16 * self.t.mid[at] + 0.08 * self.t.now[at], 0, 1)[..., None]
        colour = np.asarray(DRY, "f4") * (1 - g) + np.asarray(GREEN, "f4") * g
        return np.asarray(colour * self._grain(at, 0.10 * rough), "f4")

    def soil(self, at: Any, colour: Array, rough: float = 1.0) -> Array:
        """Bare ground of a colour, with tracks and patches; darker where it is wet."""
        wave = 0.10 * self.t.low[at] + 0.07 * self.t.mid[at] + 0.07 * self.t.track[at]
        light = 1 - 0.25 * self.v.wet + rough * wave
        return np.asarray(colour * light[..., None] * self._grain(at, 0.05 * rough), "f4")

    def paved(self, at: Any, colour: Array) -> Array:
        """Asphalt or concrete: smooth, stained."""
        light = 1 + 0.05 * self.t.low[at] + 0.04 * self.t.mid[at]
        return np.asarray(colour * light[..., None] * self._grain(at, 0.03), "f4")

    def _grain(self, at: Any, much: float) -> Array:
        grain = 1 + much * (0.7 * self.t.fine[at] + 0.5 * self.t.now[at] + 0.5 * self.t.mid[at])
        return np.asarray(np.clip(grain, 0.3, 1.8)[..., None], "f4")

    def water(self, at: Any) -> Array:
        """Water, as murky as the date."""
        base = _vary(self.date, WATER, 0.3) + np.float32(0.01) * self.t.mid[at][..., None]
        return np.asarray(np.clip(base, 0.02, 1), "f4")

    def land(
        self, kind: str, block: Block, place: np.random.Generator, at: Any, u: Array, v: Array, coarse: bool = False
    ) -> Array:
        """Open land of a kind at pixels `at` with plan coordinates u, v (m)."""
        tone, shade, patch = place.random(), place.normal(0, 0.1), float(place.uniform(-0.4, 0.8))
        if kind == "water":
            return self.water(at)
        if kind == "fields":
            return self.fields(block, place, at, u, v)
        if kind in ("woods",):
            return np.asarray(np.asarray(LITTER, "f4") * self._grain(at, 0.25) * np.float32(1 + shade), "f4")
        if kind == "bare":
            colour = np.asarray(TAN, "f4") * np.float32(1 - tone) + np.asarray(DUST, "f4") * np.float32(tone)
            if coarse:  # rubble, heaps and weeds more than smooth soil
                colour = colour * np.float32(place.uniform(0.65, 1.0))
                rough = np.float32(place.uniform(0.0, 0.16)) * (self.t.fine[at] + self.t.mid[at])
                colour = colour * np.exp(rough)[..., None]
            out = self.soil(at, colour * np.float32(1 + shade), 1.3)
            weeds = np.clip(2.5 * (self.t.low[at] + 0.6 * self.t.mid[at] - 1.2 + patch), 0, 0.75)[..., None]
            return np.asarray(out * (1 - weeds) + weeds * self.grass(at, self.v.green * 0.8), "f4")
        green = self.v.green * (0.8 if kind == "scrub" else 1.0) + 0.15 * float(place.normal())
        out = self.grass(at, green, 1.4)
        earth = np.clip(2.0 * (self.t.mid[at] + 0.5 * self.t.low[at] - 1.3 + 0.6 * patch), 0, 0.7)[..., None]
        colour = np.asarray(SOIL, "f4") * np.float32(1 + shade)
        return np.asarray(out * (1 - earth) + earth * self.soil(at, colour), "f4")

    def fields(self, block: Block, place: np.random.Generator, at: Any, u: Array, v: Array) -> Array:
        """Strips with a crop each, another one on another date."""
        wide, far = place.uniform(8, 60), place.uniform(60, 200)
        turned = place.random() < 0.5
        a, b = (u, v) if turned else (v, u)
        edges = np.cumsum(wide * np.exp(place.normal(0, 0.5, 400)))
        strip = np.searchsorted(edges, (a - a.min()) if a.size else a)
        strip = strip + 401 * np.floor((b - (b.min() if b.size else 0)) / far).astype(int)
        count = int(strip.max()) + 1 if strip.size else 1
        mood = self.date.random()
        crops = np.stack([_vary(self.date, c, 0.12) for c in (
            (0.20, 0.33, 0.15), (0.28, 0.38, 0.20), (0.36, 0.31, 0.25), (0.31, 0.25, 0.21), (0.55, 0.49, 0.33),
            (0.42, 0.36, 0.29), (0.62, 0.63, 0.60))])  # fmt: skip
        season = np.array(SUMMER if self.v.green > 0.5 else WINTER)
        season[int(mood * 6)] += 1.5
        which = self.date.choice(7, count, p=season / season.sum())
        light = 1 + self.date.normal(0, 0.10, count)
        colour = crops[which[strip]] * light[strip][..., None].astype("f4")
        rows = np.sin((b if self.date.random() < 0.5 else a) * np.float32(2 * np.pi / self.date.uniform(1.5, 5.0)))
        tone = self.date.uniform(0.03, 0.22) * self.date.normal(0, 1, 997)  # of the furrows, as wide as a machine
        furrow = np.floor((a - a.min() if a.size else a) / self.date.uniform(1.5, 7.0)).astype(int)
        colour = colour * np.exp(tone[(furrow + strip // 401 * 401) % 997])[..., None].astype("f4")
        step = np.abs(np.diff(strip.astype(np.int64), append=strip[-1:] if strip.size else 0)) > 0
        out = colour * (1 + 0.06 * rows * self.date.uniform(0, 1))[..., None] * self._grain(at, 0.10)
        out[step] *= 0.8
        return np.asarray(out * (1 + 0.05 * self.t.low[at])[..., None], "f4")


def edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask beside its border."""
    return mask & ~ndimage.binary_erosion(mask)
