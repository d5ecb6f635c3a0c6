"""Contract checks: what every model, source and metric must do, ours and those of outside packages.

`eoflow models check pkg:Class` runs those for models; the tests run all of them over everything registered.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import catalog, registry
from eoflow.catalog_images import ImageRecipe
from eoflow.errors import BadInput
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.catalog import DatasetEntry
    from eoflow.catalog_scenes import SceneEntry
    from eoflow.models.base import ForecastModel, Signature

SHAPES = ((16, 32, True), (6, 9, False), (17, 33, False))
"""(rows, columns, sphere) of the grids a model is tried on."""


@dataclass(frozen=True)
class Result:
    """Outcome of one check."""

    check: str
    passed: bool
    detail: str = ""

    def line(self) -> str:
        """For a person."""
        return f"{'ok    ' if self.passed else 'FAILED'} {self.check}" + (f": {self.detail}" if self.detail else "")


class SyntheticData:
    """FitData of random red noise with a season, in normalised units."""

    def __init__(self, signature: Signature, steps: int = 1500, seed: int = 0) -> None:
        import torch

        from eoflow.times import year_and_day_fraction

        rng = torch.Generator().manual_seed(seed)
        s = signature
        weights = torch.cos(torch.deg2rad(torch.tensor(s.latitude))).clamp_min(0.01)
        self.area_weights: Tensor = weights / weights.mean()
        times = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(int(s.step_hours * 3600), "s")
        self.clock = torch.from_numpy(year_and_day_fraction(times))
        noise = torch.randn(steps, s.channels, s.height, s.width, generator=rng)
        states = [noise[0]]
        for n in noise[1:]:
            states.append(0.9 * states[-1] + 0.4 * n)
        self.states = torch.stack(states) + torch.sin(6.2832 * self.clock[:, 0])[:, None, None, None]

    def blocks(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Four fifths for `train`, the rest for `valid`."""
        cut = len(self.states) * 4 // 5
        part = slice(0, cut) if split == "train" else slice(cut, None)
        yield self.states[part], self.clock[part]


def signature_for(rows: int, columns: int, sphere: bool, frames: int, channels: int = 2, static: int = 1) -> Signature:
    """A signature of a grid of `rows` x `columns`: the whole sphere, or a piece of the middle latitudes."""
    from eoflow.models.base import Signature

    if sphere:
        step = 180.0 / rows
        lat = 90 - step / 2 - step * np.arange(rows)
        lon = 360.0 / columns * np.arange(columns)
    else:
        lat, lon = 60 - 2.5 * np.arange(rows), -40 + 2.5 * np.arange(columns)
    return Signature(
        frames=frames,
        channels=channels,
        static=static,
        height=rows,
        width=columns,
        step_hours=24.0,
        latitude=tuple(lat.tolist()),
        longitude=tuple(lon.tolist()),
        global_=sphere,
        wraps=sphere,
    )


def check_model(what: str, workspace: Workspace | None = None) -> list[Result]:
    """Check a recipe, a registered model or `pkg.module:Class`: a forecast model on three grids, an image model (see
    eoflow.contract_images) on several sizes. Raises BadInput if it is not found or neither."""
    from eoflow.contract_images import check_image_model
    from eoflow.models.base import ForecastModel
    from eoflow.models.images import ImageModel

    options: dict[str, Any] = {}
    frames = None
    recipe = None
    if ":" not in what and (what.endswith((".yaml", ".yml")) or what in catalog.names("models", workspace)):
        recipe = catalog.recipe(what, workspace)
        name, options = recipe.network.name, recipe.network.options
        frames = recipe.frames if isinstance(recipe, catalog.Recipe) else None
    else:
        name = what
    network = registry.load("models", name)
    if isinstance(network, type) and issubclass(network, ImageModel):
        return check_image_model(network, recipe if isinstance(recipe, ImageRecipe) else None, name)
    if not (isinstance(network, type) and issubclass(network, ForecastModel)):
        raise BadInput(f"{what} is no model", where=name,
                       todo="subclass eoflow.models.base.ForecastModel or eoflow.models.images.ImageModel")  # fmt: skip
    wanted = frames or int(getattr(network, "default_frames", 0))
    if wanted < 1:
        raise BadInput(f"{what} declares no `default_frames`", todo="subclass eoflow.models.base.ForecastModel")
    results: list[Result] = []
    for rows, columns, sphere in SHAPES:
        signature = signature_for(rows, columns, sphere, wanted)
        label = f"{'sphere' if sphere else 'area'} {rows} x {columns}"
        try:
            model = network(signature, **options)
            make = functools.partial(network, signature, **options)
        except Exception as e:
            results.append(Result(f"{label}: can be built", False, f"{type(e).__name__}: {e}"))
            continue
        reload: Callable[[ForecastModel], None] = functools.partial(_save_load, make)
        checks = (*_CHECKS, ("equals itself after save and load", reload))
        results += [attempt(f"{label}: {title}", check, model) for title, check in checks]
    return results


