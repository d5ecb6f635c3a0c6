"""RS-DiT: the resolution-scalable diffusion transformer of Changen2 (arXiv 2406.17998), small, on pixels.

From the paper: no positional embedding, a 3 x 3 depthwise convolution in the MLP tells tokens where they are; attention
inside windows of 8 x 8 tokens, over all of them in every fourth block, so that an image of any size can be made; the
label map is embedded densely (3 x 3 convolutions with layer norm and SiLU, halving down to the tokens) and added to the
embedding of time; each token gets its own shift, scale and gate from that (adaLN-zero per token), all zero before
training, so that every block starts as the identity.
Our choices: images instead of the latents of an autoencoder (patch 4 instead of 2), no learned variance, v prediction,
and labels that also enter beside the pixels: what a roof looks like does not follow from the mask, only where it ends,
and a network that hears of the mask through zero gates alone is slow to find that out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models import diffusion
from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.units import PixelNorm

UNTOLD = 0.1
"""Share of the training images whose labels are hidden, so that what the labels add can be told (guidance)."""
LOOKED_AT = 0.6
"""Time at which the network is looked at outside training: half noise and more, where a mask is worth most."""


def time_features(t: Tensor, width: int) -> Tensor:
    """(B,) times of 0..1 -> (B, width): cosines and sines of 1 to 10,000 radians over the whole range."""
    half = width // 2
    waves = torch.exp(torch.arange(half, device=t.device) * (math.log(10_000.0) / max(half - 1, 1)))
    angle = t[:, None].float() * waves
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class LabelEmbedding(nn.Module):
    """(B, K, H, W) classes, one-hot or in shares -> (B, width, H / patch, W / patch)."""

    def __init__(self, classes: int, width: int, patch: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [max(width // 2**k, 8) for k in (3, 2, 1, 0)]
        layers: list[nn.Module] = []
        c_in = classes
        for k, c in enumerate(widths):
            stride = 2 if k < halvings else 1
            for s in (1, stride):
                layers += [nn.Conv2d(c_in, c, 3, s, 1), PixelNorm(c), nn.SiLU()]
                c_in = c
        self.layers = nn.Sequential(*layers)

    def forward(self, labels: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.layers(labels)
        return out


class _Block(nn.Module):
    """Attention and MLP over (B, h, w, D), each shifted, scaled and gated token by token."""

    def __init__(self, width: int, heads: int, window: int | None, ratio: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(width * ratio)
        self.wide = nn.Linear(width, hidden)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Linear(hidden, width)
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def _attend(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> same shape, inside windows or over everything."""
        b, h, w, d = x.shape
        k = self.window
        if k is None:
            tokens = x.reshape(b, h * w, d)
        else:
            tokens = x.reshape(b, h // k, k, w // k, k, d).transpose(2, 3).reshape(-1, k * k, d)
        q, key, v = self.qkv(tokens).unflatten(-1, (3, self.heads, d // self.heads)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2)
        if k is None:
            out = out.reshape(b, h, w, d)
        else:
            out = out.reshape(b, h // k, w // k, k, k, d).transpose(2, 3).reshape(b, h, w, d)
        result: Tensor = self.out(out)
        return result

    def _mlp(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        x = x + self.near(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.narrow(F.gelu(x))
        return out

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x, condition (B, h, w, D) -> (B, h, w, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(F.silu(condition)).chunk(6, dim=-1)
        x = x + gate1 * self._attend(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self._mlp(self.norm2(x) * (1 + scale2) + shift2)


class RSDiT(nn.Module):
    """v of a noised image, given its time and its label map.

    forward(x (B, C, H, W), t (B,) of 0..1, labels (B, K, H, W) one-hot or in shares) -> (B, C, H, W). H and W are
    multiples of `multiple` = patch * window; ValueError for others. Labels that are 0 in all classes say nothing: shown
    some of them in training, it can be guided (diffusion.guided).

    patch: pixels a token has along a side (1, 2, 4 or 8). width, depth, heads: of the transformer (the paper's S:
    384, 12, 6). window: tokens a side. global_every: every so many blocks look at all tokens (0: none).
    """

    def __init__(
        self, channels: int, classes: int, *, patch: int = 4, width: int = 192, depth: int = 6, heads: int = 6,
        window: int = 8, global_every: int = 4, ratio: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if patch not in (1, 2, 4, 8):
            raise ValueError(f"patch {patch} is not 1, 2, 4 or 8")
        if width % heads or width % 2:
            raise ValueError(f"width {width} cannot be divided among {heads} heads")
        self.patch, self.multiple, self.channels = patch, patch * window, channels
        self.width = width
        self.tokens = nn.Conv2d(channels + classes, width, patch, patch)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = LabelEmbedding(classes, width, patch)
        self.blocks = nn.ModuleList(
            _Block(width, heads, None if global_every and (k + 1) % global_every == 0 else window, ratio)
            for k in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, patch * patch * channels)
        for layer in (self.modulate, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple or labels.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"images of {height} x {width} with labels of {tuple(labels.shape[-2:])}: both have one size, a "
                f"multiple of {self.multiple}"
            )
        condition = self.labels(labels) + self.time(time_features(t, self.width).to(x))[:, :, None, None]
        condition = condition.permute(0, 2, 3, 1)
        h = self.tokens(torch.cat([x, labels.to(x)], dim=1)).permute(0, 2, 3, 1)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulate(F.silu(condition)).chunk(2, dim=-1)
        out = self.last(self.norm(h) * (1 + scale) + shift).permute(0, 3, 1, 2)
        return F.pixel_shuffle(out, self.patch)


class Synthesizer(ImageModel):
    """RS-DiT as an image model, trained on single labelled dates.

    images (B, 1, C + 1, H, W): bands, and behind them the class of each pixel by number (others: not known).
    Any size: padded to windows inside.

    Returns `velocity` and `target` (B, C, H, W): what it says of a noised image, and what is true (models/diffusion).
    In training time and noise are drawn, and the labels of some images hidden; otherwise the time is LOOKED_AT and the
    noise always the same, and `untold` is what it says without labels and `image` what it takes the image to be.

    Options: classes, how many there are; those of RSDiT.
    """

    def __init__(
        self, signature: ImageSignature, *, classes: int = 2, patch: int = 4, width: int = 192, depth: int = 6,
        heads: int = 6, window: int = 8, global_every: int = 4, ratio: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__(signature)
        if signature.channels != signature.outputs + 1 or signature.dates != 1:
            raise ValueError(f"it takes one date of bands and a map of classes, not {signature}")
        self.classes = classes
        self.network = RSDiT(
            signature.outputs, classes, patch=patch, width=width, depth=depth, heads=heads, window=window,
            global_every=global_every, ratio=ratio,
        )  # fmt: skip
        self.halo = self.network.multiple

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        whole, (height, width) = padded(images[:, 0], self.network.multiple)
        image, labels = whole[:, :-1], self.shares(whole[:, -1])
        if usable is not None:
            seen = padded(usable.to(whole.dtype), self.network.multiple)[0] > 0.5
            image, labels = image.masked_fill(~seen, 0.0), labels.masked_fill(~seen, 0.0)
        count = len(image)
        if self.training:
            first = torch.rand((), device=image.device)
            t = (first + torch.arange(count, device=image.device) / count) % 1  # spread over the batch
            noise = torch.randn_like(image)
            hidden = torch.rand(count, 1, 1, 1, device=image.device) < UNTOLD
            labels = labels.masked_fill(hidden, 0.0)
        else:
            t = torch.full((count,), LOOKED_AT, device=image.device)
            same = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(0))
            noise = same.to(image.device).expand_as(image)
        now = diffusion.noised(image, noise, t)
        told: Tensor = self.network(now, t, labels)
        out = {"velocity": told, "target": diffusion.velocity(image, noise, t)}
        if not self.training:
            a, s = diffusion.levels(t)
            out |= {"untold": self.network(now, t, torch.zeros_like(labels)), "image": a * now - s * told}
        return {name: x[..., :height, :width] for name, x in out.items()}

    def shares(self, classes: Tensor) -> Tensor:
        """Numbers (B, H, W) -> (B, K, H, W): 1 where the pixel is of the class; 0 in all where it is not known."""
        return torch.stack([classes == k for k in range(self.classes)], dim=1).to(torch.float32)
