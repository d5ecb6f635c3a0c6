"""What the numbers in chips mean: names and units of bands, from what the files say, from the pixels, or from the user.

Nothing is guessed silently: what was concluded stands in the notes with its evidence, and what nothing settles is an
error that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eoflow.bands import BandSpec
from eoflow.catalog_scenes import UNITS
from eoflow.errors import BadInput
from eoflow.prepare.chips.pictures import Array, Header
from eoflow.prepare.chips.radiometry import SIDECAR, Looked, Pixels, backscatter, first, reflectance, unsaid
from eoflow.registry import nearest
from eoflow.sources import geotiff_names as gn
from eoflow.sources.complex_pixels import PARTS
from eoflow.sources.radiometry import unit_of
from eoflow.sources.sensors import CONVENTIONS

RADAR = ("VV", "VH", "HH", "HV")
S2 = tuple(CONVENTIONS["sentinel-2", "L1C"].bands)
COMMON = {n: b.common_name for n, b in CONVENTIONS["sentinel-2", "L1C"].bands.items()}
COLOURS = ("red", "green", "blue")
PICTURE, OTHER = "picture", "unknown"
VOID = -9000.0
"""Backscatter below this is a fill (-9999, -32768) that the file does not declare."""


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
    looked = Looked(headers, pixels)
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
    h: Header, i: int, name: str, sensor: str, options: ChipOptions, looked: Looked, notes: list[str]
) -> tuple[str, float, float]:
    """(units, scale, offset) of band i."""
    said = options.of("units", name) or unit_of(h.units)
    scale = first(options.of("scale", name), h.scale)
    offset = first(options.of("offset", name), h.offset)
    if sensor == "sentinel-1":
        return backscatter(h, i, name, said, scale, offset, looked, options.nodata, notes)
    if sensor == "sentinel-2" and said in (None, "1"):
        return reflectance(h, i, scale, offset, looked, options.nodata, notes)
    if sensor == PICTURE and said in (None, "1"):
        notes.append("Pictures of 8 bits: values are brightness, 0 to 1 (stored / 255), not a calibrated quantity.")
        return "1", first(scale, 1 / 255), first(offset, 0.0)
    if name in PARTS and said is None:
        return "1", first(scale, 1.0), first(offset, 0.0)
    if said is not None:
        whole = np.dtype(h.dtype).kind in "iu"
        if scale is None and whole and said not in ("DN", "m", "degree"):
            raise unsaid(h, name, "scale", "scale: 0.0001, offset: 0")
        return said, first(scale, 1.0), first(offset, 0.0)
    raise unsaid(h, name, "units", 'units: "1", scale: 0.0001, offset: 0   ("1": reflectance; dB; K; DN)')
