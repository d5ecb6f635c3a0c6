"""One self-contained HTML page of a workspace: archives and their gaps, last forecasts, scorecards, provenance.

Figures are inside the page; it needs no network and runs no script. All text is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__
from eoflow.errors import EoflowError
from eoflow.times import iso
from eoflow.view.tables import lead_label, number, shown_leads
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eoflow.products import ForecastCube
    from eoflow.verify.results import Scorecard

MAX_GAPS = 20
MAX_VARIABLES = 6
NAME = "report.html"

_CSS = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5c6675; --line: #dfe3e8; --blue: #0072B2; --back: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
h1 { font-size: 28px; margin: 0; } h2 { font-size: 21px; margin: 0 0 4px; } h3 { font-size: 16px; margin: 22px 0 6px; }
header p, .soft, footer { color: var(--soft); margin: 2px 0 0; } footer { padding: 24px; font-size: 13px; }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px; margin: 22px 0; }
nav a { margin-right: 14px; } a { color: var(--blue); }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin: 6px 0; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: var(--soft); display: block; } td.best b { color: #00734f; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--back); padding: 10px 12px; overflow-x: auto; }
.error { color: #a33c00; } ul { margin: 6px 0; padding-left: 20px; }
"""


@dataclass
class Page:
    """A page that is being put together from sections. `add_*` escape what they are given."""

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)
    _anchors: list[tuple[str, str]] = field(default_factory=list)

    def section(self, title: str, note: str = "") -> None:
        """Start a section."""
        anchor = f"s{len(self._anchors)}"
        if self._anchors:
            self._parts.append("</section>")
        self._anchors.append((anchor, title))
        self._parts.append(f'<section id="{anchor}"><h2>{escape(title)}</h2>')
        if note:
            self.text(note, soft=True)

    def heading(self, text: str) -> None:
        """A heading inside a section."""
        self._parts.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, *, soft: bool = False, error: bool = False) -> None:
        """A paragraph."""
        kind = ' class="error"' if error else ' class="soft"' if soft else ""
        self._parts.append(f"<p{kind}>{escape(text)}</p>")

    def lines(self, items: Sequence[str]) -> None:
        """A list."""
        if items:
            self._parts.append("<ul>" + "".join(f"<li>{escape(x)}</li>" for x in items) + "</ul>")

    def code(self, text: str) -> None:
        """Preformatted text."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = ()) -> None:
        """A table. A cell is text, or (text, small text, best)."""
        out = ['<div class="wide"><table><tr>']
        out += [f"<th{_n(i, numeric)}>{escape(h)}</th>" for i, h in enumerate(head)]
        out.append("</tr>")
        for row in rows:
            out.append("<tr>" + "".join(_html_cell(c, i in numeric) for i, c in enumerate(row)) + "</tr>")
        self._parts.append("".join(out) + "</table></div>")

    def pairs(self, values: Mapping[str, Any]) -> None:
        """A table of names and values."""
        self.table(("", ""), [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items()])

    def figure(self, figure: Figure, alternative: str) -> None:
        """A figure as an embedded PNG."""
        from eoflow.view.style import png

        data = base64.b64encode(png(figure)).decode("ascii")
        self._parts.append(f'<img alt="{escape(alternative, quote=True)}" src="data:image/png;base64,{data}">')

    def html(self) -> str:
        """The whole document."""
        links = "".join(f'<a href="#{a}">{escape(t)}</a>' for a, t in self._anchors)
        body = "\n".join(self._parts) + ("</section>" if self._anchors else "")
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
            f"'unsafe-inline'\"><style>{_CSS}</style></head><body><header><h1>{escape(self.title)}</h1>"
            f"<p>{escape(self.subtitle)}</p><nav>{links}</nav></header><main>\n{body}\n</main>"
            f"<footer>eoflow {escape(__version__)}</footer></body></html>\n"
        )


def _n(index: int, numeric: Sequence[int]) -> str:
    return ' class="n"' if index in numeric else ""


def _html_cell(cell: Any, numeric: bool) -> str:
    if isinstance(cell, tuple):
        text, small, best = cell
        classes = " ".join(c for c, on in (("n", numeric), ("best", best)) if on)
        inner = f"<b>{escape(text)}</b>" if best else escape(text)
        return f'<td class="{classes}">{inner}<small>{escape(small)}</small></td>'
    return f"<td{' class=' + chr(34) + 'n' + chr(34) if numeric else ''}>{escape(str(cell))}</td>"


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
    if found.ranges:
        rows = [(iso(g.start), iso(g.end), g.count, g.status.word, g.reason) for g in found.ranges[:MAX_GAPS]]
        page.table(("from", "to", "times", "state", "reason"), rows, numeric=(2,))
        if len(found.ranges) > MAX_GAPS:
            page.text(f"and {len(found.ranges) - MAX_GAPS} more gaps: eoflow gaps {name}", soft=True)


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
