"""From scenes that are wanted to batches that can be written: headers, tiles, time steps. Shared by both ways in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from eoflow.bands import SceneSchema
from eoflow.catalog_scenes import QualityEntry, SceneEntry, TileScheme
from eoflow.cube import Cube
from eoflow.cube_layout import encode_times
from eoflow.errors import BadInput, EoflowError, Failure
from eoflow.ingest.scenes import plan, tiles
from eoflow.ingest.scenes.job import SceneJob, refusal
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.ingest.scenes.notes import exact, superseded
from eoflow.ingest.scenes.plan import Batch, Step, Steps, Tried
from eoflow.sources.radiometry import cube_band
from eoflow.sources.scene import MASKS, Grid, Scene
from eoflow.times import iso

Array = np.ndarray[Any, Any]
Headers = dict[str, Scene | EoflowError]
READY = 8
"""Scenes of the next slice that are looked at for what can be read ahead."""


def headers(job: SceneJob, scenes: Sequence[Scene]) -> Headers:
    """The scenes with their headers read, or what is wrong with them, by id."""

    def one(scene: Scene) -> Scene | EoflowError:
        try:
            return job.header(scene)
        except EoflowError as e:
            return e

    found = list(job.header_threads.map(one, scenes))
    return {s.id: f for s, f in zip(scenes, found, strict=True)}


def in_slices(
    job: SceneJob, scenes: Sequence[Scene]
) -> Iterator[tuple[list[Scene], Headers, Callable[[], Headers]]]:  # fmt: skip
    """Slices with their headers; those of the next are read while the caller works on this one. The third of each:
    tells the headers of the next slice, as soon as they are there."""
    cuts = list(plan.slices(scenes))
    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(headers, job, cuts[0]) if cuts else None
        for i, some in enumerate(cuts):
            assert future is not None
            found = future.result()
            future = ahead.submit(headers, job, cuts[i + 1]) if i + 1 < len(cuts) else None
            yield some, found, partial(_if_there, future)


def _if_there(future: Future[Headers] | None) -> Headers:
    return future.result() if future is not None and future.done() and future.exception() is None else {}


def each_batch(
    job: SceneJob, scenes: Sequence[Scene], builder: Callable[[list[Scene], Headers], Builder]
) -> Iterator[Batch]:  # fmt: skip
    """The commits of some scenes, in order; the job is told what comes after each. builder: made when the headers of
    the first slice are there."""
    built: Builder | None = None
    for some, found, following in in_slices(job, scenes):
        built = built or builder(some, found)
        batches = list(built.batches(some, found))
        for batch, after in zip(batches, [*batches[1:], None], strict=True):
            job.upcoming = partial(built.likely, following) if after is None else partial(_steps_of, after)
            yield batch
    job.upcoming = tuple


def _steps_of(batch: Batch) -> list[Step]:
    return batch.steps


# -- the schema ------------------------------------------------------------------------------------------------------


def schema_of(entry: SceneEntry, scene: Scene) -> SceneSchema:
    """The schema of a cube begun with this scene (its header read). Raises BadInput that says what to write."""
    names = list(entry.bands) if entry.bands is not None else [n for n in scene.bands if n not in MASKS]
    lacking = [n for n in names if n not in scene.bands]
    if lacking or not names:
        raise BadInput(f"the scene does not have {', '.join(lacking) or 'any band'}", where=scene.id,
                       todo="correct `bands` in the catalog entry")  # fmt: skip
    bands = tuple(
        cube_band(n, (entry.bands or {}).get(n), scene.bands[n], entry.sensor, entry.level, where=scene.id)
        for n in names
    )
    return SceneSchema(
        bands=bands, sensor=entry.sensor, level=entry.level, tiles=entry.tiles.model_dump_json(),
        quality=entry.quality.model_dump_json(),
    )  # fmt: skip


def first_schema(job: SceneJob, scenes: Sequence[Scene], found: Headers) -> SceneSchema:
    """The schema of the first scene that can be used. Raises what is wrong with the first one if none can."""
    first: EoflowError | None = None
    for s in scenes:
        scene = found[s.id]
        try:
            if isinstance(scene, EoflowError):
                raise scene
            schema = schema_of(job.entry, scene)
            tiles.grids_of(job.entry, schema.names, scene, {})
            return schema
        except EoflowError as e:
            if job.strict:
                raise refusal(e) from e
            first = first or e
    if isinstance(first, BadInput):
        raise first
    what = "the source has no scene" if first is None else first.what
    raise Failure(f"nothing of '{job.entry.name}' could be ingested: {what}",
                  where=None if first is None else first.where, todo=None if first is None else first.todo)  # fmt: skip


def require_same_rules(entry: SceneEntry, schema: SceneSchema) -> None:
    """Raise BadInput where the entry has other tiles, quality rule, bands or sensor than the cube was begun with."""
    tiles = TileScheme.model_validate_json(schema.tiles)
    pairs = {
        "tiles": (tiles, tiles if entry.tiles.agrees(tiles) else entry.tiles),
        "quality": (QualityEntry.model_validate_json(schema.quality), entry.quality),
        "sensor": (schema.sensor, entry.sensor),
        "level": (schema.level, entry.level),
        "bands": (sorted(schema.names), sorted(entry.bands) if entry.bands is not None else sorted(schema.names)),
    }
    for key, (old, new) in pairs.items():
        if old != new:
            what = f"the entry's `{key}` differ from those of the cube"
            raise BadInput(f"{what}: {_said(old)} there, {_said(new)} in the entry",
                           where=f"dataset {entry.name}", todo="give the changed entry a new name")  # fmt: skip


def _said(value: object) -> str:
    return value.model_dump_json(exclude_defaults=True) if hasattr(value, "model_dump_json") else str(value)


# -- steps -----------------------------------------------------------------------------------------------------------


class Builder:
    """Turns slices of scenes into batches. It remembers grids of tiles, and which time steps there are."""

    def __init__(self, job: SceneJob, cube: Cube, listed: dict[str, Scene], known: Sequence[Scene] = ()) -> None:
        self.job, self.listed = job, listed
        self.names = cube.schema.names
        self.extents = tiles.Extents(job.entry, self.names, [*listed.values(), *known])
        self.bytes = job.pixel_bytes(cube.schema)
        self._tiles = set(cube.tiles())
        self._grids: dict[str, Grid] = {}
        self._axes: dict[str, tuple[Cube, Array]] = {}
        job.steps = Steps(job.entry, SceneLedger.load(job.archive, branch=job.branch))

    def grid(self, tile: str) -> Grid | None:
        """The grid of a tile of the cube, or of one that a scene of this run has begun."""
        if tile not in self._grids and tile in self._tiles:
            self._grids[tile] = self.job.cube.grid(tile)
        return self._grids.get(tile)

    def batches(self, scenes: Sequence[Scene], found: Headers) -> Iterator[Batch]:
        """The commits of a slice. strict: raises BadInput for the first scene that cannot be used."""
        on: dict[str, list[Scene]] = {}
        tried: list[Tried] = []
        gone: list[tuple[str, str]] = []
        self.extents.add(s for s in found.values() if isinstance(s, Scene))
        for s in scenes:
            expected = tiles.planned_tiles(self.job.entry, s)
            try:
                scene, grids = self._placed(found[s.id])
            except EoflowError as e:
                if self.job.strict:
                    raise refusal(e) from e
                tried += [Tried(s, t, e) for t in expected]
                continue
            self._grids.update(grids)
            for tile in grids:
                on.setdefault(tile, []).append(scene)
            gone += [(s.id, t) for t in expected if t not in grids]
        self._axes.clear()  # the cube may have been written since
        steps = [step for tile, some in on.items() for step in self._steps(tile, some, tried, gone)]
        for some in plan.batches(steps, lambda s: s.grid.shape[0] * s.grid.shape[1] * self.bytes):
            yield Batch(some, tried, gone)
            tried, gone = [], []
        if tried or gone:
            yield Batch([], tried, gone)

    def likely(self, following: Callable[[], Headers]) -> list[Step]:
        """Steps of scenes of which the headers are there and no more is known: what will be read of them."""
        if self.job.entry.tiles.scheme == "grid":
            return []
        scenes = [s for s in following().values() if isinstance(s, Scene)]
        known = [(s, g) for s in scenes[:READY] if (g := self._grids.get(s.tile)) is not None]
        return [Step(s.tile, g, 0, [s], {s.id}) for s, g in known if all(n in s.bands for n in self.names)]

    def _placed(self, found: Scene | EoflowError) -> tuple[Scene, dict[str, Grid]]:
        if isinstance(found, EoflowError):
            raise found
        known = {} if (grid := self.grid(found.tile)) is None else {found.tile: grid}
        return found, tiles.grids_of(self.job.entry, self.names, found, known, self.extents)

    def _steps(
        self, tile: str, scenes: list[Scene], tried: list[Tried], gone: list[tuple[str, str]]
    ) -> list[Step]:  # fmt: skip
        grid = self.grid(tile)
        assert grid is not None
        times = {s.id: int(encode_times([s.time])[0]) for s in scenes}  # type: ignore[arg-type]
        others = [int(encode_times([t.scene.time])[0]) for t in tried if t.tile == tile]  # type: ignore[arg-type]
        of = self.job.steps.of(tile, grid, sorted({*times.values(), *others}))
        by_step: dict[int, list[Scene]] = {}
        for s in scenes:
            by_step.setdefault(of[times[s.id]], []).append(s)
        out = []
        for time, some in sorted(by_step.items()):
            try:
                out.append(self._step(tile, grid, time, some, gone))
            except BadInput as e:
                if self.job.strict:
                    raise
                tried += [Tried(s, tile, e) for s in some]
        return out

    def _step(
        self, tile: str, grid: Grid, time: int, scenes: list[Scene], gone: list[tuple[str, str]]
    ) -> Step:  # fmt: skip
        """A plain step; one that adds to what is stored; or one that is rebuilt from all its scenes.

        A scene may be published again under another id (`supersedes` names the old one): it takes its place.
        """
        stored = self._stored(tile, time)
        targets = {s.id for s in scenes}
        replaced = set().union(*(superseded(s) for s in scenes)) & stored.keys()
        gone += [(i, tile) for i in sorted(replaced)]
        rest = stored.keys() - targets - replaced
        mine = sorted(scenes, key=plan.order)
        step = Step(tile, grid, time, mine, targets, stored=frozenset(stored))
        if not rest:
            return step
        changed = targets & stored.keys() | replaced
        last = max(stored[i] for i in rest)
        if not changed and all((exact(s.time), s.id) > last for s in mine):
            step.base = True
            return step
        siblings = headers(self.job, [self.listed[i] for i in sorted(rest) if i in self.listed])
        usable = {i: s for i, s in siblings.items() if isinstance(s, Scene)}
        if usable.keys() == rest:
            step.scenes = sorted([*mine, *usable.values()], key=plan.order)
        elif not changed:
            step.base = True  # a scene of it is no longer to be had: what is stored stays, the new one fills the rest
        else:
            away = ", ".join(sorted(rest - usable.keys()))
            raise BadInput(
                f"scene {', '.join(sorted(changed))} cannot be written again alone: its time step also holds {away}",
                where=f"tile {tile}, {iso(mine[0].time)}", todo=f"make {away} available again, or give it, too",
            )  # fmt: skip
        return step

    def _stored(self, tile: str, time: int) -> dict[str, tuple[str, str]]:
        """(time, id) of the items that a step holds now, by id."""
        if tile not in self._axes:
            cube = self.job.cube
            there = tile in self._tiles or tile in cube.tiles()
            self._axes[tile] = cube, encode_times(cube.times(tile) if there else np.empty(0, "M8[us]"))
            self._tiles |= {tile} if there else set()
        cube, axis = self._axes[tile]
        slot = int(axis.searchsorted(time))
        if slot == axis.size or axis[slot] != time:
            return {}
        return {i["id"]: (i["time"], i["id"]) for i in cube.items(tile, slot)}
