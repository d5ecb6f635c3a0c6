from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.sources.planet import forcing, world
from eoflow.sources.planet.spectral import Synthesis

WEIGHT = np.cos(np.deg2rad(world.LATITUDE)) / np.cos(np.deg2rad(world.LATITUDE)).mean()


def rms(x: np.ndarray) -> float:
    return float(np.sqrt((x**2 * WEIGHT[:, None]).mean()))


@pytest.fixture(scope="module")
def maps(history, year):
    return history.planet.expand(year[1])


def test_solid_rotation_has_its_analytic_maps(history):
    """u = U cos(lat) everywhere is balanced by Phi = -radius * Omega * U * (sin(lat)^2 - 1/3)."""
    planet, wind = history.planet, 20.0
    table = planet.dynamics.modes.table
    psi = torch.zeros(1, 3, len(table), dtype=torch.float64)
    zonal = int(np.flatnonzero((table == (0, 0, 1)).all(1))[0])
    psi[..., zonal] = -wind / (forcing.RADIUS * forcing.OMEGA) / np.sqrt(3.0)  # P(1, 0) = sqrt(3) sin(lat)
    out = planet.expand(planet.dynamics.potential_vorticity(psi))
    mu = np.sin(np.deg2rad(world.LATITUDE))[:, None] * np.ones(64)
    np.testing.assert_allclose(out["u"][0, 1], wind * np.sqrt(1 - mu**2), atol=1e-3)
    np.testing.assert_allclose(out["v"][0, 1], 0.0, atol=1e-4)
    phi = -forcing.RADIUS * forcing.OMEGA * wind * (mu**2 - 1 / 3)
    np.testing.assert_allclose(out["z"][0, 1] - world.MEAN_GEOPOTENTIAL[1], phi, atol=0.5)


def test_winds_are_without_divergence_and_balance_the_geopotential(history, year):
    """On a fine patch, by finite differences: div v = 0 and lap Phi = f zeta + u . grad f."""
    planet = history.planet
    psi = planet.dynamics.stream(year[1][40]).double().numpy()[1]
    # f psi reaches one degree further than psi: leave the last one out, and the balance is exact
    psi = np.where(planet.dynamics.modes.degree < 21, psi, 0.0)
    step = 0.2
    lat, lon = 45 + step * np.arange(-30, 31), 100 + step * np.arange(-30, 31)
    s = Synthesis(21, lat, lon)
    phi, cos, d = np.deg2rad(lat)[:, None], np.cos(np.deg2rad(lat))[:, None], np.deg2rad(step)
    u = -(psi @ s.northward_gradient).reshape(61, 61)
    v = (psi @ s.eastward_gradient).reshape(61, 61)
    z = ((psi @ planet._balance) @ s.values).reshape(61, 61)
    inner = (slice(2, -2), slice(2, -2))

    def north(x: np.ndarray) -> np.ndarray:
        return np.gradient(x, d, axis=0)

    def east(x: np.ndarray) -> np.ndarray:
        return np.gradient(x, d, axis=1) / cos

    divergence = east(u) + north(v * cos) / cos
    vorticity = east(v) - north(u * cos) / cos
    assert np.abs(divergence[inner]).max() < 2e-3 * np.abs(vorticity[inner]).max()
    laplacian = east(east(z)) + north(north(z) * cos) / cos
    balance = 2 * np.sin(phi) * vorticity - 2 * cos * u
    assert np.abs(laplacian - balance)[inner].max() < 5e-3 * np.abs(balance[inner]).max()


def test_maps_are_the_spectral_winds_on_the_output_grid(history, year, maps):
    s = Synthesis(21, world.LATITUDE, world.LONGITUDE)
    psi = history.planet.dynamics.stream(year[1][9]).double().numpy()
    speed = forcing.RADIUS * forcing.OMEGA
    want = (speed * psi @ s.eastward_gradient).reshape(3, 32, 64)
    np.testing.assert_allclose(maps["v"][9], want, atol=1e-3)
    assert world.LATITUDE[0] == 87.1875
    assert maps["z"].dtype == np.float32


