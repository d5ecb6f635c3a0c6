"""Another number of pixels for the same window: images antialiased and without their holes, masks by nearest pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def image(values: Tensor, seen: Tensor, size: int, how: Literal["bilinear", "area"] = "bilinear") -> Tensor:
    """(..., C, H, W) float and (..., H, W) bool -> (..., C, size, size): a mean over seen pixels alone.

    What is unseen has no weight; where nothing seen comes in, the result is 0. bilinear is antialiased when it shrinks.
    """
    import torch

    lead = values.shape[:-3]
    x = values.reshape(-1, *values.shape[-3:]) if values.numel() else values.new_zeros((0, *values.shape[-3:]))
    weight = seen.reshape(-1, 1, *seen.shape[-2:]).to(x.dtype)
    whole = bool(seen.all())
    if x.shape[0] == 0 or x.shape[1] == 0:
        return x.new_zeros((*lead, values.shape[-3], size, size))
    out = _scale(x if whole else torch.where(weight > 0, x, 0), size, how)
    if not whole:
        w = _scale(weight, size, how)
        out = torch.where(w > 1e-6, out / w.clamp_min(1e-6), 0)
    return out.reshape(*lead, *out.shape[1:])


def mask(values: Tensor, size: int) -> Tensor:
    """(..., H, W) of any dtype -> (..., size, size): the pixel in the middle of each new one."""
    import torch

    def at(n: int) -> Tensor:
        return ((torch.arange(size) + 0.5) * n / size).floor().long().clamp(max=n - 1)

    return values[..., at(values.shape[-2])[:, None], at(values.shape[-1])]


def _scale(x: Tensor, size: int, how: str) -> Tensor:
    from torch.nn.functional import interpolate

    if how == "area":
        return interpolate(x, size=(size, size), mode="area")
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
