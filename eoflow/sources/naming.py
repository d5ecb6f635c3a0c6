"""Which variables of a file become which of eoflow's, in which units: by the entry, by name, by CF, or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from eoflow.catalog import VariableEntry
from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.sources import lexicon
from eoflow.sources.axes import PRESSURE_NAMES, Axes, Vertical
from eoflow.sources.lexicon import TERMS, Term
from eoflow.sources.units import conversion, normalise

if TYPE_CHECKING:
    import xarray as xr

_SUFFIX = re.compile(r"^([A-Za-z]+)[_.-]?(\d{1,4})(?:_?(?:hpa|mb|mbar))?$", re.IGNORECASE)
_HEIGHT_WORDS = ("geopotential height", "geopotential_height")
_HEIGHT_NAMES = ("hgt", "zg", "gh", "geopotential_height", "height_isobaric")
HINT, HINT_TERM = "eoflow_name", "eoflow_term"
"""Attributes by which a driver that knows the name already (GRIB) says it."""


@dataclass(frozen=True)
class Piece:
    """One raw variable (or one of its levels, by the number in its name) that a target is made of."""

    raw: str
    level: float | None = None
    vertical: Vertical | None = None

    @property
    def levels(self) -> tuple[float, ...] | None:
        """Pressures in hPa, None for a field without pressure levels."""
        if self.level is not None:
            return (self.level,)
        return tuple(self.vertical.values) if self.vertical is not None and self.vertical.pressure else None


@dataclass(frozen=True)
class Target:
    """One variable of the canonical dataset: where it comes from and stored = scale * raw + offset."""

    name: str
    units: str
    pieces: tuple[Piece, ...]
    scale: float = 1.0
    offset: float = 0.0
    standard_name: str | None = None
    long_name: str | None = None
    static: bool = False
    take: tuple[float, ...] | None = None

    @property
    def source_name(self) -> str:
        """The provider's name, as `source_name` of a catalog entry: `{level}` where each level is a variable."""
        first = self.pieces[0]
        if first.level is None:
            return first.raw
        return re.sub(rf"0*{first.level:g}", "{level}", first.raw, count=1)


def plan(
    ds: xr.Dataset, axes: Axes, variables: Mapping[str, VariableEntry] | None, only: bool, family: str, where: str
) -> list[Target]:
    """The targets of a raw dataset, in the file's order, or in the entry's where `only`.

    `variables`: what the entry says. `only`: those variables, and all of them; else they are hints beside the rest.
    Raises BadInput for a missing variable, two candidates, no units or units that do not convert.
    """
    hints = dict(variables or {})
    fields = {
        str(k): v
        for k, v in ds.data_vars.items()
        if {axes.lat_dim, axes.lon_dim} <= set(v.dims) and v.dtype.kind in "biuf"
    }
    fields = {k: v for k, v in fields.items() if not k.lower().endswith(("_bnds", "_bounds"))}
    if not fields:
        raise BadInput(
            f"no gridded variable (found: {', '.join(map(str, ds.data_vars)) or 'nothing'})",
            where=where,
            todo="the file needs numeric variables over latitude and longitude",
        )
    found: dict[str, list[Piece]] = {}
    taken: set[str] = set()
    for name, hint in hints.items():
        if hint.source_name:
            found[name] = _explicit(name, hint.source_name, fields, ds, axes, where)
            taken |= {p.raw for p in found[name]}
    for raw, da in fields.items():
        if raw in taken or (only and all(h.source_name for h in hints.values())):
            continue
        wanted = {n for n, h in hints.items() if not h.source_name} if only else None
        resolved, level = _resolve(raw, da, fields, axes, family, where, wanted)
        if resolved is not None:
            found.setdefault(resolved, []).append(Piece(raw, level, _vertical_of(raw, ds, axes, where)))
    if only:
        missing = [n for n in hints if n not in found]
        if missing:
            have = list(fields)
            raise BadInput(
                f"variable '{missing[0]}' is missing{nearest(missing[0], have)} (the file has: {', '.join(have)})",
                where=where,
                todo=f"write its name in the catalog entry:  {missing[0]}: {{source_name: NAME}}",
            )
        found = {n: found[n] for n in hints}
    return [_target(n, p, fields, axes, hints.get(n, VariableEntry()), where) for n, p in found.items()]


