"""What fills clouds without learning: composites of the usable dates. Every cloud-removal scorecard carries them.

A date is usable at a pixel where `usable` says so and every output band is finite there, so that all bands of an
output pixel come from the same dates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eoflow.models.images import ImageModel, ImageSignature

FALLBACKS = ("nan", "mean")
BASES = ("none", "median", "mean")


def usable_pixels(images: Tensor, usable: Tensor | None) -> Tensor:
    """Where every band of images (B, T, C, H, W) is finite and usable (B, T, H, W): bool (B, T, H, W)."""
    finite = images.isfinite().all(2)
    return finite if usable is None else finite & usable


def masked_mean(images: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid dates: (B, T, C, H, W) and bool (B, T, H, W) -> (B, C, H, W), NaN where none is."""
    total = images.masked_fill(~valid[:, :, None], 0).sum(1)
    return total / valid.sum(1)[:, None]


def masked_median(images: Tensor, valid: Tensor) -> Tensor:
    """Median over the valid dates, band by band (an even number: mean of the two in the middle); as masked_mean."""
    count = valid.sum(1)[:, None]
    order = _sorted(list(images.masked_fill(~valid[:, :, None], torch.inf).unbind(1)))
    low, high = order[0], order[0]
    for k in range(1, len(order) // 2 + 1):
        low, high = torch.where((count - 1) // 2 == k, order[k], low), torch.where(count // 2 == k, order[k], high)
    return ((low + high) / 2).masked_fill(count == 0, torch.nan)


def _sorted(values: list[Tensor]) -> list[Tensor]:
    """Of equal shapes, in ascending order at every place: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2, M).

    Minima and maxima of whole dates run through memory in order; a sort along dates, which lie far apart in it, takes
    up to three times as long.
    """
    n = len(values)
    rounds = (n - 1).bit_length()
    for p in (1 << k for k in reversed(range(rounds))):
        q, r, d = 1 << (rounds - 1), 0, p
        while True:
            for i in (i for i in range(n - d) if i & p == r):
                a, b = values[i], values[i + d]
                values[i], values[i + d] = torch.minimum(a, b), torch.maximum(a, b)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
    return values


def fill_with_mean(image: Tensor) -> Tensor:
    """NaN of (B, C, H, W) replaced by the mean of the same sample and band; still NaN where the whole band is."""
    known = image.isfinite()
    mean = image.masked_fill(~known, 0).sum((-2, -1), keepdim=True) / known.sum((-2, -1), keepdim=True)
    return torch.where(known, image, mean)


def first_guess(images: Tensor, usable: Tensor | None, outputs: int, base: str) -> Tensor:
    """What a network corrects: the `base` composite of the first `outputs` bands, finite everywhere.

    (B, T, C, H, W) -> (B, outputs, H, W). Pixels that no date saw hold the mean of the sample's band, or 0 (the mean
    of normalised images) where no date saw anything.
    """
    seen = images[:, :, :outputs]
    composite = masked_median if base == "median" else masked_mean
    return fill_with_mean(composite(seen, usable_pixels(seen, usable))).nan_to_num(nan=0.0)


def check_base(base: str) -> None:
    """ValueError for an unknown first guess."""
    if base not in BASES:
        raise ValueError(f"base '{base}' is not one of {', '.join(BASES)}")


class Filling(ImageModel):
    """Base of the composites. They have no weights and see each pixel by itself; any number of dates, NaN allowed.

    Options
        fallback: pixels without a usable date are 'nan' (unknown, the honest answer), or the 'mean' of the sample's
            filled pixels of that band (NaN only where there is none).
    """

    closed_form = True
    needs_times = False
    """True: the order and the distance of the dates matter, and whoever runs it should pass `times` and `when`."""

    def __init__(self, signature: ImageSignature, *, fallback: str = "nan") -> None:
        super().__init__(signature)
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback '{fallback}' is not one of {', '.join(FALLBACKS)}")
        self.fallback = fallback

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """images (B, T, C, H, W), valid (B, T, H, W), away (B, T, 1, 1) time of each date minus the wanted time, days.

        Returns (B, C, H, W); what it says where no date is valid is not used.
        """
        raise NotImplementedError

    def forward(
        self, images: Tensor, usable: Tensor | None = None, times: Tensor | None = None, when: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As ImageModel.forward, with two more arguments that only some composites use.

        times: (T,) or (B, T) when the dates were taken, in days from any origin, in any order (float64 for days since
            1970). None: one day apart, in the order given.
        when: () or (B,) the time that the image is wanted for, same origin. None: the latest of `times`.
        Returns `image` (B, outputs, H, W), made of the first `outputs` bands, and `count` (B, H, W) int64: the
        usable dates of each pixel (0: `image` is the fallback).
        """
        seen = images[:, :, : self.signature.outputs]
        valid = usable_pixels(seen, usable)
        count = valid.sum(1)
        image = self.composite(seen, valid, _away(seen, times, when))
        image = image.masked_fill(count[:, None] == 0, torch.nan)
        return {"image": fill_with_mean(image) if self.fallback == "mean" else image, "count": count}


class MedianComposite(Filling):
    """Median of the usable dates, band by band."""

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """See Filling."""
        return masked_median(images, valid)


class MeanComposite(Filling):
    """Mean of the usable dates."""

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """See Filling."""
        return masked_mean(images, valid)


class LastClear(Filling):
    """The latest usable date that is not after the wanted time; where there is none, the first one after it."""

    needs_times = True

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """See Filling."""
        beyond = 2 * away.abs().amax(1, keepdim=True) + 1
        rank = torch.where(away <= 0, away, -away - beyond)
        return _pick(images, rank.masked_fill(~valid, -torch.inf).argmax(1))


class NearestClear(Filling):
    """The usable date nearest to the wanted time; the earlier of two that are equally near."""

    needs_times = True

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """See Filling."""
        distance = away.abs().masked_fill(~valid, torch.inf)
        nearest = distance == distance.amin(1, keepdim=True)
        return _pick(images, torch.where(nearest, away, torch.inf).argmin(1))


class LinearInTime(Filling):
    """Linear interpolation between the last usable date before and the first one after; constant beyond them."""

    needs_times = True

    def composite(self, images: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        """See Filling."""
        before = away.expand_as(valid).masked_fill(~valid | (away > 0), -torch.inf)
        after = away.expand_as(valid).masked_fill(~valid | (away < 0), torch.inf)
        (start, i), (end, j) = before.max(1), after.min(1)
        early, late = _pick(images, i), _pick(images, j)
        share = torch.where(end > start, -start / (end - start), 0.0)[:, None].to(images.dtype)
        between = early + share * (late - early)
        one_sided = torch.where(start.isfinite()[:, None], early, late)
        return torch.where((start.isfinite() & end.isfinite())[:, None], between, one_sided)


def _away(images: Tensor, times: Tensor | None, when: Tensor | None) -> Tensor:
    """(B, T, 1, 1) float64: each date's time minus the wanted time."""
    batch, dates = images.shape[:2]
    if times is None:
        times = torch.arange(dates, device=images.device)
    times = times.to(torch.float64).expand(batch, dates)
    wanted = times.amax(1) if when is None else when.to(torch.float64).expand(batch)
    return (times - wanted[:, None])[:, :, None, None]


def _pick(images: Tensor, date: Tensor) -> Tensor:
    """The pixels of images (B, T, C, H, W) at the dates of an index (B, H, W) -> (B, C, H, W)."""
    index = date[:, None, None].expand(-1, 1, *images.shape[2:])
    return images.gather(1, index)[:, 0]
