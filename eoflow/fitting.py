"""Gradient training with Lightning: a fixed plan of steps, averaged weights, exact resume.

Everything random is a function of (seed, step), and the plan of steps is fixed before the first of them: a run that was
killed and resumed at a segment's end gives the same weights as an undisturbed one on the same machine.
A Lightning "epoch" here is one segment of the plan, the unit of saving, not a pass over the data.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from eoflow.errors import BadInput, Failure
from eoflow.models.base import ForecastModel, rollout

if TYPE_CHECKING:
    from eoflow.catalog import Training
    from eoflow.prepare.trainset import TrainSet

Report = Callable[[float, float, str], None]
Precision = Literal["32-true", "bf16-mixed"]
SEGMENT_STEPS = 200
"""Steps between two saves of the training state; a kill loses at most these."""


@dataclass(frozen=True)
class Phase:
    """`steps` optimiser steps over rollouts of `rollout` model steps."""

    steps: int
    rollout: int
    lr: float
    warmup: int


@dataclass(frozen=True)
class Plan:
    """The whole training as phases, cut into segments."""

    phases: tuple[Phase, ...]
    batch_size: int
    seed: int
    segment: int = SEGMENT_STEPS

    @classmethod
    def of(cls, training: Training, samples: int, epochs: float) -> Plan:
        """The plan for so many training windows; `epochs` is used where the recipe leaves them open."""
        batch = min(training.batch_size, samples)
        per_epoch = max(1, samples // batch)
        first = max(1, round(per_epoch * (training.epochs if training.epochs is not None else epochs)))
        phases = [Phase(first, 1, training.lr, round(first * training.warmup))]
        for p in training.rollout:
            steps = max(1, round(per_epoch * p.epochs))
            phases.append(Phase(steps, p.steps, p.lr, min(10, steps // 10)))
        return cls(tuple(phases), batch, training.seed)

    @property
    def total(self) -> int:
        """Optimiser steps in all."""
        return sum(p.steps for p in self.phases)

    @property
    def segments(self) -> int:
        """Segments in all; the last may be shorter."""
        return math.ceil(self.total / self.segment)

    def at(self, step: int) -> tuple[int, Phase, int]:
        """(index of the phase, phase, step inside it) of a global step."""
        for i, phase in enumerate(self.phases):
            if step < phase.steps or i == len(self.phases) - 1:
                return i, phase, step
            step -= phase.steps
        raise AssertionError("a plan has at least one phase")

    def lr(self, step: int) -> float:
        """Linear warm-up, then a cosine to a twentieth, in each phase."""
        _, phase, inside = self.at(step)
        if inside < phase.warmup:
            return phase.lr * (inside + 1) / phase.warmup
        done = (inside - phase.warmup) / max(1, phase.steps - phase.warmup)
        return phase.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class SegmentBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """The batches of one segment: (states (B, F + S, C, H, W), clock (B, F + S, 2)), a function of the plan alone.

    With several ranks each takes every world-size-th sample of the batch.
    """

    def __init__(self, data: TrainSet, frames: int, plan: Plan, segment: int, rank: int = 0, ranks: int = 1) -> None:
        self.data, self.frames, self.plan, self.segment = data, frames, plan, segment
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self.segment * self.plan.segment
        order, key = np.empty(0, np.int64), (-1, -1)
        for step in range(first, min(first + self.plan.segment, self.plan.total)):
            i, phase, inside = self.plan.at(step)
            length = self.frames + phase.rollout
            count = self.data.windows(length)
            if count == 0:
                raise BadInput(
                    f"the training period has no {length} consecutive steps", where=str(self.data.path),
                    todo="train on a longer period, or with a shorter rollout (training.rollout)",
                )  # fmt: skip
            batch = min(self.plan.batch_size, count)
            per_pass = count // batch
            if key != (i, inside // per_pass):
                key = (i, inside // per_pass)
                order = np.random.default_rng([self.plan.seed, *key]).permutation(count)
            at = (inside % per_pass) * batch
            yield self.data.batch(order[at : at + batch][self.rank :: self.ranks], length)


class Averaged:
    """Exponential moving average of the parameters (Polyak); buffers are not averaged but copied.

    The decay rises with the steps since the last restart, min(decay, (1 + n) / (10 + n)): early weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: p.detach().clone() for k, p in model.named_parameters()}

    def update(self, model: nn.Module, n: int) -> None:
        """After the optimiser's step; `n` steps since the last restart."""
        decay = min(self.decay, (1 + n) / (10 + n))
        with torch.no_grad():
            for k, p in model.named_parameters():
                if self.shadow[k].device != p.device:  # made before the model moved to its device
                    self.shadow[k] = self.shadow[k].to(p.device)
                self.shadow[k].lerp_(p.detach(), 1 - decay)

    def into(self, model: nn.Module) -> None:
        """Give `model` the averaged parameters."""
        with torch.no_grad():
            for k, p in model.named_parameters():
                p.copy_(self.shadow[k])

    def model(self, model: nn.Module) -> Any:
        """A copy of `model` that carries the averaged parameters."""
        out = copy.deepcopy(model)
        self.into(out)
        return out


