"""Chunk layouts of an archive: from the question asked of the store to a chunk shape.

    map       a few whole fields of one level: pictures, initial states, scores of one variable
    training  every level of a variable at a few consecutive times: samples
    series    long in time, small in space: time series at points

Chunks stay between about 1 and 16 MiB, so a small grid does not make a file per day and a large one no
chunk that is slow to decode. Time lengths are powers of two: then the longest is a multiple of all others,
and one batch of times can be aligned with every variable.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from eoflow.schema import FieldSchema, VariableSpec

if TYPE_CHECKING:
    from zarr.codecs import BloscCodec

Layout = Literal["map", "series", "training"]
MIB = 2**20
MIN_CHUNK = MIB
MAX_CHUNK = 16 * MIB
SERIES_BLOCK = 64 * MIB
"""A row of `series` chunks (all tiles of one time block) is written at once, so it must fit in memory."""
INODE_BUDGET = 100_000
"""Chunks that the whole expected axis may make; beyond it chunks grow up to MAX_CHUNK."""


def codec() -> BloscCodec:
    """blosc-lz4 with bit shuffle: twice smaller than raw on meteorological float32, near 1 GB/s a thread."""
    from zarr.codecs import BloscCodec

    return BloscCodec(typesize=4, cname="lz4", clevel=5, shuffle="bitshuffle")


def dims(spec: VariableSpec, schema: FieldSchema, time: bool = True) -> tuple[str, ...]:
    """Dimension names of a stored variable: (time, [member,] [level,] latitude, longitude)."""
    member = ("member",) if schema.members is not None and time else ()
    level = (spec.dim,) if spec.dim else ()
    return (*(("time",) if time else ()), *member, *level, "latitude", "longitude")


def field_shape(spec: VariableSpec, schema: FieldSchema, time: bool = True) -> tuple[int, ...]:
    """Sizes of a stored variable without the time dimension."""
    member = (len(schema.members),) if schema.members is not None and time else ()
    level = (len(spec.levels),) if spec.levels is not None else ()
    return (*member, *level, *schema.grid.shape)


def _pow2(x: float) -> int:
    return 1 << max(0, math.ceil(math.log2(max(x, 1.0))))


def chunk_shape(layout: Layout, shape: tuple[int, ...], itemsize: int = 4) -> tuple[int, ...]:
    """Chunk shape (time, *shape) for one time step of `shape` = ([member,] [level,] latitude, longitude)."""
    *outer, ny, nx = shape
    if layout == "series":
        return _series(outer, ny, nx, itemsize)
    tile = [ny, nx]
    while itemsize * tile[0] * tile[1] > MAX_CHUNK:
        longer = 0 if tile[0] >= tile[1] else 1
        tile[longer] = math.ceil(tile[longer] / 2)
    size = itemsize * tile[0] * tile[1]
    limit, target = (MIN_CHUNK, MIN_CHUNK) if layout == "map" else (MAX_CHUNK, 4 * MIN_CHUNK)
    chunk = [1] * len(outer)
    for i in reversed(range(len(outer))):  # levels first, then members, each whole or not at all
        if size * outer[i] > limit:
            break
        chunk[i] = outer[i]
        size *= outer[i]
    return (_pow2(target / size), *chunk, *tile)


def _series(outer: list[int], ny: int, nx: int, itemsize: int) -> tuple[int, ...]:
    steps = max(16, min(8192, _pow2(SERIES_BLOCK / (itemsize * ny * nx) + 1) // 2))
    tile = [ny, nx]
    while itemsize * steps * tile[0] * tile[1] > 4 * MIN_CHUNK and max(tile) > 1:
        longer = 0 if tile[0] >= tile[1] else 1
        tile[longer] = math.ceil(tile[longer] / 2)
    while itemsize * steps * tile[0] * tile[1] < MIN_CHUNK:
        steps *= 2
    return (steps, *[1] * len(outer), *tile)


def plan_chunks(schema: FieldSchema, layout: Layout, expected_steps: int) -> dict[str, tuple[int, ...]]:
    """Chunk shape of each time-varying variable, within the inode budget where MAX_CHUNK allows it."""
    shapes = {v.name: field_shape(v, schema) for v in schema.variables}
    chunks = {name: chunk_shape(layout, shape) for name, shape in shapes.items()}

    def count() -> int:
        return sum(
            math.prod(math.ceil(n / c) for n, c in zip((expected_steps, *shapes[name]), chunk, strict=True))
            for name, chunk in chunks.items()
        )

    while count() > INODE_BUDGET and layout != "series":  # its rows of chunks must stay small enough for memory
        grown = {k: (2 * c[0], *c[1:]) for k, c in chunks.items() if 4 * math.prod(c) * 2 <= MAX_CHUNK}
        if not grown:
            break
        chunks.update(grown)
    return chunks


def describe(chunks: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Chunk shapes and their bytes, for `show` and for tests."""
    return {name: {"chunk": list(c), "bytes": 4 * math.prod(c)} for name, c in chunks.items()}
