"""Sample aerial scenes: places seen on two dates or more, with the roofs of each date and what changed since the first.

Every place is a tile with its own pixel grid. A scene is one small GeoTIFF of five bands, made when it is first read
and kept in the cache folder: red, green, blue as a camera gives them, and the truth as two more bands, `building` and
`change`. All of it is a function of the entry alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from eoflow import catalog
from eoflow.catalog_scenes import BandEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.sources.base import Area, SourceContext
from eoflow.sources.land.aerial import VERSION, Series, resolution, series
from eoflow.sources.scene import Grid, RasterBand, Scene
from eoflow.times import Period, parse_time

SCHEME = "sample-aerial://"
BANDS = ("red", "green", "blue", "building", "change")
KEEP = 64
"""Places whose files stay in the cache; what is asked for again is made again."""
CRS, EAST, NORTH, APART, ROW = "EPSG:32614", 300_000.0, 3_300_000.0, 4_000.0, 100
"""Where the places lie: on a grid in a UTM zone, `APART` m from corner to corner, `ROW` of them beside each other."""
_HREF = re.compile(rf"{SCHEME}(?P<key>[0-9a-f]{{12}})/place-(?P<place>\d{{5}})/(?P<date>\d{{2}})\.tif")
_lock = threading.Lock()


class AerialArgs(BaseModel):
    """Driver arguments.

    seed: which places. places: how many. first: number of the first one. size: pixels of a side. dates: images of each
    place. resolution: metres of a pixel; None: half a metre for most places, 1.2 to 2.6 m for the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 7
    places: int = Field(default=240, ge=1, le=10_000)
    first: int = Field(default=0, ge=0)
    size: int = Field(default=256, ge=64, le=1024, multiple_of=16)
    dates: int = Field(default=2, ge=2, le=8)
    resolution: float | None = Field(default=None, ge=0.3, le=3.0)


