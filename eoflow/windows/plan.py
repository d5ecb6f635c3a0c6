"""Where windows lie: a lattice of cores that covers a scene, each with a halo around it.

A window reads its core and `reach` pixels on each side, and only its core is written, so no two windows write one
pixel. Where windows are blended, neighbours share a strip of `overlap` pixels across the edge of their cores; the
lattice is that of the whole scene, so a result does not depend on how the windows are shared out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eoflow.errors import BadInput

Array = np.ndarray[Any, Any]
Border = Literal["reflect", "edge", "constant", "none"]
BLEND_SHARD = 4096
"""Pixels on a side of what is blended in memory at a time."""


@dataclass(frozen=True)
class Box:
    """Rows y0..y1 and columns x0..x1 of a scene, the ends not included; may leave the scene where it is read."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) as slices; only for a box inside the scene."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Slices of this box in an array that covers `outer`. Ends are counted from the start: never 0:-0."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def meet(self, other: Box) -> Box:
        """What both cover (may be empty)."""
        return Box(
            max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1)
        )  # fmt: skip

    def __bool__(self) -> bool:
        return self.y1 > self.y0 and self.x1 > self.x0


@dataclass(frozen=True)
class Window:
    """One call's worth of the network. core: pixels it owns. support: pixels it has a say in (the core, and half the
    overlap around it), inside the scene. read: pixels that the network sees; may leave the scene."""

    core: Box
    support: Box
    read: Box


