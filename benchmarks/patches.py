"""Patches a second: random windows of 4 bands as normalised float32 tensors, as training takes them.

    python -m benchmarks.patches [--side 3072] [--dates 6] [--seconds 6] [--quick] [--json]

eoflow's prepared set (from disk, as a shuffled epoch, in memory) against xbatcher on the same cube
and a torchgeo-style reader of windows from GeoTIFFs (open files kept, rasterio windows), Deflate as they are
distributed, and uncompressed. From disk nobody holds the data: GDAL's block cache is CACHE_MB, as for a set larger than
the memory (the files are in the page cache for all). In memory GDAL's cache holds every block, decoded. Everybody ends
with the same tensor. One process a contender, so that the peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
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
    from eoflow.prepare.scenes import PatchSet

PATCH, BATCH, BANDS = 256, 16, ("blue", "green", "red", "nir")
SAMPLE_BYTES = 4 * len(BANDS) * PATCH * PATCH
GOAL = 3.0
CACHE_MB = 64
Step = Callable[[np.random.Generator], int]


def field(rng: np.random.Generator, side: int) -> np.ndarray:
    """Reflectances as Sentinel-2 stores them: smooth land with texture."""
    coarse = rng.normal(0, 1, (side // 64 + 2, side // 64 + 2))
    smooth = np.kron(coarse, np.ones((64, 64)))[:side, :side]
    return np.clip(2200 + 350 * smooth + rng.normal(0, 60, (side, side)), 1, 20000).astype("u2")


def make(folder: Path, side: int, dates: int) -> None:
    """A cube of one tile, the same dates as GeoTIFFs, and the prepared set."""
    import rasterio
    from rasterio.transform import from_origin

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from cubes import make_cube

    from eoflow.catalog_patches import NormalizeRecipe, SplitRecipe
    from eoflow.prepare.scenes import PatchRecipe, prepare_patches
    from eoflow.workspace import Workspace

    rng = np.random.default_rng(0)
    stack = {b: np.stack([field(rng, side) for _ in range(dates)]) for b in BANDS}
    times = np.datetime64("2024-01-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
    for kind, how in (("deflate", {"compress": "deflate", "predictor": 2}), ("plain", {})):
        for i in range(dates):
            with rasterio.open(
                folder / f"{kind}-{i}.tif", "w", driver="GTiff", width=side, height=side, count=len(BANDS),
                dtype="uint16", crs="EPSG:32632", transform=from_origin(5e5, 5e6, 10, 10), tiled=True, blockxsize=512,
                blockysize=512, nodata=0, **how,
            ) as f:  # fmt: skip
                for k, b in enumerate(BANDS, 1):
                    f.write(stack[b][i], k)
    make_cube(Workspace(folder / "ws"), "bench", {"t": stack}, times, chunk=512)
    del stack
    recipe = PatchRecipe(
        patch=PATCH, stride=128, normalize=NormalizeRecipe(scheme="constants"), split=SplitRecipe(fractions=(1, 0, 0))
    )
    started = time.perf_counter()
    done = prepare_patches("bench", recipe, workspace=str(folder / "ws"))
    (folder / "set").write_text(str(done.path))
    (folder / "prepare").write_text(json.dumps({"seconds": time.perf_counter() - started, "patches": len(done.train)}))


def patch_set(folder: Path, memory_mb: int) -> PatchSet:
    """The prepared set, kept in memory or not."""
    from eoflow.prepare.scenes import PatchSet

    return PatchSet((folder / "set").read_text(), memory_mb=memory_mb)


def eoflow_random(folder: Path, memory_mb: int) -> Step:
    """Batches of any patches."""
    data = patch_set(folder, memory_mb)

    def step(rng: np.random.Generator) -> int:
        got = data.batch(rng.integers(0, len(data), BATCH)).inputs
        assert got.shape == (BATCH, 1, len(BANDS), PATCH, PATCH)
        return BATCH

    step(np.random.default_rng(1))
    return step


def eoflow_epoch(folder: Path, **how: Any) -> Step:
    """Batches of shuffled epochs, the set not kept in memory."""
    from eoflow.prepare.scenes import PatchLoader

    loader = PatchLoader(patch_set(folder, 0), BATCH, **how)
    batches = [iter(loader)]

    def step(rng: np.random.Generator) -> int:
        for batch in batches[0]:
            return len(batch.inputs)
        batches[0] = iter(loader)
        return 0

    return step


def as_tensor(stored: np.ndarray) -> Any:
    """What a training loop does with it: reflectance in float32."""
    import torch

    out = np.multiply(stored, np.float32(1e-4), dtype=np.float32)
    out -= np.float32(0.1)
    return torch.from_numpy(out)


def xbatcher_(folder: Path, chunks: Any) -> Step:
    """One patch of one date at a time, from the cube."""
    import xbatcher

    from eoflow.cube import Cube
    from eoflow.workspace import Workspace

    ds = Cube.load(Workspace(folder / "ws"), "bench").open("t", chunks=chunks)[list(BANDS)]
    generator = xbatcher.BatchGenerator(
        ds, input_dims={"time": 1, "y": PATCH, "x": PATCH}, input_overlap={"y": 128, "x": 128}
    )
    count = len(generator)

    def step(rng: np.random.Generator) -> int:
        batch = generator[int(rng.integers(0, count))]
        got = as_tensor(np.stack([batch[b].values[0] for b in BANDS]))
        assert got.shape == (len(BANDS), PATCH, PATCH)
        return 1

    return step


def xbatcher_set(folder: Path) -> Step:
    """One patch at a time from the prepared set: what a faster store alone gives."""
    import xarray as xr
    import xbatcher

    da = xr.open_zarr((folder / "set").read_text(), consolidated=False, chunks=None, decode_times=False)["data"]
    generator = xbatcher.BatchGenerator(da, input_dims={"row": 1, "channel": len(BANDS), "y": PATCH, "x": PATCH})
    count = len(generator)

    def step(rng: np.random.Generator) -> int:
        assert as_tensor(generator[int(rng.integers(0, count))].values[0]).shape == (len(BANDS), PATCH, PATCH)
        return 1

    return step


def geotiff(folder: Path, kind: str, cache_mb: int = CACHE_MB) -> Step:
    """One window at a time from open files."""
    import os

    os.environ["GDAL_CACHEMAX"] = str(cache_mb)
    import rasterio
    from rasterio.windows import Window

    files = [rasterio.open(p) for p in sorted(folder.glob(f"{kind}-*.tif"))]
    starts = np.arange(0, files[0].height - PATCH + 1, 128)

    def step(rng: np.random.Generator) -> int:
        y, x = (int(v) for v in rng.choice(starts, 2))
        got = as_tensor(files[int(rng.integers(len(files)))].read(window=Window(x, y, PATCH, PATCH)))
        assert got.shape == (len(BANDS), PATCH, PATCH)
        return 1

    return step


def geotiff_in_memory(folder: Path) -> Step:
    """With every block in GDAL's cache, decoded."""
    size = sum(p.stat().st_size for p in folder.glob("plain-*.tif"))
    step = geotiff(folder, "plain", 2 * size >> 20)
    for seed in range(3000):
        step(np.random.default_rng(seed))
    return step


