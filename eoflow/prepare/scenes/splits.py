"""Splits of windows and times that do not leak: blocks of ground with a buffer, whole events, periods with a gap.

A window belongs to a split only if it, grown by half the buffer, lies in ground of that split alone. So two windows
of different splits are at least the buffer apart, whatever their tiles and zones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from eoflow.catalog_patches import PatchRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes import footprints
from eoflow.prepare.scenes.reading import Tile
from eoflow.prepare.scenes.windows import Layout
from eoflow.prepare.splits import DEFAULT_GAP, Splits, cut
from eoflow.times import Period, format_duration, parse_duration

Array = np.ndarray[Any, np.dtype[Any]]
NAMES = ("train", "valid", "test")
CODES = {"none": 0, "train": 1, "valid": 2, "test": 3}
BLOCK_PATCHES, BUFFER_PATCHES = (8.0, 5.0, 3.0, 2.0), 0.5
"""Sides of a block that are tried, the largest first, until there are MANY of them a split."""
MANY = 5


@dataclass(frozen=True, eq=False)
class Division:
    """How windows and times are divided. windows: tile -> (W,) code of each window, 0 for none (buffer).

    assignment: block or group -> split. buffer, block: metres. gap: shortest time between samples of two splits that
    overlap on the ground; None: they may not overlap at any time. periods: of a split by time.
    """

    by: str
    windows: Mapping[str, Array]
    assignment: Mapping[str, str]
    buffer: float
    gap: np.timedelta64 | None
    block: float | None = None
    periods: Splits | None = None

    def codes(self, tile: str, window: Array, first: Array, last: Array) -> Array:
        """(S,) split code of samples, by window and first and last time; 0: in a buffer, or across two periods."""
        codes = self.windows[tile][window]
        if self.periods is None:
            return codes
        out = np.zeros(window.size, np.int8)
        for name, period in self.periods.items():
            inside = np.asarray(period.contains(first) & period.contains(last))
            out[inside] = CODES[name]
        return np.where(codes > 0, out, 0).astype(np.int8)

    def training(self, tile: str, times: Array) -> tuple[Array, Array]:
        """((W,) windows, (T,) times) of a tile that training may see."""
        inside = np.ones(times.size, bool)
        if self.periods is not None:
            inside = np.asarray(self.periods.train.contains(times))
        return self.windows[tile] == CODES["train"], inside

    def allowed(self, tile: str, times: Array) -> Array:
        """(T, W) whether any split takes this time of this window."""
        inside = np.ones(times.size, bool)
        if self.periods is not None:
            inside = np.any([p.contains(times) for _, p in self.periods.items()], axis=0)
        return inside[:, None] & (self.windows[tile] > 0)[None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; without the codes of the windows."""
        return {
            "by": self.by, "buffer": self.buffer, "block": self.block,
            "gap": None if self.gap is None else format_duration(self.gap), "assignment": dict(self.assignment),
            "periods": None if self.periods is None else self.periods.to_dict(),
        }  # fmt: skip


def divide(recipe: PatchRecipe, tiles: list[Tile], keep: Mapping[str, Any] | None = None) -> Division:
    """Divide the windows (and times) of tiles by the recipe. keep: an earlier division (`to_dict`), whose blocks or
    groups stay where they are.

    Deterministic by the seed. Raises BadInput where there are too few blocks, events or times for the splits asked
    for, a tile has no CRS, or nothing is left outside the buffers.
    """
    for tile in tiles:
        footprints.require_crs(tile.grid, tile.name)
    side = recipe.patch * footprints.pixel_size(tiles[0].grid)
    split = recipe.split
    buffer = split.buffer if split.buffer is not None else (0.0 if split.by == "time" else BUFFER_PATCHES * side)
    assigned = dict(keep["assignment"]) if keep else {}
    if split.by == "groups":
        return _complete(split.fractions, _by_groups(recipe, tiles, buffer, assigned))
    if split.by == "time":
        return _by_time(recipe, tiles, buffer)
    size = split.block or (keep["block"] if keep else None)
    if size is not None:
        return _complete(split.fractions, _by_blocks(recipe, tiles, size, buffer, assigned))
    found: Division | BadInput | None = None
    for patches in BLOCK_PATCHES:
        try:
            tried = _complete(split.fractions, _by_blocks(recipe, tiles, patches * side, buffer, {}))
        except BadInput as e:
            found = found or e
            continue
        found = tried if not isinstance(found, Division) else found
        if len(tried.assignment) >= MANY * sum(f > 0 for f in split.fractions):
            return tried
    if not isinstance(found, Division):
        raise found or BadInput("there is nothing to divide")
    return found


