"""The Zarr store of a task's product: one group a tile, (time, y, x); in the making beside its place, then renamed.

    /                        attributes: provenance, summary
    /tiles/TILE              time, y, x, spatial_ref; one array a layer (time, y, x)
                             source_time, source_items (time, date): the scenes that each map was made from

A run that was killed is taken up where it stopped: beside the store lies one byte a window, 1 when it is written.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eoflow import chunks
from eoflow.bands import BandSpec
from eoflow.cube_layout import TIME_UNITS, codec, encode_times
from eoflow.errors import BadInput
from eoflow.export.georef import fill_attr, put_grid
from eoflow.export.publish import into_place, refuse_existing, remove
from eoflow.tasks.base import LayerSpec
from eoflow.tiling import Grid
from eoflow.windows import Box, Layer
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]
SUMMARY = "eoflow_summary"
GEOZARR = "https://github.com/zarr-conventions"
KINDS = {
    "segmentation": "flood", "change-detection": "change", "cloud-removal": "clouds", "despeckling": "despeckle",
}  # fmt: skip
"""Task -> verb, and folder of its products."""
SCENE_BY_SCENE = ("segmentation", "despeckling")
"""Tasks whose maps are of one scene each."""


@dataclass(frozen=True)
class Plane:
    """One array of a product. physical = stored * scale + offset."""

    name: str
    dtype: str
    nodata: float | None
    scale: float = 1.0
    offset: float = 0.0
    attrs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_band(cls, band: BandSpec) -> Plane:
        """A band as the cube stores it; an integer band without nodata gets 0."""
        whole = np.dtype(band.dtype).kind in "iu"
        nodata = 0.0 if band.nodata is None and whole else band.nodata
        attrs = {k: v for k, v in band.attrs.items() if k not in ("_FillValue", "grid_mapping", "coordinates")}
        return cls(band.name, band.dtype, nodata, band.scale, band.offset, attrs)

    @property
    def fill(self) -> Any:
        """What stands where there is no value."""
        kind = np.dtype(self.dtype)
        return kind.type((np.nan if kind.kind == "f" else 0) if self.nodata is None else self.nodata)

    def pack(self, values: Array) -> Array:
        """Physical float32, NaN for none -> stored. No value becomes nodata by being cut to the type's range."""
        dtype = np.dtype(self.dtype)
        void = ~np.isfinite(values)
        with np.errstate(invalid="ignore"):
            out = (values.astype("f8") - self.offset) / self.scale
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            low, high = info.min + int(self.nodata == info.min), info.max - int(self.nodata == info.max)
            out = np.clip(np.rint(np.where(void, 0, out)), low, high)
            if self.nodata is not None and low < self.nodata < high:
                out[out == self.nodata] += 1
        packed = out.astype(dtype)
        packed[void] = self.fill
        return packed


def planes(layers: Sequence[LayerSpec], bands: Sequence[BandSpec]) -> dict[str, tuple[Plane, ...]]:
    """The arrays of each layer: `image` has the bands of the cube, others one or one a band (LAYER_BAND, by the cube's
    name of it; a network may have been trained with another)."""
    out: dict[str, tuple[Plane, ...]] = {}
    for layer in layers:
        if layer.name == "image":
            out[layer.name] = tuple(Plane.of_band(b) for b in bands)
        elif layer.bands:
            known = [b.name for b in bands] if len(bands) == len(layer.bands) else layer.bands
            names = [f"{layer.name}_{b}" for b in known]
            out[layer.name] = tuple(Plane(n, layer.dtype, layer.nodata, attrs=layer.attrs) for n in names)
        else:
            out[layer.name] = (Plane(layer.name, layer.dtype, layer.nodata, attrs=layer.attrs),)
    return out


def window_layer(spec: LayerSpec, arrays: Sequence[Plane]) -> Layer:
    """The layer as the runner writes it: images as physical float32, which the sink packs."""
    names = tuple(p.name for p in arrays)
    if spec.name == "image":
        return Layer("image", names, "float32", float("nan"))
    nodata = float("nan") if spec.nodata is None and np.dtype(spec.dtype).kind == "f" else spec.nodata
    return Layer(spec.name, names, spec.dtype, nodata, categorical="flag_values" in spec.attrs, attrs=spec.attrs)


