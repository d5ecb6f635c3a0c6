"""What an image network sees: some dates of one place as physical values, with one more channel for what is usable.

A frame is an image as it is stored, a date is one frame or the median composite of several. `Stack` puts dates on top
of each other for the windowed runner: (T, C + 1, h, w) float32, NaN where there is no value; the last channel is 1
where the surface was seen and NaN where it was not.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eoflow.bands import BandSpec
from eoflow.quality import Quality, usable
from eoflow.tiling import Grid
from eoflow.windows import Cached, Input, Plan
from eoflow.windows.sources import Rule, Source

if TYPE_CHECKING:
    from eoflow.prepare.scenes.normalize import BandNormalizer

Array = np.ndarray[Any, Any]
Date = tuple[int, ...]
"""Positions of the frames of one date: one, several for a composite, none for a date that nobody saw."""
CACHE_MB = 192
_OPENING = threading.Lock()
SEEN = "usable"


class Frames(Protocol):
    """Images of one pixel grid. specs: the bands, in the network's order."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        ...

    @property
    def specs(self) -> tuple[BandSpec, ...]:
        """The bands."""
        ...

    def __len__(self) -> int: ...

    def frame(self, k: int, rows: slice, columns: slice) -> tuple[Array, Array]:
        """(C, h, w) float32 in physical units, NaN where there is no value; (h, w) bool: surface seen."""
        ...


@dataclass(frozen=True)
class CubeFrames:
    """Time steps of a tile of a cube; rows and columns count from `at` in the tile. Opens the cube where it is used."""

    root: str
    dataset: str
    snapshot: str
    tile: str
    steps: tuple[int, ...]
    at: tuple[int, int]
    grid: Grid
    specs: tuple[BandSpec, ...]
    classes: tuple[Quality, ...]
    _open: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self.steps)

    def _group(self) -> Any:
        with _OPENING:
            if not self._open:
                from eoflow.cube import Cube
                from eoflow.workspace import Workspace

                self._open[0] = Cube.load(Workspace(self.root), self.dataset).group(self.tile, self.snapshot)
        return self._open[0]

    def frame(self, k: int, rows: slice, columns: slice) -> tuple[Array, Array]:
        """See Frames."""
        group, step = self._group(), self.steps[k]
        y, x = self.at
        there = (step, slice(y + rows.start, y + rows.stop), slice(x + columns.start, x + columns.stop))
        values = np.stack([spec.physical(np.asarray(group[spec.name][there])) for spec in self.specs])
        seen = usable(np.asarray(group["quality"][there]), self.classes)
        return values, np.asarray(seen & np.isfinite(values).all(axis=0))


class Stack:
    """Dates of some frames as a source of the windowed runner."""

    def __init__(self, frames: Frames, dates: Sequence[Date]) -> None:
        self.frames, self.order = frames, tuple(dates)
        self.shape: tuple[int, int] = frames.grid.shape
        self.bands = (*(s.name for s in frames.specs), SEEN)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self.dates: int | None = len(self.order)
        self.nodata: tuple[float | None, ...] = (None,) * len(self.bands)

    def read(self, rows: slice, columns: slice) -> Array:
        """(T, C + 1, h, w); see the module."""
        shape = (len(self.order), len(self.bands), rows.stop - rows.start, columns.stop - columns.start)
        out = np.full(shape, np.nan, np.float32)
        for t, date in enumerate(self.order):
            if date:
                values, seen = self.date(date, rows, columns)
                out[t, :-1] = values
                out[t, -1][seen] = 1
        return out

    def date(self, date: Date, rows: slice, columns: slice) -> tuple[Array, Array]:
        """One date of the stack, as Frames.frame."""
        if len(date) == 1:
            return self.frames.frame(date[0], rows, columns)
        found = [self.frames.frame(k, rows, columns) for k in date]
        seen = np.stack([s for _, s in found])
        stack = np.stack([np.where(s, v, np.nan) for v, s in found])
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.filterwarnings("ignore", message="All-NaN")
            return np.nanmedian(stack, axis=0).astype(np.float32), np.asarray(seen.any(axis=0))


def cached(stack: Stack, block: tuple[int, int]) -> Source:
    """The stack with its blocks decoded once, where a few of them fit into memory."""
    size = len(stack.order) * len(stack.bands) * 4 * min(block[0], stack.shape[0]) * min(block[1], stack.shape[1])
    return stack if size > CACHE_MB * 2**20 / 4 else Cached(stack, block, CACHE_MB)


@dataclass(frozen=True)
class Encode:
    """Physical values of a window to those of a network; a pixel without a normalised value is not usable."""

    normalizer: BandNormalizer

    def __call__(self, values: Array) -> Array:
        """(T, C + 1, h, w) -> the same shape."""
        out = values.copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, :-1] = self.normalizer.encode(values[:, :-1])
        out[:, -1][~np.isfinite(out[:, :-1]).all(axis=1)] = np.nan
        return out


def as_input(normalizer: BandNormalizer, task: str) -> Input:
    """How windows are made ready. Cloud removal goes on where no date saw the surface; the other tasks need every
    date."""
    rule: Rule = "any" if task == "cloud-removal" else "all"
    return Input(Encode(normalizer), 0.0, rule)


def plan_of(shape: tuple[int, int], dates: int, bands: int, halo: int, multiple: int, light: bool) -> tuple[Plan, int]:
    """(windows, windows a batch) whose input stays small. light: the network keeps no maps of features."""
    core = 1024 if light else 512
    while core > 128 and dates * (bands + 1) * 4 * (core + 2 * halo) ** 2 > 96 * 2**20:
        core //= 2
    plan = Plan.of(shape, core=core, halo=halo, multiple=multiple, chunk=128)
    pixels = (plan.core[0] + 2 * plan.reach) * (plan.core[1] + 2 * plan.reach)
    return plan, int(np.clip(512 * 512 * (4 if light else 2) // pixels, 1, 8))


def blocks(shape: tuple[int, int], side: int = 1024) -> list[tuple[slice, slice]]:
    """A scene in squares."""
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


Progress = Callable[[float, float, str], None]
