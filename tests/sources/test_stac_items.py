from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from stacserver import asset, item

from eoflow.catalog_scenes import BandEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.hosts import Access
from eoflow.sources.scene import QUALITY, Scene
from eoflow.sources.stac_items import NoTime, baseline_of, bbox_of, newest, tile_of, time_of, to_scene, version_of

ACCESS = Access(["a.org", "s3://sentinel-cogs", "*.blob.core.windows.net", "landsatlook.usgs.gov"])
B = {"units": "1", "scale": 1e-4, "offset": -0.1, "nodata": 0, "dtype": "uint16"}


def entry(
    sensor: str = "sentinel-2", level: str = "L2A", mask: str | None = "SCL", rule: str = "scl", **bands
) -> SceneEntry:
    return SceneEntry(
        name="x", title="x", source={"driver": "stac"}, sensor=sensor, level=level, schedule={"start": "2015"},
        bands={k: BandEntry(**{**B, **v}) for k, v in bands.items()} or None,
        quality={"rule": rule, "source_name": mask} if mask else {},
    )  # fmt: skip


def features(realdata, name: str) -> list[dict]:
    found = json.loads((realdata / "stac" / name).read_text())
    return found["features"] if found["type"] == "FeatureCollection" else [found]


@pytest.mark.realdata
def test_the_74_real_items_of_the_betas(realdata):
    items = features(realdata, "stackstac_santafe_74_s2_items.json")
    scenes = [to_scene(i, entry(B04={}, B08={}), ACCESS) for i in items]
    assert Counter(s.tile for s in scenes) == {"13SCV": 37, "13SDV": 37}
    first = scenes[0]
    assert first.id == "S2B_13SCV_20200630_0_L2A"
    assert first.time == np.datetime64("2020-06-30T18:04:13", "ns")
    assert (first.platform, first.baseline, first.level) == ("sentinel-2b", "02.14", "L2A")
    assert list(first.bands) == ["B04", "B08", QUALITY]
    assert (first.bands["B04"].scale, first.bands["B04"].offset) == (1e-4, 0.0)
    assert first.bands[QUALITY].grid.shape == (5490, 5490)
    assert first.bbox == tuple(items[0]["bbox"])
    assert all("problem" not in s.properties for s in scenes)
    for scene in scenes:
        assert Scene.from_json(scene.to_json()) == scene
    notes: list[str] = []
    kept = newest(scenes, notes.append)
    assert len(kept) == 74
    assert not notes
    assert [s.time for s in kept] == sorted(s.time for s in scenes)


@pytest.mark.realdata
def test_real_items_of_the_planetary_computer(realdata):
    (one,) = features(realdata, "odc-stac/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531_raster_ext.json")
    scene = to_scene(one, entry(B04={}), ACCESS)
    assert (scene.tile, scene.baseline) == ("06VVN", "02.12")
    assert scene.version.startswith("02.12|20201006080531")
    b = scene.bands["B04"]
    assert (b.dtype, b.nodata, b.scale, b.offset) == ("uint16", 0, 1e-4, 0.0)
    assert b.href.startswith("https://sentinel2l2a01.blob.core.windows.net/")
    all_bands = to_scene(one, entry(), ACCESS)  # no bands named: every raster of measurements
    assert set(all_bands.bands) == {"AOT", "WVP", QUALITY, "B8A", *(f"B{n:02d}" for n in range(1, 13) if n != 10)}
    many = [to_scene(i, entry(B04={}), ACCESS) for i in features(realdata, "odc-stac/site2-2020_jun_jul-35MNM.geojson")]
    assert {s.tile for s in many} == {"35MNM"}
    assert {s.bands["B04"].grid.crs for s in many} == {"EPSG:32735"}


@pytest.mark.realdata
def test_real_landsat_items(realdata):
    e = entry("landsat-8", "L2SP", "qa_pixel", "qa_pixel", SR_B4={"source_name": "red"})
    (one,) = features(realdata, "odc-stac/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json")
    scene = to_scene(one, e, ACCESS)
    assert scene.tile == "028030"
    assert set(scene.bands) == {"SR_B4", QUALITY}
    assert scene.bands["SR_B4"].grid.transform == (30, 0, 173085, 0, -30, 4904715)
    (old,) = features(realdata, "landsat_assets3/LC08_L2SP_008059_20191201_20200825_02_T1_SR_stac.json")  # STAC 0.7
    e = entry("landsat-8", "L2SP", "QA_PIXEL.TIF", "qa_pixel", SR_B4={"source_name": "SR_B4.TIF"})
    scene = to_scene(old, e, ACCESS)
    assert (scene.tile, scene.platform) == ("008059", "landsat_8")
    assert scene.time == np.datetime64("2019-12-01", "ns")
    assert scene.bands["SR_B4"].grid is None  # it does not say; the header will
    assert set(scene.bands) == {"SR_B4", QUALITY}


