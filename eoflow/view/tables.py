"""Tables for the terminal: scorecards, datasets, models, or any list of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from eoflow.verify.results import Scorecard

DAYS = (1, 2, 3, 5, 7, 10)
MAX_COLUMNS = 7


def rows_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Any list of equal mappings: one column a key, in the order of the first row."""
    table = Table(title=escape(title) or None, title_justify="left")
    if not rows:
        table.add_column("nothing yet")
        return table
    keys = list(dict.fromkeys(k for row in rows for k in row))
    for key in keys:
        numeric = all(isinstance(r.get(key), int | float) and not isinstance(r.get(key), bool) for r in rows)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(k)) for k in keys))
    return table


def model_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Rows of `listing.model_rows`, a table a task: name, title, what it was trained on."""
    made = []
    for task in dict.fromkeys(str(r["task"]) for r in rows):
        table = Table(title=escape(task) or "registered, without a recipe", title_justify="left", title_style="bold")
        table.add_column("model", no_wrap=True)
        table.add_column("")
        table.add_column("trained on", overflow="fold")
        for row in rows:
            if str(row["task"]) == task:
                table.add_row(str(row["name"]), _cell(row["title"]), _cell(row["trained_on"]))
        made.append(table)
    return made


def _cell(value: Any) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return Text(", ".join(map(str, value)))
    return Text(str(value))


def datasets_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Catalog entries: name, kind, title, driver, cadence or revisit, licence, and whether they are ingested."""
    table = Table(title="datasets", title_justify="left")
    columns = ("name", "kind", "title", "driver", "cadence", "licence")
    least = {"title": 18, "": 8 if any(r.get("ingested") for r in rows) else None}
    for name in (*columns, ""):
        style = {"name": "bold", "licence": "dim"}.get(name, "")
        table.add_column(name, style=style, overflow="fold", min_width=least.get(name))
    for r in rows:
        words = [str(r.get(k) or "") for k in columns]
        table.add_row(*map(escape, words), "ingested" if r.get("ingested") else "")
    return table


def shown_leads(leads: Iterable[float]) -> list[float]:
    """At most seven of the leads (h): whole days where there are any, always the first and the last."""
    every = sorted(set(leads))
    if len(every) <= MAX_COLUMNS:
        return every
    chosen = [h for h in every if h / 24 in DAYS]
    if not chosen:
        last = len(every) - 1
        chosen = [every[round(i * last / (MAX_COLUMNS - 1))] for i in range(MAX_COLUMNS)]
    if every[-1] > chosen[-1]:
        chosen = [*chosen[: MAX_COLUMNS - 1], every[-1]]
    return [every[0], *chosen] if every[0] < chosen[0] and len(chosen) < MAX_COLUMNS else chosen


def lead_label(hours: float) -> str:
    """`6 h`, `day 3`."""
    return f"day {hours / 24:g}" if hours >= 24 else f"{hours:g} h"


