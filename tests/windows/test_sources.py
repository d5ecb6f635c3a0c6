"""Windows of Zarr arrays, raster files and cached blocks are those of the array."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from eoflow.errors import BadInput
from eoflow.windows import ArraySource, Cached, Layer, Network, Plan, ZarrSource, cube_source, raster_source, whole

rasterio = pytest.importorskip("rasterio")


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 9000, shape).astype("u2")


def test_zarr_bands_of_one_date_and_of_several():
    data = values(3, 2, 40, 50)
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    for i, name in enumerate(("red", "nir")):
        a = group.create_array(name, shape=(3, 40, 50), chunks=(1, 16, 16), dtype="u2")
        a[:] = data[:, i]
    window = (slice(5, 31), slice(0, 50))
    one = cube_source(group, ("red", "nir"), 1, {"red": 0, "nir": 0})
    assert (one.shape, one.bands, one.dates, one.nodata, one.dtype) == ((40, 50), ("red", "nir"), None, (0, 0), "u2")
    np.testing.assert_array_equal(one.read(*window), data[1][(..., *window)])
    some = cube_source(group, ("nir", "red"), (2, 0))
    np.testing.assert_array_equal(some.read(*window), data[[2, 0]][:, ::-1][(..., *window)])
    flat = ZarrSource({"a": group["red"][0], "b": group["nir"][0]})
    np.testing.assert_array_equal(flat.read(*window), data[0][(..., *window)])


class Counting(ArraySource):
    """Counts reads, and takes its time: two threads meet."""

    def __init__(self, values) -> None:
        super().__init__(values)
        self.reads: list[tuple[slice, slice]] = []
        self.met = threading.Event()

    def read(self, rows, columns):
        self.reads.append((rows, columns))
        self.met.wait(0.02)
        return super().read(rows, columns)


def test_blocks_are_decoded_once():
    data = values(2, 50, 70)
    source = Counting(data)
    cached = Cached(source, (16, 16))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: cached.read(slice(3, 47), slice(i, 70)), range(4)))
    for i, part in enumerate(found):
        np.testing.assert_array_equal(part, data[:, 3:47, i:])
    assert len(source.reads) == 3 * 5
    small = Cached(Counting(data), (16, 16), megabytes=0)
    np.testing.assert_array_equal(small.read(slice(0, 50), slice(0, 70)), data)
    assert len(small._kept) == 1


def test_a_failed_block_is_read_again():
    cached = Cached(ArraySource(values(1, 20, 20)), (8, 8))
    good, cached.source.values = cached.source.values, None
    with pytest.raises(TypeError):
        cached.read(slice(0, 20), slice(0, 20))
    cached.source.values = good
    np.testing.assert_array_equal(cached.read(slice(0, 20), slice(0, 20)), good)


def test_cached_travels_to_another_process():
    cached = Cached(ArraySource(values(1, 20, 20)), (8, 8))
    cached.read(slice(0, 9), slice(0, 9))
    other = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(other.read(slice(0, 20), slice(0, 20)), cached.source.values)


def write(path, data, **more):
    transform = rasterio.transform.from_origin(500000, 6e6, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(data), height=data.shape[1], width=data.shape[2], dtype=data.dtype,
        crs="EPSG:32632", transform=transform, tiled=True, blockxsize=32, blockysize=32, **more,
    ) as f:  # fmt: skip
        f.write(data)
    return str(path)


def test_files_with_several_bands_and_one_band_each(tmp_path):
    data = values(2, 100, 83)
    data[:, 10:20] = 0
    several = raster_source([write(tmp_path / "s.tif", data, nodata=0)], ("red", "nir"))
    each = raster_source([write(tmp_path / f"{i}.tif", data[i : i + 1], nodata=0) for i in range(2)])
    for source in (several, each):
        assert (source.shape, source.nodata, source.dtype) == ((100, 83), (0, 0), "u2")
        plan = Plan.of(source.shape, core=40, halo=3)
        found = whole(Network(lambda t: t), source, [Layer("o", ("a", "b"), "uint16", 0)], plan)["o"]
        np.testing.assert_array_equal(found, data)
    assert several.bands == ("red", "nir")


def test_names_and_bands_must_agree(tmp_path):
    path = write(tmp_path / "s.tif", values(2, 10, 10))
    with pytest.raises(BadInput, match="2 bands, 1 names"):
        raster_source([path], ("red",))
    with pytest.raises(BadInput, match="3 nodata values for 2"):
        ArraySource(values(2, 4, 4), nodata=(0, 0, 0))


def test_a_tile_of_a_cube(workspace):
    from cubes import make_cube

    data = {b: values(3, 70, 90) for b in ("B04", "B08")}
    for v in data.values():
        v[1, 7:9] = 0
    cube = make_cube(workspace, "s2", {"T1": data}, ["2021-01-01", "2021-01-02", "2021-01-03"])
    nodata = {b.name: b.nodata for b in cube.schema.bands}
    source = cube_source(cube.group("T1"), ("B08", "B04"), 1, nodata)
    plan = Plan.of(source.shape, core=64, halo=5)
    found = whole(Network(lambda t: t), source, [Layer("o", ("a", "b"), "uint16", 0)], plan)["o"]
    np.testing.assert_array_equal(found, np.stack([data["B08"][1], data["B04"][1]]))
    other = pickle.loads(pickle.dumps(source))  # as it goes to a Dask worker
    np.testing.assert_array_equal(other.read(slice(0, 70), slice(0, 90)), found)