def _explicit(
    name: str, source: str, fields: Mapping[str, xr.DataArray], ds: xr.Dataset, axes: Axes, where: str
) -> list[Piece]:
    """The pieces that `source_name` names: one variable, or with `{level}` one variable for each level."""
    if "{level}" in source:
        left, _, right = source.partition("{level}")
        pattern = re.compile(re.escape(left) + r"(\d+(?:\.\d+)?)" + re.escape(right) + "$")
        pieces = [Piece(k, float(m[1])) for k in fields if (m := pattern.match(k))]
    else:
        pieces = [Piece(source, None, _vertical_of(source, ds, axes, where))] if source in fields else []
    if not pieces:
        raise BadInput(
            f"variable '{name}' is missing: there is no '{source}'{nearest(source, list(fields))} "
            f"(the file has: {', '.join(fields)})",
            where=where,
            todo=f"correct source_name of '{name}' in the catalog entry",
        )
    return pieces


def _vertical_of(raw: str, ds: xr.Dataset, axes: Axes, where: str) -> Vertical | None:
    da = ds[raw]
    found = [axes.verticals[str(d)] for d in da.dims if str(d) in axes.verticals]
    long = [v for v in found if v.values.size > 1 or v.pressure]
    if len(long) > 1:
        raise BadInput(
            f"two vertical dimensions: {', '.join(v.dim for v in long)}",
            where=f"{where}, variable {raw}",
            todo="select one entry of one of them first",
        )
    if long:
        return long[0]
    for key, c in da.coords.items():  # a scalar pressure, left by a selection
        if c.ndim == 0 and c.dtype.kind in "iuf" and str(key).lower() in PRESSURE_NAMES:
            to_hpa = conversion(normalise(c.attrs.get("units")) or "", "hPa")
            if to_hpa is not None:
                return Vertical(str(key), np.array([float(c) * to_hpa[0]]), True)
    return found[0] if found else None


def _resolve(
    raw: str,
    da: xr.DataArray,
    fields: Mapping[str, xr.DataArray],
    axes: Axes,
    family: str,
    where: str,
    wanted: set[str] | None,
) -> tuple[str | None, float | None]:
    """(eoflow's name, level in the variable's name); (None, None) for one that is not `wanted`."""
    if HINT in da.attrs:
        name: str | None = str(da.attrs[HINT])
        return (name, None) if wanted is None or name in wanted else (None, None)
    name, level = _by_lexicon(raw, da, fields, axes, family, where, wanted)
    if name is None:
        name = _own_name(raw)
        if name in TERMS and (wanted is None or name in wanted):
            _refuse_lookalike(raw, da, TERMS[name], where)
    return (name, level) if wanted is None or name in wanted else (None, None)


def _own_name(raw: str) -> str:
    safe = re.sub(r"\W", "_", raw)
    return safe if not safe[:1].isdigit() else f"_{safe}"


