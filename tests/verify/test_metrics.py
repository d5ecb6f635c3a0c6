"""Metrics against the `scores` package and plain xarray formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scores
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.schema import LatLonGrid
from eoflow.verify import metrics as M
from eoflow.verify.moments import Reference, field_moments, worker_pool

LAT = np.array([80.0, 40.0, 0.0, -40.0, -80.0])
LON = np.arange(6) * 60.0
GRID = LatLonGrid(latitude=tuple(LAT), longitude=tuple(LON))
WEIGHTS = np.repeat(GRID.area_weights()[:, None], LON.size, axis=1)
AREA = ("latitude", "longitude")


def fields(seed, n=8, members=None, holes=0.0):
    rng = np.random.default_rng(seed)
    shape = (n, LAT.size, LON.size)
    clim = (280 + 10 * rng.standard_normal(shape)).astype(np.float32)
    truth = (clim + 3 * rng.standard_normal(shape)).astype(np.float32)
    fshape = shape if members is None else (n, members, *shape[1:])
    base = truth if members is None else truth[:, None]
    forecast = (base + 2 * rng.standard_normal(fshape) + 0.5).astype(np.float32)
    if holes:
        truth = np.where(rng.random(shape[1:]) < holes, np.nan, truth).astype(np.float32)
    return forecast, truth, clim


def named(x):
    dims = ("case", "latitude", "longitude") if x.ndim == 3 else ("case", "member", "latitude", "longitude")
    return xr.DataArray(x.astype(np.float64), dims=dims, coords={"latitude": LAT, "longitude": LON})


def value(metric, forecast, truth, clim):
    return float(metric.reduce(np.nanmean(metric.cases(forecast, truth, clim, WEIGHTS), axis=0)))


@pytest.fixture(params=[0.0, 0.4], ids=["complete", "masked"])
def case(request):
    return fields(3, holes=request.param)


def test_rmse_bias_mae_equal_the_scores_package(case):
    forecast, truth, clim = case
    f, t = named(forecast), named(truth)
    w = xr.DataArray(WEIGHTS, dims=AREA, coords={"latitude": LAT, "longitude": LON})
    w = w.where(t.isel(case=0).notnull(), 0)
    f = f.where(t.notnull())
    expected = {
        M.Rmse(): scores.continuous.rmse(f, t, weights=w),
        M.Mae(): scores.continuous.mae(f, t, weights=w),
        M.Bias(): scores.continuous.additive_bias(f, t, weights=w),
    }
    for metric, reference in expected.items():
        assert value(metric, forecast, truth, clim) == pytest.approx(float(reference), rel=2e-6), metric.name


def test_acc_and_activity_equal_plain_xarray(case):
    forecast, truth, clim = case
    f, t, c = named(forecast), named(truth), named(clim)
    w = xr.DataArray(GRID.area_weights(), dims="latitude", coords={"latitude": LAT})
    a, b = (f - c).where(t.notnull()), t - c
    a, b = (x - x.weighted(w).mean(AREA) for x in (a, b))
    sdaf, sdav = (np.sqrt((x**2).weighted(w).mean(AREA)) for x in (a, b))
    acc = ((a * b).weighted(w).mean(AREA) / (sdaf * sdav)).mean()
    assert value(M.Acc(), *case) == pytest.approx(float(acc), rel=1e-5)
    assert value(M.Activity(), *case) == pytest.approx(float(sdaf.mean()), rel=1e-5)
    assert value(M.ActivityRatio(), *case) == pytest.approx(float(sdaf.mean() / sdav.mean()), rel=1e-5)


@pytest.mark.parametrize("members", [2, 5])
def test_fair_crps_equals_the_scores_package(members):
    forecast, truth, clim = fields(5, members=members, holes=0.3)
    t = named(truth)
    w = xr.DataArray(WEIGHTS, dims=AREA, coords={"latitude": LAT, "longitude": LON})
    reference = scores.probability.crps_for_ensemble(
        named(forecast), t, ensemble_member_dim="member", method="fair", weights=w.where(t.isel(case=0).notnull(), 0)
    )
    assert value(M.CrpsFair(), forecast, truth, clim) == pytest.approx(float(reference), rel=1e-6)


def test_spread_skill_is_one_for_exchangeable_members():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6, LAT.size, LON.size)).astype(np.float32)  # member 0 plays the truth
    assert value(M.SpreadSkill(), x[:, 1:], x[:, 0], None) == pytest.approx(1.0, abs=0.02)
    assert value(M.Spread(), x[:, 1:], x[:, 0], None) == pytest.approx(1.0, abs=0.02)


def test_perfect_forecast_and_climatology_forecast():
    _, truth, clim = fields(1)
    assert value(M.Rmse(), truth, truth, clim) == 0
    assert value(M.Acc(), truth, truth, clim) == pytest.approx(1)
    assert value(M.ActivityRatio(), truth, truth, clim) == pytest.approx(1)
    assert np.isnan(M.Acc().cases(clim, truth, clim, WEIGHTS)).all(), "a forecast without anomaly has no correlation"
    assert value(M.Activity(), clim, truth, clim) == pytest.approx(0, abs=1e-4)


def test_rmse_is_the_root_of_the_mean_over_cases_not_the_mean_of_roots():
    truth = np.zeros((2, LAT.size, LON.size), np.float32)
    forecast = truth + np.array([1.0, 7.0], np.float32)[:, None, None]
    assert value(M.Rmse(), forecast, truth, None) == pytest.approx(5.0)


def test_area_weights_count_a_pole_row_less():
    truth = np.zeros((1, LAT.size, LON.size), np.float32)
    pole, equator = truth.copy(), truth.copy()
    pole[:, 0], equator[:, 2] = 1, 1
    assert value(M.Mae(), pole, truth, None) == pytest.approx(GRID.area_weights()[0] / LAT.size)
    assert value(M.Mae(), equator, truth, None) > 2 * value(M.Mae(), pole, truth, None)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.floats(-50, 50), holes=st.sampled_from([0.0, 0.5]))
def test_properties(seed, offset, holes):
    forecast, truth, clim = fields(seed, n=3, holes=holes)
    shifted = (forecast + np.float32(offset)).astype(np.float32)
    bias = value(M.Bias(), shifted, truth, clim) - value(M.Bias(), forecast, truth, clim)
    assert bias == pytest.approx(offset, abs=1e-3), "bias is linear"
    assert value(M.Acc(), shifted, truth, clim) == pytest.approx(value(M.Acc(), forecast, truth, clim), abs=1e-4)
    m = field_moments(forecast, truth, clim, WEIGHTS)
    assert (m.abs_e >= np.abs(m.e) - 1e-6).all()
    assert (m.ee >= m.abs_e**2 * (1 - 1e-5)).all(), "Jensen: the RMSE is never below the MAE"
    assert (np.abs(M.Acc().of(m)) <= 1).all()


def test_a_forecast_that_is_not_finite_where_truth_is_valid_has_no_score():
    forecast, truth, clim = fields(2, holes=0.3)
    hidden, valid = np.argwhere(np.isnan(truth[0]))[0], np.argwhere(np.isfinite(truth[0]))[0]
    forecast[0][tuple(hidden)] = np.nan
    assert np.isfinite(M.Rmse().cases(forecast, truth, clim, WEIGHTS)).all(), "NaN under the mask is no fault"
    forecast[0][tuple(valid)] = np.inf
    got = M.Rmse().cases(forecast, truth, clim, WEIGHTS)[:, 0]
    assert np.isnan(got[0])
    assert np.isfinite(got[1:]).all()


@pytest.mark.parametrize(("cells", "inits", "leads"), [(10, 7, 5), (3000, 5, 60), (20000, 3, 9)])
def test_tiles_and_threads_change_nothing(cells, inits, leads):
    """The cache-sized tiles of the kernel against one plain float64 expression."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((inits + leads, cells)).astype(np.float32)
    truth[:, ::7] = np.nan
    clim = 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    forecast = rng.standard_normal((inits, leads, cells)).astype(np.float32)
    weights = rng.random(cells) + 0.5
    index = np.arange(inits)[:, None] + np.arange(leads)[None] + 1
    index[0] = index[0, ::-1]  # not only neighbours in rising order
    with worker_pool() as pool:
        got = Reference(truth, clim, weights).moments(forecast, index, pool)
    t, c, f = truth[index].astype(float), clim[index].astype(float), forecast.astype(float)
    w = np.where(np.isfinite(truth[0]), weights, 0)

    def mean(x):
        return np.nansum(x * w, axis=-1) / w.sum()

    expected = {"e": f - t, "ee": (f - t) ** 2, "abs_e": abs(f - t), "a": f - c, "aa": (f - c) ** 2}
    expected |= {"b": t - c, "bb": (t - c) ** 2, "ab": (f - c) * (t - c)}
    for name, field in expected.items():
        np.testing.assert_allclose(getattr(got, name), mean(field), rtol=2e-5, atol=2e-6, err_msg=name)
