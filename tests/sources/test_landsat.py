from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scenefiles import ground, write_landsat

from eoflow import registry
from eoflow.catalog_scenes import BandEntry, QualityEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.quality import Quality, from_qa_pixel
from eoflow.sources import landsat
from eoflow.sources.base import AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.radiometry import cube_band
from eoflow.sources.raster import RasterReader
from eoflow.sources.scene import QUALITY, Grid, Scene, SceneSource
from eoflow.times import Period

CONTEXT = SourceContext(Path(), np.datetime64("2024-01-01", "ns"))
PRODUCT = "LC08_L2SP_008059_20191201_20200825_02_T1"


def source(entry: SceneEntry, **changes) -> landsat.LandsatSource:
    src = landsat.LandsatSource(entry.model_copy(update=changes), CONTEXT)
    assert isinstance(src, SceneSource)
    return src


def bands(*names: str) -> dict[str, np.ndarray]:
    out = {n: ground(i, low=7000, high=40000) for i, n in enumerate(names)}
    out["QA_PIXEL"] = np.where(out[names[0]] == 0, 1, 21824).astype(np.uint16)
    return out


@pytest.fixture
def scene_folder(tmp_path):
    return write_landsat(tmp_path / "scene", bands("SR_B4", "SR_B5", "ST_B10"))


def test_is_registered():
    assert registry.load("sources", "landsat") is landsat.LandsatSource


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["", f"{PRODUCT}_MTL.json", f"{PRODUCT}_MTL.xml", f"{PRODUCT}_SR_stac.json"])
def test_the_real_scene_by_folder_mtl_and_stac_item(realdata, name):
    path = str(realdata / "stac/landsat_assets3" / name)
    entry = landsat.entry_of("amazon", [path])
    assert (entry.sensor, entry.level, entry.quality.source_name) == ("landsat-8", "L2SP", "QA_PIXEL")
    assert (entry.schedule.start, entry.schedule.end) == ("2019-12-01", "2019-12-01")
    (scene,) = source(entry).plan(None)
    assert (scene.id, scene.tile, scene.version) == ("LC08_L2SP_008059_20191201_02", "008059", "20200825 T1")
    assert scene.time == np.datetime64("2019-12-01T15:13:51.861099", "ns")
    assert scene.bbox == pytest.approx((-76.09, 0.39, -74.05, 2.49), abs=0.01)
    assert list(scene.bands) == [*(f"SR_B{i}" for i in range(1, 8)), QUALITY]
    filled = source(entry).header(scene)
    assert Scene.from_json(filled.to_json()) == filled
    grid = filled.bands["SR_B4"].grid
    assert grid == Grid("EPSG:32618", (444.78515625, 0, 378285, 0, -453.57421875, 275715), (512, 512))


@pytest.mark.realdata
def test_1000_random_pixels_of_each_band_equal_those_computed_by_hand(realdata):
    import rasterio

    folder = realdata / "stac/landsat_assets3"
    level2 = json.loads((folder / f"{PRODUCT}_MTL.json").read_text())["LANDSAT_METADATA_FILE"][
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"
    ]
    entry = landsat.entry_of("amazon", [str(folder)])
    src = source(entry)
    scene = src.header(src.plan(None)[0])
    reader, rng = RasterReader(src.readable), np.random.default_rng(7)
    for i in range(1, 8):
        band = scene.bands[f"SR_B{i}"]
        assert band.grid is not None
        spec = cube_band(f"SR_B{i}", None, band, entry.sensor, entry.level)
        assert (spec.scale, spec.offset) == (band.scale, band.offset)
        got = spec.physical(reader.read(band, band.grid))
        with rasterio.open(folder / f"{PRODUCT}_SR_B{i}.TIF") as ds:
            raw = ds.read(1)
        rows, columns = rng.integers(0, 512, (2, 1000))
        by_hand = raw[rows, columns] * float(level2[f"REFLECTANCE_MULT_BAND_{i}"]) + float(
            level2[f"REFLECTANCE_ADD_BAND_{i}"]
        )
        by_hand[raw[rows, columns] == 0] = np.nan
        assert np.isfinite(by_hand).sum() > 500
        np.testing.assert_allclose(got[rows, columns], by_hand, rtol=0, atol=3e-7)
    assert scene.bands[QUALITY].grid is not None
    quality = from_qa_pixel(reader.read(scene.bands[QUALITY], scene.bands[QUALITY].grid))
    with rasterio.open(folder / f"{PRODUCT}_QA_PIXEL.TIF") as ds:
        qa = ds.read(1)
    assert set(np.unique(quality[qa & 1 == 1])) == {Quality.NODATA}
    assert (quality == Quality.CLOUD).mean() > 0.2  # its metadata say 81 % of the land


