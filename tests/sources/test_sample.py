from __future__ import annotations

import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.sources import base
from eoflow.sources.base import AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.sample import SampleSource, _decode, ceiling
from eoflow.times import Period

DAY = np.timedelta64(1, "D")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def entry():
    return catalog.dataset("sample-atmosphere")


@pytest.fixture(scope="session")
def at(cache, entry):
    """The source as it stands at a time."""

    def source(now: str, entry: catalog.DatasetEntry = entry) -> SampleSource:
        return SampleSource(entry, SourceContext(cache, np.datetime64(now)))

    return source


def changed(entry: catalog.DatasetEntry, **source_args) -> catalog.DatasetEntry:
    ref = entry.source.model_copy(update={"args": {**entry.source.args, **source_args}})
    return entry.model_copy(update={"source": ref})


def test_the_registry_makes_it(cache, entry):
    source = base.create(entry, SourceContext(cache, np.datetime64("2020-02-01")))
    assert isinstance(source, SampleSource)
    assert isinstance(source, base.Source)


def test_plan_is_one_asset_a_day_from_the_schedule(at, entry):
    source = at("2020-01-05T20")
    assets = source.plan(None)
    assert [a.id for a in assets] == ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04", "2020-01-05"]
    assert [a.times.size for a in assets] == [4, 4, 4, 4, 2]  # published 12 h late
    times = np.concatenate([a.times for a in assets])
    np.testing.assert_array_equal(times, entry.schedule.expected(None, np.datetime64("2020-01-05T20")))
    part = source.plan(Period.parse("2020-01-02T06/2020-01-03T06"))
    assert [a.times.size for a in part] == [3, 2]
    assert source.plan(Period.parse("2019-01-01/2019-12-31")) == []


def test_a_day_is_canonical_lazy_and_the_planets(at, entry):
    source = at("2020-02-01")
    asset = source.plan(Period.parse("2020-01-09"))[0]
    ds = source.open(asset)
    assert ds["z"].chunks is not None  # nothing is read yet
    assert ds["z"].dims == ("time", "level", "latitude", "longitude")
    assert ds["z"].dtype == np.float32
    assert ds["orog"].dims == ("latitude", "longitude")
    assert list(ds["level"].values) == [200, 500, 800]
    assert ds["latitude"].values[0] == 87.1875
    assert ds["latitude"].values[-1] == -87.1875
    np.testing.assert_allclose(ds["longitude"], 5.625 * np.arange(64))
    np.testing.assert_array_equal(ds["time"], asset.times)
    assert ds["u"].attrs["standard_name"] == "eastward_wind"
    schema = FieldSchema.of(ds, "6h")
    assert [c.label for c in schema.channels][:4] == ["z200", "z500", "z800", "u200"]
    assert schema.grid.is_global
    want = source._history().fields(asset.times)
    for name in "zuv":
        np.testing.assert_array_equal(ds[name], want[name])
        low, high = entry.variables[name].valid_range
        assert low < ds[name].min()
        assert ds[name].max() < high


def test_training_and_running_dataset_have_one_schema(cache, at):
    train = catalog.dataset("sample-atmosphere-train")
    other = SampleSource(train, SourceContext(cache, np.datetime64("2026-01-01")))
    whole = other.plan(None)
    assert (whole[0].id, whole[-1].id, len(whole)) == ("2000-01-01", "2010-12-31", 4018)
    mine = other.open(whole[3]).load()
    running = at("2020-02-01")
    ours = running.open(running.plan(None)[3]).load()
    assert FieldSchema.of(mine, "6h").hash == FieldSchema.of(ours, "6h").hash
    np.testing.assert_array_equal(mine["orog"], ours["orog"])
    assert np.abs(mine["z"].values - ours["z"].values).max() > 500


def test_days_join_without_a_jump(at):
    source = at("2020-02-01")
    days = [source.open(a) for a in source.plan(Period.parse("2020-01-28/2020-02-02T00"))]  # segments meet here
    ds = xr.concat(days, "time", data_vars="minimal").load()
    step = np.abs(ds["z"].diff("time")).mean(["level", "latitude", "longitude"])
    assert step.max() < 1.5 * step.mean()
    assert step.min() > 0.5 * step.mean()