def attempt(title: str, check: Callable[[Any], None], model: Any) -> Result:
    """The outcome of `check(model)`: what it raises is the failure."""
    try:
        check(model)
    except Exception as e:
        return Result(title, False, f"{type(e).__name__}: {e}" if not isinstance(e, AssertionError) else str(e))
    return Result(title, True)


def _inputs(s: Signature, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    rng = torch.Generator().manual_seed(1)
    frames = torch.randn(batch, s.frames, s.channels, s.height, s.width, generator=rng)
    clock = torch.rand(batch, s.frames + 1, 2, generator=rng)
    return frames, clock, torch.randn(s.static, s.height, s.width, generator=rng)


def _fitted(model: ForecastModel) -> None:
    import torch

    data = SyntheticData(model.signature)
    with torch.no_grad():
        (model.fit if model.closed_form else model.prepare)(data)


def _shape(model: ForecastModel) -> None:
    import torch

    s = model.signature
    frames, clock, static = _inputs(s, 2)
    before = frames.clone()
    out = model.eval()(frames, clock, static)
    want = (2, s.channels, s.height, s.width)
    assert tuple(out.shape) == want, f"forward returns {tuple(out.shape)}, not {want}"
    assert out.dtype == torch.float32, f"forward returns {out.dtype}, not float32"
    assert bool(torch.isfinite(out).all()), "forward returns values that are not finite"
    assert torch.equal(before, frames), "forward changes its input"


def _batch(model: ForecastModel) -> None:
    import torch

    frames, clock, static = _inputs(model.signature, 3)
    with torch.no_grad():
        together = model.eval()(frames, clock, static)
        alone = torch.cat([model(frames[i : i + 1], clock[i : i + 1], static) for i in range(3)])
    worst = float((together - alone).abs().max())
    assert worst < 1e-4, f"a sample's output changes by {worst:.2g} with its neighbours in the batch"


def _save_load(make: Callable[[], ForecastModel], model: ForecastModel) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    twin = make()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
        twin.load_state_dict(load_file(file))
    frames, clock, static = _inputs(model.signature, 2)
    with torch.no_grad():
        same = torch.equal(model.eval()(frames, clock, static), twin.eval()(frames, clock, static))
    assert same, "the loaded model predicts something else: part of its state is not in state_dict()"


def _gradients(model: ForecastModel) -> None:
    import torch

    if model.closed_form:
        assert not list(model.parameters()), "a closed-form model keeps what it fitted in buffers, not in parameters"
        return
    frames, clock, static = _inputs(model.signature, 2)
    target = torch.randn(2, model.signature.channels, model.signature.height, model.signature.width)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    alive: set[str] = set()
    for _ in range(6):  # layers that start at zero pass gradients on from the next step; dropped branches have none
        optimizer.zero_grad()
        ((model(frames, clock, static) - target) ** 2).mean().backward()
        alive |= {k for k, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    dead = [k for k, p in model.named_parameters() if p.requires_grad and k not in alive]
    model.eval()
    assert not dead, f"no gradient reaches {', '.join(dead)}"


_CHECKS: tuple[tuple[str, Callable[[ForecastModel], None]], ...] = (
    ("fits or prepares on training data", _fitted),
    ("forward keeps shape, dtype and input", _shape),
    ("samples of a batch are independent", _batch),
    ("every parameter learns", _gradients),
)


def check_source(entry: DatasetEntry, cache: Path, now: np.datetime64) -> list[Result]:
    """Check a source on its entry: plan is ordered and inside the period, open is lazy, canonical and repeatable."""
    from eoflow.schema import FieldSchema
    from eoflow.sources.base import SourceContext, create
    from eoflow.times import Period

    source = create(entry, SourceContext(cache=cache, now=now))
    assets = source.plan(None)
    results = [Result("plans at least one asset", bool(assets))]
    if not assets:
        return results
    results.append(Result("asset ids are unique", len({a.id for a in assets}) == len(assets)))
    times = np.concatenate([a.times for a in assets])
    results.append(
        Result("assets and their times are in order", bool((np.diff(times) > np.timedelta64(0, "ns")).all()))
    )
    window = Period(times[0], times[min(3, len(times) - 1)])
    inside = np.concatenate([a.times for a in source.plan(window)])
    results.append(Result("a period limits the plan", bool(window.contains(inside).all()) and len(inside) > 0))
    ds = source.open(assets[0])
    lazy = all(not isinstance(v.variable._data, np.ndarray) for v in ds.data_vars.values() if "time" in v.dims)
    results.append(Result("open is lazy", lazy))
    lat, lon = ds["latitude"].values, ds["longitude"].values
    results.append(Result("latitude runs north to south", bool((np.diff(lat) < 0).all())))
    results.append(Result("longitude ascends", bool((np.diff(lon) > 0).all())))
    schema = FieldSchema.of(ds, entry.schedule.cadence)
    results.append(Result("variables have units", bool(schema.variables)))
    again = source.open(assets[0])
    same = all(np.array_equal(ds[v].values, again[v].values, equal_nan=True) for v in ds.data_vars)
    results.append(Result("opening again gives the same values", same))
    return results


def check_scene_source(entry: SceneEntry, cache: Path, now: np.datetime64) -> list[Result]:
    """Check a source of scenes on its entry: the plan is ordered, inside the period and portable, headers are complete,
    and the pixels that they promise are there, the same each time."""
    from eoflow.sources.base import SourceContext
    from eoflow.sources.raster import RasterReader
    from eoflow.sources.scene import Scene, SceneSource
    from eoflow.times import Period

    source: SceneSource = registry.load("sources", entry.source.driver)(entry, SourceContext(cache=cache, now=now))
    results = [Result("gives scenes", isinstance(source, SceneSource) and source.gives == "scenes")]
    scenes = source.plan(None)
    results.append(Result("plans at least one scene", bool(scenes)))
    if not scenes:
        return results
    times = np.array([s.time for s in scenes])
    window = Period(times[0], times[min(1, len(times) - 1)])
    inside = np.array([s.time for s in source.plan(window)])
    first = source.header(scenes[0])
    incomplete = [n for n, b in first.bands.items() if b.dtype is None or b.grid is None or b.etag is None]
    results += [
        Result("scene ids are unique in a tile", len({(s.id, s.tile) for s in scenes}) == len(scenes)),
        Result("scenes are in order", bool((np.diff(times) >= np.timedelta64(0, "ns")).all())),
        Result("a period limits the plan", bool(window.contains(inside).all()) and len(inside) > 0),
        Result("scenes survive JSON", all(Scene.from_json(s.to_json()) == s for s in (scenes[0], first))),
        Result("headers are complete", not incomplete, ", ".join(incomplete)),
        Result("a header is the same each time", source.header(scenes[0]) == first),
    ]
    reader = RasterReader(source.readable)
    for name, band in first.bands.items():
        if band.grid is None:
            continue
        values = reader.read(band, band.grid)
        rows, columns = (slice(n // 2, n // 2 + min(256, -(-n // 2))) for n in band.grid.shape)
        again = RasterReader(source.readable).read(band, band.grid.window(rows, columns))
        fits = values.shape == tuple(band.grid.shape) and str(values.dtype) == band.dtype
        results.append(Result(f"{name} is what its header says", fits, f"{values.shape}, {values.dtype}"))
        results.append(
            Result(
                f"a window of {name} is a part of the whole",
                fits and np.array_equal(values[rows, columns], again, values.dtype.kind == "f"),
            )
        )
    return results


def check_metric(name: str) -> list[Result]:
    """Check a registered metric or `pkg.module:Class` (see eoflow.verify.contract)."""
    from eoflow.verify.contract import problems

    found = problems(registry.load("metrics", name)())
    return [Result(f"metric {name}", not found, "; ".join(found))]