class SampleAerialSource:
    """Source of sample aerial scenes. Raises BadInput for an entry that asks for a band that they do not have."""

    gives: ClassVar[str] = "scenes"

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None:
        self.entry, self.context = entry, context
        self.args = args_of(entry)
        self.now = parse_time(context.now)
        self.names: dict[str, str] = {}
        wanted: dict[str, BandEntry | None] = {**(entry.bands or dict.fromkeys(BANDS))}
        for name, band in wanted.items():
            own = (band.source_name if band else None) or name
            if own not in BANDS:
                raise BadInput(
                    f"sample aerial scenes have no band '{own}'{nearest(own, list(BANDS))}",
                    where=f"dataset {entry.name}: bands.{name}", todo=f"choose from {', '.join(BANDS)}",
                )  # fmt: skip
            self.names[name] = own

    # ---- the three methods of a source of scenes ----------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """The scenes of a period, oldest first."""
        span = self.entry.schedule.period(self.now)
        window = area or self.entry.area
        scenes = []
        for place in range(self.args.first, self.args.first + self.args.places):
            grid = self.grid(place)
            bbox = _bbox(grid)
            if window is not None and not _meet(bbox, window):
                continue
            for date, time in enumerate(times(self.args, place)):
                if span.contains(time) and (period is None or period.contains(time)):
                    scenes.append(self._scene(place, date, time, grid, bbox))
        return sorted(scenes, key=lambda s: (s.time, s.tile))

    def header(self, scene: Scene) -> Scene:
        """The scene as it stands: all is known without opening a file."""
        return scene

    def readable(self, href: str) -> str:
        """Path of a scene's file in the cache, made now if it is not there. Raises BadInput for another's href."""
        m = _HREF.fullmatch(href)
        if m is None or m["key"] != self.folder.name or int(m["date"]) >= self.args.dates:
            raise BadInput(f"'{href}' is not a file of dataset {self.entry.name}")
        home = self.folder / f"place-{m['place']}"
        target = home / f"{m['date']}.tif"
        with _lock:  # one thread makes a place, the others find it
            if not target.is_file():
                self._make(int(m["place"]), int(m["date"]), home)
        return str(target)

    # ---- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """Where the files lie: one folder for each way to make them."""
        a = self.args
        what = repr((VERSION, a.seed, a.size, a.dates, a.resolution))
        return Path(self.context.cache) / "aerial" / hashlib.sha256(what.encode()).hexdigest()[:12]

    def grid(self, place: int) -> Grid:
        """Pixel grid of a place."""
        metres = self.args.resolution or resolution(self.args.seed, place)
        east, north = EAST + place % ROW * APART, NORTH + place // ROW * APART
        return Grid(CRS, (metres, 0.0, east, 0.0, -metres, north), (self.args.size, self.args.size))

    def _scene(self, place: int, date: int, time: np.datetime64, grid: Grid, bbox: Area) -> Scene:
        tile = f"place-{place:05d}"
        href = f"{SCHEME}{self.folder.name}/{tile}/{date:02d}.tif"
        side = min(256, self.args.size)
        bands = {}
        for name, own in self.names.items():
            colour = own in BANDS[:3]
            bands[name] = RasterBand(
                href, BANDS.index(own) + 1, "uint8", None if colour else 255.0, 1 / 255 if colour else 1.0, 0.0, "1",
                grid, (side, side), href,
            )  # fmt: skip
        stamp = str(time.astype("datetime64[s]")).replace("-", "").replace(":", "")
        return Scene(
            f"AERIAL_{stamp}_{tile}", time, tile, bands, bbox=bbox, platform="sample-aerial",
            level=self.entry.level, version=str(VERSION), href=href, properties={"gsd": grid.transform[0]},
        )  # fmt: skip

    def _make(self, place: int, date: int, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        seen = _series(self.args, place, date)
        values = np.concatenate([seen.images[0].transpose(2, 0, 1), seen.built, seen.change])
        _write(home / f"{date:02d}.tif", values.astype(np.uint8), self.grid(place))
        homes = sorted((p for p in self.folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
        for old in homes[: max(0, len(homes) - KEEP)]:
            for file in old.glob("*.tif"):
                with contextlib.suppress(OSError):
                    file.unlink()
            with contextlib.suppress(OSError):
                old.rmdir()


def args_of(entry: SceneEntry) -> AerialArgs:
    """Driver arguments of an entry. Raises BadInput for an entry of another driver."""
    if entry.source.driver != "sample-aerial":
        raise BadInput(f"'{entry.name}' has no truth that could be asked", where=f"driver {entry.source.driver}",
                       todo="the truth exists for sample aerial scenes only")  # fmt: skip
    return catalog.validate(dict(entry.source.args), AerialArgs, f"dataset {entry.name}: source.args")


def truth(entry: SceneEntry, tile: str) -> dict[str, NDArray[Any]]:
    """What is really there at a tile: `building` and `change` since the first date, (date, y, x) bool."""
    seen = _series(args_of(entry), int(tile.rpartition("-")[2]))
    return {"building": seen.built, "change": seen.change}


def times(args: AerialArgs, place: int) -> list[np.datetime64]:
    """When a place was seen: one to three years between two dates, in any season."""
    gen = np.random.default_rng([args.seed, place, 17])
    day = np.datetime64("2012-01-01", "s") + int(86400 * gen.integers(0, 730))
    out = []
    for _ in range(args.dates):
        out.append((day + 16 * 3600 + int(gen.integers(0, 7200))).astype("datetime64[ns]"))
        day = day + int(86400 * gen.integers(370, 1100))
    return out


def _series(args: AerialArgs, place: int, only: int | None = None) -> Series:
    return series(args.seed, place, args.size, dates=args.dates, gsd=args.resolution, only=only)


def _bbox(grid: Grid) -> Area:
    box = grid.geobox.geographic_extent.boundingbox
    return (float(box.left), float(box.bottom), float(box.right), float(box.top))


def _meet(a: Area, b: Area) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _write(target: Path, values: NDArray[np.uint8], grid: Grid) -> None:
    """A GeoTIFF under a temporary name, then renamed: whole or not at all."""
    import rasterio
    from affine import Affine

    fd, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-", suffix=".tif")
    os.close(fd)
    side = min(256, grid.shape[0])
    try:
        with rasterio.open(
            name, "w", driver="GTiff", width=grid.shape[1], height=grid.shape[0], count=len(BANDS), dtype="uint8",
            crs=grid.crs, transform=Affine(*grid.transform), tiled=True, blockxsize=side, blockysize=side,
            compress="deflate", zlevel=1, predictor=2, interleave="band", num_threads=1,
        ) as f:  # fmt: skip
            f.write(values)
            f.descriptions = BANDS
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
