from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from eoflow import catalog
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.sources.base import create
from eoflow.sources.infer import infer_entry


def write(path, times=range(4), names=("slp",), units="Pa", lon0=0.0, values=None, unit="days", **options):
    rng = np.random.default_rng(len(list(times)))
    shape = (len(list(times)), 5, 6)
    data = {
        n: (
            ("time", "lat", "lon"),
            (rng.normal(101000, 500, shape) if values is None else values).astype("f4"),
            {"units": units} if units else {},
        )
        for n in names
    }
    ds = xr.Dataset(
        data,
        attrs={"title": "A title", "license": "CC0"},
        coords={
            "time": ("time", list(times), {"units": f"{unit} since 2001-01-01"}),
            "lat": ("lat", np.arange(50.0, 25, -5), {"units": "degrees_north"}),
            "lon": ("lon", lon0 + np.arange(0.0, 30, 5), {"units": "degrees_east"}),
        },
    )
    ds.to_netcdf(path, engine="h5netcdf", **options)
    return path


def infer(context, *files, **kwargs):
    return infer_entry("x", list(files), cache=context.cache, **kwargs)


def test_the_entry_survives_its_yaml_and_reads_the_file(tmp_path, context, workspace):
    entry = infer(context, write(tmp_path / "a.nc"))
    assert (entry.title, entry.licence) == ("A title", "CC0")
    assert (entry.schedule.start, entry.schedule.end, entry.schedule.cadence) == ("2001-01-01", "2001-01-04", "1d")
    catalog.save_dataset(entry, workspace)
    again = catalog.dataset("x", workspace)
    assert again == entry
    assert create(again, context).open(create(again, context).plan(None)[0]).msl.shape == (4, 5, 6)


def test_appending_joins_paths_and_widens_the_schedule(tmp_path, context):
    first = infer(context, write(tmp_path / "a.nc"), overrides={"checks": {"max_nan_fraction": 0.5}})
    later = infer(context, write(tmp_path / "b.nc", range(6, 8), names=("prmsl",)), existing=first, title="Mine")
    assert [p.rsplit("/", 1)[-1] for p in later.source.args["paths"]] == ["a.nc", "b.nc"]
    assert (later.schedule.start, later.schedule.end) == ("2001-01-01", "2001-01-08")
    assert later.checks.max_nan_fraction == 0.5
    assert later.title == "Mine"
    assert len(later.schedule.expected(None, "2026-01-01")) == 8
    ids = [a.times[0] for a in create(later, context).plan(None)]
    assert ids == sorted(ids)


def test_one_time_takes_the_cadence_given_or_of_the_entry_or_says_what_it_assumes(tmp_path, context):
    one = write(tmp_path / "one.nc", [5])
    assert infer(context, one).schedule.cadence == "6h"
    assert "does not tell the cadence" in infer(context, one).notes
    assert infer(context, one, cadence="1d").schedule.cadence == "1d"
    entry = infer(context, write(tmp_path / "a.nc"))
    assert infer(context, one, existing=entry).schedule.end == "2001-01-06"


def test_a_time_off_the_schedule_is_named(tmp_path, context):
    entry = infer(context, write(tmp_path / "a.nc"))
    odd = write(tmp_path / "odd.nc", [4.25, 5.25])
    with pytest.raises(BadInput, match="2001-01-05T06:00 does not lie on the schedule: every 1d from 2001-01-01") as e:
        infer(context, odd, existing=entry)
    assert "odd.nc" in e.value.text()
    with pytest.raises(BadInput, match="no regular step"):
        infer(context, write(tmp_path / "irregular.nc", [0, 1, 2.3, 7]))


def test_another_cadence_than_the_entrys_is_refused(tmp_path, context):
    entry = infer(context, write(tmp_path / "a.nc"))
    with pytest.raises(BadInput, match="cadence of 1d, not 6h"):
        infer(context, write(tmp_path / "b.nc", range(4, 8)), existing=entry, cadence="6h")


def test_files_that_differ_are_refused(tmp_path, context):
    a = write(tmp_path / "a.nc")
    with pytest.raises(SchemaMismatch, match=r"(?s)b\.nc and a\.nc.*dust: present"):
        infer(context, a, write(tmp_path / "b.nc", range(4, 8), names=("slp", "dust")))
    with pytest.raises(SchemaMismatch, match="grid"):
        infer(context, a, write(tmp_path / "c.nc", range(4, 8), lon0=2.5))
    entry = infer(context, a)
    with pytest.raises(BadInput, match="'msl' is missing"):
        infer(context, write(tmp_path / "d.nc", range(4, 8), names=("dust",)), existing=entry)


