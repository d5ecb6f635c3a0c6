"""Ingest of scenes given by hand: all of them or nothing. Strict: whatever is wrong is an error.

As with files of fields, everything is written on a staging branch that nobody reads; `main` moves to it when all is in.
A killed run leaves the branch, and the next run of the same files goes on from its last batch.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from eoflow import catalog
from eoflow import cube_layout as lay
from eoflow.archive import MAIN, STAGING, Archive
from eoflow.bands import SceneSchema
from eoflow.catalog_scenes import SceneEntry
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.by_hand import drop_stale, input_error, nothing_left, work_key
from eoflow.ingest.report import IngestReport, Progress
from eoflow.ingest.scenes import plan, tiles
from eoflow.ingest.scenes.flow import Builder, each_batch, first_schema, headers, in_slices, require_same_rules
from eoflow.ingest.scenes.job import SceneJob, refusal
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.ingest.scenes.plan import Choice
from eoflow.ingest.scenes.sources import open_source
from eoflow.sources.scene import Scene
from eoflow.times import Period, iso
from eoflow.workspace import Workspace


def ingest_scene_files(
    name: str, files: list[str], workspace: Workspace, now: np.datetime64, progress: Progress, *,
    period: Period | None = None, rewrite: bool = False, overrides: dict[str, Any] | None = None,
) -> IngestReport:  # fmt: skip
    """Ingest rasters or scene products under a name. Raises BadInput for anything wrong in them; store and catalog are
    as before then. Scenes that are there with the same values are skipped; with others they are an error, unless
    `rewrite` says that they are corrected."""
    from eoflow.sources.infer_scenes import infer_scene_entry

    report = IngestReport(name)
    archive = Archive(workspace, name)
    had_cache = (not workspace.is_local) or workspace.path("cache").exists()
    existing = _existing(archive, workspace)
    with nothing_left(workspace, had_cache), archive.writing():
        alone = infer_scene_entry(name, files, now, overrides or {}, existing)
        entry, reading = alone, _only(alone, files)
        if archive.exists():
            require_same_rules(entry, Cube(archive).schema)
        source = open_source(reading, workspace.cache, now)
        job = SceneJob(archive, reading, source, now, str(workspace.cache), report, progress, strict=True)
        scenes = input_error(lambda: source.plan(period, reading.area))
        if not scenes:
            raise BadInput("the files hold no scene in the period", where=str(period), todo="give another --period")
        if existing is None and entry.notes:
            report.notes.append(entry.notes)  # what was assumed of the files
        report.period = f"{iso(min(s.time for s in scenes))}/{iso(max(s.time for s in scenes))}"
        try:
            _ingest(job, entry, scenes, rewrite, work_key(files, entry, rewrite, period))
        finally:
            job.close()
        if not workspace.exists("catalogs", "datasets", f"{name}.yaml") or existing != entry:
            catalog.save_dataset(entry, workspace)
    return report


def _existing(archive: Archive, workspace: Workspace) -> SceneEntry | None:
    """The entry that the dataset has already: the workspace's, else the cube's. Raises BadInput for one of fields."""
    found = None
    if workspace.exists("catalogs", "datasets", f"{archive.name}.yaml"):
        found = catalog.entry(archive.name, workspace)
    elif archive.exists():
        found = Cube(archive).entry if archive.kind == "scenes" else archive.entry
    if found is not None and not isinstance(found, SceneEntry):
        raise BadInput(f"'{archive.name}' is a dataset of fields, and these files are scenes",
                       todo="ingest them under another name with --as")  # fmt: skip
    return found


def _only(entry: SceneEntry, files: list[str]) -> SceneEntry:
    """The entry that reads only the files given now."""
    from eoflow.sources.infer_scenes import _found

    args = dict(entry.source.args)
    if "paths" in args:
        args["paths"] = _found(files)
    return entry.model_copy(update={"source": entry.source.model_copy(update={"args": args})})


def _ingest(job: SceneJob, entry: SceneEntry, scenes: list[Scene], rewrite: bool, key: str) -> None:
    archive = job.archive
    existed, stored = archive.exists(), archive._stored()
    ledger = SceneLedger.load(archive) if existed else SceneLedger()
    choice = plan.choose(scenes, ledger, rewrite=rewrite)
    job.total = float(len(choice.todo))
    job.report.skipped = choice.skipped
    if existed and not rewrite:
        choice = _new_only(job, choice, ledger)
    if not choice.todo:
        return
    found = headers(job, choice.todo)  # every header, before anything is written
    scenes = [s for s in found.values() if isinstance(s, Scene)]
    schema = Cube(archive).schema if existed else first_schema(job, choice.todo, found)
    base = archive.snapshot if stored else None
    label = "files-" + hashlib.sha256(f"{key} {base if existed else ''}".encode()).hexdigest()[:16]
    job.branch = STAGING + label
    try:
        _stage(job, schema, choice, scenes, existed, label)
        _publish(job, entry, len(choice.todo), base)
    except BadInput:
        if not stored:
            archive.remove()
        elif job.branch in archive.repo.list_branches():
            archive.drop(job.branch)
            archive.vacuum()
        raise


def _new_only(job: SceneJob, choice: Choice, ledger: SceneLedger) -> Choice:
    """Without the scenes that are there with the same values. Raises BadInput for one with other values."""
    known = ledger.by_scene()
    again = [s for s in choice.todo if any(r.present for r in known.get(s.id, []))]
    if not again:
        return choice
    same = set()
    for some, found, _ in in_slices(job, again):
        for batch in Builder(job, job.cube, {}).batches(some, found):
            for step in batch.steps:
                step.scenes = [s for s in step.scenes if s.id in step.targets]
                step.base = False
                done = job.work(None, job.cube.schema, [step], {step.key: 0}, job.archive.zarr_group())
                if done.errors:
                    raise refusal(next(iter(done.errors.values())))
                for s in step.scenes:
                    row = ledger.get(s.id, step.tile)
                    if row is None or (done.digest[0, s.id] or 1) != row.digest:
                        raise BadInput(
                            f"the cube holds other values of scene {s.id}", where=f"tile {step.tile}, {iso(s.time)}",
                            todo="add --rewrite if these are corrected data; else leave the scene out",
                        )  # fmt: skip
                    same.add(s.id)
    job.report.skipped += len(same)
    return Choice([s for s in choice.todo if s.id not in same], choice.skipped + len(same), choice.listed)


def _stage(
    job: SceneJob, schema: SceneSchema, choice: Choice, known: list[Scene], existed: bool, label: str
) -> None:  # fmt: skip
    """Write the scenes on the staging branch, or go on with those that a killed run left out. known: all of them with
    their headers, so that new tiles hold every one."""
    archive, todo = job.archive, choice.todo
    stored = archive._stored()
    if stored and job.branch in archive.staging_branches() and archive.exists(job.branch):
        todo = _left(job, todo, SceneLedger.load(archive) if existed else SceneLedger())
    else:
        if stored:
            drop_stale(archive)
        if existed:
            archive.branch_off(label)
        else:
            Cube.create(archive.workspace, job.entry, schema, branch=job.branch)
            archive.reopen()
    job.planned = {(s.id, t): s.time for s in todo for t in tiles.planned_tiles(job.entry, s)}
    for batch in each_batch(job, todo, lambda *_: Builder(job, job.cube, choice.listed, known)):
        times = [s.time for s in batch.scenes.values()]
        if times:
            job.commit(batch, f"stage {iso(min(times))}/{iso(max(times))}", hidden=True)


def _left(job: SceneJob, todo: list[Scene], main: SceneLedger) -> list[Scene]:
    """The scenes that the killed run did not write; counts those that it did."""
    staged, before = SceneLedger.load(job.archive, branch=job.branch).by_scene(), main.by_scene()
    old = {(r.scene, r.tile): r.batch for rows in before.values() for r in rows}
    left = []
    for s in todo:
        rows = staged.get(s.id, [])
        if not rows or not all(r.present and r.version == s.version and r.batch != old.get(r.key) for r in rows):
            left.append(s)
        elif s.id in before:
            job.report.rewritten += 1
        else:
            job.report.new += 1
    return left


def _publish(job: SceneJob, entry: SceneEntry, count: int, base: str | None) -> None:
    """The visible commit with the entry; then `main` moves."""
    archive, report = job.archive, job.report
    details = {"what": "ingest", "new": report.new, "rewritten": report.rewritten, "period": report.period}
    message = f"ingest {count} scene{'s' if count > 1 else ''}"
    with archive.transaction(message, details, job.branch) as tx:
        schema = SceneSchema.model_validate_json(str(tx.group.attrs["eoflow_schema"]))
        lay.set_attributes(tx, entry, schema)
    archive.publish(job.branch, expected=base or archive.tip(MAIN))
    report.commits = 1
    report.notes += tiles.said_of(job.cut)
