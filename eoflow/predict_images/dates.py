"""Which scenes of a tile make which map: every date, pairs of dates, or the nearest dates around a cloudy one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.predict_images.stack import Date
from eoflow.quality import Quality
from eoflow.times import Period, iso, parse_time

if TYPE_CHECKING:
    from eoflow.cube import Cube

Array = np.ndarray[Any, Any]
CLOUDY = 0.02
"""Share of cloud and shadow from which a date is worth filling."""
USABLE = 0.5
"""Share of usable pixels from which a date is taken for a comparison, where some date has it."""
MANY = 24
"""Dates that a model of any number of them is given."""


def float_day(time: np.datetime64) -> float:
    """Days since 1970."""
    return float(time.astype("datetime64[ns]").astype("i8") / 86400e9)


@dataclass(frozen=True)
class Want:
    """One map. dates: frames of each date that the network sees. target: the frame whose seen pixels are kept."""

    time: np.datetime64
    dates: tuple[Date, ...]
    target: int | None = None


@dataclass(frozen=True, eq=False)
class Frames:
    """What is known of the frames of one place, oldest first. times: (N,) datetime64[ns].

    covered, usable, cloud: (N,) share of the pixels that hold a value, that show the surface, that are cloud or shadow.
    """

    times: Array
    covered: Array
    usable: Array
    cloud: Array

    def within(self, span: Period | None) -> Array:
        """Positions inside a period."""
        return np.flatnonzero(np.ones(self.times.size, bool) if span is None else span.contains(self.times))

    def near(self, text: str) -> tuple[int, ...]:
        """The frames of a time, day or period; of an instant also those within a minute of it."""
        span = Period.parse(text)
        found = self.within(span)
        if not found.size and span.start == span.end:
            found = np.flatnonzero(np.abs(self.times - span.start) <= np.timedelta64(1, "m"))
        return tuple(int(i) for i in found)

    def at(self, text: str) -> tuple[int, ...]:
        """The frames of a time, day or period. Raises BadInput with those near it."""
        span = Period.parse(text)
        found = self.near(text)
        if not found:
            near = sorted(self.times, key=lambda t: abs(t - span.start))[:4]
            raise BadInput(f"there is no scene at {text}", todo=f"near it are {', '.join(iso(t) for t in near)}")
        return found


def of_tile(cube: Cube, snapshot: str, tile: str, rows: slice, columns: slice, classes: Sequence[Quality]) -> Frames:
    """The scenes of a tile, judged by a coarse copy of their quality inside a window."""
    times = cube.times(tile, snapshot)
    small = min(rows.stop - rows.start, columns.stop - columns.start)
    level = max((f for f in (1, *cube.factors(tile, snapshot)) if f * 16 <= small), default=1)
    group: Any = cube.group(tile, snapshot, level)
    part = tuple(slice(s.start // level, -(-s.stop // level)) for s in (rows, columns))
    counts = np.zeros((times.size, 256), np.int64)
    for i in range(times.size):
        counts[i] = np.bincount(np.asarray(group["quality"][(i, *part)]).ravel(), minlength=256)
    total = np.maximum(counts.sum(axis=1), 1)

    def share(*which: Quality) -> Array:
        return np.asarray(counts[:, [int(q) for q in which]].sum(axis=1) / total)

    gone = share(Quality.MISSING, Quality.NODATA)
    return Frames(times, 1 - gone, share(*classes), share(Quality.CLOUD, Quality.SHADOW))


def each(frames: Frames, span: Period | None, stored: Array) -> list[Want]:
    """A map of every scene of the period."""
    return [Want(frames.times[i], ((int(i),),)) for i in frames.within(span) if stored[i]]


def pairs(frames: Frames, span: Period | None, before: str | None, after: str | None, every: bool) -> list[Want]:
    """The dates of change: first and last usable of the period, those named (a period: their composite), or every
    consecutive pair. Raises BadInput where there are not two."""
    if every and (before or after):
        raise BadInput("--every compares all dates, --before and --after two", todo="leave one of them out")
    at = frames.within(span)
    good = at[frames.usable[at] >= USABLE]
    if good.size < 2:
        good = at[frames.usable[at] > 0]
    if good.size < 2 and not (before and after):
        good = at[frames.covered[at] > 0]  # all clouds, or nothing seen: the map will say so
    first = frames.at(before) if before else None
    last = frames.at(after) if after else None
    if (first is None or last is None) and good.size < (2 if first is None and last is None else 1):
        some = ", ".join(iso(t) for t in frames.times[at][:6]) or "none"
        raise BadInput(f"change needs two dates, and there {'is' if good.size == 1 else 'are'} {good.size} with data",
                       todo=f"widen --period, or name them with --before and --after (scenes: {some})")  # fmt: skip
    if every:
        return [Want(frames.times[j], ((int(i),), (int(j),))) for i, j in pairwise(good)]
    first = first or (int(good[0]),)
    last = last or (int(good[-1]),)
    if set(first) & set(last):
        raise BadInput(f"before and after are one date, {iso(frames.times[first[0]])}", todo="name two dates")
    if frames.times[first[-1]] > frames.times[last[0]]:
        raise BadInput("'before' is not before 'after'", todo="swap --before and --after")
    return [Want(frames.times[last[-1]], (first, last))]


def around(frames: Frames, span: Period | None, at: str | None, dates: int, wanted: int | None = None) -> list[Want]:
    """A filled image of each cloudy date of the period, or at one time. dates: what the model takes, 0: any number.

    The inputs are the nearest dates that saw something, the cloudy one itself among them; a date that is missing to
    `dates` is one that nobody saw.
    """
    if wanted is not None and dates and wanted != dates:
        raise BadInput(f"this model takes {dates} dates, not {wanted}", todo="leave --dates out")
    if at is not None:
        found = frames.near(at)
        targets: list[tuple[np.datetime64, int | None]] = [(frames.times[i], i) for i in found]
        targets = targets or [(parse_time(at.partition("/")[0]), None)]
    else:
        inside = frames.within(span)
        lost = frames.covered - frames.usable
        cloudy = [i for i in inside if frames.covered[i] > 0 and max(frames.cloud[i], lost[i]) > CLOUDY]
        targets = [(frames.times[i], int(i)) for i in cloudy]
    held = np.flatnonzero(frames.covered > 0)
    count = dates or wanted or min(MANY, max(1, held.size))
    out = []
    for time, target in targets:
        seen = held[frames.usable[held] > 0]
        order = sorted(seen, key=lambda i: (abs(frames.times[i] - time), frames.times[i]))
        blind = sorted(set(held) - set(seen), key=lambda i: (abs(frames.times[i] - time), frames.times[i]))
        chosen = sorted([*order, *blind][:count])
        some: list[Date] = [(int(i),) for i in chosen]
        some += [()] * (dates - len(some)) if dates else []
        if not some:
            some = [()]
        out.append(Want(time, tuple(some), target))
    return out
