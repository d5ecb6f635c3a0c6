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

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.dates import picture, picture_channels
from eoflow.models.layers.units import ConvUnit, Up, he_initialised, rounded_up, u_reach


class UNet(ImageModel):
    """images (B, T, C, H, W), usable (B, T, H, W) -> {logits: (B, K, H, W)}.

    Options
        width, depth, widest: channels of the first level, number of poolings, channels that no level exceeds.
        convs: convolutions a unit. norm: 'group', 'layer', 'batch' or 'none'. up: 'transposed' or 'resize'.
        dropout: probability, of whole channels, in the two deepest levels.
        usable_channel: tell the network where each date is usable.

    halo is the radius of the convolutions' receptive field, rounded up to `multiple`. With norm 'group' the statistics
    of the whole window reach a pixel too; with 'layer', 'batch' (outside training) or 'none' nothing else does, and
    windows that begin at multiples of `multiple` give exactly the picture of the whole scene.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int = 64,
        depth: int = 4,
        widest: int = 1024,
        convs: int = 2,
        norm: str = "group",
        up: str = "transposed",
        dropout: float = 0.0,
        usable_channel: bool = False,
    ) -> None:
        super().__init__(signature)
        self.usable_channel = usable_channel
        self.multiple = 2**depth
        self.halo = rounded_up(u_reach(depth, convs, up), self.multiple)
        widths = [min(width * 2**i, max(widest, width)) for i in range(depth + 1)]
        inputs = [picture_channels(signature, usable_channel), *widths]
        self.encoder = nn.ModuleList(
            ConvUnit(inputs[i], widths[i], norm, convs, dropout if i >= max(depth - 1, 1) else 0.0)
            for i in range(depth + 1)
        )
        self.ups = nn.ModuleList(Up(widths[i + 1], widths[i], up) for i in range(depth))
        self.decoder = nn.ModuleList(ConvUnit(2 * widths[i], widths[i], norm, convs) for i in range(depth))
        self.head = nn.Conv2d(widths[0], signature.outputs, 1)
        he_initialised(self)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        x, (height, width) = padded(picture(images, usable, self.signature, self.usable_channel), self.multiple)
        x = cast(Tensor, self.encoder[0](x))
        skips = []
        for unit in self.encoder[1:]:  # type: ignore[union-attr]
            skips.append(x)
            x = unit(F.max_pool2d(x, 2))
        for up, unit, skip in zip(reversed(self.ups), reversed(self.decoder), reversed(skips)):  # type: ignore[call-overload]
            x = unit(torch.cat([skip, up(x)], dim=1))
        return {"logits": self.head(x)[..., :height, :width]}
