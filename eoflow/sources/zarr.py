"""Zarr stores, version 2 and 3: local folders, http(s), s3 and gs. Lazy; planned in blocks of whole native chunks."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow import chunks
from eoflow.errors import BadInput
from eoflow.sources import conventions, remote
from eoflow.sources.base import Area, Asset, AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.files import check_args, reading_of
from eoflow.sources.lazy import said
from eoflow.times import Period, iso

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.catalog import DatasetEntry

MARKERS = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")
ASSET_BYTES = 256 * 2**20


def is_store(path: str) -> bool:
    """Whether a local folder is a Zarr store."""
    return any((Path(path) / m).is_file() for m in MARKERS)


def open_raw(url: str, group: str | None = None, options: dict[str, Any] | None = None) -> xr.Dataset:
    """The store as it is, lazily, times not decoded.

    Raises AssetMissing (no store there), AssetTransient (no connection), AssetCorrupt, or BadInput (not a store).
    """
    import xarray as xr

    if "://" not in url or url.startswith("file://"):
        path = Path(url.removeprefix("file://")).expanduser()
        if not path.exists():
            raise AssetMissing("there is no such folder", where=url, todo="check the path")
        if not is_store(str(path)):
            raise BadInput(
                "this is not a Zarr store", where=url, todo=f"a store has one of {', '.join(MARKERS)} inside"
            )
        return _open(str(path), group, None, url, xr)
    target, storage = remote.resolve(url, options)
    return remote.retrying(lambda: _open(target, group, storage, url, xr), url)


def _open(target: str, group: str | None, storage: dict[str, Any] | None, where: str, xr: Any) -> xr.Dataset:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # xarray warns about stores without consolidated metadata
            with chunks.zarrs() if storage is None else nullcontext():
                ds: xr.Dataset = xr.open_zarr(
                    target,
                    group=group,
                    chunks=None,
                    decode_times=False,
                    decode_timedelta=False,
                    storage_options=storage or None,
                )
    except Exception as e:
        if type(e).__name__ in ("GroupNotFoundError", "PathNotFoundError", "FileNotFoundError", "ContainsArrayError"):
            raise AssetMissing("no Zarr group is there", where=where, todo="check the address and the group") from e
        if storage is None:
            raise AssetCorrupt(f"the Zarr store cannot be read ({said(e)})", where=where, todo="fetch it again") from e
        raise
    if not ds.data_vars and not ds.coords:
        raise AssetCorrupt(
            "the Zarr group is empty", where=where, todo="write `group` in source.args if the data lie deeper"
        )
    return ds


class ZarrSource:
    """`source: {driver: zarr, args: {url: PATH or URL, group: G, storage_options: {...}, level_units: hPa}}`.

    Of the store's times those are taken that the schedule expects, so `cadence: 6h` reads every sixth hour of an
    hourly store. `valid_time_start`, `valid_time_stop` (ARCO-ERA5) bound a time axis that was allocated ahead;
    `preliminary: true` reads on to `valid_time_stop_era5t`.
    """

    ARGS: ClassVar[tuple[str, ...]] = (
        "url",
        "group",
        "storage_options",
        "level_units",
        "lexicon",
        "preliminary",
        "block_mb",
    )

    def __init__(self, entry: DatasetEntry, context: SourceContext) -> None:
        check_args(entry, self.ARGS)
        if not entry.source.args.get("url"):
            raise BadInput(
                f"dataset '{entry.name}' names no store", where="source.args.url", todo="write url: PATH or URL"
            )
        self.entry, self.context = entry, context
        self.url = str(entry.source.args["url"])

    @cached_property
    def raw(self) -> xr.Dataset:
        """The store as it is."""
        args = self.entry.source.args
        return open_raw(self.url, args.get("group"), args.get("storage_options"))

    @cached_property
    def _times(self) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        return conventions.times_of(self.raw, self.url, reading_of(self.entry))

    def _valid(self) -> Period | None:
        attrs = self.raw.attrs
        stop = attrs.get("valid_time_stop")
        if self.entry.source.args.get("preliminary"):
            stop = attrs.get("valid_time_stop_era5t", stop)
        start = attrs.get("valid_time_start")
        return Period.parse(f"{start}/{stop}") if start and stop else None

    def readable_times(self) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The times that the store says are written."""
        valid = self._valid()
        return self._times if valid is None else self._times[valid.contains(self._times)]

    @cached_property
    def _block(self) -> int:
        """Times in an asset: whole native chunks, about block_mb (256) MiB of what is stored."""
        one = conventions.canonical(self.raw, self.url, reading_of(self.entry), self._times[:1])
        native = 1
        for v in self.raw.data_vars.values():
            chunks = v.encoding.get("chunks")
            if chunks and v.ndim >= 3 and v.shape[0] == self._times.size:
                native = max(native, int(chunks[0]))
        budget = int(self.entry.source.args.get("block_mb", ASSET_BYTES // 2**20)) * 2**20
        return native * max(1, budget // max(1, one.nbytes * native))

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """One asset a block of times; blocks are counted from the store's first time, so their ids do not move."""
        times = self._times
        expected = self.entry.schedule.expected(period, self.context.now)
        keep = np.isin(times, expected)
        valid = self._valid()
        if valid is not None:
            keep &= valid.contains(times)
        out = []
        for first in range(0, times.size, self._block) if keep.any() else ():
            part = slice(first, first + self._block)
            inside = times[part][keep[part]]
            if inside.size:
                out.append(
                    Asset(id=iso(times[first]), times=inside, href=self.url, args={"area": list(area)} if area else {})
                )
        return out

    def open(self, asset: Asset) -> xr.Dataset:
        """The block in canonical form."""
        area = tuple(asset.args["area"]) if asset.args.get("area") else None
        return conventions.canonical(self.raw, asset.href, reading_of(self.entry, area), asset.times)
