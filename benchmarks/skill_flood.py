"""Skill of the flood models on labelled chips: networks beside Otsu, Kittler-Illingworth and fixed thresholds.

    python -m benchmarks.skill_flood DIR [--model flood-s1,...] [--baselines otsu,...] [--json]

DIR: chips as of Sen1Floods11 (X_S1Hand.tif beside X_LabelHand.tif, or in sub-folders); see eoflow.prepare.chips. IoU of
water for each chip and over all pixels together, with a 95 % interval by bootstrap over chips, and the paired
difference of each model to the best of the thresholds. Not part of `make bench`: it measures skill, not speed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
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
    args = parser.parse_args()
    wanted = [b for b in args.baselines.split(",") if b]
    for name in wanted:
        if name not in VARIANTS:
            parser.error(f"no baseline '{name}': choose from {', '.join(VARIANTS)}")
    found = run(args.folder, args.model.split(","), wanted, args.workspace)
    print(json.dumps(found, indent=2) if args.json else text(found))


if __name__ == "__main__":
    main()
