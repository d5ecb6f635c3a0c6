"""The one place where prepare reads a cube of scenes: its slots (tile, time), their content, and windows of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eoflow.times import NS

if TYPE_CHECKING:
    import zarr

    from eoflow.bands import SceneSchema
    from eoflow.tiling import Grid

Array = np.ndarray[Any, np.dtype[Any]]


class CubeLike(Protocol):
    """What prepare asks of `eoflow.cube.Cube`."""

    @property
    def snapshot(self) -> str:
        """Id of the newest state."""
        ...

    @property
    def schema(self) -> SceneSchema:
        """Bands and their radiometry."""
        ...

    def tiles(self, as_of: str | None = None) -> list[str]:
        """Names of the tiles."""
        ...

    def grid(self, tile: str, as_of: str | None = None) -> Grid:
        """Pixel grid of a tile."""
        ...

    def group(self, tile: str, as_of: str | None = None) -> zarr.Group:
        """Its arrays: time, bands and quality (time, y, x), items (time,)."""
        ...


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile at one snapshot. times: (T,) datetime64[ns], increasing. digests: (T,) uint64 of the content of each time,
    0 where nothing is stored. items: (T,) JSON lists of the scenes."""

    name: str
    grid: Grid
    group: zarr.Group
    times: Array
    items: tuple[str, ...]
    digests: Array

    @classmethod
    def load(cls, cube: CubeLike, name: str, as_of: str | None = None) -> Tile:
        """Reads metadata only."""
        group = cube.group(name, as_of)
        items = tuple(str(x) for x in np.asarray(group["items"][:]).tolist())  # type: ignore[index]
        digests = np.array([_digest(x) for x in items], "u8")
        return cls(name, cube.grid(name, as_of), group, times_of(group), items, digests)

    @property
    def stored(self) -> Array:
        """Indices of the times that hold a scene."""
        return np.flatnonzero(self.digests)

    def chunk(self) -> int:
        """Rows of a chunk of the quality layer."""
        array: Any = self.group["quality"]
        return int((array.shards or array.chunks)[1])

    def strips(self, limit: int = 32 << 20) -> Iterator[tuple[int, int]]:
        """(start, stop) rows of pieces that are whole chunks high, and of about `limit` pixels at most."""
        height, width = self.grid.shape
        rows = max(1, limit // max(1, width) // self.chunk()) * self.chunk()
        for start in range(0, height, rows):
            yield start, min(start + rows, height)


def times_of(group: zarr.Group) -> Array:
    """(T,) datetime64[ns] of a tile's group, by its CF units."""
    array: Any = group["time"]
    unit = str(array.attrs.get("units", "seconds since 1970-01-01")).split(" since ")[0]
    code = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns", "days": "D"}[unit]
    return np.asarray(array[:]).astype("i8").astype(f"datetime64[{code}]").astype(NS)


def tiles(cube: CubeLike, as_of: str | None = None) -> list[Tile]:
    """Every tile of the cube, by name."""
    return [Tile.load(cube, name, as_of) for name in sorted(cube.tiles(as_of))]


def fingerprint(found: list[Tile], extra: Any = None) -> str:
    """16 hex digits over the content of all tiles: names, grids, times and what is stored there."""
    h = hashlib.sha256(repr(extra).encode())
    for tile in found:
        at = tile.stored
        h.update(f"{tile.name}|{tile.grid.crs}|{tile.grid.transform}|{tile.grid.shape}|".encode())
        h.update(tile.times[at].astype("<i8").tobytes() + tile.digests[at].astype("<u8").tobytes())
    return h.hexdigest()[:16]


def read(group: zarr.Group, name: str, slot: int, y: slice, x: slice = slice(None)) -> Array:
    """A piece of one time of a layer, (y, x), as stored."""
    array: Any = group[name]
    return np.asarray(array[slot, y, x])


def _digest(items: str) -> int:
    if items.strip() in ("", "[]", "null", "None"):
        return 0
    return max(1, int.from_bytes(hashlib.blake2b(items.encode(), digest_size=8).digest(), "little"))
