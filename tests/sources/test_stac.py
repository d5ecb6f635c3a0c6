"""The driver against a real STAC API on loopback, whose items point at COGs on a server with byte ranges and faults."""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
from rangeserver import RangeServer
from stacserver import BAND, ES, PIXELS, StacServer, asset, item, listed, pair, rustac, s2, source, write_cog

from eoflow.errors import BadInput, MissingExtra
from eoflow.sources.base import AssetCorrupt, AssetMissing, AssetTransient
from eoflow.sources.raster import RasterReader
from eoflow.sources.scene import QUALITY, Scene, SceneSource
from eoflow.times import Period

pytest.importorskip("pystac_client")
pytestmark = pytest.mark.skipif(rustac() is None, reason="rustac is not installed")


@pytest.fixture
def cogs(tmp_path):
    folder = tmp_path / "cogs"
    write_cog(folder / "B04.tif", PIXELS)
    write_cog(folder / "SCL.tif", np.full((50, 60), 4, "u1"), step=20)
    with RangeServer(folder) as server:
        yield server


# -- the search ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def santafe(realdata, tmp_path_factory):
    items = json.loads((realdata / "stac" / "stackstac_santafe_74_s2_items.json").read_text())["features"]
    with StacServer(tmp_path_factory.mktemp("api"), items) as api:
        yield api, items


COGS = {"collections": ["sentinel-s2-l2a-cogs"], "allowed_hosts": ["s3://sentinel-cogs"]}


@pytest.mark.realdata
def test_search_of_the_74_real_items(santafe, tmp_path):
    api, items = santafe
    src = source(tmp_path, {"api": api.url, **COGS, "limit": 10})  # eight pages
    assert isinstance(src, SceneSource)
    scenes = src.plan(None)
    assert {s.id for s in scenes} == {i["id"] for i in items}
    times = [s.time for s in scenes]
    assert times == sorted(times)
    # one scene a tile and solar day: the overpass is at 11 h local time, the same UTC day
    days = Counter((s.tile, str(s.time + np.timedelta64(-107 * 240, "s"))[:10]) for s in scenes)
    assert len(days) == 74
    assert Counter(tile for tile, _ in days) == {"13SCV": 37, "13SDV": 37}


@pytest.mark.realdata
def test_period_area_and_query(santafe, tmp_path):
    api, items = santafe
    plain = {"api": api.url, **COGS}

    def expected(test) -> set[str]:
        return {i["id"] for i in items if test(i)}

    src = source(tmp_path, plain)
    june = Period.parse("2020-06-01/2020-06-10")
    assert {s.id for s in src.plan(june)} == expected(
        lambda i: "2020-06-01" <= i["properties"]["datetime"] < "2020-06-11"
    )
    west = (-107.3, 35.2, -107.1, 35.3)  # only the western tile reaches there
    found = {s.id for s in src.plan(None, west)}
    assert found == expected(lambda i: i["bbox"][0] <= -107.1 and i["bbox"][2] >= -107.3 and i["bbox"][1] <= 35.3)
    assert 0 < len(found) < 74
    clear = source(tmp_path, {**plain, "query": {"eo:cloud_cover": {"lt": 5}}})  # rustac has no query extension
    assert {s.id for s in clear.plan(None)} == expected(lambda i: i["properties"]["eo:cloud_cover"] < 5)
    two = source(tmp_path, {**plain, "ids": [items[0]["id"], items[5]["id"]]})
    assert {s.id for s in two.plan(None)} == {items[0]["id"], items[5]["id"]}
    assert src.plan(Period.parse("2021")) == []
    assert source(tmp_path, plain, now="2020-05-01").plan(None)[-1].time < np.datetime64("2020-05-01")
    assert source(tmp_path, plain, now="2014-01-01").plan(None) == []


@pytest.mark.realdata
def test_a_local_list_gives_what_the_api_gives(santafe, tmp_path, realdata):
    api, _ = santafe
    file = str(realdata / "stac" / "stackstac_santafe_74_s2_items.json")
    period, area = Period.parse("2020-05-01/2020-05-31"), (-107.3, 35.2, -107.1, 35.3)
    for box in (None, area):
        by_api = source(tmp_path, {"api": api.url, **COGS}).plan(period, box)
        assert source(tmp_path, {"items": file}).plan(period, box) == by_api  # a host of public data, known
    with pytest.raises(BadInput, match=r"sentinel-cogs\.s3.*not allow"):
        source(tmp_path, {"items": file, "allowed_hosts": ["a.org"]}).plan(period)


