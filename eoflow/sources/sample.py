"""The sample atmosphere: a small planet behind the same interface as any provider, with the faults of real life.

A day of four 6-hourly steps is one asset. The states are integrated once and kept in the cache folder (see
`planet.history`); maps are made on reading. Faults are part of the catalog entry and end at a time given there, so
that what the provider has is a function of `SourceContext.now` and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.sources.base import Area, Asset, AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.planet import PRESSURE_LEVELS
from eoflow.sources.sample_faults import Lasting
from eoflow.times import NS, Cadence, Period, iso, parse_time

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.sources.planet.history import History

Times = NDArray[np.datetime64]
STEP = np.timedelta64(6, "h").astype("timedelta64[ns]")
_BATCH = 32  # forecasts integrated side by side in `ceiling`
_FIELDS = {
    "z": {"units": "m2 s-2", "standard_name": "geopotential", "long_name": "Geopotential"},
    "u": {"units": "m s-1", "standard_name": "eastward_wind", "long_name": "Eastward wind"},
    "v": {"units": "m s-1", "standard_name": "northward_wind", "long_name": "Northward wind"},
}
_STATIC = {
    "orog": {"units": "m", "standard_name": "surface_altitude", "long_name": "Orography"},
    "lsm": {"units": "1", "standard_name": "land_area_fraction", "long_name": "Land fraction"},
}


class Fault(Lasting):
    """Something that is wrong at the provider until it is put right.

    late: the days touched are not listed yet. gap: the steps inside `at` are absent. corrupt: the days touched arrive
    truncated. `at`: a day or START/END. `until`: when the provider has put it right; None: never.
    """

    kind: Literal["late", "gap", "corrupt"]

    def hits(self, times: Times, now: np.datetime64) -> Any:
        """Boolean (T,): which of the times are inside while the fault lasts."""
        return Period.parse(self.at).contains(times) & self.lasts(now)


class SampleArgs(BaseModel):
    """Driver arguments. seed: which weather of the planet. faults: what goes wrong, and until when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 42
    faults: tuple[Fault, ...] = ()


