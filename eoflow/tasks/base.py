"""What a model family is for: which samples it takes, its loss, and how a model of it runs over a cube."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor, nn

    from eoflow.catalog import Recipe
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.models.base import Signature
    from eoflow.models.images import ImageSignature
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches
    from eoflow.schema import FieldSchema


@runtime_checkable
class Task(Protocol):
    """A task turns named data into what its models take, and their output back into named data."""

    name: str

    def signature(self, recipe: Recipe, schema: FieldSchema, static: Tensor, frames: int) -> Signature:
        """The shapes a model of this task is built for."""
        ...

    def static(self, cube: xr.Dataset) -> Tensor:
        """Time-independent inputs (S, H, W), normalised."""
        ...

    def loss(self, recipe: Recipe, schema: FieldSchema, scale: Tensor) -> nn.Module:
        """The training loss over (B, S, C, H, W) predictions and targets in normalised units."""
        ...

    def run(self, checkpoint: Any, frames: Any, times: Any, steps: int) -> Any:
        """Iterate predictions in physical units, one step at a time."""
        ...


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a task's product. bands: 1 unless it has one plane a band. nodata: None for floats means NaN.

    attrs: CF attributes (long_name, units, flag_values, flag_meanings).
    """

    name: str
    dtype: str
    nodata: float | None
    attrs: dict[str, Any]
    bands: tuple[str, ...] = ()


@runtime_checkable
class ImageTask(Protocol):
    """What an image model family is for. A task knows the meaning of inputs, outputs and scores, and no file."""

    name: ClassVar[str]
    baselines: ClassVar[tuple[str, ...]]
    """Registered models that stand in every scorecard, the trivial ones first."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of the scores, the one that ranks models first."""

    def signature(self, recipe: ImageRecipe) -> ImageSignature:
        """The shapes a model of this recipe is built for."""
        ...

    def feed(self, sample: Patches) -> tuple[Tensor, Tensor]:
        """images (B, T, C, H, W) float32 normalised and usable (B, T, H, W) bool, as ImageModel.forward takes them."""
        ...

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """Scalar training loss; progress runs from 0 to 1 over the training."""
        ...

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """The layers of a product, the main one first."""
        ...

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """Outputs of the network {name: (K, h, w) float32} and usable (T, h, w) bool -> layers {name: (k, h, w)}.

        Classes are numbers of the recipe's classes; images are back in physical units.
        """
        ...
