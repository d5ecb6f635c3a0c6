"""Exports read back by others: rasterio, rio-cogeo, xarray, pystac."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from cubes import grid, make_cube
from stac_check import wrong, wrong_fields

import eoflow.composite
import eoflow.export
from eoflow.errors import BadInput, Failure
from eoflow.export.stac import COMMON_NAMES
from eoflow.quality import Quality

SHAPE = (90, 100)
TIMES = ["2021-05-03T10:30", "2021-05-13T10:30:01.5"]
BANDS = {"B04": {"common_name": "red", "wavelength": 0.665, "long_name": "red"}, "B08": {"common_name": "nir"}}


def scenes(seed: int = 0):
    rng = np.random.default_rng(seed)
    values = {b: rng.integers(1, 9000, (2, *SHAPE)).astype("u2") for b in BANDS}
    quality = rng.choice([Quality.CLEAR, Quality.CLOUD], (2, *SHAPE)).astype("u1")
    for v in values.values():
        v[:, :5] = 0
    quality[:, :5] = Quality.NODATA
    return values, quality


@pytest.fixture
def cube(workspace):
    values, quality = zip(*(scenes(i) for i in range(2)))
    return make_cube(
        workspace, "s2", {"T1": values[0], "T2": values[1]}, TIMES, bands=BANDS,
        quality={"T1": quality[0], "T2": quality[1]},
    )  # fmt: skip


def valid_cog(path):
    from rio_cogeo.cogeo import cog_validate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ok, errors, said = cog_validate(str(path), strict=True)
    return ok and not errors and not said


def item_of(path) -> pystac.Item:
    """Read, and validated by the schemas of the core specification; the rules of the extensions it uses by hand."""
    item = pystac.Item.from_file(str(path))
    raw = json.loads(Path(path).read_text())
    assert wrong(raw) == []
    assert wrong_fields(raw) == []
    for asset in raw["assets"].values():
        file = Path(path).parent / asset["href"]
        assert file.exists()
        if file.is_file():
            assert asset["file:checksum"] == "1220" + hashlib.sha256(file.read_bytes()).hexdigest()
            assert asset["file:size"] == file.stat().st_size
        for band in asset["bands"]:
            assert band.get("eo:common_name", "red") in COMMON_NAMES
    return item


def test_validation_finds_what_is_wrong(workspace, cube, tmp_path):
    report = eoflow.export("s2:T1:2021-05-03", tmp_path / "a.tif", workspace=workspace)
    raw = json.loads(Path(report.items[0]).read_text())
    assert wrong(raw) == []
    for broken in ({**raw, "geometry": {"type": "Polygon"}}, {**raw, "properties": {}}, {**raw, "stac_version": "2"}):
        assert wrong(broken)
    assert wrong_fields(raw) == []
    band = raw["assets"]["data"]["bands"][0]
    for change in ({"proj:code": 32632}, {"proj:shape": [90.5, 100]}, {"proj:epsg": 32632}, {"raster:scale": 1e-4},
                   {"proj:bbox": [0, 0, 1, 1]}, {"file:size": 5}, {"processing:software": "eoflow"}):  # fmt: skip
        assert wrong_fields({**raw, "properties": {**raw["properties"], **change}}), change
    for change in ({"raster:scale": "1e-4"}, {"data_type": "u2"}, {"nodata": "none"}, {"raster:bands": []}):
        assets = {"data": {**raw["assets"]["data"], "bands": [{**band, **change}]}}
        assert wrong_fields({**raw, "assets": assets}), change
    assert wrong_fields({**raw, "stac_extensions": []})


def test_time_step_as_cog_and_item(workspace, cube, tmp_path):
    report = eoflow.export("s2:T1:2021-05-13", tmp_path / "s.tif", workspace=workspace, command="by hand")
    written = sorted(p.name for p in tmp_path.iterdir() if p.is_file())
    assert written == ["s.json", "s.tif", "s_quality.tif", "s_scene.tif"]
    assert all(valid_cog(f) for f in report.files)
    values, quality = scenes(0)
    with rasterio.open(tmp_path / "s.tif") as f:
        np.testing.assert_array_equal(f.read(), np.stack([values["B04"][1], values["B08"][1]]))
        assert f.descriptions == ("B04", "B08")
        assert (f.scales, f.offsets, f.units) == ((1e-4,) * 2, (-0.1,) * 2, ("1",) * 2)
        assert (f.nodata, f.crs.to_epsg(), f.tags(1)["wavelength_um"]) == (0, 32632, "0.665")
        assert f.transform.to_gdal() == (500000, 10, 0, 5000000, 0, -10)
        assert f.tags()["EOFLOW_ARCHIVE_SNAPSHOT"] == cube.snapshot
        assert f.tags()["EOFLOW_ITEMS"] == "T1-1"
    with rasterio.open(tmp_path / "s_quality.tif") as f:
        np.testing.assert_array_equal(f.read(1), quality[1])
    item = item_of(report.items[0])
    assert item.id == "s2-T1-20210513T103001"
    assert item.datetime.isoformat() == "2021-05-13T10:30:01.500000+00:00"
    assert item.properties["proj:code"] == "EPSG:32632"
    assert item.properties["proj:shape"] == [90, 100]
    assert item.properties["constellation"] == "sentinel-2"
    assert item.properties["processing:lineage"] == "by hand"
    red = item.assets["data"].to_dict()["bands"][0]
    assert red == {
        "name": "B04", "data_type": "uint16", "description": "red", "nodata": 0.0, "unit": "1", "raster:scale": 1e-4,
        "raster:offset": -0.1, "raster:spatial_resolution": 10.0, "eo:common_name": "red",
        "eo:center_wavelength": 0.665,
    }  # fmt: skip
    west, south, east, north = item.bbox
    assert 8.99 < west < east < 9.02
    assert 45.13 < south < north < 45.17


def test_composite_in_every_format(workspace, cube, tmp_path):
    made = eoflow.composite("s2", "2021-05", workspace=workspace, bands=["B08", "B04"])
    truth = xr.open_zarr(made.path, group="tiles/T2", mask_and_scale=False).load()
    report = eoflow.export("composite:s2", tmp_path / "c.tif", workspace=workspace)
    assert len(report.files) == 8
    assert len(report.items) == 2
    assert all(valid_cog(f) for f in report.files)
    with rasterio.open(tmp_path / "c_T2.tif") as f:
        np.testing.assert_array_equal(f.read(), np.stack([truth["B08"], truth["B04"]]))
    with rasterio.open(tmp_path / "c_T2_age.tif") as f:
        np.testing.assert_array_equal(f.read(1), truth["age"])
        assert (f.nodata, f.units) == (-1, ("d",))
    item = item_of(tmp_path / "c_T2.json")
    assert item.id == f"s2-{made.id}-T2"
    assert (item.datetime, item.properties["start_datetime"]) == (None, "2021-05-01T00:00:00Z")
    assert item.properties["processing:level"] == "L3"
    assert item.properties["eoflow:method"] == "median"

    eoflow.export(f"composite:s2:{made.id}", tmp_path / "c.nc", workspace=workspace, mosaic=True)
    with xr.open_dataset(tmp_path / "c.nc", engine="h5netcdf") as nc:
        assert nc.sizes == {"y": 90, "x": 200}
        half = nc["B08"].values[:, 100:]
        seen = truth["count"].values > 0
        np.testing.assert_allclose(half[seen], truth["B08"].values[seen] * 1e-4 - 0.1, rtol=1e-5)
        assert np.isnan(half[~seen]).all()
        np.testing.assert_array_equal(nc["count"].values[:, 100:], truth["count"])
        assert "source" not in nc  # a position in a list of each tile
        assert "crs_wkt" in nc["spatial_ref"].attrs
        assert nc["B08"].encoding.get("grid_mapping", nc["B08"].attrs.get("grid_mapping")) == "spatial_ref"
    assert item_of(tmp_path / "c.json").assets["data"].media_type == "application/netcdf"

    eoflow.export("composite:s2", tmp_path / "c.zarr", workspace=workspace)
    copy = xr.open_zarr(tmp_path / "c.zarr", group="tiles/T2", mask_and_scale=False)
    for name in ("B04", "count", "age", "source"):
        np.testing.assert_array_equal(copy[name], truth[name])
    again = eoflow.export(tmp_path / "c.zarr", tmp_path / "again.tif", workspace=workspace, mosaic=True)
    with rasterio.open(tmp_path / "again.tif") as f:
        np.testing.assert_array_equal(f.read(2)[:, 100:], truth["B04"])
    item_of(again.items[0])


def test_mosaic_of_tiles_that_overlap(workspace, tmp_path):
    """T2 begins 30 columns into T1 and 20 rows below; where T1 has no value, T2 gives the pixel and its quality."""
    values, quality = zip(*(scenes(i) for i in range(2)))
    for v in values[0].values():
        v[:, 50:60] = 0
    grids = {"T1": grid(SHAPE), "T2": grid(SHAPE, 500_300, 4_999_800)}
    make_cube(workspace, "s2", {"T1": values[0], "T2": values[1]}, TIMES, grids=grids,
              quality={"T1": quality[0], "T2": quality[1]})  # fmt: skip
    made = eoflow.composite("s2", "2021-05", "last-clear", workspace=workspace)
    eoflow.export("composite:s2", tmp_path / "m.tif", workspace=workspace, mosaic=True)
    one, two = (xr.open_zarr(made.path, group=f"tiles/T{k}", mask_and_scale=False).load() for k in (1, 2))
    for name, path in (("B04", "m.tif"), ("count", "m_count.tif")):
        expected = np.zeros((110, 130), "u2")
        expected[20:, 30:] = two[name]
        lead = one["B04"].values != 0
        only = np.ones(SHAPE, bool)
        only[20:, 30:] = two["B04"].values[:70, :70] == 0
        expected[:90, :100] = np.where(lead | only, one[name], expected[:90, :100])
        with rasterio.open(tmp_path / path) as f:
            np.testing.assert_array_equal(f.read(1), expected)


def test_tiles_that_make_no_mosaic(workspace, tmp_path):
    values, _ = scenes()
    grids = {"T1": grid(SHAPE), "T2": grid(SHAPE, crs="EPSG:32633"), "T3": grid(SHAPE, 500_305)}
    make_cube(workspace, "s2", dict.fromkeys(grids, values), TIMES, grids=grids)
    eoflow.composite("s2", "2021-05", workspace=workspace)
    with pytest.raises(BadInput, match="T1 and T2 differ in CRS"):
        eoflow.export("composite:s2", tmp_path / "m.tif", workspace=workspace, mosaic=True)
    assert not list(tmp_path.glob("*.tif"))


def physical(shape=(40, 50), crs="EPSG:32632") -> xr.Dataset:
    """What a notebook has: decoded values, a CRS written by rioxarray's conventions."""
    g = grid(shape, crs=crs)
    from eoflow.cube_layout import mapping_attrs

    values = np.random.default_rng(0).random(shape).astype("f4")
    values[0] = np.nan
    return xr.Dataset(
        {"ndvi": (("y", "x"), values, {"units": "1", "long_name": "index"})},
        {"y": g.y(), "x": g.x(), "spatial_ref": ((), 0, mapping_attrs(g)), "time": np.datetime64("2020-01-02", "ns")},
    )


