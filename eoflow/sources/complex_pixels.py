"""Single-look complex radar as two real bands: complex rasters, and the NumPy files that despeckling tools keep.

Everything behind it reads real bands; the phase is kept by keeping both parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput

Array = np.ndarray[Any, Any]
PARTS = ("real", "imaginary")
"""Names of the two bands, whose units are those of the product ("1")."""
NUMPY = ".npy"
ROWS = 1024


def is_complex(dtypes: Any, count: int, where: str) -> bool:
    """Whether rasterio's dtypes say complex pixels. Raises BadInput for more than one band of them."""
    if not any(str(d).startswith("complex") for d in dtypes):
        return False
    if count != 1:
        raise BadInput(f"the file has {count} bands, and some are complex", where=where,
                       todo="give a file for each polarisation")  # fmt: skip
    return True


def parts_of(values: Array) -> Array:
    """(h, w) complex -> (2, h, w) float32."""
    return np.stack([values.real, values.imag]).astype(np.float32)


def open_numpy(path: Path) -> Array:
    """A NumPy file as (2, h, w), not yet read: complex (h, w), or the parts (h, w, 2) or (2, h, w).

    Raises BadInput for anything else.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise BadInput("this is no NumPy file of numbers", where=str(path),
                       todo="give what numpy.save wrote, without Python objects") from None  # fmt: skip
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "cfiu" or 0 in found.shape:
        raise BadInput("this is no array of numbers", where=str(path), todo="save it with numpy.save")
    if found.dtype.kind == "c" and found.ndim == 2:
        return np.stack([found.real, found.imag])
    if found.dtype.kind != "c" and found.ndim == 3 and found.shape[-1] == 2:
        return np.moveaxis(found, -1, 0)
    if found.dtype.kind != "c" and found.ndim == 3 and found.shape[0] == 2:
        return found
    raise BadInput(f"an array of shape {found.shape} and type {found.dtype} is no complex image", where=str(path),
                   todo="give complex (rows, columns), or real and imaginary part as (rows, columns, 2)")  # fmt: skip


def unpacked(path: Path, folder: Path, name: str) -> Path | None:
    """A TIFF `folder`/`name`.tif of two float32 bands with the same pixels and georeference, written by rows; None for
    a file whose pixels are real. Raises BadInput, and rasterio's errors for what cannot be opened."""
    import rasterio

    dest = folder / f"{name}.tif"
    common: dict[str, Any] = {"driver": "GTiff", "count": 2, "dtype": "float32", "tiled": True, "BIGTIFF": "IF_SAFER"}
    if path.suffix.lower() == NUMPY:
        values = open_numpy(path)
        with rasterio.open(dest, "w", height=values.shape[1], width=values.shape[2], **common) as out:
            _copy(out, lambda rows: values[:, rows].astype(np.float32))
        return dest
    with rasterio.open(path, driver="GTiff") as f:  # no driver that reads other files
        if not is_complex(f.dtypes, f.count, str(path)):
            return None
        place = {"crs": f.crs, "transform": f.transform} if f.crs is not None else {}
        with rasterio.open(dest, "w", height=f.height, width=f.width, **place, **common) as out:
            _copy(out, lambda rows: parts_of(f.read(1, window=(rows, slice(0, f.width)), out_dtype="complex64")))
    return dest


def _copy(out: Any, read: Any) -> None:
    for k, name in enumerate(PARTS, 1):
        out.set_band_description(k, name)
    for top in range(0, out.height, ROWS):
        rows = slice(top, min(top + ROWS, out.height))
        out.write(read(rows), window=((rows.start, rows.stop), (0, out.width)))
