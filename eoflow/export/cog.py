"""Cloud-optimized GeoTIFF: window by window into a plain tiled file, then GDAL's COG driver, beside and renamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput, Failure
from eoflow.export.publish import beside, remove
from eoflow.tiling import Grid

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]
Read = Callable[[int, slice, slice], Array]
"""(band number from 0, rows, columns) -> (h, w) stored values."""
BLOCK = 512
STEP = 4 * BLOCK
GDAL_CACHE_MB = 128
INDEXES = ("scene", "source")
"""Layers whose numbers are positions in a list: overviews must not average them."""
COMPRESSION = ("deflate", "zstd", "lzw", "none")


@dataclass(frozen=True)
class CogBand:
    """One band of a GeoTIFF. physical = stored * scale + offset in units; categorical: overviews take the mode."""

    name: str
    dtype: str
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    units: str | None = None
    long_name: str | None = None
    common_name: str | None = None
    wavelength: float | None = None
    categorical: bool = False

    @property
    def kind(self) -> tuple[str, float | str | None, bool]:
        """What bands of one file have in common."""
        nodata = "nan" if self.nodata is not None and np.isnan(self.nodata) else self.nodata
        return self.dtype, nodata, self.categorical


def band_of(da: xr.DataArray) -> CogBand:
    """What a variable says of itself: attributes of stored values, or the encoding it was decoded from."""
    said = {**da.encoding, **da.attrs}
    decoded = "scale_factor" in da.encoding or "add_offset" in da.encoding
    dtype = np.dtype(da.encoding["dtype"] if decoded and "dtype" in da.encoding else da.dtype)
    nodata = said.get("_FillValue", said.get("nodata"))
    if nodata is None and dtype.kind == "f":
        nodata = float("nan")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadInput(f"a GeoTIFF cannot hold {dtype}", where=str(da.name), todo="leave this variable out")
    return CogBand(
        name=str(da.name), dtype=dtype.name, nodata=None if nodata is None else float(nodata),
        scale=float(said.get("scale_factor", 1.0)), offset=float(said.get("add_offset", 0.0)),
        units=said.get("units"), long_name=said.get("long_name"), common_name=said.get("common_name"),
        wavelength=said.get("radiation_wavelength"), categorical="flag_values" in said or str(da.name) in INDEXES,
    )  # fmt: skip


def void(values: Array, nodata: float | None) -> Array:
    """Where stored values are nodata: bool."""
    if nodata is None:
        return np.zeros(values.shape, bool)
    return np.asarray(np.isnan(values) if np.isnan(nodata) else values == nodata)


def stored(values: Array, band: CogBand, decoded: bool) -> Array:
    """Values as the file holds them; `decoded`: they are physical, and are packed again."""
    dtype = np.dtype(band.dtype)
    if not decoded:
        return values.astype(dtype, copy=False)
    lost = np.isnan(values)
    packed = (np.where(lost, 0, values).astype("f8") - band.offset) / band.scale
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        packed = np.clip(np.rint(packed), info.min, info.max)
    out = packed.astype(dtype)
    out[lost] = 0 if band.nodata is None else band.nodata
    return out


def write_cog(
    dest: Path, bands: Sequence[CogBand], grid: Grid, read: Read, *, tags: dict[str, str] | None = None,
    compress: str = "deflate", overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write one COG: tiles of 512, overviews that know nodata, band names, scale, offset and units, CRS, tags.

    bands must share dtype, nodata and being categorical. Memory does not grow with the image. Raises BadInput for
    bands that do not go together, or where `dest` exists; Failure where GDAL cannot write.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.shutil import copy

    if len({b.kind for b in bands}) != 1:
        raise BadInput(f"one GeoTIFF cannot hold bands of {len({b.kind for b in bands})} types or nodata values")
    if compress not in COMPRESSION:
        raise BadInput(f"compression '{compress}' is not known", todo=", ".join(COMPRESSION))
    first = bands[0]
    options: dict[str, Any] = {
        "BLOCKSIZE": BLOCK, "COMPRESS": compress.upper(), "BIGTIFF": "IF_SAFER", "OVERVIEWS": "IGNORE_EXISTING",
        "OVERVIEW_RESAMPLING": "MODE" if first.categorical else "AVERAGE", "NUM_THREADS": "2",
    }  # fmt: skip
    if compress != "none":
        options["PREDICTOR"] = "YES"
    with beside(dest, overwrite) as temp:
        plain = temp.with_name(temp.name + ".plain")
        try:
            with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB * 2**20, GDAL_TIFF_INTERNAL_MASK=False):
                _write_plain(plain, bands, grid, read, tags or {})
                copy(str(plain), str(temp), driver="COG", **options)
        except (RasterioError, OSError) as e:
            raise Failure(f"the COG could not be written: {e}", where=str(dest), todo="is there room?") from e
        finally:
            for left in (plain, temp.with_name(temp.name + ".ovr.tmp"), temp.with_name(temp.name + ".msk.ovr.tmp")):
                remove(left)
    return dest


def _write_plain(path: Path, bands: Sequence[CogBand], grid: Grid, read: Read, tags: dict[str, str]) -> None:
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    height, width = grid.shape
    first = bands[0]
    where = {"crs": grid.crs, "transform": Affine(*grid.transform)} if grid.crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=len(bands), dtype=first.dtype,
        nodata=first.nodata, tiled=True, blockxsize=BLOCK, blockysize=BLOCK, interleave="band", compress="LZW",
        bigtiff="IF_SAFER", sparse_ok=True, **where,
    ) as f:  # fmt: skip
        for i, band in enumerate(bands):
            f.set_band_description(i + 1, band.name)
            more = {"long_name": band.long_name, "common_name": band.common_name, "wavelength_um": band.wavelength}
            f.update_tags(i + 1, **{k: str(v) for k, v in more.items() if v is not None})
            if band.units is not None:
                f.set_band_unit(i + 1, band.units)
        f.scales, f.offsets = [b.scale for b in bands], [b.offset for b in bands]
        f.update_tags(**tags)
        for y in range(0, height, STEP):
            for x in range(0, width, STEP):
                rows, columns = slice(y, min(y + STEP, height)), slice(x, min(x + STEP, width))
                window = Window(x, y, columns.stop - x, rows.stop - y)
                for i in range(len(bands)):
                    f.write(read(i, rows, columns), i + 1, window=window)
