from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow import layout
from eoflow.schema import FieldSchema, LatLonGrid, VariableSpec

MIB = 2**20


def schema(ny, nx, levels, members=None):
    grid = LatLonGrid(latitude=tuple(range(ny)), longitude=tuple(range(nx)))
    lev = tuple(float(i) for i in range(levels)) if levels else None
    variables = (VariableSpec(name="a", units="1", levels=lev), VariableSpec(name="b", units="1"))
    return FieldSchema(variables=variables, grid=grid, step="1h", members=tuple(range(members)) if members else None)


@settings(max_examples=30, deadline=None)
@given(
    ny=st.integers(1, 2000),
    nx=st.integers(1, 2000),
    levels=st.integers(0, 40),
    members=st.sampled_from([None, 1, 50]),
    kind=st.sampled_from(["map", "series", "training"]),
)
def test_chunks_are_neither_tiny_nor_huge(ny, nx, levels, members, kind):
    s = schema(ny, nx, levels, members)
    for name, chunk in layout.plan_chunks(s, kind, 1000).items():
        shape = layout.field_shape(s.variable(name), s)
        size = 4 * math.prod(chunk)
        assert MIB <= size <= 16.1 * MIB
        assert len(chunk) == len(shape) + 1
        assert all(1 <= c <= n for c, n in zip(chunk[1:], shape, strict=True))
        assert chunk[0] & (chunk[0] - 1) == 0  # a power of two
        if kind == "series":  # one row of chunks is written at once
            assert 4 * chunk[0] * shape[-1] * shape[-2] <= max(64 * MIB, 4 * 16 * shape[-1] * shape[-2])


def test_small_daily_grid_makes_few_files():
    s = schema(6, 9, 0)
    (chunk, _) = layout.plan_chunks(s, "map", 15000).values()
    assert math.ceil(15000 / chunk[0]) <= 4


def test_layouts_answer_their_question():
    one = layout.chunk_shape("map", (13, 121, 240))
    assert one[1:] == (1, 121, 240)
    assert layout.chunk_shape("training", (13, 121, 240))[1:] == (13, 121, 240)
    series = layout.chunk_shape("series", (121, 240))
    assert series[0] >= 256
    assert series[1] * series[2] < 121 * 240 / 4


def test_inode_budget_makes_chunks_grow():
    s = schema(721, 1440, 13)
    few, many = layout.plan_chunks(s, "map", 100), layout.plan_chunks(s, "map", 500_000)
    assert many["a"][0] > few["a"][0]
    assert 4 * math.prod(many["a"]) <= 16 * MIB


@pytest.mark.parametrize("members", [None, 3])
def test_dims(members):
    s = schema(3, 4, 2, members)
    expected = (
        ("time", "member", "level", "latitude", "longitude") if members else ("time", "level", "latitude", "longitude")
    )
    assert layout.dims(s.variables[0], s) == expected
    assert layout.dims(s.variables[1], s, time=False) == ("latitude", "longitude")
