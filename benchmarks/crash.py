"""Pull the plug: SIGKILL at random moments of ingest, training and forecast, then the same command to its end.

    python -m benchmarks.crash [--kills 20] [--seed 0]

After every kill the stores must open and hold whole commits only; at the end archive, weights and forecasts must equal
those of an undisturbed run. Not part of `make bench`: it proves, it does not measure.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import commandline

NET = "['network.options.width=16', 'network.options.layers=1', 'network.options.blocks=1', 'training.epochs=25']"
WORK = {
    "ingest": "eoflow.ingest('sample-atmosphere', now='2020-04-20', workspace=ws)",
    "train": "eoflow.train('puyun', 'sample-atmosphere', train_period='2020-01-01/2020-04-15', workspace=ws, "
    f"overrides={NET})",
    "forecast": "eoflow.forecast('5d', dataset='sample-atmosphere', model='persistence', init='2020-01-02/2020-04-10', "
    "every='6h', workspace=ws)",
}
MADE = {"ingest": ["archives", "cache"], "train": ["checkpoints"], "forecast": ["products"]}


def script(step: str, workspace: str) -> list[str]:
    """The command of a step as a process of its own."""
    code = f"import eoflow\nfrom eoflow.workspace import Workspace\nws = Workspace({workspace!r})\n{WORK[step]}\n"
    return [sys.executable, "-c", code]


def check(workspace: str) -> str:
    """Open everything there is; raises if a store is torn. Returns one line."""
    import eoflow
    from eoflow.archive import Archive
    from eoflow.ingest.ledger import Ledger
    from eoflow.products import cubes
    from eoflow.workspace import Workspace

    ws, said = Workspace(workspace), []
    if ws.names("archives") and Archive(ws, "sample-atmosphere").exists():
        archive = Archive.load(ws, "sample-atmosphere")
        ledger = Ledger.load(archive)
        stored = ledger.times[ledger.stored()]
        values = eoflow.open("sample-atmosphere", workspace=ws)["z"].sel(time=stored).values
        if not np.isfinite(values).all():
            raise RuntimeError("the ledger says present where the archive has no value")
        said.append(f"{len(stored)} times")
    for cube in cubes(ws):
        ds = cube.open()
        if not np.isfinite(ds["z"].values).all():
            raise RuntimeError("a committed run is not whole")
        said.append(f"{ds.sizes['init_time']} runs")
    return ", ".join(said) or "nothing yet"


def content(workspace: str) -> dict[str, Any]:
    """What must be equal in the end."""
    import eoflow
    from eoflow import checkpoint
    from eoflow.checkpoint import Checkpoint
    from eoflow.products import ForecastCube
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    archive = eoflow.open("sample-atmosphere", workspace=ws)
    folder = checkpoint.current(ws, "sample-atmosphere", "puyun")
    runs = ForecastCube(ws, "sample-atmosphere", "persistence").open()
    return {
        "archive": {v: archive[v].values for v in ("z", "u", "v")},
        "weights": Checkpoint.from_pretrained(str(folder)).hash,
        "forecasts": {v: runs[v].values for v in ("z", "u", "v")},
    }


def drill(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Kills in all, spread over the steps; returns how many hit a running process, by step."""
    rng = random.Random(seed)
    calm, rough = str(folder / "calm"), str(folder / "rough")
    hit = dict.fromkeys(WORK, 0)
    for step in WORK:
        begin = time.monotonic()
        subprocess.run(script(step, calm), check=True, capture_output=True)
        seconds = time.monotonic() - begin
        share = kills // len(WORK) + (list(WORK).index(step) < kills % len(WORK))
        for _ in range(10 * share):
            if hit[step] == share:
                break
            process = subprocess.Popen(script(step, rough), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
                for name in MADE[step]:  # it came to its end: once more from the beginning
                    shutil.rmtree(Path(rough) / name, ignore_errors=True)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                hit[step] += 1
                print(f"{step}: killed {hit[step]} time(s); {check(rough)}", flush=True)
        subprocess.run(script(step, rough), check=True, capture_output=True)
    one, two = content(calm), content(rough)
    for part in ("archive", "forecasts"):
        for v, values in one[part].items():
            if not np.array_equal(values, two[part][v], equal_nan=True):
                raise RuntimeError(f"{part} {v} differs from the undisturbed run's")
    if one["weights"] != two["weights"]:
        raise RuntimeError("the weights differ from the undisturbed run's")
    return hit


def said(kills: int, seed: int, folder: Path) -> str:
    """The drill, and its outcome in words."""
    hit = drill(kills, seed, folder)
    each = ", ".join(f"{k} {v}" for k, v in hit.items())
    return (
        f"{sum(hit.values())} kills hit ({each}); nothing lost, nothing doubled:\n"
        "arrays, weights and forecasts equal those of an undisturbed run"
    )


def main() -> None:
    commandline.drill(__doc__, said, kills=20)


if __name__ == "__main__":
    main()
