"""Files of the sample scenes: made when they are first read, whole or not at all, the same bytes every time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time as clock
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoflow.errors import BadInput
from eoflow.sources.land import Tile, World, spectra
from eoflow.sources.land.radar import Echo
from eoflow.sources.land.world import VERSION

SCHEME = "sample://"
KEEP, QUIET = 256, 900.0
"""Scenes that the cache keeps, and the seconds after which one may go; what is asked for again is made again."""
_HREF = re.compile(
    rf"{SCHEME}(?P<name>\w+_(?P<stamp>\d{{8}}T\d{{6}})_(?P<tile>[\w-]+))/(?P<orbit>\d+)-(?P<version>[\d.]+)/"
    r"(?P<band>\w+)(?P<part>\.part)?\.tif"
)
_locks = [threading.Lock() for _ in range(16)]


@dataclass(frozen=True)
class Shot:
    """One scene as it was published: what its files are made from, and all of it stands in their addresses."""

    name: str
    tile: str
    time: np.datetime64
    orbit: int
    version: str

    @property
    def folder(self) -> str:
        """Address of its files."""
        return f"{SCHEME}{self.name}/{self.orbit}-{self.version}"

    def href(self, band: str, broken: bool = False) -> str:
        """Address of a band's file; a truncated one has an address of its own."""
        return f"{self.folder}/{band}{'.part' if broken else ''}.tif"

    @classmethod
    def parse(cls, href: str) -> tuple[Shot, str, bool]:
        """(shot, band, truncated) of an address. Raises BadInput."""
        m = _HREF.fullmatch(href)
        if m is None:
            raise BadInput(
                f"'{href}' is not a file of the sample scenes", todo="it looks like sample://SCENE/1-04.00/B02.tif"
            )
        s = m["stamp"]
        time = np.datetime64(f"{s[:4]}-{s[4:6]}-{s[6:8]}T{s[9:11]}:{s[11:13]}:{s[13:]}", "ns")
        return cls(m["name"], m["tile"], time, int(m["orbit"]), m["version"]), m["band"], m["part"] is not None


@dataclass(frozen=True)
class SceneFiles:
    """The files of one dataset in a cache folder that may be deleted at any time."""

    cache: str
    world: World
    sensor: str
    bands: tuple[str, ...]
    imperfect: bool
    looks: float
    decibel: tuple[str, ...]
    varied: bool = False

    @cached_property
    def folder(self) -> Path:
        """Where they lie: one folder for each way to make them."""
        made = (self.sensor, self.bands, self.imperfect, self.looks, self.decibel, self.varied)
        what = repr((VERSION, self.world, *made))
        key = hashlib.sha256(what.encode()).hexdigest()[:12]
        return Path(self.cache) / "land" / f"{self.sensor}-{key}"

    def path(self, href: str) -> str:
        """The file of an address, made now (with the others of its scene) if it is not there."""
        shot, band, part = Shot.parse(href)
        if shot.tile not in dict(self.world.kinds) or band not in (*self.bands, "SCL"):
            raise BadInput(f"'{href}' is not a file of this dataset")
        home = self.folder / f"{shot.name}_{shot.orbit}-{shot.version}"
        target = home / f"{band}{'.part' if part else ''}.tif"
        with _locks[hash(str(home)) % len(_locks)]:  # one thread makes it, the others find it done
            if not target.is_file():
                self._make(shot, home)
            if part and not target.is_file():
                whole = (home / f"{band}.tif").read_bytes()
                _put(target, lambda name: Path(name).write_bytes(whole[: len(whole) // 3]))
        return str(target)

    def _make(self, shot: Shot, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        for band, classes in self._truth(shot).items():
            if band in self.bands:
                self._write(shot, home, band, classes, 255)
        if self.sensor == "optical":
            offset = 0.0 if shot.version < "04.00" else -0.1
            seen = tuple(b for b in self.bands if b in spectra.BANDS)
            view = self.world.optical(shot.tile, shot.time, seen, orbit=shot.orbit, imperfect=self.imperfect)
            self._write(shot, home, "SCL", view.scl, 0)
            for band in seen:
                self._write(shot, home, band, view.stored(band, offset), 0, 1e-4, offset)
        else:
            echo, label = self._echo(shot)
            if label is not None and "water" in self.bands:
                self._write(shot, home, "water", label, 255)
            for band in self.bands:
                if band in echo.intensity:
                    values = echo.decibel(band) if band in self.decibel else echo.intensity[band]
                    self._write(shot, home, band, values, -9999)
        self._prune()

    def _echo(self, shot: Shot) -> tuple[Echo, NDArray[np.uint8] | None]:
        """The radar scene, and its label if that is its own."""
        if self.varied:
            return self.world.varied_radar(shot.tile, shot.time, ascending=shot.orbit % 2 == 0)
        return self.world.radar(shot.tile, shot.time, looks=self.looks, correlation=0.5), None

    def _truth(self, shot: Shot) -> dict[str, NDArray[np.uint8]]:
        """`water` and `cover` (y, x), if they are asked for; a varied scene has no cover."""
        if self.varied or not {"water", "cover"} & set(self.bands):
            return {}
        t = self.world.truth(shot.tile, shot.time)
        water = np.where(t["permanent_water"] | t["flood"], 1, np.where(t["inundation"], 2, 0)).astype(np.uint8)
        return {"water": water, "cover": t["classes"]}

    def _write(
        self, shot: Shot, home: Path, band: str, values: NDArray[Any], nodata: float, scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:  # fmt: skip
        tile = Tile.parse(shot.tile, self.world.size)
        _put(home / f"{band}.tif", lambda name: _geotiff(name, values, tile, band, nodata, scale, offset))

    def _prune(self) -> None:
        """Keep the newest scenes only; a file that was made minutes ago may still be in use."""
        homes = [p for p in self.folder.iterdir() if p.is_dir()]
        if len(homes) <= KEEP:
            return
        with contextlib.suppress(OSError):
            homes.sort(key=lambda p: p.stat().st_mtime)
            for old in homes[: len(homes) - KEEP]:
                if clock.time() - old.stat().st_mtime > QUIET:
                    shutil.rmtree(old, ignore_errors=True)


def _geotiff(
    name: str, values: NDArray[Any], tile: Tile, band: str, nodata: float, scale: float, offset: float
) -> None:  # fmt: skip
    import rasterio
    from affine import Affine

    side = min(256, tile.size)
    with rasterio.open(
        name, "w", driver="GTiff", width=tile.size, height=tile.size, count=1, dtype=values.dtype, crs=tile.crs,
        transform=Affine(*tile.transform), nodata=nodata, tiled=True, blockxsize=side, blockysize=side,
        compress="deflate", zlevel=1, predictor=3 if values.dtype.kind == "f" else 2, num_threads=1,
    ) as f:  # fmt: skip
        f.write(values, 1)
        f.set_band_description(1, band)
        if (scale, offset) != (1.0, 0.0):
            f.scales, f.offsets = (scale,), (offset,)


def _put(target: Path, write: Any) -> None:
    """Let `write(name)` fill a temporary file beside the target, then rename it: whole or not at all."""
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-", suffix=".tif")
    os.close(fd)
    try:
        write(name)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
