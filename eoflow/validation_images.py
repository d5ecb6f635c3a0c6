"""On the validation split: scores of an image model and of the trivial ones beside it, and the card of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.errors import BadInput
from eoflow.models.images import asked_days, parameters
from eoflow.prepare.scenes.trainset import Patches

if TYPE_CHECKING:
    from eoflow.prepare.scenes.samples import Samples

AT_MOST = 1000
"""Samples that are scored, evenly chosen."""
DRAWS = 200
BEFORE = "before tuning"
"""In the scores of a fine-tuned model: what it began with."""
THRESHOLDS = 100
"""Cuts between which `chosen_threshold` chooses."""
MOSAIC = 64
"""Samples at most that are laid out as one image."""
Progress = Callable[[float, float, str], None]
Array = np.ndarray[Any, np.dtype[Any]]


def scored(checkpoint: ImageCheckpoint, data: Samples, indices: Array) -> dict[str, Array]:
    """What the task's `summary` needs of the samples `indices`: arrays (S, ...).

    A threshold that belongs to a whole image is found over the samples of a place together, not for each by itself.
    """
    task: Any = checkpoint.task
    device = torch.device("cuda" if torch.cuda.is_available() and not checkpoint.model.closed_form else "cpu")
    model = checkpoint.model.to(device)
    together = model.closed_form and task.main_output == "logits"
    kept: dict[str, list[Array]] = {}
    order: list[Array] = []
    for chosen in _batches(data, indices, together, checkpoint.recipe.training.batch_size):
        sample = Patches(*(x.to(device) for x in data.batch(chosen)))
        images, usable = task.feed(sample)
        with torch.inference_mode():
            days = asked_days(model, sample.days)
            outputs = _as_one(model, images, usable) if together else model(images, usable, *days)
        for name, values in task.score(checkpoint, outputs, sample).items():
            kept.setdefault(name, []).append(values)
        order.append(chosen)
    checkpoint.model.cpu()
    back = np.argsort(np.concatenate(order), kind="stable")  # indices ascend
    return {name: np.concatenate(parts)[back] for name, parts in kept.items()}


def chosen_threshold(checkpoint: ImageCheckpoint, data: Samples) -> float:
    """The probability of class 1 above which the F1 over all labelled pixels is largest, in hundredths.

    0.5 where no pixel is of class 1, or there are more than two classes. A network that is rightly unsure never says
    more than a half: the best cut is half of the best F1 (Lipton et al. 2014, doi 10.1007/978-3-662-44851-9_15).
    """
    from eoflow.tasks.images import classify

    task: Any = checkpoint.task
    if len(task.class_names(checkpoint.recipe)) != 2 or not len(data):
        return 0.5
    counts = np.zeros((2, THRESHOLDS))  # labelled pixels of class 0 and 1 by their probability
    for chosen in _batches(data, _looked_at(data), False, checkpoint.recipe.training.batch_size):
        sample = data.batch(chosen)
        images, usable = task.feed(sample)
        with torch.inference_mode():
            outputs = checkpoint.model(images, usable, *asked_days(checkpoint.model, sample.days))
        chance, target = classify(outputs["logits"])[1], task.target(sample, usable)
        cell = (chance * THRESHOLDS).long().clamp_max(THRESHOLDS - 1)
        for label in (0, 1):
            counts[label] += np.bincount(cell[target == label].numpy(), minlength=THRESHOLDS)
    if not counts[1].any():
        return 0.5
    wrong, right = (counts[label, ::-1].cumsum()[::-1] for label in (0, 1))  # said, at each cut
    f1 = 2 * right / (right + wrong + counts[1].sum())
    return float(f1[1:].argmax() + 1) / THRESHOLDS


def _looked_at(data: Samples) -> Array:
    """Indices of AT_MOST samples."""
    return np.unique(np.linspace(0, len(data) - 1, min(AT_MOST, len(data))).round().astype(int))


def _batches(data: Samples, indices: Array, together: bool, size: int) -> Iterator[Array]:
    """Ascending indices in batches; `together`: each of one place."""
    if not together:
        yield from (indices[at : at + size] for at in range(0, len(indices), size))
        return
    places = _places(data, indices)
    for place in np.unique(places):
        mine = indices[places == place]
        yield from (mine[at : at + MOSAIC] for at in range(0, len(mine), MOSAIC))


def _as_one(model: torch.nn.Module, images: Tensor, usable: Tensor) -> dict[str, Tensor]:
    """A model's outputs on (B, ...) samples laid below each other as one image."""
    count = len(images)
    tall = torch.cat(tuple(images), dim=-2)[None], torch.cat(tuple(usable), dim=-2)[None]
    out = model(*tall)
    return {name: torch.cat(x.chunk(count, dim=-2)) for name, x in out.items()}


