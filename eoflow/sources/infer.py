"""A catalog entry from the files themselves: driver, variables, units, time axis, cadence, NaN mask, members."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import catalog
from eoflow.catalog import DatasetEntry, VariableEntry
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.sources.base import AssetError, Source, SourceContext, create
from eoflow.sources.files import expand, kind_of
from eoflow.sources.lexicon import TERMS
from eoflow.sources.zarr import is_store
from eoflow.times import NS, Cadence, iso, parse_time
from eoflow.workspace import check_name

if TYPE_CHECKING:
    import xarray as xr

DRIVERS = {"hdf5": "netcdf", "netcdf3": "netcdf", "netcdf3-64": "netcdf", "grib": "grib"}
SAMPLES = 12
"""Fields of a variable that are read to learn its NaN mask."""
SAMPLE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class _Seen:
    """What one file or store holds."""

    path: str
    times: np.ndarray[Any, np.dtype[np.datetime64]]
    ds: xr.Dataset


def driver_of(path: str) -> str:
    """The driver that reads a file, folder or URL. Raises BadInput for what none reads."""
    if "://" in path and not path.startswith("file://"):
        if (
            path.rstrip("/").lower().endswith((".zarr", ".zarr-v2", ".zarr-v3"))
            or "zarr" in path.rsplit("/", 1)[-1].lower()
        ):
            return "zarr"
        raise BadInput(
            "only Zarr stores are read from an address", where=path, todo="download the file and give its path"
        )
    if is_store(path):
        return "zarr"
    kind = _input(lambda: kind_of(path))
    if kind in DRIVERS:
        return DRIVERS[kind]
    suffix = Path(path).suffix.lower()
    expected = {
        ".nc": "NetCDF",
        ".nc4": "NetCDF",
        ".grib": "GRIB",
        ".grb": "GRIB",
        ".grib2": "GRIB",
        ".grb2": "GRIB",
    }.get(suffix)
    what = f"this is not a {expected} file" if expected else "this is not NetCDF, Zarr or GRIB"
    with Path(path).open("rb") as f:
        head = f.read(24).decode("ascii", "replace").replace("\ufffd", "?").split("\n")[0]
    raise BadInput(
        f"{what} (its content is {kind}: it begins with {head!r})",
        where=path,
        todo="check that the download did not save an error page, and give a NetCDF, Zarr or GRIB file",
    )


def _input(work: Any) -> Any:
    """Run; what a source would record as a bad asset is, in a file given by hand, bad input."""
    try:
        return work()
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo) from e


def infer_entry(
    name: str,
    files: Sequence[str | Path] | str | Path,
    *,
    cadence: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    existing: DatasetEntry | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> DatasetEntry:
    """The entry that reads `files` (paths, glob patterns, one Zarr store or URL), from their metadata.

    cadence: of the schedule; found from the time axis of all files where it is None, or taken from `existing`.
    existing: the entry of that name, if there is one: its choices (variables, units, checks, title, cadence) stay,
    paths are joined and the schedule is widened. overrides: further keys of the entry, e.g.
    {"variables": {"msl": {"source_units": "hPa"}}, "source": {"args": {"level_units": "hPa"}}}, applied before reading.
    cache: folder for indexes; a temporary one if None.

    Raises BadInput, naming file, variable and time, for everything that cannot be ingested as it is.
    """
    check_name(name, "dataset name")
    given = [str(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
    if not given:
        raise BadInput("no files were given", todo=f"eoflow ingest FILE... --as {name}")
    paths = [p for text in given for p in ([text] if "://" in text else _found(text))]
    drivers = {p: driver_of(p) for p in paths}
    driver = _same_driver(drivers, existing, name)
    overrides = dict(overrides or {})
    args = {**(existing.source.args if existing else {}), **dict(overrides.get("source", {})).get("args", {})}
    with tempfile.TemporaryDirectory() as scratch:
        context = SourceContext(cache=Path(cache or scratch), now=np.datetime64("now").astype(NS))
        seen = [_input(lambda p=p: _look(p, name, driver, args, existing, overrides, context)) for p in paths]
        _require_same_fields(seen)
        times = np.unique(np.concatenate([s.times for s in seen]))
        step = _cadence(times, seen, cadence, existing)
        raw = _document(name, seen, driver, args, paths, times, step, title, licence, existing, overrides)
        if existing is None and "checks" not in overrides:
            raw["checks"] = _input(lambda: _nan_checks(seen))
    return catalog.validate(raw, DatasetEntry, f"dataset {name}")


def _found(text: str) -> list[str]:
    found = expand([text])
    if not found:
        raise BadInput(f"no file matches '{text}'", todo="check the pattern")
    return found


def _same_driver(drivers: Mapping[str, str], existing: DatasetEntry | None, name: str) -> str:
    kinds = sorted(set(drivers.values()))
    if len(kinds) > 1:
        raise BadInput(
            f"the files are of several kinds: {', '.join(kinds)}",
            where=next(iter(drivers)),
            todo="ingest each kind as a dataset of its own",
        )
    if kinds[0] == "zarr" and len(drivers) > 1:
        raise BadInput("only one Zarr store makes a dataset", where=list(drivers)[1], todo="give one store")
    if existing is not None and existing.source.driver != kinds[0]:
        raise BadInput(
            f"dataset '{name}' is read from {existing.source.driver}, these files are {kinds[0]}",
            where=next(iter(drivers)),
            todo="ingest them under another name with --as",
        )
    return kinds[0]


def _look(
    path: str,
    name: str,
    driver: str,
    args: Mapping[str, Any],
    existing: DatasetEntry | None,
    overrides: Mapping[str, Any],
    context: SourceContext,
) -> _Seen:
    """Open one file as the existing entry says, or with the overrides as hints; check that it makes a schema."""
    place = {"url": path} if driver == "zarr" else {"paths": [path]}
    raw: dict[str, Any] = {
        "name": name,
        "title": name,
        "source": {"driver": driver, "args": {**args, **place}},
        "schedule": {"start": "1678-01-01", "cadence": "1h", "end": "1678-01-01"},
        "area": overrides.get("area"),
    }
    if existing is not None:
        raw["variables"] = {
            k: v.model_dump(exclude_defaults=True) for k, v in (existing.variables or {}).items()
        } or None
        raw["area"] = raw["area"] or existing.area
        for variable, fields in overrides.get("variables", {}).items():
            known = raw["variables"] or {}
            raw["variables"] = {**known, variable: {**known.get(variable, {}), **fields}}
    probe = catalog.validate(raw, DatasetEntry, f"dataset {name}")
    source = create(probe, context)
    hints = (
        catalog.validate({**raw, "variables": overrides["variables"]}, DatasetEntry, "overrides")
        if (existing is None and overrides.get("variables"))
        else probe
    )
    times, ds = _read(source, path, hints, existing is not None)
    FieldSchema.of(ds, "1h")
    return _Seen(path, times, ds)


def _read(source: Source, path: str, hints: DatasetEntry, only: bool) -> tuple[Any, xr.Dataset]:
    """(times, canonical dataset) of everything in one file or store."""
    from dataclasses import replace

    from eoflow.sources import conventions
    from eoflow.sources.files import FileSource, reading_of
    from eoflow.sources.zarr import ZarrSource

    reading = replace(reading_of(hints), only=only and hints.variables is not None)
    if isinstance(source, FileSource):
        times = source.times(path)
        return times, source.read(path, reading, None)
    assert isinstance(source, ZarrSource)
    return source.readable_times(), conventions.canonical(source.raw, path, reading, source.readable_times())


def _require_same_fields(seen: list[_Seen]) -> None:
    """Raise SchemaMismatch naming the first file whose variables or grid differ from the first file's."""
    first = FieldSchema.of(seen[0].ds, "1h")
    for other in seen[1:]:
        FieldSchema.of(other.ds, "1h").require_same(
            first, Path(other.path).name, Path(seen[0].path).name, "ingest files of one kind under one name"
        )


