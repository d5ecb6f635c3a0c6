"""Lead-dependent damping against a direct regression and against forecasts of known skill."""

from __future__ import annotations

import pytest
import torch

from eoflow.models.calibration import LeadDamping, _non_increasing
from eoflow.models.climatology import HarmonicClimatology

SHAPE = (2, 6, 9)


def still_climatology(value=2.0):
    model = HarmonicClimatology(SHAPE, 24.0, harmonics=0)
    model.coefficients.fill_(value)
    return model


def cases(count, skill, spread=1.0, seed=0):
    """Truth = 2 + y, raw = 2 + spread * (r y + sqrt(1 - r^2) noise): the best damping is r / spread."""
    g = torch.Generator().manual_seed(seed)
    r = torch.tensor(skill)[:, None, None, None]
    y, noise = (torch.randn(count, len(skill), *SHAPE, generator=g) for _ in range(2))
    return 2 + spread * (r * y + (1 - r * r).sqrt() * noise), 2 + y, torch.zeros(count, len(skill), 2)


def fitted(raw, truth, clock, pooling=20.0, chunk=10):
    model = LeadDamping(still_climatology(), raw.shape[1], 2)
    for part in torch.arange(len(raw)).split(chunk):
        model.update(raw[part], truth[part], clock[part], torch.ones(6))
    model.finish(pooling)
    return model


def test_recovers_the_best_damping_at_each_lead():
    skill = [1.0, 0.9, 0.7, 0.5, 0.3, 0.1]
    model = fitted(*cases(400, skill, spread=1.5))
    want = torch.tensor(skill) / 1.5
    torch.testing.assert_close(model.damping[:, 0], want, rtol=0, atol=0.05)


def test_equals_least_squares_with_one_lead_and_no_pooling():
    raw, truth, clock = cases(200, [0.6])
    x, y = (raw - 2)[:, 0, 0], (truth - 2)[:, 0, 0]
    want = (x * y).sum() / (x * x).sum()
    assert fitted(raw, truth, clock, pooling=0.0).damping[0, 0] == pytest.approx(float(want), abs=2e-3)


def test_channels_have_their_own_damping():
    a, b = cases(300, [0.9, 0.8]), cases(300, [0.3, 0.2], seed=1)
    raw = torch.stack([a[0][:, :, 0], b[0][:, :, 1]], dim=2)
    truth = torch.stack([a[1][:, :, 0], b[1][:, :, 1]], dim=2)
    damping = fitted(raw, truth, a[2]).damping
    torch.testing.assert_close(damping, torch.tensor([[0.9, 0.3], [0.8, 0.2]]), rtol=0, atol=0.08)


def test_never_far_behind_climatology_where_there_is_no_skill():
    model = fitted(*cases(30, [0.9] + [0.0] * 9, spread=1.4))
    raw, truth, clock = cases(500, [0.9] + [0.0] * 9, spread=1.4, seed=5)
    for lead in range(10):
        out = model(raw[:, lead], clock[:, lead], lead)
        rmse, clim = ((f - truth[:, lead]).square().mean().sqrt() for f in (out, torch.tensor(2.0)))
        assert rmse < 1.01 * clim
    assert model.damping[0].min() > 0.5  # and the first lead keeps its skill


def test_falls_with_lead_and_stays_within_bounds():
    torch.manual_seed(0)
    raw, truth, clock = cases(12, [0.9, 0.5, 0.6, 0.2, 0.3, 0.0, 0.1], spread=0.5)
    damping = fitted(raw, truth, clock, chunk=2).damping
    assert (damping.diff(dim=0) <= 1e-6).all()
    assert damping.min() >= 0
    assert damping.max() <= 1


def test_a_diverged_forecast_does_not_spoil_the_fit():
    raw, truth, clock = cases(100, [0.8, 0.4])
    raw[17, 1, 0, 2, 3] = torch.inf
    torch.testing.assert_close(fitted(raw, truth, clock).damping[:, 0], torch.tensor([0.8, 0.4]), rtol=0, atol=0.05)


def test_isotonic_regression_pools_violators():
    values = torch.tensor([0.9, 0.5, 0.7, 0.1], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    assert _non_increasing(values, weights).tolist() == pytest.approx([0.9, 0.55, 0.55, 0.1])


def test_leads_beyond_the_fit_take_the_last_and_nothing_fitted_is_identity():
    raw, truth, clock = cases(50, [0.9, 0.3])
    model = fitted(raw, truth, clock)
    assert torch.equal(model(raw[:, 0], clock[:, 0], 7), model(raw[:, 0], clock[:, 0], 1))
    untouched = LeadDamping(still_climatology(), 2, 2)
    torch.testing.assert_close(untouched(raw[:, 0], clock[:, 0], 0), raw[:, 0])
    with pytest.raises(ValueError, match="no validation forecasts"):
        untouched.finish()


def test_state_holds_the_climatology_too():
    model = fitted(*cases(50, [0.9, 0.3]))
    fresh = LeadDamping(HarmonicClimatology(SHAPE, 24.0), 1, 2)
    fresh.load_state_dict(model.state_dict())
    raw, _, clock = cases(3, [0.5, 0.5], seed=3)
    assert torch.equal(fresh(raw[:, 1], clock[:, 1], 1), model(raw[:, 1], clock[:, 1], 1))
