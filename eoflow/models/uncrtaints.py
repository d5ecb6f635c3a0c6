"""A small network that says how sure it is of what it restores, in the spirit of UnCRtainTS (arXiv 2304.05464).

From the paper and its authors' files: a pointwise stem and one MBConv block shared by all dates, attention over the
dates with a learned query for each head (L-TAE, arXiv 2007.00586) whose keys come from max-pooled cells, each head
weighting its own group of channels at full resolution, five MBConv blocks, and a mean and a variance for each band,
trained by the Gaussian likelihood. 0.57 M parameters (published: 0.56 M). Multiply-adds at 3 x 4 x 256 x 256: 35.9 G;
the published 37.16 G also count normalisations and pooling, which is the whole difference.

Our choices:
- No encoding of the dates' times: the order of the dates does not matter, and their number is free. What stands
  between the two linear layers of the keys is a GELU instead.
- `usable` counts: unusable pixels are hidden, their mask is an input, and a date takes part only where it is usable,
  wherever another one is. The paper's network has no masks and finds the clouds itself (`hide_unusable: false`).
- The scores, not the weights, are interpolated from cells to pixels, so that a mask of pixels can act on them.
- Cells are 8 pixels wide at any image size (32 x 32 cells in the paper, the same at its 256 pixels).
- Group normalisation everywhere (the authors' decoder has batch normalisation).
- A log variance between -12 and 4 and not a variance by softplus.
- Radar is a second group of channels with a stem of its own; see `UncrtainTs`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.filling import check_base, first_guess
from eoflow.models.images import ImageModel, ImageSignature, padded

CELL = 8
LOG_VARIANCE = (-12.0, 4.0)
HIDDEN, EMPTY = -1000.0, -2000.0
"""Score of a date at a pixel that it did not see, and of a date that saw nothing: softmax gives them exactly 0
beside a better one, and ordinary weights among themselves."""


class SqueezeExcite(nn.Module):
    """A gate for each channel from the mean over the image."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(width, squeezed, bias=False), nn.GELU(), nn.Linear(squeezed, width, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return x * self.gate(x.mean((-2, -1)))[:, :, None, None]


