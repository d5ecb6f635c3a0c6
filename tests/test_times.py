from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput
from eoflow.times import Cadence, Period, format_duration, iso, parse_duration, parse_time, year_and_day_fraction

DATES = st.datetimes(min_value=pd.Timestamp("1900-01-01"), max_value=pd.Timestamp("2100-01-01")).map(
    lambda d: np.datetime64(d.replace(microsecond=0), "ns")
)


@pytest.mark.parametrize(("text", "hours"), [("10d", 240), ("6h", 6), ("30min", 0.5), ("90s", 0.025)])
def test_duration(text, hours):
    assert parse_duration(text) / np.timedelta64(3600 * 10**9, "ns") == hours
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


@pytest.mark.parametrize("text", ["10", "d10", "", "1mo", "-3h", "1.5d", "ten days"])
def test_bad_duration(text):
    with pytest.raises(BadInput, match="not a duration"):
        parse_duration(text)


def test_a_period_reaches_to_the_last_instant_it_names():
    assert Period.parse("2001/2007").end == pd.Timestamp("2008-01-01").to_datetime64() - np.timedelta64(1, "ns")
    assert Period.parse("2001-02").end == pd.Timestamp("2001-03-01").to_datetime64() - np.timedelta64(1, "ns")
    one = Period.parse("2020-01-01T06:00/2020-01-01T12")
    assert (one.start, one.end) == (np.datetime64("2020-01-01T06", "ns"), np.datetime64("2020-01-01T12", "ns"))


@pytest.mark.parametrize("text", ["2007/2001", "yesterday", "2001-13", "2001-02-30", "2020-01-01T25", "2999-01-01"])
def test_bad_period(text):
    with pytest.raises(BadInput):
        Period.parse(text)


@given(DATES)
@settings(max_examples=30, deadline=None)
def test_iso_loses_nothing(t):
    assert parse_time(iso(t)) == t


@given(DATES, st.sampled_from(["6h", "1d", "12h", "1mo", "3mo", "1y"]), st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_axis_against_pandas_and_infer(start, cadence, n):
    if "mo" in cadence or "y" in cadence:
        start = start.astype("datetime64[M]").astype("datetime64[ns]")
    months = Cadence(cadence).months
    step = pd.DateOffset(months=months) if months else pd.Timedelta(Cadence(cadence).delta)
    expected = pd.date_range(start, periods=n, freq=step).values
    axis = Cadence(cadence).axis(start, expected[-1])
    np.testing.assert_array_equal(axis, expected)
    if cadence in ("6h", "1d", "12h", "1mo"):
        assert Cadence.infer(axis).text == cadence


def test_infer_refuses_an_irregular_axis():
    times = np.array(["2020-01-01", "2020-01-02", "2020-01-03T12"], "datetime64[ns]")
    with pytest.raises(BadInput, match="no regular step"):
        Cadence.infer(times)
    with pytest.raises(BadInput, match="one time"):
        Cadence.infer(times[:1])


@pytest.mark.parametrize("lead", ["0h", "3h", "7h"])
def test_leads_that_are_no_multiple_of_the_step(lead):
    with pytest.raises(BadInput, match="multiple"):
        Cadence("6h").steps(lead)
    assert Cadence("6h").steps("10d") == 40


def test_fractions_of_year_and_day():
    t = np.array(["2020-01-01", "2020-07-02", "2021-12-31T18"], "datetime64[ns]")
    f = year_and_day_fraction(t)
    np.testing.assert_allclose(f[:, 0], [0, 183 / 366, 364.75 / 365], atol=1e-6)
    np.testing.assert_allclose(f[:, 1], [0, 0, 0.75], atol=1e-6)
