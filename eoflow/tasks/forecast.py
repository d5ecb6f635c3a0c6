"""Autoregressive forecasting: frames of consecutive steps in, the next step out, iterated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from eoflow.errors import BadInput
from eoflow.models.base import Signature
from eoflow.times import Cadence, year_and_day_fraction

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from eoflow.catalog import Recipe
    from eoflow.checkpoint import Checkpoint
    from eoflow.schema import FieldSchema


class ForecastLoss(nn.Module):
    """Area-, variable- and channel-weighted mean error of a rollout.

    The error of a channel is counted in units of `scale` (C,), the standard deviation of its one-step tendency,
    or of its residual from the network's first guess, so that quick and slow fields weigh the same; a recipe's
    `variable_weights` multiply that. Every step of a rollout counts the same. kind: `mse` or `mae`.
    """

    weight: Tensor

    def __init__(self, area: Tensor, variable: Tensor, scale: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        channel = variable / variable.mean() / (scale if kind == "mae" else scale.square())
        self.register_buffer("weight", channel[:, None, None] * (area / area.mean())[None, :, None])

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """predicted, target (B, S, C, H, W) normalised -> scalar."""
        error = predicted - target
        error = error.abs() if self.kind == "mae" else error.square()
        return (error * self.weight).mean()


class ForecastTask:
    """See Task. Needs a dataset with a fixed step (hours or days)."""

    name = "forecast"

    def signature(self, recipe: Recipe, schema: FieldSchema, static: Tensor, frames: int) -> Signature:
        """Shapes derived from the schema. Raises BadInput for a monthly cadence or member dimension."""
        if schema.members is not None:
            raise BadInput("a dataset with members cannot train a forecast model", todo="ingest one member")
        height, width = schema.grid.shape
        return Signature(
            frames=frames,
            channels=len(schema.channels),
            static=len(static),
            height=height,
            width=width,
            step_hours=float(Cadence(schema.step).delta / np.timedelta64(3600 * 10**9, "ns")),
            latitude=schema.grid.latitude,
            longitude=schema.grid.longitude,
            global_=schema.grid.is_global,
            wraps=schema.grid.wraps,
        )

    def static(self, cube: xr.Dataset) -> Tensor:
        """(S, H, W): static fields of the archive, each to mean 0 and standard deviation 1 over the area; NaN -> 0."""
        fields = []
        for name in sorted(str(n) for n in cube.data_vars):
            da = cube[name]
            if set(da.dims) == {"latitude", "longitude"}:
                a = da.transpose("latitude", "longitude").values.astype(np.float64)
                spread = np.nanstd(a)
                fields.append(np.nan_to_num((a - np.nanmean(a)) / (spread if spread > 0 else 1.0)))
        shape = (0, cube.sizes["latitude"], cube.sizes["longitude"])
        return torch.tensor(np.stack(fields) if fields else np.zeros(shape), dtype=torch.float32)

    def loss(self, recipe: Recipe, schema: FieldSchema, scale: Tensor) -> ForecastLoss:
        """The recipe's loss. Raises BadInput for a weight of an unknown variable."""
        weights = recipe.training.variable_weights
        for name in weights:
            schema.variable(name)
        variable = torch.tensor([weights.get(c.name, 1.0) for c in schema.channels])
        area = torch.tensor(schema.grid.area_weights(), dtype=torch.float32)
        return ForecastLoss(area, variable, scale, recipe.training.loss)

    def run(
        self, checkpoint: Checkpoint, frames: NDArray[np.float32], times: NDArray[np.datetime64], steps: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield `steps` fields (B, C, H, W) float32 in physical units, one step of the dataset apart.

        frames (B, F, C, H, W) physical, oldest first; times (B,) of the last frame. Cells that are NaN in the frames
        (land in a sea field) enter as the mean and come back as NaN.
        """
        model, normalizer = checkpoint.model, checkpoint.normalizer
        step = Cadence(checkpoint.schema.step).delta
        offsets = np.arange(1 - frames.shape[1], steps + 1)
        clock = torch.from_numpy(year_and_day_fraction(times[:, None] + offsets[None, :] * step))
        masked = np.isnan(frames).any(axis=1)
        any_masked = bool(masked.any())
        state = torch.from_numpy(np.nan_to_num(normalizer.encode(frames), nan=0.0).astype(np.float32, copy=False))
        n = frames.shape[1]
        with torch.inference_mode():
            for k in range(steps):
                new = model(state, clock[:, k : k + n + 1], checkpoint.static)
                out = new if checkpoint.calibration is None else checkpoint.calibration(new, clock[:, k + n], k)
                field = normalizer.decode(out.numpy())
                if any_masked:
                    field = np.where(masked, np.float32(np.nan), field)
                yield field
                state = torch.cat([state[:, 1:], new[:, None]], dim=1)
