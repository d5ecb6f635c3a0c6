"""Whether values can be what is declared: decibel or power, reflectance or digital numbers.

The unit of a backscatter image is often nowhere in its file, and each kind of confusion yields a picture that looks
right. Natural surfaces keep the kinds apart: sigma or gamma nought is about -30 to +5 dB, so 0.001 to 3 as power;
amplitudes of a GRD product are tens to thousands; some training sets store decibels over 10000.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from eoflow.bands import BandSpec
from eoflow.errors import BadInput

Array = np.ndarray[Any, Any]
Kind = Literal["dB", "1", "DN", "dB/10000", "dB*100"]
ENOUGH = 16
"""Valid values below which nothing is judged (an all-NaN chip is no contradiction)."""
SAID: dict[Kind, str] = {
    "dB": "decibel", "1": "linear power", "DN": "digital numbers (amplitude)", "dB/10000": "decibel divided by 10000",
    "dB*100": "decibel times 100",
}  # fmt: skip
WRITE: dict[Kind, str] = {
    "dB": "units: dB", "1": 'units: "1"', "DN": "units: DN", "dB/10000": "units: dB, scale: 10000",
    "dB*100": "units: dB, scale: 0.01",
}  # fmt: skip
BACKSCATTER = '  units: dB   (decibel)\n  units: "1"  (linear power)\n  units: DN   (uncalibrated)'


def _valid(sample: Array, nodata: float | None = None) -> Array:
    x = np.asarray(sample).ravel()
    if nodata is not None and not np.isnan(nodata):
        x = x[x != (x.dtype.type(nodata) if x.dtype.kind == "f" else nodata)]
    x = x.astype("f8")
    return x[np.isfinite(x)]


def backscatter_kind(sample: Array) -> Kind | None:
    """What values of backscatter (any shape; NaN and 0 are left out) look like; None: too few, or not told apart."""
    x = _valid(sample)
    x = x[(x != 0) & (x > -9000)]  # 0 and -9999, -32768 are fills of providers that do not declare them
    if x.size < ENOUGH:
        return None
    low, middle, high = np.percentile(x, (1, 50, 99))
    negative = float((x < 0).mean())
    if negative > 0.9 and low > -0.011 and high < 0.0011:
        return "dB/10000"
    if negative > 0.5 and low > -90 and high < 40 and middle < -1:
        return "dB"
    if negative > 0.9 and middle < -100 and low > -9000:
        return "dB*100"
    if negative < 0.01 and middle < 3 and high < 1000:
        return "1"
    if negative == 0 and middle >= 10:
        return "DN"
    return None


def check_backscatter(sample: Array, units: str | None, *, where: str = "") -> None:
    """Raise BadInput unless physical values of backscatter can be in `units` ("dB", "1" or "DN").

    sample: stored * scale + offset of some pixels, any shape; too few valid ones are no contradiction, but units that
    are missing always are.
    """
    kind = backscatter_kind(sample)
    if units is None:
        looks = "" if kind is None else f"; the values look like {SAID[kind]}"
        todo = (
            "write what they are for the band in the catalog entry, one of\n" + BACKSCATTER
            if kind is None
            else f"check with the provider, then write for the band in the catalog entry  {WRITE[kind]}"
        )
        raise BadInput(f"backscatter without units{looks}", where=where or None, todo=todo)
    if units not in ("dB", "1", "DN"):
        raise BadInput(f"backscatter in units '{units}'", where=where or None, todo="write one of\n" + BACKSCATTER)
    x = _valid(sample)
    if x[x != 0].size < ENOUGH or kind == units:
        return
    low, middle, high = np.percentile(x[x != 0], (1, 50, 99))
    seen = f"1 % below {low:.4g}, median {middle:.4g}, 1 % above {high:.4g}"
    looks = "" if kind is None else f"; they look like {SAID[kind]}"
    raise BadInput(
        f"the values cannot be backscatter in {units} ({seen}){looks}",
        where=where or None,
        todo="correct units and scale of the band in the catalog entry"
        + ("" if kind is None else f":  {WRITE[kind]}   (if scale is 1 now)"),
    )


def check_reflectance(
    sample: Array, scale: float, offset: float, units: str | None, *, nodata: float | None = None, where: str = ""
) -> None:
    """Raise BadInput unless stored values, with scale and offset, can be reflectances (units "1").

    sample: stored values of some pixels, any shape. Catches digital numbers or percent taken for reflectance, a scale
    applied to what is already scaled, and an offset subtracted twice (half of the image below zero).
    """
    if units == "DN":
        return
    x = _valid(sample, nodata)
    x = x[x != 0]
    if units != "1":
        guess = "" if x.size < ENOUGH else f" (the stored values have a median of {np.median(x):g})"
        raise BadInput(
            f"reflectance {'without units' if units is None else f'in units {units}'}{guess}",
            where=where or None,
            todo='write for the band in the catalog entry  units: "1", scale: ..., offset: ...  '
            "(Sentinel-2: 0.0001 and -0.1 since baseline 04.00, 0.0001 and 0.0 before)",
        )
    if x.size < ENOUGH:
        return
    middle = float(np.median(x)) * scale + offset
    top = float(np.percentile(x, 99)) * scale
    if middle > 3:
        said = "percent" if middle < 100 and scale == 1 and float(x.max()) <= 200 else "digital numbers"
        line = "scale: 0.01" if said == "percent" else "scale: 0.0001, and the offset of the product"
        raise _not_reflectance(f"the median would be {middle:.4g}: these are {said}", scale, offset, line, where)
    if top < 1e-3 and float(np.percentile(x, 99)) < 3:
        raise _not_reflectance("the values are already reflectances", scale, offset, "scale: 1.0, offset: 0.0", where)
    if middle < -0.03:
        raise _not_reflectance(
            f"half of them would be below {middle:.3g}: the offset is already in the values", scale, offset,
            "offset: 0.0", where,
        )  # fmt: skip


def _not_reflectance(what: str, scale: float, offset: float, line: str, where: str) -> BadInput:
    return BadInput(
        f"not reflectances with scale {scale:g} and offset {offset:g}: {what}",
        where=where or None,
        todo=f"write for the band in the catalog entry  {line}",
    )


def check_sample(sample: Array, spec: BandSpec, sensor: str, *, where: str = "") -> None:
    """Check stored values (any shape) of a band against its description. Raises BadInput.

    Radar is told by the sensor's name or units dB; temperature, height and angles are not judged.
    """
    place = f"{where}, band {spec.name}" if where else f"band {spec.name}"
    radar = spec.units == "dB" or "sentinel-1" in sensor.lower() or "sar" in sensor.lower().replace("_", "-").split("-")
    if radar:
        x = _valid(sample, spec.nodata)
        check_backscatter(x * spec.scale + spec.offset, spec.units, where=place)
    elif spec.units == "1":
        check_reflectance(sample, spec.scale, spec.offset, spec.units, nodata=spec.nodata, where=place)


def require_physical(units: str, band: str, *, todo: str | None = None) -> None:
    """Raise BadInput for a band in DN: digital numbers have no physical meaning before calibration."""
    if units == "DN":
        raise BadInput(
            f"band {band} holds uncalibrated digital numbers (units DN), not a physical quantity",
            todo=todo or "ingest a calibrated product (Sentinel-1: RTC), or calibrate it first, and declare its units",
        )
