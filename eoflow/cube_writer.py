"""Writing runs into the forecast cube: lead by lead, one commit a batch of runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eoflow import commits
from eoflow.errors import BadInput, Failure
from eoflow.schema import FieldSchema
from eoflow.times import iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import icechunk
    import zarr

_CHUNK_BYTES = 4 * 2**20
_EPOCH = "seconds since 1970-01-01"
PER_INIT = ("run_key", "checkpoint", "archive_snapshot", "created", "provenance")
"""Text arrays along init_time: the fields of `Run`."""


@dataclass(frozen=True)
class Run:
    """What identifies and explains one run (one initial time) in the cube."""

    init: np.datetime64
    run_key: str
    checkpoint: str
    archive_snapshot: str
    created: str
    provenance: str


class Place(Protocol):
    """Where the runs go: the cube of a dataset and model."""

    workspace: Workspace
    dataset: str
    model: str
    parts: tuple[str, ...]

    def repository(self, create: bool = False) -> icechunk.Repository:
        """The cube's Icechunk repository."""
        ...


class CubeWriter:
    """Writes runs of a batch lead by lead and commits once; leaving the block by an exception commits nothing."""

    def __init__(
        self, cube: Place, schema: FieldSchema, runs: list[Run], step: np.timedelta64, steps: int, members: int
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
            self.session = self.cube.repository(create=True).writable_session("main")
            self.group = zarr.open_group(self.session.store, mode="a")
            self.runs_of_rows = _stretches(self._rows())
            names = (*PER_INIT, "leads", *(v.name for v in self.schema.variables))
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
        for name in PER_INIT:
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
        for name in ("init_time", "leads", *PER_INIT):
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
        try:
            if kind is None:
                if self.next_lead != self.steps:
                    raise Failure(f"{self.next_lead} of {self.steps} leads were written")
                for rows, runs in self.runs_of_rows:
                    for name in PER_INIT:
                        self.arrays[name][rows] = np.array([getattr(r, name) for r in self.runs[runs]], dtype=object)
                    self.arrays["leads"][rows] = self.steps
                span = " ".join(iso(r.init) for r in (self.runs[0], self.runs[-1])[: len(self.runs)])
                message = f"forecast {self.cube.model}: {len(self.runs)} run(s), {span}"
                commits.commit(self.cube.repository(), self.session, self.cube.workspace, "main", message, {})
        except commits.Moved as e:
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
