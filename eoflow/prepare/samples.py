"""Which windows of consecutive steps exist, and in which order an epoch visits them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Index = np.ndarray[Any, np.dtype[np.int64]]
POOL_BYTES = 256 << 20
"""Windows are shuffled inside pools of shards of about this size. A constant: the order depends on no setting."""


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """The rows of one split, in time order, and where they hang together.

    steps: (row,) index of each row on the archive's time axis. usable: (row,) whether the field is whole.
    offset: the stored row of the first one.
    """

    steps: Index
    usable: np.ndarray[Any, np.dtype[np.bool_]]
    offset: int = 0

    def starts(self, length: int) -> Index:
        """Stored rows at which `length` usable and consecutive rows begin, increasing.

        Raises ValueError for a length below 1.
        """
        if length < 1:
            raise ValueError("a window has at least one step")
        return _starts(self, length)

    def segments(self) -> list[tuple[int, int]]:
        """(start, stop) stored rows of every unbroken run."""
        left = _left(self.steps, self.usable)
        heads = np.flatnonzero((left > 0) & (np.r_[0, left[:-1]] != left + 1))
        return [(self.offset + int(i), self.offset + int(i + left[i])) for i in heads]


@lru_cache(maxsize=32)
def _starts(index: SampleIndex, length: int) -> Index:
    return np.flatnonzero(_left(index.steps, index.usable) >= length) + index.offset


def _left(steps: Index, usable: np.ndarray[Any, np.dtype[np.bool_]]) -> Index:
    """(row,) how many usable consecutive rows begin at each row (itself included; 0 for an unusable one)."""
    n = steps.size
    if n == 0:
        return np.zeros(0, np.int64)
    breaks = ~(usable[:-1] & usable[1:] & (np.diff(steps) == 1))
    ends = np.r_[np.flatnonzero(breaks), n - 1]  # last row of each run
    last = ends[np.searchsorted(ends, np.arange(n))]
    return np.where(usable, last - np.arange(n) + 1, 0)


def epoch_order(starts: Index, shard: int, row_bytes: int, seed: int, epoch: int) -> list[Index]:
    """The windows of an epoch as pools; within and between pools the order is a function of (seed, epoch) alone.

    starts: increasing stored rows; shard: rows in a shard. Returns arrays of indices into `starts`. Every window
    comes exactly once. A pool holds the windows that begin in one random set of shards of POOL_BYTES together: a
    reader keeps these in memory and reads each shard once an epoch, in whole. A set that is smaller than that is one
    pool: a full shuffle.
    """
    rng = np.random.default_rng([seed, epoch])
    home = starts // shard
    shards = rng.permutation(np.unique(home))
    per_pool = max(1, POOL_BYTES // (shard * row_bytes))
    pools = []
    for at in range(0, len(shards), per_pool):
        members = np.flatnonzero(np.isin(home, shards[at : at + per_pool]))
        pools.append(rng.permutation(members))
    return pools
