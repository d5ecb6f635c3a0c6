from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scenefiles import ground, write_safe, write_tif

from eoflow import registry
from eoflow.catalog_scenes import BandEntry, QualityEntry, SceneEntry
from eoflow.errors import BadInput
from eoflow.quality import Quality, from_scl
from eoflow.sources import safe, xmlfile
from eoflow.sources.base import AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.bundle import open_bundle, overlaps
from eoflow.sources.products import box_of
from eoflow.sources.radiometry import cube_band, harmonise
from eoflow.sources.raster import RasterReader
from eoflow.sources.scene import QUALITY, Scene, SceneSource
from eoflow.times import Period

CONTEXT = SourceContext(Path(), np.datetime64("2024-01-01", "ns"))
ALL = dict.fromkeys(("B1", "B2", "B3", "B4", "B8", "B8A", "B10", "B11"), -1000.0)
SCL = np.full((48, 48), 4, np.uint8)


def source(entry: SceneEntry, **changes) -> safe.SafeSource:
    src = safe.SafeSource(entry.model_copy(update=changes), CONTEXT)
    assert isinstance(src, SceneSource)
    return src


def read_band(src: safe.SafeSource, name: str) -> np.ndarray:
    band = src.header(src.plan(None)[0]).bands[name]
    assert band.grid is not None
    return RasterReader(src.readable).read(band, band.grid)


def args(entry: SceneEntry, **more):
    return entry.source.model_copy(update={"args": {**entry.source.args, **more}})


@pytest.fixture
def product(tmp_path):
    bands = {
        ("B02", 10): ground(1),
        ("B02", 20): ground(2, (48, 48)),
        ("B11", 20): ground(3, (48, 48)),
        ("SCL", 20): SCL,
    }
    return write_safe(tmp_path, bands, offsets=ALL)


def real(realdata: Path) -> str:
    return str(next((realdata / "s2_safe").glob("*.SAFE")))


def test_is_registered():
    assert registry.load("sources", "safe") is safe.SafeSource
    assert safe.SafeSource.gives == "scenes"


@pytest.mark.realdata
def test_the_real_product(realdata):
    entry = safe.entry_of("ireland", [real(realdata)])
    assert (entry.sensor, entry.level, entry.bands) == ("sentinel-2", "L2A", None)
    assert (entry.schedule.start, entry.schedule.end) == ("2022-10-05", "2022-10-05")
    assert (entry.quality.rule, entry.tiles.scheme) == ("scl", "footprint")
    (scene,) = source(entry).plan(None)
    assert scene.id == "S2A_MSIL2A_20221005T115411_R023_T29UNU"
    assert (scene.tile, scene.baseline, scene.platform) == ("29UNU", "04.00", "sentinel-2a")
    assert scene.time == np.datetime64("2022-10-05T11:56:49.581767", "ns")
    assert list(scene.bands) == ["B02", "B04", "B8A", QUALITY]
    assert scene.properties["saturated"] == 65535
    from eoflow.sources.raster import bbox_of, grid_of

    w, s, e, n = bbox_of(grid_of(RasterReader().header(scene.bands["B02"].href)))
    assert scene.bbox is not None
    assert w - 0.01 <= scene.bbox[0] <= scene.bbox[2] <= e + 0.01
    assert s - 0.01 <= scene.bbox[1] <= scene.bbox[3] <= n + 0.01
    filled = source(entry).header(scene)
    assert Scene.from_json(filled.to_json()) == filled
    for name in ("B02", "B04", "B8A"):
        band = filled.bands[name]
        assert (band.scale, band.offset, band.nodata, band.units, band.dtype) == (1e-4, -0.1, 0, "1", "uint16")
        assert (band.blocks, band.grid and band.grid.crs) == ((192, 192), "EPSG:32629")


