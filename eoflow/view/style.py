"""One look for all figures: headless, colour-blind safe (Okabe and Ito), the same model always in the same colour."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIXED = {
    "persistence": ("#999999", (0, (1, 1.2))),
    "climatology": ("#555555", (0, (4, 2))),
    "eof-ridge": ("#E69F00", (0, (6, 1.5, 1, 1.5))),
    "ceiling": ("#000000", (0, (1, 3))),
}
_FREE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F")
RC: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5, "figure.dpi": 110,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.edgecolor": "#888888", "xtick.color": "#333333",
    "ytick.color": "#333333", "legend.frameon": False, "figure.facecolor": "white", "savefig.facecolor": "white",
    "svg.hashsalt": "eoflow",
}  # fmt: skip


def look(**more: Any) -> Any:
    """Context in which figures are drawn in this look (matplotlib settings, changed by `more`)."""
    import matplotlib as mpl

    return mpl.rc_context({**RC, **more})  # type: ignore[dict-item, unused-ignore]


def line_styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes for each model; baselines thin and grey, networks strong."""
    styles, free = {}, 0
    for m in models:
        if m in _FIXED:
            colour, dashes = _FIXED[m]
            styles[m] = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "zorder": 2}
        else:
            styles[m] = {"color": _FREE[free % len(_FREE)], "linestyle": "-", "linewidth": 2.2, "zorder": 3}
            free += 1
    return styles


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) on the Agg canvas: no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = 120) -> bytes:
    """PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": "eoflow"})
    return buffer.getvalue()
