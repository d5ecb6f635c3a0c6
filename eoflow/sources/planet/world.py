"""The planet with its calendar: initial states, continuous 6-hourly integration, maps of u, v and geopotential."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from . import forcing
from .dynamics import LEVELS, Dynamics, one_thread
from .spectral import Array, Synthesis

STEP = np.timedelta64(6, "h")
LATITUDE: Array = np.asarray(
    87.1875 - 5.625 * np.arange(32), dtype=np.float64
)  # degrees north, cell centres of the 5.625 degree grid
LONGITUDE: Array = np.asarray(np.arange(64) * 5.625, dtype=np.float64)  # degrees east
# Global mean geopotential of the levels in the ICAO standard atmosphere, m2 s-2; the dynamics knows only anomalies.
MEAN_GEOPOTENTIAL = (115470.0, 54660.0, 19110.0)
SPINUP_DAYS = 150
_EPOCH = np.datetime64("2000-01-01T00:00:00", "s")

Times = NDArray[np.datetime64]


def days_since_2000(time: np.datetime64 | Times) -> Array:
    """Days since 2000-01-01 00 UTC, as float."""
    return np.asarray((np.asarray(time, "datetime64[s]") - _EPOCH) / np.timedelta64(1, "D"), dtype=float)


class Planet:
    """One weather history of the sample planet, fixed by ``seed`` and ``start``.

    States are float32 coefficients (level, mode) of potential vorticity (see `dynamics`), 6-hourly; the state of a
    time depends on the state 6 hours before and the date only, so a history can be cut and continued anywhere.
    """

    def __init__(self, seed: int, start: np.datetime64, dynamics: Dynamics | None = None) -> None:
        self.seed = int(seed)
        self.start = start.astype("datetime64[s]")
        self.dynamics = dynamics or Dynamics()

    # ---- history ------------------------------------------------------------------------------------------------

    def initial(self) -> torch.Tensor:
        """State (level, mode) at ``start``: a spin-up from rest with seeded noise over the months before."""
        d = self.dynamics
        rng = np.random.default_rng(self.seed)
        n = d.modes.degree
        noise = rng.standard_normal((1, LEVELS, d.modes.count)) * 5e-4 / np.maximum(n, 1.0) ** 1.5
        noise[..., 0] = 0.0
        q = d.potential_vorticity(torch.from_numpy(noise))
        begin = self.start - np.timedelta64(SPINUP_DAYS, "D")
        return d.integrate(q, days_since_2000(begin), 1, every_hours=24.0 * SPINUP_DAYS)[0, 0]

    def advance(self, state: torch.Tensor, time: np.datetime64, count: int) -> torch.Tensor:
        """The next ``count`` 6-hourly states (count, level, mode) after ``state`` (level, mode) at ``time``."""
        return self.dynamics.integrate(state[None], days_since_2000(time), count)[:, 0]

    def rerun_from(
        self,
        states: torch.Tensor,
        times: Times,
        lead_hours: Sequence[int],
        perturbation: float = 0.01,
        seed: int = 0,
    ) -> torch.Tensor:
        """Forecasts by the planet itself from slightly wrong states: the ceiling of any model's skill.

        ``states`` (init, level, mode) at ``times`` (init,). Every coefficient is off by a normal deviate times
        ``perturbation`` times the root mean square, over the waves of its degree and level, of the state itself
        (in terms of the stream function).
        Returns (init, lead, level, mode). ``lead_hours`` are ascending multiples of 6.
        """
        wanted = [int(h) // 6 - 1 for h in lead_hours]
        if any(int(h) % 6 or int(h) <= 0 for h in lead_hours):
            raise ValueError("lead_hours must be positive multiples of 6")
        if not wanted:
            return states.new_empty(len(states), 0, *states.shape[1:])
        d, n = self.dynamics, self.dynamics.modes.table[:, 2]
        psi = d.stream(states).numpy()
        wave = (d.modes.order > 0).astype(np.float64)
        number = np.maximum(np.bincount(n, wave), 1.0)
        noise = np.empty_like(psi)
        for i, hour in enumerate(np.rint(days_since_2000(times) * 24).astype(int)):
            rng = np.random.default_rng([self.seed, seed, abs(hour)])  # the same whatever else is in the batch
            for level in range(LEVELS):
                size = np.sqrt(np.bincount(n, wave * psi[i, level].astype(float) ** 2) / number)
                noise[i, level] = size[n] * rng.standard_normal(n.size)
        wrong = d.potential_vorticity(torch.from_numpy(psi + np.float32(perturbation) * noise))
        run = d.integrate(wrong, days_since_2000(times), max(wanted) + 1)
        return run[wanted].transpose(0, 1)

    # ---- maps ---------------------------------------------------------------------------------------------------

    @cached_property
    def _synthesis(self) -> Synthesis:
        return Synthesis(self.dynamics.grid.truncation, LATITUDE, LONGITUDE)

    @cached_property
    def _maps(self) -> torch.Tensor:
        """Matrix (mode, 3 * lat * lon) from nondimensional psi to geopotential, u, v in SI units."""
        s, speed = self._synthesis, forcing.RADIUS * forcing.OMEGA
        geopotential = self._balance @ s.values * speed**2
        return torch.from_numpy(
            np.concatenate([geopotential, -speed * s.northward_gradient, speed * s.eastward_gradient], 1)
        ).float()

    @cached_property
    def _balance(self) -> Array:
        """Linear balance ``lap Phi = div(f grad psi)``: matrix (mode, mode), psi on the left, Phi on the right."""
        grid, modes = self.dynamics.grid, self.dynamics.modes
        s = grid.synthesis
        f = np.repeat(2.0 * grid.mu, grid.shape[1])
        laplacian = -modes.degree * (modes.degree + 1.0)
        # div(f grad psi) = f lap psi + df/dlat dpsi/dlat, with df/dlat = 2 cos lat
        slope = np.repeat(2.0 * np.sqrt(1.0 - grid.mu**2), grid.shape[1])
        divergence = (f * s.values * laplacian[:, None] + slope * s.northward_gradient) @ grid.analysis
        with np.errstate(divide="ignore"):
            return np.asarray(divergence * np.where(laplacian < 0, 1.0 / laplacian, 0.0))

    def expand(self, states: torch.Tensor) -> dict[str, NDArray[np.float32]]:
        """Fields of states (..., level, mode) on the 5.625 degree grid.

        Returns ``z`` (geopotential, m2 s-2), ``u`` and ``v`` (wind, m s-1), float32
        (..., level, latitude, longitude); levels 200, 500, 800 hPa, latitudes from north to south.
        """
        psi = self.dynamics.stream(states)
        with torch.inference_mode(), one_thread():
            out = (psi.reshape(-1, psi.shape[-1]) @ self._maps).view(*psi.shape[:-1], 3, *self._synthesis.shape)
            z, u, v = (out[..., i, :, :].contiguous() for i in range(3))
            z += torch.tensor(MEAN_GEOPOTENTIAL)[:, None, None]
        return {"z": z.numpy(), "u": u.numpy(), "v": v.numpy()}

    @cached_property
    def static(self) -> dict[str, NDArray[np.float32]]:
        """``orog`` (m) and ``lsm`` (land fraction, 0..1) on the 5.625 degree grid, float32 (lat, lon)."""
        g = self.dynamics.geography
        height, land = ((x @ self._synthesis.values).reshape(self._synthesis.shape) for x in (g.orography, g.land))
        return {
            "orog": np.maximum(height, 0.0).astype(np.float32),
            "lsm": np.clip(land, 0.0, 1.0).astype(np.float32),
        }