def test_any_dataset_with_a_crs(tmp_path):
    ds = physical()
    report = eoflow.export(ds, tmp_path / "a.tif", compress="zstd")
    with rasterio.open(tmp_path / "a.tif") as f:
        np.testing.assert_array_equal(f.read(1), ds["ndvi"])
        assert np.isnan(f.nodata)
        assert f.compression.name == "zstd"
    item = item_of(report.items[0])
    assert item.assets["data"].to_dict()["bands"][0]["nodata"] == "nan"
    part = ds.isel(y=slice(10, 30), x=slice(5, None))  # the GeoTransform is that of the whole
    eoflow.export(part.expand_dims("time"), tmp_path / "b.tif", stac=False)
    with rasterio.open(tmp_path / "b.tif") as f:
        assert f.transform.to_gdal() == (500050, 10, 0, 4999900, 0, -10)
        np.testing.assert_array_equal(f.read(1), part["ndvi"])
    packed = ds.copy()
    packed["ndvi"].encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 0.5, "_FillValue": -999}
    eoflow.export(packed, tmp_path / "c.tif", stac=False)
    with rasterio.open(tmp_path / "c.tif") as f:
        stored = f.read(1)
        assert (f.dtypes, f.nodata, f.scales) == (("int16",), -999, (0.001,))
    assert (stored[0] == -999).all()
    np.testing.assert_allclose(stored[1:] * 0.001 + 0.5, ds["ndvi"][1:], atol=0.00051)


