"""Figures of the maps of image models: water and flood of the dates of a product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.view.style import look, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

WATER: dict[int, tuple[str, str]] = {
    0: ("land", "#e9e4d4"), 1: ("flood", "#D55E00"), 2: ("permanent water", "#0072B2"), 255: ("not judged", "#f4bfd8"),
}  # fmt: skip
MOST = 4
"""Dates in one figure, the last ones."""


def flood_figure(product: xr.Dataset, title: str = "") -> Figure:
    """The classes of a flood product (time, y, x), a panel a date, with the flooded area of each."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    codes = list(WATER)
    colours = ListedColormap([WATER[c][1] for c in codes])
    x, y = product["x"].values, product["y"].values
    ratio = len(y) / max(1, len(x))
    pixel = abs(float(x[1] - x[0]) * float(y[1] - y[0])) / 1e6 if min(len(x), len(y)) > 1 else np.nan
    maps = product["class"].isel(time=slice(-MOST, None))
    with look(**{"axes.grid": False}):
        figure = new_figure(3.6 * maps.sizes["time"] + 0.4, 3.6 * ratio + 1.0)
        panels: Any = np.atleast_1d(figure.subplots(1, maps.sizes["time"], squeeze=True))
        for panel, one in zip(panels, maps, strict=True):
            values = one.values
            panel.imshow(
                np.searchsorted(codes, values), cmap=colours, norm=BoundaryNorm(np.arange(len(codes) + 1) - 0.5, 4),
                interpolation="nearest",
            )  # fmt: skip
            panel.set_axis_off()
            flood, permanent = ((values == k).sum() * pixel for k in (1, 2))
            when = str(one["time"].values)[:16].replace("T", " ")
            panel.set_title(f"{when} UTC\nflood {flood:.2f} km², permanent {permanent:.2f} km²")
        handles = [Patch(color=colour, label=label) for label, colour in WATER.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure
