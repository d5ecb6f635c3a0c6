"""One tile of land: its terrain, cover, textures and events, made once and kept; and its class map at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import cover, events, terrain
from .cover import Character, Classes, Cover, LandCover
from .noise import Field, fractal, rng
from .terrain import Terrain
from .tiles import Kind, Tile

VARIANTS = 16
"""Rows of the spectral table that a class without parcels has (stands, roofs, surfaces)."""


@dataclass(frozen=True, eq=False)
class Land:
    """A tile of the planet called `seed`. kind: what it is like; drawn where None. first: year of the first events.
    often: floods in a year; None: one to three."""

    seed: int
    tile: Tile
    kind: Kind
    first: int
    wet: bool = False
    _years: dict[int, list[events.Change]] = field(default_factory=dict, repr=False)
    _floods: dict[int, list[events.Flood]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> tuple[int, str, str]:
        """What its random numbers are called by."""
        return (self.seed, self.tile.name, f"{self.kind}-{self.tile.size}")

    @cached_property
    def character(self) -> Character:
        """The numbers of its kind."""
        return cover.character(self.kind, *self.name)

    @cached_property
    def terrain(self) -> Terrain:
        """Heights, water, slopes."""
        return terrain.make(self.tile.size, self.character.relief, *self.name)

    @cached_property
    def cover(self) -> Cover:
        """Land cover before the first event."""
        return cover.make(self.terrain, self.character, *self.name)

    @cached_property
    def texture(self) -> tuple[Field, Field, Field]:
        """Fine (a pixel or two), patchy (100 m to 1 km) and wide (tile) variation: zero mean, unit variance."""
        gen, n = rng("texture", *self.name), self.tile.size
        return (
            fractal(gen, 2 * n, slope=0.6, outer=60.0, crop=n),
            fractal(gen, 2 * n, slope=1.7, outer=16.0, crop=n),
            fractal(gen, 2 * n, slope=2.2, outer=3.0, crop=n),
        )

    @cached_property
    def snow_noise(self) -> Field:
        """Where snow lies longer, m of height."""
        t, (_, patch, _) = self.terrain, self.texture
        return (90.0 * patch + 140.0 * t.normal[1] / np.maximum(t.normal[2], 0.2)).astype("f4")

    # ---- what happens ------------------------------------------------------------------------------------------

    def changes(self, until: np.datetime64) -> list[events.Change]:
        """All changes up to a time (included), oldest first; the first year is `first`."""
        last = int(str(until.astype("datetime64[Y]")))
        for year in range(self.first, last + 1):
            if year not in self._years:
                before = sorted((c for y in range(self.first, year) for c in self._years[y]), key=lambda c: c.time)
                self._years[year] = events.changes(self.terrain, self.cover, before, year, *self.name)
        found = (c for y in range(self.first, last + 1) for c in self._years[y] if c.time <= until)
        return sorted(found, key=lambda c: c.time)

    def floods(self, year: int) -> list[events.Flood]:
        """Floods that begin in a year; none before `first`."""
        if year < self.first:
            return []
        if year not in self._floods:
            self._floods[year] = events.floods(self.terrain, year, *self.name, wet=self.wet)
        return self._floods[year]

    def stage(self, time: np.datetime64) -> float:
        """Metres of water above the normal level."""
        year = int(str(time.astype("datetime64[Y]")))
        return events.stage([*self.floods(year - 1), *self.floods(year)], time)

    def state(self, time: np.datetime64) -> State:
        """The class map at a time and what depends on it alone (kept for the last few)."""
        return _state(self, len(self.changes(time)), time.astype("datetime64[Y]"))


@dataclass(frozen=True, eq=False)
class State:
    """classes (y, x); keys: row of the spectral table of each pixel; fine and patch: its texture, scaled by class.
    shallow: how much of the bottom shows through the water beside the shore, 0..1."""

    classes: Classes
    keys: NDArray[np.int32]
    fine: Field
    patch: Field
    shallow: Field


_LATER = [c for c in LandCover if c not in (LandCover.CROP, LandCover.GRASS)]
# relative variation of each class: from pixel to pixel, and over 100 m to 1 km
_FINE = {"WATER": 0.02, "BROADLEAF": 0.10, "CONIFER": 0.12, "GRASS": 0.05, "SHRUB": 0.11, "CROP": 0.025, "BARE": 0.07,
         "BUILDING": 0.16, "PAVED": 0.10}  # fmt: skip
_PATCH = {"WATER": 0.04, "BROADLEAF": 0.05, "CONIFER": 0.06, "GRASS": 0.13, "SHRUB": 0.10, "CROP": 0.05, "BARE": 0.09,
          "BUILDING": 0.02, "PAVED": 0.03}  # fmt: skip


def first_row(parcels: int, what: LandCover) -> int:
    """Where the rows of a class begin in the spectral table: crops, meadows (a row a parcel), then the others."""
    if what is LandCover.CROP:
        return 0
    if what is LandCover.GRASS:
        return parcels + 1
    return 2 * (parcels + 1) + _LATER.index(what) * VARIANTS


@lru_cache(maxsize=12)
def _state(land: Land, count: int, year: np.datetime64) -> State:
    # the first `count` changes; `year` says how far to look for them
    all_changes = land.changes((year + 1).astype("datetime64[ns]"))
    c = land.cover
    classes = events.apply(c.classes, all_changes[:count])
    own = np.where(classes == LandCover.BUILDING, c.house * 7 + 3, c.parcel) % VARIANTS
    start = np.zeros(16, np.int32)
    fine, patch = np.zeros(16, np.float32), np.zeros(16, np.float32)
    for what in LandCover:
        start[what] = first_row(c.parcels, what)
        fine[what], patch[what] = _FINE[what.name], _PATCH[what.name]
    fields = (classes == LandCover.CROP) | (classes == LandCover.GRASS)
    keys = start[classes] + np.where(fields, c.parcel, own)
    detail = land.texture[0] + np.where(classes == LandCover.CROP, 2.0 * c.grain, 0.0)
    water = classes == LandCover.WATER
    shallow = np.zeros(classes.shape, np.float32)
    if water.any():
        shallow[water] = 0.25 * np.exp(-ndimage.distance_transform_edt(water)[water] / 1.6)
    return State(classes, keys.astype(np.int32), detail * fine[classes], land.texture[1] * patch[classes], shallow)
