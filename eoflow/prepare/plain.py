"""Rows of uncompressed Zarr v3 shards, read where they lie: no codec has anything to do, one `pread` is all it takes.

A prepared set is uncompressed because it is read many times, and the way through event loop and codecs takes several
times as long as its bytes. What is not of this kind (compressed, not local, other chunks) is read by zarrs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import Failure

Array = np.ndarray[Any, np.dtype[Any]]
OPEN = 256
"""Files of one array that are kept open."""
_MISSING = 2**64 - 1


class PlainShards:
    """Reads rows of one array on a local disk. Safe in threads and after a fork: nothing but positions is shared."""

    def __init__(self, array: Any, folder: Path) -> None:
        self.rows, self.chunk = int(array.shards[0]), int(array.chunks[0])
        self.dtype, self.inner = np.dtype(array.dtype), tuple(array.shape[1:])
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.inner))
        self.fill = array.fill_value
        count = -(-int(array.shape[0]) // self.rows)
        zeros = (0,) * len(self.inner)
        self._paths = [folder / array.metadata.encode_chunk_key((i, *zeros)) for i in range(count)]
        self._open: OrderedDict[int, tuple[_File | None, Array]] = OrderedDict()

    @classmethod
    def of(cls, array: Any, folder: Path) -> PlainShards | None:
        """A reader of the array, or None where it is not plain: uncompressed, sharded along rows, rows whole."""
        from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

        meta = array.metadata
        if array.shards is None or array.chunks[1:] != array.shape[1:] or array.shards[1:] != array.shape[1:]:
            return None
        (codec,) = meta.codecs if len(meta.codecs) == 1 else (None,)
        if not isinstance(codec, ShardingCodec) or codec.index_location.value != "end":
            return None
        little = [c for c in (*codec.codecs, *codec.index_codecs) if isinstance(c, BytesCodec)]
        native = all(c.endian is None or c.endian.value == "little" for c in little)
        kinds = [type(c) for c in codec.codecs], [type(c) for c in codec.index_codecs]
        if not native or kinds != ([BytesCodec], [BytesCodec, Crc32cCodec]) or not folder.is_dir():
            return None
        return cls(array, folder)

    def read(self, start: int, out: Array) -> None:
        """Rows from `start` on into `out`, which is contiguous and of the array's dtype."""
        done = 0
        while done < len(out):
            shard, inside = divmod(start + done, self.rows)
            chunk, skip = divmod(inside, self.chunk)
            n = min(len(out) - done, self.chunk - skip)
            file, offsets = self._shard(shard)
            if file is None or int(offsets[chunk]) == _MISSING:  # Zarr leaves out what is fill value alone
                out[done : done + n] = self.fill
            else:
                self._fill(file, out[done : done + n], int(offsets[chunk]) + skip * self.row_bytes)
            done += n

    def _fill(self, file: _File, out: Array, at: int) -> None:
        view = memoryview(out).cast("B")  # type: ignore[arg-type]
        got = 0
        while got < len(view):
            n = os.preadv(file.number, [view[got:]], at + got)
            if n == 0:
                raise Failure("a shard of the training set is cut short", where=str(file.path), todo="prepare it again")
            got += n

    def _shard(self, shard: int) -> tuple[_File | None, Array]:
        """The open file (None: there is none) and the offset of each of its chunks."""
        found = self._open.get(shard)
        if found is None:
            try:
                file = _File(self._paths[shard])
                found = (file, file.offsets(self.rows // self.chunk))
            except FileNotFoundError:
                found = (None, np.empty(0, "<u8"))
            self._open[shard] = found
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        return found


class _File:
    """A file that is closed when nobody reads it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def offsets(self, chunks: int) -> Array:
        """(chunks,) uint64 where each inner chunk begins. Raises Failure where the index is damaged."""
        from google_crc32c import value as crc32c

        size = os.fstat(self.number).st_size
        body = os.pread(self.number, 16 * chunks + 4, max(0, size - 16 * chunks - 4))
        if len(body) != 16 * chunks + 4 or int(crc32c(body[:-4])) != int.from_bytes(body[-4:], "little"):
            raise Failure("a shard of the training set is damaged", where=str(self.path), todo="prepare it again")
        index = np.frombuffer(body[:-4], "<u8").reshape(-1, 2)
        held = index[index[:, 0] != _MISSING]
        if held.size and int(held.sum(axis=1).max()) > size - len(body):
            raise Failure("a shard of the training set is cut short", where=str(self.path), todo="prepare it again")
        return index[:, 0]