@dataclass(frozen=True)
class Job:
    """What is written at once, by one writer: the cores of one window, or of a shard of windows that are blended."""

    index: int
    core: Box
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Plan:
    """Windows over a scene of `shape` (rows, columns).

    core: (rows, columns) of a core. halo: pixels of context that the network needs on each side. multiple: the network
    takes sizes that are multiples of this (2 to the number of its halvings); cores and reach are multiples of it too,
    so that its own pixel grid lies the same in every window. overlap: pixels blended across the edge of two cores,
    even, at most the smaller side of a core; 0: none. border: what lies beyond the scene's edge: "reflect", "edge",
    "constant" (the fill), or "none": nothing is added but what `multiple` needs (edge pixels), the network meets the
    scene's edge as it would in the whole image.
    """

    shape: tuple[int, int]
    core: tuple[int, int]
    halo: int = 0
    multiple: int = 1
    overlap: int = 0
    border: Border = "reflect"

    @classmethod
    def of(
        cls, shape: tuple[int, int], *, core: int | tuple[int, int] = 1024, halo: int = 0, multiple: int = 1,
        overlap: int = 0, border: Border = "reflect", chunk: int = 1,
    ) -> Plan:  # fmt: skip
        """A plan with cores of about `core` pixels: rounded up to `multiple` and to the output's `chunk`, and no
        larger than the scene. Raises BadInput for sizes that make no sense."""
        rows, columns = shape
        wanted = (core, core) if isinstance(core, int) else core
        if rows < 1 or columns < 1 or min(wanted) < 1 or multiple < 1 or chunk < 1:
            raise BadInput(f"no windows of {wanted} over {shape}", todo="sizes are positive numbers of pixels")
        if halo < 0 or overlap < 0:
            raise BadInput(f"halo {halo}, overlap {overlap}", todo="give 0 or more pixels")
        if border not in ("reflect", "edge", "constant", "none"):
            raise BadInput(f"border '{border}' is not known", todo="reflect, edge, constant or none")
        unit = math.lcm(multiple, chunk)
        sides = []
        for n, c in zip((rows, columns), wanted, strict=True):
            rounded = _up(c, unit)
            sides.append(_up(n, multiple) if rounded >= n else rounded)
        overlap = _up(overlap, 2)
        if overlap > min(wanted):
            raise BadInput(f"an overlap of {overlap} with cores of {wanted}", todo="overlap by at most one core")
        return cls((rows, columns), (sides[0], sides[1]), halo, multiple, overlap, border)

    @property
    def reach(self) -> int:
        """Pixels read beyond each side of a core."""
        return _up(self.halo + self.overlap // 2, self.multiple)

    @property
    def lattice(self) -> tuple[int, int]:
        """(rows, columns) of cores."""
        return math.ceil(self.shape[0] / self.core[0]), math.ceil(self.shape[1] / self.core[1])

    def window(self, row: int, column: int) -> Window:
        """The window of one core."""
        (y, ys, yr), (x, xs, xr) = self._axis(0, row), self._axis(1, column)
        return Window(Box(*y, *x), Box(*ys, *xs), Box(*yr, *xr))

    def _axis(self, axis: int, k: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        n, c, half = self.shape[axis], self.core[axis], self.overlap // 2
        start, stop = k * c, min((k + 1) * c, n)
        support = max(0, start - half), min(n, stop + half)
        first, last = start - self.reach, stop + self.reach
        if self.border == "none":
            first, last = max(0, first), min(n, last)
        return (start, stop), support, (first, first + _up(last - first, self.multiple))

    @property
    def shard(self) -> tuple[int, int]:
        """Cores (rows, columns) in one job."""
        if not self.overlap:
            return 1, 1
        return max(1, BLEND_SHARD // self.core[0]), max(1, BLEND_SHARD // self.core[1])

    def jobs(self) -> Iterator[Job]:
        """Every job, row by row."""
        (rows, columns), (sy, sx), ring = self.lattice, self.shard, int(self.overlap > 0)
        for index, (j, i) in enumerate(np.ndindex(math.ceil(rows / sy), math.ceil(columns / sx))):
            y0, y1, x0, x1 = j * sy, min((j + 1) * sy, rows), i * sx, min((i + 1) * sx, columns)
            first, last = self.window(y0, x0).core, self.window(y1 - 1, x1 - 1).core
            core = Box(first.y0, last.y1, first.x0, last.x1)
            near = [
                self.window(r, c)
                for r in range(max(0, y0 - ring), min(rows, y1 + ring))
                for c in range(max(0, x0 - ring), min(columns, x1 + ring))
            ]
            yield Job(index, core, tuple(w for w in near if w.support.meet(core)))

    def __len__(self) -> int:
        """Number of jobs."""
        return math.ceil(self.lattice[0] / self.shard[0]) * math.ceil(self.lattice[1] / self.shard[1])

    def weight(self, window: Window) -> Array:
        """Weight of a window over its support: (rows, columns) float32, raised cosine across the edges of its core.

        The ramps of two neighbours add up to one; at the scene's own edge there is none."""
        box, core = window.support, window.core
        y = self._ramp(np.arange(box.y0, box.y1), core.y0, core.y1, self.shape[0])
        x = self._ramp(np.arange(box.x0, box.x1), core.x0, core.x1, self.shape[1])
        return (y[:, None] * x).astype(np.float32)

    def _ramp(self, at: Array, start: int, stop: int, n: int) -> Array:
        if not self.overlap:
            return np.ones(at.size)
        half = self.overlap / 2

        def rise(distance: Array) -> Array:  # from 0 half the overlap outside the edge to 1 half of it inside
            return np.sin(0.25 * np.pi * (1 + np.clip(distance / half, -1, 1))) ** 2

        out = np.ones(at.size)
        if start > 0:
            out = out * rise(at + 0.5 - start)
        if stop < n:
            out = out * rise(stop - at - 0.5)
        return out


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def inside(first: int, last: int, n: int, border: Border) -> tuple[slice, Array | None]:
    """What to read of an axis of n pixels for the pixels first..last, and how to make those of it.

    Returns (slice of the axis, None) where nothing is missing, else the positions in that slice of each pixel wanted,
    -1 for the fill.
    """
    if first >= 0 and last <= n:
        return slice(first, last), None
    at = np.arange(first, last)
    if border == "reflect" and n > 1:  # 2 1 | 0 1 2 3 | 2 1, as often as it takes
        at = np.abs((at + n - 1) % (2 * n - 2) - (n - 1))
    elif border == "constant":
        at = np.where((at >= 0) & (at < n), at, -1)
    else:
        at = np.clip(at, 0, n - 1)
    real = at[at >= 0]
    start, stop = int(real.min()), int(real.max()) + 1
    return slice(start, stop), np.where(at >= 0, at - start, -1)
