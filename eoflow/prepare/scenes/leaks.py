"""Proof that no sample of one split is seen in another: by the footprints on the ground and the times of the samples.

It looks at the samples alone, not at how they were divided, and in no map projection: footprints of every tile and
zone are compared as corners on the ellipsoid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.scenes import footprints
from eoflow.prepare.scenes.splits import CODES, NAMES
from eoflow.times import format_duration, iso

if TYPE_CHECKING:
    from eoflow.prepare.scenes.patches import PatchIndex

Array = np.ndarray[Any, np.dtype[Any]]
SHOWN = 20
TOUCH = 1e-3
"""Two windows overlap if they share more than this part of a window's side: neighbours that touch do not."""
SLACK = 0.98
"""A buffer is kept if windows are this part of it apart: degrees on a sphere and metres on the ellipsoid differ."""


@dataclass(frozen=True)
class Leak:
    """Two samples of different splits that see the same ground at the same time. metres: between the two windows
    (negative: how deep they overlap). days: between their times (0: they overlap)."""

    first: str
    second: str
    metres: float
    days: float

    def __str__(self) -> str:
        where = f"overlap by {-self.metres:.0f} m" if self.metres < 0 else f"are {self.metres:.0f} m apart"
        when = "at overlapping times" if self.days == 0 else f"{self.days:.1f} days apart"
        return f"{self.first}  |  {self.second}: {where}, {when}"


