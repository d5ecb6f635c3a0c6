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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput, Failure
from eoflow.schema import FieldSchema
from eoflow.times import iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import icechunk
    import xarray as xr
    import zarr

KEEP_RUNS = 5
_CHUNK_BYTES = 4 * 2**20
_EPOCH = "seconds since 1970-01-01"
_PER_INIT = ("run_key", "checkpoint", "archive_snapshot", "created", "provenance")
Times = np.ndarray[Any, np.dtype[np.datetime64]]


@dataclass(frozen=True)
class Run:
    """What identifies and explains one run (one initial time) in the cube."""

    init: np.datetime64
    run_key: str
    checkpoint: str
    archive_snapshot: str
    created: str
    provenance: str


def stamp(init: np.datetime64) -> str:
    """`20200131T0600`: an initial time as a path segment."""
    return str(init.astype("datetime64[m]")).replace("-", "").replace(":", "")


class ForecastCube:
    """All runs of one model on one dataset, growing along init_time."""

    def __init__(self, workspace: Workspace, dataset: str, model: str) -> None:
        self.workspace, self.dataset, self.model = workspace, dataset, model
        self.parts = ("products", "forecast", dataset, model)

    # -- reading -------------------------------------------------------------------------------------------------

    def _repository(self, create: bool = False) -> icechunk.Repository:
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
            return zarr.open_group(self._repository().readonly_session("main").store, mode="r")
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
        store = self._repository().readonly_session("main").store
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
        run = run.isel(lead_time=slice(0, leads)).drop_vars([*_PER_INIT, "leads"])
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


