"""What the ground bears: land-cover classes, fields as polygons, forests, towns with streets and houses, roads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from . import towns
from .noise import Field, fractal, ranked, rng, smooth
from .terrain import Mask, Relief, Terrain
from .tiles import KINDS, Kind

Ids = NDArray[np.int32]
Classes = NDArray[np.uint8]


class LandCover(IntEnum):
    """Classes of the truth (uint8). 0 is never used, so that it can mean no label."""

    WATER = 1
    BROADLEAF = 2
    CONIFER = 3
    GRASS = 4
    SHRUB = 5
    CROP = 6
    BARE = 7
    BUILDING = 8
    PAVED = 9


@dataclass(frozen=True)
class Character:
    """What a tile is like. forest, crop: share of the land. conifer: share of the forest. treeline: m.

    towns: how many; town: their radius in m. field: side of a parcel in m. pattern: of the fields. soil: 0 dark loam
    .. 1 bright sand. dry: 0 moist .. 1 semi-arid.
    """

    relief: Relief
    forest: float
    crop: float
    conifer: float
    towns: int
    town: float
    field: float
    pattern: str
    soil: float
    dry: float
    treeline: float = 2000.0


def character(kind: Kind, *name: Any) -> Character:
    """A tile of this kind, with numbers of its own."""
    g = rng("character", kind, *name)

    def between(low: float, high: float) -> float:
        return float(g.uniform(low, high))

    soil, field = between(0.1, 0.6), between(110, 260)
    if kind == "lowland":
        relief = Relief(between(5, 120), between(30, 80), between(250, 450), between(60, 160), between(0, 0.02))
        return Character(relief, between(0.08, 0.22), 0.75, 0.2, 3, between(250, 500), field, "strips", soil, 0.1)
    if kind == "hills":
        relief = Relief(between(250, 450), between(150, 330), between(90, 180), between(12, 35))
        return Character(relief, between(0.35, 0.55), 0.45, 0.4, 2, between(200, 400), 0.7 * field, "strips", soil, 0.1)
    if kind == "alpine":
        relief = Relief(between(600, 1000), between(1100, 1700), between(60, 150), between(15, 35), between(0, 0.02))
        return Character(relief, 0.45, 0.08, 0.85, 1, between(200, 350), 90, "strips", soil, 0.0, between(1700, 2000))
    if kind == "lakes":
        relief = Relief(between(60, 150), between(40, 90), between(80, 160), between(12, 30), between(0.08, 0.18))
        return Character(relief, between(0.5, 0.75), 0.25, 0.75, 2, between(150, 350), 0.8 * field, "strips", soil, 0.0)
    if kind == "suburb":
        relief = Relief(between(10, 200), between(30, 80), between(150, 300), between(40, 110), between(0, 0.02))
        return Character(relief, 0.15, 0.55, 0.3, 4, between(650, 1000), 0.7 * field, "strips", soil, 0.15)
    if kind == "coast":
        relief = Relief(0.0, between(40, 110), between(120, 250), between(25, 60), 0.0, between(0.15, 0.4))
        return Character(relief, 0.2, 0.5, 0.4, 3, between(350, 650), 0.8 * field, "strips", between(0.4, 0.7), 0.3)
    relief = Relief(between(200, 700), between(50, 160), between(150, 350), between(25, 70), between(0, 0.01))
    pattern = "pivot" if g.random() < 0.6 else "grid"
    return Character(relief, 0.04, 0.5, 0.1, 1, between(200, 400), between(380, 780), pattern, between(0.6, 1), 0.8)


def kind_of(*name: Any) -> Kind:
    """The kind of tile that is drawn where none is asked for."""
    return KINDS[int(rng("kind", *name).integers(len(KINDS)))]


@dataclass(frozen=True, eq=False)
class Cover:
    """classes (y, x) before any event; parcel: id of the field (0: none), also under forest and towns; house: id of
    the lot a building stands on (0: none); grain: texture of rows along each parcel, about -1..1; urban: density of
    settlement, 0..1; crops: which parcels are worked, (parcels + 1,)."""

    classes: Classes
    parcel: Ids
    house: Ids
    grain: Field
    urban: Field
    parcels: int
    crops: NDArray[np.bool_]
    street_angle: Field


def make(terrain: Terrain, what: Character, *name: Any) -> Cover:
    """The land cover called `name`."""
    gen = rng("cover", *name)
    size = terrain.height.shape[0]
    parcel, grain = _parcels(gen, size, what)
    count = int(parcel.max())
    town = towns.make(gen, terrain, what.towns, what.town)
    land = ~terrain.water
    parcel_mean = _by_parcel(parcel, count)

    worked = _worked(gen, terrain, what, parcel, parcel_mean, town.density)
    classes = np.full((size, size), int(LandCover.GRASS), np.uint8)
    classes[worked[parcel]] = LandCover.CROP

    forest = _forest(gen, terrain, what, parcel, parcel_mean, worked, town.density)
    needles = fractal(gen, 2 * size, slope=1.9, outer=10.0, crop=size) + 2.0 * (what.conifer - 0.5)
    needles += 0.004 * (terrain.height - terrain.height.mean()) * (what.conifer > 0.6)
    needles -= 3.0 * (terrain.distance < 40)  # willows and poplars along the water
    classes[forest] = np.where(needles[forest] > 0, int(LandCover.CONIFER), int(LandCover.BROADLEAF))

    wild = ~forest & ~worked[parcel] & land
    scrub = fractal(gen, 2 * size, slope=1.6, outer=14.0, crop=size)
    classes[wild & (scrub > 1.1 - 1.2 * what.dry)] = LandCover.SHRUB
    rock = terrain.slope + 0.0011 * (terrain.height - what.treeline) + 0.12 * scrub
    classes[wild & (rock > 0.75)] = LandCover.BARE
    classes[wild & (scrub < -1.9 + 1.7 * what.dry) & (terrain.slope < 0.2)] = LandCover.BARE
    shore = land & (terrain.distance < 25) & (scrub > 0.9 - 0.8 * (terrain.sea.any() or what.dry > 0.5))
    classes[shore & ~forest] = LandCover.BARE
    _hedges(gen, classes, parcel, worked, what)

    classes[terrain.water] = LandCover.WATER
    house = _settle(gen, classes, town, land, needles)
    return Cover(classes, parcel, house, grain, town.density, count, worked, town.angle)


def _settle(gen: np.random.Generator, classes: Classes, town: towns.Towns, land: Mask, noise: Field) -> Ids:
    """Streets, houses and gardens into `classes`; returns the lots."""
    inside = town.area & land
    green = inside & (classes != LandCover.BROADLEAF)
    classes[green] = np.where(noise[green] > 1.0, int(LandCover.BROADLEAF), int(LandCover.GRASS))
    classes[inside & town.street] = LandCover.PAVED
    classes[town.road] = LandCover.PAVED  # bridges too
    built = town.building & land & ~town.road
    classes[built] = LandCover.BUILDING
    return np.where(built, town.lot, 0).astype(np.int32)


def _by_parcel(parcel: Ids, count: int) -> Any:
    """A function that averages a field over each parcel: (count + 1,)."""
    flat = parcel.ravel()
    pixels = np.maximum(np.bincount(flat, minlength=count + 1), 1)

    def mean(field: Any) -> NDArray[np.float64]:
        return np.asarray(np.bincount(flat, weights=np.asarray(field, "f8").ravel(), minlength=count + 1) / pixels)

    return mean


def _worked(
    gen: np.random.Generator, t: Terrain, what: Character, parcel: Ids, mean: Any, urban: Field
) -> NDArray[np.bool_]:
    """Which parcels are cropland: gentle, low, out of town, above the wettest ground. Index 0 is never."""
    size = parcel.shape[0]
    taste = fractal(gen, 2 * size, slope=2.2, outer=5.0, crop=size)
    score = (
        mean(taste)
        - 9.0 * mean(t.slope)
        - 1.5 * mean(t.water)
        - 2.0 * mean(urban > 0.35)
        + gen.normal(0, 0.35, int(parcel.max()) + 1)
    )
    score[0] = -np.inf
    possible = (mean(t.slope) < 0.22) & (mean(t.water) < 0.4) & (mean(urban > 0.35) < 0.5)
    possible[0] = False
    if not possible.any():
        return np.zeros_like(possible)
    return np.asarray(possible & (score >= np.quantile(score[possible], 1.0 - what.crop)))


def _forest(
    gen: np.random.Generator, t: Terrain, what: Character, parcel: Ids, mean: Any, worked: NDArray[np.bool_],
    urban: Field,
) -> Mask:  # fmt: skip
    """Forest: steep ground and woodlots; half its edges follow parcels, the others the noise."""
    size = parcel.shape[0]
    free = ~worked[parcel] & ~t.water & (urban < 0.35) & (t.height < what.treeline + 60 * gen.standard_normal())
    wish = fractal(gen, 2 * size, slope=2.0, outer=7.0, crop=size) + 5.0 * np.minimum(t.slope, 0.35)
    wish += 0.9 * (what.dry > 0.5) * np.exp(-t.distance / 60.0) * 4.0
    lots = mean(wish)[parcel].astype("f4")
    edge = fractal(gen, 2 * size, slope=1.5, outer=30.0, crop=size)
    score = np.where(fractal(gen, 2 * size, slope=2.0, outer=4.0, crop=size) > 0, lots, wish + 0.25 * edge)
    land = float((~t.water).mean())
    share = min(0.97, what.forest * land / max(float(free.mean()), 1e-6))
    forest = ranked(score, free, share)
    riparian = (t.distance < 35) & (t.slope < 0.3) & (edge > 0.3) & ~t.water & (t.height < what.treeline)
    return np.asarray(forest | (riparian & (urban < 0.5)))


def _parcels(gen: np.random.Generator, size: int, what: Character) -> tuple[Ids, Field]:
    """Fields: blocks of Voronoi shape, each cut into strips of its own direction and width (or one regular grid)."""
    y, x = np.mgrid[:size, :size].astype("f4")
    side = what.field / 10.0
    if what.pattern == "strips":
        warp = [2.2 * fractal(gen, 2 * size, slope=2.0, outer=8.0, crop=size) for _ in range(2)]
        spacing = 4.5 * side
        n = int(np.ceil(size / spacing)) + 2
        seeds = (np.argwhere(np.ones((n, n), bool)) - 0.5 + gen.uniform(-0.42, 0.42, (n * n, 2))) * spacing
        _, block = cKDTree(seeds).query(np.stack([(y + warp[0]).ravel(), (x + warp[1]).ravel()], 1))
        block = block.reshape(size, size)
        lean = gen.uniform(0, np.pi)  # neighbours lie alike
        angle = (lean + gen.normal(0, 0.35, len(seeds)) + (gen.random(len(seeds)) < 0.3) * np.pi / 2)[block]
        width = (side * np.exp(gen.normal(-0.25, 0.3, len(seeds))))[block]
        length = (side * np.exp(gen.normal(0.6, 0.3, len(seeds))))[block]
    else:
        block = np.zeros((size, size), np.int64)
        angle = np.full((size, size), gen.normal(0, 0.12))
        width = length = np.full((size, size), side)
    u = (x * np.cos(angle) + y * np.sin(angle)) / width
    v = (-x * np.sin(angle) + y * np.cos(angle)) / length
    iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    odd = (iu * 7919 + block * 104729) % 97 / 97.0  # the strips of a block end at different places
    if what.pattern == "strips":
        iv = np.floor(v + odd).astype(np.int64)
    key = (block * 4096 + iu + 2048) * 4096 + iv + 2048
    _, number = np.unique(key, return_inverse=True)
    parcel: Ids = number.reshape(size, size).astype(np.int32) + np.int32(1)
    if what.pattern == "pivot":  # a circle that a turning arm waters; the corners lie fallow
        inside = np.hypot(u - iu - 0.5, v - iv - 0.5) < 0.47
        parcel = np.where(inside, parcel, 0).astype(np.int32)
        row = np.hypot(u - iu - 0.5, v - iv - 0.5) * width / 1.5
    else:
        row = (u - iu) * width / 1.6
    stripes = gen.normal(0, 1, 4096).astype("f4")
    grain = stripes[(np.floor(row).astype(np.int64) * 31 + parcel * 17) % 4096]
    return parcel, smooth(grain, 0.6)


def _hedges(
    gen: np.random.Generator, classes: Classes, parcel: Ids, worked: NDArray[np.bool_], what: Character
) -> None:
    """Tree rows and grass tracks along some borders of fields."""
    edge = np.zeros(parcel.shape, bool)
    edge[:, 1:] |= parcel[:, 1:] != parcel[:, :-1]
    edge[1:, :] |= parcel[1:, :] != parcel[:-1, :]
    draw = gen.random(int(parcel.max()) + 1)[parcel]
    field = worked[parcel] & edge & (classes == LandCover.CROP)
    classes[field & (draw < 0.16 * (1 - what.dry))] = LandCover.BROADLEAF
    classes[field & (draw > 0.75)] = LandCover.GRASS
