"""Skill on the sample planet's test year: the shipped network (and others) beside the baselines and the ceiling.

    python -m benchmarks.skill [--workspace DIR] [--every 3d] [--checkpoint FOLDER ...] [--train-seeds 1,2] [--json]

The test year is 2020 of `sample-atmosphere`, another trajectory than the ten years of training. Without --checkpoint
the shipped one is scored; --train-seeds also trains the recipe `puyun-sample` with these seeds (minutes each) and
scores them. Not part of `make bench`: it measures skill, not speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

DAYS = (0.25, 1, 2, 3, 5, 7, 10)
TARGETS = (
    ("day 1 at most 0.30 x persistence", 1, "persistence", 0.30),
    ("day 1 at most 0.60 x EOF ridge", 1, "eof-ridge", 0.60),
    ("day 3 at most 0.55 x persistence", 3, "persistence", 0.55),
    ("day 3 at most 0.70 x climatology", 3, "climatology", 0.70),
    ("day 5 below climatology, intervals apart", 5, "climatology", 1.0),
    ("day 5 below EOF ridge, intervals apart", 5, "eof-ridge", 1.0),
    ("day 10 at most 1.05 x climatology", 10, "climatology", 1.05),
)


def train_seeds(ws: Any, seeds: list[int]) -> list[str]:
    """Checkpoint folders of the recipe trained with these seeds."""
    import eoflow

    if not ws.exists("archives", "sample-atmosphere-train"):
        eoflow.ingest("sample-atmosphere-train", workspace=ws)
    name = "sample-atmosphere-train"
    return [eoflow.train("puyun-sample", name, overrides=[f"training.seed={s}"], workspace=ws).folder for s in seeds]


def run(workspace: str, every: str, checkpoints: list[str], variable: str = "z500") -> dict[str, Any]:
    """Forecast, verify and compare with the targets, one checkpoint after the other."""
    import eoflow
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    eoflow.ingest("sample-atmosphere", now="2021-01-12", workspace=ws)
    eoflow.backfill("sample-atmosphere", now="2021-01-12", workspace=ws)
    out = []
    for folder in checkpoints:
        report = eoflow.forecast(
            "10d", dataset="sample-atmosphere", model=folder, init="2020-01-02/2020-12-31", every=every, workspace=ws
        )
        card: Any = eoflow.verify("sample-atmosphere", report.model, workspace=ws)
        table = {m: {d: card.get(m, variable, 24.0 * d, "rmse") for d in DAYS} for m in card.models}
        activity = [card.get(report.model, variable, 24.0 * d, "activity_ratio").value for d in DAYS]
        checks = []
        for text, day, baseline, limit in TARGETS:
            mine, theirs = table[report.model][day], table[baseline][day]
            apart = limit < 1 or limit > 1 or mine.high < theirs.low
            ratio = mine.value / theirs.value
            pair = card.compare(report.model, baseline, variable, 24.0 * day)
            checks.append({"target": text, "ratio": ratio, "met": bool(ratio <= limit and apart),
                           "difference": [pair.difference, pair.low, pair.high]})  # fmt: skip
        worst = max(table[report.model][d].value / table["climatology"][d].value for d in DAYS)
        rows = {m: [[r.value, r.low, r.high] for r in by_day.values()] for m, by_day in table.items()}
        n = table[report.model][1].n
        out.append({"checkpoint": folder, "hash": report.checkpoint, "n": n, "rmse": rows, "activity_ratio": activity,
                    "checks": checks, "worst_against_climatology": worst})  # fmt: skip
    return {"variable": variable, "days": list(DAYS), "runs": out}


def main() -> None:
    from eoflow.checkpoint import SHIPPED
    from eoflow.workspace import Workspace

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", help="kept afterwards; a temporary one by default")
    parser.add_argument("--every", default="3d", help="spacing of the initial times")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--train-seeds", default="", help="comma-separated seeds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        place = args.workspace or temp
        seeds = [int(s) for s in args.train_seeds.split(",") if s]
        folders = [*args.checkpoint, *(train_seeds(Workspace(place), seeds) if seeds else [])]
        result = run(place, args.every, folders or [str(Path(SHIPPED) / "puyun-sample-atmosphere")])
    if args.json:
        print(json.dumps(result))
        return
    for one in result["runs"]:
        print(f"{result['variable']} RMSE (95 %), {one['n']} initial times of 2020, checkpoint {one['hash']}")
        print("  lead (days)   " + "".join(f"{d:>22g}" for d in result["days"]))
        for model, values in one["rmse"].items():
            print(f"  {model:13s} " + "".join(f"{v:>8.0f} ({low:5.0f} {high:5.0f})" for v, low, high in values))
        print("  activity      " + "".join(f"{a:>22.2f}" for a in one["activity_ratio"]))
        for c in one["checks"]:
            difference, low, high = c["difference"]
            paired = f"paired difference {difference:.0f} ({low:.0f} to {high:.0f})"
            print(f"  {'met   ' if c['met'] else 'MISSED'} {c['target']}: {c['ratio']:.3f}; {paired}")
        print(f"  worst lead against climatology: {one['worst_against_climatology']:.3f}")


if __name__ == "__main__":
    main()
