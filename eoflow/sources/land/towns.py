"""Towns: where they lie, their streets, lots and houses, and the roads between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .noise import Field, fractal, smooth, step
from .terrain import FACTOR, Mask, Terrain, paths

Ids = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Towns:
    """density 0..1; area: settled; street, road, building: masks; lot: its id everywhere; angle of the streets."""

    density: Field
    area: Mask
    street: Mask
    road: Mask
    building: Mask
    lot: Ids
    angle: Field


def make(gen: np.random.Generator, t: Terrain, count: int, radius: float) -> Towns:
    """`count` towns of about `radius` m and some hamlets, on gentle ground above the river."""
    size = t.height.shape[0]
    centres, radii = _sites(gen, t, count, radius / 10.0)
    y, x = np.mgrid[:size, :size].astype("f4")
    ragged = np.exp(0.45 * fractal(gen, 2 * size, slope=1.8, outer=10.0, crop=size))
    density = np.zeros((size, size), np.float32)
    angle = np.zeros((size, size), np.float32)
    best = np.zeros((size, size), np.float32)
    for (cy, cx), r in zip(centres, radii):
        near = np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / np.float32(r * r))) * ragged
        angle = np.where(near > best, np.float32(gen.uniform(0, np.pi / 2)), angle)
        best = np.maximum(best, near)
        density = np.maximum(density, near)
    density = np.minimum(density, 1.0) * step(0.25 - t.slope, 0.0, 0.12) * step(t.hand, 0.6, 1.8)
    road = _roads(gen, t, centres)
    density = np.maximum(density, 0.30 * smooth(road.astype("f4"), 3.0) * (ragged > 1.25)).astype("f4")
    area = density > 0.33
    street, building, lot = lots(gen, size, angle, density)
    return Towns(density, area, street & area, road, building & area & ~street, lot, angle)


def _sites(gen: np.random.Generator, t: Terrain, count: int, radius: float) -> tuple[NDArray[np.int64], Field]:
    """Centres (k, 2) and radii (pixels) of towns and hamlets."""
    size = t.height.shape[0]
    wish = 1.2 * step(t.hand, 1.0, 4.0) * np.exp(-t.distance / 900.0) - 8.0 * smooth(t.slope, 4.0) - 5.0 * t.water
    wish += 0.5 * fractal(gen, 2 * size, slope=2.0, outer=5.0, crop=size)
    wish[t.height > np.quantile(t.height, 0.8)] -= 1.0
    spots, radii = [], []
    y, x = np.mgrid[:size, :size].astype("f4")
    for k in range(count + 4):
        spot = np.unravel_index(int(np.argmax(wish)), wish.shape)
        spots.append(spot)
        r = radius * np.exp(gen.normal(0, 0.2)) if k < count else gen.uniform(6, 14)
        radii.append(r * size / 512 if k < count else r)
        wish = wish - 6.0 * np.exp(-((y - spot[0]) ** 2 + (x - spot[1]) ** 2) / np.float32((2.2 * r + 30) ** 2))
    return np.asarray(spots), np.asarray(radii, np.float32)


def lots(gen: np.random.Generator, size: int, angle: Field, density: Field) -> tuple[Mask, Mask, Ids]:
    """(street, building, lot id) of a street grid turned by `angle`; denser and larger houses where density is high."""
    y, x = np.mgrid[:size, :size].astype("f4")
    bend = [1.5 * fractal(gen, 2 * size, slope=2.4, outer=4.0, crop=size) for _ in range(2)]
    c, s = np.cos(angle), np.sin(angle)
    u = (x + bend[0]) * c + (y + bend[1]) * s + 4096.0
    v = -(x + bend[0]) * s + (y + bend[1]) * c + 4096.0
    across, along = 9.0, 15.0
    bu, bv = np.floor(u / across), np.floor(v / along)
    street = (u - bu * across < 1.0) | (v - bv * along < 1.0)
    code = (bu * 613 + bv * 7919 + np.round(angle * 100)).astype(np.int64)
    big = _hash(code) < 0.16  # whole blocks of halls, else rows of houses
    du = np.where(big, across - 1.0, (across - 1.0) / 2.0)
    dv = np.where(big, (along - 1.0) / 2.0, (along - 1.0) / 5.0)
    pu, pv = u - bu * across - 1.0, v - bv * along - 1.0
    iu, iv = np.floor(pu / du), np.floor(pv / dv)
    own = code * 64 + (iu * 8 + iv).astype(np.int64)
    lot = (own % 2_000_000_011).astype(np.int32)
    half_u = np.where(big, 0.41, 0.30 + 0.14 * _hash(own + 1)) * du
    half_v = np.where(big, 0.42, 0.28 + 0.20 * _hash(own + 2)) * dv
    inside = (np.abs(pu - (iu + 0.5) * du) < half_u) & (np.abs(pv - (iv + 0.5) * dv) < half_v)
    building = inside & (_hash(own + 3) < 0.25 + 0.75 * density)
    return street, building, np.maximum(lot, 1).astype(np.int32)


def _hash(code: NDArray[np.int64]) -> NDArray[np.float32]:
    """A number in [0, 1) for each code, always the same."""
    h = code.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return (h >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _roads(gen: np.random.Generator, t: Terrain, centres: NDArray[np.int64]) -> Mask:
    """Roads along the cheapest ways between towns and out of the tile, one to two pixels wide."""
    size = t.height.shape[0]
    n = size // FACTOR
    half = FACTOR // 2
    slope, water = (a[half::FACTOR, half::FACTOR] for a in (t.slope, t.water))
    cost = (1.0 + 60.0 * slope**2 + 6.0 * water + 0.6 * np.exp(fractal(gen, 2 * n, outer=4.0, crop=n))).astype("f4")
    cells = np.minimum(centres // FACTOR, n - 1)
    flat = cells[:, 0] * n + cells[:, 1]
    ends = gen.integers(0, n, 3)
    exits = np.array([ends[0], (n - 1) * n + ends[1], ends[2] * n, ends[2] * n + n - 1])
    road = np.zeros((size, size), bool)
    _, receiver = paths(cost, flat[:1])
    for start in [*flat[1:], *exits]:
        way = [int(start)]
        while receiver[way[-1]] != way[-1]:
            way.append(int(receiver[way[-1]]))
        line = np.stack(np.divmod(np.asarray(way), n), 1).astype("f4") * FACTOR + half
        if len(line) < 3:
            continue
        for _ in range(6):  # corners of the grid become curves
            line[1:-1] = (line[:-2] + 2.0 * line[1:-1] + line[2:]) / 4.0
        at = np.linspace(0, len(line) - 1, 6 * len(line))
        fine = np.stack([np.interp(at, np.arange(len(line)), line[:, k]) for k in range(2)], 1)
        yx = np.clip(np.round(fine).astype(int), 0, size - 1)
        road[yx[:, 0], yx[:, 1]] = True
    return road
