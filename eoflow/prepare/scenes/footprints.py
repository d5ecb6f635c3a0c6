"""Where windows lie on the ground, whatever their CRS: corners on the ellipsoid, blocks of a global grid, distances.

Corners are kept as earth-centred coordinates (x, y, z in metres), so that zones, the antimeridian and the poles are
nothing special. The distance of two windows is taken in the plane that touches the ellipsoid between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput

if TYPE_CHECKING:
    from eoflow.tiling import Grid

Array = np.ndarray[Any, np.dtype[Any]]
METRES_A_DEGREE = 111194.93
"""On the sphere of equal area (radius 6,371,007 m)."""
ON_EDGE = 8
"""Points that stand for an edge where its extent in degrees is asked for."""


def require_crs(grid: Grid, tile: str) -> None:
    """Raise BadInput for a tile without a place on the ground."""
    if not grid.crs:
        raise BadInput("the tile has no CRS, so that nobody can say what it overlaps", where=f"tile {tile}",
                       todo="split by groups or time needs one too: write the CRS into the entry")  # fmt: skip


def lonlat(grid: Grid, y: Array, x: Array) -> tuple[Array, Array]:
    """Pixel corners (row, column; any shape) -> longitude, latitude in degrees (WGS 84)."""
    from pyproj import Transformer

    a, b, c, d, e, f = grid.transform
    to = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    return to.transform(a * x + b * y + c, d * x + e * y + f)


def corners(grid: Grid, y: Array, x: Array, patch: int) -> Array:
    """Windows at (y, x), (W,) each -> (W, 4, 3) earth-centred corners in metres; cut at the raster's edge."""
    from pyproj import Transformer

    ys, xs = _ring(grid, y, x, patch, 1)
    lon, lat = lonlat(grid, ys, xs)
    to = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    return np.stack(to.transform(lon, lat, np.zeros_like(lon)), axis=-1)


def _ring(grid: Grid, y: Array, x: Array, patch: int, n: int) -> tuple[Array, Array]:
    """(W, 4 n) rows and columns around each window."""
    t = np.arange(n) / n
    one, zero = np.ones(n), np.zeros(n)
    dy = np.concatenate([zero, t, one, 1 - t])
    dx = np.concatenate([t, one, 1 - t, zero])
    height = np.minimum(y + patch, grid.shape[0]) - y
    width = np.minimum(x + patch, grid.shape[1]) - x
    return y[:, None] + dy * height[:, None], x[:, None] + dx * width[:, None]


def pixel_size(grid: Grid) -> float:
    """Metres of a pixel side in the middle of the tile."""
    y, x = np.array([grid.shape[0] / 2]), np.array([grid.shape[1] / 2])
    c = corners(grid, y, x, 1)[0]
    return float(np.sqrt(np.linalg.norm(c[1] - c[0]) * np.linalg.norm(c[3] - c[0])))


