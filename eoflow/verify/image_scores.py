"""Sums of groups -> scores with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eoflow.verify import bootstrap
from eoflow.verify.image_card import ImageComparison, ImageRow
from eoflow.verify.image_counts import Array, ImageMetric, Truth
from eoflow.verify.results import finite

F64 = NDArray[np.float64]


class Tally:
    """Sums of every model, metric and group (chip, tile, target date). Merging and adding commute."""

    def __init__(self, metrics: Sequence[ImageMetric]) -> None:
        self.metrics = list(metrics)
        self.sums: dict[tuple[str, str], dict[str, F64]] = {}

    def add(self, model: str, group: str, sample: Truth, outputs: Mapping[str, Array]) -> None:
        """One sample of a group."""
        done: set[str] = set()
        for metric in self.metrics:
            key = key_of(metric)
            if key in done:
                continue
            done.add(key)
            found = metric.counts(sample, outputs)
            if found is not None:
                self.put(model, key, group, np.asarray(found, np.float64))

    def put(self, model: str, key: str, group: str, sums: F64) -> None:
        """Add sums to those of a group."""
        groups = self.sums.setdefault((model, key), {})
        groups[group] = groups[group] + sums if group in groups else sums

    def merge(self, other: Tally) -> Tally:
        """Of both together."""
        out = Tally(self.metrics)
        for part in (self, other):
            for (model, key), groups in part.sums.items():
                for group, sums in groups.items():
                    out.put(model, key, group, sums)
        return out

    def total(self, model: str, key: str) -> F64 | None:
        """Sums of all groups, None where the model has none."""
        groups = self.sums.get((model, key))
        return None if not groups else np.sum(list(groups.values()), axis=0)

    @property
    def models(self) -> list[str]:
        """Names, in the order in which they came."""
        return list(dict.fromkeys(m for m, _ in self.sums))

    def counted(self) -> list[str]:
        """Groups with any pixel that counts."""
        return sorted({g for groups in self.sums.values() for g, sums in groups.items() if np.any(sums != 0)})


def key_of(metric: ImageMetric) -> str:
    """Metrics with one key share their sums."""
    return metric.shared or f"{metric.name}/{metric.variable}"


class Scores:
    """Value, interval and resampled values of one metric for every model, over the same draws of groups."""

    def __init__(self, tally: Tally, metric: ImageMetric, seed: int = 0) -> None:
        self.metric = metric
        key = key_of(metric)
        names = [m for m in tally.models if (m, key) in tally.sums]
        tables = {m: tally.sums[m, key] for m in names}
        # a group without a single pixel says nothing: it is no case, for any model
        groups = sorted({g for t in tables.values() for g, s in t.items() if np.any(s != 0)})
        self.groups = groups
        self.value: dict[str, float] = {}
        self.drawn: dict[str, F64] = {}
        self.undefined: dict[str, int] = {}
        n = len(groups)
        weights = bootstrap.resample_weights(n, 1, seed) * n if n else np.zeros((0, 0))
        for m in names:
            if not n:
                self.value[m], self.drawn[m], self.undefined[m] = np.nan, np.zeros(0), 0
                continue
            empty = np.zeros_like(next(iter(tables[m].values())))
            stats = np.stack([tables[m].get(g, empty) for g in groups])
            self.value[m] = float(metric.value(stats.sum(0)))
            self.drawn[m] = np.asarray(metric.value(weights @ stats), np.float64)
            self.undefined[m] = int((~np.isfinite(np.asarray(metric.value(stats)))).sum())

    def limits(self, model: str) -> tuple[float | None, float | None]:
        """95 % interval; None where there are too few groups."""
        return self._interval(self.drawn[model], self.value[model], self.metric.bounds)

    def _interval(
        self, drawn: F64, value: float, bounds: tuple[float, float] = (-np.inf, np.inf)
    ) -> tuple[float | None, float | None]:
        if not np.isfinite(value) or not np.isfinite(drawn).any():
            return None, None
        low, high = bootstrap.interval(drawn, np.asarray(value), len(self.groups), 1, bounds)
        return finite(float(low)), finite(float(high))

    def compare(self, model: str, baseline: str) -> ImageComparison | None:
        """The paired difference of two models, on the model's side of nought for better; None without a side."""
        a, b = self.value[model], self.value[baseline]
        if self.metric.better == "none" or not (np.isfinite(a) and np.isfinite(b)):
            return None
        low, high = self._interval(self.drawn[model] - self.drawn[baseline], a - b)
        sign = 1 if self.metric.better == "higher" else -1
        sides = None if low is None or high is None else sorted((sign * low, sign * high))
        return ImageComparison(
            model, baseline, self.metric.variable, self.metric.name, finite(a - b) or 0.0, low, high,
            finite(a / b) if b else None, bool(sides and sides[0] > 0), bool(sides and sides[1] < 0), len(self.groups),
        )  # fmt: skip


def rows_of(
    tally: Tally, baselines: Iterable[str], *, dataset: str, task: str, split: str, seed: int = 0,
    also: Iterable[tuple[str, str]] = (),
) -> tuple[list[ImageRow], list[ImageComparison], list[str]]:
    """Rows of every model and metric, models against baselines and as `also` pairs them, and what to know."""
    rows: list[ImageRow] = []
    comparisons: list[ImageComparison] = []
    empty: dict[str, set[str]] = {}
    unsaid: dict[str, int] = {}
    trivial, others = list(baselines), list(also)
    for metric in tally.metrics:
        scores = Scores(tally, metric, seed)
        for model, value in scores.value.items():
            if not np.isfinite(value):
                empty.setdefault(f"{metric.name} of {metric.variable}", set()).add(model)
                continue
            low, high = scores.limits(model)
            rows.append(ImageRow(dataset, model, task, split, metric.variable, metric.name, finite(value) or 0.0, low,
                                 high, len(scores.groups)))  # fmt: skip
            if metric.name == "iou" and scores.undefined[model]:
                unsaid[metric.variable] = max(unsaid.get(metric.variable, 0), scores.undefined[model])
        pairs = [(m, b) for m in scores.value for b in trivial if m != b] + others
        found = [scores.compare(m, b) for m, b in pairs if m in scores.value and b in scores.value]
        comparisons += [f for f in found if f is not None]
    notes = [f"{what} cannot be told for {', '.join(sorted(m))}: nothing to count" for what, m in empty.items()]
    notes += [
        f"{n} groups have no {variable} and none is given to them: no IoU of their own, they count in the pooled ones"
        for variable, n in unsaid.items()
    ]
    return rows, comparisons, notes


