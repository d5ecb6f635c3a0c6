"""`eoflow up` with a real Prefect server: schedules fire, the cubes grow, their products follow, Ctrl-C ends it all.

Every run is a process that imports everything: the three datasets grow side by side, and rest when they have grown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr

from eoflow.up import FIELDS, SCENES
from eoflow.workspace import Workspace

pytest.importorskip("prefect")
pytestmark = [pytest.mark.prefect, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
DEADLINE_S = 240.0
ANSWER_S = 120.0
"""Of one request: the server shares two cores with the runs that its schedules begin."""
UP = """
import sys
from eoflow.up import up
from eoflow.workspace import Workspace

if __name__ == "__main__":
    never = "0 0 1 1 *"
    up(Workspace(sys.argv[1]), port=0, lead="1d", model="persistence",
       schedules={"ingest": "24s", "forecast": "27s", "composite": "31s", "flood": "29s", "verify": never,
                  "train": never, "backfill": never, "prepare": never}, datasets=["tiny", "land", "river"])
"""


@dataclass
class House:
    """A running `eoflow up`."""

    process: subprocess.Popen
    api: str
    workspace: Workspace
    incoming: Path
    log: Path

    def ask(self, path: str, body: dict[str, Any] | None = None, read: bool = True) -> Any:
        request = urllib.request.Request(
            self.api + path, data=json.dumps(body or {}).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.load(answer) if read else None

    def wait(self, what: str, ready: Callable[[], Any]) -> Any:
        """Poll until `ready()` is true; fail with the log at the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if found := ready():
                return found
            if self.process.poll() is not None:
                break
            if "ingest.py" in self.log.read_text():  # a traceback through the flow: it will not get better
                time.sleep(2)
                break
            time.sleep(0.5)
        pytest.fail(f"{what}; the log of eoflow up ends:\n{self.log.read_text()[-6000:]}")


def deliver(folder: Path, start: str, days: int) -> np.datetime64:
    """A NetCDF file of 6-hourly pressure appears in `folder` at once; returns its last time."""
    time_axis = np.datetime64(start, "ns") + np.arange(days * 4) * np.timedelta64(6, "h")
    lat, lon = np.arange(60.0, 39.0, -5.0), np.arange(0.0, 40.0, 5.0)
    day = (time_axis - np.datetime64("2020-01-01", "ns")) / np.timedelta64(1, "D")
    wave = np.cos(day[:, None, None] + np.deg2rad(lon)[None, None, :] * 4) * np.cos(np.deg2rad(lat))[None, :, None]
    ds = xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), (101325 + 1500 * wave).astype("f4"))},
        coords={"time": time_axis, "latitude": lat, "longitude": lon},
    )
    ds["msl"].attrs = {"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"}
    ds["latitude"].attrs = {"units": "degrees_north", "standard_name": "latitude"}
    ds["longitude"].attrs = {"units": "degrees_east", "standard_name": "longitude"}
    hidden = folder / f".{start}"
    ds.to_netcdf(hidden, engine="h5netcdf")
    hidden.rename(folder / f"{start}.nc")
    return time_axis[-1]


def deliver_scene(folder: Path, day: str) -> None:
    """A GeoTIFF appears in `folder` at once."""
    from rasters import write

    values = np.random.default_rng(int(day[-2:])).integers(1, 5000, (128, 128)).astype("u2")
    hidden = folder.parent / f"hidden-{day}.tif"
    write(hidden, values, nodata=0, descriptions=("red",))
    hidden.rename(folder / f"land_{day}.tif")


