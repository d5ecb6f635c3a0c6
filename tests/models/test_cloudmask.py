from __future__ import annotations

import csv

import numpy as np
import pytest

from eoflow.models.cloudmask import CloudRules, grow
from eoflow.quality import Quality


def series(dates: int = 8, side: int = 24) -> dict[str, np.ndarray]:
    """Green fields with a little noise, without clouds."""
    rng = np.random.default_rng(3)
    usual = {"blue": 0.08, "green": 0.09, "red": 0.07, "nir": 0.3, "swir16": 0.2, "cirrus": 0.002}
    noise = rng.normal(0, 0.003, (dates, side, side))
    return {b: (v * (1 + noise * 3)).astype(np.float32) for b, v in usual.items()}


def everywhere(bands: dict[str, np.ndarray]) -> np.ndarray:
    return np.ones(bands["green"].shape, bool)


def test_a_clear_series_is_clear():
    bands = series()
    assert (CloudRules()(bands, everywhere(bands)) == int(Quality.CLEAR)).all()


def test_a_cloud_and_its_shadow_are_found_and_grown():
    bands = series()
    for b in ("blue", "green", "red", "nir", "swir16"):
        bands[b][3, 8:12, 8:12] = 0.5
        bands[b][3, 16:20, 16:20] *= 0.3
    found = CloudRules()(bands, everywhere(bands))
    cloud = np.zeros((24, 24), bool)
    cloud[6:14, 6:14] = True
    np.testing.assert_array_equal(found[3] == int(Quality.CLOUD), cloud)
    assert (found[3, 16:20, 16:20] == int(Quality.SHADOW)).all()
    assert (found[[0, 1, 2, 4, 5, 6, 7]] == int(Quality.CLEAR)).all()


def test_thin_haze_shows_against_the_other_dates_only():
    bands = series()
    for b in ("blue", "green", "red"):
        bands[b][2] += 0.05
    assert (CloudRules()(bands, everywhere(bands))[2] == int(Quality.CLOUD)).all()
    alone = {b: v[2:3] for b, v in bands.items()}
    assert (CloudRules()(alone, everywhere(alone)) == int(Quality.CLEAR)).all()


def test_a_bare_field_is_no_cloud():
    bands = series()
    bands["blue"][5] += 0.04
    bands["red"][5] += 0.09  # the ground brightens in the red more than in the blue
    bands["green"][5] += 0.05
    assert (CloudRules()(bands, everywhere(bands))[5] != int(Quality.CLOUD)).all()


def test_snow_is_snow_and_ice_cloud_is_cloud():
    bands = series()
    for date, cirrus in ((1, 0.003), (4, 0.2)):
        for b in ("blue", "green", "red", "nir"):
            bands[b][date] = 0.7
        bands["swir16"][date], bands["cirrus"][date] = 0.1, cirrus
    found = CloudRules()(bands, everywhere(bands))
    assert (found[1] == int(Quality.SNOW)).all()
    assert (found[4] == int(Quality.CLOUD)).all()


def test_pixels_without_a_value_are_nodata():
    bands = series()
    valid = everywhere(bands)
    valid[:, :5] = False
    found = CloudRules()(bands, valid)
    assert (found[:, :5] == int(Quality.NODATA)).all()
    assert (found[:, 5:] == int(Quality.CLEAR)).all()


def test_grow_is_a_square():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[0, 8] = True
    out = grow(mask, 2)
    assert out.sum() == 25 + 9 - 1
    assert out[2:7, 2:7].all()
    assert out[:3, 6:].all()


@pytest.mark.realdata
def test_a_year_of_sentinel_2_against_published_cloud_shares(realdata):
    import rasterio

    from eoflow.sources.geotiff_names import time_of

    folder = realdata / "s2_cloud"
    files = sorted((folder / "ts_ROIs2017_146_patch0").glob("*.tif"), key=lambda f: time_of(str(f)))
    if not files:
        pytest.skip("no series of Sentinel-2")
    with (folder / "ts_cloud_percentage_ROIs2017_146.csv").open() as f:
        said = {r["time"]: float(r["cloud_percentage"]) for r in csv.DictReader(f) if r["patch"] == "0"}
    stack = []
    for file in files:
        with rasterio.open(file) as f:
            stack.append(f.read().astype(np.float32) / 1e4)
    values = np.stack(stack)
    names = {"blue": 1, "green": 2, "red": 3, "nir": 7, "cirrus": 10, "swir16": 11}
    found = CloudRules()({b: values[:, i] for b, i in names.items()}, (values > 0).all(axis=1))
    share = (found == int(Quality.CLOUD)).mean(axis=(1, 2))
    truth = np.array([said[str(time_of(str(f)))[:10]] for f in files])
    assert np.corrcoef(share, truth)[0, 1] > 0.9
    assert np.abs(share - truth).mean() < 0.12
    assert (share[truth < 0.05] < 0.1).all()
    assert (share[truth > 0.95] > 0.9).all()
