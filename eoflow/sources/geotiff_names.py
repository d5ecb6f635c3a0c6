"""What file names of rasters tell: the date, the band, the product; and names for tiles.

Only what is unambiguous counts. `20180106`, `2018-01-06`, `20180106T101530` are dates; a number of another length, an
impossible date, or two different days in one name are not.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources.scene import Grid
from eoflow.times import parse_time

_CLOCK = r"(?P<H>[01]\d|2[0-3])[-:]?(?P<M>[0-5]\d)(?:[-:]?(?P<S>[0-5]\d)(?:\.\d+)?)?"
_DATES = (
    re.compile(rf"(?<!\d)(?P<y>\d{{4}})(?P<s>[-_.])(?P<m>\d{{2}})(?P=s)(?P<d>\d{{2}})(?:T{_CLOCK}Z?)?(?!\d)"),
    re.compile(rf"(?<!\d)(?P<y>\d{{4}})(?P<m>\d{{2}})(?P<d>\d{{2}})(?:T{_CLOCK}Z?)?(?!\d)"),
    re.compile(r"(?<!\d)(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?P<H>[01]\d|2[0-3])(?P<M>[0-5]\d)(?P<S>[0-5]\d)(?!\d)"),
)
# Product names hold several times; the first is when it was sensed.
_PRODUCTS = (
    re.compile(r"S2[ABCD]_MSIL(?:1C|2A)_(\d{8}T\d{6})_"),
    re.compile(r"S1[ABCD]_\w{2}_\w{4}_\w{4}_(\d{8}T\d{6})_"),
    re.compile(r"L[COTEM]0[4-9]_L\w{3}_\d{6}_(\d{8})_\d{8}_"),
    re.compile(r"T\d{2}[A-Z]{3}_(\d{8}T\d{6})_"),
)
_BAND = r"B(?:0?[1-9]|1[0-2]|8A)|VV|VH|HH|HV|S[RT]_B\d{1,2}|QA_PIXEL|QA_RADSAT|SCL|CLP|CLDPRB|CLM|B_?QA"
_WORDS = "coastal|blue|green|red|nir|nir08|swir16|swir22|swir1|swir2|rededge1|rededge2|rededge3|cirrus|cloudmask"
BAND = re.compile(rf"(?<![A-Za-z0-9])(?P<band>{_BAND}|{_WORDS})(?![A-Za-z0-9])", re.IGNORECASE)
MASKS = {"scl": "scl", "qa_pixel": "qa_pixel", "clm": "cloud_mask", "cloudmask": "cloud_mask"}
"""Name of a mask file -> its quality rule."""


@dataclass(frozen=True)
class Named:
    """What the name of a file says. rest: the stem without date and band, the same for all dates of a place."""

    path: str
    time: np.datetime64 | None
    band: str | None
    tile: str | None
    key: str
    rest: str


def parse_stamp(text: str) -> np.datetime64:
    """A time as patterns find it: ISO, YYYYMMDD[THHMMSS], or year and day of the year (YYYYDDD). Raises BadInput."""
    if m := re.fullmatch(r"(\d{4})(\d{3})", text):
        day = np.datetime64(f"{m[1]}-01-01") + (int(m[2]) - 1)
        if int(m[2]) and str(day)[:4] == m[1]:
            return day.astype("datetime64[ns]")
    times = dates_in(text)
    return times[0] if len(times) == 1 else parse_time(text)


def dates_in(text: str) -> list[np.datetime64]:
    """The different times in a text, in order; a bare date is left out where the same day stands with a clock."""
    found: list[tuple[int, np.datetime64, bool]] = []
    for pattern in _DATES:
        for m in pattern.finditer(text):
            clock = f"T{m['H']}:{m['M']}:{m['S'] or '00'}" if m["H"] else ""
            try:
                t = np.datetime64(f"{m['y']}-{m['m']}-{m['d']}{clock}", "ns")
            except ValueError:  # no such day
                continue
            if 1950 <= int(m["y"]) <= 2100:
                found.append((m.start(), t, bool(clock)))
    clocked = {t.astype("datetime64[D]") for _, t, c in found if c}
    times = [t for _, t, c in sorted(found) if c or t.astype("datetime64[D]") not in clocked]
    return list(dict.fromkeys(times))


def time_of(path: str) -> np.datetime64 | None:
    """The time in a file's name, else in its folder's; None for none. Raises BadInput for two different ones."""
    pure = PurePath(path)
    for text in (pure.stem, pure.parent.name):
        for product in _PRODUCTS:
            if m := product.search(text):
                return dates_in(m[1])[0]
        times = dates_in(text)
        if len(times) > 1:
            raise BadInput(
                f"the name holds several times: {', '.join(str(t.astype('datetime64[s]')) for t in times)}", where=path,
                todo=r"say which one is meant: --set source.args.pattern='REGEX with (?P<time>...)'",
            )  # fmt: skip
        if times:
            return times[0]
    return None


def without_date(stem: str) -> str:
    """A stem without its dates."""
    for pattern in _DATES:
        stem = pattern.sub("", stem)
    return squeeze(stem)


def squeeze(text: str) -> str:
    """Without empty parts: `a__b_` -> `a_b`."""
    return re.sub(r"([_\-. ])[_\-. ]+", r"\1", text).strip("_-. ")


def token(stem: str, names: list[str]) -> str | None:
    """Which of the names stands in a stem as a word of its own (the last one, case does not matter), or None."""
    best: tuple[int, str] | None = None
    for name in names:
        for m in re.finditer(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", stem, re.IGNORECASE):
            if best is None or (m.start(), len(name)) > (best[0], len(best[1])):
                best = (m.start(), name)
    return best[1] if best else None


def read_name(path: str, pattern: re.Pattern[str] | None, bands: list[str]) -> Named | None:
    """What the name of a file tells; None for one that the pattern does not match. bands: words that mean a band."""
    stem = PurePath(path).stem
    groups: dict[str, str | None] = {}
    if pattern is not None:
        m = pattern.search(path)
        if m is None:
            return None
        groups = m.groupdict()
    stamp = groups.get("time")
    time = parse_stamp(stamp) if stamp else time_of(path)
    band = groups.get("band") or token(stem, bands)
    key = stem
    if band is not None:
        key = squeeze(re.sub(rf"(?<![A-Za-z0-9]){re.escape(band)}(?![A-Za-z0-9])", "", stem, flags=re.IGNORECASE))
    return Named(path, time, band, groups.get("tile"), key, without_date(key))


def compile_pattern(text: str | None) -> re.Pattern[str] | None:
    """The regular expression of a source argument. Raises BadInput."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as e:
        raise BadInput(f"the pattern is not a regular expression: {e}", where=f"pattern {text!r}") from None
    wrong = sorted(set(pattern.groupindex) - {"time", "tile", "band"})
    if wrong:
        raise BadInput(
            f"the pattern names a group '{wrong[0]}'", where=f"pattern {text!r}", todo="groups: time, tile, band"
        )
    return pattern


