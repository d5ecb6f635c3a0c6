"""Terrain with drainage: valleys that drain, rivers in them, lakes and sea, and heights above the nearest water.

Relief is the steady state of the stream power law: the slope of a channel falls with the area that it drains,
S ~ A^-m (Whipple and Tucker 1999), so height is a sum of slopes along the way to the outlet. Ways are the cheapest
paths over a rough field that prefer low ground, found again after each pass. Height above the nearest drainage
(Renno et al. 2008) is what a flood is drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from .noise import Field, fractal, rng, smooth, step
from .tiles import RESOLUTION

Mask = NDArray[np.bool_]
Index = NDArray[np.int64]
FACTOR = 4  # drainage is found on a grid this much coarser


@dataclass(frozen=True, eq=False)
class Terrain:
    """height, m; hand: height above the nearest water, m (0 on it); water: river, lake or sea; river: that part only.

    distance: to the nearest water, m. slope: tangent. normal: unit normal as (east, north, up). All (y, x).
    """

    height: Field
    hand: Field
    distance: Field
    water: Mask
    river: Mask
    sea: Mask
    slope: Field
    normal: tuple[Field, Field, Field]


@dataclass(frozen=True)
class Relief:
    """What a tile's ground is like. relief: m from valley to ridge. floodplain: m, how wide the valley floors are.

    river: width of the largest river, m. lakes, sea: share of the tile, about.
    """

    base: float
    relief: float
    floodplain: float
    river: float
    lakes: float = 0.0
    sea: float = 0.0
    concavity: float = 0.45


def make(size: int, shape: Relief, *name: Any) -> Terrain:
    """The terrain called `name`, (size, size) pixels."""
    gen = rng("terrain", *name)
    n = size // FACTOR
    sea = _sea(gen, size, shape.sea)
    sea_coarse = sea[FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR]
    coarse, receiver, area = _drainage(gen, n, sea_coarse, shape)
    detail = fractal(gen, 2 * size, slope=1.9, outer=12.0, crop=size)
    z = ndimage.zoom(coarse, FACTOR, order=3, mode="nearest", grid_mode=True).astype("f4") * shape.relief
    points, width, level = _channels(gen, size, coarse * shape.relief, receiver, area, shape)
    distance, nearest = _nearest(size, points)
    river_level, river_width = level[nearest], width[nearest]
    river = distance <= np.maximum(river_width, RESOLUTION) / 2.0
    river &= river_width > 6.0
    # valley floors: flat beside large rivers, with the small relief of levees and old channels
    half = 20.0 + shape.floodplain * np.sqrt(np.minimum(river_width / max(shape.river, 1.0), 1.0))
    floor = step(distance / half, 0.1, 1.6)
    ripple = fractal(gen, 2 * size, slope=1.5, outer=16.0, crop=size)
    z = np.maximum(z, river_level + 0.015 * np.maximum(distance - half, 0.0))
    z = river_level + (z - river_level) * floor + min(0.05 * shape.relief, 4.0 + 0.014 * shape.relief) * detail * floor
    z += (0.7 + 0.3 * np.minimum(distance / 150.0, 3.0)) * (0.9 + 0.6 * ripple) * (1 - 0.6 * floor)
    z = np.maximum(z, river_level + 0.1)
    z[river] = river_level[river]
    z[sea] = 0.0
    water = river | sea
    lake, z = _lakes(gen, z, water, shape.lakes, size)
    water |= lake
    hand, away = _above(z, water)
    return _finish(z, hand, away, water, river & ~lake & ~sea, sea, shape.base)


def _finish(z: Field, hand: Field, away: Field, water: Mask, river: Mask, sea: Mask, base: float) -> Terrain:
    soft = smooth(z, 1.0)
    south, east = (np.asarray(g, np.float32) for g in np.gradient(soft, RESOLUTION))
    slope = np.hypot(south, east)
    up = 1.0 / np.sqrt(1.0 + slope**2)
    normal = (-east * up).astype("f4"), (south * up).astype("f4"), up.astype("f4")
    return Terrain((z + np.float32(base)).astype("f4"), hand, away, water, river, sea, slope, normal)


def _sea(gen: np.random.Generator, size: int, share: float) -> Mask:
    if share <= 0.0:
        return np.zeros((size, size), bool)
    angle = gen.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size].astype("f4") / size - 0.5
    ramp = x * np.cos(angle) + y * np.sin(angle) + 0.16 * fractal(gen, 2 * size, slope=2.1, outer=3.0, crop=size)
    return np.asarray(ramp > np.quantile(ramp, 1.0 - share))


@lru_cache(maxsize=4)
def _neighbours(n: int) -> tuple[Index, Index, Field]:
    """Pairs of neighbouring cells (both ways are one edge) and their distance, of an (n, n) grid."""
    cell = np.arange(n * n).reshape(n, n)
    pairs, far = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = cell[: n - dy, max(0, -dx) : n - max(0, dx)]
        b = cell[dy:, max(0, dx) : n - max(0, -dx)]
        pairs.append(np.stack([a.ravel(), b.ravel()]))
        far.append(np.full(a.size, np.hypot(dy, dx), np.float32))
    both = np.concatenate(pairs, axis=1)
    return both[0], both[1], np.concatenate(far)


def paths(cost: Field, targets: Index) -> tuple[NDArray[np.float64], Index]:
    """Cheapest way of every cell of an (n, n) cost field to a target: (cost, next cell; itself at a target)."""
    n = cost.shape[0]
    a, b, far = _neighbours(n)
    flat = cost.ravel()
    graph = sparse.csr_matrix((far * (flat[a] + flat[b]) / 2.0, (a, b)), shape=(n * n, n * n))
    total, before, _ = csgraph.dijkstra(graph, directed=False, indices=targets, return_predecessors=True, min_only=True)
    receiver = np.where(before < 0, np.arange(n * n), before).astype(np.int64)
    return total, receiver


def _drainage(gen: np.random.Generator, n: int, sea: Mask, shape: Relief) -> tuple[Field, Index, NDArray[np.float64]]:
    """Heights (n, n) in 0..1, the next cell downstream, and the drained area in cells."""
    rough = fractal(gen, 2 * n, slope=2.0, outer=2.0, crop=n)
    hills = fractal(gen, 2 * n, slope=2.6, outer=2.0, crop=n)
    edge = np.zeros((n, n), bool)
    side = int(gen.integers(4))
    rows = np.rot90(edge, side)  # a view: the river leaves on one side, and small ones on the others
    rows[0, :] = True
    outlets = np.flatnonzero(sea) if sea.any() else np.flatnonzero(edge)
    if not sea.any():
        keep = gen.choice(outlets, size=2, replace=False)
        outlets = np.sort(keep)
    z = (rough - rough.min()) / np.ptp(rough)
    away = np.rot90(np.broadcast_to(np.linspace(0, 1, n, dtype="f4")[:, None], (n, n)), -side)
    z = z + 0.6 * away
    inflow = np.ones(n * n)
    if not sea.any():  # a river that comes from outside: its catchment is larger than the tile
        entry = np.flatnonzero(np.rot90(np.pad(np.ones((1, n), bool), ((n - 1, 0), (0, 0))), -side))
        inflow[gen.choice(entry)] = 0.6 * n * n
    receiver = np.zeros(0, np.int64)
    area = inflow
    for _ in range(5):
        _, receiver = paths((0.03 + z**2).astype("f4"), outlets)
        area = _accumulate(receiver, inflow)
        slope = area**-shape.concavity
        y, x = np.divmod(np.arange(n * n), n)
        far = np.hypot(y - y[receiver], x - x[receiver])
        uplift = np.exp(0.7 * hills).ravel()
        height = _downstream_sum(receiver, far * slope * uplift)
        height /= np.quantile(height, 0.995)
        z = height.reshape(n, n).astype("f4") + 0.03 * rough
        z -= z.min()
    return smooth(height.reshape(n, n).astype("f4"), 0.8), receiver, area


def _accumulate(receiver: Index, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of `own` over all cells that drain through each: sum of (P^T)^j = product of (1 + (P^T)^(2^k))."""
    n = receiver.size
    jump = np.where(receiver == np.arange(n), n, receiver)
    jump = np.append(jump, n)
    total = np.append(own, 0.0)
    while (jump[:-1] < n).any():
        total = total + np.bincount(jump, weights=total, minlength=n + 1)
        total[n] = 0.0
        jump = jump[jump]
    return total[:n]


