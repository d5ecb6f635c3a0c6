"""Planning: which scenes to read now, on which tiles and time steps, in which commits. Reads no pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput, EoflowError
from eoflow.ingest.ledger import Status
from eoflow.ingest.scenes.ledger import NO_STEP, Row, SceneLedger
from eoflow.layout import MIB
from eoflow.sources.scene import Grid, Scene
from eoflow.tiling import to_degrees
from eoflow.times import NS, Period

Array = np.ndarray[Any, Any]
LOOKBACK = np.timedelta64(30, "D")
"""A plain ingest lists again so far behind the newest scene: late and reprocessed scenes come in."""
BATCH_BYTES = 512 * MIB
"""Pixels of one commit: what a kill can lose."""
BATCH_SCENES = 32
"""Scenes of one commit, where each is small: what a kill makes us read again."""
SLICE, FIRST_SLICE = 64, 8
"""Scenes whose headers are read together."""
DAY_US = 86_400_000_000


def listing(
    entry: SceneEntry, ledger: SceneLedger, now: np.datetime64, *, period: Period | None, rewrite: bool, backfill: bool
) -> Period | None:  # fmt: skip
    """The period to list at the source; None: nothing to list.

    By default from LOOKBACK before the newest scene that was ever planned (or from the oldest one that was planned and
    never tried), up to now. backfill: the span of what is not present. rewrite, or a period: all of it.
    """
    whole = entry.schedule.period(now)
    if period is not None:
        first, last = max(period.start, whole.start), min(period.end, whole.end)
        return Period(first, last) if first <= last else None
    rows = list(ledger.rows.values())
    if backfill:
        lacking = [r.when for r in rows if not r.present]
        return Period(min(lacking), max(lacking)) if lacking else None
    if rows and not rewrite:
        never = [r.when for r in rows if r.status == int(Status.NEVER_TRIED)]
        first = min([max(r.when for r in rows) - LOOKBACK, *never])
        return Period(max(whole.start, first), whole.end) if whole.end >= first else None
    return whole if whole.start <= whole.end else None


@dataclass
class Choice:
    """What a listing means for the cube. todo: scenes to read, oldest first; skipped: there already."""

    todo: list[Scene]
    skipped: int
    listed: dict[str, Scene]


def choose(scenes: Sequence[Scene], ledger: SceneLedger, *, rewrite: bool) -> Choice:
    """The scenes that are not there, or there in another version (rewrite: all). Raises BadInput for a repeated id."""
    listed: dict[str, Scene] = {}
    for s in sorted(scenes, key=lambda s: (s.time.astype(NS), s.id)):
        if s.id in listed and s != listed[s.id]:
            raise BadInput(f"two scenes have the id '{s.id}'", where=f"{listed[s.id].href} and {s.href}",
                           todo="give each its own name, or take one of them out")  # fmt: skip
        listed[s.id] = s
    known, todo = ledger.by_scene(), []
    for s in listed.values():
        rows = known.get(s.id, [])
        there = bool(rows) and all(r.present and r.version == s.version for r in rows)
        if rewrite or not there:
            todo.append(s)
    return Choice(todo, len(listed) - len(todo), listed)


def slices(scenes: Sequence[Scene], size: int = SLICE) -> Iterator[list[Scene]]:
    """Consecutive scenes whose headers are read together; scenes of one day stay together where that goes.

    The first slice is small: pixels are read while the headers of the next come in.
    """
    out: list[Scene] = []
    begun = False
    for s in scenes:
        if len(out) >= (size if begun else FIRST_SLICE) and (
            solar_day(s.time, _longitude(s)) != solar_day(out[-1].time, _longitude(out[-1]))
        ):
            yield out
            out, begun = [], True
        if len(out) >= 4 * size:
            yield out
            out, begun = [], True
        out.append(s)
    if out:
        yield out


def _longitude(scene: Scene) -> float:
    if scene.bbox is None:
        return 0.0
    west, _, east, _ = scene.bbox
    return (west + (east + 360 if east < west else east)) / 2


def solar_day(time: np.datetime64, longitude: float) -> int:
    """Days since 1970 in local solar time (UTC + longitude / 15 h)."""
    us = int(np.asarray(time).astype("datetime64[us]").astype("i8")) + round(longitude * 240e6)
    return us // DAY_US


# -- time steps ------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One time step of a tile to be written. scenes: those to read, in the order in which they fill it.

    time: microseconds since 1970. base: what is stored stays, and the scenes fill what it leaves open. targets: ids of
    the scenes that are new or changed (others are read again because the step is rebuilt). stored: ids of the scenes
    that the step holds now.
    """

    tile: str
    grid: Grid
    time: int
    scenes: list[Scene]
    targets: set[str]
    base: bool = False
    stored: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, int]:
        """Tile and time."""
        return self.tile, self.time


