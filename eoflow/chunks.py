"""Chunks without zarr-python's event loop: read by zarrs, or encoded in the calling thread and handed to the store.

zarr-python assembles every chunk on its one event-loop thread, which is what limits several writers of one process.
Where a write covers whole chunks and the array's codecs are plain (bytes, blosc), the chunk is a view of the values:
it is compressed where it is, and only the compressed bytes go through the loop. The bytes are those that zarr would
store. Everything else is left to zarr.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import zarr

Array = np.ndarray[Any, Any]
Encoded = tuple[Any, tuple[int, ...], "bytes | None"]
ZARRS = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
AT_ONCE = 2**23
"""Encoded bytes that are handed to the store together."""
_OPENING = threading.Lock()
_zarrs_pid: int | None = None


@contextmanager
def zarrs() -> Iterator[None]:
    """Arrays that are opened inside are read by the zarrs pipeline (local files and http; what it lacks zarr does).

    Its threads do not survive a fork (a read in the child would wait for ever), so a process forked from one that
    has used it opens arrays with zarr's own pipeline instead.
    """
    import zarr

    global _zarrs_pid
    with _OPENING:  # zarr's configuration is global, and leaving its context in another order would leave it changed
        if _zarrs_pid is None:
            _zarrs_pid = os.getpid()
        with zarr.config.set(ZARRS if _zarrs_pid == os.getpid() else {}):
            yield


def write(array: zarr.Array, where: tuple[slice, ...], values: Array) -> None:
    """array[where] = values. `where`: slices with bounds (or whole), one for each dimension or fewer."""
    write_many([(array, where, values)], drop_empty=False)


def write_many(pieces: Iterable[tuple[zarr.Array, tuple[slice, ...], Array]], drop_empty: bool = True) -> None:
    """As `write` for several (array, where, values), whose chunks go to the store together.

    drop_empty: a chunk that holds nothing but the fill value is deleted instead of stored.
    """
    encoded: list[Encoded] = []
    held = 0
    for array, where, values in pieces:
        codec = _plain(array)
        region = _region(array, where)
        if codec is None or not _aligned(array, region):
            (array.with_config({"write_empty_chunks": False}) if drop_empty else array)[where] = values
            continue
        for at, part in _cut(array, region, values):
            data = None if drop_empty and _empty(part, array.fill_value) else codec.encode(part)
            encoded.append((array, at, data))
            held += len(data or b"")
            if held > AT_ONCE:
                _put(encoded)
                encoded, held = [], 0
    _put(encoded)


def _plain(array: zarr.Array) -> Any | None:
    """The compressor, where an array has native bytes, one blosc codec and no shards; else None."""
    from numcodecs import Blosc
    from zarr.codecs import BloscCodec, BytesCodec

    meta: Any = array.metadata
    if meta.zarr_format != 3 or array.shards is not None or len(meta.codecs) != 2:
        return None
    first, second = meta.codecs
    native = isinstance(first, BytesCodec) and (first.endian is None or first.endian.value == "little")
    if not native or not isinstance(second, BloscCodec):
        return None
    shuffle = ("noshuffle", "shuffle", "bitshuffle").index(second.shuffle.name)
    return Blosc(second.cname.name, second.clevel, shuffle, second.blocksize, typesize=second.typesize)


def _region(array: zarr.Array, where: tuple[slice, ...]) -> list[tuple[int, int]]:
    full = (*where, *[slice(None)] * (array.ndim - len(where)))
    return [s.indices(n)[:2] for s, n in zip(full, array.shape, strict=True)]


def _aligned(array: zarr.Array, region: list[tuple[int, int]]) -> bool:
    """Whether the region holds whole chunks only (the last of a dimension may be cut by the array's end)."""
    return all(
        a % c == 0 and (b % c == 0 or b == n) for (a, b), c, n in zip(region, array.chunks, array.shape, strict=True)
    )


def _cut(array: zarr.Array, region: list[tuple[int, int]], values: Array) -> Any:
    """(chunk coordinates, contiguous values of the whole chunk) of every chunk in the region."""
    values = np.asarray(values, array.dtype)
    grids = [range(a // c, math.ceil(b / c)) for (a, b), c in zip(region, array.chunks, strict=True)]
    for at in itertools.product(*grids):
        part = values[tuple(
            slice(i * c - a, min((i + 1) * c, b) - a)
            for i, (a, b), c in zip(at, region, array.chunks, strict=True)
        )]  # fmt: skip
        if part.shape != tuple(array.chunks):  # a chunk at the end is stored whole
            whole = np.full(array.chunks, array.fill_value, array.dtype)
            whole[tuple(slice(n) for n in part.shape)] = part
            part = whole
        yield at, np.ascontiguousarray(part)


def _empty(part: Array, fill: Any) -> bool:
    if part.flat[0] != fill and not (part.dtype.kind == "f" and np.isnan(part.flat[0]) and np.isnan(fill)):
        return False  # most chunks are told apart by their first value
    return bool(np.isnan(part).all() if part.dtype.kind == "f" and np.isnan(fill) else (part == fill).all())


def _put(encoded: Sequence[Encoded]) -> None:
    """Store encoded chunks, all at once (each round through zarr's loop costs as much as a chunk); None: delete it."""
    import asyncio

    from zarr.core.sync import sync

    make = _uncopied().from_bytes

    async def one(array: zarr.Array, at: tuple[int, ...], data: bytes | None) -> None:
        path = array.store_path / array.metadata.encode_chunk_key(at)
        await (path.delete() if data is None else path.set(make(data)))

    async def several() -> None:
        await asyncio.gather(*(one(*e) for e in encoded))

    if encoded:
        sync(several())


def open_together(group: zarr.Group, names: Iterable[str]) -> dict[str, zarr.Array]:
    """Some arrays of a group by name. One trip to zarr's loop instead of one each."""
    import asyncio

    import zarr
    from zarr.core.sync import sync

    wanted = list(names)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(zarr.AsyncArray.open(group.store_path / n, zarr_format=3) for n in wanted))

    return {n: zarr.Array(a) for n, a in zip(wanted, sync(all_of_them()), strict=True)}


def read_together(arrays: Iterable[zarr.Array]) -> list[Array]:
    """The whole content of some (small) arrays, in one trip."""
    import asyncio

    from zarr.core.sync import sync

    wanted = list(arrays)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(a.async_array.getitem(...) for a in wanted))

    return [np.asarray(values) for values in sync(all_of_them())]


def lengthen(arrays: Iterable[zarr.Array], size: int) -> None:
    """Make the first dimension of some arrays `size` long, in one trip. Nothing is looked for beyond an old end: only
    for arrays that grow."""
    import asyncio

    from zarr.core.sync import sync

    wanted = list(arrays)

    async def all_of_them() -> None:
        await asyncio.gather(
            *(a.async_array.resize((size, *a.shape[1:]), delete_outside_chunks=False) for a in wanted)
        )

    sync(all_of_them())


@cache
def _uncopied() -> Any:
    """The class of zarr's buffers, except that bytes which were put in come out as they are and not as a copy, which
    stores make in the one thread of zarr's loop."""
    from zarr.core.buffer import cpu

    class Uncopied(cpu.Buffer):
        def to_bytes(self) -> bytes:
            kept: Any = getattr(self._data, "base", None)
            return kept if isinstance(kept, bytes) and len(kept) == len(self) else super().to_bytes()

    return Uncopied


def move(array: zarr.Array, source: int, target: int) -> None:
    """Make the chunks at position `source` of the first dimension (of length 1) those at `target`, as encoded."""
    import asyncio

    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    async def one(key: tuple[int, ...]) -> None:
        there = array.store_path / array.metadata.encode_chunk_key((target, *key))
        found = await (array.store_path / array.metadata.encode_chunk_key((source, *key))).get(
            default_buffer_prototype()
        )
        await (there.delete() if found is None else there.set(found))

    async def several(keys: list[tuple[int, ...]]) -> None:
        await asyncio.gather(*(one(k) for k in keys))

    for keys in _rest(array):
        sync(several(keys))


def clear(array: zarr.Array, position: int) -> None:
    """Delete the chunks at a position of the first dimension (chunks of length 1): the fill value is read there."""
    for keys in _rest(array):
        _put([(array, (position, *key), None) for key in keys])


def _rest(array: zarr.Array, at_once: int = 64) -> Iterator[list[tuple[int, ...]]]:
    """Chunk coordinates of all dimensions but the first, some at a time."""
    counts = [math.ceil(n / c) for n, c in zip(array.shape[1:], array.chunks[1:], strict=True)]
    keys = itertools.product(*(range(n) for n in counts))
    while some := list(itertools.islice(keys, at_once)):
        yield some
