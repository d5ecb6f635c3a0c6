"""Real files: a thousand pixels of each cube are those of the source file, offset applied."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from eoflow.cube import Cube
from eoflow.ingest.run import ingest
from eoflow.quality import from_qa_pixel, from_scl
from eoflow.workspace import Workspace

pytestmark = pytest.mark.realdata
NOW = "2024-06-01"


def compare(workspace: Workspace, name: str) -> int:
    """Compare 1,000 random pixels with rasterio's of the file and band that the items name."""
    cube = Cube.load(workspace, name)
    rng = np.random.default_rng(1)
    checked = 0
    cells = [(t, i, b) for t in cube.tiles() for i in range(len(cube.times(t))) for b in cube.schema.bands]
    each = -(-1000 // len(cells))
    for tile, i, band in cells:
        [item] = cube.items(tile, i)
        group, grid = cube.group(tile), cube.grid(tile)
        rows, columns = rng.integers(0, grid.shape[0], each), rng.integers(0, grid.shape[1], each)
        got = band.physical(group[band.name][i][rows, columns])
        with rasterio.open(item["hrefs"][band.name]) as f:
            index = 1 if f.count == 1 else band_index(f, band.name)
            raw = f.read(index)
        xs, ys = group["x"][:][columns], group["y"][:][rows]
        inverse = ~f.transform
        cells_ = [inverse * (x, y) for x, y in zip(xs, ys, strict=True)]
        stored = np.array([raw[int(r), int(c)] for c, r in cells_]).astype("f8")
        expected = np.where(stored == band.nodata, np.nan, stored * band.scale + band.offset)
        np.testing.assert_allclose(got, expected, atol=2e-6 * max(1.0, abs(band.scale)), rtol=1e-6)
        checked += each
    return checked


def band_index(f, name: str) -> int:
    """Band number of a Sentinel-2 L1C band in a file of many."""
    names = [f"B{n:02d}" for n in range(1, 13)]
    names.insert(8, "B8A")
    return names.index(name) + 1


def test_the_series_of_twenty_dates(realdata, workspace):
    report = ingest("s2", [realdata / "s2_cloud" / "ts_ROIs2017_146_patch0"], workspace=workspace, now=NOW)
    assert (report.new, report.failed) == (20, 0)
    assert compare(workspace, "s2") >= 1000
    cube = Cube.load(workspace, "s2")
    [tile] = cube.tiles()
    ds = cube.open(tile)
    assert (np.diff(ds.time.values) > np.timedelta64(0)).all()
    assert {ds[b].attrs["units"] for b in cube.schema.names} == {"1"}


def test_the_safe(realdata, workspace):
    [safe] = (realdata / "s2_safe").glob("*.SAFE")
    assert ingest("safe", [safe], workspace=workspace, now=NOW).new == 1
    cube = Cube.load(workspace, "safe")
    assert cube.tiles() == ["29UNU"]
    assert compare(workspace, "safe") >= 1000
    [item] = cube.items("29UNU", 0)
    assert item["baseline"] == "04.00"
    assert {(b.scale, round(b.offset, 9)) for b in cube.schema.bands} == {(1e-4, -0.1)}
    with rasterio.open(item["hrefs"]["quality"]) as f:
        scl = f.read(1)
    quality = cube.open("29UNU", chunks=None).quality.values[0]
    void = (cube.open("29UNU", physical=True)[list(cube.schema.names)].to_array().isnull().all("variable")).values[0]
    np.testing.assert_array_equal(quality[~void], from_scl(scl)[~void])


def test_the_landsat_scene(realdata, workspace):
    assert ingest("ls", [realdata / "stac" / "landsat_assets3"], workspace=workspace, now=NOW).new == 1
    assert compare(workspace, "ls") >= 1000
    cube = Cube.load(workspace, "ls")
    [item] = cube.items("008059", 0)
    with rasterio.open(item["hrefs"]["quality"]) as f:
        expected = from_qa_pixel(f.read(1))
    quality = cube.open("008059", chunks=None).quality.values[0]
    seen = quality > 1
    np.testing.assert_array_equal(quality[seen], expected[seen])
