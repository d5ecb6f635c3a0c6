"""Fully convolutional Siamese networks for change detection (Daudt et al. 2018, arXiv 1810.08462):
FC-Siam-diff and -conc.

From the paper: one encoder for both dates (2, 2, 3, 3 convolutions of 16, 32, 64, 128 channels, each with
batch norm and channel dropout, max pooling between), a decoder that starts from the second date, and skip
connections that carry either the absolute difference of the two encodings or both of them. 1.35 M (diff) and
1.55 M (conc) parameters, as published.
Our choices: any number of bands, padding inside so that every size works, pixels that are not seen on both
dates set to zero on both, plain convolutions in the decoder where the released code writes stride-1
transposed ones (the same map), and in training the same channels are dropped on both dates: dropped apart,
what they differ by would be mostly the dropping, and a network that learnt that finds no change once
nothing is dropped.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.pair import two_dates

MODES = ("diff", "conc")


def _convolutions(channels: list[int], dropout: float, *, last_plain: bool = False) -> nn.Sequential:
    """3 x 3 convolutions from each width to the next, with batch norm, ReLU and channel dropout."""
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(pairwise(channels)):
        layers.append(nn.Conv2d(c_in, c_out, 3, padding=1))
        if not (last_plain and i == len(channels) - 2):
            layers += [nn.BatchNorm2d(c_out), nn.ReLU(), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


def _alike(dropout: nn.Dropout2d, dates: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Channels of every sample dropped in training, the same ones on each date (B, C, H, W)."""
    if not dropout.training or dropout.p == 0:
        return dates
    kept = dropout(dates[0].new_ones((*dates[0].shape[:2], 1, 1)))
    return tuple(x * kept for x in dates)


class SiameseUNet(ImageModel):
    """Change of two dates: {`logits`: (B, K, H, W)}.

    Options
        mode: 'diff' (skips carry |before - after|) or 'conc' (skips carry both).
        width: channels of the first stage; each of the four stages doubles them.
        dropout: probability that a channel is dropped after a convolution, in training.

    Values of pixels that are not usable on both dates do not matter. Batch statistics are frozen in eval
    mode, so the
    receptive field is finite: `halo` pixels, if windows start at multiples of `multiple`.
    """

    multiple = 16
    halo = 42 + 42 + 15 + 15
    """Radius of the encoder's and the decoder's convolutions (2 + 2*2 + 3*4 + 3*8 each), of four poolings and
    of four transposed convolutions (1 + 2 + 4 + 8 each)."""

    def __init__(
        self, signature: ImageSignature, *, mode: str = "diff", width: int = 16, dropout: float = 0.2
    ) -> None:
        super().__init__(signature)
        if mode not in MODES:
            raise ValueError(f"mode '{mode}' is not one of {', '.join(MODES)}")
        if signature.dates != 2:
            raise ValueError(f"change has two dates, the signature says {signature.dates}")
        self.mode = mode
        w = [width * 2**i for i in range(4)]
        skips = 1 if mode == "diff" else 2
        self.encoder = nn.ModuleList(
            _convolutions([c_in, c_out] + [c_out] * (n - 1), dropout)
            for c_in, c_out, n in zip([signature.channels, *w], w, (2, 2, 3, 3))
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c, 3, 2, 1, output_padding=1) for c in reversed(w))
        joined = [c * (1 + skips) for c in w]
        self.decoder = nn.ModuleList(
            [
                _convolutions([joined[3], w[3], w[3], w[2]], dropout),
                _convolutions([joined[2], w[2], w[2], w[1]], dropout),
                _convolutions([joined[1], w[1], w[0]], dropout),
                _convolutions([joined[0], w[0], signature.outputs], dropout, last_plain=True),
            ]
        )

    def _encode(self, *dates: Tensor) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """The four stages' outputs of every date, finest first, and the coarsest one of the last date pooled.

        One date after the other, as in the paper: batch statistics are those of a date, not of both.
        """
        stages = []
        for stage in self.encoder:
            for layer in stage:  # type: ignore[attr-defined]
                dates = _alike(layer, dates) if isinstance(layer, nn.Dropout2d) else tuple(map(layer, dates))
            stages.append(dates)
            dates = tuple(map(self.pool, dates))
        return stages, dates[-1]

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See ImageModel."""
        before, after, _ = two_dates(images, usable)
        (before, size), (after, _) = padded(before, self.multiple), padded(after, self.multiple)
        stages, x = self._encode(before, after)
        for up, decode, (a, b) in zip(self.up, self.decoder, reversed(stages)):
            skip = (a - b).abs() if self.mode == "diff" else torch.cat([a, b], dim=1)
            x = decode(torch.cat([up(x), skip], dim=1))
        return {"logits": x[..., : size[0], : size[1]]}
