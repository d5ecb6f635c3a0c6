"""The shipped entries of scenes: they parse, their sources stand, and their figures are those of the product."""

from __future__ import annotations

import numpy as np
import pytest
from stacserver import asset, item

from eoflow import catalog, registry
from eoflow.catalog_scenes import SceneEntry
from eoflow.sources import radiometry
from eoflow.sources.base import SourceContext
from eoflow.sources.hosts import KNOWN
from eoflow.sources.scene import QUALITY

SCENES = [n for n in catalog.names("datasets") if isinstance(catalog.entry(n), SceneEntry)]
STAC = [n for n in SCENES if catalog.entry(n).source.driver == "stac"]
OF = {"sentinel-2-l2a", "sentinel-2-l2a-cogs", "sentinel-2-l2a-pc", "sentinel-1-rtc", "sentinel-1-grd", "landsat-c2-l2"}

# An item of each collection, as its provider writes it: hosts, keys and what it states.
ES_BAND = {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]}
PC_BAND = {"raster:bands": [{"nodata": 0, "data_type": "uint16"}]}
LANDSAT = {"raster:bands": [{"scale": 2.75e-05, "nodata": 0, "offset": -0.2, "data_type": "uint16"}]}
THERMAL = {
    "raster:bands": [{"unit": "kelvin", "scale": 0.00341802, "nodata": 0, "offset": 149.0, "data_type": "uint16"}]
}
RTC = {"raster:bands": [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10}]}
C1 = "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/sentinel-2-c1-l2a/29/U/NU/2023/5/x"
COGS = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/29/U/NU/2023/5/x"
PC = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/29/U/NU/x"
S1_RTC = "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/x"
S1_GRD = "https://sentinel1euwest.blob.core.windows.net/s1-grd/x"
USGS = "https://landsateuwest.blob.core.windows.net/landsat-c2/x"


def of(base: str, keys: str, said: dict) -> dict:
    return {k: asset(f"{base}/{k}.tif", (100, 100), **said) for k in keys.split()}


ES_KEYS = "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 swir16 swir22"
PC_KEYS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
ITEMS = {
    "sentinel-2-l2a": (
        of(C1, ES_KEYS, ES_BAND) | of(C1, "scl", {}), {"s2:processing_baseline": "05.09", "grid:code": "MGRS-29UNU"}
    ),
    "sentinel-2-l2a-cogs": (
        of(COGS, ES_KEYS, ES_BAND) | of(COGS, "scl", {}),
        {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True, "mgrs:utm_zone": 29,
         "mgrs:latitude_band": "U", "mgrs:grid_square": "NU"},
    ),
    "sentinel-2-l2a-pc": (
        of(PC, PC_KEYS, PC_BAND) | of(PC, "SCL", {}), {"s2:processing_baseline": "02.12", "s2:mgrs_tile": "29UNU"}
    ),
    "sentinel-1-rtc": (of(S1_RTC, "vv vh", RTC), {}),
    "sentinel-1-grd": (of(S1_GRD, "vv vh", {}), {}),
    "landsat-c2-l2": (
        of(USGS, "coastal blue green red nir08 swir16 swir22 qa_pixel", LANDSAT) | of(USGS, "lwir11", THERMAL),
        {"landsat:wrs_path": "208", "landsat:wrs_row": "023"},
    ),
}  # fmt: skip
PAIRS = {  # what the pixels of those items mean
    "sentinel-2-l2a": (1e-4, -0.1), "sentinel-2-l2a-cogs": (1e-4, 0.0), "sentinel-2-l2a-pc": (1e-4, 0.0),
    "landsat-c2-l2": (2.75e-05, -0.2),
}  # fmt: skip


def context(tmp_path) -> SourceContext:
    return SourceContext(tmp_path, np.datetime64("2026-01-01", "ns"))


def test_they_are_shipped():
    assert set(STAC) >= OF


@pytest.mark.parametrize("name", SCENES)
def test_entry(name, tmp_path):
    entry = catalog.entry(name)
    assert entry.name == name
    source = registry.load("sources", entry.source.driver)
    assert source.gives == "scenes"
    if name in STAC:
        source(entry, context(tmp_path))


@pytest.mark.parametrize("name", STAC)
def test_figures_are_those_of_the_product(name):
    entry = catalog.entry(name)
    known = radiometry.known(entry.sensor, entry.level)
    assert known is not None
    assert set(entry.bands) <= set(known.bands)
    for band, said in entry.bands.items():
        assert radiometry.same_pair((said.scale, said.offset), (known.bands[band].scale, known.bands[band].offset))
        assert said.units == known.bands[band].units
        assert said.dtype == known.bands[band].dtype
        if known.bands[band].nodata is not None:
            assert said.nodata == known.bands[band].nodata
    assert entry.quality.rule == known.quality.rule


@pytest.mark.parametrize("name", sorted(OF))
def test_an_item_of_the_provider_fits_its_entry(name, tmp_path, monkeypatch):
    entry = catalog.entry(name)
    assets, properties = ITEMS[name]
    found = item("an-item", "2023-05-01T11:00:00Z", assets, **properties)
    source = registry.load("sources", "stac")(entry, context(tmp_path))
    monkeypatch.setattr(source, "_items", lambda *_: iter([(found, "")]))
    monkeypatch.setattr(source, "args", {k: v for k, v in source.args.items() if k not in ("query", "where")})
    (scene,) = source.plan(None)
    assert "problem" not in scene.properties
    wanted = set(entry.bands) | ({QUALITY} if entry.quality.rule != "none" else set())
    assert set(scene.bands) == wanted
    if name in PAIRS:
        for band in set(entry.bands) - {"ST_B10"}:
            b = scene.bands[band]
            assert radiometry.same_pair((b.scale, b.offset), PAIRS[name])
            # what the cube stores is reached by a whole number of counts
            assert radiometry.shift((b.scale, b.offset), (entry.bands[band].scale, entry.bands[band].offset)) in (
                0,
                1000,
            )
    signer = source.readable.signer
    assert (signer is not None) == ("planetarycomputer" in entry.source.args["api"])
    if signer is not None:
        assert all(signer.signs(b.href) for b in scene.bands.values())


def test_the_hosts_of_the_endpoints_are_known():
    for name in OF:
        api = catalog.entry(name).source.args["api"]
        assert any(host in api for host in KNOWN)
