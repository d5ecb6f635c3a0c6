from __future__ import annotations

import inspect
import socket
from pathlib import Path

import pytest

from eoflow import up
from eoflow.errors import BadInput, Failure

pytest.importorskip("prefect")


def test_plan_has_the_flows_of_its_kind_for_each_dataset(workspace):
    names = ["sample-atmosphere", "gfs", "sample-scenes"]
    served = up.plan(workspace, datasets=names, lead="3d", model="persistence", recipe="eof-ridge")
    kinds = dict(zip(names, (up.FIELDS, up.FIELDS, up.SCENES)))
    plain = [s for s in served if s.flow in kinds[s.parameters["dataset"]]]
    assert [(s.flow, s.name) for s in plain if s.name in names] == [(f, d) for d in names for f in kinds[d]]
    by = {(s.flow, s.name): s for s in served}
    assert by["forecast", "sample-atmosphere"].parameters == {
        "dataset": "sample-atmosphere", "workspace": workspace.root, "lead": "3d", "model": "persistence",
    }  # fmt: skip
    assert by["train", "gfs"].parameters["recipe"] == "eof-ridge"
    with pytest.raises(BadInput, match="no dataset called 'gsf'"):
        up.plan(workspace, datasets=["gsf"])
    assert len({s.schedule for s in served}) == len(served), "no two runs start at the same minute"


def test_a_scene_dataset_is_served_the_tasks_that_a_model_fits(workspace):
    served = up.plan(workspace, datasets=["sample-radar", "sample-scenes"], schedules={"flood": "7h"})
    flows = {d: {s.flow for s in served if s.parameters["dataset"] == d} for d in ("sample-radar", "sample-scenes")}
    assert "flood" in flows["sample-radar"]
    assert not flows["sample-radar"] & {"clouds", "change"}
    assert "clouds" in flows["sample-scenes"]
    assert next(s.schedule for s in served if s.flow == "flood") == "7h"
    trained = [s for s in served if s.flow == "train"]
    assert {s.name for s in trained} == {f"{s.parameters['dataset']}-{s.parameters['recipe']}" for s in trained}
    assert {(s.name, "verify") for s in trained} == {(s.name, s.flow) for s in served if s.flow == "verify"}


def test_plan_serves_the_archives_there_are_else_the_sample(workspace):
    assert {s.name for s in up.plan(workspace)} == {"sample-atmosphere"}
    workspace.path("archives", "mine").mkdir(parents=True)
    assert {s.name for s in up.plan(workspace)} == {"mine"}


@pytest.mark.parametrize(
    ("schedules", "says"),
    [
        ({"ingest": "61 * * * *"}, "neither a cron nor a duration"),
        ({"ingest": "often"}, "not a duration"),
        ({"fetch": "6h"}, "no flow called 'fetch'"),
    ],
)
def test_wrong_schedules_are_refused(workspace, schedules: dict[str, str], says: str):
    with pytest.raises(BadInput, match=says):
        up.plan(workspace, schedules=schedules)


def test_a_duration_is_an_interval(workspace):
    by = {s.flow: s for s in up.plan(workspace, schedules={"ingest": "6h"})}
    assert by["ingest"].interval_s == 6 * 3600
    assert by["verify"].interval_s is None


@pytest.mark.parametrize(
    ("dataset", "name"),
    [*(("sample-atmosphere", f) for f in up.FIELDS), *(("sample-scenes", f) for f in up.SCENES)],
)
def test_every_flow_loads_and_takes_its_parameters(workspace, dataset: str, name: str):
    flow = up.load_flow(name)
    assert flow.name == name
    served = {s.flow: s for s in up.plan(workspace, datasets=[dataset])}
    inspect.signature(flow.fn).bind(**served[name].parameters)
    assert {p.name for p in inspect.signature(flow.fn).parameters.values()} >= {"dataset", "workspace"}
    assert not flow.persist_result


@pytest.mark.parametrize("name", up.IMAGES)
def test_every_flow_of_images_loads(name: str):
    flow = up.load_flow(name)
    assert {"dataset", "workspace"} <= set(inspect.signature(flow.fn).parameters)
    assert flow.name == name
    assert not flow.persist_result


def test_flow_files_hold_one_flow_each():
    from prefect import Flow, Task
    from prefect.cache_policies import NO_CACHE
    from prefect.utilities.importtools import load_script_as_module

    for path in sorted(up.flow_file("ingest").parent.glob("*.py")):
        members = vars(load_script_as_module(str(path))).values()
        assert [m.name for m in members if isinstance(m, Flow)] == [path.stem]
        tasks = [m for m in members if isinstance(m, Task)]
        assert tasks
        assert all(t.cache_policy == NO_CACHE for t in tasks)


def test_a_taken_port_is_said(tmp_path: Path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(Failure, match=f"cannot listen on 127.0.0.1:{port}"), up.local_server(tmp_path, port=port):
            pass


def test_a_server_that_dies_shows_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://")
    with pytest.raises(Failure, match="did not start") as e, up.local_server(tmp_path):
        pass
    assert "nonsense" in str(e.value)
