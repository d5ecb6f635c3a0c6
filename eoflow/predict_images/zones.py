"""Areas in km2 on the ellipsoid: of the pixels of a grid, and of the classes of a map inside zones.

A pixel's area is not its width times its height: a UTM pixel of 100 m2 covers up to 0.2 % more or less, one of web
mercator half as much at 45 degrees. Areas are those of the pixel's outline on an equal-area projection of the
ellipsoid; of a geographic grid the closed form (Snyder 1987, "Map Projections", USGS PP 1395, eq. 3-12).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.tiling import Box, Grid

Array = np.ndarray[Any, Any]
CELL_PIXELS, CELL_METRES = 16, 1000.0
"""Within a square of so many pixels, and not more metres, all pixels count as equally large."""
BLOCK = 1024
LEVELS = 256


# -- pixels ----------------------------------------------------------------------------------------------------------


class PixelAreas:
    """Areas of the pixels of a grid in m2. Raises BadInput for a grid without CRS."""

    def __init__(self, grid: Grid) -> None:
        if not grid.crs:
            raise BadInput("the image has no georeference: its pixels have no area", todo="write its CRS first")
        self.grid = grid

    @cached_property
    def _cells(self) -> tuple[int, Array]:
        """(pixels a side of a cell, mean area of a pixel in each cell)."""
        from pyproj import CRS, Transformer

        crs = CRS.from_user_input(self.grid.crs)
        a, b, c, d, e, f = self.grid.transform
        height, width = self.grid.shape
        unit = float(crs.axis_info[0].unit_conversion_factor or 1) if crs.axis_info else 1.0
        side = max(abs(a) + abs(b), abs(d) + abs(e)) * unit * (6_371_000 if crs.is_geographic else 1)
        step = int(np.clip(CELL_METRES // side, 1, CELL_PIXELS))
        rows, columns = (np.append(np.arange(0, n, step), n) for n in (height, width))
        pixels = np.outer(np.diff(rows), np.diff(columns))
        if crs.is_geographic and not b and not d:
            edges = _authalic(crs, (f + e * rows) * unit)
            return step, np.abs(np.outer(np.diff(edges), np.diff(columns) * a * unit)) / pixels
        x, y = (p + q for p, q in ((c + a * columns, b * rows[:, None]), (f + d * columns, e * rows[:, None])))
        lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
        middle = float(np.median(lon[np.isfinite(lon)])), float(np.median(lat[np.isfinite(lat)]))
        equal = CRS.from_proj4(f"+proj=laea +lon_0={middle[0]} +lat_0={middle[1]} +ellps=WGS84 +units=m")
        x, y = Transformer.from_crs("EPSG:4326", equal, always_xy=True).transform(lon, lat)
        return step, _quadrilaterals(np.asarray(x), np.asarray(y)) / pixels

    def window(self, rows: slice, columns: slice) -> Array:
        """(rows, columns) float64 m2."""
        step, cells = self._cells
        at = (np.arange(rows.start, rows.stop) // step, np.arange(columns.start, columns.stop) // step)
        return np.asarray(cells[np.ix_(*at)])


def _authalic(crs: Any, latitude: Array) -> Array:
    """Area in m2 a radian of longitude between the equator and each latitude (radians), on the CRS's ellipsoid."""
    a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
    square = 1 - (b / a) ** 2
    s = np.sin(np.clip(latitude, -np.pi / 2, np.pi / 2))
    if square <= 0:
        return np.asarray(a * a * s)
    e = np.sqrt(square)
    return np.asarray(a * a * (1 - square) / 2 * (s / (1 - square * s * s) + np.arctanh(e * s) / e))


def _quadrilaterals(x: Array, y: Array) -> Array:
    """Areas of the cells between nodes (n, m): (n - 1, m - 1), by their diagonals."""
    one = (x[1:, 1:] - x[:-1, :-1]) * (y[1:, :-1] - y[:-1, 1:])
    two = (y[1:, 1:] - y[:-1, :-1]) * (x[1:, :-1] - x[:-1, 1:])
    return np.asarray(np.abs(one - two) / 2)


# -- zones -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Zone:
    """A named area. shape: a (multi)polygon of shapely in degrees; None: all of the image."""

    name: str
    shape: Any = None

    def mask(self, grid: Grid, rows: slice, columns: slice) -> Array | None:
        """Which pixels of a window have their centre in the zone: (rows, columns) bool; None: all of them."""
        if self.shape is None:
            return None
        from affine import Affine
        from rasterio.features import geometry_mask
        from shapely.geometry import mapping

        part = grid.window(rows, columns)
        shape = _projected(self.shape, grid.crs)
        if shape.is_empty:
            return np.zeros(part.shape, bool)
        return np.asarray(geometry_mask([mapping(shape)], part.shape, Affine(*part.transform), invert=True))

    @property
    def hash(self) -> str:
        """Of name and outline."""
        text = "" if self.shape is None else self.shape.wkb_hex
        return hashlib.sha256(f"{self.name} {text}".encode()).hexdigest()[:16]


def _projected(shape: Any, crs: str) -> Any:
    """A shape in degrees, in another CRS, its long edges bent as they must be."""
    from pyproj import Transformer
    from shapely import segmentize
    from shapely.ops import transform

    to = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    return transform(to, segmentize(shape, 0.02)).buffer(0)


