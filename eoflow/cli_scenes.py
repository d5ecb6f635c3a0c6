"""The verbs of scenes: where a pixel came from, composites, exports, the proof that splits do not leak."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eoflow.console import emit, progress_bar, said, workspace

scenes = typer.Typer()
splits = typer.Typer(no_args_is_help=True, help="Training, validation and test: what they may not share.")

Name = Annotated[str, typer.Argument(help="scene dataset", show_default=False)]


def _numbers(text: str, option: str, count: int, form: str) -> tuple[float, ...]:
    """`1,2,3` -> floats. Raises BadInput with the form."""
    from eoflow.errors import BadInput

    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise BadInput(f"'{text}' is not {form}", where=option, todo=f"write {option} {form}, numbers in degrees")
    return values


@scenes.command()
def why(
    dataset: Name,
    at: Annotated[str, typer.Option("--at", metavar="LON,LAT", help="degrees")],
    time: Annotated[str, typer.Option("--time", metavar="TIME", help="ISO: a day or an instant")],
    as_of: Annotated[str | None, typer.Option("--as-of", help="earlier state of the cube: snapshot or time")] = None,
) -> None:
    """Which scene, mask and version made a pixel."""
    from eoflow.why import why as run

    lon, lat = _numbers(at, "--at", 2, "LON,LAT")
    found = run(dataset, lon, lat, time, workspace=workspace(), as_of=as_of)
    emit(found.to_dict(), lambda c: c.print("\n".join(found.lines()), markup=False))


@scenes.command()
def composite(
    dataset: Name,
    period: Annotated[str, typer.Option("--period", metavar="START/END", help="ISO times")],
    method: Annotated[str, typer.Option(help="median, medoid, mean or last-clear")] = "median",
    area: Annotated[str | None, typer.Option(metavar="W,S,E,N", help="degrees")] = None,
    bands: Annotated[str | None, typer.Option(help="names, separated by commas; all if left out")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE.zarr", help="elsewhere than in the workspace")] = None,
) -> None:
    """One image of a period from its clear pixels, with count, age and source of each."""
    from eoflow.composite.run import composite as run

    box: Any = None if area is None else _numbers(area, "--area", 4, "W,S,E,N")
    with progress_bar("composite") as progress:
        report = run(
            dataset, period, method, area=box, bands=bands.split(",") if bands else None, out=out,
            workspace=workspace(), command=said(), progress=progress,
        )  # fmt: skip

    def show(c: Any) -> None:
        state = f"made in {report.seconds:.1f} s" if report.made else "there already; nothing changed"
        c.print(f"{report.method} of {len(report.tiles)} tiles, {report.period}: {state}", markup=False)
        c.print(f"pixels without a clear observation: {report.unobserved:.2%}\n  {report.path}", markup=False)
        c.print(report.open_lines, markup=False)
        if out is None:
            c.print(f"next: eoflow export composite:{report.dataset}:{report.id} FILE.tif", markup=False)

    emit(report.to_dict(), show)


@scenes.command()
def export(
    product: Annotated[str, typer.Argument(help="DATASET:TILE:TIME, composite:DATASET[:ID], or a .zarr or .nc")],
    dest: Annotated[str, typer.Argument(help="FILE.tif (COG), FILE.nc or FILE.zarr; a STAC item lands beside it")],
    bands: Annotated[str | None, typer.Option(help="names, separated by commas; all if left out")] = None,
    mosaic: Annotated[bool, typer.Option("--mosaic", help="one image of all tiles (one CRS)")] = False,
    stac: Annotated[bool, typer.Option(help="write a STAC item beside each image")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that are there")] = False,
    as_of: Annotated[str | None, typer.Option("--as-of", help="earlier state of the cube: snapshot or time")] = None,
) -> None:
    """Write a product as COG, NetCDF or Zarr, with its STAC item."""
    from eoflow.export.run import export as run

    with progress_bar("export") as progress:
        report = run(
            product, dest, workspace=workspace(), as_of=as_of, bands=bands.split(",") if bands else None,
            mosaic=mosaic, stac=stac, overwrite=overwrite, command=said(), progress=progress,
        )  # fmt: skip
    emit(report.to_dict(), lambda c: c.print("\n".join([*report.files, *report.items]), markup=False))


@splits.command("check")
def splits_check(
    dataset: Name,
    recipe: Annotated[str | None, typer.Option(metavar="FILE.yaml", help="patch recipe; else the defaults")] = None,
) -> None:  # fmt: skip
    """Prove that no two splits see the same ground at the same time; exit 2 where they do."""
    from eoflow.errors import BadInput
    from eoflow.prepare.scenes import load_recipe
    from eoflow.prepare.scenes import splits_check as run

    with progress_bar("splits") as progress:
        report = run(dataset, load_recipe(recipe) if recipe else None, workspace=workspace(), progress=progress)
    if not report.ok:
        raise BadInput(report.text(), where=f"dataset {dataset}", todo="use larger blocks, or another split")
    emit(report.to_dict(), lambda c: c.print(report.text(), markup=False))
