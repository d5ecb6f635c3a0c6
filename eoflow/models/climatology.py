"""Climatology: the mean state of the season and the hour of the day, as smooth annual harmonics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eoflow.models.base import FitData, ForecastModel, Signature
from eoflow.models.layers.buffers import FittedBuffers
from eoflow.models.layers.clock import annual_harmonics, day_slot, slots_per_day

AUTO_HARMONICS = 3
_BINS = 24


class HarmonicClimatology(FittedBuffers):
    """Least-squares annual harmonics of every field and cell, one curve for each hour of the day the step visits.

    The first slot's curve has `harmonics` annual waves; each other slot adds a deviation with `diurnal_harmonics`
    of them (a few seasons of the daily cycle need fewer parameters than the year itself; equal numbers give
    entirely separate curves). With `diurnal_harmonics='auto'` (one wave) the daily cycle is left out where no field
    shows it: where it explains no more variance than so many columns would by chance, three times over.
    Fitted by streamed normal equations, evaluated from the clock alone.
    """

    coefficients: Tensor
    waves: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        step_hours: float,
        harmonics: int | str = "auto",
        diurnal_harmonics: int | str = "auto",
    ) -> None:
        super().__init__()
        if harmonics != "auto" and not (isinstance(harmonics, int) and 0 <= harmonics <= 12):
            raise ValueError(f"harmonics is 'auto' or 0 to 12, not {harmonics!r}")
        if diurnal_harmonics != "auto" and not (isinstance(diurnal_harmonics, int) and diurnal_harmonics >= 0):
            raise ValueError(f"diurnal_harmonics is 'auto' or a number, not {diurnal_harmonics!r}")
        self.requested, self.requested_diurnal = harmonics, diurnal_harmonics
        self.slots = slots_per_day(step_hours)
        self.shape = shape
        self.declare("coefficients", 1, *shape)
        self.declare("waves", 2, dtype=torch.int64)

    def design(self, clock: Tensor, harmonics: int, diurnal: int) -> Tensor:
        """(T, 2) -> (T, P): annual waves, then for each slot but the first its own deviation (none: diurnal = -1)."""
        annual = annual_harmonics(clock[:, 0], harmonics)
        if diurnal < 0:
            return annual
        columns, width = [annual], 2 * diurnal + 1
        slot = day_slot(clock[:, 1], self.slots)
        columns += [annual[:, :width] * (slot == s).to(annual.dtype)[:, None] for s in range(1, self.slots)]
        return torch.cat(columns, dim=1)

    def fit(self, data: FitData, split: str = "train") -> None:
        """Fit on the blocks of `split` (states (T, C, H, W), clock (T, 2)). Raises ValueError where there are none."""
        want = AUTO_HARMONICS if self.requested == "auto" else int(self.requested)
        diurnal = min(1 if self.requested_diurnal == "auto" else int(self.requested_diurnal), want)
        gram: Any = 0.0
        moment: Any = 0.0
        square: Any = 0.0
        seen = torch.zeros(_BINS)
        for states, clock in data.blocks(split):
            basis = self.design(clock.double(), want, diurnal)
            gram = gram + basis.T @ basis
            flat = states.flatten(1)
            for rows in torch.split(torch.arange(len(flat)), 512):
                part = flat[rows].double()
                moment = moment + basis[rows].T @ part
                square = square + part.square().sum(0)
            seen += torch.bincount((clock[:, 0] * _BINS).long().clamp(0, _BINS - 1), minlength=_BINS)
        if not isinstance(gram, Tensor):
            raise ValueError(f"the {split} split holds no data to fit a climatology on")
        # Waves fitted to part of a year run wild in the rest of it: then only the mean (of each hour) is kept.
        if self.requested == "auto" and (seen > 0).float().mean() < 0.9:
            keep = self._constant_columns(want, diurnal)
            gram, moment, want, diurnal = gram[keep][:, keep], moment[keep], 0, 0
        solution = _solve(gram, moment)
        if self.requested_diurnal == "auto" and self.slots > 1:
            annual = 2 * want + 1
            plain = _solve(gram[:annual, :annual], moment[:annual])
            with_cycle, without = ((a * m).sum(0) for a, m in ((solution, moment), (plain, moment[:annual])))
            noise = (square - with_cycle) / float((gram[0, 0] - len(gram)).clamp_min(1))
            gained, by_chance = with_cycle - without, (len(gram) - annual) * noise
            per_field = [x.reshape(self.shape[0], -1).sum(1) for x in (gained, by_chance)]
            if bool((per_field[0] <= 3 * per_field[1]).all()):
                solution, diurnal = plain, -1
        self.put("coefficients", solution.float().reshape(-1, *self.shape))
        self.put("waves", torch.tensor([want, diurnal]))

    def _constant_columns(self, harmonics: int, diurnal: int) -> Tensor:
        first = 2 * harmonics + 1
        return torch.tensor([0] + [first + s * (2 * diurnal + 1) for s in range(self.slots - 1)])

    def forward(self, clock: Tensor) -> Tensor:
        """(T, 2) -> (T, C, H, W) normalised mean state."""
        harmonics, diurnal = (int(v) for v in self.waves)
        basis = self.design(clock, harmonics, diurnal).to(self.coefficients.dtype)
        return (basis @ self.coefficients.flatten(1)).reshape(-1, *self.shape)


def _solve(gram: Tensor, moment: Tensor) -> Tensor:
    """Normal equations, with just enough of a ridge for a design that the data do not span."""
    ridge = 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, moment)


class Climatology(ForecastModel):
    """Day-of-year by hour-of-day climatology as a forecasting model: the mean state at the target time.

    Options: `harmonics` ('auto' = 3, or the mean alone where the training data do not span the year),
    `diurnal_harmonics` ('auto' = 1, or no daily cycle where the data show none).
    """

    closed_form = True
    default_frames = 1

    def __init__(
        self, signature: Signature, *, harmonics: int | str = "auto", diurnal_harmonics: int | str = "auto"
    ) -> None:
        super().__init__(signature)
        shape = (signature.channels, signature.height, signature.width)
        self.mean_state = HarmonicClimatology(shape, signature.step_hours, harmonics, diurnal_harmonics)

    def fit(self, data: FitData) -> None:
        """Least squares over the training period. Raises ValueError where it is empty."""
        self.mean_state.fit(data)

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """See ForecastModel."""
        return self.mean_state(clock[:, -1])
