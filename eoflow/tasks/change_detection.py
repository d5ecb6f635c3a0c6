"""Change detection: two dates of one place in, before and after, and where it changed out.

Labels: the first layer says what changed. A sample may carry two more, the classes of the ground before and after;
networks with semantic heads (`before`, `after`) learn from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from eoflow.errors import BadInput
from eoflow.tasks.images import CLASS_LOSSES, IGNORE, ClassTask

if TYPE_CHECKING:
    from eoflow.catalog_images import ImageRecipe
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches

SEMANTIC = ("before", "after")


class ChangeDetectionTask(ClassTask):
    """See ImageTask. A pixel counts where both dates saw it."""

    name = "change-detection"
    baselines = ("image-difference", "change-vector", "ir-mad")
    metrics = ("f1", "iou", "precision", "recall", "accuracy")
    default_classes = ("no_change", "change")

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """See ImageTaskBase."""
        super().check_recipe(recipe)
        if recipe.patches.dates != 2:
            raise BadInput(f"change is seen between two dates, not {recipe.patches.dates}",
                           where=f"recipe {recipe.name}, patches.dates",
                           todo="patches: {dates: 2, pick: pairs}")  # fmt: skip

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """Of the change, and of the classes of both dates where the sample says them and the network has the heads."""
        total = super().loss(recipe, normalizer, outputs, sample, progress)
        if sample.labels.shape[1] < 1 + len(SEMANTIC):
            return total
        _, usable = self.feed(sample)
        cross_entropy = CLASS_LOSSES["cross-entropy"]
        for i, name in enumerate(SEMANTIC):
            if name in outputs:
                classes = sample.labels[:, 1 + i].masked_fill(~usable[:, i], IGNORE)
                total = total + cross_entropy(outputs[name], classes, progress)
        return total
