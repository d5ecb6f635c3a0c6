"""The driver of sample aerial scenes: lists, files, truth, faults of entries."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources import sample_aerial
from eoflow.sources.base import SourceContext
from eoflow.sources.land import aerial
from eoflow.sources.sample_aerial import BANDS, SampleAerialSource
from eoflow.times import Period


def entry(**changes):
    raw = catalog.entry("sample-aerial").model_dump()
    raw["source"]["args"] = {"seed": 1, "places": 3, "size": 64, **changes.pop("args", {})}
    return SceneEntry.model_validate({**raw, **changes})


def source(tmp_path, e=None):
    return SampleAerialSource(e or entry(), SourceContext(tmp_path, np.datetime64("2026-01-01", "ns")))


def test_each_place_is_listed_on_its_dates_oldest_first(tmp_path):
    scenes = source(tmp_path).plan(None)
    assert len(scenes) == 6
    assert len({s.id for s in scenes}) == 6
    times = [s.time for s in scenes]
    assert times == sorted(times)
    for tile in {s.tile for s in scenes}:
        first, last = sorted(s.time for s in scenes if s.tile == tile)
        assert last - first >= np.timedelta64(365, "D")
    boxes = {s.bbox for s in scenes}
    assert len(boxes) == 3


def test_a_period_and_an_area_choose(tmp_path):
    s = source(tmp_path)
    every = s.plan(None)
    one = s.plan(Period(every[0].time, every[0].time + np.timedelta64(1, "s")))
    assert [x.id for x in one] == [every[0].id]
    assert {x.tile for x in s.plan(None, every[0].bbox)} == {every[0].tile}


def test_files_hold_the_images_and_the_truth(tmp_path):
    import rasterio

    s = source(tmp_path)
    scene = s.plan(None)[0]
    place = int(scene.tile[-5:])
    with rasterio.open(s.readable(scene.bands["red"].href)) as f:
        values, names, resolution = f.read(), f.descriptions, f.res[0]
    assert names == BANDS
    truth = aerial.series(1, place, 64)
    assert np.array_equal(values[:3], truth.images[0].transpose(2, 0, 1))
    assert np.array_equal(values[3].astype(bool), truth.built[0])
    assert not values[4].any()
    assert resolution == pytest.approx(truth.gsd) == scene.bands["red"].grid.transform[0]
    asked = sample_aerial.truth(s.entry, scene.tile)
    assert np.array_equal(asked["change"], truth.change)
    assert np.array_equal(asked["building"], truth.built)


def test_a_file_that_went_is_made_again_the_same(tmp_path):
    from pathlib import Path

    s = source(tmp_path)
    path = Path(s.readable(s.plan(None)[0].href))
    first = path.read_bytes()
    path.unlink()
    assert Path(s.readable(s.plan(None)[0].href)).read_bytes() == first


def test_what_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="no band 'nir'"):
        source(tmp_path, entry(bands={"nir": {"units": "1"}}))
    with pytest.raises(BadInput, match="not a file"):
        source(tmp_path).readable("sample-aerial://000000000000/place-00000/00.tif")
    with pytest.raises(BadInput, match="no truth"):
        sample_aerial.truth(catalog.entry("sample-scenes"), "place-00001")
    with pytest.raises(BadInput, match="places"):
        source(tmp_path, entry(args={"places": 0}))
