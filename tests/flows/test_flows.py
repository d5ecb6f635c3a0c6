"""The tasks of the flows as plain functions: no server, the same results as the library, small values back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from flowtasks import task_of

pytest.importorskip("prefect")


@pytest.fixture
def tiny(workspace, tmp_path: Path) -> str:
    """A dataset of twenty days in the workspace; its name."""
    from eoflow.ingest.run import ingest

    time = np.datetime64("2020-01-01", "ns") + np.arange(80) * np.timedelta64(6, "h")
    lat, lon = np.arange(60.0, 39.0, -5.0), np.arange(0.0, 40.0, 5.0)
    values = 101325 + np.random.default_rng(0).normal(0, 500, (time.size, lat.size, lon.size)).astype("f4")
    ds = xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), values, {"units": "Pa"})},
        coords={
            "time": time,
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
    )
    ds.to_netcdf(tmp_path / "tiny.nc", engine="h5netcdf")
    ingest("tiny", [tmp_path / "tiny.nc"], workspace=workspace)
    return "tiny"


def test_ingest_returns_the_snapshot_and_does_nothing_twice(workspace, tiny: str):
    from eoflow.archive import Archive

    task = task_of("ingest")
    before = Archive.load(workspace, tiny).snapshot
    assert task.fn(tiny, workspace.root) == before
    assert task.fn(tiny, workspace.root) == before


def test_forecast_returns_where_the_run_lies(workspace, tiny: str):
    where = task_of("forecast").fn(tiny, "1d", "persistence", "latest", 1, workspace.root)
    assert isinstance(where, str)
    run = xr.open_zarr(where, decode_timedelta=True)
    assert run.sizes["lead_time"] == 4
    archived = xr.open_dataset(Path(workspace.root).parent / "tiny.nc", engine="h5netcdf")["msl"][-1].values
    np.testing.assert_array_equal(run["msl"].isel(init_time=0, lead_time=-1).values, archived)


def test_verify_returns_where_the_scores_lie(workspace, tiny: str):
    """Persistence, one day ahead, against the same computed with numpy."""
    import json

    forecast = task_of("forecast")
    for day in ("2020-01-10", "2020-01-12", "2020-01-14"):
        forecast.fn(tiny, "1d", "persistence", day, 1, workspace.root)
    where = task_of("verify").fn(tiny, ["persistence"], None, workspace.root)
    rows = json.loads(Path(where).read_text())["rows"]
    (row,) = [r for r in rows if (r["model"], r["metric"], r["lead_hours"]) == ("persistence", "rmse", 24)]
    data = xr.open_dataset(Path(workspace.root).parent / "tiny.nc", engine="h5netcdf")["msl"].astype("f8")
    lat = np.deg2rad(data["latitude"].values)
    edges = np.deg2rad(2.5)
    weights = np.sin(np.minimum(lat + edges, np.pi / 2)) - np.sin(lat - edges)
    errors = []
    for day in ("2020-01-10", "2020-01-12", "2020-01-14"):
        t = np.datetime64(day, "ns")
        difference = (data.sel(time=t + np.timedelta64(1, "D")) - data.sel(time=t)).values
        errors.append((difference**2 * weights[:, None]).sum() / (weights.sum() * data.sizes["longitude"]))
    assert row["n"] == 3
    np.testing.assert_allclose(row["value"], np.sqrt(np.mean(errors)), rtol=1e-5)


def test_flows_import_without_the_rooms_they_call():
    """Parsing a flow file loads Prefect and nothing else that is heavy: workers parse it for every run."""
    import subprocess

    code = """
import sys
from eoflow.up import FIELDS, SCENES, load_flow
for n in [*FIELDS, *SCENES]: load_flow(n)
print(sorted({"torch", "xarray", "lightning", "icechunk", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
