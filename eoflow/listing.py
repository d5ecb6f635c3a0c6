"""What there is: recipes, checkpoints and the contents of a workspace as rows for tables and JSON."""

from __future__ import annotations

from typing import Any

from eoflow import catalog, checkpoint, registry
from eoflow.archive import Archive
from eoflow.errors import BadInput, EoflowError
from eoflow.predict import present_times
from eoflow.products import cubes
from eoflow.times import iso
from eoflow.workspace import Workspace


def model_rows(ws: Workspace) -> list[dict[str, Any]]:
    """One row a recipe, then one a registered model that no recipe names; with the checkpoints there are."""
    trained: dict[str, list[str]] = {}
    for folder in checkpoint.available(ws):
        config = checkpoint.read_config(folder)
        shipped = folder.is_relative_to(checkpoint.SHIPPED)
        text = f"{config['provenance'].get('dataset', '?')} ({config['hash']}{', shipped' if shipped else ''})"
        trained.setdefault(config["recipe"]["name"], []).append(text)
    rows, named = [], set()
    for name in catalog.names("models", ws):
        recipe = catalog.recipe(name, ws)
        named.add(recipe.network.name)
        rows.append({"name": name, "task": recipe.task, "network": recipe.network.name, "title": recipe.title, "trained_on": trained.get(name, [])})  # fmt: skip
    for name in registry.names("models"):
        if name not in named:
            rows.append({"name": name, "task": "", "network": name, "title": "registered model without a recipe", "trained_on": []})
    return rows


def model_document(ws: Workspace, name: str, dataset: str | None) -> dict[str, Any]:
    """Card and configuration of a checkpoint, or the recipe where nothing is trained. Raises BadInput."""
    folders = [checkpoint.current(ws, dataset, name)] if dataset else checkpoint.available(ws, name)
    folder = next((f for f in folders if f is not None), None)
    if folder is not None:
        config = checkpoint.read_config(folder)
        return {"name": name, "folder": str(folder), "text": (folder / "card.md").read_text(encoding="utf-8"), "config": config}
    if dataset:
        raise BadInput(f"there is no trained '{name}' for {dataset}", todo=f"eoflow train {name} --dataset {dataset}")
    recipe = catalog.recipe(name, ws)
    return {"name": name, "folder": None, "text": catalog.to_yaml(recipe), "config": recipe.model_dump(mode="json")}


def status_rows(ws: Workspace) -> list[dict[str, Any]]:
    """One row an archive: period, size, coverage, forecasts, scores. A damaged archive has its error in its row."""
    rows = []
    for name in ws.names("archives"):
        row: dict[str, Any] = {"dataset": name, "from": "", "to": "", "present": "", "variables": "", "models": "", "scores": ""}
        try:
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
