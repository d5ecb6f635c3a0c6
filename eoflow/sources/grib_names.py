"""What a GRIB field is called in eoflow: its CF variable name, and its level or step type where that is ambiguous.

A group is all fields that make one variable. Its source name (`source_name` in an entry) is `t@isobaricInhPa` or
`tp@surface:accum`: what the provider wrote, independent of what else is in the file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from eoflow.sources import lexicon
from eoflow.sources.grib_messages import Field
from eoflow.sources.lexicon import TERMS
from eoflow.sources.units import normalise

PRESSURE = "isobaricInhPa"
PLAIN = (PRESSURE, "surface", "meanSea", "heightAboveGround", "atmosphereSingleLayer", "entireAtmosphere")
"""Level types that a name may leave out, the most usual first."""


@dataclass(frozen=True)
class Group:
    """Fields of one variable. `name`: eoflow's; `source`: the provider's; `term`: the lexicon's, or empty."""

    name: str
    source: str
    term: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class _Key:
    name: str
    kind: str
    step: str
    window: str


def group(fields: Iterable[Field]) -> list[Group]:
    """Fields in file order -> groups with distinct names, in the order of their first field."""
    rough: dict[_Key, list[Field]] = defaultdict(list)
    for f in fields:
        rough[_Key(f.name, f.level_type, f.step_type, "")].append(f)
    fine: dict[_Key, list[Field]] = {}
    for key, members in rough.items():
        if _overlap(members):  # accumulations of different length that end at the same time
            for f in members:
                fine.setdefault(_Key(key.name, key.kind, key.step, f.window), []).append(f)
        else:
            fine[key] = members
    bases = {k: _base(k, m[0]) for k, m in fine.items()}
    out = []
    for key, members in fine.items():
        base, term, bare = bases[key]
        rivals = [k for k, b in bases.items() if b[0] == base]
        name = base + _level_suffix(key, rivals, members, bare) + _step_suffix(key, rivals)
        out.append(Group(name, _source(key), term, tuple(members)))
    return out


def _overlap(members: list[Field]) -> bool:
    keys = {(f.valid, f.member, f.first, f.second) for f in members}
    return len({f.window for f in members}) > 1 and len(keys) < len(members)


def _base(key: _Key, field: Field) -> tuple[str, str, bool]:
    """(name, lexicon term or empty, whether the name may stand without its level type)."""
    special = lexicon.GRIB_NAMES.get((key.name, key.kind))
    if special:
        return special, special, True
    known = TERMS.get(lexicon.names().get(key.name.lower(), ""))
    if known is not None and known.converts(normalise(field.units)):
        return known.name, known.name, not known.levelled or key.kind == PRESSURE
    safe = re.sub(r"\W", "_", key.name)
    return (f"_{safe}" if safe[:1].isdigit() else safe), "", True


def _level_suffix(key: _Key, rivals: list[_Key], members: list[Field], bare: bool) -> str:
    if bare:
        kinds = list(dict.fromkeys(k.kind for k in rivals))
        plain = next((k for k in PLAIN if k in kinds), kinds[0] if len(kinds) == 1 else None)
        if key.kind == plain:
            return ""
    levels = {f.first for f in members}
    value = f"{levels.pop():g}".replace(".", "p").replace("-", "m").replace("+", "") if len(levels) == 1 else "0"
    return f"_{key.kind}{'' if value == '0' else value}"


def _step_suffix(key: _Key, rivals: list[_Key]) -> str:
    same = [k for k in rivals if k.kind == key.kind]
    if len(same) == 1 or (key.step == "instant" and not key.window):
        return ""
    several_kinds = len({k.step for k in same}) > 1
    return (f"_{key.step}" if several_kinds else "") + (f"_{key.window}" if key.window else "")


def _source(key: _Key) -> str:
    step = "" if key.step == "instant" else f":{key.step}{key.window}"
    return f"{key.name}@{key.kind}{step}"
