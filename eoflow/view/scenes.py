"""Figures of scene datasets: a scene with its quality, a composite with its count and age, coverage by tile.

What is drawn is read from the coarsest copy that still fills a picture, so a whole Sentinel-2 tile costs little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.quality import Quality, usable
from eoflow.tiling import Grid
from eoflow.times import Period, iso
from eoflow.view.maps import COVERAGE_COLOURS, save
from eoflow.view.style import look, new_figure
from eoflow.view.truecolour import colours_of, picture
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from eoflow.export.product import Product
    from eoflow.ingest.scenes.gaps import SceneGaps

Array = np.ndarray[Any, Any]
PIXELS = 700
"""A picture has at most about so many pixels a side."""
MAX_TILES, MAX_CELLS = 40, 180
VOID = "#f4bfd8"
"""Pink, which no surface is: where a picture has no value."""
LAND = (Quality.CLEAR, Quality.WATER)
QUALITY_COLOURS = {
    Quality.MISSING: "#ffffff", Quality.NODATA: "#d9d9d9", Quality.SATURATED: "#CC79A7", Quality.CLOUD: "#F0E442",
    Quality.SHADOW: "#5a5a5a", Quality.SNOW: "#56B4E9", Quality.WATER: "#0072B2", Quality.CLEAR: "#009E73",
}  # fmt: skip


# -- a scene ---------------------------------------------------------------------------------------------------------


def newest_scene(cube: Cube, as_of: str | None = None) -> tuple[str, np.datetime64] | None:
    """Tile and time of the newest step that holds a scene; None: the cube holds none."""
    found: list[tuple[np.datetime64, str]] = []
    for tile in cube.tiles(as_of):
        times = cube.times(tile, as_of)
        i = next((i for i in range(times.size - 1, -1, -1) if cube.items(tile, i, as_of)), None)
        if i is not None:
            found.append((times[i], tile))
    return None if not found else max(found)[::-1]


def scene_figure(cube: Cube, tile: str, time: Any = None, as_of: str | None = None) -> Figure:
    """A scene in colour beside the classes of its quality layer.

    time: an instant or a span (`2022-06-05`): the last step within it that holds a scene; None: the newest. Raises
    BadInput where there is none.
    """
    i = _step(cube, tile, time, as_of)
    level, stride = _level(cube, tile, as_of)
    group: Any = cube.group(tile, as_of, level)
    quality = np.asarray(group["quality"][i, ::stride, ::stride])
    bands = {b.name: b for b in cube.schema.bands}
    colours = colours_of(cube.schema.bands)
    stored = {n: np.asarray(group[n][i, ::stride, ::stride]) for n in colours.names}
    rgba = picture(stored, bands, colours, usable(quality, LAND), usable(quality))
    frame = _Frame.of(cube.grid(tile, as_of, level), stride)
    when = iso(cube.times(tile, as_of)[i]).replace("T", " ")
    with look(**_MAP):
        figure = new_figure(10.2, 5.0 * frame.ratio + 1.2)
        left, right = figure.subplots(1, 2)
        _show(left, rgba, frame, colours.title + frame.pixel)
        _classes(figure, right, quality, frame)
        figure.suptitle(f"{cube.name} {tile}, {when} UTC", fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


def scene_file(workspace: Workspace, name: str, tile: str | None = None, time: Any = None) -> str:
    """Write pictures/DATASET-TILE-TIME.png (by default of the newest scene); returns where. Raises BadInput."""
    cube = Cube.load(workspace, name)
    if tile is None:
        found = newest_scene(cube)
        if found is None:
            raise BadInput(f"'{name}' holds no scene yet", todo=f"eoflow ingest {name}")
        tile = found[0]
    when = cube.times(tile)[_step(cube, tile, time, None)]
    stamp = iso(when.astype("datetime64[m]")).replace("-", "").replace(":", "")
    return save(scene_figure(cube, tile, time), workspace, "pictures", f"{name}-{tile}-{stamp}.png")


def _step(cube: Cube, tile: str, time: Any, as_of: str | None) -> int:
    """Position of the last step within the span that holds a scene."""
    times = cube.times(tile, as_of)
    inside = np.ones(times.size, bool) if time is None else Period.parse(str(time)).contains(times)
    for i in np.flatnonzero(inside)[::-1]:
        if cube.items(tile, int(i), as_of):
            return int(i)
    span = f"{iso(times[0])} to {iso(times[-1])}" if times.size else "none"
    at = "" if time is None else f" at {time}"
    raise BadInput(f"tile '{tile}' of '{cube.name}' holds no scene{at}", todo=f"its time steps: {span}")


def _level(cube: Cube, tile: str, as_of: str | None) -> tuple[int, int]:
    """Factor of the copy to read, and the step at which its pixels are taken."""
    longest = max(cube.grid(tile, as_of).shape)
    factors = (1, *sorted(cube.factors(tile, as_of)))
    level = next((f for f in factors if longest / f <= PIXELS), factors[-1])
    return level, max(1, int(np.ceil(longest / level / PIXELS)))


# -- a composite -----------------------------------------------------------------------------------------------------


def composite_figure(product: Product, tile: str | None = None) -> Figure:
    """A composite (as `eoflow.export.product.find` gives it): colour, count of clear observations, age in days.

    tile: by default the first. Raises BadInput for a tile that it does not have.
    """
    from matplotlib.ticker import MaxNLocator

    piece = next((p for p in product.pieces if tile in (None, p.tile)), None)
    if piece is None:
        raise BadInput(f"the composite has no tile '{tile}'", todo=f"{', '.join(p.tile for p in product.pieces)}")
    stride = max(1, int(np.ceil(max(piece.grid.shape) / PIXELS)))
    ds = piece.ds.isel(y=slice(None, None, stride), x=slice(None, None, stride))
    layers = {"count": "clear observations", "age": "age (days)"}
    bands = {str(n): _spec(da) for n, da in ds.data_vars.items() if n not in (*layers, "source")}
    colours = colours_of(list(bands.values()))
    count, age = (np.asarray(ds[n].values) for n in layers)
    rgba = picture({n: np.asarray(ds[n].values) for n in colours.names}, bands, colours, count > 0)
    frame = _Frame.of(piece.grid, stride)
    said = product.provenance
    empty = float((count == 0).mean())
    with look(**_MAP):
        figure = new_figure(14.2, 4.3 * frame.ratio + 0.9)
        axes = figure.subplots(1, 3)
        _show(axes[0], rgba, frame, colours.title + frame.pixel)
        for ax, values, void, (name, text), colour in (
            (axes[1], count, count == 0, ("count", layers["count"]), "viridis"),
            (axes[2], age, age < 0, ("age", layers["age"]), "cividis_r"),
        ):
            shown = np.ma.masked_array(values, void)
            low, high = (0, max(1, int(values.max(initial=0)))) if name == "count" else _ends(shown)
            image = _show(ax, shown, frame, text, cmap=colour, vmin=low, vmax=high)
            whole = MaxNLocator(integer=True)
            figure.colorbar(image, ax=ax, shrink=0.85, pad=0.01, aspect=30, ticks=whole)
        head = f"{said.get('dataset', '')} {piece.tile}".strip()
        title = f"{head}: {said.get('method', 'composite')} of {_days(said.get('period', ''))}"
        text = f"{title}; {100 * empty:.1f} % without a clear observation (pink)"
        figure.suptitle(text, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


def _days(period: str) -> str:
    return " to ".join(end.split("T")[0] for end in period.split("/"))


def _ends(values: Any) -> tuple[float, float]:
    if values.count() == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return low, max(high, low + 1)


def _spec(da: xr.DataArray) -> BandSpec:
    """The radiometry of a stored variable, from its attributes."""
    from eoflow.export.cog import band_of

    b = band_of(da)
    return BandSpec(name=b.name, dtype=b.dtype, units=b.units or "1", scale=b.scale, offset=b.offset, nodata=b.nodata,
                    common_name=b.common_name)  # fmt: skip


# -- maps ------------------------------------------------------------------------------------------------------------

_MAP: Mapping[str, Any] = {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}


@dataclass(frozen=True)
class _Frame:
    """Where a picture lies on paper. extent: left, right, bottom, top in `units`; ratio: height over width."""

    extent: tuple[float, float, float, float]
    units: str
    ratio: float
    pixel: str

    @classmethod
    def of(cls, grid: Grid, stride: int) -> _Frame:
        """The frame of a grid of which every `stride`-th pixel is shown."""
        from pyproj import CRS

        crs = CRS.from_user_input(grid.crs)
        metric = crs.is_projected and crs.axis_info[0].unit_name == "metre"
        left, bottom, right, top = (v / 1000 if metric else v for v in grid.bounds)
        size = grid.resolution[0] * stride
        pixel = f", pixels of {size:g} m" if metric else ""
        units = "km" if metric else "°" if crs.is_geographic else crs.axis_info[0].unit_name
        ratio = min(3.0, max(0.3, (top - bottom) / (right - left)))
        return cls((left, right, bottom, top), units, ratio, pixel)


def _show(ax: Any, values: Any, frame: _Frame, title: str, **how: Any) -> Any:
    image = ax.imshow(values, extent=frame.extent, interpolation="nearest", aspect="auto", **how)
    ax.set_box_aspect(frame.ratio)
    ax.set_facecolor(VOID)
    ax.set_title(title, loc="left")
    ax.locator_params(nbins=4)
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.set_xlabel(f"easting ({frame.units})" if frame.units != "°" else "longitude (°)", labelpad=1)
    ax.tick_params(axis="y", labelrotation=90)
    return image


def _classes(figure: Figure, ax: Any, quality: Array, frame: _Frame) -> None:
    """The quality layer, and a legend with the share of each class that occurs."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    norm = BoundaryNorm(np.arange(len(Quality) + 1) - 0.5, len(Quality))
    colours = ListedColormap([QUALITY_COLOURS[q] for q in Quality])
    _show(ax, quality, frame, f"quality: {100 * usable(quality).mean():.0f} % usable", cmap=colours, norm=norm)
    shares = {q: float((quality == int(q)).mean()) for q in Quality}
    handles = [
        Patch(facecolor=QUALITY_COLOURS[q], edgecolor="#888888", label=f"{q.name.lower()} {_share(share)}")
        for q, share in shares.items()
        if share
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=min(8, len(handles)), columnspacing=1.2)


