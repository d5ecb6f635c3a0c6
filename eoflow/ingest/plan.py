"""Planning: which times to fetch, from which assets, and in which batches. Reads no data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.catalog import Schedule
from eoflow.ingest.ledger import Ledger, Status
from eoflow.layout import MIB
from eoflow.sources.base import Asset
from eoflow.times import NS, Period

Array = np.ndarray[Any, Any]
BATCH_BYTES = 512 * MIB
"""Fields of one commit: what a kill can lose."""
BATCH_ASSETS = 128
"""Assets of one commit, where each is small: what a kill makes us download again."""


def wanted(
    schedule: Schedule, ledger: Ledger, axis: Array, now: np.datetime64, *,
    period: Period | None = None, rewrite: bool = False, backfill: bool = False,
) -> Array:  # fmt: skip
    """datetime64[ns] (N,): the expected times that should be fetched now. `axis`: the archive's time axis.

    By default those after the end of the archive, up to now. With a period: those inside that are not fully there.
    backfill: the same between the first stored time and the last tried one. rewrite: those that are there, too.
    """
    expected = schedule.expected(period, now).astype(NS)
    if backfill and period is None:
        if axis.size == 0:
            return expected[:0]
        last = max(axis[-1], ledger.times[-1]) if ledger.times.size else axis[-1]
        expected = expected[(expected >= axis[0]) & (expected <= last)]
    elif period is None and axis.size and not rewrite:
        return expected[expected > axis[-1]]
    if rewrite:
        return expected
    return expected[ledger.status_at(expected) != int(Status.PRESENT)]


@dataclass(frozen=True)
class Share:
    """Times (N,) with, for each, the asset that gives it: `giver` (N,) points into `assets`, -1 where none does."""

    times: Array
    giver: Array
    assets: tuple[Asset, ...]

    def absent(self) -> Array:
        """The times that no asset gives."""
        return self.times[self.giver < 0]


def share(times: Array, assets: Sequence[Asset]) -> Share:
    """Give each of the (increasing) times to the first asset that holds it; assets that give nothing are left out."""
    giver = np.full(times.size, -1)
    used: list[Asset] = []
    for asset in assets:
        mine = np.flatnonzero(np.isin(times, np.asarray(asset.times).astype(NS)) & (giver < 0))
        if mine.size:
            giver[mine] = len(used)
            used.append(asset)
    return Share(times, giver, tuple(used))


def batches(index: Array, giver: Array, steps: int, step_bytes: int) -> Iterator[Array]:
    """Cut times at positions `index` (increasing) of the archive's axis into batches; yields positions in `index`.

    Cuts lie between chunks (`steps`: the longest time chunk) unless that makes a batch too large.
    """
    if index.size == 0:
        return
    span = steps * max(1, BATCH_BYTES // max(1, steps * step_bytes))
    for mine in np.split(np.arange(index.size), np.flatnonzero(np.diff(index // span)) + 1):
        last = 0
        seen: set[int] = set()
        for i, g in enumerate(giver[mine].tolist()):
            if g not in seen and len(seen) == BATCH_ASSETS:
                yield mine[last:i]
                last, seen = i, set()
            seen.add(g)
        yield mine[last:]
