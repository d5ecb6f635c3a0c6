"""Catalogs: YAML -> typed objects. Dataset entries say how to read; recipes say how to train.

Entries are looked up in the workspace first (`catalogs/` inside it), then among those shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.times import Cadence, Period, parse_duration, parse_time
from eoflow.workspace import Workspace, check_name

if TYPE_CHECKING:
    from eoflow.catalog_images import ImageRecipe
    from eoflow.catalog_scenes import SceneEntry


class Model(BaseModel):
    """Base of everything that is written in a catalog: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceRef(Model):
    """Which driver reads the dataset, and its arguments."""

    driver: str
    args: dict[str, Any] = {}


class VariableEntry(Model):
    """One variable as eoflow stores it. Whatever is left out is taken from the file or from the lexicon."""

    source_name: str | None = Field(default=None, description="the provider's name, if it differs")
    units: str | None = Field(default=None, description="units to store; the provider's are converted")
    source_units: str | None = Field(
        default=None, description="the provider's units, if its metadata lack or misstate them"
    )
    standard_name: str | None = None
    long_name: str | None = None
    levels: tuple[float, ...] | None = Field(default=None, description="levels to take, hPa")
    valid_range: tuple[float, float] | None = Field(default=None, description="physical limits in stored units")
    static: bool = False


class Schedule(Model):
    """The expected time axis: `start`, then every `cadence`; published `delay` after the time itself.

    `end: null` for a running dataset. For files given by hand `end` is the last time that was seen.
    """

    start: str
    cadence: str
    end: str | None = None
    delay: str = "0h"

    @field_validator("cadence")
    @classmethod
    def _cadence(cls, v: str) -> str:
        return Cadence(v).text

    @field_validator("start", "end", mode="before")
    @classmethod
    def _yaml_date(cls, v: Any) -> Any:
        return v.isoformat() if hasattr(v, "isoformat") else v

    @field_validator("start", "end", "delay")
    @classmethod
    def _parses(cls, v: str | None, info: Any) -> str | None:
        if v is not None:
            (parse_duration if info.field_name == "delay" else parse_time)(v)
        return v

    def expected(self, period: Period | None, now: Any) -> Any:
        """datetime64[ns] times that should be published by `now`, within `period` (inclusive)."""
        import numpy as np

        end = parse_time(now) - parse_duration(self.delay)
        if self.end is not None:
            end = min(end, Period.parse(self.end).end)
        axis = Cadence(self.cadence).axis(parse_time(self.start), end)
        return axis if period is None else np.asarray(axis[period.contains(axis)])


class Checks(Model):
    """Limits that an incoming field must keep."""

    max_nan_fraction: float = Field(default=0.0, ge=0, le=1, description="NaN fraction a field may have")
    static_nan_mask: bool = Field(default=False, description="NaN (land, sea) must be where the archive has it")


class Splits(Model):
    """Periods of training, validation and test; gaps between them are the entry's own business."""

    train: str
    valid: str
    test: str | None = None


class DatasetEntry(Model):
    """A dataset that eoflow can ingest."""

    name: str
    title: str
    licence: str = "unknown"
    source: SourceRef
    schedule: Schedule
    variables: dict[str, VariableEntry] | None = Field(default=None, description="None: every gridded variable")
    area: tuple[float, float, float, float] | None = Field(default=None, description="W, S, E, N in degrees")
    layout: Literal["map", "series", "training"] = "map"
    checks: Checks = Checks()
    splits: Splits | None = None
    notes: str | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, v: str) -> str:
        return check_name(v, "dataset name")


class NetworkRef(Model):
    """The network of a recipe: a registered model or `pkg.module:Class`, and its options."""

    name: str
    options: dict[str, Any] = {}


class RolloutPhase(Model):
    """One fine-tuning phase: `epochs` epochs over `steps`-step rollouts at learning rate `lr`."""

    epochs: float
    steps: int = Field(ge=1)
    lr: float


class Training(Model):
    """How a network is trained. `None` = chosen from the amount of data; the choice is saved with the weights."""

    epochs: float | None = None
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = Field(default=0.05, description="fraction of the steps with rising learning rate")
    ema: float = Field(default=0.995, description="decay of the averaged weights")
    loss: Literal["mse", "mae"] = "mse"
    variable_weights: dict[str, float] = {}
    rollout: tuple[RolloutPhase, ...] = ()
    gradient_clip: float = 1.0
    seed: int = 0


