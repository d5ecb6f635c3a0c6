"""Persistence: tomorrow is as today. The baseline that every forecast meets first."""

from __future__ import annotations

from torch import Tensor

from eoflow.models.base import FitData, ForecastModel


class Persistence(ForecastModel):
    """The last frame, unchanged. Nothing to fit."""

    closed_form = True
    default_frames = 1

    def fit(self, data: FitData) -> None:
        """Nothing to learn."""

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """See ForecastModel."""
        return frames[:, -1]