class MbConv(nn.Module):
    """Inverted residual with squeeze and excitation, group-normalised before and after each convolution."""

    def __init__(self, width: int, expansion: int, groups: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.body = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.GroupNorm(groups, hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, padding_mode="replicate", groups=hidden, bias=False),
            nn.GroupNorm(groups, hidden),
            nn.GELU(),
            SqueezeExcite(hidden, max(width // 4, 1)),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.GroupNorm(groups, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return x + self.body(x)


class DateAttention(nn.Module):
    """Scores of every date for each head: (B, T, C, H, W) -> (B, heads, T, H / 8, W / 8)."""

    def __init__(self, width: int, inner: int, heads: int, key: int) -> None:
        super().__init__()
        self.heads, self.key = heads, key
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU())
        self.keys = nn.Linear(inner, heads * key, bias=False)
        self.query = nn.Parameter(torch.randn(heads, key) * (2 / key) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """See the class. A bias of the keys would add the same to all dates, so there is none."""
        cells = F.max_pool2d(x.flatten(0, 1), CELL).reshape(*x.shape[:3], *(size // CELL for size in x.shape[-2:]))
        keys = self.keys(self.embed(cells.permute(0, 1, 3, 4, 2)))
        keys = keys.reshape(*keys.shape[:-1], self.heads, self.key)
        return (keys * self.query).sum(-1).permute(0, 4, 1, 2, 3) / self.key**0.5


class UncrtainTs(ImageModel):
    """Any number of dates, in any order -> `image` and `log_variance` (B, outputs, H, W), of the normalised image.

    Channels: without `groups` in the signature all are optical; the first `outputs` are what is restored. With groups
    (optical, radar) the radar's channels follow. Radar sees through clouds: it is never hidden, and a date whose radar
    is all zeros has none (its stem has no bias, so that it adds exactly nothing).

    Options
        width: channels inside. inner, heads, key: of the attention; heads divide width. expansion: of the MBConv
            blocks. blocks: of the decoder. norm_groups: of the group normalisation. dropout: of the attention weights.
        base: 'none' as in the paper, or 'median', 'mean': the network adds to that composite of the usable dates, and
            its last layer starts at zero.
        hide_unusable: what a date holds where it is not usable cannot matter, and a date that is usable nowhere
            changes nothing beside one that is.
        radar_dropout: share of the training samples that lose their radar, for a network that also works without.

    Statistics of the normalisations and squeeze-and-excitation see the whole image; `halo` is what a window needs to
    have the local part: 6 pixels of convolutions and the cells from which a score is interpolated. Samples of a batch
    do not see each other.
    """

    halo = 24
    multiple = CELL

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int = 128,
        inner: int = 256,
        heads: int = 16,
        key: int = 4,
        expansion: int = 2,
        blocks: int = 5,
        norm_groups: int = 4,
        dropout: float = 0.1,
        base: str = "none",
        hide_unusable: bool = True,
        radar_dropout: float = 0.0,
    ) -> None:
        super().__init__(signature)
        check_base(base)
        if width % heads or width % norm_groups:
            raise ValueError(f"width {width} must be a multiple of heads ({heads}) and norm_groups ({norm_groups})")
        groups = signature.groups or (signature.channels,)
        if len(groups) > 2 or sum(groups) != signature.channels:
            raise ValueError(f"groups {groups} must be (optical,) or (optical, radar), {signature.channels} in all")
        self.optical, self.base, self.hide_unusable = groups[0], base, hide_unusable
        self.radar_dropout, self.heads, self.dropout = radar_dropout, heads, dropout
        self.stem = nn.Conv2d(self.optical + 1, width, 1)
        self.radar = nn.Conv2d(groups[1], width, 1, bias=False) if len(groups) == 2 else None
        self.enter = nn.Sequential(nn.GroupNorm(norm_groups, width), nn.ReLU(), MbConv(width, expansion, norm_groups))
        self.attention = DateAttention(width, inner, heads, key)
        self.decoder = nn.Sequential(*(MbConv(width, expansion, norm_groups) for _ in range(blocks)))
        self.mean = nn.Conv2d(width, signature.outputs, 1)
        self.spread = nn.Conv2d(width, signature.outputs, 1)
        zeroed = [self.spread.weight, self.spread.bias]
        for parameter in zeroed if base == "none" else [*zeroed, self.mean.weight, self.mean.bias]:
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See ImageModel and the class."""
        seen = torch.ones_like(images[:, :, 0], dtype=torch.bool) if usable is None else usable
        x, (height, width) = padded(images, self.multiple)
        mask = padded(seen.to(images.dtype), self.multiple)[0]
        features = self._features(x, mask)
        y = self.decoder(self._joined(features, mask))[..., :height, :width]
        low, high = LOG_VARIANCE
        half = (high - low) / 2
        log_variance = (low + high) / 2 + half * torch.tanh((self.spread(y) + (low + high) / -2) / half)
        image = self.mean(y)
        if self.base != "none":
            image = image + first_guess(images, seen, self.signature.outputs, self.base)
        return {"image": image, "log_variance": log_variance}

    def _features(self, x: Tensor, mask: Tensor) -> Tensor:
        """Each date by itself: x (B, T, C, H, W), mask (B, T, H, W) of 0 and 1 -> (B, T, width, H, W)."""
        batch, optical = len(x), x[:, :, : self.optical]
        if self.hide_unusable:
            optical = optical.masked_fill(mask[:, :, None] == 0, 0)
        y = self.stem(torch.cat([optical, mask[:, :, None]], dim=2).flatten(0, 1))
        if self.radar is not None:
            radar = x[:, :, self.optical :]
            if self.training and self.radar_dropout > 0:
                radar = radar * (torch.rand(batch, 1, 1, 1, 1, device=x.device) >= self.radar_dropout)
            y = y + self.radar(radar.flatten(0, 1))
        y = self.enter(y)
        return y.reshape(batch, -1, *y.shape[1:])

    def _joined(self, features: Tensor, mask: Tensor) -> Tensor:
        """Dates weighted by attention, each head its own channels: (B, T, width, H, W) -> (B, width, H, W)."""
        batch, dates, _, *size = features.shape
        scores = F.interpolate(self.attention(features).flatten(0, 1), size=size, mode="bilinear")
        scores = scores.reshape(batch, self.heads, dates, *size)
        if self.hide_unusable:
            empty = (mask == 0).all(-1).all(-1)[:, :, None, None]
            penalty = torch.where(mask > 0, 0.0, torch.where(empty, EMPTY, HIDDEN))
            scores = scores.float() + penalty[:, None]
        weights = F.dropout(scores.softmax(2).to(features.dtype), self.dropout, self.training)
        parts = features.reshape(batch, dates, self.heads, -1, *size)
        joined = torch.zeros_like(parts[:, 0])
        for date in range(dates):  # a date at a time: no second copy of all features
            joined = joined + weights[:, :, date, None] * parts[:, date]
        return joined.flatten(1, 2)
