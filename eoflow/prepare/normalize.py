"""Normalizer: physical fields <-> numbers for a network; and named fields <-> the channel axis.

Channel order is derived from the FieldSchema, in both directions; nothing here assumes an order.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput, SchemaMismatch
from eoflow.registry import nearest
from eoflow.schema import FieldSchema, LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.prepare.statistics import Statistics

TRANSFORMS = ("sqrt", "log", "db")
"""For skewed, non-negative fields such as precipitation: `sqrt` is x^(1/2), `log` is log(1 + x / scale).

For power such as radar backscatter: `db` is 10 log10 x, NaN where x is not positive."""
LOG_SCALE = 1e-4
"""Scale of `log` in the field's units (a tenth of a millimetre for precipitation in metres)."""
_CONSTANT = 1e-9


def transform(values: Any, name: str | None) -> Any:
    """Apply a named transform (see TRANSFORMS); odd around zero but for `db`, so that it has an exact inverse."""
    if name is None:
        return values
    xp: Any = _namespace(values)
    if name == "db":
        return 10 * xp.log10(xp.where(values > 0, values, xp.nan))
    size = xp.sqrt(xp.abs(values)) if name == "sqrt" else xp.log1p(xp.abs(values) / LOG_SCALE)
    return xp.sign(values) * size


def inverse_transform(values: Any, name: str | None) -> Any:
    """Inverse of `transform`."""
    if name is None:
        return values
    if name == "db":
        return 10 ** (values / 10)
    xp: Any = _namespace(values)
    size = values * values if name == "sqrt" else xp.expm1(xp.abs(values)) * LOG_SCALE
    return xp.sign(values) * size


def check_transforms(transforms: Mapping[str, str], schema: FieldSchema) -> dict[str, str]:
    """The transforms by variable name. Raises BadInput for an unknown variable or transform."""
    for name, kind in transforms.items():
        schema.variable(name)
        if kind not in TRANSFORMS:
            raise BadInput(
                f"unknown transform '{kind}'{nearest(kind, list(TRANSFORMS))}", where=f"variable {name}",
                todo=f"choose from {', '.join(TRANSFORMS)}",
            )  # fmt: skip
    return dict(transforms)


