"""Which chips train, validate and test: whole events where the names give them, never a part of a chip."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from eoflow.catalog_patches import SplitRecipe
from eoflow.prepare.chips.layouts import SPLIT_WORDS, Chip

NAMES = ("train", "valid", "test")


def divide(
    chips: Sequence[Chip], recipe: SplitRecipe, seed: int | None = None, telling: Sequence[bool] | None = None
) -> tuple[dict[str, list[int]], str]:
    """Numbers of the chips of each split, and how they were divided, in words.

    As the folder or the names say (`train/`, `val_...`), if they do for all chips. Else whole events (the text before
    the first number of the name) where there are three or more, else chips: drawn by a hash of seed and name, so that
    a new chip moves few others. One unit at least validates, and from three on one tests; one chip alone trains.
    telling: chips with more than one class: where there are such, one of them validates, and another one tests; names
    that would train on none of them are not followed, and the words say so.
    """
    out: dict[str, list[int]] = {n: [] for n in NAMES}
    unlike = ""
    if all(c.split for c in chips) and any(c.split == "train" for c in chips):
        for i, chip in enumerate(chips):
            out[str(chip.split)].append(i)
        blind = telling is not None and any(telling) and not any(telling[i] for i in out["train"])
        if (out["valid"] or out["test"]) and not blind:
            return out, "as the names say: " + _counts(out)
        if blind:
            unlike = " (not as the names say: their train chips show one class alone, nothing can be learnt from those)"
        out = {n: [] for n in NAMES}
    units: dict[str, list[int]] = defaultdict(list)
    places = {c.place for c in chips}
    by_place = len(places) >= 3 and "" not in places and not places <= set(SPLIT_WORDS)
    for i, chip in enumerate(chips):
        units[chip.place if by_place else chip.name].append(i)
    chosen = recipe.seed if seed is None else seed
    order = sorted(units, key=lambda u: hashlib.sha256(f"{chosen}/{u}".encode()).digest())
    useful = {u for u in order if telling is None or any(telling[i] for i in units[u])}
    _assign(out, units, order, recipe.fractions, useful)
    for numbers in out.values():
        numbers.sort()
    what = f"{len(units)} events" if by_place else f"{len(units)} chips"
    return out, f"{what} drawn by seed {chosen}: {_counts(out)}{unlike}"


def _assign(
    out: dict[str, list[int]], units: dict[str, list[int]], order: list[str], fractions: tuple[float, float, float],
    useful: set[str],
) -> None:  # fmt: skip
    total = sum(map(len, units.values()))
    want = {n: f * total for n, f in zip(NAMES, fractions, strict=True)}
    left = list(order)
    for name in (["valid"] if len(order) > 1 else []) + (["test"] if len(order) > 2 and fractions[2] else []):
        unit = next((u for u in reversed(left) if u in useful), left[-1])
        left.remove(unit)
        out[name] += units[unit]
    for i, unit in enumerate(left):
        name = "train" if i == 0 else max(NAMES, key=lambda n: (want[n] - len(out[n]), n == "train"))
        out[name] += units[unit]


def _counts(split: dict[str, list[int]]) -> str:
    return ", ".join(f"{len(v)} {n}" for n, v in split.items())