CONTENDERS: dict[str, Callable[[Path], Step]] = {
    "eoflow, random": lambda f: eoflow_random(f, 0),
    "eoflow, epoch": eoflow_epoch,
    "eoflow, epoch, 2 threads": lambda f: eoflow_epoch(f, threads=2),
    "eoflow, epoch, 2 workers": lambda f: eoflow_epoch(f, workers=2),
    "eoflow, in memory": lambda f: eoflow_random(f, 1 << 20),
    "xbatcher, numpy, cube": lambda f: xbatcher_(f, None),
    "xbatcher, dask, cube": lambda f: xbatcher_(f, "auto-store"),
    "xbatcher, numpy, prepared set": xbatcher_set,
    "GeoTIFF windows, deflate": lambda f: geotiff(f, "deflate"),
    "GeoTIFF windows, uncompressed": lambda f: geotiff(f, "plain"),
    "GeoTIFF windows, in memory": lambda f: geotiff_in_memory(f),
}


def measure(name: str, folder: Path, seconds: float) -> dict[str, float]:
    """Patches a second and peak memory, in this process."""
    step = CONTENDERS[name](folder)
    rng = np.random.default_rng(7)
    step(rng)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += step(rng)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"patches_per_s": done / (time.perf_counter() - started), "peak_mb": peak}


