"""Scenes of a STAC API, or of a list of STAC items: search, pick bands, sign when a pixel is read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlsplit

import numpy as np

from eoflow.catalog_scenes import BandEntry
from eoflow.config import settings
from eoflow.errors import BadInput
from eoflow.sources import radiometry, raster_http
from eoflow.sources import stac_search as ss
from eoflow.sources.base import Area, AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.files import check_args
from eoflow.sources.hosts import Access, default_hosts, open_data_hosts
from eoflow.sources.raster_grid import holds, offset_in
from eoflow.sources.scene import QUALITY, RasterBand, Scene
from eoflow.sources.signing import ENDPOINT, S3, PlanetaryComputer
from eoflow.sources.stac_bands import UNIT_NAMES
from eoflow.sources.stac_items import NoTime, newest, to_scene
from eoflow.times import Period

if TYPE_CHECKING:
    from eoflow.catalog import DatasetEntry
    from eoflow.catalog_scenes import SceneEntry
    from eoflow.sources.raster import Header

Json = dict[str, Any]
THREADS = 32
"""Headers that are asked for at the same time over the network."""
log = logging.getLogger("eoflow")


class StacSource:
    """One scene an item.

    source:
      driver: stac
      args:
        api: https://...                     a STAC API, or
        items: FILE|URL|[...]                an item collection, items (patterns too) or catalog.json
        collections: [sentinel-2-l2a]        of the API; of a list: items of other collections are passed over
        query: {eo:cloud_cover: {lt: 60}}    STAC query extension (also applied here); or filter: CQL2 (API only)
        where: {...}                         like query, applied here only
        intersects: {type: Polygon, ...}     GeoJSON geometry, instead of the entry's area (API only)
        ids: [...]    limit: 100             only these items; items a page
        max_items: 20000                     a search that finds more is refused
        allowed_hosts: [...]                 where pixels may lie: host, host:port, *.domain, s3://bucket. Default: the
                                             API's host and those it is known for
        sign: planetary-computer             sign addresses when they are read
        token_endpoint: https://...          of the signer;  sign_hosts: further hosts to sign for
        aws_no_sign_request: true            read s3:// as public https; else with the credentials of the environment
        aws_region, s3_endpoint              where s3:// lies, if it is not us-east-1 of Amazon
        baseline: "04.00"                    processing baseline of Sentinel-2 items that do not say theirs
    """

    gives: ClassVar[str] = "scenes"
    ARGS: ClassVar[tuple[str, ...]] = (
        "api", "items", "collections", "query", "filter", "filter_lang", "intersects", "ids", "limit", "allowed_hosts",
        "sign", "token_endpoint", "sign_hosts", "aws_no_sign_request", "aws_region", "s3_endpoint",
        "baseline", "where", "max_items",
    )  # fmt: skip

    def __init__(
        self, entry: SceneEntry, context: SourceContext, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        check_args(cast("DatasetEntry", entry), self.ARGS)
        args = entry.source.args
        if bool(args.get("api")) == bool(args.get("items")):
            raise BadInput(
                f"dataset '{entry.name}' must name an API or a list of items", where="source.args",
                todo="write  args: {api: https://..., collections: [...]}  or  args: {items: FILE.json}",
            )  # fmt: skip
        if args.get("api") and urlsplit(str(args["api"])).scheme not in ("http", "https"):
            raise BadInput(f"'{args['api']}' is no http(s) address", where="source.args.api")
        for key in ("query", "where"):
            if args.get(key) is not None:
                ss.check_query(args[key], key)
        if args.get("baseline") is not None:
            radiometry.parse_baseline(str(args["baseline"]))
        self.entry, self.context, self.args, self._sleep = entry, context, args, sleep
        self._places = ss.places(args["items"]) if args.get("items") else []
        self.readable = self._access()
        self.notes: list[str] = []
        self._first: dict[str, Header] = {}
        self._reader: Any = None
        self._guard = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def _access(self) -> Access:
        args = self.args
        remote = [str(args["api"])] if args.get("api") else [p for p in self._places if "://" in p[:12]]
        folders = {Path(p).parent for p in self._places if "://" not in p[:12]}
        hosts = default_hosts(*remote)
        if args.get("allowed_hosts") is not None:
            hosts = tuple(str(h) for h in ss.texts(args["allowed_hosts"]))
        elif self._places:
            hosts += open_data_hosts()
        signer = None
        if args.get("sign") is not None:
            if args["sign"] != "planetary-computer":
                raise BadInput(
                    f"no signer '{args['sign']}'", where="source.args.sign", todo="choose planetary-computer"
                )
            mirrors = tuple(str(h) for h in ss.texts(args.get("sign_hosts")))
            signer = PlanetaryComputer(str(args.get("token_endpoint", ENDPOINT)), mirrors, sleep=self._sleep)
        buckets = S3(
            unsigned=bool(args.get("aws_no_sign_request", False)), region=args.get("aws_region"),
            endpoint=args.get("s3_endpoint"),
        )  # fmt: skip
        return Access(hosts, folders, signer, buckets)

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """Scenes of the period (within the entry's schedule) and area, each acquisition once, oldest first.

        Raises BadInput for an href that is not allowed, a refused search or an unknown Sentinel-2 offset;
        AssetTransient if the API cannot be reached.
        """
        self.notes.clear()
        area = area or self.entry.area
        period = self._within_schedule(period)
        scenes: dict[str, Scene] = {}
        if period is None:
            return []
        for item, base in self._items(period, area):
            if not all(ss.matches(item, self.args[key]) for key in ("query", "where") if self.args.get(key)):
                continue
            try:
                scene = to_scene(item, self.entry, self.readable, base, self.args.get("baseline"))
            except NoTime as e:
                self._note(f"item {item.get('id')} is passed over: {e}")
                continue
            inside = area is None or scene.bbox is None or ss.overlaps(scene.bbox, area)
            if inside and period.contains(scene.time):
                held = scenes.get(scene.id)
                if held is None or held.version < scene.version:
                    scenes[scene.id] = scene
        return newest(scenes.values(), self._note)

    def _within_schedule(self, period: Period | None) -> Period | None:
        """The period within what the schedule has published by now; None for nothing."""
        whole = self.entry.schedule.period(self.context.now)
        if period is not None:
            whole = Period(max(whole.start, period.start), min(whole.end, period.end))
        return whole if whole.start <= whole.end else None

    def _items(self, period: Period, area: Area | None) -> Iterator[tuple[Json, str]]:
        if self.args.get("api"):
            api = str(self.args["api"])
            own = Access(default_hosts(api))  # links and redirects of the search stay with the endpoint
            for item in ss.search(self.args, period, area, own.check):
                yield item, api
            return
        hosts = (*self.readable.hosts, *default_hosts(*(p for p in self._places if "://" in p[:12])))
        own = Access(hosts, self.readable.folders)
        only, ids = set(ss.texts(self.args.get("collections"))), set(ss.texts(self.args.get("ids")))
        for item, place in ss.listed(self._places, own.check):
            if (not only or item.get("collection") in only) and (not ids or item["id"] in ids):
                yield item, place

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.info("%s: %s", self.entry.name, text)

    # -- headers -----------------------------------------------------------------------------------------------------

    def header(self, scene: Scene) -> Scene:
        """The scene with its bands filled in, from the item where it says everything, else from the file's header.

        The first file of each band is always opened and compared with its item; of the others at least the ETag is
        asked for. Raises AssetMissing, AssetCorrupt or AssetTransient naming item and asset, or BadInput.
        """
        problem = scene.properties.get("problem")
        if problem:
            kind = AssetMissing if problem.startswith("it has no ") else AssetCorrupt
            raise kind(
                f"the item cannot be used: {problem}", where=f"item {scene.id}",
                todo="correct source_name in the catalog entry, or ask the provider",
            )  # fmt: skip
        names = list(scene.bands)
        if any("://" in b.href[:12] and not b.href.startswith("file:") for b in scene.bands.values()):
            found = list(self._threads().map(lambda n: self._band(scene, n), names))
        else:  # nothing to wait for
            found = [self._band(scene, n) for n in names]
        return scene.with_bands(**dict(zip(names, found, strict=True)))

    def _threads(self) -> ThreadPoolExecutor:
        """Threads for headers, the same ones for all scenes: PROJ opens its database anew in each, 7 ms of work."""
        with self._guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "eoflow-headers")
            return self._pool

    def _band(self, scene: Scene, name: str) -> RasterBand:
        band = scene.bands[name]
        where = f"item {scene.id}, asset '{self._key(name)}' ({raster_http.bare(band.href)})"
        entry = (self.entry.bands or {}).get(name) or BandEntry()
        try:
            if self._settled(band, name, entry):
                band = replace(band, etag=self._etag(band.href, where), blocks=self._first[name].blocks)
            else:
                h = self.reader.header(band.href, band.index)
                _require_agreement(band, h)
                self._first.setdefault(name, h)
                band = _filled(band, h)
            band = _with_entry(band, entry, radiometry.known(self.entry.sensor, self.entry.level), name)
            _require_holdable(band)
            return band
        except AssetError as e:
            raise type(e)(e.what, where=where, todo=e.todo) from e

    @property
    def reader(self) -> Any:
        """The reader of this source's headers."""
        if self._reader is None:
            from eoflow.sources.raster import RasterReader

            self._reader = RasterReader(self.readable, tries=settings().retries, sleep=self._sleep)
        return self._reader

    def _key(self, name: str) -> str:
        if name == QUALITY:
            return self.entry.quality.source_name or name
        band = (self.entry.bands or {}).get(name)
        return (band.source_name if band is not None else None) or name

    def _settled(self, band: RasterBand, name: str, entry: BandEntry) -> bool:
        """Whether item and entry say all that a header would, and the first file of this band bore its item out."""
        first = self._first.get(name)
        known = band.grid is not None and band.dtype is not None and band.href.startswith(("http://", "https://"))
        nodata = band.nodata is not None or entry.nodata is not None
        return known and nodata and first is not None and band.dtype == first.dtype

    def _etag(self, href: str, where: str) -> str | None:
        """The ETag of a remote file, by a request for its first byte."""
        renewed = False

        def work(_: int) -> str | None:
            nonlocal renewed
            found = raster_http.probe(self.readable(href), self.readable)
            if found.status in (401, 403) and not renewed:
                renewed = True
                self.readable.renew(href)
                found = raster_http.probe(self.readable(href), self.readable)
            if not found.ok:
                raise raster_http.refusal(found, where)
            return found.etag

        return raster_http.retrying(work, settings().retries, self._sleep)


def _require_agreement(band: RasterBand, h: Header) -> None:
    """Raise AssetCorrupt where the file contradicts its item."""
    from eoflow.sources.raster import grid_of

    rows: list[str] = []
    if band.grid is not None:
        own = grid_of(h)
        if own.shape != band.grid.shape or offset_in(own, band.grid) != (0, 0):
            rows.append(f"grid: item {band.grid}, file {own}")
    if band.dtype is not None and np.dtype(band.dtype) != np.dtype(h.dtype):
        rows.append(f"data type: item {band.dtype}, file {h.dtype}")
    if band.nodata is not None and h.nodata is not None and not np.array_equal(band.nodata, h.nodata, equal_nan=True):
        rows.append(f"nodata: item {band.nodata:g}, file {h.nodata:g}")
    if rows:
        raise AssetCorrupt(
            "the file contradicts its item; " + "; ".join(rows), todo="ask the provider; the item may be out of date"
        )


def _filled(band: RasterBand, h: Header) -> RasterBand:
    from eoflow.sources.raster import fill_in

    if band.scale is not None:  # scale and offset of two sources are not mixed
        h = replace(h, scale=None, offset=None)
    return fill_in(band, replace(h, units=UNIT_NAMES.get((h.units or "").strip().lower())))


def _with_entry(
    band: RasterBand, entry: BandEntry, known: radiometry.Convention | None, name: str
) -> RasterBand:  # fmt: skip
    """What neither item nor file says, taken from the entry, else from the convention of the product."""
    other = known.bands.get(name) if known is not None else None
    for said in (entry, other):
        if said is None:
            continue
        if band.scale is None and band.offset is None and said.scale is not None:
            band = replace(band, scale=said.scale, offset=said.offset or 0.0)
        band = replace(band, nodata=said.nodata if band.nodata is None else band.nodata, units=band.units or said.units)
    return band


def _require_holdable(band: RasterBand) -> None:
    """Raise AssetCorrupt for a nodata value that the data type cannot hold."""
    if band.nodata is not None and band.dtype is not None and not holds(np.dtype(band.dtype), band.nodata):
        raise AssetCorrupt(
            f"nodata is {band.nodata:g}, which {band.dtype} cannot hold",
            todo="write the right nodata for the band in the catalog entry, and ask the provider",
        )
