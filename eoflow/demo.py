"""`eoflow demo`: the embedded world end to end, through the same functions as real data.

A planet whose provider has real faults (a late day, a gap, a corrupt asset) is ingested in two increments, its gaps are
shown and backfilled, ten-day forecasts are made with the shipped network and verified against persistence,
climatology, EOF ridge regression and the planet's own ceiling. Then satellite scenes of the same planet: damaged and
missing ones, backfill, composite, export. Everything lies in the folder `demo` of the workspace.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from eoflow._callable import make_callable
from eoflow.demo_scenes import TILE, scenes_part
from eoflow.demo_tasks import tasks_part
from eoflow.errors import Failure
from eoflow.workspace import Workspace

DATASET = "sample-atmosphere"
FIRST, SECOND, REPAIRED = "2020-02-14", "2020-03-01", "2020-05-01"
"""What the clock says at the first and second ingest, and when the provider has repaired its faults."""
INITS, EVERY = "2020-01-05/2020-04-18", "2d"
Say = Callable[..., Any]


def demo(workspace: Workspace | str | None = None, *, say: Say | None = None) -> dict[str, Any]:
    """Run the demo and return what it found: coverage, scores, pictures, where everything lies.

    A former demo in the same workspace is replaced (its cache is kept). Raises Failure if the workspace is no folder.
    """
    import eoflow
    from eoflow.archive import Archive
    from eoflow.ingest.run import backfill, gaps, ingest
    from eoflow.predict import DEFAULT_MODEL
    from eoflow.verify.run import verify

    started = time.monotonic()
    outer = Workspace.of(workspace)
    tell = say or (lambda *_: None)
    if not outer.is_local:
        raise Failure("the demo needs a folder as its workspace", todo="eoflow --workspace ./eoflow-data demo")
    ws = Workspace(outer.path("demo"))
    for name in ws.names():
        if name != "cache":
            shutil.rmtree(ws.path(name)) if ws.path(name).is_dir() else ws.path(name).unlink()

    chapters = iter(range(1, 100))

    def chapter(title: str) -> None:
        tell(f"\n[bold]{next(chapters)}. {title}[/bold]  [dim]{time.monotonic() - started:.0f} s[/dim]")

    chapter(f"Ingest: it is {FIRST}; one asset is corrupt, some steps are absent, one day is late")
    tell("\n".join(ingest(DATASET, now=FIRST, workspace=ws).lines()[:-2]))
    chapter(f"Ingest again: it is {SECOND}; only what is new, and the late day has arrived")
    tell("\n".join(ingest(DATASET, now=SECOND, workspace=ws).lines()[:-2]))
    chapter("What is missing, and why")
    before = gaps(DATASET, workspace=ws, now=SECOND)
    tell("\n".join(before.lines()))
    tell(before.table())
    pictures = [_coverage(ws, before)]
    chapter(f"Backfill: it is {REPAIRED}, the provider has repaired its faults; then up to now")
    tell("\n".join(backfill(DATASET, now=REPAIRED, workspace=ws).lines()[:-2]))
    tell("\n".join(ingest(DATASET, now=REPAIRED, workspace=ws).lines()[:-2]))
    after = gaps(DATASET, workspace=ws, now=REPAIRED)
    tell("\n".join(after.lines()))
    chapter("Ten-day forecasts with the shipped network (trained on other years of the planet)")
    many = eoflow.forecast("10d", dataset=DATASET, model=DEFAULT_MODEL, init=INITS, every=EVERY, workspace=ws)
    latest = eoflow.forecast("10d", dataset=DATASET, model=DEFAULT_MODEL, workspace=ws)
    again = eoflow.forecast("10d", dataset=DATASET, model=DEFAULT_MODEL, workspace=ws)
    tell(f"{many.new} forecasts in {many.seconds:.1f} s, the latest from {latest.inits[-1]}; again: {again.new} new")
    chapter("Verify against persistence, climatology, EOF ridge and the planet's own ceiling")
    card = verify(DATASET, DEFAULT_MODEL, workspace=ws)
    from eoflow.view import tables

    label = "z500"
    for table in tables.scorecard_tables(card, variables=[label]):
        tell(table)
    statements = card.statements(DEFAULT_MODEL)
    tell("\n".join(statements))
    chapter("Pictures")
    pictures += _pictures(ws, Archive.load(ws, DATASET).open(), card, label)
    tell("\n".join(pictures))
    scenes = scenes_part(ws, tell, chapter)
    images = tasks_part(ws, tell, chapter)
    chapter("Yours to open")
    tell(latest.open_lines)
    tell(
        f"\nThe cube of all runs: eoflow.open('forecast', workspace='{ws.root}')\n"
        f"A tile of scenes: eoflow.open('{scenes['dataset']}', tile='{TILE}', workspace='{ws.root}')\n"
        "Notebooks: notebooks/forecasts.ipynb, notebooks/scenes.ipynb\n"
        f"One page of all of it: eoflow report --workspace {ws.root}"
    )
    seconds = time.monotonic() - started
    tell(f"[dim]{seconds:.0f} s in all[/dim]")
    return {
        "workspace": ws.root,
        "coverage_before": before.fraction,
        "coverage_after": after.fraction,
        "forecasts": many.new + latest.new,
        "latest": latest.latest,
        "open": latest.open_lines,
        "skilful_until_hours": {v: card.skilful_until(DEFAULT_MODEL, v) for v in card.variables},
        "statements": statements,
        "scores": ws.url("scores", DATASET, "scores.json"),
        "pictures": pictures,
        "scenes": scenes,
        "images": images,
        "seconds": round(seconds, 1),
    }


def _coverage(ws: Workspace, found: Any) -> str:
    from eoflow.ingest.ledger import Status
    from eoflow.view import maps

    figure = maps.coverage_figure(found.times, found.status, words=[s.word for s in Status], dataset=DATASET)
    return maps.save(figure, ws, "pictures", "coverage.png")


def _pictures(ws: Workspace, truth: Any, card: Any, label: str) -> list[str]:
    """Three pictures: a forecast beside its truth, skill by lead, waves in time and longitude."""
    from eoflow.predict import DEFAULT_MODEL
    from eoflow.products import ForecastCube
    from eoflow.view import maps

    cube = ForecastCube(ws, DATASET, DEFAULT_MODEL).open()
    init = cube["init_time"].values[len(cube["init_time"]) // 2].astype("datetime64[ns]")
    names: dict[str, Any] = {"init": np.datetime64(init), "dataset": DATASET, "model": DEFAULT_MODEL}
    return [
        maps.save(maps.forecast_figure(cube, truth, label, **names), ws, "pictures", "forecast.png"),
        maps.save(maps.skill_figure(card, variables=[label, "u500", "v500"]), ws, "pictures", "skill.png"),
        maps.save(maps.hovmoller_figure(cube, truth, label, **names), ws, "pictures", "waves.png"),
    ]


make_callable(__name__, "eoflow.demo:demo")
