"""Image synthesis after Changen2, small: RS-DiT trained on sample aerial images, and a sheet of its samples to look at.

    python -m benchmarks.synthesis --out sheet.png [--minutes 10] [--weights net.pt] [--guidance 1.5] [--size 64]
                                   [--places 80] [--width 192] [--depth 6]

Trains on one machine (CPU) for so many minutes and writes a PNG. Rows: building masks; images made from them; the same
masks after an event (a building created or removed) with images in which everything else is kept; real (rendered)
images of the training set beside their masks. With `--weights` the network is kept in that file and the next run goes
on from it (0 minutes: only looks). Prints the loss as it falls and what one step costs; then, on places that were not
trained on, the loss with the right masks beside that with another image's (what the labels are worth), and how much
of the contrast between roofs and ground the made images have, as a share of that of rendered images, both less what
another image's mask finds: 0 where roofs stand anywhere, 1 where they stand out as rendered ones do where the mask
says; above 1 they are gaudy. Not part of `make bench`.
"""

from __future__ import annotations

import argparse
import functools
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def material(places: int, size: int, seed: int = 3, reduced: int = 2) -> tuple[Array, Array]:
    """Images (N, 3, y, x) of -1..1 and masks (N, y, x) bool: both dates of fine places, at half their resolution."""
    from eoflow.sources.land.aerial import series

    images, masks = [], []
    for place in range(places):
        s = series(seed, place, size * reduced * 2, gsd=0.5)
        for image, built in zip(s.images, s.built):
            n = size * 2
            small = image.reshape(n, reduced, n, reduced, 3).mean((1, 3)) / 127.5 - 1
            mask = built.reshape(n, reduced, n, reduced).mean((1, 3)) > 0.5
            images.append(small.transpose(2, 0, 1).astype("f4"))
            masks.append(mask)
    return np.stack(images), np.stack(masks)


def one_hot(masks: Array) -> Any:
    """(B, y, x) bool -> (B, 2, y, x) float32."""
    import torch

    m = torch.from_numpy(masks.astype("f4"))
    return torch.stack([1 - m, m], dim=1)


def crops(images: Array, masks: Array, size: int, count: int, gen: np.random.Generator) -> tuple[Any, Any]:
    """Random windows, turned; half of them with something built in them where there is anything."""
    import torch

    xs: list[Array] = []
    ms: list[Array] = []
    while len(xs) < count:
        k = int(gen.integers(len(images)))
        y, x = gen.integers(0, images.shape[-1] - size + 1, 2)
        image, mask = images[k, :, y : y + size, x : x + size], masks[k, y : y + size, x : x + size]
        if len(xs) % 2 and not mask.any() and masks.any() and gen.random() < 0.9:
            continue
        turns = int(gen.integers(4))
        image, mask = np.rot90(image, turns, (1, 2)), np.rot90(mask, turns)
        xs.append(np.ascontiguousarray(image))
        ms.append(np.ascontiguousarray(mask))
    return torch.from_numpy(np.stack(xs)), one_hot(np.stack(ms))


UNTOLD = 0.1
"""Share of the training images whose labels are hidden, for guidance."""


def train(net: Any, images: Array, masks: Array, size: int, minutes: float, batch: int, lr: float) -> Any:
    """Averaged weights (EMA) after so many minutes; prints the loss."""
    import copy

    import torch

    from eoflow.models import diffusion

    gen, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.0)
    average = copy.deepcopy(net).eval()
    began, step, losses = time.monotonic(), 0, []
    while minutes and (share := (time.monotonic() - began) / 60 / minutes) < 1:
        image, labels = crops(images, masks, size, batch, gen)
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 - 0.9 * share)
        labels[torch.rand(batch, generator=generator) < UNTOLD] = 0
        value = diffusion.loss(functools.partial(predicted, net, labels), image, generator)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), net.parameters()):
                mine.lerp_(theirs, 1 - min(0.998, (step + 1) / (step + 10)))
        losses.append(float(value.detach()))
        step += 1
        if step % 100 == 0:
            spent = time.monotonic() - began
            print(f"step {step}: loss {np.mean(losses[-100:]):.4f}, {spent / step:.2f} s a step", flush=True)
    return average


def predicted(net: Any, labels: Any, x: Any, t: Any) -> Any:
    """The answer in float32; the layers in bfloat16 where the processor multiplies that (three times as fast)."""
    import torch

    from eoflow.runtime import multiplies_bfloat16

    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        return net(x, t, labels).float()


def drawn(net: Any, labels: Any, noise: Any, guidance: float, keep: Any = None, steps: int = 40) -> Any:
    """Images (B, 3, y, x) for labels (B, 2, y, x)."""
    import torch

    from eoflow.models import diffusion

    told = functools.partial(predicted, net, labels)
    untold = functools.partial(predicted, net, torch.zeros_like(labels))
    return diffusion.sample(diffusion.guided(told, untold, guidance), noise, steps=steps, keep=keep)


