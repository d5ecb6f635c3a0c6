"""Ingest of a catalog dataset: from where it stopped to now. Lenient: a bad asset is recorded and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eoflow.archive import Archive, Conflict
from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput, EoflowError, Failure
from eoflow.ingest import checks, plan, retry
from eoflow.ingest.batch import Opened, Todo
from eoflow.ingest.job import Job, open_problem
from eoflow.ingest.ledger import Ledger, Status
from eoflow.ingest.report import IngestReport, Progress
from eoflow.schema import FieldSchema
from eoflow.sources.base import Asset, SourceContext, create
from eoflow.times import NS, Period, iso
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]
CONFLICT_TRIES = 3
Prepared = tuple[Todo, list[checks.Problem], list[checks.Problem]]


def ingest_dataset(
    entry: DatasetEntry, workspace: Workspace, now: np.datetime64, progress: Progress, *,
    period: Period | None = None, rewrite: bool = False, backfill: bool = False,
) -> IngestReport:  # fmt: skip
    """Fetch what the schedule expects and the archive lacks, batch by batch, one commit each.

    Raises Failure if there is no archive and not one asset could be used; BadInput for a wrong entry.
    """
    report = IngestReport(entry.name)
    archive = Archive(workspace, entry.name)
    with archive.writing():
        exists = archive.exists()
        ledger = Ledger.load(archive) if exists else Ledger.empty()
        axis = archive.times if exists else np.empty(0, NS)
        times = plan.wanted(entry.schedule, ledger, axis, now, period=period, rewrite=rewrite, backfill=backfill)
        if times.size:
            report.period = f"{iso(times[0])}/{iso(times[-1])}"
            _fetch(entry, archive, now, progress, times, rewrite, report)
        elif not exists:
            raise Failure(
                f"the schedule of '{entry.name}' expects nothing yet",
                where=_schedule(entry),
                todo="give another --period",
            )
    return report


def _schedule(entry: DatasetEntry) -> str:
    s = entry.schedule
    return f"{s.start} every {s.cadence}, published {s.delay} later" + (f", until {s.end}" if s.end else "")


def _fetch(
    entry: DatasetEntry, archive: Archive, now: np.datetime64, progress: Progress, times: Array, rewrite: bool,
    report: IngestReport,
) -> None:  # fmt: skip
    cache = archive.workspace.cache
    source = create(entry, SourceContext(cache, now))
    assets = retry.call(lambda: source.plan(Period(times[0], times[-1]), entry.area))
    job = Job(archive, entry, source, now, str(cache), report, progress)
    unreadable = [a for a in assets if np.asarray(a.times).size == 0]
    share = plan.share(times, [a for a in assets if np.asarray(a.times).size])
    for asset in unreadable:  # its times are unknown, so the ledger cannot hold it; the report does
        _, problems = _open(job, asset, np.array(["NaT"], NS), None)
        report.problems += problems
    if not archive.exists():
        _create(job, share)
    job.total = float(times.size)
    schema = archive.schema
    for todo, absent, failed in _prepared(job, share, schema):
        if rewrite:
            todo = _changed(job, todo, schema)
        message = f"ingest {iso(todo.times[0])}/{iso(todo.times[-1])}" if todo.times.size else "note what is missing"
        _commit(job, todo, absent, failed, message)
    job.get.keep(set())


def _commit(job: Job, todo: Todo, absent: list[checks.Problem], failed: list[checks.Problem], message: str) -> None:
    """Commit; where another writer was faster, again on top of the new state."""
    for attempt in range(CONFLICT_TRIES):
        try:
            job.commit(todo, absent, failed, message, hidden=False)
            return
        except Conflict:
            if attempt == CONFLICT_TRIES - 1:
                raise


def _open(
    job: Job, asset: Asset, times: Array, schema: FieldSchema | None
) -> tuple[Opened | None, list[checks.Problem]]:
    """Open an asset and check its header; what is wrong becomes problems of its times."""
    try:
        if schema is None:
            job.schema_of(asset)
            return Opened(asset, checks.time_axis(job.get(asset)["time"].values, asset.id)), []
        return job.open(asset, schema), []
    except (EoflowError, OSError, ValueError, RuntimeError, KeyError) as e:
        problem = e if isinstance(e, (EoflowError, OSError)) else OSError(f"{type(e).__name__}: {e}")
        return None, open_problem(problem, asset, times)


def _create(job: Job, share: plan.Share) -> None:
    """Begin the archive with the schema of the first asset that has every variable of the entry."""
    static = {n for n, v in (job.entry.variables or {}).items() if v.static}
    needed = set(job.entry.variables or {}) - static
    reasons: list[checks.Problem] = []
    best: tuple[int, FieldSchema, Asset] | None = None
    for asset in share.assets[: plan.BATCH_ASSETS]:
        opened, problems = _open(job, asset, np.asarray(asset.times), None)
        reasons += problems[:1]
        if opened is None:
            continue
        schema = job.schema_of(asset)
        if best is None or len(schema.channels) > best[0]:
            best = (len(schema.channels), schema, asset)
        if needed <= {v.name for v in schema.variables}:
            break
    if best is None:
        what = f"nothing of '{job.entry.name}' could be ingested: " + (
            reasons[0].reason if reasons else "the source has no asset"
        )
        raise Failure(
            what, where=reasons[0].asset if reasons else _schedule(job.entry), todo=reasons[0].todo if reasons else ""
        )
    lacking = needed - {v.name for v in best[1].variables}
    if lacking:
        raise BadInput(
            f"the source does not have {', '.join(sorted(lacking))}", where=f"dataset {job.entry.name}, {best[2].id}",
            todo="correct `variables` in the entry",
        )  # fmt: skip
    Archive.create(job.archive.workspace, job.entry, best[1], static=job.get(best[2]))


def _prepared(job: Job, share: plan.Share, schema: FieldSchema) -> Iterator[Prepared]:
    """Batches with opened assets; the next one is opened while the caller works on this one."""
    cuts = job.batches(share.times, share.giver)
    needed = [{share.assets[g].id for g in set(share.giver[c].tolist()) if g >= 0} for c in cuts]
    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(_prepare, job, share, cuts[0], schema)
        for i, _ in enumerate(cuts):
            batch = future.result()
            if i + 1 < len(cuts):
                future = ahead.submit(_prepare, job, share, cuts[i + 1], schema)
            yield batch
            later = set().union(*needed[i + 1 : i + 3]) if i + 1 < len(cuts) else set()
            job.get.keep(later)


def _prepare(job: Job, share: plan.Share, cut: Array, schema: FieldSchema) -> Prepared:
    """Open the assets of one batch: what can be written, what is absent, what failed."""
    times, giver = share.times[cut], share.giver[cut]
    absent = [checks.Problem("", t, "the source lists no asset for this time", absent=True) for t in times[giver < 0]]
    failed: list[checks.Problem] = []
    opened: list[Opened] = []
    new_giver = np.full(times.size, -1)
    for g in dict.fromkeys(giver[giver >= 0].tolist()):
        mine = np.flatnonzero(giver == g)
        asset = share.assets[g]
        one, problems = _open(job, asset, times[mine], schema)
        absent += [p for p in problems if p.absent]
        failed += [p for p in problems if not p.absent]
        if one is None:
            continue
        there = np.isin(times[mine], one.times)
        absent += [
            checks.Problem(asset.id, t, "the asset does not hold this time", absent=True) for t in times[mine[~there]]
        ]
        new_giver[mine[there]] = len(opened)
        opened.append(one)
    keep = new_giver >= 0
    return Todo(times[keep], new_giver[keep], opened), absent, failed


def _changed(job: Job, todo: Todo, schema: FieldSchema) -> Todo:
    """Only the times whose values differ from what is stored (those that cannot be read stay in, to be recorded)."""
    ledger = Ledger.load(job.archive)
    there = np.isin(ledger.status_at(todo.times), (int(Status.PRESENT), int(Status.PARTIAL)))
    if not there.any():
        return todo
    old = todo.only(there)
    found = job.values(old, schema, np.searchsorted(job.archive.times, old.times), ledger, None)
    bad = np.isin(old.times, np.array([p.time for p in found.problems], NS))
    same = (found.digest == ledger.digest_at(old.times)) & ~bad
    job.report.skipped += int(same.sum())
    job.done += float(same.sum())
    return todo.only(~np.isin(todo.times, old.times[same]))