@pytest.mark.realdata
def test_searches_that_cannot_be_meant(santafe, tmp_path):
    api, _ = santafe
    with pytest.raises(BadInput, match="did you mean 'sentinel-s2-l2a-cogs'"):
        source(tmp_path, {"api": api.url, "collections": "sentinel-s2-l2a-cog"}).plan(None)
    with pytest.raises(BadInput, match=r"finds \d+ items or more; 20 are allowed"):
        source(tmp_path, {"api": api.url, **COGS, "max_items": 20, "limit": 10}).plan(None)
    with pytest.raises(BadInput, match="does not say that it can filter"):
        source(tmp_path, {"api": api.url, **COGS, "filter": "eo:cloud_cover < 5"}).plan(None)


def test_arguments(tmp_path):
    api = "https://a.org"
    for args, said in [
        ({}, "an API or a list"), ({"api": api, "items": "x"}, "an API or a list"), ({"api": "file:///x"}, "no http"),
        ({"api": api, "colection": "x"}, "did you mean 'collections'"), ({"api": api, "sign": "aws"}, "no signer"),
        ({"api": api, "query": {"eo:cloud_cover": 5}}, "no mapping"), ({"items": "no/such.json"}, "no file"),
        ({"api": api, "where": {"eo:cloud_cover": {"less": 5}}}, "no operator 'less'"),
        ({"api": api, "baseline": "new"}, "not a processing baseline"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=said):
            source(tmp_path, args)


def test_without_pystac_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(MissingExtra, match=r"(?s)pystac-client is not installed.*eoflow\[stac\]"):
        source(tmp_path, {"api": "http://127.0.0.1:9"}).plan(None)


def test_an_api_that_is_not_there_is_transient(tmp_path, monkeypatch):
    from eoflow.config import settings

    monkeypatch.setattr(settings(), "retries", 0)
    with pytest.raises(AssetTransient, match="cannot be reached"):
        source(tmp_path, {"api": "http://127.0.0.1:9"}).plan(None)


# -- planning to pixels ----------------------------------------------------------------------------------------------


def test_from_the_search_to_the_pixels(tmp_path, cogs):
    items = [
        s2("old", 1, pair(cogs.url), **{"s2:processing_baseline": "02.14"}),
        s2("new", 6, pair(cogs.url)),
        s2("shifted", 11, pair(cogs.url, **ES), **{"earthsearch:boa_offset_applied": True}),
        s2("sparse", 16, pair(cogs.url, full=False)),
    ]
    with StacServer(tmp_path / "api", items) as api:
        src = source(tmp_path, {"api": api.url, "collections": ["sentinel-2-l2a"]})  # COGs on the API's own host
        scenes = src.plan(Period.parse("2023"), (-8.0, 51.0, -7.0, 52.0))
        assert not src.plan(Period.parse("2023"), (10.0, 51.0, 11.0, 52.0))
    assert [s.id for s in scenes] == ["old", "new", "shifted", "sparse"]
    assert not cogs.log  # nothing was opened yet
    filled = [Scene.from_json(src.header(s).to_json()) for s in scenes]
    assert [(round(s.bands["B04"].scale, 9), round(s.bands["B04"].offset, 9)) for s in filled] == [
        (1e-4, 0.0), (1e-4, -0.1), (1e-4, 0.0), (1e-4, -0.1),
    ]  # fmt: skip
    import hashlib

    content = hashlib.md5((cogs.root / "B04.tif").read_bytes()).hexdigest()
    for scene in filled:
        b = scene.bands["B04"]
        assert (b.dtype, b.nodata, b.units, b.blocks, b.etag) == ("uint16", 0, "1", (64, 64), content)
        assert b.grid.shape == (100, 120)
        assert scene.bands[QUALITY].dtype == "uint8"
        reader = pickle.loads(pickle.dumps(RasterReader(src.readable)))  # as a Dask worker gets it
        np.testing.assert_array_equal(reader.read(b, b.grid), PIXELS)


def test_later_headers_cost_one_request_a_band(tmp_path, cogs):
    items = [s2(f"i{n}", n, pair(cogs.url)) for n in (1, 6)]
    (file := tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    src = source(tmp_path, {"items": str(file), "allowed_hosts": [cogs.host]})
    first, second = src.plan(None)
    src.header(first)
    cogs.clear()
    filled = src.header(second)
    assert sorted(r[1] for r in cogs.log) == ["/B04.tif", "/SCL.tif"]
    assert filled.bands["B04"] == src.header(first).bands["B04"]


def test_entry_and_convention_fill_what_nobody_says(tmp_path, cogs):
    said = pair(cogs.url)
    radar = item("S1A_IW", "2023-05-01T06:00:00Z", {"vv": said["B04"]}, collection="s1")
    (file := tmp_path / "one.json").write_text(json.dumps(radar))
    args = {"items": str(file), "allowed_hosts": ["127.0.0.1"]}
    bands = {"VV": {"source_name": "vv"}}
    src = source(tmp_path, args, mask=False, sensor="sentinel-1", level="GRD", bands=bands)
    (scene,) = src.plan(None)
    b = src.header(scene).bands["VV"]
    assert (b.units, b.scale, b.offset, b.dtype) == ("DN", 1.0, 0.0, "uint16")
    odd = source(
        tmp_path, args, mask=False, sensor="probe", level="X", bands={"VV": {"source_name": "vv", "units": "dB"}}
    )
    b = odd.header(odd.plan(None)[0]).bands["VV"]
    assert (b.units, b.scale) == ("dB", None)  # not invented here


def test_404_names_item_and_asset_and_the_others_go_on(tmp_path, cogs):
    gone = pair(cogs.url)
    gone["B04"]["href"] = f"{cogs.url}/gone/B04.tif"
    src = listed(
        tmp_path, cogs, s2("whole", 1, pair(cogs.url)), s2("holed", 6, gone), s2("whole too", 11, pair(cogs.url))
    )
    one, two, three = src.plan(None)
    src.header(one)
    for _ in range(2):  # also where the header would be skipped
        with pytest.raises(AssetMissing, match=r"(?s)404.*item holed, asset 'B04' \(.*/gone/B04\.tif\)"):
            src.header(two)
    assert src.header(three).bands["B04"].etag


def test_transient_faults_are_tried_again(tmp_path, cogs, monkeypatch):
    from eoflow.config import settings

    src = listed(tmp_path, cogs, *(s2(f"i{n}", n, pair(cogs.url)) for n in (1, 6, 11)))
    scenes = src.plan(None)
    cogs.fault("B04.tif", 503, times=2)
    src.header(scenes[0])
    cogs.fault("B04.tif", 503, times=1)
    cogs.fault("B04.tif", 0, times=1)  # hangs up
    src.header(scenes[1])
    monkeypatch.setattr(settings(), "retries", 1)
    cogs.fault("SCL.tif", 503, times=50)
    with pytest.raises(AssetTransient, match=r"(?s)503.*item i11, asset 'SCL'"):
        src.header(scenes[2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"proj:shape": [100, 121]}, "contradicts its item; grid"),
        ({"proj:transform": [10, 0, 600_010, 0, -10, 5_700_000]}, "contradicts its item; grid"),
        ({"proj:epsg": 32630}, "contradicts its item; grid"),
        ({"raster:bands": [{"nodata": 0, "data_type": "int16"}]}, "data type: item int16, file uint16"),
        ({"raster:bands": [{"nodata": 9, "data_type": "uint16"}]}, "nodata: item 9, file 0"),
        ({"raster:bands": [{"nodata": "nan", "data_type": "uint16"}]}, "nodata: item nan, file 0"),
    ],
)
def test_items_that_the_first_file_contradicts(tmp_path, cogs, change, said):
    assets = pair(cogs.url)
    assets["B04"] |= change
    src = listed(tmp_path, cogs, s2("i", 1, assets))
    with pytest.raises(AssetCorrupt, match=f"(?s){said}.*item i, asset 'B04'"):
        src.header(src.plan(None)[0])


