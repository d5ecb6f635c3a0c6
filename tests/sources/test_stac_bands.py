from __future__ import annotations

import json
import math

import pytest
from stacserver import asset

from eoflow.catalog_scenes import BandEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.stac_bands import Contradiction, fields_of, grid_of, number, raster_band

REAL = [
    "stackstac_santafe_74_s2_items.json",
    "odc-stac/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json",
    "odc-stac/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531_raster_ext.json",
    "odc-stac/site2-2020_jun_jul-35MNM.geojson",
]


def entry(sensor: str = "sentinel-2", level: str = "L2A", **band) -> SceneEntry:
    return SceneEntry(
        name="x", title="x", source={"driver": "stac"}, sensor=sensor, level=level, schedule={"start": "2015"},
        bands={"B04": BandEntry(**band)},
    )  # fmt: skip


def band(fields: dict, properties: dict, baseline: str | None = None, name: str = "B04", of: SceneEntry | None = None):
    e = of or entry()
    return raster_band("https://a.org/x.tif", fields, properties, e, name, BandEntry(), baseline, "item i, asset 'B04'")


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_grids_of_real_items_are_those_of_odc_stac(realdata, name):
    pystac = pytest.importorskip("pystac")
    odc_stac = pytest.importorskip("odc.stac")
    found = json.loads((realdata / "stac" / name).read_text())
    compared = 0
    for item in found["features"] if found["type"] == "FeatureCollection" else [found]:
        parsed = odc_stac.parse_item(pystac.Item.from_dict(item))
        for (key, index), source in parsed.bands.items():
            mine = grid_of(item["assets"][key], item["properties"])
            assert mine is not None
            assert mine.geobox == source.geobox
            said = fields_of(item["assets"][key], index)
            if "nodata" in said:
                assert number(said["nodata"]) == source.meta.nodata
                assert said["data_type"] == source.meta.data_type
            compared += 1
    assert compared > 5


def test_projection_in_every_spelling():
    a = asset("x", (20, 30))
    box = {"proj:shape": [20, 30], "proj:bbox": [600_000, 5_699_800, 600_300, 5_700_000]}
    wanted = grid_of(a, {"proj:epsg": 32629})
    assert wanted is not None
    assert wanted.shape == (20, 30)
    assert wanted.transform == (10, 0, 600_000, 0, -10, 5_700_000)
    from pyproj import CRS

    crs = CRS.from_epsg(32629)
    for properties in ({"proj:code": "EPSG:32629"}, {"proj:wkt2": crs.to_wkt()}, {"proj:projjson": crs.to_json_dict()},
                       {"proj:epsg": None, "proj:code": "epsg:32629"}):  # fmt: skip
        assert grid_of(a, properties) == wanted
        assert grid_of(box, properties) == wanted
    assert grid_of({**a, "proj:epsg": 32630}, {"proj:epsg": 32629}).crs == "EPSG:32630"  # the asset's own wins
    on_item = {"proj:epsg": 32629, "proj:shape": [20, 30], "proj:transform": [*a["proj:transform"], 0, 0, 1]}
    assert grid_of({}, on_item) == wanted


@pytest.mark.parametrize(
    "broken",
    [
        {}, {"proj:shape": [20]}, {"proj:shape": [0, 30]}, {"proj:shape": None}, {"proj:shape": ["20", "30"]},
        {"proj:transform": [10, 0, 0, 0, 0, 0]}, {"proj:transform": [10, 0, 0, 0, -10, 0, 1, 2, 3]},
        {"proj:transform": [math.nan] * 6}, {"proj:epsg": None}, {"proj:transform": None},
    ],
)  # fmt: skip
def test_half_a_projection_is_none(broken):
    whole = {"proj:epsg": 32629, "proj:shape": [20, 30], "proj:transform": [10, 0, 0, 0, -10, 0]}
    assert grid_of(whole, {}) is not None
    assert grid_of({**whole, **broken} if broken else {}, {}) is None


