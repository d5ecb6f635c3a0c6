from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from support import small_world

import eoflow
from eoflow import checkpoint
from eoflow.archive import Archive
from eoflow.checkpoint import Checkpoint
from eoflow.errors import BadInput
from eoflow.models.base import rollout
from eoflow.prepare.normalize import stack
from eoflow.products import ForecastCube
from eoflow.times import year_and_day_fraction

DAY = np.timedelta64(86400 * 10**9, "ns")


def cube(ws, model="puyun"):
    return ForecastCube(ws, "small", model).open()


def test_latest_run_is_cf_with_provenance(trained):
    report = eoflow.forecast("10d", dataset="small", workspace=trained)
    ds = xr.open_zarr(report.latest, decode_timedelta=True)
    assert ds.attrs["Conventions"].startswith("CF-")
    assert ds["z"].attrs["units"] == "m2 s-2"
    assert ds["z"].attrs["standard_name"] == "geopotential"
    np.testing.assert_array_equal(ds["valid_time"].values, ds["init_time"].values[:, None] + ds["lead_time"].values)
    record = json.loads(ds.attrs["eoflow_provenance"])
    assert record["checkpoint"] == Checkpoint.from_pretrained(checkpoint.current(trained, "small", "puyun")).hash
    assert record["archive_snapshot"] == Archive.load(trained, "small").snapshot
    assert record["command"].startswith("eoflow forecast")
    assert list(ds["lead_time"].values) == [k * DAY for k in range(1, 11)]
    namespace: dict = {}
    exec(report.open_lines, namespace)
    xr.testing.assert_identical(namespace["ds"].load(), ds.load())


def test_values_are_those_of_the_bare_network(trained):
    """Read, normalise, iterate, damp and decode by hand; compare with the cube."""
    init = np.datetime64("2002-10-10", "ns")
    eoflow.forecast("4d", dataset="small", init="2002-10-10", workspace=trained)
    ck = Checkpoint.from_pretrained(checkpoint.current(trained, "small", "puyun"))
    truth = eoflow.open("small", workspace=trained).sel(time=[init - DAY, init])
    frames = torch.from_numpy(ck.normalizer.encode(stack(truth, ck.schema))).float()[None]
    clock = torch.from_numpy(year_and_day_fraction(init + np.arange(-1, 5) * DAY))[None]
    with torch.no_grad():
        raw = rollout(ck.model, frames, clock, ck.static, 4)
        out = [ck.calibration(raw[:, k], clock[:, k + 2], k) for k in range(4)]
    expected = ck.normalizer.decode(torch.stack(out, 1).numpy())[0]
    got = cube(trained).sel(init_time=init).isel(lead_time=slice(0, 4))
    np.testing.assert_allclose(got["z"].sel(level=850), expected[:, 1], rtol=1e-6)
    np.testing.assert_allclose(got["msl"], expected[:, 2], rtol=1e-6)


def test_persistence_needs_no_training(trained):
    report = eoflow.forecast("3d", dataset="small", model="persistence", init="2002-11-01", workspace=trained)
    assert report.new == 1
    now = eoflow.open("small", workspace=trained)["msl"].sel(time="2002-11-01").values
    got = cube(trained, "persistence").sel(init_time="2002-11-01")["msl"].isel(lead_time=2).values
    np.testing.assert_allclose(got, now, rtol=1e-6)


def test_the_same_init_again_changes_nothing(trained_copy):
    eoflow.forecast("5d", dataset="small", workspace=trained_copy)
    repo = ForecastCube(trained_copy, "small", "puyun").repository()
    before = repo.lookup_branch("main")
    again = eoflow.forecast("5d", dataset="small", workspace=trained_copy)
    shorter = eoflow.forecast("3d", dataset="small", workspace=trained_copy)
    assert (again.new, again.unchanged, shorter.new) == (0, 1, 0)
    assert repo.lookup_branch("main") == before
    longer = eoflow.forecast("7d", dataset="small", workspace=trained_copy)
    assert longer.new == 1


def test_from_an_earlier_state_of_the_archive(trained_copy, trained):
    from pathlib import Path

    before = Archive.load(trained_copy, "small").snapshot
    eoflow.ingest("small", [str(Path(trained.root).parent / "later.nc")], workspace=trained_copy)
    now = eoflow.forecast("2d", dataset="small", workspace=trained_copy)
    then = eoflow.forecast("2d", dataset="small", as_of=before, workspace=trained_copy)
    assert (then.inits, now.inits) == (["2002-12-01"], ["2002-12-31"])
    record = json.loads(str(cube(trained_copy)["provenance"].sel(init_time="2002-12-01").values))
    assert record["archive_snapshot"] == before


