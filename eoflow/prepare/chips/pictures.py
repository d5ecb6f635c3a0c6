"""One image file as an array: GeoTIFF, JPEG 2000, PNG, JPEG, BMP; with or without georeference. Complex pixels, of a
TIFF or a NumPy file, as two bands."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources import raster_open as ro
from eoflow.sources.complex_pixels import NUMPY, PARTS, is_complex, open_numpy, parts_of

Array = np.ndarray[Any, np.dtype[Any]]
SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".bmp", NUMPY)
PLAIN = {".bmp": "BMP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Formats that no scene comes in, but many sets of chips do: suffix -> GDAL driver."""
MOST_PIXELS = 2**28
"""Pixels of a chip: it is read whole."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself. shape: (rows, columns). alpha: index of an opacity band from 0, None without one.

    picture: 8-bit colours or greys for the eye, without any word about what they mean.
    """

    path: Path
    shape: tuple[int, int]
    count: int
    dtype: str
    nodata: float | None
    descriptions: tuple[str | None, ...]
    scale: float | None
    offset: float | None
    units: str | None
    alpha: int | None
    crs: str | None

    @property
    def bands(self) -> int:
        """Bands without the opacity."""
        return self.count - (self.alpha is not None)

    @property
    def picture(self) -> bool:
        """See the class."""
        plain = self.dtype == "uint8" and not any(self.descriptions) and self.scale is None
        return plain and self.bands in (1, 3)


def header(path: Path) -> Header:
    """The header of a file. Raises AssetCorrupt or AssetMissing naming it."""
    if path.suffix.lower() == NUMPY:
        shape = open_numpy(path).shape
        return Header(path, (shape[1], shape[2]), 2, "float32", None, PARTS, None, None, None, None, None)
    return _with(path, lambda ds: _header(path, ds))


def read(path: Path, numbers: bool = False) -> Array:
    """All bands as stored, (C, rows, columns); colours of a palette are looked up unless its `numbers` are wanted."""
    if path.suffix.lower() == NUMPY:
        return open_numpy(path).astype(np.float32)
    return _with(path, lambda ds: ds.read() if numbers else _pixels(ds))


def _with(path: Path, work: Any) -> Any:
    where = str(path)
    size, _ = ro.local_stat(where, where)
    with ro.environment():
        try:
            ds = _open(path, where, size)
            try:
                return work(ds)
            finally:
                ds.close()
        except Exception as e:
            if isinstance(e, BadInput) or hasattr(e, "todo"):
                raise
            raise ro.local_error(e, where) from None


def _open(path: Path, where: str, size: int) -> Any:
    """The rasterio dataset; only drivers that read no other file."""
    driver = PLAIN.get(path.suffix.lower())
    if driver is None:
        return ro.open_raster(ro.local_path(where), where, size, None, MOST_PIXELS).ds
    import warnings

    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ds = DatasetReader(ro.local_path(where), driver=[driver])
    try:
        ro.check_declared(ds, where, size, MOST_PIXELS)
    except BaseException:
        ds.close()
        raise
    return ds


def _header(path: Path, ds: Any) -> Header:
    if is_complex(ds.dtypes, ds.count, str(path)):
        return Header(path, (ds.height, ds.width), 2, "float32", ds.nodata, PARTS, None, None, None, None,
                      ro.crs_text(ds.crs))  # fmt: skip
    scales, offsets = set(ds.scales), set(ds.offsets)
    said = scales != {1.0} or offsets != {0.0}
    names = [c.name for c in ds.colorinterp]
    count = 3 if _coloured(ds) else ds.count
    units = {u for u in ds.units if u}
    return Header(
        path, (ds.height, ds.width), count, str(ds.dtypes[0]), ds.nodata, tuple(ds.descriptions[:count]),
        float(ds.scales[0]) if said and len(scales) == 1 else None,
        float(ds.offsets[0]) if said and len(offsets) == 1 else None,
        units.pop() if len(units) == 1 else None, names.index("alpha") if "alpha" in names else None,
        ro.crs_text(ds.crs),
    )  # fmt: skip


def _palette(ds: Any) -> Array | None:
    """(256, 3) colours of a file of one band with a palette."""
    if ds.count != 1 or ds.colorinterp[0].name != "palette":
        return None
    table = np.zeros((256, 3), np.uint8)
    for value, colour in ds.colormap(1).items():
        table[value] = colour[:3]
    return table


def _coloured(ds: Any) -> bool:
    table = _palette(ds)
    return table is not None and bool((table != table[:, :1]).any())


def _pixels(ds: Any) -> Array:
    if is_complex(ds.dtypes, ds.count, str(ds.name)):
        return parts_of(ds.read(1, out_dtype="complex64"))
    values: Array = ds.read()
    table = _palette(ds)
    if table is None:
        return values
    colours = table[values[0]].transpose(2, 0, 1)
    return colours if _coloured(ds) else colours[:1]


class Kept:
    """The last values that a function gave, up to some bytes: chips are read again and again, folders may be large."""

    def __init__(self, load: Any, megabytes: int) -> None:
        self.load, self.limit = load, megabytes << 20
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"load": self.load, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load, self.limit = state["load"], state["limit"]
        self._start()

    def get(self, key: Any) -> Any:
        """The value of a key, read if it is not there any more."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = self.load(key)
        size = sum(int(x.nbytes) for x in value if hasattr(x, "nbytes"))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (value, size)
                self._bytes += size
            while self._bytes > self.limit and len(self._kept) > 1:
                _, (_, gone) = self._kept.popitem(last=False)
                self._bytes -= gone
        return value