def test_band_metadata_of_stac_1_0_and_1_1():
    v10 = {
        "raster:bands": [{"nodata": 0}, {"nodata": "nan", "data_type": "float32", "scale": 2, "offset": 1, "unit": "K"}]
    }
    v11 = {"bands": [{}, {"nodata": "nan", "raster:scale": 2, "raster:offset": 1}], "data_type": "float32", "unit": "K"}
    for a in (v10, v11):
        said = fields_of(a, 2)
        assert math.isnan(number(said.pop("nodata")))
        assert said == {"data_type": "float32", "scale": 2, "offset": 1, "unit": "K"}
    assert fields_of(v10, 3) == {}
    assert number("-inf") == -math.inf
    assert number("x") is number(None) is number(True) is None
    assert fields_of({"eo:bands": [0, 1]}, 1) == {}  # STAC 0.7: numbers into a table of the item


ES = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}  # as Earth Search writes it


@pytest.mark.parametrize(
    ("raster", "properties", "baseline", "offset"),
    [
        (ES, {"earthsearch:boa_offset_applied": True}, "05.09", 0.0),
        (ES, {"sentinel:boa_offset_applied": True}, "04.00", 0.0),
        (ES, {"earthsearch:boa_offset_applied": False}, "05.09", -0.1),
        (ES, {"earthsearch:boa_offset_applied": False}, "02.14", 0.0),  # the template's -0.1, of a time without offset
        ({**ES, "offset": 0}, {"earthsearch:boa_offset_applied": False}, "05.09", -0.1),
        (ES, {}, "05.11", -0.1),
        (ES, {}, None, -0.1),
        ({"nodata": 0}, {}, "04.00", -0.1),
        ({"nodata": 0}, {}, "02.12", 0.0),
        ({"scale": 1, "offset": 0}, {}, "05.00", -0.1),  # a template that says nothing
        ({**ES, "offset": 0}, {}, "05.00", 0.0),  # the provider harmonised it, and says so
    ],
)
def test_offset_of_sentinel2(raster, properties, baseline, offset):
    found = band({"raster:bands": [raster]}, properties, baseline)
    assert (found.scale, found.offset) == (pytest.approx(1e-4), pytest.approx(offset))


def test_old_baseline_with_an_offset_is_a_contradiction():
    with pytest.raises(Contradiction, match=r"-0\.1.*02\.14"):
        band({"raster:bands": [ES]}, {}, "02.14")


@pytest.mark.parametrize("baseline", [None, "99.99", "no number"])
def test_unknown_baseline_says_what_to_write(baseline):
    with pytest.raises(BadInput, match=r"(?s)item i, asset 'B04'.*baseline: '04\.00'"):
        band({}, {"datetime": "2023-01-01T00:00:00Z"}, baseline)  # the sensing date is no signal


@pytest.mark.parametrize("name", ["SCL", "AOT", "WVP", "quality"])
def test_only_reflectances_have_the_offset(name):
    found = band({"raster:bands": [{"nodata": 0, "data_type": "uint8"}]}, {}, None, name)
    assert (found.scale, found.offset) == (None, None)


def test_other_sensors_are_taken_at_their_word():
    landsat = entry("landsat-8", "L2SP")
    said = {"unit": "kelvin", "scale": 0.00341802, "nodata": 0, "offset": 149.0, "data_type": "uint16"}
    found = band({"raster:bands": [said]}, {}, None, "ST_B10", landsat)
    assert (found.scale, found.offset, found.units, found.nodata, found.dtype) == (0.00341802, 149.0, "K", 0, "uint16")
    assert band({"raster:bands": [{"scale": 0.5}]}, {}, None, "ST_B10", landsat).offset == 0.0
    assert band({}, {}, None, "ST_B10", landsat).scale is None
    assert band({"raster:bands": [{"unit": "furlong", "data_type": "other"}]}, {}, None, "x", landsat).units is None
