from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import grid, make_cube
from imagescenes import RADAR, SHAPE, TIMES, cloudy, radar_series

import eoflow
from eoflow.errors import BadInput
from eoflow.predict_images.run import predict_dataset
from eoflow.quality import Quality


@pytest.fixture(scope="module")
def rivers(tmp_path_factory):
    from eoflow.workspace import Workspace

    ws = Workspace(tmp_path_factory.mktemp("rivers") / "ws")
    bands, _ = radar_series()
    make_cube(ws, "s1", {"A": bands}, TIMES, bands=RADAR, sensor="sentinel-1", level="RTC")
    return ws


def area_by_geodesics(where, rows: slice, columns: slice) -> float:
    """km2 of a block of pixels, its outline walked in steps of a pixel, on the ellipsoid."""
    from pyproj import Geod, Transformer

    a, _, c, _, e, f = where.transform
    y = np.arange(rows.start, rows.stop + 1)
    x = np.arange(columns.start, columns.stop + 1)
    line = [*((columns.start, r) for r in y), *((k, rows.stop) for k in x),
            *((columns.stop, r) for r in y[::-1]), *((k, rows.start) for k in x[::-1])]  # fmt: skip
    at = np.array(line, float)
    back = Transformer.from_crs(where.crs, "EPSG:4326", always_xy=True)
    lon, lat = back.transform(c + a * at[:, 0], f + e * at[:, 1])
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / 1e6


def test_flood_is_told_from_the_lake_and_measured_on_the_ellipsoid(rivers):
    report = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, before="2024-05-01/2024-05-25",
                             period="2024-06", command="eoflow flood s1")  # fmt: skip
    assert report.made
    assert report.path.startswith(rivers.url("products", "flood", "s1", "otsu"))
    ds = xr.open_zarr(report.path, group="tiles/A")
    assert dict(ds.sizes) == {"time": 1, "y": 96, "x": 112, "date": 1}
    expected = np.zeros(SHAPE)
    expected[:20], expected[20:40] = 2, 1
    np.testing.assert_array_equal(ds["flood"][0], expected)
    np.testing.assert_array_equal(ds["class"][0], expected > 0)
    np.testing.assert_array_equal(ds["permanent"], expected == 2)
    assert ds["probability"][0, :40].min() > 0.5 > ds["probability"][0, 40:].max()
    assert "earlier" not in zarr.open_group(report.path, mode="r")["tiles/A"]
    (row,) = report.areas
    where = grid(SHAPE)
    assert row["flood_km2"] == pytest.approx(area_by_geodesics(where, slice(20, 40), slice(0, 112)), rel=1e-5)
    assert row["permanent_water_km2"] == pytest.approx(area_by_geodesics(where, slice(0, 20), slice(0, 112)), rel=1e-5)
    assert row["water_km2"] == pytest.approx(row["flood_km2"] + row["permanent_water_km2"])
    assert abs(row["flood_km2"] - 20 * 112 * 1e-4) > 1e-5  # not what the pixel size alone would say


def test_the_same_call_changes_nothing_and_the_product_says_where_it_is_from(rivers):
    first = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers)
    again = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers)
    assert first.made
    assert not again.made
    assert again.path == first.path
    assert again.areas == first.areas
    assert again.tiles == first.tiles
    assert any("Permanent water is not told" in m for m in first.messages)
    root = zarr.open_group(first.path, mode="r")
    said = json.loads(root.attrs["eoflow_provenance"])
    assert said["checkpoint"] == first.checkpoint
    assert said["dataset"] == "s1"
    assert said["model"] == "otsu"
    ds = xr.open_zarr(first.path, group="tiles/A")
    assert [str(t)[:16] for t in ds["time"].values] == TIMES
    assert json.loads(ds["source_items"].values[3, 0])[0]["id"] == "A-3"
    assert "flood" not in ds
    assert ds.attrs["proj:code"] == "EPSG:32632"
    same = eoflow.open("flood", dataset="s1", workspace=rivers)
    assert same.sizes["time"] == 4


