"""Windowed inference of a whole scene (decode, halo, network, mask, encode, publish) against the bare network.

    python -m benchmarks.windows [--size 10980] [--quick] [--json]

A scene of 10,980 x 10,980 x 4 uint16 (four tiled, deflated GeoTIFFs, one corner nodata) through a small U-Net into a
class and a probability on disk. Bare: the same network on a tensor in memory of the windows' own size, run again and
again in between (the pipeline drained, its waiting counted as ours), so that both meet the same load of the machine.
All pixels of the bare network count, of ours only those that are written: the halo is our cost. One process a
contender, so that the peak memory is its own; a scene of a quarter of the pixels shows that it is flat.
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
from typing import Any

import numpy as np
import torch
from torch import nn

BANDS = ("B02", "B03", "B04", "B08")
CORE, BATCH = 1024, 1
EVERY, DRAIN_S = 4, 0.15
GOAL_SHARE, GOAL_PEAK_MB, GOAL_GROWTH = 0.85, 2000, 1.15


class SmallUNet(nn.Module):
    """Three levels, two convolutions each, 32 to 128 channels: 0.47 M parameters."""

    multiple = 4
    halo = 24

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)

        def block(i: int, o: int) -> nn.Sequential:
            one, two = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)
            return nn.Sequential(one, nn.ReLU(True), two, nn.ReLU(True))

        self.down = nn.ModuleList([block(4, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down[0](x)
        b = self.down[1](torch.max_pool2d(a, 2))
        c = self.down[2](torch.max_pool2d(b, 2))
        b = self.up[0](torch.cat([nn.functional.interpolate(c, scale_factor=2.0), b], 1))
        a = self.up[1](torch.cat([nn.functional.interpolate(b, scale_factor=2.0), a], 1))
        return torch.sigmoid(self.head(a))


def normalise(x: np.ndarray) -> np.ndarray:
    """Reflectance around zero, in place."""
    x *= 1e-4
    x -= 0.2
    return x


def answer(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Class and probability."""
    p = outputs["output"]
    return {"water": (p > 0.5).astype(np.uint8), "probability": p}


def make(folder: Path, size: int) -> None:
    """Smooth ground with noise, as reflectance compresses; the corner is nodata."""
    import rasterio
    from rasterio.windows import Window

    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.arange(512), np.arange(512), indexing="ij")
    block = (2000 + 800 * np.sin(x / 40) * np.cos(y / 25))[None] + rng.normal(0, 60, (8, 512, 512))
    for b, name in enumerate(BANDS):
        with rasterio.open(
            folder / f"{name}_{size}.tif", "w", driver="GTiff", width=size, height=size, count=1, dtype="uint16",
            nodata=0, tiled=True, blockxsize=512, blockysize=512, compress="DEFLATE", zlevel=1, predictor=2,
            crs="EPSG:32632", transform=rasterio.transform.from_origin(500000, 5000000, 10, 10), num_threads=2,
        ) as f:  # fmt: skip
            for j in range(0, size, 512):
                for i in range(0, size, 512):
                    h, w = min(512, size - j), min(512, size - i)
                    values = block[rng.integers(8)] + 100 * b
                    if i + j < size // 8:
                        values = values * 0
                    f.write(values[:h, :w].astype("u2"), 1, window=Window(i, j, w, h))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Bare:
    """The network alone, on a batch of windows in memory."""

    def __init__(self, net: nn.Module) -> None:
        side = CORE + 2 * SmallUNet.halo
        self.net = net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.x = torch.rand(BATCH, len(BANDS), side, side).to(memory_format=torch.channels_last)
        self.pixels, self.seconds = 0, 0.0
        self(1)
        self.pixels, self.seconds = 0, 0.0

    def __call__(self, times: int) -> None:
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(times):
                self.net(self.x)
        self.seconds += time.perf_counter() - started
        self.pixels += times * BATCH * self.x.shape[-1] ** 2


def alone() -> dict[str, float]:
    """Peak memory of the network without anything around it."""
    Bare(SmallUNet())(3)
    return {"peak_mb": peak_mb()}