def _namespace(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


@dataclass(frozen=True)
class Normalizer:
    """Affine normalisation of each channel, after an optional transform: (transform(x) - mean) / std.

    channels: labels in schema order. mean, std: (channel,) in (transformed) units of the field. tendency_std: standard
    deviation of the change over one step, same units. transforms: one entry a channel, mostly None.
    """

    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tendency_std: tuple[float, ...]
    transforms: tuple[str | None, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.channels), len(self.mean), len(self.std), len(self.tendency_std), len(self.transforms)}
        if len(lengths) > 1:
            raise ValueError("a normaliser needs one number a channel")
        if not all(np.isfinite(s) and s > 0 for s in (*self.std, *self.tendency_std)):
            raise ValueError("standard deviations must be positive")

    @classmethod
    def fit(cls, statistics: Statistics) -> Normalizer:
        """From the statistics of the training period.

        A constant channel gets std 1, with a warning. Raises BadInput for a channel without a single value.
        """
        field, tendency = statistics.field, statistics.tendency
        std, steps = [], []
        for i, label in enumerate(statistics.channels):
            if field.count[i] <= 0:
                raise BadInput(
                    "a channel without a single value in the training period", where=f"channel {label}",
                    todo="choose another training period, or leave the variable out of the recipe",
                )  # fmt: skip
            s, d = float(field.std[i]), float(tendency.std[i])
            if s <= _CONSTANT * max(abs(float(field.mean[i])), 1e-30):
                warnings.warn(
                    f"channel {label} is constant over the training period: normalised with std 1", stacklevel=2
                )
                s = 1.0
            std.append(s)
            steps.append(d if np.isfinite(d) and d > _CONSTANT * s else s)
        return cls(
            channels=statistics.channels,
            mean=tuple(float(m) for m in field.mean),
            std=tuple(std),
            tendency_std=tuple(steps),
            transforms=tuple(statistics.transforms.get(c) for c in statistics.variables),
        )

    @property
    def tendency_scale(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(channel,) float32: standard deviation of the one-step change in normalised units."""
        return (np.asarray(self.tendency_std) / np.asarray(self.std)).astype(np.float32)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over everything."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; floats survive the round trip exactly."""
        return {
            "channels": list(self.channels),
            "mean": list(self.mean),
            "std": list(self.std),
            "tendency_std": list(self.tendency_std),
            "transforms": list(self.transforms),
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Normalizer:
        """Inverse of to_dict. Raises BadInput for a damaged one."""
        try:
            return cls(**{k: tuple(v) for k, v in d.items()})
        except (TypeError, ValueError) as e:
            raise BadInput("this is not a normaliser", todo=str(e)) from None

    def require(self, channels: Iterable[Any]) -> None:
        """Raise SchemaMismatch, printing both sides, unless `channels` (labels or Channels) are ours in our order."""
        theirs = tuple(str(getattr(c, "label", c)) for c in channels)
        if theirs == self.channels:
            return
        missing = [c for c in self.channels if c not in theirs]
        extra = [c for c in theirs if c not in self.channels]
        what = "; ".join(
            [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(extra)}"] * bool(extra)
        )
        raise SchemaMismatch(
            f"the channels do not fit the normaliser: {what or 'the order differs'}\n"
            f"    given:  {', '.join(theirs)}\n    fitted: {', '.join(self.channels)}",
            todo="use the variables and levels that the model was trained on",
        )

    def select(self, channels: Sequence[Any]) -> Normalizer:
        """The same numbers for the named channels, in the order given. Raises SchemaMismatch for an unknown one."""
        labels = [str(getattr(c, "label", c)) for c in channels]
        unknown = [c for c in labels if c not in self.channels]
        if unknown:
            raise SchemaMismatch(
                f"the normaliser knows no {', '.join(unknown)}", todo=f"it has {', '.join(self.channels)}"
            )
        at = [self.channels.index(c) for c in labels]
        return Normalizer(
            *(tuple(getattr(self, k)[i] for i in at) for k in ("channels", "mean", "std", "tendency_std", "transforms"))
        )

    def encode(self, array: Any, channels: Iterable[Any] | None = None) -> Any:
        """(..., C, H, W) physical -> normalised, numpy or torch, floating dtype kept; NaN stays NaN.

        Raises SchemaMismatch if the channel axis does not fit, or `channels`, if given, are not ours in our order.
        """
        self._check(array, channels)
        mean, std = self._affine(array)
        return (self._each(array, transform) - mean) / std

    def decode(self, array: Any, channels: Iterable[Any] | None = None) -> Any:
        """Inverse of `encode`."""
        self._check(array, channels)
        mean, std = self._affine(array)
        return self._each(array * std + mean, inverse_transform)

    def _check(self, array: Any, channels: Iterable[Any] | None) -> None:
        if channels is not None:
            self.require(channels)
        if array.ndim < 3 or array.shape[-3] != len(self.channels):
            raise SchemaMismatch(
                f"an array of shape {tuple(array.shape)} does not have {len(self.channels)} channels on axis -3",
                where=f"channels {', '.join(self.channels)}",
                todo="stack it by the schema that the normaliser was fitted on",
            )  # fmt: skip

    def _each(self, array: Any, function: Callable[[Any, str | None], Any]) -> Any:
        if not any(self.transforms):
            return array
        xp = _namespace(array)
        parts = [function(array[..., i, :, :], t) for i, t in enumerate(self.transforms)]
        return np.stack(parts, axis=-3) if xp is np else xp.stack(parts, dim=-3)

    def _affine(self, array: Any) -> tuple[Any, Any]:
        xp = _namespace(array)
        if xp is np:
            dtype = array.dtype if array.dtype.kind == "f" else np.float64
            return tuple(np.asarray(x, dtype=dtype)[:, None, None] for x in (self.mean, self.std))  # type: ignore[return-value]
        return tuple(xp.tensor(x, dtype=array.dtype, device=array.device)[:, None, None] for x in (self.mean, self.std))  # type: ignore[return-value]


# -- names <-> channel axis ------------------------------------------------------------------------------------


def stack(ds: xr.Dataset, schema: FieldSchema) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Dataset -> (time, C, H, W) float32 in the schema's channel order (no time axis if the dataset has none).

    Dimensions are taken by name and levels by value, whatever their order. Raises SchemaMismatch naming the variable,
    level or unit that is missing, SchemaMismatch for another grid.
    """
    require_grid(ds, schema)
    arrays = []
    for spec in schema.variables:
        if spec.name not in ds.data_vars:
            have = ", ".join(str(n) for n in ds.data_vars)
            raise SchemaMismatch(f"the variable '{spec.name}' is missing", where=f"the dataset has {have}",
                                 todo="use a dataset with the variables of the schema")  # fmt: skip
        da = ds[spec.name]
        units = da.attrs.get("units", spec.units)
        if units != spec.units:
            raise SchemaMismatch(f"{spec.name} is in '{units}', expected '{spec.units}'", todo="convert it")
        lead = ["time"] if "time" in da.dims else []
        if spec.dim is not None:
            da = da.isel({spec.dim: _level_index(da, spec.name, spec.dim, spec.levels or ())})
        else:
            da = da.expand_dims("level")
        dims = (*lead, spec.dim or "level", "latitude", "longitude")
        if set(da.dims) != set(dims):
            raise SchemaMismatch(
                f"{spec.name} has dimensions {da.dims}, expected {dims}", todo="select one of the others"
            )
        arrays.append(da.transpose(*dims).values.astype(np.float32, copy=False))
    return np.concatenate(arrays, axis=-3)


def require_grid(ds: xr.Dataset, schema: FieldSchema) -> None:
    """Raise SchemaMismatch unless the dataset lies on the schema's grid, row for row."""
    grid = LatLonGrid(
        latitude=tuple(float(x) for x in np.atleast_1d(ds["latitude"].values)),
        longitude=tuple(float(x) for x in np.atleast_1d(ds["longitude"].values)),
    )
    if not schema.grid.same_as(grid):
        raise SchemaMismatch(
            f"the grids differ ({schema.grid.describe()} | {grid.describe()})",
            todo="regrid with eoflow.prepare.grid.regrid(ds, target)",
        )


def _level_index(da: xr.DataArray, name: str, dim: str, levels: Sequence[float]) -> list[int]:
    if dim not in da.dims:
        raise SchemaMismatch(
            f"{name} has no dimension '{dim}'", where=f"dimensions {da.dims}", todo="give it its levels"
        )
    have = np.asarray(da[dim].values, dtype=np.float64)
    index = []
    for level in levels:
        hits = np.flatnonzero(np.isclose(have, level, rtol=0, atol=1e-3))
        if hits.size != 1:
            raise SchemaMismatch(
                f"{name} has no level {level:g} hPa" if not hits.size else f"{name} has level {level:g} hPa twice",
                where=f"levels {', '.join(f'{x:g}' for x in have)}", todo="use a dataset with the levels of the schema",
            )  # fmt: skip
        index.append(int(hits[0]))
    return index


def unstack(
    array: Any, schema: FieldSchema, coords: Mapping[str, Any] | None = None, dims: Sequence[str] = ("time",)
) -> xr.Dataset:
    """(..., C, H, W) -> Dataset with the schema's names, levels, units and grid; the inverse of `stack`.

    `dims` names the leading axes, `coords` gives their coordinates (and any others).
    """
    import xarray as xr

    a = np.asarray(array)
    if a.ndim != len(dims) + 3 or a.shape[-3:] != (len(schema.channels), *schema.grid.shape):
        raise SchemaMismatch(
            f"an array of shape {a.shape} does not fit dimensions {(*dims, 'channel', 'latitude', 'longitude')}"
            f" with {len(schema.channels)} channels on {schema.grid.describe()}"
        )
    variables: dict[str, Any] = {}
    levels: dict[str, tuple[float, ...]] = {}
    at = 0
    for spec in schema.variables:
        n = len(spec.channels)
        block = a[..., at : at + n, :, :]
        at += n
        if spec.dim is None:
            variables[spec.name] = ((*dims, "latitude", "longitude"), block[..., 0, :, :], spec.attrs)
        else:
            variables[spec.name] = ((*dims, spec.dim, "latitude", "longitude"), block, spec.attrs)
            levels[spec.dim] = _merge_levels(levels.get(spec.dim), spec.levels or (), spec.name)
    axes = {
        **{d: (d, np.asarray(v), {"units": "hPa", "positive": "down"}) for d, v in levels.items()},
        "latitude": (
            "latitude",
            np.asarray(schema.grid.latitude),
            {"units": "degrees_north", "standard_name": "latitude"},
        ),
        "longitude": (
            "longitude",
            np.asarray(schema.grid.longitude),
            {"units": "degrees_east", "standard_name": "longitude"},
        ),
    }
    return xr.Dataset(variables, coords={**axes, **dict(coords or {})})


def _merge_levels(known: tuple[float, ...] | None, levels: tuple[float, ...], name: str) -> tuple[float, ...]:
    if known is not None and known != levels:
        raise SchemaMismatch(f"{name} shares a level dimension with other levels", where=f"{levels} | {known}")
    return levels
