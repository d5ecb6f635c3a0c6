from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from eoflow.errors import BadInput
from eoflow.schema import Channel
from eoflow.verify import stream
from eoflow.verify.align import grid_of
from eoflow.verify.metrics import Bias, Metric, Rmse, area_mean
from eoflow.verify.scorecard import Scorecard, score

AREA = ("latitude", "longitude")


def plain(cube, truth, clim, label):
    """RMSE, bias, ACC, activity by lead in plain float64 xarray."""
    name, level = (label[0], float(label[1:])) if label.startswith("z") else (label, None)
    f, t, c = cube[name].astype(float), truth[name].astype(float), clim[name].astype(float)
    if level is not None:
        f, t, c = f.sel(level=level), t.sel(level=level), c.sel(level=level)
    valid = cube.init_time + cube.lead_time
    t = t.sel(time=valid).drop_vars("time")
    w = xr.DataArray(grid_of(truth).area_weights(), coords={"latitude": truth.latitude})

    def mean(x):
        return x.weighted(w).mean(AREA)

    a, b = f - c, t - c
    a, b = a - mean(a), b - mean(b)
    return {
        "rmse": np.sqrt(mean((f - t) ** 2).mean("init_time")).values,
        "bias": mean(f - t).mean("init_time").values,
        "mae": mean(abs(f - t)).mean("init_time").values,
        "acc": (mean(a * b) / np.sqrt(mean(a**2) * mean(b**2))).mean("init_time").values,
        "activity": np.sqrt(mean(a**2)).mean("init_time").values,
    }


def values(card, model, label, metric):
    return np.array([r.value for r in card.series(model, label, metric)])


@pytest.mark.parametrize("label", ["z500", "z850", "msl"])
def test_scores_equal_plain_xarray(card, cubes, truth, worlds, label):
    expected = plain(cubes["good"], truth, worlds.means(truth), label)
    for metric, reference in expected.items():
        scale = 1e-3 * truth.msl.std().item() if metric == "bias" else 0
        np.testing.assert_allclose(
            values(card, "good", label, metric), reference, rtol=2e-4, atol=scale, err_msg=metric
        )


def test_rows_have_the_keys_of_the_contract(card):
    rows = card.row_dicts()
    keys = ["dataset", "model", "variable", "lead_hours", "metric", "value", "low", "high", "n"]
    assert list(rows[0]) == keys
    assert {r["metric"] for r in rows} == {"rmse", "bias", "mae", "acc", "activity", "activity_ratio"}
    assert card.leads == [12, 24, 48]
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows)
    assert not any(r["metric"] == "acc" and r["model"] == "climatology" for r in rows)
    assert card.header["climatology"] == "mean of the truth"
    assert "cell area" in card.header["weights"]
    assert card.header["units"] == {"z500": "m2 s-2", "z850": "m2 s-2", "msl": "Pa"}


def test_json_round_trip(card):
    again = Scorecard.from_json(card.to_json())
    assert again.rows == card.rows
    assert again.comparisons == card.comparisons
    assert again.header == json.loads(json.dumps(card.header))
    for text in ("{}", "[]", "no", '{"format": "other"}'):
        with pytest.raises(BadInput, match=r"scores\.json"):
            Scorecard.from_json(text)


def test_lazy_blocked_and_dask_reading_give_the_same(cubes, truth, worlds, monkeypatch):
    """Blocks of one field, levels one by one, window rolling; dask arrays: nothing may depend on them."""
    clim = worlds.means(truth)
    cubes = {k: cubes[k].isel(init_time=slice(0, 12)) for k in ("good", "persistence")}
    card = score(cubes, truth, clim, dataset="toy")
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 1)
    monkeypatch.setattr("eoflow.verify.scorecard.split", lambda a, g, *_: stream.split(a, g, 1, True))
    lazy = {k: v.chunk(init_time=5, lead_time=2) for k, v in cubes.items()}
    small = score(lazy, truth.chunk(time=7), clim, dataset="toy")
    assert len(small.rows) == len(card.rows)
    table = {(r.model, r.variable, r.lead_hours, r.metric): r for r in small.rows}
    for r in card.rows:
        other = table[r.model, r.variable, r.lead_hours, r.metric]
        assert (other.value, other.low, other.high) == pytest.approx((r.value, r.low, r.high), rel=1e-5, abs=1e-3)


