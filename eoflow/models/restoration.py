"""What cloud removal learns by: errors in reflectance, a Gaussian likelihood, and a cloud head's cross-entropy.

Every mean is over the pixels of a mask at which the target is finite; where there is none, the loss is 0 with zero
gradients, so that a batch of degenerate samples does no harm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_average(loss: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of loss where valid; all broadcast against each other. 0 where nothing is valid."""
    share = valid.to(loss.dtype) if weight is None else valid * weight
    share = share.expand_as(loss)
    # Zeroed before the product: what an invalid pixel holds may be anything, also not finite.
    return (loss.masked_fill(share == 0, 0) * share).sum() / share.sum().clamp_min(torch.finfo(loss.dtype).tiny)


def _known(target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Target (B, C, H, W) without NaN, and where it counts; mask (B, H, W) bool."""
    valid = target.isfinite()
    if mask is not None:
        valid = valid & mask[:, None]
    return target.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), valid


def _band(scale: Tensor | float, like: Tensor) -> Tensor:
    """Scale () or (C,) -> broadcasts over (B, C, H, W)."""
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)


def l1(
    image: Tensor, target: Tensor, scale: Tensor | float = 1.0, mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean absolute error in reflectance.

    image, target (B, C, H, W), normalised; target may be NaN. scale: () or (C,), reflectance of one normalised unit
    (the normaliser's standard deviation), so that no band counts more for being divided by less. mask (B, H, W) bool:
    pixels that count. weight (B, H, W): how much.
    """
    target, valid = _known(target, mask)
    return masked_average((image - target).abs() * _band(scale, image), valid, _pixels(weight))


def l2(
    image: Tensor, target: Tensor, scale: Tensor | float = 1.0, mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean squared error in reflectance squared; arguments as l1."""
    target, valid = _known(target, mask)
    return masked_average(((image - target) * _band(scale, image)).square(), valid, _pixels(weight))


def gaussian_nll(
    image: Tensor, log_variance: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Negative log-likelihood of the target, nats a value: (log v + (y - m)^2 / v + log 2 pi) / 2.

    All in normalised units; shapes as l1, log_variance as image. beta: each value is weighted by v ** beta, constant
    for the gradient (Seitzer et al., arXiv 2203.09168); 0.5 keeps badly fitted pixels from being written off.
    """
    target, valid = _known(target, mask)
    loss = 0.5 * (log_variance + (image - target).square() * torch.exp(-log_variance) + math.log(2 * math.pi))
    if beta:
        loss = loss * torch.exp(beta * log_variance.detach())
    return masked_average(loss, valid, _pixels(weight))


def cloud_bce(cloud: Tensor, usable: Tensor, observed: Tensor | None = None, *, positive: float = 1.0) -> Tensor:
    """Cross-entropy of a cloud head, nats a pixel.

    cloud (B, T, H, W) logits of "not usable"; usable (B, T, H, W) bool from the quality layer; observed, same shape:
    where the scene has data at all (a hole is no cloud); positive: weight of the cloudy pixels.
    """
    cloudy = (~usable).to(cloud.dtype)
    loss = F.binary_cross_entropy_with_logits(cloud, cloudy, reduction="none")
    loss = loss * (1 + (positive - 1) * cloudy)
    return masked_average(loss, torch.ones_like(usable) if observed is None else observed)


def _pixels(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight[:, None]


@dataclass(frozen=True)
class RestorationLoss:
    """Weighted sum of the parts that a network's outputs allow.

    l1, l2: of `image`. nll: of `image` and `log_variance`, where the network writes one. cloud: of `cloud` in training.
    frames: L1 of each date's own guess (PMAA's auxiliary head). hidden: pixels that no date saw count so much more
    than the others in l1, l2 and nll (they are few, and what the task is about).
    The paper of PMAA: l1 100, cloud 1, frames 50 (beside an adversarial loss that is left out here).
    """

    l1: float = 1.0
    l2: float = 0.0
    nll: float = 0.0
    beta: float = 0.0
    cloud: float = 0.0
    cloud_positive: float = 1.0
    frames: float = 0.0
    hidden: float = 1.0

    def __call__(
        self,
        outputs: dict[str, Tensor],
        target: Tensor,
        usable: Tensor,
        *,
        observed: Tensor | None = None,
        mask: Tensor | None = None,
        scale: Tensor | float = 1.0,
    ) -> dict[str, Tensor]:
        """`loss` and its parts (unweighted, detached), for the log.

        outputs: of an ImageModel. target (B, C, H, W), NaN where unknown. usable, observed (B, T, H, W), see cloud_bce.
        mask, scale: see l1. KeyError where a part has a weight and the network no such output.
        """
        image = outputs["image"]
        weight = torch.where(usable.any(1), 1.0, self.hidden).to(image.dtype)
        parts: dict[str, Tensor] = {}
        if self.l1:
            parts["l1"] = l1(image, target, scale, mask, weight)
        if self.l2:
            parts["l2"] = l2(image, target, scale, mask, weight)
        if self.nll:
            parts["nll"] = gaussian_nll(image, outputs["log_variance"], target, mask, beta=self.beta, weight=weight)
        if self.cloud and "cloud" in outputs:
            parts["cloud"] = cloud_bce(outputs["cloud"], usable, observed, positive=self.cloud_positive)
        if self.frames and "frames" in outputs:
            guesses = outputs["frames"]
            many = target[:, None].expand_as(guesses).flatten(0, 1)
            every = None if mask is None else mask[:, None].expand(-1, guesses.shape[1], -1, -1).flatten(0, 1)
            parts["frames"] = l1(guesses.flatten(0, 1), many, scale, every)
        if not parts:
            raise ValueError("no part of the loss has a weight")
        total = torch.stack([getattr(self, name) * value for name, value in parts.items()]).sum()
        return {"loss": total, **{name: value.detach() for name, value in parts.items()}}
