"""`eoflow composite`: one image of a period per tile, from the usable observations of a cube, with what explains it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import eoflow
from eoflow.bands import BandSpec
from eoflow.composite.blocks import Work, cluster, local
from eoflow.composite.methods import method_of
from eoflow.composite.store import build, finish, found_at, publish, unfinished
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.workers import client
from eoflow.quality import USABLE, Quality
from eoflow.tiling import Box, Grid
from eoflow.times import Period, iso
from eoflow.workspace import Workspace

Progress = Callable[[float, float, str], None]
FORMAT = 1
"""Part of the id: a change of what the numbers mean makes new composites."""


@dataclass
class CompositeReport:
    """What was made and where it lies. unobserved: by tile, the share of pixels without a clear observation."""

    dataset: str
    id: str
    method: str
    period: str
    path: str
    made: bool
    tiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    open_lines: str = ""

    @property
    def unobserved(self) -> float:
        """Share of all pixels without a clear observation."""
        pixels = sum(t["pixels"] for t in self.tiles.values())
        return sum(t["unobserved"] * t["pixels"] for t in self.tiles.values()) / max(1, pixels)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the tiles as rows."""
        rows = [{"tile": tile, **stats} for tile, stats in self.tiles.items()]
        return {**self.__dict__, "unobserved": self.unobserved, "tiles": rows}


@dataclass(frozen=True)
class Part:
    """What a composite takes of one tile: the grid of its output, where that lies, and the steps of the period."""

    tile: str
    grid: Grid
    rows: slice
    columns: slice
    steps: slice
    times: tuple[np.datetime64, ...]
    items: tuple[str, ...]


def composite(
    dataset: str, period: str | Period, method: str = "median", *, area: Box | None = None,
    bands: Sequence[str] | None = None, classes: Sequence[Quality] = USABLE, out: str | Path | None = None,
    workspace: Workspace | str | None = None, as_of: str | None = None, command: str = "",
    progress: Progress | None = None,
) -> CompositeReport:  # fmt: skip
    """One image of `period` for every tile of a scene dataset, from its usable pixels only.

    method: median, mean (of each band), medoid (the most central observation, Flood 2013), last-clear (the newest).
    area: W, S, E, N in degrees (west > east across the antimeridian); tiles are cut to it. bands: by name or common
    name. classes: of the quality layer, those that count as usable. An observation also needs a value in every band.

    The product is a plain Zarr, products/composite/DATASET/ID.zarr (or `out`), one group a tile: the bands as stored
    (dtype, scale, offset, nodata of the cube), `count` of clear observations, `age` in days of the chosen one (median
    and mean: the newest clear one) at the end of the period, `source`: position in `source_time` and `source_items` of
    the chosen one (median, mean: the one nearest to it). It is written beside and renamed; the same call on the same
    scenes changes nothing. Raises BadInput for an unknown name, a period without scenes, an area without tiles.
    """
    started = time.monotonic()
    method_of(method)
    span = Period.parse(period)
    ws = Workspace.of(workspace)
    cube = Cube.load(ws, dataset)
    snapshot = cube.archive.resolve(as_of)
    chosen = _bands(cube, bands)
    wanted = tuple(sorted({Quality(int(c)) for c in classes}))
    parts = _parts(cube, snapshot, span, area)
    identity = _identity(cube, span, method, chosen, wanted, parts)
    name = f"{method}-{_day(span.start)}-{_day(span.end)}-{identity[:8]}"
    where = ("products", "composite", dataset, f"{name}.zarr")
    dest = ws.url(*where) if out is None else str(Path(out).absolute())
    report = CompositeReport(dataset, name, method, str(span), dest, made=False)
    report.open_lines = _open_lines(dest, parts[0].tile)
    with ws.lock(f"composite-{dataset}-{identity[:8]}"):
        stats = found_at(ws, where, out, identity)
        if stats is None:
            provenance = {
                "dataset": dataset, "archive_snapshot": snapshot, "schema_hash": cube.schema.hash, "method": method,
                "period": str(span), "sensor": cube.schema.sensor, "level": "L3", "source_level": cube.schema.level,
                "bands": ", ".join(b.name for b in chosen), "classes": ", ".join(q.name.lower() for q in wanted),
                "area": "" if area is None else ", ".join(f"{v:g}" for v in area), "code_version": eoflow.__version__,
                "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "identity": identity,
                "command": command or f"eoflow composite {dataset} --period {span} --method {method}",
            }  # fmt: skip
            stats = _make(cube, snapshot, parts, chosen, wanted, method, span, provenance, ws, where, out, progress)
            report.made = True
    report.tiles = stats
    report.seconds = time.monotonic() - started
    return report


def last_days(dataset: str, days: int, workspace: Workspace | str | None = None) -> str:
    """START/END: the last `days` days up to the newest scene that the cube holds. Raises BadInput where it has none."""
    cube = Cube.load(Workspace.of(workspace), dataset)
    times = [cube.times(tile) for tile in cube.tiles()]
    newest = max((t[-1] for t in times if t.size), default=None)
    if newest is None:
        raise BadInput(f"'{dataset}' holds no scene yet", todo=f"eoflow ingest {dataset}")
    if days < 1:
        raise BadInput(f"the last {days} days", todo="give 1 or more")
    end = newest.astype("datetime64[D]")
    return f"{end - np.timedelta64(days - 1, 'D')}/{end}"


