"""Metrics of image models as plug-ins: sums of each sample, and the score of any sums of them.

The sums of samples add up to those of their chip or tile, these to those of a data set, and the score belongs to the
sums ("pooled": every pixel counts once). Because a metric only keeps a few sums a group, drawing groups again for an
interval costs nothing. An outside package subclasses `ImageMetric` and registers it under the entry point
`eoflow.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Array = np.ndarray[Any, np.dtype[Any]]
CLASS_TASKS = ("segmentation", "change-detection")
BINS = 10
FINE = 100
"""Steps of probability among which the best threshold is sought."""



@dataclass(frozen=True)
class Truth:
    """What is known of one sample of h x w pixels. classes: names by number. bands: of the target.

    labels (h, w) int64: class numbers, -1 where nothing is known or could be seen. target (C, h, w) float64 in physical
    units, NaN where it does not count. cloudy, hidden (h, w) bool: pixels that a date, that every date, did not see.
    """

    labels: Array
    target: Array
    cloudy: Array
    hidden: Array
    classes: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """What a metric may be made for: class names and target bands of a scorecard."""

    classes: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    common: Mapping[str, int] = field(default_factory=dict)
    """Common name -> position of the target band."""


class ImageMetric:
    """Base class of every metric of image models. Class attributes say what it is:

    name      as in the score rows
    task      names of the tasks that it is for
    better    `lower`, `higher` (comparisons are made) or `none`
    bounds    limits that no interval may cross
    variable  what the score is of: a class, `reflectance`, `all`
    shared    metrics with the same text here have the same sums, which are taken once
    """

    name: ClassVar[str]
    task: ClassVar[tuple[str, ...]] = ()
    better: ClassVar[Literal["lower", "higher", "none"]] = "none"
    bounds: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    variable: str = "all"
    shared: str = ""

    @classmethod
    def of(cls, scene: Scene) -> Sequence[ImageMetric]:
        """The metrics of this kind for a scorecard: one, or one a class; none where it does not apply."""
        return (cls(),)

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(K,) sums over the pixels of one sample that count; zeros where none does, None where an output is lacking.

        outputs: layers of the task's product without the first axis: `class` (h, w) uint8 (255: nothing said),
        `probability` (h, w); or `image` (C, h, w) and, from some, `std` (C, h, w), in physical units, finite.
        """
        raise NotImplementedError

    def value(self, sums: F64) -> F64:
        """(..., K) sums of any number of samples -> (...) scores; NaN where they say nothing."""
        raise NotImplementedError


def ratio(part: Any, whole: Any) -> F64:
    """part / whole, NaN where whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole != 0, part / np.where(whole != 0, whole, 1.0), np.nan))


# -- classes -----------------------------------------------------------------------------------------------------------


class Confusion(ImageMetric):
    """Metrics of the table of true (rows) and given (columns) classes. What a model leaves open counts as class 0."""

    task = CLASS_TASKS
    better = "higher"
    bounds = (0.0, 1.0)
    shared = "confusion"

    def __init__(self, at: int = 1, classes: int = 2, variable: str = "all") -> None:
        self.at, self.classes, self.variable = at, classes, variable

    @classmethod
    def of(cls, scene: Scene) -> Sequence[ImageMetric]:
        """One for class 1 of two, one a class of more."""
        n = len(scene.classes)
        return tuple(cls(k, n, scene.classes[k]) for k in range(1 if n == 2 else 0, n))

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(K * K,) pixels."""
        known = sample.labels >= 0
        given = np.where(outputs["class"] == 255, 0, outputs["class"]).astype(np.int64)
        cells = sample.labels[known] * self.classes + np.minimum(given[known], self.classes - 1)
        return np.bincount(cells, minlength=self.classes**2).astype(np.float64)

    def parts(self, sums: F64) -> tuple[F64, F64, F64]:
        """(hits, pixels given the class, pixels of the class)."""
        table = sums.reshape(*sums.shape[:-1], self.classes, self.classes)
        return table[..., self.at, self.at], table[..., self.at].sum(-1), table[..., self.at, :].sum(-1)


class Iou(Confusion):
    """Intersection over union of a class. NaN where it neither is nor is said to be anywhere."""

    name = "iou"

    def value(self, sums: F64) -> F64:
        """hits / (given + true - hits)."""
        hit, given, true = self.parts(sums)
        return ratio(hit, given + true - hit)


class F1(Confusion):
    """Harmonic mean of precision and recall of a class (Dice coefficient)."""

    name = "f1"

    def value(self, sums: F64) -> F64:
        """2 hits / (given + true)."""
        hit, given, true = self.parts(sums)
        return ratio(2 * hit, given + true)


class Precision(Confusion):
    """Share of the pixels given the class that have it; NaN where none is given."""

    name = "precision"

    def value(self, sums: F64) -> F64:
        """Hits / given."""
        hit, given, _ = self.parts(sums)
        return ratio(hit, given)


