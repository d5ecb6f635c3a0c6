"""The verbs of image models: clouds, change, flood, despeckle, on a dataset or straight on files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoflow.console import emit, progress_bar, said, workspace

if TYPE_CHECKING:
    from eoflow.predict_images.report import ProductReport

tasks = typer.Typer()

Model = Annotated[str | None, typer.Option("--model", help="name or checkpoint folder; by default one that fits")]
AreaOption = Annotated[str | None, typer.Option("--area", metavar="W,S,E,N|FILE.geojson", help="degrees")]
PeriodOption = Annotated[str | None, typer.Option("--period", metavar="START/END", help="ISO times")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="earlier state of the cube: snapshot or time")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="what files do not say: units=dB, scale=0.0001")
]
Bands = Annotated[str | None, typer.Option("--bands", help="files: names of their bands in order, with commas")]
Sensor = Annotated[str | None, typer.Option("--sensor", help="files: sentinel-1, sentinel-2, landsat-8, ...")]
Masks = Annotated[str | None, typer.Option("--masks", help="files: cloud masks, one an image, with commas")]
Zones = Annotated[str | None, typer.Option("--zones", metavar="FILE.geojson", help="areas in km2 by properties.name")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that are there")]


def _run(
    task: str,
    what: list[str],
    set_: list[str] | None,
    bands: str | None,
    sensor: str | None,
    masks: str | None,
    **options: Any,
) -> ProductReport:
    """Call the library with what was typed; options that were left out are not passed on."""
    from eoflow.predict_images.store import KINDS
    from eoflow.predict_images.verbs import predict

    given = {k: v for k, v in options.items() if v is not None and v is not False}
    if given.pop("fresh", False):
        given["keep"] = False
    overrides = settings_of(set_ or [], sensor)
    if overrides:
        given["said"] = overrides
    for name, text in (("bands", bands), ("masks", masks)):
        if text is not None:
            given[name] = [t.strip() for t in text.split(",") if t.strip()]
    with progress_bar(KINDS[task]) as progress:
        return predict(task, what, workspace=workspace(), command=said(), progress=progress, **given)


def settings_of(pairs: list[str], sensor: str | None) -> dict[str, Any]:
    """`--set bands.B04.units=1` and `--sensor` as keys of a catalog entry. Raises BadInput."""
    import yaml

    from eoflow.errors import BadInput
    from eoflow.sources.infer_scenes import merged

    out: dict[str, Any] = {} if sensor is None else {"sensor": sensor}
    for pair in pairs:
        key, sep, text = pair.partition("=")
        if not sep or not key:
            raise BadInput(f"'{pair}' is not KEY=VALUE", where="--set", todo="write for example --set units=dB")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        value = text if key.endswith(("units", "baseline", "level")) else value
        for part in reversed(key.split(".")):
            value = {part: value}
        out = merged(out, value)
    return out


def _show(report: ProductReport) -> None:
    """The table of areas, what must be known, where the result lies, and how to open it."""
    from eoflow.view import tables

    def show(c: Any) -> None:
        idle = [k for k in ("tile", "time") if all(r[k] in ("", r["zone"]) for r in report.areas)]
        rows = [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in r.items() if k not in idle} for r in report.areas
        ]
        if rows:
            c.print(tables.rows_table(rows, "areas"))
        state = f"made in {report.seconds:.1f} s" if report.made else "unchanged: nothing to do"
        count = len(report.tiles)
        c.print(f"{report.verb} by {report.model}: {count} map{'s' * (count != 1)}, {state}", markup=False)
        for line in report.messages:
            c.print(line, markup=False)
        if report.files:
            c.print("\n".join(report.files), markup=False)
        elif report.path:
            c.print(f"  {report.path}\n{report.open_lines}", markup=False)

    emit(report.to_dict(), show)


@tasks.command()
def flood(
    what: Annotated[list[str], typer.Argument(metavar="DATASET|SCENE.tif...", help="a dataset, or image files")],
    out: Annotated[str | None, typer.Option("--out", help="DIR for files; FILE.zarr for a dataset")] = None,
    model: Model = None,
    area: AreaOption = None,
    period: PeriodOption = None,
    permanent: Annotated[str | None, typer.Option(metavar="FILE.tif", help="raster of permanent water")] = None,
    before: Annotated[
        str | None, typer.Option(metavar="START/END", help="dataset: earlier dates that tell permanent water")
    ] = None,
    zones: Zones = None,
    bands: Bands = None,
    sensor: Sensor = None,
    masks: Masks = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_of: AsOf = None,
) -> None:
    """Water and flood: class and probability of each scene, areas in km2, flood told from permanent water."""
    _show(
        _run(
            "segmentation", what, set_, bands, sensor, masks, out=out, model=model, area=area, period=period,
            permanent=permanent, before=before, zones=zones, overwrite=overwrite, as_of=as_of,
        )
    )  # fmt: skip


@tasks.command()
def change(
    what: Annotated[list[str], typer.Argument(metavar="DATASET|BEFORE AFTER", help="a dataset, or two images")],
    out: Annotated[str | None, typer.Option("--out", help="FILE.tif for files; FILE.zarr for a dataset")] = None,
    model: Model = None,
    area: AreaOption = None,
    period: PeriodOption = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="dataset: the earlier date; a period: its composite")
    ] = None,
    after: Annotated[str | None, typer.Option(metavar="TIME", help="dataset: the later date, or a period")] = None,
    every: Annotated[bool, typer.Option("--every", help="dataset: every consecutive pair of dates")] = False,
    zones: Zones = None,
    bands: Bands = None,
    sensor: Sensor = None,
    masks: Masks = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_of: AsOf = None,
) -> None:
    """What changed between two dates: class and probability, areas in km2."""
    _show(
        _run(
            "change-detection", what, set_, bands, sensor, masks, out=out, model=model, area=area, period=period,
            before=before, after=after, every=every, zones=zones, overwrite=overwrite, as_of=as_of,
        )
    )  # fmt: skip


@tasks.command()
def clouds(
    what: Annotated[list[str], typer.Argument(metavar="DATASET|DATE.tif...", help="a dataset, or dates of one place")],
    out: Annotated[str | None, typer.Option("--out", help="FILE.tif for files; FILE.zarr for a dataset")] = None,
    model: Model = None,
    area: AreaOption = None,
    period: PeriodOption = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="one date [every cloudy one; of files the last]")
    ] = None,
    dates: Annotated[
        int | None, typer.Option("--dates", min=1, help="dates that are looked at, for models of any number")
    ] = None,
    keep: Annotated[bool, typer.Option(help="pixels that the date itself saw stay as they are")] = True,
    bands: Bands = None,
    sensor: Sensor = None,
    masks: Masks = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_of: AsOf = None,
) -> None:
    """Images without clouds, in the bands, dtype and scaling of the input, with what was filled and how sure it is."""
    _show(
        _run(
            "cloud-removal", what, set_, bands, sensor, masks, out=out, model=model, area=area, period=period, at=at,
            dates=dates, overwrite=overwrite, as_of=as_of, fresh=not keep,
        )
    )  # fmt: skip


@tasks.command()
def despeckle(
    what: Annotated[list[str], typer.Argument(metavar="DATASET|SCENE.tif...", help="a dataset, or radar images")],
    out: Annotated[str | None, typer.Option("--out", help="DIR for files; FILE.zarr for a dataset")] = None,
    model: Model = None,
    area: AreaOption = None,
    period: PeriodOption = None,
    bands: Bands = None,
    sensor: Sensor = None,
    masks: Masks = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_of: AsOf = None,
) -> None:
    """Radar intensity without speckle: by what was trained on such complex data, else by Lee's filter."""
    _show(
        _run(
            "despeckling", what, set_, bands, sensor, masks, out=out, model=model, area=area, period=period,
            overwrite=overwrite, as_of=as_of,
        )
    )  # fmt: skip
