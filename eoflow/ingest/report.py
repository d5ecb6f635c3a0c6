"""What an ingest did, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eoflow.ingest.checks import Problem

Progress = Callable[[float, float, str], None]
"""progress(done, total, text): done and total in times."""


def no_progress(done: float, total: float, text: str) -> None:
    """Say nothing."""


@dataclass
class IngestReport:
    """Counts are times of fields, or scenes.

    new: stored for the first time (partial ones included); rewritten: replaced by other values; skipped: there
    already; failed, absent: recorded in the ledger with the reason. period: what was asked or given. snapshot: the
    newest state of the archive. nbytes: of what was written. opens: the lines that open it. notes: what was assumed
    or left out.
    """

    dataset: str
    new: int = 0
    rewritten: int = 0
    skipped: int = 0
    partial: int = 0
    failed: int = 0
    absent: int = 0
    period: str | None = None
    snapshot: str | None = None
    commits: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    where: str = ""
    opens: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether any field was written."""
        return bool(self.new or self.rewritten)

    def summary(self) -> str:
        """One line: `era5: 40 new, 3 skipped, 1 failed in 2.1 s (120 MB/s)`."""
        names = ("new", "rewritten", "skipped", "partial", "failed", "absent")
        counts = [f"{getattr(self, n)} {n}" for n in names if getattr(self, n)] or ["nothing to do"]
        speed = f" ({self.nbytes / 1e6 / self.seconds:.0f} MB/s)" if self.nbytes and self.seconds > 0.5 else ""
        return f"{self.dataset}: {', '.join(counts)} in {self.seconds:.1f} s{speed}"

    def lines(self, limit: int = 8) -> list[str]:
        """Summary, the first problems, and the lines that open the archive."""
        out = [self.summary(), *(f"  note: {n}" for n in self.notes[:limit])]
        for p in self.problems[:limit]:
            out.append(f"  {p.where}: {p.what}")
        if len(self.problems) > limit:
            out.append(f"  ... and {len(self.problems) - limit} more: eoflow gaps {self.dataset}")
        return out + self.opens

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        keys = (
            "dataset",
            "new",
            "rewritten",
            "skipped",
            "partial",
            "failed",
            "absent",
            "period",
            "snapshot",
            "commits",
        )
        out: dict[str, Any] = {k: getattr(self, k) for k in keys}
        return out | {
            "bytes": self.nbytes, "seconds": round(self.seconds, 3), "where": self.where, "opens": self.opens,
            "notes": self.notes,
            "problems": [p.to_dict() for p in self.problems],
        }  # fmt: skip
