"""What a C-band radar sees of the same land: backscatter by class, season, wetness and slope, with speckle.

Levels are typical of Sentinel-1 at 10 m (VV and VH, sigma0 at 38 degrees): smooth water far below land, wind that
roughens it, double bounce in towns and in flooded forest, crops that rise with their leaves, soil with its wetness.
Speckle of intensity is gamma distributed with `looks` equivalent looks (Lee and Pottier 2009); there is no layover.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from . import sky, surface
from .cover import LandCover
from .land import Land
from .noise import Field, rng, uniform
from .surface import Surface

ENL = 4.4
"""Equivalent looks of Sentinel-1 IW GRD at high resolution."""
FLOOR = -26.0
"""Noise-equivalent sigma0, dB."""
REFERENCE = 38.0
# dB at the reference angle (VV, VH), loss with the angle (dB a degree), texture (dB)
_LEVEL: dict[LandCover, tuple[float, float, float, float]] = {
    LandCover.WATER: (-22.5, -30.0, 0.35, 0.3),
    LandCover.BROADLEAF: (-9.2, -14.6, 0.08, 0.7),
    LandCover.CONIFER: (-10.0, -15.4, 0.08, 0.7),
    LandCover.GRASS: (-12.8, -19.8, 0.13, 0.6),
    LandCover.SHRUB: (-11.6, -17.8, 0.10, 0.8),
    LandCover.CROP: (-13.0, -21.0, 0.15, 0.4),
    LandCover.BARE: (-13.5, -22.5, 0.18, 0.9),
    LandCover.BUILDING: (-3.5, -12.0, 0.05, 3.0),
    LandCover.PAVED: (-15.5, -23.5, 0.20, 1.2),
}


@dataclass(frozen=True, eq=False)
class Echo:
    """One acquisition with its truth. intensity: by polarisation ("VV", "VH"), linear sigma0, float32, with speckle.
    clean: the same without speckle. angle: local incidence, degrees. wind: m/s. All (y, x)."""

    intensity: dict[str, Field]
    clean: dict[str, Field]
    angle: Field
    surface: Surface
    wind: float

    def decibel(self, polarisation: str) -> Field:
        """Backscatter with speckle in dB, float32."""
        return np.asarray(10.0 * np.log10(np.maximum(self.intensity[polarisation], 1e-6)), np.float32)


def see(
    land: Land, time: np.datetime64, *, ascending: bool = True, looks: float = ENL, correlation: float = 0.0
) -> Echo:
    """The radar scene of a tile at a time. looks: equivalent looks of the speckle. correlation: its length in pixels
    (standard deviation of the blur; the distribution of a pixel stays the same)."""
    time = time.astype("datetime64[ns]")
    clean, angle, ground, wind = backscatter(land, time, ascending=ascending)
    gen = rng("speckle", land.seed, land.tile.name, str(time.astype("datetime64[s]")))
    seen = {p: (s * speckle(gen, s.shape[0], looks, correlation)).astype("f4") for p, s in clean.items()}
    return Echo(seen, clean, angle, ground, wind)


def backscatter(
    land: Land, time: np.datetime64, *, ascending: bool = True
) -> tuple[dict[str, Field], Field, Surface, float]:
    """Backscatter without speckle: ({"VV", "VH"} linear sigma0, local incidence angle in degrees, surface, wind)."""
    time = time.astype("datetime64[ns]")
    ground = surface.at(land, time, ())
    angle = np.clip(incidence(land, ascending), 12.0, 80.0)
    day = str(time.astype("datetime64[D]"))
    wind = float(rng("wind", land.seed, land.tile.zone, day).gamma(2.2, 1.7))
    moist = np.float32(3.5 * (ground.wetness - 0.4))
    green, straw = (x.astype("f4") for x in surface.cover_of_parcels(land, time))
    parcel = land.cover.parcel
    n = green.size
    late = rng("rows", *land.name).normal(0, 0.8, n).astype("f4")  # roughness of each field
    grown = {"VV": 1.2 * green + 0.6 * straw, "VH": 5.0 * green + 1.5 * straw}
    bareness = np.clip(1.0 - green - straw, 0, 1)
    out = {}
    for k, pol in enumerate(("VV", "VH")):
        level, fall, texture = levels(k)
        level[LandCover.WATER] = _water(wind, k)
        level[[LandCover.GRASS, LandCover.SHRUB]] += 0.6 * moist
        level[LandCover.BARE] += moist
        db = level[ground.classes]
        field = grown[pol] + bareness * moist + late * (0.5 + 0.5 * bareness)
        db = db + np.where(ground.classes == LandCover.CROP, field[parcel], 0.0)
        db = db + land.texture[0] * texture[ground.classes] + 0.35 * land.texture[1]
        if ground.snow.any() and sky.snow_line(land.seed, land.tile, time) > 300:  # melting snow absorbs
            db = db - 3.0 * ground.snow
        db = _flooded(db, ground, k, wind, land)
        still = (ground.classes == LandCover.WATER) | ground.flood
        if wind > 4.0:  # streaks of gusts
            db = db + still * np.float32(min(0.25 * (wind - 4.0), 1.5)) * land.texture[2]
        db = db - fall[ground.classes] * (angle - np.float32(REFERENCE))
        linear = 10.0 ** (db / 10.0)
        linear = linear * area(angle) + 10.0 ** (FLOOR / 10.0)
        out[pol] = ndimage.gaussian_filter(linear, 0.6, mode="nearest", truncate=2.5).astype("f4")
    return out, angle, ground, wind


def levels(k: int) -> tuple[Field, Field, Field]:
    """(dB at the reference angle, loss in dB a degree, texture in dB) of each class (16,); k: 0 VV, 1 VH."""
    level, fall, texture = (np.zeros(16, np.float32) for _ in range(3))
    for what, row in _LEVEL.items():
        level[what], fall[what], texture[what] = row[k], row[2], row[3]
    return level, fall, texture


def _water(wind: float, k: int) -> float:
    """dB of open water: specular when calm, rough in wind (in VV far more than in VH)."""
    rough = float(np.clip((wind - 2.0) / 8.0, 0.0, 1.0)) ** 0.8
    return (-23.5 + 9.0 * rough) if k == 0 else (-30.0 + 4.5 * rough)


def _flooded(db: Field, ground: Surface, k: int, wind: float, land: Land) -> Field:
    """Flood water is like water, darker where it is deep; stems and walls in it bounce twice."""
    if not ground.inundation.any():
        return db
    open_water = _water(0.6 * wind, k) + 1.2 + 0.6 * land.texture[0]  # sheltered, with what still stands out
    share = np.clip(ground.depth / 0.35, 0.35, 1.0) * ground.flood
    db = db + share * (open_water - db)
    forest = ground.inundation & np.isin(ground.classes, [LandCover.BROADLEAF, LandCover.CONIFER])
    walls = ground.inundation & (ground.classes == LandCover.BUILDING)
    return np.asarray(db + forest * (3.2 if k == 0 else 0.8) + walls * 1.5, np.float32)


def incidence(land: Land, ascending: bool) -> Field:
    """Local angle between the look and the slope, degrees; from 90 on the slope is in radar shadow."""
    n, t = land.tile.size, land.terrain
    base = 31.0 + 13.0 * uniform("swath", land.tile.zone, land.tile.column // 8, ascending)
    across = np.linspace(0.0, 0.35 * n / 512, n, dtype="f4")[None, :]
    theta = np.deg2rad(base + (across if ascending else across[:, ::-1]))
    # the satellite is in the west on an ascending pass (it looks to the right), in the east on a descending one
    heading = np.deg2rad(-102.0 if ascending else 102.0)
    to_sensor = (np.sin(heading) * np.sin(theta), np.cos(heading) * np.sin(theta), np.cos(theta))
    cosine = sum(a * b for a, b in zip(t.normal, to_sensor))
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).astype("f4")


def area(angle: Field) -> Field:
    """More ground in a pixel on slopes that face the sensor: sin of the reference over sin of the local angle."""
    return np.asarray(np.sin(np.deg2rad(REFERENCE)) / np.sin(np.deg2rad(angle)), np.float32)


def speckle(gen: np.random.Generator, n: int, looks: float, correlation: float) -> Field:
    """Multiplicative speckle: gamma distributed, mean 1, variance 1 / looks."""
    if correlation <= 0.0:
        return np.asarray(gen.standard_gamma(looks, (n, n)) / looks, np.float32)
    z = ndimage.gaussian_filter(gen.standard_normal((n, n), dtype="f4"), correlation, mode="wrap")
    z /= z.std()
    knots = np.linspace(-6.0, 6.0, 1201)
    values = special.gammaincinv(looks, special.ndtr(knots)) / looks
    return np.interp(z, knots, values).astype("f4")


def single_look(
    land: Land, time: np.datetime64, polarisation: str = "VV", *, shots: int = 2, ascending: bool = True
) -> tuple[NDArray[np.complex64], Field]:
    """Single-look complex images for despeckling: ((shots, y, x) complex64, the reflectivity without speckle (y, x)).

    Fully developed speckle (Goodman 1976): real and imaginary parts are independent, Gaussian, with half the
    reflectivity as variance; the shots share the reflectivity and nothing else.
    """
    time = time.astype("datetime64[ns]")
    clean = backscatter(land, time, ascending=ascending)[0][polarisation]
    name = (land.seed, land.tile.name, str(time.astype("datetime64[s]")), polarisation)
    parts = rng("single look", *name).standard_normal((shots, 2, *clean.shape), dtype="f4")
    amplitude = np.sqrt(clean / 2.0)
    return ((parts[:, 0] + 1j * parts[:, 1]) * amplitude).astype(np.complex64), clean