class StepSink:
    """One layer of one time step of a tile. keep: (h, w) masks and values that the network's own give way to."""

    def __init__(
        self, layer: Layer, group: str, step: int, arrays: Sequence[Plane], keep: Any | None = None,
        mask: Any | None = None,
    ) -> None:  # fmt: skip
        self.layer, self.group, self.step, self.arrays = layer, group, step, tuple(arrays)
        self.keep, self.mask = keep, mask
        self._open: list[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def write(self, box: Box, values: Array) -> None:
        """Write one box (K, h, w)."""
        if self._open is None:
            import zarr

            group: Any = zarr.open_group(self.group, mode="r+", zarr_format=3)
            self._open = [group[p.name] for p in self.arrays]
        packed = settled(self.layer, self.arrays, values, box, self.keep, self.mask)
        for array, plane in zip(self._open, packed, strict=True):
            chunks.write(array, (slice(self.step, self.step + 1), *box.slices), plane[None])


def settled(
    layer: Layer, arrays: Sequence[Plane], values: Array, box: Box, keep: Any | None, mask: Any | None
) -> list[Array]:
    """The stored planes of a box: observed pixels kept, pixels outside the area nodata, images packed."""
    if keep is not None:
        values = keep(layer.name, box, values)
    image = layer.name == "image"
    out = [p.pack(v) if image else v for p, v in zip(arrays, values, strict=True)]
    if mask is not None:
        outside = ~mask(*box.slices)
        for p, v in zip(arrays, out, strict=True):
            v[outside] = p.fill
    return out


# -- in the making ---------------------------------------------------------------------------------------------------


class Making:
    """A store beside `dest`, and which of its `jobs` windows are written. Taken up if it has the same identity."""

    def __init__(self, dest: Path, identity: str, jobs: int) -> None:
        self.dest, self.jobs = dest, jobs
        self.folder = dest.with_name(f".{dest.name}.partial")
        self.bitmap = dest.with_name(f".{dest.name}.done")
        said = f"{identity} {jobs}".encode()
        self.fresh = not (
            self.folder.is_dir() and self.bitmap.is_file() and self.bitmap.read_bytes()[jobs:] == said
        )  # fmt: skip
        if self.fresh:
            self.discard()
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._said = said

    def built(self) -> None:
        """The empty arrays are there: without the list of windows the folder is nothing that could be taken up."""
        self.bitmap.write_bytes(bytes(self.jobs) + self._said)

    def done(self, first: int, count: int) -> Array:
        """Which of some jobs are written: bool."""
        found = np.frombuffer(self.bitmap.read_bytes(), np.uint8, self.jobs)
        return np.asarray(found[first : first + count] == 1)

    def mark(self, job: int) -> None:
        """This job is written."""
        fd = os.open(self.bitmap, os.O_WRONLY)
        try:
            os.pwrite(fd, b"\x01", job)
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Forget what is unfinished."""
        self.bitmap.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def add_tile(
    folder: Path, tile: str, grid: Grid, chunk: tuple[int, int], arrays: Sequence[Plane],
    times: Sequence[np.datetime64], sources: Sequence[Sequence[tuple[np.datetime64, str]]], attrs: dict[str, Any],
) -> None:  # fmt: skip
    """Empty arrays (time, y, x) of one tile. sources: (time, items as JSON) of the scenes of each map."""
    import zarr

    root = zarr.open_group(str(folder), mode="a", zarr_format=3)
    g = root.create_group(f"tiles/{tile}")
    put_grid(g, grid)
    axis: dict[str, Any] = {"standard_name": "time", "axis": "T"}
    time = axis | {"units": TIME_UNITS, "calendar": "proleptic_gregorian"}
    stamps = encode_times(np.array(times))
    g.create_array("time", shape=stamps.shape, chunks=stamps.shape, dtype="i8", dimension_names=("time",),
                   attributes=time)[:] = stamps  # fmt: skip
    for plane in arrays:
        add_array(g, plane, (len(times), *grid.shape), (1, *chunk))
    dates = max(len(s) for s in sources)
    when = np.full((len(times), dates), np.iinfo("i8").min, "i8")
    items = np.full((len(times), dates), "", dtype=object)
    for i, some in enumerate(sources):
        for j, (t, text) in enumerate(some):
            when[i, j], items[i, j] = encode_times(np.array([t]))[0], text
    said: dict[str, Any] = {"long_name": "times of the scenes that a map was made from", "units": TIME_UNITS,
            "calendar": "proleptic_gregorian", "_FillValue": int(np.iinfo("i8").min)}  # fmt: skip
    g.create_array("source_time", shape=when.shape, chunks=when.shape, dtype="i8", fill_value=np.iinfo("i8").min,
                   dimension_names=("time", "date"), attributes=said)[:] = when  # fmt: skip
    g.create_array("source_items", shape=items.shape, chunks=items.shape, dtype=str, dimension_names=("time", "date"),
                   attributes={"long_name": "items of those scenes (JSON)"})[:] = items  # fmt: skip
    g.attrs.update(attrs | placed_attrs(grid) | {"eoflow_tile": tile})


def add_array(group: Any, plane: Plane, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Any:
    """One array of a layer."""
    attrs = dict(plane.attrs) | fill_attr(plane.dtype, plane.nodata)
    if (plane.scale, plane.offset) != (1.0, 0.0):
        attrs |= {"scale_factor": plane.scale, "add_offset": plane.offset}
    names = ("time", "y", "x") if len(shape) == 3 else ("y", "x")
    sides = tuple(min(c, n) for c, n in zip(chunk, shape, strict=True))
    attrs |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    return group.create_array(
        plane.name, shape=shape, chunks=sides, dtype=plane.dtype, fill_value=plane.fill, dimension_names=names,
        compressors=codec(plane.dtype), attributes=attrs,
    )  # fmt: skip


def placed_attrs(grid: Grid) -> dict[str, Any]:
    """GeoZarr attributes (conventions proj and spatial) of a group on a grid."""
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    code = crs.to_epsg(min_confidence=100)
    named = ("proj", "spatial")
    return {
        "zarr_conventions": [{"name": n, "spec_url": f"{GEOZARR}/{'geo-' * (n == 'proj')}{n}"} for n in named],
        **({"proj:code": f"EPSG:{code}"} if code else {}), "proj:wkt2": crs.to_wkt(),
        "spatial:dimensions": ["y", "x"], "spatial:bbox": list(grid.bounds), "spatial:shape": list(grid.shape),
        "spatial:transform": list(grid.transform),
    }  # fmt: skip


def chunk_of(shape: tuple[int, int], core: tuple[int, int]) -> tuple[int, int]:
    """Chunk of the arrays: at most 512 pixels a side, and whole chunks in a core, so that each has one writer."""
    sides = []
    for n, c in zip(shape, core, strict=True):
        sides.append(min(n, 512) if c >= n else max(k for k in range(1, min(c, 512) + 1) if c % k == 0))
    return sides[0], sides[1]


# -- finished --------------------------------------------------------------------------------------------------------


def root_attrs(provenance: dict[str, str], title: str) -> dict[str, Any]:
    """Attributes of every group."""
    return {
        "Conventions": "CF-1.11", "title": title, "source": f"eoflow {provenance['code_version']}",
        "history": f"{provenance['created']} {provenance['command']}", "eoflow_kind": provenance["verb"],
        "eoflow_provenance": json.dumps(provenance),
    }  # fmt: skip


def finish(folder: Path, tiles: Sequence[str], attrs: dict[str, Any], summary: dict[str, Any]) -> None:
    """What is known at the end, and consolidated metadata."""
    import zarr

    root: Any = zarr.open_group(str(folder), mode="r+", zarr_format=3)
    for tile in tiles:
        rows = [r for r in summary["areas"] if r["tile"] == tile]
        root[f"tiles/{tile}"].attrs.update(attrs | ({"eoflow_areas": rows} if rows else {}))
    root.attrs.update(attrs | {SUMMARY: summary})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        for tile in tiles:
            zarr.consolidate_metadata(str(folder), path=f"tiles/{tile}", zarr_format=3)
        zarr.consolidate_metadata(str(folder), zarr_format=3)


def place_of(ws: Workspace, where: tuple[str, ...], out: str | Path | None) -> Path:
    """The folder that a store is made into: its place, or in the cache for an object store."""
    if out is not None:
        return Path(out).absolute()
    return ws.path(*where) if ws.is_local else ws.cache.joinpath(*where)


def found_at(ws: Workspace, where: tuple[str, ...], out: str | Path | None, identity: str) -> dict[str, Any] | None:
    """The summary of the finished product that is there; None: there is none. Raises BadInput for another."""
    import zarr

    place = Path(out).absolute() if out is not None else None
    if not (place.exists() if place is not None else ws.exists(*where)):
        return None
    options = {} if place is not None or ws.is_local else {"storage_options": ws.storage_options()}
    try:
        group = zarr.open_group(str(place or ws.url(*where)), mode="r", zarr_format=3, **options)  # type: ignore[arg-type]
        said = json.loads(str(group.attrs.get("eoflow_provenance", "{}")))
    except (FileNotFoundError, ValueError):
        said = {}
    if said.get("identity") != identity:
        raise BadInput(f"{place or ws.url(*where)} holds something else", todo="give another --out")
    summary: Any = group.attrs[SUMMARY]
    return dict(summary)


def publish(making: Making, ws: Workspace, where: tuple[str, ...], out: str | Path | None) -> None:
    """Rename into place; to an object store: copy, the root's metadata last, without which nothing opens."""
    if out is not None or ws.is_local:
        refuse_existing(making.dest, overwrite=False)
        into_place(making.folder, making.dest)
        making.discard()
        return
    fs, url, folder = ws.fs(), ws.url(*where), making.folder
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    last = folder / "zarr.json"
    for path in [p for p in files if p != last] + [last]:
        fs.put_file(str(path), f"{url}/{path.relative_to(folder).as_posix()}")
    making.discard()
    remove(making.dest)