def test_a_run_that_was_killed_goes_on(rivers, tmp_path, monkeypatch):
    from eoflow.predict_images import store

    out = tmp_path / "map.zarr"
    wrote = store.StepSink.write
    calls = []

    def fails(self, box, values):
        calls.append(self.step)
        if self.step == 2:
            raise KeyboardInterrupt
        wrote(self, box, values)

    monkeypatch.setattr(store.StepSink, "write", fails)
    with pytest.raises(KeyboardInterrupt):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, out=out)
    assert not out.exists()
    monkeypatch.setattr(store.StepSink, "write", wrote)
    report = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, out=out)
    assert (report.resumed, report.windows) == (2, 2)
    whole = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, out=tmp_path / "other.zarr")
    assert whole.resumed == 0
    one, two = (xr.open_zarr(p, group="tiles/A").load() for p in (out, tmp_path / "other.zarr"))
    xr.testing.assert_equal(one, two)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_area_and_zones(rivers, tmp_path):
    from pyproj import Transformer

    where = grid(SHAPE)
    back = Transformer.from_crs(where.crs, "EPSG:4326", always_xy=True)
    a, _, c, _, e, f = where.transform

    def outline(name, x0, x1, y0, y1):
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        ring = [list(back.transform(c + a * x, f + e * y)) for x, y in corners]
        return {"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}}

    zones = tmp_path / "zones.geojson"
    text = {"type": "FeatureCollection", "features": [outline("lake", 0, 50, 0, 20), outline("land", 0, 112, 50, 96)]}
    zones.write_text(json.dumps(text))
    report = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, zones=zones, period="2024-05-01",
                             out=tmp_path / "z.zarr")  # fmt: skip
    rows = {r["zone"]: r for r in report.areas}
    assert rows["lake"]["water_km2"] == pytest.approx(area_by_geodesics(where, slice(0, 20), slice(0, 50)), rel=1e-3)
    assert rows["land"]["water_km2"] == 0
    assert rows["land"]["land_km2"] > 0.5
    only = tmp_path / "only.geojson"
    only.write_text(json.dumps(outline("cut", 10, 30, 10, 30)))
    inside = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, area=str(only), period="2024-05-01",
                             out=tmp_path / "a.zarr")  # fmt: skip
    ds = xr.open_zarr(inside.path, group="tiles/A")
    seen = np.isfinite(ds["probability"][0].values)
    assert 380 <= int(seen.sum()) <= 420
    assert ds.sizes["y"] < 96
    assert inside.areas[0]["zone"] == "only"


def test_change_between_the_first_and_the_last_date_and_every_pair(rivers, tmp_path):
    report = predict_dataset("change-detection", "s1", model="image-difference", workspace=rivers)
    ds = xr.open_zarr(report.path, group="tiles/A")
    expected = np.zeros(SHAPE, bool)
    expected[20:40] = True
    np.testing.assert_array_equal(ds["class"][0], expected)
    assert [str(t)[:10] for t in ds["source_time"].values[0]] == ["2024-05-01", "2024-06-06"]
    every = predict_dataset("change-detection", "s1", model="image-difference", workspace=rivers, every=True)
    assert xr.open_zarr(every.path, group="tiles/A").sizes["time"] == 3
    mixed = predict_dataset("change-detection", "s1", model="image-difference", workspace=rivers,
                            before="2024-05", after="2024-06-06")  # fmt: skip
    made = xr.open_zarr(mixed.path, group="tiles/A")
    np.testing.assert_array_equal(made["class"][0], expected)
    assert made.sizes["date"] == 4
    with pytest.raises(BadInput, match="two dates"):
        predict_dataset("change-detection", "s1", model="image-difference", workspace=rivers, period="2024-06")


def test_identical_dates_show_no_change(workspace):
    bands, _ = radar_series(dates=1)
    twice = {b: np.repeat(v, 2, axis=0) for b, v in bands.items()}
    make_cube(workspace, "same", {"A": twice}, TIMES[:2], bands=RADAR, sensor="sentinel-1", level="RTC")
    for model in ("image-difference", "change-vector", "ir-mad"):
        report = predict_dataset("change-detection", "same", model=model, workspace=workspace)
        ds = xr.open_zarr(report.path, group="tiles/A")
        assert set(np.unique(ds["class"].values)) == {0}
        assert any("no change" in m for m in report.messages)


def test_radar_without_a_value_gives_nodata_and_says_so(workspace):
    bands = {b: np.full((1, *SHAPE), np.nan, "f4") for b in RADAR}
    quality = {"A": np.full((1, *SHAPE), int(Quality.NODATA), "u1")}
    made = {"bands": RADAR, "quality": quality, "sensor": "sentinel-1", "level": "RTC"}
    make_cube(workspace, "void", {"A": bands}, TIMES[:1], **made)
    report = predict_dataset("segmentation", "void", model="otsu", workspace=workspace)
    ds = xr.open_zarr(report.path, group="tiles/A", mask_and_scale=False)
    assert set(np.unique(ds["class"])) == {255}
    assert np.isnan(ds["probability"].values).all()
    assert any("no pixel could be judged" in m for m in report.messages)
    assert report.areas[0]["water_km2"] == 0
    assert report.areas[0]["nodata_km2"] > 0


