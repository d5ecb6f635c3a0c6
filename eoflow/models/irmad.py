"""IR-MAD: iteratively reweighted multivariate alteration detection (Nielsen 2007, doi
10.1109/TIP.2006.888195).

Canonical correlation of the bands of two dates gives pairs of variates; their differences (MAD variates) are
uncorrelated, ordered by how little they agree, and do not change under any affine change of either date's
bands: gain, offset and mixing of channels are no change. Over pixels without change the sum of their squares,
each over its variance 2 (1 - rho), is chi-square distributed with as many degrees of freedom as bands. The
probability of no change weighs the pixels of the next round, until the correlations stand still.

Our addition (`consistent`): weights by that probability favour small differences also where nothing changed,
so the published iteration measures too little variance and, round by round, shrinks what counts as no change
(of Gaussian noise to nothing). The measured variance is divided by what the weights leave of a chi-square
variable, which makes the true variance the iteration's fixed point. `consistent=False` is as published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eoflow.models.images import ImageModel, ImageSignature
from eoflow.models.layers.otsu import MAX_LOGIT, otsu
from eoflow.models.layers.pair import score_logits, two_dates

ROUNDING = 1e-12
RIDGE = 1e-9
"""Added to the bands' correlation matrices, so that bands which are copies of each other do not divide by
zero.
"""


@dataclass(frozen=True)
class Mad:
    """What IR-MAD found in one image of N pixels and C bands; float64.

    variates (N, C), smallest correlation first; correlations (C,); chi2 (N,): sum of squared standardised
    variates; no_change (N,): probability that chi-square exceeds it by chance; rounds; bands: how many take
    part (constant bands of either date do not).
    """

    variates: Tensor
    correlations: Tensor
    chi2: Tensor
    no_change: Tensor
    rounds: int
    bands: int


def ir_mad(
    before: Tensor, after: Tensor, *, rounds: int = 50, tolerance: float = 1e-4, consistent: bool = True
) -> Mad:
    """IR-MAD of two dates, (N, C) each, finite. One round is plain MAD.

    Ends when no correlation moved by more than `tolerance`. Fewer pixels than about ten a band give nothing
    to rely on; none, or bands without variance, give chi-square 0 (no change).
    """
    x, y = before.double(), after.double()
    keep = (_spread(x) > 0) & (_spread(y) > 0)
    x, y = x[:, keep], y[:, keep]
    pixels, bands = x.shape
    if pixels <= bands or bands == 0:
        zero = x.new_zeros(pixels)
        return Mad(x.new_zeros(pixels, bands), x.new_ones(bands), zero, zero + 1, 0, bands)
    x, y = _standard(x), _standard(y)
    weights, last = x.new_ones(pixels), x.new_full((bands,), -1.0)
    done = 0
    while done < max(rounds, 1):
        done += 1
        variates, rho = _mad(x, y, weights)
        kept = _kept_variance(bands) if consistent and done > 1 else 1.0
        # rho = 1 (a band and its affine copy) leaves no variance to divide by, and no difference either.
        chi2 = (variates.square() / (2 * (1 - rho) / kept).clamp_min(1e-7)).sum(dim=1)
        weights = torch.special.gammaincc(chi2.new_tensor(bands / 2), chi2 / 2)
        moved, last = float((rho - last).abs().max()), rho
        # Where hardly a pixel keeps its weight, another round would describe those few only.
        if moved < tolerance or float(weights.sum()) < 10 * bands:
            break
    chi2 = torch.where(chi2 < ROUNDING, 0.0, chi2)  # identical dates: a threshold must not part rounding errors
    return Mad(variates, rho, chi2, weights, done, bands)


def _spread(x: Tensor) -> Tensor:
    """(C,) largest minus smallest value of each band; 0 of no pixels."""
    return x.amax(dim=0) - x.amin(dim=0) if len(x) else x.new_zeros(x.shape[1])


def _standard(x: Tensor) -> Tensor:
    """Bands with mean 0 and variance 1, so that the ridge means the same for each of them."""
    return (x - x.mean(dim=0)) / x.std(dim=0, correction=0)


def _kept_variance(bands: int) -> float:
    """Variance of a standard normal variate, one of `bands`, under weights that are the chi-square p-values.

    E[w z^2] / E[w] = E[min(R, R')] / p for two independent R with p degrees of freedom; by Gini's mean
    difference of the gamma distribution that is 1 - 2 / p * Gamma((p + 1) / 2) / (sqrt(pi) Gamma(p / 2)).
    """
    ratio = math.exp(math.lgamma((bands + 1) / 2) - math.lgamma(bands / 2))
    return 1 - 2 / bands * ratio / math.sqrt(math.pi)


def _mad(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """MAD variates (N, C) and canonical correlations (C,), ascending, under weights (N,)."""
    share = (weights / weights.sum())[:, None]
    x, y = x - (x * share).sum(0), y - (y * share).sum(0)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device) * RIDGE
    lx = torch.linalg.cholesky(x.T @ (x * share) + eye)
    ly = torch.linalg.cholesky(y.T @ (y * share) + eye)
    cross = torch.linalg.solve_triangular(lx, x.T @ (y * share), upper=False)
    cross = torch.linalg.solve_triangular(ly, cross.T, upper=False).T
    a, rho, bt = torch.linalg.svd(cross)
    u = x @ torch.linalg.solve_triangular(lx.T, a, upper=True)
    v = y @ torch.linalg.solve_triangular(ly.T, bt.T, upper=True)
    return (u - v).flip(1), rho.clamp(0, 1).flip(0)


class IrMad(ImageModel):
    """{`logits`: (B, K, H, W), `score`: (B, H, W) chi-square, `no_change`: (B, H, W) probability}; K is 1 or
    2.

    Options
        rounds, tolerance, consistent: of the iteration (see the module); rounds 1: plain MAD.
        significance: a pixel changed where chance gives its chi-square less often than this. None: where the
            square root of chi-square is above Otsu's threshold.

    All statistics are of the whole image (`halo` means nothing: give it whole scenes). Pixels that are not
    usable on both dates take no part and show no change.
    """

    closed_form = True

    def __init__(
        self,
        signature: ImageSignature,
        *,
        rounds: int = 50,
        tolerance: float = 1e-4,
        consistent: bool = True,
        significance: float | None = None,
    ) -> None:
        super().__init__(signature)
        if significance is not None and not 0 < significance < 1:
            raise ValueError(f"significance {significance} is not a probability")
        self.significance = significance
        self.iteration: dict[str, Any] = {"rounds": rounds, "tolerance": tolerance, "consistent": consistent}

    def _one(self, before: Tensor, after: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds of change, chi-square and probability of no change, (H, W) each, of one pair (C, H, W)."""
        mad = ir_mad(before[:, seen].T, after[:, seen].T, **self.iteration)
        chi2, p = (seen.new_zeros(seen.shape, dtype=torch.float64) for _ in range(2))
        p += 1
        chi2[seen], p[seen] = mad.chi2, mad.no_change
        if self.significance is None:
            length = chi2.sqrt()
            odds = otsu(length[seen]).log_odds(length)
        else:  # how many times rarer than the level
            level = torch.tensor(self.significance, dtype=torch.float64)
            odds = (level.log() - p.clamp_min(1e-300).log()).clamp(-MAX_LOGIT, MAX_LOGIT)
        return odds, chi2, p

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        before, after, seen = two_dates(images, usable)
        parts = [self._one(*pair) for pair in zip(before, after, seen)]
        odds, chi2, p = (torch.stack(x).to(images.dtype) for x in zip(*parts))
        return {"logits": score_logits(odds, self.signature.outputs), "score": chi2, "no_change": p}
