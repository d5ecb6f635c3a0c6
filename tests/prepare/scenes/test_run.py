from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

from eoflow import cube_layout
from eoflow.catalog_patches import PatchRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes import build, run
from eoflow.prepare.scenes.loading import PatchLoader
from eoflow.prepare.scenes.run import prepare_patches, splits_check
from eoflow.prepare.scenes.trainset import PatchSet
from eoflow.quality import Quality

RECIPE = PatchRecipe(patch=16, min_valid=0.3)
TIMES = np.datetime64("2024-01-01", "ns") + np.arange(4) * np.timedelta64(10, "D")


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return {b: rng.integers(1, 9000, shape).astype("u2") for b in ("red", "nir")}


@pytest.fixture
def cube(workspace):
    quality = np.random.default_rng(1).choice([3, 7], (4, 190, 130), p=[0.2, 0.8]).astype("u1")
    return make_cube(workspace, "s2", {"t": values((4, 190, 130))}, TIMES, quality={"t": quality})


def test_from_a_cube_to_batches(workspace, cube):
    done = prepare_patches("s2", RECIPE, workspace=workspace)
    assert not done.reused
    assert done.report.ok
    assert done.statistics is not None
    assert len(done.train) > len(done.valid) > 0
    assert len(done.test) > 0
    batch = next(iter(PatchLoader(done.train, 8)))
    assert batch.inputs.shape == (8, 1, 2, 16, 16)
    where = done.train.describe(0)
    stored = cube.group("t")["red"][int(np.flatnonzero(cube.times("t") == np.datetime64(where["times"][0]))[0])]
    part = stored[where["y"] : where["y"] + 16, where["x"] : where["x"] + 16]
    physical = done.normalizer.select(["red"]).decode(done.train.batch([0]).inputs[0, 0, :1].double())[0]
    np.testing.assert_allclose(physical, part * 1e-4 - 0.1, atol=1e-6)
    every = done.train.batch(np.arange(len(done.train)))
    usable = (every.quality[:, 0] == int(Quality.CLEAR)).numpy()
    red = every.inputs[:, 0, 0].numpy()[usable]
    assert abs(red.mean()) < 1e-3
    assert red.std() == pytest.approx(1, abs=1e-3)
    manifest = done.train.provenance
    assert manifest["cube_snapshot"] == done.snapshot
    assert manifest["normalizer_hash"] == done.normalizer.hash
    assert manifest["recipe_hash"] == RECIPE.hash
    assert "open it with" in done.text()
    ds = xr.open_zarr(done.path, consolidated=False, decode_times=False)
    assert ds["data"].dims == ("row", "channel", "y", "x")
    assert done.to_dict()["splits"]["ok"] is True


def test_again_it_is_there_already_and_a_new_date_makes_another(workspace, cube, monkeypatch):
    first = prepare_patches("s2", RECIPE, workspace=workspace)
    with monkeypatch.context() as m:
        m.setattr(build, "write", None)
        m.setattr(run, "build_index", None)
        again = prepare_patches("s2", RECIPE, workspace=workspace)
    assert again.reused
    assert again.key == first.key
    assert again.statistics.hash == first.statistics.hash
    with cube.archive.transaction("one more", {}) as tx:
        late = TIMES[-1:] + np.timedelta64(10, "D")
        slot = cube_layout.place(tx, "t", late)[0]
        new = {**{b: v[0] for b, v in values((1, 190, 130), 9).items()}, "quality": np.full((190, 130), 7, "u1")}
        arrays = cube_layout.arrays_of(tx.group, "t", cube.schema)
        cube_layout.write(arrays, int(slot), slice(0, 190), slice(0, 130), new)
        cube_layout.set_items(tx, "t", [int(slot)], [[{"id": "late", "digest": 5}]])
    more = prepare_patches("s2", RECIPE, workspace=workspace)
    assert more.key != first.key
    assert more.statistics.slots == 5
    assert more.index.division["assignment"] == first.index.division["assignment"]
    assert more.index.division["block"] == first.index.division["block"]
    old = {(int(y), int(x)): int(s) for y, x, s in zip(first.index.y, first.index.x, first.index.split, strict=True)}
    new_ = {(int(y), int(x)): int(s) for y, x, s in zip(more.index.y, more.index.x, more.index.split, strict=True)}
    assert all(new_[k] == s for k, s in old.items())


