"""What a model family is for: which samples it takes, its loss, and how a model of it runs over a cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor, nn

    from eoflow.catalog import Recipe
    from eoflow.models.base import Signature
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
