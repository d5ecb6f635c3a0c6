"""A raw dataset as its provider wrote it -> eoflow's canonical form (see `eoflow.sources.base.Source`).

Everything stays lazy: only coordinates are read. What is ambiguous is refused with the line to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.catalog import VariableEntry
from eoflow.errors import BadInput
from eoflow.sources import axes as ax
from eoflow.sources import lazy, naming, timeaxis
from eoflow.sources.axes import Axes
from eoflow.sources.base import Area
from eoflow.sources.naming import Piece, Target
from eoflow.sources.units import conversion, normalise
from eoflow.times import NS, iso

if TYPE_CHECKING:
    import xarray as xr

KEPT_ATTRS = (
    "title",
    "institution",
    "source",
    "references",
    "license",
    "licence",
    "Conventions",
    "forecast_reference_time",
)
LATITUDE = {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude", "axis": "Y"}
LONGITUDE = {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude", "axis": "X"}
LEVEL = {
    "units": "hPa",
    "standard_name": "air_pressure",
    "long_name": "pressure level",
    "positive": "down",
    "axis": "Z",
}


@dataclass(frozen=True)
class Reading:
    """How to read a raw dataset: the entry's variables, whether only those, the area, and what its metadata lack."""

    variables: Mapping[str, VariableEntry] | None = None
    only: bool = False
    area: Area | None = None
    level_units: str | None = None
    lexicon: str = "generic"


def times_of(raw: xr.Dataset, where: str, reading: Reading | None = None) -> timeaxis.Times:
    """The checked valid times of a raw dataset, datetime64[ns] (T,). Raises BadInput where there are none."""
    axes = ax.identify(raw, where, (reading or Reading()).level_units)
    return _times(raw, axes, where)[0]


def canonical(
    raw: xr.Dataset, where: str, reading: Reading | None = None, wanted: timeaxis.Times | None = None
) -> xr.Dataset:
    """The canonical, lazy dataset.

    raw: opened with decode_times=False (decoded times are accepted), scale and fill values applied. wanted: the times
    to keep, in increasing order; None for all. Raises BadInput for everything that is not a latitude-longitude
    grid with named, united variables on a clean time axis.
    """
    import xarray as xr

    reading = reading or Reading()
    axes = ax.identify(raw, where, reading.level_units)
    targets = naming.plan(raw, axes, reading.variables, reading.only, reading.lexicon, where)
    times, order = _times(raw, axes, where)
    keep = _positions(times, wanted, where)
    lat_index, lon_index = _crop(raw, axes, reading.area, where)
    lat, flip = ax.latitude_order(raw[axes.lat].to_numpy()[lat_index], f"{where}, {axes.lat}")
    lon, pieces = ax.longitude_order(raw[axes.lon].to_numpy()[lon_index], f"{where}, {axes.lon}")
    grid = _Grid(lat_index, lon_index, flip, pieces)
    fields, levels = {}, {}
    for t in targets:
        da, on = _field(raw, t, axes, order, keep, grid, where)
        fields[t.name] = da
        if on is not None:
            levels[t.name] = on
    ds = _assemble(fields, levels, raw, axes, where)
    coords = {"latitude": ("latitude", lat, LATITUDE), "longitude": ("longitude", lon, LONGITUDE)}
    ds = ds.assign_coords(coords)
    if "time" in ds.dims:
        ds = ds.assign_coords(time=("time", times[keep], {"standard_name": "time", "long_name": "time", "axis": "T"}))
    for t in targets:
        ds[t.name].encoding["source_name"] = t.source_name
    ds.attrs = {k: raw.attrs[k] for k in KEPT_ATTRS if k in raw.attrs}
    assert isinstance(ds, xr.Dataset)
    return ds


# -- time ------------------------------------------------------------------------------------------------------------


