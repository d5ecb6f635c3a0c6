"""Skill of change detection on folders of labelled pairs (A/ B/ label/), beside the trivial methods.

    python -m benchmarks.skill_change FOLDER ... [--model NAME|FOLDER] [--folds 5] [--steps N] [--workspace DIR]

Prints F1, IoU, precision and recall of the class change with 95 % intervals over pairs, for the model as it is and for
image difference, change-vector analysis and IR-MAD, and the ratio of its F1 to the image difference's. With --folds,
also for the model after fine-tuning on the other pairs of the folder: every pair is predicted by a model that was not
trained on it (leave-one-out where there are as many folds as pairs). Not part of `make bench`: it measures skill, not
speed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

METRICS = ("f1", "iou", "precision", "recall")
PLAIN = "image-difference"
GOAL = 1.5
"""Times the F1 of the image difference that a model must reach."""
PARTS = ("A", "B", "label")


def scores(card: Any, name: str | None = None) -> dict[str, dict[str, Any]]:
    """model -> metric -> value, low, high; with the ratio of F1 to the image difference's."""
    out: dict[str, dict[str, Any]] = {}
    for row in card.rows:
        if row.metric in METRICS:
            found = {"value": row.value, "low": row.low, "high": row.high, "n": row.n}
            out.setdefault(row.model, {})[row.metric] = found
    plain = out.get(PLAIN, {}).get("f1", {}).get("value")
    for model in out.values():
        model["ratio"] = model["f1"]["value"] / plain if plain else None
    return out


def folds(names: list[str], count: int) -> list[tuple[list[str], list[str]]]:
    """(names to train on, names to predict) of each fold; every one is predicted once."""
    count = min(count, len(names))
    return [([n for k, n in enumerate(names) if k % count != f], names[f::count]) for f in range(count)]


def copied(folder: Path, names: list[str], to: Path, train: bool = False) -> Path:
    """A folder of some of the pairs. train: all of them train, and the first one is looked at as validation as well."""
    for part in PARTS:
        (to / part).mkdir(parents=True)
        for file in (folder / part).iterdir():
            stems = [Path(n).stem for n in names]
            if file.stem not in stems:
                continue
            number = stems.index(file.stem)
            shutil.copy(file, to / part / (f"train_{number}{file.suffix}" if train else file.name))
            if train and number == 0:
                shutil.copy(file, to / part / f"val_{number}{file.suffix}")
    return to


def tuned(
    folder: Path, model: str, recipe: str, count: int, steps: int | None, ws: Any, overrides: list[str]
) -> dict[str, Any]:
    """All folds together: F1, IoU, precision, recall of the fine-tuned model over the pairs it did not see."""
    import eoflow

    hit = said = true = 0.0
    each = {}
    with tempfile.TemporaryDirectory() as temporary:
        names = sorted(p.name for p in (folder / "A").iterdir() if p.is_file())
        for f, (train, test) in enumerate(folds(names, count)):
            some = copied(folder, train, Path(temporary) / f"train-{f}", train=True)
            rest = copied(folder, test, Path(temporary) / f"test-{f}")
            options = [*([f"training.steps={steps}"] if steps else []), *overrides]
            made = eoflow.train(recipe, chips=some, start=model, overrides=options, workspace=ws)
            tallied = counted(rest, str(made.folder))
            for name, (h, s, t) in tallied.items():
                hit, said, true = hit + h, said + s, true + t
                each[name] = 2 * h / max(s + t, 1)
    return {
        "f1": 2 * hit / max(said + true, 1), "iou": hit / max(said + true - hit, 1), "precision": hit / max(said, 1),
        "recall": hit / max(true, 1), "each": each,
    }  # fmt: skip


def counted(folder: Path, model: str) -> dict[str, tuple[float, ...]]:
    """Chip -> pixels of class 1 (of two) that were found, that were said, that are."""
    import torch

    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.chips import open_chips
    from eoflow.prepare.scenes.augment import spatial
    from eoflow.quality import Quality

    found = ImageCheckpoint.from_pretrained(Path(model))
    samples = open_chips(folder, found.recipe, normalizer=found.normalizer)["all"]
    out: dict[str, tuple[float, ...]] = {}
    for k in range(len(samples)):
        sample = samples.batch([k])
        there = (sample.quality[0] > int(Quality.MISSING)).any(0)  # a chip is filled up to the recipe's patch
        if not there.any():
            continue
        height, width = int(there.any(1).sum()), int(there.any(0).sum())
        sample = spatial(sample, lambda x, h=height, w=width: x[..., :h, :w])  # type: ignore[misc]
        images, usable = found.task.feed(sample)
        with torch.no_grad():
            said = found.model(images, usable)["logits"][:, 0].sigmoid() > found.recipe.cut
        target = found.task.target(sample, usable)
        true, known = target == 1, target >= 0
        numbers = ((said & true & known).sum(), (said & known).sum(), true.sum())
        name = str(samples.describe(k)["tile"])
        before = out.get(name, (0.0, 0.0, 0.0))
        out[name] = tuple(float(x) + y for x, y in zip(numbers, before, strict=True))
    return out


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="change-aerial")
    parser.add_argument("--recipe", help="of fine-tuning [the model's]")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of fine-tuning [the recipe's `tuning`]")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--workspace")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    from eoflow.checkpoint_images import named_checkpoint
    from eoflow.verify.image_run import verify_images
    from eoflow.workspace import Workspace

    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        ws = Workspace(asked.workspace or temporary)
        # A folder from here on: what is fine-tuned below goes by the same name, and would be found before it.
        start = named_checkpoint(ws, asked.model)
        asked.model, recipe = start.location, asked.recipe or start.recipe.name
        for folder in asked.folders:
            card = verify_images(None, asked.model, chips=folder, task="change-detection", split="all", workspace=ws)
            out[str(folder)] = scores(card)
            if asked.folds:
                found = tuned(folder, asked.model, recipe, asked.folds, asked.steps, ws, asked.overrides)
                plain = out[str(folder)][PLAIN]["f1"]["value"]
                found["ratio"] = found["f1"] / plain if plain else None
                out[str(folder)]["fine-tuned"] = found
    print(json.dumps(out, indent=1) if asked.json else table(out))


def table(out: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for folder, models in out.items():
        lines.append(f"{folder}\n  {'model':24s} {'F1':>22s} {'IoU':>6s} {'prec.':>6s} {'recall':>6s}   x {PLAIN}")
        for name, found in models.items():
            plain = {m: found[m]["value"] if isinstance(found[m], dict) else found[m] for m in METRICS}
            low, high = (found["f1"].get(k) if isinstance(found["f1"], dict) else None for k in ("low", "high"))
            span = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
            ratio = found["ratio"]
            verdict = "" if name in (PLAIN, "change-vector", "ir-mad") or ratio is None else (
                "  (goal met)" if ratio >= GOAL else "  (no skill at the goal of 1.5)")  # fmt: skip
            lines.append(
                f"  {name:24s} {plain['f1']:6.3f}{span:>16s} {plain['iou']:6.3f} {plain['precision']:6.3f} "
                f"{plain['recall']:6.3f}   {ratio if ratio is None else round(ratio, 2)}{verdict}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
