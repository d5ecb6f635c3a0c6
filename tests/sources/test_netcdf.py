"""NetCDF on real files, against xarray's own reading."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr

from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt, AssetMissing, create
from eoflow.sources.infer import infer_entry
from eoflow.sources.netcdf import open_raw
from eoflow.times import Period

pytestmark = pytest.mark.filterwarnings("ignore:Cannot close a netcdf_file opened with mmap")

IBERIA, NATLANTIC = "reanalysis/ncep1_iberia_daily_1961_2001.nc", "reanalysis/ncep1_natlantic_slp_daily_2001_2007.nc"
OLD, ERSST = "reanalysis/raw_as_found/NCEP_Z500_1958_2001.nc", "reanalysis/ersstv5_sst_monthly_2010_2020.nc"


def read(path, context, **kwargs):
    entry = infer_entry("x", path, cache=context.cache, **kwargs)
    source = create(entry, context)
    (asset,) = source.plan(None)
    return entry, source.open(asset)


def own(path):
    engine = "scipy" if path.read_bytes()[:3] == b"CDF" else "h5netcdf"
    return xr.open_dataset(path, engine=engine).load().sortby("lat", ascending=False)


@pytest.mark.realdata
def test_iberia_equals_xarray(realdata, context):
    entry, ds = read(realdata / IBERIA, context)
    assert list(ds) == ["z", "t", "q", "msl", "t2m", "tp"]
    assert (entry.schedule.start, entry.schedule.end, entry.schedule.cadence) == ("1961-01-01", "2001-12-31", "1d")
    assert entry.checks.max_nan_fraction == 0
    with own(realdata / IBERIA) as raw:
        np.testing.assert_array_equal(ds.time, raw.time)
        for name, prefix in (("z", "Z"), ("t", "T"), ("q", "Q")):
            for i, level in enumerate((500, 850, 1000)):
                np.testing.assert_array_equal(ds[name][:, i], raw[f"{prefix}{level}"])
        for name, other in (("msl", "SLP"), ("t2m", "T2M"), ("tp", "TP")):
            np.testing.assert_array_equal(ds[name], raw[other])


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "name", "other"), [(NATLANTIC, "msl", "slp"), (OLD, "z", "Z")])
def test_other_reanalysis_files_equal_xarray(realdata, context, file, name, other):
    _, ds = read(realdata / file, context)
    with own(realdata / file) as raw:
        np.testing.assert_array_equal(ds[name].squeeze(), raw[other].squeeze())
        np.testing.assert_array_equal(ds.time, raw.time)
        np.testing.assert_array_equal(ds.latitude, raw.lat)


@pytest.mark.realdata
def test_ersst_is_monthly_in_kelvin_with_its_land_mask(realdata, context):
    entry, ds = read(realdata / ERSST, context)
    assert entry.schedule.cadence == "1mo"
    assert entry.checks.static_nan_mask
    with own(realdata / ERSST) as raw:
        np.testing.assert_array_equal(ds.sst, (raw.sst.values.astype("f8") + 273.15).astype("f4"))
        fraction = float(np.isnan(raw.sst).mean())
    assert fraction <= entry.checks.max_nan_fraction < fraction + 0.01
    assert (
        entry.variables["sst"].valid_range[0]
        < float(ds.sst.min())
        < float(ds.sst.max())
        < entry.variables["sst"].valid_range[1]
    )


@pytest.mark.realdata
def test_flipped_and_0_360_versions_of_a_real_file_are_identical(realdata, context, tmp_path):
    with xr.open_dataset(realdata / NATLANTIC, engine="h5netcdf", decode_times=False) as raw:
        part = raw.isel(time=slice(0, 40)).load()
    flipped = part.isel(lat=slice(None, None, -1))
    east = part.assign_coords(lon=part.lon.copy(data=np.mod(part.lon, 360)))
    found = []
    for i, version in enumerate((part, flipped, east, east.sortby("lon"))):
        version.to_netcdf(tmp_path / f"{i}.nc", engine="h5netcdf" if i % 2 else "scipy")
        found.append(read(tmp_path / f"{i}.nc", context)[1].load())
    for other in found[1:]:
        xr.testing.assert_identical(other, found[0])


@pytest.mark.realdata
def test_plan_respects_the_period_and_open_reads_nothing(realdata, context):
    entry = infer_entry("x", realdata / NATLANTIC, cache=context.cache)
    source = create(entry, context)
    (asset,) = source.plan(Period.parse("2003"))
    assert (asset.times[0], asset.times[-1]) == (np.datetime64("2003-01-01"), np.datetime64("2003-12-31"))

    def never(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=never):
        ds = source.open(asset)
    assert ds.sizes["time"] == 365
    with own(realdata / NATLANTIC) as raw:
        np.testing.assert_array_equal(ds.msl, raw.slp.sel(time="2003"))
    assert source.plan(Period.parse("1950")) == []


@pytest.mark.realdata
def test_a_station_file_is_refused(realdata, context):
    with pytest.raises(BadInput, match="5 stations or points along 'location', not a grid"):
        infer_entry("x", realdata / "station/daily_surface_cancities_1990-1993.nc", cache=context.cache)


def small(path, engine="h5netcdf", start=0, **attrs):
    t = np.arange(start, start + 4)
    ds = xr.Dataset(
        {
            "slp": (
                ("time", "lat", "lon"),
                np.random.default_rng(start).normal(101000, 500, (4, 5, 6)).astype("f4"),
                {"units": "Pa", **attrs},
            )
        },
        coords={
            "time": ("time", t, {"units": "days since 2001-01-01"}),
            "lat": ("lat", np.arange(50.0, 25, -5), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 30, 5), {"units": "degrees_east"}),
        },
    )
    ds.to_netcdf(path, engine=engine)
    return ds


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize("cut", [0, 3, 10, 200, 0.5, -4])
def test_cut_files_are_corrupt_with_their_name(tmp_path, engine, cut):
    path = tmp_path / "cut.nc"
    small(path, engine)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if cut == 0.5 else cut])
    with pytest.raises(AssetCorrupt) as e:
        open_raw(str(path))
    assert "cut.nc" in e.value.text()
    with pytest.raises(BadInput, match=r"cut\.nc"):
        infer_entry("x", path, cache=tmp_path / "c")


def test_what_is_no_netcdf_file(tmp_path):
    with pytest.raises(AssetMissing, match="no such file"):
        open_raw(str(tmp_path / "none.nc"))
    with pytest.raises(BadInput, match="is a folder"):
        open_raw(str(tmp_path))
    (tmp_path / "t.nc").write_text("<html>not found</html>")
    with pytest.raises(AssetCorrupt, match="begins with '<html>not found"):
        open_raw(str(tmp_path / "t.nc"))


def test_groups_are_named_and_can_be_chosen(tmp_path, context):
    small(tmp_path / "plain.nc")
    with xr.open_dataset(tmp_path / "plain.nc", engine="h5netcdf", decode_times=False) as ds:
        ds.load().to_netcdf(tmp_path / "g.nc", engine="h5netcdf", group="fields")
    with pytest.raises(BadInput, match="in groups: fields") as e:
        infer_entry("x", tmp_path / "g.nc", cache=context.cache)
    assert "group: fields" in e.value.text()
    entry = infer_entry(
        "x", tmp_path / "g.nc", cache=context.cache, overrides={"source": {"args": {"group": "fields"}}}
    )
    assert create(entry, context).plan(None)[0].times.size == 4


def test_a_bad_file_among_good_ones_is_planned_without_times(tmp_path, context):
    a = small(tmp_path / "a.nc")
    small(tmp_path / "b.nc", start=4)
    entry = infer_entry("x", [tmp_path / "a.nc", tmp_path / "b.nc"], cache=context.cache)
    (tmp_path / "b.nc").write_bytes(b"\x89HDF broken")
    source = create(entry, context)
    good, bad = source.plan(None)
    assert bad.times.size == 0
    np.testing.assert_array_equal(source.open(good).msl, a.slp)
    with pytest.raises(AssetCorrupt, match=r"b\.nc"):
        source.open(bad)
    (tmp_path / "b.nc").unlink()
    gone = create(entry, context).plan(None)[1]
    assert gone.times.size == 4  # remembered, so that the ledger can say which times are missing
    with pytest.raises(AssetMissing, match=r"b\.nc"):
        source.open(gone)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_times_that_do_not_stand_together(tmp_path, context, engine):
    """The level leads, as in old files: integers and index arrays must not be mixed up on the way down."""
    ds = small(tmp_path / "a.nc").expand_dims(level=[500.0]).rename(slp="Z")
    ds = ds.assign_coords(level=("level", [500.0], {"units": "hPa"}))
    ds.Z.attrs["units"] = "m2 s-2"
    ds.to_netcdf(tmp_path / "b.nc", engine=engine)
    source = create(infer_entry("x", tmp_path / "b.nc", cache=context.cache), context)
    (asset,) = source.plan(None)
    part = dataclasses.replace(asset, times=asset.times[[0, 2]])
    out = source.open(part).z
    np.testing.assert_array_equal(out.isel(level=0), ds.Z[0, [0, 2]])
    np.testing.assert_array_equal(out.isel(level=0, time=1), ds.Z[0, 2])


def test_damage_inside_a_chunk_is_found_on_reading(tmp_path, context):
    path = tmp_path / "d.nc"
    ds = small(tmp_path / "a.nc")
    ds.to_netcdf(path, engine="h5netcdf", encoding={"slp": {"zlib": True, "chunksizes": (1, 5, 6)}})
    data = bytearray(path.read_bytes())
    import h5py

    with h5py.File(path) as f:
        info = f["slp"].id.get_chunk_info(2)
    data[info.byte_offset : info.byte_offset + info.size] = b"\xff" * info.size
    path.write_bytes(bytes(data))
    entry = DatasetEntry.model_validate(
        {
            "name": "d",
            "title": "d",
            "source": {"driver": "netcdf", "args": {"paths": [str(path)]}},
            "schedule": {"start": "2001-01-01", "cadence": "1d"},
        }
    )
    source = create(entry, context)
    out = source.open(source.plan(None)[0])
    with pytest.raises(AssetCorrupt, match=r"d\.nc, variable slp"):
        out.load()


def test_many_files_in_many_threads(tmp_path, context):
    want = {}
    for i in range(12):
        want[i] = small(tmp_path / f"{i:02d}.nc", "scipy" if i % 3 == 0 else "h5netcdf", start=4 * i).slp.values
    entry = infer_entry("x", str(tmp_path / "*.nc"), cache=context.cache)
    source = create(entry, context)
    assets = source.plan(None)
    assert len(assets) == 12
    with ThreadPoolExecutor(8) as pool, dask.config.set(scheduler="threads", num_workers=4):
        for i, values in enumerate(pool.map(lambda a: source.open(a).msl.values, assets * 3)):
            np.testing.assert_array_equal(values, want[i % 12])


def test_unknown_source_argument_names_the_nearest(tmp_path, context):
    small(tmp_path / "a.nc")
    with pytest.raises(BadInput, match="did you mean 'level_units'"):
        infer_entry("x", tmp_path / "a.nc", cache=context.cache, overrides={"source": {"args": {"level_unit": "hPa"}}})
