"""Training: prepare -> fit -> calibrate -> score on the validation period -> checkpoint.

    eoflow.train("puyun", "natl")        a function of the name of its room

The identity of a training run is a hash over recipe, prepared data and code version. The same run again finds its
checkpoint and changes nothing; one that was interrupted goes on where it was last saved.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import eoflow
from eoflow import catalog, checkpoint, registry, validation
from eoflow._callable import make_callable
from eoflow.archive import Archive
from eoflow.catalog import Recipe
from eoflow.catalog_images import ImageRecipe
from eoflow.checkpoint import Checkpoint
from eoflow.errors import BadInput
from eoflow.models.base import ForecastModel
from eoflow.validation import parameters
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.prepare.run import Prepared

Progress = Callable[[float, float, str], None]
AUTO_SAMPLES = 120_000
"""Training windows that an open `training.epochs` aims to see in all, within 3 to 24 epochs (small data overfit)."""


@dataclass
class TrainReport:
    """What training did: where the checkpoint lies, how it scores on what validates it, and what that says."""

    recipe: str
    model: str
    dataset: str
    folder: str
    hash: str
    parameters: int
    steps: int
    seconds: float
    reused: bool
    scores: list[dict[str, Any]] = field(default_factory=list)
    task: str = "forecast"
    verdict: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self.__dict__)


def train(
    recipe: str | Recipe | ImageRecipe, dataset: str | None = None, *, train_period: str | None = None,
    overrides: Iterable[str] = (), resume: bool = False, workspace: Workspace | str | None = None,
    progress: Progress | None = None, command: str = "", like: dict[str, str] | None = None,
    start: str | Path | None = None, chips: str | Path | None = None,
) -> TrainReport:  # fmt: skip
    """Train a recipe on an ingested dataset and make the result its current checkpoint.

    train_period: `START/END`, holds training and validation; nothing outside it is touched. overrides: `key=value` on
    the recipe. like: the periods of another checkpoint instead. resume: an interrupted run is continued anyway; with
    True its absence is an error. start, chips: of recipes of images, see
    eoflow.train_images; with `start` the recipe's `tuning` stands in place of what it says of training.
    Raises BadInput for an unknown recipe, dataset, key or a period too short; Failure for a diverging loss.
    """
    ws = Workspace.of(workspace)
    named = recipe if isinstance(recipe, Recipe | ImageRecipe) else catalog.recipe(recipe, ws)
    if start is not None and isinstance(named, ImageRecipe):
        named = named.tuned()
    rec = catalog.apply_overrides(named, list(overrides))
    if isinstance(rec, ImageRecipe):
        from eoflow.train_images import train_images

        if train_period is not None or like is not None:
            raise BadInput("samples of images are divided by the recipe, not by a training period",
                           where=f"recipe {rec.name}", todo="--set patches.period=START/END")  # fmt: skip
        return train_images(rec, dataset, chips=chips, start=start, resume=resume, workspace=ws, progress=progress,
                            command=command)  # fmt: skip
    if start is not None or chips is not None:
        raise BadInput(f"{rec.name} is a recipe of forecasts", todo="--from and --chips are for recipes of images")
    if dataset is None:
        raise BadInput("no dataset to train on", where=f"recipe {rec.name}", todo="eoflow status")
    return _train_fields(rec, dataset, train_period, resume, ws, progress, command, like)


def _train_fields(
    rec: Recipe, dataset: str, train_period: str | None, resume: bool, ws: Workspace, progress: Progress | None,
    command: str, like: dict[str, str] | None,
) -> TrainReport:  # fmt: skip
    from eoflow.prepare.run import prepare

    started = time.monotonic()
    archive = Archive.load(ws, dataset)
    schema = archive.schema.select(rec.variables) if rec.variables else archive.schema
    task = registry.load("tasks", rec.task)()
    network = registry.load("models", rec.network.name)
    frames = rec.frames or int(network.default_frames)
    static = task.static(archive.open())
    signature = task.signature(rec, schema, static, frames)
    torch.manual_seed(rec.training.seed)
    model = checkpoint.build(rec, signature)  # before the long work: a bad option is found now

    if resume and not list((ws.cache / "training").glob(f"{dataset}-{rec.trained_name}-*/last.ckpt")):
        raise BadInput("there is no interrupted training to resume", where=ws.root, todo="leave --resume out")
    prepared = prepare(rec, dataset, train_period=train_period, workspace=ws, progress=progress, like=like)
    key = hashlib.sha256(f"{rec.model_dump_json()}|{prepared.key}|{eoflow.__version__}".encode()).hexdigest()[:16]
    done = _finished(ws, dataset, rec.trained_name, key)
    if done is not None:
        return TrainReport(rec.name, rec.trained_name, dataset, str(done.location), done.hash, parameters(done.model),
                           0, time.monotonic() - started, True, done.scores)  # fmt: skip
    with ws.lock(f"train-{dataset}-{rec.trained_name}"):
        state = ws.cache / "training" / f"{dataset}-{rec.trained_name}-{key}"
        if resume and not (state / "last.ckpt").exists():
            todo = "leave --resume out: recipe, data or code have changed since"
            raise BadInput("there is no interrupted training like this one to resume", where=str(state), todo=todo)
        if model.closed_form:
            steps = 0
            _fit_closed_form(model, prepared, rec)
        else:
            model, steps = _fit_by_gradient(model, task, rec, schema, static, prepared, state, progress)
        calibration = validation.calibrate(model, static, rec, schema, prepared) if rec.calibration.enabled else None
        result = Checkpoint(
            recipe=rec, signature=signature, schema=schema, normalizer=prepared.normalizer, model=model.eval(),
            calibration=calibration, static=static,
            splits={k: str(p) for k, p in prepared.splits.to_periods().items()},
            provenance={
                "training_key": key, "dataset": dataset, "archive_snapshot": archive.snapshot, "prepared": prepared.key,
                "eoflow": eoflow.__version__, "torch": torch.__version__,
                "command": command or f"eoflow train {rec.name} --dataset {dataset}",
                "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "seed": rec.training.seed,
                "steps": steps,
            },
        )  # fmt: skip
        result.scores = validation.scores(result, prepared, dataset)
        result.card = validation.write_card(result, dataset)
        folder = checkpoint.store(result, ws, dataset)
        shutil.rmtree(state, ignore_errors=True)
    return TrainReport(rec.name, rec.trained_name, dataset, str(folder), result.hash, parameters(model), steps,
                       time.monotonic() - started, False, result.scores)  # fmt: skip


def _finished(ws: Workspace, dataset: str, name: str, key: str) -> Checkpoint | None:
    folder = checkpoint.current(ws, dataset, name)
    if folder is None or checkpoint.read_config(folder)["provenance"].get("training_key") != key:
        return None
    return Checkpoint.from_pretrained(folder)


def _fit_closed_form(model: ForecastModel, prepared: Prepared, rec: Recipe) -> None:
    try:
        with torch.no_grad():
            model.fit(prepared.data)
    except ValueError as e:
        raise BadInput(
            f"{rec.name} cannot be fitted", where=f"training period {prepared.splits.train}", todo=str(e)
        ) from None


def _fit_by_gradient(
    model: ForecastModel, task: Any, rec: Recipe, schema: Any, static: Tensor, prepared: Prepared, state: Path,
    progress: Progress | None,
) -> tuple[ForecastModel, int]:  # fmt: skip
    from eoflow import fitting

    samples = prepared.trainset.windows(model.signature.frames + 1)
    if samples == 0:
        raise BadInput(
            "the training period holds no sample", where=str(prepared.splits.train), todo="give a longer --train-period"
        )
    epochs = min(24.0, max(3.0, AUTO_SAMPLES / samples))
    plan = fitting.Plan.of(rec.training, samples, epochs)
    with torch.no_grad():
        model.prepare(prepared.data)
    scale = getattr(model, "increment_scale", torch.from_numpy(prepared.normalizer.tendency_scale))
    loss = task.loss(rec, schema, scale.detach().clone())
    fitted = fitting.fit(model, loss, static, prepared.trainset, plan, rec.training, state, progress)
    with torch.no_grad():
        fitted.settle(prepared.data, static)
    return fitted, plan.total


make_callable(__name__, "eoflow.train:train")
__all__ = ["TrainReport", "train"]
