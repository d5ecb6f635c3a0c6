"""Residual networks (He et al. 2015, arXiv 1512.03385) as encoders: features of four levels, no classifier.

ResNet-50 has 23.51 M parameters without the classifier (18: 11.18 M, 34: 21.28 M, 101: 42.50 M) and, with three bands
of 224 x 224, 4.09 G multiply-adds. The stride of a bottleneck is in its 3 x 3 convolution, as everywhere today.
Our choices: any number of bands, width and norm; a stem that keeps more of the resolution.
"""

from __future__ import annotations

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
    """(B, C, H, W) -> [C2, C3, C4, C5], of `channels` and of strides `strides` (4, 8, 16, 32 with the usual stem).

    kind: a key of LAYERS. width: channels of the first level (before a bottleneck's factor 4). norm: see units.norm.
    stem_stride: 4 (7 x 7 with stride 2, 3 x 3 max pooling), 2 (no pooling) or 1 (7 x 7 alone). H and W must be
    multiples of the last stride.
    """

    def __init__(
        self, inputs: int, kind: str = "resnet50", *, width: int = 64, norm: str = "group", stem_stride: int = 4
    ) -> None:
        super().__init__()
        if kind not in LAYERS:
            raise ValueError(f"encoder '{kind}' is not one of {', '.join(LAYERS)}")
        if stem_stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride {stem_stride} is not one of {STEM_STRIDES}")
        bottleneck, counts = LAYERS[kind]
        self.channels = tuple(width * 2**i * (4 if bottleneck else 1) for i in range(4))
        self.strides = tuple(stem_stride * 2**i for i in range(4))
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
                    for b in range(counts[i])
                )
            )
            for i in range(4)
        )
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
