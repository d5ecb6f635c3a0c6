from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch.utils.data import DataLoader

from eoflow.catalog import NetworkRef, Recipe
from eoflow.errors import BadInput
from eoflow.models.base import FitData
from eoflow.prepare import build, samples
from eoflow.prepare.normalize import stack
from eoflow.prepare.run import prepare
from eoflow.prepare.trainset import Store, TrainSet
from eoflow.times import year_and_day_fraction

RECIPE = Recipe(name="r", title="r", network=NetworkRef(name="persistence"))
PERIODS = {"train": "2001-01-01/2001-01-30", "valid": "2001-02-02/2001-02-10"}
GAPS = (17, 18, 50)


@pytest.fixture
def small_shards(monkeypatch):
    """Twelve rows a shard, two a chunk, so that a small set has many of both."""
    monkeypatch.setattr(build, "CHUNK_BYTES", 2 * 4 * 3 * 60)
    monkeypatch.setattr(build, "SHARD_BYTES", 12 * 4 * 3 * 60)


@pytest.fixture
def made(make_archive, world, workspace, small_shards):
    ds = world(170)
    archive = make_archive(ds, skip=GAPS, splits=PERIODS)
    return ds, archive, prepare(RECIPE, "world", workspace=workspace)


def truth(ds, prepared, times):
    return prepared.normalizer.encode(stack(ds.sel(time=times), prepared.schema))


