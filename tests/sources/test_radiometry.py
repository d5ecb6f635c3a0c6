from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eoflow.bands import BandSpec
from eoflow.catalog_scenes import BandEntry
from eoflow.errors import BadInput
from eoflow.sources import radiometry
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.radiometry import baseline_offset, cube_band, harmonise, parse_baseline, same_nodata, sentinel2_pair
from eoflow.sources.scene import RasterBand

OLD, NEW = (1e-4, 0.0), (1e-4, -0.1)
pixels = hnp.arrays(np.uint16, hnp.array_shapes(max_dims=2, max_side=20), elements=st.integers(0, 65535))


@pytest.mark.parametrize(
    ("text", "version"),
    [("04.00", (4, 0)), ("N0400", (4, 0)), ("0214", (2, 14)), ("4.0", (4, 0)), ("05.11", (5, 11))],
)
def test_baselines_are_read_in_every_spelling(text, version):
    assert parse_baseline(text) == version


@pytest.mark.parametrize("text", ["", "abc", "N4", "2022-01-25"])
def test_what_is_no_baseline_is_refused(text):
    with pytest.raises(BadInput, match="not a processing baseline"):
        parse_baseline(text)


@pytest.mark.parametrize(
    ("baseline", "dn"), [("02.14", 0), ("03.01", 0), ("04.00", -1000), ("05.00", -1000), ("N0511", -1000)]
)
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_the_offset_begins_with_baseline_4(baseline, dn, level):
    assert baseline_offset(baseline, level) == dn


def test_the_metadata_win_over_the_baseline():
    assert baseline_offset("05.00", "L2A", stated=0) == 0
    assert baseline_offset(None, "L2A", stated=-1000) == -1000
    assert baseline_offset("02.14", "L2A", stated=-999.9999999) == -1000
    assert baseline_offset("05.00", "L2A", stated=-1000, applied=True) == 0  # catalogs go on stating -0.1


@pytest.mark.parametrize("baseline", [None, "99.99", "00.01"])
def test_an_unknown_baseline_says_what_to_write(baseline):
    with pytest.raises(BadInput, match=r"scale: 0\.0001") as e:
        baseline_offset(baseline, "L2A", where="item X")
    assert "item X" in str(e.value)
    assert "offset: -0.1" in str(e.value)


def test_a_fractional_offset_or_another_level_is_refused():
    with pytest.raises(BadInput, match="whole"):
        baseline_offset("04.00", "L2A", stated=-1000.5)
    with pytest.raises(BadInput, match="level 'GRD'"):
        baseline_offset("04.00", "GRD")
    with pytest.raises(BadInput, match="quantification"):
        sentinel2_pair("04.00", "L2A", quantification=0)


def test_pairs_of_the_two_generations():
    assert sentinel2_pair("02.14", "L1C") == OLD
    assert sentinel2_pair("04.00", "L2A") == NEW


@settings(max_examples=30, deadline=None)
@given(stored=pixels, shift=st.integers(-3000, 3000))
def test_physical_values_survive_but_for_clipped_ones(stored, shift):
    before = BandSpec(name="a", dtype="uint16", units="1", scale=1e-4, offset=shift / 1e4, nodata=0)
    after = BandSpec(name="a", dtype="uint16", units="1", scale=1e-4, offset=0.0, nodata=0)
    out = harmonise(stored.copy(), (1e-4, shift / 1e4), (1e-4, 0.0), 0, "uint16")
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out == 0, stored == 0)
    exact = stored.astype(int) + shift
    fits = (stored != 0) & (exact >= 1) & (exact <= 65535)
    np.testing.assert_array_equal(out[fits], exact[fits])
    np.testing.assert_allclose(after.physical(out)[fits], before.physical(stored)[fits], atol=1e-6)
    assert set(out[(stored != 0) & ~fits].tolist()) <= {1 if shift < 0 else 65535}


@settings(max_examples=30, deadline=None)
@given(
    stored=hnp.arrays(np.int16, 50), shift=st.integers(-2000, 2000), nodata=st.sampled_from([-32768, -9999, 0, 32767])
)
def test_signed_integers_keep_any_nodata(stored, shift, nodata):
    out = harmonise(stored.copy(), (0.5, shift * 0.5), (0.5, 0.0), nodata)
    np.testing.assert_array_equal(out == nodata, stored == nodata)
    exact = np.clip(stored.astype(int) + shift, -32768, 32767)
    off = np.abs(out.astype(int) - exact)[stored != nodata]
    assert (off <= 1).all()  # one step, and only where the value would have read as nodata
    assert (exact[stored != nodata][off == 1] == nodata).all()


