"""Sun and weather of a day: where the sun stands, rain that wets the soil, how low snow lies, how cloudy it is.

Weather is one for all tiles of a UTM zone, and a function of the seed and the day.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .noise import uniform
from .tiles import Tile

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Sun:
    """elevation above the horizon and azimuth (clockwise from north), radians."""

    elevation: float
    azimuth: float

    @property
    def vector(self) -> tuple[float, float, float]:
        """Unit vector to the sun: east, north, up."""
        c = np.cos(self.elevation)
        return (float(c * np.sin(self.azimuth)), float(c * np.cos(self.azimuth)), float(np.sin(self.elevation)))


def day_of_year(time: np.datetime64) -> float:
    """0 at the start of the year, 365.x at its end."""
    return float((time - time.astype("datetime64[Y]")) / DAY)


def season(tile: Tile, time: np.datetime64) -> float:
    """Day of the year as the north knows it: half a year later in the south."""
    return (day_of_year(time) + (0.0 if tile.north else 182.6)) % 365.25


def sun(tile: Tile, time: np.datetime64) -> Sun:
    """Position of the sun, good to about half a degree (Cooper 1969 with the equation of time)."""
    lon, lat = tile.centre
    d = day_of_year(time)
    b = 2 * np.pi * (d - 81.0) / 364.0
    equation = 9.87 * np.sin(2 * b) - 7.53 * np.cos(b) - 1.5 * np.sin(b)  # minutes
    declination = np.deg2rad(23.45) * np.sin(2 * np.pi * (284.0 + d + 1) / 365.0)
    hour = (d % 1.0) * 24.0 + lon / 15.0 + equation / 60.0
    h, phi = np.deg2rad(15.0 * (hour - 12.0)), np.deg2rad(lat)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(h)
    east = -np.cos(declination) * np.sin(h)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(h)
    return Sun(float(np.arcsin(np.clip(up, -1, 1))), float(np.arctan2(east, north) % (2 * np.pi)))


def _number(time: np.datetime64) -> int:
    return int(time.astype("datetime64[D]").astype(np.int64))


@lru_cache(maxsize=4096)
def _rain(seed: int, zone: int, day: int) -> float:
    """Rain of a day, about cm; dry on two days of three, in spells of a few days."""
    spell = uniform("spell", seed, zone, day // 4)
    if uniform("rain", seed, zone, day) > 0.1 + 0.5 * spell:
        return 0.0
    return -0.8 * float(np.log(1.0 - uniform("amount", seed, zone, day)))


def wetness(seed: int, tile: Tile, time: np.datetime64) -> float:
    """How wet the topsoil is: 0 dry .. 1 soaked. It dries faster in summer."""
    day = _number(time)
    keep = 0.88 - 0.12 * np.sin(np.pi * np.clip((season(tile, time) - 60) / 245, 0, 1))
    return float(1.0 - np.exp(-sum(_rain(seed, tile.zone, day - k) * keep**k for k in range(15))))


def snow_line(seed: int, tile: Tile, time: np.datetime64) -> float:
    """Height above which snow lies, m; below 0: down to the sea."""
    lat = abs(tile.centre[1])
    mean, swing = 29.0 - 0.0088 * lat**2, 0.21 * lat
    d = season(tile, time) - 30.0  # snow lags the sun
    day = _number(time)
    first, part = day // 9, day % 9 / 9
    spell = (1 - part) * uniform("warm", seed, tile.zone, first) + part * uniform("warm", seed, tile.zone, first + 1)
    warmth = mean - swing * np.cos(2 * np.pi * (d - 15.0) / 365.25) + 11.0 * (spell - 0.5)
    return float((warmth + 3.5) / 0.0062)


def haze(seed: int, tile: Tile, time: np.datetime64) -> float:
    """Residual path reflectance at 490 nm after atmospheric correction: mostly below 0.01, on hazy days 0.03."""
    u = uniform("haze", seed, tile.zone, _number(time))
    return float(0.002 + 0.006 * u + 0.03 * max(u - 0.85, 0.0) / 0.15)


def cloudiness(seed: int, tile: Tile, time: np.datetime64) -> float:
    """Expected cloud cover of the zone at that day, 0..1: clear, partial and overcast days are all common."""
    day = _number(time)
    u = uniform("clouds", seed, tile.zone, day)
    winter = 0.5 + 0.5 * np.cos(2 * np.pi * (season(tile, time) - 10) / 365.25)
    wet = 0.10 * (_rain(seed, tile.zone, day) > 0)
    u = float(np.clip(u + 0.10 * (winter - 0.5) + wet, 0.0, 0.9999))
    return float(np.interp(u, [0.0, 0.27, 0.34, 0.70, 0.80, 1.0], [0.0, 0.003, 0.05, 0.75, 0.985, 1.0]))
