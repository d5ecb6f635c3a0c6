"""What several tests share: a small world that a small network can learn in seconds."""

from __future__ import annotations

import numpy as np
import xarray as xr

SMALL_NET = ["network.options.width=16", "network.options.layers=1", "network.options.blocks=1", "training.epochs=2"]


def small_world(days: int = 700, start: str = "2001-01-01", seed: int = 0):
    """Daily z (500, 850 hPa) and msl on 6 x 10 cells: a season plus waves that move east and fade (a linear system)."""
    rng = np.random.default_rng(seed)
    time = np.datetime64(start, "ns") + np.arange(days) * np.timedelta64(86400 * 10**9, "ns")
    season = np.sin(2 * np.pi * np.arange(days) / 365.25)[:, None, None]
    x = np.arange(10) * 2 * np.pi / 10
    state = np.zeros((2, 3, 6))
    fields = np.empty((days, 3, 6, 10))
    for i in range(days):
        turned = np.stack([0.8 * state[0] - 0.5 * state[1], 0.5 * state[0] + 0.8 * state[1]])
        state = 0.97 * turned + 0.35 * rng.normal(size=state.shape)
        fields[i] = state[0][..., None] * np.cos(x) + state[1][..., None] * np.sin(x)
    z = 55_000 + 600 * season[:, None] + 300 * fields[:, :2]
    return xr.Dataset(
        {
            "z": (
                ("time", "level", "latitude", "longitude"),
                z.astype("f4"),
                {"units": "m2 s-2", "standard_name": "geopotential"},
            ),
            "msl": (
                ("time", "latitude", "longitude"),
                (101_000 + 500 * season + 400 * fields[:, 2]).astype("f4"),
                {"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"},
            ),
        },
        coords={
            "time": time,
            "level": ("level", [500.0, 850.0], {"units": "hPa", "standard_name": "air_pressure"}),
            "latitude": ("latitude", np.linspace(60, 35, 6), {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": (
                "longitude",
                np.arange(10) * 5.0 - 40,
                {"units": "degrees_east", "standard_name": "longitude"},
            ),
        },
    )
