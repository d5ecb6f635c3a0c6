"""Cubes in memory with the interface that prepare reads: quick to make, one for each example of a property test."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field

import numpy as np
import zarr

from eoflow.bands import BandSpec, SceneSchema
from eoflow.tiling import Grid

START = np.datetime64("2024-01-01", "ns")
DAY = np.timedelta64(86400 * 10**9, "ns")


def utm(zone: int = 31, east: float = 5e5, north: float = 5e6, shape=(100, 120), pixel: float = 10.0) -> Grid:
    """A north-up grid in a UTM zone."""
    return Grid(f"EPSG:{32600 + zone}", (pixel, 0.0, east, 0.0, -pixel, north), shape)


@dataclass
class MemoryCube:
    """A cube in memory with the interface that prepare reads: one Zarr group a tile; every state is kept."""

    schema: SceneSchema
    states: list[dict] = field(default_factory=lambda: [{}])
    dataset: str = "world"

    @property
    def snapshot(self) -> str:
        return str(len(self.states) - 1)

    def _state(self, as_of):
        return self.states[-1 if as_of is None else int(as_of)]

    def tiles(self, as_of=None):
        return sorted(self._state(as_of))

    def grid(self, tile, as_of=None):
        return self._state(as_of)[tile][0]

    def times(self, tile, as_of=None):
        return np.asarray(self.group(tile, as_of)["time"][:]).astype("datetime64[s]").astype("datetime64[ns]")

    def group(self, tile, as_of=None):
        return self._state(as_of)[tile][1]

    def put(self, tile: str, grid: Grid, times, bands: dict, quality, items=None) -> None:
        """A new state with this tile written (whole)."""
        group = zarr.create_group(zarr.storage.MemoryStore())
        chunk = tuple(min(32, n) for n in grid.shape)
        group.create_array(
            "time",
            data=np.asarray(times).astype("datetime64[s]").astype("i8"),
            attributes={"units": "seconds since 1970-01-01"},
        )
        for name, values in {**bands, "quality": np.asarray(quality, np.uint8)}.items():
            group.create_array(name, data=values, chunks=(1, *chunk))
        if items is None:
            items = [_items(tile, bands, quality, i) for i in range(len(times))]
        group.create_array("items", data=np.array(items, dtype=np.dtypes.StringDType()))
        self.states.append({**self.states[-1], tile: (grid, group)})


def _items(tile, bands, quality, i) -> str:
    if not np.any(quality[i]):
        return ""
    content = b"".join(np.ascontiguousarray(v[i]).tobytes() for v in (*bands.values(), quality))
    return json.dumps([{"id": f"{tile}-{i}", "digest": zlib.crc32(content)}])


def schema(*bands: BandSpec) -> SceneSchema:
    return SceneSchema(bands=bands, sensor="sentinel-2", level="L2A", tiles="{}", quality="{}")


RED = BandSpec(name="red", dtype="uint16", units="1", scale=1e-4, offset=-0.1, nodata=0)
NIR = BandSpec(name="nir", dtype="uint16", units="1", scale=1e-4, offset=-0.1, nodata=0)
VV = BandSpec(name="vv", dtype="float32", units="1", nodata=float("nan"))
LABEL = BandSpec(name="water", dtype="int8", units="1", nodata=-1)


def values_of(band: BandSpec, shape, rng) -> np.ndarray:
    """Seeded stored values with some nodata in them."""
    kind = np.dtype(band.dtype).kind
    if kind == "f":
        out = rng.gamma(2.0, 0.05, shape).astype(band.dtype)
        out[rng.random(shape) < 0.03] = np.nan
    elif band is LABEL:
        out = rng.integers(-1, 2, shape).astype(band.dtype)
    else:
        out = rng.integers(1, 9000, shape).astype(band.dtype)
        out[rng.random(shape) < 0.03] = band.nodata
    return out


def fill(cube: MemoryCube, tile: str, grid: Grid, times: int = 4, seed: int = 0, cloud: float = 0.3) -> None:
    """A tile with seeded bands and clouds in blobs."""
    rng = np.random.default_rng(seed)
    shape = (times, *grid.shape)
    coarse = rng.random((times, -(-shape[1] // 8), -(-shape[2] // 8))) < cloud
    cloudy = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, : shape[1], : shape[2]]
    quality = np.where(cloudy, 3, rng.choice([4, 5, 6, 7], shape, p=[0.05, 0.05, 0.1, 0.8])).astype(np.uint8)
    bands = {b.name: values_of(b, shape, rng) for b in cube.schema.bands}
    cube.put(tile, grid, START + np.arange(times) * 5 * DAY, bands, quality)


def memory_cube(tiles=None, bands=(RED, NIR), times=4, cloud=0.3, seed=0) -> MemoryCube:
    """A cube of seeded tiles; one in UTM 31N by default."""
    cube = MemoryCube(schema(*bands))
    for i, (name, grid) in enumerate((tiles or {"t": utm()}).items()):
        fill(cube, name, grid, times, seed + i, cloud)
    return cube
