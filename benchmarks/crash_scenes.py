"""Pull the plug on an ingest of scenes: SIGKILL at random moments, then the same command to its end.

    python -m benchmarks.crash_scenes [--kills 10] [--seed 0]

After every kill whatever a reader sees must be whole: every time step that holds items equals that of an undisturbed
run, in every layer and overview, and every other step is empty. At the end nothing is missing and nothing is doubled.
Not part of `make bench`: it proves, it does not measure.
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

NAME, NOW, PERIOD = "sample-scenes", "2020-03-01", "2020-01-01/2020-01-31"


def command(workspace: str) -> list[str]:
    """One ingest as a process of its own."""
    return [sys.executable, "-m", "eoflow.cli", "--workspace", workspace, "--quiet", "ingest", NAME, "--period", PERIOD,
            "--now", NOW]  # fmt: skip


def content(workspace: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(tile, time) -> arrays and item ids of every step that holds something; {} where there is no cube yet."""
    from eoflow.cube import Cube
    from eoflow.holdings import kind_of
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    if kind_of(ws, NAME) is None:
        return {}
    cube = Cube.load(ws, NAME)
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for tile in cube.tiles():
        times = cube.times(tile)
        if np.any(np.diff(times) <= np.timedelta64(0, "ns")):
            raise RuntimeError(f"tile {tile} holds a time twice")
        levels = [1, *cube.factors(tile)]
        data = {level: cube.open(tile, level=level, chunks=None) for level in levels}
        for i, time_ in enumerate(times):
            items = cube.items(tile, i)
            arrays = {f"{n}/{level}": v.values[i] for level, ds in data.items() for n, v in ds.data_vars.items()
                      if v.dims[:1] == ("time",)}  # fmt: skip
            if not items:
                if arrays["quality/1"].any():
                    raise RuntimeError(f"tile {tile}, {time_}: pixels without an item")
                continue
            out[tile, str(time_)] = {"items": [(x["id"], x["version"]) for x in items], "arrays": arrays}
    return out


def require_whole(seen: dict[Any, Any], calm: dict[Any, Any]) -> None:
    """Raise RuntimeError unless every step of `seen` is the same in `calm`."""
    for key, step in seen.items():
        if key not in calm:
            raise RuntimeError(f"{key} is not in the undisturbed run")
        if step["items"] != calm[key]["items"]:
            raise RuntimeError(f"{key}: items {step['items']} instead of {calm[key]['items']}")
        for name, values in step["arrays"].items():
            if not np.array_equal(values, calm[key]["arrays"][name]):
                raise RuntimeError(f"{key}: {name} is not whole")


def drill(kills: int, seed: int, folder: Path) -> int:
    """Kills that hit a running ingest."""
    rng = random.Random(seed)
    calm, rough = str(folder / "calm"), str(folder / "rough")
    begin = time.monotonic()
    subprocess.run(command(calm), check=True, capture_output=True)
    seconds, truth, hit = time.monotonic() - begin, content(calm), 0
    for _ in range(10 * kills):
        if hit == kills:
            break
        process = subprocess.Popen(command(rough), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.1, 0.9) * seconds)
            shutil.rmtree(rough)  # it came to its end: once more from the beginning
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hit += 1
            seen = content(rough)
            require_whole(seen, truth)
            print(f"killed {hit} time(s); a reader sees {len(seen)} of {len(truth)} whole steps", flush=True)
    subprocess.run(command(rough), check=True, capture_output=True)
    end = content(rough)
    require_whole(end, truth)
    if end.keys() != truth.keys():
        raise RuntimeError(f"{len(truth) - len(end)} steps are missing in the end")
    return hit


def said(kills: int, seed: int, folder: Path) -> str:
    """The drill, and its outcome in words."""
    hit = drill(kills, seed, folder)
    return f"{hit} kills hit; whole scenes only at every moment, and in the end the cube of an undisturbed run"


def main() -> None:
    commandline.drill(__doc__, said, kills=10)


if __name__ == "__main__":
    main()
