"""Rows of an immutable Zarr array, read fast: from memory where they fit, else one read a consecutive run.

Uncompressed shards on a local disk are read where they lie (see plain.py). Everything else goes through the zarrs codec
pipeline, which is bound when the array is opened; nothing is configured globally.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eoflow import chunks
from eoflow.config import settings
from eoflow.prepare.plain import PlainShards

Array = np.ndarray[Any, np.dtype[Any]]
Index = np.ndarray[Any, np.dtype[np.int64]]


def open_fast(path: str | Path, mode: Literal["r", "r+"]) -> Any:
    """Open a Zarr array through the zarrs pipeline."""
    import zarr

    with chunks.zarrs():
        return zarr.open_array(str(path), mode=mode, zarr_format=3)


class Rows:
    """A (row, ...) array of a Zarr group on disk. Opened once a process (also after a fork).

    Kept in memory if it is no larger than `memory_mb` of the settings (or of the argument), else read shard by shard.
    """

    def __init__(self, path: str | Path, name: str = "data", memory_mb: int | None = None) -> None:
        self.path, self.name = Path(path), name
        self.budget = (settings().memory_mb if memory_mb is None else memory_mb) << 20
        self._pid = -1
        self._data: Any = None
        self._plain: PlainShards | None = None
        self._ram: Array | None = None
        self._pool: dict[int, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A worker process opens the files itself; the copy in memory is not sent along.
        return {**self.__dict__, "_pid": -1, "_data": None, "_plain": None, "_ram": None, "_pool": {}}

    @property
    def data(self) -> Any:
        """The Zarr array, opened in this process through the zarrs pipeline."""
        if self._pid != os.getpid():
            self._data = open_fast(self.path / self.name, "r")
            self._plain = PlainShards.of(self._data, self.path / self.name)
            self._pid = os.getpid()
        return self._data

    @property
    def plain(self) -> PlainShards | None:
        """The direct way to the rows, where there is one."""
        return self._plain if self._pid == os.getpid() or self.data is not None else None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(row, ...)."""
        return tuple(self.data.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.data.dtype)

    @cached_property
    def shard(self) -> int:
        """Rows in a shard."""
        return int((self.data.shards or self.data.chunks)[0])

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:]))

    @property
    def fits(self) -> bool:
        """Whether the whole array is kept in memory."""
        return self.shape[0] * self.row_bytes <= self.budget

    def rows(self, rows: Index) -> Array:
        """Increasing, distinct rows -> (n, ...): from memory, or one read a consecutive run."""
        ram = self.resident()
        if ram is not None:
            return ram[rows]
        out = np.empty((rows.size, *self.shape[1:]), self.dtype)
        home = rows // self.shard
        missing = np.ones(rows.size, bool)
        for shard, values in self._pool.items():
            here = home == shard
            if here.any():
                out[here] = values[rows[here] - shard * self.shard]
                missing &= ~here
        at = np.flatnonzero(missing)
        if at.size:
            cuts = np.flatnonzero((np.diff(rows[at]) != 1) | (np.diff(at) != 1)) + 1
            parts = np.split(at, cuts)
            found = self._slices([(int(rows[p[0]]), int(rows[p[-1]]) + 1) for p in parts])
            for part, values in zip(parts, found, strict=True):
                out[part[0] : part[-1] + 1] = values
        return out

    def any_order(self, rows: Index) -> Array:
        """Rows in any order and shape, repeats allowed."""
        ram = self.resident()
        if ram is not None:
            return ram[rows]
        if self.plain is not None and not self._pool:
            out = np.empty((rows.size, *self.shape[1:]), self.dtype)
            for k, row in enumerate(rows.ravel().tolist()):
                self.plain.read(row, out[k : k + 1])
            return out.reshape(*rows.shape, *self.shape[1:])
        distinct, inverse = np.unique(rows, return_inverse=True)
        if distinct.size == rows.size and rows.ndim == 1 and np.all(inverse[1:] > inverse[:-1]):
            return self.rows(rows)
        return self.rows(distinct)[inverse.reshape(rows.shape)]

    def each(self, rows: Index) -> Iterator[Array]:
        """One row after the other, in any order: a view of memory that the next one may overwrite."""
        ram = self.resident()
        if ram is not None:
            for row in rows.tolist():
                yield ram[row]
        elif self.plain is not None:
            scratch = np.empty((1, *self.shape[1:]), self.dtype)
            for row in rows.tolist():
                self.plain.read(row, scratch)
                yield scratch[0]
        else:
            yield from self.any_order(rows)

    def _slices(self, wanted: list[tuple[int, int]]) -> list[Array]:
        """Several slices of rows in one go: a synchronous call each costs three times as much."""
        if self.plain is not None:
            return [self._direct(a, b) for a, b in wanted]
        from zarr.core.sync import sync

        array = self.data.async_array

        async def all_of_them() -> list[Array]:
            return await asyncio.gather(*[array.getitem((slice(a, b),)) for a, b in wanted])

        return sync(all_of_them())

    def span(self, start: int, stop: int) -> Array:
        """Rows start..stop; a view where the array is in memory."""
        ram = self.resident()
        return ram[start:stop] if ram is not None else self._direct(start, stop)

    def _direct(self, start: int, stop: int) -> Array:
        """Rows start..stop from the disk."""
        if self.plain is None:
            return np.asarray(self.data[start:stop])
        out = np.empty((max(0, min(stop, self.shape[0]) - start), *self.shape[1:]), self.dtype)
        self.plain.read(start, out)
        return out

    def hold(self, shards: Index) -> None:
        """Keep exactly these shards in memory (a pool of `epoch_order`); nothing to do where the whole array is."""
        if self.fits:
            return
        kept = {int(s): self._pool[int(s)] for s in shards if int(s) in self._pool}
        self._pool = kept
        for s in shards:
            if int(s) not in kept:
                kept[int(s)] = self._direct(int(s) * self.shard, (int(s) + 1) * self.shard)

    def resident(self) -> Array | None:
        """The whole array, read at the first call, where it fits; else None."""
        if self._ram is None and self.fits:
            ram = np.empty(self.shape, self.dtype)
            for start in range(0, self.shape[0], self.shard):
                ram[start : start + self.shard] = self._direct(start, start + self.shard)
            self._ram = ram
        return self._ram
