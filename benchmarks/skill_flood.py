"""Skill of the flood models on labelled chips: networks beside Otsu, Kittler-Illingworth and fixed thresholds.

    python -m benchmarks.skill_flood DIR [--model flood-s1,...] [--baselines otsu,...] [--folds N] [--set K=V] [--json]

DIR: chips as of Sen1Floods11 (X_S1Hand.tif beside X_LabelHand.tif, or in sub-folders); see eoflow.prepare.chips. IoU of
water for each chip and over all pixels together, with a 95 % interval by bootstrap over chips, and the paired
difference of each model to the best of the thresholds. With --folds, also of the first model before and after
fine-tuning: every chip by a model that was tuned to the chips of the other folds. Not part of `make bench`: it measures
skill, not speed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "otsu": ("otsu", {}),
    "otsu 5x5": ("otsu", {"smooth": 5}),
    "kittler-illingworth": ("otsu", {"method": "kittler-illingworth"}),
    "vv-vh": ("band-thresholds", {}),
    "vv-vh 5x5": ("band-thresholds", {"smooth": 5}),
    "ndwi": ("ndwi", {}),
}
"""Name in the table -> recipe and options of its network."""


def baseline(name: str, recipe: Any, schema: Any, bands: tuple[str, ...]) -> Any:
    """A threshold as a checkpoint."""
    from eoflow.checkpoint_images import ImageCheckpoint, build

    model, options = VARIANTS[name]
    made = ImageCheckpoint.closed_form(model, recipe, schema, bands)
    network = made.recipe.network.model_copy(update={"options": {**made.recipe.network.options, **options}})
    made.recipe = made.recipe.model_copy(update={"network": network, "threshold": 0.5})  # whatever the network's is
    made.model = build(made.recipe, made.signature, made.schema, made.normalizer).eval()
    return made


def run(folder: str, models: list[str], baselines: list[str], workspace: str | None = None) -> dict[str, Any]:
    """The table: chips {name: {model: IoU}}, mean of the chips, pooled rows, the best threshold, paired differences."""
    import numpy as np

    from eoflow import checkpoint, registry
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.errors import BadInput
    from eoflow.prepare.chips import chip_bands, open_chips
    from eoflow.verify import image_models
    from eoflow.verify.image_counts import Scene, metrics_of
    from eoflow.verify.image_run import truth_of
    from eoflow.verify.image_scores import Tally, rows_of
    from eoflow.workspace import Workspace

    ws = Workspace.of(workspace)
    found = []
    for name in models:
        at = [name] if "/" in name else checkpoint.available(ws, name, "images")
        if not at:
            raise BadInput(f"there is no trained '{name}'", todo=f"eoflow train {name} --dataset ...")
        found.append(ImageCheckpoint.from_pretrained(at[0]))
    recipe = found[0].recipe
    schema = chip_bands(folder, recipe.task)[1]
    bands = tuple(dict.fromkeys(str(c) for f in found for c in f.fitted(schema).channels))
    physical = type(recipe.patches.normalize)(scheme="none")
    patches = recipe.patches.model_copy(update={"bands": bands, "normalize": physical})
    base = recipe.model_copy(update={"patches": patches})
    runners = [image_models.runner(f, schema, bands, (), f.name) for f in found]
    for name in baselines:
        try:
            runners.append(image_models.runner(baseline(name, base, schema, bands), schema, bands, (), name))
        except BadInput:
            continue  # a water index of radar, a radar threshold of an optical image
    data = open_chips(folder, base)["all"].whole()
    task = registry.load("tasks", recipe.task)(recipe.patches.classes)
    classes = tuple(task.class_names(base))
    tally = Tally(metrics_of(recipe.task, Scene(classes, (), {})))
    chips: dict[str, dict[str, float]] = {}
    for i in range(len(data)):
        sample, chip = data.batch([i]), str(data.describe(i)["tile"])
        truth = truth_of(sample, classes, (), task.feed(sample)[1][0].numpy())
        for r in runners:
            layers = r.run(sample)
            tally.add(r.name, chip, truth, layers)
            known = (truth.labels >= 0) & (layers["class"] != 255)
            water, said = (truth.labels == 1) & known, (layers["class"] == 1) & known
            union = int((water | said).sum())
            chips.setdefault(chip, {})[r.name] = float((water & said).sum() / union) if union else float("nan")
    thresholds = [r.name for r in runners if r.checkpoint.model.closed_form]
    rows, pairs, notes = rows_of(tally, thresholds, dataset=folder, task=recipe.task, split="all")
    rows = [r for r in rows if r.metric == "iou"]
    best = max((r for r in rows if r.model in thresholds), key=lambda r: r.value, default=None)
    against = None if best is None else best.model
    mean = {r.name: float(np.nanmean([c[r.name] for c in chips.values()])) for r in runners}
    return {
        "chips": chips, "mean": mean, "pooled": [asdict(r) for r in rows], "against": against, "notes": notes,
        "pairs": [asdict(p) for p in pairs if p.metric == "iou" and p.baseline in (against, "otsu")],
    }  # fmt: skip


def tuned(folder: Path, model: str, count: int, overrides: list[str]) -> dict[str, Any]:
    """{chip: {"before", "after": (found, said, true) pixels of water}}: chips with a label and anything seen."""
    import eoflow
    from benchmarks.skill_change import counted, folds
    from eoflow.checkpoint_images import named_checkpoint
    from eoflow.workspace import Workspace

    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.tif")):
        files.setdefault(file.stem.rpartition("_")[0], []).append(file)
    names = [n for n, some in files.items() if len(some) > 1]
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        ws = Workspace(Path(temporary) / "workspace")
        begun = named_checkpoint(ws, model)
        start, recipe = begun.location, begun.recipe.name
        for fold, (rest, left_out) in enumerate(folds(names, count)):
            train, test = (Path(temporary) / f"{part}-{fold}" for part in ("train", "test"))
            train.mkdir()
            test.mkdir()
            for name in left_out:
                for file in files[name]:
                    shutil.copy(file, test)
            for k, name in enumerate(rest):
                for part in ("train", "val")[: 1 + (k == 0)]:
                    for file in files[name]:
                        shutil.copy(file, train / f"{part}_{file.name}")
            made = eoflow.train(recipe, chips=train, start=start, overrides=overrides, workspace=ws)
            before, after = counted(test, start), counted(test, str(made.folder))
            out |= {chip: {"before": before[chip], "after": after[chip]} for chip in before}
    return out


def tuned_text(found: dict[str, Any]) -> str:
    """IoU of water before and after fine-tuning, of each chip and of all pixels."""

    def iou(counts: Any) -> str:
        hit, said, true = counts
        return f"{hit / (said + true - hit):8.3f}" if said + true > 0 else "       -"

    lines = [f"{'every chip tuned to the others':32s}{'before':>8s}{'after':>8s}"]
    lines += [f"{chip:32s}{iou(x['before'])}{iou(x['after'])}" for chip, x in sorted(found.items())]
    both = [[sum(x[when][i] for x in found.values()) for i in range(3)] for when in ("before", "after")]
    return "\n".join([*lines, f"{'all pixels':32s}{iou(both[0])}{iou(both[1])}"])


def text(found: dict[str, Any]) -> str:
    """The table as lines."""
    names = list(found["mean"])
    width = max(len(c) for c in [*found["chips"], "mean of chips"]) + 2
    lines = [" " * width + "".join(f"{n:>22}" for n in names)]
    table = {**found["chips"], "mean of chips": found["mean"]}
    lines += [f"{c:<{width}}" + "".join(f"{row[n]:22.3f}" for n in names) for c, row in table.items()]
    pooled = {r["model"]: r for r in found["pooled"]}
    lines.append(f"{'all pixels':<{width}}" + "".join(f"{_interval(pooled.get(n)):>22}" for n in names))
    for p in found["pairs"]:
        if p["model"] not in (q["model"] for q in found["pooled"]) or p["model"] == p["baseline"]:
            continue
        sides = "no interval" if p["low"] is None else f"{p['low']:+.3f} to {p['high']:+.3f}"
        lines.append(f"{p['model']} - {p['baseline']}: {p['difference']:+.3f} ({sides}, 95 %, {p['n']} chips)")
    return "\n".join([*lines, *found["notes"]])


def _interval(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['value']:.3f}" + ("" if row["low"] is None else f" ({row['low']:.2f}..{row['high']:.2f})")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="flood-s1", help="names or folders, with commas")
    parser.add_argument("--baselines", default=",".join(VARIANTS))
    parser.add_argument("--workspace")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folds", type=int, default=0, help="also tuned, leaving one of so many parts out each time")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="of fine-tuning")
    args = parser.parse_args()
    wanted = [b for b in args.baselines.split(",") if b]
    for name in wanted:
        if name not in VARIANTS:
            parser.error(f"no baseline '{name}': choose from {', '.join(VARIANTS)}")
    found = run(args.folder, args.model.split(","), wanted, args.workspace)
    if args.folds:
        found["tuned"] = tuned(Path(args.folder), args.model.split(",")[0], args.folds, args.overrides)
    print(json.dumps(found, indent=2) if args.json else text(found))
    if args.folds and not args.json:
        print(tuned_text(found["tuned"]))


if __name__ == "__main__":
    main()
