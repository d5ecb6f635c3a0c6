"""Coarser copies of an image: means of bands without their nodata, and the most frequent classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def block_sum(values: Array, factor: int, dtype: Any) -> Array:
    """(y, x) -> (ceil(y/factor), ceil(x/factor)): sums over squares of pixels; what lies beyond the edge counts 0."""
    rows = values[0::factor].astype(dtype)
    for i in range(1, factor):
        more = values[i::factor]
        rows[: more.shape[0]] += more
    out = rows[:, 0::factor].copy()
    for i in range(1, factor):
        more = rows[:, i::factor]
        out[:, : more.shape[1]] += more
    return out


def complete(values: Array, nodata: float | None) -> bool:
    """Whether all of some integers are certain to hold a value, by their least or greatest: a tenth of the work of
    looking at each."""
    if nodata is None or values.size == 0:
        return True
    return bool(values.min() > nodata) or bool(values.max() < nodata)


def coarse_means(values: Array, nodata: float | None, factors: Sequence[int]) -> dict[int, Array]:
    """The mean over the pixels that hold a value, for each factor; dtype of `values`, nodata where none does.

    values (y, x). NaN is nodata in floats. Without nodata every pixel counts. Integers are rounded half to even.
    """
    kind = values.dtype.kind
    wide = np.float64 if kind == "f" else np.int64 if values.dtype.itemsize > 2 else np.int32
    valid: Array | None = None
    if kind == "f":
        valid = ~np.isnan(values) if nodata is None or np.isnan(nodata) else (values != nodata) & ~np.isnan(values)
    elif not complete(values, nodata):
        valid = values != values.dtype.type(nodata)  # compared as a float it would make floats of all values
    if valid is not None and valid.all():
        valid = None
    if valid is not None and not (kind != "f" and nodata == 0):
        values = np.where(valid, values, values.dtype.type(0))
    void = values.dtype.type(0 if nodata is None else nodata) if kind != "f" or nodata is not None else np.nan
    out: dict[int, Array] = {}
    total, count, reached = values, valid, 1
    for f in sorted(factors):
        if f % reached:
            total, count, reached = values, valid, 1
        total = block_sum(total, f // reached, wide)
        if count is None:
            mean = total / _inside(values.shape, f)
        else:
            count = block_sum(count, f // reached, np.int32)
            mean = total / np.maximum(count, 1)
        reached = f
        coarse = (mean if kind == "f" else np.rint(mean, out=mean)).astype(values.dtype)
        if count is not None:
            coarse[count == 0] = void
        out[f] = coarse
    return out


def _inside(shape: tuple[int, ...], factor: int) -> Array:
    """How many pixels of the image each square of `factor` x `factor` holds: fewer along the edges."""
    y, x = (np.minimum(factor, n - np.arange(0, n, factor)) for n in shape)
    return y[:, None] * x[None, :]


def coarse_classes(values: Array, factors: Sequence[int]) -> dict[int, Array]:
    """The most frequent class of each square of pixels, for each factor; of equals the lowest. uint8 (y, x)."""
    low = int(values.min()) if values.size else 0
    if values.size == 0 or low == int(values.max()):
        return {f: np.full([math.ceil(n / f) for n in values.shape], low, values.dtype) for f in factors}
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=1))
    out: dict[int, Array] = {}
    counts, reached = {int(c): values == c for c in present}, 1
    full = counts
    for f in sorted(factors):
        if f % reached:
            counts, reached = full, 1
        counts = {c: block_sum(n, f // reached, np.int32) for c, n in counts.items()}
        reached = f
        stack = np.stack([counts[int(c)] for c in present])
        out[f] = present[stack.argmax(axis=0)].astype(values.dtype)
    return out
