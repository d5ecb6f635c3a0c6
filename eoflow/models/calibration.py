"""Lead-dependent damping toward climatology: a forecast that has lost its skill must not pretend.

For every field and lead the verifying anomaly is regressed on the forecast anomaly over forecasts of the
validation period; the coefficient, between 0 and 1, is how much of the anomaly the forecast keeps. The
expected square error is then at most climatology's, at the price of activity (show that beside it).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from eoflow.models.climatology import HarmonicClimatology
from eoflow.models.layers.buffers import FittedBuffers

_GROUPS = 10


class LeadDamping(FittedBuffers):
    """forecast = mean + damping[lead, channel] * (raw - mean), with the harmonic climatology as the mean.

    Fit: `update` once for each batch of validation forecasts in time order, then `finish`.
    The coefficients are pooled between channels where there are few cases, shrunk by their own sampling error
    (jackknife over runs of neighbouring cases), made non-increasing with lead (isotonic regression, which
    averages neighbouring leads where they disagree), and clipped to 0..1.
    """

    damping: Tensor

    def __init__(self, climatology: HarmonicClimatology, leads: int, channels: int) -> None:
        super().__init__()
        self.climatology = climatology
        self.declare("damping", leads, channels)
        self.put("damping", torch.ones(leads, channels))
        self._sums: list[Tensor] = []
        self._cases: list[int] = []

    @property
    def leads(self) -> int:
        """Number of leads (steps) that the coefficients cover."""
        return int(self.damping.shape[0])

    def update(self, raw: Tensor, truth: Tensor, clock: Tensor, area_weights: Tensor) -> None:
        """Add forecasts: raw and truth (B, L, C, H, W), clock (B, L, 2) of the valid times, area_weights (H,)."""
        mean = self.climatology(clock.flatten(0, 1)).unflatten(0, clock.shape[:2])
        x, y = raw - mean, truth - mean
        weights = (area_weights / area_weights.mean())[:, None]
        products = torch.stack([x * x, x * y, y * y])
        # A diverged forecast (inf, nan) would spoil every sum: its case counts as no information at all.
        good = products.isfinite().flatten(2).all(dim=2).all(dim=0)
        if bool(good.any()):
            self._sums.append((products[:, good] * weights).mean(dim=(-2, -1)).sum(dim=1).double())
            self._cases.append(int(good.sum()))

    def finish(self, pooling: float = 20.0) -> None:
        """Turn the sums into coefficients. At `pooling` cases a channel and all together weigh the same."""
        if not self._sums:
            raise ValueError("no validation forecasts to fit the damping on")
        sums, cases = torch.stack(self._sums), sum(self._cases)
        groups = [torch.stack([sums[i] for i in part]).sum(0) for part in _runs(len(sums), _GROUPS)]
        total = sums.sum(0)
        best = _regress(total, cases, pooling)
        if len(groups) > 2:
            left_out = torch.stack([_regress(total - g, cases, pooling) for g in groups])
            n = len(groups)
            error = ((left_out - left_out.mean(0)).square().sum(0) * (n - 1) / n).clamp_min(0)
            best = best * (1 - error / best.square().clamp_min(1e-12)).clamp_min(0)
        weight = total[0] / total[2].mean(0).clamp_min(1e-12)
        columns = [_non_increasing(best[:, c], weight[:, c].clamp_min(1e-9)) for c in range(best.shape[1])]
        self.put("damping", torch.stack(columns, dim=1).clamp(0, 1).float())
        self._sums, self._cases = [], []

    def forward(self, raw: Tensor, clock: Tensor, lead_index: int) -> Tensor:
        """raw (B, C, H, W) at step `lead_index` (0 = first step), clock (B, 2) of its valid time -> same shape.

        Leads beyond the fitted ones take the last coefficient.
        """
        mean = self.climatology(clock)
        keep = self.damping[min(lead_index, self.leads - 1)].to(raw.dtype)[:, None, None]
        return mean + keep * (raw - mean)


def _runs(count: int, groups: int) -> list[range]:
    """`count` cases in at most `groups` runs of neighbours."""
    edges = [round(i * count / min(groups, count)) for i in range(min(groups, count) + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def _regress(sums: Tensor, cases: int, pooling: float) -> Tensor:
    """(3, L, C) sums of xx, xy, yy -> (L, C) slope, drawn toward the slope of all channels together."""
    scale = sums[2].mean(0).clamp_min(1e-12)
    xx, xy = sums[0] / scale, sums[1] / scale
    share = pooling / max(cases, 1)
    numerator, denominator = xy + share * xy.mean(1, keepdim=True), xx + share * xx.mean(1, keepdim=True)
    return numerator / denominator.clamp_min(1e-12)


def _non_increasing(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted isotonic regression (pool adjacent violators) of a (L,) curve that should fall."""
    blocks: list[list[float]] = []
    for value, weight in zip(values.tolist(), weights.tolist()):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (v1, w1, n1), (v2, w2, n2) = blocks[-2:]
            blocks[-2:] = [[(v1 * w1 + v2 * w2) / (w1 + w2), w1 + w2, n1 + n2]]
    return torch.tensor([v for v, _, n in blocks for _ in range(int(n))], dtype=torch.float64)
