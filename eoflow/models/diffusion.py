"""Gaussian diffusion with a cosine schedule, the v target, and DDIM sampling (arXiv 2102.09672, 2202.00512,
2010.02502).

Time runs from 0 (the image) to 1 (noise). At time t an image is x_t = a x_0 + s e with a = cos(t pi / 2),
s = sin(t pi / 2), e white noise; a network predicts v = a e - s x_0, from which both follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,)) -> v, same shape as x_t."""
LAST = 0.999
"""Where sampling starts: at 1 the image would be divided by nothing."""


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """a and s at times t (B,), each (B, 1, 1, 1)."""
    angle = t[:, None, None, None] * (math.pi / 2)
    return angle.cos(), angle.sin()


def noised(image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of images (B, C, H, W) and white noise of the same shape."""
    a, s = levels(t)
    return a * image + s * noise


def velocity(image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The target v."""
    a, s = levels(t)
    return a * noise - s * image


def loss(network: Network, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mean squared error of v at one random time for each image; times are spread evenly over the batch."""
    count = len(image)
    first = torch.rand((), generator=generator)
    t = ((first + torch.arange(count) / count) % 1).to(image)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (network(noised(image, noise, t), t) - velocity(image, noise, t)).square().mean()


def guided(told: Network, untold: Network, scale: float) -> Network:
    """Classifier-free guidance (arXiv 2207.12598): what a network says with its condition, and `scale` - 1 times more
    of how that differs from what it says without. 1: as it is told, without a second evaluation."""
    if scale == 1:
        return told

    def network(x: Tensor, t: Tensor) -> Tensor:
        v = untold(x, t)
        return v + scale * (told(x, t) - v)

    return network


@torch.no_grad()
def sample(
    network: Network,
    noise: Tensor,
    *,
    steps: int = 50,
    keep: tuple[Tensor, Tensor] | None = None,
    limit: float | None = 1.0,
) -> Tensor:
    """An image (B, C, H, W) out of white noise, deterministic (DDIM with eta 0).

    keep: an image and a mask (B, 1, H, W) bool of where it stays as it is: at every step those pixels are the given
    image with the step's own noise (Changen2's mixing, arXiv 2406.17998), so that what did not change persists.
    limit: predicted images are clamped to +- this; None: not.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps make no image")
    times = torch.linspace(LAST, 0.0, steps + 1).to(noise)
    x = noise
    for now, then in pairwise(times):
        if keep is not None:
            t = now.expand(len(x))
            x = torch.where(keep[1], noised(keep[0], noise, t), x)
        v = network(x, now.expand(len(x)))
        a, s = levels(now[None])
        image = a * x - s * v
        if limit is not None:
            image = image.clamp(-limit, limit)
        left = (x - a * image) / s
        a, s = levels(then[None])
        x = a * image + s * left
    return x if keep is None else torch.where(keep[1], keep[0], x)
