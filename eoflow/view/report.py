"""One HTML page of a workspace: archives and their gaps, last forecasts, scorecards, scenes, composites, provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import EoflowError
from eoflow.holdings import kind_of
from eoflow.times import iso
from eoflow.view.page import Page, gap_table
from eoflow.view.report_scenes import scene_parts
from eoflow.view.tables import lead_label, number, shown_leads
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.products import ForecastCube
    from eoflow.verify.results import Scorecard

MAX_VARIABLES = 6
NAME = "report.html"


def write_report(workspace: Workspace, now: Any = None) -> str:
    """Write `report.html` into the workspace; returns where. What cannot be read is said on the page."""
    workspace.write_text(build(workspace, now), NAME)
    return workspace.url(NAME)


def build(workspace: Workspace, now: Any = None) -> str:
    """The page as a string: one section a dataset."""
    clock = np.datetime64("now", "s") if now is None else np.datetime64(now, "s")
    page = Page("eoflow report", f"workspace {workspace.root}, {iso(clock).replace('T', ' ')} UTC")
    names = workspace.names("archives")
    if not names:
        page.section("Nothing yet")
        page.text("There is no archive. `eoflow demo` fills one; `eoflow ingest FILE --as NAME` adds yours.")
    for name in names:
        page.section(name)
        if kind_of(workspace, name) == "scenes":
            for part in scene_parts(page, workspace, name):
                _guard(page, part)
            continue
        _guard(page, partial(_archive, page, workspace, name, clock))
        found: list[ForecastCube] = []
        _guard(page, partial(_collect, found, workspace, name))
        _guard(page, partial(_forecast, page, workspace, name, found))
        if workspace.exists("scores", name, "scores.json"):
            _guard(page, partial(_scores, page, workspace, name))
    return page.html()


def _guard(page: Page, part: Callable[[], Any]) -> None:
    """One damaged store must not hide the others."""
    try:
        part()
    except EoflowError as e:
        page.text(e.text(), error=True)
    except Exception as e:  # of a library, on a store that is damaged in a way nobody thought of
        page.text(f"this part cannot be shown: {type(e).__name__}: {e}", error=True)


def _collect(found: list[ForecastCube], workspace: Workspace, name: str) -> None:
    from eoflow.products import cubes

    found.extend(cubes(workspace, name))


def _archive(page: Page, workspace: Workspace, name: str, now: np.datetime64) -> None:
    from eoflow.archive import Archive
    from eoflow.ingest.ledger import Status
    from eoflow.ingest.run import gaps
    from eoflow.view.maps import coverage_figure

    archive = Archive.load(workspace, name)
    schema, times = archive.schema, archive.times
    title = archive.attrs().get("title", "")
    page.text(f"{title + '; ' if title else ''}{schema.grid.describe()}; every {schema.step}", soft=True)
    if times.size:
        fields = ", ".join(c.label for c in schema.channels)
        page.text(f"{iso(times[0])} to {iso(times[-1])}: {fields}. Snapshot {archive.snapshot}.", soft=True)
    found = gaps(name, workspace=workspace, now=now)
    page.heading("Coverage")
    page.text(found.summary())
    if found.expected:
        words = [s.word for s in Status]
        page.figure(coverage_figure(found.times, found.status, words=words, dataset=name), f"coverage of {name}")
    gap_table(page, found)


def _forecast(page: Page, workspace: Workspace, name: str, found: Sequence[ForecastCube]) -> None:
    from eoflow.archive import Archive
    from eoflow.verify.scorecard import NOT_MAIN
    from eoflow.view.maps import forecast_figure, main_label

    if not found:
        return
    cube = next((c for c in found if c.model not in NOT_MAIN), found[0])
    run = cube.open()
    label = main_label(run)
    page.heading(f"Last forecast: {cube.model}, {label}")
    truth = Archive.load(workspace, name).open(chunks=None)
    figure = forecast_figure(run, truth, label, dataset=name, model=cube.model)
    page.figure(figure, f"maps of the last {cube.model} forecast of {label}")
    page.text(f"{run.sizes['init_time']} runs in the cube. Open it:", soft=True)
    page.code(cube.opening_lines())
    if "provenance" in run:
        record = json.loads(str(run["provenance"].isel(init_time=-1).values))
        page.heading("Where the last run came from")
        page.pairs({k.replace("_", " "): v for k, v in record.items()})


def _scores(page: Page, workspace: Workspace, name: str) -> None:
    from eoflow.verify.results import Scorecard
    from eoflow.view.curves import skill_figure

    card = Scorecard.from_json(workspace.read_text("scores", name, "scores.json"))
    main = card.header.get("main_model", card.models[0])
    page.heading(f"Scores: {main} against the baselines")
    page.lines(card.statements(main))
    page.figure(skill_figure(card), "scores by lead time")
    for variable in card.variables[:MAX_VARIABLES]:
        _score_table(page, card, variable)
    h = card.header
    words = ("rmse", "weights", "grid", "climatology", "period", "interval", "code_version")
    page.text(" ".join(f"{w.replace('_', ' ').capitalize()}: {h.get(w)}." for w in words), soft=True)
    page.lines(h.get("notes", []))


def _score_table(page: Page, card: Scorecard, variable: str) -> None:
    units = card.header.get("units", {}).get(variable, "")
    leads = shown_leads(card.leads)
    rows = []
    best = {}
    for lead in leads:
        values = [r.value for m in card.models if m != "ceiling" and (r := card.get(m, variable, lead, "rmse"))]
        best[lead] = min(values, default=None)
    for m in card.models:
        cells: list[Any] = [m]
        for lead in leads:
            r = card.get(m, variable, lead, "rmse")
            if r is None:
                cells.append("-")
                continue
            interval = "" if r.low is None else f"{number(r.low)} to {number(r.high)}"
            activity = card.get(m, variable, lead, "activity_ratio")
            small = "; ".join(x for x in (interval, f"a {activity.value:.2f}" if activity else "") if x)
            cells.append((number(r.value), small, m != "ceiling" and r.value == best[lead]))
        if any(c != "-" for c in cells[1:]):
            rows.append(cells)
    page.heading(f"{variable}: RMSE{f' ({units})' if units else ''}, 95 % interval, activity ratio a")
    page.table(["model", *map(lead_label, leads)], rows, numeric=range(1, len(leads) + 1))
