"""`score`: forecasts against the truth that has arrived, the same cases for every model, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoflow import __version__
from eoflow.config import settings
from eoflow.errors import BadInput
from eoflow.times import Period, iso
from eoflow.verify import bootstrap
from eoflow.verify.align import Alignment, align
from eoflow.verify.climatology import lookup
from eoflow.verify.metrics import Metric, defaults
from eoflow.verify.results import BASELINES, Comparison, Row, Scorecard, finite
from eoflow.verify.stream import GroupStats, split, stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Comparison", "Row", "Scorecard", "score"]

COMPLETE = 0.99
"""A truth field with less than this part of the fullest field's area has only partly arrived and is not used."""
NOT_MAIN = (*BASELINES, "eof-ridge", "ceiling")
WEIGHTS = "exact cell area, sin(northern edge) - sin(southern edge), mean 1"
_RMSE_OVER = "sqrt of the mean over cases of the area-weighted squared error"


def score(
    forecasts: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    climatology: Callable[[Any, Any], Any] | xr.Dataset | None = None,
    *,
    dataset: str,
    climatology_name: str = "climatology",
    metrics: Sequence[Metric] | None = None,
    variables: Sequence[str] | None = None,
    period: str | Period | None = None,
    exclude: Iterable[str | Period] = (),
    baselines: Sequence[str] = (*BASELINES, "eof-ridge"),
    main_model: str | None = None,
    seed: int = 0,
    memory_mb: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scorecard:
    """Score forecast cubes against an archive.

    forecasts: by model name, dims (init_time, lead_time, [member,] [level,] latitude, longitude), may be lazy.
    truth: dims (time, [level,] latitude, longitude), same grid and units; NaN where nothing has arrived.
    climatology: (times, channel) -> (T, H, W), or a dataset (see climatology.py); without one, ACC and activity
    are left out. period: of the initial times. exclude: training periods; no case may start or end in one.
    Deterministic metrics see the ensemble mean. At each lead all models are scored on the same cases.
    main_model: the one that statements are about; by default the first that is no baseline.
    progress is called as (variable, groups done, groups).

    Raises SchemaMismatch where grids, units, leads or times contradict each other, BadInput where no case is left.
    """
    excluded = [Period.parse(p) for p in exclude]
    chosen = Period.parse(period) if period is not None else None
    a = align(forecasts, truth, variables, chosen, excluded)
    ensemble = any(c.members for c in a.cubes.values())
    wanted = list(metrics) if metrics is not None else defaults(ensemble)
    left_out = [m.name for m in wanted if m.climatology and climatology is None]
    wanted = [m for m in wanted if not (m.climatology and climatology is None)]
    if left_out:
        a.notes.append(f"no climatology was given: {', '.join(left_out)} left out")
    if not wanted:
        raise BadInput("no metric is left to compute", todo="give a climatology or choose other metrics")
    finder = None if climatology is None else lookup(climatology, a.grid)
    budget = (memory_mb or settings().memory_mb) * 1024**2
    builder = _Builder(a, dataset, wanted, [b for b in baselines if b in forecasts], seed)
    parts = [g for group in a.groups for g in split(a, group, budget, finder is not None)]
    for i, group in enumerate(parts):
        if progress is not None:
            progress(group.variable, i, len(parts))
        builder.add(stream(a, group, wanted, finder, budget))
    if not builder.rows:
        raise BadInput(
            "no case could be scored", where="; ".join(a.notes + builder.notes()) or None,
            todo="ingest the truth of these valid times",
        )  # fmt: skip
    others = [m for m in forecasts if m not in NOT_MAIN]
    header = {
        "dataset": dataset,
        "main_model": main_model or next(iter(others or forecasts)),
        "grid": a.grid.describe(),
        "weights": WEIGHTS,
        "rmse": _RMSE_OVER,
        "climatology": climatology_name if climatology is not None else None,
        "period": f"{iso(a.inits[0])}/{iso(a.inits[-1])}",
        "initial_times": len(a.inits),
        "excluded": [str(p) for p in excluded],
        "cases": builder.case_range(),
        "interval": f"95 %, moving-block bootstrap over initial times, {bootstrap.RESAMPLES} resamples, seed {seed}",
        "block_lengths": builder.block_range(),
        "units": {c.label: g.units for g in a.groups for c in g.channels},
        "metrics": {m.name: {"better": m.better, "unitless": m.unitless} for m in wanted},
        "ensemble_members": {c.name: c.members for c in a.cubes.values() if c.members},
        "code_version": __version__,
        "notes": a.notes + builder.notes(),
    }
    return Scorecard(rows=builder.rows, comparisons=builder.comparisons, header=header)


class _Builder:
    """Collects rows and comparisons group by group; the fields are gone by then."""

    def __init__(
        self, alignment: Alignment, dataset: str, metrics: Sequence[Metric], baselines: Sequence[str], seed: int
    ) -> None:
        self.a, self.dataset, self.metrics, self.baselines, self.seed = alignment, dataset, metrics, baselines, seed
        self.hours = [float(x / np.timedelta64(1, "h")) for x in alignment.leads]
        self.rows: list[Row] = []
        self.comparisons: list[Comparison] = []
        self._cases: set[int] = set()
        self._blocks: set[int] = set()
        self._broken: dict[str, dict[str, Any]] = {}
        self._late = 0

    def add(self, stats: GroupStats) -> None:
        """Score every channel of a group."""
        for c, channel in enumerate(stats.channels):
            coverage = stats.coverage[:, c]
            arrived = coverage >= COMPLETE * coverage.max(initial=0.0)
            arrived &= coverage > 0
            self._late = max(self._late, int((~arrived[self.a.valid] & self.a.use).sum()))
            self._channel(stats, c, channel.label, arrived[self.a.valid] & self.a.use)

    def _channel(self, stats: GroupStats, c: int, label: str, usable: NDArray[np.bool_]) -> None:
        squared = {m: stats.moments[m][:, :, c, 1] for m in stats.moments}
        groups: dict[tuple[tuple[str, ...], bytes, int], list[int]] = {}
        for k in range(len(self.hours)):
            models, common = self._common(squared, usable[:, k], k, label)
            if not models or not common.any():
                continue
            errors = np.stack([squared[m][common, k] for m in models], axis=1)
            length = bootstrap.block_length(errors)
            groups.setdefault((tuple(models), common.tobytes(), length), []).append(k)
        rows: list[tuple[int, Row]] = []
        for (names, mask, length), leads in groups.items():
            common = np.frombuffer(mask, bool)
            self._cases.add(int(common.sum()))
            self._blocks.add(length)
            for metric in self.metrics:
                rows += self._score(stats, metric, c, label, list(names), common, leads, length)
        order = {m.name: i for i, m in enumerate(self.metrics)}
        model_order = {m: i for i, m in enumerate(self.a.cubes)}
        rows.sort(key=lambda kr: (order[kr[1].metric], model_order[kr[1].model], kr[0]))
        self.rows += [r for _, r in rows]

    def _common(
        self, squared: Mapping[str, NDArray[np.float64]], usable: NDArray[np.bool_], k: int, label: str
    ) -> tuple[list[str], NDArray[np.bool_]]:
        """Models that have this lead at all, and the cases that every one of them has."""
        common, models = usable.copy(), []
        for m, values in squared.items():
            if self.a.leads[k] not in self.a.cubes[m].leads:
                continue
            good = np.isfinite(values[:, k])
            missing = int((usable & ~good).sum())
            if missing:
                entry = self._broken.setdefault(m, {"cases": 0, "variables": set(), "first": self.hours[k]})
                entry["cases"] += missing
                entry["variables"].add(label)
                entry["first"] = min(entry["first"], self.hours[k])
            if (usable & good).any():
                models.append(m)
                common &= good
        return models, common

    def _score(
        self, stats: GroupStats, metric: Metric, c: int, label: str, models: list[str],
        common: NDArray[np.bool_], leads: list[int], length: int,
    ) -> list[tuple[int, Row]]:  # fmt: skip
        """Rows of one metric for leads that share their cases."""
        n = int(common.sum())
        table = np.stack([stats.stats(m, metric, c)[common][:, leads] for m in models], axis=2)  # (n, L, models, K)
        weights = bootstrap.resample_weights(n, length, self.seed)
        value, low, high, samples = bootstrap.score_with_interval(table, metric.reduce, weights, length, metric.bounds)
        counts = np.isfinite(table).all(axis=-1).sum(axis=0)
        rows = []
        for j, k in enumerate(leads):
            for i, m in enumerate(models):
                number = finite(float(value[j, i]))
                if number is None:  # undefined, such as the ACC of the climatology: no row rather than a made-up number
                    continue
                lo, hi = finite(float(low[j, i])), finite(float(high[j, i]))
                row = Row(self.dataset, m, label, self.hours[k], metric.name, number, lo, hi, int(counts[j, i]))
                rows.append((k, row))
        if metric.better != "none":
            self._compare(metric, label, models, leads, value, samples, n, length)
        return rows

    def _compare(
        self, metric: Metric, label: str, models: list[str], leads: list[int], value: NDArray[np.float64],
        samples: NDArray[np.float64], n: int, length: int,
    ) -> None:  # fmt: skip
        for base in (b for b in self.baselines if b in models):
            at = models.index(base)
            difference = value - value[:, at : at + 1]
            low, high = bootstrap.interval(samples - samples[:, :, at : at + 1], difference, n, length)
            sign = 1.0 if metric.better == "lower" else -1.0
            for j, k in enumerate(leads):
                for i, m in enumerate(models):
                    if m == base or finite(float(difference[j, i])) is None:
                        continue
                    lo, hi = float(low[j, i]), float(high[j, i])
                    reference = float(value[j, at])
                    ratio = finite(float(value[j, i]) / reference) if reference else None
                    self.comparisons.append(
                        Comparison(
                            m, base, label, self.hours[k], metric.name, finite(float(difference[j, i])) or 0.0,
                            finite(lo), finite(hi), ratio,
                            better=bool(max(sign * lo, sign * hi) < 0), worse=bool(min(sign * lo, sign * hi) > 0), n=n,
                        )
                    )  # fmt: skip

    def case_range(self) -> list[int]:
        """Fewest and most cases of a score."""
        return [min(self._cases), max(self._cases)] if self._cases else [0, 0]

    def block_range(self) -> list[int]:
        """Shortest and longest block of cases of the bootstrap."""
        return [min(self._blocks), max(self._blocks)] if self._blocks else [0, 0]

    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        out = []
        if self._late:
            out.append(f"{self._late} cases wait for truth that has not (or only partly) arrived")
        for model, e in self._broken.items():
            names = ", ".join(sorted(e["variables"]))
            out.append(
                f"{model}: {e['cases']} forecasts of {names} are missing or not finite where "
                f"the truth is valid (from lead {e['first']:g} h on); those cases are left out for every model"
            )
        if self._cases and min(self._cases) < 10:
            out.append(f"as few as {min(self._cases)} cases: the intervals are rough, or absent")
        return out