def _times(raw: xr.Dataset, axes: Axes, where: str) -> tuple[timeaxis.Times, np.ndarray[Any, Any] | None]:
    """(valid times, order): `order` sorts the flattened (time, step) plane where there are both, else None."""
    if axes.time is None:
        raise BadInput(
            "there is no time coordinate",
            where=where,
            todo="add one (for one field: ds.expand_dims(time=[...])), with units such as 'hours since 1970-01-01'",
        )
    base = np.atleast_1d(timeaxis.decode(raw[axes.time].variable, f"{where}, {axes.time}"))
    if axes.step is None:
        timeaxis.check(base, where)
        return base, None
    steps = np.atleast_1d(_timedelta(raw[axes.step], where))
    plane = base[:, None] + steps[None, :]
    if plane.shape[1] == 1:
        timeaxis.check(plane[:, 0], where)
        return plane[:, 0], None
    flat = plane.ravel()
    order = np.argsort(flat, kind="stable")
    if np.unique(flat).size < flat.size:
        twice = flat[order][np.flatnonzero(np.diff(flat[order]) == np.timedelta64(0, "ns"))[0]]
        raise BadInput(
            f"several forecasts are valid at {iso(twice)}: which one is meant?",
            where=where,
            todo=f"select one {axes.step} for each time first, e.g. ds.isel({axes.step}=0)",
        )
    timeaxis.check(flat[order], where)
    return flat[order], order


def _timedelta(da: xr.DataArray, where: str) -> np.ndarray[Any, Any]:
    if da.dtype.kind == "m":
        return da.to_numpy().astype("timedelta64[ns]")
    to_s = conversion(normalise(da.attrs.get("units")) or "", "s")
    if to_s is None:
        raise BadInput(f"the steps of '{da.name}' have no units of time", where=where, todo="give it units 'hours'")
    return np.round(np.asarray(da.to_numpy(), np.float64) * to_s[0] * 1e9).astype("timedelta64[ns]")


def _positions(times: timeaxis.Times, wanted: timeaxis.Times | None, where: str) -> slice | np.ndarray[Any, Any]:
    """Where the wanted times are: a slice if they stand together."""
    if wanted is None:
        return slice(0, times.size)
    wanted = np.asarray(wanted).astype(NS)
    at = np.searchsorted(times, wanted)
    missing = (at >= times.size) | (times[np.minimum(at, times.size - 1)] != wanted)
    if np.any(missing):
        raise BadInput(
            f"the time {iso(wanted[missing][0])} is not there", where=where, todo="the file changed: plan again"
        )
    if at.size and np.all(np.diff(at) == 1):
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


# -- space -----------------------------------------------------------------------------------------------------------

Index = slice | np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Grid:
    lat: Index
    lon: Index
    flip: bool
    pieces: list[slice]


def _crop(raw: xr.Dataset, axes: Axes, area: Area | None, where: str) -> tuple[Index, Index]:
    """Indices of the rows and columns inside `area` (cell centres, edges included)."""
    if area is None:
        return slice(None), slice(None)
    west, south, east, north = area
    lat, lon = ax.tidy(raw[axes.lat].to_numpy()), ax.tidy(raw[axes.lon].to_numpy())
    width = 360.0 if abs(east - west) >= 360.0 else (east - west) % 360.0
    rows = np.flatnonzero((lat >= south - 1e-6) & (lat <= north + 1e-6))
    columns = np.flatnonzero(((lon - west + 1e-6) % 360.0) <= width + 2e-6)
    if not rows.size or not columns.size:
        raise BadInput(
            f"the area {west:g},{south:g},{east:g},{north:g} has no grid point",
            where=where,
            todo=f"the file covers latitudes {lat.min():g}..{lat.max():g}, longitudes {lon.min():g}..{lon.max():g}",
        )
    return _as_slice(rows), _as_slice(columns)


def _as_slice(index: np.ndarray[Any, Any]) -> Index:
    return slice(int(index[0]), int(index[-1]) + 1) if index.size == index[-1] - index[0] + 1 else index


def _place(da: xr.DataArray, axes: Axes, grid: _Grid) -> xr.DataArray:
    """Crop, flip and roll onto the canonical grid."""
    import xarray as xr

    da = da.isel({axes.lat_dim: grid.lat, axes.lon_dim: grid.lon})
    if grid.flip:
        da = da.isel({axes.lat_dim: slice(None, None, -1)})
    whole = grid.pieces == [slice(0, da.sizes[axes.lon_dim], 1)]
    parts = [da] if whole else [da.isel({axes.lon_dim: s}) for s in grid.pieces]
    da = (
        parts[0]
        if len(parts) == 1
        else xr.concat(parts, dim=axes.lon_dim, join="exact", coords="minimal", compat="override")
    )
    return da.rename({axes.lat_dim: "latitude", axes.lon_dim: "longitude"})


