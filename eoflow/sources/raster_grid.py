"""Where the pixels of one grid lie in another: exact windows for aligned grids, warping for the others."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources.base import Area

if TYPE_CHECKING:
    from eoflow.sources.scene import Grid

Array = np.ndarray[Any, Any]
TOLERANCE = 0.01
"""Pixels by which an aligned grid may be off anywhere in its extent (float noise of decimal degrees)."""
WARP_MIB = 64
"""Memory that GDAL's warper may use in one read."""
RESAMPLING = ("nearest", "bilinear", "cubic", "average")


@lru_cache(maxsize=256)
def same_crs(a: str, b: str) -> bool:
    """Whether two CRS texts (EPSG:n or WKT) mean the same system."""
    if a == b:
        return True
    if not a or not b:
        return False
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(a) == CRS.from_user_input(b))


def offset_in(grid: Grid, own: Grid) -> tuple[int, int] | None:
    """(row, column) of `grid`'s first pixel in `own`, if the two are pixel-aligned; None if they are not.

    Aligned: same CRS, same resolution and orientation, an offset of whole pixels.
    """
    a, b, c, d, e, f = grid.transform
    oa, ob, oc, od, oe, of = own.transform
    det = oa * oe - ob * od
    if det == 0 or not same_crs(grid.crs, own.crs):
        return None
    # M = inv(own) @ grid must be the identity with a whole translation, over the whole extent of `grid`
    height, width = grid.shape
    reach = max(height, width)
    linear = (
        (oe * a - ob * d) / det - 1.0, (oe * b - ob * e) / det, (oa * d - od * a) / det, (oa * e - od * b) / det - 1.0,
    )  # fmt: skip
    if max(abs(x) for x in linear) * reach > TOLERANCE:
        return None
    column, row = (oe * (c - oc) - ob * (f - of)) / det, (oa * (f - of) - od * (c - oc)) / det
    if abs(column - round(column)) > TOLERANCE or abs(row - round(row)) > TOLERANCE:
        return None
    return round(row), round(column)


def empty(shape: tuple[int, ...], dtype: Any, nodata: float | None, fill: float | None) -> Array:
    """An array that holds `nodata`, else `fill`, else NaN or 0."""
    value = fill_value(np.dtype(dtype), nodata, fill)
    return np.full(shape, value, dtype)


def fill_value(dtype: np.dtype[Any], nodata: float | None, fill: float | None) -> Any:
    """The value outside a raster: `nodata` if the dtype can hold it, else `fill`, else NaN or 0."""
    for value in (nodata, fill):
        if value is not None and holds(dtype, value):
            return dtype.type(value)
    return dtype.type(np.nan if dtype.kind == "f" else 0)


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a dtype can hold a value exactly (a float dtype: at all)."""
    if dtype.kind in "fc":
        return True
    if not np.isfinite(value) or value != int(value):
        return False
    info = np.iinfo(dtype)
    return bool(info.min <= value <= info.max)


def read_aligned(ds: Any, indexes: list[int], at: tuple[int, int], out: Array) -> None:
    """Copy pixels into `out` (band, y, x) whose first pixel lies at row, column `at` of the raster.

    What lies outside the raster keeps what `out` holds.
    """
    from rasterio.windows import Window

    (row, column), (_, height, width) = at, out.shape
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + height, ds.height), min(column + width, ds.width)
    if top >= bottom or left >= right:
        return
    window = Window(left, top, right - left, bottom - top)
    if (bottom - top, right - left) == (height, width):
        ds.read(indexes, window=window, out=out)
    else:
        out[:, top - row : bottom - row, left - column : right - column] = ds.read(indexes, window=window)


def read_warped(
    ds: Any, indexes: list[int], grid: Grid, out: Array, resampling: str, nodata: float | None, own_crs: str
) -> None:
    """Warp the raster to `grid` into `out` (band, y, x), which holds the value for outside already."""
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    kind = out.dtype.kind
    if nodata is None and kind == "f":
        nodata = float("nan")  # NaN must not spread into its neighbours
    outside = out.reshape(-1)[0].item()
    options: dict[str, Any] = {}
    if nodata is not None and holds(out.dtype, nodata):
        options = {"src_nodata": nodata, "nodata": nodata}
    if not options or not (outside == nodata or (outside != outside and nodata != nodata)):
        options |= {"init_dest_nodata": False, "INIT_DEST": repr(outside)}  # GDAL reads a NaN here as 0
    with WarpedVRT(
        ds, src_crs=own_crs, crs=grid.crs, transform=Affine(*grid.transform), height=grid.shape[0],
        width=grid.shape[1], resampling=Resampling[resampling], warp_mem_limit=WARP_MIB, **options,
    ) as vrt:  # fmt: skip
        vrt.read(indexes, out=out)


def read_swath(ds: Any, indexes: list[int], grid: Grid, out: Array, resampling: str, nodata: float | None) -> None:
    """`read_warped` of a raster that only its ground control points place (polynomial through them)."""
    import rasterio
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    points, crs = ds.gcps
    if nodata is None and out.dtype.kind == "f":
        nodata = float("nan")
    for index, target in zip(indexes, out, strict=True):
        reproject(
            rasterio.band(ds, index), target, gcps=points, src_crs=crs, dst_crs=grid.crs,
            dst_transform=Affine(*grid.transform), src_nodata=nodata, dst_nodata=nodata, init_dest_nodata=False,
            resampling=Resampling[resampling], warp_mem_limit=WARP_MIB,
        )  # fmt: skip


def bbox_of(grid: Grid) -> Area:
    """West, south, east, north in degrees (WGS 84) of a grid; west > east where it crosses the antimeridian.

    Raises BadInput for a grid that has no place on the Earth.
    """
    from rasterio.errors import CRSError
    from rasterio.warp import transform_bounds

    a, b, c, d, e, f = grid.transform
    h, w = grid.shape
    xs = [c, c + a * w, c + b * h, c + a * w + b * h]
    ys = [f, f + d * w, f + e * h, f + d * w + e * h]
    try:
        west, south, east, north = transform_bounds(
            grid.crs, "EPSG:4326", min(xs), min(ys), max(xs), max(ys), densify_pts=21
        )
    except (CRSError, ValueError) as error:
        raise BadInput(f"the grid has no place on the Earth: {error}", todo="check its CRS and transform") from None
    if not np.all(np.isfinite([west, south, east, north])):
        raise BadInput("the grid has no place on the Earth", todo="check its CRS and transform")
    if east - west >= 360:
        return (-180.0, max(south, -90.0), 180.0, min(north, 90.0))
    return (_lon(west), max(south, -90.0), _lon(east), min(north, 90.0))


def _lon(x: float) -> float:
    return x if -180.0 <= x <= 180.0 else (x + 180.0) % 360.0 - 180.0
