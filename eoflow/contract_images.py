"""Contract checks of image models: any size, samples apart, finite on bad pixels, same after saving, able to learn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoflow import registry
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import NetworkRef, validate
from eoflow.catalog_images import TASKS, ImageRecipe
from eoflow.checkpoint_images import build, plain_normalizer, task_of
from eoflow.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.contract import Result
    from eoflow.models.images import ImageModel
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches

SIZES = ((33, 47), (16, 16), (7, 70))
"""(rows, columns) of the pictures a model is tried on; the first for what does not depend on the size."""
LEARNING = 16, 150, 0.7
"""Overfitting one batch: pixels a side, steps at most, and what of the first loss may be left."""
HIGH_LR = 1e-2
COMMON = {"b02": "blue", "b03": "green", "b04": "red", "b08": "nir", "b11": "swir16"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "segmentation": {"bands": ["green", "nir", "vv", "vh"], "labels": {"band": "label"}},
    "change-detection": {"bands": ["red", "green", "blue"], "labels": {"band": "label"}, "dates": 2, "pick": "pairs"},
    "cloud-removal": {"bands": ["red", "nir"], "targets": ["red", "nir"], "dates": 3, "pick": "clear-target"},
    "despeckling": {"bands": ["real", "imaginary"], "normalize": {"scheme": "none"}},
    "synthesis": {"bands": ["red", "green", "blue"], "labels": {"band": "label"}},
}


@dataclass(frozen=True)
class Setting:
    """A recipe with bands made up for it: what a model is built from."""

    recipe: ImageRecipe
    schema: SceneSchema
    normalizer: BandNormalizer
    task: Any

    def model(self) -> ImageModel:
        """A fresh one, always with the same weights."""
        import torch

        torch.manual_seed(0)
        return build(self.recipe, self.task.signature(self.recipe), self.schema, self.normalizer)

    def sample(self, size: tuple[int, int], batch: int = 2, seed: int = 1) -> Patches:
        """Random samples: smooth fields, a tenth of the pixels not seen, labels and targets that can be learnt."""
        import torch

        from eoflow.prepare.scenes.trainset import Patches

        rng = torch.Generator().manual_seed(seed)
        patches = self.recipe.patches
        dates, bands = patches.dates, len(patches.bands or ())
        inputs = torch.randn(batch, dates, bands, *size, generator=rng)
        inputs = torch.nn.functional.avg_pool2d(inputs.flatten(0, 1), 9, 1, 4).reshape(inputs.shape) * 9
        if self.recipe.task == "despeckling":
            inputs = torch.randn(inputs.shape, generator=rng) * 30
        unseen = torch.rand(batch, dates, *size, generator=rng) < 0.1
        quality = torch.where(unseen, 3, 7).to(torch.uint8)
        classes = len(patches.labels.classes) if patches.labels else 0
        score = inputs[:, -1].mean(1) if dates == 1 else (inputs[:, -1] - inputs[:, 0]).mean(1)
        labels = torch.zeros(batch, 0, *size, dtype=torch.long)
        if classes:
            edges = torch.quantile(score, torch.linspace(0, 1, classes + 1)[1:-1])
            labels = torch.bucketize(score, edges)[:, None]
        target = inputs[:, 0, : len(patches.targets)] * 0.5 + 0.5
        if getattr(registry.load("models", self.recipe.network.name), "any_dates", False):
            # what only weighs dates: the same ground on each, and something bright that stands on it on one of them
            ground, bright = inputs[:, :1], (inputs[:, -1:, :1] > 0.5) * 2.0
            inputs = ground.repeat(1, dates, 1, 1, 1)
            inputs[:, :1] += bright
            target = ground[:, 0, : len(patches.targets)]
        clear = torch.full((batch, *size), 7, dtype=torch.uint8)
        days = torch.arange(dates + 1.0, dtype=torch.float64).expand(batch, -1)
        return Patches(inputs.masked_fill(unseen[:, :, None], 0.0), quality, target, clear, labels, torch.ones(batch),
                       torch.arange(batch), days)  # fmt: skip


def setting(network: type, recipe: ImageRecipe | None, name: str) -> Setting:
    """Of a recipe, or of one made up for the task that the class names (`task = "segmentation"`)."""
    if recipe is None:
        task = getattr(network, "task", None) or _guessed(network)
        if task not in TASKS:
            raise BadInput(f"{name} is for the task '{task}'", todo=f"set `task` to one of {', '.join(TASKS)}")
        recipe = validate(
            {"name": "contract", "title": name, "task": task, "network": {"name": name}, "patches": _DEFAULTS[task]},
            ImageRecipe, name,
        )  # fmt: skip
    wanted = tuple(dict.fromkeys((*(recipe.patches.bands or ()), *recipe.patches.targets)))
    schema = SceneSchema(bands=tuple(_band(n) for n in wanted), sensor="contract", level="L2", tiles="{}", quality="{}")
    normalizer = plain_normalizer(schema, recipe.patches.bands or ())
    return Setting(recipe.model_copy(update={"network": NetworkRef(name=name, options=recipe.network.options)}), schema,
                   normalizer, task_of(recipe))  # fmt: skip


def _guessed(network: type) -> str:
    """The task of a class that does not say it: that of a registered recipe's network of the same class, else
    segmentation."""
    from eoflow import catalog

    for other in catalog.names("models"):
        recipe = catalog.recipe(other)
        if isinstance(recipe, ImageRecipe) and registry.load("models", recipe.network.name) is network:
            return recipe.task
    return "segmentation"


def _band(name: str) -> BandSpec:
    units = "dB" if name.lower() in ("vv", "vh", "hh", "hv") else "1"
    return BandSpec(name=name, dtype="float32", units=units, common_name=COMMON.get(name.lower(), name.lower()))


def check_image_model(network: type, recipe: ImageRecipe | None, name: str) -> list[Result]:
    """Check a network with the options of a recipe, or with its own. Raises BadInput for an unknown task."""
    from eoflow.contract import Result, attempt

    made = setting(network, recipe, name)
    label = made.recipe.task
    try:
        made.model()
    except Exception as e:
        return [Result(f"{label}: can be built", False, f"{type(e).__name__}: {e}")]
    checks: list[tuple[str, Callable[[Setting], None]]] = [
        ("forward keeps the size and its input, any size", _sizes),
        ("samples of a batch are independent", _apart),
        ("finite where pixels are not usable", _unusable),
        ("finite where nothing is usable", _nothing_usable),
        ("equals itself after save and load", _reload),
    ]
    if not made.model().closed_form:
        checks += [("every parameter learns", _alive), ("learns one batch by heart", _overfits)]
    else:
        checks.append(("a closed-form model has no parameters", _no_parameters))
    return [attempt(f"{label}: {title}", check, made) for title, check in checks]


def _run(model: ImageModel, images: Tensor, usable: Tensor | None) -> dict[str, Tensor]:
    import torch

    with torch.no_grad():
        return model.eval()(images, usable)  # type: ignore[no-any-return]


def _main(made: Setting, out: dict[str, Tensor]) -> Tensor:
    name = made.task.main_output
    assert name in out, f"forward returns {', '.join(out)} and no `{name}`"
    return out[name]


def _sizes(made: Setting) -> None:
    import torch

    model = made.model()
    for size in SIZES:
        images, usable = made.task.feed(made.sample(size))
        before = images.clone(), usable.clone()
        out = _run(model, images, usable)
        want = (2, model.signature.outputs, *size)
        main = _main(made, out)
        assert tuple(main.shape) == want, f"returns {tuple(main.shape)}, not {want}"
        assert main.dtype == torch.float32, f"returns {main.dtype}, not float32"
        wrong = [n for n, x in out.items() if tuple(x.shape[-2:]) != size]
        assert not wrong, f"the outputs {', '.join(wrong)} are not of the input's size"
        assert torch.equal(before[0], images), "forward changes its input"
        assert torch.equal(before[1], usable), "forward changes `usable`"


def _apart(made: Setting) -> None:
    import torch

    model = made.model()
    images, usable = made.task.feed(made.sample(SIZES[0], batch=3))
    together = _main(made, _run(model, images, usable))
    alone = torch.cat([_main(made, _run(model, images[[i]], usable[[i]])) for i in range(3)])
    _same(together, alone, "a sample's output changes by {:.2g} with its neighbours in the batch", 1e-3)


def _same(a: Tensor, b: Tensor, message: str, tolerance: float) -> None:
    known = a.isfinite()
    assert bool((known == b.isfinite()).all()), "what is known differs"
    worst = float(((a - b).abs() / (1 + b.abs()))[known].max()) if bool(known.any()) else 0.0
    assert worst < tolerance, message.format(worst)


def _unusable(made: Setting) -> None:
    """What an unusable pixel holds may be anything finite; the outputs of usable pixels are finite."""
    model = made.model()
    images, usable = made.task.feed(made.sample(SIZES[0]))
    out = _main(made, _run(model, images.masked_fill(~usable[:, :, None], 1e4), usable))
    seen = usable.all(1)[:, None].expand_as(out)
    assert bool(out[seen].isfinite().all()), "values that are not finite at usable pixels"


def _nothing_usable(made: Setting) -> None:
    """A picture without a usable pixel: no error; a network still says something finite, a composite may say NaN."""
    model = made.model()
    images, usable = made.task.feed(made.sample(SIZES[1]))
    images, usable = images * 0, usable & False
    out = _main(made, _run(model, images, usable))
    if model.closed_form:
        assert not bool(out.isinf().any()), "infinite values where nothing is usable"
    else:
        assert bool(out.isfinite().all()), "values that are not finite where nothing is usable"


def _reload(made: Setting) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model, twin = made.model(), made.model()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn(p.shape))
    images, usable = made.task.feed(made.sample(SIZES[0]))
    model.train()
    with torch.no_grad():
        model(images, usable)  # running statistics are part of the state
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
        twin.load_state_dict(load_file(file))
    mine, theirs = _run(model, images, usable), _run(twin, images, usable)
    same = all(torch.equal(x.nan_to_num(), theirs[n].nan_to_num()) for n, x in mine.items())
    assert same, "the loaded model predicts something else: part of its state is not in state_dict()"


def _no_parameters(made: Setting) -> None:
    assert not list(made.model().parameters()), "it has parameters that nothing trains"


def _alive(made: Setting) -> None:
    import torch

    from eoflow.models.images import asked_days

    model, sample = made.model().train(), made.sample(SIZES[0])
    images, usable = made.task.feed(sample)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(9)
    alive: set[str] = set()
    for _ in range(4):  # layers that start at zero pass gradients on from the next step
        optimizer.zero_grad()
        out = model(images, usable, *asked_days(model, sample.days))
        parts = [(x * torch.randn(x.shape, generator=rng)).mean() for x in out.values()]
        torch.autograd.backward(torch.stack(parts).sum())
        alive |= {k for k, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if all(k in alive for k, _ in model.named_parameters()):
            return
    dead = [k for k, p in model.named_parameters() if p.requires_grad and k not in alive]
    assert not dead, f"no gradient reaches {', '.join(dead)}"


def _overfits(made: Setting) -> None:
    """At half the recipe's learning rate, or at one for very small networks."""
    said = []
    for rate in (made.recipe.training.lr / 2, HIGH_LR):
        first, last = _learnt(made, rate)
        if last <= first - (1 - LEARNING[2]) * abs(first):
            return
        said.append(f"{last:.3g} with learning rate {rate:g}")
    raise AssertionError(f"on one batch the loss falls from {first:.3g} to no less than {' or '.join(said)}")


def _learnt(made: Setting, rate: float) -> tuple[float, float]:
    """The loss at first, and after training on one batch until it has fallen enough or the steps are over."""
    import torch

    from eoflow.models.images import asked_days

    size, steps, left = LEARNING
    model = made.model().train()
    sample = made.sample((size, size))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    first = last = 0.0
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        outputs = model(*made.task.feed(sample), *asked_days(model, sample.days))
        loss = made.task.loss(made.recipe, made.normalizer, outputs, sample, 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = float(loss.detach())
        first = last if step == 0 else first
        if last <= first - (1 - left) * abs(first):
            break
    return first, last
