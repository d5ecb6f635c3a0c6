"""How a date looks: sun, season, air, camera. Nothing of it is change of the land."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """Conditions of one image.

    azimuth, elevation: of the sun, radians; where its light comes from, clockwise from up. lean: pixels that a roof
    moves for each metre of its height, (x, y). green: of the grass, 0..1. leaves: of the trees, 0..1. wet: darker bare
    ground, 0..1. Then the camera: gain and haze of each band, gamma, saturation, blur (pixels), noise, sharpening, and
    shift of the whole image (y, x pixels).
    """

    azimuth: float
    elevation: float
    lean: tuple[float, float]
    green: float
    leaves: float
    wet: float
    sky: float
    gain: tuple[float, float, float]
    haze: tuple[float, float, float]
    gamma: float
    saturation: float
    blur: float
    noise: float
    sharp: float
    shift: tuple[float, float]
    seed: int


def view(gen: np.random.Generator, gsd: float) -> View:
    """Conditions of one date at `gsd` metres a pixel."""
    tint = gen.normal(0, 0.045, 3)
    bright = float(np.exp(gen.normal(-0.05, 0.2)))
    haze = abs(gen.normal(0, 0.05)) + np.array([0.0, 0.004, 0.012]) * gen.uniform(0, 2)
    off, to = gen.uniform(0, 0.3) ** 1.3, gen.uniform(0, 2 * np.pi)
    return View(
        azimuth=float(gen.normal(np.pi * 0.85, 0.45) + (np.pi if gen.random() < 0.12 else 0.0)),
        elevation=float(np.deg2rad(gen.uniform(28, 72))),
        lean=(float(off * np.cos(to) / gsd), float(off * np.sin(to) / gsd)),
        green=float(gen.beta(1.1, 1.3)), leaves=float(gen.choice([1.0, 1.0, 0.6, 0.25])),
        wet=float(gen.beta(1, 2)), sky=float(gen.uniform(0.18, 0.5)),
        gain=tuple(float(x) for x in bright * (1 + tint)), haze=tuple(float(x) for x in haze),  # type: ignore[arg-type]
        gamma=float(np.exp(gen.normal(-0.05, 0.17))), saturation=float(gen.uniform(0.55, 1.25)),
        blur=float(gen.choice([0.0, 0.0, 0.45, 0.7, 1.0]) * gen.uniform(0.7, 1.2)), noise=float(gen.uniform(0.0, 0.02)),
        sharp=float(gen.choice([0.0, 0.0, 0.4, 0.9])),
        shift=(float(gen.normal(0, 0.8)), float(gen.normal(0, 0.8))), seed=int(gen.integers(1 << 30)),
    )  # fmt: skip


def photograph(image: Image, v: View) -> NDArray[np.uint8]:
    """What the camera makes of an image (y, x, 3) of 0..1: uint8, without the shift."""
    gen = np.random.default_rng(v.seed)
    out = image
    grey = out.mean(axis=2, keepdims=True)
    out = grey + (out - grey) * np.float32(v.saturation)
    out = np.clip(out, 0.0, 2.0) ** np.float32(v.gamma)
    out = out * np.asarray(v.gain, "f4") + np.asarray(v.haze, "f4")
    if v.blur > 0:
        out = ndimage.gaussian_filter(out, (v.blur, v.blur, 0))
    if v.sharp > 0:
        out = out + np.float32(v.sharp) * (out - ndimage.gaussian_filter(out, (1.0, 1.0, 0)))
    if v.noise > 0:
        out = out + gen.normal(0, v.noise, out.shape[:2])[..., None].astype("f4")
        out = out + gen.normal(0, v.noise / 3, out.shape).astype("f4")
    return (np.clip(out, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