# -- blocks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """A global grid of equal blocks: rows of `size` metres from the south pole, each cut evenly around the circle.

    Every place has one block whatever the CRS; nothing special happens at the antimeridian or a pole.
    """

    size: float

    @property
    def rows(self) -> int:
        """Rows from pole to pole."""
        return max(1, round(180 * METRES_A_DEGREE / self.size))

    def columns(self, row: Array) -> Array:
        """How many blocks the row has."""
        middle = np.deg2rad((np.asarray(row) + 0.5) * 180 / self.rows - 90)
        return np.maximum(1, np.round(360 * METRES_A_DEGREE * np.cos(middle) / self.size)).astype(np.int64)

    def at(self, lon: Array, lat: Array) -> Array:
        """(n, 2) row and column of places in degrees."""
        row = np.clip(np.floor((np.asarray(lat) + 90) / 180 * self.rows), 0, self.rows - 1).astype(np.int64)
        n = self.columns(row)
        column = np.minimum(np.floor((np.asarray(lon) + 180) % 360 / 360 * n), n - 1).astype(np.int64)
        return np.stack([row, column], axis=-1)

    def touched(self, grid: Grid, y: Array, x: Array, patch: int, margin: float) -> list[set[tuple[int, int]]]:
        """Of each window: the blocks that it, grown by `margin` metres, may reach into (never too few)."""
        west, east, south, north = _extent(grid, y, x, patch, margin)
        first = np.clip(np.floor((south + 90) / 180 * self.rows), 0, self.rows - 1).astype(int)
        last = np.clip(np.floor((north + 90) / 180 * self.rows), 0, self.rows - 1).astype(int)
        out = []
        for w, e, a, b in zip(west, east, first, last, strict=True):
            found: set[tuple[int, int]] = set()
            for row in range(a, b + 1):
                n = int(self.columns(np.array(row)))
                i, j = int(np.floor((w + 180) / 360 * n)), int(np.floor((e + 180) / 360 * n))
                found |= {(row, k % n) for k in range(i, min(j, i + n - 1) + 1)}
            out.append(found)
        return out


def _extent(grid: Grid, y: Array, x: Array, patch: int, margin: float) -> tuple[Array, Array, Array, Array]:
    """West, east (unwrapped), south, north of windows grown by a margin; a window with a pole goes all around."""
    ys, xs = _ring(grid, y, x, patch, ON_EDGE)
    lon, lat = lonlat(grid, ys, xs)
    steps = (np.diff(np.concatenate([lon, lon[:, :1]], axis=1), axis=1) + 180) % 360 - 180
    along = lon[:, :1] + np.concatenate([np.zeros((len(lon), 1)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
    around = np.abs(steps.sum(axis=1)) > 180
    up = 1.01 * margin / METRES_A_DEGREE + _bulge(lat)
    south, north = lat.min(axis=1) - up, lat.max(axis=1) + up
    south = np.where(around & (lat.mean(axis=1) < 0), -90.0, np.maximum(south, -90))
    north = np.where(around & (lat.mean(axis=1) > 0), 90.0, np.minimum(north, 90))
    shrink = np.cos(np.deg2rad(np.minimum(np.maximum(np.abs(south), np.abs(north)), 89.999)))
    side = 1.01 * margin / METRES_A_DEGREE / shrink + _bulge(along)
    west, east = along.min(axis=1) - side, along.max(axis=1) + side
    return np.where(around, -180.0, west), np.where(around, 180.0, east), south, north


def _bulge(around: Array) -> Array:
    """(W,) how far an edge is off its chord at most: much more than between its points, which it is a margin for."""
    edges = np.concatenate([around, around[:, :1]], axis=1)
    chord = (edges[:, 0:-1:ON_EDGE] + edges[:, ON_EDGE::ON_EDGE]) / 2
    return np.abs(edges[:, ON_EDGE // 2 :: ON_EDGE] - chord).max(axis=1)


# -- distances -------------------------------------------------------------------------------------------------


def separation(a: Array, b: Array) -> Array:
    """(P, 4, 3) and (P, 4, 3) corners -> (P,) metres between the two; negative: how deep they overlap."""
    a, b = _plane(a, b)
    gaps = []
    for first, second in ((a, b), (b, a)):
        edge = np.roll(first, -1, axis=1) - first
        normal = np.stack([edge[..., 1], -edge[..., 0]], axis=-1)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        outward = np.sign(np.einsum("pkd,pd->pk", normal, first.mean(axis=1)) - np.einsum("pkd,pkd->pk", normal, first))
        normal = normal * -np.where(outward == 0, 1, outward)[..., None]
        reach = np.einsum("pkd,pkd->pk", normal, first)
        gaps.append((np.einsum("pkd,pjd->pkj", normal, second).min(axis=2) - reach).max(axis=1))
    apart = np.maximum(gaps[0], gaps[1])
    distance = np.minimum(_to_edges(a, b), _to_edges(b, a))
    return np.where(apart > 0, distance, apart)


def _plane(a: Array, b: Array) -> tuple[Array, Array]:
    """Both on the plane that touches the earth between them, metres, (P, 4, 2) each."""
    middle = (a.mean(axis=1) + b.mean(axis=1)) / 2
    up = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    helper = np.eye(3)[np.argmin(np.abs(up), axis=1)]
    e1 = np.cross(up, helper)
    e1 /= np.linalg.norm(e1, axis=1, keepdims=True)
    axes = np.stack([e1, np.cross(up, e1)], axis=1)
    return tuple(np.einsum("pkd,pad->pka", q - middle[:, None], axes) for q in (a, b))  # type: ignore[return-value]


def _to_edges(points: Array, ring: Array) -> Array:
    """(P,) least distance of the points of one to the edges of the other."""
    start = ring[:, None]
    edge = (np.roll(ring, -1, axis=1) - ring)[:, None]
    t = ((points[:, :, None] - start) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-12)
    nearest = start + np.clip(t, 0, 1)[..., None] * edge
    return np.linalg.norm(points[:, :, None] - nearest, axis=-1).min(axis=(1, 2))
