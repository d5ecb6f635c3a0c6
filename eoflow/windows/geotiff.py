"""A finished store of windows as COGs: the first layer in the file itself, each of the others beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eoflow.export.cog import CogBand, write_cog
from eoflow.export.publish import refuse_existing
from eoflow.tiling import Grid
from eoflow.windows.plan import Array
from eoflow.windows.sinks import Layer, Partial, array_names

SUFFIXES = (".tif", ".tiff")


def paths(dest: Path, layers: tuple[Layer, ...]) -> list[Path]:
    """DEST for the first layer, DEST_LAYER for the others."""
    return [dest, *(dest.with_name(f"{dest.stem}_{layer.name}{dest.suffix}") for layer in layers[1:])]


def refuse(store: Partial, overwrite: bool) -> None:
    """Raise BadInput where a file to be written exists; the companions of a run that was cut short may."""
    files = paths(store.dest, store.layers)
    for path in files if not store.done().any() else files[:1]:
        refuse_existing(path, overwrite)


def publish_cogs(store: Partial, overwrite: bool = False, compress: str = "deflate") -> list[Path]:
    """Write a COG a layer, the one at `dest` last, and forget the store. Without a grid they keep pixel coordinates."""
    import zarr

    store.complete()
    group: Any = zarr.open_group(str(store.folder), mode="r", zarr_format=3)
    grid = store.grid or Grid("", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), store.plan.shape)
    tags = {k: str(v) for k, v in store.attrs.items()}
    files = paths(store.dest, store.layers)
    for i in reversed(range(len(files))):
        layer = store.layers[i]
        arrays = [group[name] for name in array_names(layer)]

        def read(band: int, rows: slice, columns: slice, arrays: list[Any] = arrays) -> Array:
            return np.asarray(arrays[band][rows, columns])

        bands = [
            CogBand(
                band, layer.dtype, layer.nodata, layer.scale, layer.offset, layer.units, layer.attrs.get("long_name"),
                categorical=layer.categorical,
            )
            for band in layer.bands
        ]  # fmt: skip
        write_cog(files[i], bands, grid, read, tags=tags, compress=compress, overwrite=overwrite or i > 0)
    store.discard()
    return files
