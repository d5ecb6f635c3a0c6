"""GeoTIFFs for tests, written by rasterio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

UTM = "EPSG:32633"


def write(path: Path, data: np.ndarray, *, crs: str | None = UTM, origin=(500_000.0, 4_600_000.0), res=10.0, **profile):
    """A GeoTIFF; data (band, y, x) or (y, x)."""
    data = data if data.ndim == 3 else data[None]
    descriptions = profile.pop("descriptions", None)
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"} | profile
    if crs is not None:
        profile |= {"crs": crs, "transform": from_origin(*origin, res, res)}
    with rasterio.open(
        path, "w", driver="GTiff", height=data.shape[1], width=data.shape[2], count=data.shape[0],
        dtype=data.dtype, **profile,
    ) as ds:  # fmt: skip
        ds.write(data)
        if descriptions:
            ds.descriptions = descriptions
    return path
