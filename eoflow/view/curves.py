"""Figures of a scorecard: skill and activity by lead time with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eoflow.view.style import line_styles, look, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eoflow.verify.results import Scorecard

MAX_PANELS = 6
_WORDS = {"rmse": "RMSE", "acc": "anomaly correlation", "activity_ratio": "activity / activity of the truth"}


def skill_figure(
    card: Scorecard, metrics: Sequence[str] | None = None, variables: Sequence[str] | None = None
) -> Figure:
    """Score by lead, one column a variable (at most six), one row a metric; bands are 95 % intervals.

    By default RMSE, anomaly correlation and activity ratio, as far as the scorecard has them. A vertical line marks
    the last lead at which the main model is significantly better than persistence and climatology.
    """
    rows = list(metrics or [m for m in ("rmse", "acc", "activity_ratio") if m in card.metrics])
    for m in rows:
        card.require("metric", m)
    columns = list(variables or card.variables)[:MAX_PANELS]
    with look():
        figure = new_figure(max(5.2, 3.5 * len(columns)), 2.5 * len(rows) + 0.9)
        axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
        styles = line_styles(card.models)
        for i, metric in enumerate(rows):
            for j, variable in enumerate(columns):
                _panel(axes[i, j], card, metric, variable, styles, first=i == 0, last=i == len(rows) - 1, left=j == 0)
        lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines() if line.get_label() in styles}
        names = [m for m in card.models if m in lines]
        figure.legend(
            [lines[m] for m in names], names, loc="outside lower center", ncols=min(6, len(names)), handlelength=3
        )
        figure.suptitle(_title(card, len(columns)), fontsize=10, x=0.01, ha="left")
    return figure


def activity_figure(card: Scorecard, variables: Sequence[str] | None = None) -> Figure:
    """Activity of the forecasts over that of the truth, by lead."""
    return skill_figure(card, ["activity_ratio"], variables)


def _panel(
    ax: Any, card: Scorecard, metric: str, variable: str, styles: dict[str, dict[str, Any]], *, first: bool, last: bool,
    left: bool,
) -> None:  # fmt: skip
    for model in card.models:
        rows = card.series(model, variable, metric)
        if not rows:
            continue
        x = [r.lead_hours / 24 for r in rows]
        marker = {"marker": "o", "markersize": 3.5} if len(rows) <= 12 else {}
        ax.plot(x, [r.value for r in rows], label=model, **styles[model], **marker)
        known = [(a, r.low, r.high) for a, r in zip(x, rows, strict=True) if r.low is not None and r.high is not None]
        if known:
            a, low, high = zip(*known, strict=True)
            ax.fill_between(a, low, high, color=styles[model]["color"], alpha=0.16, linewidth=0, zorder=1)
    about = card.header.get("metrics", {}).get(metric, {})
    units = card.header.get("units", {}).get(variable, "")
    name = _WORDS.get(metric, metric)
    unit = "" if about.get("unitless") or not units else f" ({pretty_units(units)})"
    if left or unit:
        ax.set_ylabel(f"{name}{unit}" if left else unit.strip())
    if first:
        ax.set_title(variable, loc="left", fontweight="bold")
    if metric in ("activity_ratio", "ssr"):
        ax.axhline(1, color="#888888", linewidth=0.8, zorder=0)
    if metric in ("rmse", "mae", "crps", "activity", "activity_ratio", "spread"):
        ax.set_ylim(bottom=0)
    if last:
        ax.set_xlabel("lead time (days)")
    _mark_skill(ax, card, variable, named=first)
    ax.margins(x=0.02)


def _mark_skill(ax: Any, card: Scorecard, variable: str, *, named: bool) -> None:
    main = card.header.get("main_model", "")
    until = card.skilful_until(main, variable) if main in card.models else None
    if until is None:
        return
    ax.axvline(until / 24, color="#0072B2", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    if named:
        side = "right" if until > 0.5 * max(card.leads) else "left"
        ax.annotate(
            f"skilful to day {until / 24:g}", (until / 24, 0.03), xycoords=("data", "axes fraction"), fontsize=7.5,
            color="#0072B2", ha=side, xytext=(-3 if side == "right" else 3, 0), textcoords="offset points",
        )  # fmt: skip


def _title(card: Scorecard, columns: int) -> str:
    h = card.header
    low, high = h.get("cases", [0, 0])
    cases = f"{low}" if low == high else f"{low} to {high}"
    parts = [str(h.get("dataset", "")), f"initial times {h.get('period', '?')}", f"{cases} cases", "bands: 95 %"]
    gap = "\n" if columns < 2 else ";  "
    return f"{parts[0]}: forecast scores by lead{gap}" + ";  ".join(parts[1:])


def pretty_units(units: str) -> str:
    """`m2 s-2` -> `m² s⁻²`."""
    up = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    words = []
    for word in units.split():
        stem = word.rstrip("-0123456789")
        words.append(stem + word[len(stem) :].translate(up) if stem and stem != word else word)
    return " ".join(words)
