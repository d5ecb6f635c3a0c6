"""Water that is always there, told from flood: from a reference layer, or from what the cube showed before.

A natural lake is no flood (Rahnemoonfar et al. 2021, "FloodNet", IEEE Access 9). Permanent is a pixel that the
reference says is water, or that was water in more than half of its clear observations before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.tiling import Grid

Array = np.ndarray[Any, Any]
UNKNOWN = 255
LAND, FLOOD, PERMANENT = 0, 1, 2
FLOOD_ATTRS: dict[str, Any] = {
    "long_name": "flood and permanent water", "flag_values": [LAND, FLOOD, PERMANENT],
    "flag_meanings": "land flood permanent_water",
}  # fmt: skip
PERMANENT_ATTRS: dict[str, Any] = {
    "long_name": "permanent water", "flag_values": [0, 1], "flag_meanings": "not_permanent permanent",
}  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """A raster of permanent water: 0/1 or 0/255, or the occurrence of water in percent (more than 50 is permanent)."""

    path: str
    above: float
    said: str

    @classmethod
    def open(cls, path: str | Path) -> Reference:
        """Look at a file. Raises BadInput for one that cannot be read, has no CRS, or holds other values."""
        import rasterio
        from rasterio.errors import RasterioError

        place = Path(path).absolute()
        if not place.is_file():
            raise BadInput("there is no such file", where=str(path), todo="give a raster of permanent water")
        try:
            with rasterio.open(place) as f:
                if f.crs is None:
                    raise BadInput("the raster of permanent water has no CRS", where=str(path),
                                   todo="georeference it")  # fmt: skip
                shape = (min(f.height, 2048), min(f.width, 2048))
                values = f.read(1, out_shape=shape, masked=True).compressed()
        except RasterioError as e:
            raise BadInput(f"the raster of permanent water cannot be read: {e}", where=str(path)) from None
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        top = float(values.max()) if values.size else 0.0
        if values.size and values.min() < 0:
            top = np.inf
        if top <= 1:
            return cls(str(place), 0.5, "1")
        if set(np.unique(values).tolist()) <= {0, 255}:
            return cls(str(place), 254.5, "255")
        if top <= 100:
            return cls(str(place), 50.0, "occurrence above 50 %")
        raise BadInput(f"values up to {top:g} in the raster of permanent water", where=str(path),
                       todo="give 0 and 1, or the occurrence of water in percent (nodata declared)")  # fmt: skip

    def read(self, grid: Grid) -> Array:
        """(y, x) uint8 on a pixel grid by the nearest pixel: 0, 1, 255 where the reference says nothing."""
        import rasterio
        from affine import Affine
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        with rasterio.open(self.path) as f, WarpedVRT(
            f, crs=grid.crs, transform=Affine(*grid.transform), height=grid.shape[0], width=grid.shape[1],
            resampling=Resampling.nearest, add_alpha=f.nodata is None,
        ) as vrt:  # fmt: skip
            values, known = vrt.read(1), vrt.dataset_mask() > 0
        if values.dtype.kind == "f":
            known &= np.isfinite(values)
        return np.where(known, (values > self.above).astype(np.uint8), UNKNOWN).astype(np.uint8)


def often(classes: Sequence[Array], water: int) -> Array:
    """Maps (uint8, 255 nothing seen) of earlier dates -> 1 where more than half of those seen are water, 255 none."""
    count, seen = np.zeros(classes[0].shape, np.int32), np.zeros(classes[0].shape, np.int32)
    for one in classes:
        count += one == water
        seen += one != UNKNOWN
    return np.where(seen > 0, (2 * count > seen).astype(np.uint8), UNKNOWN).astype(np.uint8)


def tell(classes: Array, permanent: Array, water: int) -> Array:
    """Classes (uint8, 255) and permanent water (0, 1, 255) -> land 0, flood 1, permanent 2; 255 where either is not
    known, which it need not be on land."""
    wet = classes == water
    out = np.zeros(classes.shape, np.uint8)
    out[wet & (permanent == 0)] = FLOOD
    out[wet & (permanent == 1)] = PERMANENT
    out[(classes == UNKNOWN) | (wet & (permanent == UNKNOWN))] = UNKNOWN
    return out
