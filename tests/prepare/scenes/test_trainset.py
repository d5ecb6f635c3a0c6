from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import zarr
from memory_cube import LABEL, NIR, RED, VV, memory_cube, utm
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from eoflow.catalog_patches import LabelRecipe, NormalizeRecipe, PatchRecipe, SplitRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes import build, resize, shards
from eoflow.prepare.scenes.augment import Augment, dihedral, shuffled_dates
from eoflow.prepare.scenes.loading import PatchLoader
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.patches import build_index
from eoflow.prepare.scenes.trainset import PatchSet

PLAIN = NormalizeRecipe(scheme="none")
SPLIT = SplitRecipe(block=400.0, buffer=0.0)
TRAIN = SplitRecipe(fractions=(1, 0, 0))


def prepared(folder, cube, **keys):
    recipe = PatchRecipe(**{"patch": 16, "split": SPLIT, "min_valid": 0.0, "normalize": PLAIN, **keys})
    index, _ = build_index(cube, recipe)
    names = tuple(dict.fromkeys((*recipe.inputs(cube.schema.names), *recipe.targets)))
    normalizer = BandNormalizer.of(recipe.normalize, cube.schema, names)
    build.write(folder / "set.zarr", cube, recipe, index, normalizer, "set", {"dataset": "t"})
    return folder / "set.zarr", index


