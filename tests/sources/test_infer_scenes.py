"""An entry from files given by hand: what is recognised, what is concluded from which evidence, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasters import write

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.geotiff import GeotiffSource
from eoflow.sources.infer_scenes import driver_of, infer_scene_entry, is_scenes, merged
from eoflow.sources.raster import RasterReader

NOW = np.datetime64("2026-01-01", "ns")
RNG = np.random.default_rng(11)


def infer(files, existing=None, **overrides) -> SceneEntry:
    files = [str(f) for f in (files if isinstance(files, list) else [files])]
    return infer_scene_entry("x", files, NOW, overrides, existing)


def sentinel2(low: int = 0, bands: int = 13, clouds: bool = False) -> np.ndarray:
    """Reflectances of a clear (or fully clouded) scene as DN; B10 (band 11 of 13) is dark; `low`: offset in DN."""
    data = RNG.integers(300, 4000, (bands, 64, 64))
    if bands == 13:
        data[10] = RNG.integers(2, 50, (64, 64))
    if clouds:
        data = RNG.integers(2500, 7000, (bands, 64, 64))
    return (data + low).astype(np.uint16)


def decibel() -> np.ndarray:
    return RNG.normal(-12, 3, (2, 64, 64)).astype(np.float32)


# --- what reads what -----------------------------------------------------------------------------------------------


def test_kinds_of_input(tmp_path):
    safe = tmp_path / "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE"
    safe.mkdir()
    landsat = tmp_path / "landsat"
    landsat.mkdir()
    (landsat / "LC08_L2SP_008059_20191201_20200825_02_T1_MTL.json").write_text("{}")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.tif").touch()
    (tmp_path / "a.nc").touch()
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / "a.tif").touch()
    assert driver_of(str(safe)) == "safe"
    assert driver_of(str(safe / "MTD_MSIL2A.xml")) == "safe"
    assert driver_of(str(landsat)) == "landsat"
    assert driver_of(str(landsat / "LC08_L2SP_008059_20191201_20200825_02_T1_SR_B4.TIF")) == "landsat"
    assert driver_of(str(plain)) == "geotiff"
    assert is_scenes([safe]) and is_scenes([plain]) and is_scenes([str(plain / "*.tif")])  # noqa: PT018
    assert not is_scenes([tmp_path / "a.nc"])
    assert not is_scenes([tmp_path / "store.zarr"])
    assert not is_scenes(["https://host/x.zarr"])
    with pytest.raises(BadInput, match="several kinds: geotiff, safe"):
        infer([safe, plain])
    with pytest.raises(BadInput, match="no raster file"):
        infer(tmp_path / "a.nc")
    with pytest.raises(BadInput, match="no file matches"):
        infer(tmp_path / "*.jp2")


def test_merge():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": None}) == {"a": {"b": 5, "c": 2}}


# --- Sentinel-2 ----------------------------------------------------------------------------------------------------


def test_sentinel2_without_any_option(tmp_path):
    for day in ("2018-01-06", "2018-03-07", "2018-05-01"):
        write(tmp_path / f"s2_site_{day}.tif", sentinel2(clouds=day == "2018-03-07"))
    entry = infer(tmp_path)
    assert (entry.sensor, entry.level, entry.source.driver) == ("sentinel-2", "L1C", "geotiff")
    assert list(entry.bands) == [
        "B01",
        "B02",
        "B03",
        "B04",
        "B05",
        "B06",
        "B07",
        "B08",
        "B8A",
        "B09",
        "B10",
        "B11",
        "B12",
    ]
    red = entry.bands["B04"]
    assert (red.index, red.units, red.scale, red.offset, red.nodata, red.dtype) == (4, "1", 1e-4, 0.0, 0, "uint16")
    assert (entry.schedule.start, entry.schedule.end) == ("2018-01-06", "2018-05-01")
    assert entry.source.args["paths"] == [str(tmp_path)]
    for word in ("Sentinel-2", "'s2' in the names", "without the offset", "order of the satellite"):
        assert word in entry.notes
    assert catalog.parse_entry(catalog.to_yaml(entry), "x.yaml") == entry


def test_the_offset_of_baseline_04_is_seen_in_the_darkest_band(tmp_path):
    write(tmp_path / "s2_2023-01-06.tif", sentinel2(1000))
    entry = infer(tmp_path)
    assert entry.bands["B04"].offset == -0.1
    assert "DN - 1000" in entry.notes


def test_mixed_baselines_without_metadata(tmp_path):
    write(tmp_path / "s2_2018-01-06.tif", sentinel2())
    write(tmp_path / "s2_2018-01-16.tif", sentinel2(1000))
    with pytest.raises(BadInput, match=r"before processing baseline 04.00") as e:
        infer(tmp_path)
    assert "--set offset=" in str(e.value)


def test_mixed_baselines_with_tags(tmp_path):
    for day, baseline, low in (("2018-01-06", "02.06", 0), ("2022-03-06", "04.00", 1000)):
        with rasterio.open(write(tmp_path / f"s2_{day}.tif", sentinel2(low)), "r+") as ds:
            ds.update_tags(PROCESSING_BASELINE=baseline)
    assert infer(tmp_path).bands["B04"].offset == -0.1


def test_a_later_file_that_tells_nothing_is_not_taken_for_an_old_one(tmp_path):
    write(tmp_path / "s2_2018-01-06.tif", sentinel2())
    write(tmp_path / "s2_2022-05-06.tif", sentinel2(clouds=True))
    with pytest.raises(BadInput, match="from 2022-01-25 on"):
        infer(tmp_path)
    assert infer(tmp_path, offset=0.0).bands["B04"].offset == 0.0


def test_clouds_alone_tell_nothing(tmp_path):
    write(tmp_path / "s2_2018-01-06.tif", sentinel2(clouds=True))
    with pytest.raises(BadInput, match="neither names, tags nor dark pixels"):
        infer(tmp_path)
    assert infer(tmp_path, baseline="02.06").bands["B12"].offset == 0.0
    assert infer(tmp_path, baseline=4.0).bands["B12"].offset == -0.1


def test_sensor_and_level_that_are_said(tmp_path):
    write(tmp_path / "place_2018-01-06.tif", sentinel2(bands=12))
    with pytest.raises(BadInput, match="units, scale, offset unknown"):
        infer(tmp_path)
    with pytest.raises(BadInput, match="level of these Sentinel-2 bands"):
        infer(tmp_path, sensor="sentinel-2")
    entry = infer(tmp_path, sensor="sentinel-2", level="L2A")
    assert "B10" not in entry.bands
    assert (entry.bands["B8A"].index, entry.bands["B11"].index) == (9, 11)
    write(tmp_path / "place_2018-01-06.tif", sentinel2(bands=7))
    with pytest.raises(BadInput, match="which Sentinel-2 bands the 7 bands are"):
        infer(tmp_path, sensor="sentinel-2", level="L2A")


def test_bands_named_in_another_order(tmp_path):
    order = ("B8", "B4", "B3", "B2", "B8A", "B1", "B5", "B6", "B7", "B9", "B10", "B11", "B12")
    write(tmp_path / "a_2018-01-06.tif", sentinel2(), descriptions=order)
    entry = infer(tmp_path)
    assert entry.sensor == "sentinel-2"
    assert {b: k.index for b, k in entry.bands.items()}["B04"] == 2
    assert entry.bands["B08"].index == 1


def test_a_file_a_band(tmp_path):
    for day in ("20180101", "20180111"):
        for band in ("B02", "B03", "B04", "B8A"):
            write(tmp_path / f"T33TWN_{day}T100000_{band}.tif", sentinel2()[:1])
        write(tmp_path / f"T33TWN_{day}T100000_SCL.tif", np.full((64, 64), 4, np.uint8))
    with pytest.raises(BadInput, match="units, scale, offset unknown"):
        infer(tmp_path)
    entry = infer(tmp_path, sensor="sentinel-2", level="L2A")
    assert list(entry.bands) == ["B02", "B03", "B04", "B8A"]
    assert entry.bands["B8A"].source_name == "B8A"
    assert (entry.quality.rule, entry.quality.source_name) == ("scl", "SCL")
    assert entry.bands["B04"].offset == 0.0


# --- Sentinel-1 and others -----------------------------------------------------------------------------------------


def test_radar_without_units_is_refused_with_a_hint(tmp_path):
    path = write(tmp_path / "chip_2020-01-06.tif", decibel(), descriptions=("VV", "VH"), nodata=np.nan)
    with pytest.raises(BadInput, match="look like decibel") as e:
        infer(path)
    assert "--set units=dB" in str(e.value)
    entry = infer(path, units="dB")
    assert (entry.sensor, entry.bands["VH"].units, entry.bands["VH"].scale) == ("sentinel-1", "dB", 1.0)


@pytest.mark.parametrize(
    ("factor", "said", "hint"),
    [(1.0, 1, "decibel"), (1e-4, "dB", "decibel divided by 10000"), (1e-4, 1, "decibel divided by 10000")],
)
def test_radar_in_other_units_than_said(tmp_path, factor, said, hint):
    path = write(tmp_path / "chip_2020-01-06.tif", decibel() * np.float32(factor), descriptions=("VV", "VH"))
    with pytest.raises(BadInput, match=hint):
        infer(path, units=said)


def test_radar_powers_and_the_factor_that_is_stated(tmp_path):
    power = write(tmp_path / "p_2020-01-06.tif", 10 ** (decibel() / 10), descriptions=("VV", "VH"))
    assert infer(power, units=1).bands["VV"].units == "1"
    with pytest.raises(BadInput, match="linear power"):
        infer(power, units="dB")
    factor = write(tmp_path / "f_2020-01-06.tif", decibel() / 10_000, descriptions=("VV", "VH"))
    assert infer(factor, units="dB", scale=10_000).bands["VV"].scale == 10_000


def test_an_empty_chip_among_others(tmp_path):
    write(tmp_path / "a.tif", decibel() * np.nan, descriptions=("VV", "VH"))
    write(tmp_path / "b.tif", decibel(), descriptions=("VV", "VH"), origin=(600_000, 4_600_000))
    with pytest.raises(BadInput, match="no date"):
        infer(tmp_path, units="dB")
    entry = infer(tmp_path, units="dB", time="2019-05-04")
    assert entry.source.args["tile_by"] == "name"
    assert entry.schedule.start == "2019-05-04"
    with pytest.raises(BadInput, match="decibel"):
        infer(tmp_path, time="2019-05-04")


def test_unknown_bands_and_what_is_said_of_them(tmp_path):
    path = write(tmp_path / "a_2018-01-06.tif", sentinel2(bands=3))
    with pytest.raises(BadInput, match="band b1: units, scale, offset unknown"):
        infer(path)
    assert infer(path, units="DN").bands["b3"].scale == 1.0
    with pytest.raises(BadInput, match="digital numbers"):
        infer(path, units=1, scale=1)
    each = {f"b{i}": {"units": 1, "scale": 1e-4} for i in (1, 2, 3)}
    each["b2"] = {"units": 1, "scale": 2e-4, "offset": -0.1}
    entry = infer(path, bands=each)
    assert (entry.bands["b1"].offset, entry.bands["b2"].offset, entry.bands["b2"].scale) == (0.0, -0.1, 2e-4)
    assert list(infer(path, bands={"b2": None}, units="DN").bands) == ["b1", "b3"]
    with pytest.raises(BadInput, match="unknown key 'sensr'"):
        infer(path, units="DN", sensr="x")


def test_scale_units_and_nodata_from_the_file(tmp_path):
    path = write(tmp_path / "t_2018-01-06.tif", np.full((64, 64), 14_000, np.uint16), nodata=0)
    with rasterio.open(path, "r+") as ds:
        ds.scales, ds.offsets, ds.units, ds.descriptions = (0.02,), (0.0,), ("K",), ("temperature",)
    band = infer(path).bands["temperature"]
    assert (band.units, band.scale, band.offset, band.nodata) == ("K", 0.02, 0.0, 0)


# --- what is wrong -------------------------------------------------------------------------------------------------


def test_files_that_do_not_fit_together(tmp_path):
    write(tmp_path / "s2_2018-01-06.tif", sentinel2())
    other = write(tmp_path / "s2_2018-01-16.tif", sentinel2(bands=12))
    with pytest.raises(BadInput, match=r"differ in bands: 13 in s2_2018-01-06.tif, 12 in s2_2018-01-16.tif"):
        infer(tmp_path)
    write(other, sentinel2().astype(np.float32))
    with pytest.raises(BadInput, match=r"differ in data type: uint16 .* float32"):
        infer(tmp_path)


def test_a_damaged_file_among_good_ones(tmp_path):
    write(tmp_path / "s2_2018-01-06.tif", sentinel2())
    bad = write(tmp_path / "s2_2018-01-16.tif", sentinel2())
    bad.write_bytes(bad.read_bytes()[:-9000])
    with pytest.raises(BadInput, match=r"truncated|damaged") as e:
        infer(tmp_path)
    assert str(bad) in e.value.where
    assert e.value.exit_code == 2


def test_a_bomb_is_bad_input(tmp_path):
    with rasterio.open(
        tmp_path / "s2_2018-01-06.tif", "w", driver="GTiff", height=10**6, width=10**6, count=1, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.transform.from_origin(0, 0, 1, 1), tiled=True, sparse_ok=True,
        compress="deflate", BIGTIFF="YES", blockxsize=4096, blockysize=4096,
    ):  # fmt: skip
        pass
    with pytest.raises(BadInput, match="declares 1000000 x 1000000 pixels"):
        infer(tmp_path, units="DN")


def test_no_crs_double_and_future(tmp_path):
    flat = write(tmp_path / "flat_2018-01-06.tif", sentinel2(), crs=None)
    with pytest.raises(BadInput, match="no CRS"):
        infer(flat)
    flat.unlink()
    write(tmp_path / "s2_a_2018-01-06.tif", sentinel2())
    write(tmp_path / "s2_b_2018-01-06.tif", sentinel2())
    with pytest.raises(BadInput, match="two files hold tile"):
        infer(tmp_path)
    late = write(tmp_path / "s2_2031-01-06.tif", sentinel2())
    with pytest.raises(BadInput, match="future"):
        infer(late, offset=0.0)


def test_later_files_are_added(tmp_path):
    first = write(tmp_path / "s2_2018-01-06.tif", sentinel2())
    later = write(tmp_path / "s2_2018-03-06.tif", sentinel2())
    entry = infer(first)
    more = infer(later, existing=entry)
    assert more.source.args["paths"] == [str(first), str(later)]
    assert (more.schedule.start, more.schedule.end) == ("2018-01-06", "2018-03-06")
    assert more.bands == entry.bands
    other = write(tmp_path / "s2_2018-04-06.tif", sentinel2(bands=12))
    with pytest.raises(BadInput, match="has 12 bands"):
        infer(other, existing=entry)


def test_undated_files_of_two_times(tmp_path, context):
    a = write(tmp_path / "a.tif", decibel(), descriptions=("VV", "VH"))
    b = write(tmp_path / "b.tif", decibel(), descriptions=("VV", "VH"))
    entry = infer(b, time="2019-02-01", existing=infer(a, time="2018-01-01", units="dB"))
    planned = GeotiffSource(entry, context).plan(None)
    assert [(s.tile, str(s.time)[:10]) for s in planned] == [("a", "2018-01-01"), ("b", "2019-02-01")]


# --- real files ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_series_needs_no_option(realdata, context):
    folder = realdata / "s2_cloud" / "ts_ROIs2017_146_patch0"
    entry = infer(folder)
    source = GeotiffSource(entry, context)
    scenes = source.plan(None)
    assert len(scenes) == 20
    assert {s.tile for s in scenes} == {"EPSG4326_12.7125E_42.0755N"}
    assert (entry.level, entry.bands["B04"].offset) == ("L1C", 0.0)
    assert entry == infer(folder, sensor="sentinel-2", level="L1C").model_copy(update={"notes": entry.notes})
    scene = source.header(scenes[7])
    band = scene.bands["B8A"]
    with rasterio.open(band.href) as ds:
        np.testing.assert_array_equal(source.reader.read(band, band.grid), ds.read(9))


@pytest.mark.realdata
def test_real_files_each_in_one_command(realdata):
    chips = realdata / "flood" / "sen1floods11"
    s1 = infer(chips / "S1", time="2018-08-17", units="dB")
    assert (s1.sensor, list(s1.bands)) == ("sentinel-1", ["VV", "VH"])
    with pytest.raises(BadInput, match="decibel"):
        infer(chips / "S1", time="2018-08-17")
    s2 = infer(chips / "S2", time="2018-08-17")
    assert (s2.level, s2.bands["B8A"].dtype, s2.bands["B01"].source_name) == ("L1C", "int16", "B1")
    assert infer(chips / "Label", time="2018-08-17", units="DN", nodata=-1).bands["b1"].nodata == -1
    assert infer(realdata / "cog" / "cog.tif", time="2018-08-17", units="DN").bands["b1"].dtype == "uint16"
    assert infer(realdata / "s2_cloud" / "sen12mscr_pairs", time="2018-06-01").sensor == "sentinel-2"
    for flat in ("s2_cloud/sen12mscr_s1s2_triplets", "flood/water12band/images"):
        with pytest.raises(BadInput, match="no CRS"):
            infer(realdata / flat, time="2018-06-01")


@pytest.mark.realdata
def test_products_go_to_their_own_drivers(realdata):
    assert infer(str(realdata / "s2_safe" / "*.SAFE"), title="Ireland").title == "Ireland"
    landsat = infer(str(realdata / "stac" / "landsat_assets3" / "*.TIF"))
    assert (landsat.source.driver, landsat.sensor) == ("landsat", "landsat-8")
    assert landsat.source.args["paths"] == [str(realdata / "stac" / "landsat_assets3")]


def test_evidence_reads_little(tmp_path):
    """Of a large file only a square in the middle is read."""
    from eoflow.sources.geotiff_evidence import sample

    path = write(tmp_path / "a.tif", np.arange(1000 * 900, dtype=np.float32).reshape(1000, 900))
    reader = RasterReader()
    got = sample(reader, str(path), 1, reader.header(str(path)))
    assert got.shape == (256, 256)
    assert got[0, 0] == (1000 - 256) // 2 * 900 + (900 - 256) // 2
