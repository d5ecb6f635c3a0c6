"""Time: numbers and units of a file -> datetime64[ns], and the checks that a time axis must pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.times import NS, iso

if TYPE_CHECKING:
    import xarray as xr

Times = np.ndarray[Any, np.dtype[np.datetime64]]
_SINCE = re.compile(r"^\s*(months?|years?|mon|yrs?)\s+since\s+(\d{1,4})-(\d{1,2})(?:-(\d{1,2}))?", re.IGNORECASE)
_DATES = re.compile(r"%Y%m%d|yyyymmdd", re.IGNORECASE)
_WRITE = "give the file a CF time axis (units such as 'hours since 1970-01-01' and a calendar)"


def decode(variable: xr.Variable, where: str) -> Times:
    """A CF time variable, already decoded or not -> datetime64[ns] rounded to the second, in the shape it has.

    `months since` and `years since` count calendar months; a monthly axis of a 360-day calendar becomes calendar dates.
    Raises BadInput for missing or unreadable units and for times outside 1678 to 2262.
    """
    if np.issubdtype(variable.dtype, np.datetime64):
        return _to_second(variable.to_numpy())
    if variable.dtype == object or variable.dtype.kind in "SU":
        return _from_text(variable.to_numpy(), where)
    units = str(variable.attrs.get("units", ""))
    m = _SINCE.match(units)
    if m:
        return _months(np.asarray(variable.to_numpy(), "float64"), m, where)
    if _DATES.search(units):
        return _yyyymmdd(np.asarray(variable.to_numpy(), "float64"), where)
    if "since" not in units:
        shown = f"has units '{units}'" if units else "has no units"
        raise BadInput(f"the time coordinate {shown}, so its times are unknown", where=where, todo=_WRITE)
    return _cf(variable, where)


def _cf(variable: xr.Variable, where: str) -> Times:
    import xarray as xr

    plain = xr.Variable(
        variable.dims, variable.to_numpy(), {k: variable.attrs[k] for k in ("units", "calendar") if k in variable.attrs}
    )
    try:
        coder = xr.coders.CFDatetimeCoder(time_unit="ns")
        values = coder.decode(plain, name="time").to_numpy()
    except (ValueError, OverflowError, KeyError) as e:
        units, calendar = variable.attrs.get("units"), variable.attrs.get("calendar", "standard")
        raise BadInput(
            f"cannot read times in '{units}' (calendar {calendar})", where=where, todo=f"{_WRITE}; {e}"
        ) from None
    if values.dtype == object:
        return _from_cftime(values, where)
    return _to_second(values)


def _to_second(values: Any) -> Times:
    """datetime64[ns] rounded to the nearest second: days counted in floating point are off by microseconds."""
    t = np.asarray(values).astype(NS)
    half = np.timedelta64(500_000_000, "ns")
    return (t + half).astype("datetime64[s]").astype(NS)


def _from_cftime(values: Any, where: str) -> Times:
    flat = values.ravel()
    if len({(t.year, t.month) for t in flat}) < flat.size and getattr(flat[0], "calendar", "") == "360_day":
        raise BadInput(
            "a 360-day calendar has dates that do not exist",
            where=where,
            todo="convert the file to the standard calendar first",
        )
    try:
        out = np.array([np.datetime64(t.isoformat(), "us") for t in flat]).reshape(values.shape)
    except ValueError as e:
        raise BadInput("a date that does not exist in the standard calendar", where=where, todo=str(e)) from None
    years = out.astype("datetime64[Y]").astype(int) + 1970
    if np.any((years < 1678) | (years > 2261)):
        raise BadInput(f"the year {years.ravel()[0]} is outside 1678 to 2261", where=where, todo="check the time units")
    return _to_second(out)


def _from_text(values: Any, where: str) -> Times:
    flat = [v.decode() if isinstance(v, bytes) else v for v in values.ravel()]
    if flat and hasattr(flat[0], "calendar"):
        return _from_cftime(values, where)
    try:
        return _to_second(np.array([np.datetime64(str(v).strip().rstrip("Z")) for v in flat], NS).reshape(values.shape))
    except ValueError:
        raise BadInput("the time coordinate holds text that is not ISO times", where=where, todo=_WRITE) from None


def _months(values: Any, m: re.Match[str], where: str) -> Times:
    unit = 12 if m[1].lower().startswith("y") else 1
    first = np.datetime64(f"{int(m[2]):04d}-{int(m[3]):02d}", "M")
    count = np.floor(values * unit + 1e-6)
    if not np.all(np.isfinite(values)):
        raise BadInput("a time that is not a number", where=where, todo=_WRITE)
    day = np.timedelta64(int(m[4] or 1) - 1, "D")
    return ((first + count.astype("timedelta64[M]")).astype("datetime64[D]") + day).astype(NS)


def _yyyymmdd(values: Any, where: str) -> Times:
    try:
        out = []
        for v in values.ravel():
            day, fraction = int(v), float(v) - int(v)
            text = f"{day:08d}"
            date = np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "s")
            out.append(date + np.timedelta64(round(fraction * 86400), "s"))
        return np.array(out).reshape(values.shape).astype(NS)
    except ValueError:
        raise BadInput("a time that is not a date YYYYMMDD", where=where, todo=_WRITE) from None


def check(times: Times, where: str) -> None:
    """Raise BadInput naming the first time that is missing, repeated or out of order."""
    if times.size == 0:
        raise BadInput("the time axis is empty", where=where, todo="check how the file was made")
    bad = np.flatnonzero(np.isnat(times))
    if bad.size:
        raise BadInput(f"time number {bad[0]} is missing (not a time)", where=where, todo=_WRITE)
    steps = np.diff(times)
    wrong = np.flatnonzero(steps <= np.timedelta64(0, "ns"))
    if not wrong.size:
        return
    i = int(wrong[0])
    if steps[i] == np.timedelta64(0, "ns") or times[i + 1] in times[: i + 1]:
        raise BadInput(
            f"the time {iso(times[i + 1])} appears more than once",
            where=f"{where}, time number {i + 1}",
            todo="drop the duplicate, e.g. ds.drop_duplicates('time')",
        )
    raise BadInput(
        f"the times are not in order: {iso(times[i + 1])} comes after {iso(times[i])}",
        where=f"{where}, time number {i + 1}",
        todo="sort the file by time, e.g. ds.sortby('time')",
    )
