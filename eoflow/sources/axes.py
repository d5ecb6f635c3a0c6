"""Which coordinate is which: latitude, longitude, time, level, member, by CF attributes first and by name second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources.units import conversion, normalise

if TYPE_CHECKING:
    import xarray as xr

LAT_NAMES = ("latitude", "lat", "lats", "nav_lat")
LON_NAMES = ("longitude", "lon", "lons", "long", "nav_lon")
TIME_NAMES = ("time", "valid_time", "datetime", "date", "t")
MEMBER_NAMES = ("member", "number", "realization", "realisation", "ensemble", "ens", "ensemble_member", "member_id")
STEP_NAMES = ("step", "prediction_timedelta", "lead_time", "forecast_period", "leadtime")
INIT_NAMES = ("forecast_reference_time", "init_time", "reference_time")
PRESSURE_NAMES = (
    "isobaricinhpa",
    "pressure_level",
    "pressure",
    "plev",
    "level",
    "lev",
    "plevel",
    "levels",
    "air_pressure",
)
HPA_BY_NAME = ("isobaricinhpa",)


@dataclass(frozen=True)
class Vertical:
    """A vertical dimension. `values` (n,) float64 in hPa where `pressure`, else in its own units."""

    dim: str
    values: np.ndarray[Any, np.dtype[np.float64]]
    pressure: bool


@dataclass(frozen=True)
class Axes:
    """Names of the coordinates of a raw dataset; None where there is none. `lat_dim` is the dimension of `lat`."""

    lat: str
    lon: str
    lat_dim: str
    lon_dim: str
    time: str | None
    time_dim: str | None
    step: str | None  # a dimension or a scalar coordinate that must be added to `time`; None where time is valid time
    member: str | None
    expver: str | None
    verticals: dict[str, Vertical] = field(default_factory=dict)


def _low(da: xr.DataArray, key: str) -> str:
    return str(da.attrs.get(key, "")).strip().lower()


def _is_degrees(da: xr.DataArray, letter: str) -> bool:
    """Units such as degrees_north, degree_N, `degrees north`."""
    text = _low(da, "units").replace(" ", "_").replace("degrees", "degree")
    word = {"n": "north", "e": "east"}[letter]
    return text in (f"degree_{word}", f"degree_{letter}", f"degree{letter}", f"deg_{letter}", f"deg_{word}")


def _find(ds: xr.Dataset, standard: str, letter: str, names: tuple[str, ...], where: str) -> str:
    """The one coordinate that is a latitude or a longitude. Raises BadInput where there is none, or more than one."""
    variables = {str(k): ds[k] for k in ds.variables}
    found = [k for k, v in variables.items() if _low(v, "standard_name") == standard and v.ndim in (0, 1, 2)]
    found = found or [k for k, v in variables.items() if _is_degrees(v, letter)]
    found = found or [k for k in variables if k.lower() in names]
    if len(found) > 1:  # a coordinate of its own dimension beats one that is not
        found = [k for k in found if variables[k].dims == (k,)] or found
    if len(found) != 1:
        if not found:
            x = [k for k, v in variables.items() if _low(v, "standard_name").startswith("projection_")]
            what = "it is on a map projection" if x else f"no {standard} coordinate"
            raise BadInput(
                f"{what}: not a latitude-longitude grid (dimensions: {_dims(ds)})",
                where=where,
                todo=f"give it units 'degrees_{'north' if letter == 'n' else 'east'}', or regrid the file first",
            )
        raise BadInput(
            f"two candidates for {standard}: {', '.join(found)}",
            where=where,
            todo="keep one: drop the other from the file",
        )
    return found[0]


def _dims(ds: xr.Dataset) -> str:
    return ", ".join(f"{k}={v}" for k, v in ds.sizes.items()) or "none"


def identify(ds: xr.Dataset, where: str, level_units: str | None = None) -> Axes:
    """Find every coordinate of a raw dataset. Raises BadInput for what is not a grid or is ambiguous."""
    lat, lon = _find(ds, "latitude", "n", LAT_NAMES, where), _find(ds, "longitude", "e", LON_NAMES, where)
    _require_grid(ds, lat, lon, where)
    lat_dim, lon_dim = str(ds[lat].dims[0]), str(ds[lon].dims[0])
    time, time_dim, step = _time(ds, where)
    dims = {str(d) for v in ds.data_vars.values() if {lat_dim, lon_dim} <= set(v.dims) for d in v.dims}
    low = {d.lower(): d for d in dims}
    step = step if step in dims or step in ds.variables else None
    member = next((low[n] for n in MEMBER_NAMES if n in low), None)
    expver = low.get("expver")
    rest = dims - {lat_dim, lon_dim, time_dim, step, member, expver}
    verticals = {d: v for d in sorted(rest) if (v := _vertical(ds, d, where, level_units)) is not None}
    return Axes(lat, lon, lat_dim, lon_dim, time, time_dim, step, member, expver, verticals)


def _require_grid(ds: xr.Dataset, lat: str, lon: str, where: str) -> None:
    a, b = ds[lat], ds[lon]
    if a.ndim == 2 or b.ndim == 2:
        raise BadInput(
            "latitude and longitude are two-dimensional: a curvilinear or projected grid",
            where=where,
            todo="regrid it to a latitude-longitude grid first (for example with cdo remapcon or xESMF)",
        )
    if a.ndim != 1 or b.ndim != 1:
        raise BadInput("a single point, not a grid", where=where, todo="eoflow ingests latitude-longitude grids")
    if a.dims == b.dims:
        dim = a.dims[0]
        raise BadInput(
            f"it holds {a.size} stations or points along '{dim}', not a grid: latitude and longitude share it",
            where=where,
            todo="eoflow ingests latitude-longitude grids; grid the stations first",
        )


def _time(ds: xr.Dataset, where: str) -> tuple[str | None, str | None, str | None]:
    """(time coordinate, its dimension, step to add); each None where there is none.

    A valid time is preferred to a reference time; a step counts only where it is not contained in the time yet.
    """
    names = {str(k).lower(): str(k) for k in (*ds.sizes, *ds.variables)}
    step = next((names[n] for n in STEP_NAMES if n in names), None)
    steps_dim = step in ds.sizes
    valid = [str(k) for k in ds.variables if _is_time(ds[k]) and not _is_reference(str(k), ds[k])]
    reference = [str(k) for k in ds.variables if _is_time(ds[k]) and _is_reference(str(k), ds[k])]
    own = [k for k in valid if ds[k].dims == (k,)]
    along = [k for k in valid if ds[k].ndim == 1 and k not in own]
    if "valid_time" in [k.lower() for k in along]:  # CDS and cfgrib: valid_time beside the reference time
        own, along = [], [k for k in along if k.lower() == "valid_time"]
    chosen = _one(own, where) or _one(along, where)
    if chosen:
        inside = steps_dim or (step and chosen.lower() == "time" and "valid_time" not in names)
        return chosen, str(ds[chosen].dims[0]), step if inside and str(ds[chosen].dims[0]) != step else None
    for n in TIME_NAMES:
        if n in names and names[n] in ds.sizes and names[n] not in ds.variables:
            raise BadInput(
                f"the dimension '{names[n]}' has no coordinate, so its times are unknown",
                where=where,
                todo="give the file a CF time coordinate (units such as 'hours since 1970-01-01')",
            )
    start = _one([k for k in reference if ds[k].dims == (k,)], where)
    if start:
        return start, start, step
    scalar = [k for k in valid if ds[k].ndim == 0]
    scalar = [k for n in ("valid_time", *TIME_NAMES) for k in scalar if k.lower() == n] or scalar
    if scalar and not steps_dim:
        inside = step and scalar[0].lower() == "time" and "valid_time" not in names
        return scalar[0], None, step if inside else None
    if steps_dim and (reference or scalar):
        return (reference or scalar)[0], None, step
    return None, None, None


def _is_time(v: xr.DataArray) -> bool:
    named = str(v.name).lower() in (*TIME_NAMES, *INIT_NAMES)
    since = " since " in f" {_low(v, 'units')} " or _low(v, "standard_name") in ("time", "forecast_reference_time")
    return v.ndim <= 1 and v.dtype.kind != "m" and (named or since or v.dtype.kind == "M" or _low(v, "axis") == "t")


def _is_reference(name: str, v: xr.DataArray) -> bool:
    return name.lower() in INIT_NAMES or _low(v, "standard_name") == "forecast_reference_time"


def _one(names: list[str], where: str) -> str | None:
    """The only candidate, or the one with the best known name; BadInput where neither tells."""
    if len(names) <= 1:
        return names[0] if names else None
    for n in TIME_NAMES:
        for k in names:
            if k.lower() == n:
                return k
    raise BadInput(f"two candidates for time: {', '.join(names)}", where=where, todo="drop one from the file")


def _vertical(ds: xr.Dataset, dim: str, where: str, level_units: str | None) -> Vertical | None:
    """The vertical dimension `dim`; None for a length-1 dimension that says nothing. Raises BadInput if unknown."""
    if dim not in ds.variables:
        if ds.sizes[dim] == 1:
            return None
        raise BadInput(
            f"the dimension '{dim}' ({ds.sizes[dim]} long) is not one that eoflow knows and has no coordinate",
            where=where,
            todo="give it a coordinate with units (hPa for pressure levels, m for heights), or select one index",
        )
    coordinate = ds[dim]
    if coordinate.dtype.kind not in "iuf":
        raise BadInput(f"the dimension '{dim}' does not hold numbers", where=where, todo="select one entry of it first")
    values = np.asarray(coordinate.to_numpy(), np.float64)
    named = dim.lower() in PRESSURE_NAMES
    text = coordinate.attrs.get("units") or (
        level_units if named or _low(coordinate, "standard_name") == "air_pressure" else None
    )
    if not text and dim.lower() in HPA_BY_NAME:
        text = "hPa"
    units = normalise(text)
    if units is None or (
        named and units == "1" and _low(coordinate, "standard_name") != "air_pressure" and level_units
    ):
        units = normalise(level_units)
    if units is None and (named or ds.sizes[dim] > 1):
        first = ", ".join(f"{v:g}" for v in values[:4])
        raise BadInput(
            f"the levels of '{dim}' ({first}{', ...' if values.size > 4 else ''}) have no units",
            where=where,
            todo="if they are pressure in hPa write in the catalog entry:  source: {args: {level_units: hPa}}",
        )
    to_hpa = conversion(units, "hPa") if units else None
    if to_hpa is not None:
        values = np.round(values * to_hpa[0], 6)
        if np.any(values <= 0) or np.any(values > 1200):
            raise BadInput(
                f"'{dim}' in {units} gives pressures from {values.min():g} to {values.max():g} hPa",
                where=where,
                todo="correct its units",
            )
        return Vertical(dim, values, True)
    return Vertical(dim, values, False)


# -- latitude and longitude --------------------------------------------------------------------------------------------


def tidy(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Degrees as float64; those stored as float32 decimals (0.1 -> 0.10000000149) get their decimals back."""
    x = np.asarray(values)
    wide = x.astype(np.float64)
    tolerance = 2e-5 if x.dtype == np.float32 else 1e-9
    for digits in (2, 3, 4, 5):
        nice = np.round(wide, digits)
        if np.all(np.abs(nice - wide) <= tolerance):
            return nice + 0.0
    return wide


