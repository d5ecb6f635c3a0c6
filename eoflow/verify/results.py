"""The scorecard: rows of scores with intervals, paired comparisons, and what may be said from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eoflow.errors import BadInput
from eoflow.registry import nearest

BASELINES = ("persistence", "climatology")
FORMAT = "eoflow-scores-1"


@dataclass(frozen=True)
class Row:
    """One score. value, low and high (95 % interval, None where the cases are too few) in the metric's units."""

    dataset: str
    model: str
    variable: str
    lead_hours: float
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """`model` against `baseline` on the same cases: difference of their scores and its paired 95 % interval.

    ratio = score of the model / score of the baseline (None where that is 0).
    better: the whole interval lies on the model's side; worse: on the baseline's.
    """

    model: str
    baseline: str
    variable: str
    lead_hours: float
    metric: str
    difference: float
    low: float | None
    high: float | None
    ratio: float | None
    better: bool
    worse: bool
    n: int


@dataclass(frozen=True)
class Scorecard:
    """Scores of models on one dataset.

    header: dataset, grid, weights, climatology, period (of the initial times), excluded periods, cases, block
    lengths, units by variable, ensemble sizes, code version, notes: everything a number needs to be compared.
    """

    rows: list[Row]
    comparisons: list[Comparison] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = {(r.model, r.variable, r.lead_hours, r.metric): r for r in self.rows}
        pairs = {(c.model, c.baseline, c.variable, c.lead_hours, c.metric): c for c in self.comparisons}
        object.__setattr__(self, "_rows", table)
        object.__setattr__(self, "_pairs", pairs)

    # -- looking up --------------------------------------------------------------------------------------------

    def _distinct(self, key: str) -> list[Any]:
        return list(dict.fromkeys(getattr(r, key) for r in self.rows))

    @property
    def models(self) -> list[str]:
        """Model names in the order they were given."""
        return self._distinct("model")

    @property
    def variables(self) -> list[str]:
        """Channel labels (`z500`, `t2m`)."""
        return self._distinct("variable")

    @property
    def metrics(self) -> list[str]:
        """Metric names."""
        return self._distinct("metric")

    @property
    def leads(self) -> list[float]:
        """Lead times in hours, ascending."""
        return sorted(self._distinct("lead_hours"))

    def get(self, model: str, variable: str, lead_hours: float, metric: str) -> Row | None:
        """One row, None if there is none."""
        found: Row | None = self.__dict__["_rows"].get((model, variable, float(lead_hours), metric))
        return found

    def series(self, model: str, variable: str, metric: str) -> list[Row]:
        """The rows of one curve, by lead."""
        found = (self.get(model, variable, lead, metric) for lead in self.leads)
        return [r for r in found if r is not None]

    def compare(
        self, model: str, baseline: str, variable: str, lead_hours: float, metric: str = "rmse"
    ) -> Comparison | None:
        """The paired comparison at one lead, None if there is none."""
        found: Comparison | None = self.__dict__["_pairs"].get((model, baseline, variable, float(lead_hours), metric))
        return found

    def require(self, kind: str, name: str) -> None:
        """Raise BadInput with the nearest name unless the scorecard has that model, variable or metric."""
        known = {"model": self.models, "variable": self.variables, "metric": self.metrics}[kind]
        if name not in known:
            raise BadInput(
                f"the scorecard has no {kind} '{name}'{nearest(name, known)}", todo=f"choose from {', '.join(known)}"
            )

    # -- what it says ------------------------------------------------------------------------------------------

    def skill(self, model: str, baseline: str, variable: str, metric: str = "rmse") -> dict[float, Comparison]:
        """Paired comparisons of two models by lead in hours (1 - ratio is the skill). Raises BadInput for a name."""
        for kind, name in (("model", model), ("model", baseline), ("variable", variable), ("metric", metric)):
            self.require(kind, name)
        found = ((lead, self.compare(model, baseline, variable, lead, metric)) for lead in self.leads)
        return {lead: c for lead, c in found if c is not None}

    def skilful_leads(self, model: str, variable: str) -> list[float]:
        """Leads (h) at which the model's RMSE is significantly below that of every one of BASELINES present."""
        against = [b for b in BASELINES if b in self.models and b != model]
        leads = []
        for lead in self.leads:
            pairs = [self.compare(model, b, variable, lead) for b in against]
            if pairs and all(c is not None and c.better for c in pairs):
                leads.append(lead)
        return leads

    def skilful_until(self, model: str, variable: str) -> float | None:
        """Last lead (h) of the first unbroken run of skilful leads; None if no lead is skilful.

        A lead that is skilful again after one that is not is chance until proven otherwise, and does not count.
        """
        skilful, last = set(self.skilful_leads(model, variable)), None
        for row in self.series(model, variable, "rmse"):
            if row.lead_hours in skilful:
                last = row.lead_hours
            elif last is not None:
                break
        return last

    def statement(self, model: str, variable: str) -> str:
        """One sentence: to which lead the model is skilful, and what it no longer beats after that."""
        against = [b for b in BASELINES if b in self.models and b != model]
        leads = [r.lead_hours for r in self.series(model, variable, "rmse")]
        if not leads:
            return f"{variable}: {model} has no score"
        if not against:
            return f"{variable}: no baseline in the scorecard, so nothing can be said about skill"
        last = self.skilful_until(model, variable)
        if last is None:
            beaten_by = self._unbeaten(model, variable, leads[0], against)
            return f"{variable}: not skilful at any lead (at {days(leads[0])} not better than {beaten_by})"
        first = min(self.skilful_leads(model, variable))
        start = "" if first == leads[0] else f"from {days(first)} "
        text = f"{variable}: skilful {start}to {days(last)} (better than {' and '.join(against)}, 95 %)"
        later = [lead for lead in leads if lead > last]
        if later:
            text += f"; {days(later[0])}{' and later' if len(later) > 1 else ''} not better than "
            text += self._unbeaten(model, variable, later[0], against)
        return text

    def _unbeaten(self, model: str, variable: str, lead: float, against: list[str]) -> str:
        pairs = {b: self.compare(model, b, variable, lead) for b in against}
        names = []
        for b, c in pairs.items():
            if c is None or not c.better:
                names.append(f"{b} (worse)" if c is not None and c.worse else b)
        return " or ".join(names)

    def statements(self, model: str) -> list[str]:
        """`statement` for every variable."""
        return [self.statement(model, v) for v in self.variables]

    # -- keeping -----------------------------------------------------------------------------------------------

    def row_dicts(self) -> list[dict[str, Any]]:
        """The rows as `--json` prints them."""
        return [asdict(r) for r in self.rows]

    def to_json(self) -> str:
        """`scores.json`, see scores_text."""
        return scores_text(FORMAT, self.header, self.rows, self.comparisons)

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """Inverse of to_json. Raises BadInput for anything else."""
        try:
            header, rows, comparisons = scores_parts(FORMAT, text)
            return cls([Row(**r) for r in rows], [Comparison(**c) for c in comparisons], header)
        except (ValueError, KeyError, TypeError) as e:
            raise BadInput("this is not a scores.json of eoflow", todo=f"run `eoflow verify` again ({e})") from None