class CubeWriter:
    """Writes runs of a batch lead by lead and commits once; leaving the block by an exception commits nothing."""

    def __init__(
        self, cube: ForecastCube, schema: FieldSchema, runs: list[Run], step: np.timedelta64, steps: int, members: int
    ) -> None:
        self.cube, self.schema, self.runs = cube, schema, runs
        self.step, self.steps, self.members = step, steps, members
        self.buffer: list[np.ndarray[Any, Any]] = []
        self.next_lead = 0

    def __enter__(self) -> CubeWriter:
        import zarr

        self.lock = self.cube.workspace.lock("forecast-" + "-".join(self.cube.parts[2:]))
        self.lock.__enter__()
        try:
            self.session = self.cube._repository(create=True).writable_session("main")
            self.group = zarr.open_group(self.session.store, mode="a")
            self.runs_of_rows = _stretches(self._rows())
            names = (*_PER_INIT, "leads", *(v.name for v in self.schema.variables))
            self.arrays: dict[str, Any] = {n: self.group[n] for n in names}
        except BaseException:
            self.lock.__exit__(None, None, None)
            raise
        return self

    @property
    def flush_every(self) -> int:
        """Leads held back before they are written: one chunk of the lead axis."""
        ny, nx = self.schema.grid.shape
        biggest = max(len(v.channels) for v in self.schema.variables) * ny * nx * 4
        return max(1, min(self.steps, _CHUNK_BYTES // biggest))

    def _dims(self, dim: str | None) -> tuple[str, ...]:
        return (
            ("init_time", "lead_time")
            + (("member",) if self.members > 1 else ())
            + ((dim,) if dim else ())
            + ("latitude", "longitude")
        )

    def _create(self) -> None:
        """Arrays of an empty cube."""
        grid, g = self.schema.grid, self.group
        g.attrs.update(
            Conventions="CF-1.11", title=f"eoflow forecast: {self.cube.model} on {self.cube.dataset}", source="eoflow",
            eoflow_dataset=self.cube.dataset, eoflow_model=self.cube.model, eoflow_schema_hash=self.schema.hash,
        )  # fmt: skip
        _put(g, "latitude", grid.latitude, standard_name="latitude", units="degrees_north", axis="Y")
        _put(g, "longitude", grid.longitude, standard_name="longitude", units="degrees_east", axis="X")
        if self.members > 1:
            _put(g, "member", np.arange(self.members), standard_name="realization",
                 long_name="ensemble member, 0 is the control")  # fmt: skip
        _put(g, "init_time", np.zeros(0, "int64"), chunk=4096, standard_name="forecast_reference_time", units=_EPOCH,
             calendar="proleptic_gregorian", axis="T")  # fmt: skip
        _put(g, "lead_time", np.zeros(0, "int64"), chunk=4096, standard_name="forecast_period", units="seconds",
             dtype="timedelta64[ns]")  # fmt: skip
        for name in _PER_INIT:
            g.create_array(name, shape=(0,), chunks=(64,), dtype=str, dimension_names=("init_time",), overwrite=True)
        g.create_array(
            "leads", shape=(0,), chunks=(4096,), dtype="int32", dimension_names=("init_time",), overwrite=True
        )
        g["leads"].attrs["long_name"] = "number of lead times written for this run"
        for v in self.schema.variables:
            if v.dim and v.dim not in g:
                assert v.levels is not None
                _put(g, v.dim, v.levels, standard_name="air_pressure", units="hPa", positive="down", axis="Z")
            sizes = {
                "init_time": 0,
                "lead_time": 0,
                "member": self.members,
                "latitude": grid.shape[0],
                "longitude": grid.shape[1],
            }
            chunk = dict(sizes, init_time=1, lead_time=self.flush_every, member=1)
            if v.dim and v.levels:
                sizes[v.dim] = chunk[v.dim] = len(v.levels)
            dims = self._dims(v.dim)
            array = g.create_array(
                v.name, shape=tuple(sizes[d] for d in dims), chunks=tuple(chunk[d] for d in dims), dtype="float32",
                fill_value=np.nan, dimension_names=dims, compressors=_codec(), overwrite=True,
            )  # fmt: skip
            array.attrs.update({**v.attrs, "coordinates": "valid_time"})

    def _rows(self) -> list[int]:
        """Row of each run on the init axis: its old one, or a new one at the end. Extends both axes."""
        if "init_time" not in self.group:
            self._create()
        stored = self.group.attrs.get("eoflow_schema_hash")
        if stored != self.schema.hash:
            raise BadInput(
                f"the cube holds fields of schema {stored}, this run makes {self.schema.hash}",
                where=self.cube.workspace.url(*self.cube.parts), todo="give the run another place: --out FILE.zarr",
            )  # fmt: skip
        inits = [int(t) for t in self.group["init_time"][:]]  # type: ignore[index, union-attr]
        seconds = [int(r.init.astype("datetime64[s]").astype("int64")) for r in self.runs]
        new = [s for s in seconds if s not in inits]
        leads = max(self.steps, int(self.group["lead_time"].shape[0]))  # type: ignore[union-attr]
        total = len(inits) + len(new)
        for name in ("init_time", "leads", *_PER_INIT):
            self.group[name].resize((total,))  # type: ignore[union-attr]
        self.group["lead_time"].resize((leads,))  # type: ignore[union-attr]
        self.group["lead_time"][:] = np.arange(1, leads + 1) * int(self.step / np.timedelta64(1, "s"))  # type: ignore[index]
        if new:
            self.group["init_time"][len(inits) :] = np.array(new)  # type: ignore[index]
        for v in self.schema.variables:
            array = self.group[v.name]
            array.resize((total, leads, *array.shape[2:]))  # type: ignore[union-attr]
        table = {s: i for i, s in enumerate([*inits, *new])}
        return [table[s] for s in seconds]

    def add(self, fields: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """The next lead: (B, [M,] C, H, W) float32 in channel order, physical units."""
        self.buffer.append(fields)
        if len(self.buffer) == self.flush_every or self.next_lead + len(self.buffer) == self.steps:
            self._flush()

    def _flush(self) -> None:
        block = np.stack(self.buffer, axis=1)
        self.buffer = []
        first, last = self.next_lead, self.next_lead + block.shape[1]
        at = 0
        for v in self.schema.variables:
            width = len(v.channels)
            part = block[..., at : at + width, :, :] if v.dim else block[..., at, :, :]
            array = self.arrays[v.name]
            for rows, runs in self.runs_of_rows:
                array[rows, first:last] = part[runs]
            at += width
        self.next_lead = last

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        import icechunk

        try:
            if kind is None:
                if self.next_lead != self.steps:
                    raise Failure(f"{self.next_lead} of {self.steps} leads were written")
                for rows, runs in self.runs_of_rows:
                    for name in _PER_INIT:
                        self.arrays[name][rows] = np.array([getattr(r, name) for r in self.runs[runs]], dtype=object)
                    self.arrays["leads"][rows] = self.steps
                span = " ".join(iso(r.init) for r in (self.runs[0], self.runs[-1])[: len(self.runs)])
                self.session.commit(f"forecast {self.cube.model}: {len(self.runs)} run(s), {span}")
        except icechunk.ConflictError as e:
            raise Failure(
                "another process wrote this cube at the same time; nothing was lost", todo="run it again"
            ) from e
        finally:
            self.lock.__exit__(None, None, None)


def _codec() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")


def _stretches(rows: list[int]) -> list[tuple[slice, slice]]:
    """Rows of the cube, in the order of the runs -> (rows, runs) slices of consecutive ones: one write each."""
    cuts = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
    return [(slice(rows[a], rows[b - 1] + 1), slice(a, b)) for a, b in pairwise(cuts)]


def _put(group: zarr.Group, name: str, values: Any, chunk: int | None = None, **attrs: Any) -> None:
    """A one-dimensional coordinate array with CF attributes."""
    data = np.asarray(values)
    array = group.create_array(
        name,
        shape=data.shape,
        chunks=(chunk or max(1, len(data)),),
        dtype=data.dtype,
        dimension_names=(name,),
        overwrite=True,
    )
    array[:] = data
    array.attrs.update(attrs)


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
    workspace: Workspace | str | None = None, chunks: Any = None,
) -> xr.Dataset:  # fmt: skip
    """Open a product or archive of the workspace, lazily.

    name: `forecast` (the cube of `dataset` and `model`, by default the one written last) or the name of an ingested
    dataset (then `as_of` may name a snapshot or time). Raises BadInput naming what there is.
    """
    ws = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    if name != "forecast":
        from eoflow.archive import Archive

        return Archive.load(ws, name).open(as_of=as_of)
    if dataset and model:
        return ForecastCube(ws, dataset, model).open(chunks)
    chosen = newest(c for c in cubes(ws, dataset) if model in (None, c.model))
    if chosen is None:
        raise BadInput("there is no forecast yet", where=ws.root, todo="eoflow forecast --lead 10d")
    return chosen.open(chunks)
