"""Change without training: image difference and change-vector analysis, cut by Otsu's threshold.

Image difference: the mean over the bands of |after - before|. Change-vector analysis (Malila 1980; Bovolo and
Bruzzone 2007): the length of the vector of band differences, and its direction, which tells kinds of change
apart. The threshold belongs to a whole image. Where a scene is cut into windows, give every window the
scene's threshold: `score` is what to threshold, `otsu` or `otsu_counts` find the cut, and `with_split` is the
model that uses it.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from eoflow.models.images import ImageModel, ImageSignature
from eoflow.models.layers.otsu import Split, otsu
from eoflow.models.layers.pair import score_logits, two_dates


class ImageDifference(ImageModel):
    """{`logits`: (B, K, H, W), `score`: (B, H, W)}: K = 1 (sigmoid) or 2 (softmax) of the signature.

    Options
        threshold: a fixed cut of the score instead of Otsu's.
        centred: the bands' median difference is taken off first (haze, season and gain of the whole image are
            no change). Needs a whole image, as Otsu's threshold does.

    Pixels that are not usable on both dates have no difference and take no part in the threshold. Identical
    dates have
    one value of the score only: no change. Statistics are of the whole image: `halo` is 0 for the score
    alone.
    """

    closed_form = True

    def __init__(
        self, signature: ImageSignature, *, threshold: float | None = None, centred: bool = False
    ) -> None:
        super().__init__(signature)
        if threshold is not None and threshold <= 0:
            raise ValueError(f"threshold {threshold}: a difference is positive")
        self.centred = centred
        self.split: Split | None = None
        if threshold is not None:  # log-odds of -2 for no difference, 2 for twice the threshold
            self.split = Split(threshold, 0.0, 2 * threshold, threshold**2, 0.0)

    def with_split(self, split: Split | None) -> Self:
        """This model, thresholding every image at `split` (of a whole scene), or each by its own (None)."""
        self.split = split
        return self

    def difference(self, images: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """After minus before (B, C, H, W), 0 where not seen on both dates, and where it was seen (B, H, W)
        bool.
        """
        before, after, seen = two_dates(images, usable)
        change = after - before
        if self.centred:
            for b in range(len(change)):
                if seen[b].any():
                    middle = change[b][:, seen[b]].median(dim=1).values
                    change[b] = (change[b] - middle[:, None, None]) * seen[b]
        return change, seen

    def score(self, difference: Tensor) -> Tensor:
        """What is thresholded, (B, H, W), from differences (B, C, H, W)."""
        return difference.abs().mean(dim=1)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        difference, seen = self.difference(images, usable)
        score = self.score(difference)
        odds = [(self.split or otsu(s[m])).log_odds(s) for s, m in zip(score, seen)]
        return {"logits": score_logits(torch.stack(odds), self.signature.outputs), "score": score}


class ChangeVector(ImageDifference):
    """As ImageDifference with the length of the change vector as score, and `direction` (B, C, H, W) beside
    it.

    direction: cosines of the angles between the vector and the bands' axes; their squares add up to 1, or are
    all 0 where nothing changed. Options as in ImageDifference.
    """

    def score(self, difference: Tensor) -> Tensor:
        """Euclidean length of the vectors, (B, H, W)."""
        return torch.linalg.vector_norm(difference, dim=1)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        difference, _ = self.difference(images, usable)
        return {**super().forward(images, usable), "direction": direction_cosines(difference)}


def direction_cosines(difference: Tensor) -> Tensor:
    """Unit vectors of (B, C, H, W) along the channels; zero where the difference is zero."""
    length = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    return torch.where(length > 0, difference / length.clamp_min(torch.finfo(difference.dtype).tiny), 0.0)
