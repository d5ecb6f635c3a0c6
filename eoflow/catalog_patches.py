"""What a training set of patches is made of: bands, dates, window, filters, normalisation and split, as one value."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, field_validator, model_validator

from eoflow.catalog import Model, Splits, parse, validate
from eoflow.errors import BadInput
from eoflow.quality import Quality
from eoflow.registry import nearest
from eoflow.times import Period, parse_duration

Pick = Literal["each", "consecutive", "pairs", "clear-target"]
Scheme = Literal["zscore", "percentile", "constants", "db", "none"]


class LabelRecipe(Model):
    """A band of the cube that holds classes. Values outside `classes` (and its nodata) are IGNORE.

    ground: another band, whose values are the class of the ground on each date, for networks that also learn those: a
    layer a date, behind the labels. Training on files (chips) goes without it. ground_classes: their names, by number,
    in the maps of a semantic change.
    """

    band: str
    classes: tuple[int, ...] = Field(default=(0, 1), min_length=2)
    ground: str | None = None
    ground_classes: tuple[str, ...] = ()

    @field_validator("classes")
    @classmethod
    def _distinct(cls, v: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(v)) != len(v):
            raise ValueError("a class is named twice")
        return v


class NormalizeRecipe(Model):
    """How physical values become numbers for a network; `bands` names another scheme for single bands.

    zscore: (x - mean) / std. percentile: `low`..`high` percentile -> 0..1, clipped if `clip`. constants: the sensor's
    documented numbers. db: 10 log10 x, then zscore (or percentile if `after` says so). none: physical values.
    """

    scheme: Scheme = "zscore"
    bands: dict[str, Scheme] = Field(default={})
    low: float = Field(default=2.0, ge=0, lt=50)
    high: float = Field(default=98.0, gt=50, le=100)
    clip: bool = True
    after: Literal["zscore", "percentile"] = "zscore"

    def of(self, band: str) -> Scheme:
        """The scheme of a band."""
        return self.bands.get(band, self.scheme)


class SplitRecipe(Model):
    """How samples are divided so that nothing leaks.

    blocks: squares of `block` metres on a global equal-area grid, whatever the CRS, `buffer` metres apart. groups:
    whole events; `group` is a regular expression on the tile's name whose first group (or match) names the event,
    `hold` keeps named events for a split. time: consecutive periods `gap` apart. Left out: `block` is eight patches,
    `buffer` half a patch (none by time), `gap` ten days.
    """

    by: Literal["blocks", "groups", "time"] = "blocks"
    fractions: tuple[float, float, float] = (0.72, 0.14, 0.14)
    block: float | None = Field(default=None, gt=0, description="metres")
    buffer: float | None = Field(default=None, ge=0, description="metres")
    gap: str | None = None
    group: str = "^.*$"
    hold: dict[Literal["train", "valid", "test"], tuple[str, ...]] = Field(default={})
    periods: Splits | None = None
    seed: int = 0

    @field_validator("fractions")
    @classmethod
    def _sum(cls, v: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(v) - 1) > 1e-6 or min(v) < 0 or v[0] == 0:
            raise ValueError("fractions are shares of train, valid and test, and add up to 1")
        return v

    @field_validator("gap")
    @classmethod
    def _gap(cls, v: str | None) -> str | None:
        if v is not None:
            parse_duration(v)
        return v


class PatchRecipe(Model):
    """A training set of patches.

    A sample is a window of `patch` x `patch` pixels at `dates` times of one tile, its `targets` bands at a target date
    (pick clear-target) and its labels (of the target, else of the last date).
    """

    bands: tuple[str, ...] | None = Field(default=None, description="inputs, in order; None: all but the labels")
    targets: tuple[str, ...] = Field(default=(), description="bands of the target date (clear-target)")
    labels: LabelRecipe | None = None
    patch: int = Field(default=256, ge=1, description="pixels a side that are read")
    stride: int | None = Field(default=None, ge=1, description="pixels between windows; None: the patch")
    resize: int | None = Field(default=None, ge=1, description="pixels a side that the network gets; None: the patch")
    resampling: Literal["bilinear", "area"] = Field(default="bilinear", description="of images; masks: nearest")
    dates: int = Field(default=1, ge=1)
    pick: Pick = "each"
    span: str | None = Field(default=None, description="longest time between the first and the last date of a sample")
    apart: str = Field(default="0s", description="shortest time between two dates of a sample")
    min_valid: float = Field(default=0.5, ge=0, le=1, description="least usable fraction of inputs (targets: always)")
    max_cloud: float = Field(default=1.0, ge=0, le=1, description="most cloud and shadow in an input date")
    min_cloud: float = Field(default=0.0, ge=0, le=1, description="least cloud and shadow in an input (clear-target)")
    target_cloud: float = Field(default=0.02, ge=0, le=1, description="most cloud and shadow in a target date")
    limit: int | None = Field(default=None, ge=1, description="most samples of one window, chosen by the seed")
    period: str | None = Field(default=None, description="START/END that samples are taken from")
    usable: tuple[str, ...] = Field(default=("clear", "water", "snow"), description="quality classes that count")
    balance: Literal["none", "classes"] = Field(default="none", description="weights by the classes in a sample")
    normalize: NormalizeRecipe = NormalizeRecipe()
    split: SplitRecipe = SplitRecipe()

    @field_validator("usable")
    @classmethod
    def _classes(cls, v: tuple[str, ...]) -> tuple[str, ...]:
        known = [q.name.lower() for q in Quality]
        for name in v:
            if name not in known:
                raise ValueError(f"no quality class '{name}'{nearest(name, known)}")
        if not v:
            raise ValueError("name at least one quality class")
        return v

    @field_validator("span", "apart")
    @classmethod
    def _duration(cls, v: str | None) -> str | None:
        if v is not None:
            parse_duration(v)
        return v

    @field_validator("period")
    @classmethod
    def _period(cls, v: str | None) -> str | None:
        if v is not None:
            Period.parse(v)
        return v

    @model_validator(mode="after")
    def _fits(self) -> PatchRecipe:
        if (self.stride or self.patch) > self.patch:
            raise ValueError(f"stride {self.stride} leaves pixels between patches of {self.patch}; at most the patch")
        need = {"each": 1, "pairs": 2}.get(self.pick)
        if need is not None and self.dates != need:
            raise ValueError(f"pick '{self.pick}' takes {need} date{'s' * (need > 1)}, not {self.dates}")
        if self.targets and self.pick != "clear-target":
            raise ValueError("targets are bands of a target date: they need `pick: clear-target`")
        return self

    @property
    def step(self) -> int:
        """Pixels between windows."""
        return self.stride or self.patch

    @property
    def classes(self) -> tuple[Quality, ...]:
        """Quality classes in which a pixel is usable."""
        return tuple(Quality[name.upper()] for name in self.usable)

    @property
    def hash(self) -> str:
        """16 hex digits over everything."""
        return digest(self.model_dump(mode="json"))

    def inputs(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The input bands of a cube with bands `names`. Raises BadInput for one it does not have."""
        label = self.labels.band if self.labels else None
        ground = self.labels.ground if self.labels else None
        wanted = self.bands if self.bands is not None else tuple(n for n in names if n not in (label, ground))
        for name in (*wanted, *self.targets, *([label] if label else [])):
            if name not in names:
                raise BadInput(f"the cube has no band '{name}'{nearest(name, list(names))}",
                               todo=f"bands: {', '.join(names)}")  # fmt: skip
        if len(set(wanted)) != len(wanted) or not wanted:
            raise BadInput("the input bands must be distinct, and at least one", where=f"bands {', '.join(wanted)}")
        return wanted

    def durations(self) -> tuple[np.timedelta64, np.timedelta64 | None]:
        """(apart, span) as timedelta64[ns]."""
        return parse_duration(self.apart), None if self.span is None else parse_duration(self.span)


def load_recipe(path: str | Path) -> PatchRecipe:
    """The recipe in a YAML file: its keys are those of PatchRecipe, at the top or below `patches`.

    Raises BadInput naming the file, the key and the nearest right one.
    """
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"no file '{path}'", todo="give the path of a YAML file with the keys of a patch recipe")
    text = file.read_text(encoding="utf-8")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError:
        raw = None
    if isinstance(raw, dict) and isinstance(raw.get("patches"), dict):
        return validate(raw["patches"], PatchRecipe, f"{path}, patches")
    return parse(text, PatchRecipe, str(path))


def digest(value: Any) -> str:
    """16 hex digits over a JSON-ready value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
