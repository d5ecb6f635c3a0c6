"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597).

From the paper: a contracting path of two 3 x 3 convolutions and a 2 x 2 max pooling a level with doubled width, an
expanding path of 2 x 2 up-convolutions that halve the width, each joined with the features of the same level by
concatenation; widths 64 to 1024; He initialisation; dropout at the end of the contracting path. With one band in, two
classes out and no normalisation these are the 31.03 M parameters of the published network; the narrow one of the
U-Net++ paper (32 to 512) has its 7,759,521.
Our choices: padded convolutions, so that the output has the size of the input (the paper crops); GroupNorm after each
convolution (2018, small batches; samples never see each other); optional bilinear upsampling instead of up-convolution;
dates and bands are joined as channels; unusable pixels are set to the mean of their band and so have no influence.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageSignature
from eoflow.models.layers.units import he_initialised
from eoflow.models.layers.ushape import UShaped


class UNet(UShaped):
    """images (B, T, C, H, W), usable (B, T, H, W) -> {logits: (B, K, H, W)}.

    Options: those of UShaped; width 64 is the paper's. dropout: in the two deepest levels.
    """

    def __init__(self, signature: ImageSignature, *, width: int = 64, **options: Any) -> None:
        super().__init__(signature, width=width, **options)
        depth, dropout = self.depth, self.options["dropout"]
        self.encoder = self.contracting([dropout if i >= max(depth - 1, 1) else 0.0 for i in range(depth + 1)])
        self.ups = nn.ModuleList(self.rise(i) for i in range(depth))
        self.decoder = nn.ModuleList(self.unit(2 * w, w) for w in self.widths[:-1])
        self.head = nn.Conv2d(self.widths[0], signature.outputs, 1)
        he_initialised(self)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        x, (height, width) = self.picture(images, usable)
        x = cast(Tensor, self.encoder[0](x))
        skips = []
        for unit in self.encoder[1:]:  # type: ignore[union-attr]
            skips.append(x)
            x = unit(F.max_pool2d(x, 2))
        for up, unit, skip in zip(reversed(self.ups), reversed(self.decoder), reversed(skips)):  # type: ignore[call-overload]
            x = unit(torch.cat([skip, up(x)], dim=1))
        return {"logits": self.head(x)[..., :height, :width]}
