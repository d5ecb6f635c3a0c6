"""Histograms of 65,536 bins: exact for integers of 8 and 16 bits, to half a percent for everything else.

They add and subtract without loss, so that statistics can be merged and a scene taken out again. A bin of a float is
the upper half of its bits in an order that follows the values: 8 bits of exponent and 7 of mantissa.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.prepare.moments import Moments
from eoflow.prepare.normalize import transform

Array = np.ndarray[Any, np.dtype[Any]]
BINS = 65536


def is_exact(dtype: str) -> bool:
    """Whether every value has a bin of its own."""
    d = np.dtype(dtype)
    return d.kind in "iu" and d.itemsize <= 2


def codes(values: Array) -> Array:
    """Stored values -> uint16 bins, increasing with the value."""
    if is_exact(values.dtype.str):
        if values.dtype.kind == "u":
            return values.astype(np.uint16)
        return (values.astype(np.int32) + 32768).astype(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return (ordered >> 16).astype(np.uint16)


def values(dtype: str) -> Array:
    """(65536,) float64: the stored value of each bin, or the middle of those that fall into it."""
    bins = np.arange(BINS, dtype=np.int64)
    if is_exact(dtype):
        return (bins if np.dtype(dtype).kind == "u" else bins - 32768).astype(np.float64)
    ordered = ((bins << 16) | 0x8000).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32(0x7FFFFFFF), ~ordered)
    with np.errstate(invalid="ignore"):
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def physical(band: BandSpec, name: str | None) -> Array:
    """(65536,) float64: the (transformed) physical value of each bin; NaN where there is none."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(transform(values(band.dtype) * band.scale + band.offset, name))


def histogram(stored: Array) -> Array:
    """(65536,) int64 of stored values."""
    return np.bincount(codes(stored).ravel(), minlength=BINS)


def moments(counts: Array, table: Array) -> Moments:
    """Of a histogram whose bins have the values of `table`; scalars. NaN bins are left out."""
    ok = (counts > 0) & np.isfinite(table)
    n, v = counts[ok].astype(np.float64), table[ok]
    if not n.size:
        return Moments.empty(())
    middle = v[n.argmax()]  # near the mean, so that nothing cancels
    mean = middle + (n * (v - middle)).sum() / n.sum()
    return Moments(*(np.asarray(x, float) for x in (n.sum(), mean, (n * (v - mean) ** 2).sum(), v.min(), v.max())))


def percentile(counts: Array, table: Array, q: float) -> float:
    """The q-th percentile (0 to 100), as numpy interpolates it; NaN where nothing was counted."""
    ok = (counts > 0) & np.isfinite(table)
    n, v = counts[ok], table[ok]
    if not n.size:
        return float("nan")
    order = np.argsort(v, kind="stable")
    ends, v = np.cumsum(n[order]), v[order]
    rank = (int(ends[-1]) - 1) * q / 100
    low, high = (v[np.searchsorted(ends, k, side="right")] for k in (int(np.floor(rank)), int(np.ceil(rank))))
    return float(low + (high - low) * (rank - np.floor(rank)))