@pytest.mark.realdata
def test_1000_random_pixels_of_each_band_equal_those_computed_by_hand(realdata):
    """By hand: GDAL's pixel, and offset and divisor taken from the XML as text."""
    import re

    import rasterio

    root = Path(real(realdata))
    text = (root / "MTD_MSIL2A.xml").read_text("utf-8")
    found = re.findall(r'<BOA_ADD_OFFSET band_id="(\d+)">(-?\d+)<', text)
    divisor = float(re.findall(r"<BOA_QUANTIFICATION_VALUE[^>]*>(\d+)<", text)[0])
    offsets = {int(k): float(v) for k, v in found}
    entry = safe.entry_of("ireland", [str(root)])
    src = source(entry)
    scene = src.header(src.plan(None)[0])
    reader, rng = RasterReader(src.readable), np.random.default_rng(11)
    for name, number in (("B02", 1), ("B04", 3), ("B8A", 8)):
        band = scene.bands[name]
        assert band.grid is not None
        spec = cube_band(name, None, band, entry.sensor, entry.level)
        stored = reader.read(band, band.grid)
        assert band.scale is not None
        assert band.offset is not None
        stored = harmonise(stored, (band.scale, band.offset), (spec.scale, spec.offset), spec.nodata, spec.dtype)
        got = spec.physical(stored)
        with rasterio.open(next(root.glob(f"GRANULE/*/IMG_DATA/R60m/*_{name}_60m.jp2"))) as ds:
            raw = ds.read(1)
        valid = np.argwhere(raw > 0)
        rows, columns = rng.permutation(valid)[:1000].T
        by_hand = (raw[rows, columns].astype("f8") + offsets[number]) / divisor
        np.testing.assert_allclose(got[rows, columns], by_hand, rtol=0, atol=3e-7)
        assert np.isnan(got[raw == 0]).all()
        assert np.isfinite(got[raw > 0]).all()
    quality = from_scl(reader.read(scene.bands[QUALITY], scene.bands["B02"].grid))  # type: ignore[arg-type]
    with rasterio.open(next(root.glob("GRANULE/*/IMG_DATA/R60m/*_SCL_60m.jp2"))) as ds:
        scl = ds.read(1)
    assert set(np.unique(quality[scl == 0])) == {Quality.NODATA}
    np.testing.assert_array_equal(quality == Quality.CLOUD, (scl >= 8) & (scl <= 10))


@pytest.mark.realdata
def test_truncated_jp2_is_an_error(realdata, tmp_path):
    """GDAL's threads swallow the error of a cut JPEG 2000 and give zeros, which are nodata here."""
    copy = tmp_path / Path(real(realdata)).name
    shutil.copytree(real(realdata), copy)
    file = next(copy.glob("GRANULE/*/IMG_DATA/R60m/*_B04_60m.jp2"))
    file.chmod(0o644)
    content = file.read_bytes()
    for keep in (0.999, 0.3, 0.00001):
        file.unlink()
        file.write_bytes(content[: int(len(content) * keep)])
        src = source(safe.entry_of("cut", [str(copy)]))
        with pytest.raises(AssetCorrupt) as e:
            read_band(src, "B04")
        assert "B04_60m.jp2" in str(e.value)


@pytest.mark.realdata
def test_cloud_probability_as_quality(realdata):
    entry = safe.entry_of("x", [real(realdata)])
    quality = QualityEntry(rule="cloud_probability", source_name="MSK_CLDPRB", threshold=40)
    src = source(entry, quality=quality)
    band = src.header(src.plan(None)[0]).bands[QUALITY]
    assert band.href.endswith("QI_DATA/MSK_CLDPRB_60m.jp2")


def test_each_band_in_its_finest_resolution(product):
    entry = safe.entry_of("x", [str(product)])
    src = source(entry)
    bands = src.header(src.plan(None)[0]).bands
    assert {n: b.grid.transform[0] for n, b in bands.items() if b.grid} == {"B02": 10, "B11": 20, QUALITY: 20}
    src = source(entry, source=args(entry, resolution=20))
    bands = src.header(src.plan(None)[0]).bands
    assert {n: b.grid.transform[0] for n, b in bands.items() if b.grid} == {"B02": 20, "B11": 20, QUALITY: 20}
    src = source(entry, source=args(entry, resolution=10))
    assert list(src.header(src.plan(None)[0]).bands) == ["B02", QUALITY]
    with pytest.raises(BadInput, match="resolution 15"):
        source(entry, source=args(entry, resolution=15))


