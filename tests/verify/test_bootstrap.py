from __future__ import annotations

import numpy as np
import pytest

from eoflow.verify import bootstrap as B


def ar1(rng, n, rho, size=None):
    shape = (n,) if size is None else (n, size)
    noise = rng.standard_normal(shape)
    x = np.empty(shape)
    x[0] = noise[0]
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return x


def limits(series, seed=0):
    stats = series[:, None]
    length = B.block_length(stats)
    weights = B.resample_weights(len(series), length, seed)
    return B.score_with_interval(stats, lambda m: m[..., 0], weights, length, (-np.inf, np.inf))[:3]


def test_block_length_grows_with_persistence_and_is_one_for_noise():
    rng = np.random.default_rng(0)
    lengths = [B.block_length(ar1(rng, 400, rho)[:, None]) for rho in (0.0, 0.5, 0.8, 0.95)]
    assert lengths[0] == 1
    assert lengths == sorted(lengths)
    assert 3 <= lengths[1] < lengths[3] <= 133


@pytest.mark.parametrize(("n", "rho"), [(200, 0.0), (200, 0.7), (40, 0.0), (40, 0.4)])
def test_intervals_cover_the_truth_about_nineteen_times_in_twenty(n, rho):
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(120):
        _, low, high = limits(ar1(rng, n, rho), seed=i)
        hits += low <= 0 <= high
    assert 0.85 <= hits / 120 <= 1.0


def test_independent_draws_would_be_too_sure():
    """The reason for blocks: with them the interval of a persistent series is clearly wider."""
    x = ar1(np.random.default_rng(2), 300, 0.8)
    _, low, high = limits(x)
    weights = B.resample_weights(300, 1, 0)
    naive = np.quantile(weights @ x, [0.025, 0.975])
    assert high - low > 1.8 * (naive[1] - naive[0])


def test_interval_of_independent_cases_equals_student():
    from scipy import stats

    x = np.random.default_rng(3).standard_normal(150)
    value, low, high = limits(x)
    expected = stats.t.interval(0.95, 149, loc=x.mean(), scale=x.std(ddof=1) / np.sqrt(150))
    assert float(value) == pytest.approx(x.mean())
    assert (float(low), float(high)) == pytest.approx(expected, abs=0.03)


def test_every_case_is_drawn_equally_often_and_the_draw_is_deterministic():
    w = B.resample_weights(50, 7, seed=3, resamples=4000)
    assert np.allclose(w.sum(axis=1), 1)
    assert np.allclose(w.mean(axis=0), 1 / 50, rtol=0.1)
    B.resample_weights.cache_clear()
    assert np.array_equal(w, B.resample_weights(50, 7, seed=3, resamples=4000))
    assert not np.array_equal(w, B.resample_weights(50, 7, seed=4, resamples=4000))


def test_one_case_has_no_interval_and_bounds_hold():
    one = B.score_with_interval(np.ones((1, 1)), lambda m: m[..., 0], np.ones((10, 1)), 1, (0, np.inf))
    assert one[0] == 1
    assert np.isnan(one[1])
    few = np.array([[0.0], [0.0], [9.0]])
    _, low, high, _ = B.score_with_interval(few, lambda m: m[..., 0], B.resample_weights(3, 1, 0), 1, (0, np.inf))
    assert low == 0
    assert high > 9


def test_undefined_cases_are_left_out_of_means():
    stats = np.array([[1.0, 2.0], [np.nan, 4.0], [3.0, 6.0]])
    means = B.resampled_means(stats, np.full((1, 3), 1 / 3))
    assert means[0].tolist() == pytest.approx([2.0, 4.0])