def test_a_saturated_pixel_stays_saturated():
    stored = np.array([0, 1, 1500, 65535], np.uint16)
    np.testing.assert_array_equal(harmonise(stored.copy(), NEW, OLD, 0, saturated=65535), [0, 1, 500, 65535])
    np.testing.assert_array_equal(harmonise(stored.copy(), OLD, NEW, 0, saturated=65535), [0, 1001, 2500, 65535])


def test_harmonise_works_in_place_and_not_when_asked():
    stored = np.array([[0, 100]], np.uint16)
    assert harmonise(stored, OLD, OLD, 0) is stored
    copy = harmonise(stored, OLD, NEW, 0, copy=True)
    assert stored.tolist() == [[0, 100]]
    assert copy.tolist() == [[0, 1100]]
    assert harmonise(stored, OLD, NEW, 0) is stored
    assert stored.tolist() == [[0, 1100]]
    frozen = np.array([7], np.uint16)
    frozen.flags.writeable = False
    assert harmonise(frozen, OLD, NEW, 0).tolist() == [1007]
    assert frozen.tolist() == [7]


@pytest.mark.parametrize(
    ("from_", "to"),
    [((1e-4, 0.0), (2.75e-5, -0.2)), ((1e-4, 0.00005), (1e-4, 0.0)), ((1.0, 0.0), (0.0, 0.0)), ((1e-4, -10.0), OLD)],
)
def test_no_exact_shift_names_both_sides(from_, to):
    with pytest.raises(AssetCorrupt) as e:
        harmonise(np.ones(3, np.uint16), from_, to, 0, where="scene S, band B04")
    assert "scene S, band B04" in str(e.value)


def test_another_dtype_must_hold_every_value():
    assert harmonise(np.array([0, 200], np.uint8), OLD, NEW, 0, "uint16").tolist() == [0, 1200]
    assert harmonise(np.array([1, 200], np.uint16), OLD, OLD, None, "float32").dtype == np.float32
    with pytest.raises(AssetCorrupt, match="int16 values do not fit the cube's uint16"):
        harmonise(np.array([-5, 200], np.int16), OLD, OLD, None, "uint16")
    with pytest.raises(AssetCorrupt, match="do not fit"):
        harmonise(np.array([0.25, np.nan], np.float32), OLD, OLD, None, "uint16")
    with pytest.raises(AssetCorrupt, match="do not fit"):
        harmonise(np.array([0.25], np.float32), OLD, NEW)
    nan = np.array([np.nan, 1.5], np.float32)
    np.testing.assert_array_equal(harmonise(nan, OLD, OLD, np.nan, "float64"), nan)


def test_the_scenes_nodata_becomes_the_cubes():
    assert same_nodata(np.array([-9999, 5], np.int16), -9999, 0).tolist() == [0, 5]
    kept = np.array([np.nan, 1.0])
    assert same_nodata(kept, np.nan, np.nan) is kept
    assert same_nodata(np.array([np.nan, 1.0]), np.nan, -1.0).tolist() == [-1.0, 1.0]
    np.testing.assert_array_equal(same_nodata(np.array([-1.0, 1.0]), -1.0, np.nan), [np.nan, 1.0])
    assert same_nodata(kept, np.nan, None) is kept
    with pytest.raises(AssetCorrupt, match="does not fit the scene's uint8"):
        same_nodata(np.array([0, 3], np.uint8), 0, -9999)
    assert same_nodata(np.array([4, 3], np.uint8), 0, -9999).tolist() == [4, 3]
    with pytest.raises(AssetCorrupt, match="which is the cube's nodata"):
        same_nodata(np.array([-9999, 0], np.int16), -9999, 0)
    with pytest.raises(AssetCorrupt, match="the cube has none"):
        same_nodata(np.array([0, 3], np.uint8), 0, None)


def backscatter(rng, mean=-12.0):
    return rng.normal(mean, 4, 5000)


