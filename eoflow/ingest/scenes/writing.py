"""Writing a time step of a tile: its windows, and the overviews that grow from what the windows hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.bands import SceneSchema
from eoflow.ingest.scenes.coarse import coarse_classes, coarse_means, complete

if TYPE_CHECKING:
    import zarr

    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
Layers = Mapping[str, Array]


def reduced(schema: SceneSchema, values: Layers, factors: Sequence[int]) -> dict[int, dict[str, Array]]:
    """The layers of a window with larger pixels: means of the bands without nodata, the most frequent classes."""
    out: dict[int, dict[str, Array]] = {f: {} for f in factors}
    if not factors:
        return out
    for spec in schema.bands:
        for f, coarse in coarse_means(values[spec.name], spec.nodata, factors).items():
            out[f][spec.name] = coarse
    for name in (lay.QUALITY, lay.SCENE):
        for f, coarse in coarse_classes(values[name], factors).items():
            out[f][name] = coarse
    return out


def fractions(valid: Array, chunk: tuple[int, int]) -> Array:
    """float32 (chunk row, chunk column): the share of each chunk's pixels that are valid (`valid_pixels`)."""
    out = np.empty([math.ceil(n / c) for n, c in zip(valid.shape, chunk, strict=True)], "f4")
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            part = valid[i * chunk[0] : (i + 1) * chunk[0], j * chunk[1] : (j + 1) * chunk[1]]
            out[i, j] = np.count_nonzero(part) / part.size
    return out


def valid_pixels(schema: SceneSchema, values: Layers) -> Array:
    """bool (y, x): where a scene covers the pixel and some band holds a value."""
    covered = values[lay.SCENE] > 0
    if any(complete(values[s.name], s.nodata) for s in schema.bands if not s.dtype.startswith("float")):
        return covered
    valid = np.zeros(covered.shape, bool)
    for spec in schema.bands:
        v = values[spec.name]
        valid |= ~np.isnan(v) & (v != spec.fill) if spec.dtype.startswith("float") else v != spec.fill
        if valid.all():
            break
    return valid & covered


class Overviews:
    """The coarser copies of one time step. Windows come in any order; a row of chunks is written when it is complete.

    So there are never more rows of chunks in memory than windows are in work at the same time.
    """

    def __init__(self, shape: tuple[int, int], arrays: Mapping[int, Mapping[str, zarr.Array]], slot: int) -> None:
        self.shape, self.arrays, self.slot = shape, arrays, slot
        self._rows: dict[tuple[int, int], dict[str, Array]] = {}
        self._open: dict[tuple[int, int], int] = {}

    def add(self, rows: slice, columns: slice, coarse: Mapping[int, Layers]) -> None:
        """Take the reduced layers of the window `rows`, `columns` (pixels of the tile; multiples of the factors)."""
        for factor, layers in coarse.items():
            top, left = rows.start // factor, columns.start // factor
            height, width = next(iter(layers.values())).shape
            step = next(iter(self.arrays[factor].values())).chunks[1]
            for k in range(top // step, math.ceil((top + height) / step)):
                a, b = max(top, k * step), min(top + height, (k + 1) * step)
                self._put(factor, k, step, slice(a, b), slice(left, left + width), layers, top)

    def _put(
        self, factor: int, k: int, step: int, rows: slice, columns: slice, layers: Layers, top: int
    ) -> None:  # fmt: skip
        key = (factor, k)
        total = [math.ceil(n / factor) for n in self.shape]
        height = min(step, total[0] - k * step)
        if key not in self._rows:
            self._rows[key] = {n: np.empty((height, total[1]), v.dtype) for n, v in layers.items()}
            self._open[key] = height * total[1]
        for name, values in layers.items():
            part = values[rows.start - top : rows.stop - top]
            self._rows[key][name][rows.start - k * step : rows.stop - k * step, columns] = part
        self._open[key] -= (rows.stop - rows.start) * (columns.stop - columns.start)
        if self._open[key] == 0:
            where = slice(k * step, k * step + height)
            lay.write(self.arrays[factor], self.slot, where, slice(0, total[1]), self._rows.pop(key))
            del self._open[key]

    @property
    def complete(self) -> bool:
        """Whether every row that was begun has been written."""
        return not self._rows


def write_step(
    tx: Transaction, schema: SceneSchema, tile: str, slot: int, bands: Layers, quality: Array,
    items: list[dict[str, Any]], scene: Array | None = None,
) -> None:  # fmt: skip
    """Write a whole time step (y, x) of a tile at position `slot`: layers, overviews, provenance.

    quality: uint8 Quality. scene: uint8, which item gives each pixel (1 where quality is not MISSING, if left out).
    """
    group: Any = tx.group[lay.path(tile)]
    factors = [int(f) for f in group.attrs["eoflow_overviews"]]
    chunk = tuple(int(c) for c in group.attrs["eoflow_chunk"])
    scene = (quality != 0).astype("u1") if scene is None else scene
    values = {**bands, lay.QUALITY: quality, lay.SCENE: scene}
    height, width = quality.shape
    lay.write(lay.opened(tx, tile, schema), slot, slice(0, height), slice(0, width), values)
    above = {f: lay.opened(tx, tile, schema, f) for f in factors}
    Overviews((height, width), above, slot).add(
        slice(0, height), slice(0, width), reduced(schema, values, factors)
    )  # fmt: skip
    lay.set_fractions(tx, tile, [slot], [fractions(valid_pixels(schema, values), (chunk[0], chunk[1]))])
    lay.set_items(tx, tile, [slot], [items])
