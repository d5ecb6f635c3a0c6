"""What drives and damps the sample planet: geography, the equilibrium it relaxes to, seasons, friction.

Everything is built once, in float64, on the Gaussian grid. Geography is idealised (Gaussian bumps) but laid out
so that an Earth map fits: two northern mountain ranges upstream of two oceans, Andes, Greenland, Antarctica.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spectral import GaussianGrid

Array = NDArray[np.float64]

RADIUS = 6.371e6  # m
OMEGA = 7.292e-5  # s-1
DAY = 86400.0 * OMEGA  # one day in units of 1 / Omega
STREAM = RADIUS**2 * OMEGA  # m2 s-1: unit of the stream function
YEAR_DAYS = 365.2422

# (height m, latitude, longitude, half-width in latitude, half-width in longitude), degrees
_MOUNTAINS = (
    (3900.0, 34.0, 88.0, 9.0, 20.0),
    (1500.0, 47.0, 98.0, 8.0, 20.0),
    (2500.0, 43.0, 249.0, 14.0, 12.0),
    (2500.0, 73.0, 319.0, 9.0, 18.0),
    (2700.0, -22.0, 291.0, 20.0, 7.0),
    (1300.0, 4.0, 36.0, 16.0, 9.0),
    (900.0, 40.0, 20.0, 9.0, 25.0),
)
# (latitude, longitude, half-width in latitude, half-width in longitude) of continents
_CONTINENTS = (
    (52.0, 75.0, 20.0, 55.0),
    (50.0, 20.0, 12.0, 22.0),
    (50.0, 258.0, 20.0, 30.0),
    (72.0, 318.0, 9.0, 20.0),
    (18.0, 15.0, 16.0, 28.0),
    (-10.0, 25.0, 20.0, 14.0),
    (-12.0, 302.0, 22.0, 17.0),
    (-25.0, 134.0, 11.0, 17.0),
    (20.0, 80.0, 12.0, 14.0),
)


def season(days_since_2000: Array | float) -> Array:
    """+1 in the depth of the northern winter (20 January), -1 in summer; ``days``: since 2000-01-01 00 UTC."""
    return np.asarray(np.cos(2.0 * np.pi * (np.asarray(days_since_2000) - 20.0) / YEAR_DAYS))


def _bump(latitude: Array, longitude: Array, at: tuple[float, float, float, float]) -> Array:
    """Flat-topped bump (0..1) on the (lat, lon) grid; longitude distance wraps."""
    lat0, lon0, dlat, dlon = at
    x = (longitude - lon0 + 180.0) % 360.0 - 180.0
    r2 = ((latitude[:, None] - lat0) / dlat) ** 2 + (x[None, :] / dlon) ** 2
    return np.asarray(np.exp(-r2))


@dataclass(frozen=True)
class Geography:
    """Static fields as smoothed spectral coefficients, each (count,): orography in m, land fraction 0..1."""

    orography: Array
    land: Array


def geography(grid: GaussianGrid) -> Geography:
    """Mountains and continents on the model's truncation, smoothed against Gibbs ripples."""
    lat, lon = grid.latitude, grid.longitude
    height = sum(h * _bump(lat, lon, (a, b, c, d)) for h, a, b, c, d in _MOUNTAINS)
    land = np.clip(1.7 * sum(_bump(lat, lon, at) for at in _CONTINENTS), 0.0, 1.0)
    antarctic = 0.5 * (1.0 - np.tanh((lat + 72.0) / 5.0))[:, None] * np.ones(lon.size)
    height, land = height + 2600.0 * antarctic, np.maximum(land, antarctic)
    n = grid.synthesis.modes.degree
    top = grid.truncation * (grid.truncation + 1.0)
    smooth = np.exp(-1.2 * (n * (n + 1.0) / top) ** 2)
    return Geography(grid.analyse(np.asarray(height)) * smooth, grid.analyse(np.asarray(land)) * smooth)


