"""The sample land: the same for everyone, plausible, and true to what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow.errors import BadInput
from eoflow.sources.land import LandCover, Tile, World, clouds, events, optical, radar, sky, spectra
from eoflow.sources.land.tiles import KINDS

BANDS = ("B02", "B03", "B04", "B08", "B11")
NAMES = {kind: f"32N-{390 + 6 * k:04d}-4060" for k, kind in enumerate(KINDS)}  # 128 pixels of 10 m
SMALL = World(3, 2020, 128, tuple((name, kind) for kind, name in NAMES.items()))
WIDE = World(42, 2020, 256, (("32N-0195-2024", "lowland"),))
PLACE = "32N-0195-2024"
SUMMER = np.datetime64("2020-07-12T10:20:00", "ns")


def day(k: int, start: str = "2020-01-02T10:20:31") -> np.datetime64:
    return np.datetime64(start, "ns") + np.timedelta64(5 * k, "D")


@pytest.fixture(scope="module")
def views():
    """A year of passes of one tile, every tenth day."""
    return [WIDE.optical(PLACE, day(2 * k), BANDS, orbit=2 * k) for k in range(36)]


# ---- the same for everyone -------------------------------------------------------------------------------------


def _fresh(world: World, tile: str):
    from eoflow.sources.land import land
    from eoflow.sources.land import world as module

    module._land.cache_clear()
    land._state.cache_clear()
    return world.land(tile)


def test_a_scene_does_not_depend_on_what_was_made_before():
    tile, late = NAMES["suburb"], np.datetime64("2022-05-06T10:20:31", "ns")
    first = SMALL.optical(tile, late, BANDS)
    _fresh(SMALL, tile)
    for early in ("2020-02-01", "2023-01-01"):  # other years, and another tile, before it
        SMALL.change(tile, np.datetime64("2020-01-01"), np.datetime64(early))
    SMALL.optical(NAMES["coast"], late, ("B12", "B02"))
    again = SMALL.optical(tile, late, tuple(reversed(BANDS)))
    np.testing.assert_array_equal(first.scl, again.scl)
    np.testing.assert_array_equal(first.surface.classes, again.surface.classes)
    for band in BANDS:
        np.testing.assert_array_equal(first.surface.reflectance[band], again.surface.reflectance[band])
    echo = SMALL.radar(tile, late)
    _fresh(SMALL, tile)
    np.testing.assert_array_equal(echo.decibel("VH"), SMALL.radar(tile, late).decibel("VH"))


def test_other_seeds_and_tiles_are_other_land():
    a = SMALL.land(NAMES["hills"]).terrain.height
    other = World(4, 2020, 128, SMALL.kinds).land(NAMES["hills"]).terrain.height
    assert abs(np.corrcoef(a.ravel(), other.ravel())[0, 1]) < 0.9
    assert not np.array_equal(a, SMALL.land(NAMES["lakes"]).terrain.height)


def test_bad_tiles_are_refused():
    for name in ("32X-1-1", "61N-0097-1012", "32N-0001-1012", "hello"):
        with pytest.raises(BadInput):
            Tile.parse(name)
    tile = Tile.parse("32N-0097-1012")
    assert tile.name == "32N-0097-1012"
    assert tile.crs == "EPSG:32632"
    assert tile.geobox.shape == (512, 512)
    west, south, east, north = tile.bbox
    assert 8.9 < west < east < 9.1
    assert 46 < south < north < 47.5
    assert Tile.parse("33S-0097-1512").crs == "EPSG:32733"


# ---- the ground -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_landscape(kind):
    land = SMALL.land(NAMES[kind])
    t, classes = land.terrain, land.cover.classes
    assert np.isfinite(t.height).all()
    assert (t.hand >= 0).all()
    assert (t.hand[t.water] == 0).all()
    np.testing.assert_allclose(sum(n**2 for n in t.normal), 1, atol=1e-5)
    assert set(np.unique(classes)) <= {int(c) for c in LandCover}
    water = classes == LandCover.WATER
    assert (water <= t.water).all()  # only bridges differ
    assert (t.water & ~water).sum() < 0.2 * max(t.water.sum(), 10)
    share = {c: float((classes == c).mean()) for c in LandCover}
    assert max(share.values()) < 0.97
    expected = {"lowland": LandCover.CROP, "lakes": LandCover.CONIFER, "suburb": LandCover.BUILDING,
                "coast": LandCover.WATER}  # fmt: skip
    if kind in expected:
        assert share[expected[kind]] > 0.04


def test_water_lies_low():
    t = WIDE.land(PLACE).terrain
    river = t.height[t.river].mean()
    assert river < np.quantile(t.height[~t.water], 0.35)
    near = (t.distance > 0) & (t.distance < 60)
    assert t.height[near].mean() < t.height[t.distance > 400].mean()


# ---- the sun and the seasons --------------------------------------------------------------------------------------


def test_the_sun_stands_where_almanacs_say():
    tile = Tile.parse("32N-0097-1012")  # 9.0 E, 46.8 N
    noon = sky.sun(tile, np.datetime64("2020-06-21T11:26", "ns"))
    assert np.rad2deg(noon.elevation) == pytest.approx(90 - tile.centre[1] + 23.44, abs=0.5)
    assert np.rad2deg(noon.azimuth) == pytest.approx(180, abs=3)
    winter = sky.sun(tile, np.datetime64("2020-12-21T11:22", "ns"))
    assert np.rad2deg(winter.elevation) == pytest.approx(90 - tile.centre[1] - 23.44, abs=0.5)
    assert np.rad2deg(sky.sun(tile, np.datetime64("2020-06-21T07:00", "ns")).azimuth) < 120


def ndvi(r):
    return (r["B08"] - r["B04"]) / (r["B08"] + r["B04"])


def test_reflectance_is_plausible():
    land = WIDE.land(PLACE)
    s = WIDE.optical(PLACE, SUMMER, BANDS).surface
    for r in s.reflectance.values():
        assert r.dtype == np.float32
        assert r.min() > 0
        assert r.max() <= 1.0
    index = ndvi(s.reflectance)
    forest = np.isin(s.classes, [LandCover.BROADLEAF, LandCover.CONIFER])
    assert np.median(index[forest]) > 0.75
    assert (index[forest] > 0.6).mean() > 0.85
    deep = s.permanent & (land.state(SUMMER).shallow < 0.05)
    assert s.reflectance["B08"][deep].mean() < 0.06 < s.reflectance["B08"][forest].mean()
    assert s.reflectance["B11"][deep].mean() < 0.03
    crops = s.classes == LandCover.CROP
    assert index[crops].std() > 0.12  # fields differ


def test_ndvi_has_a_cycle():
    day_of = {m: np.datetime64(f"2021-{m:02d}-15T10:20", "ns") for m in (1, 4, 7, 10)}
    land = WIDE.land(PLACE)
    trees = land.cover.classes == LandCover.BROADLEAF
    tables = {m: WIDE.optical(PLACE, t, BANDS).surface for m, t in day_of.items()}
    green = {m: float(np.median(ndvi(s.reflectance)[trees & (s.snow < 0.02)])) for m, s in tables.items() if
             (trees & (s.snow < 0.02)).any()}  # fmt: skip
    assert green[7] > green[4] + 0.1
    assert green[7] > green[10] + 0.05
    day = np.arange(0, 365.0)
    for crop, (low, high) in {"wheat": (120, 175), "maize": (190, 250), "beet": (170, 290)}.items():
        peak = int(np.argmax(spectra.crop_state(crop, day, 0.0)[0]))
        assert low <= peak <= high, crop
    straw = spectra.crop_state("wheat", np.array([195.0, 240.0]), 0.0)[1]
    assert straw[0] > 0.6 > straw[1]


def test_snow_lies_high_and_in_winter():
    tile = NAMES["alpine"]
    height = SMALL.land(tile).terrain.height
    open_land = np.isin(SMALL.land(tile).cover.classes, [LandCover.GRASS, LandCover.SHRUB, LandCover.BARE])
    top, foot = (open_land & part for part in (height > np.quantile(height, 0.7), height < np.quantile(height, 0.3)))
    winters = [SMALL.optical(tile, np.datetime64(f"2021-{d}T10:20", "ns"), BANDS).surface
               for d in ("01-10", "01-31", "02-20", "03-10")]  # fmt: skip
    summer = SMALL.optical(tile, np.datetime64("2021-08-10T10:20", "ns"), BANDS).surface
    on_top, below = (np.mean([s.snow[part].mean() for s in winters]) for part in (top, foot))
    assert on_top > 0.7
    assert on_top > below
    assert summer.snow[foot].max() == 0.0
    winter = winters[0]
    high = winter.snow > 0.9
    assert high.any()
    assert winter.reflectance["B03"][high].mean() > 3 * winter.reflectance["B11"][high].mean()


# ---- the sky -----------------------------------------------------------------------------------------------------


def test_scenes_are_clear_partial_and_overcast():
    tile = Tile.parse(PLACE, 256)
    cover = []
    for k in range(73):
        c = clouds.at(42, tile, day(k), sky.sun(tile, day(k)))
        cover.append(float((c.alpha >= clouds.THIN).mean()))
    cover = np.array(cover)
    assert 0.12 < (cover < 0.05).mean() < 0.5
    assert 0.25 < ((cover >= 0.05) & (cover <= 0.95)).mean() < 0.75
    assert 0.1 < (cover > 0.95).mean() < 0.5
    assert 0.3 < cover.mean() < 0.7


def test_clear_pixels_equal_the_truth_within_noise(views):
    checked = 0
    for v in views:
        clear = (v.clouds.alpha < 0.002) & (v.clouds.shade < 0.002) & ~v.outside & ~v.saturated
        checked += int(clear.sum())
        for band in BANDS:
            true = v.surface.reflectance[band][clear] + v.haze[clear] * spectra.HAZE[band]
            off = v.reflectance[band][clear] - true
            limit = optical.NOISE[0] + optical.NOISE[1] * true + 0.006
            assert (np.abs(off) < 6 * limit).all()
            assert off.size == 0 or abs(off.mean()) < 0.003
    assert checked > 10 * 256 * 256 // 2


def test_the_scl_is_what_happens(views):
    for v in views:
        c, scl = v.clouds, v.scl
        inside = ~v.outside & ~v.saturated
        assert (scl[v.outside] == 0).all()
        assert (scl[v.saturated] == 1).all()
        assert np.isin(scl[inside & (c.alpha >= clouds.THICK)], [9]).all()
        assert np.isin(scl[inside & (c.alpha >= clouds.THIN)], [8, 9, 10]).all()
        assert (c.alpha[inside & (scl == 3)] < clouds.THIN).all()
        assert (c.shade[inside & (scl == 3)] > clouds.SHADE).all()
        wet = inside & (scl == 6)
        assert (v.surface.permanent | v.surface.flood)[wet].all()
    seen = np.unique(np.concatenate([np.unique(v.scl) for v in views]))
    assert {3, 4, 5, 6, 8, 9, 10} <= set(seen.tolist())


def test_clouds_are_bright_and_shadows_dark(views):
    for v in views:
        thick = (v.clouds.alpha > 0.9) & ~v.outside & ~v.saturated
        if thick.sum() > 500:
            assert v.reflectance["B02"][thick].mean() > 0.35
        shadow = v.clouds.shadow & (v.clouds.shade > 0.8) & ~v.outside & (v.clouds.alpha < 0.01)
        if shadow.sum() > 500:
            assert v.reflectance["B08"][shadow].mean() < 0.6 * v.surface.reflectance["B08"][shadow].mean()


def test_shadows_lie_away_from_the_sun():
    tile = Tile.parse(PLACE, 256)
    found = 0
    for k in range(60):
        s = sky.sun(tile, day(k))
        c = clouds.at(42, tile, day(k), s)
        cover = float((c.alpha > 0.2).mean())
        if not 0.05 < cover < 0.5 or c.cirrus.any():
            continue
        # the shift at which shade and opacity agree best, by correlation in Fourier space
        a, b = c.alpha - c.alpha.mean(), c.shade - c.shade.mean()
        cross = np.fft.ifft2(np.fft.fft2(b) * np.conj(np.fft.fft2(a))).real
        dy, dx = (int(i) for i in np.unravel_index(int(np.argmax(cross)), cross.shape))
        dy, dx = (d - 256 if d > 128 else d for d in (dy, dx))
        reach = np.hypot(dy, dx)
        if reach < 5:
            continue
        away = (np.cos(s.azimuth), -np.sin(s.azimuth))  # rows grow south
        found += (dy * away[0] + dx * away[1]) / reach > 0.9
    assert found >= 4


def test_clouds_drift_with_the_wind():
    tile, t = Tile.parse(PLACE, 256), None
    for k in range(60):
        t = day(k)
        if 0.2 < float((clouds.at(42, tile, t, sky.sun(tile, t)).alpha > 0.2).mean()) < 0.7:
            break
    s = sky.sun(tile, t)
    now, soon, later = (clouds.at(42, tile, t + np.timedelta64(m, "m"), s).alpha.ravel() for m in (0, 1, 180))
    assert np.corrcoef(now, soon)[0, 1] > 0.5
    assert np.corrcoef(now, soon)[0, 1] > np.corrcoef(now, later)[0, 1]


def test_imperfect_masks_err_a_little(views):
    wrong = []
    for k in range(12):
        v = WIDE.optical(PLACE, day(6 * k), ("B02",), orbit=6 * k, imperfect=True)
        wrong.append(float((v.scl != WIDE.optical(PLACE, day(6 * k), ("B02",), orbit=6 * k).scl).mean()))
    assert 0.001 < np.mean(wrong) < 0.15


def test_stored_numbers_follow_the_baseline():
    v = WIDE.optical(PLACE, SUMMER, ("B04",), orbit=3)
    new, old = v.stored("B04", -0.1), v.stored("B04", 0.0)
    free = ~v.outside & ~v.saturated & (old > 1) & (new < 65535)
    np.testing.assert_array_equal(new[free], old[free] + 1000)
    np.testing.assert_allclose(new[free] * 1e-4 - 0.1, v.reflectance["B04"][free], atol=6e-5)
    assert (new[v.outside] == 0).all()
    assert (new[~v.outside] > 0).all()


# ---- what happens --------------------------------------------------------------------------------------------------


def test_floods_rise_over_low_ground_and_go():
    flood = WIDE.floods(PLACE, 2020)[0]
    times = {"before": flood.start - np.timedelta64(1, "h"), "peak": flood.peak, "after": flood.end}
    truth = {k: WIDE.truth(PLACE, t) for k, t in times.items()}
    at = truth["peak"]
    assert at["flood"].mean() > 0.01
    assert not (at["flood"] & at["permanent_water"]).any()
    assert (at["flood"] <= at["inundation"]).all()
    assert at["hand"][at["inundation"]].max() < flood.stage
    assert at["depth"][at["flood"]].min() > 0
    np.testing.assert_array_equal(at["permanent_water"], truth["before"]["permanent_water"])
    assert not truth["before"]["flood"].any()
    assert not truth["after"]["flood"].any()
    hidden = at["inundation"] & ~at["flood"]
    canopy = (LandCover.BROADLEAF, LandCover.CONIFER, LandCover.BUILDING, LandCover.WATER)
    assert np.isin(at["classes"][hidden], canopy).all()
    s = WIDE.optical(PLACE, flood.peak, BANDS).surface
    deep = s.flood & (s.depth > 0.5)
    assert s.reflectance["B11"][deep].mean() < 0.08


def test_the_stage_of_a_flood():
    flood = events.Flood(*(np.datetime64(f"2020-03-{d}", "ns") for d in ("01", "03", "23")), 2.0)
    assert flood.level(np.datetime64("2020-03-03", "ns")) == pytest.approx(2.0)
    assert flood.level(np.datetime64("2020-03-13", "ns")) == pytest.approx(1.5)
    for t in ("2020-02-28", "2020-03-01", "2020-03-23", "2021-01-01"):
        assert flood.level(np.datetime64(t, "ns")) == 0.0


def test_changes_are_what_the_class_maps_differ_by():
    before, after = np.datetime64("2020-03-01", "ns"), np.datetime64("2021-09-01", "ns")
    edits = [c for c in WIDE.changes(PLACE, after) if c.time > before]
    found = WIDE.change(PLACE, before, after)
    np.testing.assert_array_equal(found["mask"], found["before"] != found["after"])
    touched = np.zeros_like(found["mask"])
    replay = found["before"].copy()
    for c in edits:
        touched[c.rows, c.columns] |= c.mask
        replay[c.rows, c.columns][c.mask] = c.classes[c.mask]
    np.testing.assert_array_equal(replay, found["after"])
    assert found["mask"].any()
    assert not (found["mask"] & ~touched).any()
    assert not WIDE.change(PLACE, before, before)["mask"].any()


def test_buildings_come_and_go_and_forests_fall():
    tile = NAMES["suburb"]
    kinds = {c.kind for c in SMALL.changes(tile, np.datetime64("2022-12-31", "ns"))}
    assert {"build", "demolish", "clear-cut"} <= kinds
    found = SMALL.change(tile, np.datetime64("2020-01-01", "ns"), np.datetime64("2022-12-31", "ns"))
    new = (found["after"] == LandCover.BUILDING) & (found["before"] != LandCover.BUILDING)
    gone = (found["before"] == LandCover.BUILDING) & (found["after"] != LandCover.BUILDING)
    assert new.sum() > 5
    assert gone.sum() > 5
    water = found["before"] == LandCover.WATER
    assert (found["after"][water] == LandCover.WATER).all()


# ---- radar -----------------------------------------------------------------------------------------------------------


def test_water_is_dark_and_towns_are_bright_in_radar():
    calm = min((np.datetime64("2020-05-01T17:00", "ns") + np.timedelta64(k, "D") for k in range(20)),
               key=lambda t: SMALL.radar(NAMES["coast"], t).wind)  # fmt: skip
    e = SMALL.radar(NAMES["coast"], calm)
    classes = e.surface.classes

    def level(pol, what):
        return 10 * np.log10(e.intensity[pol][what].mean())

    water = e.surface.permanent
    land = ~water & ~e.surface.inundation & (classes != LandCover.BUILDING)
    for pol in ("VV", "VH"):
        assert level(pol, water) < level(pol, land) - 5
    assert level("VV", classes == LandCover.BUILDING) > level("VV", land) + 3
    assert level("VV", land) > level("VH", land) + 3
    assert -25 < level("VV", water) < -14
    assert -15 < level("VV", land) < -7


def test_wind_roughens_water_in_vv():
    times = [np.datetime64("2020-05-01T17:00", "ns") + np.timedelta64(k, "D") for k in range(30)]
    seen = sorted((radar.backscatter(SMALL.land(NAMES["coast"]), t) for t in times), key=lambda b: b[3])
    calm, rough = (10 * np.log10(b[0]["VV"][b[2].permanent].mean()) for b in (seen[0], seen[-1]))
    assert rough > calm + 3


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_speckle_has_the_stated_looks(correlation):
    e = SMALL.radar(NAMES["hills"], SUMMER, looks=4.4, correlation=correlation)
    ratio = e.intensity["VV"] / e.clean["VV"]
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)
    assert ratio.mean() ** 2 / ratio.var() == pytest.approx(4.4, rel=0.1)
    side = np.corrcoef(ratio[:, 1:].ravel(), ratio[:, :-1].ravel())[0, 1]
    assert (side > 0.15) == (correlation > 0)


def test_single_look_images_are_circular_gaussian():
    slc, clean = SMALL.single_look(NAMES["lakes"], SUMMER, shots=2)
    assert slc.dtype == np.complex64
    assert slc.shape == (2, 128, 128)
    z = slc / np.sqrt(clean)
    assert (np.abs(z) ** 2).mean() == pytest.approx(1.0, abs=0.03)
    intensity = np.abs(z[0]) ** 2
    assert intensity.mean() ** 2 / intensity.var() == pytest.approx(1.0, rel=0.1)
    assert abs(np.corrcoef(z[0].real.ravel(), z[0].imag.ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(intensity.ravel(), (np.abs(z[1]) ** 2).ravel())[0, 1]) < 0.03


def test_flood_water_is_dark_in_radar():
    flood = WIDE.floods(PLACE, 2020)[0]
    before = radar.backscatter(WIDE.land(PLACE), flood.start - np.timedelta64(1, "D"))[0]["VV"]
    during, _, s, wind = radar.backscatter(WIDE.land(PLACE), flood.peak)
    deep = s.flood & (s.depth > 0.4)
    assert deep.sum() > 100
    drop = 10 * np.log10(before[deep].mean() / during["VV"][deep].mean())
    assert drop > (3 if wind < 8 else 1)
