"""The contract of a metric of image models as a check: for the tests of this package and of outside ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from eoflow.verify.image_counts import ImageMetric, Scene, Truth

TASKS = ("segmentation", "change-detection", "cloud-removal")
_SHAPE = (16, 20)
_BANDS = ("blue", "green", "red", "nir")


def world(seed: int, classes: int = 2) -> tuple[Truth, dict[str, Any]]:
    """A made-up sample: labels with gaps, a target with gaps and clouds, and what a fair model says of both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, classes, _SHAPE)
    target = rng.uniform(0.02, 0.5, (len(_BANDS), *_SHAPE))
    target[:, 3:6, 2:9] = np.nan
    cloudy = rng.random(_SHAPE) < 0.5
    truth = Truth(labels, target, cloudy, cloudy & (rng.random(_SHAPE) < 0.5), tuple("abcdef"[:classes]), _BANDS)
    given = np.where(rng.random(_SHAPE) < 0.8, np.maximum(labels, 0), rng.integers(0, classes, _SHAPE)).astype(np.uint8)
    given[0, :3] = 255
    outputs = {
        "class": given, "probability": rng.random(_SHAPE).astype(np.float32),
        "image": np.nan_to_num(target, nan=0.1) + rng.normal(0, 0.02, target.shape),
        "std": np.full(target.shape, 0.02), "said": np.ones(_SHAPE, bool),
    }  # fmt: skip
    return truth, outputs


def problems(metric: ImageMetric) -> list[str]:
    """What is wrong with a metric, as sentences; empty for one that may be registered."""
    out = []
    if not getattr(metric, "name", ""):
        out.append("it has no name")
    if metric.better not in ("lower", "higher", "none"):
        out.append(f"better is {metric.better!r}, not lower, higher or none")
    tasks = (metric.task,) if isinstance(metric.task, str) else tuple(metric.task)
    if not tasks or not set(tasks) <= set(TASKS):
        out.append(f"task is {metric.task!r}; name one or some of {', '.join(TASKS)}")
    scene = Scene(("a", "b"), _BANDS, {b: i for i, b in enumerate(_BANDS)})
    try:
        made = list(type(metric).of(scene))
    except Exception as e:  # whatever an outside class raises is its fault to report, not ours to crash on
        return [*out, f"of raised {type(e).__name__}: {e}"]
    for one in made or [metric]:
        out += _counting(one)
    return out


def _counting(metric: ImageMetric) -> list[str]:
    first, second = world(1), world(2)
    before = [np.array(x) for x in (first[0].labels, first[0].target, *first[1].values())]
    try:
        found = [metric.counts(*w) for w in (first, second, first)]
    except Exception as e:
        return [f"counts raised {type(e).__name__}: {e}"]
    if found[0] is None:
        return ["counts is None although every output is there"]
    a, b, again = (np.asarray(f) for f in found)
    if a.ndim != 1 or a.shape != b.shape or a.dtype.kind != "f":
        return [f"counts must return (K,) floats, K the same for every sample, got {a.dtype} {a.shape} and {b.shape}"]
    out = []
    after = [np.array(x) for x in (first[0].labels, first[0].target, *first[1].values())]
    if any(not np.array_equal(x, y, equal_nan=True) for x, y in zip(before, after, strict=True)):
        out.append("counts changes its input")
    if not np.isfinite(a).all():
        out.append("counts is not finite: leave out what is not known (labels -1, a target of NaN)")
    if not np.array_equal(a, again, equal_nan=True):
        out.append("counts called twice gives two results")
    return out + _nothing(metric) + _valuing(metric, a, b)


def _nothing(metric: ImageMetric) -> list[str]:
    """A sample of which nothing is known."""
    truth, outputs = world(3)
    empty = Truth(np.full_like(truth.labels, -1), np.full_like(truth.target, np.nan), truth.cloudy, truth.hidden,
                  truth.classes, truth.bands)  # fmt: skip
    try:
        found = metric.counts(empty, outputs)
        value = np.asarray(metric.value(np.asarray(found, np.float64)))
    except Exception as e:
        return [f"it raised {type(e).__name__} for a sample without any known pixel: {e}"]
    if found is None or not np.isfinite(found).all() or np.any(np.asarray(found) != 0):
        return ["the sums of a sample without any known pixel must be zeros"]
    return [] if value.shape == () else ["value of one sample's sums must be one number"]


def _valuing(metric: ImageMetric, a: Any, b: Any) -> list[str]:
    try:
        single = np.asarray(metric.value(a + b))
        many = np.asarray(metric.value(np.broadcast_to(a + b, (2, 3, a.size))))
        double = np.asarray(metric.value(2 * (a + b)))
    except Exception as e:
        return [f"value must work on any leading shape (..., K), it raised {type(e).__name__}: {e}"]
    if single.shape != () or many.shape != (2, 3) or not np.allclose(many, single, equal_nan=True):
        return [f"value must map (..., K) to (...), got {many.shape} for (2, 3, {a.size})"]
    if not np.allclose(single, double, equal_nan=True):
        return ["the same samples twice have another value: sums of pixels, and a ratio of them, are what is pooled"]
    low, high = metric.bounds
    if not low <= float(single) <= high:
        return [f"the score {float(single):g} lies outside its bounds {metric.bounds}"]
    return []
