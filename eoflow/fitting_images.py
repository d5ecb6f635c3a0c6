"""Gradient training of image models: a fixed number of steps, averaged weights, exact resume.

The batch of a step is a function of (seed, step), and so is everything random in it; see eoflow.fitting. Batches are
read and augmented ahead by a thread while the network works.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from eoflow import fitting
from eoflow.errors import BadInput
from eoflow.models.images import asked_days
from eoflow.prepare.scenes.samples import Samples, pass_over
from eoflow.prepare.scenes.trainset import Patches
from eoflow.registry import nearest

if TYPE_CHECKING:
    from eoflow.catalog_images import ImageRecipe, ImageTraining
    from eoflow.models.images import ImageModel
    from eoflow.prepare.scenes.augment import Augment
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.tasks.base import ImageTask

AHEAD = 3
"""Batches that wait in memory."""
LOWEST_LR = 0.01
"""Of the peak learning rate, at the last step."""
PRECISION: dict[str, fitting.Precision] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class StepBatches(IterableDataset[Patches]):
    """The batches of steps `first` to `last` - 1.

    Passes over the samples follow each other without a seam: step s holds positions s * B to (s + 1) * B - 1 of them,
    so that a set smaller than a batch fills one from several passes. With several ranks each takes every
    world-size-th sample of the batch.
    """

    def __init__(
        self, data: Samples, augment: Augment | None, training: ImageTraining, first: int, last: int, rank: int = 0,
        ranks: int = 1,
    ) -> None:  # fmt: skip
        self.data, self.augment, self.training = data, augment, training
        self.first, self.last, self.rank, self.ranks = first, last, rank, ranks
        self._passes: dict[int, Any] = {}

    def __iter__(self) -> Iterator[Patches]:
        steps = iter(range(self.first, self.last))
        waiting: deque[Future[Patches]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="samples") as reader:
            try:
                for step in steps:
                    waiting.append(reader.submit(self.batch, step))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for task in waiting:
                    task.cancel()

    def batch(self, step: int) -> Patches:
        """The samples of a step."""
        size, count = self.training.batch_size, len(self.data)
        positions = np.arange(step * size, (step + 1) * size)[self.rank :: self.ranks]
        parts = []
        for epoch in np.unique(positions // count).tolist():
            at = self._pass(epoch)[positions[positions // count == epoch] % count]
            part = self.data.batch(at)
            seed = self.training.seed
            parts.append(part if self.augment is None else self.augment.batch(part, seed, epoch))
        return parts[0] if len(parts) == 1 else Patches(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _pass(self, epoch: int) -> Any:
        if epoch not in self._passes:
            if len(self._passes) > 1:
                self._passes.clear()
            self._passes[epoch] = pass_over(self.data, self.training.seed, epoch)
        return self._passes[epoch]


def learning_rate(training: ImageTraining, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    warmup = round(training.steps * training.warmup)
    if step < warmup:
        return training.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, training.steps - warmup)
    return training.lr * (LOWEST_LR + (1 - LOWEST_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class ImageFitting(fitting.Stepped):
    """An image model and its task's loss."""

    advice = "lower training.lr, or look for wild values among the samples"

    def __init__(self, model: ImageModel, task: ImageTask, recipe: ImageRecipe, normalizer: BandNormalizer) -> None:
        super().__init__(model, recipe.training.ema, recipe.training.seed)
        self.task, self.recipe, self.normalizer = task, recipe, normalizer
        self.frozen = freeze(model, recipe.training.freeze)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.kept = norms if recipe.training.keep_statistics else []

    def training_step(self, batch: Patches, index: int) -> Tensor:
        """Loss of one batch."""
        images, usable = self.task.feed(batch)
        progress = self.global_step / self.recipe.training.steps
        outputs = self.model(images, usable, *asked_days(self.model, batch.days))
        outputs = {k: v.float() if isinstance(v, Tensor) else v for k, v in outputs.items()}
        with torch.autocast(images.device.type, enabled=False):
            return self.checked(self.task.loss(self.recipe, self.normalizer, outputs, batch, progress))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """As in Stepped; frozen parts keep their running statistics too."""
        super().on_train_batch_start(batch, batch_idx)
        for module in (*self.frozen, *self.kept):
            module.eval()

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay on weights of two dimensions or more only."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": self.recipe.training.weight_decay},
            {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate(self.recipe.training, s))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_progress(self) -> tuple[int, int, str]:
        """(steps done, of, what)."""
        return self.global_step, self.recipe.training.steps, f"loss {self.last_loss:.4f}"


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """Parameters whose names begin with one of the prefixes learn no more; returns the modules that are wholly frozen.

    Raises BadInput for a prefix that no parameter has, or where nothing is left to learn.
    """
    names = [n for n, _ in model.named_parameters()]
    parts = sorted({n.split(".")[0] + "." for n in names})
    for prefix in prefixes:
        if not any(n.startswith(prefix) for n in names):
            raise BadInput(f"no parameter's name begins with '{prefix}'{nearest(prefix, parts)}",
                           where="training.freeze", todo=f"choose from {', '.join(parts)}")  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    if not any(p.requires_grad for p in model.parameters()):
        raise BadInput("every parameter is frozen", where="training.freeze", todo="leave some to learn")
    return [m for n, m in model.named_modules() if f"{n}.".startswith(prefixes)] if prefixes else []


def fit_images(
    model: ImageModel, task: ImageTask, recipe: ImageRecipe, data: Samples, augment: Augment | None, state: Path,
    progress: Callable[[float, float, str], None] | None = None,
) -> ImageModel:  # fmt: skip
    """Train `model` for the recipe's steps and return a copy with the averaged weights, in eval mode.

    state: folder of the training state, saved every `training.save_every` steps; what an interrupted run left there
    is continued, and ends with the same weights as one that was not interrupted. Raises Failure on a diverging loss,
    BadInput for an empty split or prefixes to freeze that are not there.
    """
    if not len(data):
        raise BadInput(f"the split '{data.split}' holds no sample", todo="more data, or fewer conditions on patches")
    training = recipe.training
    every = training.save_every

    def batches(segment: int, rank: int, ranks: int) -> StepBatches:
        last = min((segment + 1) * every, training.steps)
        return StepBatches(data, augment, training, segment * every, last, rank, ranks)

    # Channels side by side in memory: convolutions on a CPU train up to half faster.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fitting_ = ImageFitting(model, task, recipe, data.normalizer)
    segments = math.ceil(training.steps / every)
    fitted: ImageModel = fitting.run_segments(
        fitting_, fitting.Segments(batches), segments, training.gradient_clip, state, progress,
        PRECISION[training.precision],
    )  # fmt: skip
    fitted.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return fitted.requires_grad_(True)
