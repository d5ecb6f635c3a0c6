"""What runs a network: plain torch on a small scene, the fast runtime on a large one, fewer bits where asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eoflow.config import settings
from eoflow.models.images import ImageModel
from eoflow.predict_images.stack import Stack
from eoflow.windows import Input, Plan, load

LARGE = 4_000_000
"""Pixels of a scene from which preparing the fast runtime takes less time than it saves."""
CALIBRATION = 32
"""Windows of the scene that 8-bit convolutions are calibrated on, and that the loss of fewer bits is measured on."""
FEWER = {"int8": "8-bit convolutions", "bf16": "bfloat16 layers"}


def engine(
    model: ImageModel, identity: str, stack: Stack, how: Input, plan: Plan, days: tuple[torch.Tensor | None, ...] = ()
) -> tuple[Any, str]:  # fmt: skip
    """(what is called like the model, a sentence about what it loses, or "").

    By the setting `runtime` (EOFLOW_RUNTIME): auto, eager, onnx, int8 or bf16. Models without weights, and those that
    are told the days of their dates but have no stages, run as they are. days: what the model is called with behind
    images and usable. Raises BadInput for a runtime that is not installed.
    """
    kind = settings().runtime
    small = plan.shape[0] * plan.shape[1] < LARGE
    if kind == "auto" and small:
        return model, ""
    if _as_it_is(model):
        asked = kind not in ("auto", "eager") and not model.closed_form
        return model, f"Run in torch and not by {kind}: this network is told the days of its dates." if asked else ""
    from eoflow.runtime import fast

    if kind not in FEWER:
        return fast(model, kind=kind, identity=identity), ""
    windows = [(*window, *days) for window in _windows(stack, how, plan)]
    if not windows:  # nothing in the scene: whatever runs will say so
        return model, ""
    quick = fast(model, kind=kind, identity=identity, calibration=windows)
    lost = "; ".join(
        f"{name}: mean {loss['mean']:.4f}, largest {loss['max']:.3f}" for name, loss in quick.loss.items()
    )
    return quick, f"{FEWER[kind]}. Difference from 32 bits on {CALIBRATION} windows of the scene at most: {lost}."


def fewer_bits(model: ImageModel) -> list[str]:
    """The runtime's name where its numbers are not those of 32 bits to 1e-4: what it makes is another product."""
    kind = settings().runtime
    return [kind] if kind in FEWER and not _as_it_is(model) else []


def _as_it_is(model: ImageModel) -> bool:
    """Whether plain torch runs it, whatever the setting: without weights, or told the days of its dates as a whole."""
    return model.closed_form or (model.needs_times and not model.staged)


def _windows(stack: Stack, how: Input, plan: Plan) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Some windows of the scene, spread over it: (images (1, T, C, h, w), usable (1, T, h, w)) of one size."""
    every = [window for job in plan.jobs() for window in job.windows]
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for i in np.unique(np.linspace(0, len(every) - 1, CALIBRATION).astype(int)):
        loaded = load(stack, plan, every[i], how)
        if loaded is not None:
            x = torch.from_numpy(np.ascontiguousarray(loaded[0]))[None]
            found.append((x[:, :, :-1], x[:, :, -1] > 0.5))
    return found
