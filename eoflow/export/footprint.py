"""The outline of a pixel grid in degrees, right across the antimeridian and around a pole (RFC 7946, 3.1.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.tiling import Grid

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

EDGE_POINTS = 8
"""Points along each side at least: edges of a projection are bent in degrees."""
BENT = 64
"""Points along each side of an image that spans many degrees of longitude (near a pole)."""
Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]


def outline(grid: Grid) -> tuple[dict[str, Any], Box]:
    """(GeoJSON geometry, W, S, E, N) in degrees, WGS 84. Across the antimeridian: a MultiPolygon, and W > E.

    Raises BadInput for a grid without a CRS, or with a corner that has no place on the Earth.
    """
    from pyproj import CRS
    from shapely.geometry import Polygon

    if not grid.crs:
        raise BadInput("the image has no CRS: nothing says where it lies", todo="export without a STAC item")
    lon, lat = _edge(grid, EDGE_POINTS)
    if np.ptp(np.unwrap(lon, period=360)) > 5:
        lon, lat = _edge(grid, BENT)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise BadInput("a corner of the grid has no place on the Earth", todo="check its CRS and transform")
    lat = np.clip(lat, -90, 90)
    turned = np.unwrap(np.append(lon, lon[0]), period=360)
    if CRS.from_user_input(grid.crs).is_geographic:
        turned = np.append(lon, lon[0])  # its own longitudes are right as they are: it may go all the way round
    if abs(turned[-1] - turned[0]) > 180:  # once around: a pole is inside
        north = float(lat.mean()) > 0
        south, top = (float(lat.min()), 90.0) if north else (-90.0, float(lat.max()))
        return _mapped(_cap(turned, lat, north)), _box(-180, south, 180, top)
    turned = turned[:-1]
    turned = turned - 360 * np.floor((turned.min() + 180) / 360)  # the west end in -180..180
    ring = Polygon(zip(turned, lat, strict=True))
    south, north_ = float(lat.min()), float(lat.max())
    if turned.max() <= 180:
        return _mapped(ring), _box(turned.min(), south, turned.max(), north_)
    return _mapped(_split(ring)), _box(turned.min(), south, turned.max() - 360, north_)


def _edge(grid: Grid, points: int) -> tuple[Array, Array]:
    """Longitude and latitude along the edge of a grid, `points` a side."""
    from pyproj import Transformer

    t = np.linspace(0, 1, points, endpoint=False)
    one, zero = np.ones_like(t), np.zeros_like(t)
    column = np.concatenate([t, one, 1 - t, zero]) * grid.shape[1]
    row = np.concatenate([zero, t, one, 1 - t]) * grid.shape[0]
    a, b, c, d, e, f = grid.transform
    there = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = there.transform(c + a * column + b * row, f + d * column + e * row)
    return np.asarray(lon), np.asarray(lat)


def _split(ring: BaseGeometry) -> BaseGeometry:
    """A polygon that runs beyond 180 degrees as one on each side of the antimeridian."""
    from shapely.affinity import translate
    from shapely.geometry import MultiPolygon, box

    west = ring.intersection(box(-180, -90, 180, 90))
    east = translate(ring.intersection(box(180, -90, 540, 90)), -360)
    parts = [p for g in (west, east) for p in getattr(g, "geoms", [g]) if p.geom_type == "Polygon" and p.area > 0]
    return MultiPolygon(parts)


def _cap(turned: Array, lat: Array, north: bool) -> BaseGeometry:
    """The polygon of degrees around a pole: from the grid's edge to 90 degrees, from -180 to 180."""
    from shapely.geometry import Polygon, box

    lon = (turned[:-1] + 180) % 360 - 180
    order = np.argsort(lon)
    lon, phi = lon[order], lat[order]
    edge = float(np.interp(180, [lon[-1], lon[0] + 360], [phi[-1], phi[0]]))
    pole = 90.0 if north else -90.0
    points = [(-180, edge), *zip(lon, phi, strict=True), (180, edge), (180, pole), (-180, pole)]
    shape = Polygon(points)
    if shape.is_valid:
        return shape
    south, top = sorted((float(lat.min() if north else lat.max()), pole))
    return box(-180, south, 180, top)


def _mapped(shape: BaseGeometry) -> dict[str, Any]:
    from shapely.geometry import mapping
    from shapely.geometry.polygon import orient

    parts = [orient(p) for p in getattr(shape, "geoms", [shape])]  # exterior rings counterclockwise
    rings = [_rounded(mapping(p)["coordinates"]) for p in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _rounded(polygon: Any) -> list[list[list[float]]]:
    return [[[round(float(x), 7), round(float(y), 7)] for x, y in ring] for ring in polygon]


def _box(west: float, south: float, east: float, north: float) -> Box:
    w, s, e, n = (round(float(v), 7) for v in (west, south, east, north))
    return w, s, e, n
