"""Which dates of a window make a sample: every date, neighbours in time, pairs, or cloudy dates with a clear one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.catalog_patches import PatchRecipe
from eoflow.quality import Quality
from eoflow.times import Period

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Fractions:
    """Of each time and window, (T, W) each: share of pixels that are usable, cloudy or shadowed, and seen at all."""

    valid: Array
    cloud: Array
    covered: Array

    @classmethod
    def of(cls, counts: Array, pixels: Array, recipe: PatchRecipe) -> Fractions:
        """From counts (T, W, quality class) and the pixels of each window inside the raster (W,)."""

        def share(classes: tuple[Quality, ...]) -> Array:
            return counts[..., [int(c) for c in classes]].sum(-1) / pixels

        gone = share((Quality.MISSING, Quality.NODATA))
        return cls(share(recipe.classes), share((Quality.CLOUD, Quality.SHADOW)), 1 - gone)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples: window (S,), dates (S, D) indices of times, oldest first, target (S,) index of a time or -1."""

    window: Array
    dates: Array
    target: Array

    def __getitem__(self, at: Array) -> Chosen:
        return Chosen(self.window[at], self.dates[at], self.target[at])

    @property
    def labelled(self) -> Array:
        """(S,) the time whose labels count: the target's, else the last date's."""
        return np.where(self.target >= 0, self.target, self.dates[:, -1])


def choose(recipe: PatchRecipe, times: Array, have: Fractions, allowed: Array) -> Chosen:
    """The samples of one tile. times: (T,) datetime64[ns]; allowed: (T, W) whether a split takes that time there.

    Where more than `limit` samples of a window are found, the ones that stay depend on the seed and their own times
    alone: later dates change nothing in what is kept of the old ones but by their own rank.
    """
    inside = np.ones(times.size, bool) if recipe.period is None else Period.parse(recipe.period).contains(times)
    allowed = allowed & inside[:, None]
    if recipe.pick == "clear-target":
        found = _clear_target(recipe, times, have, allowed)
    else:
        ok = allowed & (have.valid >= recipe.min_valid) & (have.cloud <= recipe.max_cloud) & (have.covered > 0)
        rows = [_of_window(recipe, times, np.flatnonzero(ok[:, w])) for w in range(ok.shape[1])]
        found = _join(recipe, rows, [np.full(len(r), -1) for r in rows])
    return found if recipe.limit is None else found[_few(recipe, times, found)]


def _of_window(recipe: PatchRecipe, times: Array, at: Array) -> Array:
    """(n, D) times of the samples of one window whose good times are `at`."""
    apart, span = recipe.durations()
    if recipe.pick == "each":
        return at[:, None]
    if recipe.pick == "pairs":
        i, j = np.triu_indices(at.size, 1)
        rows = np.stack([at[i], at[j]], axis=1)
    else:
        n = max(0, at.size - recipe.dates + 1)
        rows = at[np.arange(n)[:, None] + np.arange(recipe.dates)]
    if not len(rows):
        return np.zeros((0, recipe.dates), np.int64)
    steps = np.diff(times[rows], axis=1)
    ok = (steps >= apart).all(axis=1)
    if span is not None:
        ok &= times[rows[:, -1]] - times[rows[:, 0]] <= span
    return rows[ok]


def _clear_target(recipe: PatchRecipe, times: Array, have: Fractions, allowed: Array) -> Chosen:
    """Of each clear date: the nearest dates with clouds as asked for, before or after it."""
    apart, span = recipe.durations()
    seen = allowed & (have.covered >= max(recipe.min_valid, 1e-9))
    cloudy = seen & (have.cloud >= recipe.min_cloud) & (have.cloud <= recipe.max_cloud)
    clear = seen & (have.cloud <= recipe.target_cloud) & (have.valid >= recipe.min_valid)
    rows, targets = [], []
    for w in range(seen.shape[1]):
        some, picked = [], []
        inputs = np.flatnonzero(cloudy[:, w])
        for t in np.flatnonzero(clear[:, w]):
            away = np.abs(times[inputs] - times[t])
            ok = (inputs != t) & (away >= apart) & (away <= span if span is not None else True)
            near = inputs[ok][np.argsort(away[ok], kind="stable")[: recipe.dates]]
            if near.size == recipe.dates:
                some.append(np.sort(near))
                picked.append(t)
        rows.append(np.array(some, np.int64).reshape(-1, recipe.dates))
        targets.append(np.array(picked, np.int64))
    return _join(recipe, rows, targets)


def _join(recipe: PatchRecipe, rows: list[Array], targets: list[Array]) -> Chosen:
    window = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    empty = np.zeros((0, recipe.dates), np.int64)
    return Chosen(window, np.concatenate([empty, *rows]), np.concatenate([np.zeros(0, np.int64), *targets]))


def _few(recipe: PatchRecipe, times: Array, found: Chosen) -> Array:
    """Indices of at most `limit` samples a window, those with the lowest hash, in the old order."""
    key = _mix(np.full(found.window.size, recipe.split.seed, np.uint64))
    for column in (found.window, *times[found.dates].astype("i8").T, found.target):
        key = _mix(key ^ column.astype(np.uint64))
    order = np.lexsort((key, found.window))
    first = np.searchsorted(found.window[order], found.window[order])
    rank = np.arange(order.size) - first
    return np.sort(order[rank < int(recipe.limit or 0)])


def _mix(x: Array) -> Array:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
