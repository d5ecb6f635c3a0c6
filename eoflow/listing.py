"""What there is: recipes, checkpoints and the contents of a workspace as rows for tables and JSON."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from eoflow import catalog, checkpoint, registry
from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput, EoflowError
from eoflow.holdings import kind_of
from eoflow.listing_scenes import check_rasters, check_scene_entry, describe_cube, scenes_row
from eoflow.predict import present_times
from eoflow.products import cubes
from eoflow.schema import FieldSchema
from eoflow.times import iso
from eoflow.workspace import Workspace


def model_rows(ws: Workspace) -> list[dict[str, Any]]:
    """One row a recipe, then one a registered model that no recipe names; with the checkpoints there are."""
    trained: dict[str, list[str]] = {}
    for folder in checkpoint.available(ws):
        config = checkpoint.read_config(folder)
        shipped = folder.is_relative_to(checkpoint.SHIPPED)
        text = f"{config['provenance'].get('dataset', '?')} ({config['hash']}{', shipped' if shipped else ''})"
        trained.setdefault(checkpoint.trained_name(config), []).append(text)
    rows, named = [], set()
    for name in catalog.names("models", ws):
        recipe = catalog.recipe(name, ws)
        named.add(recipe.network.name)
        rows.append({"name": name, "task": recipe.task, "network": recipe.network.name, "title": recipe.title,
                     "trained_on": trained.get(recipe.trained_name, [])})  # fmt: skip
    for name in registry.names("models"):
        if name not in named:
            rows.append(
                {
                    "name": name,
                    "task": "",
                    "network": name,
                    "title": "registered model without a recipe",
                    "trained_on": [],
                }
            )
    return rows


def model_document(ws: Workspace, name: str, dataset: str | None) -> dict[str, Any]:
    """Card and configuration of a checkpoint, or the recipe where nothing is trained. Raises BadInput."""
    folders = [checkpoint.current(ws, dataset, name)] if dataset else checkpoint.available(ws, name)
    folder = next((f for f in folders if f is not None), None)
    if folder is not None:
        config = checkpoint.read_config(folder)
        return {
            "name": name,
            "folder": str(folder),
            "text": (folder / "card.md").read_text(encoding="utf-8"),
            "config": config,
        }
    if dataset:
        raise BadInput(f"there is no trained '{name}' for {dataset}", todo=f"eoflow train {name} --dataset {dataset}")
    recipe = catalog.recipe(name, ws)
    return {"name": name, "folder": None, "text": catalog.to_yaml(recipe), "config": recipe.model_dump(mode="json")}


def status_rows(ws: Workspace) -> list[dict[str, Any]]:
    """One row an archive: period, size, coverage, forecasts, scores. A damaged archive has its error in its row."""
    rows = []
    for name in ws.names("archives"):
        row: dict[str, Any] = {
            "dataset": name,
            "from": "",
            "to": "",
            "present": "",
            "variables": "",
            "models": "",
            "scores": "",
        }
        try:
            if kind_of(ws, name) == "scenes":
                row |= scenes_row(ws, name)
                rows.append(row)
                continue
            archive = Archive.load(ws, name)
            times, present = archive.times, present_times(archive)
            row |= {
                "from": iso(times[0]), "to": iso(times[-1]), "present": f"{len(present)} of {len(times)}",
                "variables": ", ".join(c.label for c in archive.schema.channels),
                "models": ", ".join(c.model for c in cubes(ws, name)),
                "scores": "yes" if ws.exists("scores", name, "scores.json") else "",
            }  # fmt: skip
        except EoflowError as e:
            row["variables"] = f"cannot be read: {e.what}"
        rows.append(row)
    return rows


def describe_archive(ws: Workspace, name: str, as_of: str | None = None) -> dict[str, Any]:
    """Grid, channels (or tiles, bands), period, coverage and state of an archive, now or `as_of` a snapshot or time."""
    if kind_of(ws, name) == "scenes":
        return describe_cube(ws, name, as_of)
    archive = Archive.load(ws, name)
    schema, times = archive.schema, archive.times_of(as_of=as_of)
    return {
        "grid": schema.grid.describe(),
        "channels": ", ".join(c.label for c in schema.channels),
        "period": f"{iso(times[0])}/{iso(times[-1])}",
        "present": f"{len(present_times(archive, as_of))} of {len(times)}",
        "schema": schema.hash,
        "snapshot": archive.resolve(as_of),
    }


def check_dataset(ws: Workspace, what: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check an entry (name or YAML file) or a data file as far as possible without writing. Raises BadInput.

    Entry: keys, schedule, driver and its arguments; of scenes that lie on this machine also what is listed and the
    headers of the first and the last. Data file: the entry inferred from it, its schema, and the first and last field
    of every variable (band) read: range and share without a value. overrides: of rasters, keys of their entry.
    """
    import numpy as np

    from eoflow.sources.base import AssetError, SourceContext, create
    from eoflow.sources.infer import infer_entry
    from eoflow.sources.infer_scenes import is_scenes

    now = np.datetime64("now", "ns")
    if what.endswith((".yaml", ".yml")) or what in catalog.names("datasets", ws):
        if overrides:
            raise BadInput("--set and --time are for rasters", where=what, todo="edit the entry instead")
        entry = catalog.entry(what, ws)
        if isinstance(entry, SceneEntry):
            return check_scene_entry(ws, entry, what, now)
        try:
            create(entry, SourceContext(ws.cache, now))
        except BadInput as e:
            raise BadInput(e.what, where=f"{what}, {e.where or 'source.driver'}", todo=e.todo) from e
        expected = entry.schedule.expected(None, now)
        span = f"{iso(expected[0])}/{iso(expected[-1])}" if len(expected) else "nothing yet"
        return {
            "name": entry.name,
            "driver": entry.source.driver,
            "expected": f"{len(expected)} times, {span}",
            "valid": True,
        }
    if is_scenes([what]):
        return check_rasters(ws, what, now, overrides or {})
    if overrides:
        raise BadInput("--set and --time are for rasters", where=what, todo="edit the entry instead")
    entry = infer_entry("checked", [what], cache=ws.cache)
    try:
        source = create(entry, SourceContext(ws.cache, now))
        assets = source.plan(None)
        ds = source.open(assets[0])
        schedule = entry.schedule
        schema = FieldSchema.of(ds, schedule.cadence)
        report: dict[str, Any] = {
            "driver": entry.source.driver,
            "times": f"{sum(len(a.times) for a in assets)}, {schedule.start}/{schedule.end} every {schedule.cadence}",
            "grid": schema.grid.describe(),
        }
        for v in schema.variables:
            values = ds[v.name].isel(time=[0, -1]).values
            nan = float(np.isnan(values).mean())
            span = f"{np.nanmin(values):.5g} to {np.nanmax(values):.5g} {v.units}" if nan < 1 else "no value at all"
            levels = f" at {', '.join(f'{x:g}' for x in v.levels)} hPa" if v.levels else ""
            report[v.name] = f"{span}{levels}, {nan:.1%} NaN"
        return report
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo) from e


def suggested(
    file: str, name: str | None = None, cadence: str | None = None, overrides: dict[str, Any] | None = None
) -> DatasetEntry | SceneEntry:
    """The entry that a data file, or rasters (a file, a folder, a pattern), suggest. Raises BadInput.

    name: by default the file's. cadence: of fields only. overrides: of scenes only, keys of the entry.
    """
    import re

    import numpy as np

    from eoflow.sources.infer import infer_entry
    from eoflow.sources.infer_scenes import infer_scene_entry, is_scenes

    stem = re.split(r"[.*?\[]", PurePath(file.rstrip("/")).name)[0]
    if not is_scenes([file]):
        if overrides:
            raise BadInput("--set and --time are for rasters", where=file, todo="edit the printed entry instead")
        return infer_entry(name or stem, [file], cadence=cadence)
    if cadence is not None:
        raise BadInput("scenes have no cadence", where=file, todo="leave --cadence out")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "scenes"
    return infer_scene_entry(name or plain, [file], np.datetime64("now", "ns"), overrides or {})
