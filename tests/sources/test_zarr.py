"""Zarr stores of the layouts that providers publish, on disk, over loopback HTTP and over S3."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.sources import remote
from eoflow.sources.base import AssetCorrupt, AssetMissing, AssetTransient, create
from eoflow.sources.infer import infer_entry
from eoflow.times import Period
from eoflow.workspace import s3_options

LEVELS = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]


def weatherbench(hours=48, step=6):
    """A small store as WeatherBench 2 publishes ERA5: long names, longitude leads, south first, bare levels."""
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-87.1875, 87.1875, 32), np.arange(64) * 5.625
    n = hours // step
    on_levels = ("time", "level", "longitude", "latitude")
    surface = ("time", "longitude", "latitude")
    ds = xr.Dataset(
        coords={
            "time": (
                "time",
                np.arange(0, hours, step),
                {"units": "hours since 1959-01-01", "calendar": "proleptic_gregorian"},
            ),
            "level": ("level", np.array(LEVELS)),
            "latitude": ("latitude", lat),
            "longitude": ("longitude", lon),
        }
    )
    for name, units in (
        ("geopotential", "m**2 s**-2"),
        ("temperature", "K"),
        ("u_component_of_wind", "m s**-1"),
        ("v_component_of_wind", "m s**-1"),
        ("specific_humidity", "kg kg**-1"),
    ):
        ds[name] = (on_levels, rng.normal(size=(n, 13, 64, 32)).astype("f4"), {"units": units})
    for name, units in (
        ("mean_sea_level_pressure", "Pa"),
        ("2m_temperature", "K"),
        ("10m_u_component_of_wind", "m s**-1"),
        ("10m_v_component_of_wind", "m s**-1"),
        ("total_precipitation_6hr", "m"),
    ):
        ds[name] = (surface, rng.normal(size=(n, 64, 32)).astype("f4"), {"units": units})
    ds["geopotential_at_surface"] = (surface[1:], rng.normal(size=(64, 32)).astype("f4"), {"units": "m**2 s**-2"})
    ds["land_sea_mask"] = (surface[1:], rng.random((64, 32)).astype("f4"), {"units": "(0 - 1)"})
    return ds


def with_url(name, url, **schedule):
    entry = catalog.dataset(name)
    args = {**entry.source.args, "url": url}
    return entry.model_copy(
        update={
            "source": entry.source.model_copy(update={"args": args}),
            "schedule": entry.schedule.model_copy(update=schedule),
        }
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("place", ["disk", "http"])
def test_the_weatherbench_entry_reads_its_layout(tmp_path, context, server, version, place):
    raw = weatherbench()
    store = server.root / "era5.zarr"
    encoding = {v: {"chunks": (4, *raw[v].shape[1:])} for v in raw if "time" in raw[v].dims}
    raw.to_zarr(store, zarr_format=version, consolidated=True, encoding=encoding)
    entry = with_url("era5-wb2-64x32", str(store) if place == "disk" else f"{server.url}/era5.zarr")
    source = create(entry, context)
    (asset,) = source.plan(Period.parse("1959-01-01/1959-01-01"))
    assert asset.times.size == 4
    ds = source.open(asset)
    assert list(ds) == list(entry.variables)
    assert ds.z.dims == ("time", "level", "latitude", "longitude")
    assert ds.latitude[0] > ds.latitude[-1]
    take = [LEVELS.index(v) for v in (50, 250, 500, 600, 700, 850, 925)]
    want = raw.geopotential.values[:4, take].transpose(0, 1, 3, 2)[:, :, ::-1]
    np.testing.assert_array_equal(ds.z, want)
    np.testing.assert_array_equal(ds.t2m, raw["2m_temperature"].values[:4].transpose(0, 2, 1)[:, ::-1])
    np.testing.assert_allclose(ds.orog, raw.geopotential_at_surface.values.T[::-1] / 9.80665, rtol=1e-6)
    schema = FieldSchema.of(ds, "6h")
    assert schema.grid.is_global
    assert [v.name for v in schema.static] == ["orog", "lsm"]


def test_bare_levels_are_refused_with_the_line_to_write(tmp_path, context):
    weatherbench().to_zarr(tmp_path / "era5.zarr", zarr_format=2)
    with pytest.raises(BadInput, match=r"'level' .* have no units") as e:
        infer_entry("x", tmp_path / "era5.zarr", cache=context.cache)
    assert "source: {args: {level_units: hPa}}" in e.value.text()
    entry = infer_entry(
        "x", tmp_path / "era5.zarr", cache=context.cache, overrides={"source": {"args": {"level_units": "hPa"}}}
    )
    assert entry.source.driver == "zarr"
    assert set(entry.variables) == {"z", "t", "u", "v", "q", "msl", "t2m", "u10", "v10", "tp6h", "orog", "lsm"}
    assert entry.variables["orog"].static
    assert (entry.schedule.cadence, entry.schedule.end) == ("6h", "1959-01-02T18:00")


def test_infer_from_an_address(server, context):
    weatherbench().to_zarr(server.root / "era5.zarr", zarr_format=2, consolidated=True)
    entry = infer_entry(
        "x", f"{server.url}/era5.zarr", cache=context.cache, overrides={"source": {"args": {"level_units": "hPa"}}}
    )
    assert entry.source.args["url"] == f"{server.url}/era5.zarr"


def arco(path):
    """A small store as ARCO-ERA5: hourly, chunk of one time, allocated (NaN) before and after what `valid_time_*` say.

    Returns (the dataset from `valid_time_start` on, that time).
    """
    raw = weatherbench(hours=96, step=1).transpose("time", "level", "latitude", "longitude")
    raw = raw.isel(latitude=slice(None, None, -1))
    hours = np.arange(96) + 24 * 365 * 40
    raw["time"] = ("time", hours, {"units": "hours since 1900-01-01", "calendar": "proleptic_gregorian"})
    fixed = np.repeat(raw.geopotential_at_surface.values[None], 96, axis=0)
    raw["geopotential_at_surface"] = (("time", "latitude", "longitude"), fixed, {"units": "m**2 s**-2"})
    for v in raw:
        if "time" in raw[v].dims:
            raw[v][:24] = np.nan
        raw[v].encoding = {}
    first = np.datetime64("1900-01-01") + np.timedelta64(24 * 365 * 40 + 24, "h")
    day = first.astype("M8[D]")
    stops = {"valid_time_stop": str(day + 1), "valid_time_stop_era5t": str(day + 2)}
    raw.attrs = {"valid_time_start": str(day), **stops}
    encoding = {v: {"chunks": (1, *raw[v].shape[1:])} for v in raw if "time" in raw[v].dims}
    raw.to_zarr(path, zarr_format=2, consolidated=True, encoding=encoding)
    return raw.isel(time=slice(24, None)), first


def test_the_arco_entry_stops_where_the_store_says_and_takes_every_sixth_hour(server, context):
    raw, first = arco(server.root / "ar.zarr")
    start = str(first.astype("M8[D]"))
    entry = with_url("arco-era5", f"{server.url}/ar.zarr", start=start)
    source = create(entry, context)
    times = np.concatenate([a.times for a in source.plan(None)])
    np.testing.assert_array_equal(times, first + np.arange(0, 48, 6) * np.timedelta64(1, "h"))
    ds = source.open(source.plan(None)[0])
    np.testing.assert_array_equal(ds.msl[1], raw.mean_sea_level_pressure[6])
    np.testing.assert_array_equal(ds.level, [500, 850])
    want = (raw.geopotential_at_surface[0].values.astype("f8") / 9.80665).astype("f4")
    np.testing.assert_allclose(ds.orog, want, rtol=1e-6)  # not the NaN of the hours before the first one
    args = {**entry.source.args, "preliminary": True}
    early = create(entry.model_copy(update={"source": entry.source.model_copy(update={"args": args})}), context)
    assert sum(a.times.size for a in early.plan(None)) == 12
    assert early.plan(None)[0].id == source.plan(None)[0].id


def test_only_the_needed_chunks_are_fetched(server, context):
    _, first = arco(server.root / "ar.zarr")
    entry = with_url("arco-era5", f"{server.url}/ar.zarr", start=str(first.astype("M8[D]")))
    source = create(entry, context)
    (asset,) = source.plan(Period(first, first + np.timedelta64(6, "h")))

    def never(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=never):
        ds = source.open(asset)
    server.log.clear()
    ds.t2m.load()
    fetched = [p for p, _ in server.log if "2m_temperature" in p]
    assert sorted(p.rsplit("/", 1)[-1] for p in fetched) == ["24.0.0", "30.0.0"]


def test_blocks_are_whole_chunks_with_ids_that_do_not_move(tmp_path, context):
    raw = weatherbench(hours=24 * 10)
    raw.to_zarr(
        tmp_path / "s.zarr",
        zarr_format=3,
        encoding={v: {"chunks": (4, *raw[v].shape[1:])} for v in raw if "time" in raw[v].dims},
    )
    entry = with_url("era5-wb2-64x32", str(tmp_path / "s.zarr"))
    args = {**entry.source.args, "block_mb": 3}
    entry = entry.model_copy(update={"source": entry.source.model_copy(update={"args": args})})
    assets = create(entry, context).plan(None)
    assert len(assets) > 2
    assert all(a.times.size % 4 == 0 for a in assets)
    later = create(entry, context).plan(Period.parse("1959-01-06/1959-01-10"))
    assert {a.id for a in later} <= {a.id for a in assets}


def test_missing_broken_and_unreachable_stores(tmp_path, context, server, monkeypatch):
    def plan(url):
        return create(with_url("era5-wb2-64x32", url), context).plan(None)

    with pytest.raises(AssetMissing, match="no such folder"):
        plan(str(tmp_path / "none.zarr"))
    (tmp_path / "plain").mkdir()
    with pytest.raises(BadInput, match="not a Zarr store"):
        plan(str(tmp_path / "plain"))
    with pytest.raises(AssetMissing):
        plan(f"{server.url}/none.zarr")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr" / "zarr.json").write_text("{")
    with pytest.raises(AssetCorrupt, match=r"bad\.zarr"):
        plan(str(tmp_path / "bad.zarr"))
    monkeypatch.setattr(remote, "settings", lambda: type("S", (), {"retries": 0})())
    with pytest.raises(AssetTransient):
        plan("http://127.0.0.1:9/x.zarr")


def test_a_server_error_while_reading_a_chunk_is_transient_and_not_nan(server, context):
    weatherbench().to_zarr(server.root / "era5.zarr", zarr_format=2, consolidated=True)
    source = create(with_url("era5-wb2-64x32", f"{server.url}/era5.zarr"), context)
    ds = source.open(source.plan(None)[0])
    server.faults["/era5.zarr/2m_temperature/0.0.0"] = [503] * 20
    with pytest.raises(AssetTransient, match="2m_temperature"):
        ds.t2m.load()


def test_s3(tmp_path, context, bucket):
    s3fs = pytest.importorskip("s3fs")
    raw = weatherbench()
    raw.to_zarr(tmp_path / "a.zarr", zarr_format=3)
    url = bucket.url("a.zarr")
    s3fs.S3FileSystem(**s3_options()).put(str(tmp_path / "a.zarr"), url, recursive=True)
    source = create(with_url("era5-wb2-64x32", url), context)
    ds = source.open(source.plan(None)[0])
    np.testing.assert_array_equal(ds.msl, raw.mean_sea_level_pressure.values.transpose(0, 2, 1)[:, ::-1])
