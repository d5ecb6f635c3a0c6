"""The gate: a checkpoint without skill is not promoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eoflow.errors import BadInput
from eoflow.times import parse_duration
from eoflow.verify.results import Comparison, Scorecard, days


@dataclass(frozen=True)
class GateResult:
    """Whether a model passed, and why or why not in words."""

    passed: bool
    why: str

    def __bool__(self) -> bool:
        return self.passed


def check(
    scorecard: Scorecard,
    model: str,
    baseline: str = "persistence",
    metric: str = "rmse",
    lead: str | float = "1d",
    variables: Sequence[str] | None = None,
) -> GateResult:
    """Decide whether `model` beats `baseline` at `lead` (`1d`, or hours) on the same cases.

    It passes when all three hold over the variables (default: all): none is significantly worse (paired 95 %
    interval), at least half are significantly better, and their mean ratio of scores lies on the better side of 1.
    Raises BadInput if the scorecard has no such comparison.
    """
    for kind, name in (("model", model), ("model", baseline), ("metric", metric)):
        scorecard.require(kind, name)
    hours = float(lead) if isinstance(lead, int | float) else float(parse_duration(lead) / np.timedelta64(1, "h"))
    names = list(variables) if variables is not None else scorecard.variables
    found = {v: scorecard.compare(model, baseline, v, hours, metric) for v in names}
    pairs = {v: c for v, c in found.items() if c is not None}
    if not pairs:
        leads = ", ".join(f"{x:g} h" for x in scorecard.leads)
        raise BadInput(
            f"no comparison of {model} with {baseline} by {metric} at {hours:g} h",
            todo=f"the scorecard has leads {leads}",
        )
    return _decide(pairs, model, baseline, metric, hours)


def _decide(pairs: dict[str, Comparison], model: str, baseline: str, metric: str, hours: float) -> GateResult:
    at = f"{metric} at {days(hours)} against {baseline}"
    if any(c.low is None for c in pairs.values()):
        n = min(c.n for c in pairs.values())
        return GateResult(
            False, f"{model}: {at}: {n} cases are too few for an interval, skill cannot be told from luck"
        )
    worse = [v for v, c in pairs.items() if c.worse]
    better = [v for v, c in pairs.items() if c.better]
    # The sign that means better: lower scores for errors, higher ones for correlations.
    sign = next((np.sign(c.difference) * (1 if c.better else -1) for c in pairs.values() if c.better or c.worse), 0.0)
    ratios = [c.ratio for c in pairs.values() if c.ratio is not None and c.ratio > 0]
    mean = float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")
    numbers = ", ".join(_describe(v, c) for v, c in pairs.items())
    if worse:
        return GateResult(False, f"{model} is worse in {', '.join(worse)} ({at}: {numbers})")
    if not better:
        return GateResult(False, f"{model} is not better in any variable ({at}: {numbers})")
    if 2 * len(better) < len(pairs):
        text = f"{model} is better in only {len(better)} of {len(pairs)} variables"
        return GateResult(False, f"{text} ({at}: {numbers})")
    if ratios and sign * (mean - 1) < 0:
        return GateResult(False, f"{model} is on average no better, ratio {mean:.3g} ({at}: {numbers})")
    return GateResult(True, f"{model} is better in {len(better)} of {len(pairs)} variables ({at}: {numbers})")


def _describe(variable: str, c: Comparison) -> str:
    interval = f"{c.difference:+.3g} [{c.low:+.3g}, {c.high:+.3g}]"
    return f"{variable} {interval}" + (f", ratio {c.ratio:.3g}" if c.ratio is not None else "")
