"""The typed values that pass between the steps of an ingest: opened assets, times to store, one commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.ingest.checks import Problem
from eoflow.ingest.report import IngestReport
from eoflow.sources.base import Asset
from eoflow.times import NS, iso

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Opened:
    """An asset whose header was read and agrees: its time axis (T,), and the channels that it lacks."""

    asset: Asset
    times: Array
    missing: frozenset[str] = frozenset()


@dataclass
class Todo:
    """Times (N,) of one batch, increasing; `giver` (N,) points into `opened`."""

    times: Array
    giver: Array
    opened: list[Opened]

    @property
    def rows(self) -> Array:
        """(N,) position of each time on the axis of its asset."""
        out = np.zeros(self.times.size, int)
        for g, o in enumerate(self.opened):
            mine = self.giver == g
            out[mine] = np.searchsorted(o.times, self.times[mine])
        return out

    def only(self, keep: Array) -> Todo:
        """The same for some of the times (boolean mask)."""
        return Todo(self.times[keep], self.giver[keep], self.opened)


@dataclass
class Values:
    """What a pass over times found: digest uint64 (N,), NaN fraction (N,), problems, ranges of channels."""

    digest: Array
    nan_fraction: Array
    problems: list[Problem]
    ranges: dict[str, list[float]]
    nbytes: int


@dataclass
class Batch:
    """One commit: what to store, what is known to be missing, and afterwards what was done."""

    todo: Todo
    absent: list[Problem]
    failed: list[Problem]
    message: str
    hidden: bool
    again: int = 0
    nbytes: int = 0

    def without(self, bad: list[Problem]) -> Batch:
        """The same batch, with the times of new problems moved from what to store to what is missing."""
        keep = ~np.isin(self.todo.times, np.array([p.time for p in bad], NS))
        absent = [*self.absent, *(p for p in bad if p.absent)]
        failed = [*self.failed, *(p for p in bad if not p.absent)]
        return Batch(self.todo.only(keep), absent, failed, self.message, self.hidden)

    @property
    def partial(self) -> int:
        """Times whose asset lacks some channel."""
        return int(sum((self.todo.giver == g).sum() for g, o in enumerate(self.todo.opened) if o.missing))

    def details(self) -> dict[str, Any]:
        """For the history."""
        todo = self.todo
        names = [o.asset.id for g, o in enumerate(todo.opened) if (todo.giver == g).any()]
        counts = {"new": todo.times.size - self.again, "rewritten": self.again, "partial": self.partial}
        counts |= {"failed": len({p.time for p in self.failed}), "absent": len({p.time for p in self.absent})}
        out: dict[str, Any] = {k: int(v) for k, v in counts.items() if v}
        if names:
            out |= {
                "period": f"{iso(todo.times[0])}/{iso(todo.times[-1])}",
                "assets": names[:8],
                "n_assets": len(names),
            }
        return out

    def count(self, report: IngestReport) -> None:
        """Add what was done to the report."""
        report.new += int(self.todo.times.size) - self.again
        report.rewritten += self.again
        report.partial += self.partial
        report.absent += len({p.time for p in self.absent})
        report.failed += len({p.time for p in self.failed})
        report.problems += [*self.absent, *self.failed]
        report.nbytes += self.nbytes
        report.commits += not self.hidden
