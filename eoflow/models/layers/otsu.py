"""Otsu's threshold (1979): the cut that makes the variance between two classes largest.

`otsu` is exact: every cut between two different values is tried. `otsu_counts` works on a histogram, which
adds up over the blocks of a scene that does not fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOGIT = 16.0
"""Largest log-odds that a threshold gives: probabilities stay apart from 0 and 1 in float32 (1e-7)."""


@dataclass(frozen=True)
class Split:
    """Two classes on both sides of a threshold, in the unit of the values.

    threshold: a value above it is in the high class; infinite where there is one value only, so nothing is
    high.
    low, high: means of the classes. within: variance inside the classes, pooled. separability: variance
    between the classes as a fraction of all variance, 0 to 1.
    """

    threshold: float
    low: float
    high: float
    within: float
    separability: float

    def log_odds(self, values: Tensor) -> Tensor:
        """Log-odds of the high class, positive exactly where `values` > threshold, of the same shape.

        The two classes as Gaussians of equal variance and equal prior whose means lie as far apart as they
        do, moved
        so that they meet at the threshold: (high - low) / within * (value - threshold).
        """
        if self.threshold == float("inf"):
            return torch.full_like(values, -MAX_LOGIT)
        gap = self.high - self.low
        # Where the classes are points, their variance is 0: a hundredth of the gap stands in for the spread.
        slope = gap / max(self.within, (0.01 * gap) ** 2)
        exact = values.double()  # a float32 threshold could round onto one of its two neighbours
        score = ((exact - self.threshold) * slope).clamp(-MAX_LOGIT, MAX_LOGIT)
        tiny = torch.finfo(values.dtype).tiny  # an underflow to 0 would otherwise undo the cut
        return torch.where(exact > self.threshold, score.clamp_min(tiny), score.clamp_max(0.0)).to(
            values.dtype
        )


ONE_CLASS = Split(float("inf"), float("nan"), float("nan"), 0.0, 0.0)
"""What there is to say of no values, or of one value many times."""


def otsu(values: Tensor) -> Split:
    """Exact threshold of the finite ones among `values` (any shape), midway between the two values it lies
    between.
    """
    flat = values.detach().flatten()
    flat = flat[torch.isfinite(flat)].double()
    unique, counts = torch.unique(flat, return_counts=True)
    return _split(unique, counts.double())


def otsu_counts(counts: Tensor, edges: Tensor) -> Split:
    """Threshold of a histogram: counts (N,) of the bins between edges (N + 1,), ascending. Bins act by their
    centres.
    """
    if edges.ndim != 1 or len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} bins have {len(counts) + 1} edges, not {tuple(edges.shape)}")
    filled = counts > 0
    centres = (edges[1:].double() + edges[:-1].double()) / 2
    return _split(centres[filled], counts[filled].double())


def _split(values: Tensor, counts: Tensor) -> Split:
    """Of ascending different values (N,) and how often each occurs."""
    if len(values) < 2:
        return ONE_CLASS
    total, mean = counts.sum(), (values * counts).sum() / counts.sum()
    offset = values - mean  # differences from the mean keep the sums exact where values lie far from zero
    below = counts.cumsum(0)[:-1] / total
    moment = (offset * counts).cumsum(0)[:-1] / total
    between = moment.square() / (below * (1 - below))
    k = int(between.argmax())
    variance = (offset.square() * counts).sum() / total
    low, high = mean + moment[k] / below[k], mean - moment[k] / (1 - below[k])
    return Split(
        threshold=float((values[k] + values[k + 1]) / 2),
        low=float(low),
        high=float(high),
        within=float((variance - between[k]).clamp_min(0)),
        separability=float((between[k] / variance).clamp(0, 1)),
    )