ASSUMED_CADENCE = "6h"
"""Of a single time, where nothing says otherwise: the synoptic hours. The entry's notes say so."""


def _cadence(times: Any, seen: list[_Seen], cadence: str | None, existing: DatasetEntry | None) -> Cadence:
    """The cadence, checked: every time lies on the schedule that starts at the first one."""
    start = times[0]
    if existing is not None:
        step = Cadence(existing.schedule.cadence)
        if cadence and Cadence(cadence) != step:
            raise BadInput(
                f"dataset '{existing.name}' has a cadence of {step}, not {cadence}", todo="leave --cadence out"
            )
        start = min(start, parse_time(existing.schedule.start))
        times = np.union1d(times, [parse_time(existing.schedule.start)])
    else:
        if cadence is None and times.size == 1:
            cadence = ASSUMED_CADENCE
        try:
            step = Cadence(cadence) if cadence else Cadence.infer(times)
        except BadInput as e:
            raise BadInput(e.what, where=seen[0].path, todo=e.todo) from None
    off = times[~np.isin(times, step.axis(start, times[-1]))]
    if off.size:
        where = next((s.path for s in seen if np.isin(off[0], s.times)), seen[0].path)
        raise BadInput(
            f"the time {iso(off[0])} does not lie on the schedule: every {step} from {iso(start)}",
            where=where,
            todo="say the cadence with --cadence, or ingest these files under another name",
        )
    return step


