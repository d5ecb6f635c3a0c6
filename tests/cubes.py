"""Small cubes from arrays, through the functions that the ingest writes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.archive import MAIN
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import SourceRef
from eoflow.catalog_scenes import SceneEntry, SceneSchedule, TileScheme
from eoflow.cube import Cube
from eoflow.ingest.scenes.writing import write_step
from eoflow.quality import Quality
from eoflow.tiling import Grid, chunk_shape
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]
REFLECTANCE = {"dtype": "uint16", "units": "1", "scale": 1e-4, "offset": -0.1, "nodata": 0}


def band(name: str, **how: Any) -> BandSpec:
    """A band of Sentinel-2 reflectance, or with other properties."""
    return BandSpec(name=name, **{**REFLECTANCE, **how})


def grid(shape: tuple[int, int], left: float = 500_000.0, top: float = 5_000_000.0, res: float = 10.0,
         crs: str = "EPSG:32632") -> Grid:  # fmt: skip
    """A north-up grid."""
    return Grid(crs, (res, 0.0, left, 0.0, -res, top), shape)


def schema_of(
    bands: Sequence[BandSpec], tiles: TileScheme, sensor: str = "sentinel-2", level: str = "L2A"
) -> SceneSchema:  # fmt: skip
    """A schema without a quality rule."""
    return SceneSchema(bands=tuple(bands), sensor=sensor, level=level, tiles=tiles.model_dump_json(), quality="{}")


def make_cube(
    workspace: Workspace, name: str, tiles: Mapping[str, Mapping[str, Array]], times: Sequence[Any] | Mapping[str, Any],
    *, bands: Mapping[str, Mapping[str, Any]] | None = None, quality: Mapping[str, Array] | None = None,
    grids: Mapping[str, Grid] | None = None, chunk: int = 64, overviews: tuple[int, ...] = (4,),
    sensor: str = "sentinel-2", level: str = "L2A",
) -> Cube:  # fmt: skip
    """A cube from stored values.

    tiles: {tile: {band: (T, y, x) stored values}}. times: of all tiles, or {tile: times}. bands: {band: BandSpec
    fields that differ from Sentinel-2 reflectance (uint16, scale 1e-4, offset -0.1, nodata 0)}. quality: {tile:
    (T, y, x) Quality}; by default NODATA where all bands are nodata, else CLEAR. A step whose quality is all MISSING
    has its slot and nothing in it. grids: {tile: Grid}; by default side by side, 10 m, UTM 32N.
    """
    first = next(iter(tiles.values()))
    specs = [band(b, **{"dtype": str(np.asarray(v).dtype), **dict((bands or {}).get(b, {}))}) for b, v in first.items()]
    scheme = TileScheme(chunk=max(64, chunk), overviews=overviews)
    schema = schema_of(specs, scheme, sensor, level)
    entry = SceneEntry(
        name=name, title=name, source=SourceRef(driver="made"), sensor=sensor, level=level, tiles=scheme,
        schedule=SceneSchedule(start="2015-01-01"),
    )  # fmt: skip
    cube = Cube.create(workspace, entry, schema)
    left = 500_000.0
    with cube.archive.transaction("fill", {"what": "test"}, MAIN) as tx:
        for tile, values in tiles.items():
            some = next(iter(values.values()))
            shape = (int(some.shape[1]), int(some.shape[2]))
            where = (grids or {}).get(tile) or grid(shape, left)
            left += 10.0 * shape[1]
            when = np.asarray(times[tile] if isinstance(times, Mapping) else times, "datetime64[ns]")
            lay.add_tile(tx, tile, where, chunk_shape(shape, None, scheme), schema)
            slots = lay.place(tx, tile, when)
            for i, slot in enumerate(slots):
                layers = {b.name: np.asarray(values[b.name][i]) for b in specs}
                q = quality[tile][i] if quality is not None and tile in quality else _quality(specs, layers)
                q = np.asarray(q, "u1")
                if (q == int(Quality.MISSING)).all():
                    continue
                item = {"id": f"{tile}-{i}", "version": "1", "href": "", "baseline": None, "hrefs": {}, "etags": {},
                        "recipe": "made", "digest": 1, "valid_fraction": 1.0}  # fmt: skip
                write_step(tx, schema, tile, int(slot), layers, q, [item])
    return cube


def _quality(specs: Sequence[BandSpec], layers: Mapping[str, Array]) -> Array:
    void = np.logical_and.reduce(
        [layers[b.name] == b.fill if b.nodata is not None else np.zeros(layers[b.name].shape, bool) for b in specs]
    )
    return np.where(void, int(Quality.NODATA), int(Quality.CLEAR)).astype("u1")
