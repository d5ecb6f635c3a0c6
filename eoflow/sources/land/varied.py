"""Radar scenes to train networks on: the same land with another radiometry, noise and water in every scene.

A network that has to work on radars, regions and weather that nobody simulated must not learn the levels of one
simulation. So each scene draws its own (domain randomisation, Tobin et al. 2017): the backscatter of every class and
field, the roughness of the water and its gusts, how much stands out of flood water, fields as smooth as water, thermal
noise and its subtraction, the resolution, the looks and the correlation of the speckle. Ranges are those that
calibrated, terrain-corrected Sentinel-1 GRD at 10 m shows over the world, and wider. Some scenes are a part of the
tile, enlarged; in some whole fields stand under water that no river brought (rice, ponds, rain), and in some all low
ground is a lake or a sea, up to the whole tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import radar, sky, surface
from .cover import LandCover
from .land import Land
from .noise import Field, fractal, rng, step
from .radar import Echo
from .surface import Surface
from .terrain import Mask

POLARISATIONS = ("VV", "VH")
LEAST = 1e-5
"""Intensity that is left where the noise is subtracted and nothing remains, linear."""
HIDDEN = 0.45
"""Share of open water below which a flooded pixel is called neither water nor land."""
_FIELDS = (LandCover.CROP, LandCover.GRASS)


@dataclass(frozen=True, eq=False)
class Variety:
    """How one scene differs. Pairs are (VV, VH); dB unless said otherwise.

    level (2, 16): added to the classes. parcels: spread between fields. texture: factor of the classes' own texture;
    patch, wide: of 100 m to 1 km, and of the whole tile. smooth: share of the fields that are `dark` dB darker.
    calm: level of still water; wind: what it adds to VV, VH where the fetch is long; gusts: spread over kilometres.
    emergent: mean share of plants in flood water. rice: share of the fields under water. drowned: share of the tile
    that is a lake. zoom: 1..3, how much larger
    things are. bounce: of flooded forest. noise: equivalent sigma0; subtracted: share of it that is taken off again.
    blur: resolution, standard deviation in pixels. looks and correlation of the speckle: see radar.see.
    """

    level: NDArray[np.float32]
    parcels: float
    texture: float
    patch: float
    wide: float
    smooth: float
    dark: float
    calm: tuple[float, float]
    wind: tuple[float, float]
    gusts: float
    emergent: float
    bounce: float
    noise: tuple[float, float]
    subtracted: float
    blur: float
    looks: float
    correlation: float
    zoom: float
    rice: float
    drowned: float


def draw(g: np.random.Generator) -> Variety:
    """One variety. Water is calm in half of the scenes; in the windiest it is as bright as dry land in VV."""

    def between(low: float, high: float) -> float:
        return float(g.uniform(low, high))

    level = np.empty((2, 16), np.float32)
    level[0] = g.normal(1.3, 1.6) + g.normal(0.0, 1.1, 16)
    level[1] = level[0] + g.normal(0.6, 1.0) + g.normal(0.0, 0.6, 16)
    if g.random() < 0.2:  # dry country: smooth soils, few plants
        bare = [LandCover.GRASS, LandCover.SHRUB, LandCover.CROP, LandCover.BARE]
        level[:, bare] -= np.array([[between(0.5, 3.0)], [between(1.5, 4.0)]], np.float32)
    drowned = between(0.3, 1.1) if g.random() < 0.15 else 0.0
    odds = [0.3, 0.3, 0.4] if drowned else [0.45, 0.3, 0.25]
    wind = (between(0, 2), between(1, 7), between(6, 13))[int(g.choice(3, p=odds))]
    still = between(-25.0, -18.0)
    cross = float(np.clip(still - 6.0 + g.normal(0, 1.5), -32.0, -23.5))
    noise = between(-31, -23)
    return Variety(
        level=level, parcels=between(0.3, 2.2), texture=between(0.5, 1.8), patch=between(0.2, 1.0),
        wide=between(0.0, 0.9), smooth=between(0.0, 0.12) if g.random() < 0.5 else 0.0, dark=between(2.0, 6.0),
        calm=(still, cross), wind=(min(wind, -9.0 - still), 0.3 * wind), gusts=between(0.0, 2.0),
        emergent=float(g.beta(1.0, 4.0)),
        bounce=between(0.5, 5.0), noise=(noise, noise - between(0.0, 2.5)),
        subtracted=between(0.85, 1.0) if g.random() < 0.8 else 0.0, blur=between(0.6, 1.1),
        looks=float(np.exp(g.uniform(np.log(3.8), np.log(12.0)))), correlation=between(0.4, 0.9),
        zoom=1.0 if g.random() < 0.5 else between(1.0, 3.0), rice=between(0.02, 0.5) if g.random() < 0.3 else 0.0,
        drowned=drowned,
    )  # fmt: skip


def see(land: Land, time: np.datetime64, *, ascending: bool = True) -> tuple[Echo, NDArray[np.uint8]]:
    """The scene of a tile at a time in a variety of its own, and its label (y, x): 0 land, 1 water that is seen from
    above, 2 neither (flooded forest and streets, plants in deep enough water)."""
    time = time.astype("datetime64[ns]")
    name = (land.seed, land.tile.name, str(time.astype("datetime64[s]")))
    g = rng("variety", *name)
    v = draw(g)
    ground = surface.at(land, time, ())
    angle = radar.incidence(land, ascending)
    share, hidden = _open(g, v, ground, land)
    fields = _fields(g, v, land)
    part = _part(g, land.tile.size, v.zoom)
    n = land.tile.size
    patch = np.float32(v.patch) * fractal(g, n, slope=1.7, outer=16.0) + np.float32(v.wide) * land.texture[2]
    gust = np.float32(v.gusts) * fractal(g, n, slope=2.2, outer=float(g.uniform(2.0, 8.0)))
    share, slant, angle = part(share), angle, part(angle)
    fetch = _fetch(share >= HIDDEN)
    grazing = np.float32(1.5) * np.maximum(angle - np.float32(84.0), 0.0)  # soon in radar shadow
    angle = np.clip(angle, 12.0, 80.0)
    grain = rng("varied speckle", *name)
    clean, seen = {}, {}
    for k, pol in enumerate(POLARISATIONS):
        db = part(_land(v, k, land, ground, time, fields[k], slant)) + patch
        water = np.float32(v.calm[k]) + fetch * (np.float32(v.wind[k]) + gust * np.float32(1.0 if k == 0 else 0.35))
        db = db + share * (water + 0.3 * land.texture[0] - 0.17 * (angle - np.float32(radar.REFERENCE)) - db)
        sigma = 10.0 ** ((db - grazing) / 10.0) * radar.area(angle)
        sigma = ndimage.gaussian_filter(sigma, v.blur, mode="nearest", truncate=2.5).astype("f4")
        noise = np.float32(10.0 ** (v.noise[k] / 10.0))
        measured = (sigma + noise) * radar.speckle(grain, n, v.looks, v.correlation)
        clean[pol] = sigma
        seen[pol] = np.maximum(measured - np.float32(v.subtracted) * noise, np.float32(LEAST)).astype("f4")
    label = np.where(share >= HIDDEN, 1, 0).astype(np.uint8)
    label[(part(hidden) >= 0.5) & (share < HIDDEN)] = 2
    return Echo(seen, clean, angle, ground, v.wind[0]), label


def _fetch(water: Mask) -> Field:
    """0..1: where the wind finds open water, by the distance to the shore (the edge of the scene is none)."""
    if water.all():
        return np.ones(water.shape, np.float32)
    return step(ndimage.distance_transform_edt(water), 1.0, 25.0)


def _part(g: np.random.Generator, n: int, zoom: float) -> Callable[[Any], Field]:
    """A function that enlarges a window of an (n, n) field, drawn once, to (n, n)."""
    if zoom <= 1.0:
        return lambda field: np.asarray(field, np.float32)
    side = (n - 1) / zoom
    origin = g.uniform(0, n - 1 - side, 2)
    rows, columns = (origin[k] + np.linspace(0, side, n) for k in range(2))

    def enlarge(field: Any) -> Field:
        at = np.meshgrid(rows, columns, indexing="ij")
        out: Field = ndimage.map_coordinates(np.asarray(field, np.float32), at, order=1, mode="nearest")
        return out

    return enlarge


def _open(g: np.random.Generator, v: Variety, ground: Surface, land: Land) -> tuple[Field, Mask]:
    """Share of open water in each pixel (1 on rivers and lakes, less where a flood is shallow or plants stand in it),
    and where water stands that cannot be seen."""
    share, wet = ground.permanent.astype("f4"), ground.flood
    depth = ground.depth
    n, parcel = land.tile.size, land.cover.parcel
    if v.rice > 0:
        under = g.random(land.cover.parcels + 1) < v.rice
        under[0] = False
        flat = (land.terrain.slope < 0.06) & (land.cover.classes != LandCover.WATER)
        paddies = under[parcel] & np.isin(ground.classes, _FIELDS) & flat & ~wet
        wet, depth = wet | paddies, np.where(paddies, np.float32(0.2), depth)
    if wet.any():
        plants = v.emergent * (1.0 + 0.8 * fractal(g, n, slope=1.6, outer=12.0))
        plants = plants + (v.emergent * g.normal(0, 0.6, land.cover.parcels + 1).astype("f4"))[parcel]
        deep = np.clip(depth / np.float32(0.2), 0.4, 1.0)
        share = np.where(wet, deep * (1.0 - np.clip(plants, 0.0, 0.9)), share)
    if v.drowned > 0:
        low = land.terrain.hand + np.float32(0.01) * land.texture[1]  # no plain is wholly flat
        share = np.where(low <= np.quantile(low, min(v.drowned, 1.0)), np.float32(1.0), share)
    return np.asarray(share, np.float32), np.asarray(ground.inundation | wet)


def _fields(g: np.random.Generator, v: Variety, land: Land) -> tuple[Field, Field]:
    """(VV, VH) of each parcel (parcels + 1,): roughness, and a few as smooth as a pond."""
    count = land.cover.parcels + 1
    both, own = g.normal(0, v.parcels, count), g.normal(0, 0.4 * v.parcels, (2, count))
    flat = np.where(g.random(count) < v.smooth, v.dark * g.uniform(0.5, 1.5, count), 0.0)
    return (both + own[0] - flat).astype("f4"), (both + own[1] - flat).astype("f4")


def _land(v: Variety, k: int, land: Land, ground: Surface, time: np.datetime64, fields: Field, angle: Field) -> Field:
    """dB of the ground without open water."""
    level, fall, texture = radar.levels(k)
    green, straw = (x.astype("f4") for x in surface.cover_of_parcels(land, time))
    grown = (1.2 * green + 0.6 * straw) if k == 0 else (4.0 * green + 1.5 * straw)
    db = (level + v.level[k])[ground.classes]
    db = db - fall[ground.classes] * (np.clip(angle, 12.0, 80.0) - np.float32(radar.REFERENCE))
    parcel = land.cover.parcel
    crop, grass = ground.classes == LandCover.CROP, ground.classes == LandCover.GRASS
    db = db + np.where(crop, (fields + grown)[parcel], 0.0) + np.where(grass, np.float32(0.6) * fields[parcel], 0.0)
    db = db + land.texture[0] * texture[ground.classes] * np.float32(v.texture)
    if ground.snow.any() and sky.snow_line(land.seed, land.tile, time) > 300:  # melting snow absorbs
        db = db - 3.0 * ground.snow
    trees: Mask = np.isin(ground.classes, [LandCover.BROADLEAF, LandCover.CONIFER])
    db = db + (ground.inundation & trees) * np.float32(v.bounce if k == 0 else 0.3 * v.bounce)
    walls = ground.inundation & (ground.classes == LandCover.BUILDING)
    return np.asarray(db + walls * np.float32(1.5), np.float32)
