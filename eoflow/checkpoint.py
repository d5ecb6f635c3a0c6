"""Checkpoints: weights, recipe, schema, normaliser, provenance, card and scores in one folder. Never a pickle.

    model.safetensors   weights and buffers (network, and calibration where the recipe has one)
    config.json         recipe, signature, schema, normaliser, splits, provenance
    card.md             what it is good for and what not, in words
    scores.json         score rows on the validation period

In a workspace `checkpoints/DATASET/RECIPE/` holds one folder a version, named by its hash, and the file `current`
that says which one is used. The pointer is replaced atomically: a crash leaves the old version in use.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eoflow import catalog, registry
from eoflow.catalog import Recipe, validate
from eoflow.errors import BadInput, Failure, SchemaMismatch
from eoflow.schema import FieldSchema

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.models.base import ForecastModel, Signature
    from eoflow.models.calibration import LeadDamping
    from eoflow.prepare.normalize import Normalizer
    from eoflow.workspace import Workspace

FORMAT = 1
SHIPPED = Path(__file__).parent / "weights"


@dataclass
class Checkpoint:
    """A trained model with everything that is needed to use it.

    model: eval-mode network. calibration: None where the recipe has none. splits: ISO periods by name.
    provenance: archive snapshot, hashes, code version, command. scores: score rows of the validation period.
    """

    recipe: Recipe
    signature: Signature
    schema: FieldSchema
    normalizer: Normalizer
    model: ForecastModel
    calibration: LeadDamping | None
    static: Tensor
    splits: dict[str, str]
    provenance: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    location: str = ""

    @property
    def name(self) -> str:
        """What `--model` takes."""
        return self.recipe.trained_name

    def tensors(self) -> dict[str, Tensor]:
        """Every weight and buffer under the names they have in the file."""
        out = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.calibration is not None:
            out |= {f"calibration.{k}": v for k, v in self.calibration.state_dict().items()}
        out["static"] = self.static
        return {k: v.detach().cpu().contiguous() for k, v in out.items()}

    @property
    def hash(self) -> str:
        """16 hex digits over weights, recipe, schema and normaliser: the identity that a product records."""
        texts = (self.recipe.model_dump_json(exclude_defaults=True), self.schema.hash, self.normalizer.hash)
        return content_hash(self.tensors(), texts)

    def config(self) -> dict[str, Any]:
        """The JSON document of config.json."""
        return {
            "format": FORMAT,
            "hash": self.hash,
            "recipe": self.recipe.model_dump(mode="json", exclude_defaults=True),
            "signature": self.signature.to_dict(),
            "calibration_leads": None if self.calibration is None else self.calibration.leads,
            "schema": self.schema.model_dump(mode="json"),
            "schema_hash": self.schema.hash,
            "normalizer": self.normalizer.to_dict(),
            "splits": self.splits,
            "provenance": self.provenance,
        }

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> Path:
        """Write the folder (beside, then renamed into place). `half` stores floating tensors as float16.

        Raises BadInput if `folder` exists and is not a checkpoint.
        """
        if half:
            self.model.half().float()  # what is saved is what is used: round first, then hash
            self.static = self.static.half().float()
            if self.calibration is not None:
                self.calibration.half().float()
        target = write_folder(folder, self.tensors(), self.config, self.card, self.scores, half)
        self.location = str(target)
        return target

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Checkpoint:
        """Read a folder written by `save_pretrained`. Raises BadInput for a damaged or foreign folder."""
        from eoflow.models.base import Signature
        from eoflow.prepare.normalize import Normalizer

        folder = Path(folder)
        config = read_config(folder, "forecast")
        tensors = read_tensors(folder)
        recipe = validate(config["recipe"], Recipe, str(folder / "config.json"))
        signature = Signature.from_dict(config["signature"])
        model = build(recipe, signature)
        leads = config["calibration_leads"]
        calibration = None if leads is None else new_calibration(signature, leads)
        try:
            model.load_state_dict(part(tensors, "model."))
            if calibration is not None:
                calibration.load_state_dict(part(tensors, "calibration."))
        except RuntimeError as e:
            raise BadInput("weights and network do not fit each other", where=str(folder), todo=str(e)) from None
        checkpoint = cls(
            recipe=recipe,
            signature=signature,
            schema=FieldSchema.model_validate(config["schema"]),
            normalizer=Normalizer.from_dict(config["normalizer"]),
            model=model.eval(),
            calibration=calibration.eval() if calibration is not None else None,
            static=tensors["static"],
            splits=config["splits"],
            provenance=config["provenance"],
            card=(folder / "card.md").read_text(encoding="utf-8"),
            scores=json.loads((folder / "scores.json").read_text(encoding="utf-8")),
            location=str(folder),
        )
        require_hash(checkpoint.hash, config, folder)
        return checkpoint


def build(recipe: Recipe, signature: Signature) -> ForecastModel:
    """A fresh network of the recipe. Raises BadInput for an option that it does not know or cannot use."""
    network = registry.load("models", recipe.network.name)
    try:
        model: ForecastModel = network(signature, **recipe.network.options)
    except (TypeError, ValueError) as e:
        raise BadInput(
            f"the network {recipe.network.name} does not accept these options",
            where=f"recipe {recipe.name}, network.options", todo=str(e),
        ) from None  # fmt: skip
    return model


def new_calibration(signature: Signature, leads: int) -> LeadDamping:
    """An unfitted calibration with its own climatology."""
    from eoflow.models.calibration import LeadDamping
    from eoflow.models.climatology import HarmonicClimatology

    shape = (signature.channels, signature.height, signature.width)
    return LeadDamping(HarmonicClimatology(shape, signature.step_hours), leads, signature.channels)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def content_hash(tensors: dict[str, Tensor], texts: Iterable[str]) -> str:
    """16 hex digits over named tensors and texts."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update((value.float() if value.is_floating_point() else value).numpy().tobytes())
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def require_hash(content: str, config: dict[str, Any], folder: Path) -> None:
    """Raise BadInput where a folder was changed after it was written."""
    if content != config["hash"]:
        raise BadInput(
            f"the checkpoint says it is {config['hash']} but its content is {content}", where=str(folder),
            todo="it was changed after it was written: train again or restore the folder",
        )  # fmt: skip