class Recall(Confusion):
    """Share of the pixels of the class that are given it; NaN where there is none."""

    name = "recall"

    def value(self, sums: F64) -> F64:
        """Hits / true."""
        hit, _, true = self.parts(sums)
        return ratio(hit, true)


class Accuracy(Confusion):
    """Share of all labelled pixels that are given their class."""

    name = "accuracy"

    @classmethod
    def of(cls, scene: Scene) -> Sequence[ImageMetric]:
        """One."""
        return (cls(0, len(scene.classes), "all"),)

    def value(self, sums: F64) -> F64:
        """Diagonal / all."""
        table = sums.reshape(*sums.shape[:-1], self.classes, self.classes)
        return ratio(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1)))


class Probability(ImageMetric):
    """Metrics of the probability of class 1: (pixels, of class 1, probability, squared error) in FINE steps of it."""

    task = CLASS_TASKS
    better = "lower"
    bounds = (0.0, 1.0)
    shared = "probability"

    def __init__(self, variable: str = "all") -> None:
        self.variable = variable

    @classmethod
    def of(cls, scene: Scene) -> Sequence[ImageMetric]:
        """For two classes."""
        return (cls(scene.classes[1]),) if len(scene.classes) == 2 else ()

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(FINE * 4,)."""
        if "probability" not in outputs:
            return None
        known = sample.labels >= 0
        p = np.nan_to_num(outputs["probability"][known].astype(np.float64), nan=0.0)
        y = (sample.labels[known] == 1).astype(np.float64)
        step = np.minimum((p * FINE).astype(np.int64), FINE - 1)
        columns = [np.bincount(step, w, FINE) for w in (None, y, p, (p - y) ** 2)]
        return np.stack(columns, axis=-1).astype(np.float64).ravel()

    def table(self, sums: F64) -> F64:
        """(..., FINE, 4)."""
        return sums.reshape(*sums.shape[:-1], FINE, 4)


class Brier(Probability):
    """Mean squared error of the probability of class 1 (Brier 1950)."""

    name = "brier"

    def value(self, sums: F64) -> F64:
        """Of all pixels."""
        t = self.table(sums).sum(-2)
        return ratio(t[..., 3], t[..., 0])


class CalibrationError(Probability):
    """Mean distance between the probability said and the frequency found, over BINS steps of probability."""

    name = "calibration_error"

    def value(self, sums: F64) -> F64:
        """sum over bins of |sum p - sum y| / n."""
        t = self.table(sums)
        bins = t.reshape(*t.shape[:-2], BINS, FINE // BINS, 4).sum(-2)
        return ratio(np.abs(bins[..., 2] - bins[..., 1]).sum(-1), bins[..., 0].sum(-1))


def reliability(sums: F64) -> list[dict[str, float]]:
    """Sums of Probability -> for each step of probability: mean probability, frequency of class 1, pixels."""
    bins = sums.reshape(BINS, FINE // BINS, 4).sum(1)
    return [
        {"probability": float(b[2] / b[0]), "frequency": float(b[1] / b[0]), "pixels": float(b[0])}
        for b in bins if b[0] > 0
    ]  # fmt: skip


def best_threshold(sums: F64) -> tuple[float, float] | None:
    """Sums of Probability -> (threshold, IoU of class 1 there) with the largest IoU; None without class 1."""
    table = sums.reshape(FINE, 4)
    hit = table[::-1, 1].cumsum()[::-1]
    given = table[::-1, 0].cumsum()[::-1]
    iou = ratio(hit, given + table[:, 1].sum() - hit)
    if not np.isfinite(iou).any() or table[:, 1].sum() == 0:
        return None
    at = int(np.nanargmax(iou))
    return at / FINE, float(iou[at])


BUILTIN: tuple[type[ImageMetric], ...] = (Iou, F1, Precision, Recall, Accuracy, Brier, CalibrationError)


def metrics_of(task: str, scene: Scene) -> list[ImageMetric]:
    """The built-in metrics of a task and every registered one."""
    from eoflow import registry
    from eoflow.verify.image_restoration import RESTORATION

    table: dict[str, type[ImageMetric]] = {c.name: c for c in (*BUILTIN, *RESTORATION)}
    for name in registry.names("metrics"):
        found = registry.load("metrics", name)
        if is_image_metric(found):
            table.setdefault(found.name, found)
    return [m for c in table.values() if task in _tasks(c) for m in c.of(scene)]


def _tasks(kind: type[ImageMetric]) -> tuple[str, ...]:
    return (kind.task,) if isinstance(kind.task, str) else tuple(kind.task)


def is_image_metric(found: Any) -> bool:
    """Whether a registered metric is one of images, and not of forecasts."""
    return isinstance(found, type) and issubclass(found, ImageMetric)
