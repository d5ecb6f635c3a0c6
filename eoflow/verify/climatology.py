"""Looking up the climatology that anomalies are taken from: a function, or a dataset by time or season."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoflow.errors import SchemaMismatch
from eoflow.schema import Channel, LatLonGrid
from eoflow.times import NS, iso
from eoflow.verify.align import grid_of

if TYPE_CHECKING:
    import xarray as xr

Lookup = Callable[[Any, Channel], Any]
"""(times (T,) datetime64[ns], channel) -> (T, H, W) in the variable's units."""


def lookup(climatology: Any, grid: LatLonGrid) -> Lookup:
    """A callable stays; a dataset becomes one.

    The dataset has (beside latitude, longitude and levels) the dims `time` (exact valid times), `dayofyear` (1 to
    366) and/or `hour`, `month`, or none of them. Raises SchemaMismatch for another grid.
    """
    if callable(climatology):
        return climatology
    theirs = grid_of(climatology)
    if not grid.same_as(theirs):
        raise SchemaMismatch(
            f"the climatology is on another grid:\n    truth:       {grid.describe()}\n    climatology: "
            f"{theirs.describe()}"
        )
    return lambda times, channel: _select(climatology, np.asarray(times).astype(NS), channel)


def _select(ds: xr.Dataset, times: NDArray[np.datetime64], channel: Channel) -> Any:
    if channel.name not in ds:
        raise SchemaMismatch(f"the climatology has no variable '{channel.name}'")
    da = ds[channel.name]
    fixed = ("time", "dayofyear", "hour", "month", "latitude", "longitude")
    for dim in [str(d) for d in da.dims if d not in fixed]:
        da = da.sel({dim: channel.level})
    if "time" in da.dims:
        try:
            return da.sel(time=times).transpose("time", "latitude", "longitude").values
        except KeyError as e:
            raise SchemaMismatch(
                "the climatology does not cover a valid time", where=f"{iso(times[0])} to {iso(times[-1])}: {e}"
            ) from None
    return _season(da, times)


def _season(da: Any, times: NDArray[np.datetime64]) -> Any:
    """Rows of a climatology by day of year, month and hour: each chunk read once, picked in memory."""
    day = times.astype("datetime64[D]")
    wanted: dict[str, NDArray[np.int64]] = {}
    if "dayofyear" in da.dims:
        number = (day - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1
        wanted["dayofyear"] = np.minimum(number, int(da["dayofyear"].values.max()))
    if "month" in da.dims:
        wanted["month"] = times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    if "hour" in da.dims:
        wanted["hour"] = ((times - day.astype(NS)) // np.timedelta64(3600 * 10**9, "ns")).astype(np.int64)
    picks = []
    for dim, labels in wanted.items():
        held = da[dim].values.astype(np.int64)
        distinct, back = np.unique(labels, return_inverse=True)
        order = np.argsort(held)
        at = order[np.minimum(np.searchsorted(held, distinct, sorter=order), held.size - 1)]
        if np.any(held[at] != distinct):
            missing = distinct[held[at] != distinct]
            raise SchemaMismatch(f"the climatology has no {dim} {missing[0]}", where=f"it has {held[0]} to {held[-1]}")
        dense = np.all(np.diff(at) == 1)
        da = da.isel({dim: slice(int(at[0]), int(at[-1]) + 1) if dense else at})
        picks.append(back)
    values = da.transpose(*wanted, "latitude", "longitude").values
    if not picks:
        return np.broadcast_to(values, (len(times), *values.shape))
    return values[tuple(picks)]