def summary(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """eoflow from disk over each of the others on data as they are distributed, and over the better; then the rest."""
    speed = {k: v["patches_per_s"] for k, v in rows.items()}
    peers = {
        "xbatcher on the cube": max(speed["xbatcher, numpy, cube"], speed["xbatcher, dask, cube"]),
        "GeoTIFF windows": speed["GeoTIFF windows, deflate"],
    }
    ours = {name.removeprefix("eoflow, "): v for name, v in list(speed.items())[:4]}
    out = {f"{mine} / {k}": v / peer for mine, v in ours.items() for k, peer in peers.items()}
    out |= {f"{mine} / the better": v / max(peers.values()) for mine, v in ours.items()}
    out["random / uncompressed GeoTIFF windows"] = speed["eoflow, random"] / speed["GeoTIFF windows, uncompressed"]
    out["in memory / GeoTIFF windows in memory"] = speed["eoflow, in memory"] / speed["GeoTIFF windows, in memory"]
    out["random / xbatcher on the prepared set"] = speed["eoflow, random"] / speed["xbatcher, numpy, prepared set"]
    return out


def run(side: int, dates: int, seconds: float, say: Callable[[str], None] = print) -> dict:
    """Everything; returns rows, ratios, limits."""
    with tempfile.TemporaryDirectory(prefix="eoflow-bench-") as temp:
        folder = Path(temp)
        this = [sys.executable, __file__, "--folder", temp, "--seconds", str(seconds), "--side", str(side),
                "--dates", str(dates)]  # fmt: skip
        subprocess.run([*this, "--one", "make"], check=True)
        made = json.loads((folder / "prepare").read_text())
        say(f"prepared {made['patches']} patches of {PATCH} x {PATCH} x {len(BANDS)} in {made['seconds']:.1f} s")
        rows = {}
        for name in CONTENDERS:
            said = subprocess.run([*this, "--one", name], check=True, capture_output=True, text=True).stdout
            rows[name] = json.loads(said.splitlines()[-1])
            say(f"{name:32} {rows[name]['patches_per_s']:10.0f} patches/s {rows[name]['peak_mb']:8.0f} MB peak")
    a, b = np.ones(64 << 20, np.uint8), np.zeros(64 << 20, np.uint8)
    started = time.perf_counter()
    for _ in range(8):
        np.copyto(b, a)
    copy = 8 * a.size / (time.perf_counter() - started)
    result = {"patches": rows, "ratios": summary(rows), "prepare": made, "limits": {"memcpy_gb_s": copy / 1e9}}
    for key, value in result["ratios"].items():
        say(f"{key:50} {value:8.1f} x" + (f"  (goal {GOAL:g})" if key.endswith("the better") else ""))
    say(f"limits: memory copy {copy / 1e9:.2f} GB/s = {copy / SAMPLE_BYTES:.0f} patches/s")
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=3072)
    parser.add_argument("--dates", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--quick", action="store_true", help="a small set, for a moment each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.side, options.dates, options.seconds = 1536, 3, 1.0
    if options.one == "make":
        make(Path(options.folder), options.side, options.dates)
    elif options.one:
        print(json.dumps(measure(options.one, Path(options.folder), options.seconds)))
    else:
        silent = (lambda text: None) if options.json else print
        result = run(options.side, options.dates, options.seconds, silent)
        if options.json:
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