@dataclass(frozen=True)
class Parameters:
    """The numbers of the planet. Units in the names or beside them; see `equilibrium` and `friction`."""

    rossby_radius: tuple[float, float] = (700e3, 450e3)  # m: 200-500 hPa, 500-800 hPa
    scale_height: float = 7000.0  # m
    relaxation_days: float = 25.0
    friction_days: float = 3.0
    hyperdiffusion_days: float = 2.0  # at the smallest scale
    hyperdiffusion_power: int = 4
    shear: tuple[float, float] = (32.0, 26.0)  # m s-1: equilibrium wind difference 200-500, 500-800
    jet_latitude: tuple[float, float] = (32.0, -36.0)  # the eddies carry the jets ten degrees poleward
    jet_width: float = 14.0  # degrees
    season_amplitude: tuple[float, float] = (0.35, -0.21)  # of the northern and of the southern shear
    dipole: float = 2.6e7  # m2 s-1: land-cold, ocean-warm thickness contrast in northern winter
    dipole_longitude: float = -30.0  # degrees east of one of the two warm centres


def _jet_stream(grid: GaussianGrid, wind: Array) -> Array:
    """Stream function (unit sphere, time unit 1/Omega) of a zonal wind profile (lat,) in m/s, by quadrature."""
    zeta = 0.5 * (grid.weight * wind * np.sqrt(1.0 - grid.mu**2) / (1.0 - grid.mu**2)) @ grid.h[0].T
    n = np.arange(grid.truncation + 1.0)
    psi = np.zeros(grid.synthesis.modes.count)
    psi[1 : n.size] = -zeta[1:] / (n[1:] * (n[1:] + 1.0)) / (RADIUS * OMEGA)
    return psi


def equilibrium(grid: GaussianGrid, p: Parameters) -> tuple[Array, Array]:
    """Radiative equilibrium of the thickness stream functions psi1 - psi2 and psi2 - psi3.

    Returns the annual mean and the part multiplied by `season`, each (2, count), nondimensional.
    """
    lat = grid.latitude
    tropics = np.minimum(np.abs(lat) / 15.0, 1.0) * np.sqrt(np.cos(np.deg2rad(lat)))
    jets = []
    for centre in p.jet_latitude:
        same_side = (np.sign(lat) == np.sign(centre)).astype(float)
        profile = np.exp(-(((np.abs(lat) - abs(centre)) / p.jet_width) ** 2)) * tropics
        jets.append(_jet_stream(grid, profile * same_side))
    lon = np.deg2rad(grid.longitude)
    # Winter: cold continents (low thickness) near 60 E and 240 E, warm oceans between; summer: the faint opposite.
    band = np.exp(-(((lat - 50.0) / 15.0) ** 2))[:, None]
    wave = np.cos(2.0 * (lon - np.deg2rad(p.dipole_longitude)))
    north = grid.analyse(band * wave) * p.dipole / STREAM
    south_band = np.exp(-(((lat + 52.0) / 13.0) ** 2))[:, None]
    south = grid.analyse(south_band * np.cos(lon - np.deg2rad(240.0))) * 0.5 * p.dipole / STREAM
    mean, seasonal = [], []
    for shear in p.shear:
        share = shear / max(p.shear)
        # Where f < 0 a high thickness is a negative stream function.
        mean.append(shear * (jets[0] + jets[1]) + share * (0.45 * north - south))
        seasonal.append(
            shear * (p.season_amplitude[0] * jets[0] + p.season_amplitude[1] * jets[1]) + share * 0.55 * north
        )
    return np.stack(mean), np.stack(seasonal)


def friction(grid: GaussianGrid, land: Geography, p: Parameters) -> Array:
    """Ekman friction coefficient on the Gaussian grid (lat, lon), in units of Omega: rough over land and hills."""
    values = grid.synthesis.values
    height = np.maximum(land.orography @ values, 0.0).reshape(grid.shape)
    fraction = np.clip(land.land @ values, 0.0, 1.0).reshape(grid.shape)
    rough = 1.0 + 0.5 * fraction + 0.5 * (1.0 - np.exp(-height / 1000.0))
    return np.asarray(rough / (p.friction_days * DAY))