def _places(data: Samples, indices: Array) -> Array:
    return np.array([str(data.describe(int(i))["tile"]) for i in indices])


def scores(
    checkpoint: ImageCheckpoint, data: Samples, dataset: str, progress: Progress | None = None,
    begun: ImageCheckpoint | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:  # fmt: skip
    """Rows of the model and of each trivial one, as of `eoflow verify`; and why those that cannot be run cannot.

    begun: what a fine-tuned model started from, for rows of BEFORE. Interval: 95 % by bootstrap over the places (tiles)
    of the samples.
    """
    task: Any = checkpoint.task
    if not len(data):
        return [], {}
    indices = _looked_at(data)
    places = _places(data, indices)
    rows: list[dict[str, Any]] = []
    unable: dict[str, str] = {}
    names = [n for n in (checkpoint.recipe.baselines or task.baselines) if n != checkpoint.name]
    given = {"": checkpoint, **({} if begun is None else {BEFORE: begun})}
    names = [*list(given)[1:], *names]
    for k, name in enumerate(["", *names]):
        if progress is not None:
            progress(k, len(names) + 1, f"scores of {name or checkpoint.name}")
        try:
            one = given.get(name) or ImageCheckpoint.closed_form(
                name, checkpoint.recipe, data.schema, data.normalizer.channels, normalizer=data.normalizer
            )  # fmt: skip
        except BadInput as e:
            unable[name] = e.what
            continue
        found = scored(one, data, indices)
        low, high = _interval(task, one, found, places)
        for (variable, metric), value in task.summary(one, found).items():
            rows.append({
                "dataset": dataset, "model": name or checkpoint.name, "task": task.name, "split": data.split,
                "variable": variable, "metric": metric, "value": _number(value),
                "low": _number(low[variable, metric]), "high": _number(high[variable, metric]), "n": len(indices),
            })  # fmt: skip
    return rows, unable


def _interval(task: Any, checkpoint: ImageCheckpoint, found: dict[str, Array], places: Array) -> tuple[Any, Any]:
    """Lower and upper limit of every score."""
    members = [np.flatnonzero(places == p) for p in np.unique(places)]
    if len(members) == 1:
        members = [np.array([i]) for i in range(len(places))]
    rng = np.random.default_rng(0)
    drawn: dict[Any, list[float]] = {}
    for _ in range(DRAWS):
        pick = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for key, value in task.summary(checkpoint, {k: v[pick] for k, v in found.items()}).items():
            drawn.setdefault(key, []).append(value)
    known = {key: [v for v in values if math.isfinite(v)] or [math.nan] for key, values in drawn.items()}
    return tuple({key: float(np.quantile(values, q)) for key, values in known.items()} for q in (0.025, 0.975))  # type: ignore[return-value]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def ranking(checkpoint: ImageCheckpoint) -> str:
    """The metric that ranks models: the recipe's, or the task's first that there are scores of."""
    task: Any = checkpoint.task
    there = {r["metric"] for r in checkpoint.scores}
    for name in [checkpoint.recipe.gate.metric or "", *task.metrics]:
        for metric in (name, f"{name}_all"):
            if metric in there:
                return metric
    return str(task.metrics[0])


def verdict(checkpoint: ImageCheckpoint) -> str:
    """One sentence: whether the model beats the best trivial one on the validation split."""
    task: Any = checkpoint.task
    metric = ranking(checkpoint)
    lower = metric.removesuffix("_all") in task.lower_is_better
    rows = [r for r in checkpoint.scores if r["metric"] == metric and r["value"] is not None]
    variable = "mean" if any(r["variable"] == "mean" for r in rows) else None
    rows = [r for r in rows if variable in (None, r["variable"])]
    mine = next((r for r in rows if r["model"] == checkpoint.name), None)
    gate = checkpoint.recipe.gate.baseline
    others = [r for r in rows if r["model"] not in (checkpoint.name, BEFORE) and gate in (None, r["model"])]
    if mine is None or not others:
        return "There is no score to compare it by."
    best = (min if lower else max)(others, key=lambda r: r["value"])
    wins = mine["value"] < best["value"] if lower else mine["value"] > best["value"]
    clear = mine["high"] < best["value"] if lower else mine["low"] > best["value"]
    against = f"{metric} {mine['value']:.4g} against {best['value']:.4g} of {best['model']}"
    gained = _gained(mine, next((r for r in rows if r["model"] == BEFORE), None), lower)
    if not wins:
        return f"No skill on the validation split: {against}. Use {best['model']} instead.{gained}"
    word = "better than" if clear else "not clearly better than"
    return f"On the validation split it is {word} the trivial models: {against}.{gained}"


def _gained(mine: dict[str, Any], before: dict[str, Any] | None, lower: bool) -> str:
    """What fine-tuning did to the score, as a further sentence."""
    if before is None:
        return ""
    gain = (before["value"] - mine["value"]) * (1 if lower else -1)
    change = f"{mine['metric']} {before['value']:.4g} before, {mine['value']:.4g} after"
    count = f"(n = {mine['n']})"
    return f" Fine-tuning helped {count}: {change}." if gain > 0 else f" Fine-tuning did not help {count}: {change}."


def write_card(checkpoint: ImageCheckpoint, unable: dict[str, str]) -> str:
    """card.md: what the checkpoint is, how it was made, how it scores, what it is good for and what not."""
    made, recipe = checkpoint.provenance, checkpoint.recipe
    bands = ", ".join(f"{c} [{u}]" for c, u in zip(checkpoint.normalizer.channels, checkpoint.normalizer.units))
    dates = recipe.patches.dates
    lines = [
        f"# {recipe.title}", "",
        f"`{checkpoint.name}`: {recipe.network.name} for {recipe.task}, trained on `{made['dataset']}`.", "",
        f"- made by: `{made['command']}` with eoflow {made['eoflow']}, seed {made['seed']}, {made['steps']} steps",
        f"- data: {made.get('title') or made['dataset']}; licence {made.get('licence', 'unknown')}",
        f"- takes: {bands}; {dates} date{'s' * (dates > 1)} ({checkpoint.schema.sensor} {checkpoint.schema.level})",
        f"- samples: {', '.join(f'{k} {v}' for k, v in checkpoint.splits.items() if k != 'proof')}",
        f"- parameters: {parameters(checkpoint.model):,}; hash of content: `config.json`",
    ]  # fmt: skip
    if made.get("threshold"):
        lines.append(f"- class 1 above a probability of {recipe.cut:.2f}: {made['threshold']}")
    if made.get("from"):
        lines.append(f"- fine-tuned from: {made['from']}")
    if checkpoint.scores:
        lines += ["", f"## Scores on the validation split (n = {checkpoint.scores[0]['n']} samples, 95 % by place)", "",
                  *_table(checkpoint), "", verdict(checkpoint)]  # fmt: skip
    else:
        lines += ["", "The validation split holds no sample: nothing is known about its skill."]
    lines += [f"Not beside it: {name} ({why})." for name, why in unable.items()]
    lines += [
        "", "Not for: other bands or units (refused), other sensors or resolutions than those it was trained on,",
        "landscapes and seasons that the training data do not hold; there its scores say nothing.", "",
    ]  # fmt: skip
    if recipe.notes:
        lines += [recipe.notes, ""]
    return "\n".join(lines)


def _table(checkpoint: ImageCheckpoint) -> list[str]:
    models = list(dict.fromkeys(r["model"] for r in checkpoint.scores))
    cells = {(r["variable"], r["metric"], r["model"]): r for r in checkpoint.scores}
    lines = ["| | metric | " + " | ".join(models) + " |", "|---" * (len(models) + 2) + "|"]
    for variable, metric in dict.fromkeys((r["variable"], r["metric"]) for r in checkpoint.scores):
        said = []
        for m in models:
            r = cells.get((variable, metric, m))
            if r is None or r["value"] is None:
                said.append("")
            else:
                said.append(f"{r['value']:.4g} ({r['low']:.4g} to {r['high']:.4g})")
        lines.append(f"| {variable} | {metric} | " + " | ".join(said) + " |")
    return lines
