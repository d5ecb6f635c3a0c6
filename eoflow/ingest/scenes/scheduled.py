"""Ingest of a catalog dataset of scenes. Lenient: a bad scene is recorded, its slot stays, and the rest goes on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eoflow.archive import Archive
from eoflow.catalog_scenes import SceneEntry
from eoflow.cube import Cube
from eoflow.errors import Failure
from eoflow.ingest import retry
from eoflow.ingest.report import IngestReport, Progress
from eoflow.ingest.scenes import plan, tiles
from eoflow.ingest.scenes.flow import Builder, Headers, each_batch, first_schema, require_same_rules
from eoflow.ingest.scenes.job import SceneJob
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.ingest.scenes.plan import Batch, Tried
from eoflow.ingest.scenes.sources import open_source
from eoflow.sources.base import AssetMissing
from eoflow.sources.scene import Scene
from eoflow.times import Period, iso
from eoflow.workspace import Workspace

WITHDRAWN = "the provider no longer lists it"


def ingest_scenes(
    entry: SceneEntry, workspace: Workspace, now: np.datetime64, progress: Progress, *,
    period: Period | None = None, rewrite: bool = False, backfill: bool = False,
) -> IngestReport:  # fmt: skip
    """List the scenes of the period, read those that the cube lacks or has in another version, commit in batches.

    Counts of the report are scenes. Raises Failure if there is no cube and not one scene could be used; BadInput for
    a wrong entry.
    """
    report = IngestReport(entry.name)
    archive = Archive(workspace, entry.name)
    with archive.writing():
        exists = archive.exists()
        if exists:
            require_same_rules(entry, Cube(archive).schema)
        ledger = SceneLedger.load(archive) if exists else SceneLedger()
        span = plan.listing(entry, ledger, now, period=period, rewrite=rewrite, backfill=backfill)
        if span is None:
            if not exists:
                raise Failure(f"nothing of '{entry.name}' is expected yet", where=f"it starts {entry.schedule.start}",
                              todo="give another --period")  # fmt: skip
            return report
        report.period = str(span)
        source = open_source(entry, workspace.cache, now)
        listed = retry.call(lambda: source.plan(span, entry.area))
        report.notes += getattr(source, "notes", [])
        choice = plan.choose(listed, ledger, rewrite=rewrite)
        report.skipped = choice.skipped
        gone = withdrawn(ledger, choice.listed, span)
        job = SceneJob(archive, entry, source, now, str(workspace.cache), report, progress)
        job.planned = {(s.id, t): s.time for s in choice.todo for t in tiles.planned_tiles(entry, s)}
        job.total = float(len(choice.todo))
        try:
            if choice.todo:
                _run(job, choice)
            if gone:
                job.commit(Batch([], gone), "note what is missing")
        finally:
            job.close()
        report.notes += tiles.said_of(job.cut)
        if not choice.todo and not exists:
            raise Failure(f"the source of '{entry.name}' lists no scene", where=str(span), todo="give another --period")
    return report


def withdrawn(ledger: SceneLedger, listed: Mapping[str, Scene], span: Period) -> list[Tried]:
    """The scenes of a span that were once planned, are not there, and are listed no more: they cannot be waited for."""
    out = []
    for row in ledger.rows.values():
        if row.present or row.scene in listed or not span.contains(row.when) or row.reason.startswith(WITHDRAWN):
            continue
        scene = Scene(row.scene, row.when, row.tile, {}, version=row.version)
        out.append(Tried(scene, row.tile, AssetMissing(WITHDRAWN, where=row.reason or None)))
    return out


def _run(job: SceneJob, choice: plan.Choice) -> None:
    def begun(scenes: list[Scene], found: Headers) -> Builder:
        if not job.archive.exists():
            Cube.create(job.archive.workspace, job.entry, first_schema(job, scenes, found))
            job.archive.reopen()
        return Builder(job, job.cube, choice.listed)

    for batch in each_batch(job, choice.todo, begun):
        times = [s.time for s in batch.scenes.values()]
        message = f"ingest {iso(min(times))}/{iso(max(times))}" if times else "note what is missing"
        job.commit(batch, message)
