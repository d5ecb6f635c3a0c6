"""Bringing forecasts, truth and climatology together: whatever does not fit is said, never skipped silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoflow.errors import BadInput, SchemaMismatch
from eoflow.registry import nearest
from eoflow.schema import Channel, LatLonGrid
from eoflow.times import NS, Period, format_duration, iso

if TYPE_CHECKING:
    import xarray as xr

Times = NDArray[np.datetime64]
_HORIZONTAL = ("latitude", "longitude")
_KNOWN = ("time", "init_time", "lead_time", "member", *_HORIZONTAL)
ZERO = np.timedelta64(0, "ns")


@dataclass(frozen=True)
class Cube:
    """A forecast cube after the checks: initial times ascending and unique, leads positive timedelta64[ns]."""

    name: str
    ds: xr.Dataset
    inits: Times
    leads: NDArray[np.timedelta64]
    members: int | None


@dataclass(frozen=True)
class Group:
    """Levels of one variable that are worked on together; `levels` is None at the surface."""

    variable: str
    units: str
    dim: str | None
    levels: tuple[float, ...] | None

    @property
    def channels(self) -> list[Channel]:
        """The group's two-dimensional fields."""
        if self.levels is None:
            return [Channel(self.variable)]
        return [Channel(self.variable, lev) for lev in self.levels]


@dataclass(frozen=True)
class Alignment:
    """What is scored: common initial times, all leads, and the row of the truth for every valid time.

    valid (N, L) indexes `needed`, the sorted valid times; truth_rows (V,) is their position on the truth's time
    axis, -1 where the axis does not have it. use (N, L): False for cases in excluded periods.
    """

    cubes: dict[str, Cube]
    truth: xr.Dataset
    grid: LatLonGrid
    inits: Times
    leads: NDArray[np.timedelta64]
    needed: Times
    valid: NDArray[np.intp]
    truth_rows: NDArray[np.intp]
    use: NDArray[np.bool_]
    groups: list[Group]
    notes: list[str] = field(default_factory=list)


def check_cube(name: str, ds: xr.Dataset) -> Cube:
    """Check the dims, the unit of the leads and `valid_time` of a forecast. Raises SchemaMismatch or BadInput."""
    where = f"forecast of {name}"
    for dim in ("init_time", "lead_time", *_HORIZONTAL):
        if dim not in ds.dims or dim not in ds.coords:
            hint = "rename it: ds.rename(time='init_time', prediction_timedelta='lead_time', lat='latitude', ...)"
            raise SchemaMismatch(f"no dimension with a coordinate '{dim}'", where=where, todo=hint)
    if ds["lead_time"].dtype.kind != "m":
        raise SchemaMismatch(
            f"lead_time is {ds['lead_time'].dtype}, a number without a unit", where=where,
            todo="make it a duration: ds['lead_time'] = ds.lead_time * np.timedelta64(1, 'h')",
        )  # fmt: skip
    if ds["init_time"].dtype.kind != "M":
        raise SchemaMismatch(f"init_time is {ds['init_time'].dtype}, not a time", where=where)
    leads = ds["lead_time"].values.astype("timedelta64[ns]")
    if leads.size == 0 or leads.min() <= ZERO or np.unique(leads).size != leads.size:
        raise SchemaMismatch("lead_time must be positive and without duplicates", where=where)
    inits = ds["init_time"].values.astype(NS)
    values, counts = np.unique(inits, return_counts=True)
    if (counts > 1).any():
        raise SchemaMismatch(f"initial time {iso(values[counts > 1][0])} is there twice", where=where)
    if "valid_time" in ds.coords:
        _check_valid_time(ds, inits, leads, where)
    if np.any(np.diff(inits) < ZERO) or np.any(np.diff(leads) < ZERO):
        ds = ds.sortby(["init_time", "lead_time"])
    members = ds.sizes.get("member")
    return Cube(name, ds, np.sort(inits), np.sort(leads), members)


def _check_valid_time(ds: xr.Dataset, inits: Times, leads: Any, where: str) -> None:
    given = ds["valid_time"]
    if set(given.dims) != {"init_time", "lead_time"}:
        return
    given_values = given.transpose("init_time", "lead_time").values.astype(NS)
    wrong = given_values != inits[:, None] + leads[None, :]
    if wrong.any():
        i, k = np.argwhere(wrong)[0]
        raise SchemaMismatch(
            f"valid_time is not init_time + lead_time: {iso(inits[i])} + {format_duration(leads[k])} is called "
            f"{iso(given_values[i, k])}", where=where, todo="check the unit of lead_time (hours read as days or ns?)",
        )  # fmt: skip


