"""What the report says of a scene dataset: tiles, bands, coverage, its newest scene and its last composite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.times import iso
from eoflow.view.page import Page, gap_table
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.bands import BandSpec
    from eoflow.ingest.gaps import Gaps

MAX_TILES = 16


def scene_parts(page: Page, workspace: Workspace, name: str) -> list[Callable[[], Any]]:
    """The parts of the section, each to be guarded by itself: one that fails hides no other."""
    parts = (_what, _coverage, _newest, _composite)
    return [partial(part, page, workspace, name) for part in parts]


def _what(page: Page, workspace: Workspace, name: str) -> None:
    from eoflow.cube import Cube

    cube = Cube.load(workspace, name)
    schema, attrs = cube.schema, cube.archive.attrs()
    tiles = cube.tiles()
    head = "; ".join(x for x in (str(attrs.get("title", "")), f"{schema.sensor} {schema.level}") if x)
    page.text(f"{head}; {len(tiles)} {'tile' if len(tiles) == 1 else 'tiles'}. Snapshot {cube.snapshot}.", soft=True)
    if tiles:
        page.code("\n".join(cube.open_lines(tiles[0])))
    page.heading("Bands")
    head_ = ("band", "common name", "units", "stored as", "physical", "nodata")
    page.table(head_, [_band_row(b) for b in schema.bands])


def _band_row(b: BandSpec) -> tuple[str, ...]:
    plain = (b.scale, b.offset) == (1.0, 0.0)
    physical = "as stored" if plain else f"stored x {b.scale:g} {'-' if b.offset < 0 else '+'} {abs(b.offset):g}"
    return b.name, b.common_name or "", b.units, b.dtype, physical, "" if b.nodata is None else f"{b.nodata:g}"


def _coverage(page: Page, workspace: Workspace, name: str) -> None:
    from eoflow.ingest.run import gaps
    from eoflow.ingest.scenes.gaps import SceneGaps
    from eoflow.view.scenes import scene_coverage_figure

    found = gaps(name, workspace=workspace)
    page.heading("Coverage")
    page.text(found.summary())
    if isinstance(found, SceneGaps) and found.expected:
        page.figure(scene_coverage_figure(found), f"coverage of {name}")
    _tiles(page, workspace, name, found)
    gap_table(page, found)


def _tiles(page: Page, workspace: Workspace, name: str, found: Gaps) -> None:
    from eoflow.cube import Cube
    from eoflow.ingest.ledger import Status

    cube = Cube.load(workspace, name)
    of = np.array(getattr(found, "tiles", ()))
    there = found.status == int(Status.PRESENT)
    rows = []
    for tile in (every := cube.tiles())[:MAX_TILES]:
        g, times = cube.grid(tile), cube.times(tile)
        mine = of == tile
        span = (iso(times[0]), iso(times[-1])) if times.size else ("", "")
        pixels = f"{g.shape[0]} x {g.shape[1]} of {g.resolution[0]:g}"
        rows.append(
            (tile, g.crs if len(g.crs) < 20 else "own CRS", pixels, f"{(mine & there).sum()} of {mine.sum()}", *span)
        )
    page.table(("tile", "CRS", "pixels", "scenes", "first", "last"), rows, numeric=(3,))
    if len(every) > MAX_TILES:
        page.text(f"and {len(every) - MAX_TILES} more tiles", soft=True)


def _newest(page: Page, workspace: Workspace, name: str) -> None:
    from eoflow.cube import Cube
    from eoflow.view.scenes import newest_scene, scene_figure

    cube = Cube.load(workspace, name)
    found = newest_scene(cube)
    if found is None:
        page.text("No scene is stored yet.", soft=True)
        return
    tile, time = found
    page.heading(f"Newest scene: {tile}, {iso(time)}")
    page.figure(scene_figure(cube, tile, iso(time)), f"the newest scene of {name}: colour and quality")


def _composite(page: Page, workspace: Workspace, name: str) -> None:
    from eoflow.export.product import find
    from eoflow.view.scenes import composite_figure

    if not any(n.endswith(".zarr") for n in workspace.names("products", "composite", name)):
        return
    product = find(f"composite:{name}", workspace)
    page.heading(f"Last composite: {product.id}")
    page.figure(composite_figure(product), f"the last composite of {name}")
    page.text(f"{len(product.pieces)} tiles. Write it as COG with its STAC item:", soft=True)
    page.code(f"eoflow export composite:{name}:{product.id.removeprefix(name + '-')} FILE.tif")
    page.heading("Where it came from")
    page.pairs({k.replace("_", " "): v for k, v in product.provenance.items()})
