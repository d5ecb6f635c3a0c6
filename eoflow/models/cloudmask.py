"""Clouds, shadows and snow by rules, for series of images that come without a mask. A baseline, no network.

Each date by itself (Braaten, Cohen and Yang 2015, "Automated cloud and cloud shadow identification in Landsat MSS
imagery for temperate ecosystems", Remote Sensing of Environment 169, 128-138): a pixel is cloud where it is bright and
not red, green > 0.175 and green > red, or bright whatever its colour, green > 0.39.

Against the other dates (after Hagolle, Huc, Villa Pascual and Dedieu 2010, "A multi-temporal method for cloud
detection", Remote Sensing of Environment 114, 1747-1755): clouds raise the blue reflectance of a pixel suddenly, by
more than 0.03 and more with the time since the reference, while a change of the ground that brightens blue brightens
red by more than 1.5 times as much. Their reference is the last clear date; here it is a low quantile of the pixel's
own series, so that dates may come in any order and the first ones may be cloudy.

Snow is bright too, but dark in the short-wave infrared: NDSI > 0.4 (Dozier 1989; Hall et al. 1995); so are ice clouds,
which shine at 1.38 micrometres, where the ground is dark and thin cirrus begins at 0.012 (Sen2Cor's lower limit).
A shadow darkens the near infrared against the pixel's own median.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.quality import Quality

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CloudRules:
    """Thresholds in reflectance. dates: fewer valid dates of a pixel than this give no reference."""

    bright: float = 0.39
    grey: float = 0.175
    rise: float = 0.03
    red_ratio: float = 1.5
    cirrus: float = 0.012
    snow: float = 0.4
    snow_nir: float = 0.11
    shadow: float = 0.6
    shadow_drop: float = 0.06
    quantile: float = 0.25
    dates: int = 4
    grow: int = 2

    def __call__(self, bands: Mapping[str, Array], valid: Array) -> Array:
        """Quality of each pixel and date, uint8 (T, h, w).

        bands: reflectance (T, h, w) by common name: green (or blue) and red are needed; blue, nir, swir16 and cirrus
        are used where they are there. valid: (T, h, w) where there is a value. Raises KeyError without red and green.
        The result of a pixel depends on pixels up to `grow` away.
        """
        green, red = bands["green"], bands["red"]
        blue = bands.get("blue", green)
        nir = bands.get("nir", bands.get("nir08"))
        enough = valid.sum(axis=0) >= self.dates
        with np.errstate(invalid="ignore", divide="ignore"):
            snow = np.zeros(valid.shape, bool)
            if "swir16" in bands and nir is not None:
                ndsi = (green - bands["swir16"]) / (green + bands["swir16"])
                snow = (ndsi > self.snow) & (nir > self.snow_nir) & (green > 0.1)
            high = np.zeros(valid.shape, bool)
            cloud = ((green > self.grey) & (green > red)) | (green > self.bright)
            if "cirrus" in bands:
                high = bands["cirrus"] > self.cirrus
                snow &= ~high
                cloud |= high
            reference = self._low(blue, valid)
            rise = blue - reference
            ground = red - self._low(red, valid) > self.red_ratio * rise
            hidden = rise > self.rise * (1 + np.clip(reference, 0, 1))
            cloud = np.where(enough, (cloud & (rise > self.rise / 2)) | (hidden & ~ground) | high, cloud)
            shadow = np.zeros(valid.shape, bool)
            if nir is not None:
                usual = self._middle(nir, valid & ~cloud)
                shadow = enough & (nir < self.shadow * usual) & (usual - nir > self.shadow_drop) & ~cloud
        cloud &= ~snow & valid
        grown = np.stack([grow(c, self.grow) for c in cloud]) if self.grow else cloud
        out = np.full(valid.shape, int(Quality.CLEAR), np.uint8)
        out[snow] = int(Quality.SNOW)
        out[shadow] = int(Quality.SHADOW)
        out[grown] = int(Quality.CLOUD)
        out[~valid] = int(Quality.NODATA)
        return out

    def _low(self, values: Array, valid: Array) -> Array:
        """(h, w) low quantile over the valid dates, the nearest rank; NaN where there is none."""
        count = valid.sum(axis=0)
        ranked = np.sort(np.where(valid, values, np.inf), axis=0)
        rank = np.floor(self.quantile * np.maximum(count - 1, 0)).astype(np.int64)
        found = np.take_along_axis(ranked, rank[None], 0)[0]
        return np.where(count > 0, found, np.nan)

    @staticmethod
    def _middle(values: Array, valid: Array) -> Array:
        """(h, w) median over the valid dates; NaN where there is none."""
        count = valid.sum(axis=0)
        ranked = np.sort(np.where(valid, values, np.inf), axis=0)
        found = np.take_along_axis(ranked, np.maximum(count - 1, 0)[None] // 2, 0)[0]
        return np.where(count > 0, found, np.nan)


def grow(mask: Array, by: int) -> Array:
    """A mask (h, w) with every pixel within a square of `by` pixels around it."""
    out = mask.copy()
    for axis in (0, 1):
        line = out.copy()
        for k in range(1, by + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(k, None), slice(None, -k)
            line[tuple(ahead)] |= out[tuple(behind)]
            line[tuple(behind)] |= out[tuple(ahead)]
        out = line
    return out