def _document(
    name: str,
    seen: list[_Seen],
    driver: str,
    args: Mapping[str, Any],
    paths: list[str],
    times: Any,
    step: Cadence,
    title: str | None,
    licence: str | None,
    existing: DatasetEntry | None,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """The entry as a mapping: what the existing one says, then what the files say, then the overrides."""
    attrs = seen[0].ds.attrs
    place = {"url": paths[0]} if driver == "zarr" else {"paths": list(dict.fromkeys([*args.get("paths", []), *paths]))}
    start, end = times[0], times[-1]
    if existing is not None:
        start = min(start, parse_time(existing.schedule.start))
        if existing.schedule.end:
            end = max(end, parse_time(existing.schedule.end))
    raw: dict[str, Any] = (
        existing.model_dump(mode="json", exclude_defaults=True)
        if existing
        else {
            "name": name,
            "title": title or str(attrs.get("title") or _stem(paths[0])),
            "licence": licence or str(attrs.get("license") or attrs.get("licence") or "unknown"),
            "variables": _variables(seen[0], overrides.get("variables", {}), pin=driver == "grib"),
        }
    )
    raw["source"] = {"driver": driver, "args": {**args, **place}}
    delay = existing.schedule.delay if existing else "0h"
    raw["schedule"] = {"start": iso(start), "cadence": step.text, "end": iso(end), "delay": delay}
    if existing is None and times.size == 1:
        raw["notes"] = (
            f"One time alone does not tell the cadence: {step} (say another with --cadence, before the first ingest)."
        )
    for key, value in overrides.items():
        if key == "variables" and existing is not None:
            for variable, fields in value.items():
                raw.setdefault("variables", {}).setdefault(variable, {}).update(fields)
        elif key not in ("variables", "source"):
            raw[key] = value
    if title and existing:
        raw["title"] = title
    if licence and existing:
        raw["licence"] = licence
    return raw


def _stem(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _variables(seen: _Seen, overrides: Mapping[str, Any], pin: bool) -> dict[str, Any]:
    """Every variable of the file, explicit: units, levels and plausible range.

    pin: also the provider's name. A GRIB name depends on what else is in the file, so it is pinned; a NetCDF name is
    found again by the lexicon, also where a later file spells it otherwise.
    """
    out: dict[str, Any] = {}
    for key, da in seen.ds.data_vars.items():
        name = str(key)
        term = TERMS.get(name)
        vertical = [str(d) for d in da.dims if d not in ("time", "member", "latitude", "longitude")]
        pressure = [d for d in vertical if d.startswith("level")]
        v = VariableEntry(
            source_name=da.encoding.get("source_name") if pin else None,
            units=da.attrs["units"],
            standard_name=da.attrs.get("standard_name"),
            long_name=da.attrs.get("long_name"),
            levels=tuple(float(x) for x in seen.ds[pressure[0]].values) if pressure else None,
            valid_range=term.valid_range if term is not None and term.units == da.attrs["units"] else None,
            static="time" not in da.dims,
        )
        out[name] = {**v.model_dump(mode="json", exclude_defaults=True), **dict(overrides.get(name, {}))}
    return out


def _nan_checks(seen: list[_Seen]) -> dict[str, Any]:
    """Limits learnt from a few fields of each variable: the largest NaN fraction, and whether the NaNs stay in place.

    A field that is NaN everywhere teaches nothing; a variable that is so in every sample is refused.
    """
    largest, fixed = 0.0, True
    for name, da in seen[0].ds.data_vars.items():
        fractions, masks = [], []
        for field in _samples(da):
            mask = np.isnan(field)
            if mask.mean() < 1.0:
                fractions.append(float(mask.mean()))
                masks.append(mask)
        if not fractions:
            raise BadInput(
                "the variable holds no values at all (NaN everywhere that was looked at)",
                where=f"{seen[0].path}, variable {name}",
                todo="leave it out, or correct its fill value",
            )
        largest = max(largest, *fractions)
        fixed = fixed and all(np.array_equal(m, masks[0]) for m in masks)
    if largest == 0.0:
        return {}
    if fixed:
        return {"max_nan_fraction": min(0.999, math.ceil(largest * 1000) / 1000), "static_nan_mask": True}
    return {"max_nan_fraction": min(0.95, math.ceil(largest * 150) / 100)}


def _samples(da: xr.DataArray) -> list[np.ndarray[Any, Any]]:
    """Up to SAMPLES fields (all levels, members), spread evenly over time; fewer where they are large."""
    if "time" not in da.dims:
        return [da.to_numpy()]
    size = max(1, da.nbytes // da.sizes["time"])
    count = max(3, min(SAMPLES, da.sizes["time"], SAMPLE_BYTES // size))
    at = np.unique(np.linspace(0, da.sizes["time"] - 1, count).astype(int))
    return list(da.isel(time=at).transpose("time", ...).to_numpy())
