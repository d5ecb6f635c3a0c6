from __future__ import annotations

import json

import numpy as np
import pytest

import eoflow
from eoflow.errors import BadInput


def test_scorecard_of_a_held_out_period(trained_copy):
    ws = trained_copy
    eoflow.forecast("10d", dataset="small", init="2002-08-25/2002-11-20", every="2d", workspace=ws)
    card = eoflow.verify("small", workspace=ws)
    assert set(card.models) == {"puyun", "persistence", "climatology", "eof-ridge"}
    day1 = {m: card.get(m, "z500", 24.0, "rmse") for m in card.models}
    assert day1["puyun"].value < day1["persistence"].value
    assert len({r.n for r in day1.values()}) == 1  # the same cases for all
    document = json.loads(ws.read_text("scores", "small", "scores.json"))
    assert document["header"]["gate"]["passed"] is True  # better than persistence at day 1, as its recipe asks
    assert "persistence" in document["header"]["gate"]["why"]
    rows = document["rows"]
    keys = {"dataset", "model", "variable", "lead_hours", "metric", "value", "low", "high", "n"}
    assert all(set(r) == keys for r in rows)
    assert {"rmse", "bias", "acc", "activity"} <= {r["metric"] for r in rows}


def test_scores_against_numbers_by_hand(trained_copy):
    ws = trained_copy
    eoflow.forecast("3d", dataset="small", model="persistence", init="2002-09-01/2002-10-01", every="3d", workspace=ws)
    card = eoflow.verify("small", "persistence", baselines=False, workspace=ws)
    truth = eoflow.open("small", workspace=ws)["msl"].load()
    w = np.cos(np.deg2rad(truth.latitude.values))
    inits = np.arange(np.datetime64("2002-09-01"), np.datetime64("2002-10-02"), 3).astype("datetime64[ns]")
    now = truth.sel(time=inits).values.astype("f8")
    then = truth.sel(time=inits + np.timedelta64(2, "D")).values.astype("f8")
    mse = ((now - then) ** 2).mean(axis=(0, 2)) @ w / w.sum()
    assert card.get("persistence", "msl", 48.0, "rmse").value == pytest.approx(np.sqrt(mse), rel=2e-3)


def test_training_cases_are_left_out_and_it_says_so(trained_copy):
    ws = trained_copy
    eoflow.forecast("2d", dataset="small", init="2001-06-01/2002-11-01", every="20d", workspace=ws)
    card = eoflow.verify("small", workspace=ws)
    assert card.header["excluded"]
    assert max(r.n for r in card.rows) < 26


def test_nothing_to_verify(trained_copy):
    with pytest.raises(BadInput, match="eoflow forecast"):
        eoflow.verify("small", workspace=trained_copy)
    eoflow.forecast("2d", dataset="small", workspace=trained_copy)  # from the archive's end: no truth yet
    with pytest.raises(BadInput, match="scored yet"):
        eoflow.verify("small", workspace=trained_copy)
    with pytest.raises(BadInput, match="no forecast of farseg"):
        eoflow.verify("small", "farseg", workspace=trained_copy)


def test_more_truth_makes_more_cases(trained_copy, trained):
    from pathlib import Path

    ws = trained_copy
    eoflow.forecast("5d", dataset="small", init="2002-11-20/2002-11-30", every="1d", workspace=ws)
    before = eoflow.verify("small", workspace=ws)
    eoflow.ingest("small", [str(Path(trained.root).parent / "later.nc")], workspace=ws)
    after = eoflow.verify("small", workspace=ws)
    assert after.get("puyun", "msl", 120.0, "rmse").n == 11 > before.get("puyun", "msl", 120.0, "rmse").n
