"""Is speckle gone, and only speckle: equivalent looks, ratio images, and simulated speckle with known truth.

Fully developed speckle multiplies the reflectivity by a gamma variable of mean 1 and variance 1 / L. Hence a
flat area has mean^2 / variance = L (the equivalent number of looks), and the ratio of the noisy image to a
perfect estimate has mean 1, variance 1 / L, and no structure left in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eoflow.models.looks import F64, values_of


@dataclass(frozen=True)
class RatioStatistics:
    """Of the ratio noisy / estimate.

    mean: 1 if brightness is kept. variance: 1 / looks if just the speckle was taken; less: too little or
    speckle copied,
    more: structure was taken as well. looks: of the noisy image, as given. structure: correlation of the
    ratio with the log estimate, 0 if nothing of the scene is left in the ratio. n: pixels.
    """

    mean: float
    variance: float
    looks: float
    structure: float
    n: int

    @property
    def bias(self) -> float:
        """mean - 1: the relative error of brightness."""
        return self.mean - 1

    @property
    def excess(self) -> float:
        """variance x looks: 1 for pure speckle."""
        return self.variance * self.looks


def ratio_image(noisy: ArrayLike, estimate: ArrayLike) -> F64:
    """noisy / estimate (equal shapes, linear intensities); NaN where either is not finite or the estimate not
    positive.
    """
    a, b = np.asarray(noisy, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a noisy image {a.shape} and its estimate {b.shape} have one shape")
    good = np.isfinite(a) & np.isfinite(b) & (b > 0)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=good)


def ratio_statistics(
    noisy: ArrayLike, estimate: ArrayLike, looks: float = 1.0, where: ArrayLike | None = None
) -> RatioStatistics:
    """Statistics of the ratio image; `where` marks the pixels that count. NaN if there are fewer than two.

    `structure` is Pearson's correlation of the ratio with the logarithm of the estimate: a ratio that is
    brighter where the scene is brighter (a smoothed edge or point) has some of the scene in it.
    """
    ratio = ratio_image(noisy, estimate)
    if where is not None:
        ratio = np.where(np.asarray(where, dtype=bool), ratio, np.nan)
    good = np.isfinite(ratio)
    values = ratio[good]
    if values.size < 2:
        return RatioStatistics(float("nan"), float("nan"), looks, float("nan"), int(values.size))
    scene = np.log(np.asarray(estimate, dtype=np.float64)[good])
    spread = float(values.std() * scene.std())
    together = float(((values - values.mean()) * (scene - scene.mean())).mean())
    structure = together / spread if spread > 0 else 0.0
    return RatioStatistics(
        float(values.mean()), float(values.var(ddof=1)), looks, structure, int(values.size)
    )


def speckled(reflectivity: ArrayLike, looks: float, rng: np.random.Generator) -> F64:
    """Intensity with uncorrelated gamma speckle of so many looks, of the reflectivity's shape (values >=
    0).
    """
    truth = np.asarray(reflectivity, dtype=np.float64)
    return truth * rng.gamma(looks, 1 / looks, truth.shape)


def speckled_complex(reflectivity: ArrayLike, rng: np.random.Generator) -> F64:
    """Single-look complex image (2, H, W), real and imaginary part: each normal of variance reflectivity /
    2.
    """
    truth = np.asarray(reflectivity, dtype=np.float64)
    return rng.normal(size=(2, *truth.shape)) * np.sqrt(truth / 2)


def log_rmse(estimate: ArrayLike, truth: ArrayLike, where: ArrayLike | None = None) -> float:
    """Root mean squared error in decibels of an estimated reflectivity against the true one (both
    positive).
    """
    a, b = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    positive = (a > 0) & (b > 0)
    ratio = np.divide(a, b, out=np.ones(np.broadcast(a, b).shape), where=positive)
    error = np.where(positive, 10 * np.log10(ratio), np.nan)
    values = values_of(error, where)
    return float(np.sqrt((values**2).mean())) if values.size else float("nan")
