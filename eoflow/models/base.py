"""What every forecasting network and baseline is: an nn.Module over tensors with a declared signature.

A model knows no file, no name and no calendar. It receives normalised frames, numbers for the clock,
and static fields; it returns the next normalised state.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

CLOCK_FEATURES = 2
"""Numbers of the clock for one instant: fraction of the year and fraction of the UTC day, both in [0, 1)."""


@dataclass(frozen=True)
class Signature:
    """Shapes a model is built for, derived from FieldSchema and recipe, saved with the weights.

    frames: input frames, oldest first. channels: prognostic fields, in = out. static: static input fields.
    height, width: grid rows (north to south) and columns. global_: True on a sphere (longitude wraps, both
    poles present), False for a limited area. wraps: longitude alone is circular.
    step_hours: length of one step. latitude: (height,) degrees, for area weights and sphere geometry.
    """

    frames: int
    channels: int
    static: int
    height: int
    width: int
    step_hours: float
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    global_: bool = False
    wraps: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Inverse of to_dict."""
        return cls(**{**d, "latitude": tuple(d["latitude"]), "longitude": tuple(d["longitude"])})


class ForecastModel(nn.Module):
    """Base class of forecasting models.

    forward(frames, clock, static) -> next state
        frames (B, F, C, H, W) float32, normalised, oldest first
        clock  (B, F + 1, 2) float32, year and day fraction of each input frame and of the target
        static (S, H, W) float32, normalised static fields; the geometry (sin/cos of latitude and longitude) is the
               model's own business
        returns (B, C, H, W) float32, normalised state one step later

    `options` are the recipe's `network:` keys; unknown ones raise TypeError at construction.
    """

    closed_form: bool = False
    """True for a model that is fitted by `fit` in one pass instead of by gradient descent."""
    default_frames: int = 1
    """Input frames when the recipe names none."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """The next state; see the class."""
        raise NotImplementedError

    def prepare(self, data: FitData) -> None:
        """Before gradient training: fit scales, a first guess and the like from the training period."""

    def settle(self, data: FitData, static: Tensor) -> None:
        """After gradient training: what is better chosen on the validation period."""

    def fit(self, data: FitData) -> None:
        """Fit a closed-form model from training data (see FitData). Gradient models do not define it."""
        raise NotImplementedError(f"{type(self).__name__} is trained by gradient descent")


@runtime_checkable
class FitData(Protocol):
    """The training (and validation) period, streamed in time order, in normalised units.

    blocks(split) yields (states, clock): states (T, C, H, W) float32 consecutive at the model's step (a gap
    starts a new block; blocks do not overlap), clock (T, 2) float32. split is `train` or `valid`.
    """

    @property
    def area_weights(self) -> Tensor:
        """(H,) area weights, mean 1."""
        ...

    def blocks(self, split: str) -> Any:
        """Iterate (states, clock) of `split`."""
        ...


def rollout(model: ForecastModel, frames: Tensor, clock: Tensor, static: Tensor, steps: int) -> Tensor:
    """Iterate `model` for `steps` steps: (B, steps, C, H, W).

    frames (B, F, C, H, W); clock (B, F + steps, 2) covers the input frames and every target.
    """
    out = []
    n = frames.shape[1]
    for k in range(steps):
        state = model(frames, clock[:, k : k + n + 1], static)
        out.append(state)
        frames = torch.cat([frames[:, 1:], state[:, None]], dim=1)
    return torch.stack(out, dim=1)
