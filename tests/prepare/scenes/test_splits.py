from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_cube import DAY, memory_cube, utm
from pyproj import Transformer
from shapely import Polygon, STRtree
from shapely.ops import transform

from eoflow.catalog_patches import PatchRecipe, SplitRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes.leaks import check_splits
from eoflow.prepare.scenes.patches import build_index
from eoflow.prepare.scenes.splits import NAMES, apportion, group_of
from eoflow.tiling import Grid

ALL = {"min_valid": 0.0}


def index_of(cube, split: SplitRecipe, patch=16, stride=None, **more):
    return build_index(cube, PatchRecipe(patch=patch, stride=stride, split=split, **{**ALL, **more}))[0]


def polygons(index):
    """Every sample's window in one metric projection around the data (Lambert azimuthal equal-area)."""
    grid = index.grids[0]
    centre = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(grid.transform[2], grid.transform[5])
    laea = f"+proj=laea +lon_0={centre[0]} +lat_0={centre[1]} +datum=WGS84"
    to = [Transformer.from_crs(g.crs, laea, always_xy=True).transform for g in index.grids]
    out = []
    for t, y, x in zip(index.tile, index.y, index.x, strict=True):
        a, _, c, _, e, f = index.grids[t].transform
        rows, columns = np.minimum([y + index.patch, x + index.patch], index.grids[t].shape)
        west, north, east, south = c + a * x, f + e * y, c + a * columns, f + e * rows
        out.append(transform(to[t], Polygon([(west, north), (east, north), (east, south), (west, south)])))
    return out


def brute_force(index, buffer: float, gap=None) -> int:
    """How many pairs of samples of different splits lie nearer than the buffer (and the gap), with shapely."""
    shapes = polygons(index)
    found = 0
    for i, j in STRtree(shapes).query(shapes, "dwithin", max(buffer, 1e-3)).T:
        if i < j and index.split[i] != index.split[j] and 0 not in (index.split[i], index.split[j]):
            deep = shapes[i].intersection(shapes[j]).area > 0.01 * shapes[i].area
            near = deep if buffer == 0 else shapes[i].distance(shapes[j]) < 0.97 * buffer
            apart = max(index.first[i] - index.last[j], index.first[j] - index.last[i])
            found += bool(near and (gap is None or apart < gap))
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), buffer=st.sampled_from([0.0, 60.0, 200.0]), patch=st.integers(9, 20),
       block=st.sampled_from([900.0, 1300.0]), overlap=st.integers(0, 60), part=st.booleans())  # fmt: skip
