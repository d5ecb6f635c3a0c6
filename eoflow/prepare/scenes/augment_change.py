"""Augmentation for change detection: what differs between two dates although nothing changed, and change out of masks.

`colours`, `shifted-dates` and `swapped-dates` take samples of two dates. `g-star` and `events` need one date and its
labels (the last of the sample): they make the other date themselves, so that a network learns change without a single
labelled pair of dates (arXiv 2108.07002, 2406.15694, 2406.17998).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.models import events
from eoflow.prepare.scenes import resize
from eoflow.prepare.scenes.augment import spatial
from eoflow.quality import Quality

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.prepare.scenes.augment import Hook, HookContext
    from eoflow.prepare.scenes.trainset import Patches

Array = np.ndarray[Any, np.dtype[Any]]
IGNORE = -1


def _physical(context: HookContext, inputs: Tensor) -> Array:
    return np.asarray(context.normalizer.decode(inputs.numpy()), dtype=np.float32)


def _encoded(context: HookContext, values: Array, quality: Tensor) -> Tensor:
    """Normalised again, 0 where nothing was seen (as PatchSet gives it)."""
    import torch

    encoded = context.normalizer.encode(values.astype(np.float32))
    out = torch.from_numpy(np.ascontiguousarray(encoded, dtype=np.float32))
    unseen = (quality <= int(Quality.NODATA))[:, None]
    return out.masked_fill(unseen, 0.0) if bool(unseen.any()) else out


def colours(
    context: HookContext, *, gamma: float = 0.25, contrast: float = 0.25, gain: float = 0.15, tint: float = 0.05,
    offset: float = 0.04, saturation: tuple[float, float] = (0.3, 1.5), noise: float = 0.04,
) -> Hook:  # fmt: skip
    """Every date in its own light: gamma, saturation, contrast about the mean, gain and offset of all bands and of each
    (tint), white noise on three dates of ten. For brightness of 0..1. The numbers are standard deviations (of the
    logarithm for gamma, contrast, gain, tint), the largest one for noise.
    """

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        values = _physical(context, sample.inputs)
        channels = values.shape[1]
        for k in range(len(values)):
            x = np.clip(values[k], 1e-3, 1.0) ** np.float32(np.exp(rng.normal(0, gamma)))
            colour, contrasted = rng.uniform(*saturation), np.exp(rng.normal(0, contrast))
            mix = (np.eye(channels) * colour + (1 - colour) / channels) * contrasted
            each = np.exp(rng.normal(0, gain) + rng.normal(0, tint, channels))
            added = rng.normal(0, offset) + rng.normal(0, offset / 2, channels)
            mean = x.mean(axis=(1, 2)).astype(float)
            x = np.einsum("dc,cyx->dyx", (mix * each).T.astype("f4"), x, optimize=True)
            x += ((mean - mean @ mix) * each + added).astype("f4")[:, None, None]
            if rng.random() < 0.3:
                x += rng.standard_normal(x.shape[1:], dtype=np.float32) * np.float32(rng.uniform(0, noise))
            values[k] = np.clip(x, 0.0, 1.0)
        return sample._replace(inputs=_encoded(context, values, sample.quality))

    return hook


def zoomed(context: HookContext, *, size: int, sides: tuple[int, int]) -> Hook:
    """A random square of `sides[0]` to `sides[1]` pixels, brought to `size` pixels: other resolutions, the same on all
    dates. Images are resampled over areas, masks and labels by the nearest pixel.
    """
    low, high = sides
    if not 8 <= low <= high:
        raise ValueError(f"sides {sides}: two lengths in pixels, 8 or more, the shorter one first")

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        height, width = sample.inputs.shape[-2:]
        side = int(rng.integers(min(low, height, width), min(high, height, width) + 1))
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        cut = spatial(sample, lambda a: a[..., y : y + side, x : x + side])
        seen = cut.quality > int(Quality.NODATA)
        target_seen = cut.target_quality > int(Quality.NODATA)
        return cut._replace(
            inputs=resize.image(cut.inputs, seen, size, "area" if side > size else "bilinear"),
            quality=resize.mask(cut.quality, size),
            target=resize.image(cut.target[None], target_seen[None], size, "bilinear")[0],
            target_quality=resize.mask(cut.target_quality, size), labels=resize.mask(cut.labels, size),
        )  # fmt: skip

    return hook


def blurred(context: HookContext, *, p: float = 0.4, sigma: float = 1.3, sharpen: float = 0.8) -> Hook:
    """Every date with probability p blurred by up to `sigma` pixels, or sharpened by up to `sharpen`, evenly."""
    from scipy import ndimage

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        values = _physical(context, sample.inputs)
        for k in range(len(values)):
            if rng.random() >= p:
                continue
            if rng.random() < 0.6:
                width = rng.uniform(0.3, sigma)
                values[k] = ndimage.gaussian_filter(values[k], (0, width, width))
            else:
                soft = ndimage.gaussian_filter(values[k], (0, 1.0, 1.0))
                values[k] += np.float32(rng.uniform(0, sharpen)) * (values[k] - soft)
        return sample._replace(inputs=_encoded(context, values, sample.quality))

    return hook


def shifted_dates(context: HookContext, *, pixels: int = 2) -> Hook:
    """The last date moved by up to so many pixels along each axis, with the edge repeated; labels stay."""

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        dy, dx = (int(v) for v in rng.integers(-pixels, pixels + 1, 2))
        height, width = sample.inputs.shape[-2:]
        rows = np.clip(np.arange(height) + dy, 0, height - 1)
        columns = np.clip(np.arange(width) + dx, 0, width - 1)
        inputs, quality = sample.inputs.clone(), sample.quality.clone()
        inputs[-1] = inputs[-1][:, rows][:, :, columns]
        quality[-1] = quality[-1][rows][:, columns]
        return sample._replace(inputs=inputs, quality=quality)

    return hook


def swapped_dates(context: HookContext, *, p: float = 0.5) -> Hook:
    """Before and after the other way round: what came went. Labels of the two dates, where there are any, swap too."""

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        if rng.random() >= p:
            return sample
        labels = sample.labels[[0, 2, 1]] if len(sample.labels) == 3 else sample.labels
        return sample._replace(inputs=sample.inputs.flip(0), quality=sample.quality.flip(0), labels=labels)

    return hook


def _pair(sample: Patches, image: Tensor, quality: Tensor, before: Tensor, after: Tensor) -> Patches:
    """A sample of the last date of `sample` and of `image`; labels: change, class before, class after."""
    import torch

    unknown = (before == IGNORE) | (after == IGNORE)
    change = (before != after).long().masked_fill(unknown, IGNORE)
    return sample._replace(
        inputs=torch.stack([sample.inputs[-1], image]), quality=torch.stack([sample.quality[-1], quality]),
        labels=torch.stack([change, before, after]),
    )  # fmt: skip


def g_star(context: HookContext, *, shuffled: float = 0.7) -> Hook:
    """The last date and another view of a labelled place as a pair of dates: what their labels differ in has changed.

    With probability `shuffled` the other view is the same image turned, mirrored and rolled (another place, as far as a
    network can tell), else the image itself: no change; put `colours` behind, so that the two do not look alike. A
    sample is paired with itself only, so that what it becomes does not depend on its batch.
    """

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        image, quality, label = sample.inputs[-1], sample.quality[-1], sample.labels[0]
        if rng.random() >= shuffled:
            return _pair(sample, image, quality, label, label)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        size = image.shape[-1]
        roll = tuple(int(v) for v in rng.integers(size // 4, size - size // 4, 2))

        def turned(x: Tensor) -> Tensor:
            x = x.rot90(turns, (-2, -1))
            return (x.flip(-1) if flip else x).roll(roll, (-2, -1))

        return _pair(sample, turned(image), turned(quality), label, turned(label))

    return hook


def composited_events(context: HookContext, *, most: int = 4, margin: int = 2, min_area: int = 64) -> Hook:
    """The last date, and the same with up to `most` of its objects copied to free places: created, or (dates swapped)
    removed. The pixels around an object (`margin`) go with it, and so does the border of its shadow.
    """

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        import torch
        from scipy import ndimage

        label = sample.labels[0]
        classes = np.where(label.numpy() < 0, 0, label.numpy())
        step = events.create(events.objects_of(classes), rng, int(rng.integers(0, most + 1)), min_area=min_area)
        image, after = sample.inputs[-1].clone(), label.clone()
        for event in step.events:
            mask = step.objects.instances == event.instance
            wide = ndimage.binary_dilation(mask, iterations=margin) if margin else mask
            rows, columns = np.nonzero(wide)
            y, x = rows - event.shift[0], columns - event.shift[1]
            keep = (y >= 0) & (x >= 0) & (y < image.shape[-2]) & (x < image.shape[-1])
            to, source = (rows[keep], columns[keep]), (y[keep], x[keep])
            image[:, to[0], to[1]] = sample.inputs[-1][:, source[0], source[1]]
            after[torch.from_numpy(mask)] = event.after
        after[label == IGNORE] = IGNORE
        out = _pair(sample, image, sample.quality[-1], label, after)
        return swapped(out, rng)

    swapped = swapped_dates(context)
    return hook
