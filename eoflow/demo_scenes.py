"""The satellite part of `eoflow demo`: two weeks of scenes over the sample land, with the faults of a real provider.

One scene is damaged and one is missing; both are backfilled later. Then a pixel is explained, a clear composite is made
and exported as COG with its STAC item. Everything through the functions that real scenes take.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from eoflow.workspace import Workspace

DATASET = "sample-scenes"
PERIOD, NOW, REPAIRED = "2020-01-30/2020-02-15", "2020-02-20", "2020-05-01"
"""What is looked at, and what the clock says at the ingest and when the provider has repaired its faults."""
TILE, DAMAGED = "32N-0131-1043", "2020-02-04"
"""A suburb, and the day whose scene of it is damaged."""
Say = Callable[..., Any]


def scenes_part(ws: Workspace, tell: Say, chapter: Callable[[str], None]) -> dict[str, Any]:
    """Run it in a workspace; returns what the demo's report says of scenes."""
    from eoflow.ingest.run import backfill, gaps, ingest

    chapter(f"Satellite scenes: two weeks of six tiles as of {NOW}; one scene is damaged, one has no files")
    tell("\n".join(ingest(DATASET, period=PERIOD, now=NOW, workspace=ws).lines()[:-2]))
    before = gaps(DATASET, workspace=ws, now=NOW)
    tell("\n".join(before.lines()))
    pictures = [_coverage(ws, before)]
    chapter(f"Backfill: it is {REPAIRED}, the provider has repaired its faults")
    tell("\n".join(backfill(DATASET, period=PERIOD, now=REPAIRED, workspace=ws).lines()[:-2]))
    after = gaps(DATASET, workspace=ws, now=REPAIRED)
    tell("\n".join(after.lines()))
    chapter("Why is a pixel what it is? The scene that was damaged, at the centre of its tile")
    pixel = _why(ws)
    tell("\n".join(pixel.lines()))
    chapter("A composite of the clear pixels, as COG with its STAC item")
    made, written = _composite(ws, tell)
    pictures += _pictures(ws)
    tell("\n".join(pictures))
    tell(f"next: eoflow composite {DATASET} --period {PERIOD} --method medoid --workspace {ws.root}")
    tell(f"      eoflow splits check {DATASET} --workspace {ws.root}")
    return {
        "dataset": DATASET,
        "coverage_before": before.fraction,
        "coverage_after": after.fraction,
        "gaps": [g.to_dict() for g in before.ranges],
        "why": pixel.to_dict(),
        "unobserved": made.unobserved,
        "composite": made.path,
        "open": made.open_lines,
        "files": written.files,
        "items": written.items,
        "pictures": pictures,
    }


def _why(ws: Workspace) -> Any:
    from eoflow.cube import Cube
    from eoflow.why import why

    lon, lat = Cube.load(ws, DATASET).grid(TILE).geobox.geographic_extent.centroid.coords[0]
    return why(DATASET, lon, lat, DAMAGED, workspace=ws)


def _composite(ws: Workspace, tell: Say) -> tuple[Any, Any]:
    """The composite of one tile, and its export."""
    import eoflow
    from eoflow.cube import Cube

    box = Cube.load(ws, DATASET).grid(TILE).geobox.geographic_extent.boundingbox
    made = eoflow.composite(DATASET, PERIOD, area=(box.left, box.bottom, box.right, box.top), workspace=ws)
    tell(f"{made.method} of {PERIOD}: {made.unobserved:.1%} of the pixels without a clear observation")
    tell(made.open_lines)
    stac = importlib.util.find_spec("pystac") is not None  # an extra; the image is written without it too
    written = eoflow.export(
        f"composite:{DATASET}:{made.id}", ws.path("exports", "composite.tif"), workspace=ws, stac=stac, overwrite=True
    )
    tell("\n".join([*written.files, *written.items]))
    return made, written


def _coverage(ws: Workspace, found: Any) -> str:
    from eoflow.view import maps
    from eoflow.view.scenes import scene_coverage_figure

    return maps.save(scene_coverage_figure(found), ws, "pictures", "scenes.png")


def _pictures(ws: Workspace) -> list[str]:
    """The repaired scene with its quality, and the composite."""
    from eoflow.cube import Cube
    from eoflow.export.product import find
    from eoflow.view import maps
    from eoflow.view.scenes import composite_figure, scene_figure

    cube = Cube.load(ws, DATASET)
    return [
        maps.save(scene_figure(cube, TILE, DAMAGED), ws, "pictures", "scene.png"),
        maps.save(composite_figure(find(f"composite:{DATASET}", ws)), ws, "pictures", "composite.png"),
    ]
