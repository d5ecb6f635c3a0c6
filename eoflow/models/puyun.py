"""A large-kernel-attention forecaster after PuYun (arXiv 2409.02123).

From the paper and its released inference code: two input frames, a purely convolutional network of
large-kernel attention (LKA, arXiv 2202.09741) in layers of several blocks, patch embedding and merging, a
time embedding of length 12 (season and hour of the two frames and of the target), iteration in time.
Our choices, where the paper is silent or the machine is small: pixel-unshuffle as patch embedding, width and
depth, layer norm, FiLM for the time embedding (with the factor 2 pi), outputs of all layers concatenated
before the head, padding across the poles inside every depthwise convolution, increments normalised by their
own standard deviation, a head that starts at zero, an optional linear model (EOF ridge) as the first guess,
the second frame entering as a
tendency, and undilated kernels (5 x 5 after 7 x 7 reaches 11 cells a block, which is far on a coarse grid).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.base import FitData, ForecastModel, Signature
from eoflow.models.eof_ridge import EofRidge
from eoflow.models.layers.buffers import FittedBuffers
from eoflow.models.layers.clock import clock_waves
from eoflow.models.layers.padding import PaddedConv2d, Padding, padding_for

BASES = ("persistence", "eof-ridge")
BASE_OPTIONS = {"tune_days": 1, "max_eofs": 500}
"""A first guess is tuned for the one step that it is used for."""


def _image(x: Tensor) -> Tensor:
    """(B, H, W, D) -> (B, D, H, W) without a copy: channels-last, which depthwise convolutions need to be fast."""
    return x.permute(0, 3, 1, 2)


class LargeKernelAttention(nn.Module):
    """x * attention(x): depthwise, dilated depthwise and pointwise convolution (VAN, arXiv 2202.09741, eq. 2)."""

    def __init__(self, width: int, kernel: int, dilated_kernel: int, dilation: int, padding: Padding) -> None:
        super().__init__()
        self.near = PaddedConv2d(width, width, kernel, padding, groups=width)
        self.far = PaddedConv2d(width, width, dilated_kernel, padding, dilation=dilation, groups=width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> same shape."""
        attention = self.far(self.near(_image(x))).permute(0, 2, 3, 1)
        return x * self.mix(attention)