@pytest.mark.parametrize("mean", [-25.0, -12.0, -6.0])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("dB", lambda db: db),
        ("1", lambda db: 10 ** (db / 10)),
        ("DN", lambda db: np.round(400 * 10 ** (db / 20)) + 20),
        ("dB/10000", lambda db: np.minimum(db, -0.1) / 1e4),
        ("dB*100", lambda db: np.round(np.minimum(db, -1) * 100)),
    ],
)
def test_kinds_of_backscatter_are_told_apart(kind, make, mean):
    values = make(backscatter(np.random.default_rng(3), mean))
    values[::7] = np.nan
    values[1::7] = 0
    assert radiometry.backscatter_kind(values) == kind
    for units in ("dB", "1", "DN"):
        if units == kind:
            radiometry.check_backscatter(values, units)
        else:
            with pytest.raises(BadInput, match="cannot be backscatter") as e:
                radiometry.check_backscatter(values, units, where="band VV")
            assert "band VV" in str(e.value)
    with pytest.raises(BadInput, match="without units; the values look like"):
        radiometry.check_backscatter(values, None)


def test_normalised_values_are_no_backscatter():
    z = np.random.default_rng(0).normal(0, 1, 1000)
    assert radiometry.backscatter_kind(z) is None
    for units in ("dB", "1", "DN"):
        with pytest.raises(BadInput, match="cannot be"):
            radiometry.check_backscatter(z, units)


def test_backscatter_without_values_is_no_contradiction_but_needs_units():
    void = np.full((64, 64), np.nan, np.float32)
    radiometry.check_backscatter(void, "dB")
    with pytest.raises(BadInput, match="without units"):
        radiometry.check_backscatter(void, None)
    with pytest.raises(BadInput, match="units 'K'"):
        radiometry.check_backscatter(void, "K")


@pytest.mark.realdata
def test_real_chips_are_decibel(realdata):
    import rasterio

    files = sorted((realdata / "flood/sen1floods11/S1").glob("*.tif"))
    assert files
    for file in files:
        with rasterio.open(file) as src:
            for band in src.read():
                radiometry.check_backscatter(band, "dB", where=file.name)
                if np.isfinite(band).any():
                    assert radiometry.backscatter_kind(band) == "dB"
                    with pytest.raises(BadInput, match="decibel"):
                        radiometry.check_backscatter(band, "1")


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_real_triplets_hide_a_factor(realdata):
    import rasterio

    with rasterio.open(realdata / "s2_cloud/sen12mscr_s1s2_triplets/4438_input.tif") as src:
        vv, vh, b01 = src.read([1, 2, 3])
    for band in (vv, vh):
        with pytest.raises(BadInput, match=r"units: dB, scale: 10000"):
            radiometry.check_backscatter(band, "dB")
        radiometry.check_backscatter(band * 1e4, "dB")
    radiometry.check_reflectance(b01, 1.0, 0.0, "1")
    with pytest.raises(BadInput, match="already reflectances"):
        radiometry.check_reflectance(b01, 1e-4, 0.0, "1")


@pytest.mark.realdata
def test_real_reflectances(realdata):
    import rasterio

    for file in sorted((realdata / "s2_cloud/ts_ROIs2017_146_patch0").glob("*.tif"))[:6]:
        with rasterio.open(file) as src:
            for i in (2, 4, 8):
                band = src.read(i)
                radiometry.check_reflectance(band, 1e-4, 0.0, "1", nodata=0)
                with pytest.raises(BadInput, match="digital numbers"):
                    radiometry.check_reflectance(band, 1.0, 0.0, "1", nodata=0)


def test_reflectance_that_is_none():
    ground = np.random.default_rng(1).uniform(0.02, 0.4, 500)
    dn = np.round(ground * 1e4).astype(np.uint16)
    radiometry.check_reflectance(dn, 1e-4, 0.0, "1")
    radiometry.check_reflectance(dn + 1000, 1e-4, -0.1, "1")
    radiometry.check_reflectance(dn, 1.0, 0.0, "DN")
    radiometry.check_reflectance(dn, 1e-4, 0.0, "1", nodata=-9999)
    radiometry.check_reflectance(np.zeros(400, "u2"), 1.0, 0.0, "1", nodata=0)
    with pytest.raises(BadInput, match="digital numbers"):
        radiometry.check_reflectance(dn, 1.0, 0.0, "1")
    with pytest.raises(BadInput, match="percent"):
        radiometry.check_reflectance(ground * 100, 1.0, 0.0, "1")
    with pytest.raises(BadInput, match="already in the values"):
        radiometry.check_reflectance(np.round(dn * 0.2), 1e-4, -0.1, "1")
    with pytest.raises(BadInput, match="without units"):
        radiometry.check_reflectance(dn, 1e-4, 0.0, None)
    with pytest.raises(BadInput, match="in units dB"):
        radiometry.check_reflectance(dn, 1e-4, 0.0, "dB")