def test_clouds_are_filled_and_what_was_seen_stays(workspace):
    values = cloudy(workspace)
    report = predict_dataset("cloud-removal", "s2", model="linear-in-time", workspace=workspace)
    ds = xr.open_zarr(report.path, group="tiles/A", mask_and_scale=False)
    assert [str(t)[:10] for t in ds["time"].values] == ["2024-05-11"]
    for b, v in values.items():
        made = ds[b].values[0]
        assert made.dtype == np.uint16
        assert ds[b].attrs["scale_factor"] == 1e-4
        np.testing.assert_array_equal(made[16:], v[1, 16:])  # seen on the day itself
        wanted = (v[0, :16, :16].astype(float) + v[2, :16, :16]) / 2
        np.testing.assert_allclose(made[:16, :16], wanted, atol=0.51)
    assert (ds["filled"].values == 0).all()
    assert set(np.unique(ds["count"])) == {3, 4}
    at = predict_dataset("cloud-removal", "s2", model="nearest-clear", workspace=workspace, at="2024-05-26")
    made = xr.open_zarr(at.path, group="tiles/A", mask_and_scale=False)
    np.testing.assert_array_equal(made["B02"].values[0], values["B02"][2])
    clear = predict_dataset("cloud-removal", "s2", model="nearest-clear", workspace=workspace, period="2024-05-21")
    assert not clear.made
    assert "nothing to fill" in clear.messages[0]


def test_a_series_of_clouds_alone_is_not_filled_by_a_composite(workspace):
    cloudy(workspace, lost=True)
    report = predict_dataset("cloud-removal", "s2", model="median-composite", workspace=workspace, at="2024-05-11")
    ds = xr.open_zarr(report.path, group="tiles/A", mask_and_scale=False)
    assert set(np.unique(ds["B03"])) == {0}
    assert set(np.unique(ds["count"])) == {0}
    assert set(np.unique(ds["filled"])) == {255}
    assert any("no pixel could be judged" in m for m in report.messages)


def test_wrong_input(rivers, workspace, tmp_path):
    with pytest.raises(BadInput, match="no scene"):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, period="2030")
    with pytest.raises(BadInput, match="no tile"):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, area=(100, 10, 101, 11))
    with pytest.raises(BadInput, match="does not belong"):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, at="2024-05-01")
    with pytest.raises(BadInput, match="no such file"):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, permanent=tmp_path / "none.tif")
    with pytest.raises(BadInput):
        predict_dataset("cloud-removal", "s1", model="otsu", workspace=rivers)
    other = tmp_path / "taken.zarr"
    zarr.create_group(str(other), zarr_format=3)
    with pytest.raises(BadInput, match="something else"):
        predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, out=other)


def test_the_default_is_a_baseline_that_says_so(rivers, monkeypatch):
    monkeypatch.setattr("eoflow.predict_images.choose.candidates", lambda *a, **k: [])
    report = predict_dataset("segmentation", "s1", workspace=rivers, period="2024-05-01")
    assert report.model == "otsu"
    assert "baseline 'otsu'" in report.messages[0]


def test_a_reference_raster_tells_permanent_water(rivers, tmp_path):
    import rasterio
    from affine import Affine

    where = grid(SHAPE)
    path = tmp_path / "water.tif"
    values = np.zeros((48, 56), np.uint8)
    values[:10] = 80  # occurrence in percent, on pixels twice as large
    big = Affine(*where.transform) @ Affine.scale(2)
    with rasterio.open(path, "w", driver="GTiff", height=48, width=56, count=1, dtype="uint8", crs=where.crs,
                       transform=big, nodata=255) as f:  # fmt: skip
        f.write(values, 1)
    report = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers, permanent=path, period="2024-06")
    ds = xr.open_zarr(report.path, group="tiles/A")
    assert set(np.unique(ds["flood"][0, :20])) == {2}
    assert set(np.unique(ds["flood"][0, 20:40])) == {1}


def test_products_can_be_exported(rivers, tmp_path):
    import rasterio

    made = predict_dataset("segmentation", "s1", model="otsu", workspace=rivers)
    report = eoflow.export("flood:s1", tmp_path / "flood.tif", workspace=rivers)
    assert len(report.items) == 1
    with rasterio.open(tmp_path / "flood.tif") as f:
        found = f.read(1)
        assert f.nodata == 255
    np.testing.assert_array_equal(found, xr.open_zarr(made.path, group="tiles/A")["class"].values[-1])
    item = json.loads((tmp_path / "flood.json").read_text())
    assert item["properties"]["datetime"].startswith("2024-06-06")
    early = eoflow.export(f"flood:s1:{made.id}:2024-05-01", tmp_path / "early.tif", workspace=rivers)
    with rasterio.open(early.files[0]) as f:
        assert int((f.read(1) == 1).sum()) == 20 * 112
