"""Temporal splits: training, validation and test periods with a gap between them, and the proof that nothing leaks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.times import Cadence, Period, format_duration, iso, parse_duration

if TYPE_CHECKING:
    from eoflow.catalog import DatasetEntry

FRACTIONS = (0.72, 0.14, 0.14)
DAY = np.timedelta64(86400 * 10**9, "ns")
DEFAULT_GAP = 10 * DAY
Times = np.ndarray[Any, np.dtype[np.datetime64]]


def exact(period: Period) -> str:
    """`START/END` down to the second: unlike `str`, an end at midnight does not come back as the whole day."""
    return "/".join(np.datetime_as_string(t, unit="s") for t in (period.start, period.end))


@dataclass(frozen=True)
class Splits:
    """Closed periods; `test` is None where nothing is kept for it here (what lies outside is untouched)."""

    train: Period
    valid: Period
    test: Period | None = None

    def to_periods(self) -> dict[str, Period]:
        """Periods by name."""
        return dict(self.items())

    def items(self) -> list[tuple[str, Period]]:
        """(name, period) of those that exist."""
        return [(n, p) for n, p in (("train", self.train), ("valid", self.valid), ("test", self.test)) if p is not None]

    def period(self, name: str) -> Period:
        """The period called `train`, `valid` or `test`. Raises BadInput."""
        for n, p in self.items():
            if n == name:
                return p
        raise BadInput(f"no split '{name}'", todo=f"choose from {', '.join(n for n, _ in self.items())}")

    def to_dict(self) -> dict[str, str]:
        """Periods by name, exact to the second."""
        return {n: exact(p) for n, p in self.items()}

    @classmethod
    def from_dict(cls, d: dict[str, str]) -> Splits:
        """Inverse of to_dict."""
        return cls(**{n: Period.parse(p) for n, p in d.items()})


def check(splits: Splits, step: str, window: int = 1, gap: np.timedelta64 | None = None) -> None:
    """Prove that no sample window of one split holds a time of another.

    A window has `window` consecutive steps and lies wholly inside its period, so disjoint periods are enough; with
    `gap` they must also lie at least that far apart. Raises BadInput for an overlap, or a period too short for one
    window.
    """
    length = np.timedelta64(0, "ns") if Cadence(step).months else (window - 1) * Cadence(step).delta
    ordered = sorted(splits.items(), key=lambda item: item[1].start)
    for (a, first), (b, second) in pairwise(ordered):
        if second.start <= first.end:
            raise BadInput(
                f"the {a} and {b} periods overlap", where=f"{a} {first}, {b} {second}",
                todo=f"end {a} before {iso(second.start)}",
            )  # fmt: skip
        if gap is not None and second.start - first.end < gap:
            raise BadInput(
                f"the {a} and {b} periods lie only {(second.start - first.end) / DAY:.1f} days apart",
                where=f"{a} {first}, {b} {second}", todo=f"leave {format_duration(gap)} between them",
            )  # fmt: skip
    for name, period in ordered:
        if period.end - period.start < length:
            raise BadInput(
                f"the {name} period is shorter than one sample of {window} steps of {step}", where=f"{name} {period}",
                todo="give it a longer period",
            )  # fmt: skip


def window_gap(step: str, window: int, max_lead: str = "10d") -> np.timedelta64:
    """The gap wanted between splits: 10 days, or the longest forecast plus its history if that is longer."""
    if Cadence(step).months:
        return 31 * DAY * Cadence(step).months * window
    return max(DEFAULT_GAP, parse_duration(max_lead), Cadence(step).delta * window)


def choose(
    times: Times,
    step: str,
    entry: DatasetEntry | None = None,
    train_period: str | Period | None = None,
    *,
    window: int = 2,
    gap: np.timedelta64 | None = None,
) -> Splits:
    """The splits of a dataset whose available times are `times` (increasing).

    1. `train_period`: training and validation both lie inside it (the last sixth validates, or the entry's validation
       period if that lies apart from it), so that no time outside it is touched; no test period.
    2. the entry's own `splits`; 3. the available period, cut 72 / 14 / 14 with `gap` (default: see `window_gap`; never
    more than a tenth of the whole) between the parts.
    Raises BadInput where there is too little data, or the periods overlap or hold none.
    """
    if times.size < 3 * window:
        raise BadInput(f"{times.size} times are too few to train on", todo=f"ingest at least {3 * window} of them")
    wanted = gap if gap is not None else window_gap(step, window)
    own = entry.splits if entry is not None else None
    if train_period is not None:
        period = Period.parse(train_period)
        inside = times[np.asarray(period.contains(times))]
        _require_times(inside, 2 * window, "training", period, times)
        valid = Period.parse(own.valid) if own is not None else None
        if valid is not None and _apart(period, valid) and np.asarray(valid.contains(times)).sum() >= window:
            splits = Splits(period, valid)
        else:
            train_share = FRACTIONS[0] / (FRACTIONS[0] + FRACTIONS[1])
            splits = Splits(*cut(inside, (train_share, 1 - train_share), wanted, window))
    elif own is not None:
        splits = Splits(
            Period.parse(own.train), Period.parse(own.valid), Period.parse(own.test) if own.test is not None else None
        )
    else:
        splits = Splits(*cut(times, FRACTIONS, wanted, window))
    check(splits, step, window)
    for name, period in splits.items():
        if name != "test":
            _require_times(times[np.asarray(period.contains(times))], window, name, period, times)
    return splits


def _apart(a: Period, b: Period) -> bool:
    return bool(a.end < b.start or b.end < a.start)


def _require_times(inside: Times, least: int, name: str, period: Period, times: Times) -> None:
    if inside.size < least:
        raise BadInput(
            f"the {name} period holds {inside.size} times of the archive, at least {least} are needed",
            where=f"{period}; the archive has {iso(times[0])}/{iso(times[-1])}",
            todo="choose a period inside the archive",
        )  # fmt: skip


def cut(
    times: Times, fractions: tuple[float, ...], gap: np.timedelta64, window: int, shrink: bool = True
) -> list[Period]:
    """Consecutive periods in these shares of the available times, `gap` apart.

    shrink: the gaps take at most a tenth of the whole span together. Raises BadInput where a period would be empty.
    """
    n = times.size
    edges = np.round(np.cumsum((0.0, *fractions)) * n).astype(int)
    edges[-1] = n
    room = (times[-1] - times[0]) / (10 * (len(fractions) - 1))
    gap = min(gap, room) if shrink else gap
    # A period ends just before the next step: written as text, an end at midnight would come back as the whole day.
    tail = np.diff(times).min() - np.timedelta64(10**9, "ns")
    out = []
    for first, stop in pairwise(edges):
        part = times[first:stop]
        if first > 0:
            part = part[part >= times[first - 1] + tail + gap]
        if part.size < window:
            raise BadInput(
                f"{n} times are too few to cut into {len(fractions)} periods",
                todo="ingest more, or name the periods as `splits`",
            )
        out.append(Period(part[0], part[-1] + tail))
    return out
