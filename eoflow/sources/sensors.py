"""What the agencies publish about their products: bands, radiometry, quality layer, licence, in the newest convention.

Figures. Sentinel-2: ESA, Products Specification Document (S2-PDGS-TAS-DI-PSD), and the note on processing baseline
04.00 of 25 January 2022: reflectance = (DN + ADD_OFFSET) / QUANTIFICATION_VALUE with -1000 and 10000 in L1C and L2A,
DN 0 no data, DN 65535 saturated; centres of the bands are those of Sentinel-2A. Landsat: USGS, Collection 2 Level-2
scale factors (LSDS-1618, LSDS-1619, LSDS-1328): reflectance 2.75e-05 DN - 0.2, temperature 0.00341802 DN + 149.0 K,
DN 0 fill. Sentinel-1: ESA, Product Specification (S1-RS-MDA-52-7441): GRD holds amplitudes that mean nothing before
calibration; terrain-corrected (RTC) products of ASF and Planetary Computer hold linear gamma nought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eoflow.catalog_scenes import BandEntry, QualityEntry

TOA = "toa_bidirectional_reflectance"
SURFACE = "surface_bidirectional_reflectance"
SATURATED_S2 = 65535
"""DN that Sentinel-2 products use for a saturated pixel."""


@dataclass(frozen=True)
class Convention:
    """One known product. bands: by eoflow's name, fully described. physical: False where DN are uncalibrated."""

    sensor: str
    level: str
    bands: dict[str, BandEntry]
    quality: QualityEntry
    licence: str
    physical: bool = True


_S2: dict[str, tuple[str, float, str]] = {
    "B01": ("coastal", 0.4427, "coastal aerosol"), "B02": ("blue", 0.4927, "blue"), "B03": ("green", 0.5598, "green"),
    "B04": ("red", 0.6646, "red"), "B05": ("rededge071", 0.7041, "red edge 1"),
    "B06": ("rededge075", 0.7405, "red edge 2"), "B07": ("rededge078", 0.7828, "red edge 3"),
    "B08": ("nir", 0.8328, "near infrared"), "B8A": ("nir08", 0.8647, "narrow near infrared"),
    "B09": ("nir09", 0.9451, "water vapour"), "B10": ("cirrus", 1.3735, "cirrus"),
    "B11": ("swir16", 1.6137, "shortwave infrared 1"), "B12": ("swir22", 2.2024, "shortwave infrared 2"),
}  # fmt: skip
"""Band -> STAC common name, centre in micrometres, words."""

_OLI: dict[str, tuple[str, float, str]] = {
    "SR_B1": ("coastal", 0.443, "coastal aerosol"), "SR_B2": ("blue", 0.482, "blue"),
    "SR_B3": ("green", 0.562, "green"), "SR_B4": ("red", 0.655, "red"), "SR_B5": ("nir08", 0.865, "near infrared"),
    "SR_B6": ("swir16", 1.609, "shortwave infrared 1"), "SR_B7": ("swir22", 2.201, "shortwave infrared 2"),
    "ST_B10": ("lwir11", 10.9, "surface temperature"),
}  # fmt: skip
_TM: dict[str, tuple[str, float, str]] = {
    "SR_B1": ("blue", 0.485, "blue"), "SR_B2": ("green", 0.560, "green"), "SR_B3": ("red", 0.660, "red"),
    "SR_B4": ("nir08", 0.830, "near infrared"), "SR_B5": ("swir16", 1.650, "shortwave infrared 1"),
    "SR_B7": ("swir22", 2.215, "shortwave infrared 2"), "ST_B6": ("lwir", 11.45, "surface temperature"),
}  # fmt: skip


def _sentinel2(level: str) -> Convention:
    words = "surface" if level == "L2A" else "top-of-atmosphere"
    bands = {
        name: BandEntry(
            source_name=name, units="1", scale=1e-4, offset=-0.1, nodata=0, dtype="uint16", common_name=common,
            standard_name=SURFACE if level == "L2A" else TOA, long_name=f"{words} reflectance, {said}", wavelength=um,
        )
        for name, (common, um, said) in _S2.items()
        if level == "L1C" or name != "B10"
    }  # fmt: skip
    quality = QualityEntry(rule="scl", source_name="SCL") if level == "L2A" else QualityEntry()
    return Convention("sentinel-2", level, bands, quality, "Copernicus Sentinel data: free, full and open")


def _landsat(number: int, level: str) -> Convention:
    bands = {}
    for name, (common, um, said) in (_OLI if number >= 8 else _TM).items():
        if name.startswith("SR_"):
            bands[name] = BandEntry(
                source_name=name, units="1", scale=2.75e-05, offset=-0.2, nodata=0, dtype="uint16", common_name=common,
                standard_name=SURFACE, long_name=f"surface reflectance, {said}", wavelength=um,
            )  # fmt: skip
        elif level == "L2SP":  # L2SR has no temperature
            bands[name] = BandEntry(
                source_name=name, units="K", scale=0.00341802, offset=149.0, nodata=0, dtype="uint16",
                common_name=common, standard_name="surface_temperature", long_name=said, wavelength=um,
            )  # fmt: skip
    quality = QualityEntry(rule="qa_pixel", source_name="QA_PIXEL", saturation="QA_RADSAT")
    return Convention(f"landsat-{number}", level, bands, quality, "USGS Landsat: public domain")


def _sentinel1(level: str, units: str, said: str, dtype: str = "float32", nodata: float | None = None) -> Convention:
    bands = {
        p: BandEntry(source_name=p, units=units, dtype=dtype, nodata=nodata, scale=1.0, offset=0.0,
                     long_name=f"{said}, {p}")
        for p in ("VV", "VH", "HH", "HV")
    }  # fmt: skip
    licence = "Copernicus Sentinel data: free, full and open"
    return Convention("sentinel-1", level, bands, QualityEntry(), licence, physical=units != "DN")


_ALL = [
    _sentinel2("L1C"), _sentinel2("L2A"),
    *(_landsat(n, level) for n in (4, 5, 7, 8, 9) for level in ("L2SP", "L2SR")),
    _sentinel1("GRD", "DN", "uncalibrated amplitude", "uint16", 0),
    _sentinel1("RTC", "1", "terrain-corrected gamma nought, linear power"),
    _sentinel1("DB", "dB", "backscatter in decibel"),
]  # fmt: skip
CONVENTIONS: dict[tuple[str, str], Convention] = {(c.sensor, c.level): c for c in _ALL}


def known(sensor: str, level: str) -> Convention | None:
    """The product of a sensor ("sentinel-2", "landsat-8", "sentinel-1") and level ("L2A", "L2SP", "RTC", ...), or None.

    Case does not matter. One spacecraft of Sentinel ("sentinel-2a") counts as its mission; several Landsats
    ("landsat-8-9") have a convention only if it is the same for all: the band numbers of 4 to 7 mean other colours.
    """
    s = sensor.lower().replace("_", "-")
    if re.fullmatch(r"landsat(-\d)+", s):
        found = [CONVENTIONS.get((f"landsat-{n}", level.upper())) for n in s.split("-")[1:]]
        same = all(f is not None and found[0] is not None and f.bands == found[0].bands for f in found)
        return found[0] if same else None
    if s[:-1] in ("sentinel-1", "sentinel-2") and s[-1] in "abcd":
        s = s[:-1]
    return CONVENTIONS.get((s, level.upper()))
