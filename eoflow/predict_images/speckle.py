"""What was taken off a despeckled image: statistics of the ratio of what was seen to what was estimated.

Where speckle and nothing else goes, the ratio has mean 1 (brightness is kept) and variance 1 / looks, which is 1 for
single-look data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eoflow.models.lee import Lee
from eoflow.models.looks import estimated_looks
from eoflow.predict_images.stack import Frames, blocks
from eoflow.tasks.despeckling import intensity, of_complex

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]
LOOKED_AT = 512


def prepared(checkpoint: ImageCheckpoint, frames: Frames, k: int) -> tuple[ImageCheckpoint, str | None]:
    """The checkpoint as it is run on scene k, and what to say of it: Lee's filter with the looks of a detected image,
    estimated in its middle (complex data have one). Raises BadInput where the scene cannot be what a network takes."""
    y, x = (slice(max(0, n // 2 - LOOKED_AT // 2), min(n, n // 2 + LOOKED_AT // 2)) for n in frames.grid.shape)
    values, usable = frames.frame(k, y, x)
    checkpoint.task.check_scene(checkpoint, values)
    bands = checkpoint.recipe.patches.bands
    if not isinstance(getattr(checkpoint.model, "inner", checkpoint.model), Lee) or of_complex(bands):
        return checkpoint, None
    power = _intensity(checkpoint, frames, values)[0]
    looks = estimated_looks(np.where(usable, power, np.nan))
    if not np.isfinite(looks):
        return checkpoint, None
    model: Any = copy.deepcopy(checkpoint.model)
    getattr(model, "inner", model).looks = looks
    said = f"Looks of the image: {looks:.1f}, estimated from its flat areas."
    return replace(checkpoint, model=model), said


def _intensity(checkpoint: ImageCheckpoint, frames: Frames, values: Array) -> Array:
    """(C, h, w) as the frames have it -> linear intensity, float64."""
    units = [s.units for s in frames.specs]
    found = intensity(torch.from_numpy(np.nan_to_num(values))[None], checkpoint.recipe.patches.bands, units)
    return np.asarray(found[0].double())


def taken_off(
    checkpoint: ImageCheckpoint, frames: Frames, k: int, estimate: Callable[[slice, slice], Array]
) -> dict[str, float]:
    """`valid`: share of the pixels with an estimate; `ratio_mean` and `ratio_variance` of frame k over `estimate` (C,
    h, w) of a window; NaN where nothing was seen."""
    seen = total = 0
    count, first, second = 0, 0.0, 0.0
    for rows, columns in blocks(frames.grid.shape, 1024):
        values, usable = frames.frame(k, rows, columns)
        noisy = _intensity(checkpoint, frames, values)
        found = np.asarray(estimate(rows, columns), np.float64)
        good = np.isfinite(found) & (found > 0) & usable
        ratio = noisy[good] / found[good]
        seen, total = seen + int(np.isfinite(found).all(0).sum()), total + usable.size
        count, first, second = count + ratio.size, first + float(ratio.sum()), second + float(np.square(ratio).sum())
    mean = first / count if count else float("nan")
    variance = second / count - mean**2 if count else float("nan")
    return {"valid": seen / total, "ratio_mean": mean, "ratio_variance": variance}


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences for what the figures of some scenes mean, and for scenes that hold nothing."""
    out = [f"{r['tile']} {r['time']}".strip() + ": no pixel could be judged; the image holds nodata only."
           for r in rows if not r["valid"]]  # fmt: skip
    known = [r for r in rows if r["ratio_mean"] == r["ratio_mean"]]
    if known:
        mean, variance = (float(np.mean([r[f"ratio_{what}"] for r in known])) for what in ("mean", "variance"))
        out.append(f"What was taken off has mean {mean:.2f} (1: brightness is kept) and variance {variance:.2f}"
                   " (1 / looks, so 1 for single-look data, if it is speckle alone).")  # fmt: skip
    return out
