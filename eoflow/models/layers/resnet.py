"""Residual networks (He et al. 2015, arXiv 1512.03385) as encoders, and feature pyramids on them (arXiv 1612.03144).

ResNet-50 has 23.51 M parameters without the classifier (18: 11.18 M, 34: 21.28 M, 101: 42.50 M) and, with three bands
of 224 x 224, 4.09 G multiply-adds. The stride of a bottleneck is in its 3 x 3 convolution, as everywhere today.
Our choices: any number of bands, levels, width and norm; a stem that keeps more of the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.layers.units import he_initialised, norm

LAYERS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
"""Kind -> bottleneck blocks or not, blocks a level."""
STEM_STRIDES = (1, 2, 4)


def _conv(inputs: int, outputs: int, kernel: int, kind: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=kind == "none")
    return nn.Sequential(conv, norm(kind, outputs))


class Residual(nn.Module):
    """ReLU(x + branch(x)): (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    branch: two 3 x 3 convolutions, or a bottleneck (1 x 1, 3 x 3, 1 x 1) whose inside has a quarter of C_out.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool, kind: str) -> None:
        super().__init__()
        if bottleneck:
            inner = outputs // 4
            parts = [
                _conv(inputs, inner, 1, kind),
                _conv(inner, inner, 3, kind, stride),
                _conv(inner, outputs, 1, kind),
            ]
        else:
            parts = [_conv(inputs, outputs, 3, kind, stride), _conv(outputs, outputs, 3, kind)]
        self.branch = nn.ModuleList(parts)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, kind, stride)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = x
        for i, part in enumerate(self.branch):
            y = part(F.relu(y) if i else y)
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """(B, C, H, W) -> [C2, C3, ...], of `channels` and of strides `strides` (4, 8, 16, 32 with the usual stem).

    kind: a key of LAYERS, or the number of plain blocks of each level. width: channels of the first level (before a
    bottleneck's factor 4), doubled a level. norm: see units.norm. stem_stride: 4 (7 x 7 with stride 2, 3 x 3 max
    pooling), 2 (no pooling) or 1 (7 x 7 alone). H and W must be multiples of the last stride.
    radius: pixels around a place of the last level that reach it, a norm over the whole picture aside.
    """

    def __init__(
        self,
        inputs: int,
        kind: str | Sequence[int] = "resnet50",
        *,
        width: int = 64,
        norm: str = "group",
        stem_stride: int = 4,
    ) -> None:
        super().__init__()
        bottleneck, counts = _layers(kind)
        if stem_stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride {stem_stride} is not one of {STEM_STRIDES}")
        self.channels = tuple(width * 2**i * (4 if bottleneck else 1) for i in range(len(counts)))
        self.strides = tuple(stem_stride * 2**i for i in range(len(counts)))
        self.pools = stem_stride == 4
        self.stem = _conv(inputs, width, 7, norm, stride=1 if stem_stride == 1 else 2)
        before = [width, *self.channels]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    Residual(
                        self.channels[i] if b else before[i],
                        self.channels[i],
                        2 if i and not b else 1,
                        bottleneck,
                        norm,
                    )
                    for b in range(count)
                )
            )
            for i, count in enumerate(counts)
        )
        self.radius = 3 + 2 * self.pools
        for i, count in enumerate(counts):  # the first 3 x 3 of a level reads the places of the level before
            convolutions = count if bottleneck else 2 * count
            self.radius += self.strides[max(i - 1, 0)] + (convolutions - 1) * self.strides[i]
        he_initialised(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        x = F.relu(cast(Tensor, self.stem(x)))
        if self.pools:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


def _layers(kind: str | Sequence[int]) -> tuple[bool, tuple[int, ...]]:
    """Bottleneck blocks or not, blocks a level."""
    if isinstance(kind, str):
        if kind not in LAYERS:
            raise ValueError(f"encoder '{kind}' is not one of {', '.join(LAYERS)}")
        return LAYERS[kind]
    if not kind or min(kind) < 1:
        raise ValueError(f"blocks {tuple(kind)}: every stage needs one or more")
    return False, tuple(kind)


class FeaturePyramid(nn.Module):
    """[(B, C_i, H / 2^i, W / 2^i)] -> [(B, width, same size)]: 1 x 1 lateral, nearest top-down sum, 3 x 3.

    levels: how many are given, the finest ones; None: all.
    """

    def __init__(self, channels: tuple[int, ...], width: int, levels: int | None = None) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels[:levels])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """See the class."""
        sums = [lateral(x) for lateral, x in zip(self.lateral, features)]
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + F.interpolate(sums[i + 1], scale_factor=2.0, mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, sums)]


class DenseEncoder(nn.Module):
    """A residual network and the finest map of its pyramid: (B, C, H, W) -> (B, features, H / stride, W / stride).

    For H and W that `multiple` divides. kind, width, norm, stem_stride: of ResNet, whose first stride is `stride`.
    radius: pixels around a feature's stride x stride pixels that reach it, a norm over the whole picture aside.
    """

    def __init__(
        self,
        inputs: int,
        kind: str | Sequence[int] = "resnet18",
        *,
        width: int = 64,
        features: int = 256,
        norm: str = "batch",
        stem_stride: int = 4,
    ) -> None:
        super().__init__()
        self.encoder = ResNet(inputs, kind, width=width, norm=norm, stem_stride=stem_stride)
        self.pyramid = FeaturePyramid(self.encoder.channels, features, levels=1)
        self.stride, self.multiple = self.encoder.strides[0], self.encoder.strides[-1]
        # Nearest-neighbour enlargement spreads a place over its cell; then the smoothing.
        self.radius = self.encoder.radius + self.multiple + self.stride
        he_initialised(self.pyramid)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        (finest,) = self.pyramid(self.encoder(x))
        return cast(Tensor, finest)
