"""Two populations in a histogram: the minimum-error threshold beside Otsu's, and how bimodal the tiles of a scene are.

Kittler and Illingworth (1986, Pattern Recognition 19, 41-47) cut where two Gaussians of their own width and size are
told apart with the fewest errors. Otsu's cut assumes them equally wide and leans towards the larger one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eoflow.models.layers.otsu import Split, otsu, otsu_counts

METHODS = ("otsu", "kittler-illingworth")
SMALLEST_SHARE = 0.005
"""Part of the values below which the minimum error's two Gaussians are not told from the tail of one."""
_EPS = 1e-12


def split(values: Tensor, *, method: str = "otsu", bins: int = 256) -> Split | None:
    """The threshold of finite values (N,), in their unit, or None where they show no two populations.

    method 'otsu': None only where all values are equal or there is none. 'kittler-illingworth': None also where one
    Gaussian explains the values as well. bins: of the histogram between minimum and maximum, whose values act by the
    centres of the bins; 0: exact over all distinct values ('otsu' only; sorts them).
    """
    if method not in METHODS:
        raise ValueError(f"method '{method}' is not one of {', '.join(METHODS)}")
    if bins < 0 or bins == 1 or (bins == 0 and method != "otsu"):
        raise ValueError(f"{bins} bins: at least 2, or 0 (exact) with 'otsu'")
    if len(values) == 0 or bool(values.min() == values.max()):
        return None
    if bins == 0:
        return otsu(values)
    index, edges = _binned(values.double(), bins)
    counts = torch.bincount(index, minlength=bins).double()
    return otsu_counts(counts, edges) if method == "otsu" else _minimum_error(counts, edges)


def separability(values: Tensor, group: Tensor, groups: int, bins: int = 256) -> tuple[Tensor, Tensor]:
    """(G,) Otsu's separability and (G,) share of the smaller class, of the values (N,) of each group (N,) int64 < G.

    Separability is the variance between the classes as a fraction of all variance: 0.64 for one Gaussian that is cut in
    the middle, 0.75 for a uniform distribution, 0.8 for two equally large Gaussians four standard deviations apart.
    """
    if len(values) == 0 or bool(values.min() == values.max()):
        return torch.zeros(groups), torch.zeros(groups)
    index, edges = _binned(values.double(), bins)
    counts = torch.bincount(group * bins + index, minlength=groups * bins).view(groups, bins).double()
    centres = (edges[1:] + edges[:-1]) / 2
    total = counts.sum(1, keepdim=True).clamp_min(1)
    offset = centres - (counts * centres).sum(1, keepdim=True) / total
    below, moment = (counts.cumsum(1) / total)[:, :-1], ((counts * offset).cumsum(1) / total)[:, :-1]
    inside = (below > 0) & (below < 1)
    between = torch.where(inside, moment.square() / (below * (1 - below)).clamp_min(_EPS), torch.zeros_like(below))
    best, where = between.max(dim=1)
    variance = (counts * offset.square()).sum(1) / total[:, 0]
    share = below.gather(1, where[:, None])[:, 0]
    eta = torch.where(variance > 0, best / variance.clamp_min(_EPS), torch.zeros_like(best))
    return eta.float(), torch.minimum(share, 1 - share).float()


def _binned(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Bin of each value (N,) int64 and edges (bins + 1,) float64 from the smallest to the largest value."""
    low, high = float(values.min()), float(values.max())
    index = ((values - low) / (high - low) * bins).long().clamp_(0, bins - 1)
    return index, torch.linspace(low, high, bins + 1, dtype=torch.float64, device=values.device)


def error_criterion(counts: Tensor, edges: Tensor) -> Tensor:
    """(N - 1,) Kittler and Illingworth's J = 1 + 2 sum P ln s - 2 sum P ln P (eq. 15) at each inner edge of N bins.

    Within a bin the values are taken as evenly spread: a twelfth of its squared width is added to the variances.
    """
    centres = (edges[1:] + edges[:-1]) / 2
    offset = centres - (counts * centres).sum() / counts.sum()
    low = torch.stack([counts, counts * offset, counts * offset.square()]).cumsum(1)
    high = (low[:, -1:] - low)[:, :-1]
    total = torch.ones_like(high[0])
    for n, first, second in (low[:, :-1], high):
        size = n.clamp_min(1)
        variance = (second / size - (first / size).square()).clamp_min(0) + _within_bin(edges)
        p = (n / counts.sum()).clamp_min(_EPS)
        total = total + p * variance.log() - 2 * p * p.log()
    return total


def _within_bin(edges: Tensor) -> Tensor:
    return (edges[1] - edges[0]).square() / 12


def _minimum_error(counts: Tensor, edges: Tensor) -> Split | None:
    """At the lowest valley of J, if two Gaussians there explain more than one for all (J of no cut)."""
    criterion, below = error_criterion(counts, edges), counts.cumsum(0)[:-1] / counts.sum()
    valley = torch.zeros_like(criterion, dtype=torch.bool)
    valley[1:-1] = (criterion[1:-1] <= criterion[:-2]) & (criterion[1:-1] <= criterion[2:])
    valley &= torch.minimum(below, 1 - below) >= SMALLEST_SHARE
    centres = (edges[1:] + edges[:-1]) / 2
    mean = (counts * centres).sum() / counts.sum()
    variance = (counts * (centres - mean).square()).sum() / counts.sum() + _within_bin(edges)
    valley &= criterion < 1 + variance.log()
    if not bool(valley.any()):
        return None
    best = torch.where(valley, criterion, torch.inf)
    flat = torch.nonzero(best <= best.min() + _EPS)[:, 0]  # an empty gap between the populations: its middle
    k = int(flat[len(flat) // 2])
    low, high = (
        (counts[part] * centres[part]).sum() / counts[part].sum() for part in (slice(k + 1), slice(k + 1, None))
    )
    between = below[k] * (1 - below[k]) * (high - low).square()
    return Split(
        threshold=float(edges[k + 1]),
        low=float(low),
        high=float(high),
        within=float((variance - between).clamp_min(0)),
        separability=float(between / variance),
    )
