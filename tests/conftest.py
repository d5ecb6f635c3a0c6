from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files; skips the test where it is absent."""
    folder = Path(os.environ.get("EOFLOW_REALDATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EOFLOW_REALDATA)")
    return folder


@pytest.fixture
def workspace(tmp_path: Path):
    """An empty local workspace."""
    from eoflow.workspace import Workspace

    return Workspace(tmp_path / "workspace")


def small_world(days: int = 700, start: str = "2001-01-01", seed: int = 0):
    """Daily z (500, 850 hPa) and msl on 6 x 10 cells: a season plus waves that move east and fade (a linear system)."""
    import numpy as np
    import xarray as xr

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
            "z": (("time", "level", "latitude", "longitude"), z.astype("f4"), {"units": "m2 s-2", "standard_name": "geopotential"}),
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
            "longitude": ("longitude", np.arange(10) * 5.0 - 40, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


SMALL_NET = ["network.options.width=16", "network.options.layers=1", "network.options.blocks=1", "training.epochs=2"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A workspace with dataset `small` (700 days in one file, 30 more in another), and a small trained `puyun`."""
    import eoflow
    from eoflow.workspace import Workspace

    folder = tmp_path_factory.mktemp("trained")
    world = small_world(730)
    world.isel(time=slice(0, 700)).to_netcdf(folder / "first.nc")
    world.isel(time=slice(700, 730)).to_netcdf(folder / "later.nc")
    ws = Workspace(folder / "workspace")
    eoflow.ingest("small", [str(folder / "first.nc")], workspace=ws)
    eoflow.train("puyun", "small", overrides=SMALL_NET, workspace=ws)
    return ws


@pytest.fixture
def trained_copy(trained, tmp_path):
    """A copy of the trained workspace that a test may change."""
    import shutil

    from eoflow.workspace import Workspace

    shutil.copytree(trained.root, tmp_path / "workspace", symlinks=True)
    return Workspace(tmp_path / "workspace")
