"""Progressive multi-scale attention autoencoder for cloud removal: PMAA (arXiv 2303.16565).

From the paper and its authors' files: one extractor shared by all dates (six residual bottlenecks, a cloud head whose
probability gates four of them, atrous pyramid pooling); the dates' features concatenated and brought through three
U-blocks, each an encoder of strided convolutions, one attention of the Conv2Former kind (arXiv 2211.11943) at the
coarsest scale that gates every scale (MAM), and a decoder that goes from coarse to fine by the same gate (LIM);
instance normalisation without weights, which is what the authors' training scripts put in the place of batch
normalisation and what the published size is of: 3.45 M parameters and 92.34 G multiply-adds at 3 x 4 x 256 x 256
(with a 7 x 7 head; 3.44 M and 91.94 G with a 1 x 1). Here 3.44 M and 90.2 G: the published count has the auxiliary
head (0.2 G), the pooled branch at every pixel (0.8 G) and normalisations (1 G). The strided 3 x 3 convolutions are
dense: the paper calls them depth-wise, but its figures only come out so.

Our choices:
- The cloud head learns from the quality layer (`cloud` logits, True where not usable) and not from a frozen teacher.
- The decoder starts from the deepest scale. In the authors' code that scale is computed and not used.
- Nothing that a normalisation removes has weights: a scale per channel follows one and does not precede it, no bias
  precedes one, and the globally pooled branch of the pyramid, a constant plane, joins after it.
- The auxiliary prediction of each date is an option: without its loss its weights would never learn.
- `base`: instance normalisation of the first layer removes the level and the contrast of each date, so that the
  network has to guess the absolute reflectance. With a base it corrects a composite instead, and starts as that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.filling import check_base, first_guess
from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.drop import DropPath


class PlaneNorm(nn.Module):
    """Instance normalisation without weights; a plane of one pixel becomes zero instead of an error."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape, each plane with mean 0 and variance 1."""
        return torch.group_norm(x, int(x.shape[1]), None, None, 1e-5)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution of unchanged size (or 1 / stride), normalisation, ReLU."""
    reach = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, reach, dilation, bias=False)
    return nn.Sequential(conv, PlaneNorm(), nn.ReLU())


class Extractor(nn.Module):
    """Features of one date and where it is cloudy. (B, C, H, W) -> (B, width, H, W) and logits (B, 1, H, W)."""

    def __init__(self, channels: int, width: int, pyramid: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.stem = conv_norm(channels, width, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_norm(width, width), conv_norm(width, width, 3, dilation=2), conv_norm(width, width))
            for _ in range(6)
        )
        self.cloud = nn.Sequential(
            conv_norm(width, 2 * width), conv_norm(2 * width, 4 * width), nn.Conv2d(4 * width, 1, 1)
        )
        self.near = conv_norm(width, pyramid)
        self.far = nn.ModuleList(conv_norm(width, pyramid, 3, dilation=rate) for rate in rates)
        self.whole = nn.Conv2d(width, pyramid, 1, bias=False)
        self.join = nn.Sequential(nn.Conv2d((1 + len(rates)) * pyramid, width, 1, bias=False), PlaneNorm())
        self.context = nn.Conv2d(pyramid, width, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        first, *gated, last = self.blocks
        x = self.stem(x)
        x = F.relu(first(x) + x)
        logits = self.cloud(x)
        for i, block in enumerate(gated):
            if i == 2:
                logits = self.cloud(x)
            x = F.relu(block(x) * logits.sigmoid() + x)
        x = F.relu(last(x) + x)
        whole = self.context(F.relu(self.whole(x.mean((-2, -1), keepdim=True))))
        joined = self.join(torch.cat([self.near(x), *(far(x) for far in self.far)], dim=1))
        return self.dropout(F.relu(joined + whole)), logits


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvAttention(nn.Module):
    """One layer of Conv2Former: depth-wise 11 x 11 times values, then an MLP with a 3 x 3; both with layer scale."""

    def __init__(self, width: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.attention = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GELU(), nn.Conv2d(width, width, 11, padding=5, groups=width)
        )
        self.value, self.project = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.widen, self.narrow = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1, bias=False)
        self.around = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.scale = nn.Parameter(torch.full((2, width, 1, 1), 1e-6))
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        y = self.norms[0](x)
        x = x + self.drop(self.scale[0] * self.project(self.attention(y) * self.value(y)))
        y = F.gelu(self.widen(self.norms[1](x)))
        return x + self.drop(self.scale[1] * self.narrow(y + F.gelu(self.around(y))))


class Gate(nn.Module):
    """local * sigmoid(up(gate(coarse))) + up(value(coarse)): a coarser scale modulates a finer one.

    kernel 1: one weight a channel, on normalised planes; larger: depth-wise convolution, then normalisation.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.local, self.gate, self.value = (_depthwise(width, kernel) for _ in range(3))

    def forward(self, local: Tensor, coarse: Tensor) -> Tensor:
        """local (B, C, H, W), coarse (B, C, h, w) -> (B, C, H, W)."""
        size = local.shape[-2:]
        gate = F.interpolate(self.gate(coarse).sigmoid(), size=size)
        return self.local(local) * gate + F.interpolate(self.value(coarse), size=size)