class CalibrationRecipe(Model):
    """Lead-dependent damping toward climatology, fitted on the validation period."""

    enabled: bool = True
    max_lead: str = "10d"
    cases: int = Field(default=200, description="validation initial times at most")


class Gate(Model):
    """What a checkpoint must beat on the validation period before it may be promoted."""

    baseline: str = "persistence"
    metric: str = "rmse"
    lead: str = "1d"


class Recipe(Model):
    """Task, network, inputs, training, gate: everything that makes a checkpoint, but the data."""

    name: str
    title: str
    model: str | None = Field(
        default=None, description="name of what it trains (`--model`); the recipe's own if left out"
    )
    task: Literal["forecast"] = "forecast"
    network: NetworkRef
    frames: int | None = Field(default=None, ge=1, description="input frames; the network's own choice if left out")
    variables: tuple[str, ...] | None = Field(default=None, description="variables to use; None: all")
    training: Training = Training()
    calibration: CalibrationRecipe = CalibrationRecipe(enabled=False)
    gate: Gate = Gate()
    notes: str | None = None

    @property
    def trained_name(self) -> str:
        """What `--model` takes, and the folder of its checkpoints."""
        return self.model or self.name


T = TypeVar("T", bound=BaseModel)
SHIPPED = Path(__file__).parent / "catalogs"
if not SHIPPED.is_dir():  # a checkout: catalogs/ lies beside the package; a wheel carries it inside
    SHIPPED = Path(__file__).parent.parent / "catalogs"


def parse(text: str, model: type[T], where: str) -> T:
    """YAML text -> a validated object. Raises BadInput naming the file, the key and the nearest right key."""
    return validate(_raw(text, where), model, where)


