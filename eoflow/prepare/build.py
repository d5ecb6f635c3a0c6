"""Writing a prepared training set: beside, shard by shard, then renamed into place.

A killed run leaves `KEY.partial`, which no reader opens; the next run of the same key keeps its finished shards. A
shard is finished once its part file (what was counted while it was written) has been renamed into place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__
from eoflow.prepare.normalize import Normalizer
from eoflow.prepare.reading import read_block, runs
from eoflow.prepare.rows import open_fast
from eoflow.prepare.splits import Splits
from eoflow.prepare.trainset import FORMAT
from eoflow.schema import FieldSchema
from eoflow.times import NS, year_and_day_fraction

if TYPE_CHECKING:
    import zarr

Progress = Callable[[int, int, str], None]
Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_BYTES = 64 << 10
SHARD_BYTES = 16 << 20


def layout(rows: int, row_bytes: int) -> tuple[int, int]:
    """(rows a chunk, rows a shard): a chunk is one row, or as many as make 64 KiB; a shard is a file of about 16 MiB.

    Windows are a few consecutive rows, so that a chunk holds little that is not asked for; whole shards are what an
    epoch over a set larger than the memory reads.
    """
    chunk = min(rows, max(1, CHUNK_BYTES // row_bytes))
    shard = max(1, min(SHARD_BYTES // (row_bytes * chunk), -(-rows // chunk))) * chunk
    return chunk, shard


def write(
    target: Path, group: zarr.Group, schema: FieldSchema, normalizer: Normalizer, splits: Splits, times: Array,
    steps: Array, key: str, provenance: dict[str, Any], progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write the set of rows `steps` (increasing indices on the archive's time axis `times`) to `target`.

    Dask-parallel, one task and one writer a shard, in memory of the tasks in flight. Nothing is visible at `target`
    before everything is written.
    """
    import dask

    partial = target.with_name(f"{key}.partial")
    drop_others(target.parent, keep=partial)
    height, width = schema.grid.shape
    shape = (steps.size, len(schema.channels), height, width)
    chunk, shard = layout(shape[0], 4 * shape[1] * height * width)
    _create(partial, shape, chunk, shard)
    starts = range(0, shape[0], shard)
    todo = [a for a in starts if not _part(partial, a).exists()]
    task = dask.delayed(write_shard, pure=False)  # type: ignore[attr-defined]
    for at in range(0, len(todo), 16):
        some = todo[at : at + 16]
        dask.compute(*[task(str(partial), group, schema, normalizer, steps[a : a + shard], a) for a in some])  # type: ignore[attr-defined, no-untyped-call]
        if progress is not None:
            progress(len(starts) - len(todo) + at + len(some), len(starts), "training set")
    _finish(partial, group, schema, times[steps], steps, [_part(partial, a) for a in starts])
    _describe(partial, schema, normalizer, splits, key, provenance)
    sync_files(partial)
    partial.rename(target)


def write_shard(
    partial: str, group: zarr.Group, schema: FieldSchema, normalizer: Normalizer, steps: Array, start: int
) -> None:
    """Read, normalise and write the rows start..start+len(steps); then leave a part file that says so."""
    fields = np.concatenate([read_block(group, schema, a, b) for a, b in runs(steps)])
    fields = normalizer.encode(fields, schema.channels)
    whole = np.isfinite(fields)
    fields[~whole] = 0.0
    open_fast(f"{partial}/data", "r+")[start : start + steps.size] = fields
    part = _part(Path(partial), start)
    beside = part.with_name(f"{part.name}.tmp")
    with beside.open("wb") as f:
        np.savez(f, counts=whole.sum(axis=(-2, -1)), ever=whole.any(axis=0))
    beside.replace(part)


def _part(partial: Path, start: int) -> Path:
    return partial / "parts" / f"{start:010d}.npz"


