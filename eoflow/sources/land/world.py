"""The way in: a world of tiles, what sensors see of it, and the truth about any tile at any time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoflow.times import parse_time

from . import clouds, events, optical, radar, surface, varied
from .cover import kind_of
from .land import Land
from .radar import Echo
from .tiles import Kind, Tile

Array = NDArray[Any]
VERSION = 1
"""Raise when the same seed gives another land, so that cached files are made again."""


@dataclass(frozen=True)
class World:
    """A planet's land. A small value: hashable, and it can be pickled; tiles are made when first asked for and kept.

    seed: which world. first: year of the first changes and floods. size: pixels of a tile's side (10 m each; even,
    64 at least). kinds: (tile name, kind) where a kind is asked for; other tiles draw theirs. wet: with far more
    floods.
    """

    seed: int
    first: int = 2020
    size: int = 512
    kinds: tuple[tuple[str, Kind], ...] = ()
    wet: bool = False

    def land(self, tile: str) -> Land:
        """A tile's land. Raises BadInput for a name that is not one."""
        return _land(self, tile)

    def optical(
        self, tile: str, time: np.datetime64, bands: tuple[str, ...], *, orbit: int = 0, imperfect: bool = False
    ) -> optical.View:
        """The multispectral scene of a tile at a time, with its truth; see `optical.see`."""
        return optical.see(self.land(tile), time, bands, orbit=orbit, imperfect=imperfect)

    def radar(
        self, tile: str, time: np.datetime64, *, ascending: bool = True, looks: float = radar.ENL,
        correlation: float = 0.0,
    ) -> radar.Echo:  # fmt: skip
        """The radar scene of a tile at a time, with its truth; see `radar.see`."""
        return radar.see(self.land(tile), time, ascending=ascending, looks=looks, correlation=correlation)

    def varied_radar(
        self, tile: str, time: np.datetime64, *, ascending: bool = True
    ) -> tuple[Echo, NDArray[np.uint8]]:
        """A radar scene of drawn radiometry and water to train networks on, with its label; see `varied.see`."""
        return varied.see(self.land(tile), time, ascending=ascending)

    def single_look(
        self, tile: str, time: np.datetime64, polarisation: str = "VV", *, shots: int = 2
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Single-look complex images of one place and time: ((shots, y, x) complex64, reflectivity (y, x))."""
        return radar.single_look(self.land(tile), time, polarisation, shots=shots)

    def truth(self, tile: str, time: np.datetime64, bands: tuple[str, ...] = ()) -> dict[str, Array]:
        """What is really there, each (y, x) but `reflectance`.

        reflectance: (band, y, x) float32, the surface in the sun of that moment without clouds, shadows of clouds,
        haze and noise (only where `bands` are asked for). classes: uint8, `LandCover`. permanent_water, flood (seen
        from above), inundation (under trees and in streets too): bool; flood and permanent_water are disjoint.
        depth: m of flood water. snow: 0..1. cloud_alpha: opacity, 0..1. cloud_shade: share of direct light taken,
        0..1. cloud, cloud_shadow: bool, disjoint. dark: slopes without sun. elevation: m. hand: m above the nearest
        water.
        """
        time = parse_time(time)
        land = self.land(tile)
        s = surface.at(land, time, bands)
        c = clouds.at(land.seed, land.tile, time, s.sun)
        out: dict[str, Array] = {
            "classes": s.classes, "permanent_water": s.permanent, "flood": s.flood, "inundation": s.inundation,
            "depth": s.depth, "snow": s.snow, "dark": s.dark, "cloud_alpha": c.alpha, "cloud_shade": c.shade,
            "cloud": c.alpha >= clouds.THIN, "cloud_shadow": c.shadow, "elevation": land.terrain.height,
            "hand": land.terrain.hand,
        }  # fmt: skip
        if bands:
            out["reflectance"] = np.stack([s.reflectance[b] for b in bands])
        return out

    def change(self, tile: str, before: np.datetime64, after: np.datetime64) -> dict[str, Array]:
        """Land cover at two times and where it differs: `before`, `after` (y, x) uint8, `mask` bool.

        Floods, seasons and the yearly turn of crops are no changes of land cover.
        """
        land = self.land(tile)
        first, last = (land.state(parse_time(t)).classes for t in (before, after))
        return {"before": first, "after": last, "mask": first != last}

    def changes(self, tile: str, until: np.datetime64) -> list[events.Change]:
        """Every change of land cover up to a time, oldest first."""
        return self.land(tile).changes(parse_time(until))

    def floods(self, tile: str, year: int) -> list[events.Flood]:
        """The floods that begin in a year, in order."""
        return self.land(tile).floods(year)


@lru_cache(maxsize=6)  # about 30 MB each at 512 x 512
def _land(world: World, tile: str) -> Land:
    kind = dict(world.kinds).get(tile) or kind_of(world.seed, tile)
    return Land(world.seed, Tile.parse(tile, world.size), kind, world.first, world.wet)
