from __future__ import annotations

import numpy as np
import pytest
from eoflow_test_ingest import field_set, refuse

from eoflow.errors import SchemaMismatch
from eoflow.ingest import checks
from eoflow.schema import FieldSchema
from eoflow.times import Cadence

T = np.array(["2001-01-01", "2001-01-02", "2001-01-03"], "datetime64[ns]")


def test_time_axis():
    np.testing.assert_array_equal(checks.time_axis(T, "f"), T)
    refuse(lambda: checks.time_axis(T[:0], "f"), "no times")
    refuse(lambda: checks.time_axis(T[[0, 2, 1]], "f"), "not in order", "2001-01-02 follows 2001-01-03")
    refuse(lambda: checks.time_axis(T[[0, 1, 1]], "f"), "more than once", "2001-01-02")
    refuse(lambda: checks.time_axis(np.array([T[0], "NaT"]), "f"), "missing", "position 1")


@pytest.mark.parametrize(("cadence", "bad"), [("1d", 0), ("2d", 1), ("1mo", 2)])
def test_off_schedule(cadence, bad):
    assert checks.off_schedule(T, Cadence(cadence), T[0]).sum() == bad


def test_off_schedule_months_before_the_anchor():
    times = np.array(["2000-11-15", "2000-12-15", "2000-12-16", "2001-02-15"], "datetime64[ns]")
    off = checks.off_schedule(times, Cadence("1mo"), np.datetime64("2001-01-15", "ns"))
    np.testing.assert_array_equal(off, [False, False, True, False])


def test_header_lenient_and_strict():
    ds = field_set(range(3))
    schema = checks.canonical(FieldSchema.of(ds, "6h"))
    assert checks.header(ds, "a", schema, "mem", strict=True) == []
    assert checks.header(ds[["z", "msl"]], "a", schema, "mem", strict=True) == []  # the order in the file means nothing
    assert checks.header(ds.drop_vars("msl"), "a", schema, "mem", strict=False) == ["msl"]
    assert checks.header(ds.sel(level=[500.0]), "a", schema, "mem", strict=False) == ["z850"]
    for wrong in (ds.drop_vars("msl"), ds.sel(level=[500.0]), ds.isel(latitude=[0, 1]), ds.assign(new=ds.msl)):
        with pytest.raises(SchemaMismatch) as e:
            checks.header(wrong, "file.nc", schema, "mem", strict=True)
        assert "the archive 'mem'" in str(e.value)
        assert "file.nc" in str(e.value)
    other = ds.copy()
    other["msl"] = ds["msl"].assign_attrs(units="hPa")
    with pytest.raises(SchemaMismatch, match=r"msl units: Pa \| hPa"):
        checks.header(other, "a", schema, "mem", strict=False)


def test_fields():
    low = np.array([[1.0], [np.nan], [-np.inf], [0.0], [200.0]])
    high = np.array([[2.0], [np.nan], [3.0], [1.0], [500.0]])
    nans = np.array([[0], [10], [0], [3], [0]])
    found = checks.fields(low, high, nans, 10, (-5.0, 400.0), 0.2)
    assert [(t, what.split(" ")[0]) for t, _, what, _ in found] == [
        (1, "all"),
        (2, "infinite"),
        (3, "3"),
        (4, "values"),
    ]
    assert "0.3" in found[2][3]
    assert checks.fields(low[:1], high[:1], nans[:1], 10, None, 0.0) == []


PA = [95000.0, 105000.0, 101000.0]


@pytest.mark.parametrize(
    ("low", "high", "known", "words"),
    [
        (960.0, 1040.0, PA, "100 times too small"),
        (9.6e6, 1.04e7, PA, "100 times too large"),
        (-10.0, 25.0, [250.0, 310.0, 285.0], "273.15 too small"),
        (0.0, 40.0, [0.0, 0.05, 0.004], "1000 times too large"),
        (5000.0, 5800.0, [48000.0, 57500.0, 54000.0], "9.807 times too small"),
    ],
)
def test_units_that_look_wrong(low, high, known, words):
    found = checks.units_look_wrong("x", "u", low, high, (low + high) / 2, 10, known)
    assert found is not None
    assert words in found[1]
    assert "source_units" in found[1]


@pytest.mark.parametrize(
    ("low", "high", "known"),
    [
        (94000.0, 106500.0, PA),  # a deeper low than any before
        (0.0, 0.3, [0.0, 0.05, 0.004]),  # heavier rain than any before
        (0.0, 0.0002, [0.0, 0.05, 0.004]),  # a dry day
        (271.0, 280.0, [288.0, 291.0, 289.0]),  # the first winter of a small archive
        (-0.5, 0.4, [0.0, 0.0, 0.0]),
        (np.nan, np.nan, PA),
    ],
)
def test_honest_values_pass(low, high, known):
    assert checks.units_look_wrong("x", "u", low, high, known[2] * 0.7, 10, known) is None


def test_wind_a_hundredth():
    known = [-40.0, 50.0, 12.0]
    assert checks.units_look_wrong("u", "m s-1", -0.4, 0.5, 0.12, 20, known) is not None
    assert checks.units_look_wrong("u", "m s-1", -0.4, 0.5, 0.12, 1, known) is None  # one calm field proves nothing
    assert checks.units_look_wrong("u", "m s-1", -4.0, 5.0, 2.0, 20, known) is None
