"""Metrics as plug-ins: a few numbers for each case, and how their mean over the cases becomes the score.

Because a metric only keeps K numbers a case, resampling the cases (for confidence intervals) costs nothing and no
field is read twice. An outside package subclasses `Metric` and registers it under the entry point `eoflow.metrics`.

Area weights are the exact cell areas (`LatLonGrid.area_weights`), mean 1. Cells where truth is NaN take no weight.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eoflow.verify.moments import Moments, field_moments

F64 = NDArray[np.float64]
QUIET = 1e-3
"""A forecast whose anomaly has less than this fraction of the truth's activity has no pattern: its ACC is undefined."""


def area_mean(field: Any, weights: Any) -> F64:
    """Weighted mean over the last two axes of (..., H, W), cells that are NaN left out; NaN if none is left."""
    x, w = np.asarray(field, np.float64), np.asarray(weights, np.float64)
    valid = np.isfinite(x)
    total = np.where(valid, w, 0.0).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(valid, x * w, 0.0).sum(axis=(-2, -1)) / total)


class Metric:
    """Base class of every metric. Class attributes say what it is:

    name        as in the score rows
    better      `lower`, `higher` (comparisons are made) or `none`
    climatology needs one (skipped, and said so, without)
    ensemble    sees the members; the others see the ensemble mean
    bounds      limits that no interval may cross
    unitless    the score does not carry the variable's units
    """

    name: ClassVar[str]
    better: ClassVar[Literal["lower", "higher", "none"]] = "none"
    climatology: ClassVar[bool] = False
    ensemble: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    unitless: ClassVar[bool] = False

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> F64:
        """(N, K) float64 statistics of N cases, each independent of the others; NaN for an undefined case.

        forecast (N, H, W), for an ensemble metric (N, M, H, W); truth and climatology (N, H, W); float32, in the
        variable's units, NaN where masked; weights (H, W) float64, mean 1.
        """
        raise NotImplementedError

    def reduce(self, mean: F64) -> F64:
        """(..., K) means over the cases -> (...) scores. Must work on any leading shape."""
        return np.asarray(mean[..., 0])


class MomentMetric(Metric):
    """A metric that follows from the moments of moments.py, which are computed once for all of them."""

    def of(self, m: Moments) -> F64:
        """Moments of any shape (...) -> (..., K) statistics."""
        raise NotImplementedError

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> F64:
        """As Metric.cases."""
        return self.of(field_moments(forecast, truth, climatology, weights))


class Rmse(MomentMetric):
    """Root of the mean over cases of the area-weighted squared error.

    As WeatherBench and WeatherBench2 recommend; the mean over cases of each case's own root (WeatherBench2's
    `RMSESqrtBeforeTimeAvg`, some papers) is lower and not comparable.
    """

    name = "rmse"
    better = "lower"
    bounds = (0.0, np.inf)

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        return m.ee[..., None]

    def reduce(self, mean: F64) -> F64:
        """As Metric.reduce."""
        return np.asarray(np.sqrt(mean[..., 0]))


class Bias(MomentMetric):
    """Mean over cases of the area-weighted error, forecast minus truth."""

    name = "bias"

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        return m.e[..., None]


class Mae(MomentMetric):
    """Mean over cases of the area-weighted absolute error."""

    name = "mae"
    better = "lower"
    bounds = (0.0, np.inf)

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        # The kernel works on fields times the root of the weight: |e| root(w) * root(w) = w |e|.
        return m.abs_e[..., None]


class Acc(MomentMetric):
    """Anomaly correlation: per case, over the area, of anomalies less their own area mean; averaged over cases.

    ACC = mean_w(a' b') / sqrt(mean_w(a'^2) mean_w(b'^2)). Only comparable for one climatology: the scorecard names
    it. Undefined (NaN, left out of the mean) for a forecast without anomaly, such as the climatology itself.
    """

    name = "acc"
    better = "higher"
    climatology = True
    bounds = (-1.0, 1.0)
    unitless = True

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        f, t = m.forecast_variance, m.truth_variance
        with np.errstate(invalid="ignore", divide="ignore"):
            acc = m.covariance / np.sqrt(f * t)
        return np.where((t > 0) & (f > QUIET**2 * t), np.clip(acc, -1, 1), np.nan)[..., None]


