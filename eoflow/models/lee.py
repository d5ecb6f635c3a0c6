"""Lee's speckle filters: local statistics (Lee 1980, doi 10.1109/TPAMI.1980.4766994), and the refined filter
with edge-aligned windows (Lee 1981, doi 10.1016/S0146-664X(81)80018-4).

Speckle multiplies: intensity z = x v, v of mean 1 and variance 1 / L for L equivalent looks. In a window of
mean m and variance s the scene's variance is (s - m^2 / L) / (1 + 1 / L), and the estimate with least squared
error is m + w (z - m) with w = that variance / s. Flat areas get the mean, strong points stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from eoflow.models.images import ImageModel, ImageSignature

REFINED_WINDOW = 7
ORIENTATIONS = 8


class Lee(ImageModel):
    """images (B, 1, C, H, W), linear intensity (not dB, not normalised); {`image`: (B, C, H, W)}, each
    channel by itself.

    Options
        looks: equivalent number of looks of the input (1: single look; Sentinel-1 GRD about 4.4).
        window: odd side of the square that statistics are taken over.
        refined: windows are halves of 7 x 7 that end at the strongest edge through the pixel, so edges stay
            sharp.

    Unusable and non-finite pixels take no part; where one lies, the output is the mean of its window (NaN if
    there is none).
    """

    closed_form = True

    def __init__(
        self, signature: ImageSignature, *, looks: float = 1.0, window: int = 7, refined: bool = False
    ) -> None:
        super().__init__(signature)
        if looks <= 0:
            raise ValueError(f"looks {looks}: equivalent looks are positive")
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window {window}: an odd number of pixels, 3 or more")
        if refined and window != REFINED_WINDOW:
            raise ValueError(f"the refined filter's window is {REFINED_WINDOW} pixels wide, not {window}")
        if signature.dates != 1:
            raise ValueError(f"one date at a time, not {signature.dates}")
        self.looks, self.window, self.refined = looks, window, refined
        self.halo = window // 2 + 1 if refined else window // 2  # edges are sought among means of 3 x 3
        kernels = _half_windows() if refined else torch.ones(1, window, window)
        self.register_buffer("kernels", kernels[:, None], persistent=False)

    kernels: Tensor

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        z = images[:, 0].flatten(0, 1)[:, None].double()
        valid = torch.isfinite(z)
        if usable is not None:
            valid &= usable[:, 0].repeat_interleave(images.shape[2], dim=0)[:, None]
        z = torch.where(valid, z, 0.0)
        mean, variance = self._statistics(z, valid)
        speckle = mean.square() / self.looks
        scene = (variance - speckle).clamp_min(0) / (1 + 1 / self.looks)
        weight = scene / variance.clamp_min(torch.finfo(variance.dtype).tiny)
        filtered = torch.where(valid, mean + weight.clamp(max=1) * (z - mean), mean)
        return {"image": filtered[:, 0].reshape(images[:, 0].shape).to(images.dtype)}

    def _statistics(self, z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (N, 1, H, W) of the valid pixels of each window; mean NaN where it has none."""
        kernels = self.kernels.double()
        flat = valid.double()
        centre = (z * flat).sum((-2, -1), keepdim=True) / flat.sum((-2, -1), keepdim=True).clamp_min(1)
        offset = (z - centre) * flat  # around the image's mean, so that the variance keeps its digits
        pad = self.window // 2
        count, first, second = (F.conv2d(x, kernels, padding=pad) for x in (flat, offset, offset.square()))
        if self.refined:
            which = _edge_window(z, flat)
            count, first, second = (x.gather(1, which) for x in (count, first, second))
        mean = first / count  # 0 / 0 is NaN: nothing is known there
        return mean + centre, (second / count - mean.square()).clamp_min(0)


def _half_windows() -> Tensor:
    """(8, 7, 7) halves of a 7 x 7 window, each with its edge through the centre: east, south-east, ...
    anticlockwise from east; their pixels with direction . (row, column) >= 0."""
    reach = REFINED_WINDOW // 2
    rows, columns = torch.meshgrid(
        torch.arange(-reach, reach + 1), torch.arange(-reach, reach + 1), indexing="ij"
    )
    return torch.stack([(dr * rows + dc * columns >= 0).float() for dr, dc in _DIRECTIONS])


_DIRECTIONS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""(row, column) steps to the eight neighbours; the second four are opposite to the first."""


def _edge_window(z: Tensor, valid: Tensor) -> Tensor:
    """Which half window, (N, 1, H, W) int64, lies on the centre's side of the strongest edge.

    Means of 3 x 3 two pixels away in the eight directions: the axis of the largest difference of opposite
    sides is across the edge; the side whose mean is closer to the centre's is the pixel's own.
    """
    box = torch.ones(1, 1, 3, 3, dtype=z.dtype, device=z.device)
    count = F.conv2d(valid, box, padding=1)
    mean = F.conv2d(z * valid, box, padding=1) / count.clamp_min(1)
    reach = 2
    around = F.pad(mean, (reach, reach, reach, reach), mode="replicate")
    height, width = z.shape[-2:]
    sides = torch.cat(
        [
            around[
                ..., reach * (1 + dr) : reach * (1 + dr) + height, reach * (1 + dc) : reach * (1 + dc) + width
            ]
            for dr, dc in _DIRECTIONS
        ],
        dim=1,
    )
    half = ORIENTATIONS // 2
    axis = (sides[:, :half] - sides[:, half:]).abs().argmax(dim=1, keepdim=True)
    near, far = sides.gather(1, axis), sides.gather(1, axis + half)
    return torch.where((near - mean).abs() <= (far - mean).abs(), axis, axis + half)
