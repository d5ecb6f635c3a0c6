"""EOF ridge against a known linear system and against a direct numpy solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.models.base import rollout
from eoflow.models.eof_ridge import EofRidge

SHAPE = (2, 6, 9)
SIZE = 108


def linear_system(clock, order, modes=4, noise=0.02, seed=1):
    """x = annual cycle + patterns @ z with z_t = A1 z_{t-1} (+ A2 z_{t-2}) + noise."""
    rng = np.random.default_rng(seed)
    patterns = np.linalg.qr(rng.normal(size=(SIZE, modes)))[0].T
    turn = np.linalg.qr(rng.normal(size=(modes, modes)))[0]
    a1, a2 = (0.95 * turn, 0 * turn) if order == 1 else (1.1 * np.eye(modes), -0.5 * turn @ turn.T)
    z = rng.normal(size=(len(clock), modes))
    for t in range(2, len(z)):
        z[t] = z[t - 1] @ a1 + z[t - 2] @ a2 + noise * rng.normal(size=modes)
    cycle = np.cos(2 * np.pi * clock[:, :1].double().numpy()) * np.ones((1, SIZE))
    return torch.tensor((cycle + z @ patterns).reshape(-1, *SHAPE), dtype=torch.float32)


@pytest.mark.parametrize("order", [1, 2])
def test_recovers_a_linear_system(order, fit_data, clock_of, signature):
    clock = clock_of(3 * 365)
    states = linear_system(clock, order, noise=0.1)
    data = fit_data({"train": [(states, clock)]}, torch.ones(6))
    model = EofRidge(signature(frames=order), n_eofs=4, ridge=1e-8, harmonics=1)
    model.fit(data)
    rows = torch.arange(900, 1000)[:, None] + torch.arange(order + 1)
    out = model(states[rows[:, :-1]], clock[rows], torch.zeros(0, 6, 9))
    error = (out - states[rows[:, -1]]).flatten(1).square().sum(1).mean().sqrt()
    assert error == pytest.approx(0.1 * 2, rel=0.1)  # noise of 0.1 in each of four orthonormal patterns


def test_equals_a_direct_numpy_solution_with_area_weights(fit_data, clock_of, signature):
    torch.manual_seed(0)
    clock = clock_of(400)
    weights = torch.linspace(0.4, 1.6, 6)
    states = linear_system(clock, 2, modes=30, noise=0.5)
    model = EofRidge(signature(), n_eofs=12, ridge=0.05, harmonics=0)
    model.fit(fit_data({"train": [(states, clock)]}, weights))
    scale = np.sqrt(np.broadcast_to(weights.numpy()[:, None], SHAPE)).ravel()
    x = states.flatten(1).double().numpy()
    mean = x.mean(0)
    y = (x - mean) * scale
    eofs = np.linalg.svd(y, full_matrices=False)[2][:12]
    pc = y @ eofs.T
    predictors = np.concatenate([pc[:-2], pc[1:-1]], 1)
    gram = predictors.T @ predictors / len(predictors)
    penalty = 0.05 * np.trace(gram) / 24
    operator = np.linalg.solve(gram + penalty * np.eye(24), predictors.T @ pc[2:] / len(predictors))
    want = mean + (predictors[:50] @ operator @ eofs) / scale
    rows = torch.arange(50)[:, None] + torch.arange(3)
    got = model(states[rows[:, :2]], clock[rows], torch.zeros(0, 6, 9)).flatten(1).numpy()
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_blocks_are_not_joined_across_a_gap(fit_data, clock_of, signature):
    """A regression over the gap would see jumps that the system never makes."""
    clock = clock_of(800)
    states = linear_system(clock, 1, noise=0.05)
    pieces = [(states[i : i + 40], clock[i : i + 40]) for i in range(0, 800, 80)]
    model = EofRidge(signature(frames=1), n_eofs=4, ridge=1e-8, harmonics=0)
    model.fit(fit_data({"train": pieces}, torch.ones(6)))
    out = model(states[500:600, None], clock[500:602].unfold(0, 2, 1)[:100].transpose(1, 2), torch.zeros(0, 6, 9))
    error = (out - states[501:601]).flatten(1).square().sum(1).mean().sqrt()
    assert error < 0.2


def test_auto_finds_the_number_of_modes_and_iterates_stably(fit_data, clock_of, signature):
    torch.manual_seed(0)
    clock = clock_of(1000)
    states = linear_system(clock, 1, modes=10, noise=0.1) + 0.3 * torch.randn(1000, *SHAPE)
    data = fit_data({"train": [(states[:800], clock[:800])], "valid": [(states[810:], clock[810:])]}, torch.ones(6))
    model = EofRidge(signature())
    model.fit(data)
    assert 8 <= model.choice["n_eofs"] <= 30  # of 108 possible: beyond ten there is only noise
    starts = torch.arange(850, 870)[:, None]
    frames, asked = states[starts + torch.arange(2)], clock[starts + torch.arange(62)]
    far = rollout(model, frames, asked, torch.zeros(0, 6, 9), 60)[:, -1]
    assert far.square().mean() < 3 * states.square().mean()


def test_large_fields_use_thinned_states_with_the_same_result(fit_data, clock_of, signature, monkeypatch):
    clock = clock_of(600)
    states = linear_system(clock, 1, modes=6, noise=0.2)
    data = fit_data({"train": [(states[:350], clock[:350]), (states[350:], clock[350:])]}, torch.ones(6))
    one = EofRidge(signature(), n_eofs=6, ridge=1e-6)
    one.fit(data)
    wide = signature(height=6, width=9)
    other = EofRidge(wide, n_eofs=6, ridge=1e-6)
    monkeypatch.setattr("eoflow.models.eof_ridge.LARGEST_COVARIANCE", 10)
    other.fit(data)
    gram = other.eofs.flatten(1) @ other.eofs.flatten(1).T
    torch.testing.assert_close(gram, torch.eye(6), rtol=0, atol=1e-5)
    rows = torch.arange(30)[:, None] + torch.arange(3)
    a, b = (m(states[rows[:, :2]], clock[rows], torch.zeros(0, 6, 9)) for m in (one, other))
    torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_loads_what_was_chosen_and_keeps_half_precision(fit_data, clock_of, signature):
    clock = clock_of(500)
    states = linear_system(clock, 1)
    model = EofRidge(signature(), precision="float16", max_eofs=30)
    model.fit(fit_data({"train": [(states, clock)]}, torch.ones(6)))
    assert model.eofs.dtype == torch.float16
    fresh = EofRidge(signature(), precision="float16", max_eofs=30)
    fresh.load_state_dict(model.state_dict())
    frames, asked = states[None, :2], clock[None, :3]
    assert torch.equal(fresh(frames, asked, frames), model(frames, asked, frames))


def test_too_short_a_period_is_an_error(fit_data, clock_of, signature):
    states = torch.randn(6, *SHAPE)
    with pytest.raises(ValueError, match="too short"):
        EofRidge(signature(), n_eofs=3, ridge=0.1).fit(fit_data({"train": [(states, clock_of(6))]}, torch.ones(6)))
