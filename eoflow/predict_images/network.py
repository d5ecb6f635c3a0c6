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

Array = np.ndarray[Any, Any]


class Runnable(nn.Module):
    """(B, T, C + 1, H, W) with `usable` as the last channel -> what the model says, and `usable` (B, T, H, W).

    times: days of each date, when: the day that is wanted; only for models that ask for them (`needs_times`).
    """

    def __init__(self, model: nn.Module, times: Sequence[float] | None = None, when: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.halo, self.multiple = int(getattr(model, "halo", 0)), int(getattr(model, "multiple", 1))
        self.times = tuple(times) if times is not None and getattr(model, "needs_times", False) else None
        self.when = when

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        images, usable = x[:, :, :-1], x[:, :, -1] > 0.5
        more: dict[str, Any] = {}
        if self.times is not None:
            more["times"] = torch.tensor(self.times, dtype=torch.float64)
            more["when"] = None if self.when is None else torch.tensor(self.when, dtype=torch.float64)
        found = self.model(images, usable, **more)
        size = x.shape[-2:]
        out = {n: t for n, t in found.items() if t.ndim in (3, 4) and t.shape[-2:] == size}
        return {**out, SEEN: usable.to(x.dtype)}


@dataclass(frozen=True)
class Decode:
    """Outputs of one window to layers, in physical units; also `observed` pixels stay what they are."""

    task: Any
    checkpoint: Any

    def __call__(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """{name: (K, h, w)} with `usable` -> {layer: (k, h, w)}."""
        rest = dict(outputs)
        usable = rest.pop(SEEN) > 0.5
        return {n: np.asarray(a) for n, a in self.task.decode(self.checkpoint, rest, usable).items()}


def decoder(checkpoint: ImageCheckpoint) -> Decode:
    """Without the weights, so that it is cheap to send to workers."""
    light = types.SimpleNamespace(
        recipe=checkpoint.recipe, signature=checkpoint.signature, schema=checkpoint.schema,
        normalizer=checkpoint.normalizer, target_normalizer=checkpoint.target_normalizer, name=checkpoint.name,
        tells_uncertainty=bool(getattr(checkpoint, "tells_uncertainty", False)),
    )  # fmt: skip
    return Decode(checkpoint.task, light)
