"""Checkpoints of image models, and which of them fits the bands at hand.

A folder as of eoflow.checkpoint; config.json says `kind: images` and holds the bands (names, common names, units) with
the normalisers of inputs and targets. A model without weights (a composite, a threshold) becomes one by `closed_form`,
so that baselines run and are verified like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoflow import catalog, checkpoint, registry
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import NetworkRef, validate
from eoflow.catalog_images import ImageRecipe
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.prepare.scenes.normalize import BandNormalizer

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.models.images import ImageModel, ImageSignature
    from eoflow.workspace import Workspace

LINEAR = ("1", "m2 m-2")
RADAR = ("vv", "vh", "hh", "hv")
TRIED_ON = 16
"""Pixels a side of the picture on which a model's outputs are listed."""


def task_of(recipe: ImageRecipe) -> Any:
    """The recipe's task, an ImageTask: it knows what counts as usable."""
    return registry.load("tasks", recipe.task)(recipe.patches.classes)


@dataclass
class ImageCheckpoint:
    """An image model with everything that is needed to use it.

    recipe: bands by the names of the schema. schema: input and target bands. normalizer: of the input bands, in order.
    target_normalizer: of the target bands, None without. model: in eval mode. splits: what each was, in words.
    """

    recipe: ImageRecipe
    signature: ImageSignature
    schema: SceneSchema
    normalizer: BandNormalizer
    target_normalizer: BandNormalizer | None
    model: ImageModel
    splits: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    location: str = ""

    @property
    def name(self) -> str:
        """What `--model` takes."""
        return self.recipe.trained_name

    @cached_property
    def task(self) -> Any:
        """What it is for: an ImageTask."""
        return task_of(self.recipe)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the model returns."""
        import torch

        s = self.signature
        images = torch.zeros(1, s.dates or 2, s.channels, TRIED_ON, TRIED_ON)
        with torch.inference_mode():
            return tuple(self.model(images, torch.ones(images[:, :, 0].shape, dtype=torch.bool)))

    @property
    def tells_uncertainty(self) -> bool:
        """Whether the model says how sure it is of an image."""
        return "log_variance" in self.outputs

    def tensors(self) -> dict[str, Tensor]:
        """Every weight and buffer under the names they have in the file."""
        return {f"model.{k}": v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}

    @property
    def hash(self) -> str:
        """16 hex digits over weights, recipe, schema and normalisers: the identity that a product records."""
        targets = "" if self.target_normalizer is None else self.target_normalizer.hash
        recipe = self.recipe.model_dump_json(exclude_defaults=True)
        return checkpoint.content_hash(self.tensors(), (recipe, self.schema.hash, self.normalizer.hash, targets))

    def config(self) -> dict[str, Any]:
        """The JSON document of config.json."""
        return {
            "format": checkpoint.FORMAT,
            "kind": "images",
            "hash": self.hash,
            "recipe": self.recipe.model_dump(mode="json", exclude_defaults=True),
            "signature": self.signature.to_dict(),
            "schema": self.schema.model_dump(mode="json"),
            "schema_hash": self.schema.hash,
            "normalizer": self.normalizer.to_dict(),
            "target_normalizer": None if self.target_normalizer is None else self.target_normalizer.to_dict(),
            "splits": self.splits,
            "provenance": self.provenance,
        }

    def save_pretrained(self, folder: str | Path, half: bool = False) -> Path:
        """Write the folder (beside, then renamed into place). `half` stores floating tensors as float16.

        Raises BadInput if `folder` exists and is not a checkpoint.
        """
        if half:
            self.model.half().float()  # what is saved is what is used: round first, then hash
        target = checkpoint.write_folder(folder, self.tensors(), self.config, self.card, self.scores, half)
        self.location = str(target)
        return target

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageCheckpoint:
        """Read a folder written by `save_pretrained`. Raises BadInput for a damaged or foreign folder."""
        from eoflow.models.images import ImageSignature

        folder = Path(folder)
        config = checkpoint.read_config(folder, "images")
        tensors = checkpoint.part(checkpoint.read_tensors(folder), "model.")
        recipe = validate(config["recipe"], ImageRecipe, str(folder / "config.json"))
        signature = ImageSignature.from_dict(config["signature"])
        schema = SceneSchema.model_validate(config["schema"])
        normalizer = BandNormalizer.from_dict(config["normalizer"])
        targets = config["target_normalizer"]
        model = build(recipe, signature, schema, normalizer)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as e:
            raise BadInput("weights and network do not fit each other", where=str(folder), todo=str(e)) from None
        found = cls(
            recipe, signature, schema, normalizer, None if targets is None else BandNormalizer.from_dict(targets),
            model.eval(), config["splits"], config["provenance"], (folder / "card.md").read_text(encoding="utf-8"),
            json.loads((folder / "scores.json").read_text(encoding="utf-8")), str(folder),
        )  # fmt: skip
        checkpoint.require_hash(found.hash, config, folder)
        return found

    @classmethod
    def closed_form(
        cls, model_name: str, recipe: ImageRecipe | None, schema: SceneSchema, bands: Sequence[str] | None = None, *,
        normalizer: BandNormalizer | None = None,
    ) -> ImageCheckpoint:  # fmt: skip
        """One of a model without weights, for bands of a schema.

        recipe: of the network that it stands beside (same dates, labels, targets), None: the model's own. bands: names
        or common names in order; None: those of the recipe that are there, for composites and differences all.
        normalizer: that of the samples it will be fed (channels by the names of the schema); None: physical units, and
        dB for radar. Raises BadInput where the bands are not what the model needs.
        """
        own = catalog.recipe(model_name) if model_name in catalog.names("models") else None
        if recipe is None and not isinstance(own, ImageRecipe):
            raise BadInput(f"there is no recipe of '{model_name}' to go by", todo="give a recipe of its task")
        base = recipe if recipe is not None else own
        assert isinstance(base, ImageRecipe)
        names = tuple(find_band(schema, b).name for b in bands) if bands is not None else _bands(base, schema)
        options = own.network.options if isinstance(own, ImageRecipe) else {}
        targets = tuple(find_band(schema, t).name for t in base.patches.targets) if recipe is not None else names
        patches = base.patches.model_copy(
            update={"bands": names, "targets": targets if base.task == "cloud-removal" else base.patches.targets}
        )
        made = base.model_copy(
            update={"name": model_name, "model": None, "network": NetworkRef(name=model_name, options=options),
                    "title": own.title if own is not None else model_name, "loss": None, "patches": patches,
                    "threshold": own.threshold if isinstance(own, ImageRecipe) else 0.5,
                    "notes": own.notes if own is not None else None}
        )  # fmt: skip
        if normalizer is None:
            chosen = plain_normalizer(schema, names, decibel=base.task != "despeckling")
        else:
            chosen = normalizer.select(names)
        signature = task_of(made).signature(made)
        model = build(made, signature, schema, chosen)
        if not model.closed_form:
            raise BadInput(f"'{model_name}' has weights to be trained", todo=f"eoflow train {model_name} --dataset ...")
        restored = chosen.select(made.patches.targets) if made.patches.targets else None
        return cls(made, signature, reduced(schema, names, made.patches.targets), chosen, restored, model.eval(),
                   provenance={"eoflow": "closed form: nothing was trained"})  # fmt: skip

    def fitted(self, schema: SceneSchema) -> BandNormalizer:
        """The normaliser for the bands of another schema: its channels are their names there, in the model's order.

        Raises SchemaMismatch that says of each band what is missing or in which units it is.
        """
        wanted = [self.schema.band(c) for c in self.normalizer.channels]
        found, problems = matched(wanted, self.normalizer, schema.bands)
        if problems:
            raise SchemaMismatch(f"the bands do not fit {self.name}: {'; '.join(problems)}",
                                 where=f"bands: {', '.join(schema.names)}", todo="eoflow models list")  # fmt: skip
        return found


def build(
    recipe: ImageRecipe, signature: ImageSignature, schema: SceneSchema, normalizer: BandNormalizer
) -> ImageModel:
    """A fresh network of the recipe. Raises BadInput for an option that it does not know or cannot use."""
    from eoflow.models.images import ImageModel

    network = registry.load("models", recipe.network.name)
    where = f"recipe {recipe.name}, network"
    if not (isinstance(network, type) and issubclass(network, ImageModel)):
        raise BadInput(f"'{recipe.network.name}' is no image model", where=where, todo="eoflow models list")
    task = task_of(recipe)
    derived = task.options(network, recipe, schema, normalizer)
    try:
        model: ImageModel = network(signature, **{**derived, **recipe.network.options})
    except (TypeError, ValueError) as e:
        raise BadInput(
            f"the network {recipe.network.name} does not accept these options", where=f"{where}.options", todo=str(e)
        ) from None
    wrapped: ImageModel = task.wrapped(model, recipe, schema)
    return wrapped


def reduced(schema: SceneSchema, names: Iterable[str], targets: Iterable[str] = ()) -> SceneSchema:
    """The schema with the named bands only, inputs first."""
    kept = tuple(schema.band(n) for n in dict.fromkeys((*names, *targets)))
    return schema.model_copy(update={"bands": kept})


def plain_normalizer(schema: SceneSchema, names: Sequence[str], decibel: bool = True) -> BandNormalizer:
    """Physical values as they are, but (unless decibel is False) linear radar backscatter in dB."""
    bands = [schema.band(n) for n in names]
    n = len(bands)
    transforms = tuple("db" if decibel and b.name.lower() in RADAR and b.units in LINEAR else None for b in bands)
    return BandNormalizer(tuple(b.name for b in bands), (0.0,) * n, (1.0,) * n, (1.0,) * n, transforms,
                          tuple(b.units for b in bands), ("none",) * n, (None,) * n, (None,) * n)  # fmt: skip


def _bands(recipe: ImageRecipe, schema: SceneSchema) -> tuple[str, ...]:
    """The bands of a recipe without weights that are there; all that are known for what takes any."""
    known = [b.name for b in schema.bands if b.common_name or b.name.lower() in RADAR] or list(schema.names)
    if recipe.task in ("change-detection", "cloud-removal"):
        return tuple(known)
    asked = [b for b in recipe.patches.bands or () if any(b.lower() in _names(s) for s in schema.bands)]
    here = [next(s.name for s in schema.bands if b.lower() in _names(s)) for b in asked]
    if recipe.task == "despeckling" and not here:
        known = [n for n in known if n.lower() in RADAR] or known[:1]
    return tuple(dict.fromkeys(here)) or tuple(known)


def find_band(schema: SceneSchema, name: str) -> BandSpec:
    """The band of that name or common name, in capitals or not. Raises BadInput."""
    exact = next((b for b in schema.bands if name in (b.name, b.common_name)), None)
    return exact or next((b for b in schema.bands if name.lower() in _names(b)), None) or schema.band(name)


def _names(band: BandSpec) -> tuple[str, ...]:
    return band.name.lower(), (band.common_name or "").lower()


# -- which one fits --------------------------------------------------------------------------------------------------


def same_band(wanted: BandSpec, have: Sequence[BandSpec]) -> BandSpec | None:
    """The band that is meant: of the same common name where both have one, else of the same name."""
    common = [b for b in have if b.common_name and b.common_name == wanted.common_name]
    if common:
        return next((b for b in common if b.name == wanted.name), common[0])
    named = [b for b in have if b.name.lower() == wanted.name.lower()]
    return next((b for b in named if not (b.common_name and wanted.common_name)), None)


def matched(
    wanted: Sequence[BandSpec], normalizer: BandNormalizer, have: Sequence[BandSpec]
) -> tuple[BandNormalizer, list[str]]:
    """The normaliser for bands that are there (their names, units and transforms), and what does not fit, in words.

    Linear backscatter and dB are the same thing in other numbers: dB is then taken or not taken before.
    """
    names, units, transforms, problems = [], [], [], []
    for band, unit, transform in zip(wanted, normalizer.units, normalizer.transforms, strict=True):
        found = same_band(band, have)
        label = band.name + (f" ({band.common_name})" if band.common_name and band.common_name != band.name else "")
        if found is None:
            problems.append(f"{label} is missing")
            continue
        change: tuple[str | None] | None = None
        if found.units == unit or (found.units in LINEAR and unit in LINEAR):
            change = (transform,)
        elif unit == "dB" and found.units in LINEAR and transform is None:
            change = ("db",)
        elif unit in LINEAR and transform == "db" and found.units == "dB":
            change = (None,)
        if change is None:
            problems.append(f"{label} is in '{found.units}', and the model was trained in '{unit}'")
            continue
        names.append(found.name)
        units.append(found.units)
        transforms.append(change[0])
    if problems:
        return normalizer, problems
    kept = {f.name: getattr(normalizer, f.name) for f in fields(normalizer)}
    return BandNormalizer(**{**kept, "channels": tuple(names), "units": tuple(units),
                             "transforms": tuple(transforms)}), []  # fmt: skip


def _unfit(config: dict[str, Any], bands: Sequence[BandSpec]) -> list[str]:
    schema, normalizer = SceneSchema.model_validate(config["schema"]), BandNormalizer.from_dict(config["normalizer"])
    return matched([schema.band(c) for c in normalizer.channels], normalizer, bands)[1]


def candidates(
    workspace: Workspace, task: str, bands: Iterable[BandSpec], dataset: str | None = None, name: str | None = None,
    rank: Callable[[dict[str, Any]], float] = lambda config: 0.0,
) -> list[Path]:  # fmt: skip
    """Folders of trained models of a task whose inputs are all among `bands`, in units that fit.

    The dataset's own first, then the workspace's, then those shipped; of each the ones with most bands first, and of
    those the ones whose config has the smallest `rank`.
    """
    have = list(bands)
    found = []
    for folder in checkpoint.available(workspace, name, "images"):
        config = checkpoint.read_config(folder)
        if config["recipe"]["task"] == task and not _unfit(config, have):
            own = dataset is not None and config["provenance"].get("dataset") == dataset
            place = 0 if own else 2 if folder.is_relative_to(checkpoint.SHIPPED) else 1
            found.append((place, -len(config["normalizer"]["channels"]), rank(config), folder))
    return [row[-1] for row in sorted(found, key=lambda row: row[:3])]


def named_checkpoint(workspace: Workspace, what: str) -> ImageCheckpoint:
    """A folder, or the first of that name in the workspace or shipped. Raises BadInput with those there are."""
    if "/" in what or Path(what).is_dir():
        return ImageCheckpoint.from_pretrained(what)
    folders = checkpoint.available(workspace, what, "images")
    if not folders:
        every = (checkpoint.read_config(f) for f in checkpoint.available(workspace, None, "images"))
        known = sorted({checkpoint.trained_name(config) for config in every})
        there = f", or one of {', '.join(known)}" if known else ""
        raise BadInput(f"there is no trained '{what}'", where=workspace.root,
                       todo=f"eoflow train {what} --dataset ...{there}")  # fmt: skip
    return ImageCheckpoint.from_pretrained(folders[0])


def resolve_images(
    workspace: Workspace, dataset: str | None, model: str | None, task: str, schema: SceneSchema
) -> ImageCheckpoint:
    """The checkpoint that `--model MODEL` means for a dataset (None: files) with these bands.

    A path; else the dataset's own of that name; else another of it whose inputs are all there, the workspace's before
    those shipped; else a model without weights. Without a name: the first of `candidates`. Raises BadInput that says
    what is missing and the line that trains it, SchemaMismatch where only unfitting ones exist.
    """
    if model is not None and "/" in model:
        found = ImageCheckpoint.from_pretrained(model)
        if found.recipe.task != task:
            raise BadInput(f"{found.name} is for {found.recipe.task}, not for {task}", where=model)
        found.fitted(schema)
        return found
    fitting = candidates(workspace, task, schema.bands, dataset, model)
    if fitting:
        return ImageCheckpoint.from_pretrained(fitting[0])
    if model is not None and _is_closed_form(model, task, workspace):
        return ImageCheckpoint.closed_form(model, None, schema)
    raise _nothing(workspace, dataset, model, task, schema)


def _is_closed_form(model: str, task: str, workspace: Workspace) -> bool:
    if model not in registry.names("models"):
        return False
    recipe = catalog.recipe(model) if model in catalog.names("models") else None
    if isinstance(recipe, ImageRecipe) and recipe.task != task:
        raise BadInput(f"{model} is for {recipe.task}, not for {task}", todo="eoflow models list")
    return bool(getattr(registry.load("models", model), "closed_form", False)) and isinstance(recipe, ImageRecipe)


def _nothing(workspace: Workspace, dataset: str | None, model: str | None, task: str, schema: SceneSchema) -> BadInput:
    """What to say where nothing fits."""
    of_task = {n for n in catalog.names("models", workspace)
               if getattr(catalog.recipe(n, workspace), "task", None) == task}  # fmt: skip
    folders = [f for f in checkpoint.available(workspace, model, "images")
               if checkpoint.read_config(f)["recipe"]["task"] == task]  # fmt: skip
    known = sorted(of_task | {checkpoint.trained_name(checkpoint.read_config(f)) for f in folders})
    if model is not None and not folders and model not in known:
        return BadInput(f"no model of {task} called '{model}'{registry.nearest(model, known)}",
                        todo=f"choose from {', '.join(known)}")  # fmt: skip
    wanted = model or next((n for n in known if not _is_closed_form(n, task, workspace)), "RECIPE")
    line = f"eoflow train {wanted} --dataset {dataset or 'NAME'}"
    here = f"bands: {', '.join(f'{b.name} [{b.units}]' for b in schema.bands)}"
    if not folders:
        return BadInput(f"there is no trained model for {task}", where=here, todo=line)
    reasons = []
    for folder in folders:
        config = checkpoint.read_config(folder)
        reasons.append(f"\n    {checkpoint.trained_name(config)}: {'; '.join(_unfit(config, schema.bands))}")
    return SchemaMismatch(f"no trained model for {task} fits these bands:{''.join(reasons)}", where=here, todo=line)
