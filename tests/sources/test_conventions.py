import dask
import numpy as np
import pytest
import xarray as xr

from eoflow.catalog import VariableEntry
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.sources.conventions import Reading, canonical

LAT, LON = np.arange(60.0, 39.0, -5), np.arange(-20.0, 11.0, 5)


def raw(
    name="slp", units="Pa", *, dims=("time", "lat", "lon"), lat=LAT, lon=LON, times=4, extra=(), scale=1.0, **attrs
):
    """A dataset as a file would hold it: times undecoded; extra: (dim, values, attrs) before latitude."""
    sizes = {"time": times, "lat": len(lat), "lon": len(lon), **{d: len(v) for d, v, _ in extra}}
    rng = np.random.default_rng(3)
    values = (rng.normal(size=[sizes[d] for d in dims]) * scale).astype("f4")
    coords = {
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
        "time": ("time", np.arange(times) * 6, {"units": "hours since 2001-01-01"}),
        **{d: (d, v, a) for d, v, a in extra},
    }
    a = {**({"units": units} if units is not None else {}), **attrs}
    return xr.Dataset({name: (dims, values, a)}, coords={k: v for k, v in coords.items() if v[0] in dims})


def test_names_units_and_attributes():
    ds = canonical(raw("slp", "hPa", scale=10), "f.nc")
    assert list(ds) == ["msl"]
    assert ds.msl.attrs == {
        "units": "Pa",
        "standard_name": "air_pressure_at_mean_sea_level",
        "long_name": "mean sea level pressure",
    }
    np.testing.assert_array_equal(
        ds.msl.values, (raw("slp", "hPa", scale=10).slp.values.astype("f8") * 100).astype("f4")
    )
    assert ds.msl.dims == ("time", "latitude", "longitude")
    assert ds.time.values[1] == np.datetime64("2001-01-01T06")


def test_flipped_rolled_and_transposed_files_are_the_same_dataset():
    a = raw()
    want = canonical(a, "f.nc").load()
    flipped = a.isel(lat=slice(None, None, -1))
    east = a.assign_coords(lon=("lon", np.mod(LON, 360), {"units": "degrees_east"}))
    shuffled_dims = a.transpose("time", "lon", "lat")
    for other in (flipped, east, east.sortby("lon"), flipped.transpose("lon", "lat", "time"), shuffled_dims):
        xr.testing.assert_identical(canonical(other, "f.nc").load(), want)


def test_global_grid_is_rolled_to_0_360():
    lon = np.arange(-180.0, 180.0, 30)
    a = raw(lon=lon)
    ds = canonical(a, "f.nc")
    np.testing.assert_array_equal(ds.longitude, np.arange(0.0, 360, 30))
    np.testing.assert_array_equal(ds.msl.sel(longitude=330).values, a.slp.sel(lon=-30).values)
    assert FieldSchema.of(ds, "6h").grid.wraps


def test_nothing_is_computed():
    def never(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=never):
        canonical(raw("T2M", "degC"), "f.nc", Reading(area=(-10, 45, 5, 55)))


def test_area():
    a = raw()
    ds = canonical(a, "f.nc", Reading(area=(-10, 45, 5, 55)))
    np.testing.assert_array_equal(ds.longitude, [-10, -5, 0, 5])
    np.testing.assert_array_equal(ds.latitude, [55, 50, 45])
    np.testing.assert_array_equal(ds.msl, a.slp.sel(lat=[55, 50, 45], lon=[-10, -5, 0, 5]))
    world = raw(lon=np.arange(0.0, 360, 30))
    crop = canonical(world, "f.nc", Reading(area=(-60, 40, 30, 60)))
    np.testing.assert_array_equal(crop.longitude, [-60, -30, 0, 30])
    np.testing.assert_array_equal(crop.msl, world.slp.sel(lon=[300, 330, 0, 30]))
    with pytest.raises(BadInput, match="no grid point"):
        canonical(a, "f.nc", Reading(area=(100, 0, 110, 5)))


