"""STAR and G-STAR: change training without pairs of dates (arXiv 2108.07002, 2406.15694).

Two labelled images of any places are a pair of dates of no place: where their labels differ, something
"changed". Each image of a batch is paired with another one of it, or (G-STAR) with another view of itself,
whose label is the same and whose appearance may differ. The cases are exact truth, and the negatives are
hard: two different roofs are no change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pseudo bitemporal samples.

    images (B, 2, C, H, W); before, after (B, H, W) int64 labels of the two dates; change (B, H, W) int64: 1
    where they differ, 0 where not, `ignore` where one is unknown; usable (B, 2, H, W) bool; partner (B,)
    int64, which image of the batch is the second date (its own index: the same image).
    """

    images: Tensor
    before: Tensor
    after: Tensor
    change: Tensor
    usable: Tensor
    partner: Tensor


def partners(batch: int, generator: torch.Generator | None = None, *, shuffled: float = 1.0) -> Tensor:
    """(B,) int64: for each image another one of the batch, with probability `shuffled`, else itself.

    One random ring through the whole batch: each image is the second date of just one other, never its own
    unless it was drawn so (or is alone).
    """
    if not 0 <= shuffled <= 1:
        raise ValueError(f"shuffled {shuffled} is not a probability")
    order = torch.randperm(batch, generator=generator)
    ring = torch.empty_like(order)
    ring[order] = order.roll(1)
    stay = torch.rand(batch, generator=generator) >= shuffled
    return torch.where(stay, torch.arange(batch), ring)


def changed(before: Tensor, after: Tensor, *, ignore: int = 255) -> Tensor:
    """1 where two label maps (int64, any equal shape) differ, 0 where not, `ignore` where one of them is
    `ignore`.
    """
    unknown = (before == ignore) | (after == ignore)
    return torch.where(unknown, torch.full_like(before, ignore), (before != after).to(before.dtype))


def g_star(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None = None,
    *,
    second_view: Tensor | None = None,
    usable: Tensor | None = None,
    turn: bool = True,
    shuffled: float = 1.0,
    ignore: int = 255,
) -> Pairs:
    """Pairs of a batch of single dates.

    images (B, C, H, W); labels (B, H, W) integers, `ignore` where unknown; usable (B, H, W) bool, None:
    everywhere. second_view (B, C, H, W): the same images in other colours, pixel for pixel, to draw the
    second date from.
    turn: the second date is also mirrored and turned at random, with its labels, when it is another image (an
        image paired with itself stays in place, or its label would no longer be the same).
    shuffled: probability of another image instead of another view of the same (1: STAR; below: G-STAR's
    self-contrast). Deterministic for a given generator (on the CPU); no value is changed in place.
    """
    if images.ndim != 4 or labels.shape != images[:, 0].shape:
        raise ValueError(
            f"images (B, C, H, W) and labels (B, H, W), not {tuple(images.shape)}, {tuple(labels.shape)}"
        )
    if second_view is not None and second_view.shape != images.shape:
        raise ValueError(
            f"second_view {tuple(second_view.shape)} is not of the images' shape {tuple(images.shape)}"
        )
    seen = torch.ones_like(labels, dtype=torch.bool) if usable is None else usable
    partner = partners(len(images), generator, shuffled=shuffled)
    there = partner.to(images.device)
    other = (images if second_view is None else second_view)[there]
    before, after, seen_after = labels.long(), labels.long()[there], seen[there]
    if turn:
        turns = torch.randint(0, 8, (len(images),), generator=generator)
        turns[partner == torch.arange(len(images))] = 0
        other, after, seen_after = (_turned(x, turns) for x in (other, after, seen_after))
    both = torch.stack([seen, seen_after], dim=1)
    return Pairs(
        images=torch.stack([images, other], dim=1),
        before=before,
        after=after,
        change=changed(before, after, ignore=ignore).masked_fill(~both.all(dim=1), ignore),
        usable=both,
        partner=partner,
    )


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Each of (B, ..., H, W) by its own element of the square's symmetries (0 to 7); half turns where H is
    not W.
    """
    square = x.shape[-1] == x.shape[-2]
    out = []
    for image, turn in zip(x, turns.tolist()):
        mirrored = image.flip(-1) if turn >= 4 else image
        quarters = turn % 4 if square else 2 * (turn % 2)
        out.append(torch.rot90(mirrored, quarters, (-2, -1)))
    return torch.stack(out)
