"""What happens to the land, at known times: building, demolition, clear-cuts, ploughing, and floods.

A change is an edit of the class map in a window; the class map of a time is the base with all edits up to then. The
changes of a year are drawn from the state at its start, so that they are the same whatever was asked for before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import towns
from .cover import Classes, Cover, LandCover
from .noise import rng
from .terrain import Mask, Terrain

DAY = np.timedelta64(1, "D")
ChangeKind = Literal["build", "demolish", "clear-cut", "plough", "set-aside", "regrow"]
_CANOPY = (LandCover.BROADLEAF, LandCover.CONIFER, LandCover.BUILDING)


@dataclass(frozen=True, eq=False)
class Change:
    """One edit: at `time` the pixels of `mask` (inside rows, columns of the tile) become `classes` (same shape)."""

    kind: ChangeKind
    time: np.datetime64
    rows: slice
    columns: slice
    mask: Mask
    classes: Classes


@dataclass(frozen=True)
class Flood:
    """Water over the banks: `stage` m above the normal level at the peak. Rises from `start` to `peak`, is gone at
    `end`."""

    start: np.datetime64
    peak: np.datetime64
    end: np.datetime64
    stage: float

    def level(self, time: np.datetime64) -> float:
        """Metres above the normal level at a time."""
        if not self.start < time < self.end:
            return 0.0
        if time <= self.peak:
            return self.stage * float((time - self.start) / (self.peak - self.start)) ** 0.5
        return self.stage * (1.0 - float((time - self.peak) / (self.end - self.peak)) ** 2)


def floods(t: Terrain, year: int, *name: Any, wet: bool = False) -> list[Flood]:
    """One to three floods a year, in order, each over 6 to 32 % of the land (less in steep country).

    wet: eight a year and larger ones, so that there is always something to learn from.
    """
    gen = rng("floods", year, *name)
    land = t.hand[~t.water]
    count, share, highest = (8, 0.6, 8.0) if wet else (int(gen.integers(1, 4)), 0.32, 5.0)
    out: list[Flood] = []
    for first in np.sort(gen.choice(np.arange(10, 330, 45), size=count, replace=False)):
        start = np.datetime64(f"{year}-01-01", "s") + int(86400 * (first + gen.uniform(0, 15)))
        rise, fall = gen.uniform(1.0, 3.0), gen.uniform(14.0, 24.0)
        stage = float(np.clip(np.quantile(land, gen.uniform(0.06, share)) if land.size else 1.0, 1.0, highest))
        peak = start + int(86400 * rise)
        out.append(Flood(_ns(start), _ns(peak), _ns(peak + int(86400 * fall)), stage))
    return out


def _ns(time: np.datetime64) -> np.datetime64:
    return time.astype("datetime64[ns]")


def stage(all_floods: list[Flood], time: np.datetime64) -> float:
    """Metres of water above the normal level, 0 without a flood."""
    return max((f.level(time) for f in all_floods), default=0.0)


def inundated(t: Terrain, level: float) -> Mask:
    """Land under water at that level, also under trees and in streets; permanent water is not in it."""
    return np.asarray((t.hand < level) & ~t.water)


def seen_from_above(inundation: Mask, classes: Classes) -> Mask:
    """The part of an inundation that no canopy or roof hides."""
    return inundation & ~np.isin(classes, [int(c) for c in _CANOPY]) & (classes != LandCover.WATER)


def apply(classes: Classes, changes: list[Change]) -> Classes:
    """The class map after these changes, in order."""
    out = classes.copy()
    for c in changes:
        part = out[c.rows, c.columns]
        part[c.mask] = c.classes[c.mask]
    return out


def changes(t: Terrain, cover: Cover, before: list[Change], year: int, *name: Any) -> list[Change]:
    """The changes that begin in a year, given those that began before it; their later stages may fall after it."""
    first = np.datetime64(f"{year}-01-01", "ns")
    classes = apply(cover.classes, [c for c in before if c.time < first])
    gen = rng("changes", year, *name)
    size = classes.shape[0]
    streets, houses, _ = towns.lots(rng("plots", *name), size, cover.street_angle, np.full((size, size), 0.7, "f4"))
    taken = np.zeros((size, size), bool)
    for c in before:  # nothing begins where something is still going on
        if c.time >= first:
            taken[c.rows, c.columns] |= c.mask
    land = Site(gen, t, cover, classes, streets, houses, taken, year)
    scale = max(1, round((size / 512) ** 2))
    urban = float((classes == LandCover.BUILDING).mean())
    out: list[Change] = []
    for _ in range(scale * int(gen.integers(4, 8)) + round(20 * urban)):
        out += land.build()
    for _ in range(scale * int(gen.integers(1, 3)) + round(10 * urban)):
        out += land.demolish()
    for _ in range(scale * int(gen.integers(2, 6))):
        out += land.clear_cut()
    for _ in range(scale * int(gen.integers(2, 5))):
        out += land.convert()
    return sorted(out, key=lambda c: c.time)


@dataclass(eq=False)
class Site:
    """Draws the sites of one year; `taken`: where something happens already."""

    gen: np.random.Generator
    t: Terrain
    cover: Cover
    classes: Classes
    streets: Mask
    houses: Mask
    taken: Mask
    year: int

    def build(self) -> list[Change]:
        """A new quarter of houses, or a hall with its yard: bare ground first, the buildings months later."""
        wish = np.isin(self.classes, [LandCover.CROP, LandCover.GRASS, LandCover.SHRUB, LandCover.BARE])
        wish &= (self.t.slope < 0.15) & (self.t.hand > 1.2) & (self.cover.urban > 0.02)
        spot = self._spot(wish)
        if spot is None:
            return []
        hall = self.gen.random() < 0.4
        half = self.gen.uniform(3, 8, 2) if hall else self.gen.uniform(5, 14, 2)
        rows, columns, mask, uv = self._rectangle(spot, half)
        here = self.classes[rows, columns]
        mask &= ~np.isin(here, [LandCover.WATER, LandCover.BUILDING, LandCover.PAVED])
        then = np.full(here.shape, int(LandCover.GRASS), np.uint8)
        if hall:
            then[:] = LandCover.PAVED
            then[(np.abs(uv[0]) < half[0] - 1.5) & (np.abs(uv[1]) < half[1] - 1.5)] = LandCover.BUILDING
        else:
            then[self.streets[rows, columns]] = LandCover.PAVED
            then[self.houses[rows, columns]] = LandCover.BUILDING
        time = self._time()
        done = time + int(self.gen.uniform(100, 280)) * DAY
        bare = np.full(here.shape, int(LandCover.BARE), np.uint8)
        return [Change("build", time, rows, columns, mask, bare), Change("build", done, rows, columns, mask, then)]

    def demolish(self) -> list[Change]:
        """Houses go; their ground is bare, and grass a year later."""
        spot = self._spot(self.classes == LandCover.BUILDING)
        if spot is None:
            return []
        rows, columns, mask, _ = self._rectangle(spot, self.gen.uniform(3, 8, 2))
        here = self.classes[rows, columns]
        mask &= here == LandCover.BUILDING
        bare, grass = (np.full(here.shape, int(c), np.uint8) for c in (LandCover.BARE, LandCover.GRASS))
        time = self._time()
        later = time + int(self.gen.uniform(250, 450)) * DAY
        return [
            Change("demolish", time, rows, columns, mask, bare),
            Change("regrow", later, rows, columns, mask, grass),
        ]

    def clear_cut(self) -> list[Change]:
        """A stand is felled; shrubs come up in two years."""
        trees = np.isin(self.classes, [LandCover.BROADLEAF, LandCover.CONIFER])
        spot = self._spot(trees & (self.cover.urban < 0.3) & (self.t.distance > 60))
        if spot is None:
            return []
        rows, columns, mask, uv = self._rectangle(spot, self.gen.uniform(5, 16, 2))
        wobble = 1.5 * np.sin(0.7 * uv[0] + self.gen.uniform(0, 6)) + np.abs(uv[1])
        mask &= trees[rows, columns] & (wobble < np.abs(uv[1]).max() + 1.0)
        if mask.sum() < 40:
            return []
        here = self.classes[rows, columns]
        bare, shrub = (np.full(here.shape, int(c), np.uint8) for c in (LandCover.BARE, LandCover.SHRUB))
        time = self._time()
        later = time + int(self.gen.uniform(500, 800)) * DAY
        return [
            Change("clear-cut", time, rows, columns, mask, bare),
            Change("regrow", later, rows, columns, mask, shrub),
        ]

    def convert(self) -> list[Change]:
        """A meadow is ploughed, or a field is sown with grass for good."""
        plough = self.gen.random() < 0.5
        old, new = (LandCover.GRASS, LandCover.CROP) if plough else (LandCover.CROP, LandCover.GRASS)
        spot = self._spot((self.classes == old) & (self.cover.parcel > 0) & (self.t.slope < 0.2))
        if spot is None:
            return []
        field = (self.cover.parcel == self.cover.parcel[spot]) & (self.classes == old) & ~self.taken
        if field.sum() < 30 or self.cover.urban[field].mean() > 0.3:
            return []
        y, x = np.nonzero(field)
        rows, columns = slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)
        self.taken[field] = True
        mask = field[rows, columns]
        then = np.full(mask.shape, int(new), np.uint8)
        return [Change("plough" if plough else "set-aside", self._time(), rows, columns, mask, then)]

    def _time(self) -> np.datetime64:
        day = np.datetime64(f"{self.year}-01-01", "D") + int(self.gen.integers(0, 365))
        return day.astype("datetime64[ns]")

    def _spot(self, wish: Mask) -> tuple[int, int] | None:
        places = np.flatnonzero(wish & ~self.taken)
        if places.size == 0:
            return None
        y, x = divmod(int(self.gen.choice(places)), wish.shape[1])
        return y, x

    def _rectangle(
        self, spot: tuple[int, int], half: NDArray[np.float64]
    ) -> tuple[slice, slice, Mask, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Window, mask and own coordinates of a rectangle of half sides `half` that lies like the streets there."""
        size = self.classes.shape[0]
        reach = int(np.ceil(np.hypot(*half))) + 1
        rows = slice(max(0, spot[0] - reach), min(size, spot[0] + reach + 1))
        columns = slice(max(0, spot[1] - reach), min(size, spot[1] + reach + 1))
        y, x = np.mgrid[rows, columns] - np.asarray(spot, float)[:, None, None]
        a = float(self.cover.street_angle[spot])
        u, v = x * np.cos(a) + y * np.sin(a), -x * np.sin(a) + y * np.cos(a)
        mask = (np.abs(u) <= half[0]) & (np.abs(v) <= half[1]) & ~self.taken[rows, columns]
        self.taken[rows, columns] |= mask
        return rows, columns, mask, (u, v)