def _by_lexicon(
    raw: str,
    da: xr.DataArray,
    fields: Mapping[str, xr.DataArray],
    axes: Axes,
    family: str,
    where: str,
    wanted: set[str] | None,
) -> tuple[str | None, float | None]:
    units, standard = normalise(da.attrs.get("units")), str(da.attrs.get("standard_name", "")).strip().lower()
    table = lexicon.names(family)
    height = _height(da, axes)
    term = TERMS.get(table.get(raw.lower(), ""))
    if term and term.converts(_height_units(raw, da, units)) and _agrees(raw, term, standard):
        if raw.lower() in ("u100", "v100", "u10", "v10") and _in_a_family(raw, fields, da):
            return raw[0].lower(), float(raw[1:])
        return _at_height(term, height, da, axes), None
    m = _SUFFIX.match(raw)
    base = TERMS.get(table.get(m[1].lower(), "")) if m else None
    if m and base and base.levelled and 1 <= int(m[2]) <= 1100 and base.converts(_height_units(m[1], da, units)):
        return base.name, float(m[2])
    terms = [t for t in lexicon.by_standard_name().get(standard, ()) if t.converts(_height_units(raw, da, units))]
    on_levels = any(v.pressure for d, v in axes.verticals.items() if d in da.dims)
    terms = [t for t in terms if t.levelled == on_levels] or [
        t for t in terms if _at_height(t, height, da, axes) != t.name
    ]
    if len(terms) == 1:
        return _at_height(terms[0], height, da, axes), None
    long = lexicon.by_long_name(str(da.attrs.get("long_name", "")))
    if long and long.levelled == on_levels and long.converts(_height_units(raw, da, units)):
        return long.name, None
    return None, None


def _agrees(raw: str, term: Term, standard: str) -> bool:
    """Whether a name of one or two letters may be taken at its word beside the variable's standard name."""
    return len(raw) > 2 or standard in ("", "unknown", *term.standard_names) or not term.standard_names


def _in_a_family(raw: str, fields: Mapping[str, xr.DataArray], da: xr.DataArray) -> bool:
    """Whether u100 stands beside u850 and the like and does not call itself `100 metre`: then it is a level."""
    text = f"{da.attrs.get('long_name', '')} {da.attrs.get('standard_name', '')}".lower()
    if "metre" in text or "meter" in text or re.search(r"\b\d+ ?m\b", text):
        return False
    return any(re.match(rf"^{raw[0]}[_.-]?(200|250|300|500|700|850|925|1000)$", k, re.IGNORECASE) for k in fields)


def _height(da: xr.DataArray, axes: Axes) -> float | None:
    """Height above ground in metres of a field with a scalar or length-1 height coordinate."""
    for key in (*da.coords, *da.dims):
        if (
            str(key).lower() in ("height", "heightaboveground", "height_above_ground", "height_2m", "height_10m")
            and key in da.coords
        ):
            c = da.coords[key]
            if c.size == 1 and c.dtype.kind in "iuf":
                return float(c.to_numpy().ravel()[0])
    return None


def _at_height(term: Term, height: float | None, da: xr.DataArray, axes: Axes) -> str:
    if height is None:
        return term.name
    near = {("t", 2.0): "t2m", ("u", 10.0): "u10", ("v", 10.0): "v10", ("u", 100.0): "u100", ("v", 100.0): "v100"}
    return near.get((term.name, height), term.name)


def _height_units(raw: str, da: xr.DataArray, units: str | None) -> str | None:
    """Metres of a variable that says it is a geopotential height are geopotential metres."""
    text = f"{da.attrs.get('standard_name', '')} {da.attrs.get('long_name', '')}".lower()
    if units in ("m", "dam") and (raw.lower() in _HEIGHT_NAMES or any(w in text for w in _HEIGHT_WORDS)):
        return "gpm" if units == "m" else "gpdam"
    return units


def _refuse_lookalike(raw: str, da: xr.DataArray, term: Term, where: str) -> None:
    """A variable that has the name of a known one but cannot be it."""
    units = da.attrs.get("units", "no units")
    if term.name == "z" and normalise(str(units)) == "m":
        todo = f"if it is geopotential height write in the catalog entry:  z: {{source_name: {raw}, source_units: gpm}}"
    else:
        todo = f"write in the catalog entry which it is:  NEW_NAME: {{source_name: {raw}}}"
    raise BadInput(
        f"'{raw}' ({da.attrs.get('standard_name') or da.attrs.get('long_name')}, {units}) is not what eoflow "
        f"calls {term.name} ({term.long_name}, {term.units})",
        where=f"{where}, variable {raw}",
        todo=todo,
    )


