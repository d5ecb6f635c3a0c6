"""Saturated pixels are a class of quality of their own, where the source says so."""

from __future__ import annotations

import numpy as np
import pytest
from scenefiles import ground, write_landsat
from sceneworld import World

from eoflow.cube import Cube
from eoflow.ingest.run import ingest
from eoflow.quality import Quality, from_qa_radsat, saturated

NOW = "2021-06-01"
FULL = 65535


def test_bits_of_landsat():
    bits = np.array([0, 1, 0b1000, 1 << 6, 1 << 8, 1 << 11], np.uint16)  # none, bands 1, 4, 7, 9, terrain
    assert from_qa_radsat(bits, (4,)).tolist() == [False, False, True, False, False, False]
    assert from_qa_radsat(bits, (1, 7)).tolist() == [False, True, False, True, False, False]
    assert from_qa_radsat(bits, tuple(range(1, 8))).tolist() == [False, True, True, True, False, False]


def test_only_what_was_seen_is_saturated():
    every = np.array([int(q) for q in Quality], np.uint8)
    got = saturated(every, np.ones(every.shape, bool))
    seen = {Quality.CLEAR, Quality.WATER, Quality.SNOW}
    assert [Quality(int(q)) for q in got] == [Quality.SATURATED if q in seen else q for q in Quality]
    np.testing.assert_array_equal(saturated(every, np.zeros(every.shape, bool)), every)


@pytest.mark.parametrize("masked", [True, False])
def test_sentinel_2(tmp_path, workspace, masked):
    """DN 65535 of any band; a cloud stays a cloud, nodata stays nodata."""
    import rasters

    world = World(tmp_path / "provider")
    scl = np.full((128, 192), 4)
    scl[10:20] = 9
    scene = world.add("a", "2020-03-01T10:00", scl=scl if masked else None, void=(slice(100, 128), slice(None)))
    data = world.values["a"]["B08"]
    data[5:15, 30:40] = FULL
    rasters.write(scene.bands["B08"].href, data, crs="EPSG:32633", origin=(500_000.0, 4_600_000.0), res=10.0, nodata=0)
    world.publish(workspace, **({"quality": {"rule": "scl", "source_name": "SCL"}} if masked else {}))
    assert ingest("w", workspace=workspace, now=NOW).new == 1
    ds = Cube.load(workspace, "w").open("T1", chunks=None).isel(time=0)
    expected = np.full((128, 192), int(Quality.CLEAR))
    expected[5:15, 30:40] = int(Quality.SATURATED)
    if masked:
        expected[10:20] = int(Quality.CLOUD)
    expected[100:] = int(Quality.NODATA)
    np.testing.assert_array_equal(ds.quality.values, expected)
    np.testing.assert_array_equal(ds.B08.values, data)  # the number stays what it is


def test_landsat(tmp_path, workspace):
    bands = {n: ground(i, low=7000, high=40000) for i, n in enumerate(("SR_B4", "SR_B5", "ST_B10"))}
    bands["QA_PIXEL"] = np.where(bands["SR_B4"] == 0, 1, 21824).astype(np.uint16)  # fill, clear
    bands["QA_PIXEL"][:20, 50:] = 22280  # cloud
    radsat = np.zeros((96, 96), np.uint16)
    radsat[10:30, 40:60] = 1 << 3  # band 4
    radsat[40:50, 40:60] = 1 << 1  # band 2, which this dataset does not have
    bands["QA_RADSAT"] = radsat
    ingest("l", [write_landsat(tmp_path / "scene", bands)], workspace=workspace, now=NOW)
    cube = Cube.load(workspace, "l")
    [tile] = cube.tiles()
    quality = cube.open(tile, chunks=None).quality.values[0]
    expected = np.where(bands["SR_B4"] == 0, int(Quality.NODATA), int(Quality.CLEAR))
    expected[10:30, 40:60] = int(Quality.SATURATED)
    expected[:20, 50:] = int(Quality.CLOUD)
    np.testing.assert_array_equal(quality, expected)
    assert set(cube.items(tile, 0)[0]["hrefs"]) == {"SR_B4", "SR_B5", "ST_B10", "quality", "saturation"}
    assert cube.schema.names == ("SR_B4", "SR_B5", "ST_B10")


def test_an_item_with_and_without_the_asset():
    from eoflow import catalog
    from eoflow.sources.stac_items import wanted

    entry = catalog.entry("landsat-c2-l2")
    keys = [b.source_name for b in entry.bands.values()] + ["qa_pixel"]
    assets = {k: {"href": f"https://example.org/{k}.TIF"} for k in keys}
    assert "saturation" not in wanted(entry, assets)
    assert wanted(entry, assets | {"qa_radsat": {"href": "x"}})["saturation"][0] == "qa_radsat"
    free = entry.model_copy(update={"bands": None})
    data = {"type": "image/tiff", "roles": ["data"]}
    found = wanted(free, {k: v | data for k, v in assets.items()} | {"qa_radsat": {"href": "x", **data}})
    assert found["saturation"] == ("qa_radsat", found["saturation"][1])
    assert "qa_radsat" not in found
