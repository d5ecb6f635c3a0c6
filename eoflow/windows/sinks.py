"""Where windows are written: arrays in memory, Zarr arrays, and a store beside its destination that can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eoflow import chunks
from eoflow.cube_layout import codec
from eoflow.errors import BadInput, Failure
from eoflow.export.georef import fill_attr, put_grid
from eoflow.export.publish import into_place
from eoflow.windows.plan import Array, Box, Plan

if TYPE_CHECKING:
    from eoflow.tiling import Grid
CHUNK = 512
"""Pixels of an output chunk, each side, at most."""


@dataclass(frozen=True)
class Layer:
    """One output array (band, rows, columns). nodata: what it holds where the input has no value (None: 0).

    categorical: classes, which overviews must not average. attrs: CF attributes. scale, offset, units: physical =
    stored * scale + offset.
    """

    name: str = "output"
    bands: tuple[str, ...] = ("value",)
    dtype: str = "float32"
    nodata: float | None = float("nan")
    categorical: bool = False
    scale: float = 1.0
    offset: float = 0.0
    units: str | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def fill(self) -> Any:
        """nodata as a value of the array."""
        return np.dtype(self.dtype).type(0 if self.nodata is None else self.nodata)

    def cast(self, values: Array, valid: Array | None) -> Array:
        """(K, h, w) of any type -> dtype: rounded and clipped for integers; nodata where not valid or not finite."""
        dtype = np.dtype(self.dtype)
        out = values
        if dtype.kind in "iu" and values.dtype.kind == "f":
            info = np.iinfo(dtype)
            void = ~np.isfinite(values)
            out = np.clip(np.rint(np.where(void, 0, values)), info.min, info.max).astype(dtype)
            out[void] = self.fill
        else:
            out = values.astype(dtype)
        if valid is not None:
            out[:, ~valid] = self.fill
        return out


class Sink(Protocol):
    """Takes the boxes of one layer, each once; called from threads, and sent to Dask workers where they are used."""

    layer: Layer

    def write(self, box: Box, values: Array) -> None:
        """`values` (K, rows, columns) of the layer's dtype at `box`; None for values: all nodata."""
        ...


class ArraySink:
    """Into an array (K, rows, columns) of numpy or alike; by default a new one, in `values`."""

    def __init__(self, layer: Layer, shape: tuple[int, int], values: Any | None = None) -> None:
        self.layer = layer
        self.values = (
            np.full((len(layer.bands), *shape), layer.fill, layer.dtype) if values is None else values
        )  # fmt: skip

    def write(self, box: Box, values: Array) -> None:
        """Write one box."""
        self.values[(slice(None), *box.slices)] = values


class ZarrSink:
    """Into one Zarr array a band, of a group: a local path (opened where it is used), or an open group."""

    def __init__(self, layer: Layer, group: Any) -> None:
        self.layer, self.group = layer, group
        self._arrays: list[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}

    def write(self, box: Box, values: Array) -> None:
        """Write one box."""
        if self._arrays is None:
            import zarr

            group: Any = zarr.open_group(self.group, mode="r+") if isinstance(self.group, str) else self.group
            self._arrays = [group[name] for name in array_names(self.layer)]
        for array, band in zip(self._arrays, values, strict=True):
            chunks.write(array, box.slices, band)


def array_names(layer: Layer) -> list[str]:
    """Names of a layer's arrays in a store: the layer's own for one band, else the bands'."""
    return [layer.name] if len(layer.bands) == 1 else list(layer.bands)


