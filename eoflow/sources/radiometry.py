"""Radiometry as a contract: processing baselines, one scale for all scenes of a cube, and what a band must declare.

physical = stored * scale + offset, in units; `nodata` is a stored value. Figures: `eoflow.sources.sensors`. Checks of
values against what is declared: `eoflow.sources.plausible`. Nothing here reads a raster.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.catalog_scenes import BandEntry
from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.plausible import (
    backscatter_kind,
    check_backscatter,
    check_reflectance,
    check_sample,
    require_physical,
)
from eoflow.sources.sensors import CONVENTIONS, SATURATED_S2, Convention, known

if TYPE_CHECKING:
    from eoflow.sources.scene import RasterBand

__all__ = [
    "CONVENTIONS",
    "SATURATED_S2",
    "Convention",
    "Pair",
    "backscatter_kind",
    "baseline_offset",
    "check_backscatter",
    "check_reflectance",
    "check_sample",
    "convention_of",
    "cube_band",
    "harmonise",
    "known",
    "parse_baseline",
    "require_physical",
    "same_nodata",
    "same_pair",
    "sentinel2_pair",
    "shift",
    "unit_of",
]  # fmt: skip

Array = np.ndarray[Any, Any]
Pair = tuple[float, float]
"""(scale, offset)"""

OFFSET_SINCE = (4, 0)
"""Processing baseline that introduced the radiometric offset of Sentinel-2 (25 January 2022)."""
OFFSET_DN = -1000


def parse_baseline(text: str) -> tuple[int, int]:
    """Processing baseline -> (major, minor): "04.00", "N0400", "0400" and "4.0" are (4, 0). Raises BadInput."""
    m = re.fullmatch(r"[Nn]?(\d{2})\.?(\d{2})|(\d{1,2})\.(\d{1,2})", str(text).strip())
    if m is None:
        raise BadInput(f"'{text}' is not a processing baseline", todo="write it as in the product, for example '04.00'")
    major, minor = (m[1], m[2]) if m[1] else (m[3], m[4])
    return int(major), int(minor)


def baseline_offset(
    baseline: str | None, level: str, *, stated: float | None = None, applied: bool = False, where: str = ""
) -> int:
    """The offset of Sentinel-2 DN (L1C, L2A): reflectance = (DN + offset) / 10000.

    stated: the metadata's own value in DN (RADIO_ADD_OFFSET, BOA_ADD_OFFSET, a raster:bands offset over its scale);
    it wins over the baseline. applied: the provider says that its pixels have the offset already added
    (earthsearch:boa_offset_applied), which wins over both: its items keep stating -0.1. The sensing date is no signal:
    old scenes were reprocessed. Raises BadInput where nothing tells.
    """
    if level.upper() not in ("L1C", "L2A"):
        raise BadInput(f"Sentinel-2 has no level '{level}' with a known offset", where=where or None, todo="L1C or L2A")
    if applied:
        return 0
    if stated is not None:
        if not math.isfinite(stated) or abs(stated - round(stated)) > 1e-3:
            raise BadInput(f"the metadata state an offset of {stated} DN; it must be whole", where=where or None)
        return round(stated)
    version = None if baseline is None else parse_baseline(baseline)
    if version is None or not (1, 0) <= version < (90, 0):  # 99.99: processed by a user's own Sen2Cor
        said = "no processing baseline" if baseline is None else f"processing baseline {baseline}"
        raise BadInput(
            f"{said} and no radiometric offset in the metadata: reflectances would be uncertain by 0.1",
            where=where or None,
            todo="write for each band in the catalog entry  offset: -0.1  (made with baseline 04.00 or later) "
            "or  offset: 0.0  (earlier, or offset already applied), with  scale: 0.0001",
        )
    return OFFSET_DN if version >= OFFSET_SINCE else 0


def sentinel2_pair(
    baseline: str | None,
    level: str,
    *,
    stated: float | None = None,
    quantification: float = 10000,
    applied: bool = False,
    where: str = "",
) -> Pair:
    """(scale, offset) of a Sentinel-2 scene, for example (0.0001, -0.1). Arguments as `baseline_offset`."""
    if not (math.isfinite(quantification) and quantification > 0):
        raise BadInput(
            f"quantification value {quantification}", where=where or None, todo="it is 10000 in every product"
        )
    offset = baseline_offset(baseline, level, stated=stated, applied=applied, where=where)
    return 1 / quantification, offset / quantification


def same_pair(a: Pair, b: Pair) -> bool:
    """Whether two (scale, offset) are equal but for the last digits of a float."""
    return math.isclose(a[0], b[0], rel_tol=1e-9) and math.isclose(a[1], b[1], rel_tol=1e-9, abs_tol=1e-6 * abs(b[0]))


def shift(from_: Pair, to: Pair, where: str = "") -> int:
    """The integer n with which stored + n, read with `to`, is what stored means with `from_`. Raises AssetCorrupt."""
    steps = (from_[1] - to[1]) / to[0] if to[0] else math.nan
    if not math.isclose(from_[0], to[0], rel_tol=1e-9) or not math.isfinite(steps) or abs(steps - round(steps)) > 1e-3:
        raise AssetCorrupt(
            f"the scene has scale {from_[0]:g} and offset {from_[1]:g}, the cube scale {to[0]:g} and offset {to[1]:g}: "
            "no exact change of integers leads from one to the other",
            where=where or None,
            todo="ingest it as a dataset of its own, or correct scale and offset in the catalog entry",
        )
    return round(steps)


def harmonise(
    stored: Array,
    from_: Pair,
    to: Pair,
    nodata: float | None = None,
    dtype: Any = None,
    *,
    saturated: float | None = None,
    copy: bool = False,
    where: str = "",
) -> Array:
    """Stored values of a scene (any shape) -> the stored values of the cube, exactly, without floats.

    from_, to: (scale, offset) of scene and cube. nodata stays nodata, and no value becomes nodata: what would leave
    the range of `dtype` (default: that of `stored`) is clipped to its last valid value. saturated: a stored value that
    is kept (65535 of Sentinel-2). Works IN PLACE if it can, unless `copy`; use what is returned. Raises AssetCorrupt
    if there is no exact shift, or a value does not fit `dtype`.
    """
    target = np.dtype(stored.dtype if dtype is None else dtype)
    n = 0 if same_pair(from_, to) else shift(from_, to, where)
    if n == 0 and stored.dtype == target:
        return stored.copy() if copy else stored
    if stored.dtype.kind not in "iu" or target.kind not in "iu":
        return _cast(stored, target, n, where)
    mine: np.iinfo[Any] = np.iinfo(stored.dtype)
    keep = np.zeros(stored.shape, bool)
    for value in (nodata, saturated):
        if value is not None and mine.min <= value <= mine.max and value == int(value):
            keep |= stored == int(value)
    room: np.iinfo[Any] = np.iinfo(target)
    low, high = room.min + int(nodata == room.min), room.max - int(nodata == room.max)
    if max(low, low - n) > min(high, high - n) or abs(n) > room.max:
        raise AssetCorrupt(f"a shift of {n} does not fit {target}", where=where or None)
    if stored.dtype == target:
        out = stored.copy() if copy or not stored.flags.writeable else stored
        _shift_in_place(out, n, low, high, keep)
    else:
        out = _shift_wide(stored, target, n, keep, where)
    if nodata is not None and n:  # nodata in the middle of the range: the one value that would hide in it moves by one
        out[(out == nodata) & ~keep] += 1
    return out


def _shift_in_place(out: Array, n: int, low: int, high: int, keep: Array) -> None:
    kept = out[keep]
    if n > 0:
        np.minimum(out, out.dtype.type(high - n), out=out)
        out += out.dtype.type(n)
    elif n < 0:
        np.maximum(out, out.dtype.type(low - n), out=out)
        out -= out.dtype.type(-n)
    out[keep] = kept


def _shift_wide(stored: Array, target: np.dtype[Any], n: int, keep: Array, where: str) -> Array:
    wide = stored.astype(np.int64)
    wide += np.where(keep, 0, n)
    room: np.iinfo[Any] = np.iinfo(target)
    if wide.size and (wide.min() < room.min or wide.max() > room.max):
        raise _does_not_fit(stored, target, where)
    return wide.astype(target)


def _cast(stored: Array, target: np.dtype[Any], n: int, where: str) -> Array:
    """Floats on one side: only where every value survives the way there and back."""
    with np.errstate(invalid="ignore", over="ignore"):
        out = stored.astype(target)
        back = out.astype(stored.dtype)
    floats = stored.dtype.kind == "f"
    if n or not np.array_equal(back, stored, equal_nan=floats):
        raise _does_not_fit(stored, target, where)
    return out


def _does_not_fit(stored: Array, target: np.dtype[Any], where: str) -> AssetCorrupt:
    return AssetCorrupt(
        f"the scene's {stored.dtype} values do not fit the cube's {target} exactly",
        where=where or None,
        todo=f"ingest it as a dataset of its own with  dtype: {stored.dtype}  for this band",
    )


def same_nodata(stored: Array, mine: float | None, cubes: float | None, where: str = "") -> Array:
    """Values in which the scene's nodata became the cube's (same dtype; IN PLACE if it can). Raises AssetCorrupt.

    Nothing to do where the scene has none, or the same. A valid value that would read as the cube's nodata is an error.
    """
    if mine is None or mine == cubes:
        return stored
    if math.isnan(mine) and (cubes is None or math.isnan(cubes)):  # a float band without nodata is filled with NaN
        return stored
    void = np.isnan(stored) if math.isnan(mine) else stored == mine
    if cubes is None or (math.isnan(cubes) and stored.dtype.kind != "f"):
        if not void.any():
            return stored
        raise AssetCorrupt(f"the scene has nodata {mine:g}, the cube has none", where=where or None)
    if not math.isnan(cubes) and (stored[~void] == cubes).any():
        raise AssetCorrupt(
            f"the scene has nodata {mine:g} and valid values {cubes:g}, which is the cube's nodata",
            where=where or None,
            todo=f"write  nodata: {mine:g}  for the band in the catalog entry of a dataset of its own",
        )
    if stored.dtype.kind in "iu" and not np.iinfo(stored.dtype).min <= cubes <= np.iinfo(stored.dtype).max:
        if not void.any():
            return stored
        raise AssetCorrupt(f"the cube's nodata {cubes:g} does not fit the scene's {stored.dtype}", where=where or None)
    out = stored if stored.flags.writeable else stored.copy()
    out[void] = cubes
    return out


UNIT_WORDS = {
    "1": "1", "none": "1", "unitless": "1", "dimensionless": "1", "reflectance": "1", "db": "dB", "decibel": "dB",
    "k": "K", "kelvin": "K", "dn": "DN", "m": "m", "metre": "m", "meter": "m", "degree": "degree", "degrees": "degree",
}  # fmt: skip


def unit_of(text: str | None) -> str | None:
    """A provider's word for a unit as one of `catalog_scenes.UNITS`, or None if it says nothing known."""
    return None if text is None else UNIT_WORDS.get(text.strip().lower())


