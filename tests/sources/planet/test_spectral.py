from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from eoflow.sources.planet.spectral import GaussianGrid, Modes, Synthesis


def random_coefficients(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def test_harmonics_are_scipys():
    latitude, longitude = np.array([-71.0, -8.5, 0.0, 33.0, 88.0]), np.array([0.0, 17.0, 200.0])
    s = Synthesis(21, latitude, longitude)
    theta, phi = np.deg2rad(90 - latitude)[:, None], np.deg2rad(longitude)[None, :]
    for row, (m, part, n) in zip(s.values, s.modes.table, strict=True):
        y = sph_harm_y(n, m, theta, phi) * np.sqrt(4 * np.pi) * (-1.0) ** m  # without the Condon-Shortley phase
        y = (y.imag if part else y.real) * (np.sqrt(2) if m else 1)
        np.testing.assert_allclose(row.reshape(5, 3), y, atol=1e-11)


def test_analysis_inverts_synthesis_and_keeps_the_mean_square(grid):
    c = random_coefficients(grid.synthesis.modes.count)
    field = (c @ grid.synthesis.values).reshape(grid.shape)
    np.testing.assert_allclose(grid.analyse(field), c, atol=1e-12)
    mean_square = (field**2).mean(1) @ grid.weight / 2
    assert mean_square == pytest.approx(c @ c, rel=1e-12)


def test_products_of_two_truncated_fields_are_integrated_exactly():
    coarse, fine = GaussianGrid(21), GaussianGrid(42)
    a, b = random_coefficients(484, 1), random_coefficients(484, 2)
    products = []
    for g in (coarse, fine):
        s = Synthesis(21, g.latitude, g.longitude)
        product = (a @ s.values) * (b @ s.values)
        area = np.repeat(g.weight / (2 * g.shape[1]), g.shape[1])
        products.append(s.values @ (area * product))
    np.testing.assert_allclose(products[0], products[1], atol=1e-11)


def test_gradients_are_derivatives():
    c, d = random_coefficients(484), 1e-4
    lat, lon = np.array([-60.0, 5.0, 79.0]), np.array([10.0, 300.0])
    at = Synthesis(21, lat, lon)

    def value(dlat: float, dlon: float) -> np.ndarray:
        return c @ Synthesis(21, lat + np.rad2deg(dlat), lon + np.rad2deg(dlon)).values

    north = (value(d, 0) - value(-d, 0)) / (2 * d)
    east = (value(0, d) - value(0, -d)) / (2 * d) / np.repeat(np.cos(np.deg2rad(lat)), 2)
    scale = np.abs(c @ at.northward_gradient).max()
    np.testing.assert_allclose(c @ at.northward_gradient, north, atol=1e-5 * scale)
    np.testing.assert_allclose(c @ at.eastward_gradient, east, atol=1e-5 * scale)


@settings(max_examples=20, deadline=None)
@given(truncation=st.integers(1, 25), members=st.integers(1, 3), seed=st.integers(0, 99))
def test_padded_and_compact_layouts_are_the_same_numbers(truncation, members, seed):
    modes = Modes(truncation)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((members, 3, modes.count)))
    padded = modes.pad(x)
    assert padded.shape == (truncation + 1, members, 3, 2, truncation + 1)
    assert torch.equal(modes.compress(padded), x)
    assert padded.square().sum().item() == pytest.approx(x.square().sum().item())
    k = seed % modes.count
    m, part, n = modes.table[k]
    assert torch.equal(padded[m, ..., part, n], x[..., k])
