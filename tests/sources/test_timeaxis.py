import numpy as np
import pytest
import xarray as xr

from eoflow.errors import BadInput
from eoflow.sources import timeaxis


def decode(values, units, calendar="standard"):
    return timeaxis.decode(xr.Variable("time", values, {"units": units, "calendar": calendar}), "f.nc, time").astype(
        "datetime64[s]"
    )


@pytest.mark.parametrize(
    ("values", "units", "calendar", "expected"),
    [
        ([0.0, 0.25], "days since 2001-01-01", "standard", ["2001-01-01T00", "2001-01-01T06"]),
        ([1 / 3, 2 / 3], "days since 2001-01-01", "standard", ["2001-01-01T08", "2001-01-01T16"]),
        ([0, 1], "months since 1960-01-01", "360", ["1960-01-01", "1960-02-01"]),
        ([0.5, 1.5], "months since 1960-01-01", "360", ["1960-01-01", "1960-02-01"]),
        ([20010131, 20010201.5], "day as %Y%m%d.%f", "standard", ["2001-01-31", "2001-02-01T12"]),
        ([58, 59], "days since 2004-01-01", "noleap", ["2004-02-28", "2004-03-01"]),
        ([0, 30], "days since 2001-01-01", "360_day", ["2001-01-01", "2001-02-01"]),
        ([24 * 36525 - 24], "hours since 1900-01-01", "gregorian", ["2000-01-01"]),
    ],
)
def test_decode(values, units, calendar, expected):
    np.testing.assert_array_equal(decode(np.array(values), units, calendar), np.array(expected, "datetime64[s]"))


def test_decode_agrees_with_xarray():
    values = np.arange(0, 800, 7.25)
    ds = xr.decode_cf(xr.Dataset(coords={"time": ("time", values, {"units": "hours since 1987-03-04 05:06:07"})}))
    mine = timeaxis.decode(xr.Variable("time", values, {"units": "hours since 1987-03-04 05:06:07"}), "x")
    np.testing.assert_array_equal(mine, ds.time.values.astype("datetime64[ns]"))


@pytest.mark.parametrize(
    ("units", "word"), [("", "no units"), ("days", "units 'days'"), ("parsecs since 2000-01-01", "cannot read")]
)
def test_unreadable_units_say_so(units, word):
    with pytest.raises(BadInput, match=word) as e:
        decode(np.arange(3), units)
    assert "f.nc" in e.value.text()


def test_daily_360_day_calendar_is_refused():
    with pytest.raises(BadInput, match="360-day"):
        decode(np.arange(60), "days since 2001-01-01", "360_day")


@pytest.mark.parametrize(
    ("times", "word"),
    [
        (["2001-01-01", "2001-01-03", "2001-01-02"], "2001-01-02 comes after 2001-01-03"),
        (["2001-01-01", "2001-01-02", "2001-01-02"], "2001-01-02 appears more than once"),
        (["2001-01-01", "2001-01-02", "2001-01-01"], "2001-01-01 appears more than once"),
        (["2001-01-01", "NaT"], "time number 1 is missing"),
        ([], "empty"),
    ],
)
def test_check_names_the_first_offending_time(times, word):
    with pytest.raises(BadInput, match=word):
        timeaxis.check(np.array(times, "datetime64[ns]"), "f.nc")
