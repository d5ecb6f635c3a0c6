"""Radar scenes of drawn radiometry: the statistics that their numbers say, and the label that fits the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eoflow.sources.land import World, varied

PLACE, COAST = "32N-0195-2024", "33N-0196-2020"
LAND = World(42, 2020, 256, ((PLACE, "lowland"), (COAST, "coast")), wet=True)
TIME = np.datetime64("2020-06-12T17:20:00", "ns")
PLAIN = replace(
    varied.draw(np.random.default_rng(0)), level=np.zeros((2, 16), np.float32), parcels=0.0, texture=0.0, patch=0.0,
    wide=0.0, smooth=0.0, calm=(-22.0, -28.0), wind=(0.0, 0.0), gusts=0.0, emergent=0.0, noise=(-60.0, -60.0),
    subtracted=0.0, blur=0.6, looks=5.0, correlation=0.0, zoom=1.0, rice=0.0, drowned=0.0,
)  # fmt: skip


@pytest.fixture
def scene(monkeypatch):
    """A function: the scene of a variety that is PLAIN but for what is said."""

    def made(tile: str = COAST, time: np.datetime64 = TIME, **changes):
        monkeypatch.setattr(varied, "draw", lambda g: replace(PLAIN, **changes))
        return LAND.varied_radar(tile, time)

    return made


def test_a_scene_is_a_function_of_its_name():
    first, label = LAND.varied_radar(PLACE, TIME)
    LAND.varied_radar(COAST, TIME)
    again, same = World(42, 2020, 256, LAND.kinds, wet=True).varied_radar(PLACE, TIME)
    np.testing.assert_array_equal(first.decibel("VV"), again.decibel("VV"))
    np.testing.assert_array_equal(label, same)
    other, _ = LAND.varied_radar(PLACE, TIME + np.timedelta64(30, "D"))
    assert np.abs(first.decibel("VV") - other.decibel("VV")).mean() > 1.0


def test_speckle_is_gamma_with_the_looks_that_were_drawn(scene):
    echo, _ = scene(looks=5.0)
    for p in ("VV", "VH"):
        ratio = echo.intensity[p] / echo.clean[p]
        assert ratio.mean() == pytest.approx(1.0, abs=0.01)
        assert ratio.var() == pytest.approx(1 / 5.0, rel=0.03)  # ENL = mean^2 / variance
    independent = [echo.intensity[p] / echo.clean[p] for p in ("VV", "VH")]
    assert abs(np.corrcoef(independent[0].ravel(), independent[1].ravel())[0, 1]) < 0.02


def test_noise_adds_power_and_what_is_subtracted_leaves_the_floor(scene):
    quiet, _ = scene()
    loud, _ = scene(noise=(-20.0, -20.0))
    extra = loud.intensity["VH"].mean(dtype="f8") - quiet.intensity["VH"].mean(dtype="f8")
    assert extra == pytest.approx(10**-2.0, rel=0.02)
    off, _ = scene(noise=(-20.0, -20.0), subtracted=1.0)
    assert off.intensity["VH"].mean(dtype="f8") == pytest.approx(quiet.intensity["VH"].mean(dtype="f8"), rel=0.05)
    assert off.intensity["VH"].min() == pytest.approx(varied.LEAST)
    assert off.decibel("VH").min() == pytest.approx(-50.0, abs=1e-3)


def test_water_has_the_level_that_was_drawn_and_wind_needs_a_fetch(scene):
    calm, label = scene()
    sea = calm.surface.permanent
    far = np.zeros_like(sea)
    far[40:-40, 40:-40] = sea[40:-40, 40:-40]
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(sea)
    open_sea, shore = distance > 30, (distance > 3) & (distance < 6)
    assert open_sea.sum() > 1000
    for k, p in enumerate(("VV", "VH")):
        clean = 10 * np.log10(calm.clean[p][open_sea])
        # the level is that at 38 degrees; the angle and the area of a pixel add about 1.5 dB at most
        assert clean.mean() == pytest.approx(PLAIN.calm[k], abs=2.0)
    rough, _ = scene(wind=(8.0, 2.4))
    gain = {p: 10 * np.log10(rough.clean[p] / calm.clean[p]) for p in ("VV", "VH")}
    assert gain["VV"][open_sea].mean() == pytest.approx(8.0, abs=0.3)
    assert gain["VH"][open_sea].mean() == pytest.approx(2.4, abs=0.1)
    assert gain["VV"][shore].mean() < 2.0
    assert np.abs(gain["VV"][ndimage.distance_transform_edt(label != 1) > 6]).max() < 0.1


def test_the_label_is_the_water_that_is_seen(scene):
    wet = 0
    for flood in LAND.floods(PLACE, 2020)[:3]:
        echo, label = scene(PLACE, flood.peak)
        truth = echo.surface
        assert set(np.unique(label)) <= {0, 1, 2}
        assert (label[truth.permanent] == 1).all()
        assert (label[~truth.permanent & ~truth.inundation] == 0).all()
        assert (label[truth.inundation & ~truth.flood] == 2).all()
        wet += int((label[truth.flood] == 1).sum())
        _, plants = scene(PLACE, flood.peak, emergent=0.9)
        assert (plants == 1).sum() <= (label == 1).sum()
    assert wet > 1000


def test_rice_stands_in_water_and_fields_can_be_as_dark(scene):
    _, dry = scene(PLACE)
    echo, label = scene(PLACE, rice=0.5)
    paddies = (label == 1) & (dry != 1)
    assert paddies.sum() > 500
    assert 10 * np.log10(np.median(echo.clean["VV"][paddies])) < -18
    assert not echo.surface.flood[paddies].all()
    echo, label = scene(PLACE, smooth=0.5, dark=8.0)
    fields = (label == 0) & (10 * np.log10(echo.clean["VV"]) < -18)
    assert fields.sum() > 500


def test_an_enlarged_part_is_the_same_ground_larger():
    rows = np.broadcast_to(np.arange(64.0)[:, None], (64, 64))
    part = varied._part(np.random.default_rng(1), 64, 2.5)
    np.testing.assert_allclose(np.diff(part(rows), axis=0), 1 / 2.5, atol=1e-4)
    assert part(rows).shape == (64, 64)
    np.testing.assert_array_equal(varied._part(np.random.default_rng(1), 64, 1.0)(rows), rows)


def test_a_lake_covers_the_low_ground_up_to_all_of_it(scene):
    _, label = scene(PLACE, drowned=0.6)
    assert (label == 1).mean() == pytest.approx(0.6, abs=0.03)
    hand = LAND.land(PLACE).terrain.hand
    assert hand[label == 1].max() < hand[label == 0].min() + 0.2
    assert (scene(PLACE, drowned=1.1)[1] == 1).all()


def test_draws_cover_calm_and_rough_seas_and_stay_in_their_ranges():
    drawn = [varied.draw(np.random.default_rng(k)) for k in range(400)]
    vv = np.array([v.calm[0] + v.wind[0] for v in drawn])
    assert vv.min() < -23
    assert -12 < vv.max() <= -9
    assert 0.3 < np.mean(vv < -18) < 0.75
    assert all(-33 < v.calm[1] < -23 for v in drawn)
    assert all(3.7 < v.looks < 12.1 and 1.0 <= v.zoom <= 3.0 for v in drawn)
    assert 0.2 < np.mean([v.rice > 0 for v in drawn]) < 0.4
