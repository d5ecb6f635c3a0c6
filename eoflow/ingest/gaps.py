"""Gaps: what the schedule expects by now and the archive does not fully hold, and why.

The denominator of every fraction is what was expected, never what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.ingest.ledger import Ledger, Status
from eoflow.times import Period, iso

if TYPE_CHECKING:
    from rich.table import Table

Array = np.ndarray[Any, Any]
_SHADES = "·▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Gap:
    """Consecutive expected times in the same state: start and end datetime64[ns], both included."""

    start: np.datetime64
    end: np.datetime64
    count: int
    status: Status
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "start": iso(self.start), "end": iso(self.end), "count": self.count,
            "cause": self.status.word, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True)
class Gaps:
    """The gaps of a dataset. `expected`: times that should be there by now; `times` and `status` along them."""

    dataset: str
    times: Array
    status: Array
    ranges: tuple[Gap, ...]
    unit: str = "times"

    @property
    def expected(self) -> int:
        """How many times the schedule has by now."""
        return int(self.times.size)

    def count(self, status: Status) -> int:
        """How many expected times are in this state."""
        return int((self.status == int(status)).sum())

    @property
    def fraction(self) -> float:
        """Fully present times over expected times."""
        return self.count(Status.PRESENT) / self.expected if self.expected else 0.0

    def picture(self, width: int = 60) -> str:
        """The time axis as a line of blocks: full = all present, · = nothing, x = something failed or partial."""
        if not self.expected:
            return ""
        out = []
        for cell in np.array_split(self.status, min(width, self.expected)):
            share = float((cell == int(Status.PRESENT)).mean())
            bad = np.isin(cell, (int(Status.FAILED), int(Status.PARTIAL))).any()
            # a cell that lacks anything never looks full, one that has anything never looks empty
            level = 8 if share == 1 else min(7, max(1, round(share * 8))) if share else 0
            out.append("x" if bad else _SHADES[level])
        return "".join(out)

    def summary(self) -> str:
        """One line: `351 of 360 expected times present (97.50 %)`, rounded down."""
        percent = np.floor(self.fraction * 1e4) / 100
        text = f"{self.count(Status.PRESENT)} of {self.expected} expected {self.unit} present ({percent:.2f} %)"
        rest = [f"{self.count(s)} {s.word}" for s in Status if s is not Status.PRESENT and self.count(s)]
        return text + (f"; {', '.join(rest)}" if rest else "")

    def lines(self, width: int = 60) -> list[str]:
        """Plain text: summary, picture, its ends."""
        if not self.expected:
            return [f"{self.dataset}: nothing is expected yet"]
        return [
            f"{self.dataset}: {self.summary()}",
            f"{iso(self.times[0])} {self.picture(width)} {iso(self.times[-1])}",
        ]

    def table(self) -> Table:
        """A rich table, one row a gap."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("from", "to", self.unit, "cause", "reason", title=f"gaps of {self.dataset}")
        for g in self.ranges:
            table.add_row(iso(g.start), iso(g.end), str(g.count), g.status.word, escape(g.reason))
        return table

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dataset": self.dataset, "expected": self.expected, "present": self.count(Status.PRESENT),
            "fraction": self.fraction, "counts": {s.name.lower(): self.count(s) for s in Status},
            "start": iso(self.times[0]) if self.expected else None,
            "end": iso(self.times[-1]) if self.expected else None,
            "gaps": [g.to_dict() for g in self.ranges],
        }  # fmt: skip


def find(name: str, times: Array, ledger: Ledger) -> Gaps:
    """Group the expected `times` that are not fully present into ranges with one cause."""
    status = ledger.status_at(times).astype(np.uint8)
    where = ledger.at(times)
    ranges: list[Gap] = []
    missing = np.flatnonzero(status != int(Status.PRESENT))
    reasons = np.full(times.size, "", dtype=object)
    reasons[where >= 0] = ledger.reason[where[where >= 0]]
    if missing.size:
        at, before = missing[1:], missing[:-1]
        same = (at == before + 1) & (status[at] == status[before]) & (reasons[at] == reasons[before])
        new = np.concatenate([[True], ~same.astype(bool)])
        starts = np.flatnonzero(new)
        for a, b in zip(starts, [*starts[1:], missing.size], strict=True):
            first, last = missing[a], missing[b - 1]
            ranges.append(Gap(times[first], times[last], int(b - a), Status(int(status[first])), str(reasons[first])))
    return Gaps(name, times, status, tuple(ranges))


def of_archive(archive: Archive, entry: DatasetEntry, now: np.datetime64, period: Period | None = None) -> Gaps:
    """The gaps of an archive, by its entry's schedule."""
    return find(archive.name, entry.schedule.expected(period, now), Ledger.load(archive))
