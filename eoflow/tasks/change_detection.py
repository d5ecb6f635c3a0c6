"""Change detection: two dates of one place in, before and after, and where it changed out.

Labels: the first layer says what changed. A sample may carry two more, the classes of the ground before and after;
networks with semantic heads (`before`, `after`) learn from them, and their maps say from which class to which it went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eoflow.errors import BadInput
from eoflow.tasks.base import LayerSpec
from eoflow.tasks.images import CLASS_LOSSES, IGNORE, NODATA, ClassTask

if TYPE_CHECKING:
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
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

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """As of other classes; of a network with semantic heads also `before` and `after`: classes of both dates."""
        layers = super().layers(checkpoint)
        names = ground_names(checkpoint)
        if not names:
            return layers
        attrs = {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names)}
        return *layers, *(
            LayerSpec(name, "uint8", NODATA, {"long_name": f"class {name} the change by {checkpoint.name}", **attrs})
            for name in SEMANTIC
        )

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """As of other classes; the classes before and after are the pair that is likeliest together with the change."""
        from eoflow.models.changestar import joint_classes

        layers = super().decode(checkpoint, outputs, usable)
        labels = checkpoint.recipe.patches.labels
        if labels is None or labels.ground is None or not all(n in outputs for n in SEMANTIC):
            return layers
        change = torch.from_numpy(np.nan_to_num(layers["probability"]))
        pairs = joint_classes(_chances(outputs["before"]), _chances(outputs["after"]), change)
        known = layers["class"] != NODATA
        return layers | {n: np.where(known, c.numpy(), NODATA).astype(np.uint8)
                         for n, c in zip(SEMANTIC, pairs, strict=True)}  # fmt: skip


def ground_names(checkpoint: ImageCheckpoint) -> tuple[str, ...]:
    """Names of the classes of the ground that a change model tells of both dates; () if it does not."""
    labels, heads = checkpoint.recipe.patches.labels, int(getattr(checkpoint.model, "ground", 0))
    if labels is None or labels.ground is None or not heads:
        return ()
    count = max(2, heads)
    if len(labels.ground_classes) not in (0, count):
        raise BadInput(f"{len(labels.ground_classes)} names for the {count} classes that the network tells apart",
                       where=f"recipe {checkpoint.recipe.name}, patches.labels.ground_classes",
                       todo="one name a class, or none")  # fmt: skip
    if labels.ground_classes:
        return tuple(n.replace(" ", "_") for n in labels.ground_classes)
    return ("other", labels.ground) if heads == 1 else tuple(f"class_{i}" for i in range(count))


def _chances(logits: Any) -> Tensor:
    """Logits (K, h, w) -> probabilities of the classes (1, max(K, 2), h, w)."""
    x = torch.as_tensor(np.asarray(logits)).float()
    if len(x) == 1:
        one = x.sigmoid()
        return torch.cat([1 - one, one])[None]
    return x.softmax(0)[None]
