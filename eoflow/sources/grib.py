"""GRIB files, edition 1 and 2, through an index of our own: every message checked and placed, nothing decoded.

Why not cfgrib's index: it is a pickle, takes a minute for 300 mixed messages, and a cut file ends it silently.
The index is JSON in the cache folder, never beside the source. Values are decoded by eccodes when they are needed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources import conventions
from eoflow.sources import grib_messages as gm
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.conventions import Reading
from eoflow.sources.files import FileSource, kind_of, not_a
from eoflow.sources.grib_messages import Field
from eoflow.sources.grib_names import PRESSURE, Group, group
from eoflow.sources.naming import HINT, HINT_TERM
from eoflow.times import NS, iso

if TYPE_CHECKING:
    import xarray as xr

INDEX_VERSION = 1
LEVEL_UNITS = {
    "heightAboveGround": "m",
    "heightAboveSea": "m",
    "depthBelowLandLayer": "m",
    "depthBelowLand": "m",
    "depthBelowSea": "m",
    "hybrid": "1",
    "potentialVorticity": "K m2 kg-1 s-1",
    "theta": "K",
}


@dataclass(frozen=True)
class Index:
    """All fields of a file, and its grids: key -> {lat, lon, order}."""

    path: str
    fields: tuple[Field, ...]
    grids: dict[str, dict[str, Any]]


def scan(path: str) -> Index:
    """Read every header of a file. Raises AssetMissing, AssetCorrupt (cut, damaged, no GRIB) or BadInput."""
    kind = kind_of(path)
    if kind != "grib":
        raise not_a("GRIB", path, kind)
    fields: list[Field] = []
    grids: dict[str, dict[str, Any]] = {}
    with Path(path).open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for offset, length in gm.frames(data, path):
            fields.extend(gm.headers(bytes(data[offset : offset + length]), offset, grids, path))
    return Index(path, tuple(fields), grids)


def index(path: str, cache: Path) -> Index:
    """As `scan`, remembered in `cache` by path, size and modification time."""
    kind_of(path)
    s = Path(path).stat()
    stamp = [INDEX_VERSION, s.st_size, s.st_mtime_ns]
    folder = cache / "grib-index"
    target = folder / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    try:
        found = json.loads(target.read_text())
        if found["stamp"] == stamp:
            return Index(path, tuple(Field(**r) for r in found["fields"]), found["grids"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no index yet, or one of another version: make it
    out = scan(path)
    folder.mkdir(parents=True, exist_ok=True)
    temp = target.with_suffix(f".{os.getpid()}.tmp")
    temp.write_text(json.dumps({"stamp": stamp, "fields": [f.to_json() for f in out.fields], "grids": out.grids}))
    temp.replace(target)
    return out


# -- values ----------------------------------------------------------------------------------------------------------


def _array(
    path: str, fields: Sequence[Field], table: np.ndarray[Any, np.dtype[np.int64]], shape: tuple[int, int], order: str
) -> Any:
    """A lazily indexed xarray backend array (times, members, levels, nj, ni) float32 over the fields of one group.

    table: (times, members, levels) index into `fields`, -1 where the file has no message (NaN there).
    """
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class GribArray(BackendArray):
        def __init__(self) -> None:
            self.shape = (*table.shape, *shape)
            self.dtype = np.dtype(np.float32)

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

        def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
            at = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key)]
            out = np.full([len(a) for a in at], np.nan, np.float32)
            rows, columns = np.ix_(at[3], at[4])
            with Path(path).open("rb") as f:
                for i, t in enumerate(at[0]):
                    for j, m in enumerate(at[1]):
                        for k, v in enumerate(at[2]):
                            n = int(table[t, m, v])
                            if n >= 0:
                                out[i, j, k] = _decode(f, fields[n], path, shape, order)[rows, columns]
            return out[tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)]

    return indexing.LazilyIndexedArray(GribArray())


def _decode(f: Any, field: Field, path: str, shape: tuple[int, int], order: str) -> np.ndarray[Any, Any]:
    f.seek(field.offset)
    message = f.read(field.length)
    if len(message) < field.length or not message.endswith(b"7777"):
        raise AssetCorrupt(
            f"the message of {field.name} at byte {field.offset} is cut off", where=path, todo="fetch the file again"
        )
    values = gm.values(message, field.part, path)
    if values.size != shape[0] * shape[1]:
        raise AssetCorrupt(
            f"the message of {field.name} at byte {field.offset} has {values.size} values, its grid "
            f"{shape[0] * shape[1]}",
            where=path,
            todo="fetch the file again",
        )
    return gm.arrange(values, *shape, order)


# -- the raw dataset -------------------------------------------------------------------------------------------------


def open_raw(found: Index, select: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Every variable of a file over (time, member, vertical, latitude, longitude), lazily, named by its source name.

    The vertical dimension of pressure levels carries hPa; other level types keep their name. `time` is the valid time.
    Raises BadInput for grids that are not latitude-longitude, for several grids and for two messages of one field.
    """
    import xarray as xr

    fields = _selected(found, select)
    grid = _one_grid(found, fields)
    shape = (len(grid["lat"]), len(grid["lon"]))
    times = np.unique([f.valid for f in fields])
    all_members = sorted({f.member for f in fields if f.member is not None})
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {
        "latitude": ("latitude", np.array(grid["lat"]), {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", np.array(grid["lon"]), {"units": "degrees_east", "standard_name": "longitude"}),
        "time": ("time", times.astype("datetime64[s]").astype(NS), {"standard_name": "time"}),
    }
    if len(all_members) > 1:
        coords["member"] = ("member", np.array(all_members), {"standard_name": "realization"})
    sets: dict[tuple[str, tuple[float, ...]], str] = {}
    for g in group(fields):
        levels = _levels(g)
        members = all_members if len({f.member for f in g.fields}) > 1 else [g.fields[0].member]
        table = _table(g, times, members, levels, found.path)
        full = ["time", "member", "_v", "latitude", "longitude"]
        variable = xr.Variable(full, _array(found.path, g.fields, table, shape, grid["order"]))
        keep_level = len(levels) > 1 or g.fields[0].level_type == PRESSURE
        if keep_level:
            key = (g.fields[0].level_type, tuple(v for v, _ in levels))
            dim = sets.setdefault(key, _dim_name(key, sets))
            coords[dim] = (
                dim,
                np.array(_coordinate(levels)),
                {"units": "hPa" if key[0] == PRESSURE else LEVEL_UNITS.get(key[0], "index")},
            )
            variable.dims = ("time", "member", dim, "latitude", "longitude")
        else:
            variable = variable.isel(_v=0)
        if len(members) == 1:
            variable = variable.isel(member=0)
        variable.attrs = _attrs(g)
        variables[g.source] = variable
    ds = xr.Dataset(variables, coords=coords)
    inits = {f.init for f in fields}
    if len(inits) == 1 and any(f.valid != f.init for f in fields):
        ds.attrs["forecast_reference_time"] = iso(np.datetime64(inits.pop(), "s").astype(NS))
    return ds


def _attrs(g: Group) -> dict[str, str]:
    f = g.fields[0]
    pairs = {
        HINT: g.name,
        HINT_TERM: g.term,
        "units": f.units or "unknown",
        "long_name": f.long_name,
        "standard_name": f.standard_name,
    }
    if g.name not in (g.term, f.name) or (not g.term and f.level_type not in ("surface", PRESSURE)):
        pairs["long_name"] = f"{f.long_name} ({f.level_type})"
    return {k: v for k, v in pairs.items() if v}


def _selected(found: Index, select: Mapping[str, Any] | None) -> list[Field]:
    """The fields that `source.args.select` lets through: {name: [...], level_type: [...], member: [...]}."""
    keys = {"name", "level_type", "step_type", "window", "member", "param"}
    for key in select or {}:
        if key not in keys:
            raise BadInput(
                f"cannot select GRIB fields by '{key}'",
                where="source.args.select",
                todo=f"choose from {', '.join(sorted(keys))}",
            )
    wanted = {k: v if isinstance(v, list) else [v] for k, v in (select or {}).items()}
    fields = [f for f in found.fields if all(getattr(f, k) in v for k, v in wanted.items())]
    if not fields:
        raise BadInput("no GRIB field is left after `select`", where=found.path, todo="correct source.args.select")
    return fields


def _one_grid(found: Index, fields: list[Field]) -> dict[str, Any]:
    counts: dict[str, int] = defaultdict(int)
    for f in fields:
        counts[f.grid] += 1
    if len(counts) > 1:
        names = sorted({f.name for f in fields if f.grid != max(counts, key=lambda k: counts[k])})
        raise BadInput(
            f"the fields are on {len(counts)} different grids",
            where=found.path,
            todo=f"leave out those that differ ({', '.join(names[:6])}): source: {{args: {{select: {{name: [...]}}}}}}",
        )
    grid = found.grids[fields[0].grid]
    if "unsupported" in grid:
        raise BadInput(
            f"the grid is {grid['unsupported']}, not a regular latitude-longitude grid",
            where=found.path,
            todo="regrid it first, e.g. cdo -f nc setgridtype,regular or earthkit-regrid",
        )
    return grid


def _levels(g: Group) -> list[tuple[float, float | None]]:
    """Distinct levels as (first, second bound), ascending."""
    return sorted({(f.first, f.second) for f in g.fields}, key=lambda v: (v[0], v[1] if v[1] is not None else v[0]))


def _coordinate(levels: list[tuple[float, float | None]]) -> list[float]:
    """The first bound of each layer; the middle of the layer where first bounds repeat."""
    firsts = [v[0] for v in levels]
    if len(set(firsts)) == len(firsts):
        return firsts
    return [round((a + (b if b is not None else a)) / 2, 9) for a, b in levels]


def _dim_name(key: tuple[str, tuple[float, ...]], sets: Mapping[tuple[str, tuple[float, ...]], str]) -> str:
    count = sum(1 for k in sets if k[0] == key[0])
    return f"{key[0]}{count or ''}"


def _table(
    g: Group, times: Any, members: Sequence[int | None], levels: list[Any], path: str
) -> np.ndarray[Any, np.dtype[np.int64]]:
    table = np.full((len(times), len(members), len(levels)), -1, np.int64)
    of_time, of_member, of_level = ({v: i for i, v in enumerate(x)} for x in (times.tolist(), members, levels))
    for n, f in enumerate(g.fields):
        at = of_time[f.valid], of_member[f.member], of_level[f.first, f.second]
        if table[at] >= 0:
            other = g.fields[int(table[at])]
            if other.init != f.init:
                what = f"several forecasts of '{g.source}' are valid at {iso(np.datetime64(f.valid, 's').astype(NS))}"
                raise BadInput(what, where=path, todo="give files of one step, so that each valid time comes once")
            raise BadInput(
                f"two messages hold '{g.source}', level {f.first:g}, at {iso(np.datetime64(f.valid, 's').astype(NS))} "
                f"(bytes {other.offset} and {f.offset})",
                where=path,
                todo="drop one of them, e.g. with grib_copy",
            )
        table[at] = n
    return table


@lru_cache(maxsize=64)
def _cached_index(path: str, cache: Path, size: int, mtime: int) -> Index:
    return index(path, cache)


class GribSource(FileSource):
    """`source: {driver: grib, args: {paths: [FILE or pattern], select: {name: [t, z], level_type: isobaricInhPa}}}`."""

    ARGS: ClassVar[tuple[str, ...]] = (*FileSource.ARGS, "select")

    def index(self, path: str) -> Index:
        """The index of one file."""
        kind_of(path)
        s = Path(path).stat()
        return _cached_index(path, self.context.cache, s.st_size, s.st_mtime_ns)

    def read_times(self, path: str) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The valid times of one file."""
        fields = _selected(self.index(path), self.entry.source.args.get("select"))
        return np.unique([f.valid for f in fields]).astype("datetime64[s]").astype(NS)

    def read(self, path: str, reading: Reading, wanted: np.ndarray[Any, np.dtype[np.datetime64]] | None) -> xr.Dataset:
        """One file in canonical form."""
        raw = open_raw(self.index(path), self.entry.source.args.get("select"))
        return conventions.canonical(raw, path, reading, wanted)
