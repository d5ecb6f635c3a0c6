"""The fused kernel of verification: every area-weighted moment of a case in one pass over its field.

A case is one forecast field against the truth (and climatology) at its valid time. With error e = f - t, forecast
anomaly a = f - c and observed anomaly b = t - c, all built-in metrics follow from eight weighted means, so the
fields are read once, worked on in pieces that stay in the processor's cache (float32), and summed in float64.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NAMES = ("e", "ee", "abs_e", "a", "aa", "ab", "b", "bb")
"""Weighted means over the valid cells; those with a or b are NaN without a climatology."""
_TILE = 64 * 1024  # values of one array in a tile: five such float32 arrays stay inside the second-level cache
_COLUMNS = 8192  # a dot product of at most this length: float32 sums stay exact to 1e-6, and BLAS starts no threads


@dataclass(frozen=True)
class Moments:
    """Per-case weighted means, each float64 of the same shape (`values` has them stacked on the last axis)."""

    values: F64

    def __getattr__(self, name: str) -> F64:
        if name in NAMES:
            return np.asarray(self.values[..., NAMES.index(name)])
        raise AttributeError(name)

    @property
    def forecast_variance(self) -> F64:
        """Weighted variance over the area of the forecast anomaly."""
        return np.maximum(self.aa - self.a**2, 0.0)

    @property
    def truth_variance(self) -> F64:
        """Weighted variance over the area of the observed anomaly."""
        return np.maximum(self.bb - self.b**2, 0.0)

    @property
    def covariance(self) -> F64:
        """Weighted covariance over the area of the two anomalies."""
        return np.asarray(self.ab - self.a * self.b)


class Reference:
    """Truth (and climatology) of some valid times of one channel, prepared for many forecasts.

    truth, climatology: (T, P) float32, NaN where masked; weights: (P,) mean 1. `coverage` (T,) is the fraction of
    the weight that is valid; a fully missing time has coverage 0 and NaN moments.
    """

    def __init__(self, truth: F32, climatology: F32 | None, weights: F64) -> None:
        valid = np.isfinite(truth)
        if climatology is not None:
            valid &= np.isfinite(climatology)
        root = np.sqrt(weights).astype(np.float32)
        self.root = root
        self.complete = bool(valid.all())
        self.hidden = None if self.complete else ~valid
        self.norm = valid @ weights if self.hidden is not None else np.full(len(truth), weights.sum())
        self.coverage: F64 = self.norm / weights.sum()
        self.truth = truth if self.hidden is None else np.where(valid, truth, np.float32(0))
        self.anomaly: F32 | None = None
        self.b = self.bb = np.full(len(truth), np.nan)
        if climatology is not None:
            self.anomaly = np.subtract(truth, climatology)
            self.anomaly *= root
            if self.hidden is not None:
                self.anomaly[self.hidden] = 0
            self.b = _dot(self.anomaly, root)
            self.bb = _dot(self.anomaly, self.anomaly)

    def moments(self, forecast: F32, index: NDArray[np.intp], pool: ThreadPoolExecutor | None = None) -> Moments:
        """(I, L, P) float32 forecasts, whose truth is row `index` (I, L) of this reference -> Moments (I, L).

        A forecast that is not finite where the truth is valid gives NaN moments.
        """
        ni, nl, size = forecast.shape
        out = np.full((ni, nl, len(NAMES)), np.nan)
        tiles = list(_tiles(ni, nl, min(size, _COLUMNS)))
        run = map if pool is None else pool.map
        with np.errstate(all="ignore"):
            for _ in run(lambda t: self._tile(forecast[t], index[t], out[t]), tiles):
                pass
            norm = self.norm[index]
            if self.anomaly is not None:
                out[..., 6], out[..., 7] = self.b[index], self.bb[index]
            out = np.where(norm[..., None] > 0, out / norm[..., None], np.nan)
            out[~np.isfinite(out[..., 1])] = np.nan
        return Moments(out)

    def _tile(self, forecast: F32, index: NDArray[np.intp], out: F64) -> None:
        with np.errstate(all="ignore"):  # the error state belongs to each thread
            rows = _rows(index)
            sums = np.zeros((*index.shape, 6))
            for lo in range(0, forecast.shape[-1], _COLUMNS):
                s = slice(lo, lo + _COLUMNS)
                root = self.root[s]
                e = np.subtract(forecast[..., s], self.truth[rows, s])
                np.multiply(e, root, out=e)
                if self.hidden is not None:
                    np.copyto(e, 0, where=self.hidden[rows, s])
                sums[..., 0] += np.vecdot(e, root)
                sums[..., 1] += np.vecdot(e, e)
                if self.anomaly is None:
                    sums[..., 2] += np.vecdot(np.abs(e, out=e), root)
                    continue
                b = self.anomaly[rows, s]
                a = np.add(e, b)
                sums[..., 2] += np.vecdot(np.abs(e, out=e), root)
                sums[..., 3] += np.vecdot(a, root)
                sums[..., 4] += np.vecdot(a, a)
                sums[..., 5] += np.vecdot(a, b)
            out[..., :6] = sums
            if self.anomaly is None:
                out[..., 3:6] = np.nan


def _rows(index: NDArray[np.intp]) -> Any:
    """A slice where one initial time's valid times are neighbours (no copy), else the index itself."""
    flat = index.ravel()
    if len(index) == 1 and flat[-1] - flat[0] == flat.size - 1 and np.all(np.diff(flat) == 1):
        return slice(int(flat[0]), int(flat[-1]) + 1)
    return index


def _tiles(ni: int, nl: int, columns: int) -> list[tuple[slice, slice]]:
    """Cut (ni, nl) cases into tiles of about _TILE values."""
    cases = max(1, _TILE // columns)
    if cases >= nl:
        step = max(1, cases // nl)
        return [(slice(i, i + step), slice(0, nl)) for i in range(0, ni, step)]
    pieces = -(-nl // cases)
    cuts = np.linspace(0, nl, pieces + 1).astype(int)
    return [(slice(i, i + 1), slice(int(a), int(b))) for i in range(ni) for a, b in pairwise(cuts)]


def _dot(x: F32, y: F32) -> F64:
    """Sum over the last axis of x * y, float32 inside pieces, float64 between them."""
    total = np.zeros(x.shape[:-1])
    for lo in range(0, x.shape[-1], _COLUMNS):
        total += np.vecdot(x[..., lo : lo + _COLUMNS], y[..., lo : lo + _COLUMNS])
    return total


def field_moments(forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> Moments:
    """Moments of arrays (N, H, W) with weights (H, W): one case a row, each with its own truth."""
    n = len(forecast)
    flat: Sequence[Any] = [np.asarray(x, np.float32).reshape(n, -1) for x in (forecast, truth)]
    clim = None if climatology is None else np.asarray(climatology, np.float32).reshape(n, -1)
    reference = Reference(flat[1], clim, np.asarray(weights, np.float64).ravel())
    return Moments(reference.moments(flat[0][:, None], np.arange(n)[:, None]).values[:, 0])


def worker_pool() -> ThreadPoolExecutor:
    """Threads for the kernel: as many as this process may use, at most eight (then memory is the limit)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return ThreadPoolExecutor(max_workers=max(1, min(8, cores)), thread_name_prefix="eoflow-score")
