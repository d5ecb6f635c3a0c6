from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.prepare.moments import PARTS, Moments

arrays = st.integers(0, 2**32 - 1)


def data(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # geopotential-like and humidity-like channels: a large mean over a small spread, and tiny numbers
    x = rng.normal([55000.0, 5e-6], [300.0, 2e-6], (n, 2))
    x[rng.random((n, 2)) < 0.1] = np.nan
    return x


def same(a: Moments, b: Moments, skip: tuple[str, ...] = ()) -> None:
    for part in PARTS:
        if part not in skip:
            np.testing.assert_allclose(getattr(a, part), getattr(b, part), rtol=1e-9, atol=1e-30, err_msg=part)


def test_against_numpy() -> None:
    x = data(1, 5000)
    m = Moments.of(x, axis=0)
    np.testing.assert_array_equal(m.count, np.isfinite(x).sum(0))
    np.testing.assert_allclose(m.mean, np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(m.std, np.nanstd(x, 0), rtol=1e-10)
    np.testing.assert_array_equal(m.min, np.nanmin(x, 0))
    np.testing.assert_array_equal(m.max, np.nanmax(x, 0))


def test_weights_against_numpy() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.normal(5, 2, (7, 9)), rng.random(7)
    m = Moments.of(x, axis=(0, 1), weights=w[:, None])
    full = np.repeat(w[:, None], 9, 1)
    mean = np.average(x, weights=full)
    np.testing.assert_allclose(m.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(m.std**2, np.average((x - mean) ** 2, weights=full), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(arrays, st.integers(0, 40), st.integers(0, 40))
def test_merge_is_concatenation_and_subtract_its_inverse(seed: int, n: int, k: int) -> None:
    x = data(seed, n + k + 2)
    a, b = x[: n + 1], x[n + 1 :]
    both = Moments.of(x, axis=0)
    merged = Moments.of(a, axis=0).merge(Moments.of(b, axis=0))
    same(merged, both)
    back = both.subtract(Moments.of(b, axis=0))
    rest = Moments.of(a, axis=0)
    np.testing.assert_array_equal(back.count, rest.count)
    np.testing.assert_allclose(back.mean, rest.mean, rtol=1e-9)
    scale = np.maximum(both.m2, 1e-30)
    np.testing.assert_allclose(back.m2 / scale, rest.m2 / scale, rtol=0, atol=1e-6)
    for part in ("min", "max"):
        known = np.isfinite(getattr(back, part))
        np.testing.assert_array_equal(getattr(back, part)[known], getattr(rest, part)[known])


@settings(max_examples=20, deadline=None)
@given(arrays, st.integers(1, 60))
def test_over_merges_a_whole_axis(seed: int, n: int) -> None:
    x = data(seed, n * 4).reshape(n, 4, 2)
    same(Moments.of(x, axis=1).over(0), Moments.of(x, axis=(0, 1)))


def test_empty_is_neutral_and_all_nan_is_empty() -> None:
    m = Moments.of(data(3, 50), axis=0)
    same(m.merge(Moments.empty(2)), m)
    same(Moments.empty(2).merge(m), m)
    same(Moments.of(np.full((5, 2), np.nan), axis=0), Moments.empty(2))
    same(m.subtract(m), Moments.empty(2))
    assert np.isnan(Moments.empty(2).std).all()


def test_removing_more_than_there_is_is_refused() -> None:
    x = data(4, 20)
    with pytest.raises(ValueError, match="more values"):
        Moments.of(x[:5], axis=0).subtract(Moments.of(x, axis=0))


def test_shared_extreme_is_unknown_after_subtraction() -> None:
    x = np.array([[1.0], [2.0], [9.0]])
    left = Moments.of(x, axis=0).subtract(Moments.of(x[2:], axis=0))
    assert np.isnan(left.max[0])
    assert left.min[0] == 1.0
