"""A dense encoder: a residual network of four stages (arXiv 1512.03385) with a feature pyramid (arXiv
1612.03144).

Whatever the number of bands, it gives one feature map at a quarter of the resolution. With the default widths
it is a ResNet-18. Batch norm, so that in eval mode the receptive field is finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def _normed(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, and batch norm."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(_normed(c_in, c_out, 3, stride), nn.ReLU(), _normed(c_out, c_out, 3))
        self.shortcut = nn.Identity() if stride == 1 and c_in == c_out else _normed(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        return F.relu(self.convolve(x) + self.shortcut(x))


class DenseEncoder(nn.Module):
    """(B, C, H, W) -> (B, features, H / 4, W / 4), for H and W that `multiple` divides.

    width: channels of the first stage; the next three double them. blocks: residual blocks of each stage.
    features: channels of the pyramid. radius: pixels around a feature's 4 x 4 pixels that reach it, in eval
    mode.
    """

    def __init__(
        self, channels: int, *, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2), features: int = 256
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1:
            raise ValueError(f"blocks {tuple(blocks)}: every stage needs one or more")
        self.multiple = 2 ** (len(blocks) + 1)
        self.stem = nn.Sequential(_normed(channels, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [width * 2**i for i in range(len(blocks))]
        self.stages = nn.ModuleList()
        self.radius = (
            3 + 2
        )  # of the stem's 7 x 7 convolution at the full and of its pooling at half the resolution
        for i, (c_in, c_out, count) in enumerate(zip([width, *widths], widths, blocks)):
            first = _Residual(c_in, c_out, 1 if i == 0 else 2)
            self.stages.append(nn.Sequential(first, *(_Residual(c_out, c_out, 1) for _ in range(count - 1))))
            fine = 4 if i == 0 else 2 ** (i + 1)  # pixels between the places its first convolution reads
            self.radius += fine + (2 * count - 1) * 2 ** (i + 2)
        # Nearest-neighbour enlargement spreads a place over its cell; then the smoothing.
        self.radius += 2 ** (len(blocks) + 1) + 4
        self.lateral = nn.ModuleList(nn.Conv2d(c, features, 1) for c in widths)
        self.smooth = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top = self.lateral[-1](levels[-1])
        for lateral, level in zip(reversed(self.lateral[:-1]), reversed(levels[:-1])):
            top = lateral(level) + F.interpolate(top, size=level.shape[-2:], mode="nearest")
        return self.smooth(top)
