"""An image model as the windowed runner runs it: channels in, layers of its task out."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from eoflow.predict_images.stack import SEEN

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.models.images import ImageModel

Array = np.ndarray[Any, Any]


class Runnable(nn.Module):
    """(B, T, C + 1, H, W) with `usable` as the last channel -> what the model says, and `usable` (B, T, H, W).

    days: `days_asked` of the model.
    """

    def __init__(self, model: nn.Module, days: tuple[Tensor | None, ...] = ()) -> None:
        super().__init__()
        self.model, self.days = model, days
        self.halo, self.multiple = int(getattr(model, "halo", 0)), int(getattr(model, "multiple", 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        images, usable = x[:, :, :-1], x[:, :, -1] > 0.5
        found = self.model(images, usable, *self.days)
        size = x.shape[-2:]
        out = {n: t for n, t in found.items() if t.ndim in (3, 4) and t.shape[-2:] == size}
        return {**out, SEEN: usable.to(x.dtype)}


def days_asked(
    model: ImageModel, times: Sequence[float] | None, when: float | None
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """`times` (T,) and `when` () for models that ask for them, from days of each date and the day that is wanted."""
    if times is None or not model.needs_times:
        return ()
    wanted = None if when is None else torch.tensor(when, dtype=torch.float64)
    return torch.tensor(tuple(times), dtype=torch.float64), wanted


@dataclass(frozen=True)
class Decode:
    """Outputs of one window to layers, in physical units. spread: factor of the standard deviation."""

    task: Any
    checkpoint: Any
    spread: float = 1.0

    def __call__(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """{name: (K, h, w)} with `usable` -> {layer: (k, h, w)}."""
        rest = dict(outputs)
        usable = rest.pop(SEEN) > 0.5
        layers = {n: np.asarray(a) for n, a in self.task.decode(self.checkpoint, rest, usable).items()}
        if self.spread != 1 and "std" in layers:
            layers["std"] = (layers["std"] * np.float32(self.spread)).astype(layers["std"].dtype)
        return layers


def decoder(checkpoint: ImageCheckpoint, spread: float = 1.0) -> Decode:
    """Without the weights, so that it is cheap to send to workers."""
    light = types.SimpleNamespace(
        recipe=checkpoint.recipe, signature=checkpoint.signature, schema=checkpoint.schema,
        normalizer=checkpoint.normalizer, target_normalizer=checkpoint.target_normalizer, name=checkpoint.name,
        tells_uncertainty=bool(getattr(checkpoint, "tells_uncertainty", False)),
    )  # fmt: skip
    return Decode(checkpoint.task, light, spread)