class SampleSource:
    """Source of the sample atmosphere: `z`, `u`, `v` at 200, 500, 800 hPa and the static `orog`, `lsm`.

    The planet starts at the entry's `schedule.start`, its calendar is the real one. Raises BadInput for an entry that
    asks for what the planet does not have.
    """

    def __init__(self, entry: catalog.DatasetEntry, context: SourceContext) -> None:
        self.entry = entry
        self.context = context
        where = f"dataset {entry.name}: source.args"
        self.args = catalog.validate(dict(entry.source.args), SampleArgs, where)  # type: ignore[type-var]
        self.now = parse_time(context.now)
        cadence = Cadence(entry.schedule.cadence).delta
        if cadence % STEP != np.timedelta64(0, "ns"):
            raise BadInput(
                f"the planet has a state every 6 h, not every {entry.schedule.cadence}",
                where=f"dataset {entry.name}: schedule.cadence", todo="write a multiple of 6h",
            )  # fmt: skip
        self._names, self._levels = _wanted(entry)

    # ---- the two methods of a source ----------------------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """One asset a day with the steps that fall into `period` and should be published; late days are left out."""
        times = self.entry.schedule.expected(period, self.now)
        days = times.astype("datetime64[D]")
        firsts = np.flatnonzero(np.r_[True, days[1:] != days[:-1]]) if times.size else np.empty(0, int)
        window = area or self.entry.area
        args = {"area": list(window)} if window else {}
        assets = []
        for mine in np.split(times, firsts[1:]) if times.size else []:
            if not self._late(mine):
                day = str(mine[0].astype("datetime64[D]"))
                assets.append(Asset(id=day, times=mine, href=f"sample://{self.args.seed}/{day}", args=args))
        return assets

    def open(self, asset: Asset) -> xr.Dataset:
        """The canonical, lazy dataset of a day. A step missing at the provider is missing from its time axis.

        Raises AssetMissing for a day without any step, AssetCorrupt on reading a damaged one.
        """
        times = np.asarray(asset.times).astype(NS)
        gone = self._hit("gap", times)
        if self._late(times) or gone.all():
            raise AssetMissing(
                "the provider has no data of this day" if gone.all() else "not published yet",
                where=f"{self.entry.name} {asset.id}", todo=f"eoflow backfill {self.entry.name}, later",
            )  # fmt: skip
        broken = bool(self._hit("corrupt", times).any())
        ds = self._lazy(times[~gone], broken, f"{self.entry.name} {asset.id}")
        area = asset.args.get("area")
        return _cut(ds, (area[0], area[1], area[2], area[3])) if area else ds

    # ---- the ceiling of skill -----------------------------------------------------------------------------------

    def ceiling(
        self,
        init_times: Sequence[Any] | Times,
        lead_times: Sequence[Any] | NDArray[np.timedelta64],
        *,
        perturbation: float = 0.01,
        seed: int = 0,
    ) -> xr.Dataset:
        """Forecasts by the planet's own equations from its true states, every wave off by `perturbation`.

        No model can do better from initial fields of that accuracy. `lead_times`: timedelta64, positive multiples of
        6 h. Returns z, u, v with dims (init_time, lead_time, level, latitude, longitude), `valid_time` and CF
        attributes, in memory: about 74 kB a forecast and lead time; call it for a few initial times at a time.
        """
        import xarray as xr

        inits = np.atleast_1d(np.asarray(init_times, dtype=NS))
        leads = np.atleast_1d(np.asarray(lead_times, dtype="timedelta64[ns]"))
        if (leads % STEP != np.timedelta64(0, "ns")).any() or (leads <= np.timedelta64(0, "ns")).any():
            raise BadInput("the planet can forecast positive multiples of 6 h only", todo="use --lead 6h, 10d ...")
        hours = (leads / np.timedelta64(1, "h")).astype(int)
        order = np.argsort(hours)
        history, maps = self._history(), []
        self._inside(inits)
        for i in range(0, inits.size, _BATCH):
            t = inits[i : i + _BATCH]
            run = history.planet.rerun_from(history.states(t), t, [int(h) for h in hours[order]], perturbation, seed)
            maps.append(history.planet.expand(run[:, np.argsort(order)]))
        fields = {name: np.concatenate([m[name] for m in maps]) for name in _FIELDS}
        dims = ("init_time", "lead_time", "level", "latitude", "longitude")
        ds = self._describe(
            xr.Dataset({n: (dims, x) for n, x in fields.items()}, coords={"init_time": inits, "lead_time": leads})
        )
        ds = ds.assign_coords(valid_time=(("init_time", "lead_time"), inits[:, None] + leads[None, :]))
        ds["init_time"].attrs = {"standard_name": "forecast_reference_time", "long_name": "Initial time"}
        ds["lead_time"].attrs = {"standard_name": "forecast_period", "long_name": "Lead time"}
        ds["valid_time"].attrs = {"standard_name": "time", "long_name": "Valid time"}
        ds.attrs["comment"] = f"planet rerun from its true state, waves perturbed by {perturbation:g}, seed {seed}"
        return _cut(ds, self.entry.area) if self.entry.area else ds

    # ---- inside -------------------------------------------------------------------------------------------------

    def _hit(self, kind: str, times: Times) -> Any:
        hits = [f.hits(times, self.now) for f in self.args.faults if f.kind == kind]
        return np.any(hits, axis=0) if hits else np.zeros(times.size, bool)

    def _late(self, times: Times) -> bool:
        return bool(self._hit("late", times).any())

    def _inside(self, times: Times) -> None:
        start = parse_time(self.entry.schedule.start)
        wrong = times[(times < start) | ((times - start) % STEP != np.timedelta64(0, "ns"))]
        if wrong.size:
            raise BadInput(
                f"the planet has no state at {iso(wrong[0])}", where=f"dataset {self.entry.name}",
                todo=f"choose a 6-hourly time from {iso(start)} on",
            )  # fmt: skip

    def _history(self) -> History:
        from eoflow.sources.planet.history import History

        start = iso(parse_time(self.entry.schedule.start))
        return History(self.args.seed, start, str(self.context.cache))

    def _lazy(self, times: Times, broken: bool, where: str) -> xr.Dataset:
        import dask.array as da
        import xarray as xr
        from dask.delayed import delayed

        from eoflow.sources.planet import world

        self._inside(times)
        history = self._history()
        shape = (len(_FIELDS), times.size, len(PRESSURE_LEVELS), world.LATITUDE.size, world.LONGITUDE.size)
        task = delayed(_read, pure=True)(history, times, shape, broken, where)
        block = da.from_delayed(task, shape, np.float32)  # type: ignore[no-untyped-call]
        dims = ("time", "level", "latitude", "longitude")
        data: dict[str, Any] = {name: (dims, block[i]) for i, name in enumerate(_FIELDS)}
        data |= {name: (dims[2:], x.copy()) for name, x in history.planet.static.items()}
        ds = xr.Dataset(data, coords={"time": times})
        ds["time"].attrs = {"standard_name": "time", "long_name": "Time"}
        return self._describe(ds)

    def _describe(self, ds: xr.Dataset) -> xr.Dataset:
        """Grid, attributes, and the variables, levels and names that the entry asks for."""
        from eoflow.sources.planet import world

        ds = ds.assign_coords(
            level=np.asarray(PRESSURE_LEVELS, float), latitude=world.LATITUDE, longitude=world.LONGITUDE
        )
        if self._levels is not None and self._levels != PRESSURE_LEVELS:
            ds = ds.sel(level=list(self._levels))
        ds["level"].attrs = {
            "units": "hPa", "standard_name": "air_pressure", "long_name": "Pressure level", "positive": "down",
            "axis": "Z",
        }  # fmt: skip
        for axis, letter, compass in (("latitude", "Y", "north"), ("longitude", "X", "east")):
            ds[axis].attrs = {"units": f"degrees_{compass}", "standard_name": axis, "axis": letter}
        wanted = {own: name for name, own in self._names.items() if own in ds}
        for own, name in wanted.items():
            ds[own].attrs = dict((_FIELDS | _STATIC)[own])
            given = (self.entry.variables or {}).get(name)
            for key in ("standard_name", "long_name"):
                if given is not None and getattr(given, key):
                    ds[own].attrs[key] = getattr(given, key)
        return ds[list(wanted)].rename({own: name for own, name in wanted.items() if own != name})


