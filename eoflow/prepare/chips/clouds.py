"""Series of dates of one place as samples of cloud removal: each clear date is a target, its neighbours the inputs."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eoflow.catalog_patches import PatchRecipe
from eoflow.errors import BadInput
from eoflow.prepare.chips.layouts import Chip, Date, Series
from eoflow.prepare.chips.pictures import Array
from eoflow.prepare.chips.reading import CloudRule, Pixels, fractions, mask_of
from eoflow.prepare.chips.sets import Packed, told
from eoflow.quality import Quality
from eoflow.times import parse_time

LITTLE = 0.1
"""A target date may have so much cloud, at least: single pixels count only where they are clear themselves."""
Shares = Mapping[tuple[str, np.datetime64], float]


def listed(folder: Path, places: Sequence[Series], notes: list[str]) -> Shares:
    """(place, time) -> share of cloud, 0 to 1, from a CSV in the folder or beside it with a time and a cloud column."""
    out: dict[tuple[str, np.datetime64], float] = {}
    for path in [*sorted(folder.glob("*.csv")), *sorted(folder.parent.glob("*.csv"))]:
        with path.open(newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
        keys = list(rows[0]) if rows else []
        cloud = next((k for k in keys if k and "cloud" in k.lower()), None)
        when = next((k for k in ("time", "date", "datetime", "timestamp") if k in keys), None)
        if cloud is None or when is None:
            continue
        for place in places:
            found = _rows(place, rows, when, cloud)
            top = max(found.values(), default=0.0)
            out |= {(place.name, t): v / (100 if top > 1.5 else 1) for t, v in found.items()}
        if out:
            notes.append(f"Share of cloud of the dates: {path.name}, column {cloud}.")
            return out
    return out


def _rows(place: Series, rows: Sequence[Mapping[str, str]], when: str, cloud: str) -> dict[np.datetime64, float]:
    """Share of cloud by time of one place; numbers in other columns must stand in the file's name (scene, patch)."""
    out: dict[np.datetime64, float] = {}
    days = {d.time.astype("datetime64[D]"): d for d in place.dates if d.time is not None}
    for row in rows:
        try:
            day, share = parse_time(row[when]).astype("datetime64[D]"), float(row[cloud])
        except (BadInput, ValueError, TypeError):
            continue
        date = days.get(day)
        if date is None or not np.isfinite(share):
            continue
        tokens = set(re.split(r"[_\-. ]+", date.first.stem))
        numbers = {k: v for k, v in row.items() if k not in (when, cloud) and v and re.fullmatch(r"\d+", v)}
        named = all(_beside(date.first.stem, k, v) is not False for k, v in numbers.items())
        if named and tokens.issuperset(numbers.values()) and date.time is not None:
            out[date.time] = share
    return out


def _beside(stem: str, column: str, number: str) -> bool | None:
    """Whether a name gives this number right after the column's word (`patch_0`); None where it has no such word."""
    found = re.search(rf"(?:^|[_\-. ]){re.escape(column)}[_\-. ]*(\d+)", stem, re.IGNORECASE)
    return None if found is None else int(found[1]) == int(number)


def qualities(pixels: Pixels, place: Series, rule: CloudRule) -> dict[Path, Packed]:
    """Quality of every date of a place, by its first file: of its mask, else by the rule from all dates together.

    Raises BadInput where there is neither.
    """
    found: Array | None = None
    if any(d.mask is None for d in place.dates):
        found = told(pixels, [Chip(place.name, place.dates)], rule)
        if found is None:
            raise BadInput(
                "where the clouds are is not known: there is no mask, and the bands for the rules are not there",
                where=str(place.dates[0].first),
                todo="put masks beside the dates (X_DATE_mask.tif, 0 clear), or give files with green and red",
            )  # fmt: skip
    out = {}
    for i, date in enumerate(place.dates):
        values = mask_of(date.mask) if date.mask is not None else None
        if values is None and found is not None:
            values = found[i]
        assert values is not None
        out[date.first] = Packed.of(values)
    return out


def targets(
    place: Series, quality: Mapping[Path, Packed], recipe: PatchRecipe, shares: Shares, notes: list[str]
) -> list[Chip]:
    """One chip a clear date, the `dates` nearest other dates as inputs, oldest first."""
    times = np.array([d.time for d in place.dates], "datetime64[ns]")
    found = [fractions(quality[d.first].values()) for d in place.dates]
    cloud = np.array([shares.get((place.name, t), f[0]) for t, f in zip(times, found, strict=True)])
    usable = np.array([f[1] for f in found])
    limit = max(recipe.target_cloud, LITTLE)
    clear = np.flatnonzero((cloud <= limit) & (usable >= 0.5))
    inputs = np.flatnonzero((cloud >= recipe.min_cloud) & (cloud <= recipe.max_cloud))
    apart, span = recipe.durations()
    out = []
    for t in clear:
        away = np.abs(times[inputs] - times[t])
        ok = (inputs != t) & (away >= apart) & (away <= span if span is not None else True)
        near = inputs[ok][np.argsort(away[ok], kind="stable")[: recipe.dates]]
        if near.size == 0:
            continue
        dates: tuple[Date, ...] = tuple(replace(place.dates[i], mask=None) for i in np.sort(near))
        day = str(times[t])[:10]
        out.append(Chip(f"{place.name}_{day}", dates, target=place.dates[t], clear=False, place=place.name.lower()))
    notes.append(
        f"{place.name}: {len(out)} of {len(place.dates)} dates are targets (at most {limit:.0%} cloud), each without "
        f"itself among its inputs; a target pixel counts where that date is clear."
    )
    return out


def clear_windows(quality: Array, ys: Array, xs: Array, size: int) -> Array:
    """(W,) share of each window of a target that is clear."""
    good = np.isin(quality, [int(Quality.CLEAR), int(Quality.WATER), int(Quality.SNOW)])
    return np.array([good[y : y + size, x : x + size].mean() for y, x in zip(ys, xs, strict=True)])
