"""The surface as the sun lights it: reflectance of every pixel at a time, without clouds, haze or noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import events, sky, spectra
from .cover import Classes, LandCover
from .land import VARIANTS, Land, first_row
from .noise import Field, rng, step
from .terrain import Mask

DAY = np.timedelta64(1, "D")
_ROOFS = ("tile", "tile", "slate", "concrete", "tile", "bitumen", "concrete", "metal", "tile", "slate", "concrete",
          "tile", "bitumen", "slate", "concrete", "metal")  # fmt: skip
# how the patchy texture shows in a band: greener patches are darker in the visible and brighter in the near infrared
_PATCH_SIGN = dict(zip(spectra.BANDS, (1.0, 0.8, 1.2, 0.7, -0.5, -0.7, -0.7, -0.7, 0.7, 1.0)))
DARK = 0.12
"""Cosine of the angle between sun and slope below which a slope counts as dark (topographic shadow)."""


@dataclass(frozen=True, eq=False)
class Surface:
    """All (y, x). reflectance: by band, float32, 0..1, with topographic shading. classes: uint8, `LandCover`.

    permanent: rivers, lakes, sea at normal level. flood: flood water that is seen from above. inundation: all land
    under water, under trees and in streets too. depth: of it, m. snow: cover, 0..1. dark: slopes without sun.
    wetness: of the topsoil, 0..1.
    """

    reflectance: dict[str, Field]
    classes: Classes
    permanent: Mask
    flood: Mask
    inundation: Mask
    depth: Field
    snow: Field
    dark: Mask
    wetness: float
    sun: sky.Sun


def at(land: Land, time: np.datetime64, bands: tuple[str, ...]) -> Surface:
    """The surface of a tile at a time, in `bands` (of `spectra.BANDS`; may be empty)."""
    time = time.astype("datetime64[ns]")
    tile, t, state = land.tile, land.terrain, land.state(time)
    sun = sky.sun(tile, time)
    level = land.stage(time)
    under = events.inundated(t, level) if level > 0 else np.zeros_like(t.water)
    flood = events.seen_from_above(under, state.classes)
    depth = np.where(under, level - t.hand, 0.0).astype("f4")
    wet = sky.wetness(land.seed, tile, time)
    snow = _snow(land, time, state.classes)
    snow[flood | (state.classes == LandCover.WATER)] = 0.0
    cosine = _cosine(land, sun)
    parts = _Parts(land, time, wet, flood, depth, snow, cosine, sun)
    reflectance = {}
    if bands:
        table = table_at(land, time, bands, wet)
        for k, band in enumerate(bands):
            reflectance[band] = parts.band(band, table[:, k])
    permanent = state.classes == LandCover.WATER
    return Surface(reflectance, state.classes, permanent, flood, under, depth, snow, cosine < DARK, wet, sun)


def _cosine(land: Land, sun: sky.Sun) -> Field:
    east, north, up = sun.vector
    n = land.terrain.normal
    return np.asarray(n[0] * np.float32(east) + n[1] * np.float32(north) + n[2] * np.float32(up), np.float32)


def _snow(land: Land, time: np.datetime64, classes: Classes) -> Field:
    """Snow cover, 0..1, of the ground as seen from above: forests and roofs hide or shed much of it."""
    line = sky.snow_line(land.seed, land.tile, time)
    if land.terrain.height.max() + 400.0 < line - 60.0:
        return np.zeros(classes.shape, np.float32)
    cover = step(land.terrain.height + land.snow_noise - np.float32(line), -60.0, 110.0)
    seen = np.ones(16, np.float32)
    seen[[LandCover.BROADLEAF, LandCover.CONIFER, LandCover.BUILDING, LandCover.PAVED]] = (0.45, 0.22, 0.7, 0.35)
    return cover * seen[classes]


class _Parts:
    """What all bands of a surface share."""

    def __init__(
        self, land: Land, time: np.datetime64, wet: float, flood: Mask, depth: Field, snow: Field, cosine: Field,
        sun: sky.Sun,
    ) -> None:  # fmt: skip
        self.land, self.state, self.sun, self.cosine = land, land.state(time), sun, cosine
        self.snow = snow if snow.any() else None
        t = land.terrain
        self.mud = self._mud(time, flood)
        self.cover = step(depth, 0.0, 0.3) * flood if flood.any() else None
        water = self.state.classes == LandCover.WATER
        self.shallow = self.state.shallow
        self.water, self.muddy = water, max(min(land.stage(time) * 2.0, 1.0), 0.25 * float(t.river.mean() > 0) * wet)
        built = self.state.classes == LandCover.BUILDING
        away = (float(np.cos(sun.azimuth)), float(-np.sin(sun.azimuth)))  # rows down, columns right
        length = min(0.9 / max(np.tan(sun.elevation), 0.3), 2.0)
        self.house_shadow = 0.0 * depth
        if built.any():
            moved = ndimage.shift(built.astype("f4"), (away[0] * length, away[1] * length), order=1, mode="nearest")
            self.house_shadow = (moved * ~built * 0.35).astype("f4")
        # a leaf canopy scatters: its slopes differ less than bare ground (Minnaert-like damping)
        self.level = float(np.sin(sun.elevation))

    def _mud(self, time: np.datetime64, flood: Mask) -> Field | None:
        """Wet silt where the water stood in the last two weeks."""
        stages = [(self.land.stage(time - k * DAY), k) for k in (3, 6, 9, 12, 15)]
        left = np.zeros(flood.shape, np.float32)
        for level, days in stages:
            if level > 0:
                was = events.inundated(self.land.terrain, level) & ~flood
                left = np.maximum(left, was * np.float32(0.6 * np.exp(-days / 12.0)))
        canopy = np.isin(self.state.classes, [2, 3, 8])
        return left * ~canopy if left.any() else None

    def band(self, band: str, row: NDArray[np.float32]) -> Field:
        """Reflectance of one band from its column of the spectral table."""
        r = row[self.state.keys]
        r = r * (1.0 + self.state.fine + np.float32(_PATCH_SIGN[band]) * self.state.patch)
        bottom = spectra.column("mud", (band,))[0]
        turbid = spectra.column("turbid_water", (band,))[0]
        if self.water.any():
            r = r + self.shallow * np.maximum(bottom * 0.8 - r, 0.0)
            if self.muddy:
                river = np.float32(self.muddy) * self.water * ~self.land.terrain.sea
                r = r + river * (turbid - r)
        if self.mud is not None:
            r = r + self.mud * (bottom - r)
        if self.cover is not None:
            murk = turbid * (1.0 + 0.10 * self.land.texture[1] + 0.10 * self.land.texture[2])
            r = r + self.cover * (murk - r)
        if self.snow is not None:
            fresh, old = (spectra.column(m, (band,))[0] for m in ("snow", "old_snow"))
            r = r + self.snow * ((0.5 * (fresh + old)) * (1 + 0.05 * self.land.texture[2]) - r)
        diffuse = np.float32(min(0.9, spectra.DIFFUSE[band] / max(self.level, 0.15) ** 0.5))
        direct = np.maximum(self.cosine, 0.0) / np.float32(max(self.level, 0.05))
        r = r * (diffuse + (1 - diffuse) * np.minimum(0.25 + 0.75 * direct, 1.6)) * (1.0 - self.house_shadow)
        return _optics(np.clip(r, 0.0005, 1.0), band in spectra.COARSE)


def _optics(r: Field, coarse: bool) -> Field:
    """Blur of the instrument; 20 m bands are means of 2 x 2 pixels."""
    if coarse and r.shape[0] % 2 == 0:
        n = r.shape[0] // 2
        mean = r.reshape(n, 2, n, 2).mean(axis=(1, 3), dtype="f4")
        return np.repeat(np.repeat(mean, 2, axis=0), 2, axis=1)
    out: Field = ndimage.gaussian_filter(r, 0.5, mode="nearest", truncate=2.5)
    return out


# ---- the spectral table ------------------------------------------------------------------------------------------


def crop_of(land: Land, year: int) -> NDArray[np.int64]:
    """Crop of each parcel in a year: (parcels + 1,), index in `spectra.CROPS`. Fields change crops every year."""
    n = land.cover.parcels + 1
    dry = land.character.dry
    share = np.array([0.32, 0.12, 0.20, 0.10, 0.12, 0.07, 0.07]) + dry * np.array([0, -0.08, 0, -0.04, 0.1, 0.05, 0.12])
    share = np.clip(share, 0.01, None)
    return rng("rotation", year, *land.name).choice(len(spectra.CROPS), n, p=share / share.sum())


def cover_of_parcels(land: Land, time: np.datetime64) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Green and straw cover of each parcel as a field: (parcels + 1,) each, 0..1."""
    n, tile = land.cover.parcels + 1, land.tile
    day = sky.season(tile, time)
    year = int(str(time.astype("datetime64[Y]")))
    late = rng("late", year, *land.name).normal(0, 7.0, n) + 0.8 * (abs(tile.centre[1]) - 47.0)
    green, straw = np.zeros(n), np.zeros(n)
    crops = crop_of(land, year)
    for k, crop in enumerate(spectra.CROPS):
        mine = crops == k
        green[mine], straw[mine] = spectra.crop_state(crop, day, late[mine])
    vigour = 1.0 - 0.25 * rng("vigour", year, *land.name).random(n)
    return np.clip(green * vigour, 0, 1), straw


