"""Every method against a loop over the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.composite.methods import METHODS, method_of, reduce
from eoflow.errors import BadInput


def by_hand(x: np.ndarray, method: str, scales: list[float]) -> tuple[list[float], int, int]:
    """One pixel, usable observations only (n, B), oldest first: (values, source, the one whose age counts)."""
    n = len(x)
    physical = x.astype("f8") * scales

    def newest_of_least(score):
        return max(i for i in range(n) if score[i] <= min(score) * (1 + 1e-9))

    if method == "last-clear":
        return list(x[-1]), n - 1, n - 1
    if method == "medoid":
        sums = [sum(np.sqrt(((physical[i] - physical[j]) ** 2).sum()) for j in range(n)) for i in range(n)]
        best = newest_of_least(sums)
        return list(x[best]), best, best
    centre = np.median(x.astype("f8"), axis=0) if method == "median" else x.astype("f8").mean(axis=0)
    far = [(((x[i] - centre) * scales) ** 2).sum() for i in range(n)]
    return list(np.rint(centre) if x.dtype.kind != "f" else centre), newest_of_least(far), n - 1


@settings(max_examples=25, deadline=None)
@given(
    method=st.sampled_from(sorted(METHODS)), steps=st.integers(1, 9), bands=st.integers(1, 3),
    dtype=st.sampled_from(("u2", "i2", "f4")), share=st.floats(0, 1), seed=st.integers(0, 999), few=st.booleans(),
)  # fmt: skip
def test_equals_a_loop_over_the_pixels(method, steps, bands, dtype, share, seed, few):
    rng = np.random.default_rng(seed)
    high = 4 if few else 60000 if dtype == "u2" else 30000  # few: many equal values and ties
    stack = rng.integers(0 if dtype == "u2" else -high, high, (bands, steps, 6, 5)).astype(dtype)
    usable = rng.random((steps, 6, 5)) < share
    scales, fills = [1e-4, 2.0, 0.1][:bands], [0] * bands
    found = reduce(list(stack), usable, fills, scales, method)
    for r, c in np.ndindex(6, 5):
        at = np.flatnonzero(usable[:, r, c])
        assert found.count[r, c] == at.size
        if not at.size:
            assert (found.source[r, c], found.newest[r, c]) == (-1, -1)
            assert [b[r, c] for b in found.bands] == fills
            continue
        values, source, newest = by_hand(stack[:, at, r, c].T, method, scales)
        np.testing.assert_allclose([b[r, c] for b in found.bands], values, rtol=1e-6)
        assert (found.source[r, c], found.newest[r, c]) == (at[source], at[newest])
    assert all(b.dtype == dtype for b in found.bands)


def test_largest_value_is_no_filler():
    """65535 is a value here, and stands behind what is not usable."""
    stack = np.array([65535, 7, 65535], "u2").reshape(3, 1, 1)
    found = reduce([stack], np.array([1, 0, 1], bool).reshape(3, 1, 1), [0], [1.0], "median")
    assert (found.bands[0][0, 0], found.count[0, 0]) == (65535, 2)


def test_medoid_is_robust_and_was_really_seen():
    """Eleven observations in three bands, four of them clouds that the mask missed."""
    rng = np.random.default_rng(0)
    clear = rng.normal(1000, 20, (7, 3)).round()
    stack = np.concatenate([clear, rng.normal(8000, 500, (4, 3)).round()]).astype("u2")
    found = reduce([b.reshape(11, 1, 1) for b in stack.T], np.ones((11, 1, 1), bool), [0] * 3, [1.0] * 3, "medoid")
    value = [b[0, 0] for b in found.bands]
    assert found.source[0, 0] < 7
    assert value == list(stack[found.source[0, 0]])


def test_unknown_method():
    with pytest.raises(BadInput, match="medoid"):
        method_of("mode")
