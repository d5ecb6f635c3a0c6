"""What a multispectral sensor sees: surface, shadows, haze, clouds, swath edge, saturation, noise; and the SCL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import clouds, sky, spectra, surface
from .clouds import CIRRUS, THICK, THIN, Clouds
from .cover import LandCover
from .land import Land
from .noise import Field, fractal, rng, uniform
from .surface import Surface
from .terrain import Mask

SCALE, OFFSET, SATURATED_DN = 1e-4, -0.1, 65535
NOISE = (0.0008, 0.006)
"""Standard deviation of the sensor's noise: a constant, and a share of the reflectance."""
SNOW, VEGETATED = 0.5, 0.30
"""Snow cover that is classified as snow, NDVI that is classified as vegetation."""


@dataclass(frozen=True, eq=False)
class View:
    """One acquisition with its truth. reflectance: by band, float32, as measured (haze, clouds, shadow, noise), NaN
    outside the swath. scl: uint8, classes of Sentinel-2. haze: path reflectance at 490 nm. saturated, outside: masks.
    All (y, x)."""

    reflectance: dict[str, Field]
    scl: NDArray[np.uint8]
    surface: Surface
    clouds: Clouds
    haze: Field
    saturated: Mask
    outside: Mask

    def stored(self, band: str, offset: float = OFFSET) -> NDArray[np.uint16]:
        """Digital numbers of a band: (reflectance - offset) / 1e-4, 1..65535; 0 outside the swath, 65535 saturated."""
        r = self.reflectance[band]
        dn = np.clip(np.rint((np.nan_to_num(r) - offset) / SCALE), 1, SATURATED_DN).astype(np.uint16)
        dn[self.saturated] = SATURATED_DN
        dn[self.outside] = 0
        return dn


def see(land: Land, time: np.datetime64, bands: tuple[str, ...], *, orbit: int = 0, imperfect: bool = False) -> View:
    """The scene of a tile at a time. orbit: number of the pass; every fourth sees only a part of the tile.

    imperfect: the SCL has the errors that such maps have (cloud edges, bright roofs, shadow taken for water).
    """
    time = time.astype("datetime64[ns]")
    needed = tuple(dict.fromkeys([*bands, "B04", "B08"]))
    ground = surface.at(land, time, needed)
    sky_now = clouds.at(land.seed, land.tile, time, ground.sun)
    n = land.tile.size
    name = (land.seed, land.tile.name, str(time.astype("datetime64[s]")))
    veil = fractal(rng("haze field", *name), n // 4, slope=2.0, outer=1.5)  # smooth: a coarse field will do
    veil = ndimage.zoom(veil, 4, order=1, mode="nearest", grid_mode=True)
    haze = np.float32(sky.haze(land.seed, land.tile, time)) * np.exp(0.35 * veil).astype("f4")
    gen = rng("noise", *name)
    outside = _outside(land, orbit)
    seen = {}
    for band in bands:
        r = _through(ground.reflectance[band], band, sky_now, haze, ground)
        noise = gen.standard_normal((n, n), dtype="f4") * (np.float32(NOISE[0]) + np.float32(NOISE[1]) * r)
        r = r + noise
        r[outside] = np.nan
        seen[band] = r
    saturated = _saturated(land, time, ground, sky_now) & ~outside
    scl = _scl(ground, sky_now, saturated, outside)
    if imperfect:
        scl = _mistaken(scl, ground, sky_now, rng("mistakes", *name))
    return View(seen, scl, ground, sky_now, haze, saturated, outside)


def _through(r: Field, band: str, c: Clouds, haze: Field, ground: Surface) -> Field:
    """The surface under shade, haze and clouds."""
    diffuse = np.float32(min(0.9, spectra.DIFFUSE[band] / max(np.sin(ground.sun.elevation), 0.15) ** 0.5))
    out = r * (1.0 - (1.0 - diffuse) * c.shade) + haze * np.float32(spectra.HAZE[band])
    if not c.alpha.any():
        return out
    water, ice = (spectra.column(m, (band,))[0] for m in ("water_cloud", "ice_cloud"))
    cloud = (water + (ice - water) * c.ice) * c.bright
    return np.asarray(out + c.alpha * (cloud - out), np.float32)


def _outside(land: Land, orbit: int) -> Mask:
    """Pixels beyond the edge of the swath: on every fourth pass a slanting line crosses the tile."""
    n = land.tile.size
    if orbit % 4 != 3 or uniform("edge", land.seed, land.tile.name) < 0.4:
        return np.zeros((n, n), bool)
    y, x = np.mgrid[:n, :n].astype("f4") / n
    at = 0.25 + 0.5 * uniform("edge at", land.seed, land.tile.name) + 0.02 * uniform("edge jitter", orbit)
    return np.asarray(x + 0.21 * (y - 0.5) > at)


def _saturated(land: Land, time: np.datetime64, ground: Surface, c: Clouds) -> Mask:
    """Glinting metal roofs and the brightest cloud tops of some scenes."""
    name = ("glint", land.seed, land.tile.name, str(time.astype("datetime64[D]")))
    roofs = ground.classes == LandCover.BUILDING
    lots = (land.cover.house * 40503 + int(uniform(*name) * 65536)) % 997
    glint = roofs & (lots < 2) & (c.alpha < 0.1) & (c.shade < 0.1)
    tops = (c.bright > 1.12) & (c.alpha > 0.97)
    return np.asarray(glint | (tops if uniform("tops", *name) < 0.3 else False))


def _scl(ground: Surface, c: Clouds, saturated: Mask, outside: Mask) -> NDArray[np.uint8]:
    """Scene classification, exact: clouds over shadow over snow over water over plants."""
    red, nir = ground.reflectance["B04"], ground.reflectance["B08"]
    scl = np.where(nir - red > VEGETATED * (nir + red), 4, 5).astype(np.uint8)
    scl[ground.dark] = 2
    scl[(ground.classes == LandCover.WATER) | ground.flood] = 6
    scl[ground.snow > SNOW] = 11
    scl[c.shadow] = 3
    scl[c.cirrus > CIRRUS] = 10
    low = np.where(c.ice > 0.5, 0.0, c.alpha)
    scl[low >= THIN] = 8
    scl[c.alpha >= THICK] = 9
    scl[saturated] = 1
    scl[outside] = 0
    return scl


def _mistaken(scl: NDArray[np.uint8], ground: Surface, c: Clouds, gen: np.random.Generator) -> NDArray[np.uint8]:
    """The map with typical errors, about 2 to 8 % of the pixels of a cloudy scene."""
    n = scl.shape[0]
    field = fractal(gen, n, slope=1.2, outer=20.0)
    out = scl.copy()
    fixed = (scl == 0) | (scl == 1)
    blue = ground.reflectance.get("B02", ground.reflectance["B04"])
    out[(blue > 0.22) & (scl == 5) & (field > 0.3)] = 8  # bright roofs and sand
    out[(scl == 3) & (field > 1.3)] = 6
    out[(scl == 6) & (field < -2.0)] = 3
    out[(scl == 8) & (field > 1.0)] = 7
    out[(c.alpha > 0.08) & (c.alpha < THIN) & (field > 0.8)] = 8
    rim = ndimage.binary_dilation(scl == 9, iterations=2) & (scl != 9) & (field > -0.5)
    out[rim] = 8
    out[(out == 3) & (field < -1.4)] = 5  # shadows are missed most
    out[fixed] = scl[fixed]
    return out