def test_members(trained):
    report = eoflow.forecast("5d", dataset="small", init="2002-09-01", members=4, seed=1, workspace=trained)
    ens = cube(trained, "puyun-ens4").sel(init_time="2002-09-01")
    assert report.members == 4
    assert ens.sizes["member"] == 4
    eoflow.forecast("5d", dataset="small", init="2002-09-01", workspace=trained)
    control = cube(trained).sel(init_time="2002-09-01").isel(lead_time=slice(0, 5))
    np.testing.assert_allclose(ens["z"].sel(member=0), control["z"], rtol=1e-6)
    assert float(ens["z"].std("member").mean()) > 0


def test_out_and_many_inits(trained, tmp_path):
    out = tmp_path / "runs.zarr"
    report = eoflow.forecast(
        "2d", dataset="small", init="2002-08-01/2002-08-20", every="5d", out=out, workspace=trained
    )
    assert report.inits == ["2002-08-01", "2002-08-06", "2002-08-11", "2002-08-16"]
    ds = xr.open_zarr(out, decode_timedelta=True)
    assert dict(ds.sizes)["init_time"] == 4
    assert dict(ds.sizes)["lead_time"] == 2
    with pytest.raises(BadInput, match="exists already"):
        eoflow.forecast("2d", dataset="small", out=out, workspace=trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lead": "0d"}, "multiple of the step"),
        ({"lead": "3h"}, "multiple of the step"),
        ({"lead": "soon"}, "not a duration"),
        ({"init": "1999-01-01"}, "not in the archive"),
        ({"init": "2001-01-01"}, "needs 2 frames"),
        ({"init": "yesterday"}, "not an ISO time"),
        ({"init": "2001-05-01/2001-06-01", "every": "5h"}, "multiple"),
        ({"init": "1990-01-01/1990-06-01", "every": "5d"}, "no initial time"),
        ({"members": 0}, "members"),
        ({"model": "persistense"}, "did you mean 'persistence'"),
        ({"model": "eof-ridge"}, "no trained|other fields"),
        ({"dataset": "nothing"}, "no archive"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(trained, arguments, message):
    keys = ForecastCube(trained, "small", "puyun").run_keys()
    with pytest.raises(BadInput, match=message):
        eoflow.forecast(**{"lead": "2d", "dataset": "small", "workspace": trained} | arguments)
    assert ForecastCube(trained, "small", "puyun").run_keys() == keys


def test_an_init_in_a_gap_names_what_is_missing(tmp_path, workspace):
    small_world(40).isel(time=[i for i in range(40) if i not in (20, 21)]).to_netcdf(tmp_path / "gap.nc")
    eoflow.ingest("gap", [str(tmp_path / "gap.nc")], cadence="1d", workspace=workspace)
    with pytest.raises(BadInput, match=r"2001-01-21.*not in the archive"):
        eoflow.forecast("2d", dataset="gap", model="persistence", init="2001-01-21", workspace=workspace)
    span = "2001-01-15/2001-01-25"
    report = eoflow.forecast("2d", dataset="gap", model="persistence", init=span, workspace=workspace)
    assert report.new == 9


def test_killed_forecasts_leave_whole_runs_and_are_completed(trained_copy):
    span = {"init": "2002-03-01/2002-07-01", "every": "1d"}
    script = (
        "import eoflow\n"
        f"eoflow.forecast('10d', dataset='small', init={span['init']!r}, every='1d', workspace={trained_copy.root!r},"
        " progress=lambda d, t, s: print(d, t, flush=True))\n"
    )
    rng, hit = random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        lines = rng.randrange(1, 12)
        for _, line in zip(range(lines), process.stdout):
            assert line
        process.kill()
        hit += process.wait() == -9
        target = ForecastCube(trained_copy, "small", "puyun")
        if target.exists():
            ds = target.open()
            assert bool(np.isfinite(ds["z"]).all())
            assert set(ds["leads"].values.tolist()) == {10}
    assert hit >= 2
    report = eoflow.forecast("10d", dataset="small", workspace=trained_copy, **span)
    assert report.new + report.unchanged == 123
    killed = cube(trained_copy).load()
    import shutil

    shutil.rmtree(trained_copy.path("products"))
    eoflow.forecast("10d", dataset="small", workspace=trained_copy, **span)
    whole = cube(trained_copy).load()
    np.testing.assert_array_equal(killed["z"].values, whole["z"].values)
    np.testing.assert_array_equal(killed["init_time"].values, whole["init_time"].values)
