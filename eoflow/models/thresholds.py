"""Water by a threshold: Otsu and its relatives on one band, fixed thresholds of radar backscatter, water indices.

Baselines for segmentation. They have no weights. What they take is in physical units (backscatter in dB, reflectance):
where the images are normalised, `scale` and `offset` bring them back (physical = x * scale + offset).
Sources: Otsu 1979 (IEEE SMC-9); Kittler and Illingworth 1986 (Pattern Recognition 19); thresholds from the tiles that
hold both land and water: Martinis et al. 2009 (NHESS 9), Markert et al. 2020 (Remote Sensing 12, separability 0.75);
NDWI: McFeeters 1996 (green, near infrared); MNDWI: Xu 2006 (green, short-wave infrared).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eoflow.models.images import ImageModel, ImageSignature
from eoflow.models.layers.bimodal import METHODS, separability, split
from eoflow.models.layers.otsu import MAX_LOGIT, Split
from eoflow.models.layers.pair import score_logits

SIDES = ("below", "above")


class WaterThreshold(ImageModel):
    """What they share: images (B, T, C, H, W), usable (B, T, H, W) -> {logits: (B, K, H, W)}, K = 1 or 2.

    The logit of water is the signed distance to the threshold over `softness`, within +-16. It is 0 (unknown) where the
    pixel is not usable or its value is not a number. K = 2: logits of (land, water) that differ by it, land at 0.

    Options of all
        date: which date, -1 the last. scale, offset: a number, or one a channel, back to physical units.
        smooth: odd side, in pixels, of a mean over the usable pixels around each pixel before the threshold (speckle).
    """

    closed_form = True

    def __init__(
        self,
        signature: ImageSignature,
        *,
        date: int = -1,
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        smooth: int = 1,
    ) -> None:
        super().__init__(signature)
        if signature.outputs not in (1, 2):
            raise ValueError(f"a threshold parts water from land: 1 or 2 outputs, not {signature.outputs}")
        if smooth < 1 or smooth % 2 == 0:
            raise ValueError(f"smooth is an odd number of pixels, not {smooth}")
        if signature.dates and not -signature.dates <= date < signature.dates:
            raise ValueError(f"date {date} of {signature.dates}")
        self.date, self.smooth, self.halo = date, smooth, smooth // 2
        self.register_buffer("scale", _per_channel(scale, signature, "scale"), persistent=False)
        self.register_buffer("offset", _per_channel(offset, signature, "offset"), persistent=False)

    scale: Tensor
    offset: Tensor

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        x = images[:, self.date].float() * self.scale[:, None, None] + self.offset[:, None, None]
        seen = torch.ones_like(x[:, 0], dtype=torch.bool) if usable is None else usable[:, self.date]
        water = self.water(x, seen)
        return {"logits": score_logits(water, self.signature.outputs)}

    def water(self, x: Tensor, seen: Tensor) -> Tensor:
        """Logit of water (B, H, W) from physical values (B, C, H, W) and where they count (B, H, W)."""
        raise NotImplementedError

    def smoothed(self, value: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) mean over the window's usable, finite pixels; and where the pixel itself is one of them."""
        seen = seen & value.isfinite()
        value = torch.where(seen, value, torch.zeros_like(value))
        if self.smooth > 1:
            pair = torch.stack([value, seen.to(value.dtype)], 1)
            pair = F.avg_pool2d(pair, self.smooth, stride=1, padding=self.smooth // 2)
            value = torch.where(seen, pair[:, 0] / pair[:, 1].clamp_min(1e-6), torch.zeros_like(value))
        return value, seen


class BandThresholds(WaterThreshold):
    """Fixed thresholds of one or several bands: VV and VH in dB.

    Options
        channels, thresholds: positions and values, in pairs. The defaults, -15 dB for VV and -22 dB for VH, are round
            values of the literature for open water at C band. water: 'below' or 'above' the thresholds.
        combine: 'all' bands must say water, or 'any' of them; a band that is not finite in a pixel has no say there.
        softness: distance to the threshold that is one logit.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        channels: Sequence[int] = (0, 1),
        thresholds: Sequence[float] = (-15.0, -22.0),
        water: str = "below",
        combine: str = "all",
        softness: float = 1.0,
        date: int = -1,
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        smooth: int = 1,
    ) -> None:
        super().__init__(signature, date=date, scale=scale, offset=offset, smooth=smooth)
        if not channels or len(channels) != len(thresholds):
            raise ValueError(f"{len(channels)} channels and {len(thresholds)} thresholds")
        if combine not in ("all", "any"):
            raise ValueError(f"combine '{combine}' is not one of all, any")
        _check_channels(signature, *channels)
        self.pairs, self.all, self.sign = list(zip(channels, thresholds)), combine == "all", _sign(water)
        self.softness = _positive(softness)

    def water(self, x: Tensor, seen: Tensor) -> Tensor:
        """See WaterThreshold."""
        says, silent = [], torch.inf if self.all else -torch.inf
        for channel, threshold in self.pairs:
            value, good = self.smoothed(x[:, channel], seen)
            logit = self.sign * (value - threshold) / self.softness
            says.append(torch.where(good, logit, torch.full_like(logit, silent)))
        together = torch.stack(says)
        logit = together.amin(0) if self.all else together.amax(0)
        return torch.where(logit.isfinite(), logit, torch.zeros_like(logit)).clamp(-MAX_LOGIT, MAX_LOGIT)


class WaterIndex(WaterThreshold):
    """(first - second) / (first + second) above a threshold: NDWI (green, near infrared), MNDWI (green, short-wave).

    Options: first, second: channel positions. threshold: on the index. softness: index units that are one logit.
    The index is not defined where first + second is not positive; outside -1 to 1 (a negative reflectance) it is cut.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        first: int,
        second: int,
        threshold: float = 0.0,
        softness: float = 0.05,
        date: int = -1,
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        smooth: int = 1,
    ) -> None:
        super().__init__(signature, date=date, scale=scale, offset=offset, smooth=smooth)
        _check_channels(signature, first, second)
        self.first, self.second, self.threshold = first, second, threshold
        self.softness = _positive(softness)

    def water(self, x: Tensor, seen: Tensor) -> Tensor:
        """See WaterThreshold."""
        value, good = self.smoothed(normalised_difference(x[:, self.first], x[:, self.second]), seen)
        logit = ((value - self.threshold) / self.softness).clamp(-MAX_LOGIT, MAX_LOGIT)
        return torch.where(good, logit, torch.zeros_like(logit))


