"""On the validation period: calibration, scores and the card of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eoflow import checkpoint
from eoflow.catalog import Recipe
from eoflow.checkpoint import Checkpoint
from eoflow.errors import BadInput
from eoflow.models.base import ForecastModel, rollout
from eoflow.times import Cadence

if TYPE_CHECKING:
    from eoflow.prepare.run import Prepared

_GROUPS = 10
_BATCH_BYTES = 256 << 20


def parameters(model: torch.nn.Module) -> int:
    """Number of trained parameters (buffers of fitted models not counted)."""
    return sum(p.numel() for p in model.parameters())


def _cases(
    model: ForecastModel, static: Tensor, prepared: Prepared, steps: int, most: int
) -> Iterator[tuple[Tensor, ...]]:
    """(raw, truth (B, steps, C, H, W), clock (B, steps, 2), last frame) of validation forecasts, in order of time."""
    frames = model.signature.frames
    count = prepared.validset.windows(frames + steps)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)) if count else np.empty(0, int)
    s = model.signature
    size = max(1, min(16, _BATCH_BYTES // (4 * steps * s.channels * s.height * s.width)))
    with torch.inference_mode():
        for at in range(0, len(chosen), size):
            states, clock = prepared.validset.batch(chosen[at : at + size], frames + steps)
            raw = rollout(model, states[:, :frames], clock, static, steps)
            yield raw, states[:, frames:], clock[:, frames:], states[:, frames - 1]


def calibrate(model: ForecastModel, static: Tensor, rec: Recipe, schema: Any, prepared: Prepared) -> Any:
    """The calibration fitted on the validation period, ready for use; up to the recipe's `max_lead`.

    Leads are halved until the period holds twenty forecasts. Raises BadInput where it holds not a single one.
    """
    steps = Cadence(schema.step).steps(rec.calibration.max_lead)
    frames = model.signature.frames
    while steps > 1 and prepared.validset.windows(frames + steps) < 2 * _GROUPS:
        steps //= 2
    calibration = checkpoint.new_calibration(model.signature, steps)
    calibration.climatology.fit(prepared.data)
    cases = False
    for raw, truth, clock, _ in _cases(model, static, prepared, steps, rec.calibration.cases):
        calibration.update(raw, truth, clock, prepared.data.area_weights)
        cases = True
    if not cases:
        raise BadInput(
            "the validation period is too short to calibrate on",
            where=str(prepared.splits.valid),
            todo="train on a longer dataset, or --set calibration.enabled=false",
        )
    calibration.finish()
    return calibration.eval()


def scores(result: Checkpoint, prepared: Prepared, dataset: str) -> list[dict[str, Any]]:
    """RMSE rows by channel and day for the model, persistence and climatology, in physical units.

    Interval: jackknife over ten runs of neighbouring cases. Rows as of `eoflow verify`.
    """
    step = Cadence(result.schema.step).delta
    per_day = max(1, int(np.timedelta64(86400 * 10**9, "ns") // step))
    steps = Cadence(result.schema.step).steps(result.recipe.calibration.max_lead)
    while steps > 1 and prepared.validset.windows(result.signature.frames + steps) < _GROUPS:
        steps //= 2
    days = [d * per_day for d in (1, 2, 3, 5, 7, 10) if d * per_day <= steps] or [steps]
    mean_state = checkpoint.new_calibration(result.signature, 1).climatology
    mean_state.fit(prepared.data)
    weights = prepared.data.area_weights[:, None]
    squares: dict[str, list[Tensor]] = {"": [], "persistence": [], "climatology": []}
    for raw, truth, clock, last in _cases(result.model, result.static, prepared, steps, 60):
        for name, kept in squares.items():
            rows = []
            for lead in days:
                field_ = {"persistence": last, "": raw[:, lead - 1]}.get(name)
                if field_ is None:
                    field_ = mean_state(clock[:, lead - 1])
                elif not name and result.calibration is not None:
                    field_ = result.calibration(field_, clock[:, lead - 1], lead - 1)
                error = result.normalizer.decode(field_) - result.normalizer.decode(truth[:, lead - 1])
                rows.append((error.double().square() * weights).mean(dim=(-2, -1)))
            kept.append(torch.stack(rows, dim=1))
    out = []
    for name, kept in squares.items():
        if not kept:
            continue
        mse = torch.cat(kept).numpy()
        groups = np.array_split(np.arange(len(mse)), min(_GROUPS, len(mse)))
        for i, lead in enumerate(days):
            for c, channel in enumerate(result.schema.channels):
                value = float(np.sqrt(mse[:, i, c].mean()))
                left = (
                    np.sqrt([np.delete(mse[:, i, c], g).mean() for g in groups])
                    if len(groups) > 1
                    else np.array([value])
                )
                spread = 1.96 * float(np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()))
                out.append({
                    "dataset": dataset, "model": name or result.name, "variable": channel.label, "split": "valid",
                    "lead_hours": lead * float(step / np.timedelta64(3600 * 10**9, "ns")), "metric": "rmse",
                    "value": value, "low": max(0.0, value - spread), "high": value + spread, "n": len(mse),
                })  # fmt: skip
    return out


def write_card(result: Checkpoint, dataset: str) -> str:
    """card.md: what the checkpoint is, how it was made, how it scores, what it is not good for."""
    rows = {(r["variable"], r["lead_hours"], r["model"]): r for r in result.scores}
    leads = sorted({r["lead_hours"] for r in result.scores})
    made = result.provenance
    n = result.scores[0]["n"] if result.scores else 0
    lines = [
        f"# {result.recipe.title}",
        "",
        f"`{result.name}` trained on `{dataset}` ({result.schema.grid.describe()}, step {result.schema.step}).",
        "",
        f"- made by: `{made['command']}` with eoflow {made['eoflow']}, seed {made['seed']}",
        f"- periods: {', '.join(f'{k} {v}' for k, v in result.splits.items())}",
        f"- parameters: {parameters(result.model):,}; hash of content: `config.json`",
        "- damped toward climatology with lead: "
        + ("yes; see activity in the scorecard" if result.calibration is not None else "no"),
        "",
        f"## RMSE on the validation period (n = {n} initial times, area-weighted, own grid)",
        "",
        "| field | lead | " + result.name + " (95 %) | persistence | climatology |",
        "|---|---|---|---|---|",
    ]
    for channel in result.schema.channels:
        for lead in leads:
            mine = rows[(channel.label, lead, result.name)]
            others = [f"{rows[(channel.label, lead, m)]['value']:.4g}" for m in ("persistence", "climatology")]
            value = f"{mine['value']:.4g} ({mine['low']:.4g} to {mine['high']:.4g})"
            lines.append(f"| {channel.label} | {lead / 24:g} d | {value} | " + " | ".join(others) + " |")
    lines += [
        "",
        "Not for: another grid, step or set of variables (refused); leads at which the scorecard shows no skill.",
        "",
    ]
    if result.recipe.notes:
        lines += [result.recipe.notes, ""]
    return "\n".join(lines)