def test_overviews_leave_nodata_out(tmp_path):
    ds = physical((1500, 1400))
    ds["ndvi"].values[:, ::2] = np.nan
    ds["ndvi"].values[1:, 1::2] = 0.5
    ds["classes"] = (("y", "x"), np.where(np.arange(1400) % 4 < 3, 1, 7)[None].repeat(1500, 0).astype("u1"))
    ds["classes"].attrs = {"flag_values": [1, 7], "flag_meanings": "land water", "_FillValue": 255}
    report = eoflow.export(ds, tmp_path / "o.tif", stac=False)
    assert all(valid_cog(f) for f in report.files)
    with rasterio.open(tmp_path / "o.tif", overview_level=0) as f:
        assert (f.read(1)[5:] == 0.5).all()
    with rasterio.open(tmp_path / "o_classes.tif", overview_level=0) as f:
        assert set(np.unique(f.read(1))) <= {1, 7}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"product": "s2:T9:2021"}, "no tile 'T9'"),
        ({"product": "s2:T1:2021"}, "2 scenes"),
        ({"product": "s2:T1:2020"}, "0 scenes"),
        ({"product": "s2"}, "DATASET:TILE:TIME"),
        ({"product": "composite:s2"}, "eoflow composite"),
        ({"product": "nothing.zarr"}, "there is no"),
        ({"bands": ["B4"]}, "B04"),
        ({"dest": "a.jpg"}, "does not end in"),
        ({"dest": "there.tif"}, "exists already"),
        ({"compress": "rar"}, "deflate"),
    ],
)
def test_what_is_wrong_is_said(workspace, cube, tmp_path, how, words):
    (tmp_path / "there.tif").write_text("precious")
    how = {"product": "s2:T1:2021-05-03", "dest": "a.tif", **how}
    with pytest.raises(BadInput, match=words):
        eoflow.export(how.pop("product"), tmp_path / how.pop("dest"), workspace=workspace, **how)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.tif", "workspace"]
    assert (tmp_path / "there.tif").read_text() == "precious"


