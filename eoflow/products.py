"""Products: the forecast cube, the published latest run, and exports.

    products/forecast/DATASET/MODEL/cube          Icechunk: every run; one commit a batch of runs
    products/forecast/DATASET/MODEL/runs/INIT.zarr  the last few runs, plain Zarr, immutable
    products/forecast/DATASET/MODEL/latest.zarr   -> the newest of them
    products/forecast/latest.zarr                 -> the newest run of all

Dims (init_time, lead_time, [member,] [level,] latitude, longitude). A run is published after its commit: it is written
beside, renamed, and only then does `latest.zarr` (a link, replaced atomically) point to it. A reader that has the old
run open keeps it. A crash before the commit leaves the cube as it was; one after it leaves `latest.zarr` at the old
run, and the next forecast publishes what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.cube_writer import PER_INIT, CubeWriter, Run
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import icechunk
    import xarray as xr
    import zarr

KEEP_RUNS = 5
IMAGE_PRODUCTS = ("flood", "change", "clouds", "despeckle")
Times = np.ndarray[Any, np.dtype[np.datetime64]]


def stamp(init: np.datetime64) -> str:
    """`20200131T0600`: an initial time as a path segment."""
    return str(init.astype("datetime64[m]")).replace("-", "").replace(":", "")


class ForecastCube:
    """All runs of one model on one dataset, growing along init_time."""

    def __init__(self, workspace: Workspace, dataset: str, model: str) -> None:
        self.workspace, self.dataset, self.model = workspace, dataset, model
        self.parts: tuple[str, ...] = ("products", "forecast", dataset, model)

    # -- reading -------------------------------------------------------------------------------------------------

    def repository(self, create: bool = False) -> icechunk.Repository:
        """The cube's Icechunk repository."""
        import icechunk

        storage = self.workspace.icechunk_storage(*self.parts, "cube")
        if create:
            return icechunk.Repository.open_or_create(storage)
        return icechunk.Repository.open(storage)

    def exists(self) -> bool:
        """Whether any run was ever committed."""
        return bool(self.workspace.names(*self.parts, "cube")) and self._group() is not None

    def _group(self) -> zarr.Group | None:
        import icechunk
        import zarr

        try:
            return zarr.open_group(self.repository().readonly_session("main").store, mode="r")
        except (icechunk.IcechunkError, FileNotFoundError, zarr.errors.GroupNotFoundError):
            return None

    def run_keys(self) -> dict[np.datetime64, tuple[str, int]]:
        """Initial time -> (run key, leads written)."""
        group = self._group() if self.workspace.names(*self.parts, "cube") else None
        if group is None:
            return {}
        inits = np.asarray(group["init_time"][:]).astype("datetime64[s]").astype("datetime64[ns]")  # type: ignore[index]
        keys, leads = np.asarray(group["run_key"][:]), np.asarray(group["leads"][:])  # type: ignore[index]
        return {t: (str(k), int(n)) for t, k, n in zip(inits, keys, leads)}

    def open(self, chunks: Any = None) -> xr.Dataset:
        """The cube, lazily, in order of init_time. Raises BadInput where there is none."""
        import xarray as xr

        if not self.exists():
            raise BadInput(
                f"there is no forecast of {self.model} for {self.dataset}", where=self.workspace.url(*self.parts),
                todo=f"eoflow forecast --lead 10d --dataset {self.dataset} --model {self.model}",
            )  # fmt: skip
        store = self.repository().readonly_session("main").store
        ds = xr.open_zarr(store, consolidated=False, chunks=chunks, decode_timedelta=True)
        order = np.argsort(ds["init_time"].values, kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            ds = ds.isel(init_time=order)
        return ds.assign_coords(valid_time=ds["init_time"] + ds["lead_time"])

    def opening_lines(self) -> str:
        """The Python lines that open the cube."""
        return f'import eoflow\nds = eoflow.open("forecast", dataset="{self.dataset}", model="{self.model}")'

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, schema: FieldSchema, runs: list[Run], step: np.timedelta64, steps: int, members: int) -> CubeWriter:
        """A writer for some runs: a context manager that commits them together at its end."""
        return CubeWriter(self, schema, runs, step, steps, members)

    def publish(self, init: np.datetime64) -> str:
        """Write one run as an immutable plain Zarr and point `latest.zarr` to the newest; returns where it lies.

        Local: a link, replaced atomically. Object store: the run's own prefix, and `latest.zarr` is a copy whose
        metadata is written last.
        """
        ws, name = self.workspace, f"{stamp(init)}.zarr"
        location = ws.url(*self.parts, "runs", name)
        cube = self.open()
        run = cube.sel(init_time=[init])
        leads = int(run["leads"].values[0])
        run = run.isel(lead_time=slice(0, leads)).drop_vars([*PER_INIT, "leads"])
        record = json.loads(str(cube["provenance"].sel(init_time=init).values))
        run.attrs |= {"eoflow_provenance": json.dumps(record), "history": f"{record['created']} {record['command']}"}
        if not ws.is_local:
            for target in (location, ws.url(*self.parts, "latest.zarr")):
                _store(run, target, storage_options=ws.storage_options())
            return location
        folder = ws.path(*self.parts, "runs")
        folder.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(dir=folder, prefix=".tmp-"))
        try:
            _store(run.load(), temp)
            temp.chmod(0o755)
            if Path(location).exists():  # a rerun with another checkpoint: move the old run aside, then away
                aside = folder / f".old-{name}-{os.getpid()}"
                Path(location).rename(aside)
                temp.rename(location)
                shutil.rmtree(aside)
            else:
                temp.rename(location)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        kept = sorted(p.name for p in folder.iterdir() if p.name.endswith(".zarr") and not p.name.startswith("."))
        point(ws.path(*self.parts, "latest.zarr"), f"runs/{kept[-1]}")
        point(ws.path("products", "forecast", "latest.zarr"), f"{self.dataset}/{self.model}/runs/{kept[-1]}")
        for old in [n for n in kept[:-KEEP_RUNS] if n != name]:
            shutil.rmtree(folder / old, ignore_errors=True)
        return location


