"""Two dates of one place: taking the stack apart, and what the pixels that were not seen on both become."""

from __future__ import annotations

import torch
from torch import Tensor


def two_dates(images: Tensor, usable: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Before and after (B, C, H, W) of images (B, 2, C, H, W), and where both were seen (B, H, W) bool.

    A pixel that is not usable on one date is zero on both (the mean, where the input is normalised): its
    values cannot matter, also NaN ones, and it shows no difference. Raises ValueError unless there are two
    dates.
    """
    if images.ndim != 5 or images.shape[1] != 2:
        raise ValueError(f"change needs images (B, 2, C, H, W), before and after; got {tuple(images.shape)}")
    batch, _, _, height, width = images.shape
    if usable is None:
        return images[:, 0], images[:, 1], images.new_ones((batch, height, width), dtype=torch.bool)
    seen = usable.all(dim=1)
    kept = torch.where(seen[:, None, None], images, images.new_zeros(()))
    return kept[:, 0], kept[:, 1], seen


def score_logits(score: Tensor, outputs: int) -> Tensor:
    """Logits (B, K, H, W) of a log-odds score (B, H, W): itself for K = 1, and (0, score) for the two
    classes.
    """
    if outputs not in (1, 2):
        raise ValueError(f"a change score gives 1 output (sigmoid) or 2 (softmax), not {outputs}")
    return score[:, None] if outputs == 1 else torch.stack([torch.zeros_like(score), score], dim=1)