# -- fields ----------------------------------------------------------------------------------------------------------


def _field(
    raw: xr.Dataset, target: Target, axes: Axes, order: Any, keep: Index, grid: _Grid, where: str
) -> tuple[xr.DataArray, tuple[str, tuple[float, ...], bool] | None]:
    """(the target's lazy array, (raw vertical dimension, values, is pressure) or None).

    Dims (time, [member,] [vertical `_v`,] latitude, longitude).
    """
    import xarray as xr

    parts: list[tuple[float, xr.DataArray]] = []
    vertical: tuple[str, bool] | None = None
    for piece in target.pieces:
        da = _plain(raw, piece, target, axes, order, keep, where)
        da = _place(da, axes, grid)
        on = _vertical_values(piece)
        if on is None:
            parts.append((0.0, da))
            continue
        dim, values, pressure = on
        vertical = (dim, pressure)
        da = da.rename({dim: "_v"}) if dim in da.dims else da.expand_dims("_v")
        if len(target.pieces) == 1 and _ascending(values):
            parts.append((values[0], da))
        else:
            parts.extend((float(v), da.isel(_v=slice(i, i + 1))) for i, v in enumerate(values))
    if vertical is None:
        return _finish(parts[0][1], target), None
    if len(parts) == 1:
        da = parts[0][1]
        levels = tuple(float(x) for x in (_vertical_values(target.pieces[0]) or ("", (0.0,), True))[1])
    else:
        parts.sort(key=lambda p: p[0])
        da = xr.concat([p[1] for p in parts], dim="_v", join="exact", coords="minimal", compat="override")
        levels = tuple(p[0] for p in parts)
    if target.take is not None:
        da, levels = _take(da, levels, target, where)
    return _finish(da, target), (vertical[0], levels, vertical[1])


def _vertical_values(piece: Piece) -> tuple[str, tuple[float, ...], bool] | None:
    """(raw dimension, values, is pressure) of what must stay a dimension; None for what is folded away."""
    if piece.level is not None:
        return "level", (piece.level,), True
    v = piece.vertical
    if v is None or (v.values.size == 1 and not v.pressure):
        return None
    return v.dim, tuple(float(x) for x in v.values), v.pressure


