"""Reflectance of materials and the seasons of plants.

Spectra are typical values of the Sentinel-2 bands read from published libraries (ECOSTRESS, USGS splib07) and
textbooks (Jensen 2007), as bidirectional reflectance of the surface, 0..1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Sentinel-2 bands that the land has, 490 to 2190 nm."""
WAVELENGTH = dict(zip(BANDS, (0.490, 0.560, 0.665, 0.704, 0.740, 0.783, 0.842, 0.865, 1.610, 2.190)))
COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12")
"""Bands whose pixels are 20 m on the ground."""

_TABLE = {
    "leaf": (0.025, 0.060, 0.023, 0.100, 0.320, 0.420, 0.450, 0.470, 0.200, 0.090),
    "broadleaf": (0.019, 0.041, 0.018, 0.075, 0.265, 0.355, 0.375, 0.395, 0.165, 0.070),
    "conifer": (0.015, 0.027, 0.016, 0.043, 0.125, 0.165, 0.185, 0.195, 0.085, 0.038),
    "meadow": (0.030, 0.070, 0.036, 0.112, 0.275, 0.340, 0.365, 0.385, 0.215, 0.110),
    "straw": (0.080, 0.120, 0.165, 0.195, 0.225, 0.255, 0.285, 0.305, 0.360, 0.260),
    "twigs": (0.038, 0.056, 0.070, 0.085, 0.115, 0.135, 0.155, 0.165, 0.190, 0.125),
    "autumn": (0.035, 0.070, 0.095, 0.150, 0.230, 0.280, 0.300, 0.315, 0.200, 0.105),
    "loam": (0.050, 0.072, 0.098, 0.115, 0.132, 0.148, 0.168, 0.182, 0.245, 0.205),
    "sand": (0.125, 0.185, 0.250, 0.275, 0.295, 0.315, 0.335, 0.350, 0.440, 0.395),
    "rock": (0.105, 0.125, 0.145, 0.153, 0.160, 0.167, 0.176, 0.183, 0.220, 0.200),
    "mud": (0.045, 0.062, 0.078, 0.086, 0.092, 0.096, 0.100, 0.104, 0.110, 0.080),
    "tile": (0.068, 0.095, 0.175, 0.205, 0.232, 0.245, 0.260, 0.270, 0.320, 0.290),
    "concrete": (0.160, 0.175, 0.188, 0.194, 0.200, 0.205, 0.210, 0.214, 0.225, 0.215),
    "bitumen": (0.060, 0.065, 0.070, 0.073, 0.076, 0.079, 0.083, 0.086, 0.100, 0.102),
    "metal": (0.380, 0.400, 0.410, 0.414, 0.418, 0.420, 0.420, 0.418, 0.370, 0.310),
    "slate": (0.090, 0.095, 0.098, 0.100, 0.103, 0.106, 0.110, 0.113, 0.125, 0.120),
    "asphalt": (0.080, 0.090, 0.100, 0.104, 0.109, 0.114, 0.121, 0.126, 0.150, 0.142),
    "clear_water": (0.034, 0.033, 0.016, 0.012, 0.009, 0.008, 0.007, 0.006, 0.003, 0.002),
    "green_water": (0.030, 0.047, 0.027, 0.028, 0.015, 0.014, 0.012, 0.010, 0.004, 0.003),
    "turbid_water": (0.066, 0.095, 0.098, 0.090, 0.060, 0.055, 0.042, 0.038, 0.010, 0.006),
    "snow": (0.900, 0.900, 0.895, 0.885, 0.870, 0.855, 0.830, 0.810, 0.100, 0.075),
    "old_snow": (0.680, 0.700, 0.700, 0.690, 0.670, 0.655, 0.630, 0.610, 0.080, 0.060),
    "water_cloud": (0.700, 0.700, 0.705, 0.710, 0.715, 0.720, 0.720, 0.715, 0.540, 0.400),
    "ice_cloud": (0.600, 0.600, 0.605, 0.610, 0.615, 0.620, 0.620, 0.615, 0.330, 0.230),
}
DIFFUSE = dict(zip(BANDS, (0.27, 0.21, 0.16, 0.145, 0.13, 0.12, 0.105, 0.10, 0.05, 0.04)))
"""Share of the light on level ground that comes from the whole sky, at high sun."""
HAZE = dict(zip(BANDS, (1.0, 0.72, 0.47, 0.41, 0.36, 0.31, 0.26, 0.24, 0.06, 0.03)))
"""Path reflectance of haze against that at 490 nm."""