def _target(
    name: str, pieces: list[Piece], fields: Mapping[str, xr.DataArray], axes: Axes, hint: VariableEntry, where: str
) -> Target:
    pieces = [_levelled(name, p, fields) for p in pieces]
    if len(pieces) > 1:
        _require_distinct(name, pieces, where)
    first = fields[pieces[0].raw]
    term = TERMS.get(str(first.attrs.get(HINT_TERM, name))) or TERMS.get(name)
    here = f"{where}, variable {pieces[0].raw}"
    read = {_units_of(p.raw, fields[p.raw], name, term, hint, where) for p in pieces}
    if len(read) > 1:
        raise BadInput(
            f"the levels of '{name}' have different units: {', '.join(sorted(read))}",
            where=where,
            todo="write source_units in the catalog entry, or correct the file",
        )
    source = read.pop()
    known = term if term is not None and term.converts(source) else None
    target = (hint.units and (normalise(hint.units) or hint.units)) or (known.units if known else source)
    change = conversion(source, target, term.special if term else "")
    if change is None:
        raise BadInput(
            f"'{name}' is in {source}, which does not convert to {target}",
            where=here,
            todo=f"correct the catalog entry:  {name}: {{source_units: UNITS}}",
        )
    own_long = None if len(pieces) > 1 else first.attrs.get("long_name")
    standard = hint.standard_name or (known.standard_name if known and known.name == name else None)
    if standard is None and not known:
        standard = first.attrs.get("standard_name") if first.attrs.get("standard_name") != "unknown" else None
    return Target(
        name=name,
        units=target,
        pieces=tuple(pieces),
        scale=change[0],
        offset=change[1],
        standard_name=standard,
        long_name=hint.long_name or (known.long_name if known and known.name == name else own_long) or name,
        static=hint.static or bool(known and known.static and known.name == name),
        take=hint.levels,
    )


def _levelled(name: str, piece: Piece, fields: Mapping[str, xr.DataArray]) -> Piece:
    """A single pressure level is dropped from a variable that has none (`msl` on a length-1 level)."""
    term = TERMS.get(name)
    v = piece.vertical
    if v is not None and v.pressure and v.values.size == 1 and term is not None and not term.levelled:
        return replace(piece, vertical=None)
    return piece


def _require_distinct(name: str, pieces: list[Piece], where: str) -> None:
    seen: dict[float, str] = {}
    for p in pieces:
        for level in p.levels or (float("nan"),):
            other = seen.get(level)
            if other is not None or p.levels is None:
                rivals = ", ".join(q.raw for q in pieces)
                raise BadInput(
                    f"two candidates for '{name}': {rivals}",
                    where=where,
                    todo=f"choose in the catalog entry:  {name}: {{source_name: {pieces[0].raw}}}",
                )
            seen[level] = p.raw


def _units_of(raw: str, da: xr.DataArray, name: str, term: Term | None, hint: VariableEntry, where: str) -> str:
    """The units that the values are in, normalised. Raises BadInput with the line to write where nothing says."""
    text = hint.source_units or _height_units(raw, da, normalise(da.attrs.get("units")))
    units = normalise(text)
    if units is not None:
        return units
    if term is not None and term.units == "1":
        return "1"
    likely = term.units if term else "UNITS"
    also = {"Pa": " (or hPa)", "K": " (or degC)", "m2 s-2": " (or gpm)", "m": " (or mm)"}.get(likely, "")
    raise BadInput(
        f"'{raw}' has no units, and guessing them is how archives go wrong",
        where=f"{where}, variable {raw}",
        todo=f"write in the catalog entry:  {name}: {{source_name: {raw}, source_units: {likely}}}{also}",
    )
