"""Seeded randomness: generators that are named, not ordered, and fractal fields made in Fourier space."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Field = NDArray[np.float32]


def rng(*name: Any) -> np.random.Generator:
    """The generator called `name` (anything with a stable repr): the same draws whatever else was drawn before."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def uniform(*name: Any) -> float:
    """One number in [0, 1) called `name`."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little") / 2.0**56


@lru_cache(maxsize=8)
def _waves(n: int) -> tuple[Field, Field]:
    ky = fft.fftfreq(n, 1.0 / n).astype("f4")[:, None]
    kx = fft.rfftfreq(n, 1.0 / n).astype("f4")[None, :]
    return ky, kx


def fractal(
    gen: np.random.Generator,
    n: int,
    *,
    slope: float = 2.0,
    outer: float = 4.0,
    inner: float | None = None,
    stretch: float = 1.0,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    crop: int | None = None,
) -> Field:
    """A Gaussian random field (n, n) float32, periodic, zero mean, unit variance.

    Amplitude falls as |k|^-slope above `outer` cycles a side (and is flat below it), and is cut above `inner`.
    stretch > 1: longer by that factor along `angle` (radians, from the x axis to the y axis). shift: moved by (y, x)
    pixels, exactly. crop: only the first (crop, crop) pixels are returned.
    """
    ky, kx = _waves(n)
    along = kx * np.float32(np.cos(angle)) + ky * np.float32(np.sin(angle))
    k2 = kx * kx + ky * ky + (along * along) * np.float32(stretch * stretch - 1.0)
    amplitude = (k2 + np.float32(outer * outer)) ** np.float32(-slope / 2.0)
    if inner is not None:
        amplitude *= np.exp(-k2 / np.float32(inner * inner))
    amplitude[0, 0] = 0.0
    spectrum = fft.rfft2(gen.standard_normal((n, n), dtype="f4")) * amplitude
    if shift != (0.0, 0.0):
        spectrum *= np.exp((-2j * np.pi / n) * (ky * shift[0] + kx * shift[1])).astype("c8")
    # the variance that the spectrum has on average, so that one date may be calmer than another
    power = (amplitude.astype("f8") ** 2 * np.where((kx == 0) | (kx == n // 2), 1.0, 2.0)).sum() / n**2
    field: Field = fft.irfft2(spectrum, s=(n, n)).astype("f4")
    return (field if crop is None else field[:crop, :crop]) / np.float32(np.sqrt(power))


def smooth(field: Field, sigma: float) -> Field:
    """Gaussian blur with mirrored edges."""
    out: Field = ndimage.gaussian_filter(field, sigma, mode="nearest", truncate=3.0)
    return out


def step(x: Any, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def ranked(score: Field, within: NDArray[np.bool_], fraction: float) -> NDArray[np.bool_]:
    """The `fraction` of the pixels `within` that have the highest score."""
    if fraction <= 0.0 or not within.any():
        return np.zeros_like(within)
    return within & (score >= np.quantile(score[within], 1.0 - min(fraction, 1.0)))
