"""A network and a metric of images for eoflow, each the few lines that it takes. Copy this page to begin your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature
from eoflow.verify.image_counts import ImageMetric, Truth


class SmallNet(ImageModel):
    """A network: three convolutions of `width` channels over one date; each output pixel sees 7 x 7 pixels."""

    task = "segmentation"
    halo = 3

    def __init__(self, signature: ImageSignature, width: int = 8) -> None:
        super().__init__(signature)
        self.layers = nn.Sequential(
            nn.Conv2d(signature.channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, signature.outputs, 3, padding=1),
        )  # fmt: skip

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """(B, 1, C, H, W) -> logits (B, K, H, W)."""
        return {"logits": self.layers(images[:, -1])}


class Overlooked(ImageMetric):
    """A metric: the share of class 1 that the map does not show."""

    name = "overlooked"
    task = ("segmentation", "change-detection")
    better = "lower"
    bounds = (0.0, 1.0)

    def counts(self, sample: Truth, outputs: Mapping[str, Any]) -> Any:
        """(2,) pixels of class 1 that were overlooked, and all of them."""
        there = sample.labels == 1
        return np.array([(there & (outputs["class"] != 1)).sum(), there.sum()], np.float64)

    def value(self, sums: Any) -> Any:
        """(..., 2) -> (...), NaN where there is none of class 1."""
        with np.errstate(invalid="ignore"):
            return sums[..., 0] / sums[..., 1]