def safe(text: str) -> str:
    """A text as the name of a group: letters, digits, `.`, `_`, `-`; never empty."""
    out = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
    return re.sub(r"\.{2,}", ".", out) or "tile-" + hashlib.sha256(text.encode()).hexdigest()[:8]


def tile_name(grid: Grid) -> str:
    """A readable name of a pixel grid: CRS and upper left corner, for example `EPSG4326_12.7125E_42.0755N`."""
    crs = grid.crs.replace(":", "") if grid.crs.startswith("EPSG:") else ""
    if not crs:
        crs = "CRS" + hashlib.sha256(grid.crs.encode()).hexdigest()[:6]
    x, y = grid.transform[2], grid.transform[5]
    if abs(grid.transform[0]) < 0.1 and abs(x) <= 360 and abs(y) <= 90:
        return f"{crs}_{abs(x):.4f}{'W' if x < 0 else 'E'}_{abs(y):.4f}{'S' if y < 0 else 'N'}"
    return f"{crs}_{abs(x):.0f}{'W' if x < 0 else 'E'}_{abs(y):.0f}{'S' if y < 0 else 'N'}"


def grid_key(grid: Grid) -> str:
    """Equal for grids whose pixels fall together (to a thousandth of a pixel)."""
    a, b, c, d, e, f = grid.transform
    step = max(abs(a), abs(b), abs(d), abs(e)) or 1.0
    return f"{grid.crs} {grid.shape} {a:.9g} {b:.9g} {d:.9g} {e:.9g} {round(c / step * 1000)} {round(f / step * 1000)}"
