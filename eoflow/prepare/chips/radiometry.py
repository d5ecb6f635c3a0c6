"""What tells the radiometry of chips where nobody says it: dB or linear power of radar, scale and offset of Sentinel-2.

`Looked` holds the evidence, pixels of some of the files; `backscatter` and `reflectance` conclude from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.chips.pictures import Array, Header
from eoflow.sources import geotiff_names as gn
from eoflow.sources.plausible import SAID, backscatter_kind, check_reflectance

SIDECAR = "chips.yaml"
DARK, OFFSET_DN, OFFSET_SINCE = 900, 1000, np.datetime64("2022-01-25", "ns")
EVIDENCE = 8
"""Files whose pixels are looked at, of each kind."""
Pixels = Callable[[Header], Array]


class Looked:
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


def first(*values: Any) -> Any:
    """The first that is not None."""
    return next((v for v in values if v is not None), None)


def unsaid(h: Header, name: str, what: str, todo: str) -> BadInput:
    """What a file does not say, and what to write."""
    return BadInput(f"band {name}: {what} unknown: the file does not say it", where=str(h.path),
                    todo=f"write into {SIDECAR} in the folder:  {todo}")  # fmt: skip


def backscatter(
    h: Header, i: int, name: str, said: str | None, scale: float | None, offset: float | None, looked: Looked,
    nodata: float | None, notes: list[str],
) -> tuple[str, float, float]:  # fmt: skip
    """Units, scale and offset of a radar band; `said`: its units, if somebody says them.

    Raises BadInput where the pixels contradict that, are uncalibrated, or tell nothing.
    """
    factor, add = first(scale, 1.0), first(offset, 0.0)
    kinds: dict[str, Header] = {}
    empty = True
    for header, x in looked.band(i, nodata if nodata is not None else h.nodata):
        empty = empty and not x.size
        looks = backscatter_kind(x * factor + add)
        if looks is not None:
            kinds.setdefault(looks, header)
    if len(kinds) > 1:
        (a, one), (b, other) = list(kinds.items())[:2]
        raise BadInput(
            f"band {name} looks like {SAID[a]} in one chip and like {SAID[b]} in another",  # type: ignore[index]
            where=f"{one.path}, {other.path}",
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
        raise unsaid(h, name, "units", 'units: dB   ("1" for linear power), with scale and offset if they differ')
    notes.append(f"Radar band {name}: taken for {SAID[kind]} by its values.")  # type: ignore[index]
    if kind == "DN":
        raise BadInput(
            f"band {name} holds uncalibrated digital numbers", where=str(kinds[kind].path),
            todo="calibrate it to backscatter (dB or linear power) first",
        )  # fmt: skip
    more = {"dB/10000": 1e4, "dB*100": 0.01}.get(kind, 1.0)
    return ("1" if kind == "1" else "dB"), factor * more, add * more


def reflectance(
    h: Header, i: int, scale: float | None, offset: float | None, looked: Looked, nodata: float | None,
    notes: list[str],
) -> tuple[str, float, float]:  # fmt: skip
    """Units, scale and offset of a Sentinel-2 band.

    Raises BadInput where nothing tells the offset, or values cannot be reflectance.
    """
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


def _s2_offset(looked: Looked, nodata: float | None, notes: list[str]) -> float:
    """Offset of Sentinel-2 integers, by the darkest bands of all files that were looked at, or by their dates."""
    if looked.offset is not None:
        return looked.offset
    looked.offset = _found_offset(looked, nodata, notes)
    return looked.offset


def _found_offset(looked: Looked, nodata: float | None, notes: list[str]) -> float:
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