def _complete(fractions: tuple[float, ...], division: Division) -> Division:
    """Raise BadInput for a split without a window."""
    for name, fraction in zip(NAMES, fractions, strict=True):
        if fraction > 0 and not any((codes == CODES[name]).any() for codes in division.windows.values()):
            raise BadInput(f"the buffers leave no window for '{name}'", where=f"buffer {division.buffer:.0f} m",
                           todo="use other blocks (split.block), a smaller buffer, or smaller patches")  # fmt: skip
    return division


def apportion(
    weights: Mapping[str, int], fractions: tuple[float, ...], seed: int, keep: Mapping[str, str]
) -> dict[str, str]:
    """Names -> splits so that the weights come near the fractions; an order drawn by the seed, then the neediest split.

    What `keep` says stays. The first names go to different splits, so that three are enough for three.
    """
    wanted = {n: f * sum(weights.values()) for n, f in zip(NAMES, fractions, strict=True) if f > 0}
    out = {name: keep[name] for name in weights if name in keep}
    got = {n: sum(weights[k] for k, v in out.items() if v == n) for n in NAMES}
    order = sorted(weights, key=lambda name: hashlib.sha256(f"{seed}|{name}".encode()).digest())
    for name in order:
        if name not in out:
            out[name] = max(wanted, key=lambda n: (wanted[n] - got[n]) / wanted[n])
            got[out[name]] += weights[name]
    return out


def _by_blocks(recipe: PatchRecipe, tiles: list[Tile], size: float, buffer: float, keep: Mapping[str, str]) -> Division:
    blocks = footprints.Blocks(size)
    touched: dict[str, list[set[str]]] = {}
    home: dict[str, list[str]] = {}
    for tile in tiles:
        layout = Layout(tile.grid.shape, recipe.patch, recipe.step)
        y, x = layout.origins
        reached = blocks.touched(tile.grid, y, x, recipe.patch, buffer / 2)
        touched[tile.name] = [{f"{r}/{c}" for r, c in found} for found in reached]
        height = np.minimum(y + recipe.patch, layout.shape[0]) - y
        width = np.minimum(x + recipe.patch, layout.shape[1]) - x
        lon, lat = footprints.lonlat(tile.grid, y + height / 2, x + width / 2)
        home[tile.name] = [f"{r}/{c}" for r, c in blocks.at(lon, lat)]
    weights = _weights(touched, home)
    needed = sum(f > 0 for f in recipe.split.fractions)
    if len(weights) < needed:
        raise BadInput(
            f"the data lie in {len(weights)} block{'s' * (len(weights) != 1)} of {size / 1000:g} km: too few for"
            f" {needed} splits", where=f"{len(tiles)} tiles",
            todo=f"use smaller blocks (split.block={size / 4:.0f}), or split by time or groups (split.by=time)",
        )  # fmt: skip
    assignment = apportion(weights, recipe.split.fractions, recipe.split.seed, keep)
    alone = {
        name: [{assignment[b] for b in found if b in assignment} for found in sets] for name, sets in touched.items()
    }
    reach: dict[str, set[str]] = {}
    for name, sets in touched.items():
        for found, splits in zip(sets, alone[name], strict=True):
            for block in (b for b in found if b not in assignment and len(splits) == 1):
                reach.setdefault(block, {keep[block]} if block in keep else set()).update(splits)
    windows = {}
    for name, sets in touched.items():
        ok = [
            len(splits) == 1 and all(b in assignment or reach[b] == splits for b in found)
            for found, splits in zip(sets, alone[name], strict=True)
        ]
        codes = [CODES[min(splits)] if good else 0 for good, splits in zip(ok, alone[name], strict=True)]
        windows[name] = np.array(codes, np.int8)
    adopted = {block: min(splits) for block, splits in reach.items() if len(splits) == 1}
    return Division("blocks", windows, {**adopted, **assignment}, buffer, None, size)


def _weights(touched: Mapping[str, list[set[str]]], home: Mapping[str, list[str]]) -> dict[str, int]:
    """Blocks that are given to splits, with the number of windows that lie in them alone (grown by the buffer).

    Where a window reaches into no such block, the block of its centre is given too. Any other block falls to the split
    that alone reaches into it.
    """
    out: dict[str, int] = {}
    for sets in touched.values():
        for found in sets:
            if len(found) == 1:
                block = next(iter(found))
                out[block] = out.get(block, 0) + 1
    inside = set(out)
    for name, sets in touched.items():
        for found, block in zip(sets, home[name], strict=True):
            if not found & inside:
                out[block] = out.get(block, 0) + 1
    return out