class Block(nn.Module):
    """Pre-norm attention and pre-norm MLP, each a residual with its own learned scale."""

    def __init__(self, width: int, mlp_ratio: float, drop_path: float, dropout: float, lka: dict[str, Any]) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attend = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            LargeKernelAttention(width, **lka),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.scale = nn.Parameter(torch.full((2, width), 0.1))
        self.drop_path = drop_path

    def _kept(self, x: Tensor) -> Tensor:
        """Stochastic depth: drop the whole branch for some samples of a batch."""
        if not self.training or self.drop_path == 0:
            return x
        keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
        return x * keep / (1 - self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> same shape."""
        x = x + self._kept(self.scale[0] * self.attend(x))
        return x + self._kept(self.scale[1] * self.mlp(x))


class PuYun(ForecastModel, FittedBuffers):
    """next state = first guess + increment_scale * network(frames, clock, static).

    Options
        width: channels inside. layers, blocks: layers of so many blocks each; all layers' outputs reach the head.
        patch: cells of the grid joined into one inside (1 = full resolution), or 'auto': the smallest of 1, 2, 4, 8
            with at most 1024 places inside (1 up to 400 cells). A size that it does not divide is padded inside
            and cropped again.
        mlp_ratio, kernel, dilated_kernel, dilation, dropout, drop_path: of the blocks.
        position: a learned field added to the embedding, one value for each place and inner channel.
        base: first guess, 'persistence' or 'eof-ridge' (fitted by `prepare`, then frozen), or 'auto': the ridge for
            steps of 12 h and more and for limited areas, where a network alone has too little to learn from;
            base_options for the ridge.
        limited_padding: 'replicate', 'zeros' or 'reflect', beyond the edge of a limited area.

    `prepare(data)` must run before training: it fits the first guess and the scales.
    """

    default_frames = 2
    increment_scale: Tensor
    tendency_scale: Tensor
    geometry: Tensor

    def __init__(
        self,
        signature: Signature,
        *,
        width: int = 64,
        layers: int = 2,
        blocks: int = 3,
        patch: int | str = "auto",
        mlp_ratio: float = 2.0,
        kernel: int = 5,
        dilated_kernel: int = 7,
        dilation: int = 1,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        position: bool = False,
        base: str = "auto",
        base_options: dict[str, Any] | None = None,
        limited_padding: str = "replicate",
    ) -> None:
        super().__init__(signature)
        base = _auto_base(signature) if base == "auto" else base
        patch = _auto_patch(signature) if patch == "auto" else int(patch)
        if base not in BASES:
            raise ValueError(f"base '{base}' is not one of auto, {', '.join(BASES)}")
        s, self.patch = signature, patch
        self.rows, self.columns = -(-s.height // patch), -(-s.width // patch)
        self.edge = padding_for(s, limited=limited_padding)
        inner = padding_for(s, patch=patch, limited=limited_padding)
        lka = {"kernel": kernel, "dilated_kernel": dilated_kernel, "dilation": dilation, "padding": inner}
        self.declare("increment_scale", s.channels)
        self.declare("tendency_scale", s.channels)
        self.put("increment_scale", torch.ones(s.channels))
        self.put("tendency_scale", torch.ones(s.channels))
        self.register_buffer("geometry", _geometry(s), persistent=False)
        inputs = s.frames * s.channels + s.static + len(self.geometry)
        self.embed = nn.Linear(inputs * patch * patch, width)
        self.position = nn.Parameter(torch.zeros(self.rows, self.columns, width)) if position else None
        self.season = nn.Sequential(
            nn.Linear(4 * (s.frames + 1), width), nn.GELU(), nn.Linear(width, 2 * layers * width)
        )
        self.layers = nn.ModuleList(
            nn.Sequential(*(Block(width, mlp_ratio, drop_path, dropout, lka) for _ in range(blocks)))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(layers * width)
        self.head = nn.Linear(layers * width, s.channels * patch * patch)
        for last in (self.head, self.season[2]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.base = EofRidge(s, **{**BASE_OPTIONS, **(base_options or {})}) if base == "eof-ridge" else None

    def prepare(self, data: FitData) -> None:
        """Fit the first guess and the scales of increments and tendencies on the training period. No gradients."""
        if self.base is not None:
            self.base.fit(data)
        weights = data.area_weights[:, None]
        sums, count = torch.zeros(2, self.signature.channels, dtype=torch.float64), 0
        for frames, clock, target in _windows(data, self.signature.frames):
            for i, guess in enumerate((self.first_guess(frames, clock), frames[:, -1])):
                sums[i] += ((target - guess).square() * weights).mean(dim=(-2, -1)).sum(0).double()
            count += len(frames)
        if count == 0:
            raise ValueError("the training period is shorter than the model's frames")
        scales = (sums / count).sqrt().clamp_min(1e-6).float()
        self.put("increment_scale", scales[0])
        self.put("tendency_scale", scales[1])

    def settle(self, data: FitData, static: Tensor) -> None:
        """Shrink the increments of each field to what they are worth beside a fitted first guess.

        The factor, 0 to 1, is the regression of the first guess's error on the increment, one step ahead over the
        validation period: where the linear model is as good, the network stands back. No gradients.
        """
        if self.base is None:
            return
        weights = data.area_weights[:, None]
        sums = torch.zeros(2, self.signature.channels, dtype=torch.float64)
        for frames, clock, target in _windows(data, self.signature.frames, split="valid"):
            increment = self.increment(frames, clock, static) * self.increment_scale[:, None, None]
            error = target - self.first_guess(frames, clock)
            sums[0] += (increment * error * weights).mean(dim=(-2, -1)).sum(0).double()
            sums[1] += (increment.square() * weights).mean(dim=(-2, -1)).sum(0).double()
        if not bool(sums[1].any()):  # no validation window: nothing is known against the network
            return
        factor = (sums[0] / sums[1].clamp_min(1e-12)).clamp(0, 1)
        self.put("increment_scale", self.increment_scale * factor.float())

    def first_guess(self, frames: Tensor, clock: Tensor) -> Tensor:
        """(B, C, H, W): what the network's increment is added to. Gradients pass through to the frames."""
        return frames[:, -1] if self.base is None else self.base(frames, clock, self.geometry)

    def increment(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """(B, C, H, W) normalised increment on the first guess."""
        batch, height, width = len(frames), self.signature.height, self.signature.width
        tendencies = (frames[:, 1:] - frames[:, :-1]) / self.tendency_scale[:, None, None]
        fixed = torch.cat([static, self.geometry.to(frames.dtype)]).expand(batch, -1, -1, -1)
        x = torch.cat([frames[:, -1], tendencies.flatten(1, 2), fixed], dim=1)
        down, right = self.rows * self.patch - height, self.columns * self.patch - width
        x = self.edge(x, down, right)[..., down:, right:]
        x = self.embed(F.pixel_unshuffle(x, self.patch).permute(0, 2, 3, 1))
        if self.position is not None:
            x = x + self.position
        film = self.season(clock_waves(clock).flatten(1)).unflatten(1, (2, len(self.layers), -1))
        outputs = []
        for i, layer in enumerate(self.layers):
            x = layer(x * (1 + film[:, 0, i, None, None]) + film[:, 1, i, None, None])
            outputs.append(x)
        out = self.head(self.norm(torch.cat(outputs, dim=-1)))
        return F.pixel_shuffle(_image(out), self.patch)[..., :height, :width]

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """See ForecastModel."""
        step = self.increment(frames, clock, static) * self.increment_scale[:, None, None]
        return self.first_guess(frames, clock) + step


def _auto_base(s: Signature) -> str:
    return "persistence" if s.global_ and s.step_hours < 12 else "eof-ridge"


def _auto_patch(s: Signature) -> int:
    if s.height * s.width <= 400:
        return 1
    return next((p for p in (2, 4) if -(-s.height // p) * -(-s.width // p) <= 1024), 8)


def _geometry(s: Signature) -> Tensor:
    """(G, H, W): where a cell is. On a sphere sine and cosine of latitude and longitude, else place in the area."""
    lat = torch.tensor(s.latitude, dtype=torch.float32).deg2rad()[:, None].expand(s.height, s.width)
    lon = torch.tensor(s.longitude, dtype=torch.float32).deg2rad()[None, :].expand(s.height, s.width)
    if s.global_:
        return torch.stack([lat.sin(), lat.cos(), lat.cos() * lon.sin(), lat.cos() * lon.cos()])
    rows = torch.linspace(-1, 1, s.height)[:, None].expand(s.height, s.width)
    if s.wraps:
        return torch.stack([rows, lon.sin(), lon.cos()])
    return torch.stack([rows, torch.linspace(-1, 1, s.width)[None, :].expand(s.height, s.width)])


def _windows(data: FitData, frames: int, batch: int = 256, split: str = "train") -> Any:
    """Every (frames (B, F, C, H, W), clock (B, F + 1, 2), target (B, C, H, W)) of the blocks of a split."""
    for states, clock in data.blocks(split):
        for start in torch.split(torch.arange(max(len(states) - frames, 0)), batch):
            window = start[:, None] + torch.arange(frames + 1)
            yield states[window[:, :-1]], clock[window], states[window[:, -1]]