class Stepped(L.LightningModule):
    """What Lightning trains, whatever the task: a model with averaged weights, by numbered steps.

    All that is random in a step is seeded by (seed, step). A diverging loss is a Failure; `advice` says what to do.
    """

    advice = "lower training.lr, or look for wild values with `eoflow datasets check`"

    def __init__(self, model: nn.Module, ema: float, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.averaged = Averaged(model, ema)
        self.last_loss = math.nan

    def checked(self, loss: Tensor) -> Tensor:
        """The loss of this step. Raises Failure if it is not finite."""
        self.last_loss = float(loss.detach())
        if not math.isfinite(self.last_loss):
            raise Failure(f"the training loss is {self.last_loss} at step {self.global_step}", todo=self.advice)
        return loss

    def steps_since_restart(self) -> int:
        """For the averaging, after a step."""
        return self.global_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed whatever is random in the step from the step itself."""
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average the weights."""
        self.averaged.update(self.model, self.steps_since_restart())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The averaged weights belong to the training state."""
        checkpoint["averaged"] = self.averaged.shadow

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See on_save_checkpoint."""
        self.averaged.shadow = checkpoint["averaged"]

    def done(self) -> Any:
        """A copy of the model with the averaged weights, on the CPU, for use."""
        return self.averaged.model(self.model.cpu()).eval()


class Fitting(Stepped):
    """A forecast model and its loss under a plan."""

    model: ForecastModel

    def __init__(self, model: ForecastModel, loss: nn.Module, static: Tensor, plan: Plan, training: Training) -> None:
        super().__init__(model, training.ema, plan.seed)
        self.loss_function, self.plan, self.training_recipe = loss, plan, training
        self.register_buffer("static", static, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Loss of one rollout."""
        states, clock = batch
        frames = self.model.signature.frames
        static = self.static
        assert isinstance(static, Tensor)
        predicted = rollout(self.model, states[:, :frames], clock, static, states.shape[1] - frames)
        return self.checked(self.loss_function(predicted, states[:, frames:]))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """As in Stepped; a new phase starts from the averaged weights."""
        super().on_train_batch_start(batch, batch_idx)
        phase, _, inside = self.plan.at(self.global_step)
        if phase > 0 and inside == 0:
            self.averaged.into(self.model)
            self.trainer.optimizers[0].state.clear()

    def steps_since_restart(self) -> int:
        """Of this phase."""
        return self.plan.at(self.global_step - 1)[2] + 1

    def configure_optimizers(self) -> Any:
        """See models/optim.py; `lr` is the plan's."""
        from eoflow.models.optim import MuonAdamW, parameter_groups

        groups = [g for g in parameter_groups(self.model, self.training_recipe.weight_decay) if g["params"]]
        optimizer = MuonAdamW(groups, lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.plan.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_progress(self) -> tuple[int, int, str]:
        """(steps done, of, what)."""
        phase = self.plan.at(max(0, self.global_step - 1))[1]
        steps = f"{phase.rollout} steps" if phase.rollout > 1 else "1 step"
        return self.global_step, self.plan.total, f"rollout {steps}, loss {self.last_loss:.4f}"


class _Progress(L.Callback):
    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
        """Tell where we are."""
        self.report(*module.on_progress())


class _SaveState(L.Callback):
    """Save the state at the end of every segment: beside, then renamed, so that a kill leaves the old one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """After the segment's last step."""
        temp = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(temp, weights_only=False)
        if trainer.is_global_zero:
            temp.replace(self.path)


class Segments(L.LightningDataModule):
    """A new loader for each segment: `batches(segment, rank, ranks)` is what it iterates."""

    def __init__(self, batches: Callable[[int, int, int], IterableDataset[Any]]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        """The loader of the segment that comes next."""
        trainer = self.trainer
        assert trainer is not None
        batches = self.batches(trainer.current_epoch, trainer.global_rank, trainer.world_size)
        return DataLoader(batches, batch_size=None)


def run_segments(
    fitting: Stepped, segments: Segments, count: int, clip: float, state: Path, progress: Report | None,
    precision: Precision = "32-true",
) -> Any:  # fmt: skip
    """Train through `count` segments, from where `state`/last.ckpt leaves off if it is there; returns the model.

    Raises KeyboardInterrupt where a person stopped it.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    state.mkdir(parents=True, exist_ok=True)
    saved = state / "last.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=count, accelerator="auto", devices="auto" if torch.cuda.is_available() else 1,
            gradient_clip_val=clip, reload_dataloaders_every_n_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, default_root_dir=str(state), precision=precision,
            callbacks=[_SaveState(saved), *([_Progress(progress)] if progress else [])],
        )  # fmt: skip
        trainer.fit(fitting, datamodule=segments, ckpt_path=str(saved) if saved.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return fitting.done()


def fit(
    model: ForecastModel, loss: nn.Module, static: Tensor, data: TrainSet, plan: Plan, training: Training, state: Path,
    progress: Report | None = None,
) -> ForecastModel:  # fmt: skip
    """Train `model` by the plan and return a copy with the averaged weights.

    state: folder of the training state; what an interrupted run left there is continued. Raises Failure on a
    diverging loss, BadInput on data too short for the plan.
    """
    frames = model.signature.frames
    segments = Segments(lambda segment, rank, ranks: SegmentBatches(data, frames, plan, segment, rank, ranks))
    fitting = Fitting(model, loss, static, plan, training)
    fitted: ForecastModel = run_segments(fitting, segments, plan.segments, training.gradient_clip, state, progress)
    return fitted