def test_blocks_never_leak(seed, buffer, patch, block, overlap, part):
    """Two tiles of one zone that overlap by some pixels, and one of the neighbouring zone over the same ground."""
    rng = np.random.default_rng(seed)
    east, north = Transformer.from_crs("EPSG:32631", "EPSG:32632", always_xy=True).transform(735_600.0, 5_000_000.0)
    tiles = {
        "a": utm(31, 735_000.0, 5_000_000.0, (97, 83), 20.0),
        "b": utm(31, 735_000.0 + 1660 - 20 * overlap + 3, 5_000_000.0 - 7, (89, 101), 20.0),
        "c": utm(32, east, north, (101, 90), 20.0),
    }
    cube = memory_cube(tiles, times=1, cloud=0.0, seed=int(rng.integers(100)))
    split = SplitRecipe(block=block, buffer=buffer, seed=seed)
    try:
        index = index_of(cube, split, patch, stride=int(rng.integers(patch // 2, patch + 1)) if part else None)
    except BadInput:  # blocks too few for the seed; the test below says when
        return
    report = check_splits(index)
    assert report.ok, report.text()
    assert brute_force(index, buffer) == 0
    again = index_of(cube, split, patch, stride=None) if not part else index
    assert again.hash == index.hash


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), buffer=st.sampled_from([0.0, 50.0]), dates=st.integers(1, 3), gap=st.integers(0, 12))
def test_the_check_finds_what_brute_force_finds(seed, buffer, dates, gap):
    """Splits at random, so that there are leaks."""
    rng = np.random.default_rng(seed)
    cube = memory_cube({"a": utm(shape=(60, 50)), "b": utm(32, 27_000.0, 5_000_000.0, (40, 44))}, times=6, cloud=0.0)
    index = index_of(cube, SplitRecipe(fractions=(1, 0, 0), block=3e5), 16, dates=dates, pick="consecutive")
    keep = np.sort(rng.choice(len(index), min(25, len(index)), replace=False))
    index = index[keep]
    index.split[:] = rng.integers(1, 4, len(index))
    for how in (None, f"{gap}d"):
        index = replace(index, division={**index.division, "buffer": buffer, "gap": how})
        truth = brute_force(index, buffer, None if how is None else max(gap * DAY, np.timedelta64(1, "ns")))
        report = check_splits(index)
        assert report.ok == (truth == 0), report.text()
        assert report.leaks <= truth  # pairs of windows against pairs of samples
        if not report.ok:
            with pytest.raises(BadInput, match=r"leak.*\n.*\n  (train|valid)"):
                report.require()


def test_neighbours_that_touch_do_not_leak_and_a_pixel_does():
    cube = memory_cube({"a": utm(shape=(32, 64))}, times=1, cloud=0.0)
    index = index_of(cube, SplitRecipe(fractions=(1, 0, 0), block=3e5, buffer=0), 32)
    index.split[:] = [1, 2]
    assert check_splits(index).ok
    index.x[1] -= 1
    report = check_splits(index)
    assert report.leaks == 1
    assert "train: a y=0 x=0" in report.text()
    assert "overlap by 10 m" in report.text()


def test_groups_hold_out_whole_events_and_drop_what_overlaps():
    tiles = {
        f"{event}_{i}": utm(shape=(32, 32), east=5e5 + 320 * i + 9_000 * k)
        for k, event in enumerate(("Bolivia", "Ghana", "India", "Spain", "USA")) for i in range(3)
    }  # fmt: skip
    tiles["USA_9"] = utm(shape=(32, 32), east=5e5 + 150)  # over Bolivia_0 and Bolivia_1
    cube = memory_cube(tiles, times=1, cloud=0.0)
    split = SplitRecipe(by="groups", group="^([A-Za-z]+)_", hold={"test": ("Bolivia",)}, buffer=0.0)
    index = index_of(cube, split, 32)
    of = {n: {index.tiles[t].split("_")[0] for t in index.tile[index.of(n)]} for n in ("train", "valid", "test")}
    assert of["test"] == {"Bolivia"}
    assert not of["train"] & of["valid"]
    assert of["train"] | of["valid"] == {"Ghana", "India", "Spain", "USA"}
    assert "USA_9" not in {index.tiles[t] for t in index.tile}
    assert check_splits(index).ok
    assert brute_force(index, 0.0) == 0
    for wrong, match in (
        ({"group": "^([a-z]+)$"}, "does not match"), ({"group": "("}, "regular expression"),
        ({"hold": {"test": ("Peru",)}}, "no group 'Peru'"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            index_of(cube, split.model_copy(update=wrong), 32)
    assert group_of("abc", "^.*$") == "abc"


def test_time_splits_keep_their_gap():
    cube = memory_cube({"a": utm(shape=(32, 64))}, times=40, cloud=0.0)
    index = index_of(cube, SplitRecipe(by="time", gap="11d"), 32)
    last = index.last[index.of("train")].max()
    assert index.first[index.of("valid")].min() - last >= 11 * DAY
    report = check_splits(index)
    assert report.ok
    assert report.compared > 0
    assert report.gap == "11d"
    index.times[index.of("valid")[0]] = last + 10 * DAY
    assert not check_splits(index).ok
    pairs = index_of(cube, SplitRecipe(by="time", gap="11d"), 32, pick="pairs", dates=2, span="20d")
    assert check_splits(pairs).ok
    assert pairs.last[pairs.of("train")].max() <= last
    with pytest.raises(BadInput, match="too few"):
        index_of(memory_cube(times=1), SplitRecipe(by="time"), 32)
    named = SplitRecipe(
        by="time", gap="5d", periods={"train": "2024-01-01/2024-03-01", "valid": "2024-03-10/2024-04-01"}
    )
    index = index_of(cube, named, 32)
    assert check_splits(index).ok
    assert not index.of("test").size


@settings(max_examples=25, deadline=None)
@given(weights=st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 50), min_size=3, max_size=60),
       seed=st.integers(0, 99))  # fmt: skip
def test_apportioned_shares_come_near_and_what_is_kept_stays(weights, seed):
    fractions = (0.7, 0.15, 0.15)
    out = apportion(weights, fractions, seed, {})
    assert set(out.values()) == {"train", "valid", "test"}
    total, heaviest = sum(weights.values()), max(weights.values())
    for name, f in zip(NAMES, fractions, strict=True):
        share = sum(weights[k] for k in out if out[k] == name)
        assert share <= f * total + heaviest
    assert apportion(dict(reversed(weights.items())), fractions, seed, {}) == out
    more = {**weights, "something new": 10}
    kept = apportion(more, fractions, seed, out)
    assert all(kept[k] == out[k] for k in weights)


def test_what_cannot_be_split_says_why():
    cube = memory_cube({"a": utm(shape=(64, 64))}, times=1)
    with pytest.raises(BadInput, match=r"1 block of .* too few for 3 splits(.|\n)*split.block="):
        index_of(cube, SplitRecipe(block=4e5), 16)
    with pytest.raises(BadInput, match="leave no window for 'train'"):
        index_of(cube, SplitRecipe(block=200, buffer=5000), 16)
    with pytest.raises(BadInput, match="1 groups are too few"):
        index_of(cube, SplitRecipe(by="groups"), 16)
    lost = memory_cube({"a": Grid("", (1, 0, 0, 0, -1, 0), (64, 64))}, times=1)
    with pytest.raises(BadInput, match="no CRS"):
        index_of(lost, SplitRecipe(), 16)
    with pytest.raises(ValueError, match="add up to 1"):
        SplitRecipe(fractions=(0.5, 0.6, 0.2))
