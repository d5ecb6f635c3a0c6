"""Scene datasets as rows and documents: what a cube holds, what an entry or a raster file would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.times import iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.sources.scene import RasterBand, SceneSource

PIXELS = 512
"""Of a band that is only looked at, at most so many pixels a side are read."""


def scenes_row(ws: Workspace, name: str) -> dict[str, Any]:
    """Period, coverage and bands, as a row of `eoflow status`."""
    about = describe_cube(ws, name, None)
    first, _, last = about["period"].partition("/")
    return {"from": first, "to": last, "present": about["present"], "variables": about["bands"]}


def describe_cube(ws: Workspace, name: str, as_of: str | None) -> dict[str, Any]:
    """Tiles, bands, period, coverage and state of a cube, now or `as_of` a snapshot or time."""
    from eoflow.cube import Cube

    cube = Cube.load(ws, name)
    tiles = cube.tiles(as_of)
    steps = {t: cube.times(t, as_of) for t in tiles}
    every = [t for axis in steps.values() for t in axis]
    items: list[Any] = [text for t in tiles for text in cube.group(t, as_of)["items"][:]]  # type: ignore[index,union-attr]
    stored = sum(str(text) not in ("", "[]") for text in items)
    grids = {t: cube.grid(t, as_of) for t in tiles}
    shown = "; ".join(f"{t}: {g.shape[0]} x {g.shape[1]} {g.crs}" for t, g in list(grids.items())[:4])
    return {
        "tiles": f"{len(tiles)} ({shown}{'; ...' if len(tiles) > 4 else ''})",
        "bands": ", ".join(cube.schema.names),
        "sensor": f"{cube.schema.sensor} {cube.schema.level}",
        "period": f"{iso(min(every))}/{iso(max(every))}" if every else "",
        "present": f"{stored} of {len(every)}",
        "schema": cube.schema.hash,
        "snapshot": cube.archive.resolve(as_of),
    }


# -- checks ----------------------------------------------------------------------------------------------------------


def check_scene_entry(ws: Workspace, entry: SceneEntry, what: str, now: np.datetime64) -> dict[str, Any]:
    """Check an entry of scenes without a network. Raises BadInput.

    Always: driver, arguments, schedule, bands, quality and tiles. Of scenes that lie on this machine also the listing
    and the headers of the first and the last; for others the line says how to try the rest.
    """
    from eoflow.ingest.scenes.sources import open_source

    try:
        source = open_source(entry, ws.cache, now)
    except BadInput as e:
        raise BadInput(e.what, where=f"{what}, {e.where or 'source.driver'}", todo=e.todo) from e
    period = entry.schedule.period(now)
    open_end = "now" if entry.schedule.end is None else iso(period.end)
    bands = "those of the first scene" if entry.bands is None else ", ".join(entry.bands)
    rule = entry.quality.rule + (f" from {entry.quality.source_name}" if entry.quality.source_name else "")
    report: dict[str, Any] = {
        "name": entry.name,
        "driver": entry.source.driver,
        "sensor": f"{entry.sensor} {entry.level}",
        "bands": bands,
        "quality": rule,
        "tiles": _tiles_said(entry),
        "expected": f"scenes of {iso(period.start)} to {open_end}",
    }
    if _remote(entry.source.args):
        return report | {"scenes": f"not looked for: that needs a network (eoflow ingest {entry.name} --period P)",
                         "valid": True}  # fmt: skip
    return report | _listed(source, what) | {"valid": True}


def check_rasters(ws: Workspace, what: str, now: np.datetime64, overrides: dict[str, Any]) -> dict[str, Any]:
    """What raster files would be ingested as: driver, scenes, values of each band, notes. Raises BadInput."""
    from eoflow.ingest.scenes.sources import open_source
    from eoflow.sources.infer_scenes import infer_scene_entry

    entry = infer_scene_entry("checked", [what], now, overrides)
    source = open_source(entry, ws.cache, now)
    report: dict[str, Any] = {"driver": entry.source.driver, "sensor": f"{entry.sensor} {entry.level}"}
    report |= _listed(source, what) | {"tile scheme": _tiles_said(entry), "quality": entry.quality.rule}
    scenes = source.plan(None)
    for scene in dict.fromkeys((scenes[0].id, scenes[-1].id)):
        opened = source.header(next(s for s in scenes if s.id == scene))
        for name, band in opened.bands.items():
            report[f"{opened.id} {name}"] = _values(source, band)
    return report | ({"notes": entry.notes} if entry.notes else {})


def _tiles_said(entry: SceneEntry) -> str:
    t = entry.tiles
    if t.scheme == "footprint":
        return f"footprint, chunks of {t.chunk}"
    return f"grid of {t.shape} pixels of {t.resolution:g} in {t.crs}, chunks of {t.chunk}"


def _remote(args: Any) -> bool:
    """Whether any argument of a driver is an address."""
    if isinstance(args, dict):
        return any(_remote(v) for v in args.values())
    if isinstance(args, list | tuple):
        return any(_remote(v) for v in args)
    return isinstance(args, str) and "://" in args


def _listed(source: SceneSource, what: str) -> dict[str, str]:
    """The scenes that there are, with the headers of the first and the last opened. Raises BadInput."""
    from eoflow.sources.base import AssetError, AssetMissing

    try:
        scenes = source.plan(None)
        if not scenes:
            raise BadInput("no scene is listed", where=what, todo="correct source.args, or the schedule")
        for scene in (scenes[0], scenes[-1]):
            try:
                source.header(scene)
            except AssetMissing:
                continue  # listed and not there (yet): what ingest notes and tries again
    except AssetError as e:
        raise BadInput(e.what, where=e.where or what, todo=e.todo) from e
    tiles = sorted({s.tile for s in scenes})
    some = ", ".join(tiles[:6]) + (f" and {len(tiles) - 6} more" if len(tiles) > 6 else "")
    return {
        "scenes": f"{len(scenes)}, {iso(scenes[0].time)} to {iso(scenes[-1].time)}",
        "on": f"{len(tiles)} {'tile' if len(tiles) == 1 else 'tiles'}: {some}",
    }


def _values(source: SceneSource, band: RasterBand) -> str:
    """Range and void share of a band's stored values, from at most 512 x 512 pixels, and what they mean."""
    from eoflow.sources.base import AssetError
    from eoflow.sources.raster import RasterReader

    assert band.grid is not None
    reader = RasterReader(source.readable)
    try:
        factor = max(1, int(np.ceil(max(band.grid.shape) / PIXELS)))
        values = reader.read(band, band.grid if factor == 1 else band.grid.coarser(factor))
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo) from e
    finally:
        reader.close()
    void = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if band.nodata is not None and not np.isnan(band.nodata):
        void |= values == band.nodata
    height, width = band.grid.shape
    size = f"{height} x {width} {band.dtype or values.dtype}"
    if void.all():
        return f"{size}, no value at all"
    held = values[~void]
    scale, offset = band.scale or 1.0, band.offset or 0.0
    low, high = float(held.min()) * scale + offset, float(held.max()) * scale + offset
    units = "" if band.units in (None, "1") else f" {band.units}"
    return f"{size}, {low:.5g} to {high:.5g}{units}, {void.mean():.1%} without a value"


__all__ = ["check_rasters", "check_scene_entry", "describe_cube", "scenes_row"]
