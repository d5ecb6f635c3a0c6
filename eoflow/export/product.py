"""What can be exported, found by name: a time step of a cube, a composite, or any dataset with a spatial_ref."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.export.georef import grid_of
from eoflow.registry import nearest
from eoflow.tiling import Grid
from eoflow.times import NS, Period, iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr

HOW = (
    "DATASET:TILE:TIME, composite:DATASET[:ID], flood|change|clouds|despeckle:DATASET[:ID[:TIME]],"
    " or the path of a .zarr with a spatial_ref"
)


@dataclass(frozen=True)
class Piece:
    """One tile of a product: variables (y, x), stored values, with its grid."""

    tile: str
    ds: xr.Dataset
    grid: Grid


@dataclass(frozen=True)
class Product:
    """An image, or several tiles of one. id: usable as a file name. times: first and last instant that it shows.

    provenance: what it was made from, as text by name; `bands` of the catalog travel in the variables' attributes.
    """

    id: str
    kind: str
    pieces: tuple[Piece, ...]
    times: tuple[np.datetime64, np.datetime64] | None = None
    provenance: dict[str, str] = field(default_factory=dict)

    def select(self, bands: Sequence[str] | None) -> Product:
        """Only these variables. Raises BadInput naming what there is."""
        if bands is None:
            return self
        known = [str(v) for v in self.pieces[0].ds.data_vars]
        for b in bands:
            if b not in known:
                raise BadInput(f"no variable '{b}'{nearest(b, known)}", todo=f"there are {', '.join(known)}")
        return replace(self, pieces=tuple(replace(p, ds=p.ds[list(bands)]) for p in self.pieces))


def find(
    product: str | Path | xr.Dataset, workspace: Workspace | str | None = None, as_of: str | None = None
) -> Product:
    """The product called so. Raises BadInput with what there is."""
    import xarray as xr

    if isinstance(product, xr.Dataset):
        return _of_dataset(product, "dataset")
    text = str(product)
    if isinstance(product, Path) or text.endswith((".zarr", ".nc")):
        return _of_path(Path(product))
    ws = Workspace.of(workspace)
    first, _, rest = text.partition(":")
    if first == "composite":
        dataset, _, which = rest.partition(":")
        return _composite(ws, dataset, which)
    if first in ("flood", "change", "clouds", "despeckle") and rest:
        dataset, which, time = [*rest.split(":", 2), "", ""][:3]
        return _image_task(ws, first, dataset, which, time)
    if not rest:
        raise BadInput(f"'{text}' does not say which product", todo=f"write {HOW}")
    tile, _, time = rest.partition(":")
    return _step(ws, first, tile, time, as_of)


def _of_dataset(ds: xr.Dataset, name: str) -> Product:
    """A dataset with dims y and x; a `time` of size one is taken off."""
    for dim in [d for d in ds.dims if d not in ("y", "x") and ds.sizes[d] == 1]:
        ds = ds.squeeze(dim)
    attrs = {str(k): v for k, v in ds.attrs.items()}
    first = [n for n in attrs.get("eoflow_bands", ()) if n in ds.data_vars]  # a Zarr group keeps no order
    named = [*first, *(v for v in ds.data_vars if v not in first)]
    flat = [str(v) for v in named if set(ds[v].dims) == {"y", "x"}]
    more = [f"{v} ({', '.join(map(str, ds[v].dims))})" for v in ds.data_vars if {"y", "x"} < set(ds[v].dims)]
    if more:
        raise BadInput(f"more than one image in {', '.join(more[:3])}", todo="select one time (and level) first")
    if not flat:
        raise BadInput("no variable with dims y and x", where=name)
    times: tuple[np.datetime64, np.datetime64] | None = None
    if "time" in ds.coords and ds["time"].ndim == 0:
        when: Any = np.asarray(ds["time"].values).astype(NS)[()]
        times = (when, when)
    if times is None and "period" in attrs:
        period = Period.parse(str(attrs["period"]))
        times = (period.start, period.end)
    said = json.loads(str(attrs.get("eoflow_provenance", "{}")))
    provenance = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
    return Product(name, str(attrs.get("eoflow_kind", "image")), (Piece("", ds[flat], grid_of(ds)),), times, provenance)


def _of_path(path: Path) -> Product:
    import xarray as xr

    if not path.exists():
        raise BadInput(f"there is no {path}", todo=f"write {HOW}")
    if path.suffix == ".nc":
        return _of_dataset(xr.open_dataset(path, engine="h5netcdf", chunks={}, mask_and_scale=False), path.stem)
    return _of_store(str(path), path.stem, {})


def _of_store(location: str, name: str, options: dict[str, Any]) -> Product:
    """A Zarr store of one image, or with a group a tile."""
    import xarray as xr
    import zarr

    group: Any = zarr.open_group(location, mode="r", zarr_format=3, **options)
    tiles = sorted(group["tiles"].group_keys()) if "tiles" in group else [""]
    parts = []
    for tile in tiles:
        inner = f"tiles/{tile}" if tile else None
        ds = xr.open_zarr(location, group=inner, mask_and_scale=False, **options)
        parts.append((tile, _of_dataset(ds, name)))
    head = parts[0][1]
    return replace(head, pieces=tuple(replace(p.pieces[0], tile=tile) for tile, p in parts))


def _composite(ws: Workspace, dataset: str, which: str) -> Product:
    """The composite of `dataset` whose id begins with `which`; without it the one made last."""
    import zarr

    parts = ("products", "composite", dataset)
    names = [n for n in ws.names(*parts) if n.endswith(".zarr")] if dataset else []
    if not names:
        known = ", ".join(ws.names("products", "composite")) or "none"
        raise BadInput(f"there is no composite of '{dataset}'", where=ws.url("products", "composite"),
                       todo=f"eoflow composite DATASET --period P (made so far of: {known})")  # fmt: skip
    found = [n for n in names if n.startswith(which)]
    if which and len(found) != 1:
        raise BadInput(f"'{which}' names {len(found)} composites of '{dataset}'", todo=f"there are {', '.join(names)}")
    options = {} if ws.is_local else {"storage_options": ws.storage_options()}

    def created(name: str) -> str:
        group = zarr.open_group(ws.url(*parts, name), mode="r", zarr_format=3, **options)  # type: ignore[arg-type]
        return str(json.loads(str(group.attrs["eoflow_provenance"]))["created"])

    chosen = found[0] if len(found) == 1 else max(found, key=created)
    stem = chosen.removesuffix(".zarr")
    return replace(_of_store(ws.url(*parts, chosen), stem, options), id=f"{dataset}-{stem}")


def _image_task(ws: Workspace, verb: str, dataset: str, which: str, time: str) -> Product:
    """One date (the last) of every tile of an image task's product; without an id the one made last."""
    import xarray as xr
    import zarr

    from eoflow.holdings import image_products

    place = image_products(ws, verb, dataset, which=which)[-1]
    options: dict[str, Any] = {} if ws.is_local else {"storage_options": ws.storage_options()}
    group: Any = zarr.open_group(ws.url(*place), mode="r", zarr_format=3, **options)
    span = Period.parse(time) if time else None
    pieces, shown, known = [], [], []
    head: Product | None = None
    for tile in sorted(group["tiles"].group_keys()):
        ds = xr.open_zarr(ws.url(*place), group=f"tiles/{tile}", mask_and_scale=False, **options)
        times = ds["time"].values.astype(NS)
        known += list(times)
        at = np.arange(times.size) if span is None else np.flatnonzero(span.contains(times))
        if not at.size:
            continue
        order = list(ds.attrs.get("eoflow_bands", ()))
        flat = [v for v in ds.data_vars if {"y", "x"} <= set(ds[v].dims)]
        one = ds[flat].isel(time=int(at[-1]))
        one.attrs["eoflow_bands"] = [*order, *(str(v) for v in flat if v not in order)]
        head = _of_dataset(one, place[-1].removesuffix(".zarr"))
        pieces.append(replace(head.pieces[0], tile=tile))
        shown.append(times[at[-1]])
    if head is None:
        raise BadInput(f"the product has no map of {time}", where=ws.url(*place),
                       todo=f"it has {', '.join(iso(t) for t in sorted(set(known))[:8])}")  # fmt: skip
    name = f"{verb}-{dataset}-{head.id}"
    return replace(head, id=name, kind=verb, pieces=tuple(pieces), times=(min(shown), max(shown)))


