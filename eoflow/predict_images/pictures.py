"""What the reader of scenes does not open, as plain TIFFs: BMP, JPEG, PNG with a palette, and complex pixels."""

from __future__ import annotations

import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources.complex_pixels import NUMPY, unpacked
from eoflow.sources.raster import RasterReader

DRIVERS = {".bmp": "BMP", ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
MAY_BE_COMPLEX = (".tif", ".tiff", NUMPY)


class Pictures:
    """Path -> path of a TIFF with the same pixels, made once in a folder that goes with this object."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __call__(self, href: str) -> str:
        """What is opened for a path: itself, but for pictures that have to be unpacked. Raises BadInput."""
        suffix = Path(href).suffix.lower()
        driver = DRIVERS.get(suffix)
        if driver is None and suffix not in MAY_BE_COMPLEX:
            return href
        with self._lock:
            if href not in self._made:
                self._made[href] = self._unpack(href, driver) if driver else self._parts(href)
            return self._made[href]

    def _parts(self, href: str) -> str:
        """Complex pixels as two bands; a file of real ones, or one that cannot be opened, as it is."""
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                found = unpacked(Path(href), self._scratch(), str(len(self._made)))
            except RasterioError:
                return href  # the reader says what is wrong
        return href if found is None else str(found)

    def _scratch(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="eoflow-pictures-")
        return Path(self._folder.name)

    def _unpack(self, href: str, driver: str) -> str:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                with rasterio.open(href, driver=driver) as f:
                    palette = _palette(f)
                    if driver == "PNG" and palette is None:
                        return href
                    values = f.read()
            except RasterioError as e:
                raise BadInput(f"the picture cannot be read: {e}", where=href, todo="give a readable file") from None
            if palette is not None:
                values = np.moveaxis(palette[values[0]], -1, 0)
                if (values == values[:1]).all():
                    values = values[:1]
            out = self._scratch() / f"{len(self._made)}.tif"
            with rasterio.open(out, "w", driver="GTiff", height=values.shape[1], width=values.shape[2],
                               count=len(values), dtype=values.dtype, tiled=values.shape[1] > 512) as f:  # fmt: skip
                f.write(values)
        return str(out)


def _palette(f: Any) -> Any | None:
    """(256, 3) colours of a picture with one band of indices; None for any other."""
    if f.count != 1 or f.dtypes[0] != "uint8":
        return None
    try:
        colours = f.colormap(1)
    except ValueError:
        return None
    out = np.zeros((256, 3), np.uint8)
    for index, colour in colours.items():
        out[index] = colour[:3]
    return out


def picture_reader() -> RasterReader:
    """A reader of rasters and pictures, with or without a georeference."""
    return RasterReader(Pictures(), need_crs=False)
