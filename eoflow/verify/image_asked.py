"""What a verification of image models is asked for: the place, the task, the models and the trivial ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eoflow import catalog, checkpoint
from eoflow.bands import SceneSchema
from eoflow.catalog_images import ImageRecipe
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.registry import nearest
from eoflow.verify import image_models
from eoflow.verify.image_models import Runner
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.chips import ChipOptions

VERIFIED = ("segmentation", "change-detection", "cloud-removal")


@dataclass
class Place:
    """What is verified on. name: in rows and paths. schema: bands (that most chips have). every: that any chip has."""

    name: str
    schema: SceneSchema
    every: SceneSchema
    dataset: str | None = None
    chips: Path | None = None
    options: ChipOptions | None = None
    notes: list[str] = field(default_factory=list)


def task_asked(ws: Workspace, task: str | None, asked: Sequence[str], dataset: str | None) -> str:
    """The task that is said, or that the models are for."""
    if task is not None:
        if task not in VERIFIED:
            known = list(VERIFIED)
            raise BadInput(f"no task '{task}' is verified{nearest(task, known)}",
                           todo=f"choose from {', '.join(known)}")  # fmt: skip
        return task
    tasks: dict[str, str] = {}
    for name in asked:
        found = _task_of(ws, name)
        if found in VERIFIED:
            tasks.setdefault(found, name)
    if len(tasks) > 1:
        raise BadInput("the models are for different tasks", where=", ".join(f"{m}: {t}" for t, m in tasks.items()),
                       todo="verify one task at a time")  # fmt: skip
    if not tasks:
        raise BadInput("which task is to be verified is not said", todo=f"--task {'|'.join(VERIFIED)}")
    return next(iter(tasks))


def _task_of(ws: Workspace, name: str) -> str | None:
    """Task of a checkpoint or recipe by name or folder."""
    if "/" in name:
        return str(checkpoint.read_config(Path(name))["recipe"].get("task"))
    folders = checkpoint.available(ws, name, "images")
    if folders:
        return str(checkpoint.read_config(folders[0])["recipe"]["task"])
    return getattr(catalog.recipe(name, ws), "task", None) if name in catalog.names("models", ws) else None


def place_asked(
    ws: Workspace, dataset: str | None, chips: Path | None, task: str, options: ChipOptions | None
) -> Place:
    """The dataset or the folder, with its bands. Raises BadInput."""
    if chips is not None:
        from eoflow.prepare.chips import chip_bands

        most, every = chip_bands(chips, task, options)
        return Place(folder_name(chips), most, every, chips=chips, options=options)
    from eoflow.cube import Cube

    assert dataset is not None
    schema = Cube.load(ws, dataset).schema
    return Place(dataset, schema, schema, dataset=dataset)


def folder_name(folder: Path) -> str:
    """The name of a folder as that of a dataset."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "chips"


def checkpoints(ws: Workspace, place: Place, task: str, asked: Sequence[str]) -> list[ImageCheckpoint]:
    """The models that are asked for; or the one that fits best and all others that take the same bands, so that the
    best one is seen; none (noted) where there is no trained one."""
    from eoflow.checkpoint_bands import widened
    from eoflow.checkpoint_images import ImageCheckpoint, candidates, resolve_images

    if not asked:
        try:
            first = resolve_images(ws, place.name, None, task, place.schema)
        except BadInput as e:
            place.notes.append(f"Only the trivial models: {' '.join(e.what.split())}.")
            return []
        alike = {first.name: first}
        for folder in candidates(ws, task, place.schema.bands, place.name):
            found = ImageCheckpoint.from_pretrained(folder)
            if found.normalizer.channels == first.normalizer.channels:
                alike.setdefault(found.name, found)
        return [widened(f, place.schema) for f in alike.values()]
    out: list[ImageCheckpoint] = []
    trivial = _trivial(task)
    for name in asked:
        if name in trivial:
            continue
        try:
            found = widened(resolve_images(ws, place.name, name, task, place.schema), place.schema)
        except SchemaMismatch:
            found = widened(resolve_images(ws, place.name, name, task, place.every), place.every)
        if found.name in {f.name for f in out}:
            found.recipe = found.recipe.model_copy(update={"model": f"{found.name}-{found.hash[:6]}"})
        out.append(found)
    return out