def test_no_units_can_be_said_in_the_overrides(tmp_path, context):
    bare = write(tmp_path / "a.nc", units=None)
    with pytest.raises(BadInput, match="has no units"):
        infer(context, bare)
    entry = infer(context, bare, overrides={"variables": {"msl": {"source_units": "hPa"}}})
    assert entry.variables["msl"].source_units == "hPa"
    ds = create(entry, context).open(create(entry, context).plan(None)[0])
    assert float(ds.msl.mean()) > 1e7  # as said: hPa to Pa


def test_appending_a_file_without_units_is_refused(tmp_path, context):
    entry = infer(context, write(tmp_path / "a.nc"))
    values = np.full((2, 5, 6), 1013.0)
    with pytest.raises(BadInput, match="'slp' has no units"):
        infer(context, write(tmp_path / "b.nc", range(4, 6), units=None, values=values), existing=entry)
    bare = tmp_path / "b.nc"
    said = infer(context, bare, existing=entry, overrides={"variables": {"msl": {"source_units": "hPa"}}})
    assert said.variables["msl"].source_units == "hPa"
    with_units = infer(context, write(tmp_path / "c.nc", range(4, 6), units="hPa", values=values), existing=entry)
    ds = create(with_units, context).open(create(with_units, context).plan(None)[1])
    np.testing.assert_array_equal(ds.msl, np.float32(101300))


def test_nan_masks(tmp_path, context):
    rng = np.random.default_rng(0)
    values = rng.normal(101000, 500, (4, 5, 6))
    values[:, :2] = np.nan
    fixed = infer(context, write(tmp_path / "a.nc", values=values)).checks
    assert fixed.static_nan_mask
    assert 0.4 <= fixed.max_nan_fraction < 0.41
    values[1, 3, 3] = np.nan
    loose = infer(context, write(tmp_path / "b.nc", values=values)).checks
    assert not loose.static_nan_mask
    assert 0.43 < loose.max_nan_fraction < 0.95
    one_lost = rng.normal(101000, 500, (4, 5, 6))
    one_lost[0] = np.nan
    assert infer(context, write(tmp_path / "c.nc", values=one_lost)).checks.max_nan_fraction == 0
    with pytest.raises(BadInput, match="holds no values at all"):
        infer(context, write(tmp_path / "d.nc", values=np.full((4, 5, 6), np.nan)))


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("text.nc", b"hello world", "not a NetCDF file .its content is unknown: it begins with 'hello world'"),
        ("empty.nc", b"", "empty"),
        ("page.grib2", b"<html>", "not a GRIB file"),
        ("scene.tif", b"II*\x00abc", "not NetCDF, Zarr or GRIB"),
    ],
)
def test_wrong_files(tmp_path, context, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=word) as e:
        infer(context, tmp_path / name)
    assert name in e.value.text()
    assert e.value.exit_code == 2


def test_wrong_places(tmp_path, context):
    with pytest.raises(BadInput, match="no such file"):
        infer(context, tmp_path / "none.nc")
    with pytest.raises(BadInput, match="no file matches"):
        infer(context, tmp_path / "*.nc")
    with pytest.raises(BadInput, match="is a folder"):
        infer(context, tmp_path)
    with pytest.raises(BadInput, match="download the file"):
        infer(context, "https://example.org/a.nc")
    with pytest.raises(BadInput, match="not a usable dataset name"):
        infer_entry("../x", tmp_path)


def test_shuffled_and_duplicated_times_are_named(tmp_path, context):
    with pytest.raises(BadInput, match="2001-01-02 comes after 2001-01-03"):
        infer(context, write(tmp_path / "a.nc", [0, 2, 1, 3]))
    with pytest.raises(BadInput, match="2001-01-02 appears more than once"):
        infer(context, write(tmp_path / "b.nc", [0, 1, 1, 3]))


def test_mixed_kinds_are_refused(tmp_path, context, make_grib):
    a = write(tmp_path / "a.nc")
    (tmp_path / "b.grib").write_bytes(
        make_grib("2t", np.full((19, 36), 280.0), level_type="heightAboveGround", level=2)
    )
    with pytest.raises(BadInput, match="several kinds: grib, netcdf"):
        infer(context, a, tmp_path / "b.grib")
    entry = infer(context, a)
    with pytest.raises(BadInput, match="is read from netcdf, these files are grib"):
        infer(context, tmp_path / "b.grib", existing=entry)
