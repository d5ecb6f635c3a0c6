import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput
from eoflow.sources.axes import latitude_order, longitude_order, tidy


def joined(values, slices):
    return np.concatenate([values[s] for s in slices])


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        (np.arange(0, 360, 2.5), 0, 357.5),
        (np.arange(-180, 180, 2.5), 0, 357.5),
        (np.arange(-15, 5.1, 2.5), -15, 5),
        (np.mod(np.arange(-15, 5.1, 2.5), 360), -15, 5),
        (np.arange(345, 365.1, 2.5), -15, 5),
        (np.arange(170, 190.1, 5), 170, 190),
        (np.array([170, 175, 180, -175, -170.0]), 170, 190),
        (np.arange(0, 361, 5.0), 0, 355),
        (np.arange(5, -15.1, -2.5), -15, 5),
        (np.arange(290, 370.1, 2.5), -70, 10),
        (np.array([-60.0]), -60, -60),
        (np.arange(0, 360, 0.1, dtype="f4"), 0, 359.9),
    ],
)
def test_longitudes(values, first, last):
    out, slices = longitude_order(values, "x")
    assert (out[0], out[-1]) == (first, last)
    assert np.all(np.diff(out) > 0)
    np.testing.assert_allclose(np.mod(joined(values, slices), 360), np.mod(out, 360), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(-180, 179), st.integers(2, 40), st.sampled_from([0.25, 1.0, 2.5, 5.0]), st.booleans())
def test_both_conventions_of_one_region_agree(west, count, step, backward):
    lon = west + np.arange(count) * step
    if lon[-1] - lon[0] > 300:
        return
    a, _ = longitude_order(lon, "x")
    other = np.mod(lon, 360.0)[:: -1 if backward else 1]
    b, slices = longitude_order(other, "x")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(np.mod(joined(other, slices), 360), np.mod(b, 360), atol=1e-9)


@pytest.mark.parametrize(
    ("values", "word"),
    [([0.0, 20, 10, 30], "not in order"), ([0.0, 10, 10, 20], "more than once"), ([0.0, 1e5], "not degrees")],
)
def test_bad_longitudes(values, word):
    with pytest.raises(BadInput, match=word):
        longitude_order(np.array(values), "file.nc, lon")


def test_latitudes():
    np.testing.assert_array_equal(latitude_order(np.array([-10.0, 0, 10]), "x")[0], [10, 0, -10])
    assert latitude_order(np.array([-10.0, 0, 10]), "x")[1] is True
    assert latitude_order(np.array([10.0, 0]), "x")[1] is False
    with pytest.raises(BadInput, match="not in order: 30 comes after 10"):
        latitude_order(np.array([20.0, 10, 30]), "x")
    with pytest.raises(BadInput, match="not degrees"):
        latitude_order(np.array([2e5, 3e5]), "x")


def test_tidy_gives_float32_decimals_back():
    np.testing.assert_array_equal(tidy(np.array([0.1, 0.2], "f4")), [0.1, 0.2])
    third = np.arange(3) / 3
    np.testing.assert_array_equal(tidy(third), third)
