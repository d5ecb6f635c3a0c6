"""Opening a raster safely: which drivers, which options, which declared sizes; and what GDAL's errors mean."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt, AssetError, AssetMissing, AssetTransient
from eoflow.sources.raster_http import hide
from eoflow.sources.scene import Grid

DRIVERS = ["GTiff", "JP2OpenJPEG", "PNG"]
"""GDAL drivers that may open a file. None of them reads another file or an address that its content names."""
OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder, no sidecar files
    "GDAL_PAM_ENABLED": "NO",  # never writes NAME.aux.xml beside a user's file
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # One thread decodes: callers have their own, and in its threads OpenJPEG reads a truncated file as zeros, silently.
    "GDAL_NUM_THREADS": "1",
    # Bytes. Decoded blocks that GDAL keeps: windows hold whole blocks, and its default is 5 % of the memory.
    "GDAL_CACHEMAX": 64 * 2**20,
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # the header of most COGs in one request
    "GDAL_HTTP_MAX_RETRY": "0",  # tried again here, where the cause is known
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "100",
}
_THREAD = threading.local()
MAX_PIXELS = 2**32
"""Declared pixels of a band. The largest scenes in use (whole Sentinel-1 passes, VHR mosaics) have a tenth."""
MAX_BLOCK_BYTES = 2**29
MAX_BANDS = 4096
BOMB_RATIO = 1_000_000
"""Declared bytes for each byte of the file, above 1 GiB: no compression reaches it on an image with content."""
_NETWORK = re.compile(r"HTTP |CURL|response_code|[Tt]imed? ?out|[Cc]onnection|resolve host")


@dataclass
class Opened:
    """An open file and what is asked of it again and again.

    path: what GDAL opened, address: what that was made of (both may hold a signature). tied: only ground control points
    place it (a radar swath): `grid` is a regular grid around it, and every read is warped.
    """

    ds: Any
    path: str
    crs: str | None
    grid: Grid
    size: int | None
    etag: str | None
    tied: bool = False
    stamp: tuple[int, int] | None = None
    address: str = ""

    def close(self) -> None:
        """Close the file."""
        self.ds.close()


@contextmanager
def environment() -> Iterator[None]:
    """The GDAL configuration of eoflow (of this thread); inside itself it costs nothing."""
    import rasterio
    from rasterio.session import DummySession

    if getattr(_THREAD, "inside", False):
        yield
        return
    with rasterio.Env(session=DummySession(), **OPTIONS):
        _THREAD.inside = True
        try:
            yield
        finally:
            _THREAD.inside = False


def open_raster(path: str, where: str, size: int | None, etag: str | None, max_pixels: int = MAX_PIXELS) -> Opened:
    """Open a file with the allowed drivers and check what it declares. Call inside `environment()`.

    Raises AssetCorrupt (unreadable, truncated, absurd size); whatever GDAL raises is for the caller to classify.
    """
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ds = DatasetReader(path, driver=DRIVERS)
        try:
            check_declared(ds, where, size, max_pixels)
            _check_complete(ds, where, size)
            crs, grid, tied = _place(ds, where)
        except BaseException:
            ds.close()
            raise
    return Opened(ds, path, crs, grid, size, etag, tied)


def _place(ds: Any, where: str) -> tuple[str | None, Grid, bool]:
    """(CRS, pixel grid, whether only ground control points tie the raster to it)."""
    t, crs, shape = ds.transform, crs_text(ds.crs), (ds.height, ds.width)
    points, points_crs = ds.gcps
    if crs is not None or len(points) < 3 or crs_text(points_crs) is None:
        return crs, Grid(crs or "", (t.a, t.b, t.c, t.d, t.e, t.f), shape), False
    from rasterio.warp import calculate_default_transform

    if points_crs.is_geographic and max(p.x for p in points) - min(p.x for p in points) > 180:
        raise AssetCorrupt(
            "the ground control points cross the antimeridian: a swath there cannot be placed", where=where,
            todo="leave this scene out, or give a terrain-corrected product (Sentinel-1 RTC)",
        )  # fmt: skip
    t, width, height = calculate_default_transform(points_crs, points_crs, ds.width, ds.height, gcps=points)
    crs = crs_text(points_crs)
    return crs, Grid(crs or "", (t.a, t.b, t.c, t.d, t.e, t.f), (height, width)), True


def crs_text(crs: Any) -> str | None:
    """EPSG:n where there is one, else WKT; None for no CRS or one that is not of the Earth."""
    if not crs or not (crs.is_geographic or crs.is_projected):
        return None
    text = crs.to_string()
    return text if text.startswith("EPSG:") else crs.to_wkt()


def check_declared(ds: Any, where: str, size: int | None, max_pixels: int) -> None:
    """Refuse a file whose header declares more than can be true, before anything of that size is allocated."""
    todo = "fetch the file again from its provider; do not trust this copy"
    pixels = ds.height * ds.width
    if pixels > max_pixels:
        raise AssetCorrupt(
            f"the header declares {ds.width} x {ds.height} pixels; more than {max_pixels:.3g} are not read",
            where=where,
            todo="cut it into tiles of a reasonable size, if it is not a decompression bomb",
        )  # fmt: skip
    if ds.count > MAX_BANDS:
        raise AssetCorrupt(f"the header declares {ds.count} bands", where=where, todo=todo)
    for (rows, columns), dtype in zip(ds.block_shapes[:1], ds.dtypes[:1], strict=True):
        if rows * columns * itemsize(dtype) > MAX_BLOCK_BYTES:
            raise AssetCorrupt(
                f"one block of the file has {columns} x {rows} pixels: it would take "
                f"{rows * columns * itemsize(dtype) / 2**20:.0f} MiB to read one pixel", where=where,
                todo="rewrite it in tiles: rio cogeo create, or gdal_translate -of COG",
            )  # fmt: skip
    declared = pixels * sum(itemsize(d) for d in ds.dtypes)
    if size is not None and declared > 2**30 and declared > size * BOMB_RATIO:
        raise AssetCorrupt(
            f"{size} bytes cannot hold the {ds.width} x {ds.height} pixels x {ds.count} bands that the header declares",
            where=where, todo=todo,
        )  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of one value of a rasterio dtype name."""
    try:
        return np.dtype(dtype).itemsize
    except TypeError:  # complex_int16
        return 4