def test_other_faults_of_one_scene(tmp_path, cogs):
    write_cog(cogs.root / "plain.tif", PIXELS, nodata=None)
    nan, lacking, torn = (pair(cogs.url) for _ in range(3))
    nan["B04"] |= {"href": f"{cogs.url}/plain.tif", "raster:bands": [{"nodata": "nan", "data_type": "uint16"}]}
    del lacking["SCL"]
    src = listed(tmp_path, cogs, s2("nan", 1, nan), s2("lacking", 6, lacking), s2("torn", 11, torn))
    by_id = {s.id: s for s in src.plan(None)}
    with pytest.raises(AssetCorrupt, match=r"(?si)nodata is nan, which uint16 .*cannot hold.*item nan, asset 'B04'"):
        src.header(by_id["nan"])
    with pytest.raises(AssetMissing, match=r"(?s)no asset 'SCL' \(it has B04\).*item lacking"):
        src.header(by_id["lacking"])
    wrong = source(tmp_path, src.args, bands={"B04": {**BAND, "index": 2}})
    with pytest.raises(AssetCorrupt, match=r"(?s)band 2 is asked for.*item torn"):
        wrong.header(next(s for s in wrong.plan(None) if s.id == "torn"))


def test_the_item_s_own_contradiction(tmp_path, cogs):
    src = listed(tmp_path, cogs, s2("i", 1, pair(cogs.url, **ES), **{"s2:processing_baseline": "02.14"}))
    with pytest.raises(AssetCorrupt, match=r"(?s)offset of -0\.1.*02\.14.*item i"):
        src.header(src.plan(None)[0])