def worth(net: Any, images: Array, masks: Array, size: int, guidance: float, count: int = 64) -> dict[str, float]:
    """`right` and `other`: the loss with the right labels and with another image's; `made` and `real`: mean distance of
    colour between what a mask calls built and what lies around it, less that by another image's mask; `share`: their
    ratio.
    """
    import torch

    from eoflow.models import diffusion

    gen = np.random.default_rng(11)
    image, labels = crops(images, masks, size, 4 * count, gen)
    chosen = (labels[:, 1].mean((1, 2)) > 0.05).nonzero()[:, 0][:count]
    image, labels = image[chosen], labels[chosen]
    other = labels.roll(1, 0)
    out = {}
    with torch.no_grad():
        for name, shown in (("right", labels), ("other", other)):
            same = torch.Generator().manual_seed(5)
            out[name] = float(diffusion.loss(functools.partial(predicted, net, shown), image, same))
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(6))
    made = drawn(net, labels, noise, guidance)
    for name, found in (("made", made), ("real", image)):
        out[name] = contrast(found, labels) - contrast(found, other)
    return out | {"share": out["made"] / out["real"]}


def contrast(image: Any, labels: Any) -> float:
    """Mean over the images of the distance of colour (0..2 a band) between the built pixels and a ring around them."""
    far = []
    for x, built in zip(image.numpy(), labels[:, 1].numpy() > 0.5):
        ring = _grown(built, 3) & ~built
        if built.any() and ring.any():
            far.append(float(np.linalg.norm(x[:, built].mean(1) - x[:, ring].mean(1))))
    return float(np.mean(far))


def sheet(net: Any, images: Array, masks: Array, size: int, guidance: float, count: int = 8) -> Array:
    """(rows, columns, 3) uint8; see the module."""
    import torch

    from eoflow.models import events

    gen, generator = np.random.default_rng(9), torch.Generator().manual_seed(9)
    real, labels = crops(images, masks, size, count, gen)
    first = labels[:, 1].numpy() > 0.5
    noise = torch.randn(real.shape, generator=generator)
    made = drawn(net, labels, noise, guidance)
    later, kept = [], []
    for mask in first:
        objects = events.objects_of(mask.astype(int))
        after = events.sequence(objects, gen, 2, most=2, min_area=30)[-1].objects.classes() > 0
        later.append(after)
        kept.append(~_grown(after ^ mask))
    then = one_hot(np.stack(later))
    keep = (made, torch.from_numpy(np.stack(kept))[:, None])
    noise = torch.randn(real.shape, generator=generator)
    changed = drawn(net, then, noise, guidance, keep)
    rows = [_masks(first), _pictures(made), _masks(np.stack(later)), _pictures(changed), _pictures(real)]
    return np.concatenate([np.concatenate(list(r), axis=1) for r in rows], axis=0)


def _grown(mask: Array, pixels: int = 4) -> Array:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels)) if mask.any() else mask


def _pictures(x: Any) -> Array:
    return np.asarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))


def _masks(m: Array) -> Array:
    return np.repeat((m * 255).astype("u1")[..., None], 3, axis=-1)


def png(path: Path, rgb: Array) -> None:
    """Write an (y, x, 3) uint8 array."""
    height, width, _ = rgb.shape
    raw = b"".join(b"\0" + row.tobytes() for row in rgb)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(out)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("synthesis.png"))
    for name, default in (("size", 64), ("places", 80), ("width", 192), ("depth", 6), ("patch", 4), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--weights", type=Path)
    asked = parser.parse_args()
    import torch

    from eoflow.models.images import parameters
    from eoflow.models.rsdit import RSDiT

    torch.manual_seed(0)
    images, masks = material(asked.places, asked.size)
    net = RSDiT(3, 2, patch=asked.patch, width=asked.width, depth=asked.depth, heads=max(2, asked.width // 32))
    print(f"RS-DiT {parameters(net):,} parameters, {len(images)} images of {images.shape[-1]} pixels", flush=True)
    if asked.weights and asked.weights.exists():
        net.load_state_dict(torch.load(asked.weights, weights_only=True))
    net = train(net, images, masks, asked.size, asked.minutes, asked.batch, asked.lr)
    if asked.weights:
        torch.save(net.state_dict(), asked.weights)
    other = material(max(8, asked.places // 8), asked.size, seed=4)
    for guidance in dict.fromkeys((1.0, asked.guidance)):
        w = worth(net, *other, asked.size, guidance)
        print(f"new places: loss {w['right']:.4f} with the right labels, {w['other']:.4f} with another image's; "
              f"guidance {guidance:g}: roofs stand out by {w['made']:.3f}, rendered ones by {w['real']:.3f}: "
              f"{w['share']:.0%}")  # fmt: skip
    png(asked.out, sheet(net, images, masks, asked.size, asked.guidance))
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