def _check_complete(ds: Any, where: str, size: int | None) -> None:
    """Raise AssetCorrupt where the last block of a TIFF lies beyond the end of the file."""
    if size is None or ds.driver != "GTiff":
        return
    rows, columns = ds.block_shapes[0]
    last = f"{(ds.width - 1) // columns}_{(ds.height - 1) // rows}"
    for index in {1, ds.count}:
        offset = ds.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=index)
        length = ds.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=index)
        if offset and length and int(offset) + int(length) > size:
            raise AssetCorrupt(
                f"the file is truncated: it has {size} bytes, and band {index} reaches to byte"
                f" {int(offset) + int(length)}", where=where, todo="fetch it again",
            )  # fmt: skip


def written_nodata(path: str) -> str | None:
    """The text of a local TIFF's nodata tag (42113), as it stands in the first directory; None for none.

    GDAL hides a value that the data type cannot hold, and with it that the file has holes.
    """
    import struct

    with Path(path).open("rb") as f:
        head = f.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None:
            return None
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        word, size = ("Q", 20) if big else ("I", 12)
        f.seek(struct.unpack(order + word, head[8:16] if big else head[4:8])[0])
        raw = f.read(8 if big else 2)
        entries = f.read(min(struct.unpack(order + ("Q" if big else "H"), raw)[0], 4096) * size)
        for at in range(0, len(entries) - size + 1, size):
            tag, kind = struct.unpack_from(order + "HH", entries, at)
            if (tag, kind) == (42113, 2):
                length, value = struct.unpack_from(order + 2 * word, entries, at + 4)
                inside = length <= struct.calcsize(word)
                text = entries[at + size - struct.calcsize(word) :][:length]
                if not inside:
                    f.seek(value)
                    text = f.read(min(length, 64))
                return text.split(b"\0")[0].decode("ascii", "replace").strip()
    return None


def messages(error: BaseException) -> str:
    """What GDAL said, innermost cause first, without signatures."""
    said: list[str] = []
    seen: set[int] = set()
    e: BaseException | None = error
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        text = str(getattr(e, "errmsg", None) or e).strip()
        if text and "previous exception" not in text and text not in said:
            said.append(text)
        e = e.__cause__ or e.__context__
    return hide("; ".join(reversed(said)) or type(error).__name__)


def is_network(said: str) -> bool:
    """Whether a message of GDAL is about a request and not about the content of the file."""
    return bool(_NETWORK.search(re.sub(r"https?://\S+", "", said)))


def local_path(href: str) -> str:
    """A path of this machine as rasterio opens it. Raises BadInput for an address."""
    if href.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        href = unquote(urlsplit(href).path)
    if "://" in href or re.match(r"[A-Za-z0-9_]{3,}:", href) or href.startswith("/vsi"):
        raise BadInput(
            f"'{hide(href)}' is not a path of this machine", where=hide(href),
            todo="give a file, or a dataset whose source reads addresses (driver stac)",
        )  # fmt: skip
    return os.path.abspath(Path(href).expanduser())  # noqa: PTH100  `resolve` would follow links


def local_stat(path: str, where: str) -> tuple[int, int]:
    """(size, modification time in ns). Raises AssetMissing, AssetCorrupt for an empty file or a folder."""
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AssetMissing("there is no such file", where=where, todo="check the path") from None
    except OSError as e:
        raise AssetCorrupt(f"it cannot be opened: {e.strerror}", where=where, todo="check its permissions") from None
    if Path(path).is_dir():
        raise AssetCorrupt("this is a folder, not a raster file", where=where, todo="give the files in it")
    if not found.st_size:
        raise AssetCorrupt("the file is empty (0 bytes)", where=where, todo="fetch it again")
    return found.st_size, found.st_mtime_ns


def local_error(error: BaseException, where: str) -> AssetError:
    """What an exception of rasterio on a local file means."""
    if isinstance(error, MemoryError):
        return AssetTransient("there is not enough memory to read it", where=where, todo="use fewer workers")
    said = messages(error)
    if isinstance(error, PermissionError) or "ermission denied" in said:
        return AssetCorrupt(f"it cannot be opened: {said}", where=where, todo="check its permissions")
    if "not recognized" in said or "not supported" in said.lower():
        begins = _begins(where)
        return AssetCorrupt(
            f"this is not a GeoTIFF, JPEG 2000 or PNG{begins}", where=where,
            todo="check that the download did not save an error page",
        )  # fmt: skip
    return AssetCorrupt(f"the file is damaged: {said}", where=where, todo="fetch it again")


def _begins(path: str) -> str:
    try:
        with Path(path).open("rb") as f:
            head = f.read(16)
    except OSError:
        return ""
    text = head.decode("ascii", "replace").replace("\ufffd", "?").split("\n")[0]
    return f": it begins with {text!r}" if text else ""
