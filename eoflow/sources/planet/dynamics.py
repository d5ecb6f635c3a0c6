"""The quasi-geostrophic equations of the sample planet and their time stepping.

Three levels (200, 500, 800 hPa), after Marshall and Molteni (1993, J. Atmos. Sci. 50, 1792-1818)::

    dq_i/dt = -div(v_i q_i) + relaxation - Ekman friction (lowest level) - hyperdiffusion
    q_1 = lap psi_1 - (psi_1 - psi_2) / R1^2 + f
    q_2 = lap psi_2 + (psi_1 - psi_2) / R1^2 - (psi_2 - psi_3) / R2^2 + f
    q_3 = lap psi_3 + (psi_2 - psi_3) / R2^2 + f (1 + h / H0)

Length unit: the planet's radius; time unit: 1 / Omega. The state is q without f and orography, as compact
coefficients ``(member, level, mode)``, float32. The quadrature is exact for the quadratic products, so that energy
and potential enstrophy are conserved by the advection up to time stepping and rounding.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from . import forcing
from .spectral import GaussianGrid

LEVELS = 3
STEP_HOURS = 2.0
_one_at_a_time = threading.RLock()  # the number of threads belongs to the process: two changers must not interleave


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Integrate on one thread: small matrices gain nothing from more, and rounding stays the same everywhere."""
    with _one_at_a_time:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class Dynamics:
    """Right-hand side and Runge-Kutta steps for a batch of members.

    ``forced=False`` gives the bare conservative equations (with rotation and mountains): for tests.
    """

    def __init__(
        self,
        truncation: int = 21,
        parameters: forcing.Parameters | None = None,
        *,
        forced: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parameters = p = parameters or forcing.Parameters()
        self.grid = grid = GaussianGrid(truncation)
        self.modes = grid.synthesis.modes
        self.geography = forcing.geography(grid)
        self.dtype = dtype
        stretch = [(forcing.RADIUS / r) ** 2 for r in p.rossby_radius]
        n = np.arange(truncation + 1.0)
        self._to_q = _stretching(n, stretch)
        self._to_psi = np.zeros_like(self._to_q)
        self._to_psi[1:] = np.linalg.inv(self._to_q[1:])
        self._compile(stretch, n, forced)

    # ---- construction -------------------------------------------------------------------------------------------

    def _tensor(self, array: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float64)).to(self.dtype).contiguous()

    def _compile(self, stretch: list[float], n: NDArray[np.float64], forced: bool) -> None:
        p, grid = self.parameters, self.grid
        modes = self.modes.count
        tau = p.relaxation_days * forcing.DAY
        exchange = np.array([[stretch[0], 0.0], [-stretch[0], stretch[1]], [0.0, -stretch[1]]]) / tau
        difference = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
        top = grid.truncation * (grid.truncation + 1.0)
        damping = (n * (n + 1.0) / top) ** p.hyperdiffusion_power / (p.hyperdiffusion_days * forcing.DAY)
        linear = (exchange @ difference) @ self._to_psi - damping[:, None, None] * np.eye(LEVELS)
        mean, seasonal = (-np.einsum("ij,jk->ik", exchange, x) for x in forcing.equilibrium(grid, p))
        rough = forcing.friction(grid, self.geography, p)
        if not forced:
            linear, mean, seasonal, rough = 0 * linear, 0 * mean, 0 * seasonal, 0 * rough
        mean[:, 0] = seasonal[:, 0] = 0.0

        # rows: psi (3), q with f and orography (3), linear tendency (3); columns: state levels
        rows = np.concatenate([self._to_psi, np.broadcast_to(np.eye(3), self._to_psi.shape), linear], 1)
        self._rows = self._tensor(rows.transpose(1, 2, 0))[:, :, None, None, :]  # (9, 3, 1, 1, n)
        self.background = self._background()
        none = np.zeros((LEVELS, modes))
        self._base = self._bias(np.concatenate([none, self.background, mean]))
        self._seasonal = self._bias(np.concatenate([none, none, seasonal]))
        self._friction = self._tensor(rough)

        self._p, self._minus_h = self._tensor(grid.p), self._tensor(-grid.h)
        half = grid.weight / (1.0 - grid.mu**2) / (2.0 * grid.shape[1])
        self._p_back = self._tensor((grid.p * half).transpose(0, 2, 1))
        self._h_back = self._tensor((grid.h * half).transpose(0, 2, 1))
        flat = 2 * (grid.truncation + 1)
        self._f, self._df = (self._tensor(x.reshape(flat, -1)) for x in (grid.f, grid.df))
        self._f_back, self._df_back = self._f.T.contiguous(), self._df.T.contiguous()

    def _background(self) -> NDArray[np.float64]:
        """Planetary vorticity f, and f h / H0 on the lowest level: (level, mode)."""
        grid = self.grid
        f = np.repeat(2.0 * grid.mu[:, None], grid.shape[1], axis=1)
        height = (self.geography.orography @ grid.synthesis.values).reshape(grid.shape)
        q = grid.analyse(np.stack([f, f, f * (1.0 + height / self.parameters.scale_height)]))
        q[:, 0] = 0.0
        return q

    def _bias(self, compact: NDArray[np.float64]) -> torch.Tensor:
        """(9, mode) to padded (m, 9, 1, 2, n)."""
        return self.modes.pad(self._tensor(compact)[:, None])

    # ---- the equations ------------------------------------------------------------------------------------------

    def tendency(self, q: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """dq/dt of padded q (m, level, member, 2, n); ``bias`` from `bias_at`, (m, 9, member or 1, 2, n)."""
        top, levels, members = q.shape[0], LEVELS, q.shape[2]
        nlat, nlon = self.grid.shape
        y = (q.unsqueeze(1) * self._rows).sum(2).add_(bias)
        fields = torch.bmm(y[:, :6].reshape(top, -1, top), self._p).view(top, 6, members, 2, nlat)
        zonal = torch.bmm(y[:, :3].reshape(top, -1, top), self._minus_h).view(top, 3, members, 2, nlat)
        fields = fields.permute(1, 2, 4, 0, 3).reshape(6, -1, 2 * top)
        zonal = zonal.permute(1, 2, 4, 0, 3).reshape(-1, 2 * top)
        u = (zonal @ self._f).view(levels, members, nlat, nlon)
        v = (fields[:3] @ self._df).view(levels, members, nlat, nlon)
        vorticity = (fields[3:] @ self._f).view(levels, members, nlat, nlon)
        east, north = u * vorticity, v * vorticity
        # friction -div(k grad psi) is one more flux, k (v, -u), on the lowest level
        east[2].addcmul_(self._friction, v[2])
        north[2].addcmul_(self._friction, u[2], value=-1.0)
        return self._divergence(east, north, y[:, 6:].reshape(top, -1, top)).view_as(q)

    def _divergence(self, east: torch.Tensor, north: torch.Tensor, plus: torch.Tensor) -> torch.Tensor:
        """Minus the divergence of a flux (times cos lat) on the grid, by parts, plus a padded tendency."""
        top, nlat, shape = self.grid.truncation + 1, self.grid.shape[0], (*east.shape[:2], -1, east.shape[3])
        a = (east.view(-1, shape[3]) @ self._df_back).view(*shape[:2], nlat, top, 2)
        b = (north.view(-1, shape[3]) @ self._f_back).view(*shape[:2], nlat, top, 2)
        a = a.permute(3, 0, 1, 4, 2).reshape(top, -1, nlat)
        b = b.permute(3, 0, 1, 4, 2).reshape(top, -1, nlat)
        return torch.baddbmm(torch.baddbmm(plus, a, self._p_back), b, self._h_back)

    def bias_at(self, days: NDArray[np.float64]) -> torch.Tensor:
        """The constant part of `tendency` at days since 2000-01-01, (member,) or one for all."""
        c = self._tensor(forcing.season(days)).view(1, 1, -1, 1, 1)
        return self._base + c * self._seasonal

    def step(self, q: torch.Tensor, bias: torch.Tensor, hours: float = STEP_HOURS) -> torch.Tensor:
        """One classical fourth-order Runge-Kutta step."""
        dt = hours / 24.0 * forcing.DAY
        k1 = self.tendency(q, bias)
        k2 = self.tendency(torch.add(q, k1, alpha=dt / 2), bias)
        k3 = self.tendency(torch.add(q, k2, alpha=dt / 2), bias)
        k4 = self.tendency(torch.add(q, k3, alpha=dt), bias)
        return k2.add_(k3).mul_(2.0).add_(k1).add_(k4).mul_(dt / 6.0).add_(q)

    def integrate(
        self, q: torch.Tensor, days: NDArray[np.float64] | float, count: int, every_hours: float = 6.0
    ) -> torch.Tensor:
        """``count`` later states, one each ``every_hours``.

        ``q``: compact (member, level, mode); ``days``: since 2000-01-01 00 UTC, one or one a member.
        Returns compact (count, member, level, mode). Deterministic: one thread, fixed order of operations.
        """
        substeps = round(every_hours / STEP_HOURS)
        # whole hours, so that the season of a moment does not depend on where the run began
        start = np.rint(np.atleast_1d(np.asarray(days, dtype=float)) * 24.0)
        out = torch.empty(count, *q.shape, dtype=self.dtype)
        with torch.inference_mode(), one_thread():
            x = self.modes.pad(q.to(self.dtype).transpose(0, 1).contiguous())
            for i in range(count):
                for j in range(substeps):
                    middle = start + (i * substeps + j + 0.5) * STEP_HOURS
                    x = self.step(x, self.bias_at(middle / 24.0))
                out[i] = self.modes.compress(x).transpose(0, 1)
        return out

    # ---- diagnostics --------------------------------------------------------------------------------------------

    def stream(self, q: torch.Tensor) -> torch.Tensor:
        """Stream function, unit radius^2 * Omega, of a state: compact (..., level, mode) to the same."""
        inverse = self._tensor(self._to_psi[self.modes.table[:, 2]])
        return torch.einsum("kij,...jk->...ik", inverse, q.to(self.dtype))

    def potential_vorticity(self, psi: torch.Tensor) -> torch.Tensor:
        """The state that belongs to a stream function: the inverse of `stream` but for the global mean."""
        forward = self._tensor(self._to_q[self.modes.table[:, 2]])
        return torch.einsum("kij,...jk->...ik", forward, psi.to(self.dtype))

    def energy(self, q: torch.Tensor) -> torch.Tensor:
        """Kinetic plus available potential energy, sum of levels, global mean, in (radius * Omega)^2; (...,)."""
        return -0.5 * (self.stream(q).double() * q.double()).sum((-2, -1))

    def enstrophy(self, q: torch.Tensor) -> torch.Tensor:
        """Potential enstrophy per level, with f and orography, in Omega^2; (..., level)."""
        total = q.double() + torch.from_numpy(self.background)
        return 0.5 * (total**2).sum(-1)


def _stretching(n: NDArray[np.float64], stretch: list[float]) -> NDArray[np.float64]:
    """Matrices (n, 3, 3) from stream functions to potential vorticity, without f."""
    a, b = stretch
    coupling = np.array([[-a, a, 0.0], [a, -a - b, b], [0.0, b, -b]])
    return coupling - (n * (n + 1.0))[:, None, None] * np.eye(LEVELS)
