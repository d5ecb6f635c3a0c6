"""What the values of label files mean: 0/1 or 0/255, -1 and nodata for no label, and nothing that is not a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.chips import pictures
from eoflow.prepare.chips.pictures import Array

NONE = -1
FEW = 0.02
"""Pixels of other values than 0 and 255 that a 0/255 mask may have (edges that a picture editor smoothed): no label."""


@dataclass(frozen=True)
class Coding:
    """Value in a file -> class number. Everything else has no label. classes: the recipe's values of the classes."""

    table: Mapping[int, int]
    notes: tuple[str, ...] = ()
    classes: Mapping[Path, frozenset[int]] = field(default_factory=dict, compare=False)
    """Class numbers that occur in each file."""

    def read(self, path: Path) -> Array:
        """(h, w) int16 class numbers of a file, -1 none."""
        values, nodata = _values(path)
        out = np.full(values.shape, NONE, np.int16)
        for value, number in self.table.items():
            if nodata is None or value != nodata:
                out[values == value] = number
        return out


def _values(path: Path) -> tuple[Array, float | None]:
    """(h, w) numbers of a label file, and its nodata."""
    head = pictures.header(path)
    bands = pictures.read(path, numbers=True)
    if head.alpha is not None:
        bands = np.delete(bands, head.alpha, axis=0)
    if len(bands) > 1 and not (bands == bands[:1]).all():
        raise BadInput(
            f"a label of {len(bands)} different bands", where=str(path),
            todo="labels have one band with the number of the class, or 0 and 255",
        )  # fmt: skip
    values = bands[0]
    if values.dtype.kind == "f":
        known = np.isfinite(values)
        if (values[known] != np.round(values[known])).any():
            raise BadInput("a label with fractions", where=str(path), todo="labels are whole numbers of classes")
        values = np.where(known, values, -32768).astype(np.int64)
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    return values, head.nodata


def coding(paths: Sequence[Path], classes: tuple[int, ...]) -> Coding:
    """How the labels of a folder are coded, from all of them. Raises BadInput naming the file with a foreign value.

    For the classes (0, 1), 255 means 1 in files that know no 1, and no label in a folder where a file has both.
    """
    seen: dict[int, int] = {}
    first: dict[int, Path] = {}
    both: Path | None = None
    few: set[int] = set()
    held: dict[Path, set[int]] = {}
    for path in paths:
        values, nodata = _values(path)
        found, counts = np.unique(values, return_counts=True)
        mine = {int(v): int(n) for v, n in zip(found, counts, strict=True) if nodata is None or v != nodata}
        if classes == (0, 1) and 1 in mine and 255 in mine:
            both = path
        held[path] = set(mine)
        odd = {v for v in mine if 0 < v < 255 and v not in classes}
        if classes == (0, 1) and 255 in mine and sum(mine[v] for v in odd) <= FEW * values.size:
            few |= odd
        for v, n in mine.items():
            seen[v] = seen.get(v, 0) + n
            first.setdefault(v, path)
    table = {value: number for number, value in enumerate(classes)}
    notes = []
    if classes == (0, 1) and 255 in seen:
        if both is None:
            table[255] = 1
        else:
            notes.append(f"255 means no label: {both.name} has 0, 1 and 255.")
    allowed = {*table, NONE, 255, -32768} if classes == (0, 1) else {*table, NONE, -32768}
    foreign = [v for v in seen if v not in allowed and v not in few]
    if foreign:
        value = max(foreign, key=lambda v: seen[v])
        raise BadInput(
            f"the label has the value {value} ({seen[value]} pixels), which is no class", where=str(first[value]),
            todo=f"classes are {', '.join(map(str, classes))} (0 and 255 for two), -1 or the file's nodata for no"
            " label; name others in the recipe: patches.labels.classes",
        )  # fmt: skip
    if left := sorted(few - set(table)):
        some = ", ".join(map(str, left[:5]))
        notes.append(f"{sum(seen[v] for v in left)} label pixels are neither 0 nor 255 ({some}): no label.")
    occur = {p: frozenset(table[v] for v in values if v in table) for p, values in held.items()}
    return Coding(table, tuple(notes), occur)