def test_wanted_times():
    a = raw(times=6)
    t = canonical(a, "f.nc").time.values
    np.testing.assert_array_equal(canonical(a, "f.nc", wanted=t[2:4]).msl, a.slp[2:4])
    np.testing.assert_array_equal(canonical(a, "f.nc", wanted=t[[0, 3]]).msl, a.slp[[0, 3]])
    with pytest.raises(BadInput, match="is not there"):
        canonical(a, "f.nc", wanted=t[:1] + np.timedelta64(1, "h"))


# -- levels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "factor"), [("hPa", 1), ("millibar", 1), ("Pa", 100)])
def test_levels_in_any_unit_ascend_in_hpa(units, factor):
    levels = np.array([1000.0, 850, 500]) * factor
    a = raw("t", "K", dims=("time", "lev", "lat", "lon"), extra=[("lev", levels, {"units": units})])
    ds = canonical(a, "f.nc")
    np.testing.assert_array_equal(ds.level, [500, 850, 1000])
    np.testing.assert_array_equal(ds.t, a.t[:, ::-1])


def test_names_with_a_level_are_joined():
    a = xr.merge([raw(n, "K").rename({}) for n in ("T850", "T500")] + [raw("Z500", "m**2 s**-2")])
    ds = canonical(a, "f.nc")
    np.testing.assert_array_equal(ds.t, np.stack([a.T500, a.T850], axis=1))
    assert ds.z.dims == ("time", "level1", "latitude", "longitude")
    assert [c.label for c in FieldSchema.of(ds, "6h").channels] == ["t500", "t850", "z500"]
    by_entry = {"t": VariableEntry(source_name="T{level}", levels=(850.0,))}
    only = canonical(a, "f.nc", Reading(variables=by_entry, only=True))
    assert list(only) == ["t"]
    np.testing.assert_array_equal(only.t[:, 0], a.T850)


def test_length_one_pressure_level_stays_and_others_are_folded():
    a = raw("Z", "m2 s-2", dims=("level", "time", "lat", "lon"), extra=[("level", [500.0], {"units": "millibar"})])
    assert canonical(a, "f.nc").z.dims == ("time", "level", "latitude", "longitude")
    b = raw("tas", "K", dims=("time", "height", "lat", "lon"), extra=[("height", [2.0], {"units": "m"})])
    assert canonical(b, "f.nc").t2m.dims == ("time", "latitude", "longitude")
    c = raw("ta", "K").assign_coords(height=((), 2.0, {"units": "m"}))
    assert list(canonical(c, "f.nc")) == ["t2m"]
    d = raw("slp", "Pa", dims=("time", "level", "lat", "lon"), extra=[("level", [1000.0], {"units": "hPa"})])
    assert canonical(d, "f.nc").msl.dims == ("time", "latitude", "longitude")


def test_u100_is_a_wind_at_100_m_unless_it_stands_among_levels():
    assert list(canonical(raw("u100", "m s-1"), "f.nc")) == ["u100"]
    a = xr.merge([raw("u100", "m s-1"), raw("u850", "m s-1")])
    np.testing.assert_array_equal(canonical(a, "f.nc").level, [100, 850])


def test_other_vertical_coordinates_keep_their_name():
    a = raw("soil_t", "K", dims=("time", "depth", "lat", "lon"), extra=[("depth", [0.1, 0.5], {"units": "m"})])
    ds = canonical(a, "f.nc")
    assert ds.soil_t.dims == ("time", "depth", "latitude", "longitude")
    assert ds.depth.attrs["units"] == "m"


# -- units ---------------------------------------------------------------------------------------------------------


