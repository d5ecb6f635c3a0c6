"""Source `geotiff`: local raster files without any product around them.

Folders, lists and patterns of GeoTIFF, COG or JPEG 2000: one file a date (date in the name), one file a band, or
scattered chips without a date (`time` says it). What a file cannot say of itself stands in the catalog entry.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow.catalog_scenes import BandEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.sources import geotiff_names as gn
from eoflow.sources.base import Area, AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.bundle import overlaps
from eoflow.sources.files import expand
from eoflow.sources.geotiff_tiles import (
    SUFFIXES,
    Group,
    Key,
    bands_in,
    files_of,
    how_to_say,
    refuse_doubles,
    tiles_of,
    unique_ids,
    version_of,
)
from eoflow.sources.radiometry import convention_of, sentinel2_pair, unit_of
from eoflow.sources.scene import QUALITY, Grid, RasterBand, Scene
from eoflow.times import Period, parse_time

if TYPE_CHECKING:
    from eoflow.sources.raster import Header, RasterReader


class GeotiffSource:
    """`source: {driver: geotiff, args: {paths: [FILE, FOLDER, PATTERN, ...]}}`.

    time: of the files whose name has no date, or a mapping from path (file or folder) to time. pattern: regular
    expression over the path, with groups `time` (ISO, YYYYMMDD[THHMMSS] or YYYYDDD), `tile`, `band`; files that it does
    not match are left out. tile_by: `footprint` (files of one pixel grid are one tile) or `name` (the stem without its
    date). count: bands that every multi-band file must have. A band of the entry with `index` is that band of each
    file; one without is the file whose name has its `source_name` as a word, or the band with that description.
    """

    gives: ClassVar[str] = "scenes"
    ARGS: ClassVar[tuple[str, ...]] = ("paths", "pattern", "time", "tile_by", "count")

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None:
        args = entry.source.args
        _check_args(entry, self.ARGS)
        self.entry, self.context = entry, context
        self.paths: list[str] | str = args["paths"]
        self.pattern = gn.compile_pattern(args.get("pattern"))
        said = args.get("time")
        said = said if isinstance(said, dict) else {} if said is None else {"": said}
        self.default_times = {str(path): parse_time(time) for path, time in said.items()}
        self.tile_by: str = args.get("tile_by", "footprint")
        self.count: int | None = args.get("count")
        if self.tile_by not in ("footprint", "name"):
            raise BadInput(
                f"tile_by '{self.tile_by}' is not known", where="source.args", todo="choose from footprint, name"
            )
        self._grids: dict[str, tuple[float, Grid]] = {}

    @cached_property
    def reader(self) -> RasterReader:
        """Reads the headers."""
        from eoflow.sources.raster import RasterReader

        return RasterReader(self.readable)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "reader"}

    @cached_property
    def bands(self) -> dict[str, BandEntry]:
        """The bands of the entry, or every band of the first file, by description or as b1, b2, ..."""
        if self.entry.bands is not None:
            return self.entry.bands
        found = files_of(self.paths)
        return bands_in(self.reader.header(found[0]).descriptions) if found else {}

    def readable(self, href: str) -> str:
        """The path itself. Raises BadInput for one that is not among `paths`."""
        for given in [self.paths] if isinstance(self.paths, str) else self.paths:
            for root in expand(given):
                if href == root or href.startswith(root.rstrip("/") + "/"):
                    return href
        raise BadInput("the file is not one of this dataset", where=href, todo="list it under paths")

    # --- plan -----------------------------------------------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """The scenes of the period and area, oldest first.

        Opens headers to find out which files share a pixel grid; a file that cannot be opened is planned by its name,
        and `header` says what is wrong with it. Raises BadInput for files without a date, and for two of one tile and
        time.
        """
        groups = self._groups()
        grids = {key: self._grid(group) for key, group in groups.items()}
        tiles = tiles_of(groups, grids, self.tile_by)
        scenes = [self._scene(groups[key], tiles[key], grids[key]) for key in groups]
        scenes = unique_ids(sorted(scenes, key=lambda s: (s.time, s.href)))
        refuse_doubles(scenes)
        box = area or self.entry.area
        return [s for s in scenes if (period is None or bool(period.contains(s.time))) and overlaps(s.bbox, box)]

    def _groups(self) -> dict[Key, Group]:
        """Files by scene: one each, or those that differ only by the band in their names."""
        files = files_of(self.paths)
        if not files:
            raise BadInput(
                "no raster file matches", where=f"dataset {self.entry.name}: {', '.join(map(str, self.paths))}",
                todo=f"check the paths; files end in {', '.join(SUFFIXES)}",
            )  # fmt: skip
        words = [b.source_name or n for n, b in self.bands.items() if b.index is None]
        mask = self.entry.quality
        if mask.rule != "none" and mask.source_name and mask.index is None:
            words.append(mask.source_name)
        named = [n for f in files if (n := gn.read_name(f, self.pattern, words)) is not None]
        if not named:
            raise BadInput(
                f"the pattern matches none of {len(files)} files", where=files[0], todo="correct the pattern"
            )
        named = [n if n.time is not None else replace(n, time=self._default_time(n.path)) for n in named]
        undated = [n.path for n in named if n.time is None]
        if undated:
            more = f" and {len(undated) - 1} more" if len(undated) > 1 else ""
            raise BadInput(
                f"the name has no date: {PurePath(undated[0]).name}{more}", where=undated[0],
                todo="say when it was taken with --time 2020-01-31, or where the date stands with"
                " --set source.args.pattern='REGEX with (?P<time>...)'",
            )  # fmt: skip
        out: dict[Key, Group] = {}
        for n in named:
            band = n.band or ""
            key = (str(n.time), n.tile or "", str(PurePath(n.path).parent) if band else n.path, n.key if band else "")
            group = out.setdefault(key, {})
            if band in group:
                raise BadInput(
                    f"two files hold band {band} of one scene", where=f"{group[band].path} and {n.path}",
                    todo="leave one out, or tell them apart with a pattern that names the tile",
                )  # fmt: skip
            group[band] = n
        return out

    def _default_time(self, path: str) -> np.datetime64 | None:
        """The time that the entry gives to a file: of the longest path that it lies in."""
        inside = [p for p in self.default_times if p == "" or path == p or path.startswith(p.rstrip("/") + "/")]
        return self.default_times[max(inside, key=len)] if inside else None

    def _grid(self, group: Group) -> Grid | None:
        """The finest pixel grid among a scene's files; None if one cannot be opened."""
        found = []
        for n in group.values():
            try:
                stamp = os.stat(n.path).st_mtime  # noqa: PTH116
                known = self._grids.get(n.path)
                if known is None or known[0] != stamp:
                    from eoflow.sources.raster import grid_of

                    known = self._grids[n.path] = (stamp, grid_of(self.reader.header(n.path)))
                found.append(known[1])
            except (AssetError, OSError):
                return None
        return max(found, key=lambda g: g.shape[0] * g.shape[1])

    def _scene(self, group: Group, tile: str, grid: Grid | None) -> Scene:
        files = list(group.values())
        n = files[0]
        bands = {}
        for name, b in self.bands.items():
            file = group.get(b.source_name or name) if b.index is None else None
            file = file or group.get("") or (group.get(b.source_name or "") if b.index is not None else None)
            if file is not None:
                bands[name] = RasterBand(file.path, b.index or 1)
        mask = self.entry.quality
        if mask.rule != "none":
            file = group.get(mask.source_name or "") or group.get("")
            if file is not None:
                bands[QUALITY] = RasterBand(file.path, mask.index or 1)
        assert n.time is not None
        return Scene(
            id=n.key, time=n.time, tile=tile, bands=bands, bbox=_bbox(grid),
            level=self.entry.level, version=version_of(f.path for f in files),
            href=n.path if len(files) == 1 else str(PurePath(n.path).parent),
            properties={"files": [f.path for f in files]},
        )  # fmt: skip

    # --- header ---------------------------------------------------------------------------------------------------

    def header(self, scene: Scene) -> Scene:
        """The scene with its bands filled in, checked against the entry.

        Raises AssetMissing (a band has no file), AssetCorrupt (unreadable, another dtype, another number of bands, no
        CRS) or BadInput (units, scale or offset that neither the file nor the entry says).
        """
        wanted = [*self.bands, *([QUALITY] if self.entry.quality.rule != "none" else [])]
        missing = [self._word(n) for n in wanted if n not in scene.bands]
        if missing:
            raise AssetMissing(
                f"the scene has no file for {', '.join(missing)}", where=scene.href,
                todo="complete the scene, or take the band out of the entry",
            )  # fmt: skip
        baseline: str | None = scene.baseline
        bands = {}
        for name in wanted:
            index, header = self._header(scene.bands[name], name)
            baseline = baseline or _baseline(header)
            bands[name] = self._filled(replace(scene.bands[name], index=index), name, header)
        grid = bands[wanted[0]].grid
        for name, band in bands.items():
            if band.grid is not None and grid is not None and band.grid.crs != grid.crs:
                raise AssetCorrupt(
                    f"bands {wanted[0]} and {name} of one scene lie in {grid.crs[:40]} and {band.grid.crs[:40]}",
                    where=band.href, todo="fetch the files again",
                )  # fmt: skip
        return replace(scene, bands=bands, baseline=baseline)

    def _word(self, name: str) -> str:
        b = self.bands.get(name)
        return (self.entry.quality.source_name or QUALITY) if b is None else b.source_name or name

    def _header(self, band: RasterBand, name: str) -> tuple[int, Header]:
        """The number of a band in its file, and the header there."""
        header = self.reader.header(band.href, 1)
        entry = self.bands.get(name)
        index = entry.index if entry is not None else self.entry.quality.index
        shared = index is not None
        if shared and self.count is not None and header.count != self.count:
            raise AssetCorrupt(
                f"the file has {header.count} bands, and the files of dataset '{self.entry.name}' have {self.count}",
                where=band.href, todo="leave this file out, or ingest it as a dataset of its own",
            )  # fmt: skip
        if index is None:
            index = self._described(header, name, band.href)
        elif entry is not None and entry.source_name and index <= header.count:
            said = header.descriptions[index - 1]
            if said and said.lower() != entry.source_name.lower():
                raise AssetCorrupt(
                    f"band {index} of the file is '{said}', and the entry says '{entry.source_name}'",
                    where=band.href, todo="its bands stand in another order: ingest such files under another name",
                )  # fmt: skip
        return index, header if index == 1 else self.reader.header(band.href, index)

    def _described(self, header: Header, name: str, href: str) -> int:
        """The index of a band that is told by its name: the only one of its file, or the one described so."""
        if header.count == 1:
            return 1
        word = self._word(name).lower()
        at = [i for i, d in enumerate(header.descriptions, 1) if d and d.lower() == word]
        if len(at) != 1:
            said = ", ".join(str(d) for d in header.descriptions if d) or "none described"
            raise AssetCorrupt(
                f"which of {header.count} bands is '{self._word(name)}' is not known ({said})", where=href,
                todo=f"write  bands: {{{name}: {{index: N}}}}",
            )  # fmt: skip
        return at[0]

    def _filled(self, band: RasterBand, name: str, header: Header) -> RasterBand:
        from eoflow.sources.raster import fill_in

        if name == QUALITY:
            return replace(fill_in(band, header), scale=1.0, offset=0.0)
        entry, where = self.bands[name], f"{band.href}, band {band.index}"
        if entry.dtype is not None and header.dtype != entry.dtype:
            raise AssetCorrupt(
                f"band {name} is {header.dtype}, and the dataset stores {entry.dtype}", where=where,
                todo="ingest files of one data type under one name",
            )  # fmt: skip
        known = convention_of(name, entry, self.entry.sensor, self.entry.level)
        nodata = entry.nodata
        if nodata is None and header.nodata is None and known is not None and known.dtype == header.dtype:
            nodata = known.nodata
        filled = fill_in(replace(band, nodata=nodata), header)
        units = entry.units or unit_of(header.units) or (known.units if known else None)
        scale, offset = filled.scale, filled.offset
        if scale is None or offset is None:
            scale, offset = self._pair(entry, header, where)
        if units is None or scale is None or offset is None:
            lacks = [k for k, v in (("units", units), ("scale", scale), ("offset", offset)) if v is None]
            raise BadInput(
                f"band {name}: {', '.join(lacks)} unknown: neither the file nor the entry says it", where=where,
                todo=how_to_say(name, lacks),
            )  # fmt: skip
        return replace(filled, units=units, scale=scale, offset=offset)

    def _pair(self, entry: BandEntry, header: Header, where: str) -> tuple[float | None, float | None]:
        """(scale, offset) of a file that does not state them: by its processing baseline, else by the entry."""
        baseline = _baseline(header)
        if baseline is not None and self.entry.sensor.lower().startswith("sentinel-2"):
            return sentinel2_pair(baseline, self.entry.level, where=where)
        if entry.scale is None and entry.offset is None and header.dtype.startswith("float"):
            return 1.0, 0.0  # floating-point pixels are physical values unless something says otherwise
        return entry.scale, entry.offset


def _bbox(grid: Grid | None) -> Area | None:
    from eoflow.sources.raster import bbox_of

    try:
        return None if grid is None else bbox_of(grid)
    except BadInput:  # nowhere on the Earth: found when it is opened
        return None


def _baseline(header: Header) -> str | None:
    """The Sentinel-2 processing baseline that GDAL copies into the tags of a converted product."""
    return header.tags.get("PROCESSING_BASELINE")


def _check_args(entry: SceneEntry, known: tuple[str, ...]) -> None:
    from eoflow.registry import nearest

    for key in entry.source.args:
        if key not in known:
            raise BadInput(
                f"unknown source argument '{key}'{nearest(key, list(known))}",
                where=f"dataset {entry.name}, source.args", todo=f"choose from {', '.join(known)}",
            )  # fmt: skip
    if not entry.source.args.get("paths"):
        raise BadInput(
            f"dataset '{entry.name}' lists no files", where="source.args.paths",
            todo="write  source: {driver: geotiff, args: {paths: [FILE, FOLDER, ...]}}",
        )  # fmt: skip
