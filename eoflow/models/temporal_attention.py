"""Cloud removal by attention over dates that any bands share: every date votes, and what it votes with is itself.

Ours, in the spirit of L-TAE (arXiv 2007.00586) and UnCRtainTS (arXiv 2304.05464), made small enough to be trained on
simulation alone. A network that paints reflectance learns the colours of its training scenes; this one only says how
much each date counts at each pixel, and the image is that mean of the dates themselves:

1. Matching. Where the wanted date is among the inputs and partly clear, every other date is brought to its radiometry
   by a linear map of its bands, fitted by least squares on the pixels that both saw and drawn to the identity (ridge
   regression, outliers trimmed). Its error there is the date's evidence.
2. Prior. A date counts (1 + |days away| / reach) ^ -power, or by its evidence where there is any; hardly at all where
   it is not usable. A power of the distance does not care how fast the ground changes.
3. Attention. A small convolutional encoder, shared by the dates, which exchange means and spreads, corrects the
   logarithm of those weights: it sees residual clouds, shadows and haze as what differs from the other dates. It does
   not see the days: how fast simulated ground changes must not decide how far away a date still counts.
4. Filling. Pixels that no date saw, and the haze beside them, are filled from their surroundings (push and pull over a
   pyramid) or kept from a hazy date, as a learned gate says.
5. A log variance for each band, from the spread of the weighted dates, the evidence and a learned correction.

The correction and the gate begin at zero, so an untrained network is the classical method of steps 1 and 2.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.filling import masked_median
from eoflow.models.images import ImageModel, ImageSignature, padded

NEVER = -1e4
"""Added to the log weight of a date at a pixel where it holds nothing."""
CELL = 4
MARGIN = 12
"""Pixels beside what no date saw that may be haze of the same cloud: nothing is filled from them."""
OWN_DAY = 0.5
"""Days within which a date is the wanted one."""
FEW = 200.0
"""Common pixels at which a fitted change of level counts half."""
LOG_VARIANCE = (-16.0, 4.0)


class Mixing(nn.Module):
    """A residual block of the encoder: a 3 x 3 convolution of each date, and what all dates of the sample say."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, padding_mode="replicate")
        self.join = nn.Conv2d(3 * width, width, 1)
        nn.init.zeros_(self.join.weight)

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """x (B, T, W, h, w), share (B, T, 1, h, w) of each date in the exchange, sum 1 -> as x."""
        y = F.gelu(self.around(x.flatten(0, 1))).reshape(x.shape)
        mean = (y * share).sum(1, keepdim=True)
        spread = ((y - mean).square() * share).sum(1, keepdim=True).add(1e-4).sqrt()
        y = torch.cat([y, mean.expand_as(y), spread.expand_as(y)], dim=2).flatten(0, 1)
        return x + self.join(y).reshape(x.shape)