def test_every_truth_field_and_forecast_block_is_read_once(cubes, truth, monkeypatch):
    read: list[int] = []
    original = stream._Window._read
    monkeypatch.setattr(
        stream._Window, "_read", lambda self, out, a, b: (read.extend(range(a, b)), original(self, out, a, b))
    )
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 4 * 84 * 3 * 5)  # five initial times of three leads
    score({"good": cubes["good"][["msl"]]}, truth, None, dataset="toy")
    assert len(read) == len(set(read))
    assert len(read) > 50


def test_same_seed_same_intervals_other_seed_other_intervals(cubes, truth):
    one, two, three = (score(cubes, truth, None, dataset="t", variables=["msl"], seed=s) for s in (1, 1, 2))
    assert one.rows == two.rows
    assert [r.value for r in one.rows] == [r.value for r in three.rows]
    assert [r.low for r in one.rows] != [r.low for r in three.rows]


def test_truth_that_has_not_arrived_is_waited_for_lead_by_lead(cubes, truth):
    late = truth.copy(deep=True)
    late["msl"][-6:] = np.nan  # on the axis, not arrived
    late = late.isel(time=slice(0, -2))  # not even on the axis
    card = score(cubes, late, None, dataset="t", variables=["msl"])
    n = [r.n for r in card.series("good", "msl", "rmse")]
    full = cubes["good"].sizes["init_time"]
    assert n == sorted(n, reverse=True)
    assert n[-1] < n[0] <= full
    assert any("wait for truth" in x for x in card.header["notes"])


def test_half_arrived_field_is_no_truth_but_a_fixed_mask_is(cubes, truth):
    sea = truth[["msl"]].copy(deep=True)
    sea["msl"][:, :, :4] = np.nan
    masked = score({"good": cubes["good"]}, sea, None, dataset="t", metrics=[Rmse()])
    full = cubes["good"].sizes["init_time"]
    assert {r.n for r in masked.rows} == {full}
    sea["msl"][10, 2] = np.nan
    partly = score({"good": cubes["good"]}, sea, None, dataset="t", metrics=[Rmse()])
    assert min(r.n for r in partly.rows) == full - 1


def test_models_are_compared_on_the_same_cases(cubes, truth):
    few = cubes["persistence"].isel(init_time=slice(3, 20))
    broken = cubes["good"].copy(deep=True)
    broken["msl"][10, 1] = np.nan  # blew up: the second lead of one forecast
    card = score({"good": broken, "persistence": few}, truth, None, dataset="t", variables=["msl"])
    for lead, n in ((12, 17), (24, 16), (48, 17)):
        assert {card.get(m, "msl", lead, "rmse").n for m in ("good", "persistence")} == {n}
    notes = " ".join(card.header["notes"])
    assert "17 of its 28" in notes or "common to all models" in notes
    assert "good: 1 forecasts of msl" in notes


def test_a_model_with_fewer_leads_or_variables_does_not_shrink_the_others(cubes, truth):
    short = cubes["persistence"][["msl"]].isel(lead_time=[0])
    card = score({"good": cubes["good"], "persistence": short}, truth, None, dataset="t", metrics=[Rmse()])
    assert [r.lead_hours for r in card.series("persistence", "msl", "rmse")] == [12]
    assert [r.lead_hours for r in card.series("good", "msl", "rmse")] == [12, 24, 48]
    assert card.series("persistence", "z500", "rmse") == []
    assert card.series("good", "z500", "rmse")


