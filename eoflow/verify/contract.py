"""The contract of a metric as a check: for the tests of this package and of outside ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from eoflow.verify.image_contract import problems as image_problems
from eoflow.verify.image_counts import ImageMetric
from eoflow.verify.metrics import Metric

_SHAPE = (4, 6)  # rows, columns of the test grid


def _world(metric: Metric) -> tuple[Any, ...]:
    rng = np.random.default_rng(7)
    cases, members = 5, 3
    truth = rng.normal(280, 5, (cases, *_SHAPE)).astype(np.float32)
    truth[:, 1, 2] = np.nan  # land in a sea field
    climatology = rng.normal(280, 2, (cases, *_SHAPE)).astype(np.float32)
    size = (cases, members, *_SHAPE) if metric.ensemble else truth.shape
    base = np.nan_to_num(truth, nan=280.0)
    forecast = ((base[:, None] if metric.ensemble else base) + rng.normal(0.5, 2, size)).astype(np.float32)
    weights = np.repeat(np.array([0.5, 1.5, 1.5, 0.5])[:, None], _SHAPE[1], axis=1)
    return forecast, truth, climatology, weights


def problems(metric: Metric | ImageMetric) -> list[str]:
    """What is wrong with a metric, as sentences; empty for one that may be registered."""
    if isinstance(metric, ImageMetric):
        return image_problems(metric)
    out = []
    if not getattr(metric, "name", ""):
        out.append("it has no name")
    if metric.better not in ("lower", "higher", "none"):
        out.append(f"better is {metric.better!r}, not lower, higher or none")
    forecast, truth, climatology, weights = world = _world(metric)
    before = [x.copy() for x in world]
    try:
        stats = np.asarray(metric.cases(*world))
    except Exception as e:  # whatever an outside class raises is its fault to report, not ours to crash on
        return [*out, f"cases raised {type(e).__name__}: {e}"]
    if stats.ndim != 2 or len(stats) != len(truth) or stats.dtype.kind != "f":
        return [*out, f"cases must return (N, K) floats, got {stats.dtype} {stats.shape} for N = {len(truth)}"]
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, world)):
        out.append("cases changes its input")
    if not np.isfinite(stats).all():
        out.append("cases is not finite although only masked cells are NaN: leave NaN cells of the truth out")
    if not np.array_equal(stats, np.asarray(metric.cases(*world)), equal_nan=True):
        out.append("cases called twice gives two results")
    one = np.asarray(metric.cases(forecast[:1], truth[:1], climatology[:1], weights))
    if not np.allclose(one, stats[:1], rtol=1e-5, equal_nan=True):
        out.append("the statistics of a case depend on other cases")
    return out + _reduce_problems(metric, stats)


def _reduce_problems(metric: Metric, stats: Any) -> list[str]:
    mean = stats.mean(axis=0)
    try:
        single = np.asarray(metric.reduce(mean))
        many = np.asarray(metric.reduce(np.broadcast_to(mean, (2, 3, mean.size))))
    except Exception as e:
        return [f"reduce must work on any leading shape (..., K), it raised {type(e).__name__}: {e}"]
    if single.shape != () or many.shape != (2, 3) or not np.allclose(many, single, equal_nan=True):
        return [f"reduce must map (..., K) to (...), got {many.shape} for (2, 3, {mean.size})"]
    low, high = metric.bounds
    if not low <= float(single) <= high:
        return [f"the score {float(single):g} lies outside its bounds {metric.bounds}"]
    return []