def write_folder(
    folder: str | Path, tensors: dict[str, Tensor], config: Callable[[], dict[str, Any]], card: str,
    scores: list[dict[str, Any]], half: bool,
) -> Path:  # fmt: skip
    """Write a checkpoint folder beside, then rename it into place. `half` stores floating tensors as float16.

    Raises BadInput if `folder` exists and is not a checkpoint.
    """
    from safetensors.torch import save_file

    target = Path(folder)
    if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
        raise BadInput(f"{target} is not empty and holds no checkpoint", todo="give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
    try:
        stored = {k: v.half() if half and v.is_floating_point() else v for k, v in tensors.items()}
        save_file(stored, temp / "model.safetensors", metadata={"format": "pt"})
        (temp / "config.json").write_text(json.dumps(config(), indent=1), encoding="utf-8")
        (temp / "card.md").write_text(card, encoding="utf-8")
        (temp / "scores.json").write_text(json.dumps(scores, indent=0), encoding="utf-8")
        temp.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temp.rename(target)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    return target


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, float16 as float32. Raises BadInput for a damaged file."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as e:
        raise BadInput("the weights cannot be read", where=str(folder / "model.safetensors"), todo=str(e)) from None
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}


def kind_of(config: dict[str, Any]) -> str:
    """`forecast` or `images`, from a config.json."""
    return str(config.get("kind", "forecast"))