def group_of(tile: str, pattern: str) -> str:
    """The event of a tile: the first group of the pattern in its name, else the whole match. Raises BadInput."""
    try:
        match = re.search(pattern, tile)
    except re.error as e:
        raise BadInput(f"'{pattern}' is not a regular expression: {e}", where="split.group") from None
    if match is None:
        raise BadInput(f"split.group '{pattern}' does not match the tile '{tile}'",
                       todo="write one whose first group names the event, as '^([A-Za-z]+)_'")  # fmt: skip
    return match[1] if match.lastindex else match[0]


def _by_groups(recipe: PatchRecipe, tiles: list[Tile], buffer: float, keep: Mapping[str, str]) -> Division:
    split = recipe.split
    group = {t.name: group_of(t.name, split.group) for t in tiles}
    weights: dict[str, int] = {}
    for t in tiles:
        weights[group[t.name]] = (
            weights.get(group[t.name], 0) + Layout(t.grid.shape, recipe.patch, recipe.step).pixels.size
        )
    held = {name: s for s, names in split.hold.items() for name in names}
    for name in held:
        if name not in weights:
            raise BadInput(f"there is no group '{name}' to hold", where="split.hold",
                           todo=f"groups: {', '.join(sorted(weights))}")  # fmt: skip
    needed = sum(f > 0 for f in split.fractions)
    if len(weights) < needed:
        where, todo = f"groups {', '.join(sorted(weights))}", "set split.fractions, or split by blocks"
        raise BadInput(f"{len(weights)} groups are too few for {needed} splits", where=where, todo=todo)
    assignment = apportion(weights, split.fractions, split.seed, {**keep, **held})
    windows = {
        t.name: np.full(
            Layout(t.grid.shape, recipe.patch, recipe.step).pixels.size, CODES[assignment[group[t.name]]], np.int8
        )
        for t in tiles
    }
    _part(recipe, tiles, windows, buffer)
    return Division("groups", windows, assignment, buffer, None)


def _part(recipe: PatchRecipe, tiles: list[Tile], windows: dict[str, Array], buffer: float) -> None:
    """Take windows away that come too near to one of another group's split: of training first, then of validation."""
    from eoflow.prepare.scenes.leaks import near_pairs

    names = [t.name for t in tiles]
    corners = np.concatenate(
        [footprints.corners(t.grid, *Layout(t.grid.shape, recipe.patch, recipe.step).origins, recipe.patch)
         for t in tiles]
    )  # fmt: skip
    codes = np.concatenate([windows[n] for n in names])
    for less, more in ((1, 3), (1, 2), (2, 3)):
        a, b = np.flatnonzero(codes == less), np.flatnonzero(codes == more)
        for i, _, _ in near_pairs(corners[a], corners[b], buffer):
            codes[a[i]] = 0
    for name, part in zip(names, np.split(codes, np.cumsum([windows[n].size for n in names])[:-1]), strict=True):
        windows[name] = part


def _by_time(recipe: PatchRecipe, tiles: list[Tile], buffer: float) -> Division:
    split = recipe.split
    wanted = DEFAULT_GAP if split.gap is None else parse_duration(split.gap)
    if split.periods is not None:
        p = split.periods
        periods = Splits(Period.parse(p.train), Period.parse(p.valid), Period.parse(p.test) if p.test else None)
    else:
        times = np.unique(np.concatenate([t.times[t.stored] for t in tiles]))
        if recipe.period is not None:
            times = times[np.asarray(Period.parse(recipe.period).contains(times))]
        parts = [f for f in split.fractions if f > 0]
        if times.size < max(2, len(parts)) or split.fractions[1] == 0:
            raise BadInput(f"{times.size} times are too few to be split by time",
                           todo="ingest more of them, or split by blocks or groups")  # fmt: skip
        periods = Splits(*cut(times, tuple(parts), wanted, 1, shrink=split.gap is None))
    spans = sorted((p for _, p in periods.items()), key=lambda p: p.start)
    between = min((b.start - a.end for a, b in pairwise(spans)), default=wanted)
    if between <= np.timedelta64(0, "ns"):
        raise BadInput("the periods of the splits overlap", where=str(periods.to_dict()), todo="set them apart")
    if split.gap is not None and split.periods is not None:
        between = wanted  # what was asked for is what the check proves
    windows = {t.name: np.ones(Layout(t.grid.shape, recipe.patch, recipe.step).pixels.size, np.int8) for t in tiles}
    return Division("time", windows, {}, buffer, min(wanted, between), None, periods)
