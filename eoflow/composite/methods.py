"""From the observations of a pixel to one: median, mean, medoid, last clear. Arrays only.

The medoid is the observation with the least sum of distances to the others of its pixel, over all bands: it is one
that was really seen, so the bands belong together (Flood 2013, "Seasonal composite Landsat TM/ETM+ images using the
medoid (a multi-dimensional median)", Remote Sensing 5, 6481-6500).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.errors import BadInput

Array = np.ndarray[Any, Any]
PIECE = 8192
"""Pixels that are worked on at a time, so that their observations stay in the processor's cache."""
TIE = 1e-9
"""Sums of distances that differ by less than this fraction are equal; of equals the most recent is chosen."""


@dataclass(frozen=True)
class Observations:
    """Usable observations of N pixels, oldest first, those that are not usable moved behind them.

    values: (B) arrays (R, N) as stored. which: (R, N) position on the time axis. count: (N,) how many are usable.
    scales: (B,) of stored values, so that distances are in physical units.
    """

    values: tuple[Array, ...]
    which: Array
    count: Array
    scales: tuple[float, ...]

    @property
    def there(self) -> Array:
        """(R, N): usable."""
        return np.asarray(np.arange(self.which.shape[0])[:, None] < self.count)

    def pick(self, rank: Array) -> tuple[list[Array], Array]:
        """Values and time position of the observation with this rank (N,)."""
        at = rank[None]
        return [np.take_along_axis(v, at, 0)[0] for v in self.values], np.take_along_axis(self.which, at, 0)[0]


Result = tuple[list[Array], Array, Array]
"""(values of each band (N,) as stored, time position of the source (N,), of the one whose age counts (N,))."""


def last_clear(seen: Observations) -> Result:
    """The most recent."""
    values, which = seen.pick(np.maximum(seen.count - 1, 0))
    return values, which, which


def median(seen: Observations) -> Result:
    """Median of each band; of an even number the mean of the middle two, rounded half to even."""
    low, high = np.maximum(seen.count - 1, 0)[None] // 2, seen.count[None] // 2
    high = np.minimum(high, seen.which.shape[0] - 1)
    there = seen.there
    exact = []
    for v in seen.values:
        last = np.inf if v.dtype.kind == "f" else np.iinfo(v.dtype).max
        ranked = np.sort(np.where(there, v, v.dtype.type(last)), axis=0)
        middle = [np.take_along_axis(ranked, at, 0)[0].astype("f8") for at in (low, high)]
        exact.append((middle[0] + middle[1]) / 2)
    return _nearest(seen, exact)


def mean(seen: Observations) -> Result:
    """Mean of each band, rounded half to even."""
    there = seen.there
    exact = [np.where(there, v, 0).sum(0, dtype="f8") / np.maximum(seen.count, 1) for v in seen.values]
    return _nearest(seen, exact)


def _nearest(seen: Observations, exact: list[Array]) -> Result:
    """Values as given; the source is the observation nearest to them over the bands."""
    far = np.zeros(seen.which.shape)
    for v, centre, scale in zip(seen.values, exact, seen.scales, strict=True):
        far += ((v - centre) * scale) ** 2
    _, source = seen.pick(_least(far, seen.there))
    _, newest = seen.pick(np.maximum(seen.count - 1, 0))
    out = [e.astype(v.dtype) if v.dtype.kind == "f" else np.rint(e).astype(v.dtype)
           for e, v in zip(exact, seen.values, strict=True)]  # fmt: skip
    return out, source, newest


def medoid(seen: Observations) -> Result:
    """The observation with the least sum of Euclidean distances to the others (Flood 2013)."""
    there = seen.there
    scaled = np.stack([v.astype("f8") * s for v, s in zip(seen.values, seen.scales, strict=True)], axis=1)
    scaled[~np.broadcast_to(there[:, None], scaled.shape)] = 0
    sums = np.zeros(seen.which.shape)
    for i in range(seen.which.shape[0] - 1):
        apart = scaled[i + 1 :] - scaled[i]
        far = np.sqrt(np.einsum("rbn,rbn->rn", apart, apart)) * there[i + 1 :]
        sums[i] += far.sum(axis=0)
        sums[i + 1 :] += far
    values, which = seen.pick(_least(sums, there))
    return values, which, which


def _least(score: Array, there: Array) -> Array:
    """(R, N) -> (N,) the most recent of those with the least score."""
    score = np.where(there, score, np.inf)
    equal = score <= score.min(axis=0) * (1 + TIE)
    equal &= there
    return np.asarray(np.where(equal, np.arange(score.shape[0])[:, None], 0).max(axis=0))


METHODS: dict[str, Callable[[Observations], Result]] = {
    "median": median, "mean": mean, "medoid": medoid, "last-clear": last_clear,
}  # fmt: skip


def method_of(name: str) -> Callable[[Observations], Result]:
    """The method called so. Raises BadInput."""
    if name not in METHODS:
        raise BadInput(f"no method '{name}'", todo=f"choose from {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class Reduced:
    """One image (h, w): bands as stored, nodata where `count` is 0. source, newest: positions on the time axis, -1."""

    bands: tuple[Array, ...]
    count: Array
    source: Array
    newest: Array


def reduce(
    values: Sequence[Array], usable: Array, fills: Sequence[Any], scales: Sequence[float], method: str
) -> Reduced:
    """Observations of a window to one image.

    values: for each band (T, h, w) as stored. usable: (T, h, w) bool. fills: nodata of each band.
    """
    how = method_of(method)
    steps, shape = usable.shape[0], usable.shape[1:]
    flat = usable.reshape(steps, -1)
    bands = tuple(np.full(flat.shape[1], fill, v.dtype) for v, fill in zip(values, fills, strict=True))
    count = flat.sum(axis=0).astype(np.uint16)
    source, newest = np.full(flat.shape[1], -1, np.int16), np.full(flat.shape[1], -1, np.int16)
    for start in range(0, flat.shape[1], PIECE):
        part = slice(start, start + PIECE)
        seen_at = np.flatnonzero(count[part])
        if not seen_at.size:
            continue
        at = start + seen_at
        here = flat[:, at]
        ranks = int(count[at].max())
        order = np.argsort(~here, axis=0, kind="stable")[:ranks]
        seen = Observations(
            tuple(np.take_along_axis(v.reshape(steps, -1)[:, at], order, 0) for v in values), order,
            count[at].astype(np.int64), tuple(scales),
        )  # fmt: skip
        found, src, new = how(seen)
        for band, one in zip(bands, found, strict=True):
            band[at] = one
        source[at], newest[at] = src, new
    return Reduced(
        tuple(b.reshape(shape) for b in bands), count.reshape(shape), source.reshape(shape), newest.reshape(shape)
    )