def days(hours: float) -> str:
    """`day 6` for whole days, `18 h` below two days, else `day 6.25`."""
    if hours % 24 == 0:
        return f"day {hours / 24:.0f}"
    return f"{hours:g} h" if hours < 48 else f"day {hours / 24:g}"


def finite(x: float) -> float | None:
    """Seven significant digits, None for NaN and infinities: what JSON can hold."""
    return float(f"{x:.7g}") if math.isfinite(x) else None


def merge(cards: Iterable[Scorecard]) -> list[Row]:
    """The rows of several scorecards (datasets), in order."""
    return [r for card in cards for r in card.rows]


def scores_text(kind: str, header: dict[str, Any], rows: Sequence[Any], comparisons: Sequence[Any]) -> str:
    """`scores.json` of dataclasses: {format, header, rows, comparisons}, one row a line; strict JSON, no NaN."""
    parts = [f'"format": "{kind}"', f'"header": {json.dumps(header, indent=1, allow_nan=False)}']
    for name, items in (("rows", rows), ("comparisons", comparisons)):
        lines = ",\n ".join(json.dumps(asdict(x), allow_nan=False) for x in items)
        parts.append(f'"{name}": [\n {lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def scores_parts(kind: str, text: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Header, rows and comparisons of scores_text. Raises ValueError, KeyError or TypeError for anything else."""
    document = json.loads(text)
    if document["format"] != kind:
        raise ValueError(f"format {document['format']!r}, expected {kind!r}")
    return dict(document["header"]), list(document["rows"]), list(document["comparisons"])
