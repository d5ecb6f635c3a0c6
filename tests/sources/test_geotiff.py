"""Source `geotiff`: names, tiles, bands of loose rasters, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import write

from eoflow import registry
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources import geotiff_names as gn
from eoflow.sources.base import AssetCorrupt, AssetMissing
from eoflow.sources.geotiff import GeotiffSource
from eoflow.sources.scene import QUALITY, Grid, Scene, SceneSource
from eoflow.times import Period
from eoflow.workspace import check_name

ONES = np.ones((70, 80), np.uint16)
B4 = {"B04": {"index": 1, "units": "1", "scale": 1e-4, "offset": 0.0}}


def source(context, paths, *, bands=None, quality=None, sensor="unknown", level="unknown", **args) -> GeotiffSource:
    paths = [str(p) for p in (paths if isinstance(paths, list) else [paths])]
    entry = SceneEntry.model_validate(
        {
            "name": "x", "title": "x", "source": {"driver": "geotiff", "args": {"paths": paths, **args}},
            "sensor": sensor, "level": level, "bands": B4 if bands is None else bands, "quality": quality or {},
            "schedule": {"start": "1950"},
        }
    )  # fmt: skip
    return registry.load("sources", "geotiff")(entry, context)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("s2_ROIs2017_146_ImgNo_5_2018-03-07_patch_0", "2018-03-07"),
        ("scene_20180307", "2018-03-07"),
        ("scene20180307T101530Z_B04", "2018-03-07T10:15:30"),
        ("a_2018_03_07", "2018-03-07"),
        ("20180307101530", "2018-03-07T10:15:30"),
        ("20180307_20180307T10", "2018-03-07"),
        ("2018-03-07T1015", "2018-03-07T10:15"),
        ("S2A_MSIL1C_20180307T101021_N0206_R022_T32TPM_20180307T121234", "2018-03-07T10:10:21"),
        ("S1A_IW_GRDH_1SDV_20180307T052710_20180307T052735_020905_023E2F_1234", "2018-03-07T05:27:10"),
        ("LC08_L1TP_191031_20180307_20200901_02_T1", "2018-03-07"),
        ("T32TPM_20180307T101021_B04", "2018-03-07T10:10:21"),
        ("Spain_7370579_S1Hand", None),
        ("id_201803071", None),
        ("x_20181340", None),
        ("x_20180230", None),
        ("x_20180307123", None),
        ("v12345678901234567", None),
        ("chip_99990101", None),
    ],
)
def test_the_date_in_a_name(name, time):
    found = gn.time_of(f"/data/{name}.tif")
    assert found == (None if time is None else np.datetime64(time, "ns"))


def test_the_date_of_the_folder():
    assert gn.time_of("/data/2018-03-07/B04.tif") == np.datetime64("2018-03-07")


def test_two_dates_are_not_guessed():
    with pytest.raises(BadInput, match="several times") as e:
        gn.time_of("/data/mosaic_20180101_20180131.tif")
    assert "pattern" in str(e.value)


@settings(max_examples=30, deadline=None)
@given(st.datetimes(min_value=__import__("datetime").datetime(1984, 1, 1)).filter(lambda t: t.year < 2100))
def test_dates_go_round(t):
    for text in (f"{t:%Y%m%d}", f"{t:%Y-%m-%d}"):
        assert gn.dates_in(f"a_{text}_b") == [np.datetime64(t.date())]
    assert gn.parse_stamp(f"{t:%Y%j}") == np.datetime64(t.date())
    assert gn.parse_stamp(f"{t:%Y%m%dT%H%M%S}") == np.datetime64(t.replace(microsecond=0))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=30))
def test_any_text_makes_a_safe_group(text):
    assert check_name(gn.safe(text)) == gn.safe(text)


def test_tile_names_are_readable():
    degrees = Grid("EPSG:4326", (9e-5, 0, 12.712508743217409, 0, -9e-5, 42.07547094064697), (256, 256))
    assert gn.tile_name(degrees) == "EPSG4326_12.7125E_42.0755N"
    south = Grid("EPSG:32734", (10, 0, 502647.7, 0, -10, 9507917.4), (256, 256))
    assert gn.tile_name(south) == "EPSG32734_502648E_9507917N"
    west = Grid("EPSG:4326", (9e-5, 0, -57.76, 0, -9e-5, -24.37), (5, 5))
    assert gn.tile_name(west) == "EPSG4326_57.7600W_24.3700S"


# --- plan ----------------------------------------------------------------------------------------------------------


def test_files_of_one_grid_are_one_tile_with_many_times(tmp_path, context):
    for day in ("2018-03-07", "2018-01-02", "2018-02-03"):
        write(tmp_path / f"s_{day}.tif", ONES)
    write(tmp_path / "far_2018-01-02.tif", ONES, origin=(700_000, 4_600_000))
    (tmp_path / "notes.txt").write_text("x")
    src = source(context, tmp_path)
    assert isinstance(src, SceneSource)
    scenes = src.plan(None)
    assert [s.id for s in scenes] == ["far_2018-01-02", "s_2018-01-02", "s_2018-02-03", "s_2018-03-07"]
    assert [s.tile for s in scenes] == ["EPSG32633_700000E_4600000N"] + ["EPSG32633_500000E_4600000N"] * 3
    for s in scenes:
        assert Scene.from_json(s.to_json()) == s
    assert len(src.plan(Period.parse("2018-02"))) == 1
    w, s, e, n = scenes[0].bbox
    assert len(src.plan(None, (w, s, e, n))) == 1
    with rasterio.open(tmp_path / "far_2018-01-02.tif") as ds:
        corner = rasterio.warp.transform(ds.crs, "EPSG:4326", [ds.bounds.left], [ds.bounds.top])
    assert w <= corner[0][0] <= e
    assert s <= corner[1][0] <= n + 1e-9


def test_the_same_corner_with_another_size_is_another_tile(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES)
    write(tmp_path / "b_20180102.tif", ONES[:50])
    write(tmp_path / "c_20180103.tif", ONES)
    tiles = [s.tile for s in source(context, tmp_path).plan(None)]
    assert tiles == ["EPSG32633_500000E_4600000N", "EPSG32633_500000E_4600000N_50x80_10", "EPSG32633_500000E_4600000N"]


def test_chips_without_date_take_the_time_that_is_said(tmp_path, context):
    for i, x in enumerate((500_000, 600_000)):
        write(tmp_path / f"Chip_{i}.tif", ONES, origin=(x, 4_600_000))
    with pytest.raises(BadInput, match=r"no date: Chip_0.tif and 1 more") as e:
        source(context, tmp_path).plan(None)
    assert "--time" in str(e.value)
    scenes = source(context, tmp_path, time="2018-08-17", tile_by="name").plan(None)
    assert [(s.tile, str(s.time)[:10]) for s in scenes] == [("Chip_0", "2018-08-17"), ("Chip_1", "2018-08-17")]
    per_file = source(context, tmp_path, time={str(tmp_path): "2018", str(tmp_path / "Chip_1.tif"): "2019"})
    assert [str(s.time)[:4] for s in per_file.plan(None)] == ["2018", "2019"]


def test_a_pattern_tells_time_tile_and_which_files(tmp_path, context):
    write(tmp_path / "P12_2018061.tif", ONES)
    write(tmp_path / "P13_2018061.tif", ONES)
    write(tmp_path / "preview.tif", ONES)
    pattern = r"(?P<tile>P\d+)_(?P<time>\d{7})\.tif"
    scenes = source(context, tmp_path, pattern=pattern).plan(None)
    assert [(s.tile, str(s.time)[:10]) for s in scenes] == [("P12", "2018-03-02"), ("P13", "2018-03-02")]
    with pytest.raises(BadInput, match="matches none"):
        source(context, tmp_path, pattern=r"(?P<time>\d{8})").plan(None)
    for wrong in ("(", r"(?P<when>\d+)"):
        with pytest.raises(BadInput, match="pattern"):
            source(context, tmp_path, pattern=wrong)


def test_two_files_of_one_tile_and_time(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES)
    write(tmp_path / "b_20180101.tif", ONES)
    with pytest.raises(BadInput, match="two files hold tile EPSG32633_500000E_4600000N at 2018-01-01") as e:
        source(context, tmp_path).plan(None)
    assert "a_20180101.tif and" in str(e.value.where)
    assert len(source(context, tmp_path, tile_by="name").plan(None)) == 2


def test_same_stem_in_two_folders(tmp_path, context):
    for folder, x in (("one", 500_000), ("two", 600_000)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a_20180101.tif", ONES, origin=(x, 4_600_000))
    assert [s.id for s in source(context, tmp_path).plan(None)] == ["a_20180101", "two/a_20180101"]


def test_an_unreadable_file_is_planned_among_its_neighbours(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES)
    (tmp_path / "a_20180102.tif").write_bytes(b"II*\0 not much")
    src = source(context, tmp_path)
    good, bad = src.plan(None)
    assert bad.tile == good.tile
    src.header(good)
    with pytest.raises(AssetCorrupt) as e:
        src.header(bad)
    assert str(tmp_path / "a_20180102.tif") in str(e.value)


def test_a_file_that_is_written_again_has_another_version(tmp_path, context):
    path = write(tmp_path / "a_20180101.tif", ONES)
    src = source(context, tmp_path)
    before = src.plan(None)[0].version
    write(path, ONES * 7, compress="lzw")
    assert src.plan(None)[0].version != before


def test_wrong_arguments(tmp_path, context):
    with pytest.raises(BadInput, match="did you mean 'pattern'"):
        source(context, tmp_path, patern="x")
    with pytest.raises(BadInput, match="tile_by"):
        source(context, tmp_path, tile_by="place")
    with pytest.raises(BadInput, match="no raster file"):
        source(context, tmp_path / "*.tif").plan(None)
    with pytest.raises(BadInput, match="not one of this dataset"):
        source(context, tmp_path).readable("/etc/passwd")


# --- bands ---------------------------------------------------------------------------------------------------------


def test_a_file_a_band_with_a_mask(tmp_path, context):
    for day in ("20180101", "20180102"):
        for band, value in (("B02", 2), ("B04", 4), ("SCL", 5)):
            shape = ONES[:35, :40] if band == "SCL" else ONES
            write(tmp_path / f"T33_{day}_{band}.tif", shape * np.uint16(value), res=20 if band == "SCL" else 10)
    one = {"units": "1", "scale": 1e-4, "offset": 0.0}
    bands = {"red": {"source_name": "B04", **one}, "blue": {"source_name": "B02", **one}}
    src = source(context, tmp_path, bands=bands, quality={"rule": "scl", "source_name": "SCL"})
    scenes = src.plan(None)
    assert [s.id for s in scenes] == ["T33_20180101", "T33_20180102"]
    filled = src.header(scenes[1])
    assert list(filled.bands) == ["red", "blue", QUALITY]
    assert filled.bands["red"].href.endswith("T33_20180102_B04.tif")
    assert filled.bands[QUALITY].grid.shape == (35, 40)
    assert filled.bands["red"].grid.shape == (70, 80)
    values = {n: src.reader.read(b, b.grid).max() for n, b in filled.bands.items()}
    assert values == {"red": 4, "blue": 2, QUALITY: 5}
    (tmp_path / "T33_20180102_B02.tif").unlink()
    with pytest.raises(AssetMissing, match="no file for B02"):
        src.header(src.plan(None)[1])


def test_bands_by_description(tmp_path, context):
    write(tmp_path / "a_20180101.tif", np.stack([ONES, ONES * 2]), descriptions=("VV", "VH"))
    write(tmp_path / "b_20180102.tif", np.stack([ONES * 2, ONES]), descriptions=("VH", "VV"))
    one = {"units": "1", "scale": 1.0, "offset": 0.0}
    by_name = source(context, tmp_path, bands={"VH": one, "VV": one})
    for s in map(by_name.header, by_name.plan(None)):
        assert {n: by_name.reader.read(b, b.grid).max() for n, b in s.bands.items()} == {"VH": 2, "VV": 1}
    by_number = source(context, tmp_path, bands={"VV": {"index": 1, "source_name": "VV", **one}})
    first, second = by_number.plan(None)
    by_number.header(first)
    with pytest.raises(AssetCorrupt, match="band 1 of the file is 'VH'"):
        by_number.header(second)


def test_every_band_of_the_first_file_where_the_entry_names_none(tmp_path, context):
    write(tmp_path / "a_20180101.tif", np.stack([ONES, ONES]).astype(np.float32), descriptions=("wet", "dry soil"))
    src = source(context, tmp_path, bands=None)
    src.entry = src.entry.model_copy(update={"bands": None})
    assert list(src.bands) == ["wet", "dry_soil"]


def test_wrong_number_of_bands(tmp_path, context):
    write(tmp_path / "a_20180101.tif", np.stack([ONES] * 3))
    write(tmp_path / "b_20180102.tif", np.stack([ONES] * 2))
    src = source(context, tmp_path, count=3)
    good, bad = src.plan(None)
    src.header(good)
    with pytest.raises(AssetCorrupt, match="the file has 2 bands, and the files of dataset 'x' have 3"):
        src.header(bad)


def test_another_data_type(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES.astype(np.float32))
    src = source(context, tmp_path, bands={"B04": {**B4["B04"], "dtype": "uint16"}})
    with pytest.raises(AssetCorrupt, match="is float32, and the dataset stores uint16"):
        src.header(src.plan(None)[0])


def test_missing_crs(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES, crs=None)
    src = source(context, tmp_path)
    with pytest.raises(AssetCorrupt, match="no CRS"):
        src.header(src.plan(None)[0])


def test_nodata_nan_of_integers(tmp_path, context):
    path = write(tmp_path / "a_20180101.tif", ONES, nodata=321)
    path.write_bytes(path.read_bytes().replace(b"321\0", b"nan\0"))
    src = source(context, tmp_path)
    with pytest.raises(AssetCorrupt, match="nodata is NaN, which uint16 pixels cannot hold"):
        src.header(src.plan(None)[0])
    said = source(context, tmp_path, bands={"B04": {**B4["B04"], "nodata": 0}})
    assert said.header(said.plan(None)[0]).bands["B04"].nodata == 0


def test_nodata_nan_of_floats_is_plain_nan(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES.astype(np.float32), nodata=np.nan)
    src = source(context, tmp_path, bands={"VV": {"index": 1, "units": "dB"}})
    band = src.header(src.plan(None)[0]).bands["VV"]
    assert (band.nodata, band.scale, band.offset, band.units) == (None, 1.0, 0.0, "dB")


def test_unknown_radiometry_says_what_to_write(tmp_path, context):
    write(tmp_path / "a_20180101.tif", ONES)
    src = source(context, tmp_path, bands={"b1": {"index": 1}})
    with pytest.raises(BadInput, match="units, scale, offset unknown") as e:
        src.header(src.plan(None)[0])
    assert "--set units=1" in str(e.value)
    assert "--set bands.b1.units=" in str(e.value)


def test_what_the_file_says_of_itself_is_the_scenes_own(tmp_path, context):
    path = write(tmp_path / "a_20180101.tif", ONES)
    with rasterio.open(path, "r+") as ds:
        ds.scales, ds.offsets, ds.units = (2e-4,), (-0.1,), ("1",)
    src = source(context, tmp_path)
    band = src.header(src.plan(None)[0]).bands["B04"]
    assert (band.scale, band.offset) == (2e-4, -0.1)


def test_the_baseline_in_the_tags_decides_the_offset(tmp_path, context):
    for day, baseline in (("20210101", "03.00"), ("20220301", "04.00")):
        with rasterio.open(write(tmp_path / f"a_{day}.tif", ONES * 2000), "r+") as ds:
            ds.update_tags(PROCESSING_BASELINE=baseline)
    bands = {"B04": {"index": 1, "units": "1", "scale": 1e-4, "offset": -0.1}}
    src = source(context, tmp_path, bands=bands, sensor="sentinel-2", level="L2A")
    old, new = map(src.header, src.plan(None))
    assert (old.baseline, old.bands["B04"].offset) == ("03.00", 0.0)
    assert (new.baseline, new.bands["B04"].offset) == ("04.00", -0.1)
    assert new.bands["B04"].nodata == 0


def test_headers_come_from_the_files_of_a_worker_too(tmp_path, context):
    import pickle

    write(tmp_path / "a_20180101.tif", ONES)
    src = source(context, tmp_path)
    scene = src.header(src.plan(None)[0])
    copy = pickle.loads(pickle.dumps(src))
    assert copy.header(copy.plan(None)[0]) == scene
    assert Path(scene.bands["B04"].href).is_absolute()
