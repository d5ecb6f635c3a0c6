"""Augmentation of samples: the same change for all bands, dates, masks and labels, drawn by (seed, epoch, sample)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.scenes.trainset import Patches
from eoflow.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.catalog_images import ImageRecipe
    from eoflow.prepare.scenes.normalize import BandNormalizer

Hook = Callable[[Patches, np.random.Generator], Patches]
"""One sample (no batch axis) -> one sample. Anything random comes from the generator."""
HOOKS: dict[str, str] = {
    "crop": "eoflow.prepare.scenes.augment:crop",
    "clouds": "eoflow.prepare.scenes.augment_clouds:clouds",
    "dihedral": "eoflow.prepare.scenes.augment:make_dihedral",
    "shuffled-dates": "eoflow.prepare.scenes.augment:make_shuffled_dates",
    "blurred": "eoflow.prepare.scenes.augment_change:blurred",
    "colours": "eoflow.prepare.scenes.augment_change:colours",
    "events": "eoflow.prepare.scenes.augment_change:composited_events",
    "g-star": "eoflow.prepare.scenes.augment_change:g_star",
    "radar": "eoflow.prepare.scenes.augment_radar:radar",
    "reflectance": "eoflow.prepare.scenes.augment_reflectance:reflectance",
    "shifted-dates": "eoflow.prepare.scenes.augment_change:shifted_dates",
    "swapped-dates": "eoflow.prepare.scenes.augment_change:swapped_dates",
    "zoomed": "eoflow.prepare.scenes.augment_change:zoomed",
}
"""Name in a recipe -> `module:factory`; factory(HookContext, **options) -> Hook. A recipe may also name a factory
itself, `package.module:factory`."""
SPATIAL = ("inputs", "quality", "target", "target_quality", "labels")


@dataclass(frozen=True)
class Augment:
    """Hooks, one after the other, on every sample."""

    hooks: tuple[Hook, ...]

    def batch(self, samples: Patches, seed: int, epoch: int) -> Patches:
        """(B, ...) -> (B, ...); what a sample becomes depends on (seed, epoch, its number) alone."""
        import torch

        out = []
        for k, number in enumerate(samples.number.tolist()):
            rng = np.random.default_rng([seed, epoch, number])
            one = Patches(*(x[k] for x in samples))
            for hook in self.hooks:
                one = hook(one, rng)
            out.append(one)
        return Patches(*(torch.stack(column) for column in zip(*out, strict=True))) if out else samples


def spatial(sample: Patches, change: Callable[[Tensor], Tensor]) -> Patches:
    """Apply one change of the last two axes to everything that lies on the ground."""
    return sample._replace(**{name: change(getattr(sample, name)) for name in SPATIAL})


def dihedral(sample: Patches, rng: np.random.Generator) -> Patches:
    """One of the eight turns and flips of a square; of the four that keep the shape of another rectangle."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    height, width = sample.quality.shape[-2:]
    turns = turns if height == width else 2 * (turns // 2)

    def change(x: Tensor) -> Tensor:
        x = x.rot90(turns, (-2, -1))
        return x.flip(-1) if flip else x

    return spatial(sample, change)


def shuffled_dates(sample: Patches, rng: np.random.Generator) -> Patches:
    """Input dates in another order (for networks that take a set of dates)."""
    order = rng.permutation(sample.inputs.shape[0]).tolist()
    days = sample.days[[*order, len(order)]]
    return sample._replace(inputs=sample.inputs[order], quality=sample.quality[order], days=days)


# -- by name ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HookContext:
    """What a hook may know of the samples, to work in physical units: bands of a date in order, and the normalisers
    of inputs and targets (None where the recipe has no targets)."""

    channels: tuple[str, ...]
    normalizer: BandNormalizer
    targets: BandNormalizer | None = None


def augment_of(recipe: ImageRecipe, context: HookContext) -> Augment | None:
    """The recipe's `training.crop` and then its hooks, in order; None where there are none.

    Raises BadInput for an unknown hook or option.
    """
    hooks = [] if recipe.training.crop is None else [crop(context, size=recipe.training.crop)]
    for ref in recipe.augment:
        target = ref.name if ":" in ref.name else HOOKS.get(ref.name)
        where = f"recipe {recipe.name}, augment"
        if target is None:
            raise BadInput(f"no augmentation called '{ref.name}'{nearest(ref.name, sorted(HOOKS))}", where=where,
                           todo=f"choose from {', '.join(sorted(HOOKS))}")  # fmt: skip
        module, _, name = target.partition(":")
        try:
            hooks.append(getattr(importlib.import_module(module), name)(context, **ref.options))
        except (ImportError, AttributeError, TypeError, ValueError) as e:
            raise BadInput(f"the augmentation '{ref.name}' cannot be used", where=where, todo=str(e)) from None
    return Augment(tuple(hooks)) if hooks else None


def make_dihedral(context: HookContext) -> Hook:
    """See dihedral."""
    return dihedral


def make_shuffled_dates(context: HookContext) -> Hook:
    """See shuffled_dates."""
    return shuffled_dates


def crop(context: HookContext, *, size: int, labelled: float = 0.0) -> Hook:
    """A random window of `size` pixels a side.

    labelled: share of the samples whose window holds a pixel of a class other than 0 (where there is one), so that a
    rare class is seen. A sample that is smaller than the window is a BadInput.
    """

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        height, width = sample.quality.shape[-2:]
        if height < size or width < size:
            raise BadInput(f"a crop of {size} pixels does not fit into a sample of {height} x {width}",
                           todo="set training.crop to at most the size of a patch")  # fmt: skip
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        if labelled and rng.random() < labelled and (at := _labelled_pixel(sample, rng)) is not None:
            inside = rng.integers(size, size=2)
            top = int(np.clip(at[0] - inside[0], 0, height - size))
            left = int(np.clip(at[1] - inside[1], 0, width - size))
        return spatial(sample, lambda x: x[..., top : top + size, left : left + size])

    return hook


def _labelled_pixel(sample: Patches, rng: np.random.Generator) -> Any:
    """(row, column) of a random pixel with a class above 0, None where there is none."""
    found = (sample.labels > 0).any(0).nonzero()
    return found[int(rng.integers(len(found)))].tolist() if len(found) else None
