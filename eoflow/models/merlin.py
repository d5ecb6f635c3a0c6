"""MERLIN: self-supervised despeckling of single-look complex radar (Dalsasso et al. 2021, arXiv 2110.13148).

From the paper and its released code: real and imaginary part of fully developed speckle are independent given
the reflectivity R, each normal with variance R / 2. The network sees one part and its estimate is scored by
the likelihood of the other, so no speckle-free image is needed; both estimates are averaged in use. The U-Net
of noise2noise (seven encoder convolutions of 48 channels, five poolings, decoder of 96, then 64, 32, 1, leaky
ReLU 0.1) predicts what is taken off its input, in the logarithm; constants M = 10.089 and m = -1.4293 (of
TerraSAR-X) scale that logarithm to about 0 to 1.
Our choices: both parts pass in every step instead of turn by turn; padding inside; unusable pixels hold the
middle of the range.

The input must be single-look complex, calibrated or not, with a spectrum that is centred and symmetric: only
then are the parts independent. `looks_complex` tests the first, `spectral_offset` and `centred` are for the
second. Detected (GRD) images
have lost the phase: the likelihood above is wrong for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded

UPPER, LOWER = 10.089, -1.4293
LOG_FLOOR = 1e-3
"""Added to the square of a part before its logarithm."""
SMALLEST = 1e-6
"""Added to the reflectivity."""
PARTS = 2


class _UNet(nn.Module):
    """One part's normalised logarithm (B, 1, H, W) to what is to be taken off it; sides that 32 divides."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.encoder = nn.ModuleList(
            [nn.Conv2d(1, width, 3, padding=1)] + [nn.Conv2d(width, width, 3, padding=1) for _ in range(6)]
        )
        wide = 2 * width
        self.decoder = nn.ModuleList()
        for joined in (wide, *[wide + width] * 3):
            self.decoder.append(nn.Conv2d(joined, wide, 3, padding=1))
            self.decoder.append(nn.Conv2d(wide, wide, 3, padding=1))
        last = [wide + 1, 4 * width // 3, 2 * width // 3]
        self.last = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(last))
        self.out = nn.Conv2d(last[-1], 1, 3, padding=1)

    def _active(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        skips = [x]
        x = self._active(self.encoder[0](x))
        for i, convolve in enumerate(self.encoder[1:]):
            x = self._active(convolve(x))
            if i < 5:  # the seventh convolution has no pooling behind it
                x = F.max_pool2d(x, 2)
                if i < 4:
                    skips.append(x)
        for i in range(0, len(self.decoder), 2):
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
            x = self._active(self.decoder[i + 1](self._active(self.decoder[i](x))))
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
        for convolve in self.last:
            x = self._active(convolve(x))
        return self.out(x)


class Merlin(ImageModel):
    """images (B, 1, 2, H, W): real and imaginary part as they are in the product (not normalised).

    Returns `image` (B, 1, H, W), the reflectivity (intensity, the square of the input's unit), and
    `log_parts` (B, 2, H, W), its natural logarithm as estimated from the real and from the imaginary part
    alone: what `merlin_loss` scores.

    Options
        width: channels of the encoder (48 in the paper; the others follow).
        upper, lower: M and m, largest and smallest half logarithm of a part's square (amplitudes from exp(m)
            to exp(M)). Those of the paper are for TerraSAR-X digital numbers; for calibrated data give the
            range there.
        slope: of the leaky ReLU.

    Values of unusable pixels do not matter. The receptive field is finite: `halo`, if windows start at
    multiples of 32.
    """

    multiple = 32
    halo = 64 + 63 + 31 + 31
    """Convolutions of the encoder (2 at full resolution, one each at 1/2 to 1/32) and of the decoder (2 each
    at 1/16 to 1/2, 3 at full resolution); five poolings and five enlargements, which spread a place over 31
    pixels each."""

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int = 48,
        upper: float = UPPER,
        lower: float = LOWER,
        slope: float = 0.1,
    ) -> None:
        super().__init__(signature)
        if signature.channels != PARTS or signature.dates != 1:
            raise ValueError(
                f"MERLIN takes one date of real and imaginary part, not {signature.dates} of "
                f"{signature.channels} channels"
            )
        if upper <= lower:
            raise ValueError(f"upper {upper} is not above lower {lower}")
        if width % 3:
            raise ValueError(f"width {width}: the last layers have 4/3 and 2/3 of it, so 3 must divide it")
        self.upper, self.lower = upper, lower
        self.net = _UNet(width, slope)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        log_parts = torch.stack([self.log_reflectivity(images[:, 0, i], usable) for i in range(PARTS)], dim=1)
        return {"image": log_parts.exp().mean(dim=1, keepdim=True), "log_parts": log_parts}

    def log_reflectivity(self, part: Tensor, usable: Tensor | None = None) -> Tensor:
        """Natural logarithm of the reflectivity, (B, H, W), from one part (B, H, W) of the complex image."""
        span = self.upper - self.lower
        x = ((part.square() + LOG_FLOOR).log() - 2 * self.lower) / (2 * span)
        if usable is not None:
            x = torch.where(usable[:, 0], x, 0.5)
        x, (height, width) = padded(x[:, None], self.multiple)
        estimate = (x - self.net(x))[:, 0, :height, :width]
        return 2 * (estimate * span + self.lower)


