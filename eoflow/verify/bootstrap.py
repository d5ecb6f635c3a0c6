"""Confidence intervals for scores of forecasts that are not independent: the moving-block bootstrap.

Neighbouring initial times share weather, so blocks of consecutive cases are drawn instead of single ones. The block
length follows Wilks (1997, J. Climate 10, 65-82) from the lag-one autocorrelation of the cases' errors; the blocks
are circular (Politis and Romano 1992), so that every case is drawn equally often. Few blocks give too narrow
percentile intervals: they are widened by n / (n - length) and by Student's t of the number of blocks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
RESAMPLES = 1000
LEVEL = 0.95


def block_length(series: F64) -> int:
    """Cases in a block for `series` (n, S): the implicit formula of Wilks (1997) for its most persistent column.

    1 for independent cases, at most n / 3.
    """
    n = len(series)
    if n < 4:
        return 1
    x = series - np.nanmean(series, axis=0)
    x = np.where(np.isfinite(x), x, 0.0)
    variance = (x * x).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.nan_to_num((x[1:] * x[:-1]).sum(axis=0) / variance)
    # The sample value is biased low by about (1 + 4 rho) / n (Kendall 1954); below the noise level it counts as none.
    r = float(np.max(rho, initial=0.0))
    r = min(0.98, r + (1 + 4 * r) / n)
    if r <= 2 / np.sqrt(n):
        return 1
    effective = n * (1 - r) / (1 + r)
    length = 1.0
    for _ in range(100):
        length = (n - length + 1) ** (2 / 3 * (1 - effective / n))
    return int(np.clip(round(length), 1, max(1, n // 3)))


@lru_cache(maxsize=32)
def resample_weights(n: int, length: int, seed: int, resamples: int = RESAMPLES) -> F64:
    """(resamples, n): how often each case is drawn, over n. Row sums are 1. Deterministic."""
    rng = np.random.default_rng([seed, n, length])
    blocks = -(-n // length)
    starts = rng.integers(0, n, size=(resamples, blocks))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :n] % n
    flat = (np.arange(resamples)[:, None] * n + drawn).ravel()
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n) / n


def resampled_means(stats: F64, weights: F64) -> F64:
    """(n, ...) statistics, (B, n) weights -> (B, ...) means, cases that are NaN left out column by column."""
    flat = stats.reshape(len(stats), -1)
    valid = np.isfinite(flat)
    if valid.all():
        means = weights @ flat
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ np.where(valid, flat, 0.0)) / (weights @ valid)
    return means.reshape(len(weights), *stats.shape[1:])


def interval(
    samples: F64, value: F64, n: int, length: int, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[F64, F64]:
    """(B, ...) resampled scores and the score itself (...) -> 95 % limits (...); NaN below two blocks of cases."""
    blocks = n // length
    if n < 2 or blocks < 2:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    from scipy.special import ndtri, stdtrit  # scipy.stats has the same and takes half a second to import

    tail = (1 - LEVEL) / 2
    widen = float(stdtrit(blocks - 1, 1 - tail) / ndtri(1 - tail)) * np.sqrt(n / max(n - length, 1))
    quantile = np.quantile if np.isfinite(samples).all() else np.nanquantile
    with warnings.catch_warnings():  # a score that is undefined in every resample: its limits are NaN as well
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = quantile(samples, [tail, 1 - tail], axis=0)
    low, high = np.minimum(low, value), np.maximum(high, value)
    return np.clip(value + (low - value) * widen, *bounds), np.clip(value + (high - value) * widen, *bounds)


def score_with_interval(
    stats: F64, reduce: Callable[[F64], F64], weights: F64, length: int, bounds: tuple[float, float]
) -> tuple[F64, F64, F64, F64]:
    """Statistics (n, ..., K) -> value, low, high (...) and the resampled scores (B, ...)."""
    n = len(stats)
    value = reduce(resampled_means(stats, np.full((1, n), 1 / n))[0])
    samples = reduce(resampled_means(stats, weights))
    low, high = interval(samples, value, n, length, bounds)
    return value, low, high, samples