@pytest.fixture
def small_shards(monkeypatch):
    """Seven rows a shard, so that a small set has many."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 7 * 16 * 16 * 2 * 2)


@pytest.fixture
def made(tmp_path, small_shards):
    cube = memory_cube({"a": utm(shape=(97, 83)), "b": utm(shape=(12, 40), east=6e5)}, (RED, NIR, LABEL), cloud=0.4)
    path, index = prepared(tmp_path, cube, stride=11, labels=LabelRecipe(band="water", classes=(1, 0)))
    return cube, path, index


def expected(cube, where, band, size):
    """Stored window of one date, padded, as float64 physical values; and its quality."""
    times = cube.times(where["tile"])
    slot = int(np.flatnonzero(times == np.datetime64(where["times"][-1]))[0])
    rows = slot, slice(where["y"], where["y"] + size), slice(where["x"], where["x"] + size)
    group = cube.group(where["tile"])
    return group[band.name][rows], group["quality"][rows]


@pytest.mark.parametrize("memory_mb", [512, 0])
def test_every_sample_holds_what_the_cube_holds(made, memory_mb):
    cube, path, index = made
    total = 0
    for split in ("train", "valid", "test"):
        data = PatchSet(path, split, memory_mb=memory_mb)
        total += len(data)
        found = data.batch(np.arange(len(data)))
        assert found.inputs.shape == (len(data), 1, 2, 16, 16)
        assert found.inputs.dtype == found.weight.dtype == torch.float32
        assert found.target.shape == (len(data), 0, 16, 16)
        for k in range(0, len(data), 5):
            where = data.describe(k)
            assert where["items"][0] == [
                f"{where['tile']}-{np.searchsorted(cube.times(where['tile']), np.datetime64(where['times'][0]))}"
            ]
            red, quality = expected(cube, where, RED, 16)
            nir, _ = expected(cube, where, NIR, 16)
            label, _ = expected(cube, where, LABEL, 16)
            h, w = red.shape
            void = (red == 0) | (nir == 0)
            for c, stored in enumerate((red, nir)):
                truth = np.where(void | (quality <= 1), 0, stored * 1e-4 - 0.1)
                np.testing.assert_allclose(found.inputs[k, 0, c, :h, :w], truth, atol=1e-6)
            np.testing.assert_array_equal(found.quality[k, 0, :h, :w], np.where(void, 1, quality))
            np.testing.assert_array_equal(found.labels[k, 0, :h, :w], np.select([label == 1, label == 0], [0, 1], -1))
            assert (found.quality[k, 0, h:] == 0).all()
            assert (found.inputs[k, 0, :, :, w:] == 0).all()
            assert (found.labels[k, 0, h:] == -1).all()
    assert total == len(index)


def test_shards_are_plain_zarr_for_everybody(made):
    _, path, _ = made
    group = zarr.open_group(str(path), mode="r")
    assert group["data"].shards[0] == 7
    data = PatchSet(path, memory_mb=0)
    assert data.data.shape[0] > 3 * 7
    np.testing.assert_array_equal(group["data"][...], data.data.span(0, data.data.shape[0]))  # zarr-python and zarrs
    rows = np.array([3, 9, 9, 0, 20])
    np.testing.assert_array_equal(data.data.any_order(rows), group["data"][...][rows])
    ends = np.concatenate(
        [
            np.asarray(group["row_tile"]),
        ]
    )
    assert ends.size == data.data.shape[0]


def test_a_patch_that_several_samples_use_is_stored_once(tmp_path):
    cube = memory_cube({"a": utm(shape=(64, 48))}, (RED, NIR), times=6, cloud=0.3)
    keys = {
        "pick": "clear-target",
        "dates": 3,
        "targets": ("nir",),
        "target_cloud": 1.0,
        "bands": ("red",),
        "split": TRAIN,
    }
    path, index = prepared(tmp_path, cube, **keys)
    data = PatchSet(path)
    rows = set(
        zip(index.y.repeat(4), index.x.repeat(4), np.c_[index.times, index.target].ravel().tolist(), strict=True)
    )
    assert data.data.shape[0] == len(rows) < 4 * len(index)
    found = data.batch([0])
    assert found.inputs.shape == (1, 3, 1, 16, 16)
    assert found.target.shape == (1, 1, 16, 16)
    where = data.describe(0)
    stored, _ = expected(cube, {**where, "times": [where["target"]]}, NIR, 16)
    seen = found.target_quality[0] > 1
    np.testing.assert_allclose(found.target[0, 0][seen], (stored * 1e-4 - 0.1)[seen.numpy()], atol=1e-6)
    assert data.signature == {"dates": 3, "channels": 1, "targets": 1, "classes": 0, "pixels": 16}
    assert len(where["items"]) == 3


def test_floats_and_integers_share_a_set(tmp_path):
    cube = memory_cube({"a": utm(shape=(64, 48))}, (RED, VV), times=1, cloud=0.0)
    path, _ = prepared(tmp_path, cube, split=TRAIN)
    data = PatchSet(path)
    assert data.data.dtype == np.float32
    found = data.batch([1])
    red, quality = expected(cube, data.describe(1), RED, 16)
    vv, _ = expected(cube, data.describe(1), VV, 16)
    void = (red == 0) | ~np.isfinite(vv) | (quality <= 1)
    np.testing.assert_allclose(found.inputs[0, 0, 1], np.where(void, 0, vv), rtol=1e-6)
    np.testing.assert_allclose(found.inputs[0, 0, 0], np.where(void, 0, red * 1e-4 - 0.1), atol=1e-6)


def test_a_killed_run_is_finished_by_the_next_one(tmp_path, small_shards, monkeypatch):
    cube = memory_cube({"a": utm(shape=(64, 48)), "b": utm(shape=(64, 48), east=6e5)}, times=3)
    original, calls = build.write_slot, []

    def dying(*args):
        calls.append(args[-1].name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)

    import dask

    with dask.config.set(scheduler="synchronous"), monkeypatch.context() as m:
        m.setattr(build, "write_slot", dying)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path, cube)
        assert [p.name for p in tmp_path.iterdir()] == ["set.partial"]
        m.setattr(build, "write_slot", lambda *args: (calls.append(args[-1].name), original(*args))[1])
        calls.clear()
        path, _ = prepared(tmp_path, cube)
    assert len(calls) == 3
    other = tmp_path / "other"
    other.mkdir()
    clean, _ = prepared(other, cube)
    for name in ("data", "quality", "rows"):
        np.testing.assert_array_equal(zarr.open_array(str(path / name))[...], zarr.open_array(str(clean / name))[...])


# -- order, workers, resume --------------------------------------------------------------------------------------------


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_order_is_the_same_with_any_number_of_workers(made):
    _, path, _ = made
    augment = Augment((dihedral,))
    epochs = []
    for how in ({}, {"workers": 1}, {"workers": 2}, {"threads": 3}):
        loader = PatchLoader(PatchSet(path, memory_mb=0), 8, seed=4, augment=augment, **how)
        epochs.append(list(loader))
        assert len(epochs[-1]) == len(loader)
    for other in epochs[1:]:
        assert len(other) == len(epochs[0])
        assert all(same(a, b) for a, b in zip(epochs[0], other, strict=True))
    numbers = torch.cat([b.number for b in epochs[0]])
    assert numbers.numel() == len(torch.unique(numbers)) == len(PatchSet(path))
    plain = next(iter(PatchLoader(PatchSet(path, memory_mb=0), 8, seed=4)))
    assert torch.equal(plain.number, epochs[0][0].number)
    assert not torch.equal(plain.inputs, epochs[0][0].inputs)


@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"threads": 2}], ids=str)
def test_resumed_in_the_middle_of_an_epoch_it_goes_on_bit_for_bit(made, how):
    _, path, _ = made
    augment = Augment((dihedral,))

    def loader(**how):
        return PatchLoader(PatchSet(path), 8, seed=4, drop_last=True, augment=augment, **how)

    whole = loader()
    epochs = [list(whole), list(whole)]
    assert not torch.equal(epochs[0][0].number, epochs[1][0].number)
    first = loader(**how)
    list(first)
    batches = iter(first)
    for _ in range(3):
        next(batches)
    state = first.state_dict()
    assert (state["epoch"], state["position"]) == (1, 3)
    second = loader(**({} if how else {"workers": 2}))
    second.load_state_dict(state)
    rest = list(second)
    assert len(rest) == len(epochs[1]) - 3
    assert all(same(a, b) for a, b in zip(rest, epochs[1][3:], strict=True))
    assert second.state_dict()["epoch"] == 2
    with pytest.raises(BadInput, match="another seed"):
        PatchLoader(PatchSet(path), 8, seed=5).load_state_dict(state)


def test_ranks_share_an_epoch(made):
    _, path, _ = made
    alone = list(PatchLoader(PatchSet(path), 8, seed=1, drop_last=True))
    ranks = [list(PatchLoader(PatchSet(path), 8, seed=1, drop_last=True, rank=r, ranks=3, threads=r)) for r in range(3)]
    assert [len(r) for r in ranks] == [len(alone) // 3] * 3
    for k in range(len(ranks[0])):
        for r in range(3):
            assert same(ranks[r][k], alone[3 * k + r])


def test_a_small_set_in_memory_comes_in_the_same_order(made):
    _, path, _ = made
    a = [b.number for b in PatchLoader(PatchSet(path, memory_mb=512), 8, seed=1)]
    b = [b.number for b in PatchLoader(PatchSet(path, memory_mb=0), 8, seed=1)]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    unshuffled = PatchLoader(PatchSet(path), 8, shuffle=False)
    assert torch.cat([b.number for b in unshuffled]).diff().min() > 0


def test_map_style_in_a_loader_of_torch(made):
    _, path, _ = made
    data = PatchSet(path, "valid")
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert same(batch, data.batch([0, 1, 2, 3]))
    assert same(data[2], [x[2] for x in batch])
    assert same(pickle.loads(pickle.dumps(data))[2], data[2])
    assert data.with_split("train").split == "train"
    with pytest.raises(IndexError, match="there are"):
        data.batch([len(data)])
    with pytest.raises(BadInput, match="no split 'tset'"):
        PatchSet(path, "tset")
    with pytest.raises(BadInput, match="no prepared set"):
        PatchSet(path.parent / "nothing.zarr")


# -- augmentation and sizes --------------------------------------------------------------------------------------------


def test_turns_and_flips_are_the_same_for_everything_on_the_ground(made):
    _, path, _ = made
    found = PatchSet(path).batch(np.arange(32))
    marked = found._replace(
        inputs=found.number[:, None, None, None, None] + torch.arange(256.0).reshape(16, 16).expand(32, 1, 2, 16, 16),
        quality=torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(32, 1, 16, 16),
        labels=torch.arange(256).reshape(1, 16, 16).expand(32, 1, 16, 16),
    )
    out = Augment((dihedral,)).batch(marked, 0, 0)
    plane = out.inputs[:, 0, 0] - found.number[:, None, None]
    assert torch.equal(plane, out.inputs[:, 0, 1] - found.number[:, None, None])
    assert torch.equal(plane.long(), out.labels[:, 0])
    assert torch.equal(plane.to(torch.uint8), out.quality[:, 0])
    assert len({tuple(p[0, :2].tolist()) for p in plane}) == 8, "all eight come about"
    again = Augment((dihedral,)).batch(type(marked)(*(x[5:6] for x in marked)), 0, 0)
    assert same(again, [x[5:6] for x in out])
    assert not same(Augment((dihedral,)).batch(marked, 0, 1), out)


def test_dates_may_be_shuffled():
    found = PatchSet.__new__(PatchSet)
    del found
    from eoflow.prepare.scenes.trainset import Patches

    t = torch.arange(3.0).reshape(3, 1, 1, 1)
    one, number = torch.tensor(1.0), torch.tensor(0)
    sample = Patches(t, t[:, 0].to(torch.uint8), t[0], t[0, 0], t[0], one, number, torch.arange(4.0))
    out = shuffled_dates(sample, np.random.default_rng(1))
    assert sorted(out.inputs.ravel().tolist()) == [0, 1, 2]
    assert out.inputs.ravel().tolist() == out.quality.ravel().tolist()


def test_resizing_belongs_to_the_recipe(tmp_path):
    cube = memory_cube({"a": utm(shape=(64, 48))}, (RED, LABEL), times=1, cloud=0.0)
    path, _ = prepared(tmp_path, cube, resize=8, split=TRAIN, labels=LabelRecipe(band="water"))
    small = PatchSet(path)
    found = small.batch([0, 1])
    assert found.inputs.shape == (2, 1, 1, 8, 8)
    assert found.quality.shape == (2, 1, 8, 8)
    assert found.labels.shape == (2, 1, 8, 8)
    small.recipe = small.recipe.model_copy(update={"resize": None})
    large = small.batch([0, 1])
    assert torch.equal(found.labels, large.labels[..., 1::2, 1::2])
    seen = (large.quality > 1)[:, :, None].float()
    up, down = (interpolate(x[:, 0], size=(8, 8), mode="bilinear", antialias=True) for x in (large.inputs * seen, seen))
    torch.testing.assert_close(found.inputs[:, 0], torch.where(down > 1e-6, up / down, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["bilinear", "area"])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_a_constant_stays_one_whatever_is_missing(how, size):
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.random((2, 16, 16)) > 0.3)
    seen[1] = False
    values = torch.where(seen[:, None], 3.5, torch.nan).expand(2, 3, 16, 16)
    out = resize.image(values, seen, size, how)
    assert out.shape == (2, 3, size, size)
    assert torch.isfinite(out).all()
    held = out[0][out[0] != 0]
    torch.testing.assert_close(held, torch.full_like(held, 3.5), rtol=1e-5, atol=1e-5)
    assert (out[1] == 0).all()
    assert set(resize.mask(seen, size).unique().tolist()) <= {True, False}
