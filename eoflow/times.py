"""Times, durations, cadences and periods: ISO in, numpy out. No pandas until a calendar is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.errors import BadInput

NS = "datetime64[ns]"
_DURATION = re.compile(r"^\s*(\d+)\s*(d|h|min|s|mo|y)\s*$")
_SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}
_PARTS = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2}(?:\.\d+)?))?)?)?)?)?Z?$")


def parse_duration(text: str | np.timedelta64) -> np.timedelta64:
    """`10d`, `6h`, `30min` -> timedelta64[ns]. Raises BadInput with the accepted forms."""
    if isinstance(text, np.timedelta64):
        return text.astype("timedelta64[ns]")
    m = _DURATION.match(str(text))
    if not m or m[2] not in _SECONDS:
        raise BadInput(f"'{text}' is not a duration", todo="write it as 10d, 6h or 30min")
    return np.timedelta64(int(m[1]) * _SECONDS[m[2]] * 10**9, "ns")


def format_duration(value: np.timedelta64) -> str:
    """timedelta64 -> the shortest of `10d`, `6h`, `30min`, `15s`."""
    seconds = int(value / np.timedelta64(1, "s"))
    for unit in ("d", "h", "min"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def parse_time(text: Any) -> np.datetime64:
    """One ISO time (UTC; a trailing Z is accepted) -> datetime64[ns]: the start of what it names."""
    return _bounds(text)[0]


def _bounds(text: Any) -> tuple[np.datetime64, np.datetime64]:
    if isinstance(text, np.datetime64):
        return text.astype(NS), text.astype(NS)
    if hasattr(text, "isoformat"):
        text = text.isoformat()
    m = _PARTS.match(str(text).strip())
    try:
        if not m or not 1678 <= int(m[1]) <= 2261:  # what nanoseconds in 64 bits can hold
            raise ValueError
        plain = str(text).strip().rstrip("Z").replace(" ", "T")
        unit = {1: "Y", 2: "M", 3: "D"}.get(sum(g is not None for g in m.groups()), "")
        if not unit:
            t = np.datetime64(plain if m[5] else plain + ":00").astype(NS)
            return t, t
        first: Any = np.array(plain, dtype=f"datetime64[{unit}]")[()]
        return first.astype(NS), (first + 1).astype(NS) - np.timedelta64(1, "ns")
    except ValueError:
        raise BadInput(f"'{text}' is not an ISO time", todo="write it as 2020-01-31 or 2020-01-31T06:00") from None


@dataclass(frozen=True)
class Period:
    """A closed span of time; both ends datetime64[ns], both included."""

    start: np.datetime64
    end: np.datetime64

    @classmethod
    def parse(cls, text: str | Period) -> Period:
        """`START/END`; `2001/2007` reaches to the last instant of 2007; one time alone names its own span."""
        if isinstance(text, Period):
            return text
        first, sep, last = str(text).partition("/")
        start, end = _bounds(first)[0], _bounds(last if sep else first)[1]
        if end < start:
            raise BadInput(f"the period '{text}' ends before it starts", todo="write START/END")
        return cls(start, end)

    def contains(self, times: Any) -> Any:
        """Boolean (array) whether each time lies inside."""
        return (times >= self.start) & (times <= self.end)

    def __str__(self) -> str:
        return f"{iso(self.start)}/{iso(self.end)}"


def iso(time: np.datetime64) -> str:
    """The shortest ISO form that loses nothing, down to seconds."""
    text = str(np.asarray(time).astype("datetime64[s]")[()])
    return text[:10] if text.endswith("T00:00:00") else text.removesuffix(":00") if text.endswith(":00") else text


@dataclass(frozen=True)
class Cadence:
    """The step of a schedule: a fixed duration (`6h`, `1d`) or calendar months (`1mo`, `1y`)."""

    text: str

    def __post_init__(self) -> None:
        m = _DURATION.match(self.text)
        if not m or int(m[1]) == 0:
            raise BadInput(f"'{self.text}' is not a cadence", todo="write it as 6h, 1d, 1mo or 1y")

    @property
    def months(self) -> int:
        """Months in one step; 0 for a fixed duration."""
        m = _DURATION.match(self.text)
        assert m is not None
        return {"mo": 1, "y": 12}.get(m[2], 0) * int(m[1])

    @property
    def delta(self) -> np.timedelta64:
        """The fixed step; BadInput for calendar months, whose length varies."""
        if self.months:
            raise BadInput(f"a cadence of {self.text} has no fixed length", todo="use a dataset in days or hours")
        return parse_duration(self.text)

    def steps(self, lead: str) -> int:
        """How many steps a lead is. Raises BadInput where it is not a positive multiple of the step."""
        step, span = self.delta, parse_duration(lead)
        if span <= np.timedelta64(0, "ns") or span % step != np.timedelta64(0, "ns"):
            near = format_duration(max(step, span - span % step))
            raise BadInput(
                f"a lead of {lead} is no positive multiple of the step of {self.text}", todo=f"use for example {near}"
            )
        return int(span // step)

    def axis(self, start: np.datetime64, end: np.datetime64) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """Every expected time from `start` (the anchor, included) to `end` (included if on the step)."""
        start, end = start.astype(NS), end.astype(NS)
        if end < start:
            return np.empty(0, NS)
        if not self.months:
            return np.arange(start, end + np.timedelta64(1, "ns"), self.delta).astype(NS)
        month = start.astype("datetime64[M]")
        offset = start - month.astype(NS)
        months = np.arange(month, end.astype("datetime64[M]") + 1, self.months)
        times = months.astype(NS) + offset
        return times[times <= end]

    @classmethod
    def infer(cls, times: np.ndarray[Any, np.dtype[np.datetime64]]) -> Cadence:
        """The cadence of an increasing time axis: its most common step (gaps allowed).

        Raises BadInput where fewer than two times are given or they follow no regular step.
        """
        times = np.asarray(times).astype(NS)
        if times.size < 2:
            raise BadInput("one time alone does not tell the cadence", todo="say it: --cadence 6h (or 1d, 1mo)")
        steps, counts = np.unique(np.diff(times), return_counts=True)
        days = steps / np.timedelta64(86400 * 10**9, "ns")
        if np.all((days >= 28) & (days <= 31)) and len(set(np.diff(times.astype("datetime64[M]")).astype(int))) == 1:
            return cls("1mo")
        if np.all((days >= 365) & (days <= 366)):
            return cls("1y")
        step = steps[np.argmax(counts)]
        if step <= np.timedelta64(0, "ns") or np.any(steps % step != np.timedelta64(0, "ns")):
            odd = ", ".join(format_duration(s) for s in steps[:4])
            raise BadInput(f"the times follow no regular step (found {odd})", todo="say it: --cadence 6h (or 1d, 1mo)")
        return cls(format_duration(step))

    def __str__(self) -> str:
        return self.text


def year_and_day_fraction(times: np.ndarray[Any, np.dtype[np.datetime64]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Times -> (..., 2) float32: fraction of the calendar year [0, 1) and of the UTC day [0, 1)."""
    t = np.asarray(times).astype(NS)
    year = t.astype("datetime64[Y]")
    first = year.astype(NS)
    length = (year + 1).astype(NS) - first
    day = t.astype("datetime64[D]").astype(NS)
    return np.stack([(t - first) / length, (t - day) / np.timedelta64(86400 * 10**9, "ns")], axis=-1).astype(np.float32)
