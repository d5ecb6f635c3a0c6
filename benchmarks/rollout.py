"""A whole 40-step forecast (read, normalise, calibrate, decode, write, commit, publish) against the bare network.

    python -m benchmarks.rollout [--quick] [--repeat 3] [--json]

Bare: `rollout(model, frames, clock, static, 40)` on tensors in memory, the same network, threads and batch. The limit
beside it is the machine's matrix product rate (GEMM, float32) and the multiply-adds of the network.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks import commandline
from benchmarks.scoring import peak_mb

STEPS = 40


def gemm_gflops() -> float:
    """Best of five float32 matrix products of 2048 x 2048."""
    import torch

    a, best = torch.randn(2048, 2048), 0.0
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return best


def run(quick: bool = False, repeat: int = 3) -> dict[str, Any]:
    """Ours and the bare network in turn on the sample atmosphere with the shipped checkpoint."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import eoflow
    from eoflow.archive import Archive
    from eoflow.ingest.run import ingest
    from eoflow.models.base import rollout
    from eoflow.predict import load_model
    from eoflow.times import Cadence, year_and_day_fraction
    from eoflow.workspace import Workspace

    inits = 8 if quick else 64
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        ws = Workspace(name)
        ingest("sample-atmosphere", period="2020-03-01/2020-04-10", now="2020-06-01", workspace=ws)
        archive = Archive.load(ws, "sample-atmosphere")
        checkpoint = load_model(ws, archive.name, "puyun", archive.schema)
        s = checkpoint.signature
        frames = torch.zeros(inits, s.frames, s.channels, s.height, s.width)
        times = archive.times[8 : 8 + inits]
        offsets = np.arange(1 - checkpoint.signature.frames, STEPS + 1) * Cadence(archive.schema.step).delta
        clock = torch.from_numpy(year_and_day_fraction(times[:, None] + offsets))
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            checkpoint.model(frames[:1], clock[:1, : checkpoint.signature.frames + 1], checkpoint.static)
        flops = counter.get_total_flops() * STEPS * inits
        span = f"{times[0]}/{times[-1]}"
        for i in range(repeat + 1):
            start = time.perf_counter()
            with torch.inference_mode():
                rollout(checkpoint.model, frames, clock, checkpoint.static, STEPS)
            middle = time.perf_counter()
            eoflow.forecast(
                "10d", dataset=archive.name, model="puyun", init=span, every="6h", seed=i, members=1, workspace=ws
            )
            end = time.perf_counter()
            _forget(ws)
            if i:  # the first round warms up
                bare.append(middle - start)
                ours.append(end - middle)
    rate = gemm_gflops()
    return {
        "benchmark": "rollout", "inits": inits, "steps": STEPS,
        "parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "seconds": median(ours), "bare_seconds": median(bare), "ratio": median(bare) / median(ours), "goal": 0.9,
        "peak_mb": peak_mb(), "gemm_gflops": rate, "gemm_limit_seconds": flops / rate / 1e9,
    }  # fmt: skip


def _forget(ws: Any) -> None:
    """Remove the forecasts, so that the next round computes again."""
    import shutil

    shutil.rmtree(ws.path("products"), ignore_errors=True)


def show(out: dict[str, Any]) -> None:
    """Print the result for people."""
    print(f"{out['inits']} forecasts of {STEPS} steps, network of {out['parameters']:,} parameters")
    print(f"  eoflow forecast  {out['seconds']:6.2f} s   peak {out['peak_mb']:.0f} MB")
    print(f"  bare network     {out['bare_seconds']:6.2f} s")
    print(f"  share of the bare network's speed: {out['ratio']:.0%} (goal {out['goal']:.0%})")
    print(
        f"  limit: GEMM {out['gemm_gflops']:.0f} GFLOP/s would need {out['gemm_limit_seconds']:.2f} s "
        "for the same multiply-adds"
    )


def main() -> None:
    commandline.benchmark(__doc__, run, show, repeat=3, quick="a quarter")


if __name__ == "__main__":
    main()
