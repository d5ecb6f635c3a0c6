"""Which model a prediction uses: the one named, else a trained one that fits the bands, else the task's baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eoflow.checkpoint_bands import widened
from eoflow.checkpoint_images import ImageCheckpoint, candidates, resolve_images
from eoflow.errors import BadInput
from eoflow.registry import load

if TYPE_CHECKING:
    from eoflow.bands import BandSpec, SceneSchema
    from eoflow.workspace import Workspace


def choose(
    workspace: Workspace, task: str, schema: SceneSchema, *, dataset: str | None = None, model: str | None = None
) -> tuple[ImageCheckpoint, str | None]:
    """(checkpoint, a sentence where it is only a baseline that nobody asked for).

    Without a name: the dataset's own, the workspace's, a shipped one whose inputs are all there in the right units;
    else the first of the task's baselines that can use the bands. Raises BadInput where nothing can.
    """
    if model is not None:
        return widened(resolve_images(workspace, dataset, model, task, schema), schema), None
    fitting = candidates(workspace, task, schema.bands, dataset)
    if fitting:
        return widened(ImageCheckpoint.from_pretrained(fitting[0]), schema), None
    reasons = []
    for name in load("tasks", task).baselines:
        try:
            found = ImageCheckpoint.closed_form(name, None, schema)
        except BadInput as e:
            reasons.append(f"{name}: {e.what}")
            continue
        bands = ", ".join(found.normalizer.channels)
        return found, f"No trained model fits these bands: this is the baseline '{name}' on {bands}."
    raise BadInput(f"no model of {task} can use the bands {', '.join(schema.names)}\n    " + "\n    ".join(reasons),
                   todo="name them with --bands (VV,VH; red,green,blue,nir; ...), or train a model on such data",
    )  # fmt: skip


def inputs_of(checkpoint: ImageCheckpoint, schema: SceneSchema) -> tuple[Any, tuple[BandSpec, ...]]:
    """(normaliser, bands) of a scene schema as the checkpoint takes them, in its order. Raises SchemaMismatch."""
    normalizer = checkpoint.fitted(schema)
    return normalizer, tuple(schema.band(str(c)) for c in normalizer.channels)


def targets_of(checkpoint: ImageCheckpoint, specs: tuple[BandSpec, ...]) -> tuple[int, ...]:
    """Positions of the bands of a filled image among the inputs."""
    names = [str(c) for c in checkpoint.normalizer.channels]
    return tuple(names.index(t) for t in checkpoint.recipe.patches.targets)


def dates_of(checkpoint: ImageCheckpoint) -> int:
    """Dates that the model takes, 0: any number, as composites do whatever number their recipe names."""
    composite = checkpoint.recipe.task == "cloud-removal" and bool(getattr(checkpoint.model, "closed_form", False))
    return 0 if composite or getattr(checkpoint.model, "any_dates", False) else checkpoint.signature.dates
