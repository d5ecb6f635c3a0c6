"""How the ground is cut: the pixel grid of a tile, its chunks, and the windows of work.

footprint   every tile of the provider (MGRS tile, WRS path/row, chip) is a group with its own pixel grid
grid        a regular grid of cells in one CRS, or in the UTM (polar: UPS) zone of each scene, whose pixel edges lie on
            multiples of the resolution ("anchor edge"): then no resampling adds a row
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.catalog_scenes import TileScheme
from eoflow.errors import BadInput

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from odc.geo.geom import Geometry

Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]
Window = tuple[slice, slice]
UPS_NORTH, UPS_SOUTH = "EPSG:5041", "EPSG:5042"
"""Universal polar stereographic (easting, northing), where UTM ends: north of 84 and south of -80 degrees."""
MAX_CELLS = 10_000
OVERVIEWS, WHOLE = (4, 16), 512
SMALL = 1.25
SAME = 1e-6
"""Grids are the same where their pixels differ by less than this fraction of a pixel."""
SHIFT = 1e-3
"""Origins are on one lattice where they differ from it by less than this fraction of a pixel."""
MARGIN = 0.03
"""Frames of a WRS-2 path and row wander by some kilometres, 2 to 3 % of their 185 km."""
MANY_TIMES = 2.0


@dataclass(frozen=True)
class Grid:
    """Pixel grid of a raster: `crs` as text (EPSG:n or WKT), `transform` (a, b, c, d, e, f), `shape` (y, x)."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]

    @classmethod
    def of(cls, geobox: GeoBox) -> Grid:
        """From an odc GeoBox."""
        a = geobox.affine
        return cls(str(geobox.crs), (a.a, a.b, a.c, a.d, a.e, a.f), (geobox.shape[0], geobox.shape[1]))

    @property
    def geobox(self) -> GeoBox:
        """As an odc GeoBox."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, Affine(*self.transform), self.crs)

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel height and width in units of the CRS, both positive."""
        return abs(self.transform[4]), abs(self.transform[0])

    @property
    def bounds(self) -> Box:
        """Left, bottom, right, top in the CRS."""
        a, _, c, _, e, f = self.transform
        xs, ys = (c, c + a * self.shape[1]), (f, f + e * self.shape[0])
        return min(xs), min(ys), max(xs), max(ys)

    def x(self) -> Array:
        """float64 (x,): centres of the columns."""
        return self.transform[2] + (np.arange(self.shape[1]) + 0.5) * self.transform[0]

    def y(self) -> Array:
        """float64 (y,): centres of the rows."""
        return self.transform[5] + (np.arange(self.shape[0]) + 0.5) * self.transform[4]

    def window(self, rows: slice, columns: slice) -> Grid:
        """The grid of a part."""
        a, b, c, d, e, f = self.transform
        r, k = rows.start, columns.start
        moved = (a, b, c + a * k + b * r, d, e, f + d * k + e * r)
        return Grid(self.crs, moved, (rows.stop - r, columns.stop - k))

    def coarser(self, factor: int) -> Grid:
        """The grid of the copy with `factor` times larger pixels; the last row and column may reach beyond."""
        a, b, c, d, e, f = self.transform
        shape = (math.ceil(self.shape[0] / factor), math.ceil(self.shape[1] / factor))
        return Grid(self.crs, (a * factor, b * factor, c, d * factor, e * factor, f), shape)

    def offset(self, other: Grid) -> tuple[float, float]:
        """Row and column (may have fractions) at which `other`, of the same CRS and pixel size, begins in this."""
        return (
            (other.transform[5] - self.transform[5]) / self.transform[4],
            (other.transform[2] - self.transform[2]) / self.transform[0],
        )

    def locate(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column of the pixel that holds a point of the CRS; None outside."""
        column = math.floor((x - self.transform[2]) / self.transform[0])
        row = math.floor((y - self.transform[5]) / self.transform[4])
        inside = 0 <= row < self.shape[0] and 0 <= column < self.shape[1]
        return (row, column) if inside else None


def same_crs(a: str, b: str) -> bool:
    """Whether two texts mean one CRS."""
    if a == b:
        return True
    from odc.geo.crs import CRS

    return bool(CRS(a) == CRS(b))


def same_pixels(a: Grid, b: Grid) -> bool:
    """Whether CRS and pixel size agree (the origins may differ)."""
    pairs = zip(a.transform[:2] + a.transform[3:5], b.transform[:2] + b.transform[3:5], strict=True)
    return all(abs(p - q) <= SAME * a.resolution[0] for p, q in pairs) and same_crs(a.crs, b.crs)


# -- scheme footprint ------------------------------------------------------------------------------------------------


def footprint(grids: Sequence[Grid], scheme: TileScheme) -> Grid:
    """The grid of a provider's tile: that of its finest band, or of the band with the scheme's resolution.

    A resolution that no band has gives the extent of the finest band in pixels of that size. Raises BadInput.
    """
    if not grids:
        raise BadInput("no band with a pixel grid")
    finest = min(grids, key=lambda g: (g.resolution[0] * g.resolution[1], -g.shape[0] * g.shape[1]))
    if finest.transform[1] or finest.transform[3]:
        raise BadInput("the pixel grid is rotated", todo="warp it to a north-up grid, or use scheme: grid")
    if scheme.resolution is None:
        return finest
    for g in grids:
        if all(abs(r - scheme.resolution) <= SAME * scheme.resolution for r in g.resolution):
            return g
    a, _, c, _, e, f = finest.transform
    res = scheme.resolution
    shape = (
        math.ceil(finest.shape[0] * abs(e) / res - SAME),
        math.ceil(finest.shape[1] * abs(a) / res - SAME),
    )
    return Grid(finest.crs, (math.copysign(res, a), 0.0, c, 0.0, math.copysign(res, e), f), shape)


def refuse_other(tile: Grid, scene: Grid) -> None:
    """Raise BadInput unless a scene's grid can be put on its tile's by moving it (same CRS, same pixel size)."""
    if same_pixels(tile, scene):
        return
    if not same_crs(tile.crs, scene.crs):
        what = f"the tile is in {_short(tile.crs)}, the scene in {_short(scene.crs)}"
    else:
        what = f"pixels of {tile.resolution[0]:g} x {tile.resolution[1]:g} in the tile, of "
        what += f"{scene.resolution[0]:g} x {scene.resolution[1]:g} in the scene"
    raise BadInput(f"the scene is on another grid than its tile: {what}", todo="use tiles.scheme: grid")


def union(grids: Sequence[Grid], margin: float | None, blocks: tuple[int, int] | None) -> Grid:
    """The grid of a tile that is to hold all of `grids` (same CRS and pixel size), on the lattice of the first.

    margin: room on each side as a share of the first one's height and width, in whole blocks (y, x) of the source where
    that goes; None: MARGIN where the grids differ, else none. A tile that would have more than MANY_TIMES the pixels of
    the largest one keeps the grid of the first: these are no frames of one place.
    """
    first = grids[0]
    low, high = [0, 0], list(first.shape)
    for g in grids[1:]:
        for i, at in enumerate(first.offset(g)):
            low[i] = min(low[i], math.floor(at + SHIFT))
            high[i] = max(high[i], math.ceil(at + g.shape[i] - SHIFT))
    if (high[0] - low[0]) * (high[1] - low[1]) > MANY_TIMES * max(g.shape[0] * g.shape[1] for g in grids):
        return first
    share = margin if margin is not None else MARGIN if (low, high) != ([0, 0], list(first.shape)) else 0.0
    for i in (0, 1):
        room = math.ceil(share * first.shape[i])
        unit = 1 if blocks is None or blocks[i] > max(room, first.shape[i] // 8) else blocks[i]
        # scenes are cut as the first one is, so its blocks begin on whole blocks of the tile
        low[i] = -math.ceil((room - low[i]) / unit) * unit
        high[i] += room
    return first.window(slice(low[0], high[0]), slice(low[1], high[1]))


def outside(tile: Grid, scene: Grid) -> float:
    """The share of a scene's pixels that its tile (same CRS and pixel size) does not hold; 0 up to one pixel beyond."""
    height, width = scene.shape
    kept, beyond = 1.0, 0.0
    for at, n, room in zip(tile.offset(scene), (height, width), tile.shape, strict=True):
        beyond = max(beyond, -at, at + n - room)
        kept *= max(0.0, min(at + n, room) - max(at, 0.0)) / n
    return 1 - kept if beyond > 1 + SHIFT else 0.0


def _short(crs: str) -> str:
    return crs if len(crs) < 40 else crs[:37] + "..."


# -- scheme grid -----------------------------------------------------------------------------------------------------


def zone(lon: float, lat: float) -> str:
    """EPSG code of the UTM zone of a point (degrees), of UPS near the poles."""
    if lat > 84:
        return UPS_NORTH
    if lat < -80:
        return UPS_SOUTH
    number = int(((lon + 180) % 360) // 6) + 1
    return f"EPSG:{(32600 if lat >= 0 else 32700) + number}"


def _zone_of(crs: str) -> str | None:
    """The CRS itself where it is a UTM or UPS zone on WGS 84."""
    from odc.geo.crs import CRS

    epsg = CRS(crs).to_epsg()
    known = epsg is not None and (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760 or epsg in (5041, 5042))
    return f"EPSG:{epsg}" if known else None


def cells(grid: Grid, scheme: TileScheme) -> dict[str, Grid]:
    """Name and grid of each cell of scheme `grid` that a raster's extent touches. Raises BadInput.

    With crs `utm` a raster that is in a UTM or UPS zone stays in it; any other goes into the zone of its centre.
    """
    shape: Geometry = grid.geobox.extent
    crs = scheme.crs
    if crs == "utm":
        crs = _zone_of(grid.crs) or zone(*_centre(shape))
    return _touched(shape, crs, scheme)


def cells_of_box(bbox: Box, scheme: TileScheme) -> dict[str, Grid]:
    """As `cells`, from W, S, E, N in degrees (west > east across the antimeridian): what a plan knows."""
    from odc.geo.geom import box

    west, south, east, north = bbox
    east += 360 if east < west else 0
    crs = scheme.crs if scheme.crs != "utm" else zone((west + east) / 2, (south + north) / 2)
    return _touched(box(west, south, east, north, "EPSG:4326"), crs, scheme)


def _centre(shape: Geometry) -> tuple[float, float]:
    """Longitude and latitude of the middle of a raster."""
    left, bottom, right, top = shape.boundingbox
    return to_degrees(str(shape.crs), (left + right) / 2, (bottom + top) / 2)


def to_degrees(crs: str, x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude of a point of a CRS."""
    from pyproj import Transformer

    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return float(lon), float(lat)


def _touched(shape: Geometry, crs: str, scheme: TileScheme) -> dict[str, Grid]:
    from odc.geo.crs import CRS
    from odc.geo.gridspec import GridSpec

    assert scheme.resolution is not None  # the scheme's own rule
    target = CRS(crs)
    left, bottom, right, top = shape.boundingbox
    step = max(right - left, top - bottom) / 64  # edges bend between two CRS
    moved = shape if shape.crs == target else shape.segmented(step).to_crs(target)
    box = moved.boundingbox
    if not all(math.isfinite(v) for v in box):
        raise BadInput(f"the scene cannot be projected to {crs}", todo="use tiles.crs: utm")
    if target.geographic and (box[2] - box[0] > 180 or box[2] > 180):
        raise BadInput("the scene crosses the antimeridian, where the cells of a geographic grid end",
                       todo="use tiles.crs: utm")  # fmt: skip
    spec = GridSpec(target, (scheme.shape, scheme.shape), scheme.resolution)
    side = scheme.shape * scheme.resolution
    if ((box[2] - box[0]) / side + 1) * ((box[3] - box[1]) / side + 1) > MAX_CELLS:
        raise BadInput(f"the scene would be cut into more than {MAX_CELLS} cells", todo="use a larger tiles.shape")
    out: dict[str, Grid] = {}
    for (ix, iy), geobox in spec.tiles_from_geopolygon(moved):
        if (geobox.extent & moved).area > (SAME * scheme.resolution) ** 2:  # an edge in common is no overlap
            name = f"{crs.replace(':', '').lower()}_{_signed(ix)}_{_signed(iy)}"
            out[name] = replace(Grid.of(geobox), crs=crs)
    return dict(sorted(out.items()))


def _signed(i: int) -> str:
    return f"m{-i}" if i < 0 else str(i)


# -- chunks and windows ----------------------------------------------------------------------------------------------


def overview_factors(shape: tuple[int, int], scheme: TileScheme) -> tuple[int, ...]:
    """The factors of the coarser copies that a tile of this shape gets: those that leave 32 pixels or more. Where the
    scheme names none, 4 and 16, up to the first that is small enough (WHOLE) to be looked at as a whole."""
    said = OVERVIEWS if scheme.overviews is None else scheme.overviews
    wanted = [f for f in sorted(set(said)) if f > 1 and max(shape) / f >= 32]
    if scheme.overviews is None:
        wanted = [f for i, f in enumerate(wanted) if max(shape) / (1, *wanted)[i] > WHOLE]
    return tuple(wanted)


def chunk_shape(shape: tuple[int, int], blocks: tuple[int, int] | None, scheme: TileScheme) -> tuple[int, int]:
    """Chunk (y, x) of a tile: a multiple of the source's blocks up to `scheme.chunk`; a small tile is one chunk.

    Small is up to SMALL chunks a side: cut, it would be a handful of files below a MiB, some of them slivers.
    Blocks that are larger are cut evenly where that goes; strips (as wide as the image) do not count as blocks.
    """
    limit = scheme.chunk
    unit = math.lcm(*(overview_factors(shape, scheme) or (1,)))
    if unit > limit:
        factors = overview_factors(shape, scheme)
        raise BadInput(f"overviews {factors} do not fit chunks of {limit} pixels", todo="use powers of two")
    if max(shape) <= SMALL * limit:
        return shape
    strips = blocks is None or (blocks[1] >= shape[1] and blocks[0] < shape[0]) or min(blocks) < 16
    sides = [_side(n, None if strips or blocks is None else blocks[i], limit, unit) for i, n in enumerate(shape)]
    return sides[0], sides[1]


def _side(n: int, block: int | None, limit: int, unit: int) -> int:
    if n <= limit:
        return n
    default = limit // unit * unit
    if block is None:
        return default
    if block <= limit:
        side = limit // block * block
    else:
        side = next((block // k for k in range(2, 9) if block % k == 0 and block // k <= limit), default)
    return side if side % unit == 0 else default


def windows(
    shape: tuple[int, int], chunk: tuple[int, int], blocks: tuple[int, int] | None, pixel_bytes: int, budget: int
) -> list[Window]:
    """Cut a tile into windows of whole chunks that also hold whole blocks of the source, row by row.

    A window grows along its row, then over further rows, while it stays within `budget` bytes. Strips are read in
    full width unless one row of chunks is already beyond twice the budget.
    """
    steps = []
    for i in (0, 1):
        c, b = chunk[i], min(blocks[i], shape[i]) if blocks is not None else chunk[i]
        steps.append(min(shape[i], c if c % b == 0 else math.lcm(c, b) if math.lcm(c, b) <= 4 * max(c, b) else c))
    strips = blocks is not None and blocks[1] >= shape[1] > chunk[1]
    height, width = steps[0], steps[1]
    if strips:
        width = shape[1] if height * shape[1] * pixel_bytes <= 2 * budget else chunk[1]
    fit = max(1, budget // (height * width * pixel_bytes))
    width = min(shape[1], width * fit)
    if width == shape[1]:
        height = min(shape[0], height * max(1, budget // (height * width * pixel_bytes)))
    return list(_cut(shape, height, width))


def _cut(shape: tuple[int, int], height: int, width: int) -> Iterator[Window]:
    for y in range(0, shape[0], height):
        for x in range(0, shape[1], width):
            yield slice(y, min(y + height, shape[0])), slice(x, min(x + width, shape[1]))