def _raw(text: str, where: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise BadInput("this is not valid YAML", where=where, todo=str(e).replace("\n", " ")) from None
    if not isinstance(raw, dict):
        raise BadInput("the file holds no mapping of keys", where=where, todo="start from `eoflow datasets show NAME`")
    return raw


def validate(raw: dict[str, Any], model: type[T], where: str) -> T:
    """A mapping -> a validated object; as `parse`."""
    try:
        return model.model_validate(raw)
    except BadInput as e:  # of a validator that speaks to people already
        raise BadInput(e.what, where=where, todo=e.todo) from None
    except ValidationError as e:
        problems = []
        for err in e.errors():
            key = ".".join(str(p) for p in err["loc"])
            if err["type"] == "extra_forbidden":
                known = _keys_at(model, err["loc"][:-1])
                problems.append(f"unknown key '{key}'{nearest(str(err['loc'][-1]), known)}")
            else:
                problems.append(f"{key}: {err['msg'].removeprefix('Value error, ')}")
        raise BadInput("; ".join(problems), where=where, todo="correct the key or value") from None


def _keys_at(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the nested model that `loc` points into."""
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field is not None else model
        model = next((m for m in _models_in(annotation)), model)
    return list(getattr(model, "model_fields", {}))


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


def names(kind: Literal["datasets", "models"], workspace: Workspace | None = None) -> list[str]:
    """Sorted entry names, shipped and in the workspace."""
    found = {p.stem for p in (SHIPPED / kind).glob("*.yaml")}
    if workspace is not None:
        found |= {n.removesuffix(".yaml") for n in workspace.names("catalogs", kind) if n.endswith(".yaml")}
    return sorted(found)


def _text(kind: Literal["datasets", "models"], name: str, workspace: Workspace | None) -> tuple[str, str]:
    """YAML text of an entry and where it lies. Raises BadInput."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise BadInput(f"no file '{name}'")
        return path.read_text(encoding="utf-8"), str(path)
    check_name(name)
    if workspace is not None and workspace.exists("catalogs", kind, f"{name}.yaml"):
        key = ("catalogs", kind, f"{name}.yaml")
        return workspace.read_text(*key), workspace.url(*key)
    shipped = SHIPPED / kind / f"{name}.yaml"
    if not shipped.is_file():
        what = {"datasets": "dataset", "models": "recipe"}[kind]
        known = names(kind, workspace)
        raise BadInput(f"no {what} called '{name}'{nearest(name, known)}", todo=f"choose from {', '.join(known)}")
    return shipped.read_text(encoding="utf-8"), str(shipped)


def entry(name: str, workspace: Workspace | None = None) -> DatasetEntry | SceneEntry:
    """The entry called `name`, or in the file `name.yaml`: of fields or of scenes. Raises BadInput."""
    text, where = _text("datasets", name, workspace)
    return parse_entry(text, where)


def parse_entry(text: str, where: str) -> DatasetEntry | SceneEntry:
    """YAML text -> an entry of fields, or of scenes where it says `kind: scenes`. Raises BadInput."""
    from eoflow.catalog_scenes import SceneEntry

    scenes = isinstance(raw := _raw(text, where), dict) and raw.get("kind") == "scenes"
    return validate(raw, SceneEntry, where) if scenes else validate(raw, DatasetEntry, where)


def dataset(name: str, workspace: Workspace | None = None) -> DatasetEntry:
    """The entry of the field dataset called `name`, or in the file `name.yaml`. Raises BadInput."""
    found = entry(name, workspace)
    if not isinstance(found, DatasetEntry):
        raise BadInput(
            f"'{found.name}' is a dataset of scenes, and this needs one of fields on a latitude-longitude grid",
            todo="eoflow datasets list",
        )
    return found


def recipe(name: str, workspace: Workspace | None = None) -> Recipe | ImageRecipe:
    """The recipe called `name`, or in the file `name.yaml`: of forecasting or of images, by its `task`.

    Raises BadInput.
    """
    text, where = _text("models", name, workspace)
    return parse_recipe(_raw(text, where), where)


def parse_recipe(raw: dict[str, Any], where: str) -> Recipe | ImageRecipe:
    """A mapping -> a recipe of forecasting, or of images where its `task` says so. Raises BadInput."""
    from eoflow.catalog_images import TASKS, ImageRecipe

    known = ["forecast", *TASKS]
    if (task := raw.get("task", "forecast")) not in known:
        raise BadInput(f"no task called '{task}'{nearest(str(task), known)}", where=where,
                       todo=f"choose from {', '.join(known)}")  # fmt: skip
    images = task in TASKS
    return validate(raw, ImageRecipe, where) if images else validate(raw, Recipe, where)


def field_recipe(name: str, workspace: Workspace | None = None) -> Recipe:
    """The forecasting recipe called `name`. Raises BadInput, also for one of images."""
    found = recipe(name, workspace)
    if not isinstance(found, Recipe):
        raise BadInput(f"'{found.name}' is a recipe of {found.task}, not of forecasts", todo="eoflow models list")
    return found


def to_yaml(obj: BaseModel) -> str:
    """The YAML of an entry, without the keys that hold their default (but with its `kind`)."""
    out = obj.model_dump(mode="json", exclude_defaults=True)
    if hasattr(obj, "kind"):
        out = {"kind": obj.kind, **out}
    return yaml.safe_dump(out, sort_keys=False, allow_unicode=True, width=110)


def save_dataset(entry: DatasetEntry | SceneEntry, workspace: Workspace) -> str:
    """Write an entry into the workspace's catalog; returns where."""
    workspace.write_text(to_yaml(entry), "catalogs", "datasets", f"{entry.name}.yaml")
    return workspace.url("catalogs", "datasets", f"{entry.name}.yaml")


def nested(assignments: list[str], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """`a.b=1`, `a.c=x` -> {a: {b: 1, c: x}} (merged into `into`); values are YAML. Raises BadInput."""
    raw: dict[str, Any] = {} if into is None else into
    for text in assignments:
        key, sep, value = text.partition("=")
        if not sep:
            raise BadInput(f"'{text}' is not KEY=VALUE", todo="write for example --set training.epochs=3")
        node = raw
        *parents, last = key.strip().split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise BadInput(f"'{key}' leads through a value, not a group", where=f"--set {text}")
        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(f"the value of '{key}' is not valid YAML", where=f"--set {text}") from None
    return raw


def apply_overrides(recipe_: T, assignments: list[str]) -> T:
    """`training.epochs=3`, `network.options.width=32` -> a new recipe. Raises BadInput for unknown keys."""
    raw = nested(assignments, recipe_.model_dump(mode="json"))
    return validate(raw, type(recipe_), "--set " + " ".join(assignments))
