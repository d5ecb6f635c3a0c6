"""Scorecards of image models: a table for the terminal, sentences, and a figure of dots with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eoflow.checkpoint import SHIPPED
from eoflow.view.tables import number

if TYPE_CHECKING:
    from eoflow.verify.image_card import ImageScorecard
    from eoflow.workspace import Workspace


def table(card: ImageScorecard) -> Table:
    """Metrics x models, each score with its 95 % interval; the asked models first, then the trivial ones (dim).

    Green with * marks the best of a row; `~` those whose interval reaches it.
    """
    h = card.header
    out = Table(title=escape(f"{h['dataset']}: {h['task']}, {h['split']}"), title_justify="left", show_lines=True)
    out.add_column("", style="bold", overflow="fold")
    out.add_column("metric", overflow="fold")
    models = [*card.asked, *card.baselines]
    for m in models:
        style = "dim" if m in card.baselines else ""
        out.add_column(escape(m), justify="right", style=style, overflow="fold")  # a digit left out is a wrong number
    for variable, metric in dict.fromkeys((r.variable, r.metric) for r in _ranked(card)):
        cells = [_cell(card, m, variable, metric) for m in models]
        out.add_row(escape(variable), escape(metric), *cells)
    out.caption = escape("\n".join(_caption(card)))
    out.caption_justify = "left"
    return out


def _ranked(card: ImageScorecard) -> Sequence[Any]:
    """Rows, the leading metrics first."""
    first = card.leading()
    return sorted(card.rows, key=lambda r: first.index(r.metric) if r.metric in first else len(first))


def _best(card: ImageScorecard, variable: str, metric: str) -> float | None:
    values = [r.value for r in card.rows if (r.variable, r.metric) == (variable, metric)]
    how = card.better(metric)
    return None if how == "none" or not values else max(values) if how == "higher" else min(values)


def _cell(card: ImageScorecard, model: str, variable: str, metric: str) -> Text:
    row = card.get(model, variable, metric)
    if row is None:
        return Text("-", style="dim")
    best, text = _best(card, variable, metric), Text()
    if best is not None and row.value == best:
        text.append("*", style="bold green")
    elif best is not None and row.low is not None and row.high is not None and row.low <= best <= row.high:
        text.append("~", style="green")
    text.append(number(row.value))
    if row.low is not None and row.high is not None:
        text.append(f"\n{number(row.low)} to {number(row.high)}", style="dim")
    return text


def _caption(card: ImageScorecard) -> list[str]:
    h = card.header
    groups = f"{h['groups']} {h['group']}{'s' * (h['groups'] != 1)}"
    lines = [
        f"{h['samples']} samples of {groups}; bands {', '.join(h['bands'])}",
        f"{h['pooling']}; below: {h['interval']}", "* best, ~ its interval reaches the best",
    ]  # fmt: skip
    return lines + _weights(card) + [f"note: {n}" for n in h.get("notes", [])]


def _weights(card: ImageScorecard) -> list[str]:
    """Which weights stand behind a name: a workspace's own go before those that are shipped."""
    out = []
    for name in card.asked:
        about = card.header["models"].get(name, {})
        if about.get("trained_on"):
            tuned = f" (tuned, from {about['tuned_from']})" if about.get("tuned_from") else ""
            where = "shipped" if Path(about["location"]).is_relative_to(SHIPPED) else about["location"]
            out.append(f"{name}: {where}, trained on '{about['trained_on']}'{tuned}")
    return out


def show(console: Any, card: ImageScorecard, ws: Workspace, figure: Path | None) -> None:
    """Table, one sentence for each model and leading metric, the gate, and where the files are."""
    console.print(table(card))
    for model in card.asked:
        for line in card.statements(model):
            console.print(line, markup=False)
    if not card.asked:
        for metric in card.leading():
            for variable in card.variables:
                best = card.best_baseline(variable, metric)
                if best is not None:
                    text = f"{variable}, {metric}: {best.model} is the trivial model to beat, with {number(best.value)}"
                    console.print(text, markup=False)
    for model, about in card.header.get("probabilities", {}).items():
        if best := about.get("best_threshold"):
            used, note = about["threshold_used"], best["note"]
            text = f"{model}: threshold {used:g}; the best here would be {best['threshold']:.2f} (IoU {best['iou']:.3f}"
            console.print(f"{text}, {note})", markup=False)
    if gate := card.header.get("gate"):
        verdict = {True: "passed", False: "NOT passed", None: "cannot be told"}[gate["passed"]]
        console.print(f"gate of the recipe: {verdict}: {gate['why']}", markup=False)
    place = ws.url("products", "scorecards", card.header["dataset"], card.header["task"], "scores.json")
    console.print("\n".join([f"scores: {place}", *([f"figure: {figure}"] if figure else [])]), markup=False)


def figure_file(card: ImageScorecard, ws: Workspace) -> Path:
    """The figure beside scores.json: one panel a leading metric and variable, a dot a model, its interval as a bar."""
    import io

    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((r.variable, r.metric) for r in _ranked(card) if r.metric in card.leading()))
    panels = panels[:6] or [(r.variable, r.metric) for r in card.rows[:1]]
    models = [*card.asked, *card.baselines]
    fig = Figure(figsize=(3.2 * len(panels) + 1.6, 0.42 * len(models) + 1.4), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (variable, metric) in zip(axes, panels, strict=True):
        for y, model in enumerate(models):
            row = card.get(model, variable, metric)
            if row is None:
                continue
            colour = "0.55" if model in card.baselines else "tab:blue"
            if row.low is not None and row.high is not None:
                ax.plot([row.low, row.high], [y, y], color=colour, lw=2, alpha=0.6, solid_capstyle="round")
            ax.plot(row.value, y, "o", color=colour)
        best = card.best_baseline(variable, metric)
        if best is not None:
            ax.axvline(best.value, color="0.8", lw=1, zorder=0)
        arrow = {"higher": "more is better", "lower": "less is better"}.get(card.better(metric), "")
        ax.set_xlabel(f"{metric} of {variable}\n{arrow}")
        ax.grid(axis="x", color="0.92")
    axes[0].set_yticks(range(len(models)), models)
    axes[0].invert_yaxis()
    h = card.header
    fig.suptitle(f"{h['dataset']}: {h['task']}, {h['split']}, {h['groups']} {h['group']}s, 95 %", fontsize=10)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=130)
    parts = ("products", "scorecards", str(h["dataset"]), str(h["task"]), "scores.png")
    ws.write_bytes(buffer.getvalue(), *parts)
    return ws.path(*parts)
