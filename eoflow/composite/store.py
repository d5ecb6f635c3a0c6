"""The Zarr store of a composite: one group a tile, built beside its place and renamed there."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.cube_layout import TIME_UNITS, codec, encode_times
from eoflow.errors import BadInput
from eoflow.export.georef import fill_attr, put_grid
from eoflow.export.publish import into_place, refuse_existing, remove
from eoflow.tiling import Grid
from eoflow.times import Period
from eoflow.workspace import Workspace

KIND = "composite"
STATS = "eoflow_tiles"
LAYERS: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "count": ("uint16", None, {"long_name": "number of clear observations", "units": "1"}),
    "age": ("int16", -1, {"long_name": "age of the chosen observation at the end of the period", "units": "d"}),
    "source": ("int16", -1, {"long_name": "position of the chosen observation in source_time and source_items"}),
}


def build(
    folder: Path, tile: str, grid: Grid, chunk: tuple[int, int], bands: Sequence[BandSpec],
    times: Sequence[np.datetime64], items: Sequence[str], span: Period, provenance: dict[str, str],
) -> None:  # fmt: skip
    """Empty arrays of one tile."""
    import zarr

    root = zarr.open_group(str(folder), mode="a", zarr_format=3)
    g = root.create_group(f"tiles/{tile}")
    put_grid(g, grid)
    placed = {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    arrays: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for b in bands:
        attrs = {k: v for k, v in b.attrs.items() if k != "_FillValue"} | fill_attr(b.dtype, b.nodata)
        arrays[b.name] = (b.dtype, b.fill, attrs | {"ancillary_variables": " ".join(LAYERS)})
    for name, (dtype, nodata, attrs) in LAYERS.items():
        arrays[name] = (dtype, nodata or 0, attrs | fill_attr(dtype, nodata))
    shape = grid.shape
    for name, (dtype, fill, attrs) in arrays.items():
        g.create_array(
            name, shape=shape, chunks=(min(chunk[0], shape[0]), min(chunk[1], shape[1])), dtype=dtype, fill_value=fill,
            compressors=codec(dtype), dimension_names=("y", "x"), attributes=attrs | placed,
        )  # fmt: skip
    stamps = encode_times(np.array(times))
    g.create_array(
        "source_time", shape=stamps.shape, chunks=stamps.shape, dtype="i8", dimension_names=("observation",),
        attributes={"long_name": "times of the observations", "units": TIME_UNITS, "calendar": "proleptic_gregorian"},
    )[:] = stamps  # fmt: skip
    names = g.create_array(
        "source_items", shape=stamps.shape, chunks=stamps.shape, dtype=str, dimension_names=("observation",),
        attributes={"long_name": "items of the observations (JSON)"},
    )  # fmt: skip
    names[:] = np.array(items, dtype=object)
    title = f"{provenance['method']} composite of {provenance['dataset']}, {tile}"
    g.attrs.update(_attrs(provenance) | {"title": title, "period": str(span), "eoflow_tile": tile,
                                          "eoflow_bands": [b.name for b in bands]})  # fmt: skip


def _attrs(provenance: dict[str, str]) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11", "source": f"eoflow {provenance['code_version']}", "eoflow_kind": KIND,
        "history": f"{provenance['created']} {provenance['command']}", "eoflow_provenance": json.dumps(provenance),
    }  # fmt: skip


def finish(folder: Path, stats: dict[str, dict[str, Any]], provenance: dict[str, str]) -> None:
    """What is known at the end, and consolidated metadata."""
    import zarr

    root: Any = zarr.open_group(str(folder), mode="r+", zarr_format=3)
    for tile, s in stats.items():
        root[f"tiles/{tile}"].attrs["eoflow_unobserved"] = s["unobserved"]
    root.attrs.update(_attrs(provenance) | {"period": provenance["period"], STATS: stats})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        for tile in stats:
            zarr.consolidate_metadata(str(folder), path=f"tiles/{tile}", zarr_format=3)
        zarr.consolidate_metadata(str(folder), zarr_format=3)


def found_at(ws: Workspace, where: tuple[str, ...], out: str | Path | None, identity: str) -> dict[str, Any] | None:
    """The statistics of the finished composite that is there; None: there is none. Raises BadInput for another."""
    import zarr

    place = Path(out).absolute() if out is not None else None
    if not (place.exists() if place is not None else ws.exists(*where)):
        return None
    options = {} if place is not None or ws.is_local else {"storage_options": ws.storage_options()}
    group = zarr.open_group(str(place or ws.url(*where)), mode="r", zarr_format=3, **options)  # type: ignore[arg-type]
    said = json.loads(str(group.attrs.get("eoflow_provenance", "{}")))
    if said.get("identity") != identity:
        raise BadInput(f"{place} holds something else", todo="give another --out")
    stats: Any = group.attrs[STATS]
    return dict(stats)


@contextmanager
def unfinished(ws: Workspace, where: tuple[str, ...], out: str | Path | None) -> Iterator[Path]:
    """A folder to build in: beside the destination, or in the cache for an object store. Removed where work fails."""
    if out is None and not ws.is_local:
        with tempfile.TemporaryDirectory(dir=ws.cache, prefix="composite-") as temp:
            yield Path(temp) / where[-1]
        return
    dest = ws.path(*where) if out is None else Path(out).absolute()
    dest.parent.mkdir(parents=True, exist_ok=True)
    folder = dest.with_name(f".tmp-{dest.name}")  # one name: what a killed run left is cleared away by the next
    remove(folder)
    try:
        yield folder
    finally:
        remove(folder)


def publish(folder: Path, ws: Workspace, where: tuple[str, ...], out: str | Path | None) -> None:
    """Rename into place; to an object store: copy, the root's metadata last, without which nothing opens."""
    if out is not None or ws.is_local:
        dest = ws.path(*where) if out is None else Path(out).absolute()
        refuse_existing(dest, overwrite=False)
        into_place(folder, dest)
        return
    fs, url = ws.fs(), ws.url(*where)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    last = folder / "zarr.json"
    for path in [p for p in files if p != last] + [last]:
        fs.put_file(str(path), f"{url}/{path.relative_to(folder).as_posix()}")
