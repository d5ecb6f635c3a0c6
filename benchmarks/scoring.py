"""Scoring a year of forecasts: eoflow against the same metrics written plainly in xarray.

    python benchmarks/scoring.py [--quick] [--repeat 3] [--json]

Everybody reads the same two Zarr stores (forecast cube, truth) from the page cache and computes RMSE, bias, ACC and
activity by lead for every variable; eoflow also computes its 95 % intervals. Each run is a process of its own, the
contestants take turns, and the median counts. `plain` is eager numpy (every array in memory), `plain-dask` the same
lines on dask arrays in one compute call with two layouts of chunks, the better of which counts.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import commandline

CONTESTANTS = ("eoflow", "plain", "plain-dask", "plain-dask-big")
VARIABLES = {"z": (50000.0, 800.0), "t": (270.0, 5.0), "msl": (101325.0, 900.0)}


def make_world(folder: Path, inits: int, leads: int) -> None:
    """A cube of `inits` daily initial times and `leads` six-hour leads on 32 x 64, chunk = one initial time."""
    import xarray as xr

    rng = np.random.default_rng(0)
    lat, lon = 90 - (np.arange(32) + 0.5) * 5.625, np.arange(64) * 5.625
    n = inits * 4 + leads
    times = np.datetime64("2001-01-01", "ns") + np.arange(n) * np.timedelta64(6, "h")
    init_time, lead_time = times[: inits * 4 : 4], np.arange(1, leads + 1) * np.timedelta64(6, "h")
    at = np.arange(inits)[:, None] * 4 + np.arange(1, leads + 1)
    truth, cube, clim = {}, {}, {}
    for name, (mean, size) in VARIABLES.items():
        field = (mean + size * rng.standard_normal((n, 32, 64))).astype(np.float32)
        error = rng.standard_normal((inits, leads, 32, 64)).astype(np.float32)
        error *= (0.3 * size * np.sqrt(np.arange(1, leads + 1) / leads))[:, None, None].astype(np.float32)
        truth[name] = (("time", "latitude", "longitude"), field, {"units": "1"})
        cube[name] = (("init_time", "lead_time", "latitude", "longitude"), field[at] + error, {"units": "1"})
        season = mean + 0.2 * size * rng.standard_normal((366, 4, 32, 64))
        clim[name] = (("dayofyear", "hour", "latitude", "longitude"), season.astype(np.float32))
    grid = {"latitude": lat, "longitude": lon}
    xr.Dataset(truth, {"time": times, **grid}).to_zarr(
        folder / "truth.zarr", encoding={v: {"chunks": (40, 32, 64)} for v in truth}, consolidated=False, zarr_format=3
    )
    xr.Dataset(cube, {"init_time": init_time, "lead_time": lead_time, **grid}).to_zarr(
        folder / "cube.zarr", encoding={v: {"chunks": (1, leads, 32, 64)} for v in cube}, consolidated=False,
        zarr_format=3,
    )  # fmt: skip
    xr.Dataset(clim, {"dayofyear": np.arange(1, 367), "hour": [0, 6, 12, 18], **grid}).to_zarr(
        folder / "clim.zarr", encoding={v: {"chunks": (30, 4, 32, 64)} for v in clim}, consolidated=False, zarr_format=3
    )


def _open(folder: Path, chunks: Any) -> list[Any]:
    import xarray as xr

    names = ("cube", "truth", "clim")
    return [xr.open_zarr(folder / f"{n}.zarr", chunks=chunks, consolidated=False, decode_timedelta=True) for n in names]


def score_plainly(folder: Path, chunks: Any) -> dict[str, Any]:
    """What a careful user writes: select truth and climatology at valid_time, weight, average."""
    import dask
    import xarray as xr

    cube, truth, clim = _open(folder, chunks)
    if chunks is None:
        cube, truth, clim = cube.load(), truth.load(), clim.load()
    edges = np.deg2rad(np.clip(np.linspace(90, -90, cube.sizes["latitude"] + 1), -90, 90))
    w = xr.DataArray(-np.diff(np.sin(edges)), coords={"latitude": cube.latitude})
    valid = cube.init_time + cube.lead_time
    t = truth.sel(time=valid).drop_vars("time")
    c = clim.sel(dayofyear=valid.dt.dayofyear, hour=valid.dt.hour).drop_vars(["dayofyear", "hour"])
    area = ("latitude", "longitude")
    error, a, b = cube - t, cube - c, t - c
    a = a - a.weighted(w).mean(area)
    b = b - b.weighted(w).mean(area)
    activity = np.sqrt((a**2).weighted(w).mean(area))
    truth_activity = np.sqrt((b**2).weighted(w).mean(area))
    scores = {
        "rmse": np.sqrt((error**2).weighted(w).mean(area).mean("init_time")),
        "bias": error.weighted(w).mean(area).mean("init_time"),
        "acc": ((a * b).weighted(w).mean(area) / (activity * truth_activity)).mean("init_time"),
        "activity": activity.mean("init_time"),
    }
    scores = dask.compute(scores)[0]  # type: ignore[attr-defined, no-untyped-call]
    return {f"{m} {v}": ds[v].values.tolist() for m, ds in scores.items() for v in VARIABLES}


def score_ours(folder: Path) -> dict[str, Any]:
    """The same four metrics by eoflow, with intervals."""
    from eoflow.verify.metrics import Acc, Activity, Bias, Rmse
    from eoflow.verify.scorecard import score

    cube, truth, clim = _open(folder, None)
    card = score({"model": cube}, truth, clim, dataset="bench", metrics=[Rmse(), Bias(), Acc(), Activity()])
    return {f"{m} {v}": [r.value for r in card.series("model", v, m)] for m in card.metrics for v in card.variables}


def peak_mb() -> float:
    """Peak resident memory of this process alone (ru_maxrss would inherit the parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    import resource

    scale = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def child(contestant: str, folder: Path) -> None:
    """One run: imports first, then the clock; prints JSON."""
    for module in ("dask.array", "xarray", "zarr", "sparse", "scipy.special", "eoflow.verify.scorecard"):
        with suppress(ImportError):
            importlib.import_module(module)
    before = peak_mb()
    start = time.perf_counter()
    if contestant == "eoflow":
        result = score_ours(folder)
    else:
        chunks = {"plain": None, "plain-dask": {}, "plain-dask-big": {"init_time": 30, "time": 240}}[contestant]
        result = score_plainly(folder, chunks)
    seconds = time.perf_counter() - start
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "added_mb": peak - before, "result": result}))


