"""Mergeable statistics: count, mean, sum of squared deviations, minimum and maximum, in float64.

Merging and its inverse are the pairwise formulas of Chan, Golub and LeVeque (1983), "Algorithms for computing
the sample variance": no sum of squares is ever formed, so nothing cancels for a field like geopotential whose
mean is large against its spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
PARTS = ("count", "mean", "m2", "min", "max")


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of many values; every field is a float64 array of one shape, usually (channel,).

    count: number of values, or the sum of their weights. mean, min, max: units of the data. m2: units squared.
    An empty one has count 0, mean 0, m2 0, min +inf, max -inf.
    """

    count: Array
    mean: Array
    m2: Array
    min: Array
    max: Array

    @classmethod
    def empty(cls, shape: int | tuple[int, ...]) -> Moments:
        """The neutral element of `merge`."""
        zero = np.zeros(shape)
        return cls(zero, zero.copy(), zero.copy(), np.full(shape, np.inf), np.full(shape, -np.inf))

    @classmethod
    def of(cls, values: Array, axis: int | tuple[int, ...], weights: Array | None = None) -> Moments:
        """Of an array over `axis`; NaN is left out. `weights` (>= 0) broadcast against the values."""
        x = np.asarray(values, dtype=np.float64)
        ok = np.isfinite(x)
        every = bool(ok.all())
        w: Array = np.ones((1,) * x.ndim) if weights is None else np.asarray(weights, dtype=np.float64)
        if every:
            filled = x
            wx = np.broadcast_to(w, x.shape)
        else:
            filled = np.where(ok, x, 0.0)
            wx = np.where(ok, w, 0.0)
        count = wx.sum(axis=axis, keepdims=True)
        safe = np.where(count > 0, count, 1.0)
        mean = (filled * wx).sum(axis=axis, keepdims=True) / safe
        deviation = filled - mean
        # The second term takes out what rounding left in the mean (the corrected two-pass algorithm).
        m2 = (wx * deviation**2).sum(axis=axis, keepdims=True) - (wx * deviation).sum(
            axis=axis, keepdims=True
        ) ** 2 / safe
        lowest = (filled if every else np.where(ok, x, np.inf)).min(axis=axis)
        highest = (filled if every else np.where(ok, x, -np.inf)).max(axis=axis)
        squeeze = [np.squeeze(a, axis=axis) for a in (count, mean, np.maximum(m2, 0.0))]
        return cls(squeeze[0], squeeze[1], squeeze[2], lowest, highest)

    @property
    def std(self) -> Array:
        """Standard deviation over the population (divided by count), NaN where empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.m2 / np.where(self.count > 0, self.count, np.nan))

    def merge(self, other: Moments) -> Moments:
        """Of both sets of values together."""
        n = self.count + other.count
        safe = np.where(n > 0, n, 1.0)
        delta = other.mean - self.mean
        return Moments(
            n,
            np.where(n > 0, self.mean + delta * other.count / safe, 0.0),
            self.m2 + other.m2 + delta**2 * self.count * other.count / safe,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
        )

    def subtract(self, other: Moments) -> Moments:
        """Of what is left when `other`, a part of these values, is taken away: the inverse of `merge`.

        An extreme that the removed part shared cannot be known any more and comes back as NaN.
        Raises ValueError where more is removed than there is.
        """
        n = self.count - other.count
        if np.any(n < -1e-9 * np.maximum(self.count, 1.0)):
            raise ValueError("more values are removed than were counted")
        gone = n <= 1e-12 * np.maximum(self.count, 1.0)
        n = np.where(gone, 0.0, n)
        safe = np.where(gone, 1.0, n)
        mean = np.where(gone, 0.0, self.mean + (self.mean - other.mean) * other.count / safe)
        total = np.where(self.count > 0, self.count, 1.0)
        m2 = self.m2 - other.m2 - (other.mean - mean) ** 2 * n * other.count / total
        kept_min = np.where(other.min > self.min, self.min, np.nan)
        kept_max = np.where(other.max < self.max, self.max, np.nan)
        return Moments(
            n,
            mean,
            np.where(gone, 0.0, np.maximum(m2, 0.0)),
            np.where(gone, np.inf, kept_min),
            np.where(gone, -np.inf, kept_max),
        )

    def over(self, axis: int = 0) -> Moments:
        """Merge along an axis in one step: (time, channel) -> (channel,)."""
        count = self.count.sum(axis=axis)
        safe = np.where(count > 0, count, 1.0)
        mean = (self.count * self.mean).sum(axis=axis) / safe
        between = self.count * (self.mean - np.expand_dims(mean, axis)) ** 2
        return Moments(
            count,
            mean,
            (self.m2 + between).sum(axis=axis),
            self.min.min(axis=axis, initial=np.inf),
            self.max.max(axis=axis, initial=-np.inf),
        )

    def __getitem__(self, index: Any) -> Moments:
        return Moments(*(getattr(self, p)[index] for p in PARTS))

    def to_array(self) -> Array:
        """(5, ...) float64 in the order count, mean, m2, min, max."""
        return np.stack([getattr(self, p) for p in PARTS])

    @classmethod
    def from_array(cls, a: Array) -> Moments:
        """Inverse of to_array."""
        return cls(*np.asarray(a, dtype=np.float64))
