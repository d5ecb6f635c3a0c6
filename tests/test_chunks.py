"""Whole chunks written from the calling thread: the bytes and the values that zarr itself would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec
from zarr.storage import MemoryStore

from eoflow import chunks, layout


def _pair(shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str = "f4", **options: Any) -> list[zarr.Array]:
    options = {"compressors": layout.codec(), "fill_value": 7, **options}
    return [
        zarr.create_array(MemoryStore(), shape=shape, chunks=chunk, dtype=dtype, **options).with_config(
            {"write_empty_chunks": True}
        )
        for _ in range(2)
    ]


def _stored(a: zarr.Array) -> dict[str, bytes]:
    return {k: v.to_bytes() for k, v in a.store._store_dict.items() if "zarr.json" not in k}  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["f4", "u2", "u1", "i4", "f8"])
@pytest.mark.parametrize(("shape", "chunk"), [((8, 6), (4, 6)), ((7, 5, 9), (2, 5, 4)), ((3,), (5,))])
def test_same_bytes_as_zarr(dtype: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    ours, theirs = _pair(shape, chunk, dtype)
    values = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    chunks.write(ours, (slice(None),) * len(shape), values)
    theirs[...] = values
    assert _stored(ours) == _stored(theirs)
    assert _stored(ours), "nothing was stored"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_region(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 9)))
    chunk = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    a, b = sorted(data.draw(st.tuples(st.integers(0, shape[0]), st.integers(0, shape[0]))))
    ours, theirs = _pair(shape, chunk)
    values = np.random.default_rng(1).random((b - a, shape[1])).astype("f4")
    chunks.write(ours, (slice(a, b),), values)
    theirs[a:b] = values
    np.testing.assert_array_equal(ours[...], theirs[...])


@pytest.mark.parametrize("options", [{"compressors": GzipCodec()}, {"shards": (8, 6)}, {"compressors": None}])
def test_other_codecs_are_left_to_zarr(options: dict[str, Any]) -> None:
    ours, theirs = _pair((8, 6), (4, 6), **options)
    values = np.arange(48, dtype="f4").reshape(8, 6)
    chunks.write(ours, (slice(0, 8),), values)
    theirs[...] = values
    assert _stored(ours) == _stored(theirs)


def test_values_of_another_dtype_and_order() -> None:
    ours, _ = _pair((4, 6), (2, 6))
    values = np.asfortranarray(np.arange(24, dtype="i8").reshape(4, 6))
    chunks.write(ours, (slice(0, 4),), values)
    np.testing.assert_array_equal(ours[...], values.astype("f4"))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarrs_reads_what_zarr_wrote(tmp_path: Path, zarr_format: int) -> None:
    values = np.random.default_rng(2).integers(0, 99, (9, 7)).astype("i2")
    kwargs: dict[str, Any] = {"compressors": BloscCodec()} if zarr_format == 3 else {}
    zarr.create_array(tmp_path / "a", shape=values.shape, chunks=(4, 7), dtype="i2", zarr_format=zarr_format, **kwargs)[
        ...
    ] = values  # type: ignore[index]
    with chunks.zarrs():
        a: Any = zarr.open_array(tmp_path / "a", mode="r")
    assert "Zarrs" in type(a._async_array.codec_pipeline).__name__
    np.testing.assert_array_equal(a[2:, 3:], values[2:, 3:])


def _group(**arrays: tuple[tuple[int, ...], tuple[int, ...]]) -> zarr.Group:
    """A group of int64 arrays (shape, chunks) that hold 0, 1, 2, ..."""
    group = zarr.create_group(MemoryStore())
    for name, (shape, chunk) in arrays.items():
        a = group.create_array(name, shape=shape, chunks=chunk, dtype="i8", fill_value=-1)
        a[...] = np.arange(np.prod(shape)).reshape(shape)
    return group


def test_opened_together() -> None:
    group = _group(a=((5, 2), (2, 2)), b=((3,), (3,)), c=((4,), (1,)))
    found = chunks.open_together(group, ("c", "a"))
    assert list(found) == ["c", "a"]
    for name, array in found.items():
        assert array.metadata == group[name].metadata
        np.testing.assert_array_equal(array[...], group[name][...])
    found["a"][1] = 99
    np.testing.assert_array_equal(group["a"][1], [99, 99])
    assert chunks.open_together(group, ()) == {}
    with pytest.raises(FileNotFoundError):
        chunks.open_together(group, ("a", "none"))


def test_read_together() -> None:
    group = _group(a=((5, 2), (2, 2)), b=((0,), (3,)), c=((4,), (1,)))
    text = group.create_array("t", shape=(3,), chunks=(2,), dtype="string", fill_value="")
    text[:] = np.array(["x", "", "yy"], dtype=object)
    arrays = [group[n] for n in ("c", "t", "a", "b")]
    for got, array in zip(chunks.read_together(arrays), arrays, strict=True):
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, array[...])
    assert chunks.read_together([]) == []


def test_lengthened_together() -> None:
    group = _group(a=((5, 2), (2, 2)), b=((5,), (3,)), c=((0, 3), (1, 3)))
    before = {n: group[n][...] for n in "abc"}
    arrays = {n: group[n] for n in "abc"}
    chunks.lengthen(arrays.values(), 7)
    for name, array in arrays.items():
        again = group[name]
        assert array.shape == again.shape == (7, *before[name].shape[1:])  # the open arrays follow
        np.testing.assert_array_equal(again[: len(before[name])], before[name])
        assert (again[len(before[name]) :] == -1).all()
        array[6] = 5
        assert (group[name][6] == 5).all()


def test_cleared() -> None:
    group = _group(a=((3, 4, 5), (1, 2, 2)))
    before = group["a"][...]
    chunks.clear(group["a"], 1)
    np.testing.assert_array_equal(group["a"][[0, 2]], before[[0, 2]])
    assert (group["a"][1] == -1).all()