def test_geopotential_height_becomes_geopotential_where_it_is_unambiguous():
    for name, units, attrs in (
        ("hgt", "m", {}),
        ("zg", "m", {}),
        ("z", "gpm", {}),
        ("height500", "m", {"standard_name": "geopotential_height"}),
    ):
        a = raw(name, units, dims=("time", "lev", "lat", "lon"), extra=[("lev", [500.0], {"units": "hPa"})], **attrs)
        np.testing.assert_array_equal(canonical(a, "f.nc").z, (a[name].values.astype("f8") * 9.80665).astype("f4"))
    a = raw("z", "m", dims=("time", "lev", "lat", "lon"), extra=[("lev", [500.0], {"units": "hPa"})])
    with pytest.raises(BadInput, match="is not what eoflow calls z") as e:
        canonical(a, "f.nc")
    assert "z: {source_name: z, source_units: gpm}" in e.value.text()
    said = canonical(a, "f.nc", Reading(variables={"z": VariableEntry(source_name="z", source_units="gpm")}))
    np.testing.assert_array_equal(said.z, (a.z.values.astype("f8") * 9.80665).astype("f4"))


def test_no_units_is_refused_with_the_line_to_write():
    with pytest.raises(BadInput, match="'slp' has no units") as e:
        canonical(raw("slp", None), "f.nc")
    assert "f.nc, variable slp" in e.value.text()
    assert "msl: {source_name: slp, source_units: Pa}" in e.value.text()
    ds = canonical(raw("slp", None), "f.nc", Reading(variables={"msl": VariableEntry(source_units="hPa")}))
    np.testing.assert_array_equal(ds.msl, (raw().slp.values.astype("f8") * 100).astype("f4"))


def test_units_of_another_quantity_are_refused():
    with pytest.raises(BadInput, match="does not convert"):
        canonical(raw("slp", "K"), "f.nc", Reading(variables={"msl": VariableEntry(source_name="slp", units="Pa")}))


# -- ambiguity -----------------------------------------------------------------------------------------------------


def test_two_candidates_are_refused_with_the_line_to_write():
    a = xr.merge([raw("slp"), raw("prmsl")])
    with pytest.raises(BadInput, match="two candidates for 'msl': slp, prmsl") as e:
        canonical(a, "f.nc")
    assert "msl: {source_name: slp}" in e.value.text()
    chosen = canonical(a, "f.nc", Reading(variables={"msl": VariableEntry(source_name="prmsl")}, only=True))
    np.testing.assert_array_equal(chosen.msl, a.prmsl)


def test_missing_variable_names_what_is_there():
    with pytest.raises(BadInput, match=r"variable 't2m' is missing .the file has: slp"):
        canonical(raw(), "f.nc", Reading(variables={"t2m": VariableEntry()}, only=True))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a.drop_vars("lat").rename(lat="y"), "no latitude coordinate"),
        (
            lambda a: (
                a.rename(lat="y", lon="x")
                .drop_vars(["y", "x"])
                .assign_coords(
                    lat=(("y", "x"), np.zeros((5, 7)), {"units": "degrees_north"}),
                    lon=(("y", "x"), np.zeros((5, 7)), {"units": "degrees_east"}),
                )
            ),
            "curvilinear",
        ),
        (lambda a: a.drop_vars("time"), "no coordinate, so its times"),
        (lambda a: a.isel(time=0, drop=True), "no time coordinate"),
        (lambda a: a.expand_dims(foo=3), "dimension 'foo'"),
        (lambda a: a.expand_dims(level=[1.0, 2, 3]), "have no units"),
        (lambda a: a.isel(lat=[0, 2, 1, 3, 4]), "latitudes are not in order"),
        (lambda a: a.isel(lon=[0, 2, 1, 3, 4, 5, 6]), "longitudes are not in order"),
        (lambda a: a.isel(time=[0, 2, 1, 3]), "not in order: 2001-01-01T06:00 comes after"),
        (lambda a: a.isel(time=[0, 1, 1, 3]), "2001-01-01T06:00 appears more than once"),
        (lambda a: a.stack(p=("lat", "lon")).reset_index("p").reset_coords(), "stations or points along 'p'"),
        (lambda a: a.isel(lat=0, lon=0), "single point"),
    ],
)
def test_what_is_not_a_clean_grid_is_refused(change, word):
    with pytest.raises(BadInput, match=word) as e:
        canonical(change(raw()), "f.nc")
    assert "f.nc" in e.value.text()
    assert e.value.todo