def _create(partial: Path, shape: tuple[int, ...], chunk: int, shard: int) -> None:
    """The empty array; a damaged or differently laid out leftover is dropped first."""
    import zarr

    if partial.exists():
        try:
            found: Any = zarr.open_array(str(partial / "data"), mode="r", zarr_format=3)
            if (found.shape, found.chunks[0], found.shards[0]) == (shape, chunk, shard) and (
                partial / "parts"
            ).is_dir():
                return
        except (OSError, ValueError, TypeError):
            pass
        shutil.rmtree(partial)
    group = zarr.open_group(str(partial), mode="w", zarr_format=3)
    group.create_array(
        "data", shape=shape, chunks=(chunk, *shape[1:]), shards=(shard, *shape[1:]), dtype="f4", fill_value=0.0,
        compressors=None, filters=None, dimension_names=("row", "channel", "latitude", "longitude"),
    )  # fmt: skip
    (partial / "parts").mkdir()


def _finish(
    partial: Path, group: zarr.Group, schema: FieldSchema, times: Array, steps: Array, parts: list[Path]
) -> None:
    """The small arrays."""
    import zarr

    height, width = schema.grid.shape
    counts, mask = [], np.zeros((len(schema.channels), height, width), bool)
    for path in parts:
        with np.load(path) as part:
            counts.append(part["counts"])
            mask |= part["ever"]
    usable = (np.concatenate(counts) == mask.sum(axis=(-2, -1))).all(axis=1)
    names = [v.name for v in schema.static if v.levels is None]
    static = [np.asarray(group[n][...], np.float32) for n in names if n in group]  # type: ignore[index]
    nanoseconds = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    coordinates = {"units": "degrees"}
    out = zarr.open_group(str(partial), mode="r+", zarr_format=3)
    arrays: dict[str, tuple[Array, tuple[str, ...], dict[str, Any]]] = {
        "time": (times.astype(NS).astype("i8"), ("row",), nanoseconds),
        "clock": (year_and_day_fraction(times), ("row", "fraction"), {"long_name": "fraction of year and day"}),
        "step": (steps.astype("i8"), ("row",), {"long_name": "index on the time axis of the archive"}),
        "usable": (usable, ("row",), {"long_name": "the field has a value wherever the set ever has one"}),
        "mask": (mask, ("channel", "latitude", "longitude"), {"long_name": "the cell has a value at some time"}),
        "static": (
            np.stack(static) if static else np.zeros((0, height, width), np.float32),
            ("static", "latitude", "longitude"), {"names": ",".join(n for n in names if n in group)},
        ),
        "latitude": (np.asarray(schema.grid.latitude), ("latitude",), coordinates),
        "longitude": (np.asarray(schema.grid.longitude), ("longitude",), coordinates),
    }  # fmt: skip
    for name, (values, dims, attrs) in arrays.items():
        if name in out:
            del out[name]
        a = out.create_array(
            name, shape=values.shape, chunks=tuple(max(1, n) for n in values.shape), dtype=values.dtype,
            dimension_names=dims, attributes=attrs,
        )  # fmt: skip
        if values.size:
            a[...] = values


def _describe(
    partial: Path, schema: FieldSchema, normalizer: Normalizer, splits: Splits, key: str, provenance: dict[str, Any]
) -> None:
    import zarr

    zarr.open_group(str(partial), mode="r+", zarr_format=3).attrs.update(
        {
            "title": "prepared training set of eoflow: normalised fields",
            "eoflow_format": FORMAT,
            "eoflow_schema": schema.model_dump_json(),
            "eoflow_schema_hash": schema.hash,
            "normalizer": json.dumps(normalizer.to_dict()),
            "channels": [c.label for c in schema.channels],
            "splits": splits.to_dict(),
            "key": key,
            "provenance": {**provenance, "eoflow": __version__},
        }
    )
    shutil.rmtree(partial / "parts")


def sync_files(folder: Path) -> None:
    """Data on disk before the name: after a power failure the name must not stand for half a set."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())


def drop_others(folder: Path, keep: Path) -> None:
    """Leftovers of killed runs whose data have changed since: nobody will finish them (the caller holds the lock)."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.partial"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
