"""Skill of cloud removal on a folder of dates of one place, beside the composites: leave one date out.

    python -m benchmarks.skill_clouds DIR [--model clouds-s2,...] [--dates 3,6] [--subsets 0 --of 10] [--json]

DIR: one file a date, its date in the name (see eoflow.prepare.chips). Every clear date is a target once, its nearest
other dates are the inputs, clouds as the files' masks or the rules say. PSNR and spectral angle of each date; the mean
over dates of every score with a 95 % interval (bootstrap over blocks of dates), over all pixels and over those that a
date did not see; the paired differences to the composites; and how often the truth lies within the standard deviation
that a model says. `--subsets N --of K`: the same on N random choices of K of the dates, as of a place that is seen less
often; a date's scores are then the mean of the choices in which it is a target, and the intervals are over dates.
`--verb`: what `eoflow clouds` writes for each target from the files of the other dates, the truth against its standard
deviation, which it sets by dates of the series that it leaves out. Not part of `make bench`: it measures skill.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

COMPOSITES = ("median-composite", "mean-composite", "last-clear", "nearest-clear", "linear-in-time")
METRICS = {"psnr": 1, "sam": -1, "ssim": 1, "mae": -1}
"""Score -> 1 where more is better."""


def run(folder: str, models: list[str], dates: int, workspace: str | None = None) -> dict[str, Any]:
    """Scores of every date, `targets`: {date: {model: {score: value}}}; `mean`, `pairs` (see summary), `within`."""
    import numpy as np

    from eoflow.checkpoint_bands import widened
    from eoflow.checkpoint_images import ImageCheckpoint, resolve_images
    from eoflow.prepare.chips import chip_bands, open_chips
    from eoflow.prepare.scenes.samples import days
    from eoflow.verify import image_models, images
    from eoflow.workspace import Workspace

    schema = chip_bands(folder, "cloud-removal")[0]
    found = [widened(resolve_images(Workspace.of(workspace), None, m, "cloud-removal", schema), schema) for m in models]
    bands = found[0].recipe.patches.bands or ()
    none = type(found[0].recipe.patches.normalize)(scheme="none")
    patches = found[0].recipe.patches.model_copy(update={"dates": dates, "normalize": none})
    base = found[0].recipe.model_copy(update={"patches": patches})
    data = open_chips(folder, base)["all"].whole()
    composites = [ImageCheckpoint.closed_form(c, base, schema, bands) for c in COMPOSITES]
    runners = [image_models.runner(c, schema, bands, bands, c.name) for c in [*found, *composites]]
    targets: dict[str, dict[str, dict[str, float]]] = {}
    inside: dict[str, list[list[float]]] = {}
    for i in range(len(data)):
        sample = data.batch([i])
        known = days(data, [i])
        times, when = (None, None) if known is None else (known[0][0], float(known[1][0]))
        usable = found[0].task.feed(sample)[1][0].numpy()
        truth, good = sample.target[0].numpy(), np.isin(sample.target_quality[0].numpy(), (5, 6, 7))
        cloudy = good & ~usable.all(0)
        row = targets.setdefault(str(data.describe(i)["target"])[:10], {})
        for r in runners:
            layers = r.run(sample, times, when)
            regions = {"": good, "_cloudy": cloudy}
            row[r.name] = {
                m + where: float(getattr(images, m)(layers["image"], truth, mask))
                for m in METRICS for where, mask in regions.items()
            }  # fmt: skip
            if "std" in layers:
                ratio = (np.abs(layers["image"] - truth) / np.maximum(layers["std"], 1e-9))[:, good]
                inside.setdefault(r.name, []).append([float((ratio < k).mean()) for k in (1, 2)])
    names = [r.name for r in runners]
    return {
        "dates": dates, "bands": list(bands), "targets": targets, "notes": data.notes, **summary(targets, names),
        "within": {n: np.mean(v, axis=0).tolist() for n, v in inside.items()},
    }  # fmt: skip


def by_verb(folder: str, model: str, dates: int) -> dict[str, list[float]]:
    """Date -> share of the values within one and within two standard deviations, psnr, of `eoflow clouds` on files."""
    import numpy as np
    import rasterio

    import eoflow
    from eoflow.checkpoint_bands import widened
    from eoflow.checkpoint_images import resolve_images
    from eoflow.prepare.chips import chip_bands, open_chips
    from eoflow.verify import images
    from eoflow.workspace import Workspace

    schema = chip_bands(folder, "cloud-removal")[0]
    found = widened(resolve_images(Workspace.of(None), None, model, "cloud-removal", schema), schema)
    patches = found.recipe.patches
    none = type(patches.normalize)(scheme="none")
    recipe = found.recipe.model_copy(update={"patches": patches.model_copy(update={"normalize": none})})
    data = open_chips(folder, recipe)["all"].whole()
    out: dict[str, list[float]] = {}
    for i in range(len(data)):
        sample, day = data.batch([i]), str(data.describe(i)["target"])[:10]
        truth, good = sample.target[0].numpy(), np.isin(sample.target_quality[0].numpy(), (5, 6, 7))
        rasters = [p for p in sorted(Path(folder).iterdir()) if p.suffix.lower() in (".tif", ".tiff")]
        with tempfile.TemporaryDirectory() as temp:
            made = eoflow.clouds([p for p in rasters if day not in p.name], out=f"{temp}/f.tif", at=day, model=model,
                                 dates=dates, workspace=f"{temp}/ws",
                                 said={"sensor": "sentinel-2", "level": "L1C"})  # fmt: skip
            with rasterio.open(made.path) as f, rasterio.open(f"{temp}/f_std.tif") as g:
                order = [f.descriptions.index(b) for b in found.recipe.patches.targets]
                image, std = f.read()[order] * 1e-4, g.read()[order]
        ratio = (np.abs(image - truth) / np.maximum(std, 1e-9))[:, good]
        out[day] = [float((ratio < 1).mean()), float((ratio < 2).mean()), float(images.psnr(image, truth, good))]
    return out


def thinned(
    folder: str, models: list[str], dates: int, subsets: int, of: int, workspace: str | None = None, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """As run, over random choices of `of` of the folder's rasters."""
    import numpy as np

    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".tif", ".tiff", ".jp2"))
    if not 2 < of <= len(files):
        raise SystemExit(f"--of {of}: the folder has {len(files)} rasters")
    gen = np.random.default_rng(seed)
    seen: dict[str, list[dict[str, dict[str, float]]]] = {}
    within: dict[str, list[list[float]]] = {}
    for _ in range(subsets):
        with tempfile.TemporaryDirectory() as name:
            for k in gen.permutation(len(files))[:of]:
                (Path(name) / files[k].name).symlink_to(files[k].resolve())
            found = run(name, models, dates, workspace)
        for date, row in found["targets"].items():
            seen.setdefault(date, []).append(row)
        for model, shares in found["within"].items():
            within.setdefault(model, []).append(shares)
    names = list(found["mean"])
    targets = {
        date: {n: {s: float(np.nanmean([r[n][s] for r in rows])) for s in rows[0][n]} for n in names}
        for date, rows in sorted(seen.items())
    }
    return found | {
        "targets": targets, **summary(targets, names), "cases": sum(map(len, seen.values())),
        "within": {n: np.mean(v, axis=0).tolist() for n, v in within.items()},
    }  # fmt: skip


