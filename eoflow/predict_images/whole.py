"""Models whose decision belongs to the whole scene (Otsu, image difference, IR-MAD), fitted on it before its windows.

A scene of up to WHOLE pixels is given to the model as it is. Of a larger one every n-th pixel of every n-th row is
looked at, and the threshold (of IR-MAD the affine maps of the bands) that is found there holds for all windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eoflow.models.difference import ImageDifference
from eoflow.models.irmad import IrMad, ir_mad
from eoflow.models.layers.otsu import MAX_LOGIT, Split, otsu
from eoflow.models.layers.pair import score_logits, two_dates
from eoflow.models.thresholds import Otsu
from eoflow.predict_images.stack import Stack, blocks
from eoflow.windows import Box, Input, Plan, Window, load

Array = np.ndarray[Any, Any]
WHOLE = 2048 * 2048
SAMPLE = 1 << 21
"""Pixels that a threshold is found from."""


def is_whole(model: nn.Module) -> bool:
    """Whether the whole scene decides."""
    said = getattr(model, "whole_scene", None)
    if said is None:
        said = getattr(model, "whole_image", None)
    return isinstance(model, ImageDifference | IrMad) if said is None else bool(said)


def whole_plan(model: nn.Module, shape: tuple[int, int], whole: int = WHOLE) -> Plan | None:
    """A plan of one window, where the scene is small or the model can be run in no other way; None: fit it first.

    Models of others, that only say `whole_scene`, get the whole scene whatever its size.
    """
    known = isinstance(model, Otsu | ImageDifference | IrMad)
    if shape[0] * shape[1] > whole and known:
        return None
    return Plan.of(shape, core=shape, multiple=int(getattr(model, "multiple", 1)))


def fitted(model: nn.Module, stack: Stack, how: Input) -> nn.Module:
    """The model with what the whole scene says, for its windows."""
    if isinstance(model, Otsu):
        return _otsu(model, stack, how)
    if isinstance(model, ImageDifference):
        return _difference(model, stack, how)
    if isinstance(model, IrMad):
        return _mad(model, stack, how)
    return model


def sample(
    stack: Stack, how: Input, of: Callable[[Tensor, Tensor], Tensor], halo: int = 0, pixels: int = SAMPLE
) -> tuple[Tensor, int]:
    """(K, h', w') values of a thinned scene, NaN where it has none, and how many pixels lie between two of them.

    of: images (1, T, C, h, w) and usable (1, T, h, w) of a window -> (K, h, w).
    """
    height, width = stack.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / pixels))))
    side = 1024 // step * step
    plan = Plan(stack.shape, (side, side), halo, border="constant")
    rows: list[list[Tensor]] = []
    for y, x in blocks(stack.shape, side):
        box = Box(y.start, y.stop, x.start, x.stop)
        read = Box(y.start - halo, y.stop + halo, x.start - halo, x.stop + halo)
        loaded = load(stack, plan, Window(box, box, read), how)
        if loaded is None:
            out: Tensor | None = None
        else:
            t = torch.from_numpy(loaded[0])[None]
            out = of(t[:, :, :-1], t[:, :, -1] > 0.5)[:, halo : halo + box.shape[0], halo : halo + box.shape[1]]
            out = out[:, ::step, ::step]
        if x.start == 0:
            rows.append([])
        shape = tuple(-(-n // step) for n in box.shape)
        rows[-1].append(torch.full((0, *shape), torch.nan) if out is None else out)
    count = max(t.shape[0] for row in rows for t in row)
    full = [[t if t.shape[0] else t.new_full((count, *t.shape[1:]), torch.nan) for t in row] for row in rows]
    return torch.cat([torch.cat(row, dim=2) for row in full], dim=1), step


class FixedOtsu(nn.Module):
    """Otsu's model with the threshold of the scene."""

    def __init__(self, model: Otsu, split: Split | None) -> None:
        super().__init__()
        self.inner, self.found, self.halo = model, split, model.halo

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """As the model's."""
        inner = self.inner
        x = images[:, inner.date].float() * inner.scale[:, None, None] + inner.offset[:, None, None]
        seen = torch.ones_like(x[:, 0], dtype=torch.bool) if usable is None else usable[:, inner.date]
        value, good = inner.smoothed(inner._feature(x), seen)
        logit = torch.stack([inner._logit(v, self.found) for v in value])
        logit = torch.where(good, logit, torch.zeros_like(logit))
        return {"logits": score_logits(logit, inner.signature.outputs)}