def grid_of(ds: xr.Dataset) -> LatLonGrid:
    """The latitude-longitude grid of a dataset."""
    return LatLonGrid(
        latitude=tuple(float(x) for x in ds["latitude"].values),
        longitude=tuple(float(x) for x in ds["longitude"].values),
    )


def align(
    forecasts: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    variables: Sequence[str] | None = None,
    period: Period | None = None,
    exclude: Iterable[Period] = (),
) -> Alignment:
    """Check everything that must agree and work out the cases. Raises SchemaMismatch, or BadInput if none is left."""
    if not forecasts:
        raise BadInput("there is no forecast to score", todo="run `eoflow forecast` first")
    cubes = {name: check_cube(name, ds) for name, ds in forecasts.items()}
    grid = _same_grid(cubes, truth)
    notes: list[str] = []
    inits = _common_inits(cubes, period, notes)
    leads = np.unique(np.concatenate([c.leads for c in cubes.values()]))
    valid_times = inits[:, None] + leads[None, :]
    use = np.ones(valid_times.shape, bool)
    for p in exclude:
        use &= ~(p.contains(inits)[:, None] | p.contains(valid_times))
    if not use.any():
        raise BadInput(
            "every case lies in an excluded (training) period: such scores would say nothing",
            where=f"initial times {iso(inits[0])} to {iso(inits[-1])}", todo="forecast times outside those periods",
        )  # fmt: skip
    if not use.all():
        notes.append(f"{int((~use).sum())} of {use.size} cases lie in excluded periods and are left out")
    needed, flat = np.unique(valid_times, return_inverse=True)
    rows = _truth_rows(truth, needed)
    return Alignment(
        cubes, truth, grid, inits, leads, needed, flat.reshape(valid_times.shape).astype(np.intp), rows, use,
        _groups(cubes, truth, variables), notes,
    )  # fmt: skip


def _same_grid(cubes: Mapping[str, Cube], truth: xr.Dataset) -> LatLonGrid:
    for dim in ("time", *_HORIZONTAL):
        if dim not in truth.coords or dim not in truth.dims:
            raise SchemaMismatch(f"the truth has no dimension with a coordinate '{dim}'")
    grid = grid_of(truth)
    for cube in cubes.values():
        theirs = grid_of(cube.ds)
        if not grid.same_as(theirs):
            raise SchemaMismatch(
                f"the forecast of {cube.name} and the truth are on different grids:\n    truth:    {grid.describe()}\n"
                f"    forecast: {theirs.describe()}",
                todo="scores depend on the grid: regrid one of them (eoflow.prepare.grid), and say which",
            )
    return grid


def _common_inits(cubes: Mapping[str, Cube], period: Period | None, notes: list[str]) -> Times:
    inside = {n: c.inits if period is None else c.inits[period.contains(c.inits)] for n, c in cubes.items()}
    ranges = "\n    ".join(
        f"{n}: {len(c.inits)} initial times, {iso(c.inits[0])} to {iso(c.inits[-1])}" if len(c.inits) else f"{n}: none"
        for n, c in cubes.items()
    )
    for name, times in inside.items():
        if times.size == 0:
            raise BadInput(
                f"the forecast of {name} has no initial time" + (f" in {period}" if period else ""),
                where=f"there are\n    {ranges}", todo="forecast that period, or choose another one",
            )  # fmt: skip
    common = next(iter(inside.values()))
    for times in inside.values():
        common = np.intersect1d(common, times)
    if common.size == 0:
        raise BadInput(
            "the models have no initial time in common, so their scores could not be compared",
            where=f"there are\n    {ranges}", todo="run the models over the same initial times",
        )  # fmt: skip
    for name, times in inside.items():
        if common.size < times.size:
            notes.append(f"{name}: {common.size} of its {times.size} initial times are common to all models and scored")
    return common