def _downstream_sum(receiver: Index, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of `own` along the way from each cell to its outlet (the outlet counts 0)."""
    total = np.where(receiver == np.arange(receiver.size), 0.0, own)
    jump = receiver
    while (jump != jump[jump]).any():
        total, jump = total + total[jump], jump[jump]
    return total


def _channels(
    gen: np.random.Generator, size: int, height: Field, receiver: Index, area: NDArray[np.float64], shape: Relief
) -> tuple[Field, Field, Field]:
    """Points along all channels: (k, 2) fine pixel coordinates (y, x), their width in m, and water level in m."""
    n = size // FACTOR
    cells = np.flatnonzero(area > 0.0025 * n * n)
    position = np.stack(np.divmod(np.arange(n * n), n), axis=1).astype("f4")
    bend = np.stack([fractal(gen, 2 * n, slope=1.6, outer=14.0, crop=n).ravel() for _ in range(2)], axis=1)
    fixed = receiver == np.arange(n * n)
    for _ in range(4):  # the steps of the grid become curves
        mean = 0.5 * position + 0.5 * position[receiver]
        position = np.where(fixed[:, None], position, mean)
    position = position + 1.3 * bend
    t = np.linspace(0, 1, 10, endpoint=False, dtype="f4")[:, None, None]
    a, b = position[cells], position[receiver[cells]]
    points = (a + (b - a) * t).reshape(-1, 2) * FACTOR + FACTOR / 2.0 - 0.5
    wide = shape.river * (area / area.max()) ** 0.55
    widths = np.broadcast_to(wide[cells], (10, cells.size)).ravel()
    flat = height.ravel()
    levels = (flat[cells] + (flat[receiver[cells]] - flat[cells]) * t[..., 0]).ravel()
    return points, widths.astype("f4"), levels.astype("f4")


def _nearest(size: int, points: Field) -> tuple[Field, Index]:
    """Distance (m) of every pixel to the nearest channel point, and which that is."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    y, x = np.mgrid[:size, :size]
    d, i = tree.query(np.stack([y.ravel(), x.ravel()], axis=1).astype("f4"), workers=1)
    return (d.reshape(size, size) * RESOLUTION).astype("f4"), i.reshape(size, size)


def _lakes(gen: np.random.Generator, z: Field, water: Mask, share: float, size: int) -> tuple[Mask, Field]:
    """Lakes of about `share` of the tile: basins of a smooth field, cut level into low ground."""
    if share <= 0.0:
        return np.zeros_like(water), z
    basin = fractal(gen, 2 * size, slope=2.4, outer=9.0, crop=size) - 0.8 * smooth(z, 8.0) / (np.std(z) + 1.0)
    lake = basin > np.quantile(basin, 1.0 - share)
    lake = ndimage.binary_opening(lake, iterations=2)
    label, count = ndimage.label(lake)
    if count == 0:
        return lake, z
    which = np.arange(1, count + 1)
    level = np.concatenate([[0.0], ndimage.minimum(z, label, which)]).astype("f4")
    rim = np.maximum(ndimage.distance_transform_edt(~lake).astype("f4") * RESOLUTION - 5.0, 0.0)
    near = level[label]
    spread = ndimage.distance_transform_edt(~lake, return_distances=False, return_indices=True)
    shore = near[spread[0], spread[1]]
    z = np.where(lake, near, np.where(rim < 200.0, np.minimum(z, shore + 0.2 + 0.25 * rim), z)).astype("f4")
    return lake & ~water, z


def _above(z: Field, water: Mask) -> tuple[Field, Field]:
    """Height above the nearest water (m) and the distance to it (m)."""
    if not water.any():
        return np.full_like(z, 1e3), np.full_like(z, 1e5)
    away, index = ndimage.distance_transform_edt(~water, return_indices=True)
    level = smooth(z[index[0], index[1]], 3.0)
    hand = np.maximum(z - level, 0.0)
    hand[water] = 0.0
    return hand.astype("f4"), (away * RESOLUTION).astype("f4")
