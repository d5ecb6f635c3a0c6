"""Several tiles on one pixel grid as one image: where they overlap, the first that has a value wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.tiling import Grid, same_crs, same_pixels

Array = np.ndarray[Any, Any]


def union(grids: Sequence[Grid], names: Sequence[str]) -> Grid:
    """The grid that holds all of them. Raises BadInput unless CRS, pixel size and pixel edges agree."""
    first = grids[0]
    a, _, c, _, e, f = first.transform
    top = left = 0
    bottom, right = first.shape
    for grid, name in zip(grids[1:], names[1:], strict=True):
        if not same_pixels(first, grid):
            same = same_crs(first.crs, grid.crs)
            what = "pixel size" if same else f"CRS ({first.crs[:40]}, {grid.crs[:40]})"
            raise BadInput(
                f"tiles {names[0]} and {name} differ in {what} and make no mosaic", todo="export one file a tile"
            )
        row, column = (round(v, 3) for v in first.offset(grid))
        if row % 1 or column % 1:
            raise BadInput(f"the pixels of tiles {names[0]} and {name} are shifted by a part of a pixel",
                           todo="export one file a tile")  # fmt: skip
        top, left = min(top, int(row)), min(left, int(column))
        bottom, right = max(bottom, int(row) + grid.shape[0]), max(right, int(column) + grid.shape[1])
    return Grid(first.crs, (a, 0.0, c + a * left, 0.0, e, f + e * top), (bottom - top, right - left))


def paste(out: Array, part: Array, at: tuple[int, int], valid: Array, taken: Array) -> None:
    """Put `part` into `out` with its first pixel at row, column `at`, where it is `valid` and nothing is `taken` yet;
    `taken` (bool, as out) learns of it."""
    here = (slice(at[0], at[0] + part.shape[0]), slice(at[1], at[1] + part.shape[1]))
    free = valid & ~taken[here]
    out[here][free] = part[free]
    taken[here] |= free
