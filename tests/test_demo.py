"""The demo as a newcomer runs it, then its notebook."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from eoflow.cli import main
from eoflow.verify.results import Scorecard

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The demo's JSON report and its workspace."""
    import contextlib
    import io

    outer = tmp_path_factory.mktemp("demo")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["demo", "--json", "--workspace", str(outer)]) == 0
    return json.loads(out.getvalue()), outer / "demo"


def test_gaps_are_found_and_filled(ran):
    report, _ = ran
    assert report["coverage_before"] < 1
    assert report["coverage_after"] == 1


def test_latest_opens_in_two_lines(ran):
    report, folder = ran
    names: dict = {}
    exec(report["open"], names)
    ds = names["ds"]
    assert isinstance(ds, xr.Dataset)
    assert ds["z"].attrs["units"] == "m2 s-2"
    assert "valid_time" in ds.coords
    assert json.loads(ds.attrs["eoflow_provenance"])["dataset"] == "sample-atmosphere"
    assert float(np.isfinite(ds["z"]).mean()) == 1
    assert (folder / "products" / "forecast" / "latest.zarr").exists()


def test_the_scorecard_says_the_truth(ran):
    report, folder = ran
    card = Scorecard.from_json((folder / "scores" / "sample-atmosphere" / "scores.json").read_text())
    assert set(card.models) == {"puyun", "persistence", "climatology", "eof-ridge", "ceiling"}

    def z500(model, day):
        return card.get(model, "z500", 24.0 * day, "rmse").value

    assert z500("puyun", 1) < 0.3 * z500("persistence", 1)
    assert z500("puyun", 1) < 0.6 * z500("eof-ridge", 1)
    assert z500("puyun", 3) < 0.55 * z500("persistence", 3)
    assert z500("puyun", 5) < min(z500("climatology", 5), z500("eof-ridge", 5))
    assert z500("puyun", 10) < 1.05 * z500("climatology", 10)
    assert z500("ceiling", 5) < 0.1 * z500("puyun", 5)
    assert card.get("puyun", "z500", 240.0, "activity") is not None
    assert len(report["statements"]) == 9
    assert report["skilful_until_hours"]["z500"] >= 96


def test_scenes_are_damaged_missing_and_late_then_whole(ran):
    scenes = ran[0]["scenes"]
    assert scenes["coverage_before"] == 18 / 20
    assert sorted(g["cause"] for g in scenes["gaps"]) == ["absent at source", "failed"]
    assert "B08" in next(g["reason"] for g in scenes["gaps"] if g["cause"] == "failed")
    assert scenes["coverage_after"] == 1
    (pixel,) = scenes["why"]["pixels"]
    assert pixel["tile"] == "32N-0131-1043"
    assert pixel["time"].startswith("2020-02-04")
    assert pixel["item"]["id"] == "S2X_L2A_20200204T095417_32N-0131-1043"
    assert pixel["commit"]["message"].startswith("ingest ")
    assert all(b["physical"] is not None for b in pixel["bands"])


def test_the_composite_and_its_cog_say_the_same(ran):
    rasterio = pytest.importorskip("rasterio")
    scenes = ran[0]["scenes"]
    names: dict = {}
    exec(scenes["open"], names)
    ds = names["ds"]
    empty = float((ds["count"] == 0).mean())
    assert 0 < empty < 0.5
    assert scenes["unobserved"] == pytest.approx(empty)
    with rasterio.open(scenes["files"][0]) as f:
        assert f.descriptions == ("B02", "B03", "B04", "B08", "B11")
        assert f.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        red = f.read(3, masked=True) * f.scales[2] + f.offsets[2]
    np.testing.assert_allclose(red.filled(np.nan), ds["B04"].values, atol=1e-6)
    (item,) = scenes["items"]
    said = json.loads(Path(item).read_text())
    assert {Path(a["href"]).name for a in said["assets"].values()} == {Path(f).name for f in scenes["files"]}


def test_pictures(ran):
    report, _ = ran
    names = [Path(p).name for p in report["pictures"]]
    assert names == ["coverage.png", "forecast.png", "skill.png", "waves.png"]
    for picture in report["pictures"] + report["scenes"]["pictures"]:
        assert Path(picture).stat().st_size > 10_000
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert len(report["scenes"]["pictures"]) == 3


def test_the_flood_is_mapped_and_told_from_the_river(ran):
    report, folder = ran
    water = report["images"]["flood"]
    assert water["model"] == "flood-s1"
    assert len(water["iou"]) == 2
    assert min(water["iou"]) > 0.45
    for row in water["areas"]:
        assert row["flood_km2"] > 3 * row["permanent_water_km2"] > 0
    assert (folder / "pictures" / "flood.png").stat().st_size > 10_000
    names: dict = {}
    exec(water["open"], names)
    assert names["ds"]["class"].dims == ("time", "y", "x")


def test_the_cloudy_scene_is_filled(ran):
    report, _ = ran
    names: dict = {}
    exec(report["images"]["clouds"]["open"], names)
    ds = names["ds"]
    assert {"B02", "B08", "std_B02", "count", "filled"} <= set(ds.data_vars)
    assert bool((ds["filled"] == 1).any())


def test_the_report_shows_both_kinds(ran):
    from eoflow.view.report import build
    from eoflow.workspace import Workspace

    html = build(Workspace(ran[1]))
    for words in ("Last forecast: puyun", "skilful to day", "21 of 21 expected scenes present", "Last composite:",
                  "Newest scene:", "32N-0131-1043"):  # fmt: skip
        assert words in html
    assert "cannot be shown" not in html
    assert html.count("data:image/png;base64,") == 8


@pytest.mark.parametrize(("name", "pictures"), [("forecasts", 3), ("scenes", 2)])
def test_the_notebook_runs_on_it(ran, monkeypatch, name, pictures):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    _, folder = ran
    monkeypatch.setenv("EOFLOW_WORKSPACE", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(REPO / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # shipped without outputs
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in shown) == pictures
    assert not any(o.output_type == "error" for o in shown)
