"""What is written down about a batch: items of each time step, rows of the ledger, counts of the report."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.bands import SceneSchema
from eoflow.errors import EoflowError
from eoflow.ingest.checks import Problem
from eoflow.ingest.ledger import Status
from eoflow.ingest.report import IngestReport
from eoflow.ingest.scenes.ledger import NO_STEP, Row, SceneLedger
from eoflow.ingest.scenes.plan import Batch, Step, Tried
from eoflow.ingest.scenes.tiles import outside_of
from eoflow.sources.base import AssetCorrupt, AssetMissing
from eoflow.sources.scene import MASKS, Grid, Scene
from eoflow.times import iso

if TYPE_CHECKING:
    from eoflow.ingest.scenes.collect import Done
    from eoflow.ingest.scenes.job import SceneJob
    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]


def loads(text: str) -> list[dict[str, Any]]:
    """The items of a time step from their stored text."""
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return found


def recipe_of(job: SceneJob, schema: SceneSchema) -> str:
    """Hash of everything that decides how a scene becomes pixels of the cube."""
    return hashlib.blake2b(f"{schema.hash} {job.entry.group_by}".encode(), digest_size=8).hexdigest()


# -- bad scenes ------------------------------------------------------------------------------------------------------


def without(batch: Batch, errors: dict[str, EoflowError]) -> Batch:
    """The batch without the scenes that turned out bad; they are only noted, and what is stored of them stays."""
    errors = dict(errors)
    while True:  # a scene is whole or not there: what cannot be written on one tile is written on none
        more: dict[str, EoflowError] = {}
        for step in batch.steps:
            for s in step.scenes:
                if s.id in errors:
                    more |= _held_up(step, s, errors)
        if not more.keys() - errors.keys():
            break
        errors = more | errors
    steps, tried = [], list(batch.tried)
    for step in batch.steps:
        bad = [s for s in step.scenes if s.id in errors]
        tried += [Tried(s, step.tile, errors[s.id]) for s in bad if s.id in step.targets]
        if not bad:
            steps.append(step)
            continue
        stays = any(_holds(step, s) for s in bad)  # then the step cannot be rebuilt, only added to
        good = [s for s in step.scenes if s.id not in errors and not (stays and s.id in step.stored)]
        targets = {s.id for s in good} & step.targets
        if targets:
            steps.append(Step(step.tile, step.grid, step.time, good, targets, step.base or stays, step.stored))
    failed = {i for step in batch.steps for s in step.scenes if s.id in errors for i in superseded(s)}
    return Batch(steps, tried, [key for key in batch.gone if key[0] not in failed])


def superseded(scene: Scene) -> set[str]:
    """Ids under which the provider published the scene before."""
    return set(scene.properties.get("supersedes", ()))


def _holds(step: Step, scene: Scene) -> bool:
    """Whether pixels of a scene, or of one that it replaces, are stored in a step."""
    return bool(({scene.id} | superseded(scene)) & step.stored)


def _held_up(step: Step, bad: Scene, errors: dict[str, EoflowError]) -> dict[str, EoflowError]:
    """Changed scenes that cannot be written because another one of their step, also stored, cannot be read again."""
    if bad.id not in step.stored:
        return {}
    e = errors[bad.id]
    return {
        s.id: AssetCorrupt(
            f"'{bad.id}' of the same time step cannot be read again: {e.what}", where=e.where, todo=e.todo
        )
        for s in step.scenes
        if s.id in step.targets and s.id in step.stored and s.id not in errors
    }


def report_tried(report: IngestReport, batch: Batch) -> None:
    """Count and tell the scenes that could not be used."""
    seen: dict[str, Tried] = {}
    for t in batch.tried:
        seen.setdefault(t.scene.id, t)
    for t in seen.values():
        absent = isinstance(t.error, AssetMissing)
        report.absent += absent
        report.failed += not absent
        where = t.error.where or ""
        name = where if t.scene.id in where else f"{t.scene.id}: {where}" if where else t.scene.id
        report.problems.append(Problem(name, t.scene.time, t.error.what, todo=t.error.todo or "", absent=absent))


def _reason(error: EoflowError) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what


def _status(error: EoflowError) -> Status:
    return Status.ABSENT_AT_SOURCE if isinstance(error, AssetMissing) else Status.FAILED


def _us(time: np.datetime64) -> int:
    return int(lay.encode_times(np.array([time]))[0])


def news(ledger: SceneLedger, job: SceneJob, batch: Batch) -> bool:
    """Whether the batch, which writes nothing, would change the ledger."""
    if any(key in ledger.rows for key in batch.gone) or any(key not in ledger.rows for key in job.planned):
        return True
    for t in batch.tried:
        row = ledger.get(t.scene.id, t.tile)
        if row is None:
            return True
        if not row.present and (row.status, row.reason) != (int(_status(t.error)), _reason(t.error)):
            return True
    return False


# -- slots -----------------------------------------------------------------------------------------------------------


def _without_step(row: Row) -> bool:
    """Whether a row was tried before its tile was known."""
    return row.step == NO_STEP and row.status not in (int(Status.NEVER_TRIED), int(Status.PRESENT))


def slots_of_tried(job: SceneJob, tx: Transaction, batch: Batch, wanted: dict[str, set[int]]) -> None:
    """Add the time steps of scenes that could not be used to those that get a slot, where their tile is known."""
    grids = {s.tile: s.grid for s in batch.steps}
    times: dict[str, set[int]] = {}
    for t in batch.tried:
        times.setdefault(t.tile, set()).add(_us(t.scene.time))
    for row in SceneLedger.read(tx.group).rows.values():
        if _without_step(row):
            times.setdefault(row.tile, set()).add(row.time)
    for tile, some in times.items():
        grid = grids.get(tile) or grid_in(tx.group, tile)
        if grid is not None:
            wanted.setdefault(tile, set()).update(job.steps.of(tile, grid, sorted(some)).values())


def grid_in(root: Any, tile: str) -> Grid | None:
    """The grid of a tile under an open root group, if it has that tile."""
    if not tile or lay.path(tile) not in root:
        return None
    raw = root[lay.path(tile)].attrs["eoflow_grid"]
    return Grid(raw["crs"], tuple(raw["transform"]), tuple(raw["shape"]))


# -- what was written ------------------------------------------------------------------------------------------------


def record(
    job: SceneJob, tx: Transaction, schema: SceneSchema, ledger: SceneLedger, batch: Batch,
    slots: dict[tuple[str, int], int], done: Done, token: str,
) -> None:  # fmt: skip
    """Items, fractions and ledger of a batch into its transaction; details into the history."""
    for (scene, tile), time in job.planned.items():
        ledger.plan(scene, tile, time)
    for key in batch.gone:
        ledger.drop(key)
        job.planned.pop(key, None)
    at = int(job.now.astype("datetime64[s]").astype("i8"))
    again: set[str] = set()
    of_tile: dict[str, list[tuple[int, list[dict[str, Any]], Array]]] = {}
    for i, step in enumerate(batch.steps):
        items, before = _step(job, tx, schema, ledger, i, step, slots[step.key], done, token, at)
        of_tile.setdefault(step.tile, []).append((slots[step.key], items, done.fractions[i]))
        again |= before
    for tile, some in of_tile.items():
        places = [slot for slot, _, _ in some]
        lay.set_items(tx, tile, places, [items for _, items, _ in some])
        lay.set_fractions(tx, tile, places, [fractions for _, _, fractions in some])
    _note_tried(job, tx, ledger, batch, at)
    ledger.write(tx)
    written = batch.scenes
    batch.new, batch.again = len(written) - len(again), len(again)
    times = [s.time for s in written.values()]
    tx.details.update(
        {
            "new": batch.new, "rewritten": batch.again, "failed": len({t.scene.id for t in batch.tried}),
            "tiles": len({s.tile for s in batch.steps}), "batch": token, "assets": sorted(written)[:8],
            "n_assets": len(written), **({"period": f"{iso(min(times))}/{iso(max(times))}"} if times else {}),
        }
    )  # fmt: skip


def _step(
    job: SceneJob, tx: Transaction, schema: SceneSchema, ledger: SceneLedger, i: int, step: Step, slot: int, done: Done,
    token: str, at: int,
) -> tuple[list[dict[str, Any]], set[str]]:  # fmt: skip
    """One time step into the ledger; returns its items, and the scenes of it that were there before."""
    pixels = step.grid.shape[0] * step.grid.shape[1]
    items = loads(str(tx.array(f"{lay.path(step.tile)}/{lay.ITEMS}")[slot])) if step.base else []
    recipe, again = recipe_of(job, schema), set()
    for s in step.scenes:
        digest, fraction = done.digest[i, s.id] or 1, done.valid[i, s.id] / pixels
        cut = outside_of(job.entry, schema.names, s, step.grid)
        if cut:
            job.cut.setdefault(step.tile, {})[s.id] = cut
        items.append(item(s, schema, recipe, digest, fraction, cut))
        if s.id in step.targets:
            old = ledger.plan(s.id, step.tile, s.time)
            again |= {s.id} if old.present else set()
            present, reason = int(Status.PRESENT), f"{cut:.1%} of its pixels lie outside the tile" if cut else ""
            ledger.set(
                Row(s.id, step.tile, old.time, step.time, present, reason, s.version, digest, fraction, at, token)
            )  # fmt: skip
    if len(items) > lay.MANY_ITEMS:
        from eoflow.errors import BadInput

        raise BadInput(f"{len(items)} scenes share one time step; {lay.MANY_ITEMS} can", where=f"tile {step.tile}",
                       todo="write  group_by: time  in the catalog entry")  # fmt: skip
    return items, again


def exact(time: np.datetime64) -> str:
    """ISO with microseconds: such texts sort as their times."""
    return str(time.astype("datetime64[us]"))


def item(
    scene: Scene, schema: SceneSchema, recipe: str, digest: int, fraction: float, cut: float = 0.0
) -> dict[str, Any]:  # fmt: skip
    """What the cube says of an item of a time step, JSON-ready; never a signature. cut: share outside the tile."""
    used = {n: b for n, b in scene.bands.items() if n in (*schema.names, *MASKS)}
    return {
        "id": scene.id, "time": exact(scene.time), "version": scene.version, "href": scene.href,
        "baseline": scene.baseline, "platform": scene.platform, "hrefs": {n: b.href for n, b in used.items()},
        "etags": {n: b.etag for n, b in used.items() if b.etag}, "recipe": recipe, "digest": f"{digest:016x}",
        "valid_fraction": round(fraction, 6), **({"outside": round(cut, 6)} if cut else {}),
    }  # fmt: skip


def _note_tried(job: SceneJob, tx: Transaction, ledger: SceneLedger, batch: Batch, at: int) -> None:
    """Rows of scenes that could not be used; what is stored stays as it is and keeps its line."""
    for t in batch.tried:
        row = ledger.plan(t.scene.id, t.tile, t.scene.time)
        if not row.present:
            status, reason = int(_status(t.error)), _reason(t.error)
            ledger.set(
                Row(row.scene, row.tile, row.time, row.step, status, reason, t.scene.version, ingested_at=at)
            )  # fmt: skip
    for row in list(ledger.rows.values()):
        if _without_step(row) and (grid := grid_in(tx.group, row.tile)) is not None:
            row.step = job.steps.of(row.tile, grid, [row.time])[row.time]
            ledger.set(row)
