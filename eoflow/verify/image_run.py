"""`eoflow verify` of image models: a scene dataset or a folder of labelled chips, the trivial models beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__
from eoflow.bands import SceneSchema
from eoflow.catalog_images import ImageRecipe
from eoflow.errors import BadInput
from eoflow.quality import Quality
from eoflow.registry import nearest
from eoflow.verify import bootstrap, image_models
from eoflow.verify.image_asked import Place, base_recipe, checkpoints, place_asked, runners, task_asked
from eoflow.verify.image_bits import in_fewer_bits, said
from eoflow.verify.image_card import FEW, ImageScorecard
from eoflow.verify.image_counts import Scene, Truth, best_threshold, metrics_of, reliability
from eoflow.verify.image_models import Runner
from eoflow.verify.image_scores import Tally, rows_of
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.chips import ChipOptions
    from eoflow.prepare.scenes.samples import Samples
    from eoflow.prepare.scenes.trainset import Patches

Progress = Callable[[float, float, str], None]
Array = np.ndarray[Any, np.dtype[Any]]
BLOCKS = (8, 4, 2, 1)
"""Patches a side of the blocks that are drawn again where a dataset has a single tile: the first that gives enough."""


def verify_images(
    dataset: str | None = None, models: str | Sequence[str] | None = None, *, chips: str | Path | None = None,
    task: str | None = None, split: str | None = None, baselines: bool = True, dates: int | None = None,
    options: ChipOptions | None = None, seed: int = 0, workspace: Workspace | str | None = None,
    progress: Progress | None = None,
) -> ImageScorecard:  # fmt: skip
    """Score image models on a scene dataset, or on a folder of labelled chips, and write scores.json.

    models: names or folders (a list, or with commas); by default all trained ones that fit. task: needed where
    no model says it. split: of a dataset `test`; of chips `all`, but `test` where a model was trained on the folder.
    The trivial models of the task are always added (baselines=False: not). All models see the same pixels: of chips
    that have the bands of all of them, whole ones. dates: how many the trivial models of cloud removal may use, if more
    than the models do. options: what the files do not say (see prepare.chips).
    Raises BadInput where nothing can be scored.
    """
    ws = Workspace.of(workspace)
    if (dataset is None) == (chips is None):
        raise BadInput("say what to verify on: one dataset, or one folder of chips",
                       todo="--dataset NAME or --chips DIR")  # fmt: skip
    asked = [m.strip() for m in (models.split(",") if isinstance(models, str) else models or []) if m.strip()]
    chosen = task_asked(ws, task, asked, dataset)
    place = place_asked(ws, dataset, None if chips is None else Path(chips), chosen, options)
    found = checkpoints(ws, place, chosen, asked)
    base = base_recipe(place, chosen, found, dates)
    own, trivial = runners(place, chosen, base, found, baselines, asked)
    where, samples = _samples(ws, place, chosen, base, [*own, *trivial], split, found, progress)
    fewer = in_fewer_bits(own, samples)
    own += fewer.values()
    tally = _tally(samples, base, own, trivial, where, progress)
    header = _header(ws, place, chosen, base, own, trivial, samples, where, tally, seed)
    header |= _probabilities(tally, own, where)
    rows, comparisons, notes = rows_of(
        tally, [r.name for r in trivial], dataset=place.name, task=chosen, split=samples.split, seed=seed,
        also=[(r.name, name) for name, r in fewer.items()],
    )  # fmt: skip
    if not rows:
        raise BadInput("no pixel could be scored", where=f"{place.name}, split {samples.split}",
                       todo="every label is missing (-1), or lies where nothing was seen")  # fmt: skip
    header["notes"] += notes
    card = ImageScorecard(rows, comparisons, header)
    card.header["notes"] += said(card, fewer)
    if own:
        card.header["gate"] = _gate(card, own[0])
    ws.write_text(card.to_json(), "products", "scorecards", place.name, chosen, "scores.json")
    return card


# -- samples -----------------------------------------------------------------------------------------------------------


def _samples(
    ws: Workspace, place: Place, task: str, base: ImageRecipe, runners: Sequence[Runner], split: str | None,
    found: Sequence[ImageCheckpoint], progress: Progress | None,
) -> tuple[list[str], Samples]:  # fmt: skip
    """The samples in physical units, and the group of each."""
    if place.chips is not None:
        from eoflow.prepare.chips import SPLITS, open_chips

        seen = [f for f in found if _saw(f, place)]
        trained = [f.name for f in seen]
        name = split or ("test" if trained else "all")
        if name not in SPLITS:
            raise BadInput(f"no split '{name}'{nearest(name, list(SPLITS))}", todo=f"choose from {', '.join(SPLITS)}")
        sets = open_chips(place.chips, base, options=place.options)
        place.notes += sets[name].notes
        data: Any = sets[name].whole()
        if seen and name != "all":  # the division that they were trained by: other bands may leave other chips
            data = sets["all"].whole()
            data.split = name
        for one in seen if name != "all" else ():
            own = open_chips(place.chips, one.recipe, options=place.options, normalizer=one.normalizer,
                             target_normalizer=one.target_normalizer)  # fmt: skip
            data = data.only(c.name for c in own[name].chips)
        if trained and name in ("all", "train"):
            place.notes.append(f"{', '.join(trained)} was trained on chips of this folder: these scores flatter it.")
        elif trained and split is None:
            place.notes.append(f"{', '.join(trained)} was trained on this folder: only its test chips are scored.")
        return [data.describe(i)["tile"] for i in range(len(data))], _filled(data, place)
    from eoflow.prepare.scenes.run import prepare_patches
    from eoflow.prepare.scenes.trainset import PatchSet

    assert place.dataset is not None
    prepared = prepare_patches(place.dataset, base.patches, workspace=ws, progress=progress)
    data = _filled(PatchSet(prepared.path, split or "test"), place)
    about = [data.describe(i) for i in range(len(data))]
    tiles = [str(a["tile"]) for a in about]
    if len(set(tiles)) == 1:
        for side in (k * base.patches.patch for k in BLOCKS):
            tiles = [f"{a['tile']} {a['y'] // side},{a['x'] // side}" for a in about]
            if len(set(tiles)) >= FEW:
                break
        place.notes.append(f"One tile: blocks of {side} pixels are drawn again for the intervals.")
    if any(image_models.whole_scene(r.checkpoint.model) for r in runners):
        place.notes.append("Thresholds of a whole scene are taken from each patch here.")
    return tiles, data


def _filled(data: Any, place: Place) -> Any:
    if not len(data):
        raise BadInput(f"the split '{data.split}' holds no sample", where=place.name, todo="choose another --split")
    return data


def _saw(found: ImageCheckpoint, place: Place) -> bool:
    """Whether a checkpoint was trained on chips of this folder."""
    seen = found.provenance.get("chips")
    return seen is not None and place.chips is not None and Path(str(seen)).resolve() == place.chips.resolve()


def truth_of(sample: Patches, classes: tuple[str, ...], bands: tuple[str, ...], usable: Array) -> Truth:
    """What a physical sample (a batch of one) says; usable (T, h, w): where its dates saw the ground."""
    there = (sample.quality[0] > int(Quality.MISSING)).numpy()
    shape = usable.shape[1:]
    labels = np.full(shape, -1, np.int64)
    if sample.labels.shape[1]:
        labels = np.where(usable.all(0), sample.labels[0, 0].numpy(), -1)
    target = np.zeros((0, *shape))
    if sample.target.shape[1]:
        good = np.isin(sample.target_quality[0].numpy(), [int(Quality.CLEAR), int(Quality.WATER), int(Quality.SNOW)])
        target = np.where(good, sample.target[0].numpy().astype(np.float64), np.nan)
    hidden = np.asarray(~usable.any(0))
    cloudy = np.asarray((there & ~usable).any(0) | hidden)
    return Truth(labels, target, cloudy, hidden, classes, bands)


def _tally(
    data: Samples, base: ImageRecipe, own: Sequence[Runner], trivial: Sequence[Runner], groups: Sequence[str],
    progress: Progress | None,
) -> Tally:  # fmt: skip
    """One sample at a time: every model on it, its sums added to those of its group.

    What is cloudy is a question of the dates that the first model sees.
    """
    from eoflow.prepare.scenes.samples import days

    scene = _scene(base, data.schema)
    tally = Tally(metrics_of(base.task, scene))
    first = [*own, *trivial][0]
    for i, group in enumerate(groups):
        if progress is not None:
            progress(i, len(groups), group)
        sample = data.batch([i])
        known = days(data, [i])
        times, when = (None, None) if known is None else (known[0][0], float(known[1][0]))
        seen = first.dated(sample, times, when)[0]
        usable = first.checkpoint.task.feed(seen)[1][0].numpy()
        truth = truth_of(seen, scene.classes, scene.bands, usable)
        for r in [*own, *trivial]:
            tally.add(r.name, group, truth, r.run(sample, times, when))
    return tally


def _scene(base: ImageRecipe, schema: SceneSchema) -> Scene:
    labels = base.patches.labels
    classes: tuple[str, ...] = ()
    if labels is not None and base.task != "cloud-removal":
        from eoflow.checkpoint_images import task_of

        classes = tuple(task_of(base).class_names(base))
    targets = base.patches.targets
    common = {str(schema.band(t).common_name or t): i for i, t in enumerate(targets)}
    return Scene(classes, targets, common)


# -- what is written beside the numbers --------------------------------------------------------------------------------


def _header(
    ws: Workspace, place: Place, task: str, base: ImageRecipe, own: Sequence[Runner], trivial: Sequence[Runner],
    samples: Samples, groups: Sequence[str], tally: Tally, seed: int,
) -> dict[str, Any]:  # fmt: skip
    group = "tile" if place.dataset else "date" if task == "cloud-removal" and samples.describe(0)["target"] else "chip"
    if place.dataset and " " in groups[0]:
        group = "block"
    n = len(set(groups))
    notes = list(dict.fromkeys(place.notes))
    silent = sorted(set(groups) - set(tally.counted()))
    if silent:
        some = ", ".join(silent[:4]) + (" ..." if len(silent) > 4 else "")
        notes.append(f"{len(silent)} of {n} {group}s have no pixel that counts: {some}")
    if n < FEW:
        notes.append(f"{n} {group}s only: the intervals mean little, or are absent")
    return {
        "dataset": place.name, "chips": None if place.chips is None else str(place.chips), "task": task,
        "split": samples.split, "models": {r.name: _about(r) for r in [*own, *trivial]},
        "baselines": [r.name for r in trivial], "group": group, "groups": n, "samples": len(groups),
        "bands": list(base.patches.bands or ()), "targets": list(base.patches.targets), "dates": base.patches.dates,
        "classes": list(_scene(base, samples.schema).classes),
        "metrics": {m.name: m.better for m in tally.metrics},
        "interval": f"95 %, bootstrap over {group}s, {bootstrap.RESAMPLES} resamples, seed {seed}, widened by Student",
        "pooling": "every pixel counts once: sums of all samples, then the score",
        "code_version": __version__, "notes": notes,
    }  # fmt: skip


def _about(r: Runner) -> dict[str, Any]:
    c = r.checkpoint
    return {"hash": c.hash, "network": c.recipe.network.name, "dates": c.signature.dates,
            "trained_on": c.provenance.get("dataset"), "tuned_from": c.provenance.get("from"),
            "bands": [str(b) for b in r.normalizer.channels], "location": c.location}  # fmt: skip


def _probabilities(tally: Tally, own: Sequence[Runner], groups: Sequence[str]) -> dict[str, Any]:
    """Reliability of the models' probabilities, and the threshold that would have been best here (optimistic)."""
    out: dict[str, Any] = {}
    for r in own:
        sums = tally.total(r.name, "probability")
        if sums is None or not sums.any():
            continue
        best = best_threshold(sums)
        out[r.name] = {
            "reliability": reliability(sums), "threshold_used": r.checkpoint.recipe.cut,
            "best_threshold": None if best is None else {"threshold": best[0], "iou": best[1],
                                                         "note": "chosen on the very samples that are scored"},
        }  # fmt: skip
    return {"probabilities": out} if out else {}