def test_it_looks_like_an_atmosphere(maps):
    z, u = maps["z"][:, 1], maps["u"]
    steps = np.arange(len(z)) / len(z) * 2 * np.pi
    basis = np.stack([np.ones_like(steps), np.cos(steps), np.sin(steps)], 1)
    cycle = basis @ np.linalg.lstsq(basis, z.reshape(len(z), -1), rcond=None)[0]
    assert 650 < rms(z - cycle.reshape(z.shape)) < 900
    profile = u[:, 0].mean((0, 2))
    north, south = world.LATITUDE > 0, world.LATITUDE < 0
    assert 35 < world.LATITUDE[north][profile[north].argmax()] < 50
    assert -55 < world.LATITUDE[south][profile[south].argmax()] < -38
    assert np.all(profile[[profile[north].argmax(), 16 + profile[south].argmax()]] > 25)
    assert u[:, 0].mean() > u[:, 1].mean() > u[:, 2].mean()
    assert np.abs(u).max() < 150
    assert np.all(z.std((0, 2))[8:10] > 3 * z.std((0, 2))[15:17])  # storms at 40 N, quiet at the equator
    z800, z500, z200 = (maps["z"][:, i].mean() for i in (2, 1, 0))
    assert z800 < z500 < z200


def test_winter_is_on_the_right_side(year, maps):
    times = year[0].astype("datetime64[M]").astype(int) % 12
    winter, summer = np.isin(times, (11, 0, 1)), np.isin(times, (5, 6, 7))
    u, z = maps["u"][:, 1].mean(-1), maps["z"][:, 1].mean(-1)
    north, south = slice(4, 14), slice(18, 28)
    assert u[winter, north].mean(0).max() > 1.2 * u[summer, north].mean(0).max()
    assert u[summer, south].mean(0).max() > 1.1 * u[winter, south].mean(0).max()
    assert z[winter, :3].mean() < z[summer, :3].mean()  # the cold pole lies low
    assert z[summer, -3:].mean() < z[winter, -3:].mean()


def test_errors_double_in_some_days_and_the_ceiling_is_deterministic(history, year):
    times, states = year
    at = np.arange(120, 1300, 120)
    leads = [6, 72, 120, 168, 240]
    planet = history.planet
    run = planet.rerun_from(states[at], times[at], leads, 0.01, seed=3)
    z = planet.expand(run)["z"][:, :, 1]
    truth = planet.expand(states)["z"][:, 1]
    error = [rms(z[:, j] - truth[at + h // 6]) for j, h in enumerate(leads)]
    assert 2 < error[0] < 30
    assert 1.5 < 4.0 / np.log2(error[3] / error[1]) < 4.0
    assert error[4] < 300
    again = planet.rerun_from(states[at[2:3]], times[at[2:3]], [6], 0.01, seed=3)
    np.testing.assert_allclose(again[0], run[2, :1], atol=1e-5)  # whatever else is in the batch
    other = planet.rerun_from(states[at[2:3]], times[at[2:3]], [6], 0.01, seed=4)
    assert not np.allclose(other[0], run[2, :1], atol=1e-5)


def test_unperturbed_rerun_is_the_history(history, year):
    times, states = year
    run = history.planet.rerun_from(states[50:51], times[50:51], [6, 24], perturbation=0.0)
    np.testing.assert_allclose(run[0], states[[51, 54]], atol=2e-5)


def test_other_seed_other_weather(history, year):
    """That the same seed gives the same weather is tested in test_history, by two histories in two folders."""
    planet, first = history.planet, year[1][0]
    other = world.Planet(history.seed + 1, planet.start, planet.dynamics).initial()
    waves = planet.dynamics.modes.order > 0  # the zonal mean belongs to the climate
    assert (first - other)[:, waves].norm() > first[:, waves].norm()


def test_static_fields(history):
    static = history.planet.static
    assert static["orog"].shape == static["lsm"].shape == (32, 64)
    tibet = static["orog"][np.abs(world.LATITUDE - 34).argmin(), 16]
    assert tibet > 2000
    assert 0 <= static["lsm"].min() <= static["lsm"].max() <= 1
    assert static["lsm"][-1].min() > 0.8  # the southern continent: rows run north to south
