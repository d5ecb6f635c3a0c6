from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr

from eoflow.errors import Failure
from eoflow.prepare.plain import PlainShards
from eoflow.prepare.rows import Rows


def make(folder, values, chunk, shard, **how):
    group = zarr.open_group(str(folder), mode="a", zarr_format=3)
    options = {"compressors": None, "filters": None, "fill_value": 0, **how}
    array = group.create_array("data", shape=values.shape, dtype=values.dtype, chunks=(chunk, *values.shape[1:]),
                               shards=None if shard is None else (shard, *values.shape[1:]), **options)  # fmt: skip
    array[...] = values
    return array


@pytest.fixture
def values():
    out = np.random.default_rng(0).integers(0, 60000, (23, 3, 5)).astype("u2")
    out[8:16] = 0  # a shard that Zarr does not store
    out[20:22] = 0  # nor this chunk
    return out


def reads(rows: Rows, values) -> None:
    """Every way to read, against the array."""
    rng = np.random.default_rng(1)
    any_ = rng.integers(0, len(values), (4, 6))
    np.testing.assert_array_equal(rows.any_order(any_), values[any_])
    np.testing.assert_array_equal(rows.any_order(np.array([5, 2, 2, 22])), values[[5, 2, 2, 22]])
    some = np.array([0, 1, 6, 7, 8, 19, 20, 22])
    np.testing.assert_array_equal(rows.rows(some), values[some])
    for a, b in ((0, 23), (3, 19), (7, 8), (16, 40)):
        np.testing.assert_array_equal(rows.span(a, b), values[a:b])
    for k, one in zip([9, 3, 3], rows.each(np.array([9, 3, 3])), strict=True):
        np.testing.assert_array_equal(one, values[k])


@pytest.mark.parametrize(("chunk", "shard"), [(1, 4), (2, 8), (4, 8), (2, 24)])
@pytest.mark.parametrize("memory_mb", [0, 16])
def test_uncompressed_shards_are_read_where_they_lie(tmp_path, values, chunk, shard, memory_mb):
    make(tmp_path, values, chunk, shard)
    rows = Rows(tmp_path, memory_mb=memory_mb)
    assert rows.plain is not None
    assert rows.fits == (memory_mb > 0)
    reads(rows, values)
    reads(pickle.loads(pickle.dumps(rows)), values)
    rows.hold(np.array([0, 1]))
    reads(rows, values)


@pytest.mark.parametrize("how", [
    {"compressors": zarr.codecs.ZstdCodec()}, {"shard": None}, {"serializer": zarr.codecs.BytesCodec(endian="big")},
], ids=["compressed", "no shards", "big endian"])  # fmt: skip
def test_everything_else_goes_through_the_codecs(tmp_path, values, how):
    make(tmp_path, values, 2, **{"shard": 8, **how})
    rows = Rows(tmp_path, memory_mb=0)
    assert rows.plain is None
    reads(rows, values)


def test_chunks_in_any_order_in_the_file(tmp_path, values):
    """As a writer may leave them that changes a shard piece by piece."""
    array = make(tmp_path, np.zeros_like(values), 2, 8)
    for at in (6, 2, 0, 20, 4, 16, 22, 18):
        array[at : at + 2] = values[at : at + 2]
    rows = Rows(tmp_path, memory_mb=0)
    assert rows.plain is not None
    reads(rows, values)


def test_damage_is_named(tmp_path, values):
    values[:] = 7
    array = make(tmp_path, values, 2, 8)
    file = tmp_path / "data" / "c" / "1" / "0" / "0"
    whole = file.read_bytes()
    for bad, match in ((whole[:-1] + b"x", "damaged"), (whole[-40:], "damaged|cut short"), (whole[60:], "cut short")):
        file.write_bytes(bad)
        plain = PlainShards.of(array, tmp_path / "data")
        assert plain is not None
        out = np.empty((8, 3, 5), "u2")
        plain.read(0, out)
        with pytest.raises(Failure, match=rf"(?s)shard .*({match}).*data/c/1"):
            plain.read(8, out)