def test_ocean_temperature_is_not_taken_for_air_temperature():
    a = raw("t", "degC", standard_name="sea_water_temperature")
    with pytest.raises(BadInput, match="is not what eoflow calls t"):
        canonical(a, "f.nc")


# -- time and step, members, expver --------------------------------------------------------------------------------


def test_cds_style_valid_time_number_and_expver_coordinates():
    a = raw("t2m", "K").rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001"] * 4))
    ds = canonical(a, "f.nc")
    assert set(ds.coords) == {"time", "latitude", "longitude"}
    np.testing.assert_array_equal(ds.t2m, a.t2m)


def test_expver_dimension_is_merged():
    a = raw("t2m", "K")
    both = xr.concat([a.where(a.time < 12), a.where(a.time >= 12) + 0], dim="expver").assign_coords(expver=[1, 5])
    both["t2m"].attrs = a.t2m.attrs
    both["time"].attrs = a.time.attrs
    np.testing.assert_array_equal(canonical(both, "f.nc").t2m, a.t2m)


def test_members():
    a = raw("t2m", "K", dims=("number", "time", "lat", "lon"), extra=[("number", [0, 1, 2], {})])
    ds = canonical(a, "f.nc")
    assert ds.t2m.dims == ("time", "member", "latitude", "longitude")
    assert FieldSchema.of(ds, "6h").members == (0, 1, 2)
    np.testing.assert_array_equal(ds.t2m, a.t2m.transpose("time", "number", ...))


def test_step_is_added_to_the_reference_time():
    a = raw("t2m", "K", times=2, dims=("time", "step", "lat", "lon"), extra=[("step", [0, 3], {"units": "hours"})])
    a["time"] = ("time", [0, 6], {"units": "hours since 2001-01-01", "standard_name": "forecast_reference_time"})
    ds = canonical(a, "f.nc")
    np.testing.assert_array_equal(
        ds.time, np.datetime64("2001-01-01", "ns") + np.arange(0, 12, 3) * np.timedelta64(1, "h")
    )
    np.testing.assert_array_equal(ds.t2m, a.t2m.values.reshape(4, 5, 7))
    clash = a.assign_coords(step=("step", [0, 6], {"units": "hours"}))
    with pytest.raises(BadInput, match="several forecasts are valid at 2001-01-01T06:00"):
        canonical(clash, "f.nc")
    single = a.isel(step=1)
    np.testing.assert_array_equal(
        canonical(single, "f.nc").time.values.astype("datetime64[h]"),
        np.array(["2001-01-01T03", "2001-01-01T09"], "M8[h]"),
    )


def test_static_fields_lose_their_time():
    a = xr.merge([raw("lsm", "1"), raw("slp")])
    ds = canonical(a, "f.nc")
    assert ds.lsm.dims == ("latitude", "longitude")
    assert [v.name for v in FieldSchema.of(ds, "6h").static] == ["lsm"]


def test_packed_integers_are_unpacked(tmp_path):
    a = raw("slp", "Pa", scale=100) + 101000
    a.slp.attrs["units"], a.time.attrs["units"] = "Pa", "hours since 2001-01-01"
    a.lat.attrs["units"], a.lon.attrs["units"] = "degrees_north", "degrees_east"
    a.to_netcdf(
        tmp_path / "p.nc",
        engine="h5netcdf",
        encoding={"slp": {"dtype": "i2", "scale_factor": 0.1, "add_offset": 101000.0, "_FillValue": -32768}},
    )
    own = xr.open_dataset(tmp_path / "p.nc", engine="h5netcdf")
    ds = canonical(xr.open_dataset(tmp_path / "p.nc", engine="h5netcdf", decode_times=False), "p.nc")
    np.testing.assert_array_equal(ds.msl, own.slp.values.astype("f4"))
    own.close()