def _share(share: float) -> str:
    return "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"


# -- coverage --------------------------------------------------------------------------------------------------------


def scene_coverage_figure(found: SceneGaps) -> Figure:
    """The ledger of a scene dataset: one row a tile, time to the right, the worst state of a cell shows.

    At most 40 tiles, those with the most gaps. Raises BadInput where no scene was ever listed.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    from eoflow.ingest.ledger import Status

    if not found.expected:
        raise BadInput(
            "no scene was listed yet, so there is no coverage to draw", todo=f"eoflow ingest {found.dataset}"
        )
    words = [s.word for s in Status]
    every = np.array(found.tiles)
    names, lacking = np.unique(every), found.status != int(Status.PRESENT)
    gaps = {n: int(lacking[every == n].sum()) for n in names}
    rows = sorted(sorted(names, key=lambda n: -gaps[n])[:MAX_TILES])
    grid, edges = _cells(found, every, rows)
    colours = COVERAGE_COLOURS[: len(words)]
    with look(**{"axes.grid": False}):
        figure = new_figure(9.5, 1.35 + 0.26 * len(rows))
        ax = figure.subplots()
        norm = BoundaryNorm(np.arange(-0.5, len(colours)), len(colours))
        shown = np.ma.masked_less(grid, 0)
        where: Any = edges.astype("datetime64[m]").astype("datetime64[us]").astype(object)
        ax.pcolormesh(where, np.arange(len(rows) + 1), shown, cmap=ListedColormap(colours), norm=norm, rasterized=True)
        ax.set_facecolor("#f2f2f2")
        ax.set_yticks(np.arange(len(rows)) + 0.5, [r or "not known" for r in rows])
        ax.invert_yaxis()
        for y in range(1, len(rows)):
            ax.axhline(y, color="white", linewidth=1.5)
        ax.tick_params(axis="y", length=0)
        _dates(ax)
        counts = np.bincount(found.status, minlength=len(words))
        handles = [
            Patch(facecolor=c, edgecolor="#888888", label=f"{w} ({counts[i]})")
            for i, (c, w) in enumerate(zip(colours, words, strict=True))
            if counts[i]
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        share = np.floor(found.fraction * 1e4) / 100
        some = "" if len(rows) == len(names) else f"; {len(rows)} of {len(names)} tiles, those with the most gaps"
        title = f"{found.dataset}: {counts[1]} of {found.expected} scenes present ({share:.2f} %){some}"
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    return figure


def _cells(found: SceneGaps, tiles: Array, rows: list[str]) -> tuple[Array, Array]:
    """Worst status (rows, cells), -1: no scene; and the edges of the cells, datetime64[ns]."""
    first = found.times.min().astype("datetime64[D]")
    days = int((found.times.max().astype("datetime64[D]") - first).astype(int)) + 1
    width = int(np.ceil(days / MAX_CELLS))
    cells = -(-days // width)
    edges = (first + np.arange(cells + 1) * np.timedelta64(width, "D")).astype("datetime64[ns]")
    grid = np.full((len(rows), cells), -1)
    at = ((found.times.astype("datetime64[D]") - first).astype(int)) // width
    rank = np.array([1, 0, 3, 2, 4])  # as in coverage_figure: failed, absent, partial, never tried, present
    shown = np.flatnonzero(np.isin(tiles, rows))
    worst = shown[np.argsort(rank[np.clip(found.status[shown].astype(int), 0, 4)], kind="stable")]
    grid[np.searchsorted(rows, tiles[worst]), at[worst]] = found.status[worst]
    return grid, edges


def _dates(ax: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=9)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
