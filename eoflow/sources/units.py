"""Units as files spell them -> one spelling, and the linear conversions between them.

Only conversions that have one meaning are known. Two of them hold for certain variables only and are asked for by
name: `water` (kg m-2 of liquid water is mm) and `geopotential` (height times g). g = 9.80665 m s-2 (WMO, CIPM 1901).
"""

from __future__ import annotations

import re
from typing import Literal

GRAVITY = 9.80665
Special = Literal["", "water", "geopotential", "height"]

_WORDS = {
    "kelvin": "K", "degk": "K", "deg_k": "K", "degrees_k": "K", "k": "K",
    "celsius": "degC", "degc": "degC", "deg_c": "degC", "degrees_c": "degC", "degree_celsius": "degC",
    "degrees_celsius": "degC", "degreec": "degC", "degreesc": "degC", "°c": "degC", "ºc": "degC", "c": "degC",
    "degf": "degF", "fahrenheit": "degF", "°f": "degF",
    "pascal": "Pa", "pascals": "Pa", "pa": "Pa", "hpa": "hPa", "mb": "hPa", "mbar": "hPa", "millibar": "hPa",
    "millibars": "hPa", "mbars": "hPa", "hectopascal": "hPa", "hectopascals": "hPa", "kpa": "kPa", "dbar": "dbar",
    "metre": "m", "metres": "m", "meter": "m", "meters": "m", "m": "m",
    "millimetre": "mm", "millimetres": "mm", "millimeter": "mm", "millimeters": "mm", "mm": "mm",
    "gpm": "gpm", "gpdm": "gpdam", "gpdam": "gpdam", "dagpm": "gpdam", "dam": "dam", "km": "km", "cm": "cm",
    "percent": "%", "%": "%", "pct": "%",
    "second": "s", "seconds": "s", "sec": "s", "s": "s", "hour": "h", "hours": "h", "hr": "h", "h": "h",
    "day": "d", "days": "d", "d": "d", "minute": "min", "minutes": "min", "min": "min",
    "kilogram": "kg", "kilograms": "kg", "kg": "kg", "gram": "g", "grams": "g", "g": "g", "mg": "mg",
    "joule": "J", "joules": "J", "j": "J", "watt": "W", "watts": "W", "w": "W", "newton": "N", "n": "N",
    "knot": "kt", "knots": "kt", "kt": "kt", "kts": "kt",
}  # fmt: skip
_DIMENSIONLESS = {
    "1", "(0 - 1)", "0-1", "(0-1)", "fraction", "proportion", "dimensionless", "unitless", "none", "numeric", "number",
    "~", "-", "(code table 4.222)", "code table 4.222", "kg/kg/kg*kg",
}  # fmt: skip
_PHRASES = {
    "geopotential meters": "gpm", "geopotential metres": "gpm", "geopotential meter": "gpm", "m (geopotential)": "gpm",
    "degrees celsius": "degC", "degree celsius": "degC", "deg c": "degC", "degrees c": "degC", "degrees kelvin": "K",
    "deg k": "K", "m of water equivalent": "m", "m of water": "m", "meters per second": "m s-1",
    "metres per second": "m s-1", "kilograms per kilogram": "kg kg-1", "grams per kilogram": "g kg-1",
}  # fmt: skip
_TOKEN = re.compile(r"^([A-Za-z°º%_]+)(-?\d+)?$")


def normalise(text: str | None) -> str | None:
    """One spelling: `m**2 s**-2`, `m^2/s^2` -> `m2 s-2`; `millibar` -> `hPa`; nothing -> None; else as it is."""
    plain = " ".join(str(text if text is not None else "").split())
    if not plain:
        return None
    low = plain.lower()
    if low in _DIMENSIONLESS or low.startswith("(code table"):
        return "1"
    if low in _PHRASES:
        return _PHRASES[low]
    body = re.sub(r"\s*/\s*", "/", plain.replace("**", "").replace("^", "")).replace("·", " ").replace("*", " ")
    body = re.sub(r"(?<=[A-Za-z0-9])\.(?=[A-Za-z])", " ", body)
    out: list[str] = []
    for position, group in enumerate(body.split("/")):
        for token in group.split():
            m = _TOKEN.match(token)
            if token == "1" and position == 0:
                continue
            if not m:
                return plain
            word = _WORDS.get(m[1]) or _WORDS.get(m[1].lower(), m[1])
            power = int(m[2] or 1) * (-1 if position else 1)
            out.append(word if power == 1 else f"{word}{power}")
    return " ".join(out) or "1"


# normalised unit -> (scale, offset) to the first unit of its family
_FAMILIES: tuple[dict[str, tuple[float, float]], ...] = (
    {"K": (1, 0), "degC": (1, 273.15), "degF": (5 / 9, 459.67 * 5 / 9)},
    {"Pa": (1, 0), "hPa": (100, 0), "kPa": (1000, 0), "dbar": (10000, 0)},
    {"m": (1, 0), "mm": (1e-3, 0), "cm": (1e-2, 0), "dam": (10, 0), "km": (1e3, 0)},
    {"kg kg-1": (1, 0), "g kg-1": (1e-3, 0), "mg kg-1": (1e-6, 0), "1": (1, 0)},
    {"%": (1, 0), "1": (100, 0)},
    {"m s-1": (1, 0), "km h-1": (1 / 3.6, 0), "kt": (1852 / 3600, 0), "cm s-1": (1e-2, 0)},
    {"Pa s-1": (1, 0), "hPa s-1": (100, 0), "hPa h-1": (100 / 3600, 0), "hPa d-1": (100 / 86400, 0)},
    {"s": (1, 0), "min": (60, 0), "h": (3600, 0), "d": (86400, 0)},
    {"kg m-2 s-1": (1, 0), "mm s-1": (1, 0), "mm h-1": (1 / 3600, 0), "mm d-1": (1 / 86400, 0)},
    {"J m-2": (1, 0), "W s m-2": (1, 0), "kJ m-2": (1e3, 0)},
    {"J kg-1": (1, 0), "m2 s-2": (1, 0)},
)
_SPECIAL: dict[str, dict[str, tuple[float, float]]] = {
    "water": {"m": (1, 0), "mm": (1e-3, 0), "cm": (1e-2, 0), "kg m-2": (1e-3, 0)},
    "geopotential": {"m2 s-2": (1, 0), "J kg-1": (1, 0), "gpm": (GRAVITY, 0), "gpdam": (10 * GRAVITY, 0)},
    "height": {"m": (1, 0), "gpm": (1, 0), "m2 s-2": (1 / GRAVITY, 0), "J kg-1": (1 / GRAVITY, 0)},
}


def conversion(source: str, target: str, special: Special = "") -> tuple[float, float] | None:
    """(scale, offset) with target = scale * source + offset; None where the two are not convertible.

    Both in normalised spelling. `special` adds the conversions that hold for that kind of variable only.
    """
    if source == target:
        return 1.0, 0.0
    for family in (*([_SPECIAL[special]] if special else []), *_FAMILIES):
        if source in family and target in family:
            (a, b), (c, d) = family[source], family[target]
            return a / c, (b - d) / c
    return None
