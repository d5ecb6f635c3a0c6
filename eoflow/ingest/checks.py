"""Checks at the seam, before anything is committed. Each says what is wrong, in which file, variable and time.

Two kinds: `header` looks at an opened asset (time axis, variables, levels, grid, units) and reads no field; `fields`
and `units_look_wrong` judge the values of a block that is in memory anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema, VariableSpec
from eoflow.times import NS, Cadence, format_duration, iso

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """Something wrong with one time of an asset. `channel`: `z500`, or empty if it concerns the whole time."""

    asset: str
    time: np.datetime64
    what: str
    channel: str = ""
    todo: str = ""
    absent: bool = False

    @property
    def where(self) -> str:
        """`era5.nc, variable z500, time 2001-01-05`."""
        variable = f", variable {self.channel}" if self.channel else ""
        when = "" if np.isnat(self.time) else f", time {iso(self.time)}"
        return f"{self.asset}{variable}{when}".lstrip(", ")

    @property
    def reason(self) -> str:
        """For the ledger: `z500: all values are NaN`."""
        return f"{self.channel}: {self.what}" if self.channel else self.what

    def to_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {
            "asset": self.asset,
            "time": "" if np.isnat(self.time) else iso(self.time),
            "variable": self.channel,
            "problem": self.what,
            "todo": self.todo,
        }


# -- the header of an asset ------------------------------------------------------------------------------------------


def time_axis(times: Array, asset: str) -> Array:
    """datetime64[ns] (T,), increasing. Raises BadInput for an empty, unordered or repeated axis."""
    times = np.asarray(times).astype(NS)
    if times.size == 0:
        raise BadInput("the file holds no times", where=asset, todo="leave it out")
    if np.isnat(times).any():
        raise BadInput(
            "a time is missing", where=f"{asset}, position {int(np.isnat(times).argmax())}", todo="correct the file"
        )
    steps = np.diff(times)
    bad = np.flatnonzero(steps <= np.timedelta64(0, "ns"))
    if bad.size:
        i = int(bad[0])
        if times[i] == times[i + 1] or np.unique(times).size < times.size:
            values, counts = np.unique(times, return_counts=True)
            raise BadInput(
                f"a time appears more than once ({int((counts > 1).sum())} such times)",
                where=f"{asset}, time {iso(values[counts > 1][0])}", todo="keep one field for each time",
            )  # fmt: skip
        raise BadInput(
            f"the times are not in order: {iso(times[i + 1])} follows {iso(times[i])}",
            where=f"{asset}, position {i + 1}", todo="sort the file by time",
        )  # fmt: skip
    return times


def off_schedule(times: Array, cadence: Cadence, anchor: np.datetime64) -> Array:
    """bool (T,): times that are no whole number of steps from `anchor`, before or after it."""
    if cadence.months:
        month, start = times.astype("datetime64[M]"), anchor.astype("datetime64[M]")
        phase = (month - start).astype(int) % cadence.months != 0
        return np.asarray(phase | (times - month.astype(NS) != anchor.astype(NS) - start.astype(NS)))
    return np.asarray((times - anchor.astype(NS)) % cadence.delta != np.timedelta64(0, "ns"))


def refuse_off_schedule(times: Array, cadence: Cadence, anchor: np.datetime64, asset: str, dataset: str) -> None:
    """Raise BadInput naming the first time that is off the schedule."""
    bad = off_schedule(times, cadence, anchor)
    if bad.any():
        step = "" if times.size < 2 else f" (the file's step is {format_duration(np.diff(times).min())})"
        raise BadInput(
            f"{int(bad.sum())} of {times.size} times are off the schedule of '{dataset}':"
            f" {iso(anchor)} every {cadence}{step}",
            where=f"{asset}, time {iso(times[bad][0])}",
            todo="give the right cadence (--cadence), select the times that fit, or use another name",
        )


def canonical(schema: FieldSchema) -> FieldSchema:
    """The schema as it is stored: float32 fields."""

    def stored(v: VariableSpec) -> VariableSpec:
        return v.model_copy(update={"dtype": "float32"})

    return schema.model_copy(
        update={"variables": tuple(map(stored, schema.variables)), "static": tuple(map(stored, schema.static))}
    )


def in_order_of(schema: FieldSchema, like: FieldSchema) -> FieldSchema:
    """`schema` with its variables in the order of `like` (others last): the order in a file means nothing."""
    rank = {v.name: i for i, v in enumerate(like.variables)}
    ordered = sorted(schema.variables, key=lambda v: rank.get(v.name, len(rank)))
    return schema.model_copy(update={"variables": tuple(ordered)})


def level_positions(ds: xr.Dataset, spec: VariableSpec) -> Array:
    """int (L,): where each level of `spec` lies in `ds`, -1 where it is missing."""
    if spec.levels is None:
        return np.zeros(1, int)
    da = ds[spec.name]
    dim = next((str(d) for d in da.dims if d not in ("time", "member", "latitude", "longitude")), None)
    have = np.atleast_1d(np.asarray(ds[dim].values, "f8")) if dim is not None and dim in ds.coords else np.empty(0)
    out = np.full(len(spec.levels), -1)
    for i, level in enumerate(spec.levels):
        hit = np.flatnonzero(np.isclose(have, level, rtol=1e-6, atol=1e-6))
        if hit.size:
            out[i] = hit[0]
    return out


def header(ds: xr.Dataset, asset: str, schema: FieldSchema, dataset: str, strict: bool) -> list[str]:
    """Compare an opened asset with the archive's schema; returns the labels of missing channels.

    strict: anything missing or new is an error too. Raises SchemaMismatch that prints both sides.
    """
    theirs = in_order_of(canonical(FieldSchema.of(ds, schema.step)), schema)
    todo = "convert the file to the archive's grid, variables and units, or ingest it under another name (--as NAME)"
    mine_name, theirs_name = f"the archive '{dataset}'", asset
    if strict:
        schema.require_same(theirs, mine_name, theirs_name, todo)
        return []
    missing: list[str] = []
    mine_kept, theirs_kept = [], []
    for spec in schema.variables:
        found = next((v for v in theirs.variables if v.name == spec.name), None)
        if found is None:
            missing += [c.label for c in spec.channels]
            continue
        gone = level_positions(ds, spec) < 0
        missing += [c.label for c, g in zip(spec.channels, gone, strict=True) if g]
        mine_kept.append(spec)
        theirs_kept.append(found.model_copy(update={"levels": spec.levels}))  # levels are judged one by one
    if not mine_kept:
        raise BadInput(f"none of the variables of '{dataset}' is in it", where=asset, todo=todo)
    mine = schema.model_copy(update={"variables": tuple(mine_kept)})
    mine.require_same(theirs.model_copy(update={"variables": tuple(theirs_kept)}), mine_name, theirs_name, todo)
    return missing


# -- values ------------------------------------------------------------------------------------------------------------


def valid_ranges(entry: DatasetEntry, schema: FieldSchema) -> dict[str, tuple[float, float]]:
    """Physical limits by variable: the entry's, else the lexicon's where the units agree."""
    from eoflow.sources import lexicon

    out: dict[str, tuple[float, float]] = {}
    for spec in schema.variables:
        given = (entry.variables or {}).get(spec.name)
        term = lexicon.TERMS.get(spec.name)
        if given is not None and given.valid_range is not None:
            out[spec.name] = given.valid_range
        elif term is not None and term.units == spec.units:
            out[spec.name] = term.valid_range
    return out


def fields(
    low: Array, high: Array, nans: Array, size: int, limits: tuple[float, float] | None, max_nan: float
) -> list[tuple[int, int, str, str]]:
    """Judge fields by their minimum, maximum (T, L; NaN ignored) and NaN count, of `size` values each.

    Returns (time, level, what, to do) for each bad one.
    """
    out: list[tuple[int, int, str, str]] = []
    empty = nans == size
    with np.errstate(invalid="ignore"):
        infinite = np.isinf(low) | np.isinf(high)
        outside = (low < limits[0]) | (high > limits[1]) if limits else np.zeros(low.shape, bool)
    for t, i in np.argwhere(empty | infinite | outside | (nans > max_nan * size)):
        lo, hi = float(low[t, i]), float(high[t, i])
        if empty[t, i]:
            out.append((t, i, "all values are NaN", "check how the file was made; fill values may be misread"))
        elif infinite[t, i]:
            out.append((t, i, "infinite values", "replace them with NaN or correct them"))
        elif outside[t, i] and limits:
            text = f"values from {lo:g} to {hi:g} are outside the valid range {limits[0]:g} to {limits[1]:g}"
            out.append((t, i, text, "check the units (source_units in the entry), or widen valid_range"))
        else:
            share = nans[t, i] / size
            text = f"{nans[t, i]} of {size} values are NaN ({share:.2%}), allowed are {max_nan:.2%}"
            out.append(
                (
                    t,
                    i,
                    text,
                    f"if right, set checks.max_nan_fraction: {np.ceil(share * 1e4) / 1e4:g} in the entry",
                )
            )
    return out


_FACTORS = (100.0, 0.01, 1000.0, 0.001, 9.80665, 1 / 9.80665)
_OFFSETS = (273.15, -273.15)


def units_look_wrong(
    name: str, units: str, low: float, high: float, rms: float, count: int, known: list[float]
) -> tuple[str, str] | None:
    """Whether values low..high look like other units than those in the archive (`known`: its min, max, rms).

    Only where they lie clearly outside what the archive holds and a usual factor or offset brings them right
    inside; or, for a variable that takes both signs, where their size is a hundredth over several fields.
    Returns (what, to do) or None.
    """
    k_low, k_high, k_rms = known
    span = k_high - k_low
    if not all(np.isfinite(v) for v in (low, high, k_low, k_high)) or span <= 0:
        return None
    what = f"values from {low:g} to {high:g} do not fit the archive's {k_low:g} to {k_high:g} {units}"

    def todo(text: str) -> str:
        return f"they look {text}: write the file's units into the entry (variables.{name}.source_units), or correct it"

    def inside(a: float, b: float, slack: float) -> bool:
        return a >= k_low - slack * span and b <= k_high + slack * span

    apart = high < k_low or low > k_high
    if not inside(low, high, 1.0) and (apart or high - low > 5 * span):
        for f in _FACTORS:
            # ranges that overlap (rain, from 0 up) prove something only if the scaled one also fills the known one
            fits = inside(min(low * f, high * f), max(low * f, high * f), 0.5)
            if fits and (apart or (abs(np.log10(f)) > 1.5 and (high - low) * f > 0.2 * span)):
                return what, todo(f"{1 / f:.4g} times too large" if f < 1 else f"{f:.4g} times too small")
        for o in _OFFSETS:
            if inside(low + o, high + o, 0.5):
                return what, todo(f"{abs(o):g} too {'small' if o > 0 else 'large'} (kelvin and Celsius mixed up)")
    signed = k_low < -0.1 * k_high < 0
    if signed and count >= 8 and k_rms > 0 and 1 / 140 < rms / k_rms < 1 / 70:
        return what, todo("100 times too small")
    return None
