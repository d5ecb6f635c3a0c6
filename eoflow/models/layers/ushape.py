"""What U-Net and U-Net++ share: their options, the widths of the levels, the picture they take, their reach."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.dates import picture, picture_channels
from eoflow.models.layers.units import ConvUnit, Up, rounded_up, u_reach


class UShaped(ImageModel):
    """A network with levels of 2 x 2 pooling, each wider than the one above it.

    Options
        width, depth, widest: channels of the first level, number of poolings, channels that no level exceeds.
        convs: convolutions a unit. norm: 'group', 'layer', 'batch' or 'none'. up: 'transposed' or 'resize'.
        dropout: probability, of whole channels, where the network has it.
        usable_channel: tell the network where each date is usable.

    halo is the radius of the convolutions' receptive field, rounded up to `multiple`. With norm 'group' the statistics
    of the whole window reach a pixel too; with 'layer', 'batch' (outside training) or 'none' nothing else does, and
    windows that begin at multiples of `multiple` give exactly the picture of the whole scene.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int,
        depth: int = 4,
        widest: int = 1024,
        convs: int = 2,
        norm: str = "group",
        up: str = "transposed",
        dropout: float = 0.0,
        usable_channel: bool = False,
    ) -> None:
        super().__init__(signature)
        self.options: dict[str, Any] = {
            "width": width, "depth": depth, "widest": widest, "convs": convs, "norm": norm, "up": up,
            "dropout": dropout, "usable_channel": usable_channel,
        }  # fmt: skip
        self.depth, self.multiple = depth, 2**depth
        self.halo = rounded_up(u_reach(depth, convs, up), self.multiple)
        self.widths = [min(width * 2**i, max(widest, width)) for i in range(depth + 1)]

    def unit(self, inputs: int, outputs: int, dropout: float = 0.0) -> ConvUnit:
        """Convolutions of the chosen number and norm."""
        return ConvUnit(inputs, outputs, self.options["norm"], self.options["convs"], dropout)

    def rise(self, level: int) -> Up:
        """From the level below to `level`."""
        return Up(self.widths[level + 1], self.widths[level], self.options["up"])

    def contracting(self, dropouts: list[float]) -> nn.ModuleList:
        """The unit of each level on the way down."""
        inputs = [picture_channels(self.signature, self.options["usable_channel"]), *self.widths]
        return nn.ModuleList(self.unit(a, b, p) for a, b, p in zip(inputs, self.widths, dropouts))

    def picture(self, images: Tensor, usable: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        """Dates and bands as channels, padded to `multiple`; and the size before that."""
        return padded(picture(images, usable, self.signature, self.options["usable_channel"]), self.multiple)
