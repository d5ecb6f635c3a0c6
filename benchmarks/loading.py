"""Training samples a second: random pairs of consecutive steps, from disk (page cache) and from memory.

    python -m benchmarks.loading [--mb 1000] [--seconds 6] [--quick] [--json]

eoflow's training set against xbatcher at its best setting (the better of its readings of the archive and of the
training set, lazily as numpy), xbatcher on dask arrays, and plain zarr-python on the archive. One process a
contender, so that the peak memory is its own. Ratios are what to keep; beside them stand the limits of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from eoflow.prepare.trainset import TrainSet

ROWS, COLUMNS, BATCH = 121, 240, 32
STEP_BYTES = 4 * ROWS * COLUMNS
GOALS = {"xbatcher, numpy": 3.5, "xbatcher, dask": 10.0, "zarr-python, archive": 3.0}


def make(folder: Path, megabytes: int) -> None:
    """An archive of one variable on 121 x 240, smooth and noisy, and its prepared training set."""
    from eoflow.archive import Archive
    from eoflow.catalog import DatasetEntry, NetworkRef, Recipe, Schedule, SourceRef
    from eoflow.ingest.ledger import Ledger, Status
    from eoflow.prepare.run import prepare
    from eoflow.schema import FieldSchema, LatLonGrid, VariableSpec
    from eoflow.workspace import Workspace

    steps = megabytes * 10**6 // STEP_BYTES
    times = np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(6 * 3600 * 10**9, "ns")
    grid = LatLonGrid(latitude=tuple(90 - 1.5 * np.arange(ROWS)), longitude=tuple(1.5 * np.arange(COLUMNS)))
    schema = FieldSchema(variables=(VariableSpec(name="z", units="m2 s-2"),), grid=grid, step="6h")
    entry = DatasetEntry(
        name="bench", title="bench", source=SourceRef(driver="netcdf"),
        schedule=Schedule(start="2000-01-01", cadence="6h", end=str(times[-1])[:16]),
    )  # fmt: skip
    archive = Archive.create(Workspace(folder), entry, schema)
    rng = np.random.default_rng(0)
    wave = 5e4 + 2e3 * np.sin(np.deg2rad(grid.latitude))[:, None] * np.cos(3 * np.deg2rad(grid.longitude))
    with archive.transaction("bench") as tx:
        tx.extend(times[0], times[-1])
        for at in range(0, steps, 256):
            n = min(256, steps - at)
            noise = rng.standard_normal((n, ROWS, COLUMNS), dtype=np.float32)
            tx.write("z", at, np.round((wave + 300 * noise).astype("f4") * 4) / 4)  # as GRIB packing leaves it
        ledger = Ledger.read(tx.group).cover(times, archive.cadence)
        ledger.mark(times, Status.PRESENT, now=times[-1], digest=np.arange(1, steps + 1, dtype=np.uint64))
        ledger.write(tx)
    recipe = Recipe(name="bench", title="bench", network=NetworkRef(name="persistence"))
    period = f"{str(times[0])[:10]}/{str(times[-1])[:10]}"
    done = prepare(recipe, "bench", train_period=period, workspace=str(folder))
    (folder / "set").write_text(str(done.path))


def archive_store(folder: Path) -> Any:
    """The read-only store of the archive."""
    from eoflow.archive import Archive
    from eoflow.workspace import Workspace

    archive = Archive.load(Workspace(folder), "bench")
    return archive.repo.readonly_session("main").store


def trainset(folder: Path, memory_mb: int) -> TrainSet:
    """The prepared set, kept in memory or not."""
    from eoflow.prepare.trainset import TrainSet

    return TrainSet((folder / "set").read_text(), memory_mb=memory_mb)


def eoflow_random(folder: Path, memory_mb: int) -> Callable[[np.random.Generator], int]:
    """Batches of 32 pairs, any order."""
    data = trainset(folder, memory_mb)
    count = data.windows(2)

    def step(rng: np.random.Generator) -> int:
        states, _ = data.batch(rng.integers(0, count, BATCH), 2)
        assert states.shape == (BATCH, 2, 1, ROWS, COLUMNS)
        return BATCH

    step(np.random.default_rng(1))
    return step


def eoflow_epoch(folder: Path) -> Callable[[np.random.Generator], int]:
    """Batches of an epoch in its shuffled order, the set larger than the memory that is allowed."""
    data = trainset(folder, 0)
    epoch: list[Any] = [0, data.batches(2, BATCH)]

    def step(rng: np.random.Generator) -> int:
        for states, _ in epoch[1]:
            return len(states)
        epoch[0] += 1
        epoch[1] = data.batches(2, BATCH, epoch=epoch[0])
        return 0

    return step


def zarr_python(folder: Path, prepared: bool) -> Callable[[np.random.Generator], int]:
    """One slice a pair with zarr-python and its default pipeline."""
    import zarr

    array: Any
    if prepared:
        array = zarr.open_array((folder / "set").read_text() + "/data", mode="r")
    else:
        array = zarr.open_group(archive_store(folder), mode="r")["z"]

    def step(rng: np.random.Generator) -> int:
        at = int(rng.integers(0, array.shape[0] - 1))
        assert array[at : at + 2].shape[0] == 2
        return 1

    return step


def xbatcher_(folder: Path, prepared: bool, chunks: Any, load: bool = False) -> Callable[[np.random.Generator], int]:
    """One batch a pair, by number."""
    import xarray as xr
    import xbatcher

    where = (folder / "set").read_text() if prepared else archive_store(folder)
    ds = xr.open_zarr(where, consolidated=False, chunks=chunks, decode_times=False)
    name, dim = ("data", "row") if prepared else ("z", "time")
    da = ds[name].load() if load else ds[name]
    generator = xbatcher.BatchGenerator(
        da, input_dims={dim: 2, "latitude": ROWS, "longitude": COLUMNS}, input_overlap={dim: 1}
    )
    count = len(generator)

    def step(rng: np.random.Generator) -> int:
        assert generator[int(rng.integers(0, count))].values.shape[0] == 2
        return 1

    return step


CONTENDERS: dict[str, Callable[[Path], Callable[[np.random.Generator], int]]] = {
    "eoflow, random": lambda f: eoflow_random(f, 0),
    "eoflow, epoch": eoflow_epoch,
    "zarr-python, archive": lambda f: zarr_python(f, False),
    "zarr-python, training set": lambda f: zarr_python(f, True),
    "xbatcher, numpy, archive": lambda f: xbatcher_(f, False, None),
    "xbatcher, numpy, training set": lambda f: xbatcher_(f, True, None),
    "xbatcher, dask, archive": lambda f: xbatcher_(f, False, {}),
    "xbatcher, dask, training set": lambda f: xbatcher_(f, True, {}),
    "eoflow, in memory": lambda f: eoflow_random(f, 1 << 20),
    "xbatcher, in memory": lambda f: xbatcher_(f, True, None, load=True),
}


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, folder: Path, seconds: float) -> dict[str, float]:
    """Samples a second and peak memory, in this process."""
    step = CONTENDERS[name](folder)
    rng = np.random.default_rng(7)
    step(rng)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += step(rng)
    return {"samples_per_s": done / (time.perf_counter() - started), "peak_mb": peak_mb()}


def limits(folder: Path) -> dict[str, float]:
    """GB/s of a memory copy, of reading the set's files (page cache), and of writing with fsync."""
    a = np.ones(64 << 20, np.uint8)
    b = np.empty_like(a)
    started = time.perf_counter()
    for _ in range(8):
        np.copyto(b, a)
    copy = 8 * a.size / (time.perf_counter() - started)
    files = [p for p in Path((folder / "set").read_text()).rglob("*") if p.is_file()]
    started = time.perf_counter()
    read = sum(len(p.read_bytes()) for p in files) / (time.perf_counter() - started)
    started = time.perf_counter()
    with (folder / "fsync").open("wb") as f:
        for _ in range(4):
            f.write(a.tobytes())
        f.flush()
        os.fsync(f.fileno())
    return {
        "memcpy_gb_s": copy / 1e9,
        "read_gb_s": read / 1e9,
        "write_fsync_gb_s": 4 * a.size / (time.perf_counter() - started) / 1e9,
    }


