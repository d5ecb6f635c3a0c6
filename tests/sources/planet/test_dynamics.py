from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.sources.planet import forcing
from eoflow.sources.planet.dynamics import Dynamics


def reference_tendency(d: Dynamics, q: np.ndarray, days: float) -> np.ndarray:
    """The equations written plainly in float64 with dense matrices: (level, mode)."""
    g, p, s = d.grid, d.parameters, d.grid.synthesis
    n, area = s.modes.degree, np.repeat(d.grid.weight / (2 * d.grid.shape[1]), d.grid.shape[1])
    psi = d.stream(torch.from_numpy(q)).numpy()
    total = q + d.background
    j = -(psi @ s.northward_gradient) * (total @ s.eastward_gradient)
    j += (psi @ s.eastward_gradient) * (total @ s.northward_gradient)
    out = -(j * area) @ s.values.T
    # thermal relaxation of psi1 - psi2 and psi2 - psi3
    mean, seasonal = forcing.equilibrium(g, p)
    excess = np.stack([psi[0] - psi[1], psi[1] - psi[2]]) - mean - forcing.season(days) * seasonal
    r2 = [(forcing.RADIUS / r) ** 2 / (p.relaxation_days * forcing.DAY) for r in p.rossby_radius]
    out[0] += r2[0] * excess[0]
    out[1] += -r2[0] * excess[0] + r2[1] * excess[1]
    out[2] += -r2[1] * excess[1]
    # friction, in the weak form <Y, -div(k grad psi)> = <grad Y, k grad psi>
    k = forcing.friction(g, d.geography, p).ravel() * area
    for gradient in (s.eastward_gradient, s.northward_gradient):
        out[2] += ((psi[2] @ gradient) * k) @ gradient.T
    out -= (n * (n + 1) / 462.0) ** p.hyperdiffusion_power / (p.hyperdiffusion_days * forcing.DAY) * q
    out[:, 0] = 0.0
    return out


@pytest.fixture(scope="module")
def exact():
    return Dynamics(dtype=torch.float64)


def test_tendency_is_the_equations(exact, year):
    q = year[1][500].double()
    got = exact.tendency(exact.modes.pad(q[:, None]), exact.bias_at(np.array([31.0])))
    want = reference_tendency(exact, q.numpy(), 31.0)
    np.testing.assert_allclose(exact.modes.compress(got)[:, 0].numpy(), want, atol=1e-9 * np.abs(want).max())


def test_stream_function_and_potential_vorticity_are_inverse(dynamics, year):
    psi = dynamics.stream(year[1][:8])
    back = dynamics.potential_vorticity(psi)
    np.testing.assert_allclose(back[..., 1:], year[1][:8, :, 1:], atol=2e-5 * float(year[1].abs().max()))


def test_bare_equations_conserve_energy_and_enstrophy(year):
    free, q = Dynamics(forced=False), year[1][[100, 700]]
    run = free.integrate(q, 0.0, 20)  # five days
    energy, enstrophy = free.energy(run), free.enstrophy(run)
    np.testing.assert_allclose(energy / free.energy(q), 1.0, atol=5e-4)
    np.testing.assert_allclose(enstrophy / free.enstrophy(q), 1.0, atol=1e-3)
    # what is lost is lost by the time step: nothing is gained or lost on the grid
    bias = free.bias_at(np.zeros(1))
    dq = free.modes.compress(free.tendency(free.modes.pad(q.transpose(0, 1).contiguous()), bias)).transpose(0, 1)
    growth = -(free.stream(q).double() * dq.double()).sum((1, 2))
    assert (growth / free.energy(q)).abs().max() < 1e-6
    total = q.double() + torch.from_numpy(free.background)
    assert ((total * dq.double()).sum(-1) / free.enstrophy(q)).abs().max() < 1e-6
    moved = (run[-1] - q).norm() / q.norm()
    assert moved > 0.2  # it did flow


def test_runge_kutta_is_fourth_order(exact, year):
    q = exact.modes.pad(year[1][300].double()[:, None])
    bias = exact.bias_at(np.array([75.0]))

    def run(hours: float) -> torch.Tensor:
        x = q
        for _ in range(round(12 / hours)):
            x = exact.step(x, bias, hours)
        return x

    truth = run(0.25)
    errors = [float((run(h) - truth).norm()) for h in (2.0, 1.0)]
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.35)


def test_single_precision_stays_close_to_double(dynamics, exact, year):
    q = year[1][900:901]
    low, high = (d.integrate(q, 225.0, 12)[-1] for d in (dynamics, exact))
    assert (low.double() - high).norm() / high.norm() < 1e-4


def test_batch_is_the_single_runs(dynamics, year):
    q, days = year[1][[10, 400]], np.array([2.5, 100.0])
    both = dynamics.integrate(q, days, 4)
    for i in range(2):
        alone = dynamics.integrate(q[i : i + 1], days[i], 4)[:, 0]
        np.testing.assert_allclose(both[:, i], alone, atol=1e-5 * float(q.abs().max()))


def test_integration_leaves_the_number_of_threads_alone(dynamics, year):
    before = torch.get_num_threads()
    dynamics.integrate(year[1][:1], 0.0, 1)
    assert torch.get_num_threads() == before
