"""Spherical harmonic transforms as dense torch matrices.

Basis: real harmonics ``Y = P(n, m; mu) * sqrt(2 - [m = 0]) * {cos, sin}(m lambda)``, normalised to a mean square of
one over the sphere, so that the mean product of two fields is the dot product of their coefficients (Parseval).

Two layouts of the coefficients:

* compact ``(..., (N + 1)**2)``: what is stored and exchanged. Order: m ascending; within m all cosines (n ascending),
  then, for m > 0, all sines.
* padded ``(m, ..., 2, n)``: what the fast transforms use; entries with n < m and the sine of m = 0 are zero.

Functions of latitude come from the three-term recurrence of the normalised associated Legendre functions
(Abramowitz and Stegun ch. 8; stable in double precision at these truncations).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


def epsilon(n: int | Array, m: int | Array) -> Array:
    """Coupling ``sqrt((n^2 - m^2) / (4 n^2 - 1))`` of neighbouring degrees in ``mu * P(n, m)``."""
    n, m = np.asarray(n, float), np.asarray(m, float)
    return np.asarray(np.sqrt(np.maximum(n**2 - m**2, 0.0) / (4.0 * n**2 - 1.0)))


def legendre(mu: Array, truncation: int) -> tuple[Array, Array]:
    """Normalised associated Legendre functions and their derivatives.

    ``mu``: sine of latitude, shape (lat,). Returns ``P`` and ``H = (1 - mu^2) dP/dmu``, each (m, n, lat) for
    0 <= m, n <= truncation, zero where n < m; half the integral of ``P**2`` over mu is one.
    """
    size = truncation + 2  # one degree more, for the derivative
    p = np.zeros((truncation + 1, size, mu.size))
    cosine = np.sqrt(1.0 - mu**2)
    for m in range(truncation + 1):
        if m == 0:
            p[0, 0] = 1.0
        else:
            p[m, m] = np.sqrt((2 * m + 1) / (2 * m)) * cosine * p[m - 1, m - 1]
        for n in range(m + 1, size):
            below = epsilon(n - 1, m) * p[m, n - 2] if n - 2 >= m else 0.0
            p[m, n] = (mu * p[m, n - 1] - below) / epsilon(n, m)
    h = np.zeros((truncation + 1, truncation + 1, mu.size))
    for m in range(truncation + 1):
        for n in range(m, truncation + 1):
            below = (n + 1) * epsilon(n, m) * p[m, n - 1] if n > m else 0.0
            h[m, n] = below - n * epsilon(n + 1, m) * p[m, n + 1]
    return p[:, : truncation + 1], h


def fourier(longitude: Array, truncation: int) -> tuple[Array, Array]:
    """``cos``/``sin`` of m lambda with the sqrt(2) of the basis, and their longitude derivative.

    ``longitude`` in radians, shape (lon,). Returns two arrays (m, 2, lon); index 1: 0 cosine, 1 sine.
    """
    m = np.arange(truncation + 1)[:, None]
    scale = np.where(m == 0, 1.0, np.sqrt(2.0))
    cos, sin = scale * np.cos(m * longitude), scale * np.sin(m * longitude)
    sin[0] = 0.0
    return np.stack([cos, sin], 1), np.stack([-m * sin, m * cos], 1)


@dataclass(frozen=True)
class Modes:
    """Which harmonic each compact coefficient belongs to, at a triangular truncation."""

    truncation: int

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """(count, 3) integers: order m, 0 for cosine or 1 for sine, degree n."""
        top = self.truncation + 1
        rows = [(m, part, n) for m in range(top) for part in ((0, 1) if m else (0,)) for n in range(m, top)]
        return np.array(rows, dtype=np.int64)

    @property
    def count(self) -> int:
        """Number of compact coefficients, ``(truncation + 1)**2``."""
        return int((self.truncation + 1) ** 2)

    @cached_property
    def degree(self) -> Array:
        """Degree n of each compact coefficient, as float, (count,)."""
        return np.asarray(self.table[:, 2], dtype=float)

    @cached_property
    def order(self) -> Array:
        """Order m of each compact coefficient, as float, (count,)."""
        return np.asarray(self.table[:, 0], dtype=float)

    @cached_property
    def _index(self) -> torch.Tensor:
        m, part, n = self.table.T
        top = self.truncation + 1
        return torch.from_numpy((m * 2 + part) * top + n)

    def pad(self, compact: torch.Tensor) -> torch.Tensor:
        """Compact (..., count) to padded (m, ..., 2, n), contiguous."""
        top = self.truncation + 1
        out = compact.new_zeros(*compact.shape[:-1], top * 2 * top)
        out[..., self._index] = compact
        return out.reshape(*compact.shape[:-1], top, 2, top).movedim(-3, 0).contiguous()

    def compress(self, padded: torch.Tensor) -> torch.Tensor:
        """Padded (m, ..., 2, n) to compact (..., count); the inverse of `pad`."""
        return padded.movedim(0, -3).flatten(-3)[..., self._index]


class Synthesis:
    """Values, gradients and winds of spectral fields on any latitude-longitude grid, as dense matrices.

    ``latitude`` and ``longitude`` in degrees; every matrix is float64 (count, lat * lon), on the unit sphere.
    """

    def __init__(self, truncation: int, latitude: Array, longitude: Array) -> None:
        self.modes = Modes(truncation)
        self.shape = (latitude.size, longitude.size)
        mu = np.sin(np.deg2rad(latitude))
        self._cosine = np.sqrt(1.0 - mu**2)
        self._p, self._h = legendre(mu, truncation)
        self._f, self._df = fourier(np.deg2rad(longitude), truncation)

    def _dense(self, meridional: Array, zonal: Array) -> Array:
        m, part, n = self.modes.table.T
        field = meridional[m, n][:, :, None] * zonal[m, part][:, None, :]
        return np.asarray(field.reshape(self.modes.count, -1))

    @cached_property
    def values(self) -> Array:
        """The harmonics themselves."""
        return self._dense(self._p, self._f)

    @cached_property
    def eastward_gradient(self) -> Array:
        """``(1 / cos lat) d/dlambda`` of each harmonic: v of a stream function."""
        return self._dense(self._p / self._cosine, self._df)

    @cached_property
    def northward_gradient(self) -> Array:
        """``d/dlat`` of each harmonic: -u of a stream function."""
        return self._dense(self._h / self._cosine, self._f)


class GaussianGrid:
    """The quadrature grid on which quadratic products of truncated fields are exact.

    ``(3 N + 1) / 2`` Gaussian latitudes (south to north) and ``3 N + 1`` longitudes: 32 x 64 at T21.
    """

    def __init__(self, truncation: int) -> None:
        nlat, nlon = (3 * truncation + 2) // 2, 3 * truncation + 1
        mu, weight = np.polynomial.legendre.leggauss(nlat)
        self.truncation = truncation
        self.mu, self.weight = np.asarray(mu), np.asarray(weight)
        self.latitude = np.rad2deg(np.arcsin(self.mu))
        self.longitude = np.arange(nlon) * 360.0 / nlon
        self.shape = (nlat, nlon)
        self.p, self.h = legendre(self.mu, truncation)
        self.f, self.df = fourier(np.deg2rad(self.longitude), truncation)
        self.synthesis = Synthesis(truncation, self.latitude, self.longitude)

    @cached_property
    def analysis(self) -> Array:
        """Dense float64 (lat * lon, count): grid values to coefficients by quadrature."""
        area = np.repeat(self.weight / (2.0 * self.shape[1]), self.shape[1])
        return np.asarray(area[:, None] * self.synthesis.values.T)

    def analyse(self, field: Array) -> Array:
        """Coefficients (..., count) of a field (..., lat, lon) on this grid."""
        flat = field.reshape(*field.shape[:-2], -1)
        return np.asarray(flat @ self.analysis)
