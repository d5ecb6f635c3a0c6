from __future__ import annotations

import math

import numpy as np
import zarr
from eoflow_test_ingest import LEVELS, field_set, truth
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from eoflow import layout
from eoflow.ingest import blocks as bl
from eoflow.ingest import checks, workers
from eoflow.schema import FieldSchema, LatLonGrid, VariableSpec
from eoflow.sources.base import Asset, AssetCorrupt

SCHEMA = checks.canonical(FieldSchema.of(field_set(range(2)), "6h"))
CHUNKS = {"msl": (8, 4, 5), "z": (4, 2, 4, 5)}
ASSET = Asset("a", field_set(range(20)).time.values)


def plan(index, limit, schema=SCHEMA, chunks=None):
    index = np.asarray(index)
    times = np.datetime64("2000-01-01", "ns") + index * np.timedelta64(6, "h")
    zero = np.zeros(index.size, int)
    return bl.plan(schema, chunks or CHUNKS, index, times, zero, [ASSET], [frozenset()], index, limit)


@settings(max_examples=30, deadline=None)
@given(
    index=st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted),
    limit=st.integers(100, 10**6),
    ny=st.integers(2, 40),
    levels=st.integers(1, 7),
    members=st.sampled_from([None, 3]),
)
def test_every_value_once_and_no_chunk_twice(index, limit, ny, levels, members):
    """The condition for writing blocks from any thread or worker without locks."""
    grid = LatLonGrid(latitude=tuple(range(ny)), longitude=(0.0, 1.0, 2.0))
    spec = (
        VariableSpec(name="a", units="1", levels=tuple(map(float, range(levels)))),
        VariableSpec(name="b", units="1"),
    )
    schema = FieldSchema(variables=spec, grid=grid, step="6h", members=tuple(range(members)) if members else None)
    m = [1] if members else []
    chunks = {"a": (2, *m, 2, ny, 3), "b": (8, *m, ny, 3)}
    count = {v.name: np.zeros((61, *layout.field_shape(v, schema)), int) for v in spec}
    owner: dict[tuple, int] = {}
    for n, block in enumerate(plan(index, limit, schema, chunks)):
        for part in block.parts:
            name = part.spec.name
            count[name][(block.index, *part.where)] += 1
            touched = np.zeros(count[name].shape, bool)
            touched[(block.index, *part.where)] = True
            for where in {tuple(w // c for w, c in zip(at, chunks[name], strict=True)) for at in np.argwhere(touched)}:
                assert owner.setdefault((name, *where), n) == n
    for name, c in count.items():
        assert (c[index] == 1).all(), name
        assert c.sum() == c[index].sum()


def test_digest_does_not_depend_on_how_it_is_cut():
    ds = field_set(range(20))
    sums = []
    for limit in (10**6, 1000, 300):
        total = np.zeros(20, np.uint64)
        for block in plan(range(20), limit):
            out = bl.run(block, lambda a: ds, bl.Judge(), None)
            total[out.index] += out.digest
        sums.append(total)
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_array_equal(sums[0], sums[2])
    assert np.unique(sums[0]).size == 20


def test_digest_sees_every_change():
    """A value, its place, its level, its variable, its sign: each gives another digest; the bits of NaN do not."""

    def digest(edit=None):
        ds = field_set(range(1))
        ds["msl"].values[0, 3, 3] = np.nan
        if edit:
            edit(ds)
        total = np.uint64(0)
        for block in plan([0], 10**6):
            total += bl.run(block, lambda a: ds, bl.Judge(max_nan=1), None).digest[0]
        return int(total)

    def swap(ds):
        ds["z"].values[0] = ds["z"].values[0, ::-1]

    def other_nan(ds):
        ds["msl"].values[0, 3, 3] = np.array([0x7FC00123], "u4").view("f4")[0]

    edits = [
        lambda ds: ds["msl"].values.__setitem__((0, 0, 0), 1.0),
        lambda ds: ds["msl"].values.__setitem__((0, 0, 1), 1.0),
        lambda ds: ds["z"].values.__setitem__((0, 0, 0, 1), 1.0),
        lambda ds: ds["z"].values.__setitem__((0, 1, 0, 1), 1.0),
        swap,
        lambda ds: ds["msl"].values.__imul__(-1),
    ]
    found = [digest(), *(digest(e) for e in edits)]
    assert len(set(found)) == len(found)
    assert digest(other_nan) == found[0]


def test_lazy_float64_transposed_and_reordered_levels():
    ds = field_set(range(8)).transpose("longitude", "latitude", "level", "time").astype("f8").isel(level=[1, 0])
    for lazy in (ds, ds.chunk({"time": 3})):
        msl, z = (p for v in ("msl", "z") for p in bl.parts_of(SCHEMA, CHUNKS, 10**6) if p.spec.name == v)
        got = bl.read(lazy, (msl, z), np.array([5, 1, 2]))
        for values, name in zip(got, ("msl", "z"), strict=True):
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, truth(range(8))[name][[5, 1, 2]])


def test_missing_level_is_nan():
    ds = field_set(range(3)).sel(level=[LEVELS[1]])
    (z,) = (p for p in bl.parts_of(SCHEMA, CHUNKS, 10**6) if p.spec.name == "z")
    (got,) = bl.read(ds, (z,), np.arange(3))
    assert np.isnan(got[:, 0]).all()
    np.testing.assert_array_equal(got[:, 1], truth(range(3))["z"][:, 1])


def test_statistics_of_a_block_against_numpy():
    ds = field_set(range(20))
    (block,) = plan(range(20), 10**6)
    out = bl.run(block, lambda a: ds, bl.Judge(), None)
    low, high, rms, n = out.ranges["a", "z850"]
    z = truth(range(20))["z"][:, 1]
    assert (low, high, n) == (z.min(), z.max(), 20)
    np.testing.assert_allclose(rms, np.sqrt((z[[0, 10, 19]].astype("f8") ** 2).mean()), rtol=1e-6)
    assert out.values.tolist() == [60] * 20
    assert out.nbytes == 20 * 60 * 4


def test_a_bad_read_is_a_problem_of_its_times():
    def broken(asset):
        raise AssetCorrupt("no")

    (block,) = plan(range(4), 10**6)
    out = bl.run(block, broken, bl.Judge(), None)
    assert [p.what for p in out.problems] == ["no"] * 4


def test_scattered_times_are_written_in_one_go():
    store = zarr.create_array(MemoryStore(), shape=(40, 4, 5), chunks=(8, 4, 5), dtype="f4", fill_value=-1.0)
    (msl,) = (p for p in bl.parts_of(SCHEMA, CHUNKS, 10**6) if p.spec.name == "msl")
    for index in (np.arange(3, 30, 2), np.array([1, 2, 35])):
        workers.writer(lambda name: store)(msl, index, np.full((index.size, 4, 5), float(index[0]), "f4"))
        assert (store[...][index] == index[0]).all()
    assert math.isclose(float((store[...] == -1).mean()), 1 - 17 / 40)
