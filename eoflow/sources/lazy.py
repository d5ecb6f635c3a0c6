"""Lazy arrays: dask blocks of whole fields, aligned with the chunks of the file, with readable errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.sources.base import AssetCorrupt, AssetError, AssetTransient

if TYPE_CHECKING:
    import xarray as xr

BLOCK_BYTES = 32 * 2**20
LARGEST_BLOCK_BYTES = 128 * 2**20


class Guarded:
    """An array of a file whose reading errors become AssetCorrupt or AssetTransient with the file's name."""

    def __init__(self, variable: xr.Variable, where: str) -> None:
        self.variable, self.where = variable, where
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        # slices only: xarray's scipy backend mixes up dimensions where an integer meets an index array
        key = key if isinstance(key, tuple) else (key,)
        whole = tuple(slice(int(k), int(k) + 1) if isinstance(k, (int, np.integer)) else k for k in key)
        drop = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        try:
            return np.asarray(self.variable[whole].to_numpy())[drop]
        except AssetError:
            raise
        except Exception as e:  # every backend has its own exceptions
            raise read_error(e, self.where) from e


def read_error(e: BaseException, where: str) -> AssetError:
    """The asset error that a failed read stands for: transient for the network's, corrupt for everything else."""
    if is_network(e):
        return AssetTransient(f"the connection failed while reading: {said(e)}", where=where, todo="try again later")
    return AssetCorrupt(
        f"cannot be read: {said(e)}", where=where, todo="the file is damaged or incomplete: fetch it again"
    )


def is_network(e: BaseException) -> bool:
    """Whether trying again may help: refused or broken connections, time-outs, server errors."""
    name = f"{type(e).__module__}.{type(e).__name__}"
    status = getattr(e, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return False
    return isinstance(e, (TimeoutError, ConnectionError)) or name.startswith(
        ("aiohttp.", "botocore.", "aiobotocore.", "gcsfs.")
    )


def said(e: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]


def block_shape(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    itemsize: int,
    native: tuple[int, ...] | None,
    time_dim: str | None,
) -> dict[str, int]:
    """Block length by dimension: whole fields, and as many native chunks along time as fit BLOCK_BYTES.

    Where one native chunk of times is larger than LARGEST_BLOCK_BYTES the other leading dimensions are cut, along
    their native chunks too.
    """
    sizes = dict(zip(dims, shape))
    chunk = dict(zip(dims, native or ()))
    blocks = dict(sizes)
    if time_dim not in sizes:
        return blocks
    step = max(1, min(chunk.get(time_dim, 1), sizes[time_dim]))
    others = [d for d in dims if d != time_dim]

    def size(b: dict[str, int]) -> int:
        return itemsize * int(np.prod([b[d] for d in dims], dtype=np.int64))

    blocks[time_dim] = step
    for d in others:
        if size(blocks) > LARGEST_BLOCK_BYTES:
            blocks[d] = max(1, min(chunk.get(d, 1), sizes[d]))
    blocks[time_dim] = min(sizes[time_dim], step * max(1, BLOCK_BYTES // max(1, size(blocks))))
    return blocks


def _cuts(length: int, block: int, offset: int) -> tuple[int, ...]:
    """Chunk lengths along one dimension whose cuts lie on multiples of `block` counted from `offset` before it."""
    first = min(length, block - offset % block) if offset % block else min(length, block)
    cuts = [first]
    while sum(cuts) < length:
        cuts.append(min(block, length - sum(cuts)))
    return tuple(c for c in cuts if c)


def blocked(da: xr.DataArray, where: str, time_dim: str | None, offset: int = 0) -> xr.DataArray:
    """A DataArray of a file -> the same over dask blocks. `offset`: how many times were cut off in front of it.

    Native chunks come from the encoding (`chunksizes` of HDF5, `chunks` of Zarr).
    """
    import dask.array

    variable = da.variable
    if variable.chunks is not None:
        return da
    native = variable.encoding.get("chunks") or variable.encoding.get("chunksizes")
    native = tuple(int(n) for n in native) if native and len(native) == variable.ndim else None
    dims = tuple(str(d) for d in variable.dims)
    blocks = block_shape(dims, variable.shape, variable.dtype.itemsize, native, time_dim)
    chunks = tuple(
        _cuts(n, blocks[d], offset if d == time_dim else 0) if n else (0,) for d, n in zip(dims, variable.shape)
    )
    if time_dim in dims and native:
        step = native[dims.index(time_dim)]
        if blocks[time_dim] % step:  # a slab smaller than one native chunk: no alignment to keep
            chunks = tuple(_cuts(n, blocks[d], 0) if n else (0,) for d, n in zip(dims, variable.shape))
    array = dask.array.from_array(  # type: ignore[no-untyped-call]
        Guarded(variable, f"{where}, variable {da.name}"),
        chunks=chunks,
        name=False,
        fancy=False,
        meta=np.empty((0,) * variable.ndim, variable.dtype),
    )
    return da.copy(data=array)


def linear(da: xr.DataArray, scale: float, offset: float, dtype: str = "float32") -> xr.DataArray:
    """scale * x + offset in double precision, then `dtype`; one dask layer, nothing where there is nothing to do."""
    if scale == 1.0 and offset == 0.0:
        return da if str(da.dtype) == dtype else da.astype(dtype)
    return da.copy(
        data=da.data.map_blocks(_linear, scale, offset, dtype, dtype=dtype, meta=np.empty((0,) * da.ndim, dtype))
    )


def _linear(x: np.ndarray[Any, Any], scale: float, offset: float, dtype: str) -> np.ndarray[Any, Any]:
    y = x.astype(np.float64)
    y *= scale
    y += offset
    return y.astype(dtype)
