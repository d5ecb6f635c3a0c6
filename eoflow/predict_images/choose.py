"""Which model a prediction uses: the one named, else a trained one that fits the bands, else the task's baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoflow import catalog, checkpoint
from eoflow.checkpoint_bands import widened
from eoflow.checkpoint_images import ImageCheckpoint, candidates, resolve_images
from eoflow.errors import BadInput
from eoflow.registry import load

if TYPE_CHECKING:
    from eoflow.bands import BandSpec, SceneSchema
    from eoflow.tiling import Grid
    from eoflow.workspace import Workspace


def choose(
    workspace: Workspace, task: str, schema: SceneSchema, *, dataset: str | None = None, model: str | None = None,
    grid: Grid | None = None,
) -> tuple[ImageCheckpoint, str | None]:  # fmt: skip
    """(checkpoint, a sentence where the choice is one that somebody may want to make otherwise).

    Without a name: the dataset's own, the workspace's, a shipped one whose inputs are all there in the right units, of
    several the one that is for pixels of the size of `grid`; else the first of the task's baselines that can use the
    bands. Raises BadInput where nothing can.
    """
    if model is not None:
        return widened(resolve_images(workspace, dataset, model, task, schema), schema), None
    pixel = None if grid is None else metres(grid)
    fitting = candidates(workspace, task, schema.bands, dataset, rank=lambda config: _unlike(config, pixel))
    if fitting:
        return widened(ImageCheckpoint.from_pretrained(fitting[0]), schema), _others(fitting, pixel)
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


def metres(grid: Grid) -> float | None:
    """Size of a grid's pixels in metres, at its middle; None where it has no place on the Earth."""
    if not grid.crs:
        return None
    from pyproj import CRS, Geod, Transformer

    a, b, c, d, e, f = grid.transform
    row, column = grid.shape[0] / 2, grid.shape[1] / 2
    x, y = ([k + i * p + j * q for i, j in ((column, row), (column + 1, row), (column, row + 1))]
            for k, p, q in ((c, a, b), (f, d, e)))  # fmt: skip
    lon, lat = Transformer.from_crs(CRS.from_user_input(grid.crs), "EPSG:4326", always_xy=True).transform(x, y)
    _, _, sides = Geod(ellps="WGS84").inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    area = float(sides[0] * sides[1])
    return math.sqrt(area) if math.isfinite(area) and area > 0 else None


def _span(config: dict[str, Any]) -> tuple[float, float] | None:
    """Sizes of pixels that a trained model is for, by its recipe, or by the catalog's of that name."""
    said = config["recipe"].get("resolution")
    if said is None and config["recipe"]["name"] in catalog.names("models"):
        said = getattr(catalog.recipe(config["recipe"]["name"]), "resolution", None)
    return None if said is None else (float(said[0]), float(said[1]))


def _unlike(config: dict[str, Any], pixel: float | None) -> float:
    """How far a pixel's size lies from those that a model is for (a logarithm; 0 inside, or where nothing is known)."""
    span = _span(config) if pixel is not None else None
    return 0.0 if pixel is None or span is None else max(0.0, math.log(span[0] / pixel), math.log(pixel / span[1]))


def _others(fitting: Sequence[Path], pixel: float | None) -> str | None:
    """A sentence where models for other sizes of pixels fit as well and the size is not known, or is none of theirs."""
    spans: dict[str, tuple[float, float]] = {}
    for folder in fitting:
        config = checkpoint.read_config(folder)
        if (span := _span(config)) is not None:
            spans.setdefault(str(config["recipe"]["name"]), span)
    first = str(checkpoint.read_config(fitting[0])["recipe"]["name"])
    if first not in spans or (pixel is None and len(spans) < 2):
        return None
    low, high = spans[first]
    told = "; ".join(f"{n}: {a:g} to {b:g} m" for n, (a, b) in spans.items())
    if pixel is None:
        return f"The size of the pixels is not known: {first} is used. Others are for other sizes (--model): {told}."
    if low <= pixel <= high:
        return None
    return f"Pixels of {pixel:.2g} m are none that these models are for ({told}): the result is worth little."


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
