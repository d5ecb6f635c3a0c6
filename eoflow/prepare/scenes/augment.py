"""Augmentation of samples: the same change for all bands, dates, masks and labels, drawn by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eoflow.prepare.scenes.trainset import Patches

if TYPE_CHECKING:
    from torch import Tensor

Hook = Callable[[Patches, np.random.Generator], Patches]
"""One sample (no batch axis) -> one sample. Anything random comes from the generator."""
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
    """One of the eight turns and flips of a square."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def change(x: Tensor) -> Tensor:
        x = x.rot90(turns, (-2, -1))
        return x.flip(-1) if flip else x

    return spatial(sample, change)


def shuffled_dates(sample: Patches, rng: np.random.Generator) -> Patches:
    """Input dates in another order (for networks that take a set of dates)."""
    order = rng.permutation(sample.inputs.shape[0]).tolist()
    return sample._replace(inputs=sample.inputs[order], quality=sample.quality[order])