def test_bands_by_common_name_and_missing_bands(product):
    entry = safe.entry_of("x", [str(product)])
    src = source(entry, bands={"swir": BandEntry(source_name="swir16"), "blue": BandEntry()})
    scene = src.header(src.plan(None)[0])
    assert list(scene.bands) == ["swir", "blue", QUALITY]
    assert "_B11_20m" in scene.bands["swir"].href
    src = source(entry, bands={"B02": BandEntry(), "B04": BandEntry()})
    with pytest.raises(AssetMissing, match="has no B04; it has B02, B11, SCL"):
        src.header(src.plan(None)[0])
    src = source(entry, bands={"B11": BandEntry()}, source=args(entry, resolution=10))
    with pytest.raises(AssetMissing, match="has no B11 at 10 m"):
        src.header(src.plan(None)[0])
    with pytest.raises(BadInput, match="B99"):
        source(entry, bands={"B99": BandEntry()}).plan(None)


def test_missing_scl_says_what_to_write(tmp_path):
    folder = write_safe(tmp_path, {("B02", 10): ground(1)}, offsets=ALL)
    entry = safe.entry_of("x", [str(folder)])
    src = source(entry)
    with pytest.raises(AssetMissing, match=r"quality: \{rule: none\}"):
        src.header(src.plan(None)[0])
    src = source(entry, quality=QualityEntry())
    assert list(src.header(src.plan(None)[0]).bands) == ["B02"]


@pytest.mark.parametrize(
    ("level", "baseline", "offsets", "offset"),
    [
        ("L2A", "04.00", ALL, -0.1),
        ("L2A", "05.09", None, -0.1),
        ("L2A", "03.01", None, 0.0),
        ("L2A", "03.01", ALL, -0.1),  # what the metadata state wins
        ("L2A", None, {**ALL, "B2": -500.0}, -0.05),
        ("L1C", "02.05", None, 0.0),
        ("L1C", "05.10", ALL, -0.1),
    ],
)
def test_offset_from_metadata_then_baseline(tmp_path, level, baseline, offsets, offset):
    folder = write_safe(tmp_path, {("B02", 10): ground(1)}, level=level, baseline=baseline, offsets=offsets)
    src = source(safe.entry_of("x", [str(folder)]), quality=QualityEntry())
    band = src.header(src.plan(None)[0]).bands["B02"]
    assert (band.scale, band.offset) == (1e-4, offset)


def test_no_baseline_and_no_offset_asks_for_the_entrys_word(tmp_path):
    folder = write_safe(tmp_path, {("B02", 10): ground(1), ("SCL", 20): SCL}, baseline=None)
    with pytest.raises(BadInput, match=r"offset: -0\.1"):
        safe.entry_of("x", [str(folder)])
    entry = SceneEntry.model_validate(
        {
            "name": "x", "title": "x", "source": {"driver": "safe", "args": {"paths": [str(folder)]}},
            "sensor": "sentinel-2", "level": "L2A", "schedule": {"start": "2022-10-05"},
            "bands": {"B02": {"scale": 0.0001, "offset": 0.0}},
        }
    )  # fmt: skip
    src = source(entry)
    assert src.header(src.plan(None)[0]).bands["B02"].offset == 0.0


def test_two_baselines_come_out_on_one_scale(tmp_path):
    surface = ground(4).astype(int)
    new = np.where(surface > 0, surface + 1000, 0).astype(np.uint16)
    write_safe(tmp_path / "a", {("B02", 10): ground(4)}, baseline="03.01")
    write_safe(tmp_path / "b", {("B02", 10): new}, baseline="05.00", tile="29UPU")
    src = source(safe.entry_of("x", [str(tmp_path / "*/*.SAFE")]), quality=QualityEntry())
    stored = []
    for scene in src.plan(None):
        band = src.header(scene).bands["B02"]
        assert band.grid is not None
        assert band.scale is not None
        assert band.offset is not None
        spec = cube_band("B02", None, band, "sentinel-2", "L2A")
        pixels = RasterReader(src.readable).read(band, band.grid)
        stored.append(harmonise(pixels, (band.scale, band.offset), (spec.scale, spec.offset), spec.nodata, spec.dtype))
    np.testing.assert_array_equal(*stored)
    assert stored[0].max() > 1000


def test_a_reprocessed_product_replaces_the_old_one(tmp_path):
    bands = {("B02", 10): ground(1)}
    write_safe(tmp_path, bands, baseline="03.01", generated="20221005T164454")
    write_safe(tmp_path, bands, baseline="05.00", generated="20230101T000000")
    (scene,) = source(safe.entry_of("x", [str(tmp_path)])).plan(None)
    assert (scene.baseline, scene.version) == ("05.00", "05.00 2023-01-01T00:00:00Z")