def summary(targets: dict[str, dict[str, dict[str, float]]], names: list[str]) -> dict[str, Any]:
    """`mean`: {model: {score: [value, low, high]}}; `pairs`: [model, composite, score, difference, low, high], best
    composite first."""
    import numpy as np

    from eoflow.verify import bootstrap

    rows = list(targets.values())
    scores = list(rows[0][names[0]])
    table = np.array([[[row[n][s] for s in scores] for n in names] for row in rows])
    length = bootstrap.block_length(table[:, :, 0])
    weights = bootstrap.resample_weights(len(rows), length, 0)
    again = bootstrap.resampled_means(table, weights)
    value = np.nanmean(table, axis=0)
    low, high = bootstrap.interval(again, value, len(rows), length)
    mean = {n: {s: [value[j, k], low[j, k], high[j, k]] for k, s in enumerate(scores)} for j, n in enumerate(names)}
    pairs = []
    composites = [j for j, n in enumerate(names) if n in COMPOSITES]
    for k, s in enumerate(scores):
        order = sorted(composites, key=lambda j: -METRICS[s.removesuffix("_cloudy")] * np.nan_to_num(value[j, k]))
        for j, n in enumerate(names):
            for other in order if n not in COMPOSITES else ():
                step = value[j, k] - value[other, k]
                a, b = bootstrap.interval(again[:, j, k] - again[:, other, k], np.asarray(step), len(rows), length)
                pairs.append([n, names[other], s, float(step), float(a), float(b)])
    return {"mean": mean, "pairs": pairs}