def s2(ident: str = "i", when: str = "2023-05-01T11:00:00.500Z", **more) -> dict:
    assets = {"B04": asset("https://a.org/B04.tif", (20, 20)), "SCL": asset("https://a.org/SCL.tif", (10, 10), step=20)}
    return item(ident, when, more.pop("assets", assets), **{"s2:processing_baseline": "05.09", **more})


def test_a_lacking_asset_is_kept_as_the_scene_s_problem():
    scene = to_scene(s2(), entry(B04={}, B05={}), ACCESS)
    assert "no asset 'B05'" in scene.properties["problem"]
    assert "B04, SCL" in scene.properties["problem"]


def test_assets_are_found_by_band_name_too():
    assets = {"red": asset("https://a.org/r.tif", **{"eo:bands": [{"name": "B04", "common_name": "red"}]}),
              "nir": asset("https://a.org/n.tif", bands=[{"name": "B08", "eo:common_name": "nir"}])}  # fmt: skip
    scene = to_scene(s2(assets=assets), entry(mask=None, B04={}, near={"source_name": "nir"}, B08={}), ACCESS)
    assert {k: b.href[-5:] for k, b in scene.bands.items()} == {"B04": "r.tif", "near": "n.tif", "B08": "n.tif"}


@pytest.mark.parametrize("href", ["file:///etc/passwd", "/etc/passwd", "https://evil.example/B04.tif", "../../B04.tif"])
def test_an_href_that_leaves_what_is_allowed(href):
    with pytest.raises(BadInput, match="item i, asset 'B04'"):
        to_scene(s2(assets={"B04": asset(href)}), entry(mask=None, B04={}), ACCESS, base="")


def test_signatures_are_left_out_of_scenes():
    signed = "https://a.org/B04.tif?se=2999-01-01T00:00:00Z&sig=SECRET"
    scene = to_scene(s2(assets={"B04": asset(signed)}), entry(mask=None, B04={}), ACCESS)
    assert "SECRET" not in scene.to_json()
    assert ACCESS(scene.bands["B04"].href) == signed


@pytest.mark.parametrize(
    ("properties", "ident", "tile"),
    [
        ({"s2:mgrs_tile": "06VVN"}, "i", "06VVN"),
        ({"s2:mgrs_tile": "T06VVN"}, "i", "06VVN"),
        ({"grid:code": "MGRS-6VVN"}, "i", "6VVN"),
        ({"mgrs:utm_zone": 6, "mgrs:latitude_band": "V", "mgrs:grid_square": "VN"}, "i", "06VVN"),
        ({"sentinel:utm_zone": "6", "sentinel:latitude_band": "V", "sentinel:grid_square": "VN"}, "i", "06VVN"),
        ({"grid:code": "WRS2-008059"}, "i", "008059"),
        ({"landsat:wrs_path": "8", "landsat:wrs_row": "59"}, "i", "008059"),
        ({"s2:product_uri": "S2B_MSIL2A_20190629T212529_N0212_R043_T06VVN_20201006T080531.SAFE"}, "i", "06VVN"),
        ({}, "S2B_T06VVN_20190629T212530_L2A", "06VVN"),
        ({}, "a chip/../of mine", "a_chip____of_mine"),
    ],
)
def test_tiles(properties, ident, tile):
    assert tile_of(properties, ident, None) == tile


def test_without_a_name_the_grid_is_the_tile():
    scene = to_scene(s2("S1A_IW"), entry("sentinel-1", "RTC", None, B04={}), ACCESS)
    assert scene.tile == "32629_600000_5700000"
    assert scene.baseline is None


@pytest.mark.parametrize(
    ("properties", "time"),
    [
        ({"datetime": "2020-06-30T18:04:13.123456Z"}, "2020-06-30T18:04:13.123456"),
        ({"datetime": "2020-06-30T20:04:13+02:00"}, "2020-06-30T18:04:13"),
        ({"datetime": None, "start_datetime": "2023-06-28 21:07:05.989235+00:00"}, "2023-06-28T21:07:05.989235"),
        ({"datetime": "2019-12-01"}, "2019-12-01"),
    ],
)
def test_times(properties, time):
    assert time_of(properties) == np.datetime64(time, "ns")


