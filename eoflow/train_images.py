"""Training of image models: samples -> fit -> score on the validation split -> checkpoint.

    eoflow.train("unet", "s1-floods")                       from the cube of a dataset
    eoflow.train("unet", chips="chips/", start="unet")      fine-tuned on a folder of labelled files

As for forecasts, the identity of a run is a hash over recipe, samples, start and code version: the same run again finds
its checkpoint, an interrupted one goes on where it was last saved.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import eoflow
from eoflow import checkpoint, holdings, validation_images
from eoflow.catalog_images import ImageRecipe
from eoflow.checkpoint_images import ImageCheckpoint, build, find_band, named_checkpoint, reduced, task_of
from eoflow.errors import BadInput
from eoflow.models.images import ImageModel, parameters
from eoflow.prepare.scenes.augment import HookContext, augment_of
from eoflow.prepare.scenes.samples import Samples, target_normalizer
from eoflow.train import TrainReport
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.bands import SceneSchema
    from eoflow.catalog_patches import PatchRecipe

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Source:
    """Where samples come from. name: folder of the checkpoints. about: for provenance and card."""

    name: str
    train: Samples
    valid: Samples
    splits: dict[str, str]
    about: dict[str, Any]


def train_images(
    rec: ImageRecipe, dataset: str | None = None, *, chips: str | Path | None = None, start: str | Path | None = None,
    resume: bool = False, workspace: Workspace | str | None = None, progress: Progress | None = None,
    command: str = "",
) -> TrainReport:  # fmt: skip
    """Train a recipe of images on a scene dataset or a folder of chips, and make the result its current checkpoint.

    start: a checkpoint (a model's name, or a folder) of the same network whose weights and normaliser it begins with.
    resume: an interrupted run is continued anyway; with True its absence is an error.
    Raises BadInput for unknown names, bands that are not there, weights that do not fit, or splits that leak; Failure
    for a diverging loss.
    """
    began = time.monotonic()
    ws = Workspace.of(workspace)
    task = task_of(rec)
    task.signature(rec)  # before the long work: a bad recipe is found now
    if start is None and rec.training.blend < 1:
        raise BadInput("training.blend mixes new weights with those of a start, and there is none",
                       where=f"recipe {rec.name}", todo="--from MODEL, or training.blend=1")  # fmt: skip
    if start is None and rec.threshold == "start":
        raise BadInput("threshold 'start' is that of the weights that training begins with, and there are none",
                       where=f"recipe {rec.name}", todo="--from MODEL, or threshold=validation")  # fmt: skip
    begun = None if start is None else _start(ws, str(start), rec)
    source = samples_of(ws, rec, dataset, chips, begun, progress)
    data = source.train
    rec = rec.model_copy(update={"patches": data.recipe})
    if begun is not None and rec.threshold == "start":
        rec = rec.model_copy(update={"threshold": begun.recipe.cut})
    signature = task.signature(rec)
    torch.manual_seed(rec.training.seed)
    schema = reduced(data.schema, data.normalizer.channels, data.recipe.targets)
    model = build(rec, signature, schema, data.normalizer)
    if begun is not None:
        _take_weights(model, begun)
    augment = augment_of(rec, HookContext(data.normalizer.channels, data.normalizer, target_normalizer(data)))
    task.check_samples(data)

    parts = (rec.model_dump_json(), data.key, "" if begun is None else begun.hash, eoflow.__version__)
    key = hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
    done = _finished(ws, source.name, rec.trained_name, key)
    if done is not None:
        return _report(rec, source, done, str(done.location), 0, began, reused=True)
    with ws.lock(f"train-{source.name}-{rec.trained_name}"):
        state = ws.cache / "training" / f"{source.name}-{rec.trained_name}-{key}"
        if resume and not (state / "last.ckpt").exists():
            todo = "leave --resume out: there was none, or recipe, data or code have changed since"
            raise BadInput("there is no interrupted training like this one to resume", where=str(state), todo=todo)
        steps = 0
        if not model.closed_form:
            from eoflow.fitting_images import fit_images

            model, steps = fit_images(model, task, rec, data, augment, state, progress), rec.training.steps
            if begun is not None:
                _blend(model, begun, rec.training.blend)
        result = ImageCheckpoint(
            rec, signature, schema, data.normalizer, target_normalizer(data), model.eval(), source.splits,
            provenance={
                "training_key": key, "dataset": source.name, **source.about, "samples": data.key,
                "from": None if begun is None else f"{begun.name} {begun.hash}", "eoflow": eoflow.__version__,
                "torch": torch.__version__, "command": command or _line(rec, dataset, chips, start),
                "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "seed": rec.training.seed,
                "steps": steps,
            },
        )  # fmt: skip
        if rec.threshold == "validation":
            cut = validation_images.chosen_threshold(result, source.valid)
            result.recipe = rec.model_copy(update={"threshold": cut})
            result.provenance["threshold"] = "where F1 is largest on the validation split, so that its scores flatter"
        result.scores, unable = validation_images.scores(result, source.valid, source.name, progress, begun)
        result.card = validation_images.write_card(result, unable)
        folder = checkpoint.store(result, ws, source.name)
        shutil.rmtree(state, ignore_errors=True)
    return _report(rec, source, result, str(folder), steps, began, reused=False)


def _report(
    rec: ImageRecipe, source: Source, result: ImageCheckpoint, folder: str, steps: int, began: float, reused: bool
) -> TrainReport:
    return TrainReport(rec.name, rec.trained_name, source.name, folder, result.hash, parameters(result.model), steps,
                       time.monotonic() - began, reused, result.scores, rec.task,
                       validation_images.verdict(result))  # fmt: skip


def _line(rec: ImageRecipe, dataset: str | None, chips: Any, start: Any) -> str:
    place = f"--dataset {dataset}" if chips is None else f"--chips {chips}"
    return f"eoflow train {rec.name} {place}" + ("" if start is None else f" --from {start}")


def _finished(ws: Workspace, name: str, model: str, key: str) -> ImageCheckpoint | None:
    folder = checkpoint.current(ws, name, model)
    if folder is None or checkpoint.read_config(folder)["provenance"].get("training_key") != key:
        return None
    return ImageCheckpoint.from_pretrained(folder)


def only_scenes(ws: Workspace) -> str:
    """The scene dataset of the workspace, if there is exactly one. Raises BadInput with the choice."""
    names = holdings.datasets(ws, "scenes")
    if len(names) != 1:
        what = "several datasets of scenes" if names else "no dataset of scenes yet"
        todo = f"say --dataset {' or '.join(names)}" if names else "eoflow ingest NAME, or --chips DIR"
        raise BadInput(f"the workspace holds {what}", where=ws.root, todo=todo)
    return names[0]


# -- samples ---------------------------------------------------------------------------------------------------------


def samples_of(
    ws: Workspace, rec: ImageRecipe, dataset: str | None, chips: str | Path | None,
    begun: ImageCheckpoint | None = None, progress: Progress | None = None,
) -> Source:  # fmt: skip
    """Samples of a recipe, of a dataset or of a folder of chips, normalised as `begun` was or by their own statistics.

    Raises BadInput for both or neither, and for what the recipe needs and they have not.
    """
    if (dataset is None) == (chips is None):
        raise BadInput("say what to train on: a dataset, or a folder of chips", todo="--dataset NAME or --chips DIR")
    return _dataset(ws, dataset, rec, begun, progress) if dataset is not None else _chips(Path(str(chips)), rec, begun)


def _dataset(
    ws: Workspace, dataset: str, rec: ImageRecipe, begun: ImageCheckpoint | None, progress: Progress | None
) -> Source:
    """Patches of the cube of a dataset; the check that splits do not leak is part of it."""
    from eoflow.cube import Cube
    from eoflow.prepare.scenes.run import prepare_patches
    from eoflow.prepare.scenes.trainset import PatchSet

    cube = Cube.load(ws, dataset)
    patches = named(rec.patches, cube.schema)
    prepared = prepare_patches(dataset, patches, workspace=ws, progress=progress)
    train = prepared.train
    if begun is not None:
        train = PatchSet(prepared.path, "train", normalizer=_kept(begun, cube.schema, patches))
    splits = {n: f"{k} samples" for n, k in prepared.report.samples.items()} | {"proof": prepared.report.text()}
    about = {"cube_snapshot": prepared.snapshot, "prepared": prepared.key, "licence": cube.entry.licence,
             "title": cube.entry.title}  # fmt: skip
    return Source(dataset, train, train.with_split("valid"), splits, about)


def _chips(folder: Path, rec: ImageRecipe, begun: ImageCheckpoint | None) -> Source:
    """A folder of labelled files (eoflow.prepare.chips)."""
    from eoflow.prepare.chips import open_chips

    if begun is None:
        found = open_chips(folder, rec)
    else:
        kept = begun.normalizer, begun.target_normalizer
        found = open_chips(folder, rec, normalizer=kept[0], target_normalizer=kept[1])
    splits = {name: f"{len(samples)} samples" for name, samples in found.items()}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "chips"
    about = {"chips": str(folder.resolve()), "licence": "that of the files"}
    return Source(name, found["train"], found["valid"], splits, about)


def named(patches: PatchRecipe, schema: SceneSchema) -> PatchRecipe:
    """The recipe with the band names of a schema, where it says common names. Raises BadInput for a missing one."""
    bands = None if patches.bands is None else tuple(find_band(schema, b).name for b in patches.bands)
    targets = tuple(find_band(schema, b).name for b in patches.targets)
    labels = patches.labels
    if labels is not None:
        labels = labels.model_copy(update={"band": find_band(schema, labels.band).name})
    return patches.model_copy(update={"bands": bands, "targets": targets, "labels": labels})


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def _start(ws: Workspace, what: str, rec: ImageRecipe) -> ImageCheckpoint:
    """The checkpoint that training starts from."""
    found = named_checkpoint(ws, what)
    if (found.recipe.task, found.recipe.network.name) != (rec.task, rec.network.name):
        raise BadInput(
            f"{found.name} is a {found.recipe.network.name} for {found.recipe.task}, and the recipe {rec.name} a "
            f"{rec.network.name} for {rec.task}", where=found.location, todo="start from a model of the same network",
        )  # fmt: skip
    return found


def _kept(begun: ImageCheckpoint, schema: SceneSchema, patches: PatchRecipe) -> Any:
    """The normaliser that the weights were trained with, for the bands of this dataset."""
    normalizer = begun.fitted(schema)
    if normalizer.channels != patches.bands:
        raise BadInput(
            f"{begun.name} takes {', '.join(normalizer.channels)}, and the recipe {', '.join(patches.bands or ())}",
            where=begun.location, todo=f"--set patches.bands=[{','.join(normalizer.channels)}]",
        )  # fmt: skip
    return normalizer


def _take_weights(model: ImageModel, begun: ImageCheckpoint) -> None:
    """The weights of `begun` in place of the new ones. Raises BadInput naming what does not fit."""
    mine, theirs = model.state_dict(), begun.model.state_dict()
    problems = [f"{n} is {_shape(theirs[n])} there and {_shape(mine[n])} here"
                for n in mine if n in theirs and theirs[n].shape != mine[n].shape]  # fmt: skip
    problems += [f"{n} is only {'here' if n in mine else 'there'}" for n in sorted(mine.keys() ^ theirs.keys())]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BadInput(f"the weights of {begun.name} do not fit this network: {'; '.join(problems[:3])}{more}",
                       where=begun.location, todo="use the same bands, classes and network.options")  # fmt: skip
    model.load_state_dict(theirs)


def _blend(model: ImageModel, begun: ImageCheckpoint, share: float) -> None:
    """The mean of the weights before and after tuning, `share` of it after (Wortsman et al. 2022, arXiv 2109.01903).

    What a few chips teach is kept in part, and what many places taught is not forgotten for it.
    """
    before = begun.model.state_dict()
    mixed = {name: torch.lerp(before[name], x, share) if x.is_floating_point() else x
             for name, x in model.state_dict().items()}  # fmt: skip
    model.load_state_dict(mixed)


def _shape(x: Any) -> str:
    return " x ".join(map(str, x.shape)) or "one number"
