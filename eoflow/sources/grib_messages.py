"""GRIB messages: framing by bytes, several fields in one message, headers and values through eccodes.

The framing is our own because the usual readers stop silently at a cut message. Fields that share a GRIB2 message
are taken apart by bytes, so that eccodes' process-wide multi-field switch is not needed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eoflow.sources.base import AssetCorrupt

LOCK = threading.Lock()
"""eccodes builds without thread support corrupt memory when used from two threads."""
UNDEFINED = ("unknown", "~", "")
_WINDOW = re.compile(r"^(\d+)-(\d+)$")


def _library() -> Any:
    """eccodes, loaded after PROJ: the other way round PROJ misses its database, and the process ends in a crash."""
    import pyproj  # noqa: F401, I001
    import eccodes

    return eccodes


@dataclass(frozen=True)
class Field:
    """One field of a file: where its bytes lie and what it is.

    Times are seconds since 1970; levels are in the units of their type. `part`: index of the field inside a
    multi-field message. `second`: other bound of a layer.
    """

    offset: int
    length: int
    part: int
    name: str
    param: int
    units: str
    long_name: str
    standard_name: str
    level_type: str
    first: float
    second: float | None
    step_type: str
    window: str
    init: int
    valid: int
    member: int | None
    grid: str

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


def frames(data: Any, where: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of every message in a bytes-like file image; padding between messages is skipped.

    Raises AssetCorrupt for a message that is cut off or does not end with its 7777, and for a file without any.
    """
    position, count, size = 0, 0, len(data)
    while (start := data.find(b"GRIB", position)) >= 0:
        if start + 16 > size:
            raise _cut(count, start, 16, size, where)
        length = _length(data, start)
        if length < 16:
            raise AssetCorrupt(
                f"GRIB message {count + 1} at byte {start} has no valid length", where=where, todo="fetch it again"
            )
        if start + length > size:
            raise _cut(count, start, length, size, where)
        if bytes(data[start + length - 4 : start + length]) != b"7777":
            raise AssetCorrupt(
                f"GRIB message {count + 1} at byte {start} does not end with its end mark 7777",
                where=where,
                todo="the file is damaged: fetch it again",
            )
        yield start, length
        position, count = start + length, count + 1
    rest = bytes(data[position:size]).strip(b"\x00 \r\n\t")
    if count == 0 or rest[:1] == b"G":
        raise AssetCorrupt(
            "there is no whole GRIB message in it" if count == 0 else "the last GRIB message is cut off",
            where=where,
            todo="the file is truncated or is not GRIB: fetch it again",
        )


def _cut(count: int, start: int, length: int, size: int, where: str) -> AssetCorrupt:
    return AssetCorrupt(
        f"the GRIB file is truncated: message {count + 1} at byte {start} needs {length} bytes, has {size - start} "
        f"({count} whole messages before it)",
        where=where,
        todo="fetch it again",
    )


def _length(data: Any, start: int) -> int:
    """Total length of the message at `start` by its section 0 (and, in GRIB1 above 8 MB, its section 4)."""
    if data[start + 7] == 2:
        return int.from_bytes(data[start + 8 : start + 16], "big")
    total = int.from_bytes(data[start + 4 : start + 7], "big")
    if not total & 0x800000:
        return total
    at = start + 8  # ECMWF's convention for large GRIB1: units of 120 bytes, the remainder in the length of section 4
    flags = data[at + 7]
    at += int.from_bytes(data[at : at + 3], "big")
    for bit in (0x80, 0x40):
        if flags & bit:
            at += int.from_bytes(data[at : at + 3], "big")
    remainder = int.from_bytes(data[at : at + 3], "big")
    long = (total & 0x7FFFFF) * 120
    return long - remainder + 4 if remainder < 120 else total


def split(message: bytes) -> list[bytes]:
    """The fields of one message, each as a message of its own (GRIB1 and single-field GRIB2: the message itself)."""
    if message[7] != 2:
        return [message]
    section: dict[int, bytes] = {}
    bitmap = b""
    out, position = [], 16
    parts: list[tuple[int, bytes]] = []
    while position < len(message) - 4:
        length, number = int.from_bytes(message[position : position + 4], "big"), message[position + 4]
        if length < 5 or position + length > len(message) - 4:
            return [message]
        parts.append((number, message[position : position + length]))
        position += length
    if sum(n == 7 for n, _ in parts) <= 1:
        return [message]
    for number, body in parts:
        if number == 6 and body[5] == 254:  # the bitmap of an earlier field of this message
            body = bitmap
        elif number == 6:
            bitmap = body
        section[number] = body
        if number == 7:
            content = b"".join(section[n] for n in range(1, 8) if n in section)
            head = message[:8] + (16 + len(content) + 4).to_bytes(8, "big")
            out.append(head + content + b"7777")
    return out


def headers(message: bytes, offset: int, grids: dict[str, dict[str, Any]], where: str) -> list[Field]:
    """The fields of a message; new grids are added to `grids` (key -> {lat, lon, order} or {unsupported})."""
    eccodes = _library()

    out = []
    for part, single in enumerate(split(message)):
        with LOCK:
            try:
                handle = eccodes.codes_new_from_message(single)
            except eccodes.CodesInternalError as e:
                raise AssetCorrupt(
                    f"the GRIB message at byte {offset} cannot be read: {e}", where=where, todo="fetch it again"
                ) from e
            try:
                field = _field(handle, offset, len(message), part)
                if field.grid not in grids:
                    grids[field.grid] = _grid(handle)
            except eccodes.CodesInternalError as e:
                raise AssetCorrupt(
                    f"the GRIB message at byte {offset} cannot be read: {e}", where=where, todo="fetch it again"
                ) from e
            finally:
                eccodes.codes_release(handle)
        out.append(field)
    return out


