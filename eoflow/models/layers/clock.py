"""Numbers of the clock turned into smooth functions of season and hour."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clock_waves(clock: Tensor) -> Tensor:
    """(..., 2) year and day fraction -> (..., 4): sine and cosine of each, one full turn a year and a day."""
    angle = 2 * math.pi * clock
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def annual_harmonics(year_fraction: Tensor, harmonics: int) -> Tensor:
    """(T,) fraction of the year -> (T, 2 K + 1): one, then cosine and sine of each of the K harmonics."""
    columns = [torch.ones_like(year_fraction)]
    for k in range(1, harmonics + 1):
        angle = 2 * math.pi * k * year_fraction
        columns += [angle.cos(), angle.sin()]
    return torch.stack(columns, dim=-1)


def slots_per_day(step_hours: float) -> int:
    """Instants of the UTC day that a step visits: 4 for 6 h, 1 for a day, a month, or a step that drifts round."""
    slots = 24.0 / step_hours
    return round(slots) if slots >= 1 and abs(slots - round(slots)) < 1e-6 else 1


def day_slot(day_fraction: Tensor, slots: int) -> Tensor:
    """(T,) fraction of the UTC day -> (T,) int64 index of the nearest slot."""
    return torch.round(day_fraction * slots).long() % slots
