"""What fewer bits cost in score: a network in the runtime of the settings (int8, bf16) beside itself in 32 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from eoflow.models.images import padded
from eoflow.predict_images.engine import CALIBRATION, fewer_bits
from eoflow.runtime import Fast, fast
from eoflow.verify.image_models import Runner

if TYPE_CHECKING:
    from eoflow.prepare.scenes.samples import Samples
    from eoflow.verify.image_card import ImageScorecard

SIDE = 512
"""Pixels a side at most of what the bits are set by."""


class Padded:
    """A runtime on images of any size: it takes multiples, and gets them as the network makes them itself."""

    closed_form = False

    def __init__(self, quick: Fast) -> None:
        self.quick, self.halo, self.multiple = quick, quick.halo, quick.multiple

    def __call__(self, images: Tensor, usable: Tensor, *days: Tensor | None) -> dict[str, Tensor]:
        """As the network."""
        height, width = images.shape[-2:]
        found = self.quick(*_whole(images, usable, self.multiple), *days)
        return {n: x[..., :height, :width] for n, x in found.items()}


def _whole(images: Tensor, usable: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Images and what is usable of them, of sides that are multiples."""
    return padded(images, multiple)[0], padded(usable.to(images.dtype), multiple)[0] > 0.5


def in_fewer_bits(own: Sequence[Runner], samples: Samples) -> dict[str, Runner]:
    """Name of each network that the setting `runtime` runs in fewer bits -> the same so, calibrated on the samples as a
    prediction is on its scene. Empty for other settings."""
    from eoflow.prepare.scenes.samples import days

    out: dict[str, Runner] = {}
    for r in own:
        for kind in fewer_bits(r.checkpoint.model):
            windows = []
            for i in np.unique(np.linspace(0, len(samples) - 1, CALIBRATION).astype(int)):
                known = days(samples, [i])
                dated = (None, None) if known is None else (known[0][0], float(known[1][0]))
                images, usable, *more = r.fed(samples.batch([i]), *dated)
                cut = (images[..., :SIDE, :SIDE], usable[..., :SIDE, :SIDE])
                windows.append((*_whole(*cut, r.checkpoint.model.multiple), *more))
            quick = fast(r.checkpoint.model, kind=kind, calibration=windows)  # type: ignore[arg-type]
            out[r.name] = replace(r, name=f"{r.name} {kind}", quick=Padded(quick))
    return out


def said(card: ImageScorecard, pairs: dict[str, Runner]) -> list[str]:
    """A sentence for each network and leading score: what fewer bits cost, with the paired interval."""
    lines = []
    for name, runner in pairs.items():
        for metric in card.leading():
            for variable in card.variables:
                found = card.compare(runner.name, name, variable, metric)
                row = card.get(name, variable, metric)
                if found is None or row is None:
                    continue
                sides: Any = "" if found.low is None else f" [{found.low:+.2g}, {found.high:+.2g}]"
                differs = f"differs from 32 bits by {found.difference:+.2g}{sides}, of {row.value:.4g}"
                lines.append(f"{variable}, {metric}: {runner.name} {differs}")
    return lines
