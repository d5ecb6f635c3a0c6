"""The training entry of floods, and the truth as bands of the sample satellites."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.sources.base import SourceContext
from eoflow.sources.raster import RasterReader
from eoflow.sources.sample_scenes import SampleScenesSource
from eoflow.times import Period

TILES = {"32N-0390-4060": "lowland", "33N-0400-4070": "coast"}  # 128 pixels of 10 m
LATE = np.datetime64("2022-06-01")


def small(name: str, bands: dict[str, dict[str, object]] | None = None, **args):
    entry = catalog.entry(name)
    args = {**entry.source.args, "size": 128, "tiles": TILES, "faults": [], **args}
    update = {"source": entry.source.model_copy(update={"args": args})}
    if bands:
        kind = type(next(iter(entry.bands.values())))
        update["bands"] = {**entry.bands, **{n: kind(**b) for n, b in bands.items()}}
    return entry.model_copy(update=update)


def read(entry, cache, period: str):
    s = SampleScenesSource(entry, SourceContext(cache, LATE))
    reader = RasterReader(s.readable)
    for scene in s.plan(Period.parse(period)):
        yield s, scene, {n: reader.read(b, b.grid) for n, b in s.header(scene).bands.items()}
    reader.close()


def test_the_shipped_entry_is_another_planet_than_the_demo():
    floods, demo = catalog.entry("sample-floods"), catalog.entry("sample-radar")
    assert floods.source.args["seed"] != demo.source.args["seed"]
    assert not set(floods.source.args["tiles"]) & set(demo.source.args["tiles"])
    assert len(set(floods.source.args["tiles"].values())) == 7


def test_varied_scenes_come_with_their_label(tmp_path):
    levels, wet = [], []
    for s, scene, bands in read(small("sample-floods"), tmp_path, "2020"):
        ascending = scene.properties["sat:relative_orbit"] % 2 == 0
        echo, label = s.world.varied_radar(scene.tile, scene.time, ascending=ascending)
        np.testing.assert_array_equal(bands["water"], label)
        np.testing.assert_array_equal(bands["VV"], echo.decibel("VV"))
        assert bands["water"].dtype == np.uint8
        if (label == 0).any():  # some are all water
            levels.append(float(np.median(bands["VV"][label == 0])))
        wet.append((label == 1).mean())
    assert len(levels) >= 10
    assert np.std(levels) > 1.0  # another radiometry in every scene
    assert len(wet) >= 12
    assert 0.05 < np.mean(wet) < 0.7


@pytest.mark.parametrize("name", ["sample-radar", "sample-scenes"])
def test_the_truth_as_bands(name, tmp_path):
    truth = {n: {"units": "1", "dtype": "uint8"} for n in ("water", "cover")}
    for s, scene, bands in read(small(name, truth), tmp_path, "2020-01/2020-03"):
        true = s.world.truth(scene.tile, scene.time)
        np.testing.assert_array_equal(bands["cover"], true["classes"])
        np.testing.assert_array_equal(bands["water"] == 1, true["permanent_water"] | true["flood"])
        np.testing.assert_array_equal(bands["water"] == 2, true["inundation"] & ~true["flood"])


def test_bands_without_truth_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no band 'cover'"):  # a varied scene is no map of its tile
        SampleScenesSource(small("sample-floods", {"cover": {}}), SourceContext(tmp_path, LATE))
    with pytest.raises(BadInput, match="truth has units 1"):
        SampleScenesSource(small("sample-radar", {"water": {"units": "dB"}}), SourceContext(tmp_path, LATE))
