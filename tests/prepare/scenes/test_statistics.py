from __future__ import annotations

import warnings

import numpy as np
import pytest
from cubes import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_cube import NIR, RED, VV, fill, memory_cube, utm

from eoflow.bands import BandSpec
from eoflow.catalog_patches import PatchRecipe, SplitRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes import histograms, reading, statistics
from eoflow.prepare.scenes.splits import CODES, divide
from eoflow.prepare.scenes.stored import InArchive, Kept, read, write
from eoflow.prepare.scenes.windows import Layout

RECIPE = PatchRecipe(patch=16, stride=12, split=SplitRecipe(block=500.0, buffer=40.0))


class InMemory:
    """A store of statistics that keeps them as Zarr in memory, and can be raced."""

    def __init__(self):
        import zarr

        self.root = zarr.create_group(zarr.storage.MemoryStore())
        self.saved = 0

    def load(self, kind) -> Kept | None:
        return read(self.root[f"statistics/{kind}"], kind) if f"statistics/{kind}" in self.root else None

    def save(self, kept, snapshot) -> bool:
        found = self.load(kept.kind)
        if (found.revision if found else 0) != kept.revision:
            return False
        write(self.root, kept, snapshot)
        self.saved += 1
        return True


def training_values(cube, recipe, division, band, transform=None):
    """Physical values of all training pixels of a band, in one array: the reference."""
    out = []
    for tile in reading.tiles(cube):
        layout = Layout(tile.grid.shape, recipe.patch, recipe.step)
        region = np.zeros(tile.grid.shape, bool)
        codes = division.windows[tile.name]
        for y, x in zip(*(o[codes == CODES["train"]] for o in layout.origins), strict=True):
            region[y : y + recipe.patch, x : x + recipe.patch] = True
        for i in tile.stored:
            stored = tile.group[band.name][int(i)]
            use = region & np.isin(tile.group["quality"][int(i)], [int(c) for c in recipe.classes])
            use &= np.isfinite(stored) if stored.dtype.kind == "f" else stored != band.nodata
            out.append(stored[use].astype("f8") * band.scale + band.offset)
    x = np.concatenate(out)
    return x if transform is None else transform(x)


def check(found, cube, recipe, division):
    for i, band in enumerate(found.bands):
        db = found.transforms.get(band.name) == "db"
        x = training_values(cube, recipe, division, band, (lambda v: 10 * np.log10(v)) if db else None)
        assert x.size > 50
        got = [float(getattr(found.field, k)[i]) for k in ("count", "mean", "std", "min", "max")]
        np.testing.assert_allclose(got, [x.size, x.mean(), x.std(), x.min(), x.max()], rtol=1e-6)
        exact = histograms.is_exact(band.dtype)
        for q in (2, 50, 98):
            near = {"rtol": 1e-9, "atol": 1e-12} if exact else {"rtol": 0.008, "atol": 0.03}
            np.testing.assert_allclose(found.percentile(q)[i], np.percentile(x, q), **near)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(40, 131), width=st.integers(40, 113), times=st.integers(1, 3))
def test_statistics_equal_numpy_on_all_training_pixels_together(seed, height, width, times):
    tiles = {"a": utm(shape=(height, width)), "b": utm(33, shape=(64, 67))}
    cube = memory_cube(tiles, (RED, VV), times, 0.2, seed)
    division = divide(RECIPE, reading.tiles(cube))
    found = statistics.update(cube, RECIPE, division, transforms={"vv": "db"} if seed % 2 else None)
    check(found, cube, RECIPE, division)


def test_appended_changed_and_removed_slots_are_all_that_is_read(monkeypatch):
    grid = utm(shape=(110, 97))
    cube = memory_cube({"a": grid}, (RED, NIR, VV), times=3)
    division = divide(RECIPE, reading.tiles(cube))
    store = InMemory()
    counted = []
    original = statistics.slot_statistics

    def counting(tile, i, *rest):
        counted.append(i)
        return original(tile, i, *rest)

    monkeypatch.setattr(statistics, "slot_statistics", counting)

    def again(expected: int):
        counted.clear()
        found = statistics.update(cube, RECIPE, division, store)
        assert len(counted) == expected
        check(found, cube, RECIPE, division)
        return found

    first = again(3)
    assert again(0).hash == first.hash
    assert store.saved == 1
    old = {b: cube.group("a")[b][...] for b in ("red", "nir", "vv", "quality")}
    time = cube.times("a")

    def put(**values):
        quality = values.pop("quality")
        times = np.append(time, time[-1] + np.timedelta64(5, "D"))[: len(quality)]
        cube.put("a", grid, times, values, quality)

    rng = np.random.default_rng(5)
    put(**{b: np.concatenate([v, v[rng.integers(3)][None]]) for b, v in old.items()})  # appended
    assert again(1).hash != first.hash
    put(**old)  # taken away: its old content is read once more
    assert again(1).hash == first.hash
    changed = {b: v.copy() for b, v in old.items()}
    changed["red"][1] = changed["red"][1][::-1]
    put(**changed)  # made anew: old and new content
    again(2)
    blank = {b: v.copy() for b, v in old.items()}
    blank["quality"][2] = 0
    put(**blank)  # slot 1 as at first, slot 2 gone
    again(3)
    put(**changed)
    cube.states[:-1] = [{}] * (len(cube.states) - 1)  # the old states have expired: all slots are read again
    again(3)


