"""The streamed harmonic climatology against numpy's least squares and against a pure harmonic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.models.climatology import Climatology, HarmonicClimatology


def harmonics(fraction, count):
    columns = [np.ones_like(fraction)]
    for k in range(1, count + 1):
        columns += [np.cos(2 * np.pi * k * fraction), np.sin(2 * np.pi * k * fraction)]
    return np.stack(columns, 1)


def test_equals_separate_least_squares_of_each_hour(fit_data, clock_of):
    """Equal numbers of waves for year and hours are four entirely separate fits."""
    torch.manual_seed(0)
    clock = clock_of(4 * 365 * 2, per_day=4)
    states = torch.randn(len(clock), 2, 3, 4)
    model = HarmonicClimatology((2, 3, 4), 6.0, harmonics=2, diurnal_harmonics=2)
    model.fit(fit_data({"train": [(states[:1000], clock[:1000]), (states[1000:], clock[1000:])]}))
    got = model(clock[:40]).numpy()
    for slot in range(4):
        rows = np.arange(slot, len(clock), 4)
        basis = harmonics(clock[rows, 0].double().numpy(), 2)
        solution = np.linalg.lstsq(basis, states[rows].flatten(1).double().numpy(), rcond=None)[0]
        want = (basis[:10] @ solution).reshape(10, 2, 3, 4)
        np.testing.assert_allclose(got[slot::4], want, atol=2e-6)


def test_pure_harmonic_and_daily_cycle_are_exact(fit_data, clock_of):
    clock = clock_of(4 * 365, per_day=4)
    year, hour = clock[:, 0, None, None, None] * 2 * torch.pi, clock[:, 1, None, None, None] * 2 * torch.pi
    truth = 3 + 2 * torch.cos(2 * year - 0.3) + (1 + 0.5 * torch.sin(year)) * torch.cos(hour - 1)
    truth = truth * torch.linspace(0.5, 1, 6).reshape(1, 1, 2, 3)
    model = HarmonicClimatology((1, 2, 3), 6.0, harmonics=2, diurnal_harmonics=1)
    model.fit(fit_data({"train": [(truth, clock)]}))
    torch.testing.assert_close(model(clock), truth, rtol=0, atol=2e-5)


def test_part_of_a_year_keeps_only_the_mean_of_each_hour(fit_data, clock_of):
    clock = clock_of(4 * 60, per_day=4)
    states = torch.randn(240, 1, 2, 2) + torch.arange(4.0).repeat(60)[:, None, None, None]
    model = HarmonicClimatology((1, 2, 2), 6.0)
    model.fit(fit_data({"train": [(states, clock)]}))
    later = model(clock_of(8, per_day=4, start=800))
    want = torch.stack([states[s::4].mean(0) for s in range(4)]).repeat(2, 1, 1, 1)
    torch.testing.assert_close(later, want, rtol=0, atol=1e-4)


def test_daily_cycle_is_kept_only_where_a_field_shows_it(fit_data, clock_of):
    torch.manual_seed(0)
    clock = clock_of(4 * 365 * 2, per_day=4)
    states = torch.randn(len(clock), 2, 3, 4)
    quiet, beating = (HarmonicClimatology((2, 3, 4), 6.0, harmonics=2) for _ in range(2))
    quiet.fit(fit_data({"train": [(states, clock)]}))
    states[:, 1] += 0.2 * torch.cos(2 * torch.pi * clock[:, 1])[:, None, None]
    beating.fit(fit_data({"train": [(states, clock)]}))
    assert quiet.coefficients.shape[0] == 5
    assert beating.coefficients.shape[0] == 5 + 3 * 3
    midnight, noon = beating(clock[:4])[0::2, 1].mean((-2, -1))
    assert midnight - noon == pytest.approx(0.4, abs=0.1)


def test_forecast_is_the_mean_of_the_target_time_and_saves_whole(fit_data, clock_of, signature):
    clock = clock_of(365)
    states = torch.cos(2 * torch.pi * clock[:, 0])[:, None, None, None].expand(365, 2, 6, 9).clone()
    model = Climatology(signature(frames=1))
    model.fit(fit_data({"train": [(states, clock)]}))
    frames = torch.randn(3, 1, 2, 6, 9)
    asked = torch.stack([clock[:3], clock[100:103]], dim=1)
    out = model(frames, asked, torch.zeros(0, 6, 9))
    torch.testing.assert_close(out, states[100:103], rtol=0, atol=1e-5)
    fresh = Climatology(signature(frames=1))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(frames, asked, torch.zeros(0, 6, 9)), out)


def test_no_data_and_wrong_option_are_errors(fit_data):
    with pytest.raises(ValueError, match="train split holds no data"):
        HarmonicClimatology((1, 2, 2), 6.0).fit(fit_data({}))
    with pytest.raises(ValueError, match="harmonics"):
        HarmonicClimatology((1, 2, 2), 6.0, harmonics="three")
