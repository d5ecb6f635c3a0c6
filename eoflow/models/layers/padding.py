"""Padding policies: what lies beyond the edge of the grid. Every spatial convolution pads by one of these.

On a sphere, longitude is a circle and the row beyond a pole is a row of the same hemisphere half a turn away.
On a limited area nothing is known beyond the edge, and the edge value is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.base import Signature
from eoflow.models.layers.depthwise import depthwise_conv2d


class Padding(Protocol):
    """Extends fields by `rows` above and below and `columns` left and right."""

    def __call__(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 2 rows, W + 2 columns)."""
        ...


def wrap_columns(x: Tensor, columns: int) -> Tensor:
    """Circular padding of the last dimension by any number of columns, also more than the width."""
    if columns == 0:
        return x
    width = x.shape[-1]
    if columns <= width:
        return torch.cat([x[..., width - columns :], x, x[..., :columns]], dim=-1)
    index = torch.arange(-columns, width + columns, device=x.device) % width
    return x.index_select(-1, index)


def half_turn(x: Tensor) -> Tensor:
    """Rotate the last dimension by 180 degrees; an odd width falls between two columns and takes their mean."""
    width = x.shape[-1]
    if width % 2 == 0:
        return torch.cat([x[..., width // 2 :], x[..., : width // 2]], dim=-1)
    return (torch.roll(x, width // 2, dims=-1) + torch.roll(x, width // 2 + 1, dims=-1)) / 2


class _Around(torch.autograd.Function):
    """Sphere padding by less than the sphere's size: one copy forward and one back (slices would cost a copy each)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, columns: int, skip: int) -> Tensor:
        ctx.shape, ctx.sizes = x.shape, (rows, columns, skip)
        b, c, height, width = x.shape
        if x.is_contiguous(memory_format=torch.channels_last):
            out = x.new_empty(b, height + 2 * rows, width + 2 * columns, c).permute(0, 3, 1, 2)
        else:
            out = x.new_empty(b, c, height + 2 * rows, width + 2 * columns)
        inner = out[..., columns : columns + width]
        inner[..., rows : rows + height, :] = x
        if rows:
            inner[..., :rows, :] = half_turn(x[..., skip : skip + rows, :].flip(-2))
            inner[..., rows + height :, :] = half_turn(x[..., height - skip - rows : height - skip, :].flip(-2))
        if columns:
            out[..., :columns] = inner[..., width - columns :]
            out[..., columns + width :] = inner[..., :columns]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,), (rows, columns, skip) = grads, ctx.sizes
        height, width = ctx.shape[-2:]
        inner = grad[..., columns : columns + width].clone()
        if columns:
            inner[..., width - columns :] += grad[..., :columns]
            inner[..., :columns] += grad[..., columns + width :]
        out = inner[..., rows : rows + height, :]
        if rows:
            out[..., skip : skip + rows, :] += half_turn(inner[..., :rows, :]).flip(-2)
            out[..., height - skip - rows : height - skip, :] += half_turn(inner[..., rows + height :, :]).flip(-2)
        return out, None, None, None


@dataclass(frozen=True)
class SpherePadding:
    """Longitude circular; across a pole the rows come back flipped and turned by 180 degrees.

    pole_rows: True where the first and last rows lie on the poles themselves (90, 87.5, ...), False where the
    pole is the edge between two rows (87.2, 81.6, ...). Scalars are continued exactly. The components of a
    vector would also change sign; latent features are left as they are.
    """

    pole_rows: bool = False

    def __call__(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Pad (B, C, H, W)."""
        if rows <= x.shape[-2] - self.pole_rows and columns <= x.shape[-1]:
            return cast(Tensor, _Around.apply(x, rows, columns, int(self.pole_rows)))  # type: ignore[no-untyped-call]
        return wrap_columns(self._over_both_poles(x, rows), columns)

    def _over_both_poles(self, x: Tensor, rows: int) -> Tensor:
        height, skip = x.shape[-2], int(self.pole_rows)
        # A kernel larger than the sphere walks over both poles; rows repeat after one full meridian circle.
        circle = max(2 * (height - skip), 1)
        position = torch.arange(-rows, height + rows, device=x.device) % circle
        beyond = position >= height
        source = torch.where(beyond, circle - int(not self.pole_rows) - position, position)
        picked, turned = x.index_select(-2, source), half_turn(x).index_select(-2, source)
        return torch.where(beyond[:, None], turned, picked)


@dataclass(frozen=True)
class BandPadding:
    """Longitude circular, latitude limited: a zonal band that does not reach both poles."""

    def __call__(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Pad (B, C, H, W)."""
        if rows:
            x = F.pad(x, (0, 0, rows, rows), mode="replicate")
        return wrap_columns(x, columns)


@dataclass(frozen=True)
class LimitedAreaPadding:
    """Beyond the edge: the edge value (`replicate`), zero (`zeros`) or the mirrored field (`reflect`).

    `reflect` needs more rows and columns than the kernel's radius; on a smaller area the edge value is repeated.
    """

    mode: str = "replicate"

    def __post_init__(self) -> None:
        if self.mode not in ("replicate", "zeros", "reflect"):
            raise ValueError(f"limited-area padding '{self.mode}' is not one of replicate, zeros, reflect")

    def __call__(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Pad (B, C, H, W)."""
        if rows == 0 and columns == 0:
            return x
        sides = (columns, columns, rows, rows)
        if self.mode == "zeros":
            return F.pad(x, sides)
        fits = rows < x.shape[-2] and columns < x.shape[-1]
        return F.pad(x, sides, mode="reflect" if self.mode == "reflect" and fits else "replicate")


def padding_for(signature: Signature, *, patch: int = 1, limited: str = "replicate") -> Padding:
    """The policy of a grid: sphere, zonal band or limited area. `patch` > 1: cells of a coarser, patched grid."""
    if signature.global_:
        on_pole = max(abs(signature.latitude[0]), abs(signature.latitude[-1])) > 90.0 - 1e-3
        return SpherePadding(pole_rows=on_pole and patch == 1)
    if signature.wraps:
        return BandPadding()
    return LimitedAreaPadding(limited)


class PaddedConv2d(nn.Module):
    """A convolution of unchanged size: pad by the policy, then a valid convolution. Odd kernels only.

    Weights as in torch.nn.Conv2d: (out, in / groups, kernel, kernel) and bias (out,).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, padding: Padding, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even: only odd kernels keep the grid")
        self.padding = padding
        self.reach = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        x = self.padding(x, self.reach, self.reach)
        if self.conv.groups > 1 and self.conv.groups == self.conv.in_channels == self.conv.out_channels:
            assert self.conv.bias is not None
            return depthwise_conv2d(x, self.conv.weight, self.conv.bias, self.conv.dilation[0])
        return self.conv(x)
