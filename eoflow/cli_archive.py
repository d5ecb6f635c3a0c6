"""The verbs of datasets and archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoflow.console import emit, progress_bar, workspace

if TYPE_CHECKING:
    from eoflow.ingest.report import IngestReport

datasets = typer.Typer(no_args_is_help=True, help="What can be ingested: catalog entries.")
archive = typer.Typer()

Name = Annotated[str, typer.Argument(help="dataset name", show_default=False)]
PeriodOption = Annotated[str | None, typer.Option("--period", metavar="START/END", help="ISO times")]

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="of rasters: a key of their entry: units=1")
]
TimeOption = Annotated[
    str | None, typer.Option("--time", metavar="TIME", help="of rasters whose names hold no date (ISO)")
]


def _said(set_: list[str] | None, time: str | None) -> dict[str, Any]:
    """--set and --time as keys of an entry."""
    from eoflow.catalog import nested

    return {**(nested(set_) if set_ else {}), **({"time": time} if time else {})}


# -- datasets ------------------------------------------------------------------------------------------------------


@datasets.command("list")
def datasets_list() -> None:
    """The catalog: shipped entries and those of the workspace."""
    from eoflow import catalog
    from eoflow.view import tables

    ws = workspace()
    entries = [catalog.entry(n, ws) for n in catalog.names("datasets", ws)]
    ingested = set(ws.names("archives"))
    rows = [{"name": e.name, "kind": getattr(e, "kind", "fields"), "title": e.title, "driver": e.source.driver,
             "cadence": getattr(e.schedule, "cadence", None) or getattr(e.schedule, "revisit", None),
             "licence": e.licence, "ingested": e.name in ingested} for e in entries]  # fmt: skip
    emit(rows, lambda c: c.print(tables.datasets_table(rows)))


@datasets.command("show")
def datasets_show(
    name: Name,
    as_of: Annotated[str | None, typer.Option("--as-of", help="earlier state of the archive: snapshot or time")] = None,
) -> None:
    """One entry as YAML, and what is (or at some time was) ingested of it."""
    from eoflow import catalog

    ws = workspace()
    entry = catalog.entry(name, ws)
    document: dict[str, Any] = {"entry": entry.model_dump(mode="json"), "archive": None}
    if name in ws.names("archives"):
        from eoflow.listing import describe_archive

        document["archive"] = describe_archive(ws, name, as_of)
    text = catalog.to_yaml(entry)
    text += "".join(f"# {k}: {v}\n" for k, v in (document["archive"] or {}).items())
    emit(document, lambda c: c.print(text, markup=False, end=""))


@datasets.command("check")
def datasets_check(
    name_or_file: Annotated[str, typer.Argument(help="entry name, YAML file or data file; of scenes also a folder")],
    set_: SetOption = None,
    time: TimeOption = None,
) -> None:
    """Check an entry (YAML), or what would be inferred from a data file; exit 2 if it is wrong. Writes nothing."""
    from eoflow.listing import check_dataset

    report = check_dataset(workspace(), name_or_file, _said(set_, time))
    emit(report, lambda c: c.print("\n".join(f"{k}: {v}" for k, v in report.items()), markup=False))


@datasets.command("new")
def datasets_new(
    file: Annotated[str, typer.Argument(help="data file; of scenes also a folder or a pattern in quotes")],
    name: Annotated[str | None, typer.Option("--as", help="name of the entry")] = None,
    cadence: Annotated[str | None, typer.Option(help="step of the time axis, where the file does not tell")] = None,
    set_: SetOption = None,
    time: TimeOption = None,
) -> None:
    """Print the entry that a data file suggests, to be edited and saved as catalogs/datasets/NAME.yaml."""
    from eoflow import catalog
    from eoflow.listing import suggested

    entry = suggested(file, name, cadence, _said(set_, time))
    emit(entry.model_dump(mode="json"), lambda c: c.print(catalog.to_yaml(entry), markup=False, end=""))


# -- archive -------------------------------------------------------------------------------------------------------


@archive.command()
def ingest(
    what: Annotated[list[str], typer.Argument(help="a dataset name, or data files with --as NAME")],
    name: Annotated[str | None, typer.Option("--as", help="name for the files' dataset")] = None,
    period: PeriodOption = None,
    start: Annotated[str | None, typer.Option(help="first time (ISO)")] = None,
    end: Annotated[str | None, typer.Option(help="last time (ISO)")] = None,
    cadence: Annotated[str | None, typer.Option(help="step of the time axis, where the files do not tell")] = None,
    rewrite: Annotated[bool, typer.Option("--rewrite", help="take corrected data for times that are there")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a key of the files' entry: variables.msl.source_units=hPa"),
    ] = None,
    time: TimeOption = None,
    area: Annotated[
        str | None,
        typer.Option("--area", metavar="W,S,E,N", help="degrees: this part of a catalog dataset; kept for later runs"),
    ] = None,
    now: Annotated[str | None, typer.Option(help="pretend it is this time (ISO)", hidden=True)] = None,
) -> None:
    """Bring data into the archive, from where it stopped to now. Exit 1 if all that was to come failed."""
    from eoflow.ingest.run import ingest as run

    _require_name(what, name)
    ws, overrides = workspace(), _said(set_, time)
    with progress_bar("ingest") as progress:
        report = run(
            name or what[0], what if name else (), period=period, start=start, end=end, cadence=cadence,
            rewrite=rewrite, overrides=overrides or None, area=area, now=now, workspace=ws, progress=progress,
        )  # fmt: skip
    _told(report)


def _told(report: IngestReport) -> None:
    """Say what an ingest did; exit 1 where it only failed, so that a schedule notices."""
    emit(report.to_dict(), lambda c: c.print("\n".join(report.lines()), markup=False))
    if report.failed and not report.changed:
        raise typer.Exit(1)


def _require_name(what: list[str], name: str | None) -> None:
    """Files are ingested under a name. Raises BadInput with the line to write."""
    import re
    from pathlib import Path

    from eoflow.errors import BadInput

    entry = what[0].endswith((".yaml", ".yml"))
    if name is None and (len(what) > 1 or (not entry and ("/" in what[0] or Path(what[0]).is_file()))):
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(what[0]).name.split(".")[0]).strip("-").lower() or "NAME"
        files = what[0] if len(what) == 1 else "FILE..."
        raise BadInput("files need a name for their dataset", where=what[0], todo=f"eoflow ingest {files} --as {stem}")


@archive.command()
def gaps(name: Name, now: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    """What the archive should hold by now and does not, with the cause."""
    from eoflow.ingest.run import gaps as run

    found = run(name, workspace=workspace(), now=now)

    def show(c: Any) -> None:
        c.print("\n".join(found.lines()), markup=False)
        if found.ranges:
            c.print(found.table())

    emit(found.to_dict(), show)


@archive.command()
def backfill(
    name: Name, period: PeriodOption = None, now: Annotated[str | None, typer.Option(hidden=True)] = None
) -> None:
    """Fetch what is missing, failed or partial inside the archive. Exit 1 if all of it failed again."""
    from eoflow.ingest.run import backfill as run

    with progress_bar("backfill") as progress:
        report = run(name, period=period, workspace=workspace(), now=now, progress=progress)
    _told(report)


@archive.command()
def history(name: Name) -> None:
    """Every commit of an archive, newest first."""
    from eoflow.ingest.run import history as run
    from eoflow.view import tables

    rows = [commit.to_dict() for commit in run(name, workspace=workspace())]
    emit(rows, lambda c: c.print(tables.rows_table(rows, "history of " + name)))


@archive.command()
def rollback(name: Name, snapshot: Annotated[str, typer.Argument(help="snapshot of `eoflow history`")]) -> None:
    """Set an archive back to a snapshot; the newer ones stay readable by their id."""
    from eoflow.ingest.run import rollback as run

    snapshot_now = run(name, snapshot, workspace=workspace())
    emit({"dataset": name, "snapshot": snapshot_now}, lambda c: c.print(f"{name} is at {snapshot_now}"))