def read_config(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises BadInput where there is none, it is of another format, or not of the `kind` that is asked for.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as e:
        todo = "give the folder that holds config.json and model.safetensors"
        raise BadInput(f"this is not a checkpoint folder ({type(e).__name__})", where=str(folder), todo=todo) from None
    if config.get("format") != FORMAT:
        raise BadInput(f"checkpoint format {config.get('format')}, this eoflow reads {FORMAT}", where=str(folder))
    if kind not in (None, kind_of(config)):
        task = config.get("recipe", {}).get("task", "forecast")
        raise BadInput(f"this is a checkpoint of the task {task}", where=str(folder), todo="eoflow models list")
    return config


def trained_name(config: dict[str, Any]) -> str:
    """What `--model` takes, from a config.json."""
    return str(config["recipe"].get("model") or config["recipe"]["name"])


# -- in a workspace ----------------------------------------------------------------------------------------------


class Storable(Protocol):
    """What `store` keeps: a checkpoint of any kind."""

    @property
    def name(self) -> str:
        """What `--model` takes."""
        ...

    @property
    def hash(self) -> str:
        """Identity of the content."""
        ...

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the folder."""
        ...


def store(checkpoint: Storable, workspace: Workspace, dataset: str) -> Path:
    """Save as a version under `checkpoints/DATASET/RECIPE/` and make it the current one; returns the (local) folder."""
    parts = ("checkpoints", dataset, checkpoint.name)
    folder = checkpoint.save_pretrained(_folder(workspace, *parts, checkpoint.hash))
    if not workspace.is_local:
        for file in sorted(folder.iterdir()):
            workspace.write_bytes(file.read_bytes(), *parts, checkpoint.hash, file.name)
    workspace.write_text(checkpoint.hash + "\n", *parts, "current")
    return folder


def _folder(workspace: Workspace, *parts: str) -> Path:
    """Where a version lies on this machine: in the workspace, or in the cache beside an object store."""
    return workspace.path(*parts) if workspace.is_local else workspace.cache.joinpath(*parts)


def current(workspace: Workspace, dataset: str, name: str) -> Path | None:
    """Folder of the version in use (fetched from an object store into the cache), None if there is none."""
    parts = ("checkpoints", dataset, name)
    if not workspace.exists(*parts, "current"):
        return None
    version = workspace.read_text(*parts, "current").strip()
    folder = _folder(workspace, *parts, version)
    if not workspace.is_local and not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = workspace.names(*parts, version)
        for file in sorted(names, key=lambda n: n == "config.json"):  # what marks the folder as whole comes last
            (folder / file).write_bytes(workspace.fs().cat_file(workspace.url(*parts, version, file)))
    if not folder.is_dir():
        line = f"eoflow train {name} --dataset {dataset}"
        raise Failure(f"the current version {version} is gone", where=str(folder), todo=line)
    return folder


def available(workspace: Workspace, name: str | None = None, kind: str | None = None) -> list[Path]:
    """Current checkpoint folders of the workspace, then those shipped with eoflow.

    name: of one recipe only. kind: `forecast` or `images` only.
    """
    found = []
    for dataset in workspace.names("checkpoints"):
        for recipe in workspace.names("checkpoints", dataset):
            folder = current(workspace, dataset, recipe) if name in (None, recipe) else None
            if folder:
                found.append(folder)
    found += [p.parent for p in sorted(SHIPPED.glob("*/config.json"))]
    configs = [(p, read_config(p)) for p in found]
    return [p for p, c in configs if name in (None, trained_name(c)) and kind in (None, kind_of(c))]


def resolve(workspace: Workspace, dataset: str, model: str, schema: FieldSchema) -> Path:
    """The checkpoint folder that `--model MODEL` means for a dataset.

    A path; else the dataset's own; else any other of that recipe with the same schema (the workspace's before
    those shipped). Raises BadInput with the line that trains it, SchemaMismatch if only unfitting ones exist.
    """
    if "/" in model:
        return Path(model)
    own = current(workspace, dataset, model)
    if own is not None:
        return own
    unfitting = None
    for folder in available(workspace, model, "forecast"):
        theirs = FieldSchema.model_validate(read_config(folder)["schema"])
        if not schema.select(
            v.name for v in theirs.variables if v.name in {w.name for w in schema.variables}
        ).differences(theirs):
            return folder
        unfitting = (folder, theirs)
    line = f"eoflow train {model} --dataset {dataset}"
    if unfitting is not None:
        lines = "\n    ".join(schema.differences(unfitting[1]))
        raise SchemaMismatch(
            f"there is no trained '{model}' for {dataset}; the one at hand is for other fields ({dataset} | it):\n    "
            + lines,
            where=str(unfitting[0]), todo=line,
        )  # fmt: skip
    known = sorted({*catalog.names("models", workspace), *(trained_name(read_config(p)) for p in available(workspace))})
    if model not in known:
        near = registry.nearest(model, known)
        raise BadInput(f"no model called '{model}'{near}", todo=f"choose from {', '.join(known)}")
    raise BadInput(f"there is no trained '{model}' for {dataset}", where=workspace.root, todo=line)
