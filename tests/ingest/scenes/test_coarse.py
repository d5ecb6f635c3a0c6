"""Coarser copies, against plain loops."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.ingest.scenes.coarse import coarse_classes, coarse_means


def naive(values, factor, fn):
    h, w = (math.ceil(n / factor) for n in values.shape)
    return np.array(
        [[fn(values[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]) for j in range(w)] for i in range(h)]
    )


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 7, None]), st.sampled_from(["u2", "i2", "u1", "f4"]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_means_leave_nodata_out(height, width, nodata, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 20, (height, width)).astype(dtype)
    if dtype == "f4" and nodata is None:
        values[values > 15] = np.nan

    def mean(block):
        kept = block[~np.isnan(block)] if nodata is None else block[block != nodata]
        if kept.size == 0:
            return np.nan if nodata is None else nodata
        value = kept.astype("f8").mean()
        return value if dtype == "f4" else np.rint(value)

    found = coarse_means(values, nodata, (3, 6, 4))
    for f in (3, 6, 4):
        assert found[f].dtype == values.dtype
        np.testing.assert_allclose(found[f].astype("f8"), naive(values, f, mean), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_classes_by_majority(height, width, classes, seed):
    values = np.random.default_rng(seed).integers(0, classes, (4 * height, 4 * width)).astype("u1")
    found = coarse_classes(values, (2, 4))
    for f in (2, 4):
        np.testing.assert_array_equal(found[f], naive(values, f, lambda b: np.bincount(b.ravel()).argmax()))