def _gate(card: ImageScorecard, r: Runner) -> dict[str, Any]:
    """Whether the model passes the gate of its recipe on this scorecard, and why (or why it cannot be told)."""
    gate = r.checkpoint.recipe.gate
    names = [gate.metric, f"{gate.metric}_all", f"{gate.metric}_cloudy"] if gate.metric else card.leading()
    metric = next((m for m in names if m in card.metrics), None)
    if metric is None:
        return {"passed": None, "why": f"the scorecard has no metric '{gate.metric}'"}
    rows = [x for x in card.rows if x.model == r.name and x.metric == metric]
    found = []
    for row in rows:
        best = card.best_baseline(row.variable, metric)
        against = gate.baseline if gate.baseline in card.baselines else None if best is None else best.model
        pair = None if against is None else card.compare(r.name, against, row.variable, metric)
        if pair is not None and pair.low is not None:
            found.append((row.variable, pair))
    if not found:
        return {"passed": None, "why": "there is no baseline, or there are too few groups, to compare it by"}
    passed = all(not p.worse for _, p in found) and 2 * sum(p.better for _, p in found) >= len(found)
    words = [f"{v}, {metric}: {p.difference:+.3g} [{p.low:+.3g}, {p.high:+.3g}] against {p.baseline}" for v, p in found]
    return {"passed": passed, "why": "; ".join(words)}