def test_late_day_is_listed_once_it_is_published(at):
    period = Period.parse("2020-02-11/2020-02-13")
    before, after = at("2020-02-14T20"), at("2020-02-15")
    assert [a.id for a in before.plan(period)] == ["2020-02-11", "2020-02-13"]
    late = after.plan(period)[1]
    assert late.id == "2020-02-12"
    with pytest.raises(AssetMissing, match="not published yet"):
        before.open(late)
    assert after.open(late).sizes["time"] == 4


def test_gap_is_seen_on_opening_and_filled_later(at):
    period = Period.parse("2020-02-03/2020-02-04")
    source, later = at("2020-02-20"), at("2020-03-10")
    assets = source.plan(period)
    assert [a.times.size for a in assets] == [4, 4]  # the provider lists the days
    seen = np.concatenate([source.open(a)["time"].values for a in assets])
    hours = (seen - np.datetime64("2020-02-03")) / np.timedelta64(1, "h")
    assert list(hours) == [0, 30, 36, 42]
    full = xr.concat([later.open(a) for a in later.plan(period)], "time", data_vars="minimal")
    assert full.sizes["time"] == 8
    np.testing.assert_array_equal(full["z"].sel(time=seen[1]), source.open(assets[1])["z"].isel(time=0))


def test_gap_of_a_whole_day_is_missing(at, entry):
    fault = {"kind": "gap", "at": "2020-01-02", "until": None}
    source = at("2030-01-01", changed(entry, faults=[fault]))
    with pytest.raises(AssetMissing, match="no data of this day") as e:
        source.open(source.plan(Period.parse("2020-01-02"))[0])
    assert "2020-01-02" in str(e.value)


def test_corrupt_day_fails_on_reading_until_it_is_repaired(at):
    period = Period.parse("2020-01-20")
    source = at("2020-03-09")
    ds = source.open(source.plan(period)[0])
    with pytest.raises(AssetCorrupt, match="truncated") as e:
        ds["z"].load()
    assert e.value.exit_code == 1
    assert "sample-atmosphere 2020-01-20" in str(e.value)
    repaired = at("2020-03-10")
    assert np.isfinite(repaired.open(repaired.plan(period)[0])["z"]).all()


@settings(max_examples=30, deadline=None)
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 300))
def test_no_damage_passes_the_checksum(where, bit, cut):
    import zlib

    body = np.linspace(0, 1, 60, dtype="<f4").tobytes()
    payload = zlib.crc32(body).to_bytes(4, "little") + body
    np.testing.assert_array_equal(_decode(payload, (3, 4, 5), "here").ravel(), np.linspace(0, 1, 60, dtype="f4"))
    flipped = bytearray(payload)
    flipped[where % len(payload)] ^= 1 << bit
    with pytest.raises(AssetCorrupt):
        _decode(bytes(flipped), (3, 4, 5), "here")
    if cut < len(payload):
        with pytest.raises(AssetCorrupt):
            _decode(payload[:cut], (3, 4, 5), "here")


def test_a_lazy_day_travels_to_workers(at):
    source = at("2020-02-01")
    ds = source.open(source.plan(None)[0])
    there = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(there["v"], ds["v"])


@pytest.mark.parametrize(
    ("area", "lon", "lat"),
    [
        ((-20.0, 30.0, 12.0, 50.0), (-16.875, 11.25), (47.8125, 30.9375)),
        ((170.0, -30.0, 200.0, 0.0), (174.375, 196.875), (-2.8125, -25.3125)),
        ((170.0, -30.0, -160.0, 0.0), (174.375, 196.875), (-2.8125, -25.3125)),
        ((0.0, -90.0, 360.0, 0.0), (0.0, 354.375), (-2.8125, -87.1875)),
    ],
)
def test_area_takes_the_cells_inside(at, area, lon, lat):
    source = at("2020-02-01")
    whole = source.open(source.plan(None)[0])
    part = source.open(source.plan(None, area)[0])
    assert (part.longitude.values[0], part.longitude.values[-1]) == lon
    assert (part.latitude.values[0], part.latitude.values[-1]) == lat
    assert np.all(np.diff(part.longitude) > 0)
    same = whole["z"].sel(latitude=part.latitude, longitude=part.longitude.values % 360)
    np.testing.assert_array_equal(part["z"], same)
    with pytest.raises(BadInput, match="no grid cell"):
        source.open(source.plan(None, (1.0, 1.0, 2.0, 2.0))[0])


