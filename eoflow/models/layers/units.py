"""What U-shaped networks are built of: normalisation by name, a convolution unit, upsampling by name, their reach."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("group", "layer", "batch", "none")
UPS = ("transposed", "resize")


class PixelNorm(nn.Module):
    """Normalise the channels of each pixel alone: x (B, C, H, W) -> same shape. Its reach is the pixel itself."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


def norm(kind: str, channels: int) -> nn.Module:
    """Normalisation over (B, C, H, W). All but 'none' have 2 C parameters.

    group: GroupNorm of at most 8 groups with at least 4 channels each (statistics over the whole picture, one sample);
    layer: over the channels of a pixel; batch: BatchNorm (samples of a training batch see each other).
    """
    if kind == "group":
        groups = max(g for g in range(1, 9) if channels % g == 0 and (g == 1 or channels // g >= 4))
        return nn.GroupNorm(groups, channels)
    if kind == "layer":
        return PixelNorm(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm '{kind}' is not one of {', '.join(NORMS)}")


class ConvUnit(nn.Sequential):
    """`convs` times (3 x 3 convolution, norm, ReLU, dropout): (B, C_in, H, W) -> (B, C_out, H, W). Reach: convs."""

    def __init__(self, inputs: int, outputs: int, kind: str, convs: int = 2, dropout: float = 0.0) -> None:
        parts: list[nn.Module] = []
        for i in range(convs):
            parts += [
                nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1, bias=kind == "none"),
                norm(kind, outputs),
                nn.ReLU(inplace=True),
            ]
            if dropout:
                parts.append(nn.Dropout2d(dropout))
        super().__init__(*parts)


class Up(nn.Module):
    """Twice the size: (B, C_in, H, W) -> (B, C_out, 2 H, 2 W).

    transposed: the 2 x 2 up-convolution. resize: bilinear, free of its checkerboard; the 1 x 1 convolution runs before
    the interpolation, with which it commutes, at a quarter of the cost.
    """

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        if kind not in UPS:
            raise ValueError(f"up '{kind}' is not one of {', '.join(UPS)}")
        self.bilinear = kind == "resize"
        self.conv = nn.Conv2d(inputs, outputs, 1) if self.bilinear else nn.ConvTranspose2d(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = cast(Tensor, self.conv(x))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) if self.bilinear else x


def u_reach(depth: int, convs: int, up: str) -> int:
    """Radius of the receptive field of a U of `depth` 2 x 2 poolings with `convs` 3 x 3 convolutions on each side.

    The interval of input pixels behind an output pixel, followed down the decoder and up the encoder; the pixel with
    the worst place in the pooling grid counts. A norm over the whole picture comes on top.
    """
    worst, step = 0, int(up == "resize")
    for x in range(2**depth):
        low = high = x
        for _ in range(depth):
            low, high = (low - convs - step) // 2, (high + convs + step) // 2
        low, high = low - convs, high + convs
        for _ in range(depth):
            low, high = 2 * low - convs, 2 * high + 1 + convs
        worst = max(worst, x - low, high - x)
    return worst


def rounded_up(value: int, multiple: int) -> int:
    """The next multiple, so that a halo keeps the phase of the pooling grid."""
    return -(-value // multiple) * multiple


def he_initialised(model: nn.Module) -> None:
    """Weights of convolutions N(0, 2 / fan_in) (He et al. 2015), biases 0."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