def test_baselines_that_are_not_told(tmp_path, cogs):
    silent = s2("silent", 1, pair(cogs.url), **{"s2:processing_baseline": None})
    told = s2("told", 6, pair(cogs.url), **{"s2:processing_baseline": "02.14"})
    with pytest.raises(BadInput, match=r"(?s)no processing baseline.*item silent.*baseline: '04\.00'"):
        listed(tmp_path, cogs, silent, told).plan(None)
    scenes = listed(tmp_path, cogs, silent, told, baseline="04.00").plan(None)
    assert [(s.baseline, s.bands["B04"].offset) for s in scenes] == [("04.00", -0.1), ("02.14", 0.0)]


def test_items_without_time_are_passed_over_and_said(tmp_path, cogs):
    timeless = s2("timeless", 1, pair(cogs.url))
    timeless["properties"]["datetime"] = None
    src = listed(tmp_path, cogs, timeless, s2("i", 6, pair(cogs.url)))
    assert [s.id for s in src.plan(None)] == ["i"]
    assert src.notes == ["item timeless is passed over: its datetime is None"]


def test_the_newest_processing_is_planned(tmp_path, cogs):
    old = s2("old", 1, pair(cogs.url), **{"s2:processing_baseline": "02.14"})
    src = listed(tmp_path, cogs, s2("new", 1, pair(cogs.url)), old)
    (scene,) = src.plan(None)
    assert (scene.id, scene.properties["supersedes"]) == ("new", ["old"])
    assert "left out: old" in src.notes[0]


def test_across_the_antimeridian(tmp_path, cogs):
    fiji = item(
        "fiji",
        "2023-05-01T22:00:00Z",
        pair(cogs.url),
        bbox=(179.5, -18, 180, -17),
        **{"s2:processing_baseline": "05.09"},
    )
    east = item(
        "east",
        "2023-05-02T22:00:00Z",
        pair(cogs.url),
        bbox=(-180, -18, -179.6, -17),
        **{"s2:processing_baseline": "05.09"},
    )
    away = item(
        "away", "2023-05-03T22:00:00Z", pair(cogs.url), bbox=(0, -18, 1, -17), **{"s2:processing_baseline": "05.09"}
    )
    with StacServer(tmp_path / "api", [fiji, east, away]) as api:
        src = source(tmp_path, {"api": api.url, "collections": ["sentinel-2-l2a"]})
        assert [s.id for s in src.plan(None, (179.0, -20.0, -179.0, -10.0))] == ["fiji", "east"]


def test_radar_geometry_is_located_by_its_control_points(tmp_path, cogs):
    from rasterio.control import GroundControlPoint

    points = [
        GroundControlPoint(row=r, col=c, x=-7.5 + c * 1e-4, y=51.5 - r * 1e-4) for r in (0, 100) for c in (0, 120)
    ]
    write_cog(cogs.root / "vv.tif", PIXELS, nodata=None, crs="EPSG:4326", transform=None, gcps=points)
    grd = item("S1A_IW_GRDH", "2023-05-01T06:00:00Z", {"vv": asset(f"{cogs.url}/vv.tif")}, platform="sentinel-1a")
    del grd["properties"]["proj:epsg"]
    (file := tmp_path / "grd.json").write_text(json.dumps(grd))
    bands = {"VV": {"source_name": "vv"}}
    args = {"items": str(file), "allowed_hosts": [cogs.host]}
    src = source(tmp_path, args, mask=False, sensor="sentinel-1", level="GRD", bands=bands)
    (scene,) = src.plan(None)
    b = src.header(scene).bands["VV"]
    assert (b.units, b.nodata) == ("DN", 0)
    assert b.grid.crs == "EPSG:4326"
    left, top = b.grid.transform[2], b.grid.transform[5]
    assert (left, top) == (pytest.approx(-7.5, abs=2e-4), pytest.approx(51.5, abs=2e-4))
