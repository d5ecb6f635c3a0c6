"""Figures with a map or a calendar in them: a forecast beside the truth, a Hovmoeller diagram, coverage.

Every figure function returns a matplotlib Figure; `save` and the `*_file` functions write it under a stable name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoflow.errors import BadInput
from eoflow.times import NS, iso
from eoflow.view.curves import activity_figure, pretty_units, skill_figure
from eoflow.view.style import look, new_figure, png
from eoflow.view.tables import number

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from eoflow.verify.results import Scorecard
    from eoflow.workspace import Workspace

__all__ = [
    "activity_figure", "coverage_figure", "forecast_figure", "hovmoller_figure", "save", "skill_figure",
    "skill_figure_file",
]  # fmt: skip
FIELD_MAP = "viridis"
ERROR_MAP = "RdBu_r"
DAYS = (1, 3, 5, 10)


def save(figure: Figure, workspace: Workspace, *parts: str) -> str:
    """Write a figure as PNG into the workspace (whole or not at all); returns where it lies."""
    workspace.write_bytes(png(figure), *parts)
    return workspace.url(*parts)


def skill_figure_file(card: Scorecard, workspace: Workspace) -> str:
    """Write scores/DATASET/skill.png."""
    return save(skill_figure(card), workspace, "scores", str(card.header["dataset"]), "skill.png")


def field_of(ds: xr.Dataset, label: str) -> xr.DataArray:
    """The variable or channel called `msl` or `z500`; an ensemble's mean. Raises BadInput naming those there are."""
    for key, da in ds.data_vars.items():
        vertical = next((str(d) for d in da.dims if d not in _PLAIN), None)
        if not {"latitude", "longitude"} <= set(da.dims):
            continue
        if vertical is None and key == label:
            return da.mean("member", keep_attrs=True) if "member" in da.dims else da
        if vertical is not None:
            for level in ds[vertical].values:
                if f"{key}{float(level):g}" == label:
                    da = da.sel({vertical: level})
                    return da.mean("member", keep_attrs=True) if "member" in da.dims else da
    raise BadInput(f"no field '{label}' to draw", todo=f"choose from {', '.join(labels_of(ds))}")


_PLAIN = ("time", "init_time", "lead_time", "member", "latitude", "longitude")


def labels_of(ds: xr.Dataset) -> list[str]:
    """Channel labels of a dataset."""
    out = []
    for key, da in ds.data_vars.items():
        if {"latitude", "longitude"} <= set(da.dims):
            vertical = next((str(d) for d in da.dims if d not in _PLAIN), None)
            out += [str(key)] if vertical is None else [f"{key}{float(x):g}" for x in ds[vertical].values]
    return out


def main_label(ds: xr.Dataset) -> str:
    """The field to show when none is named: z500, else msl, else the first."""
    labels = labels_of(ds)
    return next((x for x in ("z500", "msl", "t2m") if x in labels), labels[0])


# -- forecast ------------------------------------------------------------------------------------------------------


