"""FieldSchema: the names, units, levels, grid and step of a field dataset, hashed.

The hash is written into archive, statistics, checkpoint and product; where two meet and differ,
`require_same` raises an error that prints both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from eoflow.errors import BadInput, SchemaMismatch

if TYPE_CHECKING:
    import xarray as xr


class Channel(NamedTuple):
    """One two-dimensional field: a variable, at a level (hPa) or at the surface (None)."""

    name: str
    level: float | None = None

    @property
    def label(self) -> str:
        """`z500`, `t2m`: the name used in tables and scores."""
        return self.name if self.level is None else f"{self.name}{self.level:g}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VariableSpec(_Frozen):
    """What a variable is. `levels` in hPa in stored order, or None for a surface field."""

    name: str
    units: str
    standard_name: str | None = None
    long_name: str | None = None
    levels: tuple[float, ...] | None = None
    level_dim: str | None = Field(default=None, description="dimension that carries `levels`; `level` by default")
    dtype: str = "float32"

    @property
    def dim(self) -> str | None:
        """Name of the vertical dimension, None at the surface."""
        return None if self.levels is None else (self.level_dim or "level")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The variable's two-dimensional fields, in level order."""
        if self.levels is None:
            return (Channel(self.name),)
        return tuple(Channel(self.name, lev) for lev in self.levels)

    @property
    def attrs(self) -> dict[str, str]:
        """CF attributes of the stored array."""
        pairs = {"units": self.units, "standard_name": self.standard_name, "long_name": self.long_name}
        return {k: v for k, v in pairs.items() if v}


class LatLonGrid(_Frozen):
    """Cell centres in degrees. Latitude runs north to south; longitude runs eastward, ascending.

    A grid over the whole circle uses 0..360; a regional one -180..180 unless it crosses the antimeridian.
    """

    latitude: tuple[float, ...]
    longitude: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(latitude, longitude)."""
        return len(self.latitude), len(self.longitude)

    @property
    def wraps(self) -> bool:
        """Whether the last longitude is followed by the first."""
        if len(self.longitude) < 3:
            return False
        step = self.longitude[1] - self.longitude[0]
        return abs(self.longitude[-1] + step - self.longitude[0] - 360.0) < 1e-3 * abs(step)

    @property
    def spans_poles(self) -> bool:
        """Whether the grid reaches both poles to within one row."""
        if len(self.latitude) < 2:
            return False
        step = abs(self.latitude[0] - self.latitude[1])
        return min(self.latitude[0], -self.latitude[-1]) > 90.0 - step * 1.01

    @property
    def is_global(self) -> bool:
        """A sphere: wraps in longitude and spans both poles."""
        return self.wraps and self.spans_poles

    def area_weights(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(latitude,) exact cell-area weights, mean 1: sin(upper edge) - sin(lower edge), edges clipped at the poles.

        The WeatherBench2 convention: non-zero at a pole row, equal to cos(latitude) elsewhere on a regular grid.
        """
        lat = np.asarray(self.latitude, dtype=np.float64)
        if lat.size == 1:
            return np.ones(1)
        mid = (lat[1:] + lat[:-1]) / 2
        edges = np.concatenate([[lat[0] - (mid[0] - lat[0])], mid, [lat[-1] + (lat[-1] - mid[-1])]])
        edges = np.deg2rad(np.clip(edges, -90, 90))
        w = np.abs(np.diff(np.sin(edges)))
        return np.asarray(w / w.mean())

    def describe(self) -> str:
        """`6 x 9 at 2.5 deg, 47.5N..35N, 15W..5E` for messages."""
        (ny, nx), lat, lon = self.shape, self.latitude, self.longitude
        step = abs(lat[0] - lat[1]) if ny > 1 else float("nan")
        return f"{ny} x {nx} at {step:g} deg, lat {lat[0]:g}..{lat[-1]:g}, lon {lon[0]:g}..{lon[-1]:g}"

    def same_as(self, other: LatLonGrid) -> bool:
        """Equal to within a thousandth of a grid step (coordinates of different files round differently)."""
        if self.shape != other.shape:
            return False
        tol = 1e-3 * min(abs(a[1] - a[0]) if len(a) > 1 else 1.0 for a in (self.latitude, self.longitude))
        return bool(
            np.allclose(self.latitude, other.latitude, rtol=0, atol=tol)
            and np.allclose(self.longitude, other.longitude, rtol=0, atol=tol)
        )


