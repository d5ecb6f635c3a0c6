from __future__ import annotations

import numpy as np
import pytest
from cubes import band

from eoflow.view.truecolour import colours_of, picture

RGB = [band("B02", common_name="blue"), band("B03", common_name="green"), band("B04", common_name="red")]
VV, VH = band("VV", dtype="float32", scale=1.0, offset=0.0, nodata=float("nan")), band("vh", units="dB", offset=0.0)


def test_which_bands_make_a_picture():
    assert colours_of(RGB).names == ("B04", "B03", "B02")
    assert colours_of(RGB).title == "true colour (B04, B03, B02)"
    plain = [band(n) for n in ("SR_B4", "SR_B2", "SR_B3")]
    assert colours_of(plain).names == ("SR_B4", "SR_B3", "SR_B2")
    named = [band("B04", common_name="nir"), band("x", common_name="red"), *RGB[:2]]
    assert colours_of(named).names == ("x", "B03", "B02"), "a common name goes before a usual one"
    assert colours_of([VH, VV]) == colours_of([VV, VH])
    assert colours_of([VV, VH]).kind == "radar"
    assert colours_of([VV]).title == "radar, dB (VV)"
    assert colours_of([band("water"), band("B8A")]).title == "water"


def test_stretch_is_of_the_usable_pixels_and_keeps_grey_grey():
    rng = np.random.default_rng(0)
    land = rng.uniform(0.02, 0.2, (80, 90))
    air = {"B04": 0.0, "B03": 0.03, "B02": 0.08}  # what scatters into each band
    cloud = np.zeros(land.shape, bool)
    cloud[:20] = True
    stored = {n: np.rint((np.where(cloud, 0.9, land + air[n]) + 0.1) * 1e4).astype("u2") for n in air}
    stored["B03"][70:, 80:] = 0
    specs = {b.name: b for b in RGB}
    got = picture(stored, specs, colours_of(RGB), ~cloud)
    assert got.shape == (80, 90, 4)
    assert got.dtype == np.float32
    assert (got[70:, 80:, 3] == 0).all()
    assert (got[:70, :, 3] == 1).all()
    assert (got[cloud][:, :3] == 1).all(), "clouds are white and not in the stretch"
    assert np.ptp(got[20:70, :, :3], axis=-1).max() < 0.01, "grey land stays grey, without the air"
    low, high = np.percentile(land[20:][got[20:, :, 3] > 0], [1, 99])
    expected = np.clip((land - low) / (high - low), 0, 1) ** (1 / 1.3)
    np.testing.assert_allclose(got[20:70, :, 0], expected[20:70], atol=0.01)
    everything = picture(stored, specs, colours_of(RGB), np.zeros(land.shape, bool))
    assert everything[20:70, :, 0].max() < 0.6, "nothing usable: the clouds are in the stretch"


def test_radar_is_in_decibel():
    rng = np.random.default_rng(1)
    linear = rng.gamma(2, 0.05, (40, 40)).astype("f4")
    linear[0, 0], linear[0, 1] = np.nan, 0.0
    got = picture({"VV": linear}, {"VV": VV}, colours_of([VV]))
    assert got[0, :2, 3].tolist() == [0, 0]
    db = 10 * np.log10(linear[1:])
    low, high = np.percentile(10 * np.log10(linear.ravel()[2:]), [1, 99])
    np.testing.assert_allclose(got[1:, :, 1], np.clip((db - low) / (high - low), 0, 1), atol=1e-4)
    cross = np.full((40, 40), 1500, "u2") + rng.integers(0, 500, (40, 40)).astype("u2")
    both = picture({"VV": linear, "vh": cross}, {"VV": VV, "vh": VH}, colours_of([VV, VH]))
    assert np.ptp(both[1:, :, :3], axis=-1).max() > 0.5


@pytest.mark.parametrize("value", [0, 500])
def test_flat_and_empty_images_have_colours(value):
    got = picture({"B04": np.full((9, 9), value, "u2")}, {"B04": RGB[2]}, colours_of([RGB[2]]))
    assert np.isfinite(got).all()
    assert (got[..., 3] == (value > 0)).all()
