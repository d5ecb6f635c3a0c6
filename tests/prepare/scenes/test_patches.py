from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from memory_cube import DAY, LABEL, NIR, RED, memory_cube, utm

from eoflow.catalog_patches import LabelRecipe, PatchRecipe, SplitRecipe, load_recipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes.patches import COLUMNS, PatchIndex, build_index
from eoflow.quality import Quality

ALL = SplitRecipe(fractions=(1, 0, 0), block=3e6)
USABLE, CLOUDY = [5, 6, 7], [3, 4]


def index_of(cube, **recipe) -> PatchIndex:
    return build_index(cube, PatchRecipe(**{"patch": 32, "split": ALL, "min_valid": 0.0, **recipe}))[0]


def window(cube, index, i, time, layer):
    tile = index.tiles[index.tile[i]]
    slot = int(np.flatnonzero(cube.times(tile) == time)[0])
    rows = slice(index.y[i], index.y[i] + index.patch), slice(index.x[i], index.x[i] + index.patch)
    return cube.group(tile)[layer][(slot, *rows)]


def test_fractions_and_counts_are_those_of_the_pixels():
    cube = memory_cube({"a": utm(shape=(97, 83)), "b": utm(shape=(20, 40), east=6e5)}, (RED, LABEL), cloud=0.4)
    index = index_of(cube, stride=20, labels=LabelRecipe(band="water"))
    assert set(index.tile) == {0, 1}
    plain = index_of(cube, stride=20)
    for i in range(len(index)):
        quality = window(cube, index, i, index.times[i, 0], "quality")
        assert index.valid[i] == pytest.approx(np.isin(quality, USABLE).mean(), abs=1e-6)
        assert index.cloud[i] == pytest.approx(np.isin(quality, CLOUDY).mean(), abs=1e-6)
        label = window(cube, index, i, index.times[i, 0], "water")
        assert index.classes[i].tolist() == [(label == 0).sum(), (label == 1).sum()]
        assert plain.classes[i].tolist() == np.bincount(quality.ravel(), minlength=8).tolist()
    assert index.class_names == ("0", "1")
    assert plain.class_names[3] == "cloud"


def test_a_tile_smaller_than_a_patch_is_one_padded_window():
    cube = memory_cube({"small": utm(shape=(20, 17))}, times=2, cloud=0.0)
    index = index_of(cube, patch=64, min_valid=0.5)
    assert len(index) == 2
    assert (index.y == 0).all()
    assert (index.x == 0).all()
    assert (index.valid > 0.8).all(), "fractions are of the pixels that exist"


def test_filters_and_what_they_leave_out():
    cube = memory_cube({"clear": utm(shape=(64, 64)), "cloudy": utm(shape=(64, 64), east=6e5)}, cloud=0.0)
    group = cube.group("cloudy")
    cloudy = np.full_like(group["quality"][...], Quality.CLOUD)
    cloudy[1:, :, :32] = Quality.CLEAR
    cube.put("cloudy", cube.grid("cloudy"), cube.times("cloudy"), {b: group[b][...] for b in ("red", "nir")}, cloudy)
    index = index_of(cube, min_valid=0.5)
    half = index.tile == index.tiles.index("cloudy")
    assert half.sum() == 2 * 3
    assert set(index.x[half]) == {0}
    strict = index_of(cube, min_valid=0.6, patch=64, max_cloud=0.1)
    assert list(strict.skipped) == ["cloudy"]
    assert "min_valid 60%" in strict.skipped["cloudy"]
    assert "no sample in cloudy" in strict.text()
    with pytest.raises(BadInput, match="no window makes a sample"):
        index_of(cube, min_valid=1.0, patch=64)


def test_slots_without_a_scene_and_labels_without_a_class_make_no_sample():
    cube = memory_cube({"a": utm(shape=(64, 32))}, (RED, LABEL), times=3, cloud=0.0)
    group = cube.group("a")
    quality, red, label = (group[n][...] for n in ("quality", "red", "water"))
    quality[1] = 0
    label[2, :32] = -1
    cube.put("a", cube.grid("a"), cube.times("a"), {"red": red, "water": label}, quality)
    index = index_of(cube, labels=LabelRecipe(band="water"))
    assert [(int(y), t) for y, t in zip(index.y, index.times[:, 0], strict=True)] == [
        (0, cube.times("a")[0]), (32, cube.times("a")[0]), (32, cube.times("a")[2])]  # fmt: skip
    assert index.dropped["without a labelled pixel"] == 1


