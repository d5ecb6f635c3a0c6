"""The driver of the sample scenes: what is listed when, and files that are the same bytes every time."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.sources import base, sample_files
from eoflow.sources.base import AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.land import Tile
from eoflow.sources.raster import RasterReader, grid_of
from eoflow.sources.sample_scenes import SampleScenesSource, change, truth, world_of
from eoflow.sources.scene import QUALITY, Scene, SceneSource
from eoflow.times import Period

TILES = {"32N-0390-4060": "lowland", "33N-0400-4070": "suburb"}  # 128 pixels of 10 m
LATE = "2022-06-01"


def changed(name: str, **args):
    entry = catalog.entry(name)
    args = {**entry.source.args, "size": 128, "tiles": TILES, "faults": [], **args}
    return entry.model_copy(update={"source": entry.source.model_copy(update={"args": args})})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def source(entry, cache: Path, now: str = LATE) -> SampleScenesSource:
    return SampleScenesSource(entry, SourceContext(cache, np.datetime64(now)))


@pytest.mark.parametrize("name", ["sample-scenes", "sample-radar"])
def test_the_shipped_entries(name, cache):
    s = base.create(catalog.entry(name), SourceContext(cache, np.datetime64(LATE)))
    assert isinstance(s, SceneSource)
    assert s.gives == "scenes"
    scenes = s.plan(None)
    assert len({x.id for x in scenes}) == len(scenes) > 700
    assert [x.time for x in scenes] == sorted(x.time for x in scenes)
    assert len({x.tile for x in scenes}) == 6
    assert len({x.bands[next(iter(x.bands))].grid.crs for x in scenes}) == 2
    for tile in {x.tile for x in scenes}:
        times = np.array([x.time for x in scenes if x.tile == tile])
        assert set(np.diff(times) / np.timedelta64(1, "D")) <= {5.0, 6.0}
    assert Scene.from_json(scenes[0].to_json()) == scenes[0]
    assert pickle.loads(pickle.dumps(s)).plan(None) == scenes


def test_both_satellites_see_the_same_land():
    assert world_of(catalog.entry("sample-scenes")) == world_of(catalog.entry("sample-radar"))


def test_plan_keeps_to_period_area_and_delay(cache):
    s = source(changed("sample-scenes"), cache)
    everything = s.plan(None)
    period = Period.parse("2020-03")
    some = s.plan(period)
    assert some == [x for x in everything if period.contains(x.time)]
    assert 10 <= len(some) <= 14
    tile = Tile.parse("33N-0400-4070", 128)
    assert {x.tile for x in s.plan(None, tile.bbox)} == {tile.name}
    assert s.plan(None, (100.0, 0.0, 101.0, 1.0)) == []
    assert len(s.plan(None, (170.0, 40.0, 60.0, 60.0))) == len(everything)  # across the antimeridian
    first = everything[0]
    early = source(changed("sample-scenes"), cache, str(first.time + np.timedelta64(11, "h")))
    assert early.plan(None) == []  # listed 12 h after the pass
    assert source(changed("sample-scenes"), cache, str(first.time + np.timedelta64(13, "h"))).plan(None) == [first]


def test_files_hold_what_header_and_truth_say(cache):
    entry = changed("sample-scenes")
    s = source(entry, cache)
    reader = RasterReader(s.readable)
    clear = 0
    for scene in s.plan(Period.parse("2020-05/2020-06")):
        scene = s.header(scene)
        true = truth(entry, scene.tile, scene.time, ("B04",))
        for name, band in scene.bands.items():
            h = reader.header(band.href)
            assert (grid_of(h), h.dtype, h.nodata, h.blocks) == (band.grid, band.dtype, band.nodata, band.blocks)
            if name != QUALITY:
                assert (h.scale, h.offset) == pytest.approx((band.scale, band.offset)) == (1e-4, -0.1)
                assert band.units == "1"
        b = scene.bands["B04"]
        dn, scl = (reader.read(scene.bands[n], b.grid) for n in ("B04", QUALITY))
        free = (dn > 0) & (dn < 65535) & (true["cloud_alpha"] < 0.002) & (true["cloud_shade"] < 0.002)
        clear += int(free.sum())
        np.testing.assert_allclose(dn[free] * b.scale + b.offset, true["reflectance"][0][free], atol=0.06)
        assert np.isin(scl[true["cloud"] & (scl > 1)], (8, 9, 10)).all()
    assert clear > 30_000
    reader.close()


def test_radar_files(cache):
    entry = changed("sample-radar")
    s = source(entry, cache)
    reader = RasterReader(s.readable)
    scene = s.header(s.plan(Period.parse("2020-07"))[0])
    vv = reader.read(scene.bands["VV"], scene.bands["VV"].grid)
    assert vv.dtype == np.float32
    assert QUALITY not in scene.bands
    echo = s.world.radar(scene.tile, scene.time, correlation=0.5)
    np.testing.assert_array_equal(vv, echo.decibel("VV"))
    bands = {n: b.model_copy(update={"units": "1"}) for n, b in entry.bands.items()}
    linear = source(entry.model_copy(update={"bands": bands}), cache)
    band = linear.plan(Period.parse("2020-07"))[0].bands["VV"]
    assert band.units == "1"
    np.testing.assert_allclose(10 * np.log10(RasterReader(linear.readable).read(band, band.grid)), vv, atol=1e-4)


def test_the_same_bytes_in_any_order_and_from_many_threads(cache, tmp_path):
    entry = changed("sample-scenes")
    scenes = source(entry, cache).plan(Period.parse("2020-04"))[:4]
    hrefs = [b.href for s in scenes for b in s.bands.values()]
    here = source(entry, cache)
    one = {h: Path(here.readable(h)).read_bytes() for h in hrefs}
    there = source(entry, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        many = dict(zip(reversed(hrefs), pool.map(there.readable, reversed(hrefs))))
    assert {h: Path(p).read_bytes() for h, p in many.items()} == one
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp-")]


def test_a_file_that_was_deleted_is_made_again(cache):
    s = source(changed("sample-scenes"), cache)
    href = s.plan(Period.parse("2020-08"))[0].bands["B02"].href
    path = Path(s.readable(href))
    before = path.read_bytes()
    path.unlink()
    assert Path(s.readable(href)).read_bytes() == before


def test_the_cache_stays_small(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "KEEP", 3)
    monkeypatch.setattr(sample_files, "QUIET", -1.0)
    s = source(changed("sample-radar"), tmp_path)
    for scene in s.plan(Period.parse("2020-01/2020-02"))[:7]:
        path = Path(s.readable(scene.bands["VV"].href))
        assert path.is_file()
    assert len(list(path.parent.parent.iterdir())) == 3


FAULT = "2020-02-01/2020-02-05"


def one_scene(kind: str, cache: Path, now: str, **more) -> tuple[SampleScenesSource, list[Scene]]:
    fault = {"kind": kind, "at": FAULT, "until": "2020-03-01", "tile": "32N-0390-4060", **more}
    s = source(changed("sample-scenes", faults=[fault]), cache, now)
    return s, [x for x in s.plan(Period.parse(FAULT)) if x.tile == "32N-0390-4060"]


def test_late(cache):
    assert one_scene("late", cache, "2020-02-20")[1] == []
    assert len(one_scene("late", cache, "2020-03-02")[1]) == 1


def test_gap(cache):
    s, scenes = one_scene("gap", cache, "2020-02-20")
    with pytest.raises(AssetMissing, match="files are not there"):
        s.header(scenes[0])
    s, scenes = one_scene("gap", cache, "2020-03-02")
    assert s.header(scenes[0]) == scenes[0]


def test_corrupt_is_one_truncated_file_until_it_is_repaired(cache):
    s, scenes = one_scene("corrupt", cache, "2020-02-20", band="B08")
    reader = RasterReader(s.readable, tries=1)
    bands = s.header(scenes[0]).bands
    with pytest.raises(AssetCorrupt):
        reader.read(bands["B08"], bands["B08"].grid)
    assert reader.read(bands["B04"], bands["B04"].grid).shape == (128, 128)
    s, after = one_scene("corrupt", cache, "2020-03-02", band="B08")
    whole = after[0].bands["B08"]
    assert whole.etag != bands["B08"].etag
    assert after[0].id == scenes[0].id
    assert RasterReader(s.readable).read(whole, whole.grid).any()


def test_a_reprocessed_scene(cache):
    s, scenes = one_scene("old-baseline", cache, "2020-02-20")
    t, again = one_scene("old-baseline", cache, "2020-03-02")
    old, new = scenes[0], again[0]
    assert (old.id, old.time) == (new.id, new.time)
    assert (old.baseline, new.baseline) == ("03.01", "04.00")
    assert old.version != new.version
    assert (old.bands["B03"].offset, new.bands["B03"].offset) == (0.0, -0.1)
    assert old.bands["B03"].etag != new.bands["B03"].etag
    a, b = (RasterReader(x.readable).read(y.bands["B03"], y.bands["B03"].grid).astype(int)
            for x, y in ((s, old), (t, new)))  # fmt: skip
    free = (a > 1) & (b > 0) & (b < 65535)
    assert free.sum() > 1000
    np.testing.assert_array_equal(b[free], a[free] + 1000)


def test_truth_of_an_entry():
    entry = changed("sample-scenes")
    found = change(entry, "33N-0400-4070", "2020-01-01", "2021-12-31")
    assert found["mask"].any()
    flood = world_of(entry).floods("32N-0390-4060", 2020)[0]
    assert truth(entry, "32N-0390-4060", str(flood.peak))["flood"].any()
    with pytest.raises(BadInput, match="no truth"):
        truth(entry.model_copy(update={"source": entry.source.model_copy(update={"driver": "stac"})}), "x", "2020")


def test_wrong_entries_and_addresses_are_refused(cache):
    entry = changed("sample-scenes")
    bands = {"B99": next(iter(entry.bands.values()))}
    with pytest.raises(BadInput, match="no band 'B99'"):
        source(entry.model_copy(update={"bands": bands}), cache)
    with pytest.raises(BadInput, match="outside the UTM zone"):
        source(changed("sample-scenes", tiles={"32N-0001-4060": "hills"}), cache)
    with pytest.raises(BadInput, match="tiels"):
        source(changed("sample-scenes", tiels={}), cache)
    s = source(entry, cache)
    for href in ("file:///etc/passwd", "sample://../../x/1-04.00/B02.tif", "/etc/passwd"):
        with pytest.raises(BadInput):
            s.readable(href)
    other = s.plan(None)[0].bands["B02"].href.replace("B02", "B12")
    with pytest.raises(BadInput, match="not a file of this dataset"):
        s.readable(other)