class Otsu(WaterThreshold):
    """A threshold from each image's own histogram.

    Options
        channel: position of the band; or index: two positions, for their normalised difference (then water 'above').
        water: 'below' or 'above'. method: 'otsu' or 'kittler-illingworth' (minimum error: for populations of different
            width or size). bins: cells of the histogram, 0: exact over all distinct values.
        bimodality: smallest separability (see layers.bimodal) for which a threshold is believed, 0: any.
        tiles: side in pixels of tiles, 0: none. The threshold then comes from the pixels of those tiles that show two
            populations (separability of at least `bimodality` or, where that is 0, 0.75; each part at least a tenth),
            so that a little water in a large scene is not lost in the histogram of the land.
        fallback: threshold, in physical units, of an image that shows no two populations. None: such an image has no
            water, whatever it shows; with a number an image that is all water is seen too.
        softness: distance that is one logit; None: from two Gaussians of the means and the pooled variance that were
            found, variance / gap (and one unit for the fallback).

    The whole image decides, not a window of it: `whole_image` tells the runner, and `halo` counts the smoothing alone.
    """

    whole_image = True

    def __init__(
        self,
        signature: ImageSignature,
        *,
        channel: int = 0,
        index: Sequence[int] | None = None,
        water: str | None = None,
        method: str = "otsu",
        bins: int = 256,
        bimodality: float = 0.0,
        tiles: int = 0,
        fallback: float | None = None,
        softness: float | None = None,
        date: int = -1,
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        smooth: int = 1,
    ) -> None:
        super().__init__(signature, date=date, scale=scale, offset=offset, smooth=smooth)
        if method not in METHODS:
            raise ValueError(f"method '{method}' is not one of {', '.join(METHODS)}")
        if bins < 0 or bins == 1 or (bins == 0 and method != "otsu"):
            raise ValueError(f"{bins} bins: at least 2, or 0 (exact) with 'otsu'")
        if tiles < 0:
            raise ValueError(f"tiles of {tiles} pixels")
        _check_channels(signature, channel, *(index or ()))
        if index is not None and len(index) != 2:
            raise ValueError("index takes two channel positions")
        self.channel, self.index = channel, tuple(index) if index is not None else None
        self.sign = _sign(water or ("above" if index is not None else "below"))
        self.method, self.bins, self.bimodality, self.tiles = method, bins, bimodality, tiles
        self.fallback, self.softness = fallback, None if softness is None else _positive(softness)

    def water(self, x: Tensor, seen: Tensor) -> Tensor:
        """See WaterThreshold."""
        value, good = self.smoothed(self._feature(x), seen)
        logits = []
        for image, mask in zip(value, good):
            logit = self._logit(image, self.find(image, mask))
            logits.append(torch.where(mask, logit, torch.zeros_like(logit)))
        return torch.stack(logits)

    def find(self, value: Tensor, seen: Tensor) -> Split | None:
        """The two populations of one image (H, W) where it is usable (H, W), or None where it shows none."""
        values, believed = value[seen], self.bimodality
        if self.tiles:
            values, believed = value[seen & self._mixed(value, seen)], 0.0
        found = split(values, method=self.method, bins=self.bins)
        return found if found is not None and found.separability >= believed else None

    def _mixed(self, value: Tensor, seen: Tensor) -> Tensor:
        """(H, W) bool: tiles at least half usable that hold two populations."""
        height, width = value.shape
        rows = torch.arange(height, device=value.device) // self.tiles
        columns = torch.arange(width, device=value.device) // self.tiles
        across = int(columns[-1]) + 1
        tile = rows[:, None] * across + columns
        count = int(tile[-1, -1]) + 1
        eta, share = separability(value[seen], tile[seen], count, 256)
        filled = torch.bincount(tile[seen], minlength=count) / torch.bincount(tile.flatten(), minlength=count)
        return ((eta >= (self.bimodality or 0.75)) & (share >= 0.1) & (filled.to(eta) >= 0.5))[tile]

    def _logit(self, value: Tensor, found: Split | None) -> Tensor:
        """Logit of water (H, W) of one image."""
        threshold = self.fallback if found is None else found.threshold
        if threshold is None:
            return torch.full_like(value, -MAX_LOGIT)
        if found is not None and self.softness is None:
            return self.sign * found.log_odds(value)
        return (self.sign * (value - threshold) / (self.softness or 1.0)).clamp(-MAX_LOGIT, MAX_LOGIT)

    def _feature(self, x: Tensor) -> Tensor:
        if self.index is None:
            return x[:, self.channel]
        return normalised_difference(x[:, self.index[0]], x[:, self.index[1]])


def normalised_difference(first: Tensor, second: Tensor) -> Tensor:
    """(a - b) / (a + b) within -1 to 1; NaN where a + b is not positive or a value is not finite."""
    total = first + second
    value = ((first - second) / total).clamp(-1, 1)
    return torch.where((total > 0) & total.isfinite(), value, torch.full_like(value, torch.nan))


def _sign(water: str) -> float:
    if water not in SIDES:
        raise ValueError(f"water '{water}' is not one of {', '.join(SIDES)}")
    return -1.0 if water == "below" else 1.0


def _positive(softness: float) -> float:
    if not softness > 0:
        raise ValueError(f"softness {softness} is not positive")
    return softness


def _check_channels(signature: ImageSignature, *channels: int) -> None:
    for c in channels:
        if not 0 <= c < signature.channels:
            raise ValueError(f"channel {c} of {signature.channels}")


def _per_channel(value: float | Sequence[float], signature: ImageSignature, name: str) -> Tensor:
    numbers = [float(value)] * signature.channels if isinstance(value, int | float) else [float(v) for v in value]
    if len(numbers) != signature.channels:
        raise ValueError(f"{len(numbers)} numbers for {name}, {signature.channels} channels")
    return torch.tensor(numbers)
