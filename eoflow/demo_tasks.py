"""The models of images in `eoflow demo`: a flood on radar scenes told from permanent water, and clouds filled.

The sample land knows its truth, so each map is scored at once; the scores of a scorecard are `eoflow verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from eoflow.workspace import Workspace

RADAR, OPTICAL = "sample-radar", "sample-scenes"
FLOODED, PERIOD, NOW = "32N-0097-1012", "2020-02-01/2020-03-05", "2020-06-01"
"""A lowland whose river floods at the end of February 2020."""
FLOOD, EARLIER = "2020-02-28/2020-03-05", "2020-02-01/2020-02-24"
CLOUDY, CLOUDY_DAY = "32N-0131-1043", "2020-02-04/2020-02-04"
Say = Callable[..., Any]


def tasks_part(ws: Workspace, tell: Say, chapter: Callable[[str], None]) -> dict[str, Any]:
    """Run it in a workspace that holds the demo's scenes; returns what the demo's report says of it."""
    chapter("A flood on radar scenes, told from the water that is always there")
    water = _flood(ws, tell)
    chapter("A cloudy scene, filled from the dates around it")
    filled = _clouds(ws, tell)
    return {"flood": water, "clouds": filled}


def _box(ws: Workspace, dataset: str, tile: str) -> tuple[float, ...]:
    """W, S, E, N of the middle of a tile: no other tile is touched."""
    from eoflow.cube import Cube

    west, south, east, north = Cube.load(ws, dataset).grid(tile).geobox.geographic_extent.boundingbox
    x, y = (east - west) / 8, (north - south) / 8
    return west + x, south + y, east - x, north - y


def _flood(ws: Workspace, tell: Say) -> dict[str, Any]:
    import eoflow
    from eoflow import catalog
    from eoflow.ingest.run import ingest
    from eoflow.products import open_product
    from eoflow.sources.sample_scenes import world_of
    from eoflow.view import maps
    from eoflow.view.image_maps import flood_figure

    tell("\n".join(ingest(RADAR, period=PERIOD, now=NOW, workspace=ws).lines()[:-2]))
    made = eoflow.flood(RADAR, area=_box(ws, RADAR, FLOODED), period=FLOOD, before=EARLIER, workspace=ws)
    for line in made.messages:
        tell(line)
    product = open_product("flood", dataset=RADAR, tile=FLOODED, workspace=ws)
    world = world_of(catalog.entry(RADAR))  # type: ignore[arg-type]
    scores = []
    for row in made.areas:
        tell(f"  {row['time']}: " + ", ".join(f"{k} {v:.2f} km2" for k, v in row.items() if isinstance(v, float)))
    for time in product["time"].values:
        scores.append(_iou(ws, product.sel(time=time), world.truth(FLOODED, time)))
        tell(f"  {str(time)[:16]}: water of the map and of the truth overlap by {scores[-1]:.2f} (IoU)")
    picture = maps.save(flood_figure(product, title=f"{RADAR} {FLOODED}"), ws, "pictures", "flood.png")
    tell(made.open_lines)
    tell(picture)
    return {"path": made.path, "open": made.open_lines, "model": made.model, "areas": made.areas, "iou": scores,
            "pictures": [picture]}  # fmt: skip


def _iou(ws: Workspace, made: Any, truth: dict[str, Any]) -> float:
    """Of all water, where the map says anything."""
    from eoflow.cube import Cube

    grid = Cube.load(ws, RADAR).grid(FLOODED)
    column, row = ~grid.geobox.affine * (float(made["x"][0]), float(made["y"][0]))
    rows = slice(int(row), int(row) + made.sizes["y"])
    columns = slice(int(column), int(column) + made.sizes["x"])
    there = (truth["flood"] | truth["permanent_water"])[rows, columns]
    given = made["class"].values
    known = given != 255
    water = np.isin(given, (1, 2))
    return float((water & there & known).sum() / max(1, ((water | there) & known).sum()))


def _clouds(ws: Workspace, tell: Say) -> dict[str, Any]:
    import eoflow

    made = eoflow.clouds(OPTICAL, area=_box(ws, OPTICAL, CLOUDY), period=CLOUDY_DAY, workspace=ws)
    for line in made.messages:
        tell(line)
    tell(f"{made.model}: {len(made.tiles)} image(s)\n{made.open_lines}" if made.path else "no cloudy date")
    return {"path": made.path, "open": made.open_lines, "model": made.model, "tiles": made.tiles}