def test_other_weights_bring_their_own_normaliser(workspace, cube):
    done = prepare_patches("s2", RECIPE, workspace=workspace)
    plain = PatchRecipe(**{**RECIPE.model_dump(), "normalize": {"scheme": "constants"}})
    other = prepare_patches("s2", plain, workspace=workspace)
    assert other.statistics is None
    borrowed = PatchSet(done.path, normalizer=other.normalizer)
    same = [i for i in range(len(other.train)) if other.train.describe(i) == borrowed.describe(0)]
    np.testing.assert_array_equal(borrowed.batch([0]).inputs, other.train.batch(same).inputs)


def test_a_leak_stops_the_preparation(workspace, cube, monkeypatch):
    original = run.build_index

    def careless(*args):
        index, division = original(*args)
        index.split[:] = np.arange(len(index)) % 3 + 1
        return index, division

    monkeypatch.setattr(run, "build_index", careless)
    with pytest.raises(BadInput, match=r"the splits leak(.|\n)*pairs of windows leak(.|\n)*train: t y="):
        prepare_patches("s2", RECIPE, workspace=workspace)
    assert not [p for p in workspace.path("prepared", "s2").iterdir() if p.suffix == ".zarr" and ".index" not in p.name]
    assert not splits_check("s2", RECIPE, workspace=workspace).ok


def test_the_check_alone_writes_nothing(workspace, cube):
    report = splits_check("s2", RECIPE, workspace=workspace)
    assert report.ok
    assert "no two splits see the same ground" in report.text()
    assert not workspace.exists("prepared")
    assert report.to_dict()["samples"]["train"] > 0
    with pytest.raises(BadInput, match="no archive"):
        splits_check("nothing", RECIPE, workspace=workspace)


def test_sets_of_older_content_are_removed(workspace, cube):
    """The last two of a recipe stay, and whatever somebody uses; other recipes are left alone."""
    import gc

    def grown(day: int) -> None:
        with cube.archive.transaction("one more", {}) as tx:
            slot = cube_layout.place(tx, "t", TIMES[-1:] + np.timedelta64(day, "D"))[0]
            new = {**{b: v[0] for b, v in values((1, 190, 130), day).items()}, "quality": np.full((190, 130), 7, "u1")}
            arrays = cube_layout.arrays_of(tx.group, "t", cube.schema)
            cube_layout.write(arrays, int(slot), slice(0, 190), slice(0, 130), new)
            cube_layout.set_items(tx, "t", [int(slot)], [[{"id": f"late{day}", "digest": day}]])

    plain = PatchRecipe(**{**RECIPE.model_dump(), "normalize": {"scheme": "constants"}})
    other = prepare_patches("s2", plain, workspace=workspace).path
    used = prepare_patches("s2", RECIPE, workspace=workspace)
    paths = []
    for day in (10, 20, 30):
        grown(day)
        paths.append(prepare_patches("s2", RECIPE, workspace=workspace).path)
        gc.collect()  # nobody holds it any more
    assert [p.exists() for p in paths] == [False, True, True]
    assert other.exists()
    assert used.path.exists()
    assert len(used.train.batch([0]).inputs) == 1
    folder = used.path.parent
    del used
    gc.collect()
    grown(40)
    last = prepare_patches("s2", RECIPE, workspace=workspace)
    left = {p for p in folder.glob("*.zarr") if not p.name.endswith(".index.zarr")}
    assert left == {other, paths[-1], last.path}
    assert {p.stem for p in folder.glob("*.use")} == {p.stem for p in left}
    assert not list(folder.glob("*.gone"))