class ScaledNorm(nn.Module):
    """Normalised planes times a weight for each channel: the authors' depth-wise 1 x 1 convolution, after the norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.weight = PlaneNorm(), nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return self.norm(x) * self.weight


def _depthwise(width: int, kernel: int) -> nn.Module:
    if kernel == 1:
        return ScaledNorm(width)
    conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    return nn.Sequential(conv, PlaneNorm())


class UBlock(nn.Module):
    """Encoder, attention over all scales, decoder; plus the sum of the inputs' parts of `outputs` channels each.

    (B, inputs, H, W) -> (B, outputs, H, W), H and W multiples of 2 ** (scales - 1); inputs a multiple of outputs.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, scales: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.enter = nn.Sequential(ScaledNorm(inputs), nn.ReLU(), nn.Conv2d(inputs, hidden, 1, bias=False), PlaneNorm())
        self.encoder = nn.ModuleList(
            nn.Sequential(
                conv_norm(hidden, hidden, 3, stride=1 if i == 0 else 2),
                nn.Conv2d(hidden, hidden, 1, bias=False),
                PlaneNorm(),
            )
            for i in range(scales)
        )
        self.attention = ConvAttention(hidden, mlp_ratio, drop_path)
        self.spread = nn.ModuleList(Gate(hidden, 1) for _ in range(scales))
        self.decoder = nn.ModuleList(Gate(hidden, 5) for _ in range(scales - 1))
        self.leave = nn.Conv2d(hidden, outputs, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y, scales = self.enter(x), []
        for i, step in enumerate(self.encoder):
            # The first step keeps size and channels, and is residual as in the authors' blocks.
            y = step(y) + y if i == 0 else step(y)
            scales.append(y)
        last = len(scales) - 1
        pooled = torch.stack([F.avg_pool2d(scale, 2 ** (last - i)) for i, scale in enumerate(scales)]).sum(0)
        seen = self.attention(pooled)
        fused = [gate(scale, seen) for gate, scale in zip(self.spread, scales)]
        y = fused.pop()
        for gate, local in zip(reversed(self.decoder), reversed(fused)):
            y = gate(local, y)
        return self.leave(y) + x.reshape(len(x), -1, self.outputs, *x.shape[-2:]).sum(1)


def _initialise(module: nn.Module) -> None:
    """Normal with variance 2 / fan-out (of each group), as the authors' blocks start."""
    if isinstance(module, nn.Conv2d):
        fan = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Pmaa(ImageModel):
    """T dates in their order -> one clear image. The first `outputs` channels of a date are what is restored.

    In training also `cloud` (B, T, H, W), logits of "not usable", and with `auxiliary` `frames` (B, T, outputs, H, W),
    a clear image guessed from each date alone (the authors add 50 * L1 of it where they use it).

    Options
        width, hidden: channels of the extractor and of the U-blocks. blocks: U-blocks after the first. scales: of
            each U-block. pyramid, rates: channels and dilations of the pooling pyramid. dropout, drop_path, mlp_ratio,
            head_kernel (odd).
        base: 'none' as in the paper (tanh: images normalised to -1 .. 1), or 'median', 'mean': the network adds to
            that composite of the usable dates, without tanh, and its last layer starts at zero.
        hide_unusable: pixels that are not usable are set to 0 and the mask is one more input channel, so that their
            values cannot matter. False as in the paper: the network sees the clouds, and `usable` only enters `base`.

    The receptive field is the whole image (statistics of the normalisations); `halo` is what a window needs to have
    the local part of it. Samples of a batch do not see each other.
    """

    halo = 64

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int = 32,
        hidden: int = 128,
        blocks: int = 2,
        scales: int = 5,
        pyramid: int = 128,
        rates: Sequence[int] = (12, 24, 36),
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        auxiliary: bool = False,
        base: str = "none",
        head_kernel: int = 7,
        hide_unusable: bool = False,
    ) -> None:
        super().__init__(signature)
        check_base(base)
        if signature.dates < 1:
            raise ValueError("PMAA concatenates the dates: the signature must say how many there are")
        if scales < 2:
            raise ValueError(f"PMAA needs 2 scales or more, not {scales}")
        self.base, self.hide_unusable, self.multiple = base, hide_unusable, 2 ** (scales - 1)
        self.extractor = Extractor(signature.channels + hide_unusable, width, pyramid, rates, dropout)
        self.auxiliary = nn.Conv2d(width, signature.outputs, 3, padding=1) if auxiliary else None
        widths = [width * signature.dates] + blocks * [width]
        self.removal = nn.Sequential(
            *(UBlock(w, hidden, width, scales=scales, mlp_ratio=mlp_ratio, drop_path=drop_path) for w in widths)
        )
        self.head = nn.Conv2d(width, signature.outputs, head_kernel, padding=head_kernel // 2)
        if base != "none":
            nn.init.zeros_(self.head.weight)
            assert self.head.bias is not None
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See ImageModel and the class."""
        dates, outputs = images.shape[1], self.signature.outputs
        if dates != self.signature.dates:
            raise ValueError(f"this PMAA was built for {self.signature.dates} dates and got {dates}")
        x = images
        if self.hide_unusable:
            mask = torch.ones_like(images[:, :, 0], dtype=torch.bool) if usable is None else usable
            x = torch.cat([images.masked_fill(~mask[:, :, None], 0), mask[:, :, None].to(images.dtype)], dim=2)
        x, (height, width) = padded(x, self.multiple)
        features, logits = self.extractor(x.flatten(0, 1))
        y = self.head(self.removal(features.reshape(len(x), -1, *x.shape[-2:])))[..., :height, :width]
        out = {"image": y.tanh() if self.base == "none" else y + first_guess(images, usable, outputs, self.base)}
        if self.training:
            out["cloud"] = logits.reshape(len(x), dates, *x.shape[-2:])[..., :height, :width]
            if self.auxiliary is not None:
                frames = self.auxiliary(features).tanh()
                out["frames"] = frames.reshape(len(x), dates, outputs, *x.shape[-2:])[..., :height, :width]
        return out