def number(value: float | None) -> str:
    """Three significant digits without an exponent where that is readable."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if size >= 1e-4 or value == 0 else f"{value:.1e}"


def scores_table(rows: Sequence[Mapping[str, Any]], title: str, channels: int | None = None) -> Table:
    """Score rows (one metric) as models x leads, one block a variable; `channels`: at most so many variables."""
    variables = list(dict.fromkeys(r["variable"] for r in rows))
    shown = variables if channels is None else variables[:channels]
    leads = shown_leads(r["lead_hours"] for r in rows)
    table = Table(title=escape(title), title_justify="left")
    table.add_column("variable", style="bold")
    table.add_column("model")
    for lead in leads:
        table.add_column(lead_label(lead), justify="right", overflow="fold")
    at = {(r["variable"], r["model"], r["lead_hours"]): r["value"] for r in rows}
    for v in shown:
        models = list(dict.fromkeys(r["model"] for r in rows if r["variable"] == v))
        best = {h: min((at[v, m, h] for m in models if (v, m, h) in at), default=None) for h in leads}
        for i, m in enumerate(models):
            cells = []
            for h in leads:
                value = at.get((v, m, h))
                cells.append(Text(number(value), style="bold green" if value is not None and value == best[h] else ""))
            table.add_row(escape(v) if i == 0 else "", escape(m), *cells, end_section=i == len(models) - 1)
    if len(shown) < len(variables):
        table.caption = f"and {len(variables) - len(shown)} more variables"
    return table


def scorecard_tables(
    card: Scorecard, metric: str = "rmse", variables: Sequence[str] | None = None, leads: Sequence[float] | None = None
) -> list[Table]:
    """One table a variable: models x leads, each score with its 95 % interval, activity beside it.

    Green with * marks the best model of a lead; `~` those that cannot be told from it (their own interval reaches
    the best score). `a` is the activity ratio: 1 is as lively as the truth.
    """
    card.require("metric", metric)
    columns = shown_leads(leads if leads is not None else card.leads)
    tables = [_variable_table(card, metric, v, columns) for v in (variables or card.variables)]
    if tables:
        tables[-1].caption = _caption(card, metric)
        tables[-1].caption_justify = "left"
    return tables


def _variable_table(card: Scorecard, metric: str, variable: str, leads: Sequence[float]) -> Table:
    units = card.header.get("units", {}).get(variable, "")
    about = card.header.get("metrics", {}).get(metric, {})
    suffix = f" ({units})" if units and not about.get("unitless") else ""
    table = Table(title=escape(f"{variable}: {metric.upper()}{suffix}"), title_justify="left", show_lines=True)
    table.add_column("model", style="bold")
    for lead in leads:
        n = next((r.n for m in card.models if (r := card.get(m, variable, lead, metric))), 0)
        table.add_column(f"{lead_label(lead)}\n[dim]n {n}[/dim]", justify="right", overflow="fold")
    lower = about.get("better", "lower") != "higher"
    ranked = about.get("better", "lower") != "none"
    for m in card.models:
        cells = []
        for lead in leads:
            best = _best(card, metric, variable, lead, lower) if ranked else None
            cells.append(_score_cell(card, m, variable, lead, metric, best))
        if any(c.plain != "-" for c in cells):
            table.add_row(escape(m), *cells)
    return table


def _best(card: Scorecard, metric: str, variable: str, lead: float, lower: bool) -> float | None:
    """The best score of a lead, the ceiling (a forecast nobody can make) left out."""
    rows = [card.get(m, variable, lead, metric) for m in card.models if m != "ceiling"]
    values = [r.value for r in rows if r is not None]
    return (min(values) if lower else max(values)) if values else None


def _score_cell(card: Scorecard, model: str, variable: str, lead: float, metric: str, best: float | None) -> Text:
    row = card.get(model, variable, lead, metric)
    if row is None:
        return Text("-", style="dim")
    text = Text()
    if best is not None and model != "ceiling":
        if row.value == best:
            text.append("*", style="bold green")
        elif row.low is not None and row.high is not None and row.low <= best <= row.high:
            text.append("~", style="green")
    text.append(number(row.value), style="bold green" if row.value == best and model != "ceiling" else "")
    if row.low is not None and row.high is not None:
        text.append(f"\n{number(row.low)} to {number(row.high)}", style="dim")
    activity = card.get(model, variable, lead, "activity_ratio")
    if activity is not None and metric != "activity_ratio":
        text.append(f"\na {activity.value:.2f}", style="cyan")
    return text


def _caption(card: Scorecard, metric: str) -> str:
    h = card.header
    lines = [f"{h.get('dataset', '')}: grid {h.get('grid', '?')}; weights: {h.get('weights', '?')}"]
    if metric == "rmse" and h.get("rmse"):
        lines.append(f"RMSE: {h['rmse']}")
    lines.append(f"initial times {h.get('period', '?')}; climatology: {h.get('climatology') or 'none'}")
    lines.append("* best, ~ not to be told from it; below: 95 % interval; a: activity over that of the truth")
    lines += [f"note: {n}" for n in h.get("notes", [])]
    return escape("\n".join(lines))