def test_two_datastrips_of_one_tile_are_both_kept(tmp_path):
    bands = {("B02", 10): ground(1)}
    write_safe(tmp_path, bands, offsets=ALL, generated="20221005T164454")
    write_safe(tmp_path, bands, offsets=ALL, generated="20221005T180000", strip="20221005T115800",
               sensed="2022-10-05T11:58:30Z")  # fmt: skip
    ids = [s.id for s in source(safe.entry_of("x", [str(tmp_path)])).plan(None)]
    assert ids == ["S2A_MSIL2A_20221005T115411_R023_T29UNU", "S2A_MSIL2A_20221005T115411_R023_T29UNU_S20221005T115800"]


def test_period_and_area(product):
    src = source(safe.entry_of("x", [str(product)]))
    assert len(src.plan(Period.parse("2022-10-05"))) == 1
    assert src.plan(Period.parse("2022-10-06")) == []
    assert len(src.plan(None, (-8.5, 52.5, -8.0, 53.0))) == 1
    assert src.plan(None, (10.0, 52.5, 11.0, 53.0)) == []


def test_a_zip_is_read_in_place(product, tmp_path):
    file = tmp_path / f"{product.name}.zip"
    with zipfile.ZipFile(file, "w") as z:
        for f in product.rglob("*"):
            z.write(f, f.relative_to(product.parent))
    src = source(safe.entry_of("x", [str(file)]))
    scene = src.header(src.plan(None)[0])
    folder = source(safe.entry_of("x", [str(product)]))
    same = folder.header(folder.plan(None)[0])
    assert scene.id == same.id
    for name, band in scene.bands.items():
        assert band.href.startswith("/vsizip/")
        assert band.etag
        assert band.grid is not None
        np.testing.assert_array_equal(
            RasterReader(src.readable).read(band, band.grid),
            RasterReader(folder.readable).read(same.bands[name], band.grid),
        )