@pytest.mark.parametrize("properties", [{}, {"datetime": None}, {"datetime": "yesterday"}])
def test_no_time(properties):
    with pytest.raises(NoTime):
        time_of(properties)


def polygon(*corners) -> dict:
    return {"type": "Polygon", "coordinates": [[list(c) for c in corners]]}


@pytest.mark.parametrize(
    ("found", "bbox"),
    [
        ({"bbox": [1, 2, 3, 4]}, (1, 2, 3, 4)),
        ({"bbox": [1, 2, -50, 3, 4, 90]}, (1, 2, 3, 4)),
        ({"bbox": [179, -17, -179, -16]}, (179, -17, -179, -16)),
        ({"bbox": [-180, -17, 180, -16], "geometry": {"type": "MultiPolygon", "coordinates": [
            polygon((179.2, -17), (180, -17), (180, -16))["coordinates"],
            polygon((-180, -17), (-179.4, -17), (-180, -16))["coordinates"]]}}, (179.2, -17, -179.4, -16)),
        ({"geometry": polygon((179.2, -17), (-179.4, -17), (-179.4, -16), (179.2, -16))}, (179.2, -17, -179.4, -16)),
        ({"bbox": [-180, -90, 180, 90], "geometry": polygon((-180, -90), (180, -90), (180, 90))}, (-180, -90, 180, 90)),
        ({"geometry": polygon((1, 2), (3, 2), (3, 4))}, (1, 2, 3, 4)),
        ({"bbox": None, "geometry": None}, None),
    ],
)  # fmt: skip
def test_footprints_across_the_antimeridian(found, bbox):
    assert bbox_of(found) == bbox


def test_baselines_in_names():
    assert (
        baseline_of({"sentinel:product_id": "S2B_MSIL2A_20200630T174909_N0214_R141_T13SCV_20200630T220151"}, "")
        == "02.14"
    )
    assert (
        baseline_of({"s2:product_uri": "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE"}, "")
        == "04.00"
    )
    assert baseline_of({}, "S2A_MSIL2A_20200731T080611_R078_T35MNM_20200818T062751") is None


def test_versions_sort_by_processing():
    def v(**p) -> str:
        return version_of({k.replace("__", ":"): x for k, x in p.items()}, p.get("baseline"))

    rising = [
        v(baseline="02.12", s2__generation_time="2020-10-06T08:05:31.830Z", updated="2024-01-01T00:00:00Z"),
        v(baseline="05.00", s2__generation_time="2022-10-06T08:05:31.830Z"),
        v(baseline="05.00", s2__product_uri="S2A_MSIL2A_20200731T080611_N0500_R078_T35MNM_20230818T062751.SAFE"),
        v(baseline="05.10"),
    ]
    assert rising == sorted(rising)
    assert v(landsat__collection_category="RT", updated="2024") < v(landsat__collection_category="T1", updated="2023")


STRIP = "S2B_OPER_MSI_L2A_DS_ESRI_20201006T080533_S20190629T2125{}_N02.12"


def test_the_newest_processing_of_an_acquisition_is_kept():
    older = s2("older", **{"s2:processing_baseline": "02.12", "s2:mgrs_tile": "29UNU"})
    newer = s2("newer", "2023-05-01T11:00:01.200Z", **{"s2:processing_baseline": "05.09", "s2:mgrs_tile": "29UNU"})
    other = s2("other tile", **{"s2:mgrs_tile": "29UNV"})
    later = s2("ten seconds later", "2023-05-01T11:00:11Z", **{"s2:mgrs_tile": "29UNU"})
    scenes = [to_scene(i, entry(mask=None, B04={}), ACCESS) for i in (newer, later, older, other)]
    notes: list[str] = []
    kept = newest(scenes, notes.append)
    assert [s.id for s in kept] == ["other tile", "newer", "ten seconds later"]
    assert kept[1].properties["supersedes"] == ["older"]
    assert notes == ["newer is the newest processing of its acquisition; left out: older"]
    assert newest(reversed(scenes), lambda _: None) == kept


def test_two_datastrips_of_one_pass_are_two_scenes():
    one, two = (s2(f"d{n}", **{"s2:datastrip_id": STRIP.format(n), "s2:mgrs_tile": "29UNU"}) for n in (29, 45))
    again = s2("d29b", **{"s2:datastrip_id": STRIP.format(29), "s2:mgrs_tile": "29UNU", "updated": "2025-01-01"})
    kept = newest([to_scene(i, entry(mask=None, B04={}), ACCESS) for i in (one, two, again)], lambda _: None)
    assert [s.id for s in kept] == ["d29b", "d45"]
