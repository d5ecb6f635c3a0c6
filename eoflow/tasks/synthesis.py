"""Synthesis: label maps in, images out; learnt from single labelled dates, to make pairs of dates that nobody took.

What is trained is the denoising of an image whose labels are known (models/diffusion.py); eoflow.synthesis makes pairs
with it, of which the second date follows from the first by events on its labels (Changen2, arXiv 2406.17998).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eoflow.errors import BadInput
from eoflow.models.images import ImageSignature
from eoflow.models.restoration import masked_average
from eoflow.tasks.base import LayerSpec
from eoflow.tasks.images import IGNORE, ImageTaskBase, Scored, Summary

if TYPE_CHECKING:
    from eoflow.bands import SceneSchema
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches


def _velocity() -> None:
    """Mean squared error of the velocity (models/diffusion.py); no options."""


class SynthesisTask(ImageTaskBase):
    """See ImageTask. Scores, at one time (models.rsdit.LOOKED_AT): `denoising`, mean squared error of the velocity;
    `label_gain`, the share of it that the labels take off: 0 for a network that does not hear of them."""

    name = "synthesis"
    metrics = ("label_gain", "denoising")
    lower_is_better = ("denoising",)
    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"velocity": _velocity}
    main_output = "velocity"

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """See ImageTaskBase."""
        super().check_recipe(recipe)
        if recipe.patches.dates != 1:
            raise BadInput("synthesis learns from single dates", where=f"recipe {recipe.name}: {recipe.patches.dates}",
                           todo="patches.dates=1")  # fmt: skip

    def signature(self, recipe: ImageRecipe) -> ImageSignature:
        """Bands, and one channel for the class."""
        self.check_recipe(recipe)
        return ImageSignature(self.outputs(recipe) + 1, self.outputs(recipe), 1)

    def options(self, network: type, recipe: ImageRecipe, schema: SceneSchema, normalizer: BandNormalizer) -> Any:
        """How many classes the labels have."""
        assert recipe.patches.labels is not None
        return {"classes": len(recipe.patches.labels.classes)}

    def outputs(self, recipe: ImageRecipe) -> int:
        """An image."""
        return len(recipe.patches.bands or ())

    def feed(self, sample: Patches) -> tuple[Tensor, Tensor]:
        """Bands, and behind them the number of each pixel's class (-1: not known); usable (B, 1, H, W)."""
        images, usable = super().feed(sample)
        labels = sample.labels[:, 0].masked_fill(~usable[:, 0], IGNORE)
        return torch.cat([images, labels[:, None, None].to(images.dtype)], dim=2), usable

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """Mean squared error of the velocity where the image is known."""
        seen = self.is_usable(sample.quality)[:, :1]
        return masked_average((outputs["velocity"] - outputs["target"]).square(), seen)

    def score(self, checkpoint: ImageCheckpoint, outputs: dict[str, Tensor], sample: Patches) -> Scored:
        """`errors` (B, 3): squared error of the velocity with labels and without, summed, and the number of values."""
        seen = self.is_usable(sample.quality)[:, :1].expand_as(outputs["target"])
        far = [((outputs[n] - outputs["target"]).square() * seen).sum((1, 2, 3)) for n in ("velocity", "untold")]
        return {"errors": torch.stack([*far, seen.sum((1, 2, 3))], 1).double().cpu().numpy()}

    def summary(self, checkpoint: ImageCheckpoint, scored: Scored) -> Summary:
        """Of all pixels together."""
        told, untold, count = scored["errors"].sum(0)
        gain = float(1 - told / untold) if untold else float("nan")
        return {("image", "label_gain"): gain, ("image", "denoising"): float(told / count) if count else float("nan")}

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """`image`: the bands."""
        attrs = {"long_name": f"image as {checkpoint.name} takes it to be"}
        return (LayerSpec("image", "float32", None, attrs),)

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """image (C, h, w) and usable (1, h, w) -> the same in physical units, NaN where nothing was seen."""
        image = np.asarray(checkpoint.normalizer.decode(np.asarray(outputs["image"], np.float64)), np.float32)
        return {"image": np.where(np.asarray(usable, bool), image, np.float32(np.nan))}