@pytest.mark.parametrize("metadata", [("json",), ("xml",), ("stac",), ("json", "xml", "stac")])
def test_each_kind_of_metadata_alone(tmp_path, metadata):
    folder = write_landsat(tmp_path / "s", bands("SR_B4", "ST_B10"), metadata=metadata)
    entry = landsat.entry_of("x", [str(folder)])
    src = source(entry)
    (scene,) = src.plan(None)
    filled = src.header(scene)
    red, heat = filled.bands["SR_B4"], filled.bands["ST_B10"]
    assert (red.scale, red.offset, red.units, red.nodata) == (2.75e-05, -0.2, "1", 0)
    assert (heat.scale, heat.offset, heat.units) == (0.00341802, 149.0, "K")
    assert np.datetime_as_string(filled.time, "s") == "2019-12-01T15:13:51"
    assert filled.bbox == (-76.1, 0.4, -74.0, 2.5)


def test_outside_of_the_quality_band_is_fill_and_not_clear(scene_folder):
    src = source(landsat.entry_of("x", [str(scene_folder)]))
    band = src.header(src.plan(None)[0]).bands[QUALITY]
    assert band.grid is not None
    a, b, c, d, e, f = band.grid.transform
    beside = Grid(band.grid.crs, (a, b, c - 64 * a, d, e, f), (8, 64))
    quality = from_qa_pixel(RasterReader(src.readable).read(band, beside))
    assert (quality == Quality.NODATA).all()


def test_scale_must_be_the_published_one_unless_the_entry_says_it(tmp_path):
    folder = write_landsat(tmp_path / "s", bands("SR_B4"), mult=2e-05)
    with pytest.raises(BadInput, match=r"scale 2e-05 and offset -0\.2, Collection 2 Level-2 has 2\.75e-05"):
        landsat.entry_of("x", [str(folder)])
    good = landsat.entry_of("x", [str(write_landsat(tmp_path / "t", bands("SR_B4")))])
    told = {"SR_B4": BandEntry(scale=2e-05, offset=-0.2)}
    ref = good.source.model_copy(update={"args": {"paths": [str(folder)]}})
    src = source(good, bands=told, source=ref)
    assert src.header(src.plan(None)[0]).bands["SR_B4"].scale == 2e-05


def test_bands_by_common_name_and_missing_ones(scene_folder):
    entry = landsat.entry_of("x", [str(scene_folder)])
    src = source(entry, bands={"red": BandEntry(), "heat": BandEntry(source_name="lwir11")})
    scene = src.header(src.plan(None)[0])
    assert list(scene.bands) == ["red", "heat", QUALITY]
    assert scene.bands["red"].href.endswith("_SR_B4.TIF")
    src = source(entry, bands={"blue": BandEntry(source_name="SR_B2")})
    with pytest.raises(AssetMissing, match="has no SR_B2; it has QA_PIXEL, SR_B4, SR_B5, ST_B10"):
        src.header(src.plan(None)[0])
    next(scene_folder.glob("*_QA_PIXEL.TIF")).unlink()
    src = source(entry)
    with pytest.raises(AssetMissing, match=r"no QA_PIXEL \(the quality layer\)"):
        src.header(src.plan(None)[0])
    src = source(entry, quality=QualityEntry())
    assert QUALITY not in src.header(src.plan(None)[0]).bands


def test_two_scenes_of_a_folder_and_a_reprocessed_one(tmp_path):
    folder = tmp_path / "all"
    write_landsat(folder, bands("SR_B4"))
    write_landsat(folder, bands("SR_B4"), product="LC08_L2SP_008059_20191201_20210101_02_T1")
    write_landsat(folder, bands("SR_B4"), product="LC09_L2SP_008060_20220105_20220120_02_T1")
    entry = landsat.entry_of("x", [str(folder)])
    assert (entry.sensor, entry.schedule.end) == ("landsat-8-9", "2022-01-05")
    scenes = source(entry).plan(None)
    assert [(s.tile, s.version) for s in scenes] == [("008059", "20210101 T1"), ("008060", "20220120 T1")]
    assert len(source(entry).plan(Period.parse("2022"))) == 1
    assert source(entry).plan(None, (10.0, 0.0, 11.0, 1.0)) == []
    (folder / "LC09_L2SP_008060_20220105_20220120_02_T1_MTL.json").write_text("{")
    scenes = source(entry).plan(None)
    assert [s.tile for s in scenes] == ["008059", "008060"]  # one bad scene takes no other with it
    assert source(entry).header(scenes[0]).bands["SR_B4"].dtype == "uint16"
    with pytest.raises(AssetCorrupt, match="the JSON is damaged"):
        source(entry).header(scenes[1])


def test_old_and_new_landsat_do_not_mix_by_band_number(tmp_path):
    folder = tmp_path / "all"
    write_landsat(folder, bands("SR_B4"))
    write_landsat(folder, bands("SR_B4"), product="LE07_L2SP_008059_20020105_20200120_02_T1")
    with pytest.raises(BadInput, match="different colours"):
        landsat.entry_of("x", [str(folder)])


