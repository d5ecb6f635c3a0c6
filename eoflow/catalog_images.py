"""Recipes of image models: cloud removal, change detection, segmentation, despeckling and synthesis.

`eoflow.catalog.recipe` gives an ImageRecipe where the YAML's `task` is one of these, and a Recipe for `forecast`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eoflow.catalog import Model, NetworkRef
from eoflow.catalog_patches import PatchRecipe

ImageTaskName = Literal["segmentation", "change-detection", "cloud-removal", "despeckling", "synthesis"]
TASKS: tuple[str, ...] = ("segmentation", "change-detection", "cloud-removal", "despeckling", "synthesis")


class AugmentRef(Model):
    """One registered change of training samples (eoflow.prepare.scenes.augment.HOOKS) and its options."""

    name: str
    options: dict[str, Any] = Field(default={})


class LossRef(Model):
    """The loss by name (each task lists its own) and its options."""

    name: str
    options: dict[str, Any] = Field(default={})


class ImageTraining(Model):
    """How an image network is trained: a fixed number of steps, one seed, averaged weights."""

    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=8, ge=1)
    crop: int | None = Field(default=None, ge=8, description="random crop of each sample, pixels a side")
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="fraction of the steps with rising learning rate")
    ema: float = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights")
    gradient_clip: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=100, ge=1, description="steps between two saved states")
    freeze: tuple[str, ...] = Field(default=(), description="parameters whose names begin so keep their values")
    keep_statistics: bool = Field(default=False, description="batch norms keep the means and variances they have")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the network's layers; weights, loss and optimiser stay in float32"
    )
    blend: float = Field(
        default=1.0, gt=0, le=1, description="share of the new weights in the kept ones; the rest is the start's"
    )
    seed: int = 0


class ImageTuning(Model):
    """What differs from `training` where weights of this recipe are tuned to a few chips of one's own (`--from`)."""

    steps: int = Field(default=200, ge=1)
    lr: float | None = Field(default=None, gt=0, description="None: a tenth of training.lr")
    warmup: float = Field(default=0.1, ge=0, lt=1)
    batch_size: int | None = Field(default=None, ge=1)
    crop: int | None = Field(default=None, ge=8)
    freeze: tuple[str, ...] | None = None
    keep_statistics: bool = Field(default=True, description="batch norms keep the means they have")
    blend: float | None = Field(default=None, gt=0, le=1, description="see training.blend")


class ImageGate(Model):
    """What a checkpoint must beat on the validation split: None, the task's best trivial baseline."""

    baseline: str | None = None
    metric: str | None = None


class ImageRecipe(Model):
    """Task, network, inputs, augmentation, loss, training, gate: everything that makes a checkpoint, but the data.

    patches.bands are names or common names of bands, in order: what the network takes. `classes` names the classes of
    the labels in the order of patches.labels.classes (segmentation and change).
    """

    name: str
    title: str
    model: str | None = Field(default=None, description="name of what it trains (`--model`); the recipe's if left out")
    task: ImageTaskName
    network: NetworkRef
    patches: PatchRecipe
    classes: tuple[str, ...] = ()
    augment: tuple[AugmentRef, ...] = (AugmentRef(name="dihedral"),)
    loss: LossRef | None = Field(default=None, description="the task's own if left out")
    training: ImageTraining = ImageTraining()
    tuning: ImageTuning = ImageTuning()
    threshold: float | Literal["validation", "start"] = Field(
        default=0.5,
        description="probability above which a pixel has class 1; `validation`: where F1 is largest on that split; "
        "`start`: that of the weights that training begins with",
    )
    resolution: tuple[float, float] | None = Field(
        default=None, description="smallest and largest size of a pixel in metres that it is for: what a prediction"
        " chooses by among models of the same bands",
    )  # fmt: skip
    baselines: tuple[str, ...] = Field(default=(), description="models beside it in every scorecard; the task's own")
    gate: ImageGate = ImageGate()
    notes: str | None = None

    @field_validator("threshold", mode="before")
    @classmethod
    def _cuts(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in ("validation", "start") and not (number and 0 < value < 1):
            raise ValueError(f"{value!r} is not a probability between 0 and 1, 'validation' or 'start'")
        return value

    @model_validator(mode="after")
    def _fits(self) -> ImageRecipe:
        if self.patches.bands is None:
            raise ValueError("patches.bands names the bands that the network takes, in order")
        if self.task in ("segmentation", "change-detection", "synthesis") and self.patches.labels is None:
            raise ValueError(f"the task {self.task} needs patches.labels")
        if self.task == "cloud-removal" and not self.patches.targets:
            raise ValueError("the task cloud-removal needs patches.targets")
        if self.resolution is not None and not 0 < self.resolution[0] <= self.resolution[1]:
            raise ValueError("`resolution` is the smallest and the largest size of a pixel in metres")
        if self.classes and self.patches.labels and len(self.classes) != len(self.patches.labels.classes):
            raise ValueError("`classes` names each of patches.labels.classes")
        return self

    @property
    def trained_name(self) -> str:
        """What `--model` takes, and the folder of its checkpoints."""
        return self.model or self.name

    @property
    def cut(self) -> float:
        """The threshold as a number: 0.5 as long as training has not chosen it."""
        return 0.5 if isinstance(self.threshold, str) else self.threshold

    def tuned(self) -> ImageRecipe:
        """This recipe for a training that starts from its own weights: `tuning` replaces parts of `training`.

        A threshold that training chooses stays that of the start: a few chips are too few to choose by.
        """
        said = {k: v for k, v in self.tuning.model_dump().items() if v is not None}
        said.setdefault("lr", self.training.lr / 10)
        cut = "start" if self.threshold == "validation" else self.threshold
        return self.model_copy(update={"training": self.training.model_copy(update=said), "threshold": cut})