def _ascending(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _take(
    da: xr.DataArray, levels: tuple[float, ...], target: Target, where: str
) -> tuple[xr.DataArray, tuple[float, ...]]:
    assert target.take is not None
    wanted = sorted(target.take)
    missing = [v for v in wanted if v not in levels]
    if missing:
        have = ", ".join(f"{v:g}" for v in levels)
        raise BadInput(f"'{target.name}' has no level {missing[0]:g}", where=where, todo=f"choose from {have}")
    return da.isel(_v=[levels.index(v) for v in wanted]), tuple(wanted)


def _plain(
    raw: xr.Dataset, piece: Piece, target: Target, axes: Axes, order: Any, keep: Index, where: str
) -> xr.DataArray:
    """One raw variable over dask blocks: selected times first, dimensions that say nothing dropped, `time` leading."""
    da = raw[piece.raw]
    da = da.drop_vars(list(da.coords))  # no labels: nothing may be aligned by a coordinate that is not canonical yet
    time_dim, step = axes.time_dim, axes.step
    planar = order is not None
    offset = 0
    if time_dim in da.dims and not planar:
        at = keep
        if target.static:  # not the store's first time: an axis may be allocated ahead of what is written
            at = slice(keep.start, keep.start + 1) if isinstance(keep, slice) else keep[:1]
        offset = at.start if isinstance(at, slice) else 0
        da = da.isel({time_dim: at})
    da = lazy.blocked(da, where, time_dim if time_dim in da.dims else None, offset)
    da = _merge_expver(da, raw, axes, where)
    keep_dims = {axes.lat_dim, axes.lon_dim, time_dim, step, axes.member}
    on = _vertical_values(piece)
    drop = [d for d in da.dims if d not in keep_dims and not (on and d == on[0]) and da.sizes[d] == 1]
    da = da.squeeze(drop, drop=True) if drop else da
    if planar:
        da = _flatten(da, [str(d) for d in (time_dim, step) if d in da.dims], order, keep)
    elif step in da.dims:
        da = da.squeeze(step, drop=True)
    if time_dim in da.dims and time_dim != "time":
        da = da.rename({time_dim: "time"})
    if "time" not in da.dims and axes.time is not None and axes.time_dim is None and not target.static:
        da = da.expand_dims("time")
    if target.static and "time" in da.dims:
        da = da.isel(time=0)
    if axes.member in da.dims and axes.member != "member":
        da = da.rename({axes.member: "member"})
    return da


def _flatten(da: xr.DataArray, dims: list[str], order: Any, keep: Index) -> xr.DataArray:
    """(time, step, ...) -> (valid time, ...), sorted by valid time and cut to `keep`."""
    import xarray as xr

    if len(dims) != 2:
        return da
    da = da.transpose(*dims, ...)
    data = da.data.reshape((-1, *da.shape[2:]))
    return (
        xr.DataArray(data, dims=("time", *da.dims[2:]), name=da.name, attrs=da.attrs).isel(time=order).isel(time=keep)
    )


def _merge_expver(da: xr.DataArray, raw: xr.Dataset, axes: Axes, where: str) -> xr.DataArray:
    """ERA5 (expver 1) where it is there, ERA5T (expver 5) elsewhere."""
    if axes.expver is None or axes.expver not in da.dims:
        return da
    parts = [da.isel({axes.expver: i}, drop=True) for i in range(da.sizes[axes.expver])]
    if axes.expver in raw.variables:
        order = np.argsort([str(v) for v in raw[axes.expver].to_numpy()])
        parts = [parts[int(i)] for i in order]
    out = parts[0]
    for p in parts[1:]:
        out = out.where(out.notnull(), p)
    return out


def _finish(da: xr.DataArray, target: Target) -> xr.DataArray:
    order = [d for d in ("time", "member", "_v", "latitude", "longitude") if d in da.dims]
    da = lazy.linear(da.transpose(*order), target.scale, target.offset)
    pairs = {"units": target.units, "standard_name": target.standard_name, "long_name": target.long_name}
    da.attrs = {k: v for k, v in pairs.items() if v}
    da.encoding = {}
    return da.rename(target.name)


def _assemble(
    fields: dict[str, xr.DataArray],
    levels: dict[str, tuple[str, tuple[float, ...], bool]],
    raw: xr.Dataset,
    axes: Axes,
    where: str,
) -> xr.Dataset:
    """Name the vertical dimensions: the largest set of pressures is `level`, further ones level1, level2, ..."""
    import xarray as xr

    pressures = list(dict.fromkeys(v[1] for v in levels.values() if v[2]))
    pressures.sort(key=lambda s: -len(s))
    named = {("", s): "level" if i == 0 else f"level{i}" for i, s in enumerate(pressures)}
    coords: dict[str, Any] = {named["", s]: (named["", s], np.array(s), LEVEL) for s in pressures}
    for dim, values, pressure in levels.values():
        if not pressure and (dim, values) not in named:
            count = sum(1 for k in named if k[0] == dim)
            key = f"{dim}{count or ''}"
            named[dim, values] = key
            kept = {k: v for k, v in raw[dim].attrs.items() if k in ("units", "standard_name", "long_name", "positive")}
            coords[key] = (key, np.array(values), kept)
    out = {}
    for name, da in fields.items():
        if name in levels:
            dim, values, pressure = levels[name]
            da = da.rename(_v=named["" if pressure else dim, values])
        out[name] = da
    ds = xr.Dataset(out, coords=coords)  # the fields carry no labels of their own, so nothing is aligned here
    if "member" in ds.dims:
        numbers = raw[axes.member].to_numpy() if axes.member in raw.variables else np.arange(ds.sizes["member"])
        if numbers.dtype.kind not in "iuf" or np.unique(numbers).size < numbers.size:
            numbers = np.arange(ds.sizes["member"])
        ds = ds.assign_coords(member=("member", numbers.astype(np.int64), {"standard_name": "realization"}))
    return ds