@pytest.mark.parametrize("memory_mb", [1024, 0])
def test_every_window_holds_what_the_archive_holds(made, memory_mb):
    ds, _, prepared = made
    data = TrainSet(prepared.path, "train", memory_mb=memory_mb)
    assert data.store.fits == (memory_mb > 0)
    n = data.windows(3)
    present = np.setdiff1d(np.arange(120), GAPS)
    assert n == sum({i, i + 1, i + 2} <= set(present) for i in range(118))
    indices = np.random.default_rng(0).permutation(n)
    states, clock = data.batch(indices, 3)
    assert states.dtype == clock.dtype == torch.float32
    assert states.shape == (n, 3, 3, 6, 10)
    times = data.window_times(indices, 3)
    assert (np.diff(times, axis=1) == np.timedelta64(6, "h")).all()
    assert times.max() <= np.datetime64("2001-01-30T18")
    for k in (0, 5, n - 1):
        np.testing.assert_allclose(states[k].numpy(), truth(ds, prepared, times[k]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(clock.numpy(), year_and_day_fraction(times))
    twice, _ = data.batch([4, 4, 0], 3)
    np.testing.assert_array_equal(twice[0], twice[1])
    with pytest.raises(IndexError, match="there are"):
        data.batch([n], 3)


def test_validation_windows_lie_in_the_validation_period(made):
    ds, _, prepared = made
    data = prepared.validset
    assert data.store is prepared.trainset.store
    assert data.windows(2) == 35
    times = data.window_times(np.arange(35), 2)
    assert times.min() == np.datetime64("2001-02-02")
    np.testing.assert_allclose(data.batch([34], 2)[0][0], truth(ds, prepared, times[34]), rtol=1e-6, atol=1e-6)
    with pytest.raises(BadInput, match="no split 'test'"):
        prepared.trainset.with_split("test")


@pytest.mark.parametrize("memory_mb", [1024, 0])
def test_fitdata(made, memory_mb, monkeypatch):
    ds, _, prepared = made
    data = TrainSet(prepared.path, memory_mb=memory_mb)
    assert isinstance(data, FitData)
    np.testing.assert_allclose(data.area_weights.numpy(), prepared.schema.grid.area_weights(), rtol=1e-6)
    blocks = list(data.blocks("train"))
    assert [len(s) for s, _ in blocks] == [17, 31, 69]
    present = np.setdiff1d(np.arange(120), GAPS)
    joined = torch.cat([s for s, _ in blocks]).numpy()
    np.testing.assert_allclose(joined, truth(ds, prepared, ds.time.values[present]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(torch.cat([c for _, c in blocks]), year_and_day_fraction(ds.time.values[present]))
    assert sum(len(s) for s, _ in data.blocks("valid")) == 36
    # normalised over the training period, and over that alone
    np.testing.assert_allclose(joined.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(joined.std(axis=(0, 2, 3)), 1, rtol=1e-4)


@pytest.mark.parametrize("memory_mb", [1024, 0])
def test_batches_cover_an_epoch_and_resume_exactly(made, memory_mb, monkeypatch):
    _, _, prepared = made
    monkeypatch.setattr(samples, "POOL_BYTES", 3 * 12 * 4 * 3 * 60)
    data = TrainSet(prepared.path, memory_mb=memory_mb)
    full = list(data.batches(2, 8, seed=3, epoch=1))
    assert sum(len(s) for s, _ in full) == data.windows(2)
    every = torch.cat([s for s, _ in full]).flatten(1)
    assert len(torch.unique(every, dim=0)) == data.windows(2)
    resumed = list(data.batches(2, 8, seed=3, epoch=1, position=5))
    assert len(resumed) == len(full) - 5
    for (a, ca), (b, cb) in zip(full[5:], resumed, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(ca, cb)
    assert len(list(data.batches(2, 8, drop_last=True))) == data.windows(2) // 8
    assert not torch.equal(next(data.batches(2, 8, seed=3, epoch=2))[0], full[0][0])


def test_order_does_not_depend_on_the_memory(made):
    _, _, prepared = made
    a = next(TrainSet(prepared.path, memory_mb=1024).batches(2, 8, seed=3))
    b = next(TrainSet(prepared.path, memory_mb=0).batches(2, 8, seed=3))
    assert torch.equal(a[0], b[0])


def _first_batches(data, queue):
    queue.put(data.batch([0, 9, 3], 2)[0].numpy())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_after_their_parent_has(made, method):
    _, _, prepared = made
    data = TrainSet(prepared.path, memory_mb=0)
    mine = data.batch([0, 9, 3], 2)[0].numpy()
    if method == "spawn":  # the same way a spawned worker gets it, without starting an interpreter
        again = pickle.loads(pickle.dumps(data))
        np.testing.assert_array_equal(again.batch([0, 9, 3], 2)[0].numpy(), mine)
        return
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_first_batches, args=(data, queue), daemon=True)
    worker.start()
    np.testing.assert_array_equal(queue.get(timeout=60), mine)
    worker.join(timeout=10)


def test_map_style_dataset_in_a_loader(made):
    _, _, prepared = made
    loader = DataLoader(prepared.trainset.dataset(3), batch_size=16)
    states = torch.cat([s for s, _ in loader])
    assert torch.equal(states, prepared.trainset.batch(np.arange(len(states)), 3)[0])
    item = prepared.trainset.dataset(3)[7]
    assert torch.equal(item[0], states[7])


def test_opens_in_xarray_and_says_what_it_is(made):
    _, archive, prepared = made
    ds = xr.open_zarr(prepared.path, consolidated=False, decode_times=False)
    assert ds.data.dims == ("row", "channel", "latitude", "longitude")
    assert ds.attrs["channels"] == ["z500", "z850", "msl"]
    assert prepared.trainset.provenance["dataset"] == "world"
    assert prepared.trainset.schema == archive.schema
    assert prepared.trainset.normalizer == prepared.normalizer
    array = zarr.open_array(prepared.path / "data")
    assert (array.chunks[0], array.shards[0]) == (2, 12)
    static = prepared.trainset.store.arrays["static"]
    np.testing.assert_array_equal(static[0], archive.open().orog)


def test_masked_cells_are_zero_and_a_hole_makes_a_row_unusable(make_archive, world, workspace):
    ds = world(170)
    ds["msl"][:, 2:4, 1] = np.nan  # land in a sea field
    ds["msl"][40, 0, 0] = np.nan  # a hole
    make_archive(ds, splits=PERIODS)
    data = prepare(RECIPE, "world", workspace=workspace).trainset
    assert not data.mask[2, 2:4, 1].any()
    assert data.mask.sum() == 3 * 60 - 2
    assert not data.store.arrays["usable"][40]
    assert data.windows(1) == 119
    states, _ = data.batch(np.arange(data.windows(2)), 2)
    assert torch.isfinite(states).all()
    assert (states[:, :, 2, 2:4, 1] == 0).all()


def test_layout_keeps_files_few_and_chunks_big_enough():
    chunk, shard = build.layout(8770, 4 * 121 * 240)
    assert chunk == 1
    assert 100 < shard <= 145
    chunk, shard = build.layout(100_000, 12 * 54 * 4)
    assert 32_000 < chunk * 12 * 54 * 4 <= build.CHUNK_BYTES
    assert -(-100_000 // shard) <= 17
    assert build.layout(3, 100) == (3, 3)
    assert build.layout(50, 64 << 20) == (1, 1)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no prepared training set"):
        TrainSet(tmp_path / "nothing.zarr")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(BadInput, match="not a prepared"):
        Store(tmp_path / "other.zarr")