def _make(
    cube: Cube, snapshot: str, parts: list[Part], bands: list[BandSpec], classes: tuple[Quality, ...], method: str,
    span: Period, provenance: dict[str, str], ws: Workspace, where: tuple[str, ...], out: str | Path | None,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Build beside, fill block by block, publish."""
    with unfinished(ws, where, out) as folder:
        works = []
        for part in parts:
            chunk = cube.chunk(part.tile, snapshot)
            build(folder, part.tile, part.grid, chunk, bands, part.times, part.items, span, provenance)
            works.append(
                Work(
                    folder=str(folder), tile=part.tile, rows=part.rows, columns=part.columns, steps=part.steps,
                    chunk=(min(chunk[0], part.grid.shape[0]), min(chunk[1], part.grid.shape[1])),
                    times=part.times, end=span.end, bands=tuple(b.name for b in bands),
                    fills=tuple(b.fill.item() for b in bands), scales=tuple(b.scale for b in bands),
                    nodata=tuple(b.nodata is not None for b in bands), classes=classes, method=method,
                )
            )  # fmt: skip
        dask = client() if ws.is_local else None
        if dask is None:
            empty = local(cube, snapshot, works, progress)
        else:
            empty = cluster(ws.root, cube.name, snapshot, works, dask, progress)
        stats = {}
        for part in parts:
            pixels = part.grid.shape[0] * part.grid.shape[1]
            stats[part.tile] = {
                "unobserved": empty[part.tile] / pixels, "pixels": pixels, "scenes": len(part.times)
            }  # fmt: skip
        finish(folder, stats, provenance)
        publish(folder, ws, where, out)
    return stats


def _bands(cube: Cube, names: Sequence[str] | None) -> list[BandSpec]:
    schema = cube.schema
    chosen = list(schema.bands) if names is None else [schema.band(n) for n in names]
    if not chosen or len({b.name for b in chosen}) != len(chosen):
        raise BadInput(f"bands {', '.join(b.name for b in chosen) or 'none'}", todo="name each band once")
    taken = {"count", "age", "source"} & {b.name for b in chosen}
    if taken:
        raise BadInput(f"a band is called {', '.join(taken)}, as a layer of composites is", todo="leave it out")
    return chosen


def _parts(cube: Cube, snapshot: str, span: Period, area: Box | None) -> list[Part]:
    """The tiles that the area touches and that have scenes in the period."""
    tiles = cube.tiles(snapshot)
    out, touched, near = [], 0, []
    for tile in tiles:
        grid = cube.grid(tile, snapshot)
        window = cut(grid, area)
        if window is None:
            continue
        touched += 1
        times = cube.times(tile, snapshot)
        near.append(times)
        inside = np.flatnonzero(span.contains(times))
        if not inside.size:
            continue
        steps = slice(int(inside[0]), int(inside[-1]) + 1)
        stored: Any = cube.group(tile, snapshot)["items"]
        items = tuple(str(text) or "[]" for text in stored[steps])
        out.append(Part(tile, grid.window(*window), *window, steps, tuple(times[steps]), items))
    if not touched:
        known = ", ".join(tiles[:8]) or "none"
        raise BadInput(f"no tile of '{cube.name}' lies in the area", todo=f"its tiles: {known}")
    if not out:
        every = np.concatenate(near)
        held = f"its scenes are of {iso(every.min())} to {iso(every.max())}" if every.size else "it holds no scene yet"
        raise BadInput(f"no scene of '{cube.name}' in {span}", todo=held)
    return out


def cut(grid: Grid, area: Box | None) -> tuple[slice, slice] | None:
    """Rows and columns of a grid that a box in degrees (W, S, E, N) touches; None: none of them."""
    height, width = grid.shape
    if area is None:
        return slice(0, height), slice(0, width)
    west, south, east, north = area
    if not (-90 <= south < north <= 90 and -360 <= west <= 360 and -360 <= east <= 360):
        raise BadInput(f"the area {area} is no box of degrees", todo="write W,S,E,N")
    from pyproj import Transformer

    east += 360 if east < west else 0
    lon, lat = np.meshgrid(np.linspace(west, east, 65), np.linspace(south, north, 65))
    x, y = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(lon.ravel(), lat.ravel())
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return None
    a, _, c, _, e, f = grid.transform
    column, row = (np.asarray(x)[good] - c) / a, (np.asarray(y)[good] - f) / e
    rows = slice(max(0, int(np.floor(row.min()))), min(height, int(np.ceil(row.max()))))
    columns = slice(max(0, int(np.floor(column.min()))), min(width, int(np.ceil(column.max()))))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _identity(
    cube: Cube, span: Period, method: str, bands: list[BandSpec], classes: tuple[Quality, ...], parts: list[Part]
) -> str:
    """Hash of all that the numbers come from; not the snapshot, which other tiles and dates change too."""
    keep = ("id", "version", "recipe", "digest")
    said = [FORMAT, cube.name, method, str(span), [b.model_dump(mode="json") for b in bands], [int(c) for c in classes]]
    for p in parts:
        items = [[{k: item.get(k) for k in keep} for item in json.loads(text)] for text in p.items]
        said.append([p.tile, repr(p.grid), [str(t) for t in p.times], items])
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def _day(when: np.datetime64) -> str:
    return str(when.astype("datetime64[D]")).replace("-", "")


def _open_lines(dest: str, tile: str) -> str:
    return f'import xarray as xr\nds = xr.open_zarr("{dest}", group="tiles/{tile}")'
