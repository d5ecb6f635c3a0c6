"""How near a restored image is to the true one: PSNR, SSIM, spectral angle, MAE and RMSE in reflectance.

Every function takes image and target of (..., C, H, W) in physical reflectance (0 to 1, numpy or torch) and an optional
mask (..., H, W) of the pixels that count (the cloudy ones, say), and returns one float64 for each image: shape (...).
A pixel where a band of the image, or of the target, is not finite does not count; NaN where no pixel does. `coverage`
says how much of the mask was counted: an image that is NaN at its difficult pixels must not win by that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

PSNR_CEILING = 100.0
"""PSNR of two equal images, dB: scores stay finite, and no stored reflectance (1e-4 steps) comes near it."""

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
PAPER_DN, PAPER_CLIP = 10000.0, 2000
"""Digital numbers of reflectance 1, and where the papers' RGB pictures saturate."""


def _array(x: Any) -> F64:
    """Numpy or torch -> float64, without importing torch."""
    return np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x, np.float64)


def _pair(image: Any, target: Any, mask: Any | None) -> tuple[F64, F64, Mask]:
    """Both as float64 (..., C, H, W), and which pixels (..., H, W) count."""
    a, b = _array(image), _array(target)
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(f"image {a.shape} and target {b.shape} must have one shape (..., C, H, W)")
    return a, b, _counted(_finite(a) & _finite(b), mask)


def _finite(x: F64) -> Mask:
    """Where all bands of (..., C, H, W) are finite: (..., H, W)."""
    return np.asarray(np.isfinite(x).all(-3))


def _counted(valid: Mask, mask: Any | None) -> Mask:
    """Valid pixels that are in the mask."""
    return valid if mask is None else np.asarray(valid & (_array(mask) != 0))


