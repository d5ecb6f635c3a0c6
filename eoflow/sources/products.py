"""What the readers of whole products share (SAFE, Landsat): listing, one scene a product, newest version, headers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.base import Area, AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.bundle import Bundle, overlaps
from eoflow.sources.files import expand
from eoflow.sources.radiometry import convention_of
from eoflow.sources.scene import MASKS, QUALITY, SATURATION, RasterBand, Scene
from eoflow.times import Period

if TYPE_CHECKING:
    from eoflow.sources.raster import RasterReader

PROBLEM = "problem"
"""Key of `Scene.properties`: why the metadata could not be read; `header` then says it again, or reads them anew."""


class ProductSource(ABC):
    """A source of local products given as `paths` (names and glob patterns); the newest version of each is planned.

    A product whose metadata cannot be read is planned by its name, and `header` says what is wrong with it.
    """

    gives: ClassVar[str] = "scenes"
    ARGS: ClassVar[tuple[str, ...]] = ("paths",)
    WHAT: ClassVar[str] = "product"

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None:
        from eoflow.registry import nearest

        for key in entry.source.args:
            if key not in self.ARGS:
                raise BadInput(
                    f"unknown source argument '{key}'{nearest(key, list(self.ARGS))}",
                    where=f"dataset {entry.name}, source.args",
                    todo=f"choose from {', '.join(self.ARGS)}",
                )
        if not entry.source.args.get("paths"):
            raise BadInput(
                f"dataset '{entry.name}' lists no {self.WHAT}",
                where="source.args.paths",
                todo=f"write  source: {{driver: {entry.source.driver}, args: {{paths: [FOLDER, ...]}}}}",
            )
        self.entry, self.context = entry, context
        self.paths: list[str] | str = entry.source.args["paths"]

    def products_at(self, path: str) -> list[str]:
        """The products at one of the paths that were given, so that a bad one does not take others with it."""
        return [path]

    @abstractmethod
    def open(self, path: str) -> Bundle:
        """The files of the product at a path."""

    @abstractmethod
    def scenes_of(self, bundle: Bundle) -> list[Scene]:
        """The scenes of a product, from its metadata. Raises AssetError."""

    @abstractmethod
    def guess(self, path: str) -> Scene | None:
        """The scene that the name of a path tells of, without bands; None if it tells nothing."""

    @cached_property
    def reader(self) -> RasterReader:
        """Reads the headers."""
        from eoflow.sources.raster import RasterReader

        return RasterReader(self.readable)

    @cached_property
    def _roots(self) -> list[str]:
        """Folders and zips that may be read: a metadata file stands for its folder."""
        given = [Path(p) for p in expand(self.paths)]
        return [str(p.parent if p.is_file() and p.suffix.lower() != ".zip" else p) for p in given]

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("reader", "_roots")}

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """The newest version of each scene of the period and area, oldest first. Reads metadata, no raster."""
        self.__dict__.pop("_roots", None)
        found: list[Scene] = []
        for path in [p for given in expand(self.paths) for p in self.products_at(given)]:
            try:
                found += self.scenes_of(self.open(path))
            except AssetError as e:
                scene = self.guess(path)
                if scene is None:
                    raise BadInput(e.what, where=e.where, todo=e.todo) from e
                found.append(replace(scene, href=path, properties={**scene.properties, PROBLEM: e.text()}))
        inside = [
            s
            for s in self.select(found)
            if (period is None or bool(period.contains(s.time))) and overlaps(s.bbox, area or self.entry.area)
        ]
        return sorted(inside, key=lambda s: (s.time, s.id))

    def select(self, scenes: Sequence[Scene]) -> list[Scene]:
        """One scene for each acquisition: its last version."""
        return newest(scenes)

    def header(self, scene: Scene) -> Scene:
        """The scene with its bands filled in from the headers, in the entry's order; every band must be there."""
        if PROBLEM in scene.properties:
            scene = self._again(scene)
        wanted = list(self.entry.bands or [n for n in scene.bands if n not in MASKS])
        if self.entry.quality.rule != "none":
            wanted.append(QUALITY)
        missing = [self._source(n) for n in wanted if n not in scene.bands]
        if missing or not wanted:
            there = ", ".join(scene.properties.get("present", [])) or "none that is known"
            raise AssetMissing(
                f"the product has no {', '.join(missing) or 'band'}{self.asked()}; it has {there}",
                where=scene.href,
                todo="fetch the whole product, or list under bands what is there"
                + (" and write  quality: {rule: none}" if QUALITY in wanted and QUALITY not in scene.bands else ""),
            )
        bands = {n: self._filled(scene, n) for n in (*wanted, *([SATURATION] if SATURATION in scene.bands else []))}
        return replace(scene, bands=bands)

    def readable(self, href: str) -> str:
        """The path itself, if it lies in one of the products. Raises BadInput otherwise."""
        if "\0" in href or ".." in href.split("/") or not any(_inside(href, root) for root in self._roots):
            raise BadInput(
                "the file is not part of a product of this dataset", where=href, todo="list the product under paths"
            )
        return href

    def asked(self) -> str:
        """What narrows the choice of files down, for messages."""
        return ""

    def _source(self, name: str) -> str:
        if name == QUALITY:
            return f"{self.entry.quality.source_name} (the quality layer)"
        band = (self.entry.bands or {}).get(name)
        return (band.source_name if band is not None else None) or name

    def _again(self, scene: Scene) -> Scene:
        fresh = self.scenes_of(self.open(scene.href))
        for s in fresh:
            if s.id == scene.id:
                return replace(s, time=scene.time)  # the slot that was planned
        raise AssetCorrupt(
            f"the product holds {', '.join(s.id for s in fresh)}, its name says {scene.id}", where=scene.href
        )

    def _filled(self, scene: Scene, name: str) -> RasterBand:
        from eoflow.sources.raster import fill_in

        band = scene.bands[name]
        filled = fill_in(band, self.reader.header(band.href, band.index))
        if name not in MASKS and filled.dtype is not None and np.dtype(filled.dtype).kind not in "iu":
            raise AssetCorrupt(
                f"band {name} holds {filled.dtype}, and this product stores integers", where=band.href,
                todo="fetch the original product",
            )  # fmt: skip
        if filled.scale is None or filled.offset is None:
            filled = replace(filled, scale=1.0, offset=0.0)
        return filled


