"""The verbs of models: train them, and what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eoflow.console import emit, progress_bar, said, workspace

training = typer.Typer()
models = typer.Typer(no_args_is_help=True, help="What can be trained and run: recipes and checkpoints.")

DatasetOption = Annotated[str | None, typer.Option("--dataset", help="dataset; may be left out if there is only one")]


@training.command()
def train(
    recipe: str,
    dataset: DatasetOption = None,
    train_period: Annotated[
        str | None, typer.Option(metavar="START/END", help="ISO times; holds training and validation (fields)")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key of the recipe")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="fail if there is no interrupted training to continue")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="MODEL|FOLDER", help="fine-tune this checkpoint as the recipe's tuning says"),
    ] = None,
    chips: Annotated[
        str | None, typer.Option(metavar="DIR", help="train on labelled files in a folder instead of a dataset")
    ] = None,
) -> None:
    """Train a recipe; an interrupted training goes on, a finished one is found again."""
    from eoflow import catalog
    from eoflow.catalog_images import ImageRecipe
    from eoflow.predict import only_dataset
    from eoflow.train import train as run
    from eoflow.train_images import only_scenes
    from eoflow.view import tables

    ws = workspace()
    images = isinstance(catalog.recipe(recipe, ws), ImageRecipe)
    if dataset is None and chips is None:
        dataset = only_scenes(ws) if images else only_dataset(ws)
    with progress_bar(f"train {recipe}") as progress:
        report = run(
            recipe, dataset, train_period=train_period, overrides=set_ or [], resume=resume, start=start, chips=chips,
            workspace=ws, progress=progress, command=said(),
        )  # fmt: skip

    def show(c: Any) -> None:
        if images:
            keys = ("model", "variable", "metric", "value", "low", "high", "n")
            rows = [{k: r[k] for k in keys} for r in report.scores]
            c.print(tables.rows_table(rows, f"{report.recipe} on {report.dataset}: validation split"))
        else:
            title = f"{report.recipe} on {report.dataset}: validation period, RMSE"
            c.print(tables.scores_table(report.scores, title))
        state = (
            "already trained; nothing changed" if report.reused else f"{report.steps} steps in {report.seconds:.0f} s"
        )
        if report.verdict:
            c.print(report.verdict, markup=False)
        size = f"{report.parameters:,} parameters"
        c.print(f"checkpoint {report.hash} ({size}), {state}\n  {report.folder}", markup=False)
        c.print(f"next: {_next(report, None if chips else report.dataset)}", markup=False)

    emit(report.to_dict(), show)


def _next(report: Any, dataset: str | None) -> str:
    """The line that uses what was trained."""
    from eoflow.predict_images.store import KINDS

    verb = KINDS.get(report.task)
    if report.task == "forecast":
        return f"eoflow forecast --lead 10d --dataset {report.dataset} --model {report.model}"
    if verb is None:
        return f"eoflow models show {report.model}"
    model = report.model if dataset else report.folder
    return f"eoflow {verb} {dataset or 'FILE...'} --model {model}"


@models.command("list")
def models_list() -> None:
    """Recipes, registered networks, and the checkpoints there are."""
    from eoflow.listing import model_rows
    from eoflow.view import tables

    rows = model_rows(workspace())
    emit(rows, lambda c: c.print(*tables.model_tables(rows), sep="\n"))


@models.command("show")
def models_show(name: str, dataset: DatasetOption = None) -> None:
    """A checkpoint's card, or the recipe where nothing is trained yet."""
    from eoflow.listing import model_document

    document = model_document(workspace(), name, dataset)
    emit(document, lambda c: c.print(document["text"], markup=False))


@models.command("check")
def models_check(what: Annotated[str, typer.Argument(help="recipe, registered model or pkg.module:Class")]) -> None:
    """Run the contract tests on a model: shapes, any size, batch independence, save and load, gradients."""
    from eoflow.contract import check_model

    results = check_model(what, workspace())
    emit([r.__dict__ for r in results], lambda c: c.print("\n".join(r.line() for r in results), markup=False))
    if not all(r.passed for r in results):
        raise typer.Exit(2)


@models.command("sample")
def models_sample(
    model: Annotated[str, typer.Argument(help="a trained model of the task synthesis, by name or folder")],
    out: Annotated[str, typer.Option(metavar="DIR", help="where the pairs go: A/, B/, label/ and a sheet to look at")],
    dataset: DatasetOption = None,
    chips: Annotated[
        str | None, typer.Option(metavar="DIR", help="label maps of files in a folder instead of a dataset's")
    ] = None,
    pairs: Annotated[int, typer.Option(help="how many, a tenth of them for validation")] = 64,
    guidance: Annotated[float, typer.Option(help="how much more a map counts than was learnt; 1: as learnt")] = 1.5,
    steps: Annotated[int, typer.Option(help="of denoising")] = 40,
    seed: Annotated[int, typer.Option(help="another seed, other pairs")] = 0,
) -> None:
    """Make pairs of dates for change detection: events on label maps, and images for both dates."""
    from eoflow.synthesis import sample_pairs
    from eoflow.train_images import only_scenes

    ws = workspace()
    if dataset is None and chips is None:
        dataset = only_scenes(ws)
    with progress_bar(f"sample {model}") as progress:
        report = sample_pairs(
            model, dataset, out=out, chips=chips, pairs=pairs, guidance=guidance, steps=steps, seed=seed, workspace=ws,
            progress=progress,
        )  # fmt: skip

    def show(c: Any) -> None:
        there = "" if report.made == report.pairs else f", {report.pairs - report.made} of them there already"
        c.print(f"{report.pairs} pairs of {report.size} pixels a side in {report.seconds:.0f} s{there}; "
                f"{report.changed:.1%} of the pixels changed\n  {report.folder}", markup=False)  # fmt: skip
        c.print(f"look at: {report.sheet}", markup=False)
        fits = f"--set patches.patch={report.size} --set training.crop={report.size}"
        c.print(f"next: eoflow train siamese-unet --chips {report.folder} {fits}", markup=False)

    emit(report.to_dict(), show)