CROPS = ("wheat", "rapeseed", "maize", "beet", "ley", "sunflower", "fallow")
# greenness: up (day, days), down (day, days), height; straw after it until harvest (day); cover in winter
_SEASONS = {
    "wheat": (95.0, 13.0, 172.0, 7.0, 0.92, 205.0, 0.28),
    "rapeseed": (85.0, 13.0, 178.0, 8.0, 0.95, 203.0, 0.45),
    "maize": (168.0, 10.0, 262.0, 10.0, 0.93, 285.0, 0.0),
    "beet": (155.0, 11.0, 292.0, 12.0, 0.93, 296.0, 0.0),
    "ley": (80.0, 12.0, 310.0, 15.0, 0.92, 400.0, 0.50),
    "sunflower": (150.0, 10.0, 225.0, 8.0, 0.85, 255.0, 0.0),
    "fallow": (105.0, 18.0, 250.0, 25.0, 0.42, 400.0, 0.15),
}


def column(material: str, bands: tuple[str, ...]) -> NDArray[np.float32]:
    """Reflectance of a material in `bands`: (bands,) float32."""
    row = _TABLE[material]
    return np.asarray([row[BANDS.index(b)] for b in bands], np.float32)


def _logistic(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def crop_state(crop: str, day: Any, late: Any) -> tuple[Any, Any]:
    """(green, straw) cover of a crop at a day of the northern year; `late`: days that the field is late.

    Double logistic (Beck et al. 2006); the rest of the ground is soil. Shapes broadcast.
    """
    up, up_days, down, down_days, height, harvest, winter = _SEASONS[crop]
    d = day - late
    green = height * (_logistic((d - up) / up_days) - _logistic((d - down) / down_days))
    green = np.maximum(green, 0.0)
    sown = _logistic((d - 305.0) / 12.0) + 1.0 - _logistic((d - (up + 10)) / 14.0)
    green = green + winter * np.clip(sown, 0, 1) * (1 - green)
    ripe = _logistic((d - down) / down_days) * (1 - _logistic((d - harvest) / 1.5))
    stubble = 0.35 * _logistic((d - harvest) / 1.5) * (1 - _logistic((d - harvest - 35.0) / 8.0))
    straw = np.clip(np.maximum(height * ripe, stubble), 0.0, 1.0 - np.clip(green, 0, 1))
    if crop == "ley":  # mown every 45 days from May on
        since = np.mod(d - 140.0, 45.0)
        green = np.where((d > 140) & (d < 300), green * (0.45 + 0.55 * np.minimum(since / 20.0, 1.0)), green)
    return green, straw


def leaves(day: float, latitude: float) -> float:
    """Leaf cover of broadleaved trees, 0 in winter .. 1 in summer (always green in the tropics)."""
    late = 0.9 * (abs(latitude) - 46.0)
    year = _logistic((day - 110.0 - late) / 6.0) - _logistic((day - 298.0 + late) / 8.0)
    return float(max(year, np.clip((28.0 - abs(latitude)) / 6.0, 0.0, 1.0)))


def meadow_green(day: float, latitude: float, dry: float) -> float:
    """Green cover of permanent grassland: low in winter, burnt in a dry summer."""
    late = 0.6 * (abs(latitude) - 46.0)
    year = 0.42 + 0.55 * (_logistic((day - 98.0 - late) / 10.0) - _logistic((day - 305.0 + late) / 16.0))
    summer = _logistic((day - 165.0) / 8.0) - _logistic((day - 270.0) / 14.0)
    return float(np.clip(year * (1.0 - 0.75 * dry * summer - 0.2 * dry), 0.05, 1.0))
