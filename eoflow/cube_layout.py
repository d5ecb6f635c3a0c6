"""How a scene dataset lies in its archive: groups, arrays, attributes, and room along time.

    /                       attributes: the scene schema with its hash, the entry
    /ledger                 one row a scene and tile (see eoflow.ingest.scenes.ledger)
    /tiles/TILE             time, y, x, spatial_ref; one array a band (time, y, x); quality, scene; items (time)
    /tiles/TILE/provenance/valid_fraction        (time, chunk row, chunk column)
    /tiles/TILE/overviews/FACTOR                 the same arrays with larger pixels; opens alone

Chunks hold one time each, so a scene touches only its own, and a late time is put in its place by moving the encoded
chunks of later ones.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__, chunks
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog_scenes import TileScheme
from eoflow.errors import BadInput
from eoflow.quality import ATTRS as QUALITY_ATTRS
from eoflow.tiling import Grid, overview_factors
from eoflow.times import NS

if TYPE_CHECKING:
    import zarr
    from zarr.codecs import BloscCodec

    from eoflow.catalog_scenes import SceneEntry
    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
TILES, PROVENANCE, OVERVIEWS = "tiles", "provenance", "overviews"
QUALITY, SCENE, ITEMS, FRACTION = "quality", "scene", "items", "valid_fraction"
TIME_UNITS = "microseconds since 1970-01-01 00:00:00"
TIME_CHUNK, ITEMS_CHUNK = 4096, 64
MANY_ITEMS = 255
"""The layer `scene` has one byte: so many items may share a time step of a tile."""

_CONVENTIONS = [
    {
        "uuid": "d35379db-88df-4056-af3a-620245f8e347", "name": "multiscales",
        "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
    },
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f", "name": "proj",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v0.1/README.md",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "name": "spatial",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
    },
]  # fmt: skip


def codec(dtype: Any) -> BloscCodec:
    """blosc-lz4. Measured on Sentinel-2: bit shuffle packs reflectances as zstd does (1.4) at twice its speed; masks
    of one byte pack better (3.9 against 2.8) and faster without."""
    from zarr.codecs import BloscCodec

    size = np.dtype(dtype).itemsize
    return BloscCodec(typesize=size, cname="lz4", clevel=5, shuffle="bitshuffle" if size > 1 else "noshuffle")


def path(tile: str, level: int = 1) -> str:
    """The group of a tile, or of its copy with `level` times larger pixels."""
    return f"{TILES}/{tile}" if level == 1 else f"{TILES}/{tile}/{OVERVIEWS}/{level}"


def layers(schema: SceneSchema) -> tuple[str, ...]:
    """Names of the arrays (time, y, x): the bands, quality, scene."""
    return (*schema.names, QUALITY, SCENE)


# -- times -----------------------------------------------------------------------------------------------------------


def encode_times(times: Array) -> Array:
    """datetime64 (T,) -> int64 as stored."""
    return np.asarray(times).astype("datetime64[us]").astype("i8")


def decode_times(stored: Array) -> Array:
    """The inverse: datetime64[ns] (T,)."""
    return np.asarray(stored).astype("datetime64[us]").astype(NS)


# -- build -----------------------------------------------------------------------------------------------------------


def build(tx: Transaction, entry: SceneEntry, schema: SceneSchema) -> None:
    """Lay out an empty cube: attributes and the group of tiles."""
    set_attributes(tx, entry, schema)
    tx.group.require_group(TILES)


def set_attributes(tx: Transaction, entry: SceneEntry, schema: SceneSchema) -> None:
    """Root attributes: CF and ACDD, the schema with its hash, the entry."""
    tx.group.attrs.update(
        {
            "Conventions": "CF-1.11, ACDD-1.3",
            "title": entry.title,
            "license": entry.licence,
            "platform": entry.sensor,
            "processing_level": entry.level,
            "source": f"{entry.source.driver} via eoflow {__version__}",
            "eoflow_kind": "scenes",
            "eoflow_dataset": entry.name,
            "eoflow_schema": schema.model_dump_json(),
            "eoflow_schema_hash": schema.hash,
            "eoflow_entry": entry.model_dump_json(),
        }
    )


def add_tile(
    tx: Transaction, tile: str, grid: Grid, chunk: tuple[int, int], schema: SceneSchema, times: Array | None = None
) -> None:  # fmt: skip
    """Make the group of a tile, with room for `times` (datetime64; none if left out). chunk: (y, x) pixels.

    Raises BadInput for a name it cannot have.
    """
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tile) or ".." in tile:
        raise BadInput(f"'{tile}' is not a usable tile name", todo="letters, digits, '.', '_' and '-' only")
    factors = overview_factors(grid.shape, TileScheme.model_validate_json(schema.tiles))
    g = tx.group.create_group(path(tile), attributes=_tile_attrs(grid, chunk, factors))
    axis = np.empty(0, "i8") if times is None else np.unique(encode_times(times))
    tx.opened[path(tile)] = _arrays(g, grid, chunk, schema, axis)
    g.create_array(
        ITEMS, shape=axis.shape, chunks=(ITEMS_CHUNK,), dtype="string", fill_value="", dimension_names=("time",),
        attributes={"long_name": "the items of the time step, first wins (JSON)"},
    )  # fmt: skip
    rows, columns = (math.ceil(n / c) for n, c in zip(grid.shape, chunk, strict=True))
    p = g.create_group(PROVENANCE)
    p.create_array(
        FRACTION, shape=(axis.size, rows, columns), chunks=(1, rows, columns), dtype="f4", fill_value=np.nan,
        compressors=codec("f4"), dimension_names=("time", "chunk_y", "chunk_x"),
        attributes={"long_name": "share of the pixels of a chunk that hold a value", "units": "1"},
    )  # fmt: skip
    for f in factors:
        coarse = grid.coarser(f)
        small = (min(chunk[0], coarse.shape[0]), min(chunk[1], coarse.shape[1]))
        o = g.create_group(f"{OVERVIEWS}/{f}", attributes=_spatial_attrs(coarse) | {"coordinates": "spatial_ref"})
        tx.opened[path(tile, f)] = _arrays(o, coarse, small, schema, axis)


def _tile_attrs(grid: Grid, chunk: tuple[int, int], factors: Sequence[int]) -> dict[str, Any]:
    layout: list[dict[str, Any]] = [{"asset": ".", **_shape_attrs(grid)}]
    for f in factors:
        layout.append(
            {
                "asset": f"{OVERVIEWS}/{f}", "derived_from": ".", "resampling_method": "average",
                "transform": {"scale": [float(f), float(f)], "translation": [0.0, 0.0]},
                **_shape_attrs(grid.coarser(f)),
            }
        )  # fmt: skip
    return {
        **_spatial_attrs(grid),
        "zarr_conventions": _CONVENTIONS,
        "multiscales": {"layout": layout, "resampling_method": "average"},
        "coordinates": "spatial_ref items",
        "eoflow_grid": {"crs": grid.crs, "transform": list(grid.transform), "shape": list(grid.shape)},
        "eoflow_chunk": list(chunk),
        "eoflow_overviews": list(factors),
    }


def _shape_attrs(grid: Grid) -> dict[str, Any]:
    return {"spatial:shape": list(grid.shape), "spatial:transform": list(grid.transform)}


def _spatial_attrs(grid: Grid) -> dict[str, Any]:
    from odc.geo.crs import CRS

    crs = CRS(grid.crs)
    code = {"proj:code": f"EPSG:{crs.to_epsg()}"} if crs.to_epsg() else {}
    return {
        "zarr_conventions": _CONVENTIONS[1:], **code, "proj:wkt2": crs.to_wkt(),
        "spatial:dimensions": ["y", "x"], "spatial:bbox": list(grid.bounds), **_shape_attrs(grid),
    }  # fmt: skip


def _arrays(
    g: Any, grid: Grid, chunk: tuple[int, int], schema: SceneSchema, axis: Array
) -> dict[str, zarr.Array]:  # fmt: skip
    """Coordinates, grid mapping and the arrays (time, y, x) of one level; returns the latter."""
    about = {"standard_name": "time", "axis": "T", "units": TIME_UNITS, "calendar": "proleptic_gregorian"}
    time = g.create_array(
        "time", shape=axis.shape, chunks=(TIME_CHUNK,), dtype="i8", dimension_names=("time",), attributes=about
    )  # fmt: skip
    if axis.size:
        time[:] = axis
    for name, values in (("y", grid.y()), ("x", grid.x())):
        a = g.create_array(
            name, shape=values.shape, chunks=values.shape, dtype="f8", dimension_names=(name,),
            attributes=_axis_attrs(grid.crs, name),
        )  # fmt: skip
        a[:] = values
    g.create_array("spatial_ref", shape=(), dtype="i8", dimension_names=(), attributes=mapping_attrs(grid))[...] = 0
    named: dict[str, tuple[Any, Any, dict[str, Any]]] = {b.name: (b.dtype, b.fill, _attrs(b)) for b in schema.bands}
    placed = {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    named[QUALITY] = ("u1", 0, QUALITY_ATTRS | placed)
    named[SCENE] = ("u1", 0, {"long_name": "which of the items of the time step (1, 2, ...); 0 none"} | placed)
    return {
        name: g.create_array(
            name, shape=(axis.size, *grid.shape), chunks=(1, *chunk), dtype=dtype, fill_value=fill,
            compressors=codec(dtype), dimension_names=("time", "y", "x"), attributes=attrs,
        )
        for name, (dtype, fill, attrs) in named.items()
    }  # fmt: skip


def _attrs(spec: BandSpec) -> dict[str, Any]:
    """CF attributes in the form that xarray reads from Zarr v3 (a float `_FillValue` as base64, NaN left out)."""
    attrs = dict(spec.attrs)
    if "_FillValue" in attrs and np.dtype(spec.dtype).kind == "f":
        value = float(attrs.pop("_FillValue"))
        if not math.isnan(value):
            attrs["_FillValue"] = base64.standard_b64encode(struct.pack("<d", value)).decode()
    return attrs


def _axis_attrs(crs: str, name: str) -> dict[str, Any]:
    from odc.geo.crs import CRS

    axis = name.upper()
    if CRS(crs).geographic:
        long, units = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[name]
        return {"standard_name": long, "long_name": f"{long} of the pixel's centre", "units": units, "axis": axis}
    return {
        "standard_name": f"projection_{name}_coordinate", "long_name": f"{name} of the pixel's centre",
        "units": "m", "axis": axis,
    }  # fmt: skip


def mapping_attrs(grid: Grid) -> dict[str, Any]:
    """CF grid mapping of a grid, with the WKT and the GeoTransform that GDAL and rioxarray look for."""
    from odc.geo.crs import CRS

    crs = CRS(grid.crs)
    a, b, c, d, e, f = grid.transform
    wkt = crs.to_wkt()
    cf = {k: list(v) if isinstance(v, tuple) else v for k, v in crs.proj.to_cf().items()}
    return cf | {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": " ".join(f"{v!r}" for v in (c, a, b, f, d, e))}


# -- room along time ---------------------------------------------------------------------------------------------------


def place(tx: Transaction, tile: str, times: Array) -> Array:
    """Make room for `times` (datetime64) on a tile's axis and return their positions on it.

    Later slots move up with their encoded chunks; new slots hold nothing (quality `missing`).
    """
    g: Any = tx.group[path(tile)]
    old = np.asarray(g["time"][:])
    new = np.union1d(old, encode_times(times)).astype("i8")
    at = np.searchsorted(new, encode_times(times))
    if new.size == old.size:
        return at
    to = np.searchsorted(new, old)
    fresh = np.setdiff1d(np.arange(new.size), to)
    items = np.full(new.size, "", dtype=object)
    items[to] = np.asarray(g[ITEMS][:], dtype=object)
    schema = SceneSchema.model_validate_json(str(tx.group.attrs["eoflow_schema"]))
    along: list[Any] = [g[f"{PROVENANCE}/{FRACTION}"]]
    axes: list[Any] = []
    for level in (1, *(int(f) for f in g.attrs["eoflow_overviews"])):
        along += opened(tx, tile, schema, level).values()
        axes.append(tx.group[f"{path(tile, level)}/time"])
    noted: Any = g[ITEMS]
    chunks.lengthen([*along, *axes, noted], new.size)
    for array in along:
        _spread(array, to, fresh)
    for time in axes:
        time[:] = new
    noted[:] = items
    tx.forget()
    return at


def _spread(array: zarr.Array, to: Array, fresh: Array) -> None:
    """Move slot i of an array with chunks of one time to slot to[i] (never down), and empty the slots `fresh`."""
    for i in range(to.size - 1, -1, -1):
        if to[i] == i:
            break
        chunks.move(array, i, int(to[i]))
    for i in fresh:
        if i < to.size:  # beyond the old end there is nothing to empty
            chunks.clear(array, int(i))


# -- writing -----------------------------------------------------------------------------------------------------------


def write(
    arrays: Mapping[str, zarr.Array], slot: int, rows: slice, columns: slice, values: Mapping[str, Array]
) -> None:
    """Write a window (y, x) of some layers at position `slot` of the time axis; chunks of fill only are not stored."""
    where = (slice(slot, slot + 1), rows, columns)
    chunks.write_many([(arrays[name], where, data[None]) for name, data in values.items()])


def arrays_of(root: zarr.Group, tile: str, schema: SceneSchema, level: int = 1) -> dict[str, zarr.Array]:
    """The arrays (time, y, x) of a tile by layer name, from an open root group."""
    group: Any = root[path(tile, level)]
    return chunks.open_together(group, layers(schema))


def opened(tx: Transaction, tile: str, schema: SceneSchema, level: int = 1) -> dict[str, zarr.Array]:
    """As `arrays_of`, opened once in a transaction (they follow when the axis grows)."""
    where = path(tile, level)
    if where not in tx.opened:
        tx.opened[where] = arrays_of(tx.group, tile, schema, level)
    return tx.opened[where]


def clear(tx: Transaction, tile: str, schema: SceneSchema, slot: int) -> None:
    """Empty a time step that was begun: its layers, on all levels."""
    factors: Any = tx.group[path(tile)].attrs["eoflow_overviews"]
    for level in (1, *(int(f) for f in factors)):
        for array in opened(tx, tile, schema, level).values():
            chunks.clear(array, slot)


def set_items(tx: Transaction, tile: str, slots: Sequence[int], items: Sequence[list[dict[str, Any]]]) -> None:
    """Note the items of time steps (and nothing else)."""
    a: Any = tx.array(f"{path(tile)}/{ITEMS}")
    first, last = min(slots), max(slots) + 1
    stored = np.asarray(a[first:last], dtype=object)
    for slot, some in zip(slots, items, strict=True):
        stored[slot - first] = json.dumps(some, sort_keys=True, separators=(",", ":")) if some else ""
    a[first:last] = stored


def set_fractions(tx: Transaction, tile: str, slots: Sequence[int], fractions: Sequence[Array]) -> None:
    """Note the shares of valid pixels (chunk row, chunk column) of time steps."""
    a = tx.array(f"{path(tile)}/{PROVENANCE}/{FRACTION}")
    pieces = [(a, (slice(slot, slot + 1),), f[None]) for slot, f in zip(slots, fractions, strict=True)]
    chunks.write_many(pieces, drop_empty=False)