def _truth_rows(truth: xr.Dataset, needed: Times) -> NDArray[np.intp]:
    """Positions of `needed` on the truth's time axis, -1 where it ends before or has a hole."""
    axis = truth["time"].values
    if axis.dtype.kind != "M":
        raise SchemaMismatch(f"the truth's time is {axis.dtype}, not a time")
    axis = axis.astype(NS)
    if np.any(np.diff(axis) <= ZERO):
        raise SchemaMismatch("the truth's time axis is not strictly increasing", todo="sort it and drop duplicates")
    at = np.searchsorted(axis, needed)
    found = (
        (at < axis.size) & (axis[np.minimum(at, axis.size - 1)] == needed) if axis.size else np.zeros(at.shape, bool)
    )
    if not found.any():
        text = f"forecasts are valid from {iso(needed[0])} to {iso(needed[-1])}"
        if axis.size == 0:
            raise BadInput("the truth holds no time at all", where=text, todo="ingest it")
        inside = (needed >= axis[0]) & (needed <= axis[-1])
        span = f"the truth reaches from {iso(axis[0])} to {iso(axis[-1])}"
        if inside.any():
            raise SchemaMismatch(
                "no valid time of the forecasts is on the truth's time axis, although it spans them",
                where=f"{text} (for example {iso(needed[inside][0])}); {span}",
                todo="check the unit of lead_time and the hour of init_time",
            )
        raise BadInput(
            "no truth has arrived for these forecasts yet", where=f"{text}; {span}", todo="ingest later truth"
        )
    return np.where(found, at, -1).astype(np.intp)


def _groups(cubes: Mapping[str, Cube], truth: xr.Dataset, variables: Sequence[str] | None) -> list[Group]:
    """One group a variable (all its levels): in the truth and in at least one model; units must agree."""
    groups = []
    for key, da in truth.data_vars.items():
        name = str(key)
        models = [c for c in cubes.values() if name in c.ds.data_vars]
        if not models or not {"time", *_HORIZONTAL} <= set(da.dims):
            continue
        if "member" in da.dims:
            raise SchemaMismatch(
                "the truth has members", where=f"variable {name}", todo="choose one: truth.isel(member=0)"
            )
        units = str(da.attrs.get("units", ""))
        dim = next((str(d) for d in da.dims if d not in _KNOWN), None)
        levels = None if dim is None else tuple(float(x) for x in truth[dim].values)
        for cube in models:
            theirs = str(cube.ds[name].attrs.get("units", ""))
            if theirs != units:
                raise SchemaMismatch(
                    f"units differ: truth '{units}', forecast '{theirs}'", where=f"{cube.name}, variable {name}",
                    todo="convert one of them",
                )  # fmt: skip
            vertical = next((str(d) for d in cube.ds[name].dims if d not in _KNOWN), None)
            if vertical != dim:
                raise SchemaMismatch(
                    f"vertical dimension differs: truth {dim}, forecast {vertical}",
                    where=f"{cube.name}, variable {name}",
                )
        if levels is not None and dim is not None:
            held = {float(x) for c in models for x in c.ds[dim].values}
            levels = tuple(lev for lev in levels if lev in held)
        group = _choose(Group(name, units, dim, levels), variables)
        if group is not None:
            groups.append(group)
    if variables is not None:
        _all_found(variables, groups, cubes, truth)
    if not groups:
        have = sorted({str(v) for c in cubes.values() for v in c.ds.data_vars})
        raise SchemaMismatch(
            "forecasts and truth have no variable in common",
            where=f"forecasts: {', '.join(have)}; truth: {', '.join(map(str, truth.data_vars))}",
        )
    return groups


def _choose(group: Group, variables: Sequence[str] | None) -> Group | None:
    """The part of a group that `variables` (names or labels such as z500) asks for."""
    if variables is None or group.variable in variables:
        return group if group.levels != () else None
    chosen = tuple(c.level for c in group.channels if c.label in variables and c.level is not None)
    return Group(group.variable, group.units, group.dim, chosen) if chosen else None


def _all_found(variables: Sequence[str], groups: list[Group], cubes: Mapping[str, Cube], truth: xr.Dataset) -> None:
    known = {g.variable for g in groups} | {c.label for g in groups for c in g.channels}
    for name in variables:
        if name not in known:
            choices = [str(v) for v in truth.data_vars if any(v in c.ds.data_vars for c in cubes.values())]
            raise BadInput(
                f"no variable '{name}' in both forecasts and truth{nearest(name, choices)}",
                todo=f"choose from {', '.join(choices)}",
            )
