"""Where pixels lie: CF grid mapping and coordinates of a pixel grid, and the way back from a dataset."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.cube_layout import mapping_attrs
from eoflow.errors import BadInput
from eoflow.tiling import Grid

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]
Affine = tuple[float, float, float, float, float, float]


def axis_attrs(grid: Grid) -> tuple[dict[str, str], dict[str, str]]:
    """CF attributes of (y, x)."""
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    found = {a["axis"]: a for a in crs.cs_to_cf()}
    return tuple({k: str(v) for k, v in found.get(axis, {"axis": axis}).items()} for axis in ("Y", "X"))  # type: ignore[return-value]


def fill_attr(dtype: Any, nodata: float | None) -> dict[str, Any]:
    """`_FillValue` of an array of Zarr v3, in the form that xarray reads (floats as base64; NaN needs none)."""
    if nodata is None or np.isnan(nodata):
        return {}
    if np.dtype(dtype).kind == "f":
        return {"_FillValue": base64.standard_b64encode(struct.pack("<d", nodata)).decode()}
    return {"_FillValue": int(nodata)}


def put_grid(group: Any, grid: Grid) -> None:
    """Write y, x and spatial_ref into a Zarr group. Raises BadInput for a rotated grid."""
    if grid.transform[1] or grid.transform[3]:
        raise BadInput("the pixel grid is rotated", todo="warp it to a north-up grid first")
    for name, values, attrs in zip(("y", "x"), (grid.y(), grid.x()), axis_attrs(grid), strict=True):
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype, dimension_names=(name,)
        )  # fmt: skip
        array[:] = values
        array.attrs.update(attrs)
    ref = group.create_array("spatial_ref", shape=(), dtype="int64", dimension_names=())
    ref[...] = 0
    ref.attrs.update(mapping_attrs(grid))


def grid_of(ds: xr.Dataset) -> Grid:
    """The pixel grid of a dataset with a grid mapping: GeoTransform, else even y and x. Raises BadInput."""
    y, x = "y", "x"
    if y not in ds.dims or x not in ds.dims:
        raise BadInput(f"no dimensions y and x among {', '.join(map(str, ds.dims))}", todo="select one tile and time")
    if "spatial_ref" not in ds.variables:
        raise BadInput("there is no spatial_ref: nothing says where the pixels lie", todo="write a CRS first")
    attrs = ds["spatial_ref"].attrs
    crs = attrs.get("crs_wkt") or attrs.get("spatial_ref")
    if not crs:
        raise BadInput("spatial_ref has no crs_wkt", todo="write a CRS first")
    shape = (ds.sizes[y], ds.sizes[x])
    step_y, step_x = (_step(ds, name) for name in (y, x))
    if "GeoTransform" in attrs:
        c, a, b, f, d, e = (float(v) for v in str(attrs["GeoTransform"]).split())
        if (step_y is None or abs(step_y - e) < 1e-6 * abs(e)) and (step_x is None or abs(step_x - a) < 1e-6 * abs(a)):
            if x in ds.coords and y in ds.coords:  # a part of the grid that the GeoTransform describes
                c, f = float(ds[x].values[0]) - 0.5 * a, float(ds[y].values[0]) - 0.5 * e
            return Grid(_short(str(crs)), (a, b, c, d, e, f), shape)
    if step_y is None or step_x is None:
        raise BadInput("neither a GeoTransform nor two rows and columns: the pixel size is not known")
    first_x, first_y = float(ds[x].values[0]), float(ds[y].values[0])
    transform: Affine = (step_x, 0.0, first_x - 0.5 * step_x, 0.0, step_y, first_y - 0.5 * step_y)
    return Grid(_short(str(crs)), transform, shape)


def _step(ds: xr.Dataset, name: str) -> float | None:
    if name not in ds.coords or ds.sizes[name] < 2:
        return None
    values = ds[name].values.astype("f8")
    steps = np.diff(values)
    if not np.allclose(steps, steps[0], rtol=1e-3):
        raise BadInput(f"the steps of {name} are not even: {steps.min():g} to {steps.max():g}")
    return float((values[-1] - values[0]) / (values.size - 1))


def _short(crs: str) -> str:
    """EPSG:n where the CRS has that number, else its text."""
    from pyproj import CRS

    code = CRS.from_user_input(crs).to_epsg(min_confidence=100)
    return crs if code is None else f"EPSG:{code}"