def test_datasets_that_are_no_image(tmp_path):
    with pytest.raises(BadInput, match="spatial_ref"):
        eoflow.export(physical().drop_vars("spatial_ref"), tmp_path / "a.tif")
    with pytest.raises(BadInput, match="more than one image"):
        eoflow.export(physical().expand_dims(level=[1, 2]), tmp_path / "a.tif")
    with pytest.raises(BadInput, match="says the time"):
        eoflow.export(physical().drop_vars("time"), tmp_path / "a.tif")
    with pytest.raises(BadInput, match="are not even"):
        eoflow.export(physical().isel(y=[0, 1, 3]), tmp_path / "a.tif")


def test_overwrite_and_a_failure(tmp_path, monkeypatch):
    ds = physical()
    eoflow.export(ds, tmp_path / "a.tif")
    before = (tmp_path / "a.tif").read_bytes()

    def fail(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as m:
        m.setattr("rasterio.shutil.copy", fail)
        with pytest.raises(Failure, match="No space"):
            eoflow.export(ds + 1, tmp_path / "a.tif", overwrite=True)
    assert (tmp_path / "a.tif").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.tif"]
    more = ds.copy()
    more["ndvi"] = more["ndvi"].copy(data=ds["ndvi"].values + 1)
    eoflow.export(more, tmp_path / "a.tif", overwrite=True)
    with rasterio.open(tmp_path / "a.tif") as f:
        np.testing.assert_array_equal(f.read(1), more["ndvi"])
    item_of(tmp_path / "a.json")
