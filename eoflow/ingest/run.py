"""The verbs of the ingest room: ingest, backfill, gaps, history, rollback. CLI and flows call these functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.catalog_scenes import SceneEntry
from eoflow.commits import Commit
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest import area as areas
from eoflow.ingest.gaps import Gaps, of_archive
from eoflow.ingest.report import IngestReport, Progress, no_progress
from eoflow.times import Period, parse_time
from eoflow.workspace import Workspace


def _now(now: Any) -> np.datetime64:
    return parse_time(now) if now is not None else np.datetime64(datetime.now(UTC).replace(tzinfo=None), "ns")


def _period(
    period: str | Period | None, start: Any, end: Any, entry: DatasetEntry | SceneEntry | None, now: np.datetime64
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


def _entry(name: str, workspace: Workspace) -> DatasetEntry | SceneEntry:
    """The catalog entry; where only the archive knows the dataset, the entry that it was written with."""
    written = name.endswith((".yaml", ".yml")) or name in catalog.names("datasets", workspace)
    if not written and (archive := Archive(workspace, name)).exists():
        return Cube(archive).entry if archive.kind == "scenes" else archive.entry
    return _require_kind(catalog.entry(name, workspace), workspace)


def _require_kind(
    entry: DatasetEntry | SceneEntry, workspace: Workspace
) -> DatasetEntry | SceneEntry:  # fmt: skip
    """Raise BadInput where the archive of that name holds the other kind of data."""
    archive = Archive(workspace, entry.name)
    kind = "scenes" if isinstance(entry, SceneEntry) else "fields"
    if archive.exists() and archive.kind != kind:
        raise BadInput(f"the archive '{entry.name}' holds {archive.kind}, and its catalog entry is of {kind}",
                       where=workspace.root, todo="give the entry another name")  # fmt: skip
    return entry


def _finish(report: IngestReport, workspace: Workspace, began: float) -> IngestReport:
    archive = Archive(workspace, report.dataset)
    report.seconds = time.perf_counter() - began
    if archive.exists():
        report.snapshot = archive.snapshot
        if archive.kind == "scenes":
            tiles = (cube := Cube(archive)).tiles()
            report.opens = cube.open_lines(tiles[0]) if tiles else []
        else:
            report.opens = archive.open_lines()
        report.where = workspace.url("archives", report.dataset)
    return report


def ingest(
    name: str, files: Sequence[str | Path] = (), *, period: str | Period | None = None, start: Any = None,
    end: Any = None, rewrite: bool = False, workspace: Workspace | str | None = None, now: Any = None,
    progress: Progress | None = None, cadence: str | None = None, overrides: dict[str, Any] | None = None,
    area: str | tuple[float, float, float, float] | None = None,
) -> IngestReport:  # fmt: skip
    """Bring data into the archive of dataset `name`.

    Without files: the catalog dataset, from the end of its archive to now, or what is missing in the period given.
    A bad asset is noted in the ledger and in the report; the rest goes on. With files: these files, all or nothing:
    whatever is wrong with them raises BadInput and leaves store and catalog as they were. Times that are there with
    the same values are skipped; with other values they are an error, unless `rewrite` says that they are corrected.

    Fields and scenes alike: the entry, or the files, say which they are. Counts of the report are times of fields, or
    scenes; a scene that the provider publishes again replaces its old version.

    cadence: step of the files, where they do not tell it. overrides: keys of the catalog entry to set, nested as in
    its YAML, for example {"variables": {"msl": {"source_units": "hPa"}}}. area: W, S, E, N in degrees, within that of
    the catalog entry; the first ingest decides, and the entry in the workspace remembers it. now: the time it is taken
    to be (UTC).
    Raises BadInput, or Failure where the input was right and the work failed.
    """
    began, workspace = time.perf_counter(), Workspace.of(workspace)
    moment, tell = _now(now), progress or no_progress
    if files:
        if area is not None:
            raise BadInput("files are taken whole", where="--area", todo="leave --area out: it is for catalog datasets")
        span = _period(period, start, end, None, moment)
        paths = [str(f) for f in files]
        report = _by_hand(name, paths, workspace, moment, tell, span, rewrite, cadence, overrides or {})
    else:
        if cadence is not None or overrides:
            raise BadInput(
                "cadence and overrides are for files given by hand", todo=f"edit the catalog entry of '{name}'"
            )
        entry = _entry(name, workspace)
        span = _period(period, start, end, entry, moment)
        keep: AbstractContextManager[None] = nullcontext()
        if area is not None:
            if name != entry.name:
                raise BadInput("an area beside a file's entry", where=name, todo="write  area: [W, S, E, N]  into it")
            entry = areas.narrowed(entry, areas.parse(area), workspace)
            keep = areas.kept(entry, workspace)
        with keep:
            report = _scheduled(entry, workspace, moment, tell, span, rewrite=rewrite)
    return _finish(report, workspace, began)


def _by_hand(
    name: str, paths: list[str], workspace: Workspace, now: np.datetime64, tell: Progress, span: Period | None,
    rewrite: bool, cadence: str | None, overrides: dict[str, Any],
) -> IngestReport:  # fmt: skip
    from eoflow.sources.infer_scenes import is_scenes

    if is_scenes(paths):
        from eoflow.ingest.scenes.by_hand import ingest_scene_files

        if cadence is not None:
            raise BadInput("scenes have no cadence", todo="leave --cadence out; --time says when an undated file is of")
        return ingest_scene_files(name, paths, workspace, now, tell, period=span, rewrite=rewrite, overrides=overrides)
    from eoflow.ingest.by_hand import ingest_files

    return ingest_files(
        name, paths, workspace, now, tell, period=span, rewrite=rewrite, cadence=cadence, overrides=overrides
    )


def _scheduled(
    entry: DatasetEntry | SceneEntry, workspace: Workspace, now: np.datetime64, tell: Progress, span: Period | None,
    *, rewrite: bool = False, backfill: bool = False,
) -> IngestReport:  # fmt: skip
    if isinstance(entry, SceneEntry):
        from eoflow.ingest.scenes.scheduled import ingest_scenes

        return ingest_scenes(entry, workspace, now, tell, period=span, rewrite=rewrite, backfill=backfill)
    from eoflow.ingest.scheduled import ingest_dataset

    return ingest_dataset(entry, workspace, now, tell, period=span, rewrite=rewrite, backfill=backfill)


def backfill(
    name: str, *, period: str | Period | None = None, workspace: Workspace | str | None = None, now: Any = None,
    progress: Progress | None = None,
) -> IngestReport:  # fmt: skip
    """Try again all times that are missing, failed, partial or absent inside the archive, or inside `period`."""
    began, workspace = time.perf_counter(), Workspace.of(workspace)
    Archive.load(workspace, name)
    span = Period.parse(period) if period is not None else None
    entry = _entry(name, workspace)
    report = _scheduled(entry, workspace, _now(now), progress or no_progress, span, backfill=True)
    return _finish(report, workspace, began)


def gaps(
    name: str, workspace: Workspace | str | None = None, *, period: str | Period | None = None, now: Any = None
) -> Gaps:  # fmt: skip
    """What the schedule expects by now and the archive does not fully hold, and why. Raises BadInput.

    Scenes have no fixed schedule: expected is every scene that was ever listed.
    """
    workspace = Workspace.of(workspace)
    archive, span = Archive.load(workspace, name), Period.parse(period) if period is not None else None
    entry = _entry(name, workspace)
    if isinstance(entry, SceneEntry):
        from eoflow.ingest.scenes.gaps import of_cube

        return of_cube(archive, span)
    return of_archive(archive, entry, _now(now), span)


def history(name: str, workspace: Workspace | str | None = None) -> list[Commit]:
    """Every state of the archive, newest first, with what made it. Raises BadInput."""
    return Archive.load(Workspace.of(workspace), name).history()


def rollback(name: str, snapshot: str, workspace: Workspace | str | None = None) -> str:
    """Make an earlier state the newest one; returns the new snapshot. Later states stay reachable. Raises BadInput."""
    return Archive.load(Workspace.of(workspace), name).rollback(snapshot)
