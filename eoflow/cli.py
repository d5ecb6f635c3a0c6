"""The command line: one thin verb a library call. Imports nothing heavy until a verb needs it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from eoflow import __version__
from eoflow.cli_archive import PeriodOption, archive, datasets
from eoflow.cli_models import DatasetOption, models, training
from eoflow.cli_scenes import scenes, splits
from eoflow.cli_tasks import tasks
from eoflow.console import (
    FLAGS,
    INTERRUPTED,
    OPTIONS,
    WITH_VALUE,
    console,
    emit,
    fail,
    misused,
    progress_bar,
    said,
    workspace,
)
from eoflow.errors import BadInput

app = typer.Typer(
    name="eoflow", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Earth-observation and weather data: ingest, prepare, train, forecast, verify.",
)  # fmt: skip
app.add_typer(datasets, name="datasets")
app.add_typer(archive)
app.add_typer(scenes)
app.add_typer(tasks)
app.add_typer(splits, name="splits")
app.add_typer(training)
app.add_typer(models, name="models")



@app.callback()
def _global(
    workspace: Annotated[
        str | None, typer.Option(help="folder or s3:// URL [$EOFLOW_WORKSPACE or ./eoflow-data]")
    ] = None,
    dask: Annotated[str | None, typer.Option(help="address of a Dask scheduler")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print only errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    OPTIONS.workspace, OPTIONS.json, OPTIONS.quiet, OPTIONS.debug = workspace, json, quiet, debug
    if dask:
        import os

        from eoflow.config import settings

        os.environ["EOFLOW_DASK"] = dask
        settings.cache_clear()


# -- models --------------------------------------------------------------------------------------------------------


@app.command()
def prepare(
    recipe: Annotated[str, typer.Argument(help="a recipe; for scenes a YAML file of patches, or `patches`")],
    dataset: DatasetOption = None,
    train_period: PeriodOption = None,
) -> None:
    """Statistics, splits and training set of a recipe on a dataset (train does it when needed)."""
    from eoflow.holdings import kind_of
    from eoflow.predict import only_dataset
    from eoflow.prepare.run import prepare as run

    ws = workspace()
    with progress_bar("prepare") as progress:
        if dataset is not None and kind_of(ws, dataset) == "scenes":
            from eoflow.prepare.scenes import PatchRecipe, load_recipe, prepare_patches

            how = PatchRecipe() if recipe == "patches" else load_recipe(recipe)
            patches = prepare_patches(dataset, how, workspace=ws, progress=progress)
            emit(patches.to_dict(), lambda c: c.print(patches.text(), markup=False))
            return
        done = run(recipe, dataset or only_dataset(ws), train_period=train_period, workspace=ws, progress=progress)
    emit(done.to_dict(), lambda c: c.print(done.text()))


@app.command()
def forecast(
    lead: Annotated[str, typer.Option(help="how far: 10d, 36h")] = "10d",
    dataset: DatasetOption = None,
    model: Annotated[str | None, typer.Option(help="model name or checkpoint folder [puyun]")] = None,
    init: Annotated[str, typer.Option(metavar="latest|TIME|START/END", help="initial time")] = "latest",
    every: Annotated[str | None, typer.Option(help="spacing of initial times of START/END")] = None,
    members: Annotated[int, typer.Option(help="ensemble members; 1 is the control alone")] = 1,
    seed: Annotated[int, typer.Option(help="of the members' perturbations")] = 0,
    out: Annotated[str | None, typer.Option(help="also write the runs to this new plain Zarr")] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", help="earlier state of the archive: snapshot or time")] = None,
) -> None:
    """Forecast into the forecast cube and publish the latest run."""
    from eoflow.predict import forecast as run
    from eoflow.view import tables

    with progress_bar("forecast") as progress:
        report = run(
            lead, dataset=dataset, model=model, init=init, every=every, members=members, seed=seed, out=out,
            as_of=as_of, workspace=workspace(), progress=progress, command=said(),
        )  # fmt: skip

    def show(c: Any) -> None:
        runs = f"{report.new} new run(s), {report.unchanged} unchanged" if report.new else "unchanged: nothing to do"
        c.print(
            f"{report.model} on {report.dataset}: {report.lead} from {report.inits[-1]}; {runs}; {report.seconds:.1f} s"
        )
        if report.skill:
            c.print(tables.scores_table(report.skill, "skill on the validation period, RMSE", channels=3))
        c.print(f"latest run: {report.latest}\n{report.open_lines}", markup=False)

    emit(report.to_dict(), show)


@app.command()
def verify(
    dataset: DatasetOption = None,
    model: Annotated[
        str | None, typer.Option(help="model names (images: or folders), with commas; if left out, those there are")
    ] = None,
    period: PeriodOption = None,
    chips: Annotated[
        str | None, typer.Option(metavar="DIR", help="image models on labelled files in a folder")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="of image models: segmentation, change-detection, cloud-removal")
    ] = None,
    split: Annotated[str | None, typer.Option(help="of image samples: train, valid, test; of chips also all")] = None,
    dates: Annotated[
        int | None, typer.Option(help="dates that the trivial models of cloud removal may use [as the models]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="of chips: bands, units, scale, offset, nodata"),
    ] = None,
) -> None:
    """Score what has a truth, beside the baselines: table, figure, scores.json. Forecasts, or image models."""
    from eoflow.verify.dispatch import of_images
    from eoflow.verify.run import verify as run
    from eoflow.view import maps, tables

    ws = workspace()
    if of_images(ws, dataset, chips, task):
        _verify_images(dataset, model, period, chips, task, split, dates, set_ or [])
        return
    with progress_bar("verify") as progress:
        card = run(dataset, model, period, workspace=ws, progress=progress)
    name = card.header["dataset"]
    figure = maps.skill_figure_file(card, ws) if ws.is_local else None

    def show(c: Any) -> None:
        for table in tables.scorecard_tables(card):
            c.print(table)
        for line in card.statements(card.header["main_model"]):
            c.print(line, markup=False)
        if gate := card.header.get("gate"):
            verdict = {True: "passed", False: "NOT passed", None: "cannot be told"}[gate["passed"]]
            c.print(f"gate of the recipe: {verdict}: {gate['why']}", markup=False)
        places = [f"scores: {ws.url('scores', name, 'scores.json')}", *([f"figure: {figure}"] if figure else [])]
        c.print("\n".join(places), markup=False)

    emit([r.__dict__ for r in card.rows], show)


def _verify_images(
    dataset: str | None, model: str | None, period: str | None, chips: str | None, task: str | None, split: str | None,
    dates: int | None, said: list[str],
) -> None:  # fmt: skip
    """`verify` of image models."""
    import yaml

    from eoflow.prepare.chips import options_of
    from eoflow.verify.dispatch import verify as run
    from eoflow.verify.image_card import ImageScorecard
    from eoflow.view import image_scores

    pairs = [s.partition("=") for s in said]
    if any(not sep for _, sep, _ in pairs):
        raise BadInput("an override is KEY=VALUE", todo="write for example --set bands=VV,VH --set units=dB")
    options = options_of({k: yaml.safe_load(v) for k, _, v in pairs}, "--set") if pairs else None
    ws = workspace()
    with progress_bar("verify") as progress:
        card = run(dataset, model, period, chips=chips, task=task, split=split, dates=dates, options=options,
                   workspace=ws, progress=progress)  # fmt: skip
    assert isinstance(card, ImageScorecard)
    figure = image_scores.figure_file(card, ws) if ws.is_local else None
    emit(card.row_dicts(), lambda c: image_scores.show(c, card, ws, figure))


# -- operations ----------------------------------------------------------------------------------------------------


@app.command()
def demo() -> None:
    """The embedded world, end to end: ingest with its faults, forecast, verify, satellite scenes, pictures."""
    from eoflow.demo import demo as run

    emit(run(workspace(), say=console().print))


@app.command()
def report() -> None:
    """One HTML page of the workspace: gaps, last forecasts, scorecards, scenes, composites, provenance."""
    from eoflow.view.report import write_report

    path = write_report(workspace())
    emit({"report": str(path)}, lambda c: c.print(f"report: {path}", markup=False))


@app.command()
def status() -> None:
    """What the workspace holds: archives, checkpoints, forecasts, scores."""
    from textwrap import shorten

    from eoflow.listing import status_rows
    from eoflow.view import tables

    ws = workspace()
    rows = status_rows(ws)
    short = [r | {"variables": shorten(r["variables"], 100, placeholder=" ...")} for r in rows]
    emit(rows, lambda c: c.print(tables.rows_table(short, f"workspace {ws.root}")))


@app.command()
def doctor() -> None:
    """Check this installation and the workspace; exit 1 if something is broken."""
    from eoflow.doctor import examine

    findings = examine(workspace())
    emit([f.__dict__ for f in findings], lambda c: c.print("\n".join(f.line() for f in findings), markup=False))
    if any(f.level == "broken" for f in findings):
        raise typer.Exit(1)


@app.command()
def up(
    host: Annotated[str, typer.Option(help="address to bind to")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port of the Prefect server; 0: a free one")] = 4200,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="datasets to serve; all archives if left out")
    ] = None,
    lead: Annotated[str, typer.Option(help="of the forecasts")] = "10d",
    model: Annotated[str | None, typer.Option(help="model of the forecasts [puyun]")] = None,
    recipe: Annotated[str, typer.Option(help="of the scheduled training")] = "puyun",
    schedule: Annotated[
        list[str] | None,
        typer.Option(metavar="FLOW=WHEN", help="cron (UTC) or duration: --schedule 'ingest=0 */3 * * *'"),
    ] = None,
) -> None:
    """Serve the scheduled flows with a local Prefect server until interrupted."""
    from eoflow.up import up as run

    pairs = [s.partition("=") for s in schedule or []]
    if any(not sep for _, sep, _ in pairs):
        raise BadInput("a schedule is FLOW=WHEN", todo="write for example --schedule forecast=6h")
    run(
        workspace=workspace(),
        datasets=dataset or (),
        host=host,
        port=port,
        lead=lead,
        model=model,
        recipe=recipe,
        schedules={flow: when for flow, _, when in pairs} or None,
    )


def hoist(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they may stand anywhere on the line."""
    front: list[str] = []
    rest: list[str] = []
    items = iter(arguments)
    for a in items:
        if a == "--":
            rest += [a, *items]
        elif a in FLAGS or a.startswith(tuple(f"{o}=" for o in WITH_VALUE)):
            front.append(a)
        elif a in WITH_VALUE:
            front += [a, *([value] if (value := next(items, None)) is not None else [])]
        else:
            rest.append(a)
    return front + rest


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong input."""
    import os

    from typer.exceptions import TyperException

    # read when OpenMP is loaded: threads that wait must not spin, or small networks crawl on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = hoist(sys.argv[1:] if arguments is None else arguments)
    OPTIONS.json, OPTIONS.debug = "--json" in argv, "--debug" in argv
    if "--version" in argv:
        emit({"eoflow": __version__}) if OPTIONS.json else sys.stdout.write(f"eoflow {__version__}\n")
        return 0
    try:
        result = typer.main.get_command(app).main(argv, prog_name="eoflow", standalone_mode=False)
    except typer.Exit as e:
        return e.exit_code
    except typer.Abort:
        return fail(KeyboardInterrupt())
    except TyperException as e:
        return misused(e)
    except (Exception, KeyboardInterrupt) as e:
        return fail(e)
    if result == INTERRUPTED:  # the parser turns an interrupt into this code, without a word
        return fail(KeyboardInterrupt())
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
