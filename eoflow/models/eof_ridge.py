"""EOF ridge regression: the linear baseline that a network has to beat.

Anomalies from a harmonic climatology are projected on area-weighted EOFs; the principal components of the
last frames predict the next ones by ridge regression, in one matrix; iterated for longer leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eoflow.models.base import FitData, ForecastModel, Signature
from eoflow.models.climatology import HarmonicClimatology
from eoflow.models.layers.buffers import FittedBuffers

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
COUNTS = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 500)
LARGEST_COVARIANCE = 2048
SAMPLE_BYTES = 2**29


@dataclass
class _Block:
    """One consecutive run in EOF space: components (T, K) and the area-weighted square of what they leave out (T,)."""

    components: Tensor
    rest: Tensor


class EofRidge(ForecastModel, FittedBuffers):
    """Ridge regression of principal components on those of the last `frames` frames.

    Options
        n_eofs: number of EOFs, or 'auto': the best on the validation period.
        ridge: penalty as a fraction of the mean variance of the components, or 'auto': the best likewise.
        max_eofs: the largest number 'auto' may choose.
        tune_days: 'auto' minimises the mean area-weighted MSE of iterated forecasts of 1 to this many days
            (of all normalised fields together).
        harmonics, diurnal_harmonics: of the climatology (see HarmonicClimatology).
        precision: 'float32' or 'float16', of the stored EOFs.

    `auto` without a validation period takes the last fifth of the training period for it.
    """

    closed_form = True
    default_frames = 2
    eofs: Tensor
    operator: Tensor
    root_weights: Tensor

    def __init__(
        self,
        signature: Signature,
        *,
        n_eofs: int | str = "auto",
        ridge: float | str = "auto",
        max_eofs: int = 300,
        tune_days: int = 3,
        harmonics: int | str = "auto",
        diurnal_harmonics: int | str = "auto",
        precision: str = "float32",
    ) -> None:
        super().__init__(signature)
        if precision not in ("float32", "float16"):
            raise ValueError(f"precision is float32 or float16, not {precision!r}")
        self.n_eofs, self.ridge, self.max_eofs, self.tune_days = n_eofs, ridge, max_eofs, tune_days
        shape = (signature.channels, signature.height, signature.width)
        self.climatology = HarmonicClimatology(shape, signature.step_hours, harmonics, diurnal_harmonics)
        self.declare("eofs", 1, *shape, dtype=getattr(torch, precision))
        self.declare("operator", signature.frames, 1)
        self.declare("root_weights", signature.height)
        self.put("root_weights", torch.ones(signature.height))
        self.choice: dict[str, float] = {}

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """See ForecastModel."""
        batch, count = frames.shape[:2]
        mean = self.climatology(clock.flatten(0, 1)).unflatten(0, (batch, count + 1))
        basis = self.eofs.to(frames.dtype).flatten(1)
        weights = self.root_weights[:, None]
        components = ((frames - mean[:, :-1]) * weights).flatten(2) @ basis.T
        step = components.flatten(1) @ self.operator
        return mean[:, -1] + (step @ basis).unflatten(1, self.eofs.shape[1:]) / weights

    def fit(self, data: FitData) -> None:
        """Climatology, EOFs and operator from the training period; `auto` options from the validation period.

        Raises ValueError where the training period is too short to regress on.
        """
        self.put("root_weights", data.area_weights.clamp_min(1e-6).sqrt())
        self.climatology.fit(data)
        most = self.max_eofs if self.n_eofs == "auto" else int(self.n_eofs)
        basis = self._find_eofs(data, most)
        train = self._project(data, "train", basis)
        if sum(max(len(b.components) - self.signature.frames, 0) for b in train) < 8:
            raise ValueError("the training period is too short for a regression")
        count, ridge = len(basis) if self.n_eofs == "auto" else int(self.n_eofs), self.ridge
        if "auto" in (self.n_eofs, self.ridge):
            count, ridge = self._tune(train, self._project(data, "valid", basis))
        count = min(count, len(basis))
        self.choice = {"n_eofs": count, "ridge": float(ridge)}
        self.put("operator", _solve(*_moments(train, count, self.signature.frames), float(ridge)).float())
        self.put("eofs", basis[:count].reshape(count, *self.climatology.shape))

    def _anomalies(self, states: Tensor, clock: Tensor) -> Tensor:
        """(T, C, H, W) -> (T, N) anomalies times the root of the area weight."""
        return ((states - self.climatology(clock)) * self.root_weights[:, None]).flatten(1)

    def _find_eofs(self, data: FitData, most: int) -> Tensor:
        """(K, N) orthonormal, leading first: from the covariance, or from evenly thinned states where N is large."""
        size = self.climatology.coefficients[0].numel()
        total = sum(len(s) for s, _ in data.blocks("train"))
        if size <= LARGEST_COVARIANCE:
            covariance = torch.zeros(size, size, dtype=torch.float64)
            for states, clock in data.blocks("train"):
                for rows in torch.split(torch.arange(len(states)), 1024):
                    x = self._anomalies(states[rows], clock[rows]).double()
                    covariance += x.T @ x
            vectors = torch.linalg.eigh(covariance)[1].flip(1).T
            return vectors[: min(most, total - 1, size)].float()
        every = max(1, -(-total * size * 4 // SAMPLE_BYTES), total // max(4 * most, 2000))
        parts, offset = [], 0
        for states, clock in data.blocks("train"):
            rows = torch.arange((-offset) % every, len(states), every)
            parts += [self._anomalies(states[r], clock[r]) for r in torch.split(rows, 256)]
            offset += len(states)
        sample = torch.cat(parts)
        values, vectors = torch.linalg.eigh((sample @ sample.T).double())
        keep = min(most, int((values > values[-1] * 1e-9).sum()))
        basis = vectors.flip(1)[:, :keep].T.float() @ sample
        # Rounding of the Gram matrix leaves the weak ones slightly askew; QR makes them orthonormal again.
        return torch.linalg.qr(basis.T)[0].T.contiguous()

    def _project(self, data: FitData, split: str, basis: Tensor) -> list[_Block]:
        blocks = []
        for states, clock in data.blocks(split):
            parts = [self._anomalies(states[r], clock[r]) for r in torch.split(torch.arange(len(states)), 512)]
            components = torch.cat([x @ basis.T for x in parts])
            total = torch.cat([x.square().sum(1) for x in parts])
            blocks.append(_Block(components, total - components.square().sum(1)))
        return blocks

    def _tune(self, train: list[_Block], valid: list[_Block]) -> tuple[int, float]:
        """The number of EOFs and the penalty with the least iterated error on the validation blocks."""
        if not any(len(b.components) > self.signature.frames + 1 for b in valid):
            train, valid = _last_fifth(train)
        per_day = max(round(24 / self.signature.step_hours), 1)
        steps = per_day * self.tune_days
        limit = train[0].components.shape[1]
        counts = sorted({c for c in COUNTS if c < limit} | {limit}) if self.n_eofs == "auto" else [int(self.n_eofs)]
        ridges = RIDGES if self.ridge == "auto" else (float(self.ridge),)
        best: tuple[float, int, float] | None = None
        for count in counts:
            gram, cross = _moments(train, count, self.signature.frames)
            for ridge in ridges:
                operator = _solve(gram, cross, ridge).float()
                error = _iterated_error(valid, operator, count, self.signature.frames, steps, per_day)
                if best is None or error < best[0]:
                    best = (error, count, ridge)
        assert best is not None
        return best[1], best[2]


def _last_fifth(blocks: list[_Block]) -> tuple[list[_Block], list[_Block]]:
    """Split the longest block's end off as a validation period."""
    longest = max(range(len(blocks)), key=lambda i: len(blocks[i].components))
    cut = len(blocks[longest].components) * 4 // 5
    whole = blocks[longest]
    head = _Block(whole.components[:cut], whole.rest[:cut])
    tail = _Block(whole.components[cut:], whole.rest[cut:])
    return [*blocks[:longest], head, *blocks[longest + 1 :]], [tail]