def _store(ds: xr.Dataset, target: Any, **options: Any) -> None:
    """Plain Zarr v3 with consolidated metadata (one read opens it; zarr warns that others may not know them)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        ds.to_zarr(target, mode="w", zarr_format=3, consolidated=True, **options)


def point(link: Path, target: str) -> None:
    """Make `link` a relative symbolic link to `target`, atomically."""
    temp = link.with_name(f".tmp-{link.name}-{os.getpid()}")
    temp.unlink(missing_ok=True)
    temp.symlink_to(target)
    temp.replace(link)


def cubes(workspace: Workspace, dataset: str | None = None) -> list[ForecastCube]:
    """Every forecast cube of the workspace (of one dataset)."""
    found = []
    for d in [dataset] if dataset else workspace.names("products", "forecast"):
        if not d.endswith(".zarr"):
            found += [
                ForecastCube(workspace, d, m)
                for m in workspace.names("products", "forecast", d)
                if not m.endswith(".zarr")
            ]
    return [c for c in found if c.exists()]


def newest(candidates: Iterable[ForecastCube]) -> ForecastCube | None:
    """The cube whose last run was made last."""
    dated = [(max(str(x) for x in c.open()["created"].values), c) for c in candidates]
    return max(dated, key=lambda p: p[0])[1] if dated else None


def open_product(
    name: str = "forecast", *, dataset: str | None = None, model: str | None = None, as_of: str | None = None,
    workspace: Workspace | str | None = None, chunks: Any = None, tile: str | None = None,
) -> xr.Dataset:  # fmt: skip
    """Open a product or archive of the workspace, lazily.

    name: `forecast` (the cube of `dataset` and `model`, by default the one written last) or the name of an ingested
    dataset (then `as_of` may name a snapshot or time). Of scenes it is one `tile`, by default the only one: bands in
    physical units, with the layers quality and scene. `flood`, `change`, `clouds`, `despeckle`: the product of
    `dataset` (and `model`) that was made last, one `tile`. Raises BadInput naming what there is.
    """
    ws = Workspace.of(workspace)
    if name in IMAGE_PRODUCTS and dataset is not None:
        return _open_image_product(ws, name, dataset, model, tile, chunks)
    if name != "forecast":
        from eoflow.archive import Archive

        archive = Archive.load(ws, name)
        if archive.kind == "scenes":
            return _open_tile(archive, tile, as_of)
        if tile is not None:
            raise BadInput(f"'{name}' is a dataset of fields and has no tiles", todo=f"eoflow.open('{name}')")
        return archive.open(as_of=as_of)
    if dataset and model:
        return ForecastCube(ws, dataset, model).open(chunks)
    chosen = newest(c for c in cubes(ws, dataset) if model in (None, c.model))
    if chosen is None:
        raise BadInput("there is no forecast yet", where=ws.root, todo="eoflow forecast --lead 10d")
    return chosen.open(chunks)


def _open_image_product(
    ws: Workspace, verb: str, dataset: str, model: str | None, tile: str | None, chunks: Any
) -> xr.Dataset:
    """One tile of the newest product of an image task, decoded."""
    import xarray as xr
    import zarr

    from eoflow.holdings import image_products

    place = ws.url(*image_products(ws, verb, dataset, model)[-1])
    options: dict[str, Any] = {} if ws.is_local else {"storage_options": ws.storage_options()}
    group: Any = zarr.open_group(place, mode="r", zarr_format=3, **options)
    tiles = sorted(group["tiles"].group_keys())
    if tile is None and len(tiles) != 1:
        raise BadInput(f"the product has {len(tiles)} tiles", where=place, todo=f"tile='...' of {', '.join(tiles[:8])}")
    if tile is not None and tile not in tiles:
        raise BadInput(f"the product has no tile '{tile}'", where=place, todo=f"there are {', '.join(tiles[:8])}")
    how = {} if chunks is None else chunks
    return xr.open_zarr(place, group=f"tiles/{tile or tiles[0]}", chunks=how, **options)


def _open_tile(archive: Any, tile: str | None, as_of: str | None) -> xr.Dataset:
    from eoflow.cube import Cube

    cube = Cube(archive)
    tiles = cube.tiles(as_of)
    if tile is None and len(tiles) != 1:
        some = ", ".join(tiles[:8]) + (f" and {len(tiles) - 8} more" if len(tiles) > 8 else "")
        raise BadInput(f"'{cube.name}' has {len(tiles)} tiles", todo=f"name one: tile='...' of {some or 'none yet'}")
    return cube.open(tile or tiles[0], as_of, physical=True)
