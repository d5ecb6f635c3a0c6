from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.models.layers.otsu import MAX_LOGIT, otsu, otsu_counts


def brute_force(values):
    """The smallest pooled variance inside two classes, over every cut, from its definition."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    best = None
    for cut in np.unique(values)[:-1]:
        low, high = values[values <= cut], values[values > cut]
        inside = (low.size * low.var() + high.size * high.var()) / values.size
        if best is None or inside < best[0]:
            best = (inside, cut, high.min(), low.mean(), high.mean())
    return best


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1), st.floats(-1e4, 1e4))
def test_no_other_cut_leaves_less_variance_inside(values, offset):
    values = np.asarray(values) + round(offset)
    inside, *_ = brute_force(values)
    split = otsu(torch.tensor(values, dtype=torch.float64))
    low, high = values[values <= split.threshold], values[values > split.threshold]
    assert (low.size * low.var() + high.size * high.var()) / values.size == pytest.approx(inside, rel=1e-9, abs=1e-9)
    assert split.within == pytest.approx(inside, rel=1e-6, abs=1e-8)
    assert (split.low, split.high) == pytest.approx((low.mean(), high.mean()))
    assert split.separability == pytest.approx(1 - inside / values.var(), abs=1e-9)


def test_threshold_lies_between_the_two_values():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 400), rng.normal(8, 1.5, 200)])
    _, below, above, *_ = brute_force(values)
    split = otsu(torch.tensor(values))
    assert split.threshold == pytest.approx((below + above) / 2)
    assert split.threshold == pytest.approx(4, abs=0.5)
    assert split.separability > 0.85


def test_histograms_add_up_and_agree_with_the_values():
    rng = np.random.default_rng(1)
    values = torch.tensor(np.concatenate([rng.normal(-12, 1, 6000), rng.normal(-20, 1.5, 3000)]))
    edges = torch.linspace(-30, 0, 301, dtype=torch.float64)
    halves = [torch.histogram(part, edges).hist for part in values.chunk(2)]
    assert otsu_counts(halves[0] + halves[1], edges).threshold == pytest.approx(otsu(values).threshold, abs=0.1)
    with pytest.raises(ValueError, match="edges"):
        otsu_counts(halves[0], edges[1:])


def test_one_value_or_none_is_one_class():
    for values in ([], [float("nan")], [3.0] * 5, [2.0, float("inf"), 2.0]):
        split = otsu(torch.tensor(values))
        assert split.threshold == float("inf")
        assert bool((split.log_odds(torch.tensor([0.0, 3.0, 1e9])) == -MAX_LOGIT).all())


def test_not_finite_values_take_no_part():
    clean = torch.tensor([0.0, 1.0, 9.0, 10.0])
    assert otsu(torch.cat([clean, torch.tensor([float("nan"), float("inf")])])) == otsu(clean)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1))
def test_log_odds_are_positive_just_above_the_threshold(values):
    x = torch.tensor(values, dtype=torch.float32)
    split = otsu(x)
    odds = split.log_odds(x)
    assert odds.dtype == torch.float32
    assert torch.equal(odds > 0, x.double() > split.threshold)
    assert bool((odds.abs() <= MAX_LOGIT).all())
    assert bool((odds > 0).any())
    assert bool((odds <= 0).any())


def test_log_odds_are_those_of_two_equal_gaussians():
    """Log of the ratio of N(8, 1) to N(0, 1) at x, whose zero is halfway between them: 8 (x - 4)."""
    x = torch.tensor(np.random.default_rng(2).normal(0, 1, 20000)).double()
    x[:10000] += 8
    split = otsu(x)
    assert float(split.log_odds(torch.tensor([4.5]))) == pytest.approx(8 * (4.5 - split.threshold), rel=0.05)
