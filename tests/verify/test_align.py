"""Seams: whatever does not fit between forecast and truth is an error that says so."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow.errors import BadInput, SchemaMismatch
from eoflow.verify.scorecard import score


def run(forecast, truth, **kw):
    return score({"model": forecast}, truth, None, dataset="t", **kw)


@pytest.fixture
def good(cubes):
    return cubes["good"]


def test_numbers_as_leads_are_refused(good, truth):
    hours = good.drop_vars("valid_time").assign_coords(lead_time=[12, 24, 48])
    with pytest.raises(SchemaMismatch, match="without a unit"):
        run(hours, truth)


def test_valid_time_must_be_init_plus_lead(good, truth):
    wrong = good.assign_coords(valid_time=good.valid_time + np.timedelta64(6, "h"))
    with pytest.raises(SchemaMismatch, match=r"valid_time is not"):
        run(wrong, truth)


def test_leads_in_the_wrong_unit_hit_no_truth_and_that_is_said(good, truth):
    minutes = good.drop_vars("valid_time").assign_coords(lead_time=np.array([12, 24, 48]).astype("timedelta64[m]"))
    with pytest.raises(SchemaMismatch, match="no valid time"):
        run(minutes, truth)


def test_zero_lead_and_double_initial_times(good, truth):
    zero = good.drop_vars("valid_time").assign_coords(lead_time=np.array([0, 24, 48]).astype("timedelta64[h]"))
    with pytest.raises(SchemaMismatch, match="positive"):
        run(zero, truth)
    twice = good.isel(init_time=[0, 1, 1])
    with pytest.raises(SchemaMismatch, match="twice"):
        run(twice, truth)


@pytest.mark.parametrize("change", ["flip", "shift", "coarse"])
def test_other_grids_are_refused_with_both_sides(good, truth, change):
    other = {
        "flip": lambda: good.isel(latitude=slice(None, None, -1)),
        "shift": lambda: good.assign_coords(longitude=good.longitude - 180),
        "coarse": lambda: good.isel(longitude=slice(None, None, 2)),
    }[change]()
    with pytest.raises(SchemaMismatch, match="different grids") as e:
        run(other, truth)
    assert "truth:" in str(e.value)
    assert "forecast:" in str(e.value)


def test_other_units_are_refused(good, truth):
    hpa = good.copy()
    hpa["msl"] = (hpa.msl / 100).assign_attrs(units="hPa")
    with pytest.raises(SchemaMismatch, match="units differ"):
        run(hpa, truth)


def test_foreign_dimension_names_get_the_line_that_renames(good, truth):
    with pytest.raises(SchemaMismatch, match="init_time") as e:
        run(good.drop_vars("valid_time").rename(init_time="time", lead_time="prediction_timedelta"), truth)
    assert "rename" in str(e.value)


def test_no_truth_yet_names_both_ranges(good, truth):
    with pytest.raises(BadInput, match="no truth has arrived") as e:
        run(good.isel(init_time=slice(40, None)), truth.isel(time=slice(0, 20)))
    assert "2001-01-10" in str(e.value)
    with pytest.raises(BadInput, match="no case could be scored"):
        run(good, truth.where(truth.time < np.datetime64("2000-01-01")))


def test_no_common_initial_time_lists_the_models(cubes, truth):
    a, b = cubes["good"].isel(init_time=slice(0, 5)), cubes["persistence"].isel(init_time=slice(10, 15))
    with pytest.raises(BadInput, match="in common") as e:
        score({"a": a, "b": b}, truth, None, dataset="t")
    assert "a: 5 initial times" in str(e.value)


def test_unknown_variable_names_the_nearest(good, truth):
    with pytest.raises(BadInput, match="did you mean 'msl'"):
        run(good, truth, variables=["mls"])
    assert run(good, truth, variables=["z850"]).variables == ["z850"]
    assert run(good, truth, variables=["z", "msl"]).variables == ["z500", "z850", "msl"]


def test_no_forecast_no_period_no_variable(good, truth):
    with pytest.raises(BadInput, match="no forecast"):
        score({}, truth, None, dataset="t")
    with pytest.raises(BadInput, match="no initial time in"):
        run(good, truth, period="1999")
    with pytest.raises(SchemaMismatch, match="no variable in common"):
        run(good.rename(z="a", msl="b"), truth)


def test_unsorted_cubes_and_levels_are_put_right(good, truth, worlds):
    shuffled = good.isel(init_time=[3, 0, 2, 1], lead_time=[2, 0, 1], level=[1, 0])
    a = run(good.isel(init_time=slice(0, 4)), truth)
    b = run(shuffled, truth)
    assert [(r.variable, r.metric, r.lead_hours, r.n) for r in a.rows] == [
        (r.variable, r.metric, r.lead_hours, r.n) for r in b.rows
    ]
    assert [r.value for r in a.rows] == pytest.approx([r.value for r in b.rows], rel=1e-6)
