"""Gaps of a scene dataset: what was ever listed and is not in the cube, and why. Reads the ledger only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.archive import Archive
from eoflow.ingest.gaps import Gap, Gaps
from eoflow.ingest.ledger import Status
from eoflow.ingest.scenes.ledger import Row, SceneLedger
from eoflow.times import Period

SHOWN = 8


@dataclass(frozen=True)
class SceneGaps(Gaps):
    """As Gaps, one row a scene and tile; `scenes` (along `times`) are their ids, `tiles` their tiles. cut: a line for
    each that is there, but for what of it lies outside its tile."""

    scenes: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    def lines(self, width: int = 60) -> list[str]:
        """As of Gaps, and the scenes that are there in part."""
        more = len(self.cut) - SHOWN
        rest = [f"  ... and {more} more scenes"] if more > 0 else []
        return super().lines(width) + [f"  {c}" for c in self.cut[:SHOWN]] + rest

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        lacking = [
            {"scene": s, "tile": t, "status": Status(int(v)).word}
            for s, t, v in zip(self.scenes, self.tiles, self.status, strict=True)
            if v != int(Status.PRESENT)
        ]
        return {**super().to_dict(), "unit": self.unit, "tiles": len(set(self.tiles)), "scenes": lacking,
                "cut": list(self.cut)}  # fmt: skip


def of_cube(archive: Archive, period: Period | None = None) -> SceneGaps:
    """The gaps of a cube: every scene that was ever planned for a tile is expected."""
    rows = list(SceneLedger.load(archive).rows.values())
    if period is not None:
        rows = [r for r in rows if period.contains(r.when)]
    rows.sort(key=lambda r: (r.time, r.tile, r.scene))
    ranges = tuple(_gap(r) for r in rows if not r.present)
    return SceneGaps(
        archive.name, np.array([r.when for r in rows], "datetime64[ns]"),
        np.array([r.status for r in rows], np.uint8), ranges, "scenes",
        tuple(r.scene for r in rows), tuple(r.tile for r in rows),
        tuple(f"{_place(r)}: {r.reason}" for r in rows if r.present and r.reason),
    )  # fmt: skip


def _gap(row: Row) -> Gap:
    where = _place(row)
    return Gap(row.when, row.when, 1, Status(row.status), f"{where}: {row.reason}" if row.reason else where)


def _place(row: Row) -> str:
    return f"{row.scene}, tile {row.tile}" if row.tile else row.scene
