import pytest

from eoflow.sources.units import GRAVITY, conversion, normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("m**2 s**-2", "m2 s-2"),
        ("m^2/s^2", "m2 s-2"),
        ("m2 s-2", "m2 s-2"),
        ("kg kg**-1", "kg kg-1"),
        ("kg/kg", "kg kg-1"),
        ("m.s-1", "m s-1"),
        ("millibar", "hPa"),
        ("mb", "hPa"),
        ("HPA", "hPa"),
        ("deg C", "degC"),
        ("Celsius", "degC"),
        ("°C", "degC"),
        ("Kelvin", "K"),
        ("(0 - 1)", "1"),
        ("", None),
        (None, None),
        ("mm/day", "mm d-1"),
        ("1/s", "s-1"),
        ("kg m**-2 s**-1", "kg m-2 s-1"),
        ("percent", "%"),
        ("geopotential meters", "gpm"),
        ("furlongs per fortnight", "furlongs per fortnight"),
    ],
)
def test_spellings_meet(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("source", "target", "special", "x", "y"),
    [
        ("degC", "K", "", 20.0, 293.15),
        ("degF", "K", "", 212.0, 373.15),
        ("hPa", "Pa", "", 1013.25, 101325.0),
        ("gpm", "m2 s-2", "geopotential", 5500.0, 5500.0 * GRAVITY),
        ("gpdam", "m2 s-2", "geopotential", 550.0, 5500.0 * GRAVITY),
        ("g kg-1", "kg kg-1", "", 5.0, 0.005),
        ("mm", "m", "water", 12.0, 0.012),
        ("kg m-2", "m", "water", 12.0, 0.012),
        ("%", "1", "", 40.0, 0.4),
        ("1", "%", "", 0.4, 40.0),
        ("m2 s-2", "m", "height", GRAVITY, 1.0),
        ("kt", "m s-1", "", 1.0, 0.514444),
    ],
)
def test_conversions(source, target, special, x, y):
    scale, offset = conversion(source, target, special)
    assert scale * x + offset == pytest.approx(y, rel=1e-6)


@pytest.mark.parametrize(
    ("source", "target", "special"),
    [("m", "m2 s-2", "geopotential"), ("kg m-2", "m", ""), ("gpm", "m2 s-2", ""), ("K", "Pa", ""), ("m", "Pa", "")],
)
def test_what_has_two_meanings_does_not_convert(source, target, special):
    assert conversion(source, target, special) is None