def _degrees(values: Any, what: str, most: float, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    x = tidy(values)
    if not np.all(np.isfinite(x)) or np.any(np.abs(x) > most):
        raise BadInput(
            f"{what} from {np.nanmin(x):g} to {np.nanmax(x):g} are not degrees",
            where=where,
            todo="correct the coordinate, or regrid the file to latitude and longitude",
        )
    return x


def latitude_order(values: Any, where: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], bool]:
    """(latitudes north to south, whether they must be flipped). Raises BadInput if they are not monotonic degrees."""
    lat = _degrees(values, "latitudes", 90.01, where)
    steps = np.diff(lat)
    if np.all(steps < 0):
        return lat, False
    if np.all(steps > 0):
        return lat[::-1].copy(), True
    i = int(np.flatnonzero(np.sign(steps) != np.sign(steps[0]))[0]) if np.any(steps != 0) else 0
    raise BadInput(
        f"the latitudes are not in order: {lat[i + 1]:g} comes after {lat[i]:g}",
        where=where,
        todo="sort the file by latitude, e.g. ds.sortby('latitude')",
    )


def longitude_order(values: Any, where: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[slice]]:
    """(longitudes ascending in eoflow's convention, the slices of the input that, joined, are in that order).

    A repeated cyclic point (0 and 360 both present) is dropped. Raises BadInput for a shuffled or duplicated axis.
    """
    lon = _degrees(values, "longitudes", 540.01, where)
    index = np.arange(lon.size)
    if lon.size > 2 and abs(abs(lon[-1] - lon[0]) - 360.0) < 1e-6:
        index = index[:-1]
    turned = np.round(np.mod(lon[index], 360.0), 10)
    turned[turned >= 360.0] = 0.0
    order = np.argsort(turned, kind="stable")
    east = turned[order]
    gaps = np.append(np.diff(east), east[0] + 360.0 - east[-1])
    if east.size > 1 and np.any(gaps[:-1] <= 1e-9):
        i = int(np.flatnonzero(gaps[:-1] <= 1e-9)[0])
        raise BadInput(
            f"the longitude {east[i]:g} appears more than once", where=where, todo="drop the duplicate column"
        )
    start = 0
    if east.size > 1 and gaps.max() > 1.5 * np.median(gaps):  # regional: the region begins east of the widest gap
        start = int((np.argmax(gaps) + 1) % east.size)
    order = np.roll(order, -start)
    target: np.ndarray[Any, np.dtype[np.float64]] = np.roll(east, -start).astype(np.float64)
    target = np.where(target < target[0], target + 360.0, target)
    if start or (east.size > 1 and gaps.max() > 1.5 * np.median(gaps)) or east.size == 1:
        target = _regional(target)
    return tidy(np.round(target, 10)), _slices(index[order], where, lon)


