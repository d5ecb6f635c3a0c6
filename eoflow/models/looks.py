"""Equivalent number of looks of a radar image: mean^2 / variance of linear intensity where the ground is flat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]


def values_of(x: ArrayLike, where: ArrayLike | None) -> F64:
    """The finite values of x, of those marked by `where`."""
    values = np.asarray(x, dtype=np.float64)
    keep = np.isfinite(values)
    if where is not None:
        keep &= np.asarray(where, dtype=bool)
    return values[keep]


def enl(intensity: ArrayLike, where: ArrayLike | None = None) -> float:
    """Equivalent number of looks, mean^2 / variance, of a flat area (any shape; linear intensity; `where`
    marks it).

    NaN for fewer than two finite pixels, infinite for a constant. Amplitudes and decibels give other numbers.
    """
    values = values_of(intensity, where)
    if values.size < 2:
        return float("nan")
    variance = float(values.var(ddof=1))
    return float("inf") if variance == 0 else float(values.mean()) ** 2 / variance


def local_enl(intensity: ArrayLike, window: int = 16) -> F64:
    """ENL of each `window` x `window` block of an image (H, W); NaN where less than half of it is finite and
    positive.

    (H // window, W // window): what does not fill a block at the lower and right edge is left out.
    """
    image = np.asarray(intensity, dtype=np.float64)
    if image.ndim != 2 or window < 2:
        raise ValueError(f"an image (H, W) and a window of 2 or more, not {image.shape} and {window}")
    rows, columns = image.shape[0] // window, image.shape[1] // window
    blocks = image[: rows * window, : columns * window].reshape(rows, window, columns, window)
    flat = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, window * window)
    out = np.full(rows * columns, np.nan)
    for i, block in enumerate(flat):
        good = block[np.isfinite(block) & (block > 0)]
        if good.size >= max(2, block.size // 2):
            out[i] = enl(good)
    return out.reshape(rows, columns)


def estimated_looks(intensity: ArrayLike, window: int = 16) -> float:
    """Looks of an image whose flat areas are unknown: the most frequent ENL of its blocks.

    The mode: median of the shortest interval that holds half of the blocks' log ENL. Right to some ten per
    cent where at least half of the blocks are flat (structure lowers a block's ENL); too low elsewhere. NaN
    if no block has one. Where a flat area is known, `enl` of it is better.
    """
    found = local_enl(intensity, window)
    logs = np.sort(np.log(found[np.isfinite(found) & (found > 0)]))
    if logs.size == 0:
        return float("nan")
    half = max(1, logs.size // 2)
    start = int((logs[half - 1 :] - logs[: logs.size - half + 1]).argmin())
    return float(np.exp(np.median(logs[start : start + half])))