class FieldSchema(_Frozen):
    """The contract of a gridded dataset: variables in order, grid, step, extra dimensions."""

    variables: tuple[VariableSpec, ...]
    grid: LatLonGrid
    step: str
    members: tuple[int, ...] | None = None
    static: tuple[VariableSpec, ...] = ()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every two-dimensional field, in the derived (never assumed) channel order."""
        return tuple(c for v in self.variables for c in v.channels)

    @property
    def hash(self) -> str:
        """16 hex digits over everything but long names, coordinates rounded to 1e-4 degrees."""
        d = self.model_dump(mode="json")
        for v in (*d["variables"], *d["static"]):
            v.pop("long_name")
        d["grid"] = {k: [round(x, 4) + 0.0 for x in v] for k, v in d["grid"].items()}
        return hashlib.sha256(json.dumps(d, sort_keys=True).encode()).hexdigest()[:16]

    def variable(self, name: str) -> VariableSpec:
        """The variable called `name`. Raises BadInput naming those that exist."""
        for v in (*self.variables, *self.static):
            if v.name == name:
                return v
        raise BadInput(f"no variable '{name}'", todo=f"choose from {', '.join(v.name for v in self.variables)}")

    def select(self, names: Iterable[str]) -> FieldSchema:
        """The same schema with the named variables only, in the order of this schema."""
        wanted = set(names)
        for n in wanted:
            self.variable(n)
        return self.model_copy(update={"variables": tuple(v for v in self.variables if v.name in wanted)})

    def differences(self, other: FieldSchema) -> list[str]:
        """Human lines `what: mine | theirs`, empty when the two agree."""
        out: list[str] = []
        mine, theirs = ({v.name: v for v in s.variables} for s in (self, other))
        for name in mine.keys() - theirs.keys():
            out.append(f"{name}: present | missing")
        for name in theirs.keys() - mine.keys():
            out.append(f"{name}: missing | present")
        for name in mine.keys() & theirs.keys():
            for key in ("units", "levels", "dtype"):
                a, b = getattr(mine[name], key), getattr(theirs[name], key)
                if a != b:
                    out.append(f"{name} {key}: {a} | {b}")
        if not out and list(mine) != list(theirs):
            out.append(f"variable order: {', '.join(mine)} | {', '.join(theirs)}")
        if not self.grid.same_as(other.grid):
            out.append(f"grid: {self.grid.describe()} | {other.grid.describe()}")
        if self.step != other.step:
            out.append(f"step: {self.step} | {other.step}")
        if self.members != other.members:
            out.append(f"members: {self.members} | {other.members}")
        return out

    def require_same(self, other: FieldSchema, mine: str, theirs: str, todo: str) -> None:
        """Raise SchemaMismatch that prints both sides unless the two agree."""
        lines = self.differences(other)
        if lines:
            raise SchemaMismatch(
                f"{mine} and {theirs} do not describe the same fields ({mine} | {theirs}):\n    "
                + "\n    ".join(lines),
                todo=todo,
            )

    @classmethod
    def of(cls, ds: xr.Dataset, step: str) -> FieldSchema:
        """Read the schema off a canonical dataset: dims time, [member,] [level,] latitude, longitude.

        Raises BadInput for a variable without units or with a dimension that is not canonical.
        """
        varying: list[VariableSpec] = []
        static: list[VariableSpec] = []
        for key, da in ds.data_vars.items():
            name = str(key)
            if not {"latitude", "longitude"} <= set(da.dims):
                continue
            if "units" not in da.attrs:
                raise BadInput(
                    "a variable without units", where=f"variable {name}", todo="add units to its catalog entry"
                )
            vertical = [str(d) for d in da.dims if d not in ("time", "member", "latitude", "longitude")]
            if len(vertical) > 1:
                raise BadInput(f"unexpected dimensions {vertical}", where=f"variable {name}")
            dim = vertical[0] if vertical else None
            spec = VariableSpec(
                name=name,
                units=str(da.attrs["units"]),
                standard_name=da.attrs.get("standard_name"),
                long_name=da.attrs.get("long_name"),
                levels=tuple(float(x) for x in np.atleast_1d(ds[dim].values)) if dim else None,
                level_dim=dim if dim not in (None, "level") else None,
                dtype=str(da.dtype),
            )
            (varying if "time" in da.dims else static).append(spec)
        grid = LatLonGrid(
            latitude=tuple(float(x) for x in ds["latitude"].values),
            longitude=tuple(float(x) for x in ds["longitude"].values),
        )
        members = tuple(int(m) for m in ds["member"].values) if "member" in ds.dims else None
        return cls(variables=tuple(varying), grid=grid, step=step, members=members, static=tuple(static))
