"""Ingest of gridded fields: eoflow (checks, ledger, transactional commit) against `xarray.to_zarr` with its defaults.

    python -m benchmarks.ingest [--quick] [--repeat 1] [--json]

Everybody reads the same uncompressed Zarr store of 16-bit-packed values in float32 (as GRIB decodes to) and writes
float32 to a new store on the same disk. `to-zarr` is `xr.open_zarr(...).drop_encoding().to_zarr(...)`: chunks and
compressor as xarray and zarr choose them for new data (with the source's encoding it would store 2 GB uncompressed, at
the speed of the disk; that is `to-zarr-raw`, which checks, compresses and records nothing). Each run is a process of
its own, after a tiny one that is not counted. The limits beside it: writing as many bytes uncompressed with fsync, and
reading the source alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import commandline
from benchmarks.scoring import peak_mb

CONTESTANTS = ("eoflow", "to-zarr", "to-zarr-raw")
ROWS, COLUMNS, LEVELS = 121, 240, 3
STEP = np.timedelta64(6 * 3600, "s")


def make_source(path: Path, gigabytes: float) -> int:
    """z (time, level, latitude, longitude) and t2m (time, latitude, longitude), about `gigabytes`; returns bytes."""
    import xarray as xr
    import zarr

    per_step = (LEVELS + 1) * ROWS * COLUMNS * 4
    steps = int(gigabytes * 1e9 / per_step)
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(90, -90, ROWS), np.arange(COLUMNS) * 1.5
    y, x = np.meshgrid(np.deg2rad(lat), np.deg2rad(lon), indexing="ij")
    waves = np.stack([np.cos(y) * np.sin(m * x + m) for m in range(1, 25)]).reshape(24, -1)
    coords = {
        "time": (np.datetime64("2000-01-01", "ns") + np.arange(steps) * STEP).astype("datetime64[ns]"),
        "level": ("level", [200.0, 500.0, 850.0], {"units": "hPa", "standard_name": "air_pressure"}),
        "latitude": ("latitude", lat, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", lon, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    dims = ("time", "level", "latitude", "longitude")
    template = xr.Dataset(coords=coords)
    template.to_zarr(path, zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="a")
    options: dict[str, Any] = {"dtype": "f4", "compressors": None, "fill_value": np.nan}
    z = group.create_array(
        "z", shape=(steps, LEVELS, ROWS, COLUMNS), chunks=(8, LEVELS, ROWS, COLUMNS), dimension_names=dims, **options
    )
    t = group.create_array(
        "t2m", shape=(steps, ROWS, COLUMNS), chunks=(24, ROWS, COLUMNS), dimension_names=(dims[0], *dims[2:]), **options
    )
    z.attrs.update(units="m2 s-2", standard_name="geopotential")
    t.attrs.update(units="K", standard_name="air_temperature", long_name="2 metre temperature")
    for start in range(0, steps, 24):
        n = min(24, steps - start)
        field = rng.normal(size=(n * (LEVELS + 1), 24)) @ waves + 0.05 * rng.normal(
            size=(n * (LEVELS + 1), waves.shape[1])
        )
        packed = np.round(field * 2000) / 2000  # what 16-bit packing leaves of a float
        block = packed.astype("f4").reshape(n, LEVELS + 1, ROWS, COLUMNS)
        z[start : start + n] = 55_000 + 256 * block[:, :LEVELS]
        t[start : start + n] = 280 + 2 * block[:, LEVELS]
    return steps * per_step


def store(contestant: str, source: Path, target: Path) -> None:
    """What is timed."""
    import xarray as xr

    from eoflow.ingest.run import ingest

    if contestant == "eoflow":
        ingest("bench", [str(source)], workspace=str(target))
    else:
        ds = xr.open_zarr(source, consolidated=False)
        (ds if contestant == "to-zarr-raw" else ds.drop_encoding()).to_zarr(target)


def child(contestant: str, source: Path, target: Path) -> None:
    """One run: a tiny one first (imports), then the clock; prints JSON."""
    with tempfile.TemporaryDirectory() as name:
        make_source(Path(name) / "tiny.zarr", 0.02)
        store(contestant, Path(name) / "tiny.zarr", Path(name) / "target")
    os.sync()
    before, start = peak_mb(), time.perf_counter()
    store(contestant, source, target)
    os.sync()
    seconds = time.perf_counter() - start
    files = sum(len(f) for _, _, f in os.walk(target))
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_mb": peak_mb(),
                "added_mb": peak_mb() - before,
                "files": files,
                "stored_mb": size / 1e6,
            }
        )
    )


def limits(source: Path, folder: Path, size: int) -> dict[str, float]:
    """Seconds to write so many bytes uncompressed with fsync, and to read the source."""
    import zarr

    block = np.random.default_rng(0).bytes(64 << 20)
    start = time.perf_counter()
    with open(folder / "raw", "wb") as f:
        for _ in range(max(1, size // len(block))):
            f.write(block)
        f.flush()
        os.fsync(f.fileno())
    write = time.perf_counter() - start
    (folder / "raw").unlink()
    group: Any = zarr.open_group(source, mode="r")
    start = time.perf_counter()
    for name in ("z", "t2m"):
        for first in range(0, group[name].shape[0], 240):
            group[name][first : first + 240]
    return {"disk_write_seconds": write, "read_seconds": time.perf_counter() - start}


def run(quick: bool = False, repeat: int = 1) -> dict[str, Any]:
    """All contestants in turn; raises RuntimeError unless the archive holds the source's values."""
    runs: dict[str, list[dict[str, Any]]] = {c: [] for c in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_source(folder / "source.zarr", 0.2 if quick else 2.0)
        machine = limits(folder / "source.zarr", folder, size)
        for i in range(repeat):
            for c in CONTESTANTS:
                target = folder / f"{c}-{i}"
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.ingest",
                    "--child",
                    c,
                    str(folder / "source.zarr"),
                    str(target),
                ]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[c].append(json.loads(done.stdout.splitlines()[-1]))
        _compare(folder)
    table = {c: {k: median(r[k] for r in rs) for k in rs[0]} for c, rs in runs.items()}
    ours = table["eoflow"]["seconds"]
    return {
        "benchmark": "ingest", "gigabytes": size / 1e9, **machine, "runs": table, "reference": "to-zarr",
        "ratio": table["to-zarr"]["seconds"] / ours, "goal": 2.0, "peak_goal_mb": 1500,
        "share_of_disk_limit": machine["disk_write_seconds"] / ours,
    }  # fmt: skip


