"""First-order conservative regridding between latitude-longitude grids.

The weight of a source cell in a target cell is the area that they share. On the sphere that area is the product of a
difference of longitudes and a difference of sines of latitudes, so that the weights are the outer product of two
one-dimensional overlaps, each with a few entries a row (Jones 1999,
doi:10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2, for this special case).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from eoflow.errors import BadInput
from eoflow.schema import LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T", "xr.Dataset", "xr.DataArray")
_SPEC = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*deg(\+poles)?\s*$")


def target_grid(spec: str, source: LatLonGrid | None = None) -> LatLonGrid:
    """`5.625deg` -> an equiangular grid of that step; `1.5deg+poles` -> one with rows on the poles.

    Global for a global `source` or none, first longitude 0 (5.625deg is WeatherBench2's 64x32, 1.5deg+poles its
    240x121). For a regional source: the whole cells of the global grid that lie inside it. Raises BadInput where the
    step does not divide the globe, or the source holds no whole cell.
    """
    m = _SPEC.match(spec)
    if not m:
        raise BadInput(f"'{spec}' is not a grid", todo="write it as 5.625deg, or 1.5deg+poles for rows on the poles")
    step = float(m[1])
    rows, columns = 180 / step if step else 0.0, 360 / step if step else 0.0
    if step <= 0 or abs(rows - round(rows)) > 1e-6:
        raise BadInput(f"a step of {m[1]} degrees does not divide the globe", todo="for example 5.625deg or 0.25deg")
    half = 0.0 if m[2] else step / 2
    lat = 90 - half - step * np.arange(round(rows) + (1 if m[2] else 0))
    lon = step * np.arange(round(columns))
    if source is None or source.is_global:
        return LatLonGrid(latitude=tuple(lat), longitude=tuple(lon))
    s_edges, x_edges = _edges(np.asarray(source.latitude), 90.0), _edges(np.asarray(source.longitude))
    lat_edges = np.clip(np.stack([lat - step / 2, lat + step / 2]), -90, 90)
    inside = (lat_edges[0] >= s_edges.min() - 1e-6) & (lat_edges[1] <= s_edges.max() + 1e-6)
    if not source.wraps:
        first = np.ceil((x_edges.min() + step / 2 - 1e-6) / step)
        last = np.floor((x_edges.max() - step / 2 + 1e-6) / step)
        lon = step * np.arange(first, last + 1)
    if not inside.any() or not lon.size:
        raise BadInput(f"no whole cell of {spec} lies inside {source.describe()}", todo="choose a finer grid")
    return LatLonGrid(latitude=tuple(lat[inside]), longitude=tuple(lon))


def grid_of(ds: xr.Dataset | xr.DataArray) -> LatLonGrid:
    """The grid of an object with one-dimensional latitude and longitude, in the order in which they are stored."""
    for name in ("latitude", "longitude"):
        if name not in ds.coords or ds[name].dims != (name,):
            raise BadInput(f"there is no one-dimensional {name}", todo="regridding needs a latitude-longitude grid")
    return LatLonGrid(
        latitude=tuple(float(v) for v in ds["latitude"].values),
        longitude=tuple(float(v) for v in ds["longitude"].values),
    )


def regrid(ds: T, target: LatLonGrid | str, min_valid: float = 0.5) -> T:
    """Put every variable with latitude and longitude on the target grid (see Regridder); the others stay as they are.

    Lazy for dask arrays; attributes and the order of dimensions are kept. Raises BadInput for grids that do not fit.
    """
    source = grid_of(ds)
    return Regridder(source, target_grid(target, source) if isinstance(target, str) else target, min_valid)(ds)


@dataclass(frozen=True)
class Regridder:
    """From one grid to another: global or regional, in either latitude direction, with any first longitude.

    A target value is the area-weighted mean of the source values that it overlaps. NaN is left out and the rest
    renormalised; the target is NaN where less than `min_valid` of its area is covered by source values. Where the
    target covers the source and nothing is missing, the integral over the area is conserved to rounding.
    """

    source: LatLonGrid
    target: LatLonGrid
    min_valid: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.min_valid <= 1:
            raise BadInput(f"min_valid is {self.min_valid}, it must be above 0 and at most 1")
        if not (self._lat[2].any() and self._lon[2].any()):
            raise BadInput(
                "the two grids have no area in common", where=f"{self.source.describe()} | {self.target.describe()}"
            )

    @cached_property
    def _lat(self) -> tuple[Array, Array, Array, Array]:
        return _overlaps(self.source.latitude, self.target.latitude, True)

    @cached_property
    def _lon(self) -> tuple[Array, Array, Array, Array]:
        return _overlaps(self.source.longitude, self.target.longitude, False)

    def __call__(self, ds: T) -> T:
        """A Dataset or DataArray on the source grid -> on the target grid. Raises BadInput for another grid."""
        import xarray as xr

        found = grid_of(ds)
        if not self.source.same_as(found):
            raise BadInput(f"the data lie on {found.describe()}", where=f"regridding from {self.source.describe()}")
        if isinstance(ds, xr.DataArray):
            return self._one(ds)
        rest = {k: v for k, v in ds.data_vars.items() if not {"latitude", "longitude"} & set(v.dims)}
        done = {k: self._one(v) for k, v in ds.data_vars.items() if {"latitude", "longitude"} <= set(v.dims)}
        both = {**done, **rest}
        return xr.Dataset({k: both[k] for k in ds.data_vars if k in both}, attrs=ds.attrs)

    def _one(self, da: xr.DataArray) -> xr.DataArray:
        import xarray as xr

        core = ["latitude", "longitude"]
        if da.chunks is not None:
            da = da.chunk(dict.fromkeys(core, -1))
        dtype = da.dtype if da.dtype.kind == "f" else np.dtype("f4")
        out = xr.apply_ufunc(
            self.array, da.astype(dtype, copy=False), input_core_dims=[core], output_core_dims=[core],
            exclude_dims=set(core), dask="parallelized", output_dtypes=[dtype], keep_attrs=True,
            dask_gufunc_kwargs={"output_sizes": dict(zip(core, self.target.shape, strict=True))},
        )  # fmt: skip
        kept = {str(k): v for k, v in da.coords.items() if not set(core) & set(v.dims)}
        axes = {
            "latitude": ("latitude", np.asarray(self.target.latitude), da["latitude"].attrs),
            "longitude": ("longitude", np.asarray(self.target.longitude), da["longitude"].attrs),
        }
        return out.assign_coords({**kept, **axes}).transpose(*da.dims).rename(da.name)

    def array(self, x: Array) -> Array:
        """(..., source latitude, source longitude) -> (..., target latitude, target longitude), floating dtype kept."""
        ok = np.isfinite(x)
        every = bool(ok.all())
        total = self._sums(x.astype(np.float64) if every else np.where(ok, x, 0.0).astype(np.float64))
        area = self._lat[3][:, None] * self._lon[3]
        covered = self._lat[2][:, None] * self._lon[2] if every else self._sums(ok.astype(np.float64))
        enough = covered >= (self.min_valid - 1e-9) * area
        return np.where(enough, total / np.where(enough, covered, 1.0), np.nan).astype(x.dtype)

    def _sums(self, x: Array) -> Array:
        """Sums of value times shared area."""
        return _gather(np.swapaxes(_gather(x, *self._lon[:2]), -1, -2), *self._lat[:2]).swapaxes(-1, -2)


def _gather(x: Array, index: Array, weight: Array) -> Array:
    """Sparse product along the last axis: (..., n) -> (..., m), with (m, k) indices and weights."""
    out = np.zeros((*x.shape[:-1], index.shape[0]))
    for k in range(index.shape[1]):
        out += x[..., index[:, k]] * weight[:, k]
    return out


def _edges(centres: Array, limit: float | None = None) -> Array:
    """(n + 1,) cell edges: half way between centres, the outermost as far out as in; clipped to +-limit."""
    if centres.size < 2:
        raise BadInput("one row or column alone has no width", todo="regridding needs at least two")
    steps = np.diff(centres)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise BadInput("coordinates must increase or decrease throughout", where=f"{centres[:4]} ...")
    mid = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[centres[0] - steps[0] / 2], mid, [centres[-1] + steps[-1] / 2]])
    return edges if limit is None else np.clip(edges, -limit, limit)


@lru_cache(maxsize=32)
def _overlaps(
    source: tuple[float, ...], target: tuple[float, ...], latitude: bool
) -> tuple[Array, Array, Array, Array]:
    """(index (m, k), weight (m, k), covered (m,), whole (m,)): shared lengths in sin(latitude) or radians of longitude.

    index: source cells that a target cell shares some of; covered: the sum of weights; whole: the target cell itself.
    """
    if latitude:
        s, t = (np.sin(np.deg2rad(_edges(np.asarray(c, np.float64), 90.0))) for c in (source, target))
        shifts = [0.0]
    else:
        s, t = (np.deg2rad(_edges(np.asarray(c, np.float64))) for c in (source, target))
        shifts = [2 * np.pi * k for k in range(-3, 4)]  # 0..360, -180..180 and areas across either seam
    low_s, high_s = np.minimum(s[:-1], s[1:]), np.maximum(s[:-1], s[1:])
    low_t, high_t = np.minimum(t[:-1], t[1:]), np.maximum(t[:-1], t[1:])
    shared = np.zeros((len(target), len(source)))
    for shift in shifts:
        width = np.minimum(high_t[:, None], high_s + shift) - np.maximum(low_t[:, None], low_s + shift)
        shared += np.where(width > 1e-12, width, 0.0)
    k = max(1, int((shared > 0).sum(axis=1).max()))
    index = np.argsort(shared == 0, axis=1, kind="stable")[:, :k]  # the cells that overlap, in order, then any others
    weight = np.take_along_axis(shared, index, axis=1)
    return index, weight, weight.sum(axis=1), high_t - low_t