@dataclass(frozen=True)
class SplitReport:
    """What the check found. samples: of each split. leaks: window pairs that leak; `shown`: the first of them.

    by: how the samples were divided. buffer: metres that were asked for. gap: time that overlapping windows must be
    apart; None: they may not overlap at all. compared: pairs of windows that were near enough to be measured.
    """

    samples: dict[str, int]
    windows: int
    compared: int
    leaks: int
    by: str
    buffer: float
    gap: str | None
    shown: list[Leak] = field(default_factory=list)
    dataset: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing leaks."""
        return self.leaks == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.__dict__, "ok": self.ok, "shown": [str(x) for x in self.shown]}

    def text(self) -> str:
        """For a person: the verdict, then the first offenders."""
        counts = ", ".join(f"{n} {k}" for k, n in self.samples.items())
        rule = f"buffer {self.buffer:.0f} m" + ("" if self.gap is None else f", or {self.gap} apart in time")
        head = f"{counts} samples on {self.windows} windows, split by {self.by} ({rule})"
        if self.ok:
            return f"{head}\nno two splits see the same ground: {self.compared} near pairs of windows measured"
        lines = [f"{head}\n{self.leaks} pairs of windows leak:", *(f"  {x}" for x in self.shown)]
        return "\n".join([*lines, "  ..."] if self.leaks > len(self.shown) else lines)

    def require(self) -> None:
        """Raise BadInput, naming the first offenders, where something leaks."""
        if not self.ok:
            todo = "use larger blocks or another split (eoflow splits check), then prepare again"
            raise BadInput(f"the splits leak: {self.text()}", where=self.dataset or None, todo=todo)


def near_pairs(a: Array, b: Array, buffer: float, block: int = 1024) -> Iterator[tuple[Array, Array, Array]]:
    """Corners (n, 4, 3) and (m, 4, 3) -> (i, j, metres) of the pairs that overlap or are nearer than `buffer`.

    In pieces of at most `block` windows of `a` at a time, so that memory stays bounded.
    """
    from scipy.spatial import cKDTree

    if not len(a) or not len(b):
        return
    centre_b = b.mean(axis=1)
    radius_b = np.linalg.norm(b - centre_b[:, None], axis=-1).max()
    tree = cKDTree(centre_b)
    for at in range(0, len(a), block):
        part = a[at : at + block]
        centre = part.mean(axis=1)
        radius = np.linalg.norm(part - centre[:, None], axis=-1).max(axis=1)
        found = tree.query_ball_point(centre, radius + radius_b + buffer)
        i = np.repeat(np.arange(len(part)), [len(f) for f in found])
        if not i.size:
            continue
        j = np.concatenate([np.asarray(f, np.int64) for f in found if f])
        for k in range(0, i.size, 1 << 16):
            p, q = i[k : k + (1 << 16)], j[k : k + (1 << 16)]
            metres = footprints.separation(part[p], b[q])
            side = np.minimum(_side(part[p]), _side(b[q]))
            near = (metres < -TOUCH * side) if buffer == 0 else (metres < SLACK * buffer)
            yield at + p[near], q[near], metres[near]


def _side(corners: Array) -> Array:
    return np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=-1).min(axis=1)


def check_splits(index: PatchIndex) -> SplitReport:
    """Whether samples of two splits of an index overlap on the ground (or come nearer than the buffer) and in time.

    The buffer and the gap are those that the index was divided by. See SplitReport; `report.require()` raises.
    """
    by, buffer = str(index.division["by"]), float(index.division["buffer"])
    gap = index.gap
    places = _places(index)
    compared = leaks = 0
    shown: list[Leak] = []
    for x, first in enumerate(NAMES):
        for second in NAMES[x + 1 :]:
            a, b = places[first], places[second]
            for i, j, metres in near_pairs(a.corners, b.corners, buffer):
                compared += i.size
                days = _apart(index, a, b, i, j)
                bad = np.ones(i.size, bool) if gap is None else (days < gap / np.timedelta64(1, "D")) | (days == 0)
                leaks += int(bad.sum())
                for k in np.flatnonzero(bad)[: max(0, SHOWN - len(shown))]:
                    pair = a.said(index, int(i[k])), b.said(index, int(j[k]))
                    shown.append(Leak(*pair, float(metres[k]), float(days[k])))
    return SplitReport(
        samples={n: int((index.split == CODES[n]).sum()) for n in NAMES},
        windows=sum(len(p.corners) for p in places.values()),
        compared=compared, leaks=leaks, by=by, buffer=buffer, gap=None if gap is None else format_duration(gap),
        shown=shown, dataset=index.dataset,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Places:
    """The distinct windows of one split. samples: those of window k are samples[bounds[k]:bounds[k + 1]]; first, last:
    earliest and latest time of any sample there."""

    name: str
    corners: Array
    samples: Array
    bounds: Array
    first: Array
    last: Array

    def of(self, k: int) -> Array:
        """Samples of window k."""
        return self.samples[self.bounds[k] : self.bounds[k + 1]]

    def said(self, index: PatchIndex, k: int) -> str:
        """The first sample there, for a person."""
        s = int(self.of(k)[0])
        times = f"{iso(index.first[s])}" + ("" if index.first[s] == index.last[s] else f"..{iso(index.last[s])}")
        return f"{self.name}: {index.tiles[index.tile[s]]} y={index.y[s]} x={index.x[s]} {times}"


def _places(index: PatchIndex) -> dict[str, _Places]:
    out = {}
    for name in NAMES:
        samples = np.flatnonzero(index.split == CODES[name])
        keys = np.stack([index.tile[samples], index.y[samples], index.x[samples]], axis=1)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(inverse.ravel(), kind="stable")
        bounds = np.searchsorted(inverse.ravel()[order], np.arange(len(distinct) + 1))
        corners = np.zeros((len(distinct), 4, 3))
        for t in np.unique(distinct[:, 0]) if len(distinct) else []:
            here = distinct[:, 0] == t
            corners[here] = footprints.corners(index.grids[t], distinct[here, 1], distinct[here, 2], index.patch)
        first, last = index.first[samples[order]].astype("i8"), index.last[samples[order]].astype("i8")
        some = len(distinct) > 0
        out[name] = _Places(
            name, corners, samples[order], bounds, np.minimum.reduceat(first, bounds[:-1]) if some else first,
            np.maximum.reduceat(last, bounds[:-1]) if some else last,
        )  # fmt: skip
    return out


def _apart(index: PatchIndex, a: _Places, b: _Places, i: Array, j: Array) -> Array:
    """(P,) days between the nearest samples of each pair of windows; 0 where times overlap."""
    day = 86400e9
    out = np.maximum(a.first[i] - b.last[j], b.first[j] - a.last[i]) / day
    for k in np.flatnonzero(out <= 0):  # the spans interlock: look at the samples themselves
        p, q = a.of(int(i[k])), b.of(int(j[k]))
        before = (index.first[p][:, None] - index.last[q][None]) / np.timedelta64(1, "D")
        after = (index.first[q][None] - index.last[p][:, None]) / np.timedelta64(1, "D")
        out[k] = max(0.0, float(np.maximum(before, after).min()))
    return np.maximum(out, 0)
