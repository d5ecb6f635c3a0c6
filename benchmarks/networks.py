"""Image networks at the size of their recipes: windows a second of the runtime against plain torch, and training.

    python -m benchmarks.networks [--seconds 8] [--quick] [--json] [RECIPE...]

Plain: the network as anybody would call it, in evaluation mode, without gradients, contiguous NCHW, batches of BATCH
windows of the recipe's patch. Ours: `eoflow.runtime.fast` on the same windows, and its 8-bit variant, calibrated on
other windows of the same kind. The contenders take turns, so that all meet the same load of the machine; the ratio is
the median of the turns'. One process a network, so that the peak memory is its own. Weights are the shipped ones where
there are any, otherwise random, which changes no time; what 8 bits cost means something of trained ones alone.
Training: steps of a small U-Net fed by PatchLoader from a prepared set on disk, against the same batches from memory.
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
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH = 2
GOAL, GOAL_TRAINING, EQUAL = 2.0, 0.9, 1e-4
CALIBRATION = 8


def recipes() -> list[str]:
    """Recipes of networks that run over windows of images: one for each network and its options."""
    from eoflow import catalog, registry
    from eoflow.catalog_images import ImageRecipe

    found: dict[str, str] = {}
    for name in catalog.names("models"):
        recipe = catalog.recipe(name)
        if not isinstance(recipe, ImageRecipe) or recipe.task == "synthesis":
            continue
        if not registry.load("models", recipe.network.name).closed_form:
            found.setdefault(recipe.network.model_dump_json(), name)
    return list(found.values())


def network(name: str) -> tuple[Any, int, bool]:
    """(model in evaluation mode, windows' side, whether it is trained)."""
    from eoflow import catalog
    from eoflow.checkpoint import SHIPPED
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.registry import load

    recipe: Any = catalog.recipe(name)
    if (SHIPPED / name).is_dir():
        return ImageCheckpoint.from_pretrained(SHIPPED / name).model.eval(), recipe.patches.patch, True
    torch.manual_seed(0)
    signature = load("tasks", recipe.task)(recipe.patches.classes).signature(recipe)
    model = load("models", recipe.network.name)(signature, **recipe.network.options)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0  # statistics of what it sees here: without them activations grow with depth
    with torch.no_grad():
        model.train()(*windows(model, 64, 0))
    return model.eval(), recipe.patches.patch, False


def windows(model: Any, side: int, seed: int) -> tuple[torch.Tensor, ...]:
    """BATCH windows of smooth ground with texture, some of it not usable; with days where the model asks for them."""
    from eoflow.models.images import asked_days

    generator = torch.Generator().manual_seed(seed)
    dates = max(model.signature.dates, 1)
    coarse = torch.randn(BATCH, model.signature.channels, 9, 9, generator=generator)
    ground = nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, None].repeat(1, dates, 1, 1, 1)
    images = ground + 0.3 * torch.randn(ground.shape, generator=generator)
    usable = torch.rand(BATCH, dates, side, side, generator=generator) > 0.1
    days = 5.0 * torch.arange(dates + 1, dtype=torch.float64).repeat(BATCH, 1)
    return images, usable, *asked_days(model, days)


def gemm() -> float:
    """Multiply-adds a second of a matrix product, as torch does it with the threads it has."""
    a = torch.randn(1024, 1024)
    best = 1e9
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 1024**3 / best