def merlin_loss(log_parts: Tensor, images: Tensor, usable: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of each part under the reflectivity estimated from the other, up to a
    constant.

    log_parts (B, 2, H, W) of Merlin; images (B, 1, 2, H, W); usable (B, 1, H, W) bool. Per pixel and
    direction 0.5 log R + b^2 / R: smallest in the mean where R is the reflectivity. 0 if nothing is usable.
    """
    other = images[:, 0].flip(1)
    log_r = torch.logaddexp(log_parts, torch.full_like(log_parts, SMALLEST).log())
    weight = torch.ones_like(log_r) if usable is None else usable.expand_as(log_r).to(log_r.dtype)
    # What is not usable may be NaN: it is replaced before it meets a product.
    square = torch.where(weight > 0, other, 0.0).square()
    each = 0.5 * log_r + square * (-log_r).exp()
    return (each * weight).sum() / weight.sum().clamp_min(1)


@dataclass(frozen=True)
class ComplexTest:
    """Whether two channels can be the real and imaginary part of single-look complex speckle.

    mean: |mean direction| of the phase; second: |mean direction| of twice the phase, its parts being the
    parts' unequal variance and their correlation. Both 0 for fully developed speckle, 1 for a detected image.
    limit: what they may be. ok: both are below it. samples: how many pixels are not zero. reason: in words,
    empty if ok.
    """

    ok: bool
    mean: float
    second: float
    limit: float
    samples: int
    reason: str


def looks_complex(x: Tensor, *, tolerance: float = 0.1, fewest: int = 100) -> ComplexTest:
    """Test of (2, H, W) or (..., 2, H, W) channels: real and imaginary part uncorrelated, of equal variance
    and mean zero.

    Rayleigh tests of the phase and of its double: like the test of covariances, but bright and dark areas
    weigh the same, so a city does not decide. `tolerance` is the limit for large images; for n pixels it is
    at least 6 / sqrt(n) (neighbours depend on each other). Zero and non-finite pixels take no part. Fewer
    than `fewest` pixels are never ok.
    """
    if x.ndim < 3 or x.shape[-3] != PARTS:
        raise ValueError(f"real and imaginary part are (..., 2, H, W), not {tuple(x.shape)}")
    a, b = x.detach().double().unbind(dim=-3)
    power = a.square() + b.square()
    good = torch.isfinite(power) & (power > 0)
    z = torch.complex(a[good], b[good])
    if z.numel() < fewest:
        few = f"only {z.numel()} pixels have a phase"
        return ComplexTest(False, float("nan"), float("nan"), tolerance, z.numel(), few)
    z = z / z.abs()
    first, second = z.mean(), z.square().mean()
    limit = max(tolerance, 6 / z.numel() ** 0.5)
    reasons = []
    if float(first.abs()) > limit:
        reasons.append("the phases point one way, as in detected (amplitude, intensity or dB) images")
    elif abs(float(second.real)) > limit:
        reasons.append("the two channels differ in their variance")
    elif abs(float(second.imag)) > limit:
        reasons.append("the two channels are correlated")
    ok = max(float(first.abs()), float(second.abs())) <= limit
    if not ok and not reasons:
        reasons.append("the phases are not uniform")
    return ComplexTest(ok, float(first.abs()), float(second.abs()), limit, z.numel(), "; ".join(reasons))


def spectral_offset(x: Tensor) -> tuple[float, float]:
    """Centre of the spectrum along rows and columns, radians a pixel in (-pi, pi], of (2, H, W) parts.

    The phase of the correlation with the next pixel. Zero for zero-Doppler centred data. 0 along a side of
    one pixel.
    """
    z = torch.complex(x[0].double(), x[1].double())
    return _phase(z[1:], z[:-1]), _phase(z[:, 1:], z[:, :-1])


def _phase(p: Tensor, q: Tensor) -> float:
    """Phase of the sum of p * conj(q) over the finite pixels."""
    product = p * q.conj()
    return float(product[torch.isfinite(product.abs())].sum().angle())


def centred(x: Tensor) -> Tensor:
    """(2, H, W) parts with the spectrum moved to the centre, intensities unchanged: what MERLIN asks of its
    input.
    """
    down, right = spectral_offset(x)
    rows = torch.arange(x.shape[-2], dtype=torch.float64, device=x.device)[:, None]
    columns = torch.arange(x.shape[-1], dtype=torch.float64, device=x.device)[None, :]
    ramp = torch.polar(torch.ones_like(rows * columns), -(down * rows + right * columns))
    z = torch.complex(x[0].double(), x[1].double()) * ramp
    return torch.stack([z.real, z.imag]).to(x.dtype)