def test_ensemble_scores_the_mean_and_the_members(worlds, truth):
    ens = worlds.cube(truth, "good", members=4)
    card = score({"ens": ens}, truth, None, dataset="t", variables=["msl"])
    mean = score({"ens": ens.mean("member", keep_attrs=True)}, truth, None, dataset="t", variables=["msl"])
    np.testing.assert_allclose(values(card, "ens", "msl", "rmse"), values(mean, "ens", "msl", "rmse"), rtol=1e-5)
    assert set(card.metrics) >= {"rmse", "crps", "spread", "ssr"}
    assert "crps" not in mean.metrics
    valid = ens.init_time + ens.lead_time
    error = abs(ens.msl - truth.msl.sel(time=valid).drop_vars("time")).mean("member")
    pair = abs(ens.msl - ens.msl.rename(member="other")).sum(("member", "other")) / (2 * 4 * 3)
    w = xr.DataArray(grid_of(truth).area_weights(), coords={"latitude": truth.latitude})
    expected = (error - pair).weighted(w).mean(AREA).mean("init_time")
    np.testing.assert_allclose(values(card, "ens", "msl", "crps"), expected, rtol=1e-5)


def test_a_plug_in_metric_is_scored_like_a_built_in_one(cubes, truth):
    class MeanError(Metric):
        name = "mean_error"

        def cases(self, forecast, truth, climatology, weights):
            return area_mean(forecast.astype(float) - truth, weights)[:, None]

    card = score({"good": cubes["good"]}, truth, None, dataset="t", metrics=[Bias(), MeanError()])
    for label in card.variables:
        np.testing.assert_allclose(
            values(card, "good", label, "mean_error"), values(card, "good", label, "bias"), rtol=1e-3, atol=2e-3
        )


def test_climatology_may_be_a_function_or_a_season(cubes, truth, worlds):
    clim = worlds.means(truth)

    def function(times, channel: Channel):
        da = clim[channel.name]
        field = da.sel(level=channel.level) if channel.level is not None else da
        return np.broadcast_to(field.values, (len(times), *field.shape))

    season = clim.expand_dims(dayofyear=np.arange(1, 366), hour=[0, 12])
    monthly = clim.expand_dims(month=np.arange(1, 13))
    timed = clim.expand_dims(time=truth.time.values)
    cards = [score(cubes, truth, c, dataset="t", variables=["z500"]) for c in (clim, function, season, monthly, timed)]
    for card in cards[1:]:
        np.testing.assert_allclose(
            values(card, "good", "z500", "acc"), values(cards[0], "good", "z500", "acc"), rtol=1e-6
        )


def test_climatology_picks_the_day_and_hour_of_the_valid_time():
    from eoflow.verify.climatology import lookup

    days, hours = np.arange(1, 367), [0, 6, 12, 18]
    table = xr.DataArray(days[:, None] * 100.0 + hours, dims=("dayofyear", "hour"))
    grid = {"latitude": [10.0, 0.0], "longitude": [0.0, 10.0, 20.0]}
    ds = xr.Dataset({"t2m": table.expand_dims({k: len(v) for k, v in grid.items()}, axis=(2, 3))})
    ds = ds.assign_coords(dayofyear=days, hour=hours, **grid)
    times = np.array(["2001-12-31T18", "2004-12-31T06", "2001-01-01T00", "2001-03-01T12"], "datetime64[ns]")
    got = lookup(ds, grid_of(ds))(times, Channel("t2m"))
    assert got.shape == (4, 2, 3)
    assert got[:, 0, 0].tolist() == [36518.0, 36606.0, 100.0, 6012.0]


def test_period_and_training_years_are_kept_apart(cubes, truth):
    card = score(cubes, truth, None, dataset="t", period="2001-01-10/2001-02-10", exclude=["2001-01-01/2001-01-20"])
    assert card.header["period"] == "2001-01-10/2001-02-10"
    assert card.header["excluded"] == ["2001-01-01/2001-01-20T23:59:59"]
    assert {r.n for r in card.rows} == {21}  # initial times of 21 January to 10 February
    with pytest.raises(BadInput, match="excluded"):
        score(cubes, truth, None, dataset="t", exclude=["2001-01-01/2001-03-30"])


def test_without_climatology_anomaly_scores_are_left_out_and_it_is_said(cubes, truth):
    card = score(cubes, truth, None, dataset="t")
    assert "acc" not in card.metrics
    assert any("no climatology" in n for n in card.header["notes"])
