"""Quality of a pixel: one layer of named classes, whatever the provider calls them.

Missing (no scene covers the pixel), nodata (a scene covers it, the sensor has no value), cloud and the others are
different things and are never folded into NaN. The classes are stored as CF flag values (uint8).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Rule = Literal["scl", "qa_pixel", "cloud_mask", "cloud_probability", "none"]


class Quality(IntEnum):
    """CF flag values of the layer `quality`. MISSING is the fill value: nothing was ever stored there."""

    MISSING = 0
    NODATA = 1
    SATURATED = 2
    CLOUD = 3
    SHADOW = 4
    SNOW = 5
    WATER = 6
    CLEAR = 7


USABLE = (Quality.CLEAR, Quality.WATER, Quality.SNOW)
"""Classes in which the surface was seen."""

ATTRS: dict[str, Any] = {
    "long_name": "quality of the pixel",
    "standard_name": "quality_flag",
    "flag_values": [int(q) for q in Quality],
    "flag_meanings": " ".join(q.name.lower() for q in Quality),
}

SCL: dict[int, Quality] = {
    0: Quality.NODATA, 1: Quality.SATURATED, 2: Quality.SHADOW, 3: Quality.SHADOW, 4: Quality.CLEAR, 5: Quality.CLEAR,
    6: Quality.WATER, 7: Quality.CLEAR, 8: Quality.CLOUD, 9: Quality.CLOUD, 10: Quality.CLOUD, 11: Quality.SNOW,
}  # fmt: skip
"""Sentinel-2 Level-2A scene classification (Sen2Cor): 2 topographic shadow, 7 unclassified, 10 thin cirrus."""


def from_scl(scl: Array) -> Array:
    """Sentinel-2 SCL (any shape, integer) -> Quality, uint8. Values that SCL does not have become NODATA."""
    table = np.full(256, int(Quality.NODATA), np.uint8)
    for value, quality in SCL.items():
        table[value] = int(quality)
    return table[scl.astype(np.uint8)]


def from_qa_pixel(qa: Array) -> Array:
    """Landsat Collection 2 QA_PIXEL (any shape, uint16 bits) -> Quality, uint8.

    Bits: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow, 5 snow, 7 water (USGS LSDS-1619).
    """
    qa = qa.astype(np.uint16)

    def bit(n: int) -> Array:
        return (qa >> n) & 1 == 1

    out = np.full(qa.shape, int(Quality.CLEAR), np.uint8)
    out[bit(7)] = int(Quality.WATER)
    out[bit(5)] = int(Quality.SNOW)
    out[bit(4)] = int(Quality.SHADOW)
    out[bit(1) | bit(2) | bit(3)] = int(Quality.CLOUD)
    out[bit(0)] = int(Quality.NODATA)
    return out


def saturated(quality: Array, where: Array) -> Array:
    """The quality with SATURATED where the surface was seen, and a band of it was more than the sensor can measure."""
    return np.where(where & usable(quality), np.uint8(Quality.SATURATED), quality)


def from_qa_radsat(radsat: Array, bands: tuple[int, ...]) -> Array:
    """Landsat Collection 2 QA_RADSAT (any shape, integer): bool, where one of these bands (numbers) is saturated.

    Bit n - 1 is band n, 1 to 7 and 9 (USGS LSDS-1619, LSDS-1618).
    """
    return (radsat.astype(np.uint16) & sum(1 << (n - 1) for n in bands)) != 0


def from_cloud_mask(mask: Array, nodata: float | None = None) -> Array:
    """A mask of 0 clear, anything else cloud (any shape) -> Quality, uint8; NaN and `nodata` become NODATA."""
    out = np.where(mask == 0, int(Quality.CLEAR), int(Quality.CLOUD)).astype(np.uint8)
    return _void(out, mask, nodata)


def from_cloud_probability(probability: Array, threshold: float, nodata: float | None = None) -> Array:
    """Cloud probability (CLP, CLDPRB; same scale as `threshold`) -> Quality, uint8."""
    out = np.where(probability >= threshold, int(Quality.CLOUD), int(Quality.CLEAR)).astype(np.uint8)
    return _void(out, probability, nodata)


def _void(out: Array, values: Array, nodata: float | None) -> Array:
    if values.dtype.kind == "f":
        out[np.isnan(values)] = int(Quality.NODATA)
    if nodata is not None:
        out[values == nodata] = int(Quality.NODATA)
    return out


def usable(quality: Array, classes: tuple[Quality, ...] = USABLE) -> Array:
    """Where the surface was seen: bool, same shape."""
    return np.isin(quality, [int(c) for c in classes])