class Partial:
    """Outputs in the making, beside `dest`: a Zarr v3 store, and a file of one byte a job, 1 when it is written.

    A run that was killed is taken up where it stopped, if `identity` (what is computed from what) is the same; else
    it starts anew. `publish` renames the store to `dest`.
    """

    def __init__(
        self, dest: str | Path, layers: Sequence[Layer], plan: Plan, *, identity: str = "", grid: Grid | None = None,
        attrs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.dest = Path(dest).absolute()
        self.folder = self.dest.with_name(f".{self.dest.name}.partial")
        self.bitmap = self.dest.with_name(f".{self.dest.name}.done")
        self.layers, self.plan, self.grid, self.attrs = tuple(layers), plan, grid, dict(attrs or {})
        self.chunk = tuple(_chunk(n, core) for n, core in zip(plan.shape, plan.core, strict=True))
        names = [n for layer in self.layers for n in array_names(layer)]
        if len(set(names)) != len(names):
            raise BadInput(f"two outputs have one name: {', '.join(names)}")
        said = [repr(self.layers), repr(plan), repr(grid), identity]
        self.identity = hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
        if self._same():
            for left in self.folder.rglob("*.partial"):  # chunks that Zarr was writing when it was killed
                left.unlink()
        else:
            self.discard()
            self._create()
        self.sinks: tuple[ZarrSink, ...] = tuple(ZarrSink(layer, str(self.folder)) for layer in self.layers)

    def _same(self) -> bool:
        if not self.folder.is_dir() or not self.bitmap.is_file():
            return False
        return self.bitmap.read_bytes()[len(self.plan) :] == self.identity.encode()

    def _create(self) -> None:
        import zarr

        group = zarr.create_group(str(self.folder), zarr_format=3, overwrite=True)
        group.attrs.update({"Conventions": "CF-1.11", "source": "eoflow", **self.attrs})
        if self.grid is not None:
            put_grid(group, self.grid)
        for layer in self.layers:
            attrs = layer_attrs(layer, self.grid is not None)
            for name, band in zip(array_names(layer), layer.bands, strict=True):
                array = group.create_array(
                    name, shape=self.plan.shape, chunks=self.chunk, dtype=layer.dtype, fill_value=layer.fill,
                    dimension_names=("y", "x"),
                    compressors=codec(layer.dtype),
                )  # fmt: skip
                array.attrs.update({**attrs, "long_name": band} if name != band else attrs)
        # written last: without it the folder is no store that could be taken up
        self.bitmap.write_bytes(bytes(len(self.plan)) + self.identity.encode())

    def done(self) -> Array:
        """Which jobs are written: bool (jobs,)."""
        found = np.frombuffer(self.bitmap.read_bytes(), np.uint8, len(self.plan))
        return np.asarray(found == 1)

    def mark(self, job: int) -> None:
        """This job is written."""
        fd = os.open(self.bitmap, os.O_WRONLY)
        try:
            os.pwrite(fd, b"\x01", job)
        finally:
            os.close(fd)

    def complete(self) -> None:
        """Raise Failure unless every job is written."""
        missing = int((~self.done()).sum())
        if missing:
            raise Failure(f"{missing} of {len(self.plan)} windows are not written", where=str(self.folder))

    def publish(self, overwrite: bool = False) -> Path:
        """Rename the finished store to `dest`. Raises BadInput if that exists."""
        import zarr

        self.complete()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(str(self.folder), zarr_format=3)
        into_place(self.folder, self.dest, overwrite)
        self.discard()
        return self.dest

    def discard(self) -> None:
        """Forget the unfinished store."""
        self.bitmap.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _chunk(n: int, core: int) -> int:
    """Pixels of a chunk along one axis: at most CHUNK, and whole chunks in a core, so that each has one writer."""
    if core >= n:
        return min(n, CHUNK)
    return max(c for c in range(1, min(core, CHUNK) + 1) if core % c == 0)


def layer_attrs(layer: Layer, placed: bool) -> dict[str, Any]:
    """CF attributes of a layer's arrays; `placed`: the store has a spatial_ref."""
    out = dict(layer.attrs)
    if layer.units is not None:
        out["units"] = layer.units
    if (layer.scale, layer.offset) != (1.0, 0.0):
        out |= {"scale_factor": layer.scale, "add_offset": layer.offset}
    out |= fill_attr(layer.dtype, layer.nodata)
    if placed:
        out |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    return out