def summary(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ratios: eoflow from disk over each of the others at its best, and in memory over xbatcher in memory."""
    speed = {k: v["samples_per_s"] for k, v in rows.items()}
    best = {
        "xbatcher, numpy": max(speed["xbatcher, numpy, archive"], speed["xbatcher, numpy, training set"]),
        "xbatcher, dask": max(speed["xbatcher, dask, archive"], speed["xbatcher, dask, training set"]),
        "zarr-python, archive": speed["zarr-python, archive"],
    }
    out = {f"random / {k}": speed["eoflow, random"] / v for k, v in best.items()}
    out |= {f"epoch / {k}": speed["eoflow, epoch"] / v for k, v in best.items()}
    return out | {"in memory / xbatcher in memory": speed["eoflow, in memory"] / speed["xbatcher, in memory"]}


def run(megabytes: int, seconds: float, say: Callable[[str], None] = print) -> dict:
    """Everything; returns rows, ratios, limits."""
    with tempfile.TemporaryDirectory(prefix="eoflow-bench-") as temp:
        folder = Path(temp)
        this = [sys.executable, __file__, "--folder", temp, "--seconds", str(seconds), "--mb", str(megabytes)]
        subprocess.run([*this, "--one", "make"], check=True)
        rows = {}
        for name in CONTENDERS:
            said = subprocess.run([*this, "--one", name], check=True, capture_output=True, text=True).stdout
            rows[name] = json.loads(said.splitlines()[-1])
            say(f"{name:32} {rows[name]['samples_per_s']:10.0f} samples/s {rows[name]['peak_mb']:8.0f} MB peak")
        machine = limits(folder)
    machine["memcpy_samples_s"] = machine["memcpy_gb_s"] * 1e9 / (2 * STEP_BYTES)
    result = {"samples": rows, "ratios": summary(rows), "limits": machine}
    for key, value in result["ratios"].items():
        goal = next((f"  (goal {g:g})" for k, g in GOALS.items() if key.endswith(k)), "")
        say(f"{key:45} {value:8.1f} x{goal}")
    say("limits: " + ", ".join(f"{k} {v:.2f}" for k, v in machine.items()))
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--quick", action="store_true", help="a small set, for a moment each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.mb, options.seconds = 150, 1.0
    if options.one == "make":
        make(Path(options.folder), options.mb)
    elif options.one:
        print(json.dumps(measure(options.one, Path(options.folder), options.seconds)))
    else:
        result = run(options.mb, options.seconds, (lambda text: None) if options.json else print)
        if options.json:
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