@dataclass
class Tried:
    """A scene that could not be used, on a tile (empty: unknown)."""

    scene: Scene
    tile: str
    error: EoflowError


@dataclass
class Batch:
    """Steps of one commit: whole scenes only. tried: scenes that are only noted. gone: (scene, tile) that was planned
    from a bounding box, and the scene does not touch the tile. new, again: scenes stored for the first time, in place
    of others."""

    steps: list[Step]
    tried: list[Tried] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    new: int = 0
    again: int = 0
    nbytes: int = 0

    @property
    def scenes(self) -> dict[str, Scene]:
        """The new or changed scenes by id."""
        return {s.id: s for step in self.steps for s in step.scenes if s.id in step.targets}


def centre_longitude(grid: Grid) -> float:
    """Degrees, of the middle of a tile."""
    left, bottom, right, top = grid.bounds
    return to_degrees(grid.crs, (left + right) / 2, (bottom + top) / 2)[0]


class Steps:
    """Which time step a scene of a tile belongs to: that of a scene with the same key, else a new one.

    The key is what the scenes of one time step have in common: the solar day of the tile, or the time itself.
    """

    def __init__(self, entry: SceneEntry, ledger: SceneLedger) -> None:
        self.entry, self._known = entry, dict[tuple[str, int], int]()
        self._rows: dict[str, list[Row]] = {}
        for row in ledger.rows.values():
            self._rows.setdefault(row.tile, []).append(row)
        self._longitude: dict[str, float] = {}

    def _key(self, tile: str, grid: Grid, time: int) -> tuple[str, int]:
        if tile not in self._longitude:
            self._longitude[tile] = centre_longitude(grid)
            for row in self._rows.get(tile, ()):
                if row.step != NO_STEP:
                    self._known.setdefault((tile, self._common(tile, row.time)), row.step)
        return tile, self._common(tile, time)

    def _common(self, tile: str, time: int) -> int:
        if self.entry.group_by == "time":
            return time
        return solar_day(np.datetime64(time, "us"), self._longitude[tile])

    def of(self, tile: str, grid: Grid, times: Sequence[int]) -> dict[int, int]:
        """The step (us) of each acquisition time (us) on a tile; the first of a new step gives it its time."""
        return {t: self._known.setdefault(self._key(tile, grid, t), t) for t in sorted(times)}


def _us(scene: Scene) -> int:
    return int(lay.encode_times(np.array([scene.time]))[0])


def order(scene: Scene) -> tuple[int, str]:
    """First wins: the earlier one, then the lower id."""
    return _us(scene), scene.id


def batches(steps: Sequence[Step], bytes_of: Any) -> Iterator[list[Step]]:
    """Cut steps into commits of whole scenes. bytes_of(step): its pixels in bytes."""
    out: list[Step] = []
    size, ids = 0, set[str]()
    for part in sorted(_connected(steps), key=lambda p: min(s.time for s in p)):
        more = sum(bytes_of(s) for s in part)
        names = {i for s in part for i in s.targets}
        if out and (size + more > BATCH_BYTES or len(ids | names) > BATCH_SCENES):
            yield out
            out, size, ids = [], 0, set()
        out += sorted(part, key=lambda s: (s.time, s.tile))
        size, ids = size + more, ids | names
    if out:
        yield out


def _connected(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that share a scene belong together."""
    leader: dict[str, int] = {}
    groups: dict[int, list[Step]] = {}
    for i, step in enumerate(steps):
        mine, ids = [step], {s.id for s in step.scenes}
        for g in {leader[j] for j in ids if j in leader}:
            mine += groups.pop(g)
        groups[i] = mine
        for s in mine:
            for scene in s.scenes:
                leader[scene.id] = i
    return list(groups.values())