def _compare(folder: Path) -> None:
    import xarray as xr

    from eoflow.archive import Archive
    from eoflow.workspace import Workspace

    mine = Archive.load(Workspace(folder / "eoflow-0"), "bench").open()
    theirs = xr.open_zarr(folder / "source.zarr", consolidated=False)
    for at in (0, len(theirs.time) // 2, -1):
        for v in ("z", "t2m"):
            if not np.array_equal(mine[v].isel(time=at).values, theirs[v].isel(time=at).values):
                raise RuntimeError(f"the archive differs from its source in {v}")


def show(out: dict[str, Any]) -> None:
    """Print the result for people."""
    print(f"ingest of {out['gigabytes']:.2f} GB of float32 fields ({LEVELS + 1} x {ROWS} x {COLUMNS} a step)")
    for name, r in out["runs"].items():
        rate = out["gigabytes"] * 1000 / r["seconds"]
        print(f"  {name:12s} {r['seconds']:7.1f} s  {rate:5.0f} MB/s  peak {r['peak_mb']:5.0f} MB "
              f"(+{r['added_mb']:.0f})  {r['files']} files, {r['stored_mb']:.0f} MB stored")  # fmt: skip
    print(
        f"  ratio to xarray.to_zarr: {out['ratio']:.2f} x (goal {out['goal']:g} x, peak below {out['peak_goal_mb']} MB)"
    )
    print(
        f"  limits: writing as many raw bytes with fsync {out['disk_write_seconds']:.1f} s, "
        f"reading the source {out['read_seconds']:.1f} s"
    )


def main() -> None:
    commandline.benchmark(__doc__, run, show, child, ("SOURCE", "TARGET"))


if __name__ == "__main__":
    main()
