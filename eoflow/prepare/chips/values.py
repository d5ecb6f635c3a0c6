"""What the numbers in chips mean: names and units of bands, from what the files say, from the pixels, or from the user.

Nothing is guessed silently: what was concluded stands in the notes with its evidence, and what nothing settles is an
error that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eoflow.bands import BandSpec
from eoflow.catalog_scenes import UNITS
from eoflow.errors import BadInput
from eoflow.prepare.chips.pictures import Array, Header
from eoflow.registry import nearest
from eoflow.sources import geotiff_names as gn
from eoflow.sources.plausible import SAID, backscatter_kind, check_reflectance
from eoflow.sources.radiometry import unit_of
from eoflow.sources.sensors import CONVENTIONS

RADAR = ("VV", "VH", "HH", "HV")
S2 = tuple(CONVENTIONS["sentinel-2", "L1C"].bands)
COMMON = {n: b.common_name for n, b in CONVENTIONS["sentinel-2", "L1C"].bands.items()}
COLOURS = ("red", "green", "blue")
PICTURE, OTHER = "picture", "unknown"
SIDECAR = "chips.yaml"
VOID = -9000.0
"""Backscatter below this is a fill (-9999, -32768) that the file does not declare."""
DARK, OFFSET_DN, OFFSET_SINCE = 900, 1000, np.datetime64("2022-01-25", "ns")
EVIDENCE = 8
"""Files whose pixels are looked at, of each kind."""
Pixels = Callable[[Header], Array]


@dataclass(frozen=True)
class ChipOptions:
    """What a user says of the files. bands: names in the order of the file's bands. units, scale, offset, nodata: of
    every band, or by band name. physical = stored * scale + offset.
    """

    bands: tuple[str, ...] = ()
    units: str | Mapping[str, str] | None = None
    scale: float | Mapping[str, float] | None = None
    offset: float | Mapping[str, float] | None = None
    nodata: float | None = None

    def of(self, key: str, band: str) -> Any:
        """What was said of a band, or None."""
        value = getattr(self, key)
        return value.get(band) if isinstance(value, Mapping) else value

    def over(self, other: ChipOptions) -> ChipOptions:
        """Itself, and of the other what it leaves open."""
        mine = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, ())}
        return replace(other, **mine)

    def checked(self) -> ChipOptions:
        """Itself. Raises BadInput for units that do not exist."""
        said = self.units.values() if isinstance(self.units, Mapping) else [self.units] if self.units else []
        for u in said:
            if u not in UNITS:
                raise BadInput(f"units '{u}' are not known", todo=f"choose from {', '.join(UNITS)}")
        return self


def sidecar(folder: Path) -> ChipOptions:
    """What chips.yaml in a folder says; nothing where there is none. Raises BadInput naming the key."""
    path = folder / SIDECAR
    if not path.is_file():
        return ChipOptions()
    try:
        return options_of(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except yaml.YAMLError as e:
        raise BadInput("this is not YAML", where=str(path), todo=str(e).splitlines()[0]) from None


def options_of(said: Any, where: str) -> ChipOptions:
    """ChipOptions of a mapping as in YAML. Raises BadInput for an unknown key or a value that cannot be."""
    known = [f.name for f in fields(ChipOptions)]
    if not isinstance(said, dict):
        raise BadInput("it holds no keys", where=where,
                       todo=f"write for example bands: [B02, B03] (keys: {', '.join(known)})")  # fmt: skip
    for key in said:
        if key not in known:
            raise BadInput(f"no key '{key}'{nearest(str(key), known)}", where=where, todo=f"keys: {', '.join(known)}")
    given = dict(said)
    bands = given.get("bands", ())
    given["bands"] = tuple(str(b).strip() for b in (bands.split(",") if isinstance(bands, str) else bands))
    if isinstance(given.get("units"), (int, float)):
        given["units"] = str(given["units"])
    for key in ("scale", "offset", "nodata"):
        for v in given[key].values() if isinstance(given.get(key), dict) else [given.get(key)]:
            if v is not None and not isinstance(v, (int, float)):
                raise BadInput(f"{key} is a number, not '{v}'", where=where)
    return ChipOptions(**given).checked()


@dataclass(frozen=True)
class Reading:
    """How one kind of file becomes physical values. index: band of the file (from 0) of each name.

    sensors: of each band (sentinel-1, sentinel-2, picture, unknown). convert: `db` (of linear power), `power` (of
    decibel) or "" after scale and offset. zero_void: a pixel that is 0 in every band was not seen.
    """

    names: tuple[str, ...]
    index: tuple[int, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    sensors: tuple[str, ...]
    nodata: float | None = None
    alpha: int | None = None
    zero_void: bool = False
    convert: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def physical(self, stored: Array, wanted: Sequence[str]) -> Array:
        """(C, h, w) stored -> (len(wanted), h, w) float32, NaN where nothing was seen."""
        values = np.empty((len(wanted), *stored.shape[1:]), np.float32)
        void = np.zeros(stored.shape[1:], bool)
        if self.alpha is not None:
            void |= stored[self.alpha] == 0
        if self.zero_void:
            void |= (stored[sorted(set(self.index))] == 0).all(0)
        for k, name in enumerate(wanted):
            i = self.names.index(name)
            raw = stored[self.index[i]]
            x = raw.astype(np.float32)
            bad = ~np.isfinite(x)
            if self.nodata is not None and self.nodata == self.nodata:
                bad |= raw == self.nodata
            if self.sensors[i] == "sentinel-1":
                bad |= x <= VOID
            if (self.scale[i], self.offset[i]) != (1.0, 0.0):
                x = (raw.astype(np.float64) * self.scale[i] + self.offset[i]).astype(np.float32)
            x = _converted(x, self.convert[i] if self.convert else "")
            values[k] = np.where(bad | void | ~np.isfinite(x), np.nan, x)
        return values

    def spec(self, name: str) -> BandSpec:
        """The band as samples have it: float32 in its units."""
        i = self.names.index(name)
        common = COMMON.get(name) or (name if name in COLOURS else None)
        units = {"db": "dB", "power": "1"}.get(self.convert[i] if self.convert else "", self.units[i])
        return BandSpec(name=name, dtype="float32", units=units, common_name=common)

    def converted(self, wanted: Mapping[str, str]) -> Reading:
        """The same with decibel of linear power, or power of decibel, where a band is wanted so."""
        how = {("1", "dB"): "db", ("dB", "1"): "power"}
        pairs = zip(self.names, self.units, self.sensors, strict=True)
        return replace(self, convert=tuple(
            how.get((u, wanted.get(n, u)), "") if s == "sentinel-1" else "" for n, u, s in pairs
        ))  # fmt: skip


def _converted(x: Array, how: str) -> Array:
    if how == "db":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(10 * np.log10(x), np.float32)
    return np.asarray(10 ** (x / 10), np.float32) if how == "power" else x


def reading_of(headers: Sequence[Header], word: str, options: ChipOptions, pixels: Pixels) -> Reading:
    """How the files of one kind (the same number of bands) are read. word: what their names say (`s1`, `vv`).

    Raises BadInput that names a file and says what to write.
    """
    h = headers[0]
    notes: list[str] = []
    names = _names(h, word, options, pixels, headers, notes)
    looked = _Looked(headers, pixels)
    units, scale, offset, sensors, zero = [], [], [], [], False
    for i, name in enumerate(names):
        sensor = _sensor(h, name, names)
        found = _band(h, i, name, sensor, options, looked, notes)
        units.append(found[0])
        scale.append(found[1])
        offset.append(found[2])
        sensors.append(sensor)
        zero = zero or sensor in ("sentinel-1", "sentinel-2")
    nodata = options.nodata if options.nodata is not None else h.nodata
    index = tuple(i if h.bands >= len(names) else 0 for i in range(len(names)))
    return Reading(
        names, index, tuple(units), tuple(scale), tuple(offset), tuple(sensors), nodata, h.alpha, zero,
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


class _Looked:
    """Pixels of some of the files, read once: evidence."""

    def __init__(self, headers: Sequence[Header], pixels: Pixels) -> None:
        at = sorted(set(np.linspace(0, len(headers) - 1, min(len(headers), EVIDENCE)).astype(int).tolist()))
        self.headers, self.pixels = [headers[i] for i in at], pixels
        self._values: list[Array] | None = None
        self.offset: float | None = None  # of Sentinel-2 integers: one for all bands, found once

    def band(self, i: int, nodata: float | None) -> list[tuple[Header, Array]]:
        """(file, finite stored values of band i) of each file."""
        if self._values is None:
            self._values = [self.pixels(h) for h in self.headers]
        out = []
        for h, v in zip(self.headers, self._values, strict=True):
            x = v[min(i, len(v) - 1)].ravel()
            x = x[np.isfinite(x)] if x.dtype.kind == "f" else x
            out.append((h, x if nodata is None or nodata != nodata else x[x != nodata]))
        return out


# -- names -------------------------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """`B4` -> `B04`, `vv` -> `VV`; anything else as it is."""
    if m := re.fullmatch(r"[Bb](\d)", name):
        return f"B0{m[1]}"
    return name.upper() if name.upper() in RADAR or re.fullmatch(r"b(\d\d|8a)", name, re.IGNORECASE) else name


def _names(
    h: Header, word: str, options: ChipOptions, pixels: Pixels, headers: Sequence[Header], notes: list[str]
) -> tuple[str, ...]:
    if options.bands and len(options.bands) == h.bands:
        return tuple(canonical(b) for b in options.bands)
    if all(h.descriptions[: h.bands]):
        return tuple(canonical(re.sub(r"\W+", "_", str(d))) for d in h.descriptions[: h.bands])
    if h.picture:
        if h.bands == 1:
            notes.append("Grey pictures stand for red, green and blue alike.")
        return COLOURS
    token = gn.token(h.path.stem, [*RADAR, *(r.lower() for r in RADAR)]) or word
    if h.bands == 1 and canonical(token) in RADAR:
        return (canonical(token),)
    if h.bands == 13:
        notes.append(f"13 bands: taken for Sentinel-2 Level-1C in the satellite's order, {', '.join(S2)}.")
        return S2
    if h.bands == 15 and _radar_first(headers, pixels):
        notes.append("15 bands, the first two negative: taken for VV, VH and the 13 bands of Sentinel-2.")
        return ("VV", "VH", *S2)
    if h.bands == 2 and _radar_first(headers, pixels):
        notes.append("2 bands of negative values: taken for VV and VH.")
        return ("VV", "VH")
    if h.bands == 12 and re.search(r"(?<![A-Za-z0-9])s2|sentinel-?_?2", str(h.path), re.IGNORECASE):
        notes.append("12 bands named s2: taken for Sentinel-2 Level-2A in the satellite's order.")
        return tuple(b for b in S2 if b != "B10")
    many = "band is" if h.bands == 1 else f"of the {h.bands} bands is which,"
    said = f" ({len(options.bands)} names were given)" if options.bands else ""
    raise BadInput(
        f"which {many} is not known: the files do not name them{said}", where=str(h.path),
        todo=f"write them into {SIDECAR} in the folder, in the order of the file:  bands: [B02, B03, B04]   (also VV,"
        " VH, red, green, blue)",
    )  # fmt: skip


def _radar_first(headers: Sequence[Header], pixels: Pixels) -> bool:
    """Whether the first two bands of the first file with content are negative nearly everywhere."""
    for h in headers:
        x = pixels(h)[:2]
        x = x[np.isfinite(x) & (x != 0)]
        if x.size >= 64:
            return float((x < 0).mean()) > 0.9
    return False


def _sensor(h: Header, name: str, names: tuple[str, ...]) -> str:
    if name in RADAR:
        return "sentinel-1"
    if name in S2 and not h.picture:
        return "sentinel-2"
    colours = name in COLOURS or COMMON.get(name) in COLOURS
    return PICTURE if h.dtype == "uint8" and colours and len(names) <= 4 else OTHER


# -- units -------------------------------------------------------------------------------------------------------------


def _band(
    h: Header, i: int, name: str, sensor: str, options: ChipOptions, looked: _Looked, notes: list[str]
) -> tuple[str, float, float]:
    """(units, scale, offset) of band i."""
    said = options.of("units", name) or unit_of(h.units)
    scale = _first(options.of("scale", name), h.scale)
    offset = _first(options.of("offset", name), h.offset)
    if sensor == "sentinel-1":
        return _backscatter(h, i, name, said, scale, offset, looked, options.nodata, notes)
    if sensor == "sentinel-2" and said in (None, "1"):
        return _reflectance(h, i, scale, offset, looked, options.nodata, notes)
    if sensor == PICTURE and said in (None, "1"):
        notes.append("Pictures of 8 bits: values are brightness, 0 to 1 (stored / 255), not a calibrated quantity.")
        return "1", _first(scale, 1 / 255), _first(offset, 0.0)
    if said is not None:
        whole = np.dtype(h.dtype).kind in "iu"
        if scale is None and whole and said not in ("DN", "m", "degree"):
            raise _unsaid(h, name, "scale", "scale: 0.0001, offset: 0")
        return said, _first(scale, 1.0), _first(offset, 0.0)
    raise _unsaid(h, name, "units", 'units: "1", scale: 0.0001, offset: 0   ("1": reflectance; dB; K; DN)')


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _unsaid(h: Header, name: str, what: str, todo: str) -> BadInput:
    return BadInput(f"band {name}: {what} unknown: the file does not say it", where=str(h.path),
                    todo=f"write into {SIDECAR} in the folder:  {todo}")  # fmt: skip


def _backscatter(
    h: Header, i: int, name: str, said: str | None, scale: float | None, offset: float | None, looked: _Looked,
    nodata: float | None, notes: list[str],
) -> tuple[str, float, float]:  # fmt: skip
    factor, add = _first(scale, 1.0), _first(offset, 0.0)
    kinds: dict[str, Header] = {}
    empty = True
    for header, x in looked.band(i, nodata if nodata is not None else h.nodata):
        empty = empty and not x.size
        looks = backscatter_kind(x * factor + add)
        if looks is not None:
            kinds.setdefault(looks, header)
    if len(kinds) > 1:
        (a, first), (b, other) = list(kinds.items())[:2]
        raise BadInput(
            f"band {name} looks like {SAID[a]} in one chip and like {SAID[b]} in another",  # type: ignore[index]
            where=f"{first.path}, {other.path}",
            todo=f"keep files of one kind in a folder, or say units and scale in {SIDECAR}",
        )  # fmt: skip
    kind: str | None = next(iter(kinds), None)
    if said is not None:
        if kind is not None and kind != said:
            raise BadInput(f"band {name} is said to be in {said}, and its values look like {SAID[kind]}",  # type: ignore[index]
                           where=str(kinds[kind].path), todo=f"correct units (and scale) in {SIDECAR}")  # fmt: skip
        return said, factor, add
    if kind is None and empty:
        notes.append(f"Radar band {name}: no chip holds a value of it.")
        return "dB", factor, add
    if kind is None:
        raise _unsaid(h, name, "units", 'units: dB   ("1" for linear power), with scale and offset if they differ')
    notes.append(f"Radar band {name}: taken for {SAID[kind]} by its values.")  # type: ignore[index]
    if kind == "DN":
        raise BadInput(
            f"band {name} holds uncalibrated digital numbers", where=str(kinds[kind].path),
            todo="calibrate it to backscatter (dB or linear power) first",
        )  # fmt: skip
    more = {"dB/10000": 1e4, "dB*100": 0.01}.get(kind, 1.0)
    return ("1" if kind == "1" else "dB"), factor * more, add * more


def _reflectance(
    h: Header, i: int, scale: float | None, offset: float | None, looked: _Looked, nodata: float | None,
    notes: list[str],
) -> tuple[str, float, float]:  # fmt: skip
    found = [(f, x[x != 0]) for f, x in looked.band(i, nodata if nodata is not None else h.nodata)]
    if scale is None:
        whole = np.dtype(h.dtype).kind in "iu"
        tops = [float(np.percentile(x, 99)) for _, x in found if x.size >= 64]
        scale = 1e-4 if whole or (tops and max(tops) > 10) else 1.0
        what = "stored / 10000" if scale != 1.0 else "stored as it is"
        notes.append(f"Sentinel-2 reflectance: {what}.")
    if offset is None:
        offset = 0.0 if scale == 1.0 else _s2_offset(looked, nodata if nodata is not None else h.nodata, notes)
    for f, x in found:
        if x.size >= 64 and float(x.max()) > 0:
            check_reflectance(x, scale, offset, "1", where=str(f.path))
    return "1", scale, offset


def _s2_offset(looked: _Looked, nodata: float | None, notes: list[str]) -> float:
    """Offset of Sentinel-2 integers, by the darkest bands of all files that were looked at, or by their dates."""
    if looked.offset is not None:
        return looked.offset
    looked.offset = _found_offset(looked, nodata, notes)
    return looked.offset


def _found_offset(looked: _Looked, nodata: float | None, notes: list[str]) -> float:
    low, cirrus = [], []
    for i in range(looked.headers[0].bands):
        values = [float(np.percentile(x[x != 0], 1)) for _, x in looked.band(i, nodata) if (x != 0).sum() >= 64]
        low += values
        cirrus += values if looked.headers[0].bands in (13, 15) and i == looked.headers[0].bands - 3 else []
    if low and min(low) < DARK:
        notes.append(f"Sentinel-2: no offset (1 % of the pixels of a band lie below {DARK}).")
        return 0.0
    if cirrus and OFFSET_DN - 10 <= min(cirrus) <= OFFSET_DN + 60:
        notes.append("Sentinel-2: offset of processing baseline 04.00 (the cirrus band begins at 1000).")
        return -0.1
    times = [gn.time_of(str(h.path)) for h in looked.headers]
    if all(t is not None and t < OFFSET_SINCE for t in times):
        notes.append("Sentinel-2: no offset (sensed before processing baseline 04.00).")
        return 0.0
    raise BadInput(
        "neither dark pixels nor dates tell the radiometric offset of these Sentinel-2 chips",
        where=str(looked.headers[0].path),
        todo=f"write into {SIDECAR} in the folder:  offset: 0   (before baseline 04.00, or offset already applied), or"
        "  offset: -0.1",
    )