def measure(name: str, seconds: float) -> dict[str, Any]:
    """One network, in this process."""
    from eoflow.models.images import multiply_adds
    from eoflow.runtime import fast, multiplies_bfloat16

    model, side, trained = network(name)
    sample = windows(model, side, 0)
    quick = fast(model)
    eight = None
    if quick.kind == "onnx":
        eight = fast(
            model, kind="int8", calibration=[windows(model, side, s) for s in range(1, 1 + CALIBRATION // BATCH)]
        )
    contenders: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "plain": lambda: model(*sample), "ours": lambda: quick(*sample),
    }  # fmt: skip
    sixteen = None
    if multiplies_bfloat16():
        sixteen = fast(model, kind="bf16", calibration=[windows(model, side, 1)])
        contenders["bf16"] = lambda: sixteen(*sample)
    if eight is not None:
        contenders["int8"] = lambda: eight(*sample)
    turns: dict[str, list[float]] = {k: [] for k in contenders}
    with torch.no_grad():
        started = time.perf_counter()
        outputs = {k: f() for k, f in contenders.items()}
        warm = time.perf_counter() - started
        work = multiply_adds(model, *sample) / BATCH
        started = time.perf_counter()
        while len(turns["plain"]) < 3 or time.perf_counter() - started < seconds:
            for key, f in contenders.items():
                at = time.perf_counter()
                f()
                turns[key].append(time.perf_counter() - at)
    wanted = outputs["plain"]
    difference = max(
        float((outputs["ours"][n] - v).abs().max()) / max(1.0, float(v.abs().max())) for n, v in wanted.items()
    )
    ratio = {k: median(p / o for p, o in zip(turns["plain"], all_)) for k, all_ in turns.items()}
    return {
        "runtime": quick.kind, "note": quick.note, "side": side, "giga": work / 1e9, "trained": trained, "warm_s": warm,
        "windows_per_s": {k: BATCH / median(v) for k, v in turns.items()}, "ratio": ratio, "difference": difference,
        "int8_loss": eight.loss if eight is not None else {}, "bf16_loss": sixteen.loss if sixteen is not None else {},
        "limit": gemm() / work,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def training(seconds: float, side: int) -> dict[str, float]:
    """Steps a second from disk and from memory, by turns of one epoch of the prepared set."""
    from benchmarks.patches import make
    from eoflow.models.images import ImageSignature
    from eoflow.models.unet import UNet
    from eoflow.prepare.scenes import PatchLoader, PatchSet

    with tempfile.TemporaryDirectory(prefix="eoflow-bench-") as temp:
        make(Path(temp), side, 2)
        loader = PatchLoader(PatchSet((Path(temp) / "set").read_text(), memory_mb=0), 4, threads=1, drop_last=True)
        model = UNet(ImageSignature(4, 1), width=16, norm="batch").train()
        optimiser = torch.optim.AdamW(model.parameters(), 1e-3)

        def step(inputs: torch.Tensor) -> None:
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(inputs)["logits"], (inputs[:, 0, :1] > 0).float()
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

        spent: dict[str, list[float]] = {"loader": [], "memory": []}
        kept = [torch.as_tensor(b.inputs)[..., :128, :128].contiguous() for _, b in zip(range(8), loader)]
        for inputs in kept[:2]:
            step(inputs)
        started = time.perf_counter()
        while len(spent["loader"]) < 2 or time.perf_counter() - started < seconds:
            at, n = time.perf_counter(), 0
            for _, batch in zip(range(len(kept)), loader):
                step(torch.as_tensor(batch.inputs)[..., :128, :128].contiguous())
                n += 1
            spent["loader"].append((time.perf_counter() - at) / n)
            at = time.perf_counter()
            for inputs in kept:
                step(inputs)
            spent["memory"].append((time.perf_counter() - at) / len(kept))
    share = median(m / f for m, f in zip(spent["memory"], spent["loader"]))
    return {"share": share, **{f"{k}_steps_per_s": 1 / median(v) for k, v in spent.items()}}


def told(name: str, row: dict[str, Any]) -> str:
    """One network in two lines."""
    speed, ratio = row["windows_per_s"], row["ratio"]
    line = (
        f"{name:16} {row['side']} px {row['giga']:6.1f} G   plain {speed['plain']:6.2f} windows/s, "
        f"{row['runtime']} {speed['ours']:6.2f} = {ratio['ours']:.2f} x (goal {GOAL:g}), differs by "
        f"{row['difference']:.0e} (at most {EQUAL:g}), {speed['ours'] / row['limit']:.0%} of the GEMM limit, "
        f"{row['peak_mb']:.0f} MB"
    )  # fmt: skip
    if row["note"]:
        line += f"\n    {row['note']}"
    of = "shipped weights" if row["trained"] else "untrained weights: says nothing about a trained network"
    for kind in [k for k in ("bf16", "int8") if k in ratio]:
        cost = ", ".join(f"{n} mean {d['mean']:.4f} max {d['max']:.3f}" for n, d in row[f"{kind}_loss"].items())
        line += f"\n    {kind} {speed[kind]:.2f} windows/s = {ratio[kind]:.2f} x; differs: {cost} ({of})"
    return line


def run(names: list[str], seconds: float, quick: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything; returns figures and ratios."""
    rows: dict[str, Any] = {}
    root = str(Path(__file__).resolve().parent.parent)
    for name in names:
        command = [sys.executable, "-m", "benchmarks.networks", "--one", name, "--seconds", str(seconds)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
        rows[name] = json.loads(said.splitlines()[-1])
        say(told(name, rows[name]))
    fed = training(seconds, 768 if quick else 1536)
    say(f"training: {fed['loader_steps_per_s']:.2f} steps/s from disk, {fed['memory_steps_per_s']:.2f} from memory: "
        f"{fed['share']:.0%} (goal {GOAL_TRAINING:.0%})")  # fmt: skip
    reached = sum(r["ratio"]["ours"] >= GOAL for r in rows.values())
    say(f"{reached} of {len(rows)} networks at {GOAL:g} x or more; torch uses {torch.get_num_threads()} threads")
    return {
        "networks": rows,
        "training": fed,
        "median_ratio": float(np.median([r["ratio"]["ours"] for r in rows.values()])),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="RECIPE")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="a moment each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.seconds = 1.0
    if options.one:
        print(json.dumps(measure(options.one, options.seconds)))
        return
    say = (lambda text: None) if options.json else (lambda text: print(text, flush=True))
    result = run(options.names or recipes(), options.seconds, options.quick, say)
    if options.json:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