def test_who_lost_the_race_looks_again(monkeypatch):
    cube = memory_cube()
    division = divide(RECIPE, reading.tiles(cube))
    store = InMemory()
    original, tries = store.save, []

    def racing(kept, snapshot):
        tries.append(kept.revision)
        if len(tries) == 1:
            statistics.update(cube, RECIPE, division, other)
        return original(kept, snapshot)

    other = InMemory()
    other.root = store.root
    monkeypatch.setattr(store, "save", racing)
    check(statistics.update(cube, RECIPE, division, store), cube, RECIPE, division)
    assert tries == [0]
    assert other.saved == 1


def test_only_usable_pixels_of_the_training_split_count():
    cube = memory_cube({"a": utm(shape=(200, 190))}, (RED,), times=1, cloud=0.5)
    division = divide(RECIPE, reading.tiles(cube))
    group, codes = cube.group("a"), division.windows["a"]
    y, x = Layout((200, 190), 16, 12).origins
    region = np.zeros((200, 190), bool)
    for a, b in zip(y[codes == 1], x[codes == 1], strict=True):
        region[a : a + 16, b : b + 16] = True
    assert 0.1 < region.mean() < 0.9
    changed = group["red"][...]
    changed[0][~region] = 65535
    changed[0][group["quality"][0] == 3] = 65535
    cube.put("a", cube.grid("a"), cube.times("a"), {"red": changed}, group["quality"][...])
    assert statistics.update(cube, RECIPE, division).field.max[0] < 1.0


def test_merge_is_of_both_together():
    a, b = memory_cube(seed=1), memory_cube(seed=2)
    both = memory_cube({"a": utm(), "b": utm()}, seed=1)
    recipe = RECIPE.model_copy(update={"split": SplitRecipe(fractions=(1, 0, 0))})
    parts = [statistics.update(c, recipe, divide(recipe, reading.tiles(c))) for c in (a, b)]
    whole = statistics.update(both, recipe, divide(recipe, reading.tiles(both)))
    merged = parts[0].merge(parts[1])
    np.testing.assert_allclose(merged.field.to_array(), whole.field.to_array(), rtol=1e-12)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    with pytest.raises(BadInput, match="different bands"):
        parts[0].merge(statistics.update(memory_cube(bands=(RED,)), recipe, divide(recipe, reading.tiles(a))))


def test_stored_in_the_cube_beside_the_data(workspace):
    rng = np.random.default_rng(0)
    times = np.datetime64("2024-01-01", "ns") + np.arange(2) * np.timedelta64(10, "D")
    cube = make_cube(workspace, "s2", {"t": {"red": rng.integers(0, 9000, (2, 200, 130)).astype("u2")}}, times)
    division = divide(RECIPE, reading.tiles(cube))
    before = cube.archive.history()
    store = InArchive(cube.archive)
    found = statistics.update(cube, RECIPE, division, store)
    check(found, cube, RECIPE, division)
    assert len(cube.archive.history()) == len(before), "statistics are no state of their own"
    kind = statistics.kind_of(RECIPE, found.bands, {})
    kept = store.load(kind)
    assert kept is not None
    assert kept.counts.sum() == found.field.count[0]
    assert len(kept.rows) == 2
    assert statistics.update(cube, RECIPE, division, store).hash == found.hash
    assert store.load(kind).revision == 1


def test_nothing_usable_is_an_error():
    cube = memory_cube(times=1)
    group = cube.group("t")
    division = divide(RECIPE, reading.tiles(cube))
    bands = {b: group[b][...] for b in ("red", "nir")}
    cube.put("t", cube.grid("t"), cube.times("t"), bands, np.full_like(group["quality"][...], 3))
    with pytest.raises(BadInput, match="no usable training pixel in red, nir"):
        statistics.update(cube, RECIPE, division)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32", "float64", "int32"])
def test_bins_follow_the_values(dtype):
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    x = rng.normal(0, 1000, 5000) if kind.kind == "f" else rng.integers(
        max(np.iinfo(kind).min, -(10**8)), min(np.iinfo(kind).max, 10**8), 5000)  # fmt: skip
    x = np.sort(x.astype(kind))
    bins = histograms.codes(x)
    assert (np.diff(bins.astype(int)) >= 0).all()
    middle = histograms.values(dtype)[bins]
    if histograms.is_exact(dtype):
        np.testing.assert_array_equal(middle, x)
    else:
        np.testing.assert_allclose(middle, x.astype("f8"), rtol=0.004, atol=1e-30)


def test_dB_leaves_out_what_is_no_power():
    band = BandSpec(name="vv", dtype="int16", units="1", scale=1e-3)
    counts = histograms.histogram(np.array([-5, 0, 10, 1000], np.int16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = histograms.moments(counts, histograms.physical(band, "db"))
    assert float(found.count) == 2
    np.testing.assert_allclose([float(found.min), float(found.max)], [-20.0, 0.0], atol=1e-9)


def test_seeded_tiles_differ():
    cube = memory_cube()
    fill(cube, "u", utm(), seed=7)
    assert not np.array_equal(cube.group("t")["red"][...], cube.group("u")["red"][...])