def convention_of(name: str, entry: BandEntry | None, sensor: str, level: str) -> BandEntry | None:
    """The published description of a band, looked up by its name, source name or common name."""
    product = known(sensor, level)
    if product is None:
        return None
    words = [w.lower() for w in (name, entry.source_name if entry else None) if w]
    for band, description in product.bands.items():
        if band.lower() in words or (description.common_name or "").lower() in words:
            return description
    return None


def cube_band(
    name: str, entry: BandEntry | None, band: RasterBand, sensor: str, level: str, *, where: str = ""
) -> BandSpec:
    """How the cube stores a band: the entry's word, else the published convention, else the scene's own metadata.

    band: the scene's, after its header was read. Raises BadInput with the lines to write where units, dtype, scale or
    offset stay unknown, or where entry and scene contradict each other.
    """
    entry = entry or BandEntry()
    standard = convention_of(name, entry, sensor, level) or BandEntry()
    whole = band.dtype is None or np.dtype(band.dtype).kind in "iu"
    if standard.dtype and (np.dtype(standard.dtype).kind in "iu") != whole:
        standard = standard.model_copy(update={"scale": None, "offset": None, "nodata": None, "dtype": None})
    units = entry.units or unit_of(band.units) or standard.units
    stated = unit_of(band.units)
    if entry.units and stated and entry.units != stated:
        raise BadInput(
            f"band {name}: the catalog entry says units {entry.units}, the file {band.units}",
            where=where or None,
            todo="correct the entry, or remove units from it",
        )
    scale, offset = (_first(getattr(entry, k), getattr(standard, k), getattr(band, k)) for k in ("scale", "offset"))
    dtype = entry.dtype or band.dtype or standard.dtype
    missing = [k for k, v in (("units", units), ("scale", scale), ("offset", offset), ("dtype", dtype)) if v is None]
    if missing or units is None or dtype is None:
        raise BadInput(
            f"band {name}: {', '.join(missing)} unknown: neither the catalog entry nor the file says it",
            where=where or None,
            todo="write in the catalog entry  " + _example(name, missing),
        )
    said = {k: _first(getattr(entry, k), getattr(standard, k))
            for k in ("common_name", "standard_name", "long_name", "wavelength", "valid_range")}  # fmt: skip
    if units != standard.units:  # the published names describe the published quantity
        said["standard_name"] = entry.standard_name
        said["long_name"] = entry.long_name
    return BandSpec(
        name=name, dtype=np.dtype(dtype).name, units=units, scale=scale, offset=offset,
        nodata=_first(entry.nodata, band.nodata, standard.nodata), **said,
    )  # fmt: skip


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _example(name: str, missing: list[str]) -> str:
    words = {"units": 'units: "1"', "scale": "scale: 0.0001", "offset": "offset: 0.0", "dtype": "dtype: uint16"}
    hint = '   ("1" for reflectance or linear backscatter, dB, K, or DN if uncalibrated)' if "units" in missing else ""
    return f"bands: {{{name}: {{{', '.join(words[k] for k in missing)}}}}}{hint}"