def test_check_sample_picks_by_sensor_and_units():
    db = backscatter(np.random.default_rng(5)).astype("f4")
    radiometry.check_sample(db, BandSpec(name="VV", dtype="float32", units="dB"), "anything")
    with pytest.raises(BadInput, match="scene S, band VV"):
        radiometry.check_sample(db, BandSpec(name="VV", dtype="float32", units="1"), "sentinel-1", where="scene S")
    with pytest.raises(BadInput, match="digital numbers"):
        radiometry.check_sample(np.full(99, 900), BandSpec(name="B04", dtype="uint16", units="1"), "sentinel-2")
    radiometry.check_sample(np.full(99, 900), BandSpec(name="DEM", dtype="int16", units="m"), "sentinel-2")


def test_digital_numbers_are_not_physical():
    assert not radiometry.CONVENTIONS["sentinel-1", "GRD"].physical
    with pytest.raises(BadInput, match="VV holds uncalibrated"):
        radiometry.require_physical("DN", "VV")
    radiometry.require_physical("dB", "VV")


@pytest.mark.parametrize(("sensor", "level"), sorted(radiometry.CONVENTIONS))
def test_every_known_band_is_complete(sensor, level):
    product = radiometry.known(sensor, level)
    assert product is not None
    assert product.licence
    for name, band in product.bands.items():
        spec = cube_band(name, None, RasterBand("x", dtype=band.dtype), sensor, level)
        assert spec.units == band.units
        assert (spec.scale, spec.offset, spec.nodata) == (band.scale, band.offset, band.nodata)


def test_published_figures():
    s2 = radiometry.known("Sentinel-2A", "l2a")
    assert s2 is not None
    assert "B10" not in s2.bands
    assert (s2.bands["B8A"].scale, s2.bands["B8A"].offset) == (0.0001, -0.1)
    assert s2.bands["B04"].standard_name == "surface_bidirectional_reflectance"
    assert (s2.quality.rule, s2.quality.source_name) == ("scl", "SCL")
    landsat = radiometry.known("landsat-9", "L2SP")
    assert landsat is not None
    temperature = landsat.bands["ST_B10"]
    assert temperature.scale is not None
    assert temperature.offset is not None
    assert 65535 * temperature.scale + temperature.offset == pytest.approx(372.999941, abs=1e-5)  # of an MTL
    assert radiometry.known("landsat-8", "L2SR") is not None
    assert radiometry.known("landsat-6", "L2SP") is None
    assert radiometry.known("sentinel-3", "L2") is None


def test_the_entry_has_the_last_word_and_unknown_is_an_error():
    raster = RasterBand("x.tif", dtype="uint16", scale=1e-4, offset=0.0, nodata=0, units="1")
    spec = cube_band("B04", None, raster, "sentinel-2", "L2A")
    assert (spec.scale, spec.offset, spec.common_name) == (1e-4, -0.1, "red")  # the cube's; the scene is shifted to it
    spec = cube_band("red", BandEntry(source_name="B04", offset=0.0), raster, "sentinel-2", "L2A")
    assert (spec.name, spec.offset, spec.wavelength) == ("red", 0.0, 0.6646)
    with pytest.raises(BadInput, match="entry says units K, the file 1"):
        cube_band("B04", BandEntry(units="K"), raster, "sentinel-2", "L2A")
    with pytest.raises(BadInput, match="units, scale, offset unknown") as e:
        cube_band("a", None, RasterBand("x.tif", dtype="int16"), "unknown", "unknown")
    assert 'bands: {a: {units: "1", scale: 0.0001, offset: 0.0}}' in str(e.value)


def test_reflectance_kept_as_floats_does_not_take_the_scale_of_integers():
    floats = RasterBand("x.tif", dtype="float32", scale=1.0, offset=0.0, units="1")
    spec = cube_band("B04", None, floats, "sentinel-2", "L2A")
    assert (spec.dtype, spec.scale, spec.offset, spec.nodata) == ("float32", 1.0, 0.0, None)
