"""What the labels are worth to a trained RS-DiT, on label maps of the validation split.

    eoflow ingest sample-aerial && eoflow train rsdit --dataset sample-aerial
    python -m benchmarks.synthesis rsdit --dataset sample-aerial [--workspace DIR] [--guidance 1,1.5,2] [--count 64]

Prints the loss with the right labels beside that with another image's; and for each guidance how much of the contrast
between roofs and ground the made images have, as a share of that of the dataset's images, both less what another
image's mask finds: 0 where roofs stand anywhere, 1 where they stand out as the dataset's do where the mask says; above
1 they are gaudy. The pairs themselves are looked at with `eoflow models sample`. Not part of `make bench`.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def one_hot(masks: Array) -> Any:
    """(B, y, x) bool -> (B, 2, y, x) float32."""
    import torch

    m = torch.from_numpy(masks.astype("f4"))
    return torch.stack([1 - m, m], dim=1)


def predicted(net: Any, labels: Any, x: Any, t: Any) -> Any:
    """The answer in float32, as a sample's (eoflow.synthesis)."""
    from eoflow.runtime import sixteen_bits

    with sixteen_bits():
        return net(x, t, labels).float()


def losses(net: Any, image: Any, labels: Any) -> dict[str, float]:
    """`right` and `other`: the loss with the labels of images (B, C, y, x) and with the next image's."""
    import torch

    from eoflow.models import diffusion

    out = {}
    with torch.no_grad():
        for name, shown in (("right", labels), ("other", labels.roll(1, 0))):
            same = torch.Generator().manual_seed(5)
            out[name] = float(diffusion.loss(functools.partial(predicted, net, shown), image, same))
    return out


def standing_out(net: Any, image: Any, labels: Any, guidance: float, limit: float = 1.0) -> dict[str, float]:
    """`made` and `real`: mean distance of colour between what a mask calls built and what lies around it, less that by
    another image's mask; `share`: their ratio."""
    import torch

    from eoflow.models import diffusion

    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(6))
    told, untold = (functools.partial(predicted, net, x) for x in (labels, torch.zeros_like(labels)))
    made = diffusion.sample(diffusion.guided(told, untold, guidance), noise, steps=40, limit=limit)
    other = labels.roll(1, 0)
    out = {n: contrast(x, labels) - contrast(x, other) for n, x in (("made", made), ("real", image))}
    return out | {"share": out["made"] / out["real"]}


def contrast(image: Any, labels: Any) -> float:
    """Mean over the images of the distance of colour between the built pixels and a ring around them."""
    from scipy import ndimage

    far = []
    for x, built in zip(image.numpy(), labels[:, 1].numpy() > 0.5):
        ring = ndimage.binary_dilation(built, iterations=3) & ~built
        if built.any() and ring.any():
            far.append(float(np.linalg.norm(x[:, built].mean(1) - x[:, ring].mean(1))))
    return float(np.mean(far))


def built_up(checkpoint: Any, samples: Any, count: int) -> tuple[Any, Any]:
    """Normalised images (N, C, y, x) and one-hot labels of samples seen as training sees them, with something built."""
    import torch

    from eoflow.prepare.scenes.augment import HookContext, augment_of

    normalizer = checkpoint.normalizer
    augment = augment_of(checkpoint.recipe, HookContext(normalizer.channels, normalizer, None))
    images: list[Any] = []
    masks: list[Array] = []
    for k in range(4 * count):
        part = samples.batch([k % len(samples)])
        part = part if augment is None else augment.batch(part, 11, k)
        mask = part.labels[0, 0].numpy() == 1
        if mask.mean() > 0.05 and len(images) < count:
            images.append(part.inputs[0, 0])
            masks.append(mask)
    return torch.stack(images), one_hot(np.stack(masks))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="rsdit")
    parser.add_argument("--dataset", default="sample-aerial")
    parser.add_argument("--workspace")
    parser.add_argument("--guidance", default="1,1.5,2")
    parser.add_argument("--count", type=int, default=64)
    asked = parser.parse_args()
    from eoflow.checkpoint_images import named_checkpoint
    from eoflow.train_images import samples_of
    from eoflow.workspace import Workspace

    ws = Workspace.of(asked.workspace)
    checkpoint = named_checkpoint(ws, asked.model)
    source = samples_of(ws, checkpoint.recipe, asked.dataset, None, checkpoint)
    net = checkpoint.model.eval().network
    image, labels = built_up(checkpoint, source.valid, asked.count)
    found = losses(net, image, labels)
    print(f"{len(image)} images of the validation split: loss {found['right']:.4f} with the right labels, "
          f"{found['other']:.4f} with another image's")  # fmt: skip
    limit = float(image.abs().max())
    for guidance in map(float, asked.guidance.split(",")):
        w = standing_out(net, image, labels, guidance, limit)
        print(f"guidance {guidance:g}: roofs stand out by {w['made']:.3f}, the dataset's by {w['real']:.3f}: "
              f"{w['share']:.0%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
