"""The verbs of the ingest room: ingest, backfill, gaps, history, rollback. CLI and flows call these functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.commits import Commit
from eoflow.errors import BadInput
from eoflow.ingest.gaps import Gaps, of_archive
from eoflow.ingest.report import IngestReport, Progress, no_progress
from eoflow.times import Period, parse_time
from eoflow.workspace import Workspace


def _now(now: Any) -> np.datetime64:
    return parse_time(now) if now is not None else np.datetime64(datetime.now(UTC).replace(tzinfo=None), "ns")


def _period(
    period: str | Period | None, start: Any, end: Any, entry: DatasetEntry | None, now: np.datetime64
) -> Period | None:
    """One period from --period or from --start and --end; None if nothing was given."""
    if period is not None:
        if start is not None or end is not None:
            raise BadInput("both a period and a start or end", todo="give --period START/END, or --start and --end")
        return Period.parse(period)
    if start is None and end is None:
        return None
    first = (
        parse_time(start)
        if start is not None
        else parse_time(entry.schedule.start)
        if entry
        else np.datetime64("1678-01-01", "ns")
    )
    last = Period.parse(str(end)).end if end is not None else now
    if last < first:
        raise BadInput(f"the end {last} lies before the start {first}", todo="give --start before --end")
    return Period(first, last)


def _entry(name: str, workspace: Workspace) -> DatasetEntry:
    """The catalog entry; where only the archive knows the dataset, the entry that it was written with."""
    written = name.endswith((".yaml", ".yml")) or name in catalog.names("datasets", workspace)
    if not written and (archive := Archive(workspace, name)).exists():
        return archive.entry
    return catalog.dataset(name, workspace)


def _finish(report: IngestReport, workspace: Workspace, began: float) -> IngestReport:
    archive = Archive(workspace, report.dataset)
    report.seconds = time.perf_counter() - began
    if archive.exists():
        report.snapshot, report.opens = archive.snapshot, archive.open_lines()
        report.where = workspace.url("archives", report.dataset)
    return report


def ingest(
    name: str, files: Sequence[str | Path] = (), *, period: str | Period | None = None, start: Any = None,
    end: Any = None, rewrite: bool = False, workspace: Workspace | str | None = None, now: Any = None,
    progress: Progress | None = None, cadence: str | None = None, overrides: dict[str, Any] | None = None,
) -> IngestReport:  # fmt: skip
    """Bring data into the archive of dataset `name`.

    Without files: the catalog dataset, from the end of its archive to now, or what is missing in the period given.
    A bad asset is noted in the ledger and in the report; the rest goes on. With files: these files, all or nothing:
    whatever is wrong with them raises BadInput and leaves store and catalog as they were. Times that are there with
    the same values are skipped; with other values they are an error, unless `rewrite` says that they are corrected.

    cadence: step of the files, where they do not tell it. overrides: keys of the catalog entry to set, nested as in
    its YAML, for example {"variables": {"msl": {"source_units": "hPa"}}}. now: the time it is taken to be (UTC).
    Raises BadInput, or Failure where the input was right and the work failed.
    """
    began, workspace = time.perf_counter(), Workspace.of(workspace)
    moment, tell = _now(now), progress or no_progress
    if files:
        from eoflow.ingest.by_hand import ingest_files

        span = _period(period, start, end, None, moment)
        paths = [str(f) for f in files]
        report = ingest_files(
            name,
            paths,
            workspace,
            moment,
            tell,
            period=span,
            rewrite=rewrite,
            cadence=cadence,
            overrides=overrides or {},
        )
    else:
        from eoflow.ingest.scheduled import ingest_dataset

        if cadence is not None or overrides:
            raise BadInput(
                "cadence and overrides are for files given by hand", todo=f"edit the catalog entry of '{name}'"
            )
        entry = _entry(name, workspace)
        span = _period(period, start, end, entry, moment)
        report = ingest_dataset(entry, workspace, moment, tell, period=span, rewrite=rewrite)
    return _finish(report, workspace, began)


def backfill(
    name: str, *, period: str | Period | None = None, workspace: Workspace | str | None = None, now: Any = None,
    progress: Progress | None = None,
) -> IngestReport:  # fmt: skip
    """Try again all times that are missing, failed, partial or absent inside the archive, or inside `period`."""
    from eoflow.ingest.scheduled import ingest_dataset

    began, workspace = time.perf_counter(), Workspace.of(workspace)
    Archive.load(workspace, name)
    span = Period.parse(period) if period is not None else None
    entry = _entry(name, workspace)
    report = ingest_dataset(entry, workspace, _now(now), progress or no_progress, period=span, backfill=True)
    return _finish(report, workspace, began)


def gaps(
    name: str, workspace: Workspace | str | None = None, *, period: str | Period | None = None, now: Any = None
) -> Gaps:  # fmt: skip
    """What the schedule expects by now and the archive does not fully hold, and why. Raises BadInput."""
    workspace = Workspace.of(workspace)
    archive = Archive.load(workspace, name)
    return of_archive(archive, _entry(name, workspace), _now(now), Period.parse(period) if period is not None else None)


def history(name: str, workspace: Workspace | str | None = None) -> list[Commit]:
    """Every state of the archive, newest first, with what made it. Raises BadInput."""
    return Archive.load(Workspace.of(workspace), name).history()


def rollback(name: str, snapshot: str, workspace: Workspace | str | None = None) -> str:
    """Make an earlier state the newest one; returns the new snapshot. Later states stay reachable. Raises BadInput."""
    return Archive.load(Workspace.of(workspace), name).rollback(snapshot)