def deliver_radar(folder: Path, day: str) -> None:
    """A radar scene in dB appears in `folder` at once: a lake whose radius is the day of the month, in 10 pixels."""
    from rasters import write

    rng = np.random.default_rng(int(day[-2:]))
    y, x = np.mgrid[:256, :256]
    lake = (y - 128) ** 2 + (x - 128) ** 2 < (10 * int(day[-2:])) ** 2
    level = np.where(lake, -21.0, -10.0) - np.array([0.0, 6.5])[:, None, None]
    speckle = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, 256, 256)))
    hidden = folder.parent / f"hidden-{day}-radar.tif"
    write(hidden, (level + speckle).astype("f4"), nodata=-9999, descriptions=("VV", "VH"))
    hidden.rename(folder / f"river_{day}.tif")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`eoflow up` in a process of its own, with two datasets (fields, scenes) whose files arrive in a folder."""
    root = tmp_path_factory.mktemp("up")
    workspace, incoming, log = Workspace(root / "ws"), root / "incoming", root / "up.log"
    incoming.mkdir()
    entry = {
        "name": "tiny", "title": "Files that arrive", "variables": {"msl": {"units": "Pa"}},
        "source": {"driver": "netcdf", "args": {"paths": [str(incoming / "*.nc")]}},
        "schedule": {"start": "2020-01-01", "cadence": "6h", "end": "2020-01-07T18:00"},
    }  # fmt: skip
    workspace.write_text(yaml.safe_dump(entry), "catalogs", "datasets", "tiny.yaml")
    land = {
        "kind": "scenes", "name": "land", "title": "Scenes that arrive", "sensor": "other", "level": "L2",
        "source": {"driver": "geotiff", "args": {"paths": [str(incoming / "land_*.tif")]}},
        "bands": {"red": {"units": "1", "scale": 1e-4, "offset": 0.0, "nodata": 0}},
        "schedule": {"start": "2020-01-01"},
    }  # fmt: skip
    workspace.write_text(yaml.safe_dump(land), "catalogs", "datasets", "land.yaml")
    deliver_scene(incoming, "2020-01-05")
    decibel = {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": -9999}
    river = {
        **land, "name": "river", "title": "Radar scenes that arrive", "sensor": "sentinel-1", "level": "GRD",
        "source": {"driver": "geotiff", "args": {"paths": [str(incoming / "river_*.tif")]}},
        "bands": {"VV": decibel, "VH": decibel},
    }  # fmt: skip
    workspace.write_text(yaml.safe_dump(river), "catalogs", "datasets", "river.yaml")
    deliver_radar(incoming, "2020-01-05")
    (root / "serve_it.py").write_text(UP)
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }  # fmt: skip
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, str(root / "serve_it.py"), workspace.root],
            cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    running = House(process, "", workspace, incoming, log)
    try:
        first = running.wait("the server did not start", lambda: _line(log, "Prefect UI"))
        running.api = first.split()[2] + "/api"
        running.wait("nothing is served", lambda: _line(log, "Ctrl-C"))
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _line(log: Path, begin: str) -> str | None:
    return next((line for line in log.read_text().splitlines() if line.startswith(begin)), None)


def latest(workspace: Workspace) -> xr.Dataset | None:
    """The published run, as any reader opens it."""
    where = workspace.path("products", "forecast", "tiny", "persistence", "latest.zarr")
    return xr.open_zarr(where, decode_timedelta=True) if where.exists() else None


def days_of(workspace: Workspace, name: str) -> list[str]:
    """The dates of a scene cube, () before it is there."""
    from eoflow.cube import Cube
    from eoflow.holdings import kind_of

    if kind_of(workspace, name) is None:
        return []
    cube = Cube.load(workspace, name)
    return [str(t)[:10] for tile in cube.tiles() for t in cube.times(tile)]


def composites(workspace: Workspace) -> list[Path]:
    """Composites that hold the second scene."""
    return sorted(workspace.path("products", "composite", "land").glob("median-*20200110*.zarr"))


def water(workspace: Workspace) -> dict[str, int]:
    """Day -> pixels of water in the maps of it."""
    found = {}
    for path in workspace.path("products", "flood", "river").glob("*/*.zarr"):
        for _, group in zarr.open_group(str(path), mode="r")["tiles"].groups():
            made = xr.open_zarr(path, group=group.path)
            for day in made["time"].values:
                found[str(day)[:10]] = int(np.isin(made["class"].sel(time=day).values, (1, 2)).sum())
    return found


@pytest.fixture(scope="module")
def grown(house: House) -> dict[str, Any]:
    """First files, what the schedules made of them, and later files, and what they made of those."""

    def published(init: np.datetime64) -> bool:
        run = latest(house.workspace)
        return run is not None and run["init_time"].values.max() == init

    first = deliver(house.incoming, "2020-01-01", 5)
    house.wait("no forecast appeared", lambda: published(first))
    house.wait("no scene was ingested", lambda: days_of(house.workspace, "land") == ["2020-01-05"])
    house.wait("no water was mapped", lambda: "2020-01-05" in water(house.workspace))
    second = deliver(house.incoming, "2020-01-06", 2)
    deliver_scene(house.incoming, "2020-01-10")
    deliver_radar(house.incoming, "2020-01-09")
    house.wait("the forecast did not move on", lambda: published(second))
    house.wait("the cube did not grow", lambda: days_of(house.workspace, "land") == ["2020-01-05", "2020-01-10"])
    house.wait("no composite of both days appeared", lambda: composites(house.workspace))
    house.wait("the new scene was not mapped", lambda: "2020-01-09" in water(house.workspace))
    for d in house.ask("/deployments/filter"):  # a run makes its report last
        house.ask(f"/deployments/{d['id']}/pause_deployment", read=False)
    return {"inits": {first, second}, "last": second}


def test_deployments_are_limited_and_scheduled(house: House):
    names = ["land"] * len(SCENES) + ["river"] * (len(SCENES) + 1) + ["tiny"] * len(FIELDS)

    def all_served() -> list[dict[str, Any]]:
        found = house.ask("/deployments/filter")
        return found if len(found) == len(names) else []

    served = house.wait("not all is served", all_served)
    assert sorted(d["name"] for d in served) == names
    for d in served:
        assert d["parameters"]["workspace"] == house.workspace.root
        assert d["global_concurrency_limit"]["limit"] == 1
        assert [s["active"] for s in d["schedules"]] == [True]


def test_schedules_fire_and_the_cube_grows(house: House, grown: dict[str, Any]):
    from eoflow.products import ForecastCube

    run = latest(house.workspace)
    assert run["valid_time"].values.max() == grown["last"] + np.timedelta64(1, "D")
    assert "msl" in run
    cube = ForecastCube(house.workspace, "tiny", "persistence").open()
    assert grown["inits"] <= set(cube["init_time"].values)


def test_the_scene_cube_is_composited(house: House, grown: dict[str, Any]):
    from eoflow.cube import Cube

    (made,) = composites(house.workspace)
    tile = Cube.load(house.workspace, "land").tiles()[0]
    assert int(xr.open_zarr(made, group=f"tiles/{tile}")["count"].max()) == 2


def test_water_of_new_radar_scenes_is_mapped(house: House, grown: dict[str, Any]):
    """A scheduled run of the shipped model: the lake of each day, within a tenth of its area."""
    found = water(house.workspace)
    assert set(found) == {"2020-01-05", "2020-01-09"}
    for day, pixels in found.items():
        assert pixels == pytest.approx(np.pi * (10 * int(day[-2:])) ** 2, rel=0.1)


def test_the_runs_were_scheduled_ones_and_left_their_reports(house: House, grown: dict[str, Any]):
    def done() -> set[str]:
        body = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "limit": 200}
        return {
            r["parameters"]["dataset"] + ":" + r["name"]
            for r in house.ask("/flow_runs/filter", body)
            if r["auto_scheduled"]
        }

    assert house.wait("no scheduled run completed", done)

    def reported() -> bool:
        return {"ingest-tiny", "forecast-tiny", "ingest-land", "coverage-land", "composite-land",
                "flood-river"} <= {
            a["key"] for a in house.ask("/artifacts/filter")
        }

    house.wait("a run left no report", reported)


def test_prefect_yaml_deploys(house: House):
    """The file is accepted by the server it is written for, twice, without doubling a schedule."""
    from eoflow.up import environment

    env = {
        **os.environ,
        **environment(house.workspace.path("prefect"), house.api),
        "EOFLOW_FLOWS_ROOT": str(REPO),
        "PYTHONPATH": str(REPO),
    }
    deploy = ["--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"]
    house.ask("/work_pools/", {"name": "eoflow", "type": "process"})
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *deploy], cwd=REPO, env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = house.ask("/deployments/filter", {"work_pools": {"name": {"any_": ["eoflow"]}}})
    assert len(found) == len(yaml.safe_load((REPO / "deploy" / "prefect.yaml").read_text())["deployments"])
    for d in found:
        assert len(d["schedules"]) == 1
        assert d["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(REPO)}}]


def test_ctrl_c_ends_runner_and_server(house: House):
    """Last in this file: it ends the house."""
    house.process.send_signal(signal.SIGINT)
    assert house.process.wait(90) == 0, house.log.read_text()[-3000:]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(house.api + "/health", timeout=5)
    assert house.workspace.path("prefect", "prefect.db").is_file()