def _regional(lon: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ascending longitudes of a region moved to -180..180, unless it crosses the antimeridian."""
    shifted = lon - 360.0 if lon[0] >= 180.0 else lon
    return lon if shifted[-1] > 180.0 and lon[-1] <= 360.0 else shifted


def _slices(order: np.ndarray[Any, np.dtype[np.intp]], where: str, lon: np.ndarray[Any, Any]) -> list[slice]:
    """A permutation that is one or two runs, forward or backward, as slices."""
    if order.size == 1:
        return [slice(int(order[0]), int(order[0]) + 1)]
    steps = np.diff(order)
    for sign in (1, -1):
        breaks = np.flatnonzero(steps != sign)
        if breaks.size <= 1:
            runs = np.split(order, breaks + 1)
            out = []
            for run in runs:
                first, last = int(run[0]), int(run[-1])
                stop = last + sign
                out.append(slice(first, stop if stop >= 0 else None, sign))
            return out
    jump = int(np.flatnonzero(np.abs(np.diff(lon)) > 1.5 * np.median(np.abs(np.diff(lon))))[:1].sum())
    raise BadInput(
        f"the longitudes are not in order near {lon[jump]:g}",
        where=where,
        todo="sort the file by longitude, e.g. ds.sortby('longitude')",
    )
