"""What the tasks of image models have in common, and what segmentation and change detection share: maps of classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eoflow.catalog_images import LossRef
from eoflow.errors import BadInput
from eoflow.models import losses
from eoflow.models.images import ImageModel, ImageSignature
from eoflow.quality import USABLE, Quality
from eoflow.registry import nearest
from eoflow.tasks.base import LayerSpec

if TYPE_CHECKING:
    from eoflow.bands import BandSpec, SceneSchema
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.samples import Samples
    from eoflow.prepare.scenes.trainset import Patches

Array = np.ndarray[Any, np.dtype[Any]]
Scored = dict[str, Array]
Summary = dict[tuple[str, str], float]
IGNORE = -1
NODATA = 255
PROBABILITY = LayerSpec(
    "probability", "float32", None, {"long_name": "probability", "units": "1", "valid_range": [0.0, 1.0]}
)


class ImageTaskBase:
    """See ImageTask. usable: quality classes in which the surface was seen (those of the recipe's patches)."""

    name: ClassVar[str]
    baselines: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    """Name in a recipe -> what computes it; the first is the task's own."""
    main_output: ClassVar[str]

    def __init__(self, usable: Sequence[Quality] = USABLE) -> None:
        self.usable = tuple(int(q) for q in usable)

    # -- the recipe ------------------------------------------------------------------------------------------------

    def signature(self, recipe: ImageRecipe) -> ImageSignature:
        """The shapes a model of this recipe is built for. Raises BadInput for a recipe that the task cannot use."""
        self.check_recipe(recipe)
        assert recipe.patches.bands is not None
        return ImageSignature(len(recipe.patches.bands), self.outputs(recipe), recipe.patches.dates)

    def outputs(self, recipe: ImageRecipe) -> int:
        """Channels of the main output."""
        raise NotImplementedError

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """Raise BadInput for an unknown loss or option of it, or what the task cannot use."""
        ref = self.loss_ref(recipe)
        parameters = [p for p in inspect.signature(self.losses[ref.name]).parameters.values()
                      if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]  # fmt: skip
        known = [p.name for p in parameters if p.name not in ("progress", "ignore_index")]
        for key in ref.options:
            if key not in known:
                raise BadInput(f"the loss '{ref.name}' has no option '{key}'{nearest(key, known)}",
                               where=f"recipe {recipe.name}, loss.options",
                               todo=f"choose from {', '.join(known)}")  # fmt: skip

    def loss_ref(self, recipe: ImageRecipe) -> LossRef:
        """The recipe's loss, or the task's own. Raises BadInput for an unknown one."""
        ref = recipe.loss or LossRef(name=next(iter(self.losses)))
        if ref.name not in self.losses:
            known = list(self.losses)
            raise BadInput(f"no loss called '{ref.name}' for {self.name}{nearest(ref.name, known)}",
                           where=f"recipe {recipe.name}, loss", todo=f"choose from {', '.join(known)}")  # fmt: skip
        return ref

    def options(
        self, network: type, recipe: ImageRecipe, schema: SceneSchema, normalizer: BandNormalizer
    ) -> dict[str, Any]:
        """Options of a network that follow from bands and normaliser; those in the recipe go before them.

        Raises BadInput where a network needs a band that is not there.
        """
        return {}

    def wrapped(self, model: ImageModel, recipe: ImageRecipe, schema: SceneSchema) -> ImageModel:
        """The model as it takes this task's samples."""
        return model

    def check_samples(self, samples: Samples) -> None:
        """Raise BadInput where the samples cannot be what the task is for."""

    def check_scene(self, checkpoint: ImageCheckpoint, values: Array) -> None:
        """Raise BadInput where values (C, h, w) of a scene, NaN for none, cannot be what the model is for."""

    # -- samples ---------------------------------------------------------------------------------------------------

    def feed(self, sample: Patches) -> tuple[Tensor, Tensor]:
        """images (B, T, C, H, W) float32, finite, and usable (B, T, H, W) bool."""
        images = sample.inputs
        usable = self.is_usable(sample.quality)
        if not bool(torch.isfinite(images.sum())):
            usable = usable & images.isfinite().all(2)
            images = images.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return images, usable

    def is_usable(self, quality: Tensor) -> Tensor:
        """Where the surface was seen: bool, same shape."""
        return torch.isin(quality, torch.tensor(self.usable, dtype=quality.dtype, device=quality.device))

    # -- scores ----------------------------------------------------------------------------------------------------

    def score(self, checkpoint: ImageCheckpoint, outputs: dict[str, Tensor], sample: Patches) -> Scored:
        """What `summary` needs of each sample: arrays (B, ...)."""
        raise NotImplementedError

    def summary(self, checkpoint: ImageCheckpoint, scored: Scored) -> Summary:
        """Scores of many samples (S, ...) together: (variable, metric) -> value, NaN where nothing could be scored."""
        raise NotImplementedError


def position(bands: Sequence[BandSpec], *names: str) -> int | None:
    """Where the first band lies that has one of these (lower-case) common names, or else names; None if none does."""
    for attribute in ("common_name", "name"):
        for wanted in names:
            for i, band in enumerate(bands):
                if (getattr(band, attribute) or "").lower() == wanted:
                    return i
    return None


# -- classes ---------------------------------------------------------------------------------------------------------


def _cross_entropy(logits: Tensor, target: Tensor, progress: float, *, class_weights: Any = None) -> Tensor:
    return losses.cross_entropy(logits, target, class_weights=class_weights, ignore_index=IGNORE)


def _dice(
    logits: Tensor, target: Tensor, progress: float, *, classes: Any = None, smooth: float = 1.0,
    per_sample: bool = False,
) -> Tensor:  # fmt: skip
    return losses.soft_dice(logits, target, classes=classes, smooth=smooth, per_sample=per_sample, ignore_index=IGNORE)


def _ce_dice(
    logits: Tensor, target: Tensor, progress: float, *, class_weights: Any = None, dice: float = 1.0,
    classes: Any = None, smooth: float = 1.0, per_sample: bool = False,
) -> Tensor:  # fmt: skip
    overlap = _dice(logits, target, progress, classes=classes, smooth=smooth, per_sample=per_sample)
    return _cross_entropy(logits, target, progress, class_weights=class_weights) + dice * overlap


def _focal(logits: Tensor, target: Tensor, progress: float, *, gamma: float = 2.0, class_weights: Any = None) -> Tensor:
    return losses.focal(logits, target, gamma=gamma, class_weights=class_weights, ignore_index=IGNORE)


def _foreground_aware(
    logits: Tensor, target: Tensor, progress: float, *, gamma: float = 2.0, annealing: str = "cosine"
) -> Tensor:
    steps = 1_000_000
    return losses.foreground_aware(
        logits, target, step=round(progress * steps), max_step=steps, gamma=gamma, annealing=annealing,
        ignore_index=IGNORE,
    )  # fmt: skip


CLASS_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "ce-dice": _ce_dice,
    "cross-entropy": _cross_entropy,
    "dice": _dice,
    "focal": _focal,
    "foreground-aware": _foreground_aware,
}
"""Of logits, target and progress, with options; further heads (`logits_...`) are added with weight 1."""


