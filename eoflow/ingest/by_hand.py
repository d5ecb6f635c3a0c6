"""Ingest of files given by hand: all of them or nothing. Strict: whatever is wrong is an error.

The files are written batch by batch on a staging branch that nobody reads; `main` is moved to it when all are in. A
killed run leaves the branch, and the next run of the same files on the same archive goes on from its last batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import catalog
from eoflow.archive import MAIN, STAGING, Archive, dumps
from eoflow.catalog import DatasetEntry, Model
from eoflow.errors import BadInput
from eoflow.ingest import blocks as bl
from eoflow.ingest import checks
from eoflow.ingest.batch import Opened, Todo
from eoflow.ingest.job import Job, refusal
from eoflow.ingest.ledger import Ledger, Status
from eoflow.ingest.report import IngestReport, Progress
from eoflow.schema import FieldSchema
from eoflow.sources.base import Asset, AssetError, SourceContext, create
from eoflow.sources.files import expand
from eoflow.times import NS, Period, iso
from eoflow.transaction import set_attributes
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


@dataclass
class _State:
    """What is on `main`, and where the work goes on."""

    base: str | None
    existed: bool
    main: Ledger
    resumed: bool


def ingest_files(
    name: str, files: list[str], workspace: Workspace, now: np.datetime64, progress: Progress, *,
    period: Period | None = None, rewrite: bool = False, cadence: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> IngestReport:  # fmt: skip
    """Ingest files under a name. Raises BadInput for anything wrong in them; store and catalog are as before then."""
    report = IngestReport(name)
    archive = Archive(workspace, name)
    had_cache = (not workspace.is_local) or workspace.path("cache").exists()
    existing = _existing(archive, workspace)
    with nothing_left(workspace, had_cache), archive.writing():
        entry, reading = _entries(name, files, existing, workspace, cadence, overrides or {})
        source = create(reading, SourceContext(workspace.cache, now))
        job = Job(archive, reading, source, now, str(workspace.cache), report, progress, strict=True)
        try:
            assets = input_error(lambda: job.source.plan(period, reading.area))
            if not assets:
                raise BadInput("the files hold no time in the period", where=str(period), todo="give another --period")
            _ingest(job, entry, assets, rewrite, work_key(files, entry, rewrite, period))
        finally:
            job.get.keep(set())
        if not workspace.exists("catalogs", "datasets", f"{name}.yaml") or existing != entry:
            catalog.save_dataset(entry, workspace)
    return report


def input_error(work: Callable[[], Any]) -> Any:
    """Run; what a catalog ingest would record as a bad asset is bad input here."""
    try:
        return work()
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo or "give a readable file; nothing was changed") from e


class nothing_left:
    """Remove the folders that a refused first ingest would leave behind."""

    def __init__(self, workspace: Workspace, had_cache: bool) -> None:
        self.workspace, self.had_cache = workspace, had_cache

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None or not issubclass(kind, BadInput) or not self.workspace.is_local:
            return
        if not self.had_cache:
            import shutil

            shutil.rmtree(self.workspace.path("cache"), ignore_errors=True)
        for parts in (("archives",), ("catalogs", "datasets"), ("catalogs",)):
            folder = self.workspace.path(*parts)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _existing(archive: Archive, workspace: Workspace) -> DatasetEntry | None:
    """The entry that the dataset has already: the workspace's, else the archive's."""
    if workspace.exists("catalogs", "datasets", f"{archive.name}.yaml"):
        return catalog.dataset(archive.name, workspace)
    if archive.exists():
        return archive.entry
    return None  # an entry of the shipped catalog is shadowed by the one that these files make


def _entries(
    name: str,
    files: list[str],
    existing: DatasetEntry | None,
    workspace: Workspace,
    cadence: str | None,
    overrides: dict[str, Any],
) -> tuple[DatasetEntry, DatasetEntry]:
    """(the entry to save, the entry that reads only the files given now)."""
    from eoflow.sources.infer import infer_entry

    entry = infer_entry(name, files, cadence=cadence, existing=existing, overrides=overrides, cache=workspace.cache)
    end = entry.schedule.end
    if end is not None and len(end) == 10:  # a bare date means the whole day, and the last time is its first moment
        schedule = entry.schedule.model_copy(update={"end": f"{end}T00:00"})
        entry = entry.model_copy(update={"schedule": schedule})
    args = dict(entry.source.args)
    if "paths" in args:
        from eoflow.sources.files import expand

        args["paths"] = expand(files)
    return entry, entry.model_copy(update={"source": entry.source.model_copy(update={"args": args})})


def work_key(files: list[str], entry: Model, rewrite: bool, period: Period | None) -> str:
    """Identity of this piece of work: the files (also those in a folder) as they are now, and what is to be done."""
    stamps = []
    for path in map(Path, expand(files)):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for p in inside:
            stat = p.stat() if p.is_file() else None
            stamps.append([str(p.absolute()), stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0])
    return dumps([stamps, entry.model_dump(mode="json"), rewrite, str(period)])


def _ingest(job: Job, entry: DatasetEntry, assets: list[Asset], rewrite: bool, key: str) -> None:
    archive = job.archive
    existed = archive.exists()
    schema = archive.schema if existed else input_error(lambda: job.schema_of(assets[0]))
    opened = [input_error(partial(job.open, a, schema)) for a in assets]  # every header, before anything is written
    anchor = archive.times[0] if existed and archive.times.size else opened[0].times[0]
    for o in opened:
        checks.refuse_off_schedule(np.asarray(o.asset.times), job.cadence, anchor, o.asset.id, job.archive.name)
    job.report.period = f"{iso(min(o.times[0] for o in opened))}/{iso(max(o.times[-1] for o in opened))}"
    stored = archive._stored()
    main = Ledger.load(archive) if existed else Ledger.empty()
    state = _State(archive.snapshot if stored else None, existed, main, False)
    try:
        _stage(job, entry, schema, opened, rewrite, key, state)
    except BadInput:
        if not stored:
            archive.remove()
        elif job.branch in archive.repo.list_branches():
            archive.drop(job.branch)
            archive.vacuum()
        raise


def _stage(
    job: Job, entry: DatasetEntry, schema: FieldSchema, opened: list[Opened], rewrite: bool, key: str, state: _State
) -> None:
    archive = job.archive
    label = "files-" + hashlib.sha256(f"{key} {state.base if state.existed else ''}".encode()).hexdigest()[:16]
    job.branch = STAGING + label
    first, rest = _shares(opened)
    if state.existed:
        work = _Rounds(job, schema, rewrite, state, staged=MAIN)
        if job.branch not in archive.staging_branches():
            first = work.new_or_changed(first)  # reads only: a file with nothing new leaves no trace
            if not first.times.size and not rest.times.size:
                job.report.skipped += work.skipped
                return
            drop_stale(archive)
            archive.branch_off(label)
        else:
            state.resumed = True
    elif archive._stored() and job.branch in archive.staging_branches() and archive.exists(job.branch):
        state.resumed = True
    else:
        if archive._stored():
            drop_stale(archive)
        Archive.create(archive.workspace, entry, schema, static=job.get(opened[0].asset), branch=job.branch)
        archive.reopen()
        work = _Rounds(job, schema, rewrite, state, staged=job.branch)
    if state.resumed or not state.existed:
        work = _Rounds(job, schema, rewrite, state, staged=job.branch)
        first = work.new_or_changed(first)
    work.store(first)
    work.staged = job.branch
    if rest.times.size:
        work.agree(rest)
    job.report.skipped += work.skipped
    _publish(job, entry, opened, state)


def drop_stale(archive: Archive) -> None:
    """Staging branches of other work: their files or the archive have changed since. No other writer can be alive."""
    stale = archive.staging_branches() if archive.workspace.is_local else []
    for branch in stale:
        archive.drop(branch)
    if stale:
        archive.vacuum()


def _shares(opened: list[Opened]) -> tuple[Todo, Todo]:
    """(each time with the first file that holds it, the further files that hold the same times)."""
    times = np.concatenate([np.asarray(o.asset.times).astype(NS) for o in opened])
    giver = np.concatenate([np.full(np.asarray(o.asset.times).size, g) for g, o in enumerate(opened)])
    order = np.lexsort((giver, times))
    times, giver = times[order], giver[order]
    again = np.concatenate([[False], times[1:] == times[:-1]])
    return Todo(times[~again], giver[~again], opened), Todo(times[again], giver[again], opened)


@dataclass
class _Rounds:
    """Sorts times into new, equal and different ones, and stores them. `staged`: the branch that is compared with."""

    job: Job
    schema: FieldSchema
    rewrite: bool
    state: _State
    staged: str
    skipped: int = 0

    def new_or_changed(self, todo: Todo) -> Todo:
        """The times to store. Equal ones are skipped; different ones raise BadInput unless they are corrections."""
        job, on_main = self.job, self.state.main
        ledger = Ledger.load(job.archive, branch=self.staged)
        there = ledger.status_at(todo.times) == int(Status.PRESENT)
        if self.state.resumed:  # stored by the killed run: the staging ledger knows more than main's
            ours = there & (on_main.status_at(todo.times) != int(Status.PRESENT))
            job.report.new += int(ours.sum())
            todo, there = todo.only(~ours), there[~ours]
        job.total = job.total or float(todo.times.size)
        same = np.zeros(todo.times.size, bool)
        if there.any():
            same[there] = self._same(todo.only(there), ledger)
        self.skipped += int(same.sum())
        job.done += float(same.sum())
        return todo.only(~same)

    def _same(self, todo: Todo, ledger: Ledger) -> Array:
        job = self.job
        same = np.zeros(todo.times.size, bool)
        axis = job.archive.times_of(self.staged)
        branch, job.branch = job.branch, self.staged
        try:
            for cut in job.batches(todo.times, todo.giver):
                some = Todo(todo.times[cut], todo.giver[cut], todo.opened)
                found = job.values(some, self.schema, np.searchsorted(axis, some.times), ledger, None)
                if found.problems:
                    raise refusal(found.problems)
                same[cut] = found.digest == ledger.digest_at(some.times)
                for i in np.flatnonzero(~same[cut]):
                    difference = self._difference(some, int(i), int(np.searchsorted(axis, some.times[i])))
                    same[cut[i]] = difference is None
                    if difference is not None and not self.rewrite:
                        raise difference
        finally:
            job.branch = branch
        return same

    def _difference(self, todo: Todo, i: int, position: int) -> BadInput | None:
        """How the values of a file differ from the stored ones; None if only their bits do (as 0 and -0)."""
        asset, time = todo.opened[todo.giver[i]].asset, todo.times[i]
        group: Any = self.job.archive.zarr_group(branch=self.staged)
        parts = tuple(bl.parts_of(self.schema, self.job._chunks(), 1 << 60))
        for part, new in zip(parts, bl.read(self.job.get(asset), parts, todo.rows[i : i + 1]), strict=True):
            old = np.asarray(group[part.spec.name][position : position + 1])
            differ = ~((old == new) | (np.isnan(old) & np.isnan(new)))
            if differ.any():
                at = tuple(int(x) for x in np.argwhere(differ)[0])
                label = part.labels[at[-3]] if part.spec.levels is not None else part.spec.name
                lat, lon = self.schema.grid.latitude[at[-2]], self.schema.grid.longitude[at[-1]]
                return BadInput(
                    f"the archive has other values at this time: {old[at]:g} there, {new[at]:g} in the file"
                    f" (latitude {lat:g}, longitude {lon:g}; {int(differ.sum())} of {differ.size} values differ)",
                    where=f"{asset.id}, variable {label}, time {iso(time)}",
                    todo="add --rewrite if these are corrected data; else leave these times out",
                )
        return None

    def store(self, todo: Todo) -> None:
        """Write on the staging branch, a commit a batch."""
        job = self.job
        if not todo.times.size:
            return
        for cut in job.batches(todo.times, todo.giver):
            some = Todo(todo.times[cut], todo.giver[cut], todo.opened)
            job.commit(some, [], [], f"stage {iso(some.times[0])}/{iso(some.times[-1])}", hidden=True)

    def agree(self, todo: Todo) -> None:
        """Times that several of the files hold must have the same values in all."""
        rewrite, self.rewrite = self.rewrite, False
        try:
            # a time may stand in three files: one file after the other
            for g in dict.fromkeys(todo.giver.tolist()):
                mine = todo.only(todo.giver == g)
                self._same(mine, Ledger.load(self.job.archive, branch=self.staged))
                self.skipped += int(mine.times.size)
        finally:
            self.rewrite = rewrite


def _publish(job: Job, entry: DatasetEntry, opened: list[Opened], state: _State) -> None:
    """The visible commit: attributes, what the files lack inside their own span; then `main` moves."""
    archive, report = job.archive, job.report
    message = f"ingest {len(opened)} file{'s' if len(opened) > 1 else ''}"
    details = {
        "what": "ingest", "new": report.new, "rewritten": report.rewritten, "period": report.period,
        "assets": [o.asset.id for o in opened[:8]], "n_assets": len(opened),
    }  # fmt: skip
    with archive.transaction(message, details, job.branch) as tx:
        ledger = Ledger.read(tx.group)
        for o in opened:
            times = np.asarray(o.asset.times).astype(NS)
            axis = job.cadence.axis(times[0], times[-1])
            gone = axis[~np.isin(axis, times) & (ledger.status_at(axis) == int(Status.NEVER_TRIED))]
            if gone.size:
                ledger = ledger.cover(gone, job.cadence)
                ledger.mark(gone, Status.ABSENT_AT_SOURCE, reason="not in the file", asset=o.asset.id, now=job.now)
                report.absent += int(gone.size)
        ledger.write(tx)
        set_attributes(tx, entry, tx.schema)
    base = state.base or _root(archive)
    archive.publish(job.branch, expected=base)
    report.commits = 1


def _root(archive: Archive) -> str:
    return archive.tip(MAIN)
