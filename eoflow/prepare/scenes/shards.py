"""Uncompressed Zarr v3 shards, written row by row in any order and from any thread.

A shard of plain bytes is its rows one after the other and an index of them behind (sharding-indexed codec of the Zarr
v3 specification: offset and length of each inner chunk, little endian, and their CRC-32C). So a row has its place
before anything is written, and a set can be laid out shuffled while its cube is read in the order it is stored in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
SHARD_BYTES = 32 << 20


class Shards:
    """A (row, ...) array of uncompressed rows, one inner chunk each. `open` what `create` made, put rows, `close`."""

    def __init__(self, array: Any, folder: Path) -> None:
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self.rows = int(array.shards[0])
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._files = [
            folder / array.metadata.encode_chunk_key((i, *(0,) * (len(self.shape) - 1)))
            for i in range(-(-self.shape[0] // self.rows))
        ]

    @classmethod
    def create(
        cls, group: Any, folder: Path, name: str, shape: tuple[int, ...], dtype: Any, dims: tuple[str, ...],
        attrs: dict[str, Any], rows: int,
    ) -> Shards:  # fmt: skip
        """A new array of a Zarr group that lies in `folder`, `rows` rows a shard; every row is to be put."""
        array = group.create_array(
            name, shape=shape, chunks=(1, *shape[1:]), shards=(rows, *shape[1:]), dtype=dtype, fill_value=0,
            compressors=None, filters=None, dimension_names=dims, attributes=attrs,
        )  # fmt: skip
        out = cls(array, folder / name)
        for path in out._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as f:
                f.truncate(rows * out.row_bytes)
        return out

    def put(self, rows: Array, values: Array) -> None:
        """values[k] -> row rows[k]."""
        values = np.ascontiguousarray(values, self.dtype.newbyteorder("<"))
        for shard in np.unique(rows // self.rows):
            here = np.flatnonzero(rows // self.rows == shard)
            with self._files[int(shard)].open("r+b") as f:
                for k in here:
                    f.seek(int(rows[k] - shard * self.rows) * self.row_bytes)
                    f.write(values[k].data)

    def close(self) -> None:
        """Put the index behind every shard: from here on it is a Zarr array. May be repeated."""
        from google_crc32c import value as crc32c

        for number, path in enumerate(self._files):
            held = min(self.rows, self.shape[0] - number * self.rows)
            index = np.full((self.rows, 2), np.uint64(2**64 - 1))
            index[:held, 0] = np.arange(held, dtype=np.uint64) * np.uint64(self.row_bytes)
            index[:held, 1] = self.row_bytes
            body = index.astype("<u8").tobytes()
            with path.open("r+b") as f:
                f.truncate(held * self.row_bytes)
                f.seek(0, 2)
                f.write(body + int(crc32c(body)).to_bytes(4, "little"))


def rows_of_shard(row_bytes: int, rows: int) -> int:
    """Rows a shard of about SHARD_BYTES has."""
    return max(1, min(rows, SHARD_BYTES // max(1, row_bytes)))