def read_zones(path: str | Path) -> list[Zone]:
    """The polygons of a GeoJSON file (degrees, or its `crs` member), named by `properties.name`. Raises BadInput."""
    from shapely.geometry import shape

    file = Path(path)
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BadInput("this is no GeoJSON file", where=str(path), todo=f"{type(e).__name__}: {e}") from None
    features = raw.get("features") if isinstance(raw, dict) and raw.get("type") == "FeatureCollection" else [raw]
    zones: list[Zone] = []
    for i, feature in enumerate(features or [], 1):
        is_feature = isinstance(feature, dict) and feature.get("type") == "Feature"
        geometry = feature.get("geometry") if is_feature else feature
        name = str(((feature.get("properties") or {}) if is_feature else {}).get("name") or f"zone {i}")
        try:
            found = shape(geometry)
        except Exception as e:
            raise BadInput(f"'{name}' has no geometry that can be read: {e}", where=str(path)) from None
        if found.geom_type not in ("Polygon", "MultiPolygon") or found.is_empty:
            raise BadInput(f"'{name}' is a {found.geom_type}", where=str(path), todo="zones are polygons")
        zones.append(Zone(name, _in_degrees(found.buffer(0), raw, str(path))))
    if not zones:
        raise BadInput("there is no polygon in it", where=str(path))
    names = [z.name for z in zones]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise BadInput(f"two zones are called '{twice[0]}'", where=str(path), todo="give each properties.name its own")
    return zones


def _in_degrees(shape: Any, raw: Any, where: str) -> Any:
    """Coordinates as they stand, or brought back from the CRS that old GeoJSON files name."""
    said = ((raw.get("crs") or {}).get("properties") or {}).get("name") if isinstance(raw, dict) else None
    if said and "CRS84" not in said and not said.endswith(":4326"):
        from pyproj import Transformer
        from shapely.ops import transform

        shape = transform(Transformer.from_crs(said, "EPSG:4326", always_xy=True).transform, shape)
    west, south, east, north = shape.bounds
    if not (-90 <= south <= north <= 90 and -360 <= west <= east <= 360):
        raise BadInput(f"its coordinates are no degrees: {west:g}, {south:g}, {east:g}, {north:g}", where=where,
                       todo="GeoJSON is longitude, latitude (RFC 7946)")  # fmt: skip
    return shape


@dataclass(frozen=True)
class Area:
    """Where a product is wanted: a box W, S, E, N in degrees, and inside it perhaps an outline."""

    box: Box
    outline: Zone | None = None

    @classmethod
    def parse(cls, text: str | Sequence[float] | Path | None) -> Area | None:
        """`W,S,E,N`, four numbers, or the path of a GeoJSON file. Raises BadInput."""
        if text is None:
            return None
        if not isinstance(text, str | Path):
            west, south, east, north = (float(v) for v in text)
            return cls((west, south, east, north))
        parts = str(text).split(",")
        try:
            numbers = [float(p) for p in parts]
        except ValueError:
            numbers = []
        if len(numbers) == 4:
            return cls((numbers[0], numbers[1], numbers[2], numbers[3]))
        if not Path(text).is_file():
            raise BadInput(f"'{text}' is neither W,S,E,N nor a file", where="--area", todo="four numbers in degrees")
        from shapely.ops import unary_union

        whole = unary_union([z.shape for z in read_zones(text)])
        return cls(whole.bounds, Zone(Path(text).stem, whole))

    def __str__(self) -> str:
        box = ", ".join(f"{v:g}" for v in self.box)
        return box if self.outline is None else f"{box} ({self.outline.name} {self.outline.hash})"


# -- sums ------------------------------------------------------------------------------------------------------------


@dataclass
class Census:
    """Areas of the values 0..255 of a map by zone, in m2, added up block by block."""

    grid: Grid
    zones: Sequence[Zone]
    sums: Array = field(init=False)

    def __post_init__(self) -> None:
        self.areas = PixelAreas(self.grid)
        self.sums = np.zeros((len(self.zones), LEVELS))

    def add(self, rows: slice, columns: slice, values: Array) -> None:
        """Values (uint8) of a window."""
        area = self.areas.window(rows, columns)
        for k, zone in enumerate(self.zones):
            inside = zone.mask(self.grid, rows, columns)
            v, a = (values.ravel(), area.ravel()) if inside is None else (values[inside], area[inside])
            self.sums[k] += np.bincount(v, weights=a, minlength=LEVELS)

    def km2(self, zone: int, value: int) -> float:
        """Area of a value in a zone."""
        return float(self.sums[zone, value] / 1e6)


def census(grid: Grid, zones: Sequence[Zone], read: Callable[[slice, slice], Array]) -> Census:
    """The areas of a whole map, read in blocks."""
    out = Census(grid, zones)
    for y in range(0, grid.shape[0], BLOCK):
        for x in range(0, grid.shape[1], BLOCK):
            rows, columns = slice(y, min(y + BLOCK, grid.shape[0])), slice(x, min(x + BLOCK, grid.shape[1]))
            out.add(rows, columns, read(rows, columns))
    return out