class Activity(MomentMetric):
    """Mean over cases of the standard deviation over the area of the forecast anomaly (SDAF), in field units."""

    name = "activity"
    climatology = True
    bounds = (0.0, np.inf)

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        return np.sqrt(m.forecast_variance)[..., None]


class ActivityRatio(MomentMetric):
    """Activity of the forecasts over that of the truth (SDAF / SDAV): 1 is as lively as the truth, less is blurred."""

    name = "activity_ratio"
    climatology = True
    bounds = (0.0, np.inf)
    unitless = True

    def of(self, m: Moments) -> F64:
        """As MomentMetric.of."""
        return np.sqrt(np.stack([m.forecast_variance, m.truth_variance], axis=-1))

    def reduce(self, mean: F64) -> F64:
        """As Metric.reduce."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(mean[..., 0] / mean[..., 1])


class CrpsFair(Metric):
    """Continuous ranked probability score, fair (unbiased in the ensemble size), area mean, averaged over cases.

    mean |x_i - y| - 1 / (2 M (M - 1)) sum_ij |x_i - x_j| (Ferro 2014); for a single forecast the absolute error, so
    that deterministic baselines stand in the same column.
    """

    name = "crps"
    better = "lower"
    ensemble = True

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> F64:
        """As Metric.cases."""
        x = np.sort(np.asarray(forecast, np.float64), axis=1)
        m = x.shape[1]
        score = np.abs(x - np.asarray(truth, np.float64)[:, None]).mean(axis=1)
        if m > 1:
            # sum_ij |x_i - x_j| = 2 sum_k (2k - M - 1) x_(k) over the sorted members: O(M log M), not O(M^2)
            rank = 2.0 * np.arange(1, m + 1) - m - 1
            score -= np.einsum("nmhw,m->nhw", x, rank) / (m * (m - 1))
        return _where_truth(score, truth, weights)


class Spread(Metric):
    """Ensemble spread: root of the mean over cases of the area-weighted ensemble variance (unbiased)."""

    name = "spread"
    ensemble = True
    bounds = (0.0, np.inf)

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> F64:
        """As Metric.cases."""
        x = np.asarray(forecast, np.float64)
        variance = x.var(axis=1, ddof=1) if x.shape[1] > 1 else np.full(x[:, 0].shape, np.nan)
        return _where_truth(variance, truth, weights)

    def reduce(self, mean: F64) -> F64:
        """As Metric.reduce."""
        return np.asarray(np.sqrt(mean[..., 0]))


class SpreadSkill(Metric):
    """Spread over the RMSE of the ensemble mean, times sqrt((M + 1) / M): 1 for a reliable ensemble."""

    name = "ssr"
    ensemble = True
    bounds = (0.0, np.inf)
    unitless = True

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> F64:
        """As Metric.cases."""
        x, m = np.asarray(forecast, np.float64), np.shape(forecast)[1]
        error = _where_truth((x.mean(axis=1) - np.asarray(truth, np.float64)) ** 2, truth, weights)
        return np.concatenate([Spread().cases(x, truth, None, weights) * (m + 1) / m, error], axis=-1)

    def reduce(self, mean: F64) -> F64:
        """As Metric.reduce."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(mean[..., 0] / mean[..., 1]))


def _where_truth(field: F64, truth: Any, weights: Any) -> F64:
    """Area mean over the cells where truth is valid, (N, 1); NaN if `field` is not finite at one of them."""
    valid = np.isfinite(truth)
    broken = (valid & ~np.isfinite(field)).any(axis=(-2, -1))
    return np.where(broken, np.nan, area_mean(np.where(valid, field, np.nan), weights))[:, None]


BUILTIN: tuple[type[Metric], ...] = (Rmse, Bias, Mae, Acc, Activity, ActivityRatio, CrpsFair, Spread, SpreadSkill)


def defaults(ensemble: bool) -> list[Metric]:
    """The built-in metrics and every registered one; those that need members only where there are some."""
    from eoflow import registry

    table = {cls.name: cls() for cls in BUILTIN}
    for name in registry.names("metrics"):
        kind = registry.load("metrics", name)
        if not issubclass(kind, Metric):  # of images, see image_counts
            continue
        metric = kind()
        table.setdefault(metric.name, metric)
    return [m for m in table.values() if ensemble or not m.ensemble]
