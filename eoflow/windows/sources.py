"""What windows are read from: arrays, Zarr arrays (a cube's tile), raster files; and one window made ready."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from eoflow.errors import BadInput
from eoflow.windows.plan import Array, Box, Plan, Window, inside

if TYPE_CHECKING:
    from eoflow.sources.raster import RasterReader
    from eoflow.sources.scene import RasterBand
    from eoflow.tiling import Grid

Rule = Literal["all", "any", "any-date"]


@runtime_checkable
class Source(Protocol):
    """A scene to read windows of. shape: (rows, columns). dates: None, or the number of dates of a series.

    nodata: the stored value of each band that means no value (None: none); NaN and infinite never are values.
    """

    shape: tuple[int, int]
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    dates: int | None
    nodata: tuple[float | None, ...]

    def read(self, rows: slice, columns: slice) -> Array:
        """(C, h, w) or, with dates, (T, C, h, w) of a window inside the scene, as stored. Called from threads."""
        ...


class ArraySource:
    """An array (C, rows, columns) or (T, C, rows, columns): numpy, a memory map, or anything that is sliced so."""

    def __init__(
        self, values: Any, bands: Sequence[str] | None = None, nodata: float | Sequence[float | None] | None = None
    ) -> None:
        if values.ndim not in (3, 4):
            raise BadInput(f"an array of shape {tuple(values.shape)}", todo="give (C, H, W) or (T, C, H, W)")
        self.values = values
        self.shape: tuple[int, int] = (int(values.shape[-2]), int(values.shape[-1]))
        self.dates: int | None = int(values.shape[0]) if values.ndim == 4 else None
        count = int(values.shape[-3])
        self.bands = tuple(bands) if bands is not None else tuple(f"band_{i + 1}" for i in range(count))
        self.dtype = np.dtype(values.dtype)
        self.nodata = _nodata(nodata, len(self.bands))
        if len(self.bands) != count:
            raise BadInput(f"{count} bands in the array, {len(self.bands)} names: {', '.join(self.bands)}")

    def read(self, rows: slice, columns: slice) -> Array:
        """The window as stored."""
        return np.asarray(self.values[..., rows, columns])


class ZarrSource:
    """One array a band, (rows, columns) or (time, rows, columns); `times`: which steps, an int for a single date."""

    def __init__(
        self, arrays: dict[str, Any], times: int | Sequence[int] | None = None,
        nodata: float | Sequence[float | None] | None = None,
    ) -> None:  # fmt: skip
        self.arrays, self.bands = list(arrays.values()), tuple(arrays)
        shapes = {tuple(a.shape[-2:]) for a in self.arrays}
        if len(shapes) != 1:
            raise BadInput(f"the bands have {len(shapes)} shapes", where=", ".join(self.bands))
        rows, columns = shapes.pop()
        self.shape: tuple[int, int] = (int(rows), int(columns))
        self.dtype = np.dtype(np.result_type(*[a.dtype for a in self.arrays]))
        self.nodata = _nodata(nodata, len(self.bands))
        self.times = times
        self.dates: int | None = None if times is None or isinstance(times, int) else len(times)

    def read(self, rows: slice, columns: slice) -> Array:
        """The window as stored."""
        if self.times is None:
            return np.stack([np.asarray(a[rows, columns]) for a in self.arrays])
        if isinstance(self.times, int):
            return np.stack([np.asarray(a[self.times, rows, columns]) for a in self.arrays])
        return np.stack([[np.asarray(a[t, rows, columns]) for a in self.arrays] for t in self.times])


class RasterSource:
    """Bands of raster files on one pixel grid, through the reader of scenes (other grids are warped onto it).

    `bands`: by name. `grid`: by default that of the first band. For a series give a list of such dicts.
    """

    def __init__(
        self, bands: dict[str, RasterBand] | Sequence[dict[str, RasterBand]], grid: Grid | None = None,
        reader: RasterReader | None = None, resampling: str = "nearest",
    ) -> None:  # fmt: skip
        from eoflow.sources.raster import RasterReader, fill_in

        self.reader = reader if reader is not None else RasterReader()
        series = [bands] if isinstance(bands, dict) else list(bands)
        self.dates: int | None = None if isinstance(bands, dict) else len(series)
        self.series = [
            {n: b if b.grid and b.dtype else fill_in(b, self.reader.header(b.href, b.index)) for n, b in one.items()}
            for one in series
        ]
        first = self.series[0]
        self.bands = tuple(first)
        for one in self.series[1:]:
            if tuple(one) != self.bands:
                raise BadInput(f"one date has bands {', '.join(one)}, another {', '.join(self.bands)}")
        found = grid if grid is not None else next(iter(first.values())).grid
        assert found is not None
        self.grid: Grid = found
        self.shape: tuple[int, int] = self.grid.shape
        self.dtype = np.dtype(np.result_type(*[np.dtype(b.dtype) for b in first.values()]))
        self.nodata = tuple(b.nodata for b in first.values())
        self.resampling = resampling

    def read(self, rows: slice, columns: slice) -> Array:
        """The window as stored."""
        part = self.grid.window(rows, columns)
        found = [self.reader.read_bands(one, part, self.resampling) for one in self.series]
        out = [np.stack([values[name] for name in self.bands]) for values in found]
        return out[0] if self.dates is None else np.stack(out)


class Cached:
    """A source whose blocks are decoded once: neighbouring windows share their halos. Safe in threads.

    block: (rows, columns), best those of the store; megabytes: what is kept, the longest unused goes first.
    """

    def __init__(self, source: Source, block: tuple[int, int] = (512, 512), megabytes: int = 192) -> None:
        self.source, self.block, self.limit = source, block, megabytes << 20
        self.shape, self.bands, self.dtype = source.shape, source.bands, source.dtype
        self.dates, self.nodata = source.dates, source.nodata
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._coming: dict[tuple[int, int], threading.Event] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_lock", "_kept", "_coming", "_bytes")
        return {k: v for k, v in self.__dict__.items() if k not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def read(self, rows: slice, columns: slice) -> Array:
        """The window, put together from whole blocks."""
        (by, bx), box = self.block, Box(rows.start, rows.stop, columns.start, columns.stop)
        lead = (len(self.bands),) if self.dates is None else (self.dates, len(self.bands))
        out = np.empty((*lead, *box.shape), self.dtype)
        for j in range(box.y0 // by, -(-box.y1 // by)):
            for i in range(box.x0 // bx, -(-box.x1 // bx)):
                whole = Box(j * by, min((j + 1) * by, self.shape[0]), i * bx, min((i + 1) * bx, self.shape[1]))
                part = whole.meet(box)
                out[(..., *part.within(box))] = self._get((j, i), whole)[(..., *part.within(whole))]
        return out

    def _get(self, key: tuple[int, int], box: Box) -> Array:
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                coming = self._coming.get(key)
                if coming is None:
                    self._coming[key] = threading.Event()
            if coming is None:
                break
            coming.wait()  # another thread decodes it
        try:
            values = self.source.read(*box.slices)
            with self._lock:
                self._kept[key] = values
                self._bytes += values.nbytes
                while self._bytes > self.limit and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return values
        finally:
            with self._lock:
                self._coming.pop(key).set()


def _nodata(value: float | Sequence[float | None] | None, count: int) -> tuple[float | None, ...]:
    if value is None or isinstance(value, int | float):
        return (value,) * count
    if len(value) != count:
        raise BadInput(f"{len(value)} nodata values for {count} bands")
    return tuple(value)


@dataclass(frozen=True)
class Input:
    """How a window becomes what the network takes.

    encode: ([T,] C, h, w) float32, NaN where there is no value -> ([T,] C', h, w), normalised. fill: what stands for
    no value in the network's own units, one number or one a channel. valid: a pixel of the scene counts if "all" bands
    of all dates have a value, if "any" has one, or if on "any-date" all bands have one.
    """

    encode: Callable[[Array], Array] | None = None
    fill: float | tuple[float, ...] = 0.0
    valid: Rule = "all"


def load(source: Source, plan: Plan, window: Window, how: Input) -> tuple[Array, Array | None] | None:
    """One window: (([T,] C, h, w) float32 without NaN, (rows, columns) of its support: which pixels count).

    The second is None where all of them count; the whole is None where none does: then the network need not see it.
    """
    read = window.read
    rows, at_rows = inside(read.y0, read.y1, plan.shape[0], plan.border)
    columns, at_columns = inside(read.x0, read.x1, plan.shape[1], plan.border)
    raw = source.read(rows, columns)
    void = _void(raw, source.nodata)
    values = raw.astype(np.float32)
    seen = Box(rows.start, rows.stop, columns.start, columns.stop)
    support = window.support.within(seen)
    valid: Array | None = None
    if void is not None:
        valid = _counts(void[(..., *support)], how.valid)
        if not valid.any():
            return None
        values[void] = np.nan
    if how.encode is not None:
        values = np.ascontiguousarray(how.encode(values), np.float32)
        void = None
        if not np.isfinite(np.add.reduce(values, axis=None)):  # one pass, where all have a value
            void = ~np.isfinite(values)  # also what the encoding has no value for, such as decibels of zero
            encoded = _counts(void[(..., *support)], how.valid)
            valid = encoded if valid is None else valid & encoded
    if valid is not None:
        if not valid.any():
            return None
        valid = None if valid.all() else valid
    if void is not None:
        _put_fill(values, void, how.fill)
    return _pad(values, at_rows, at_columns, how.fill), valid


def _void(raw: Array, nodata: tuple[float | None, ...]) -> Array | None:
    """Where there is no value, same shape; None where there is one everywhere."""
    void = ~np.isfinite(raw) if raw.dtype.kind == "f" else None
    for c, value in enumerate(nodata):
        if value is None or np.isnan(value):
            continue
        same = raw[..., c, :, :] == value
        if same.any():
            void = np.zeros(raw.shape, bool) if void is None else void
            void[..., c, :, :] |= same
    return void if void is not None and void.any() else None


def _counts(void: Array, rule: Rule) -> Array:
    """([T,] C, h, w) no value -> (h, w) whether the pixel counts."""
    if rule == "any-date":
        one_date = np.asarray(~void.any(axis=-3))
        return one_date if one_date.ndim == 2 else np.asarray(one_date.any(axis=0))
    lead = tuple(range(void.ndim - 2))
    return np.asarray(~void.any(axis=lead) if rule == "all" else ~void.all(axis=lead))


def _put_fill(values: Array, void: Array, fill: float | tuple[float, ...]) -> None:
    if isinstance(fill, int | float):
        values[void] = fill
        return
    for c, value in enumerate(fill):
        values[..., c, :, :][void[..., c, :, :]] = value


def _pad(values: Array, rows: Array | None, columns: Array | None, fill: float | tuple[float, ...]) -> Array:
    """Pixels beyond the scene's edge, by position; -1 takes the fill."""
    for axis, at in ((-2, rows), (-1, columns)):
        if at is None:
            continue
        values = np.take(values, np.maximum(at, 0), axis=axis)
        if (at < 0).any():
            outside = np.zeros(values.shape, bool)
            where = (..., at < 0, slice(None)) if axis == -2 else (..., at < 0)
            outside[where] = True
            _put_fill(values, outside, fill)
    return values


def cube_source(
    group: Any, bands: Sequence[str], times: int | Sequence[int], nodata: dict[str, float | None] | None = None,
    megabytes: int = 192,
) -> Cached:  # fmt: skip
    """Bands of a cube's tile (its Zarr group) at one step or several, decoded once a chunk."""
    arrays = {b: group[b] for b in bands}
    first = next(iter(arrays.values()))
    void = None if nodata is None else [nodata.get(b) for b in bands]
    chunk: tuple[int, int] = (int(first.chunks[-2]), int(first.chunks[-1]))
    return Cached(ZarrSource(arrays, times, void), chunk, megabytes)


def raster_source(
    paths: Sequence[str], names: Sequence[str] | None = None, reader: RasterReader | None = None, megabytes: int = 192
) -> Cached:
    """All bands of one file, or one band of each of several files, decoded once a block."""
    from eoflow.sources.raster import RasterReader
    from eoflow.sources.scene import RasterBand

    reader = reader if reader is not None else RasterReader()
    headers = [reader.header(str(p)) for p in paths]
    bands = [
        RasterBand(str(p), i + 1)
        for p, h in zip(paths, headers, strict=True)
        for i in range(h.count if len(paths) == 1 else 1)
    ]
    called = tuple(names) if names is not None else tuple(f"band_{i + 1}" for i in range(len(bands)))
    if len(called) != len(bands):
        raise BadInput(f"{len(bands)} bands, {len(called)} names: {', '.join(called)}", where=str(paths[0]))
    source = RasterSource(dict(zip(called, bands, strict=True)), reader=reader)
    by, bx = (max(256, min(n, 2048)) for n in headers[0].blocks)
    return Cached(source, (by, bx), megabytes)