def _otsu(model: Otsu, stack: Stack, how: Input) -> nn.Module:
    def value(images: Tensor, usable: Tensor) -> Tensor:
        x = images[:, model.date] * model.scale[:, None, None] + model.offset[:, None, None]
        values, good = model.smoothed(model._feature(x), usable[:, model.date])
        return torch.where(good, values, torch.full_like(values, torch.nan))

    found, step = sample(stack, how, value, model.halo)
    if found.shape[0] == 0:
        return FixedOtsu(model, None)
    tiles, model.tiles = model.tiles, model.tiles and max(8, model.tiles // step)
    try:
        split = model.find(found[0].nan_to_num(), found[0].isfinite())
    finally:
        model.tiles = tiles
    return FixedOtsu(model, split)


class _Shifted(nn.Module):
    """A change model after one constant a band was taken off the later date."""

    def __init__(self, model: ImageDifference, shift: Tensor) -> None:
        super().__init__()
        self.inner, self.shift = model, shift

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """As the model's."""
        moved = torch.stack([images[:, 0], images[:, 1] - self.shift[:, None, None]], dim=1)
        out: dict[str, Tensor] = self.inner(moved, usable)
        return out


def _difference(model: ImageDifference, stack: Stack, how: Input) -> nn.Module:
    """The model with the scene's threshold (and, where it is centred, the scene's median difference)."""
    import copy

    one = copy.copy(model)  # the checkpoint's own stays as it is
    one.centred = False

    def change(images: Tensor, usable: Tensor) -> Tensor:
        difference, seen = one.difference(images, usable)
        return torch.where(seen[:, None], difference, torch.full_like(difference, torch.nan))[0]

    found, _ = sample(stack, how, change)
    good = found.isfinite().all(0) if found.shape[0] else torch.zeros(found.shape[1:], dtype=torch.bool)
    values = found[:, good]
    shift = torch.zeros(found.shape[0])
    if model.centred and values.numel():
        shift = values.median(dim=1).values
    if model.split is None:
        score = one.score((values - shift[:, None])[None, :, :, None])
        one = one.with_split(otsu(score))
    return _Shifted(one, shift) if bool(shift.any()) else one


class _FixedMad(nn.Module):
    """IR-MAD with the maps of the scene: variates = [before, after, 1] @ maps, chi2 = sum of variates^2 / variance."""

    def __init__(self, model: IrMad, maps: Tensor, weights: Tensor, split: Split | None) -> None:
        super().__init__()
        self.inner, self.maps, self.weights, self.split = model, maps, weights, split

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """As the model's."""
        before, after, seen = two_dates(images, usable)
        x = torch.cat([before, after], dim=1).double().movedim(1, -1)
        variates = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1) @ self.maps
        chi2 = (variates.square() @ self.weights) * seen
        bands = torch.tensor(max(self.maps.shape[1], 1) / 2, dtype=torch.float64)
        p = torch.where(seen, torch.special.gammaincc(bands, chi2 / 2), torch.ones_like(chi2))
        if self.split is not None:
            odds = self.split.log_odds(chi2.sqrt())
        else:
            level = torch.tensor(self.inner.significance or 0.01, dtype=torch.float64)
            odds = (level.log() - p.clamp_min(1e-300).log()).clamp(-MAX_LOGIT, MAX_LOGIT)
        kind = images.dtype
        logits = score_logits(odds.to(kind), self.inner.signature.outputs)
        return {"logits": logits, "score": chi2.to(kind), "no_change": p.to(kind)}


def _mad(model: IrMad, stack: Stack, how: Input) -> nn.Module:
    """IR-MAD on the sample; its variates are affine in the bands, so least squares gives the maps back exactly."""

    def pair(images: Tensor, usable: Tensor) -> Tensor:
        before, after, seen = two_dates(images, usable)
        both = torch.cat([before, after], dim=1)
        return torch.where(seen[:, None], both, torch.full_like(both, torch.nan))[0]

    found, _ = sample(stack, how, pair, pixels=SAMPLE // 4)
    good = found.isfinite().all(0) if found.shape[0] else torch.zeros(found.shape[1:], dtype=torch.bool)
    values = found[:, good].T.double()
    channels = values.shape[1] // 2
    mad = ir_mad(values[:, :channels], values[:, channels:], **model.iteration)
    if not len(values) or mad.variates.shape[1] == 0 or not bool(mad.chi2.any()):
        none = torch.zeros((2 * channels + 1, 0), dtype=torch.float64)
        return _FixedMad(model, none, none[0], otsu(torch.zeros(1)))
    with_one = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    maps = torch.linalg.lstsq(with_one, mad.variates, driver="gelsd").solution
    weights = torch.linalg.lstsq(mad.variates.square(), mad.chi2[:, None], driver="gelsd").solution[:, 0]
    split = otsu(mad.chi2.sqrt()) if model.significance is None else None
    return _FixedMad(model, maps, weights.clamp_min(0), split)