def test_an_old_landsat_has_its_own_names(tmp_path):
    write_landsat(tmp_path / "s", bands("SR_B4"), product="LT05_L2SP_008059_20020105_20200120_02_T1")
    entry = landsat.entry_of("x", [str(tmp_path / "s")])
    assert entry.sensor == "landsat-5"
    src = source(entry)
    band = src.header(src.plan(None)[0]).bands["SR_B4"]
    assert cube_band("SR_B4", None, band, entry.sensor, entry.level).common_name == "nir08"


def item(folder: Path, change) -> Path:
    file = next(folder.glob("*_stac.json"))
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    return file


@pytest.mark.parametrize(
    "href", ["/etc/passwd", "file:///etc/passwd", "../other/X_SR_B4.TIF", "a/../../x.tif", "..\\x.tif", "gopher://x/y"]
)
def test_a_href_that_leaves_the_folder_is_refused(tmp_path, href):
    folder = write_landsat(tmp_path / "s", bands("SR_B4"), metadata=("stac",))
    file = item(folder, lambda raw: raw["assets"]["SR_B4"].update(href=href))
    with pytest.raises(BadInput, match="leaves the folder") as e:
        landsat.entry_of("x", [str(file)])
    assert "asset SR_B4" in str(e.value)


def test_an_item_without_time_of_day_asks_for_the_mtl(tmp_path):
    folder = write_landsat(tmp_path / "s", bands("SR_B4"), metadata=("stac",))
    file = item(folder, lambda raw: raw["properties"].update(datetime="2019-12-01"))
    with pytest.raises(BadInput, match=r"MTL\.json"):
        landsat.entry_of("x", [str(file)])


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (PRODUCT, "LC08_L2SP_008059_20191217_20200825_02_T1", "the metadata are of LC08_L2SP_008059_20191217"),
        ('"SCENE_CENTER_TIME"', '"X"', "no IMAGE_ATTRIBUTES/SCENE_CENTER_TIME"),
        ("15:13:51.8610990Z", "soon", "the time of the scene"),
        ('"2.75e-05"', '"small"', "REFLECTANCE_MULT_BAND_4 is 'small'"),
        ("LANDSAT_METADATA_FILE", "L1_METADATA_FILE", "not a Collection 2 MTL file"),
        ("{", "[", "the JSON is damaged"),
    ],
)
def test_damaged_metadata_are_named(scene_folder, old, new, what):
    good = landsat.entry_of("x", [str(scene_folder)])
    file = scene_folder / f"{PRODUCT}_MTL.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    (scene,) = source(good).plan(None)
    assert (scene.id, scene.tile) == ("LC08_L2SP_008059_20191201_02", "008059")
    with pytest.raises(AssetError) as e:
        source(good).header(scene)
    assert what in str(e.value)
    assert file.name in str(e.value)


def test_an_xml_bomb_is_refused(tmp_path):
    folder = write_landsat(tmp_path / "s", bands("SR_B4"), metadata=("xml",))
    file = folder / f"{PRODUCT}_MTL.xml"
    file.write_text('<!DOCTYPE x [<!ENTITY a "ha">]>' + file.read_text())
    with pytest.raises(BadInput, match="document type"):
        landsat.entry_of("x", [str(folder)])


def test_what_is_no_landsat_scene(tmp_path, scene_folder):
    (tmp_path / "empty").mkdir()
    for path, what in (
        (tmp_path / "empty", r"no MTL\.json"),
        (tmp_path / "nothing", "not a file of a Landsat"),
        (tmp_path / "x.tar", "unpack a .tar first"),
        (scene_folder / f"{PRODUCT.replace('008', '009')}_MTL.json", "no such file"),
    ):
        with pytest.raises(BadInput, match=what):
            landsat.entry_of("x", [str(path)])


def test_truncated_band_is_named(scene_folder):
    file = next(scene_folder.glob("*_SR_B5.TIF"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    src = source(landsat.entry_of("x", [str(scene_folder)]))
    with pytest.raises(AssetCorrupt, match=r"SR_B5\.TIF"):
        read_band(src, "SR_B5")


def read_band(src: landsat.LandsatSource, name: str) -> np.ndarray:
    band = src.header(src.plan(None)[0]).bands[name]
    assert band.grid is not None
    return RasterReader(src.readable).read(band, band.grid)


def test_readable_stays_beside_the_metadata(scene_folder, tmp_path):
    src = source(landsat.entry_of("x", [str(scene_folder / f"{PRODUCT}_MTL.json")]))
    inside = src.plan(None)[0].bands["SR_B4"].href
    assert src.readable(inside) == inside
    shutil.copytree(scene_folder, tmp_path / "other")
    for href in (str(tmp_path / "other" / Path(inside).name), "/etc/passwd", f"{scene_folder}/../other/x.tif"):
        with pytest.raises(BadInput, match="not part of a product"):
            src.readable(href)
