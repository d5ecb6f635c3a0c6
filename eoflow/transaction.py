"""One change of an archive: build, extend, write, commit. Used through `Archive.transaction`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__, commits
from eoflow import layout as lay
from eoflow.archive import TIME_UNITS, Archive, Conflict
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.times import NS, iso

if TYPE_CHECKING:
    import icechunk
    import xarray as xr
    import zarr

    from eoflow.catalog import DatasetEntry

Array = np.ndarray[Any, Any]
TIME_CHUNK = 16384
SHIFT_BLOCK = 64 * lay.MIB


class Transaction:
    """A writable session on one branch. Nothing is visible before `commit`; an exception drops it all."""

    def __init__(self, archive: Archive, branch: str) -> None:
        self.archive, self.branch = archive, branch
        self.session: icechunk.Session = archive.repo.writable_session(branch)
        self.snapshot = self.session.snapshot_id
        self.details: dict[str, Any] = {}  # may be filled while the work is done; goes into the history
        self._group: zarr.Group | None = None
        self._arrays: dict[str, zarr.Array] = {}
        self.opened: dict[str, dict[str, zarr.Array]] = {}
        """Arrays of scene tiles by group (see eoflow.cube_layout)."""

    @property
    def group(self) -> zarr.Group:
        """The root group, writable."""
        import zarr

        if self._group is None:
            self._group = zarr.open_group(self.session.store, mode="a")
        return self._group

    def array(self, name: str) -> zarr.Array:
        """A stored array; whole chunks are written as they are (no search for empty ones)."""
        if name not in self._arrays:
            a: Any = self.group[name]
            self._arrays[name] = a.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def forget(self) -> None:
        """Drop the open arrays: their shapes have changed."""
        self._group = None
        self._arrays.clear()

    @property
    def times(self) -> Array:
        """datetime64[ns] (T,): the time axis as this transaction has it."""
        return np.asarray(self.group["time"][:]).astype("datetime64[s]").astype(NS)  # type: ignore[union-attr,index]

    @property
    def schema(self) -> FieldSchema:
        """The schema of the archive."""
        return FieldSchema.model_validate_json(str(self.group.attrs["eoflow_schema"]))

    def extend(self, first: np.datetime64, last: np.datetime64) -> int:
        """Make the time axis reach from `first` to `last` (it never shrinks); new times hold NaN.

        Returns how many times were put before the old first one. That case rewrites the fields block by
        block, in bounded memory; adding at the end only resizes.
        """
        from eoflow.times import Cadence

        old, schema = self.times, self.schema
        cadence = Cadence(schema.step)
        if old.size:
            first, last = min(first.astype(NS), old[0]), max(last.astype(NS), old[-1])
        axis = cadence.axis(first, last)
        if old.size and not np.isin(old[[0, -1]], axis).all():
            raise BadInput(
                f"{iso(first)} is not a whole number of steps of {cadence} from the archive's {iso(old[0])}",
                where=f"dataset {self.archive.name}",
            )
        front = int(np.searchsorted(axis, old[0])) if old.size else 0
        if axis.size == old.size:
            return 0
        for spec in schema.variables:
            a: Any = self.group[spec.name]
            a.resize((axis.size, *a.shape[1:]))
            if front:
                _shift(a, old.size, front)
        time: Any = self.group["time"]
        time.resize((axis.size,))
        time[:] = axis.astype("datetime64[s]").astype("i8")
        self.forget()
        return front

    def write(self, name: str, start: int, block: Array, level: slice = slice(None)) -> None:
        """Write `block` (t, [member,] [level,] latitude, longitude) at positions start..start+t of the axis."""
        a = self.array(name)
        where: tuple[Any, ...] = (slice(start, start + block.shape[0]),)
        if level != slice(None):
            where = (*where, *(slice(None),) * (block.ndim - 4), level)
        a[where] = block

    def commit(self, message: str, details: dict[str, Any]) -> str:
        """Commit on the branch; sets `snapshot`. Raises Conflict where another writer was faster."""
        self.group.attrs["date_modified"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            self.snapshot = commits.commit(
                self.archive.repo, self.session, self.archive.workspace, self.branch, message,
                {**details, "eoflow": __version__},
            )  # fmt: skip
        except commits.Moved:
            raise Conflict(
                f"'{self.archive.name}' was changed by another writer meanwhile", todo="run it again"
            ) from None
        return self.snapshot


def _shift(a: Any, count: int, by: int) -> None:
    """Move a[0:count] to a[by:by+count], last block first so that nothing is overwritten before it was read."""
    step = max(1, SHIFT_BLOCK // max(1, a.dtype.itemsize * int(np.prod(a.shape[1:]))))
    chunk = a.chunks[0]
    step = max(step // chunk * chunk, min(step, chunk))
    stop = count
    while stop > 0:
        # destinations that start on a chunk are written without reading the chunk first
        start = max(0, (stop + by - 1) // step * step - by)
        a[start + by : stop + by] = a[start:stop]
        stop = start
    for i in range(0, by, step):
        a[i : min(i + step, by)] = np.nan


def build(
    tx: Transaction, entry: DatasetEntry, schema: FieldSchema, static: xr.Dataset | None, expected_steps: int | None
) -> None:
    """Lay out an empty archive: coordinates, attributes, arrays of length 0 along time, static fields."""
    if expected_steps is None:
        now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "ns")
        expected_steps = max(1, int(entry.schedule.expected(None, now).size))
    set_attributes(tx, entry, schema)
    g, lz = tx.group, lay.codec()
    about_time: dict[str, Any] = {
        "standard_name": "time", "axis": "T", "units": TIME_UNITS, "calendar": "proleptic_gregorian",
    }  # fmt: skip
    g.create_array(
        "time", shape=(0,), chunks=(TIME_CHUNK,), dtype="i8", fill_value=0, dimension_names=("time",),
        attributes=about_time,
    )  # fmt: skip
    for name, (values, attrs) in _coordinates(schema, static).items():
        a = g.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype, dimension_names=(name,), attributes=attrs
        )
        a[:] = values
    chunks = lay.plan_chunks(schema, entry.layout, expected_steps)
    for spec in schema.variables:
        g.create_array(
            spec.name, shape=(0, *lay.field_shape(spec, schema)), chunks=chunks[spec.name], dtype="f4",
            fill_value=np.nan, compressors=lz, dimension_names=lay.dims(spec, schema), attributes=dict(spec.attrs),
        )  # fmt: skip
    for spec in schema.static:
        if static is None or spec.name not in static:
            raise BadInput(f"the static field '{spec.name}' is in the schema, and no values were given")
        da = static[spec.name].transpose(*lay.dims(spec, schema, time=False))
        a = g.create_array(
            spec.name, shape=da.shape, chunks=da.shape, dtype="f4", fill_value=np.nan, compressors=lz,
            dimension_names=lay.dims(spec, schema, time=False), attributes=dict(spec.attrs),
        )  # fmt: skip
        a[...] = np.asarray(da.values, dtype="f4")


def set_attributes(tx: Transaction, entry: DatasetEntry, schema: FieldSchema) -> None:
    """Root attributes: CF and ACDD, the schema with its hash, the entry."""
    tx.group.attrs.update(
        {
            "Conventions": "CF-1.11, ACDD-1.3",
            "title": entry.title,
            "license": entry.licence,
            "source": f"{entry.source.driver} via eoflow {__version__}",
            "eoflow_dataset": entry.name,
            "eoflow_schema": schema.model_dump_json(),
            "eoflow_schema_hash": schema.hash,
            "eoflow_entry": entry.model_dump_json(),
        }
    )


def _coordinates(schema: FieldSchema, static: xr.Dataset | None) -> dict[str, tuple[Array, dict[str, Any]]]:
    """Coordinate values and CF attributes; those of unusual vertical axes come with the data."""
    out: dict[str, tuple[Array, dict[str, Any]]] = {
        "latitude": (
            np.asarray(schema.grid.latitude, "f8"),
            {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
        ),
        "longitude": (
            np.asarray(schema.grid.longitude, "f8"),
            {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
        ),
    }
    pressure = {
        "standard_name": "air_pressure", "long_name": "pressure level", "units": "hPa", "positive": "down", "axis": "Z",
    }  # fmt: skip
    for spec in (*schema.variables, *schema.static):
        if spec.dim and spec.dim not in out:
            given = dict(static[spec.dim].attrs) if static is not None and spec.dim in static.coords else {}
            attrs = given or (pressure if spec.dim.rstrip("0123456789") == "level" else {})
            plain = {k: v for k, v in attrs.items() if isinstance(v, (str, int, float))}
            out[spec.dim] = (np.asarray(spec.levels, "f8"), plain)
    if schema.members is not None:
        attrs = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
        out["member"] = (np.asarray(schema.members, "i4"), attrs)
    return out