def newest(scenes: Sequence[Scene]) -> list[Scene]:
    """One scene for each id: the last version."""
    best: dict[str, Scene] = {}
    for s in scenes:
        if s.id not in best or s.version > best[s.id].version:
            best[s.id] = s
    return list(best.values())


def wanted_bands(entry: SceneEntry, level: str, present: Sequence[str]) -> dict[str, str]:
    """eoflow's name -> the product's own band name, for the bands of the entry that are present.

    Without bands in the entry: every one present, under its own name. An entry's band is found by its source name, its
    name or its common name ("red"). Raises BadInput for a band that the product does not know.
    """
    if entry.bands is None:
        return {b: b for b in present}
    out = {}
    for name, band in entry.bands.items():
        described = convention_of(name, band, entry.sensor, level)
        own = described.source_name if described else band.source_name or name
        if own is None or (described is None and own not in present):
            raise BadInput(
                f"band {name} ({own}) is not one of {entry.sensor} {level}",
                where=f"dataset {entry.name}, bands",
                todo="write its source_name, for example one of " + ", ".join(present),
            )
        if own in present:
            out[name] = own
    return out


def box_of(lons: Sequence[float], lats: Sequence[float]) -> Area | None:
    """W, S, E, N of a footprint's corners; west > east where it crosses the antimeridian. None for nonsense."""
    if (
        not lons
        or len(lons) != len(lats)
        or not all(abs(x) <= 360 for x in lons)
        or not all(abs(y) <= 90 for y in lats)
    ):
        return None
    west, east = min(lons), max(lons)
    if east - west > 180:
        west, east = min(x for x in lons if x >= 0), max(x for x in lons if x < 0)
    return west, min(lats), east, max(lats)


def entry_from(
    name: str,
    paths: Sequence[str],
    driver: str,
    make: Callable[[SceneEntry, SourceContext], ProductSource],
    draft: SceneEntry,
) -> tuple[SceneEntry, list[Scene]]:
    """The draft entry with the schedule of the products at `paths`, and their scenes. Raises BadInput."""
    from eoflow.catalog import SourceRef
    from eoflow.catalog_scenes import SceneSchedule

    found = expand(list(paths))
    if not found:
        raise BadInput("no product matches", where=", ".join(paths), todo="check the path")
    entry = draft.model_copy(update={"name": name, "source": SourceRef(driver=driver, args={"paths": found})})
    scenes = make(entry, SourceContext(Path(), np.datetime64("now", "ns"))).plan(None)
    for s in scenes:
        if PROBLEM in s.properties:
            raise BadInput(s.properties[PROBLEM])
    if not scenes:
        raise BadInput("no scene in the products", where=", ".join(found))
    days = [str(s.time.astype("datetime64[D]")) for s in scenes]
    schedule = SceneSchedule(start=min(days), end=max(days))
    return SceneEntry.model_validate(entry.model_copy(update={"schedule": schedule}).model_dump()), scenes


def said(names: Sequence[str], most: int = 3) -> str:
    """Some names for a title: `29UNU, 29UPU and 4 more`."""
    unique = sorted(set(names))
    more = len(unique) - most
    return ", ".join(unique[:most]) + (f" and {more} more" if more > 0 else "")


def _inside(href: str, root: str) -> bool:
    plain = href.removeprefix("/vsizip/")
    return plain == root or plain.startswith(root.rstrip("/") + "/")