class ClassTask(ImageTaskBase):
    """A map of classes: labels in, `logits` out, a class and its probability as product.

    With two classes a network has one logit, of class 1. A label counts where the pixel could be seen.
    """

    losses = CLASS_LOSSES
    main_output = "logits"
    metrics = ("iou", "f1", "precision", "recall", "accuracy")
    default_classes: ClassVar[tuple[str, ...]] = ()

    def class_names(self, recipe: ImageRecipe) -> tuple[str, ...]:
        """Names of the classes, by number."""
        assert recipe.patches.labels is not None
        values = recipe.patches.labels.classes
        if recipe.classes:
            return recipe.classes
        if len(values) == len(self.default_classes):
            return self.default_classes
        return tuple(f"class_{v}" for v in values)

    def outputs(self, recipe: ImageRecipe) -> int:
        """One logit for two classes, else one a class."""
        count = len(self.class_names(recipe))
        return 1 if count == 2 else count

    def target(self, sample: Patches, usable: Tensor) -> Tensor:
        """Labels (B, H, W), -1 where there is none or the pixel could not be seen."""
        return sample.labels[:, 0].masked_fill(~usable.all(1), IGNORE)

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """See ImageTask."""
        target = self.target(sample, self.feed(sample)[1])
        return losses.deep_supervision(self._pixel_loss(recipe, progress), outputs, target)

    def _pixel_loss(self, recipe: ImageRecipe, progress: float) -> Callable[[Tensor, Tensor], Tensor]:
        ref = self.loss_ref(recipe)
        function = self.losses[ref.name]
        return lambda logits, target: function(logits, target, progress, **ref.options)

    def score(self, checkpoint: ImageCheckpoint, outputs: dict[str, Tensor], sample: Patches) -> Scored:
        """`confusion` (B, K, K): labelled pixels of each class (row) that were given each class (column)."""
        target = self.target(sample, self.feed(sample)[1])
        given, _ = classify(outputs["logits"], checkpoint.recipe.cut)
        count = len(self.class_names(checkpoint.recipe))
        keep = target >= 0
        at = (torch.arange(len(target), device=target.device)[:, None, None] * count + target) * count + given
        cells = torch.bincount(at[keep], minlength=len(target) * count * count)
        return {"confusion": cells.reshape(-1, count, count).double().cpu().numpy()}

    def summary(self, checkpoint: ImageCheckpoint, scored: Scored) -> Summary:
        """Of all pixels together. Two classes: of class 1. More: each class by itself and their `mean`.

        Where a class neither is nor is said to be anywhere, its scores are 1: nothing was there, nothing was claimed.
        """
        names = self.class_names(checkpoint.recipe)
        table = scored["confusion"].sum(0)
        total = table.sum()
        accuracy = float(np.trace(table) / total) if total else float("nan")
        rows: Summary = {}
        for c in range(1 if len(names) == 2 else 0, len(names)):
            hit, said, true = table[c, c], table[:, c].sum(), table[c].sum()
            for metric, part, whole in (
                ("iou", hit, said + true - hit), ("f1", 2 * hit, said + true), ("precision", hit, said),
                ("recall", hit, true),
            ):  # fmt: skip
                empty = 1.0 if said + true == 0 else 0.0
                value = part / whole if whole else empty
                rows[names[c], metric] = float(value) if total else float("nan")
        if len(names) == 2:
            return {**rows, (names[1], "accuracy"): accuracy}
        for metric in self.metrics[:-1]:
            rows["mean", metric] = float(np.mean([rows[n, metric] for n in names]))
        return {**rows, ("mean", "accuracy"): accuracy}

    # -- products --------------------------------------------------------------------------------------------------

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """`class` (uint8, 255 nodata) and `probability`: of class 1, or of the class given where there are more."""
        names = self.class_names(checkpoint.recipe)
        said = f"probability of {names[1]}" if len(names) == 2 else "probability of the class"
        attrs = {
            "long_name": f"class by {checkpoint.name}", "flag_values": list(range(len(names))),
            "flag_meanings": " ".join(n.replace(" ", "_") for n in names),
        }  # fmt: skip
        probability = LayerSpec("probability", "float32", None, {**PROBABILITY.attrs, "long_name": said})
        return LayerSpec("class", "uint8", NODATA, attrs), probability

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """logits (K, h, w) and usable (T, h, w) -> class and probability (1, h, w), of what all dates saw."""
        given, probability = classify(torch.as_tensor(np.asarray(outputs["logits"]))[None], checkpoint.recipe.cut)
        chance = probability[0].numpy().astype(np.float32)
        known = np.asarray(usable, bool).all(0) & np.isfinite(chance)
        return {
            "class": np.where(known, given[0].numpy(), NODATA).astype(np.uint8)[None],
            "probability": np.where(known, chance, np.float32(np.nan))[None],
        }


def classify(logits: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Class (B, H, W) int64 and a probability float32: with one or two logits of class 1, else of the class given.

    Class 1 needs more than the threshold: a logit of exactly 0 says that nothing is known.
    """
    logits = logits.float()
    if logits.shape[1] > 2:
        best = logits.softmax(1).max(1)
        return best.indices, best.values
    one = logits[:, 0].sigmoid() if logits.shape[1] == 1 else (logits[:, 1] - logits[:, 0]).sigmoid()
    return (one > threshold).long(), one