def test_entry_chooses_variables_levels_and_names(cache, entry):
    wanted = {
        "wind": catalog.VariableEntry(source_name="u", levels=(500.0,), long_name="Wind"),
        "z": catalog.VariableEntry(levels=(500.0,)),
    }
    source = SampleSource(
        entry.model_copy(update={"variables": wanted}), SourceContext(cache, np.datetime64("2020-02-01"))
    )
    ds = source.open(source.plan(None)[0])
    assert list(ds.data_vars) == ["wind", "z"]
    assert list(ds["level"].values) == [500]
    assert ds["wind"].attrs == {"units": "m s-1", "standard_name": "eastward_wind", "long_name": "Wind"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": {"zz": catalog.VariableEntry()}}, "no variable 'zz'"),
        ({"variables": {"z": catalog.VariableEntry(units="m")}}, "gives z in m2 s-2"),
        ({"variables": {"z": catalog.VariableEntry(levels=(850.0,))}}, "levels 200, 500 and 800"),
        ({"schedule": catalog.Schedule(start="2020-01-01", cadence="3h")}, "state every 6 h"),
    ],
)
def test_impossible_entries_are_refused(cache, entry, change, message):
    with pytest.raises(BadInput, match=message) as e:
        SampleSource(entry.model_copy(update=change), SourceContext(cache, np.datetime64("2020-02-01")))
    assert "sample-atmosphere" in str(e.value)


def test_wrong_driver_arguments_name_the_right_one(cache, entry):
    for wrong, message in (
        ({"sed": 3}, "did you mean 'seed'"),
        ({"faults": [{"kind": "later", "at": "2020"}]}, "kind"),
    ):
        with pytest.raises(BadInput, match=message):
            SampleSource(changed(entry, **wrong), SourceContext(cache, np.datetime64("2020-02-01")))


def test_ceiling_is_a_forecast_close_to_the_truth(cache, at, entry):
    inits = np.array(["2020-01-10", "2020-01-12T06"], "datetime64[ns]")
    leads = np.array([6, 48, 120], "timedelta64[h]")
    context = SourceContext(cache, np.datetime64("2020-02-01"))
    ds = ceiling(entry, context, inits, leads)
    assert ds["z"].dims == ("init_time", "lead_time", "level", "latitude", "longitude")
    assert ds["z"].dtype == np.float32
    np.testing.assert_array_equal(ds["valid_time"], inits[:, None] + leads[None, :])
    assert set(ds.data_vars) == {"z", "u", "v"}
    truth = at("2020-02-01")._history().fields(ds["valid_time"].values.ravel())["z"].reshape(2, 3, 3, 32, 64)
    start = at("2020-02-01")._history().fields(inits)["z"]
    error = np.sqrt(((ds["z"].values - truth) ** 2).mean((0, 2, 3, 4)))
    persistence = np.sqrt(((start[:, None] - truth) ** 2).mean((0, 2, 3, 4)))
    assert np.all(error < 0.1 * persistence)
    assert np.all(error > 1)
    again = at("2020-02-01").ceiling(inits[1:], leads[::-1])
    np.testing.assert_allclose(again["z"].values[0, ::-1], ds["z"].values[1], atol=1)


def test_ceiling_refuses_what_the_planet_cannot(cache, entry):
    context = SourceContext(cache, np.datetime64("2020-02-01"))
    day = np.timedelta64(24, "h")
    with pytest.raises(BadInput, match="no state at 2019-12-31"):
        ceiling(entry, context, [np.datetime64("2019-12-31")], [day])
    with pytest.raises(BadInput, match="multiples of 6 h"):
        ceiling(entry, context, [np.datetime64("2020-01-02")], [np.timedelta64(3, "h")])
    other = entry.model_copy(update={"source": catalog.SourceRef(driver="zarr")})
    with pytest.raises(BadInput, match="sample datasets only"):
        ceiling(other, context, [np.datetime64("2020-01-02")], [day])
