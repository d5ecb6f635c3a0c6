"""Reads chips: files of one or several dates as physical bands, quality and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.chips import pictures
from eoflow.prepare.chips.labels import NONE, Coding
from eoflow.prepare.chips.layouts import Chip, Date
from eoflow.prepare.chips.pictures import Array, Header
from eoflow.prepare.chips.values import COLOURS, COMMON, ChipOptions, Reading, reading_of
from eoflow.quality import USABLE, Quality
from eoflow.registry import nearest

Kind = tuple[str, int, str]
"""Files that are read alike: their word, number of bands, kind of numbers."""


class CloudRule(Protocol):
    """Tells clouds and shadows of a series apart from the ground."""

    def __call__(self, bands: Mapping[str, Array], valid: Array) -> Array:
        """bands: reflectance (T, h, w) by common name; valid (T, h, w) -> eoflow.quality classes (T, h, w) uint8.

        Raises KeyError where a band that it needs is not there.
        """
        ...


class Loaded(NamedTuple):
    """One chip. inputs (T, C, h, w), target (C', h, w) float32 physical, NaN where nothing was seen; labels (h, w)."""

    inputs: Array
    quality: Array
    target: Array
    target_quality: Array
    labels: Array


@dataclass(frozen=True)
class Pixels:
    """Reads dates of a folder. readings: how each kind of file is read. wanted, targets: names of bands."""

    readings: Mapping[Kind, Reading]
    wanted: tuple[str, ...]
    targets: tuple[str, ...]
    coding: Coding | None = None

    def load(self, chip: Chip, quality: Sequence[Array | None] = (), target_quality: Array | None = None) -> Loaded:
        """The chip. quality: of each date, where it is known. Raises BadInput for files that do not fit together."""
        inputs = np.stack([self.date(d, self.wanted) for d in chip.dates])
        seen = np.isfinite(inputs).all(1)
        classes = np.full(seen.shape, int(Quality.CLEAR), np.uint8)
        for t, date in enumerate(chip.dates):
            known = quality[t] if t < len(quality) else None
            if known is None and date.mask is not None:
                known = mask_of(date.mask)
            if known is not None:
                _same(known.shape, seen.shape[1:], date.mask or date.first, date.first)
                classes[t] = known
        classes[~seen & (classes != int(Quality.MISSING))] = int(Quality.NODATA)
        shape = seen.shape[1:]
        target = np.zeros((0, *shape), np.float32)
        target_classes = np.zeros(shape, np.uint8)
        if chip.target is not None:
            target = self.date(chip.target, self.targets)
            _same(target.shape[1:], shape, chip.target.first, chip.dates[0].first)
            target_classes = np.full(shape, int(Quality.CLEAR), np.uint8) if target_quality is None else target_quality
            target_classes = np.where(np.isfinite(target).all(0), target_classes, int(Quality.NODATA)).astype(np.uint8)
        labels = np.zeros((0, *shape), np.int16)
        if self.coding is not None and chip.label is not None:
            found = self.coding.read(chip.label)
            _same(found.shape, shape, chip.label, chip.dates[0].first)
            labels = np.where(seen.all(0), found, NONE).astype(np.int16)[None]
        return Loaded(inputs, classes, target, target_classes, labels)

    def date(self, date: Date, wanted: Sequence[str]) -> Array:
        """(C, h, w) float32 of the named bands, from whichever files of the date have them."""
        out: list[Array | None] = [None] * len(wanted)
        shape, path = None, date.first
        for word, file in date.files.items():
            head = pictures.header(file)
            reading = self.readings.get(kind_of(word, head))
            mine = [n for n in wanted if reading is not None and n in reading.names]
            mine = [n for n in mine if out[wanted.index(n)] is None]
            if reading is None or not mine:
                continue
            values = reading.physical(pictures.read(file), mine)
            if shape is not None:
                _same(values.shape[1:], shape, file, path)
            shape, path = values.shape[1:], file
            for name, plane in zip(mine, values, strict=True):
                out[wanted.index(name)] = plane
        lacks = [n for n, v in zip(wanted, out, strict=True) if v is None]
        if lacks:
            raise BadInput(f"no band {', '.join(lacks)}", where=", ".join(map(str, date.files.values())),
                           todo="leave the chip out, or name the bands of its file: `bands` in chips.yaml")  # fmt: skip
        return np.stack([v for v in out if v is not None])


def _same(a: tuple[int, ...], b: tuple[int, ...], first: Path, second: Path) -> None:
    if tuple(a) != tuple(b):
        raise BadInput(
            f"two files of one chip have different sizes: {a[0]} x {a[1]} and {b[0]} x {b[1]} pixels",
            where=f"{first}, {second}", todo="bring them to one pixel grid first (rio warp, gdalwarp)",
        )  # fmt: skip


def mask_of(path: Path) -> Array:
    """Quality from a mask file: 0 clear, anything else cloud; NaN and nodata: not seen."""
    head = pictures.header(path)
    values = pictures.read(path)[0]
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        values = np.where(bad, 0, values)
    else:
        bad = np.zeros(values.shape, bool)
    if head.nodata is not None and head.nodata == head.nodata and head.nodata != 0:
        bad |= values == head.nodata
    out = np.where(values == 0, int(Quality.CLEAR), int(Quality.CLOUD)).astype(np.uint8)
    out[bad] = int(Quality.NODATA)
    return out


def kind_of(word: str, head: Header) -> Kind:
    """How a file is told from files of other kinds."""
    return word, head.bands, np.dtype(head.dtype).kind if head.dtype != "uint8" else "uint8"


def readings(dates: Sequence[Date], options: ChipOptions, wanted: Sequence[str]) -> dict[Kind, Reading]:
    """How each kind of file among the dates is read; kinds that nothing is wanted from are left out.

    Raises BadInput where a band that is wanted can come from none of them, with what stands in the way.
    """
    groups: dict[Kind, list[Header]] = {}
    for date in dates:
        for word, file in date.files.items():
            head = pictures.header(file)
            groups.setdefault(kind_of(word, head), []).append(head)
    out: dict[Kind, Reading] = {}
    errors: list[BadInput] = []
    for kind, heads in groups.items():
        try:
            out[kind] = reading_of(heads, kind[0], options, lambda h: pictures.read(h.path))
        except BadInput as e:
            errors.append(e)
    if not out and errors:
        raise errors[0]
    have = [n for r in out.values() for n in r.names]
    for name in wanted:
        if find(name, have) is None:
            if errors:
                raise errors[0]
            first = next(iter(groups.values()))[0].path
            raise BadInput(
                f"the chips have no band '{name}'{nearest(name, have)}", where=str(first),
                todo=f"their bands: {', '.join(dict.fromkeys(have))}; other names: `bands` in chips.yaml",
            )  # fmt: skip
    return out


def find(name: str, have: Sequence[str]) -> str | None:
    """The band meant by a name or a common name (`red` is B04 of Sentinel-2, and the other way round), or None."""
    if name in have:
        return name
    low = {h.lower(): h for h in have}
    if name.lower() in low:
        return low[name.lower()]
    for band in have:
        if COMMON.get(band) == name:
            return band
    common = COMMON.get(name)
    return common if common in COLOURS and common in have else None


def provides(readings_: Mapping[Kind, Reading], date: Date) -> tuple[str, ...]:
    """Names of the bands that a date has."""
    out: list[str] = []
    for word, file in date.files.items():
        reading = readings_.get(kind_of(word, pictures.header(file)))
        out += reading.names if reading is not None else ()
    return tuple(dict.fromkeys(out))


def fractions(quality: Array) -> tuple[float, float]:
    """(share of cloud and shadow among what was seen, share usable of all) of a date."""
    seen = int((quality > int(Quality.NODATA)).sum())
    hidden = int(np.isin(quality, [int(Quality.CLOUD), int(Quality.SHADOW)]).sum())
    usable = int(np.isin(quality, [int(q) for q in USABLE]).sum())
    return hidden / seen if seen else 1.0, usable / max(quality.size, 1)


def common_bands(reading: Reading) -> dict[str, str]:
    """Common name -> band, of reflectances: what a cloud rule takes."""
    out: dict[str, str] = {}
    for name, units in zip(reading.names, reading.units, strict=True):
        common: Any = COMMON.get(name) or (name if name in COLOURS else None)
        if common and units == "1":
            out.setdefault(common, name)
    return out