def _mean(field: F64, valid: Mask) -> F64:
    """Mean of (..., H, W) over the valid pixels; NaN where none is."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(valid, field, 0.0).sum((-2, -1)) / valid.sum((-2, -1)))


def _error(image: Any, target: Any, mask: Any | None, power: int) -> F64:
    a, b, valid = _pair(image, target, mask)
    with np.errstate(invalid="ignore"):
        return _mean(np.asarray((np.abs(a - b) ** power).mean(-3)), valid)


def coverage(image: Any, target: Any, mask: Any | None = None) -> F64:
    """Share of the pixels to be counted (target known, in the mask) at which the image says something, 0 to 1."""
    return _mean(_finite(_array(image)).astype(np.float64), _counted(_finite(_array(target)), mask))


def mae(image: Any, target: Any, mask: Any | None = None) -> F64:
    """Mean absolute error over pixels and bands, reflectance."""
    return _error(image, target, mask, 1)


def rmse(image: Any, target: Any, mask: Any | None = None) -> F64:
    """Root of the mean squared error over pixels and bands, reflectance."""
    return np.sqrt(_error(image, target, mask, 2))


def psnr(image: Any, target: Any, mask: Any | None = None, *, peak: float = 1.0) -> F64:
    """Peak signal-to-noise ratio, dB: 10 log10(peak^2 / MSE), at most PSNR_CEILING. peak: the data range."""
    return _decibel(_error(image, target, mask, 2), peak)


def _decibel(mse: F64, peak: float) -> F64:
    floor = peak**2 / 10 ** (PSNR_CEILING / 10)
    return np.asarray(10 * np.log10(peak**2 / np.maximum(mse, floor)))


def sam(image: Any, target: Any, mask: Any | None = None) -> F64:
    """Mean spectral angle between the pixels' band vectors, degrees (Kruse et al. 1993).

    By the half-angle form, which is exact for small angles where the arc cosine is not. A pixel whose image or target
    is zero in every band has no direction and does not count.
    """
    a, b, valid = _pair(image, target, mask)
    with np.errstate(invalid="ignore"):
        la, lb = np.sqrt((a**2).sum(-3)), np.sqrt((b**2).sum(-3))
        across = np.sqrt(((a * lb[..., None, :, :] - b * la[..., None, :, :]) ** 2).sum(-3))
        along = np.sqrt(((a * lb[..., None, :, :] + b * la[..., None, :, :]) ** 2).sum(-3))
        valid = np.asarray(valid & (la > 0) & (lb > 0))
    return _mean(np.degrees(2 * np.arctan2(across, along)), valid)


def ssim(image: Any, target: Any, mask: Any | None = None, *, data_range: float = 1.0) -> F64:
    """Structural similarity (Wang et al. 2004, eq. 13), mean over bands and pixels.

    Gaussian window of 11 x 11, sigma 1.5, population moments, K1 0.01, K2 0.03; data_range is their L (reflectance 1).
    As there, pixels whose window reaches over the edge do not count, unless the image is smaller than the window (or
    the mask lies wholly in that margin): then the window is cut at the edge. Pixels that are not finite are left out
    of the windows of their neighbours; pixels outside the mask are not, they only are no centres.
    """
    a, b, valid = _pair(image, target, mask)
    known = (_finite(a) & _finite(b))[..., None, :, :]
    values = _ssim_map(np.where(known, a, 0.0), np.where(known, b, 0.0), known.astype(np.float64), data_range)
    return _mean(np.asarray(values.mean(-3)), _inside(valid))


def ssim_sums(image: Any, target: Any, masks: list[Any], *, data_range: float = 1.0) -> list[tuple[float, int]]:
    """Sum of `ssim` over the pixels that count, and how many, for several masks (H, W) of one image (C, H, W)."""
    a, b, valid = _pair(image, target, None)
    known = valid[None]
    values = _ssim_map(np.where(known, a, 0.0), np.where(known, b, 0.0), known.astype(np.float64), data_range).mean(0)
    inner = [_inside(_counted(valid, m)) for m in masks]
    return [(float(values[m].sum()), int(m.sum())) for m in inner]


def _inside(valid: Mask) -> Mask:
    """Valid pixels whose window is inside the image; all valid ones of an image that has none of those."""
    reach = WINDOW // 2
    inner = np.zeros_like(valid)
    inner[..., reach : valid.shape[-2] - reach, reach : valid.shape[-1] - reach] = True
    inner &= valid
    return np.asarray(np.where(inner.any((-2, -1), keepdims=True), inner, valid))


def _ssim_map(a: F64, b: F64, known: F64, data_range: float) -> F64:
    """SSIM of every pixel; windows are normalised by the known pixels in them."""
    weight = _blur(known)
    weight = np.where(weight > 0, weight, 1.0)

    def local(x: F64) -> F64:
        return np.asarray(_blur(x) / weight)

    ma, mb = local(a), local(b)
    va, vb, cov = local(a * a) - ma**2, local(b * b) - mb**2, local(a * b) - ma * mb
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    return np.asarray((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def _blur(x: F64) -> F64:
    """Gaussian-weighted sums over the last two axes, zero beyond the edge."""
    from scipy.ndimage import correlate1d

    offset = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offset**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    for axis in (-2, -1):
        x = correlate1d(x, kernel, axis=axis, mode="constant")
    return x


def _paper_rgb(image: Any, bands: tuple[int, int, int]) -> F64:
    """8-bit picture (..., 3, H, W) as CTGAN's and PMAA's scripts make it; NaN where a band is not finite.

    Whole DN, clipped at 2000, minus the picture's minimum, divided by the picture's own maximum (all 255 where that is
    0), times 255, cut to whole numbers.
    """
    dn = _array(image)[..., list(bands), :, :]
    dn = np.where(np.isfinite(dn).all(-3, keepdims=True), dn, np.nan)
    dn = np.clip(np.floor(np.clip(dn * PAPER_DN + 0.5, 0, PAPER_DN)), 0, PAPER_CLIP)
    axes = (-3, -2, -1)
    low = np.where(np.isnan(dn), math.inf, dn).min(axes, keepdims=True)
    dn = dn - low
    top = np.where(np.isnan(dn), -math.inf, dn).max(axes, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        picture = np.where(top == 0, 255.0 + 0 * dn, np.floor(255 * (dn / top)))
    return np.asarray(picture)


def psnr_rgb_paper(image: Any, target: Any, mask: Any | None = None, *, bands: tuple[int, int, int] = (0, 1, 2)) -> F64:
    """PSNR as the papers of CTGAN and PMAA print it, dB; not comparable with `psnr`.

    Of 8-bit pictures, each stretched by its own minimum and maximum below reflectance 0.2: a picture that is too dark
    by a factor has no error here, and one bright pixel changes the score of all. bands: red, green, blue.
    """
    a, b = _paper_rgb(image, bands), _paper_rgb(target, bands)
    return _decibel(_error(a, b, mask, 2), 255.0)


def ssim_rgb_paper(image: Any, target: Any, mask: Any | None = None, *, bands: tuple[int, int, int] = (0, 1, 2)) -> F64:
    """SSIM as the papers of CTGAN and PMAA print it: of the pictures of psnr_rgb_paper, with a data range of 255."""
    return ssim(_paper_rgb(image, bands), _paper_rgb(target, bands), mask, data_range=255.0)