def _step(ws: Workspace, dataset: str, tile: str, time: str, as_of: str | None) -> Product:
    """One time step of a cube; without a time the last that holds something."""
    from eoflow import __version__
    from eoflow.cube import Cube

    cube = Cube.load(ws, dataset)
    if not tile and len(cube.tiles(as_of)) == 1:
        tile = cube.tiles(as_of)[0]
    times = cube.times(tile, as_of)
    held = [i for i in range(times.size) if cube.items(tile, i, as_of)]
    if time:
        period = Period.parse(time)
        held = [i for i in held if period.contains(times[i])]
        if len(held) != 1:
            near = sorted(times, key=lambda t: abs(t - period.start))[:4]
            raise BadInput(
                f"{len(held)} scenes of tile {tile} at {time}", where=dataset,
                todo=f"near it are {', '.join(iso(t) for t in near) or 'none'}",
            )  # fmt: skip
    if not held:
        raise BadInput(f"tile {tile} of '{dataset}' holds no scene yet", todo=f"eoflow ingest {dataset}")
    i = held[-1]
    ds = cube.open(tile, as_of).isel(time=i).drop_vars("items", errors="ignore")
    items = cube.items(tile, i, as_of)
    schema = cube.schema
    ds = ds[[*schema.names, *(str(v) for v in ds.data_vars if v not in schema.names)]]
    provenance = {
        "dataset": dataset, "tile": tile, "archive_snapshot": cube.archive.resolve(as_of), "sensor": schema.sensor,
        "level": schema.level, "items": ", ".join(str(item["id"]) for item in items), "code_version": __version__,
    }  # fmt: skip
    stamp = str(times[i].astype("datetime64[s]")).replace("-", "").replace(":", "")
    grid = cube.grid(tile, as_of)
    return Product(f"{dataset}-{tile}-{stamp}", "scene", (Piece(tile, ds, grid),), (times[i], times[i]), provenance)
