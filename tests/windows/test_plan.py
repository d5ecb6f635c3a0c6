"""The lattice of windows: cores tile the scene, reads hold the halo, weights add up to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput
from eoflow.windows import Box, Plan
from eoflow.windows.plan import inside

QUICK = settings(max_examples=30, deadline=None)


@st.composite
def plans(draw) -> Plan:
    core = draw(st.integers(1, 40))
    return Plan.of(
        (draw(st.integers(1, 90)), draw(st.integers(1, 90))), core=core, halo=draw(st.integers(0, 20)),
        multiple=draw(st.sampled_from((1, 2, 8))), overlap=draw(st.integers(0, core // 2)) // 2 * 2,
        border=draw(st.sampled_from(("reflect", "none"))), chunk=draw(st.sampled_from((1, 3))),
    )  # fmt: skip


@QUICK
@given(plans())
def test_cores_tile_the_scene(plan):
    owners, weights = np.zeros(plan.shape, int), np.zeros(plan.shape)
    jobs = list(plan.jobs())
    assert len(jobs) == len(plan)
    for job in jobs:
        owners[job.core.slices] += 1
    for row, column in np.ndindex(plan.lattice):
        w = plan.window(row, column)
        weights[w.support.slices] += plan.weight(w)
        assert w.read.shape[0] % plan.multiple == 0
        assert w.read.shape[1] % plan.multiple == 0
        assert w.support.meet(w.core) == w.core
        for side in ("y", "x"):
            n = plan.shape["yx".index(side)]
            first, last = (getattr(w.support, side + e) for e in "01")
            low, high = (getattr(w.read, side + e) for e in "01")
            reach = 0 if plan.border == "none" else plan.halo
            assert low % plan.multiple == 0
            assert low <= (first - plan.halo if reach else max(0, first - plan.halo))
            assert high >= (last + plan.halo if reach else min(n, last + plan.halo))
    np.testing.assert_array_equal(owners, 1)
    np.testing.assert_allclose(weights, 1, atol=1e-6)


@QUICK
@given(n=st.integers(1, 12), before=st.integers(0, 40), after=st.integers(0, 40),
       border=st.sampled_from(("reflect", "edge", "constant")))  # fmt: skip
def test_pixels_beyond_the_edge_are_those_of_numpy(n, before, after, border):
    axis = np.arange(1, n + 1)
    part, at = inside(-before, n + after, n, border)
    found = axis[part] if at is None else np.where(at < 0, 0, axis[part][np.maximum(at, 0)])
    np.testing.assert_array_equal(found, np.pad(axis, (before, after), mode=border))


def test_core_is_aligned_and_no_larger_than_the_scene():
    assert Plan.of((10980, 10980), core=1000, chunk=512, multiple=16).core == (1024, 1024)
    assert Plan.of((10, 5000), core=1000, chunk=512, multiple=16).core == (16, 1024)
    assert Plan.of((10, 10), core=64, halo=3, multiple=4).reach == 4


def test_slices_of_no_halo_are_not_empty():
    box = Box(0, 4, 0, 6)
    assert np.zeros((4, 6))[box.within(box)].shape == (4, 6)


@pytest.mark.parametrize(
    "bad", [{"halo": -1}, {"core": 0}, {"overlap": 9, "core": 8}, {"border": "wrap"}, {"multiple": 0}]
)
def test_sizes_that_make_no_sense(bad):
    with pytest.raises(BadInput):
        Plan.of((10, 10), **bad)