def _trivial(task: str) -> tuple[str, ...]:
    from eoflow import registry

    return tuple(registry.load("tasks", task).baselines)


def base_recipe(
    place: Place, task: str, found: Sequence[ImageCheckpoint], more_dates: int | None = None
) -> ImageRecipe:
    """The recipe that says dates, labels and targets, with the names of the bands as the place has them.

    Bands: of all models together. Targets: those that every model gives.
    """
    if found:
        recipe = found[0].recipe
        bands = list(dict.fromkeys(str(c) for f in found for c in f.fitted(place.every).channels))
        given = [image_models.target_bands(f, place.every) for f in found]
        targets = tuple(t for t in given[0] if t and all(t in g for g in given)) if recipe.patches.targets else ()
        if recipe.patches.targets and not targets:
            raise BadInput("the models give no band in common", where=", ".join(f.name for f in found))
        dates = max([recipe.patches.dates, *(f.signature.dates for f in found)])
    else:
        first = catalog.recipe(_trivial(task)[0])
        assert isinstance(first, ImageRecipe)
        recipe, dates = first, first.patches.dates
        label = recipe.patches.labels.band if recipe.patches.labels else None
        bands = [b.name for b in place.schema.bands if b.name != label]
        targets = _optical(place.schema) if recipe.patches.targets else ()
        bands = [*targets, *(b for b in bands if b not in targets)]
    labels = recipe.patches.labels
    if more_dates is not None and task == "cloud-removal":
        dates = max(dates if found else 1, more_dates)
    update = {
        "bands": tuple(bands), "targets": targets, "dates": dates, "normalize": {"scheme": "none"}, "resize": None,
    }  # fmt: skip
    patches = type(recipe.patches).model_validate({**recipe.patches.model_dump(), **update})
    if place.dataset is not None and labels is not None and labels.band not in place.schema.names:
        raise BadInput(f"the dataset has no labels: there is no band '{labels.band}'", where=place.name,
                       todo="verify on one that has them, or on labelled files: --chips DIR")  # fmt: skip
    return recipe.model_copy(update={"patches": patches})


def _optical(schema: SceneSchema) -> tuple[str, ...]:
    """Reflectances with a common name; all where none has one."""
    named = tuple(b.name for b in schema.bands if b.units == "1" and b.common_name and b.common_name != "cirrus")
    return named or schema.names


def runners(
    place: Place, task: str, base: ImageRecipe, found: Sequence[ImageCheckpoint], baselines: bool, asked: Sequence[str]
) -> tuple[list[Runner], list[Runner]]:
    """The models, and the trivial ones that can be run on these bands."""
    from eoflow.checkpoint_images import ImageCheckpoint

    bands, targets = base.patches.bands or (), base.patches.targets
    own = [image_models.runner(f, place.every, bands, targets) for f in found]
    trivial = []
    wanted = [n for n in _trivial(task) if baselines or n in asked]
    extra = [n for f in found for n in f.recipe.baselines]
    for name in dict.fromkeys([*wanted, *(extra if baselines else [])]):
        if name in {r.name for r in own}:
            continue
        mine = targets or bands
        if task == "change-detection" and found:
            mine = tuple(str(c) for c in found[0].fitted(place.every).channels)
        try:
            made = ImageCheckpoint.closed_form(name, base, place.every, mine)
            trivial.append(image_models.runner(made, place.every, bands, targets, name))
        except BadInput as e:
            place.notes.append(f"Not beside it: {name} ({e.what}).")
    if not own and not trivial:
        raise BadInput("no model can be run on these bands", where=", ".join(bands), todo=" ".join(place.notes))
    return own, trivial