def _lagged(components: Tensor, frames: int, last: int) -> Tensor:
    """(T, K) -> (T - frames + 1 - last, frames * K): the frames of each start that has `last` steps after it."""
    starts = len(components) - frames + 1 - last
    return torch.cat([components[i : i + starts] for i in range(frames)], dim=1)


def _moments(blocks: list[_Block], count: int, frames: int) -> tuple[Tensor, Tensor]:
    """Mean products of predictors with predictors and with targets."""
    gram = torch.zeros(frames * count, frames * count, dtype=torch.float64)
    cross = torch.zeros(frames * count, count, dtype=torch.float64)
    total = 0
    for block in blocks:
        if len(block.components) <= frames:
            continue
        x = _lagged(block.components[:, :count], frames, 1).double()
        gram += x.T @ x
        cross += x.T @ block.components[frames:, :count].double()
        total += len(x)
    return gram / max(total, 1), cross / max(total, 1)


def _solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(frames * K, K) with the penalty in units of the components' mean variance."""
    penalty = (ridge + 1e-12) * gram.diagonal().mean()
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), cross)


def _iterated_error(blocks: list[_Block], operator: Tensor, count: int, frames: int, steps: int, per_day: int) -> float:
    """Mean over whole-day leads of the area-weighted square error, per cell and field (arbitrary scale)."""
    total, n = 0.0, 0
    for block in blocks:
        reach = min(steps, len(block.components) - frames)
        if reach < 1:
            continue
        every = max(1, (len(block.components) - frames - reach) // 500)
        state = _lagged(block.components[:, :count], frames, reach)[::every]
        for step in range(1, reach + 1):
            following = state @ operator
            state = torch.cat([state[:, count:], following], dim=1)
            if step % per_day == 0 or reach < per_day:
                first = frames - 1 + step
                stop = len(block.components) - reach + step
                truth = block.components[first:stop:every]
                rest = block.rest[first:stop:every] + truth[:, count:].square().sum(1)
                total += float(((truth[:, :count] - following).square().sum(1) + rest).sum())
                n += len(truth)
    return total / max(n, 1) if n and total == total else float("inf")
