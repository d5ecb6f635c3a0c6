"""A small data set for fitting: blocks in memory, and signatures of any shape."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from eoflow.models.base import Signature


def make_signature(height=6, width=9, channels=2, frames=2, static=0, step_hours=24.0, sphere=False):
    if sphere:
        lat = 90 - 180 / height * (np.arange(height) + 0.5)
        lon = 360 / width * np.arange(width)
    else:
        lat, lon = 60 - 2.5 * np.arange(height), -10 + 2.5 * np.arange(width)
    return Signature(
        frames, channels, static, height, width, step_hours, tuple(lat.tolist()), tuple(lon.tolist()), sphere, sphere
    )


@dataclass
class Blocks:
    """FitData in memory: split -> list of (states, clock)."""

    splits: dict[str, list[tuple[Tensor, Tensor]]]
    area_weights: Tensor = field(default_factory=lambda: torch.ones(1))

    def blocks(self, split):
        yield from self.splits.get(split, [])


def daily_clock(count, per_day=1, start=0):
    """(count, 2) clock of consecutive steps in years of 365 days."""
    step = torch.arange(start, start + count, dtype=torch.float64)
    return torch.stack([(step / per_day / 365) % 1, (step / per_day) % 1], dim=1).float()


@pytest.fixture
def signature():
    return make_signature


@pytest.fixture
def clock_of():
    return daily_clock


@pytest.fixture
def fit_data():
    return Blocks
