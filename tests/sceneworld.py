"""A provider of scenes for tests: small GeoTIFFs in a folder and a listing, whose faults a test can set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasters

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt, AssetMissing, AssetTransient
from eoflow.sources.raster import RasterReader, fill_in
from eoflow.sources.scene import QUALITY, RasterBand, Scene
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]
PAIR = {"scale": 1e-4, "offset": -0.1}


class FolderScenes:
    """Driver `sceneworld:FolderScenes`: args.items is the listing that `World` writes."""

    gives: ClassVar[str] = "scenes"

    def __init__(self, entry: SceneEntry, context: Any) -> None:
        self.entry, self.path = entry, Path(entry.source.args["items"])

    def _raw(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    def plan(self, period: Any, area: Any = None) -> list[Scene]:
        scenes = [Scene.from_json(text) for text in self._raw()["scenes"]]
        return sorted((s for s in scenes if period is None or period.contains(s.time)), key=lambda s: s.time)

    def header(self, scene: Scene) -> Scene:
        fault = self._raw()["faults"].get(scene.id)
        if fault is not None:
            kind = {"missing": AssetMissing, "corrupt": AssetCorrupt, "transient": AssetTransient, "bad": BadInput}[
                fault
            ]
            raise kind(f"the header is {fault}", where=scene.id)
        reader = RasterReader(self.readable)
        try:
            return replace(scene, bands={n: fill_in(b, reader.header(b.href)) for n, b in scene.bands.items()})
        finally:
            reader.close()

    def readable(self, href: str) -> str:
        return href


class World:
    """Writes scenes and their listing. Values are uint16 digital numbers, nodata 0, a block of 64 pixels."""

    def __init__(self, folder: Path, bands: tuple[str, ...] = ("B04", "B08"), pair: Mapping[str, float] = PAIR) -> None:
        self.folder, self.bands, self.pair = Path(folder), bands, dict(pair)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scenes: dict[str, Scene] = {}
        self.faults: dict[str, str] = {}
        self.values: dict[str, dict[str, Array]] = {}

    def add(
        self, ident: str, time: str, tile: str = "T1", *, shape: tuple[int, int] = (128, 192), seed: int | None = None,
        void: tuple[slice, slice] | None = None, version: str = "1",
        origin: tuple[float, float] = (500_000.0, 4_600_000.0),
        res: float = 10.0, crs: str = "EPSG:32633", pair: Mapping[str, float] | None = None, scl: Array | None = None,
        dtype: str = "uint16", **more: Any,
    ) -> Scene:  # fmt: skip
        """A scene of random values; `void`: where it has nodata. The same id again replaces it."""
        rng = np.random.default_rng(abs(hash_of(ident, version)) if seed is None else seed)
        bands = {}
        self.values[ident] = {}
        for name in self.bands:
            data = rng.integers(1001, 9000, shape).astype(dtype)
            if void is not None:
                data[void] = 0
            path = self.folder / f"{ident}-{version}-{name}.tif"
            rasters.write(path, data, crs=crs, origin=origin, res=res, nodata=0)
            bands[name] = RasterBand(str(path), **(pair or self.pair))
            self.values[ident][name] = data
        if scl is not None:
            path = self.folder / f"{ident}-{version}-SCL.tif"
            rasters.write(path, scl.astype("u1"), crs=crs, origin=origin, res=res)
            bands[QUALITY] = RasterBand(str(path), scale=1.0, offset=0.0)
        scene = Scene(ident, np.datetime64(time, "ns"), tile, bands, version=version, href=f"file:{ident}", **more)
        self.scenes[ident] = scene
        return scene

    def save(self) -> None:
        """Write the listing as it is now."""
        raw = {"scenes": [s.to_json() for s in self.scenes.values()], "faults": self.faults}
        (self.folder / "items.json").write_text(json.dumps(raw))

    def entry(self, name: str = "w", **more: Any) -> SceneEntry:
        """The catalog entry."""
        raw = {
            "kind": "scenes", "name": name, "title": "World", "sensor": "sentinel-2", "level": "L2A",
            "source": {"driver": "sceneworld:FolderScenes", "args": {"items": str(self.folder / "items.json")}},
            "bands": {b: {"units": "1", **self.pair, "nodata": 0, "dtype": "uint16"} for b in self.bands},
            "schedule": {"start": "2020-01-01", "end": "2020-12-31"}, "tiles": {"chunk": 64, "overviews": [4]},
        }  # fmt: skip
        return SceneEntry.model_validate(raw | more)

    def publish(self, workspace: Workspace, name: str = "w", **more: Any) -> SceneEntry:
        """Write listing and catalog entry."""
        self.save()
        entry = self.entry(name, **more)
        catalog.save_dataset(entry, workspace)
        return entry

    def damage(self, ident: str, band: str) -> bytes:
        """Overwrite some pixels' bytes, so that only reading them tells; returns what the file held."""
        import rasterio

        path = Path(self.scenes[ident].bands[band].href)
        whole = path.read_bytes()
        with rasterio.open(path) as f:
            at = int(f.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", 1))
        path.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        return whole

    def truncate(self, ident: str, band: str) -> bytes:
        """Damage a file; returns what it held."""
        path = Path(self.scenes[ident].bands[band].href)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * 0.9)])
        return whole


def hash_of(*parts: str) -> int:
    """A seed from texts, the same in every process."""
    import zlib

    return zlib.crc32("/".join(parts).encode())