class TemporalAttention(ImageModel):
    """Any number of dates in any order, any bands -> `image` and `log_variance` (B, C, H, W), in the units of input.

    Inputs are reflectance (recipe `normalize: {scheme: none}`). The first `signature.channels` bands are those that the
    attention looks at; further bands may follow (C >= signature.channels) and are weighted alike.

    Options
        width: channels of the encoder, and half of that at full resolution. blocks: of the encoder, whose cells are
            4 pixels wide. reach (days), power: how a date's weight falls with its distance, before training. ridge:
            variance of reflectance below which a band does not tilt the matching.

    `halo` is the reach of the encoder. Matching sees the whole image that it is given, and filling the whole of a hole.
    """

    halo = 40
    multiple = CELL
    needs_times = True
    staged = True
    any_bands = True
    """Runs on more bands than it was trained on; see checkpoint_bands."""
    any_dates = True
    """Runs on more or fewer dates than it was trained on."""

    def __init__(
        self, signature: ImageSignature, *, width: int = 32, blocks: int = 3, reach: float = 3.0, power: float = 3.0,
        ridge: float = 2e-5,
    ) -> None:  # fmt: skip
        super().__init__(signature)
        if width < 1 or blocks < 1 or reach <= 0 or power <= 0 or ridge <= 0:
            raise ValueError("width, blocks, reach, power and ridge must be positive")
        self.ridge = ridge
        inputs, fine = 3 * signature.channels + 4, max(1, width // 2)
        self.pixels = nn.Conv2d(inputs, fine, 1)
        self.cells = nn.Conv2d(2 * inputs, width, 1)
        self.encoder = nn.ModuleList(Mixing(width, 2**k) for k in range(blocks))
        self.weigh = _head(width + fine, fine, 1)
        self.judge = _head(width + fine + 5, fine, 2)
        # log of: reach, power, power beside evidence, power of the evidence, the wanted date's own, not usable
        start = [reach, power, 0.3 * power, 2.0, 8.0, 7.0]
        self.prior = nn.Parameter(torch.tensor(start).log())
        # log of: spread of the dates, evidence, square of the reflectance, floor
        self.variance = nn.Parameter(torch.tensor([1.0, 0.7, 2e-3, 1e-5]).log())

    def forward(
        self, images: Tensor, usable: Tensor | None = None, times: Tensor | None = None, when: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See ImageModel and the class; a pixel whose bands are all 0 (or not finite) holds nothing.

        times (T,) or (B, T): days of the dates from any origin, NaN where not known; None: not known. when () or (B,):
        the wanted day; None: the latest of `times`. Without days all dates count alike and none is the wanted one.
        """
        given = self.before(images, usable, times, when)
        return self.after(given, self.network(**given), (images.shape[-2], images.shape[-1]))

    def before(
        self, images: Tensor, usable: Tensor | None = None, times: Tensor | None = None, when: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Matching and the prior: what `network` takes. H and W padded to cells.

        images, matched (B, T, C, H, W): as they are and as on the wanted day; usual (B, C, H, W): their median;
        there, usable (B, T, H, W): where a date holds something, and of use; score (B, T, H, W): log of the weight
        before attention; error (B, T, C), see `match`; code (B, T, 3) and days (B, T, 2): what the layers are told of a
        date.
        """
        roles = self.signature.channels
        if images.shape[2] < roles:
            raise ValueError(f"images have {images.shape[2]} bands, and the network looks at {roles}")
        images, _ = padded(images, self.multiple)
        there = images.isfinite().all(2) & (images != 0).any(2)
        images = images.masked_fill(~there[:, :, None], 0)
        usable = there if usable is None else padded(usable.to(images.dtype), self.multiple)[0].bool() & there
        away, known = _away(images, times, when)
        own = known & (away.abs() < OWN_DAY)
        with torch.no_grad():
            matched, error, evidence = match(images, usable, own, self.ridge)
            usual = _usual(matched, usable, there)
        log_error = error[:, :, :roles].mean(2).clamp_min(1e-7).log()
        reach, power, beside, trust, mine, gone = self.prior.exp().unbind()
        prior = -torch.where(evidence, beside, power) * (1 + away.abs() / reach).log()
        best = log_error.masked_fill(~evidence, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
        prior = prior - (trust * (log_error - best)).masked_fill(~evidence, 0)
        score = prior[:, :, None, None] + mine * (usable & own[:, :, None, None]) - gone * ~usable + NEVER * ~there
        code = torch.stack([evidence, ((log_error + 8) / 2).masked_fill(~evidence, 0), own], dim=2)
        days = torch.stack([known, (away.abs() / 5).log1p() / 3], dim=2)
        return {"images": images, "matched": matched, "usual": usual, "there": there, "usable": usable,
                "score": score, "error": error, "code": code, "days": days}  # fmt: skip

    def network(
        self, images: Tensor, matched: Tensor, usual: Tensor, there: Tensor, usable: Tensor, score: Tensor,
        error: Tensor, code: Tensor, days: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Attention: of what `before` gives, means by its weights and what the layers say of them, (B, ., H, W).

        found, spread, past: mean and variance of the matched dates, and mean of `error`; keep, doubt (one channel):
        corrections of the gate and of the log variance.
        """
        roles = self.signature.channels
        features = torch.cat([
            (matched - usual[:, None])[:, :, :roles], images[:, :, :roles], (images - matched)[:, :, :roles],
            usable[:, :, None].to(images.dtype),
        ], dim=2)  # fmt: skip
        to_weigh, to_judge = self._encoded(features, code, there)
        score = score + self.weigh[1:](to_weigh).reshape(score.shape)
        weights = score.softmax(1)
        found = _weighted(matched, weights)
        spread = _weighted((matched - found[:, None]).square(), weights)
        about = [
            usable.any(1)[:, None].to(found.dtype), (usable.to(found.dtype).sum(1, keepdim=True) / 4).log1p(),
            _weighted(days[..., None, None], weights), 5 * spread[:, :roles].mean(1, keepdim=True).add(1e-8).sqrt(),
        ]  # fmt: skip
        first, told = cast(nn.Conv2d, self.judge[0]), torch.cat(about, dim=1)
        judged = _weighted(to_judge.reshape(*score.shape[:2], *to_judge.shape[1:]), weights)
        judged = self.judge[1:](judged + F.conv2d(told, first.weight[:, -told.shape[1] :], first.bias))
        keep, doubt = judged[:, :1], judged[:, 1:]
        return {"found": found, "spread": spread, "past": _weighted(error[..., None, None], weights),
                "keep": keep, "doubt": doubt}  # fmt: skip

    def after(self, given: dict[str, Tensor], told: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Filling and the variance: what `forward` gives, of `size` (H, W)."""
        found, seen = told["found"], given["usable"].any(1)
        sure = seen & ~_near(~seen, MARGIN)
        keep = torch.sigmoid(told["keep"] + torch.where(sure, 6.0, torch.where(seen, -2.0, -5.0))[:, None])
        image = keep * found + (1 - keep) * pushed_and_pulled(found, sure | (seen & ~_some(sure)))
        of_spread, of_past, of_level, floor = self.variance.exp().unbind()
        variance = of_spread * told["spread"] + of_past * told["past"] + of_level * image.square() + floor
        low, high = LOG_VARIANCE
        log_variance = (variance.log() + 3 * torch.tanh(told["doubt"] / 3)).clamp(low, high)
        height, width = size
        return {"image": image[..., :height, :width], "log_variance": log_variance[..., :height, :width]}

    def _encoded(self, features: Tensor, code: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layers of `weigh` and `judge` make of each date: (B T, W / 2, H, W) each.

        features (B, T, 3 R + 1, H, W); code (B, T, 3), the same for all pixels of a date; there (B, T, H, W), where a
        date holds something. Pointwise layers stand before enlarging and before the mean over dates, not behind: the
        same numbers, on fewer of them. The scale of the features is in the weights for the same reason.
        """
        lead, inputs = features.shape[:2], features.shape[2]
        x, known = features.flatten(0, 1), code.to(features.dtype).flatten(0, 1)[:, :, None, None]
        roles, extra = self.signature.channels, known.shape[1]
        scale = x.new_tensor([10.0] * roles + [3.0] * roles + [10.0] * roles + [1.0] * (1 + extra))[:, None, None]
        at_cells = known.expand(-1, -1, x.shape[-2] // CELL, x.shape[-1] // CELL)
        y = torch.cat([F.avg_pool2d(x, CELL), at_cells, F.max_pool2d(x, CELL), at_cells], dim=1)
        y = F.gelu(F.conv2d(y, self.cells.weight * torch.cat([scale, scale]), self.cells.bias))
        y = y.reshape(*lead, *y.shape[1:])
        share = F.avg_pool2d(there.to(x.dtype), CELL)[:, :, None] + 1e-6
        share = share / share.sum(1, keepdim=True)
        for block in self.encoder:
            y = block(y, share)
        own, shared = torch.split(self.pixels.weight * scale, [inputs, extra], 1)
        fine, y = F.gelu(F.conv2d(x, own, self.pixels.bias) + F.conv2d(known, shared)), y.flatten(0, 1)
        weigh, judge = cast(nn.Conv2d, self.weigh[0]), cast(nn.Conv2d, self.judge[0])
        wide, both = fine.shape[1], weigh.in_channels
        heads = ((weigh.weight, weigh.bias), (judge.weight[:, :both], None))
        to_weigh, to_judge = (
            F.conv2d(fine, w[:, :wide], bias)
            + F.interpolate(F.conv2d(y, w[:, wide:]), scale_factor=CELL, mode="bilinear")
            for w, bias in heads
        )
        return to_weigh, to_judge


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two pointwise layers that begin with zeros for an answer."""
    last = nn.Conv2d(hidden, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.GELU(), last)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """(B, T, C, H, W) and (B, T, H, W) -> (B, C, H, W)."""
    total = values[:, 0] * weights[:, 0, None]
    for t in range(1, weights.shape[1]):  # date by date: no product of all of them lies in memory
        total = torch.addcmul(total, values[:, t], weights[:, t, None])
    return total


def _usual(images: Tensor, usable: Tensor, there: Tensor) -> Tensor:
    """Median over the usable dates, over all that hold something where none is: (B, C, H, W), 0 without any."""
    some = torch.where(usable.any(1, keepdim=True), usable, there)
    return masked_median(images, some).nan_to_num(nan=0.0)


def _near(mask: Tensor, by: int) -> Tensor:
    """(B, H, W): where a mask takes a sixth of the square that reaches `by` pixels; single pixels are near nothing."""
    side = 2 * by + 1
    every = torch.stack([mask.float(), torch.ones_like(mask, dtype=torch.float32)], dim=1)
    rows = F.avg_pool2d(every, (side, 1), 1, (by, 0), divisor_override=1)  # sums of whole numbers: exact
    found, of = F.avg_pool2d(rows, (1, side), 1, (0, by), divisor_override=1).unbind(1)
    return 6 * found > of


def _some(mask: Tensor) -> Tensor:
    """(B, 1, 1): whether a mask (B, H, W) has a pixel."""
    return mask.flatten(1).any(1)[:, None, None]


def _away(images: Tensor, times: Tensor | None, when: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, T) days of each date minus the wanted day, 0 where not known, and where it is known."""
    batch, dates = images.shape[:2]
    if times is None:
        zero = images.new_zeros(batch, dates)
        return zero, zero.bool()
    times = times.to(images.device, torch.float64).expand(batch, dates)
    if when is None:
        when = times.nan_to_num(nan=-math.inf).amax(1)
    away = times - when.to(images.device, torch.float64).expand(batch)[:, None]
    known = away.isfinite()
    return away.masked_fill(~known, 0).to(images.dtype), known


def match(images: Tensor, usable: Tensor, own: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every date as it would have looked on the wanted one.

    images (B, T, C, H, W), usable (B, T, H, W), own (B, T) the wanted dates themselves, which stay as they are.
    Returns the matched dates; the mean squared error of each band on the common pixels (B, T, C), 0 without any; and
    whether there are some (B, T). Without common pixels a date stays as it is.
    """
    mine = usable & own[:, :, None, None]
    visible = mine.any(1)
    wanted = (images * mine[:, :, None]).sum(1) / mine.sum(1).clamp_min(1)[:, None]
    common = usable & visible[:, None] & ~own[:, :, None, None]
    difference = (images - wanted[:, None]).mean(2)
    common = common & _typical(difference, common)
    x, y = images.flatten(3), wanted.flatten(2)[:, None]
    weight = common.flatten(2)[:, :, None].to(images.dtype)
    count = weight.sum(-1)
    n = count.clamp_min(1)
    mean_x, mean_y = (x * weight).sum(-1) / n, (y * weight).sum(-1) / n
    dx, dy = (x - mean_x[..., None]) * weight, y - mean_y[..., None]
    eye = ridge * (1 + 10 * FEW / n)[..., None] * torch.eye(images.shape[2], device=x.device, dtype=x.dtype)
    square = dx @ (x - mean_x[..., None]).transpose(-1, -2) / n[..., None]
    cross = dx @ dy.transpose(-1, -2) / n[..., None]
    tilt = torch.linalg.solve(square + eye, cross + eye)
    trust = (count / (count + FEW))[..., None]
    matched = x + trust * (tilt.transpose(-1, -2) @ (x - mean_x[..., None]) + mean_y[..., None] - x)
    error = ((matched - y).square() * weight).sum(-1) / n
    return matched.reshape(images.shape), error, count[..., 0] > 0


def _typical(difference: Tensor, common: Tensor) -> Tensor:
    """Where a difference (B, T, H, W) lies within four robust standard deviations (and 0.01) of its median."""
    values = difference.masked_fill(~common, torch.nan).flatten(2)
    middle = values.nanmedian(-1, keepdim=True).values.nan_to_num()
    deviation = (values - middle).abs()
    limit = 4 * 1.4826 * deviation.nanmedian(-1, keepdim=True).values.nan_to_num() + 0.01
    return (deviation <= limit).reshape(difference.shape)


def pushed_and_pulled(image: Tensor, known: Tensor) -> Tensor:
    """(B, C, H, W) with the pixels that are not `known` (B, H, W) filled smoothly from those around (Gortler 1996).

    Means over ever larger squares, and the smallest that holds something counts most. 0 where nothing is known.
    """
    levels = [(image * known[:, None], known[:, None].to(image.dtype))]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1]))  # type: ignore[arg-type]
    total, weight = levels[-1]
    out = total / weight.clamp_min(1e-6)
    for total, weight in reversed(levels[:-1]):
        out = F.interpolate(out, size=total.shape[-2:], mode="bilinear")
        mean = total / weight.clamp_min(1e-6)
        trust = (4 * weight).clamp_max(1)
        out = torch.where(weight > 0, trust * mean + (1 - trust) * out, out)
    return out
