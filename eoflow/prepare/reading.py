"""Blocks of consecutive times out of an archive as plain arrays: the one place where prepare reads fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import SchemaMismatch
from eoflow.schema import FieldSchema

if TYPE_CHECKING:
    import zarr

BLOCK_BYTES = 32 << 20
"""Float32 bytes that one task of a Dask graph reads."""
Index = np.ndarray[Any, np.dtype[np.int64]]


def read_block(group: zarr.Group, schema: FieldSchema, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Times start..stop of an archive -> (time, C, H, W) float32 in schema order; what was never written is NaN.

    Raises SchemaMismatch where an array's dimensions are not those of the schema.
    """
    height, width = schema.grid.shape
    out = np.empty((stop - start, len(schema.channels), height, width), np.float32)
    at = 0
    for spec in schema.variables:
        array: Any = group[spec.name]
        dims = ("time", *([spec.dim] if spec.dim else []), "latitude", "longitude")
        shape = (*((len(spec.levels),) if spec.levels is not None else ()), height, width)
        if tuple(array.metadata.dimension_names or dims) != dims or array.shape[1:] != shape:
            raise SchemaMismatch(
                f"the stored {spec.name} {array.metadata.dimension_names} {array.shape} does not fit its schema",
                where=f"expected {dims} with {shape} behind time", todo="ingest the dataset again",
            )  # fmt: skip
        n = len(spec.channels)
        out[:, at : at + n] = array[start:stop].reshape(stop - start, n, height, width)
        at += n
    return out


def runs(rows: Index) -> Iterator[tuple[int, int]]:
    """Increasing indices -> (start, stop) of each consecutive run."""
    if rows.size == 0:
        return
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    for part in np.split(rows, cuts):
        yield int(part[0]), int(part[-1]) + 1


def blocks(rows: Index, schema: FieldSchema, align: int = 1, block_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
    """Increasing indices -> (start, stop) pieces of about `block_bytes`, cut at multiples of `align`, the
    time chunk."""
    height, width = schema.grid.shape
    steps = max(1, block_bytes // (4 * len(schema.channels) * height * width))
    steps = max(align, steps // align * align)
    out = []
    for start, stop in runs(rows):
        edges = [start, *range((start // steps + 1) * steps, stop, steps), stop]
        out += list(pairwise(edges))
    return out
