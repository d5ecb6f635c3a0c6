"""Windows of a raster: which there are, and how often each class occurs in each of them, in one pass over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 1 << 17
"""Pixels that are counted together: what stays in the cache of the processor."""


def starts(size: int, patch: int, step: int) -> Array:
    """First pixels of the windows along an axis of `size` pixels: every `step`, the last one shifted inside.

    They cover every pixel and none reaches out, but for an axis shorter than the patch: one from 0, to be padded.
    """
    if size <= patch:
        return np.zeros(1, np.int64)
    regular = np.arange(0, size - patch + 1, step, dtype=np.int64)
    return regular if regular[-1] == size - patch else np.append(regular, size - patch)


@dataclass(frozen=True)
class Layout:
    """The windows of a raster of `shape` (y, x): `patch` a side, `step` apart, numbered row by row."""

    shape: tuple[int, int]
    patch: int
    step: int

    @property
    def axes(self) -> tuple[Array, Array]:
        """First rows and first columns."""
        return starts(self.shape[0], self.patch, self.step), starts(self.shape[1], self.patch, self.step)

    @property
    def origins(self) -> tuple[Array, Array]:
        """(y, x) first pixels of every window, (W,) each."""
        ys, xs = self.axes
        return np.repeat(ys, xs.size), np.tile(xs, ys.size)

    @property
    def edges(self) -> tuple[Array, Array]:
        """Rows and columns at which any window begins or ends, 0 first, the size last."""
        return tuple(  # type: ignore[return-value]
            np.unique(np.clip(np.r_[0, s, s + self.patch, n], 0, n)) for s, n in zip(self.axes, self.shape, strict=True)
        )

    @property
    def pixels(self) -> Array:
        """(W,) pixels of each window that lie inside the raster."""
        inside = [np.minimum(s + self.patch, n) - s for s, n in zip(self.axes, self.shape, strict=True)]
        return np.outer(*inside).ravel()

    def coverage(self, chosen: Array) -> Array:
        """(W,) bool -> (cells, cells) bool on the `edges`: what the chosen windows cover together."""
        ey, ex = self.edges
        out = np.zeros((ey.size - 1, ex.size - 1), bool)
        y, x = self.origins
        for a, b in zip(y[chosen], x[chosen], strict=True):
            rows = slice(*np.searchsorted(ey, (a, min(a + self.patch, self.shape[0]))))
            columns = slice(*np.searchsorted(ex, (b, min(b + self.patch, self.shape[1]))))
            out[rows, columns] = True
        return out


class Counter:
    """Counts of classes in the windows of a layout, fed with strips of rows from the top."""

    def __init__(self, layout: Layout, table: Array) -> None:
        """table: (256,) or (65536,) class number of each value, -1 where it is not counted."""
        self.layout, self.classes = layout, int(table.max()) + 1
        self.table = np.where(table < 0, self.classes, table).astype(np.intp)  # one more for what is not counted
        self.ey, self.ex = layout.edges
        self.column = np.repeat(np.arange(self.ex.size - 1), np.diff(self.ex)) * (self.classes + 1)
        self.cells = np.zeros((self.classes, self.ey.size - 1, self.ex.size - 1), np.int64)

    def add(self, start: int, values: Array) -> None:
        """Rows from `start` on: values (rows, X) unsigned."""
        cuts = self.ey[(self.ey > start) & (self.ey < start + len(values))] - start
        few = max(1, AT_ONCE // values.shape[1])
        rows = np.unique(np.r_[np.arange(0, len(values), few), cuts, len(values)])
        size = (self.classes + 1) * (self.ex.size - 1)
        for a, b in pairwise(rows.tolist()):
            codes = self.table[values[a:b]]
            codes += self.column
            counts = np.bincount(codes.ravel(), minlength=size).reshape(-1, self.classes + 1)
            self.cells[:, np.searchsorted(self.ey, a + start, side="right") - 1] += counts[:, :-1].T

    def windows(self) -> Array:
        """(W, classes) counts."""
        summed = np.zeros((self.classes, self.ey.size, self.ex.size), np.int64)
        summed[:, 1:, 1:] = self.cells.cumsum(axis=1).cumsum(axis=2)
        ys, xs = self.layout.axes
        y0, x0 = np.searchsorted(self.ey, ys), np.searchsorted(self.ex, xs)
        y1 = np.searchsorted(self.ey, np.minimum(ys + self.layout.patch, self.layout.shape[0]))
        x1 = np.searchsorted(self.ex, np.minimum(xs + self.layout.patch, self.layout.shape[1]))
        total = summed[:, y1][:, :, x1] - summed[:, y0][:, :, x1] - summed[:, y1][:, :, x0] + summed[:, y0][:, :, x0]
        return total.reshape(self.classes, -1).T


def padded(values: Array, size: int, fill: Any) -> Array:
    """(..., y, x) -> (..., size, size): `fill` below and to the right of what there is."""
    height, width = values.shape[-2:]
    if (height, width) == (size, size):
        return values
    out = np.full((*values.shape[:-2], size, size), fill, values.dtype)
    out[..., :height, :width] = values
    return out
