"""Sample scenes: two satellites over the sample land, behind the same interface as any provider.

A pass over a tile is one scene of one small GeoTIFF a band, made when it is first read and kept in the cache folder.
What the provider lists, and in which state, is a function of `SourceContext.now` and the faults of the entry alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.sources.base import Area, AssetMissing, SourceContext
from eoflow.sources.land import Tile, World, spectra
from eoflow.sources.land.tiles import Kind
from eoflow.sources.sample_faults import Lasting
from eoflow.sources.sample_files import SceneFiles, Shot
from eoflow.sources.scene import QUALITY, Grid, RasterBand, Scene
from eoflow.times import Period, parse_time

DAY = np.timedelta64(1, "D")
POLARISATIONS = ("VV", "VH")
TRUTH = ("water", "cover")
"""Bands that no satellite has and a training set wants: 0 land, 1 water seen from above, 2 neither (flooded forest and
streets); and the number of the `LandCover`."""
NEW, OLD = "04.00", "03.01"
"""Processing baselines: with the offset of -0.1, and the one before it, without."""


class SceneFault(Lasting):
    """Something that is wrong at the provider until it is put right.

    late: the scenes are not listed yet. gap: they are listed, and their files are not there. corrupt: the file of
    `band` is truncated. old-baseline: published in the convention without offset, later again in the present one.
    `at`: a day or START/END. `tile`: of that tile only. `until`: when it is put right; None: never.
    """

    kind: Literal["late", "gap", "corrupt", "old-baseline"]
    tile: str | None = None
    band: str | None = None

    def hits(self, tile: str, time: np.datetime64, now: np.datetime64) -> bool:
        """Whether it touches the scene of a tile and time, as things stand at `now`."""
        if self.tile not in (None, tile) or not Period.parse(self.at).contains(time):
            return False
        return self.lasts(now)


class SceneArgs(BaseModel):
    """Driver arguments.

    seed: which land. sensor: the satellite. tiles: name (`32N-0097-1012`) and kind of each. size: pixels of a side.
    revisit: days between passes. imperfect_masks: the SCL has the errors of real ones. looks: of the radar's speckle.
    wet: with far more floods. varied: every radar scene has a radiometry of its own (`eoflow.sources.land.varied`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 42
    sensor: Literal["optical", "radar"] = "optical"
    tiles: dict[str, Kind]
    size: int = Field(default=512, ge=64, le=2048, multiple_of=16)
    revisit: int = Field(default=5, ge=1)
    imperfect_masks: bool = False
    looks: float = Field(default=4.4, ge=1.0)
    wet: bool = False
    varied: bool = False
    faults: tuple[SceneFault, ...] = ()


class SampleScenesSource:
    """Source of sample scenes: Sentinel-2-like reflectance with an SCL, or Sentinel-1-like backscatter.

    Raises BadInput for an entry that asks for a band that the sensor does not have.
    """

    gives: ClassVar[str] = "scenes"

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None:
        self.entry, self.context = entry, context
        where = f"dataset {entry.name}: source.args"
        self.args = catalog.validate(dict(entry.source.args), SceneArgs, where)
        self.now = parse_time(context.now)
        self.tiles = {name: Tile.parse(name, self.args.size) for name in self.args.tiles}
        self.names = _wanted(entry, self.args)

    @cached_property
    def world(self) -> World:
        """The land that is looked at; its truth is one call away."""
        return world_of(self.entry)

    # ---- the three methods of a source of scenes ----------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """The scenes that the provider lists now, oldest first; late ones are left out."""
        span = self.entry.schedule.period(self.now)
        window = area or self.entry.area
        scenes = []
        for name, tile in self.tiles.items():
            if window is not None and not _overlap(tile.bbox, window):
                continue
            for time, orbit in self._passes(tile, span):
                if (period is None or period.contains(time)) and not self._hit("late", name, time):
                    scenes.append(self._scene(tile, time, orbit))
        return sorted(scenes, key=lambda s: (s.time, s.tile))

    def header(self, scene: Scene) -> Scene:
        """The scene as it stands (all is known without opening a file). Raises AssetMissing for a gap."""
        if self._hit("late", scene.tile, scene.time) or self._hit("gap", scene.tile, scene.time):
            raise AssetMissing(
                "the scene is listed and its files are not there", where=f"{self.entry.name} {scene.id}",
                todo=f"eoflow backfill {self.entry.name}, later",
            )  # fmt: skip
        return scene

    def readable(self, href: str) -> str:
        """Path of a band's file in the cache, made now if it is not there. Raises BadInput for another's href."""
        return self._files.path(href)

    # ---- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> SceneFiles:
        a = self.args
        units = {(b.source_name or n): b.units for n, b in (self.entry.bands or {}).items()}
        decibel = tuple(p for p in POLARISATIONS if units.get(p) != "1")
        return SceneFiles(
            str(self.context.cache),
            self.world,
            a.sensor,
            tuple(self.names.values()),
            a.imperfect_masks,
            a.looks,
            decibel,
            a.varied and a.sensor == "radar",
        )

    def _passes(self, tile: Tile, span: Period) -> Iterator[tuple[np.datetime64, int]]:
        """(time, number of the pass) within a period: the same local solar time, tiles of a zone on the same day."""
        every = self.args.revisit
        hour = (10.5 if self.args.sensor == "optical" else 17.5) - (6 * tile.zone - 183) / 15.0
        second = round(hour * 3600.0) + (10_000 - tile.row) % 60
        first = int(span.start.astype("datetime64[D]").astype(np.int64))
        first += -(first + 2 * tile.zone) % every
        for day in range(first, int(span.end.astype("datetime64[D]").astype(np.int64)) + 1, every):
            time = (np.datetime64(day, "D").astype("datetime64[s]") + second).astype("datetime64[ns]")
            if span.contains(time):
                yield time, day // every

    def _hit(self, kind: str, tile: str, time: np.datetime64) -> list[SceneFault]:
        return [f for f in self.args.faults if f.kind == kind and f.hits(tile, time, self.now)]

    def _scene(self, tile: Tile, time: np.datetime64, orbit: int) -> Scene:
        optical = self.args.sensor == "optical"
        stamp = str(time.astype("datetime64[s]")).replace("-", "").replace(":", "")
        old = optical and bool(self._hit("old-baseline", tile.name, time))
        baseline = (OLD if old else NEW) if optical else None
        broken = {f.band or next(iter(self.names)) for f in self._hit("corrupt", tile.name, time)}
        name = f"{'S2X_L2A' if optical else 'S1X_GRD'}_{stamp}_{tile.name}"
        shot = Shot(name, tile.name, time, orbit, baseline or "1")
        bands = {n: self._band(shot, tile, own, n in broken) for n, own in self.names.items()}
        if optical and self.entry.quality.rule != "none":
            bands[QUALITY] = self._band(shot, tile, "SCL", QUALITY in broken)
        return Scene(
            name, time, tile.name, bands, bbox=tile.bbox, platform="sample-2x" if optical else "sample-1x",
            level=self.entry.level, baseline=baseline, version=baseline or "1", href=shot.folder,
            properties={"sat:relative_orbit": orbit % 4, "proj:code": tile.crs},
        )  # fmt: skip

    def _band(self, shot: Shot, tile: Tile, own: str, broken: bool) -> RasterBand:
        size = min(256, tile.size)
        href = shot.href(own, broken)
        tag = hashlib.blake2b(f"{self._files.folder.name}/{href}".encode(), digest_size=8).hexdigest()
        band = RasterBand(
            href, grid=Grid(tile.crs, tile.transform, (tile.size, tile.size)), blocks=(size, size), etag=tag
        )
        if own in TRUTH:
            return replace(band, dtype="uint8", nodata=255.0, scale=1.0, offset=0.0, units="1")
        if own == "SCL":
            return replace(band, dtype="uint8", nodata=0.0, scale=1.0, offset=0.0, units="1")
        if self.args.sensor == "radar":
            units = "dB" if own in self._files.decibel else "1"
            return replace(band, dtype="float32", nodata=-9999.0, scale=1.0, offset=0.0, units=units)
        offset = 0.0 if shot.version < NEW else -0.1
        return replace(band, dtype="uint16", nodata=0.0, scale=1e-4, offset=offset, units="1")


def _wanted(entry: SceneEntry, args: SceneArgs) -> dict[str, str]:
    """The entry's band name -> the sensor's. Raises BadInput."""
    sensor = args.sensor
    seen = spectra.BANDS if sensor == "optical" else POLARISATIONS
    known = (*seen, *(t for t in TRUTH if t == "water" or not args.varied))  # a varied scene is no map of its tile
    if entry.bands is None:
        return {b: b for b in seen}
    out = {}
    for name, band in entry.bands.items():
        own = band.source_name or name
        if own not in known:
            raise BadInput(
                f"the sample satellite has no band '{own}'{nearest(own, list(known))}",
                where=f"dataset {entry.name}: bands.{name}", todo=f"choose from {', '.join(known)}",
            )  # fmt: skip
        if own in TRUTH and band.units not in (None, "1"):
            raise BadInput("the truth has units 1", where=f"dataset {entry.name}: bands.{name}.units")
        if sensor == "optical" and band.units not in (None, "1"):
            raise BadInput("sample reflectance has units 1", where=f"dataset {entry.name}: bands.{name}.units")
        if sensor == "radar" and band.units not in (None, "1", "dB"):
            raise BadInput("sample backscatter is dB or 1", where=f"dataset {entry.name}: bands.{name}.units")
        out[name] = own
    return out


def _overlap(a: Area, b: Area) -> bool:
    west, south, east, north = b
    wide = (east - west) % 360.0 or 360.0
    apart = (a[0] - west) % 360.0
    return a[1] < north and a[3] > south and (apart < wide or apart + (a[2] - a[0]) > 360.0)


# ---- the truth ---------------------------------------------------------------------------------------------------


def world_of(entry: SceneEntry) -> World:
    """The land behind an entry. Raises BadInput for an entry of another driver."""
    if entry.source.driver != "sample-scenes":
        raise BadInput(
            f"'{entry.name}' has no truth that could be asked", where=f"driver {entry.source.driver}",
            todo="the truth exists for sample scenes only",
        )  # fmt: skip
    args = catalog.validate(dict(entry.source.args), SceneArgs, f"dataset {entry.name}: source.args")
    first = int(str(parse_time(entry.schedule.start).astype("datetime64[Y]")))
    return World(args.seed, first, args.size, tuple(sorted(args.tiles.items())), args.wet)


def truth(
    entry: SceneEntry, tile: str, time: np.datetime64 | str, bands: tuple[str, ...] = ()
) -> dict[str, NDArray[Any]]:
    """What is really there at a tile and time of an entry (a scene's `time` for its clouds); see `World.truth`."""
    return world_of(entry).truth(tile, parse_time(time), bands)


def change(
    entry: SceneEntry, tile: str, before: np.datetime64 | str, after: np.datetime64 | str
) -> dict[str, NDArray[Any]]:
    """Land cover at two times (`before`, `after`) and where it differs (`mask`); see `World.change`."""
    return world_of(entry).change(tile, parse_time(before), parse_time(after))