def ours(folder: Path, size: int) -> dict[str, float]:
    """The whole scene from file to published store."""
    from eoflow.tiling import Grid
    from eoflow.windows import Input, Layer, Network, Plan, declared, infer, raster_source

    net = SmallUNet()
    bare = Bare(net)

    def between(done: float, total: float, what: str) -> None:
        if done % EVERY == 0:
            time.sleep(DRAIN_S)
            bare(2)

    started = time.perf_counter()
    source = raster_source([str(folder / f"{b}_{size}.tif") for b in BANDS], BANDS)
    halo, multiple = declared(net, None, None)
    plan = Plan.of(source.shape, core=CORE, halo=halo, multiple=multiple, chunk=512)
    layers = [Layer("water", ("water",), "uint8", 255, categorical=True), Layer("probability", ("probability",))]
    grid = Grid("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0), source.shape)
    report = infer(
        Network(net, decode=answer, batch=BATCH), source, folder / f"out_{size}.zarr", layers, plan,
        Input(encode=normalise), grid=grid, progress=between,
    )  # fmt: skip
    seconds = time.perf_counter() - started - bare.seconds
    # windows of nodata are skipped: only those that the network saw are counted
    pixels = size * size * report.windows / (report.windows + report.skipped)
    return {
        "pixels_per_s": pixels / seconds, "bare_pixels_per_s": bare.pixels / bare.seconds, "seconds": seconds,
        "share": pixels / seconds / (bare.pixels / bare.seconds), "network_seconds": report.network_seconds,
        "windows": report.windows, "skipped": report.skipped, "peak_mb": peak_mb(),
    }  # fmt: skip


def run(size: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything; returns figures and ratios."""
    with tempfile.TemporaryDirectory(prefix="eoflow-bench-") as temp:
        root = str(Path(__file__).resolve().parent.parent)

        def one(name: str, n: int = size) -> dict[str, Any]:
            command = [sys.executable, __file__, "--folder", temp, "--one", name, "--size", str(n)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
            )
            return json.loads(done.stdout.splitlines()[-1])

        for n in (size // 2, size):
            one("make", n)
        small, whole, bare = one("ours", size // 2), one("ours"), one("alone")
    result = {
        "benchmark": "windows", "size": size, "ours": whole, "ours_small": small, "bare_peak_mb": bare["peak_mb"],
        "share": whole["share"], "goal_share": GOAL_SHARE, "peak_mb": whole["peak_mb"], "goal_peak_mb": GOAL_PEAK_MB,
        "growth": whole["peak_mb"] / small["peak_mb"], "goal_growth": GOAL_GROWTH,
        "halo_share": (CORE / (CORE + 2 * SmallUNet.halo)) ** 2,
    }  # fmt: skip
    say(f"{size} x {size} x {len(BANDS)} uint16, windows of {CORE} with a halo of {SmallUNet.halo}")
    say(f"  eoflow        {whole['pixels_per_s'] / 1e6:6.2f} Mpixel/s  {whole['seconds']:6.1f} s   "
        f"peak {whole['peak_mb']:.0f} MB")  # fmt: skip
    say(f"  bare network  {whole['bare_pixels_per_s'] / 1e6:6.2f} Mpixel/s             peak {bare['peak_mb']:.0f} MB")
    say(f"  share of the bare network's speed: {result['share']:.0%} (goal {GOAL_SHARE:.0%}; "
        f"the halo alone leaves {result['halo_share']:.0%} of full windows)")  # fmt: skip
    say(f"  peak memory: {whole['peak_mb']:.0f} MB (goal < {GOAL_PEAK_MB}); a quarter of the scene "
        f"{small['peak_mb']:.0f} MB, growth {result['growth']:.2f} x (goal < {GOAL_GROWTH})")  # fmt: skip
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--quick", action="store_true", help="a scene of 4096 x 4096")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.size = 4096
    if options.one == "make":
        make(Path(options.folder), options.size)
        print("{}")
    elif options.one == "alone":
        print(json.dumps(alone()))
    elif options.one == "ours":
        print(json.dumps(ours(Path(options.folder), options.size)))
    else:
        result = run(options.size, (lambda text: None) if options.json else print)
        if options.json:
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