def _field(handle: Any, offset: int, length: int, part: int) -> Field:
    eccodes = _library()

    def get(key: str, kind: Any = None) -> Any:
        return eccodes.codes_get(handle, key, kind) if eccodes.codes_is_defined(handle, key) else None

    name = get("cfVarName", str) or "unknown"
    if name in UNDEFINED:
        name = get("shortName", str) or "unknown"
    if name in UNDEFINED:
        keys = (
            ("discipline", "parameterCategory", "parameterNumber")
            if get("edition") == 2
            else ("table2Version", "indicatorOfParameter")
        )
        name = "param_" + "_".join(str(get(k, int)) for k in keys)
    kind = get("typeOfLevel", str) or "unknown"
    first, second = _levels(handle, kind, get)
    m = _WINDOW.match(get("stepRange", str) or "")
    standard = get("cfName", str)
    return Field(
        offset=offset,
        length=length,
        part=part,
        name=name,
        param=int(get("paramId", int) or 0),
        units=get("units", str) or "",
        long_name=get("name", str) or name,
        standard_name="" if standard in (None, *UNDEFINED) else standard,
        level_type="isobaricInhPa" if kind == "isobaricInPa" else kind,
        first=first,
        second=second,
        step_type=get("stepType", str) or "instant",
        window=f"{int(m[2]) - int(m[1])}h" if m else "",
        init=_epoch(get("dataDate", int), get("dataTime", int)),
        valid=_epoch(get("validityDate", int), get("validityTime", int)),
        member=get("number", int),
        grid=get("md5GridSection", str) or get("gridType", str),
    )


def _levels(handle: Any, kind: str, get: Any) -> tuple[float, float | None]:
    """(level, other bound of a layer or None); pressures in hPa, everything else in the units of its level type."""
    if kind in ("isobaricInhPa", "isobaricInPa"):
        level = float(get("level", float))
        return (level / 100.0 if kind == "isobaricInPa" else level), None
    if get("edition") == 2:
        first, second = (_scaled(get, which) for which in ("First", "Second"))
        return first or 0.0, second
    top, bottom = get("topLevel", float), get("bottomLevel", float)
    return float(top if top is not None else 0.0), None if bottom is None or bottom == top else float(bottom)


def _scaled(get: Any, which: str) -> float | None:
    value, factor = get(f"scaledValueOf{which}FixedSurface", int), get(f"scaleFactorOf{which}FixedSurface", int)
    if value is None or factor is None or value in (-1, 2147483647, 4294967295) or factor in (-127, 127, 255):
        return None
    if value > 2**31:  # sign and magnitude, where eccodes reads an unsigned number
        value = -(value - 2**31)
    return float(value / 10**factor) if factor >= 0 else float(value * 10**-factor)


def _epoch(date: int, time: int) -> int:
    """YYYYMMDD and HHMM -> seconds since 1970."""
    text = f"{date:08d}"
    day = np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "s")
    return int(day.astype(np.int64)) + (time // 100) * 3600 + (time % 100) * 60


def _grid(handle: Any) -> dict[str, Any]:
    """{lat, lon, order}: distinct coordinates, and how the values run over them; {unsupported: gridType} otherwise."""
    eccodes = _library()

    kind = eccodes.codes_get(handle, "gridType", str)
    if kind not in ("regular_ll", "regular_gg"):
        return {"unsupported": kind}
    ni, nj = (eccodes.codes_get(handle, k, int) for k in ("Ni", "Nj"))
    lat, lon = (eccodes.codes_get_array(handle, k) for k in ("latitudes", "longitudes"))
    for order in ("rows", "columns", "serpentine"):
        a, b = (arrange(x, nj, ni, order) for x in (lat, lon))
        if np.ptp(a, axis=1).max() < 1e-6 and np.ptp(b, axis=0).max() < 1e-6:
            return {"lat": np.round(a[:, 0], 6).tolist(), "lon": np.round(b[0], 6).tolist(), "order": order}
    return {"unsupported": f"{kind} with an unusual scanning mode"}


def arrange(values: np.ndarray[Any, Any], nj: int, ni: int, order: str) -> np.ndarray[Any, Any]:
    """(nj * ni,) values in message order -> (nj, ni)."""
    if order == "columns":
        return values.reshape(ni, nj).T
    plane = values.reshape(nj, ni)
    if order == "serpentine":
        plane = plane.copy()
        plane[1::2] = plane[1::2, ::-1]
    return plane


def values(message: bytes, part: int, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(points,) float64 values of one field in message order; NaN where the bitmap has none."""
    eccodes = _library()

    single = split(message)[part]
    with LOCK:
        try:
            handle = eccodes.codes_new_from_message(single)
            try:
                eccodes.codes_set(handle, "missingValue", 1e34)
                out = np.asarray(eccodes.codes_get_values(handle), np.float64)
                holes = eccodes.codes_get(handle, "bitmapPresent", int) or eccodes.codes_get(
                    handle, "numberOfMissing", int
                )
            finally:
                eccodes.codes_release(handle)
        except eccodes.CodesInternalError as e:
            raise AssetCorrupt(
                f"a GRIB message cannot be decoded: {e}", where=where, todo="fetch the file again"
            ) from e
    if holes:
        out[out == 1e34] = np.nan
    return out
