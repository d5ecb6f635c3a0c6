"""A real STAC API on loopback: `rustac serve` with its memory backend, and items that point at small COGs."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.catalog_scenes import SceneEntry
from eoflow.sources.base import SourceContext
from eoflow.sources.stac import StacSource

Json = dict[str, Any]


def rustac() -> str | None:
    """The program `rustac` of this environment, or None."""
    beside = Path(sys.executable).parent / "rustac"
    return str(beside) if beside.exists() else shutil.which("rustac")


class StacServer:
    """`with StacServer(folder, items) as api: api.url` serves the items; `collection` of each names its collection."""

    def __init__(self, folder: Path, items: list[Json]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "items.json"
        self.file.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        self.log = folder / "rustac.log"

    def __enter__(self) -> StacServer:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{s.getsockname()[1]}"
        self.url = f"http://{self.host}"
        program = rustac()
        assert program is not None
        command = [program, "serve", "--create-collections", "--addr", self.host, str(self.file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(400):  # it listens after some hundredths of a second
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    answer.read()
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.02)
        self.__exit__()
        raise RuntimeError(f"rustac did not start: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)


def write_cog(path: Path, pixels: np.ndarray, *, epsg: int = 32629, x: float = 600_000, y: float = 5_700_000,
              step: float = 10, nodata: float | None = 0, **options: Any) -> Path:  # fmt: skip
    """A tiled GeoTIFF (64-pixel blocks) of a 2-D array; returns its path."""
    import rasterio
    from affine import Affine

    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": 1, "dtype": pixels.dtype,
        "crs": f"EPSG:{epsg}", "transform": Affine(step, 0, x, 0, -step, y), "nodata": nodata, "tiled": True,
        "blockxsize": 64, "blockysize": 64, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **{**profile, **options}) as ds:
        ds.write(pixels, 1)
    return path


def asset(href: str, shape: tuple[int, int] | None = None, *, x: float = 600_000, y: float = 5_700_000,
          step: float = 10, **more: Any) -> Json:  # fmt: skip
    """A GeoTIFF asset; with projection metadata if a shape is given."""
    out: Json = {"href": href, "type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"]}
    if shape is not None:
        out |= {"proj:shape": list(shape), "proj:transform": [step, 0, x, 0, -step, y]}
    return out | more


def item(ident: str, when: str, assets: Json, *, bbox: tuple[float, ...] = (-7.55, 51.43, -7.53, 51.45),
         collection: str = "sentinel-2-l2a", **properties: Any) -> Json:  # fmt: skip
    """A STAC 1.0 item whose footprint is its box."""
    w, s, e, n = bbox
    ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": ident, "collection": collection, "bbox": list(bbox),
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "links": [], "assets": assets, "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "properties": {"datetime": when, "platform": "sentinel-2a", "proj:epsg": 32629, **properties},
    }  # fmt: skip


# -- sources over them -------------------------------------------------------------------------------------------------

BAND = {"units": "1", "scale": 1e-4, "offset": -0.1, "nodata": 0, "dtype": "uint16"}
SAID = {"raster:bands": [{"nodata": 0, "data_type": "uint16"}]}
ES = {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]}
PIXELS = np.arange(100 * 120, dtype="u2").reshape(100, 120)


def source(tmp_path, args: dict, *, mask: bool = True, now: str = "2026-01-01", **more) -> StacSource:
    entry = SceneEntry(
        name="local", title="x", source={"driver": "stac", "args": args}, schedule={"start": "2015-01-01"},
        **{"sensor": "sentinel-2", "level": "L2A", "bands": {"B04": BAND},
           "quality": {"rule": "scl", "source_name": "SCL"} if mask else {}, **more},
    )  # fmt: skip
    return StacSource(entry, SourceContext(tmp_path / "cache", np.datetime64(now, "ns")), sleep=lambda _: None)


def pair(url: str, full: bool = True, **more) -> dict:
    """Assets B04 and SCL of the small scene; with all that lets a header be skipped if `full`."""
    said = {**SAID, **more}
    return {
        "B04": asset(f"{url}/B04.tif", (100, 120) if full else None, **(said if full else more)),
        "SCL": asset(f"{url}/SCL.tif", (50, 60), step=20, **{"raster:bands": [{"nodata": 0, "data_type": "uint8"}]}),
    }


def s2(ident: str, day: int, assets: dict, **properties) -> dict:
    props = {"s2:processing_baseline": "05.09", "s2:mgrs_tile": "29UNU", **properties}
    return item(ident, f"2023-05-{day:02d}T11:36:21Z", assets, **{k: v for k, v in props.items() if v is not None})


def listed(tmp_path, cogs, *items: dict, **args) -> StacSource:
    (file := tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    return source(tmp_path, {"items": str(file), "allowed_hosts": [cogs.host], **args})
