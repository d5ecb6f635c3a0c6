"""The one reader of raster files: headers and pixel windows of GeoTIFF, COG, JPEG 2000 and PNG, local or by http."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from eoflow.errors import BadInput, EoflowError
from eoflow.sources import raster_grid, raster_http
from eoflow.sources import raster_open as ro
from eoflow.sources.base import AssetCorrupt, AssetTransient
from eoflow.sources.raster_files import OpenFiles, handles
from eoflow.sources.raster_grid import bbox_of, same_crs
from eoflow.sources.scene import Grid, RasterBand

Array = np.ndarray[Any, Any]
T = TypeVar("T")
OPEN_FILES = 256
"""Of the scenes whose headers are read together; see OpenFiles."""
__all__ = ["Header", "RasterReader", "bbox_of", "fill_in", "grid_of", "same_crs"]


@dataclass(frozen=True)
class Header:
    """What a raster file says of one of its bands, without reading pixels.

    crs: EPSG:n or WKT; None for none. A radar swath that only has ground control points gets their CRS and a regular
    grid around it (every read is then warped). transform: (a, b, c, d, e, f). shape, blocks: (y, x). scale, offset:
    None where the file does not say (GDAL cannot tell that from 1 and 0). descriptions: of every band, None where
    there is none. overviews: factors. etag: the server's ETag, else its date; of a local file size and mtime.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    dtype: str
    nodata: float | None
    scale: float | None
    offset: float | None
    blocks: tuple[int, int]
    count: int
    descriptions: tuple[str | None, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    overviews: tuple[int, ...] = ()
    etag: str | None = None
    driver: str = "GTiff"
    units: str | None = None


def grid_of(header: Header) -> Grid:
    """The pixel grid of a raster; crs "" where it has none."""
    return Grid(header.crs or "", header.transform, header.shape)


def fill_in(band: RasterBand, header: Header) -> RasterBand:
    """The band with what it left open taken from the header of its file. scale and offset stay None if neither says.

    A nodata of NaN becomes None: NaN is no value in every floating-point band. Raises AssetCorrupt for an integer
    band whose file says NaN: what its holes hold is not known.
    """
    nodata = header.nodata if band.nodata is None else band.nodata
    if nodata is not None and nodata != nodata:
        if np.dtype(header.dtype).kind in "iu":
            raise AssetCorrupt(
                f"nodata is NaN, which {header.dtype} pixels cannot hold", where=f"{band.href}, band {band.index}",
                todo="write the value that stands for no value into the entry (nodata of the band), or into the file",
            )  # fmt: skip
        nodata = None
    return replace(
        band,
        dtype=band.dtype or header.dtype,
        nodata=nodata,
        scale=header.scale if band.scale is None else band.scale,
        offset=header.offset if band.offset is None else band.offset,
        units=band.units or header.units,
        grid=band.grid or grid_of(header),
        blocks=band.blocks or header.blocks,
        etag=band.etag or header.etag,
    )


class RasterReader:
    """Reads headers and windows. Safe in threads, picklable; at most `open_files` files stay open between two reads.

    readable: href -> what is opened (a path or a signed http address), called at the moment of opening. It, or the
    object that it is a method of, may have `renew(href, failed)`, called with the address that was refused before
    signing again after HTTP 401 or 403, and `check(href)`, which raises BadInput for an address that is not allowed.
    need_crs: refuse a raster without georeference (AssetCorrupt). tries: times that a transient error is tried again.
    sleep: how to wait between them.
    """

    def __init__(
        self, readable: Callable[[str], str] = ro.local_path, *, need_crs: bool = True, open_files: int = OPEN_FILES,
        max_pixels: int = ro.MAX_PIXELS, tries: int = 3, sleep: raster_http.Sleep = time.sleep,
    ) -> None:  # fmt: skip
        self.readable, self.need_crs, self.open_files = readable, need_crs, handles(open_files)
        self.max_pixels, self.tries, self.sleep = max_pixels, tries, sleep
        self._local, self._files = threading.local(), OpenFiles(self.open_files)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local, self._files = threading.local(), OpenFiles(self.open_files)

    def header(self, href: str, index: int = 1) -> Header:
        """The header of band `index` of a file.

        Raises AssetMissing, AssetCorrupt (unreadable, truncated, too large, no georeference), AssetTransient (after
        the retries) or BadInput (an address that is not allowed).
        """
        where = raster_http.bare(href)
        return self._do(href, lambda: where, lambda o: _header(o, href, index, self.need_crs), used=False)

    def read(
        self, band: RasterBand, grid: Grid, resampling: str = "nearest", fill: float | None = None
    ) -> Array:  # fmt: skip
        """The pixels of `grid`, in the file's dtype, shape grid.shape.

        A grid that is pixel-aligned with the raster gets an exact copy of the pixels; another is warped (`resampling`:
        nearest, bilinear, cubic, average; nodata takes no part). Outside the raster: band.nodata, else `fill`, else
        NaN or 0. Raises as `header`, naming file, band and window.
        """
        return self._read(band, [band.index], grid, resampling, fill)[0]

    def read_bands(
        self, bands: Mapping[str, RasterBand], grid: Grid, resampling: str = "nearest", fill: float | None = None
    ) -> dict[str, Array]:  # fmt: skip
        """`read` of several bands. Bands of one file are read in one go, so that a pixel-interleaved file is decoded
        once and not once a band."""
        out: dict[str, Array] = {}
        groups: dict[Any, list[str]] = {}
        for name, b in bands.items():
            groups.setdefault((b.href, b.nodata if b.nodata == b.nodata else "nan", b.dtype), []).append(name)
        for names in groups.values():
            stack = self._read(bands[names[0]], [bands[n].index for n in names], grid, resampling, fill)
            out |= dict(zip(names, stack, strict=True))
        return {name: out[name] for name in bands}

    def close(self) -> None:
        """Close the files that are not in use now, and the others after it."""
        self._files.close()

    def _read(
        self, band: RasterBand, indexes: list[int], grid: Grid, resampling: str, fill: float | None
    ) -> Array:  # fmt: skip
        if resampling not in raster_grid.RESAMPLING:
            raise BadInput(f"resampling '{resampling}' is not known", todo=f"choose from {raster_grid.RESAMPLING}")
        h, w = grid.shape
        spot = _spot(indexes, None if band.grid is None else raster_grid.offset_in(grid, band.grid), grid)

        def work(o: ro.Opened) -> Array:
            nonlocal spot
            _require_index(o, max(indexes), band.href)
            at = None if o.tied else raster_grid.offset_in(grid, o.grid)
            spot = _spot(indexes, at, grid)
            dtype = np.dtype(o.ds.dtypes[indexes[0] - 1])
            inside = at is not None and min(at) >= 0 and at[0] + h <= o.ds.height and at[1] + w <= o.ds.width
            shape = (len(indexes), h, w)
            out = np.empty(shape, dtype) if inside else raster_grid.empty(shape, dtype, band.nodata, fill)
            if out.size == 0:
                return out
            if at is not None:
                raster_grid.read_aligned(o.ds, indexes, at, out)
            elif o.crs is None or not grid.crs:
                raise AssetCorrupt(
                    "a raster without CRS can only be read on its own pixel grid", where=band.href,
                    todo="write its CRS into the file (rio edit-info --crs EPSG:n)",
                )  # fmt: skip
            elif o.tied:
                raster_grid.read_swath(o.ds, indexes, grid, out, resampling, band.nodata)
            else:
                raster_grid.read_warped(o.ds, indexes, grid, out, resampling, band.nodata, o.crs)
            return out

        return self._do(band.href, lambda: f"{raster_http.bare(band.href)}{spot}", work)

    def _do(self, href: str, place: Callable[[], str], work: Callable[[ro.Opened], T], used: bool = True) -> T:
        """`work` on the open file: errors are classified, transient ones tried again, expired addresses renewed."""
        renewed = False

        def once(attempt: int) -> T:
            nonlocal renewed
            while True:
                try:
                    with ro.environment():
                        return self._use(href, attempt, place(), work, used)
                except EoflowError as e:
                    if not isinstance(e, _Expired):
                        raise
                    expired: raster_http.Probe = e.found
                except Exception as e:  # whatever rasterio raises; classified right here
                    path = self._drop(href)
                    if path is None or not raster_http.is_remote(path):
                        raise ro.local_error(e, place()) from e
                    found = raster_http.probe(path, self._allowed)
                    if found.status not in (401, 403):
                        raise _remote_error(e, found, place(), attempt) from e
                    expired = found
                if renewed:
                    error = raster_http.refusal(expired, place())
                    error.final = True  # type: ignore[attr-defined]
                    raise error
                renewed = True
                self._renew(href, getattr(self._local, "last", {}).get(href, ""))

        return raster_http.retrying(once, self.tries, self.sleep)

    def _allowed(self, url: str) -> None:
        """Raises BadInput for an address that a server sends on to and that may not be read."""
        (self._hook("check") or self.readable)(url)

    def _renew(self, href: str, failed: str) -> None:
        renew = self._hook("renew")
        if renew is not None:
            renew(href, failed)

    def _hook(self, name: str) -> Callable[..., Any] | None:
        """The method `name` of `readable`, or of the object that it is a method of."""
        owner = getattr(self.readable, "__self__", None)
        found = getattr(self.readable, name, None) or getattr(owner, name, None)
        return found if callable(found) else None

    def _drop(self, href: str) -> str | None:
        """Close what is open of `href`; returns what was opened last for it."""
        self._files.drop(href)
        return getattr(self._local, "last", {}).get(href)

    def _use(self, href: str, attempt: int, where: str, work: Callable[[ro.Opened], T], used: bool) -> T:
        """`work` on an open file that this thread has for itself meanwhile. After an error it is not kept."""
        generation, opened = self._files.generation, self._files.take(href)
        if opened is not None and opened.stamp is not None and opened.stamp != _stamp_now(opened.path):
            opened.close()  # the local file was written again
            self._files.drop(href)
            opened = None
        if opened is None:
            opened = self._open_new(href, attempt, where)
        else:
            self._local.last = {href: opened.address}
        try:
            out = work(opened)
        except BaseException:
            opened.close()
            raise
        self._files.give(href, opened, generation, used)
        return out

    def _open_new(self, href: str, attempt: int, where: str) -> ro.Opened:
        path = self.readable(href)
        self._local.last = {href: path}
        opened = self._opened(path, attempt, where)
        opened.address = path
        return opened

    def _opened(self, path: str, attempt: int, where: str) -> ro.Opened:
        if raster_http.is_remote(path):
            found = raster_http.probe(path, self._allowed)
            if found.status in (401, 403):
                raise _Expired(found)
            if not found.ok:
                error = raster_http.refusal(found, where)
                error.retry_after = found.retry_after  # type: ignore[attr-defined]
                raise error
            return ro.open_raster(
                raster_http.curl_path(path, found, attempt), where, found.size, found.etag, self.max_pixels
            )
        if path.startswith("/vsi"):
            if not path.startswith("/vsizip/"):
                raise BadInput(
                    f"'{where}' is not a file that may be opened", where=where, todo="give a path or an address"
                )
            return ro.open_raster(path, where, None, None, self.max_pixels)
        size, changed = ro.local_stat(path, where)
        opened = ro.open_raster(path, where, size, f"{size}-{changed}", self.max_pixels)
        opened.stamp = (size, changed)
        return opened


class _Expired(EoflowError):
    """HTTP 401 or 403 at opening: the address has to be signed again."""

    def __init__(self, found: raster_http.Probe) -> None:
        super().__init__("expired")
        self.found = found


def _stamp_now(path: str) -> tuple[int, int] | None:
    import os

    try:
        s = os.stat(path)  # noqa: PTH116  called for each window
    except OSError:
        return None
    return s.st_size, s.st_mtime_ns


def _remote_error(e: BaseException, found: raster_http.Probe, where: str, attempt: int) -> EoflowError:
    """What a failed read of a remote file means, after the server was asked for it again."""
    if not found.ok:
        error = raster_http.refusal(found, where)
        error.retry_after = found.retry_after  # type: ignore[attr-defined]
        return error
    said = ro.messages(e)
    if ro.is_network(said) or attempt == 0:  # the server may have recovered since: GDAL does not always tell
        return AssetTransient(f"the read failed: {said}", where=where, todo="try again later")
    return AssetCorrupt(f"the file is damaged: {said}", where=where, todo="ask the provider for a whole file")


def _spot(indexes: list[int], at: tuple[int, int] | None, grid: Grid) -> str:
    """`, band 1, rows 0..511, columns 512..1023` of the file, or the grid that was asked for."""
    bands = f", band{'s' if len(indexes) > 1 else ''} {', '.join(map(str, indexes))}"
    h, w = grid.shape
    if at is None:
        x, y = grid.transform[2], grid.transform[5]
        return f"{bands}, warped to {w} x {h} pixels of {grid.crs[:40]} from {x:g}, {y:g}"
    return f"{bands}, rows {at[0]}..{at[0] + h - 1}, columns {at[1]}..{at[1] + w - 1}"


def _require_index(o: ro.Opened, index: int, href: str) -> None:
    if not 1 <= index <= o.ds.count:
        raise AssetCorrupt(
            f"the file has {o.ds.count} band{'s' if o.ds.count != 1 else ''}, and band {index} is asked for",
            where=raster_http.bare(href), todo="check the entry's `index` of the band, or the file",
        )  # fmt: skip


def _header(o: ro.Opened, href: str, index: int, need_crs: bool) -> Header:
    ds, where = o.ds, raster_http.bare(href)
    _require_index(o, index, href)
    placed = o.grid.transform not in ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    if need_crs and (o.crs is None or not placed):
        lacks = "CRS" if o.crs is None else "geotransform"
        raise AssetCorrupt(
            f"the raster has no {lacks}: its place on the Earth is not known", where=where,
            todo="georeference it (rio edit-info --crs EPSG:n --transform ..., or gdalwarp), or use the form of the"
            " verb that works straight on files",
        )  # fmt: skip
    if str(ds.dtypes[index - 1]).startswith("complex"):
        raise AssetCorrupt("complex pixels are no band of a cube", where=where,
                           todo="eoflow despeckle FILE --out DIR, or give its two parts as two bands")  # fmt: skip
    scale, offset = float(ds.scales[index - 1]), float(ds.offsets[index - 1])
    said = (scale, offset) != (1.0, 0.0)
    nodata = ds.nodatavals[index - 1]
    if nodata is None and o.stamp is not None and ds.driver == "GTiff" and np.dtype(ds.dtypes[0]).kind in "iu":
        nodata = float("nan") if (ro.written_nodata(o.path) or "").lower() == "nan" else None
    blocks = ds.block_shapes[index - 1]
    return Header(
        crs=o.crs, transform=o.grid.transform, shape=o.grid.shape, dtype=str(ds.dtypes[index - 1]),
        nodata=None if nodata is None else float(nodata), scale=scale if said else None,
        offset=offset if said else None, blocks=(int(blocks[0]), int(blocks[1])), count=ds.count,
        descriptions=tuple(ds.descriptions), tags={str(k): str(v) for k, v in ds.tags().items()},
        overviews=tuple(ds.overviews(index)), etag=o.etag, driver=ds.driver, units=ds.units[index - 1] or None,
    )  # fmt: skip
