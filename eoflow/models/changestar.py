"""ChangeStar: change and semantics of two dates from one dense encoder (arXiv 2108.07002, 2406.15694,
2406.17998).

From the papers: any segmentation encoder runs on both dates; a small head turns the two feature maps into
change, a shared 1 x 1 head turns each into classes; both are enlarged four times. Two change heads:
`1xd` (ChangeStar 1 x d of Changen and Changen2): one 3 x 3 convolution with layer norm and GELU on (t1, t2)
plus the same on (t2, t1), so that the order of the dates cannot matter; d = 96 in Changen, 256 in Changen2.
`changemixin` (ChangeStar2): a temporal swap module on the concatenation and a temporal difference module on
|t1 - t2|.
Our choices: the encoder is a ResNet-18 with a feature pyramid written here; outside training the
ChangeMixin's logits are the mean of both orders, so that a product does not depend on the order either;
padding inside; pixels that are not seen on both dates are zero on both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.drop import DropPath
from eoflow.models.layers.pair import two_dates
from eoflow.models.layers.resnet import DenseEncoder
from eoflow.models.layers.units import PixelNorm

HEADS = ("1xd", "changemixin")


class OneByD(nn.Module):
    """Change features (B, d, H, W) of two feature maps (B, C, H, W), equal for both orders of them."""

    def __init__(self, features: int, d: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(2 * features, d, 3, padding=1, bias=False), PixelNorm(d), nn.GELU()
        )

    def forward(self, t1: Tensor, t2: Tensor) -> Tensor:
        """See the class."""
        return self.mix(torch.cat([t1, t2], dim=1)) + self.mix(torch.cat([t2, t1], dim=1))


class _ConvNeXt(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545): depthwise 7 x 7, layer norm, two pointwise layers, layer scale."""

    def __init__(self, width: int, kernel: int = 7, scale: float = 1e-6) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        wide = 4 * width
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width)
        )
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> same shape."""
        return x + (self.scale * self.mix(self.near(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class ChangeMixin(nn.Module):
    """Change features (B, d, H, W) of two feature maps; the swap module sees their order, the difference does
    not.
    """

    def __init__(self, features: int, d: int, convolutions: int, drop_path: float, blocks: int) -> None:
        super().__init__()
        self.join = nn.Sequential(nn.Conv2d(2 * features, d, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU())
        swap: list[nn.Module] = []
        for _ in range(convolutions):
            swap += [nn.Conv2d(d, d, 3, padding=1, bias=False), nn.BatchNorm2d(d), nn.ReLU()]
        self.swap = nn.Sequential(*swap, DropPath(drop_path))
        self.difference = nn.Sequential(
            nn.GroupNorm(1, features, affine=False),
            nn.Conv2d(features, d, 1),
            nn.ReLU(),
            *(_ConvNeXt(d) for _ in range(blocks)),
        )
        self.project = nn.Sequential(nn.ReLU(), nn.Conv2d(d, d, 1))

    def forward(self, t1: Tensor, t2: Tensor) -> Tensor:
        """See the class."""
        joined = self.join(torch.cat([t1, t2], dim=1))
        return self.project(joined + self.swap(joined) + self.difference((t1 - t2).abs()))


class ChangeStar(ImageModel):
    """Change and classes of two dates.

    Returns `logits` (B, K, H, W) of change, `before` and `after` (B, classes, H, W) semantic logits of the
    two dates; in training with `changemixin` also `logits_reversed`, the change of (t2, t1), for the
    symmetric loss.

    Options
        head: '1xd' or 'changemixin'. d: channels of the change head; None: the paper's 96 or 16.
        classes: semantic classes (1: one object class, a sigmoid). 0: no semantic head.
        width, blocks, features: of the encoder (layers.resnet.DenseEncoder; blocks may name a kind of ResNet).
        norm: of the encoder: 'batch' or 'layer', which leave the receptive field finite outside training; 'group'.
        stem_stride: 4, or 2 or 1 for a picture whose objects are a few pixels wide (the cost grows by 4 a step).
        convolutions, drop_path, difference_blocks: of the ChangeMixin's swap and difference modules.

    Values of pixels that are not usable on both dates do not matter. With `1xd` the receptive field is finite
    in eval mode; the ChangeMixin normalises its difference over the whole window, so there `halo` is what a
    window needs in practice.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        head: str = "1xd",
        d: int | None = None,
        classes: int = 1,
        width: int = 64,
        blocks: str | Sequence[int] = (2, 2, 2, 2),
        features: int = 256,
        norm: str = "batch",
        stem_stride: int = 4,
        convolutions: int = 3,
        drop_path: float = 0.2,
        difference_blocks: int = 9,
    ) -> None:
        super().__init__(signature)
        if head not in HEADS:
            raise ValueError(f"head '{head}' is not one of {', '.join(HEADS)}")
        if signature.dates != 2:
            raise ValueError(f"change has two dates, the signature says {signature.dates}")
        if classes < 0:
            raise ValueError(f"classes {classes} is negative")
        self.encoder = DenseEncoder(
            signature.channels, blocks, width=width, features=features, norm=norm, stem_stride=stem_stride
        )
        self.multiple = self.encoder.multiple
        self.ordered = head == "changemixin"
        depth = d if d is not None else 16 if self.ordered else 96
        self.head: nn.Module
        if self.ordered:
            self.head = ChangeMixin(features, depth, convolutions, drop_path, difference_blocks)
        else:
            self.head = OneByD(features, depth)
        self.change = nn.Conv2d(depth, signature.outputs, 1)
        self.semantic = nn.Conv2d(features, classes, 1) if classes else None
        self.ground = classes
        wide = convolutions + 3 * difference_blocks if self.ordered else 1
        # After the encoder's radius: the head's kernels, the enlargement, and the places' own pixels.
        self.halo = self.encoder.radius + self.encoder.stride * (wide + 2)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        before, after, _ = two_dates(images, usable)
        stacked, size = padded(torch.cat([before, after]), self.multiple)
        t1, t2 = self.encoder(stacked).chunk(2)
        logits = self._enlarged(self.change(self.head(t1, t2)), size)
        out = {"logits": logits}
        if self.ordered:
            swapped = self._enlarged(self.change(self.head(t2, t1)), size)
            if self.training:
                out["logits_reversed"] = swapped
            else:
                out["logits"] = (logits + swapped) / 2
        if self.semantic is not None:
            out["before"] = self._enlarged(self.semantic(t1), size)
            out["after"] = self._enlarged(self.semantic(t2), size)
        return out

    def _enlarged(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """From the encoder's places to pixels, bilinear, without the padding."""
        if self.encoder.stride > 1:
            x = F.interpolate(x, scale_factor=float(self.encoder.stride), mode="bilinear", align_corners=False)
        return x[..., : size[0], : size[1]]


def joint_classes(before: Tensor, after: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """From-class and to-class (B, H, W) int64 that are likeliest together, given the probability of change.

    before, after: class probabilities (B, C, H, W); change: (B, H, W), 0 to 1. The most probable of the C x C
    pairs under p1 * p2 * (change where they differ, 1 - change where they are equal), as in ChangeStar2.
    """
    classes = before.shape[1]
    pairs = before[:, :, None] * after[:, None, :]
    same = torch.eye(classes, dtype=torch.bool, device=before.device)[None, :, :, None, None]
    given = change[:, None, None]
    best = (pairs * torch.where(same, 1 - given, given)).flatten(1, 2).argmax(dim=1)
    return best // classes, best % classes
