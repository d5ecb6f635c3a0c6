from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from eoflow.cube_writer import Run
from eoflow.errors import BadInput
from eoflow.products import KEEP_RUNS, ForecastCube, cubes, open_product, stamp
from eoflow.schema import FieldSchema, LatLonGrid, VariableSpec

STEP = np.timedelta64(6 * 3600 * 10**9, "ns")


@pytest.fixture
def schema():
    z = VariableSpec(name="z", units="m2 s-2", standard_name="geopotential", levels=(500.0, 850.0))
    t = VariableSpec(name="t2m", units="K", standard_name="air_temperature")
    grid = LatLonGrid(latitude=(50.0, 45.0, 40.0), longitude=(0.0, 5.0, 10.0, 15.0))
    return FieldSchema(variables=(z, t), grid=grid, step="6h")


def run(init: str, key: str = "k") -> Run:
    record = {"created": "2020-01-01T00:00:00+00:00", "command": "eoflow forecast", "checkpoint": "c"}
    return Run(np.datetime64(init, "ns"), key, "c", "s", record["created"], json.dumps(record))


def field(init: int, lead: int, members: int = 0) -> np.ndarray:
    base = np.arange(36, dtype="f4").reshape(3, 3, 4) + 1000 * lead + 100_000 * init
    return np.stack([base + 0.25 * m for m in range(members)]) if members else base


def write(cube, schema, inits, steps, key="k", members=1):
    runs = [run(i, key) for i in inits]
    with cube.write(schema, runs, STEP, steps, members) as w:
        for lead in range(steps):
            fields = [field(i, lead, members if members > 1 else 0) for i in range(len(inits))]
            w.add(np.stack(fields))


def test_round_trip_names_levels_and_times(workspace, schema):
    cube = ForecastCube(workspace, "d", "m")
    write(cube, schema, ["2020-01-02", "2020-01-01"], 5)
    ds = cube.open()
    assert dict(ds.sizes) == {"init_time": 2, "lead_time": 5, "level": 2, "latitude": 3, "longitude": 4}
    assert ds["lead_time"].dtype == "timedelta64[ns]"
    assert list(ds["init_time"].values) == [np.datetime64("2020-01-01", "ns"), np.datetime64("2020-01-02", "ns")]
    late = ds.sel(init_time="2020-01-02").isel(lead_time=3)
    np.testing.assert_array_equal(late["z"].sel(level=850), field(0, 3)[1])
    np.testing.assert_array_equal(late["t2m"], field(0, 3)[2])
    assert ds["valid_time"].sel(init_time="2020-01-02").values[3] == np.datetime64("2020-01-03", "ns")
    assert ds["z"].attrs["units"] == "m2 s-2"
    assert ds.attrs["Conventions"].startswith("CF-")


def test_longer_leads_later_and_members(workspace, schema):
    cube = ForecastCube(workspace, "d", "m-ens3")
    write(cube, schema, ["2020-01-01"], 2, members=3)
    write(cube, schema, ["2020-01-02"], 4, members=3)
    ds = cube.open()
    assert ds.sizes["member"] == 3
    assert ds["leads"].values.tolist() == [2, 4]
    assert np.isnan(ds["z"].sel(init_time="2020-01-01").isel(lead_time=3)).all()
    np.testing.assert_array_equal(ds["z"].isel(init_time=1, lead_time=3, member=2), field(0, 3, 3)[2, :2])


def test_an_exception_commits_nothing(workspace, schema):
    cube = ForecastCube(workspace, "d", "m")
    write(cube, schema, ["2020-01-01"], 2)
    before = cube.open().load()

    def interrupted():
        with cube.write(schema, [run("2020-01-02")], STEP, 2, 1) as w:
            w.add(field(0, 0)[None])
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    xr.testing.assert_identical(cube.open().load(), before)
    write(cube, schema, ["2020-01-02"], 2)
    assert cube.open().sizes["init_time"] == 2


def test_rewriting_a_run_replaces_it(workspace, schema):
    cube = ForecastCube(workspace, "d", "m")
    write(cube, schema, ["2020-01-01"], 2, key="old")
    write(cube, schema, ["2020-01-01"], 2, key="new")
    assert list(cube.run_keys().values()) == [("new", 2)]


def test_another_schema_is_refused(workspace, schema):
    cube = ForecastCube(workspace, "d", "m")
    write(cube, schema, ["2020-01-01"], 2)
    with pytest.raises(BadInput, match="schema"):
        write(cube, schema.select(["z"]), ["2020-01-02"], 2)


def test_latest_is_plain_zarr_and_a_reader_keeps_its_run(workspace, schema):
    cube = ForecastCube(workspace, "d", "m")
    write(cube, schema, ["2020-01-01"], 3)
    cube.publish(np.datetime64("2020-01-01", "ns"))
    latest = workspace.path("products", "forecast", "d", "m", "latest.zarr")
    old = xr.open_zarr(latest, decode_timedelta=True)
    for day in range(2, 3 + KEEP_RUNS):
        t = np.datetime64(f"2020-01-0{day}", "ns")
        write(cube, schema, [str(t)], 3)
        cube.publish(t)
    new = xr.open_zarr(workspace.path("products", "forecast", "latest.zarr"), decode_timedelta=True)
    assert new["init_time"].values[0] == t
    assert json.loads(new.attrs["eoflow_provenance"])["checkpoint"] == "c"
    assert new["valid_time"].shape == (1, 3)
    assert new["z"].attrs["units"] == "m2 s-2"
    kept = workspace.names("products", "forecast", "d", "m", "runs")
    assert kept[-1] == f"{stamp(t)}.zarr"
    assert len(kept) == KEEP_RUNS
    assert old["init_time"].values[0] == np.datetime64("2020-01-01", "ns")


def test_open_product_finds_the_newest_or_says_what_to_do(workspace, schema):
    with pytest.raises(BadInput, match="no forecast yet"):
        open_product(workspace=workspace)
    write(ForecastCube(workspace, "d", "m"), schema, ["2020-01-01"], 2)
    assert open_product(workspace=workspace).attrs["eoflow_model"] == "m"
    assert [c.model for c in cubes(workspace)] == ["m"]
    with pytest.raises(BadInput, match="no forecast of x"):
        open_product(dataset="d", model="x", workspace=workspace)