def ceiling(
    entry: catalog.DatasetEntry,
    context: SourceContext,
    init_times: Sequence[Any] | Times,
    lead_times: Sequence[Any] | NDArray[np.timedelta64],
    *,
    perturbation: float = 0.01,
    seed: int = 0,
) -> xr.Dataset:
    """`SampleSource.ceiling` of a catalog entry. Raises BadInput for an entry that is not a sample atmosphere."""
    if entry.source.driver != "sample":
        raise BadInput(
            f"'{entry.name}' has no truth that could be run again", where=f"driver {entry.source.driver}",
            todo="the ceiling exists for sample datasets only",
        )  # fmt: skip
    source = SampleSource(entry, context)
    return source.ceiling(init_times, lead_times, perturbation=perturbation, seed=seed)


def _wanted(entry: catalog.DatasetEntry) -> tuple[dict[str, str], tuple[float, ...] | None]:
    """Entry name -> the planet's name, and the levels asked for (None: all). Raises BadInput."""
    known = _FIELDS | _STATIC
    if entry.variables is None:
        return {n: n for n in known}, None
    names: dict[str, str] = {}
    levels: set[tuple[float, ...]] = set()
    for name, v in entry.variables.items():
        own, where = v.source_name or name, f"dataset {entry.name}: variables.{name}"
        if own not in known:
            raise BadInput(
                f"the sample planet has no variable '{own}'{nearest(own, list(known))}", where=where,
                todo=f"choose from {', '.join(known)}",
            )  # fmt: skip
        if v.units not in (None, known[own]["units"]) or v.source_units not in (None, known[own]["units"]):
            raise BadInput(f"the planet gives {own} in {known[own]['units']}", where=where, todo="leave the units out")
        if v.levels is not None and own in _FIELDS:
            levels.add(tuple(v.levels))
        names[name] = own
    if len(levels) > 1 or any(set(some) - set(PRESSURE_LEVELS) for some in levels):
        raise BadInput(
            "the planet has the levels 200, 500 and 800 hPa, the same for every variable",
            where=f"dataset {entry.name}: variables", todo="give all variables the same of these levels, or none",
        )  # fmt: skip
    # the order of the entry, whatever the order of the planet
    return names, next(iter(levels), None)


def _read(history: History, times: Times, shape: tuple[int, ...], broken: bool, where: str) -> NDArray[np.float32]:
    """Fetch and decode a day: (variable, time, level, latitude, longitude), float32."""
    payload = _provide(history, times)
    return _decode(payload[: len(payload) // 3] if broken else payload, shape, where)


def _provide(history: History, times: Times) -> bytes:
    """What the provider sends: a CRC-32, then the fields as little-endian float32."""
    fields = history.fields(times)
    body = np.stack([fields[name] for name in _FIELDS]).astype("<f4").tobytes()
    return zlib.crc32(body).to_bytes(4, "little") + body


def _decode(payload: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """Check length and CRC-32 of a payload and return its fields. Raises AssetCorrupt."""
    body, expected = payload[4:], 4 * int(np.prod(shape))
    todo = "ingest it again when the provider has repaired it: eoflow backfill"
    if len(body) != expected:
        raise AssetCorrupt(f"truncated: {len(body)} of {expected} bytes arrived", where=where, todo=todo)
    if zlib.crc32(body).to_bytes(4, "little") != payload[:4]:
        raise AssetCorrupt("the checksum does not fit the data", where=where, todo=todo)
    return np.frombuffer(body, "<f4").reshape(shape).astype(np.float32)


def _cut(ds: xr.Dataset, area: Area) -> xr.Dataset:
    """Cells whose centres lie in (W, S, E, N). Raises BadInput where none does."""
    west, south, east, north = area
    if east - west < 360.0:
        crosses = east > 180.0 or east < west
        low, high = (west % 360.0, east % 360.0) if crosses else (west, east)
        lon = ds["longitude"] if crosses else (ds["longitude"] + 180.0) % 360.0 - 180.0
        ds = ds.assign_coords(longitude=lon.assign_attrs(ds["longitude"].attrs)).sortby("longitude")
        ds = ds.isel(longitude=np.flatnonzero((ds["longitude"] >= low) & (ds["longitude"] <= high)))
    ds = ds.isel(latitude=np.flatnonzero((ds["latitude"] >= south) & (ds["latitude"] <= north)))
    if 0 in (ds.sizes["latitude"], ds.sizes["longitude"]):
        raise BadInput(f"no grid cell centre lies in the area {area}", todo="give W,S,E,N in degrees, a few cells wide")
    return ds