def test_pairs_and_neighbours_in_time():
    cube = memory_cube({"a": utm(shape=(32, 32))}, times=6, cloud=0.0)
    pairs = index_of(cube, pick="pairs", dates=2, apart="10d", span="20d")
    steps = (pairs.times[:, 1] - pairs.times[:, 0]) / DAY
    assert sorted(steps) == [10] * 4 + [15] * 3 + [20] * 2
    three = index_of(cube, pick="consecutive", dates=3)
    assert len(three) == 4
    assert (np.diff(three.times, axis=1) == 5 * DAY).all()
    assert len(index_of(cube, pick="consecutive", dates=3, period="2024-01-01/2024-01-20")) == 2
    few = index_of(cube, pick="pairs", dates=2, limit=3)
    assert len(few) == 3
    everything = index_of(cube, pick="pairs", dates=2)
    kept = {tuple(t) for t in few.times}
    assert kept < {tuple(t) for t in everything.times}
    other = index_of(cube, pick="pairs", dates=2, limit=3, split=ALL.model_copy(update={"seed": 1}))
    assert {tuple(t) for t in other.times} != kept


def test_cloudy_dates_with_a_clear_target():
    cube = memory_cube({"a": utm(shape=(32, 64))}, times=8, cloud=0.0)
    group = cube.group("a")
    quality = np.full_like(group["quality"][...], Quality.CLEAR)
    quality[[1, 2, 4, 5, 6], :, :20] = Quality.CLOUD  # 62 % of the left window
    quality[3, :, 32:] = Quality.NODATA
    cube.put("a", cube.grid("a"), cube.times("a"), {b: group[b][...] for b in ("red", "nir")}, quality)
    times = cube.times("a")
    index = index_of(cube, pick="clear-target", dates=3, targets=("red",), min_cloud=0.3, max_cloud=0.8)
    assert set(index.x) == {0}
    found = {int(np.flatnonzero(times == t)[0]): np.searchsorted(times, row).tolist()
             for t, row in zip(index.target, index.times, strict=True)}  # fmt: skip
    assert found == {0: [1, 2, 4], 3: [1, 2, 4], 7: [4, 5, 6]}  # of 1 and 5, as near to 3, the earlier one
    assert (index.valid == 1).all()
    assert np.allclose(index.cloud, 20 / 32)
    assert (index.first <= index.last).all()
    assert index.first[index.target == times[0]] == times[0]


def test_weights_balance_the_classes():
    cube = memory_cube({"a": utm(shape=(96, 96))}, (RED, LABEL), times=1, cloud=0.0)
    group = cube.group("a")
    label = np.zeros_like(group["water"][...])
    label[:, :32, :32] = 1
    quality, red = group["quality"][...], group["red"][...]
    cube.put("a", cube.grid("a"), cube.times("a"), {"red": red, "water": label}, quality)
    index = index_of(cube, labels=LabelRecipe(band="water"), balance="classes")
    water = index.classes[:, 1] > 0
    assert water.sum() == 1
    assert index.weight[water][0] == pytest.approx(8 * index.weight[~water][0], rel=1e-5)
    assert index.weight.mean() == pytest.approx(1, abs=1e-6)


def test_stored_and_read_again(tmp_path):
    cube = memory_cube({"a": utm(shape=(64, 64))}, times=4)
    index = index_of(cube, pick="clear-target", dates=2, targets=("red",), target_cloud=1.0)
    index.save(tmp_path / "index.zarr")
    again = PatchIndex.load(tmp_path / "index.zarr")
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(index, name))
    assert again.hash == index.hash
    assert again.grids == index.grids
    assert again.division == index.division
    ds = xr.open_zarr(tmp_path / "index.zarr", consolidated=False)
    assert ds.sizes["sample"] == len(index)
    assert (ds.times.values == index.times).all()
    with pytest.raises(BadInput, match="no patch index"):
        PatchIndex.load(tmp_path / "nothing.zarr")
    assert not list(tmp_path.glob("*.partial"))


def test_a_recipe_from_a_file(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("patch: 64\nlabels: {band: water}\nsplit: {by: groups, hold: {test: [Bolivia]}}\n")
    recipe = load_recipe(file)
    assert (recipe.patch, recipe.split.hold) == (64, {"test": ("Bolivia",)})
    file.write_text("name: x\npatches: {patch: 32}\n")
    assert load_recipe(file).patch == 32
    file.write_text("patches: {pach: 32}\n")
    with pytest.raises(BadInput, match=r"unknown key 'pach'.*patch(.|\n)*r.yaml, patches"):
        load_recipe(file)
    with pytest.raises(BadInput, match="no file"):
        load_recipe(tmp_path / "none.yaml")


def test_recipes_that_make_no_sense_are_refused():
    cube = memory_cube(bands=(RED, NIR))
    for wrong, match in (
        ({"bands": ("rde",)}, "no band 'rde'.*red"), ({"bands": ("red", "red")}, "distinct"),
        ({"labels": LabelRecipe(band="nope")}, "no band 'nope'"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            index_of(cube, **wrong)
    for keys, match in (
        ({"patch": 32, "stride": 33}, "leaves pixels"), ({"pick": "pairs", "dates": 3}, "takes 2 dates"),
        ({"targets": ("red",)}, "clear-target"), ({"usable": ("cleer",)}, "no quality class 'cleer'.*clear"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            PatchRecipe(**keys)
    assert PatchRecipe(labels=LabelRecipe(band="nir")).inputs(("red", "nir")) == ("red",)