def text(found: dict[str, Any]) -> str:
    """The table as lines."""
    names = list(found["mean"])
    cases = f" ({found['cases']} cases)" if "cases" in found else ""
    lines = [f"{found['dates']} dates to one, {len(found['targets'])} targets{cases}, {len(found['bands'])} bands"]
    lines.append(" " * 12 + "".join(f"{n:>20}" for n in names) + "     PSNR dB / spectral angle degrees")
    for date, row in found["targets"].items():
        lines.append(f"{date:12}" + "".join(f"{row[n]['psnr']:13.2f} / {row[n]['sam']:4.2f}" for n in names))
    for score in next(iter(found["mean"].values())):
        digits = 4 if score.startswith(("mae", "ssim")) else 2
        rows = [found["mean"][n][score] for n in names]
        cells = [f"{v:.{digits}f} ({a:.{digits}f}..{b:.{digits}f})" for v, a, b in rows]
        lines.append(f"{score:12}" + "  ".join(f"{n} {c}" for n, c in zip(names, cells, strict=True)))
    for name, other, score, step, low, high in found["pairs"]:
        sign = METRICS[score.removesuffix("_cloudy")]
        verdict = "" if sign * (low if sign > 0 else high) > 0 else "   no skill"
        lines.append(f"{name} - {other}, {score}: {step:+.4f} ({low:+.4f} to {high:+.4f}, 95 %){verdict}")
    for name, (one, two) in found["within"].items():
        lines.append(f"{name}: {one:.0%} of the values lie within one standard deviation (68 %), {two:.0%} within two")
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="clouds-s2", help="names or folders, with commas")
    parser.add_argument("--dates", default="3,6", help="how many inputs, with commas")
    parser.add_argument("--subsets", type=int, default=0, help="random choices of the dates; 0: all dates")
    parser.add_argument("--of", type=int, default=10, help="dates of a choice")
    parser.add_argument("--verb", action="store_true", help="what `eoflow clouds` writes, against its uncertainty")
    parser.add_argument("--workspace")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    models, counts = args.model.split(","), [int(k) for k in args.dates.split(",")]
    if args.verb:
        for k in counts:
            rows = by_verb(args.folder, models[0], k)
            for day, (one, two, psnr) in rows.items():
                print(f"{day}  {psnr:.2f} dB, within one standard deviation {one:.0%} (68 %), within two {two:.0%}")
            one, two, psnr = (sum(r[i] for r in rows.values()) / len(rows) for i in range(3))
            print(f"{k} dates, {len(rows)} targets: {psnr:.2f} dB, within one {one:.0%}, within two {two:.0%} (95 %)")
        return
    if args.subsets:
        found = [thinned(args.folder, models, k, args.subsets, args.of, args.workspace) for k in counts]
    else:
        found = [run(args.folder, models, k, args.workspace) for k in counts]
    print(json.dumps(found, indent=2) if args.json else "\n\n".join(text(f) for f in found))


if __name__ == "__main__":
    main()
