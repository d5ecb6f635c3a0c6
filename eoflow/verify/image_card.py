"""The scorecard of image models: rows, paired comparisons, and what may be said from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from eoflow.errors import BadInput
from eoflow.verify.results import scores_parts, scores_text

FORMAT = "eoflow-image-scores-1"
FEW = 5
"""Groups below which an interval means little."""
LEADING = {
    "segmentation": ("iou", "f1"), "change-detection": ("f1", "iou"), "cloud-removal": ("psnr_all", "sam_all"),
}  # fmt: skip
"""Metrics that the sentences are about, the one that ranks first."""
TIMES = {"f1": "change-detection"}
"""Metric that is also given as a multiple of the baseline's."""


@dataclass(frozen=True)
class ImageRow:
    """One score. low, high: 95 % interval, None where groups are too few. n: groups (chips, tiles, dates)."""

    dataset: str
    model: str
    task: str
    split: str
    variable: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class ImageComparison:
    """`model` against `baseline` on the same groups: difference of their scores and its paired 95 % interval.

    ratio: score over score. better: the whole interval lies on the model's side; worse: on the baseline's.
    """

    model: str
    baseline: str
    variable: str
    metric: str
    difference: float
    low: float | None
    high: float | None
    ratio: float | None
    better: bool
    worse: bool
    n: int


@dataclass(frozen=True)
class ImageScorecard:
    """Scores of image models on one data set.

    header: dataset, task, split, models, baselines, groups and what they are, bands, units, classes, notes, gate,
    reliability, best thresholds: everything that a number needs to be compared.
    """

    rows: list[ImageRow]
    comparisons: list[ImageComparison] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)

    # -- looking up --------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[str]:
        """Names, as they were asked for, the baselines last."""
        return list(dict.fromkeys(r.model for r in self.rows))

    @property
    def baselines(self) -> list[str]:
        """The trivial models that are in it."""
        return [b for b in self.header.get("baselines", []) if b in self.models]

    @property
    def asked(self) -> list[str]:
        """The models that are no baseline."""
        return [m for m in self.models if m not in self.baselines]

    @property
    def metrics(self) -> list[str]:
        """Metric names."""
        return list(dict.fromkeys(r.metric for r in self.rows))

    @property
    def variables(self) -> list[str]:
        """Classes, `reflectance`, `all`."""
        return list(dict.fromkeys(r.variable for r in self.rows))

    def get(self, model: str, variable: str, metric: str) -> ImageRow | None:
        """One row, None if there is none."""
        return next((r for r in self.rows if (r.model, r.variable, r.metric) == (model, variable, metric)), None)

    def compare(self, model: str, baseline: str, variable: str, metric: str) -> ImageComparison | None:
        """One paired comparison, None if there is none."""
        key = (model, baseline, variable, metric)
        return next((c for c in self.comparisons if (c.model, c.baseline, c.variable, c.metric) == key), None)

    def leading(self) -> list[str]:
        """The metrics that the task is judged by."""
        return [m for m in LEADING.get(str(self.header.get("task")), ()) if m in self.metrics]

    def better(self, metric: str) -> str:
        """`higher`, `lower` or `none`."""
        return str(self.header.get("metrics", {}).get(metric, "none"))

    def best_baseline(self, variable: str, metric: str) -> ImageRow | None:
        """The row of the strongest baseline, None without one."""
        rows = [r for b in self.baselines if (r := self.get(b, variable, metric)) is not None]
        if not rows or self.better(metric) == "none":
            return None
        return (max if self.better(metric) == "higher" else min)(rows, key=lambda r: r.value)

    # -- what it says ------------------------------------------------------------------------------------------

    def skill(self, model: str, variable: str, metric: str) -> bool | None:
        """Whether a model beats the strongest baseline with its whole interval; None where it cannot be told."""
        best = self.best_baseline(variable, metric)
        found = None if best is None else self.compare(model, best.model, variable, metric)
        return None if found is None or found.low is None else found.better

    def statement(self, model: str, variable: str, metric: str) -> str:
        """One sentence: skill or no skill against the strongest baseline, with the interval of the difference."""
        row, best = self.get(model, variable, metric), self.best_baseline(variable, metric)
        what = f"{variable}, {metric}"
        if row is None:
            return f"{what}: {model} has no score"
        if best is None:
            return f"{what}: {model} {number(row.value)}; no baseline beside it, so nothing can be said about skill"
        found = self.compare(model, best.model, variable, metric)
        against = f"{model} {number(row.value)} against {number(best.value)} of {best.model}"
        if found is None or found.low is None or found.high is None:
            return f"{what}: no skill can be told from {row.n} {self._groups(row.n)}: {against}"
        against += f", difference {found.difference:+.3g} [{found.low:+.3g}, {found.high:+.3g}] (95 %)"
        if found.ratio is not None and TIMES.get(metric) == self.header.get("task"):
            against += f", {found.ratio:.2f} times"
        few = f"; with {found.n} {self._groups(found.n)} only the interval means little" if found.n < FEW else ""
        if found.better:
            return f"{what}: skill: {against}{few}"
        why = "worse than the baseline" if found.worse else "the interval reaches nought"
        return f"{what}: no skill: {against}; {why}{few}"

    def statements(self, model: str) -> list[str]:
        """`statement` for the leading metrics of every variable that has them."""
        return [
            self.statement(model, v, m) for m in self.leading() for v in self.variables
            if any(r.variable == v and r.metric == m for r in self.rows)
        ]  # fmt: skip

    def _groups(self, n: int) -> str:
        one = str(self.header.get("group", "group"))
        return one if n == 1 else f"{one}s"

    # -- keeping -----------------------------------------------------------------------------------------------

    def row_dicts(self) -> list[dict[str, Any]]:
        """The rows as `--json` prints them."""
        return [asdict(r) for r in self.rows]

    def to_json(self) -> str:
        """`scores.json`, see scores_text."""
        return scores_text(FORMAT, self.header, self.rows, self.comparisons)

    @classmethod
    def from_json(cls, text: str) -> ImageScorecard:
        """Inverse of to_json. Raises BadInput for anything else."""
        try:
            header, rows, comparisons = scores_parts(FORMAT, text)
            return cls([ImageRow(**r) for r in rows], [ImageComparison(**c) for c in comparisons], header)
        except (ValueError, KeyError, TypeError) as e:
            raise BadInput("this is no scores.json of image models", todo=f"run `eoflow verify` again ({e})") from None


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"
