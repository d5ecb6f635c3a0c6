from __future__ import annotations

import numpy as np
import pytest

from eoflow.sources.planet import forcing


def test_season_peaks_on_20_january_every_year():
    for year in (2000, 2013, 2020, 2047):
        start = (np.datetime64(f"{year}-01-01") - np.datetime64("2000-01-01")).astype(int)
        days = start + np.arange(366)
        assert abs(int(np.argmax(forcing.season(days))) - 19) <= 1
        assert forcing.season(start + 200.0) < -0.97


def test_equilibrium_has_the_asked_jets(grid):
    p = forcing.Parameters()
    mean, seasonal = forcing.equilibrium(grid, p)
    unit = -forcing.RADIUS * forcing.OMEGA
    u = (mean[0] @ grid.synthesis.northward_gradient).reshape(grid.shape).mean(1) * unit
    du = (seasonal[0] @ grid.synthesis.northward_gradient).reshape(grid.shape).mean(1) * unit
    lat = grid.latitude
    tropics = np.minimum(np.abs(lat) / 15, 1) * np.sqrt(np.cos(np.deg2rad(lat)))
    centre = np.where(lat > 0, p.jet_latitude[0], -p.jet_latitude[1])
    asked = p.shear[0] * np.exp(-(((np.abs(lat) - centre) / p.jet_width) ** 2)) * tropics
    middle = np.abs(lat) > 12  # the kink at the equator is below the truncation
    np.testing.assert_allclose(u[middle], asked[middle], atol=1.5)
    north, south = lat > 20, lat < -20
    np.testing.assert_allclose(du[north], p.season_amplitude[0] * asked[north], atol=1.0)
    np.testing.assert_allclose(du[south], p.season_amplitude[1] * asked[south], atol=1.0)


def test_geography_and_friction_are_physical(grid):
    land = forcing.geography(grid)
    height = land.orography @ grid.synthesis.values
    assert 1500 < height.max() < 4500
    assert height.min() > -200  # ripples of the truncation
    fraction = (land.land @ grid.synthesis.values).reshape(grid.shape)
    assert grid.weight @ fraction.mean(1) / 2 == pytest.approx(0.3, abs=0.12)
    k = forcing.friction(grid, land, forcing.Parameters()) * 3.0 * forcing.DAY
    assert k.min() >= 1.0
    assert 1.5 < k.max() <= 2.0
