"""Samples: what training and verification of image models read, wherever it comes from.

A prepared set of a cube (trainset.PatchSet) is one; a folder of labelled chips is another. Samples are counted from 0;
what a number means, and every order of them, is a function of the set alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from eoflow.bands import SceneSchema
    from eoflow.catalog_patches import PatchRecipe
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches

Array = np.ndarray[Any, np.dtype[Any]]
DAY = np.timedelta64(1, "D")


@runtime_checkable
class Samples(Protocol):
    """Samples of one split."""

    @property
    def key(self) -> str:
        """Identity of the content, with normaliser and split."""
        ...

    @property
    def split(self) -> str:
        """Which one."""
        ...

    @property
    def recipe(self) -> PatchRecipe:
        """How they were made, bands by the names of the schema."""
        ...

    @property
    def schema(self) -> SceneSchema:
        """Bands with names, common names and units (at least inputs and targets)."""
        ...

    @property
    def normalizer(self) -> BandNormalizer:
        """Of the input bands, in order."""
        ...

    @property
    def weights(self) -> Array:
        """(S,) how often a sample is to be seen, relative to the others."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Any) -> Patches:
        """Samples by number (any order, repeats allowed)."""
        ...

    def order(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> Array:
        """The samples of an epoch by number, each once; a function of (seed, epoch)."""
        ...

    def describe(self, i: int) -> dict[str, Any]:
        """Where sample i comes from: at least `tile`, the group that it must not leave in a bootstrap."""
        ...


def target_normalizer(data: Samples) -> BandNormalizer | None:
    """The normaliser of the target bands of samples; None where they have none."""
    if not data.recipe.targets:
        return None
    for name in ("target_normalizer", "_target_normalizer"):
        found: BandNormalizer | None = getattr(data, name, None)
        if found is not None:
            return found
    return data.normalizer.select(data.recipe.targets)


def groups(data: Samples) -> Array:
    """(S,) name of the place of each sample: what is drawn together in a bootstrap."""
    return np.array([str(data.describe(i)["tile"]) for i in range(len(data))])


def days(data: Samples, indices: Any) -> tuple[Array, Array] | None:
    """When the dates were taken (B, T) and when the target was (B,), float64 days since 1970; None if not known.

    Without a target date the last input date takes its place.
    """
    times, when = [], []
    for i in np.asarray(indices):
        about = data.describe(int(i))
        if not about.get("times"):
            return None
        own = np.array(about["times"], "datetime64[s]")
        target = about.get("target")
        times.append((own - np.datetime64(0, "s")) / DAY)
        when.append(times[-1].max() if target is None else (np.datetime64(target, "s") - np.datetime64(0, "s")) / DAY)
    return np.array(times, np.float64), np.array(when, np.float64)


def pass_over(data: Samples, seed: int, epoch: int) -> Array:
    """The samples of one pass in training: every one once, or, with unequal weights, as often as its weight asks.

    As many as there are samples; a weight of 1.5 times the mean is drawn once or twice (systematic sampling).
    """
    order, weights = data.order(seed, epoch), np.asarray(data.weights, np.float64)
    if not weights.size or np.ptp(weights) == 0 or weights.sum() <= 0:
        return order
    rng = np.random.default_rng([seed, epoch, 1])
    cumulative = np.cumsum(weights[order]) / weights.sum() * len(order)
    ticks = np.arange(len(order)) + rng.random()
    drawn = order[np.minimum(np.searchsorted(cumulative, ticks, side="right"), len(order) - 1)]
    return np.asarray(rng.permutation(drawn))
