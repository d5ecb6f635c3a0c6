"""Radar samples as another acquisition of the same place could have shown them.

Backscatter is multiplied, not added to: in dB every change here is an offset, a slope or a smooth field, and speckle is
the logarithm of a gamma variable (Goodman 1976). Water that the wind roughens is brighter, in VV about three times as
much (in dB) as in VH; the label says where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eoflow.prepare.scenes.augment import Hook, HookContext
from eoflow.quality import Quality

if TYPE_CHECKING:
    from eoflow.prepare.scenes.trainset import Patches

CROSS = 0.3
"""What the wind does to VH, as a share of what it does to VV (in dB)."""
SMOOTHEST, ROUGHEST = -2.0, 10.0
FETCH = 31
"""Pixels a side of the square that must be water for the wind to do all it can."""


def radar(
    context: HookContext,
    *,
    offset: float = 1.0,
    between: float = 0.7,
    slope: float = 1.0,
    wind: float = 0.3,
    gusts: float = 1.5,
    speckle: float = 0.3,
    looks: float = 8.0,
    edge: float = 0.05,
    water: int = 1,
) -> Hook:
    """The hook; for bands in dB, or linear ones that are normalised after `db`. ValueError for others.

    offset, between: standard deviations, in dB, of what all bands and each band gain. slope: largest change across the
    sample, dB (incidence angle). wind: probability that water gets another roughness, from -2 to +10 dB in VV, where it
    is wide; gusts: its largest spread within the sample. speckle: probability of more speckle, of `looks` to four times
    as many looks.
    edge: probability that a side of the sample was not seen (the swath ends there). water: its number among the labels.
    """
    n = context.normalizer
    for name, units, transform in zip(n.channels, n.units, n.transforms, strict=True):
        if units != "dB" and transform != "db":
            raise ValueError(f"band {name} is in '{units}': give backscatter in dB, or normalize.scheme: db")
    std = torch.tensor(n.std, dtype=torch.float32)[:, None, None]
    cross = torch.tensor([CROSS if c.lower() in ("vh", "hv") else 1.0 for c in n.channels])[:, None, None]

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        height, width = sample.quality.shape[-2:]
        dates, channels = sample.inputs.shape[:2]
        seen = (sample.quality > int(Quality.NODATA))[:, None]
        db = torch.zeros_like(sample.inputs)
        for t in range(dates):
            change = rng.normal(0, offset) + torch.from_numpy(rng.normal(0, between, (channels, 1, 1))).float()
            db[t] += change + _slope(rng, height, width, slope)
            if rng.random() < wind and sample.labels.shape[0]:
                gain = rng.uniform(SMOOTHEST, ROUGHEST) + _smooth(rng, height, width, rng.uniform(0, gusts))
                db[t] += _open(sample.labels[0] == water) * gain * cross
            if rng.random() < speckle:
                many = looks * 4.0 ** rng.random()
                grain = rng.standard_gamma(many, (channels, height, width)) / many
                db[t] += torch.from_numpy(10.0 * np.log10(np.maximum(grain, 1e-6))).float()
        inputs = torch.where(seen, sample.inputs + db / std, sample.inputs)
        if rng.random() < edge:
            return _cut(sample._replace(inputs=inputs), rng)
        return sample._replace(inputs=inputs)

    return hook


def _slope(rng: np.random.Generator, height: int, width: int, most: float) -> Tensor:
    """(1, H, W): a plane, zero in the middle, from -a/2 to a/2 from side to side."""
    amount = float(rng.uniform(-most, most))
    return (torch.linspace(-0.5, 0.5, width)[None, None, :] * amount).expand(1, height, width)


def _smooth(rng: np.random.Generator, height: int, width: int, spread: float) -> Tensor:
    """(1, H, W): a smooth random field of about this standard deviation."""
    knots = int(rng.integers(2, 7))
    coarse = torch.from_numpy(rng.normal(0, spread, (1, 1, knots, knots))).float()
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)[0]


def _open(water: Tensor) -> Tensor:
    """(H, W) 0..1: where the wind has a fetch, by the share of water around."""
    wet = water[None, None].float()
    share = F.avg_pool2d(wet, FETCH, stride=1, padding=FETCH // 2, count_include_pad=False)
    return (wet * ((share - 0.5) / 0.4).clamp(0.0, 1.0))[0, 0]


def _cut(sample: Patches, rng: np.random.Generator) -> Patches:
    """A slanting part of the sample was not seen: inputs 0, quality nodata."""
    height, width = sample.quality.shape[-2:]
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    gone = x * float(np.cos(angle)) + y * float(np.sin(angle)) > reach
    quality = torch.where(gone, torch.full_like(sample.quality, int(Quality.NODATA)), sample.quality)
    return sample._replace(inputs=sample.inputs.masked_fill(gone, 0.0), quality=quality)