def limits(folder: Path) -> dict[str, float]:
    """The machine: copying memory (GB/s of reads), and reading the cube from its store without computing."""
    source = np.ones(64 * 1024**2, np.float32)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = max(best, source.nbytes / (time.perf_counter() - start) / 1e9)
    cube = _open(folder, None)[0]
    start = time.perf_counter()
    size = sum(cube[v].values.nbytes for v in VARIABLES)
    return {"memcpy_gb_s": best, "cube_gb": size / 1e9, "read_seconds": time.perf_counter() - start}


def run(quick: bool = False, repeat: int = 3) -> dict[str, Any]:
    """All contestants in turn; raises RuntimeError unless they agree on every number."""
    inits, leads = (40, 20) if quick else (365, 40)
    runs: dict[str, list[dict[str, Any]]] = {c: [] for c in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_world(folder, inits, leads)
        machine = limits(folder)
        for _ in range(repeat):
            for c in CONTESTANTS:
                command = [sys.executable, __file__, "--child", c, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[c].append(json.loads(done.stdout.splitlines()[-1]))
    ours = runs["eoflow"][0]["result"]
    for c in CONTESTANTS[1:]:
        for key, values in runs[c][0]["result"].items():
            scale = VARIABLES[key.split()[1]][1] if key.split()[0] != "acc" else 1.0
            if not np.allclose(ours[key], values, rtol=1e-3, atol=1e-3 * scale):
                raise RuntimeError(f"eoflow and {c} disagree on {key}")
    table = {c: {k: median(r[k] for r in rs) for k in ("seconds", "peak_mb", "added_mb")} for c, rs in runs.items()}
    fastest = min(CONTESTANTS[1:], key=lambda c: table[c]["seconds"])
    return {
        "benchmark": "scoring", "cases": inits * leads, "variables": len(VARIABLES), **machine, "runs": table,
        "reference": fastest, "ratio": table[fastest]["seconds"] / table["eoflow"]["seconds"], "goal": 5.0,
        "share_of_read_limit": machine["read_seconds"] / table["eoflow"]["seconds"],
        "share_of_memory_limit": machine["cube_gb"] / machine["memcpy_gb_s"] / table["eoflow"]["seconds"],
    }  # fmt: skip


def show(out: dict[str, Any]) -> None:
    """Print the result for people."""
    size = f"{out['cube_gb']:.2f} GB of forecasts on 32 x 64"
    print(f"scoring {out['cases']} cases x {out['variables']} variables ({size})")
    for name, r in out["runs"].items():
        note = " (with 95 % intervals)" if name == "eoflow" else ""
        print(f"  {name:15s} {r['seconds']:7.2f} s   peak {r['peak_mb']:6.0f} MB (+{r['added_mb']:.0f}){note}")
    print(f"  ratio to the fastest plain one ({out['reference']}): {out['ratio']:.1f} x (goal {out['goal']:g})")
    print(
        f"  limits: reading the cube alone {out['read_seconds']:.2f} s ({out['share_of_read_limit']:.0%} of it reached)"
    )
    print(f"          memory copy {out['memcpy_gb_s']:.1f} GB/s ({out['share_of_memory_limit']:.1%})")


def main() -> None:
    commandline.benchmark(__doc__, run, show, child, ("FOLDER",), repeat=3)


if __name__ == "__main__":
    main()
