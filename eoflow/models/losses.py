"""Losses of segmentation and of other maps of classes: cross entropy, soft Dice, focal, foreground-aware, deep sums.

All take logits (B, K, H, W), of any float type (the arithmetic is float32), and target (B, H, W) of whole numbers, a
class 0 to K - 1 or `ignore_index`; K = 1 is one logit of a sigmoid for class 1, with targets 0 and 1. All return a
scalar with a gradient, which is 0 where no pixel is labelled: a batch without labels trains nothing and breaks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
Loss = Callable[[Tensor, Tensor], Tensor]


def two_classes(logits: Tensor) -> Tensor:
    """(B, 1, ...) -> (B, 2, ...), the same probabilities as softmax; more classes are returned as they are."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def _labelled(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities (B, K, H, W), classes (B, H, W) with 0 where ignored, valid (B, H, W), loss per pixel."""
    logs = F.log_softmax(two_classes(logits).float(), dim=1)
    valid = target != ignore_index
    classes = torch.where(valid, target, torch.zeros_like(target)).long()
    nll = -logs.gather(1, classes[:, None])[:, 0]
    return logs, classes, valid, torch.where(valid, nll, torch.zeros_like(nll))


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Sum of w_y (-log p_y) over the sum of w_y, over labelled pixels. class_weights: one number a class."""
    _, classes, valid, nll = _labelled(logits, target, ignore_index)
    weights = valid.float()
    if class_weights is not None:
        weights = weights * _per_class(class_weights, logits)[classes]
    return (nll * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)


def soft_dice(
    logits: Tensor,
    target: Tensor,
    *,
    classes: Sequence[int] | None = None,
    smooth: float = 1.0,
    per_sample: bool = False,
    ignore_index: int = IGNORE,
) -> Tensor:
    """1 - (2 sum p q + smooth) / (sum p + sum q + smooth), mean over classes (Milletari 2016 without squares).

    p: probabilities, q: one-hot labels, sums over labelled pixels of the batch or, with per_sample, of each image.
    classes: which count (default: 1 for a binary target, else all). `smooth` lets an absent class that is not predicted
    cost nothing.
    """
    logs, labels, valid, _ = _labelled(logits, target, ignore_index)
    count = logs.shape[1]
    chosen = torch.as_tensor(list(classes) if classes is not None else [1] if count == 2 else list(range(count)))
    chosen = chosen.to(logs.device)
    p = logs.exp().index_select(1, chosen) * valid[:, None]
    q = (labels[:, None] == chosen[:, None, None]) & valid[:, None]
    dims = (2, 3) if per_sample else (0, 2, 3)
    overlap, total = (p * q).sum(dims), p.sum(dims) + q.sum(dims)
    if not bool(valid.any()):
        return logits.float().sum() * 0.0
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Mean of alpha_y (1 - p_y)^gamma (-log p_y) over labelled pixels (Lin et al. 2017, arXiv 1708.02002)."""
    _, classes, valid, nll = _labelled(logits, target, ignore_index)
    # 1 - exp(-nll) loses everything where p is near 1, and its power has no gradient at 0
    losses = (-torch.expm1(-nll)).clamp_min(1e-12).pow(gamma) * nll
    if class_weights is not None:
        losses = losses * _per_class(class_weights, logits)[classes]
    return losses.sum() / valid.sum().clamp_min(1)


def cosine(progress: float) -> float:
    """1 at 0, 0 at 1: (1 + cos(pi x)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def poly(progress: float) -> float:
    """1 at 0, 0 at 1: (1 - x)^0.9."""
    return float((1 - progress) ** 0.9)


def linear(progress: float) -> float:
    """1 at 0, 0 at 1: 1 - x."""
    return 1 - progress


ANNEALINGS: Mapping[str, Callable[[float], float]] = {"cosine": cosine, "poly": poly, "linear": linear}


def foreground_aware(
    logits: Tensor,
    target: Tensor,
    *,
    step: int,
    max_step: int,
    gamma: float = 2.0,
    annealing: str = "cosine",
    ignore_index: int = IGNORE,
) -> Tensor:
    """FarSeg's loss (arXiv 2011.09766, section 3.4): cross entropy that turns to the hard pixels as training goes on.

    Pixel weights run from 1 at step 0 to Z (1 - p_y)^gamma at max_step and stay there; Z, the sum of the cross entropy
    over its weighted sum, keeps the loss as large as the plain one at every step, so that only its gradient moves.
    Weights carry no gradient. The sum is divided by the labelled pixels plus one for each image, as the authors do.
    ValueError for an annealing that is not in ANNEALINGS.
    """
    if annealing not in ANNEALINGS:
        raise ValueError(f"annealing '{annealing}' is not one of {', '.join(ANNEALINGS)}")
    _, _, valid, nll = _labelled(logits, target, ignore_index)
    share = ANNEALINGS[annealing](min(max(step / max(max_step, 1), 0.0), 1.0))
    with torch.no_grad():
        hard = (-torch.expm1(-nll)).pow(gamma)
        weighted = (hard * nll).sum()
        # where every pixel is right the weighted sum underflows, and there is no hard pixel to turn to
        hard = hard * (nll.sum() / weighted) if float(weighted) > 1e-20 else torch.ones_like(hard)
        weights = share + (1 - share) * hard
    return (nll * weights).sum() / (valid.sum() + len(logits))


def deep_supervision(
    loss: Loss, outputs: Mapping[str, Tensor], target: Tensor, *, weight: float = 1.0, prefix: str = "logits_"
) -> Tensor:
    """loss(logits) + weight x the sum of loss(auxiliary logits): U-Net++ adds all heads alike (weight 1).

    outputs: what an ImageModel returns, `logits` and any number of `logits_...` of the target's size.
    """
    total = loss(outputs["logits"], target)
    for name, logits in outputs.items():
        if name.startswith(prefix):
            total = total + weight * loss(logits, target)
    return total


def _per_class(weights: Sequence[float], logits: Tensor) -> Tensor:
    count = max(logits.shape[1], 2)
    if len(weights) != count:
        raise ValueError(f"{len(weights)} class weights for {count} classes")
    return torch.tensor(list(weights), dtype=torch.float32, device=logits.device)