def forecast_figure(
    run: xr.Dataset, truth: xr.Dataset | None, label: str, *, init: np.datetime64 | None = None,
    days: Sequence[float] = DAYS, dataset: str = "", model: str = "",
) -> Figure:  # fmt: skip
    """Maps of one run at some leads: forecast, and where it has arrived truth and error below.

    run: one published run or a cube (dims init_time, lead_time, ...); init: which one, default the last.
    truth: an archive, or None.
    """
    field = field_of(run, label)
    when = field["init_time"].values.astype(NS)[-1] if init is None else init.astype(NS)
    field = field.sel(init_time=when) if "init_time" in field.dims else field
    chosen = _leads(field, days)
    actual = None if truth is None else field_of(truth, label)
    start = _truth_at(actual, when)
    panels = [(lead, field.sel(lead_time=lead).values, _truth_at(actual, when + lead)) for lead in chosen]
    with_truth = any(t is not None for _, _, t in panels)
    ny, nx = field.sizes["latitude"], field.sizes["longitude"]
    first = 1 if start is not None else 0
    aspect = _aspect(field)
    width = 2.9 * (len(panels) + first)
    ratio = min(2.4, max(0.35, aspect * _extent(field, "latitude") / _extent(field, "longitude")))
    rows = 3 if with_truth else 1
    with look(**{"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = new_figure(width + 0.9, (2.75 * ratio + 0.42) * rows + 0.7)
        axes = figure.subplots(rows, len(panels) + first, squeeze=False)
        known = [x for x in (start, *(t for _, _, t in panels)) if x is not None]
        limits = _limits(known or [f for _, f, _ in panels])  # of the truth: a forecast that runs wild is to look it
        draw: dict[str, Any] = {"x": field["longitude"].values, "y": field["latitude"].values, "aspect": aspect}
        image = error_image = None
        if start is not None:
            image = _map(axes[0, 0], start, limits, FIELD_MAP, contours=ny * nx < 40000, **draw)
            axes[0, 0].set_title(f"initial state\n{_clock(when)}", loc="left")
            for ax in axes[1:, 0]:
                ax.set_axis_off()
        errors = [f - t for _, f, t in panels if t is not None]
        span = float(np.nanpercentile(np.abs(errors), 99.5)) if errors and np.isfinite(errors).any() else 1.0
        for j, (lead, f, t) in enumerate(panels):
            column = j + first
            image = _map(axes[0, column], f, limits, FIELD_MAP, contours=ny * nx < 40000, **draw)
            axes[0, column].set_title(f"forecast, {_lead(lead)}\n{_clock(when + lead)}", loc="left")
            if rows == 1:
                continue
            if t is None:
                for ax, text in ((axes[1, column], "truth has not arrived yet"), (axes[2, column], "")):
                    ax.set_axis_off()
                    ax.text(0.5, 0.5, text, ha="center", va="center", color="#888888", transform=ax.transAxes)
                continue
            _map(axes[1, column], t, limits, FIELD_MAP, contours=ny * nx < 40000, **draw)
            axes[1, column].set_title("truth", loc="left")
            error_image = _map(axes[2, column], f - t, (-span, span), ERROR_MAP, contours=False, **draw)
            rmse = float(np.sqrt(_area_mean((f - t) ** 2, field)))
            axes[2, column].set_title(f"error, RMSE {number(rmse)}", loc="left")
        units = pretty_units(str(field.attrs.get("units", "")))
        if image is not None:
            figure.colorbar(image, ax=axes[: max(1, rows - 1), :], label=units, shrink=0.85, pad=0.01, aspect=30)
        if error_image is not None:
            figure.colorbar(error_image, ax=axes[2, :], label=units, shrink=0.85, pad=0.01, aspect=16)
        name = field.attrs.get("long_name", "")
        head = ", ".join(x for x in (f"{dataset} {model}".strip(), f"{label}" + (f" ({name})" if name else "")) if x)
        figure.suptitle(f"{head}: forecast from {_clock(when)}", fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


def _leads(field: xr.DataArray, days: Sequence[float]) -> list[np.timedelta64]:
    held = field["lead_time"].values.astype("timedelta64[ns]")
    wanted = [np.timedelta64(round(d * 86400), "s").astype("timedelta64[ns]") for d in days]
    chosen = [w for w in wanted if (held == w).any()]
    if not chosen:  # short or coarse runs: evenly spread
        chosen = [held[i] for i in np.unique(np.linspace(0, held.size - 1, min(4, held.size)).astype(int))]
    return chosen


def _truth_at(actual: xr.DataArray | None, time: np.datetime64) -> NDArray[Any] | None:
    if actual is None:
        return None
    at = np.flatnonzero(actual["time"].values.astype(NS) == time)
    if at.size == 0:
        return None
    values = actual.isel(time=int(at[0])).values
    return values if np.isfinite(values).any() else None


def _limits(fields: Sequence[NDArray[Any]]) -> tuple[float, float]:
    values = np.concatenate([np.ravel(f) for f in fields])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _map(
    ax: Any, field: NDArray[Any], limits: tuple[float, float], colours: str, *, contours: bool, x: Any, y: Any,
    aspect: float,
) -> Any:  # fmt: skip
    x = np.where(x < x[0], x + 360, x)  # a region across the antimeridian
    image = ax.pcolormesh(x, y, field, vmin=limits[0], vmax=limits[1], cmap=colours, shading="nearest", rasterized=True)
    if contours and np.isfinite(field).all() and min(field.shape) > 3:
        levels = np.linspace(*limits, 9)[1:-1]
        ax.contour(x, y, field, levels=levels, colors="white", linewidths=0.5, alpha=0.55)
    ax.set_aspect(aspect)
    for axis, suffixes, step in ((ax.xaxis, "EW", _tick(x)), (ax.yaxis, "NS", _tick(y))):
        axis.set_major_locator(_locator(step))
        axis.set_major_formatter(_degrees(suffixes))
    ax.tick_params(labelsize=7, length=2)
    return image


def _tick(values: Any) -> float:
    span = float(np.max(values) - np.min(values))
    return next((s for s in (1, 2, 5, 10, 20, 30, 60, 90) if span / s <= 4.5), 90)


def _locator(step: float) -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(step)


def _degrees(suffixes: str) -> Any:
    def text(value: float, _: Any) -> str:
        if suffixes == "EW":
            value = (value + 180) % 360 - 180
            if abs(value) in (0.0, 180.0):
                return f"{abs(value):.0f}°"
        return f"{abs(value):g}°" + ("" if value == 0 else suffixes[0] if value > 0 else suffixes[1])

    return text


def _extent(field: xr.DataArray, dim: str) -> float:
    x = field[dim].values
    x = np.where(x < x[0], x + 360, x) if dim == "longitude" else x
    return float(np.ptp(x)) * (1 + 1 / max(1, x.size - 1)) or 1.0


def _aspect(field: xr.DataArray) -> float:
    """Degrees of latitude per degree of longitude on paper: true to scale in the middle of a region, 1 globally."""
    lat = field["latitude"].values
    return 1.0 if np.ptp(lat) > 120 else 1 / max(0.2, float(np.cos(np.deg2rad(lat.mean()))))


def _area_mean(values: NDArray[Any], like: xr.DataArray) -> float:
    from eoflow.schema import LatLonGrid

    lat, lon = (tuple(float(v) for v in like[d].values) for d in ("latitude", "longitude"))
    w = np.broadcast_to(LatLonGrid(latitude=lat, longitude=lon).area_weights()[:, None], values.shape)
    valid = np.isfinite(values)
    return float((values[valid] * w[valid]).sum() / w[valid].sum()) if valid.any() else float("nan")


def _clock(time: np.datetime64) -> str:
    return iso(time).replace("T", " ") + (" UTC" if "T" in iso(time) else "")


def _lead(lead: np.timedelta64) -> str:
    hours = float(lead / np.timedelta64(1, "h"))
    return f"day {hours / 24:g}" if hours >= 24 else f"{hours:g} h"


# -- time against longitude, and coverage ---------------------------------------------------------------------------


def hovmoller_figure(
    run: xr.Dataset, truth: xr.Dataset, label: str, *, init: np.datetime64 | None = None,
    band: tuple[float, float] = (30.0, 60.0), dataset: str = "", model: str = "",
) -> Figure:  # fmt: skip
    """Time against longitude of the mean over a latitude band: forecast, truth, difference.

    From each longitude its mean over the run's period in the truth (in the forecast, where none has arrived) is
    taken off, so that waves stand out. Raises BadInput if the band holds no row of the grid.
    """
    field = field_of(run, label)
    when = field["init_time"].values.astype(NS)[-1] if init is None else init.astype(NS)
    field = field.sel(init_time=when)
    lat = field["latitude"].values
    inside = (lat >= band[0]) & (lat <= band[1])
    if not inside.any():
        raise BadInput(
            f"no latitude between {band[0]:g} and {band[1]:g}", where=f"the grid has {lat[0]:g} to {lat[-1]:g}"
        )
    leads = field["lead_time"].values.astype("timedelta64[ns]")
    ours = field.isel(latitude=inside).mean("latitude").values
    actual = field_of(truth, label)
    theirs = np.full_like(ours, np.nan)
    for k, lead in enumerate(leads):
        values = _truth_at(actual, when + lead)
        if values is not None:
            theirs[k] = values[inside].mean(axis=0)
    known = np.isfinite(theirs).all(axis=1)
    reference = (theirs[known] if known.any() else ours).mean(axis=0)
    days = leads / np.timedelta64(86400 * 10**9, "ns")
    x = field["longitude"].values
    x = np.where(x < x[0], x + 360, x)
    span = float(np.nanpercentile(np.abs(ours - reference), 99)) or 1.0
    units = pretty_units(str(field.attrs.get("units", "")))
    with look(**{"axes.grid": False}):
        figure = new_figure(10.5, 4.2)
        axes = figure.subplots(1, 3, sharey=True)
        image: Any = None
        panels = (("forecast", ours - reference), ("truth", theirs - reference), ("error", ours - theirs))
        for ax, (name, values) in zip(axes, panels, strict=True):
            image = ax.pcolormesh(
                x, days, values, cmap=ERROR_MAP, vmin=-span, vmax=span, shading="nearest", rasterized=True
            )
            ax.set_title(name, loc="left")
            ax.xaxis.set_major_locator(_locator(_tick(x)))
            ax.xaxis.set_major_formatter(_degrees("EW"))
            if not np.isfinite(values).any():
                ax.text(0.5, 0.5, "truth has not arrived yet", ha="center", color="#888888", transform=ax.transAxes)
        axes[0].invert_yaxis()
        axes[0].set_ylabel("lead time (days)")
        figure.colorbar(image, ax=axes, label=f"{label} anomaly ({units})", pad=0.01)
        head = f"{dataset} {model}".strip()
        where = f"mean of {_degrees('NS')(lat[inside].min(), 0)} to {_degrees('NS')(lat[inside].max(), 0)}"
        title = f"{head + ', ' if head else ''}{label}: {where}, forecast from {_clock(when)}"
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


COVERAGE_COLOURS = ("#ffffff", "#56B4E9", "#F0E442", "#999999", "#D55E00")


def coverage_figure(times: Any, status: Any, *, words: Sequence[str], dataset: str = "") -> Figure:
    """The ledger as a calendar: one row a year (a month where there is less than a year), one cell a time.

    times (T,) datetime64; status (T,) small integers; words: the meaning of 0, 1, 2, ... (at most five).
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    times, status = np.asarray(times).astype(NS), np.asarray(status).astype(int)
    if times.size == 0:
        raise BadInput("nothing is expected yet, so there is no coverage to draw", todo="ingest the dataset first")
    unit = "Y" if np.ptp(times.astype("datetime64[D]").astype(int)) > 400 else "M"
    period = times.astype(f"datetime64[{unit}]")
    rows = np.unique(period)
    step = float(np.min(np.diff(times)) / np.timedelta64(86400 * 10**9, "ns")) if times.size > 1 else 1.0
    longest = 366 if unit == "Y" else 31
    columns = int(np.ceil(longest / step))
    cells = max(1, int(np.ceil(columns / 400)))  # several times a cell where they would be thinner than a pixel
    grid = np.full((rows.size, -(-columns // cells)), -1)
    offset = (times - period.astype(NS)) / np.timedelta64(86400 * 10**9, "ns")
    at = np.minimum((offset / step).round().astype(int) // cells, grid.shape[1] - 1)
    rank = np.array([1, 0, 3, 2, 4])  # the worst of a cell shows: failed, absent, partial, never tried, present
    worst = np.argsort(rank[np.clip(status, 0, 4)], kind="stable")
    grid[np.searchsorted(rows, period)[worst], at[worst]] = status[worst]
    colours = COVERAGE_COLOURS[: len(words)]
    with look(**{"axes.grid": False}):
        figure = new_figure(9.5, min(12.0, 1.25 + 0.24 * rows.size))
        ax = figure.subplots()
        shown = np.ma.masked_less(grid, 0)
        edges = np.linspace(1, 1 + columns * step, grid.shape[1] + 1)
        norm = BoundaryNorm(np.arange(-0.5, len(colours)), len(colours))
        ax.pcolormesh(edges, np.arange(rows.size + 1), shown, cmap=ListedColormap(colours), norm=norm, rasterized=True)
        ax.set_facecolor("#f2f2f2")
        every = max(1, rows.size // 24)
        ax.set_yticks(np.arange(rows.size)[::every] + 0.5, [str(r) for r in rows[::every]])
        ax.invert_yaxis()
        for y in range(1, rows.size):
            ax.axhline(y, color="white", linewidth=1)
        ax.set_xlabel("day of year" if unit == "Y" else "day of month")
        counts = np.bincount(status, minlength=len(words))
        handles = [
            Patch(facecolor=c, edgecolor="#888888", label=f"{w} ({counts[i]})")
            for i, (c, w) in enumerate(zip(colours, words, strict=True))
            if counts[i]
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        present = counts[1] / times.size
        title = f"{dataset}: {counts[1]} of {times.size} expected times present ({np.floor(present * 1e4) / 100:.2f} %)"
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure
