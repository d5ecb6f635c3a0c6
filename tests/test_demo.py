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


def test_four_pictures(ran):
    report, _ = ran
    assert len(report["pictures"]) == 4
    for picture in report["pictures"]:
        assert Path(picture).stat().st_size > 10_000
        assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_the_notebook_runs_on_it(ran, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    _, folder = ran
    monkeypatch.setenv("EOFLOW_WORKSPACE", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(REPO / "notebooks" / "forecasts.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # shipped without outputs
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 3
    assert not any(o.output_type == "error" for o in shown)