def table_at(land: Land, time: np.datetime64, bands: tuple[str, ...], wet: float) -> NDArray[np.float32]:
    """Reflectance of every row: (2 * (parcels + 1) + 7 * VARIANTS, bands) float32."""
    what, tile = land.character, land.tile
    day, lat = sky.season(tile, time), tile.centre[1]
    n = land.cover.parcels + 1

    def of(material: str) -> NDArray[np.float32]:
        return spectra.column(material, bands)

    gen = rng("soils", *land.name)
    bright = np.clip(what.soil + gen.normal(0, 0.16, n), 0, 1)[:, None]
    soil = (of("loam") + bright * (of("sand") - of("loam"))) * np.exp(gen.normal(0, 0.09, n))[:, None]
    soil = soil * (1.0 - 0.38 * wet)
    green, straw = (x[:, None] for x in cover_of_parcels(land, time))
    crop = green * of("leaf") + straw * of("straw") + np.clip(1 - green - straw, 0, 1) * soil
    lush = spectra.meadow_green(day, lat, what.dry) * np.exp(gen.normal(-0.05, 0.14, n))[:, None]
    lush = np.clip(lush, 0, 1)
    dry_share = (1 - lush) * 0.65
    grass = lush * of("meadow") + dry_share * (0.5 * of("straw") + 0.5 * of("twigs")) + (1 - lush - dry_share) * soil
    table = np.zeros((2 * n + 7 * VARIANTS, len(bands)), np.float32)
    table[:n], table[n : 2 * n] = crop, grass
    leaf = spectra.leaves(day, lat)
    fall = float(np.exp(-(((day - 290.0) / 14.0) ** 2))) * 0.75 * (abs(lat) > 30)
    for k in range(VARIANTS):
        own = float(np.exp(gen.normal(0, 0.07)))
        share = np.clip(leaf * (1.0 - fall) * np.exp(gen.normal(0, 0.05)), 0, 1)
        gold = min(fall * gen.uniform(0.5, 1.0), 1 - share)
        ground = soil[k % n]
        rows = {
            LandCover.WATER: of("clear_water") + 0.4 * (of("green_water") - of("clear_water")),
            LandCover.BROADLEAF: share * of("broadleaf") + gold * of("autumn") + (1 - share - gold) * of("twigs"),
            LandCover.CONIFER: of("conifer") * (0.95 + 0.1 * leaf),
            LandCover.SHRUB: (0.25 + 0.4 * leaf) * (1 - 0.5 * what.dry) * of("broadleaf")
            + (1 - (0.25 + 0.4 * leaf) * (1 - 0.5 * what.dry)) * (0.5 * of("twigs") + 0.2 * of("straw") + 0.3 * ground),
            LandCover.BARE: (0.7 * of("rock") + 0.3 * ground) if land.character.relief.relief > 600 else ground,
            LandCover.BUILDING: of(_ROOFS[k]) * (0.75 + 0.5 * gen.random()),
            LandCover.PAVED: of("asphalt") * (0.85 + 0.4 * gen.random()) * (1 - 0.2 * wet),
        }
        for cls, r in rows.items():
            table[first_row(land.cover.parcels, cls) + k] = r * (1.0 if cls is LandCover.WATER else own)
    return table