def test_a_folder_of_products_and_a_metadata_file(product):
    for path in (product.parent, product / "MTD_MSIL2A.xml", product / "manifest.safe"):
        if not path.exists():
            path.touch()
        assert len(source(safe.entry_of("x", [str(path)])).plan(None)) == 1


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda s: next(s.glob("MTD_MSIL2A.xml")).unlink(), "no MTD_MSIL1C.xml or MTD_MSIL2A.xml"),
        (lambda s: next(s.glob("GRANULE/*/MTD_TL.xml")).unlink(), "MTD_TL.xml"),
        (lambda s: cut(s / "MTD_MSIL2A.xml"), "the XML is damaged"),
        (lambda s: swap(s / "MTD_MSIL2A.xml", ">10000<", ">lots<"), "BOA_QUANTIFICATION_VALUE is 'lots'"),
        (lambda s: swap(s / "MTD_MSIL2A.xml", ">-1000<", ">?<"), "BOA_ADD_OFFSET of band '0' is '?'"),
        (lambda s: swap(next(s.glob("GRANULE/*/MTD_TL.xml")), "_T29UNU_N", "_"), "TILE_ID names no tile"),
        (lambda s: swap(next(s.glob("GRANULE/*/MTD_TL.xml")), "2022-10-05T", "tomorrow "), "SENSING_TIME"),
    ],
)
def test_a_damaged_product_is_planned_and_named(product, damage, what):
    good = safe.entry_of("x", [str(product)])
    damage(product)
    (scene,) = source(good).plan(None)
    assert scene.id == "S2A_MSIL2A_20221005T115411_R023_T29UNU"  # of its name: it keeps its place in the ledger
    with pytest.raises(AssetError) as e:
        source(good).header(scene)
    assert what in str(e.value)
    assert product.name in str(e.value)
    with pytest.raises(BadInput):
        safe.entry_of("x", [str(product)])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def swap(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_damaged_product_that_was_mended_is_read(product):
    entry = safe.entry_of("x", [str(product)])
    text = (product / "MTD_MSIL2A.xml").read_bytes()
    cut(product / "MTD_MSIL2A.xml")
    (scene,) = source(entry).plan(None)
    (product / "MTD_MSIL2A.xml").write_bytes(text)
    assert list(source(entry).header(scene).bands) == ["B02", "B11", QUALITY]


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
READS = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("extra", [BOMB, READS, '<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd">'])
def test_document_types_are_refused(tmp_path, extra):
    folder = write_safe(tmp_path, {("B02", 10): ground(1)}, offsets=ALL, extra=extra)
    with pytest.raises(BadInput, match="document type"):
        safe.entry_of("x", [str(folder)])


def test_xml_limits():
    with pytest.raises(AssetCorrupt, match="nested deeper"):
        xmlfile.parse(b"<a>" * 200 + b"</a>" * 200, "x")
    with pytest.raises(AssetCorrupt, match="larger than"):
        xmlfile.parse(b" " * (xmlfile.MAX_BYTES + 1), "x")
    with pytest.raises(AssetCorrupt, match="damaged"):
        xmlfile.parse(b"<a>&undefined;</a>", "x")
    with pytest.raises(AssetCorrupt, match="damaged"):
        xmlfile.parse(b'<?xml version="1.0" encoding="no-such"?><a/>', "x")
    root = xmlfile.parse(b'<n:a xmlns:n="u"><b> 3 </b></n:a>', "x")
    assert (root.tag, xmlfile.text_of(root, "b"), xmlfile.text_of(root, "c")) == ("a", "3", None)


def test_a_raster_in_another_crs_than_the_metadata(product):
    file = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B02_10m.tif"))
    write_tif(file, ground(1), 10, crs="EPSG:32630")
    src = source(safe.entry_of("x", [str(product)]))
    with pytest.raises(AssetCorrupt, match="EPSG:32630, the metadata say EPSG:32629"):
        src.header(src.plan(None)[0])


def test_levels_do_not_mix(tmp_path):
    write_safe(tmp_path, {("B02", 10): ground(1)}, level="L1C", offsets=ALL)
    write_safe(tmp_path, {("B02", 10): ground(1)}, level="L2A", offsets=ALL)
    with pytest.raises(BadInput, match="levels L1C and L2A"):
        safe.entry_of("x", [str(tmp_path)])
    with pytest.raises(BadInput, match="no such file"):
        safe.entry_of("x", [str(tmp_path / "nothing.SAFE")])
    with pytest.raises(BadInput, match="no product matches"):
        safe.entry_of("x", [str(tmp_path / "*.zip")])


def test_readable_stays_in_the_products(product, tmp_path):
    src = source(safe.entry_of("x", [str(product)]))
    inside = src.plan(None)[0].bands["B02"].href
    assert src.readable(inside) == inside
    for href in ("/etc/passwd", "file:///etc/passwd", f"{product}/../x.tif", f"{product}x/y.tif", "http://a/b.tif",
                 f"/vsicurl/{product}/x"):  # fmt: skip
        with pytest.raises(BadInput, match="not part of a product"):
            src.readable(href)
    again = pickle.loads(pickle.dumps(RasterReader(src.readable)))
    assert again.header(inside).dtype == "uint16"


def test_arguments_are_checked(product):
    entry = safe.entry_of("x", [str(product)])
    with pytest.raises(BadInput, match=r"unknown source argument 'resolutoin' \(did you mean 'resolution'"):
        source(entry, source=args(entry, resolutoin=10))
    with pytest.raises(BadInput, match="lists no SAFE product"):
        source(entry, source=args(entry, paths=[]))


def test_bundles(tmp_path):
    (tmp_path / "text").write_text("x")
    with pytest.raises(BadInput, match="neither a folder nor a zip"):
        open_bundle(str(tmp_path / "text"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("../evil.xml", "x")
        z.writestr("top/a.xml", "hello")
    bundle = open_bundle(str(tmp_path / "a.zip"))
    assert bundle.names == ("a.xml",)
    assert bundle.read("a.xml") == b"hello"
    with pytest.raises(AssetMissing):
        bundle.read("b.xml")


def test_boxes_across_the_antimeridian():
    assert box_of([179.0, -179.0, -178.5, 179.5], [10, 11, 12, 13]) == (179.0, 10, -178.5, 13)
    assert box_of([], []) is None
    assert box_of([1.0], [95.0]) is None
    fiji = (177.0, -20.0, -178.0, -15.0)
    assert overlaps(fiji, (179.0, -18.0, 180.0, -17.0))
    assert overlaps(fiji, (-179.0, -18.0, -170.0, -17.0))
    assert overlaps((170.0, -19.0, -175.0, -18.0), fiji)
    assert not overlaps(fiji, (0.0, -18.0, 10.0, -17.0))
    assert overlaps(None, fiji)
