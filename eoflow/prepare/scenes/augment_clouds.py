"""What the sky does to a series of images, put on samples of cloud removal: clouds and their shadows, haze, another
radiometry every day, shifts below a pixel, sensor noise; and a quality layer that is wrong about it as real ones are.

A network that is to work on any sensor's series must not learn the simulation's atmosphere, its perfect masks or its
number of dates. Everything is drawn anew for each sample; of the bands only the names need to be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from eoflow.prepare.scenes.augment import Hook, HookContext
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import USABLE, Quality
from eoflow.sources.land import spectra
from eoflow.sources.land.noise import fractal

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Field = NDArray[np.float32]
Rng = np.random.Generator

COMMON = {
    "coastal": 0.443, "blue": 0.490, "green": 0.560, "red": 0.665, "rededge": 0.704, "rededge071": 0.704,
    "rededge075": 0.740, "rededge078": 0.783, "nir": 0.842, "nir08": 0.865, "nir09": 0.945, "swir16": 1.610,
    "swir22": 2.190,
}  # fmt: skip
"""Wavelength of common names, micrometres; those of Sentinel-2's bands are the sample land's."""
RADAR = ("vv", "vh", "hh", "hv")
CHANGE = 0.028
"""Standard deviation of what grows, in reflectance at 842 nm, after ten days; it grows with the root of time."""
GREEN = (-0.25, -0.15, -0.6, -0.2, 0.6, 0.9, 1.0, 1.0, -0.5, -0.6)
BARE = (0.25, 0.35, 0.6, 0.65, 0.7, 0.75, 0.8, 0.8, 1.0, 0.95)
"""In the bands of the sample land, 490 to 2190 nm, against the largest."""
CLOUD, SHADE = 0.2, 0.3
"""Opacity from which a pixel is cloud, loss of direct light from which it is shadow."""


@dataclass(frozen=True)
class Sky:
    """How often (shares of samples or of dates) and how much.

    own: samples in which the wanted date itself, under clouds, is one of the inputs. growth: most change of the ground
    with time, in CHANGE, beside that of the samples. paste: dates that get a cloud layer; overcast: those of them
    without a gap. veil: dates under a thin layer that no mask knows. haze: mean path reflectance of a day at 490 nm.
    gain: spread of a day's brightness. path: largest path reflectance at 490 nm of a series at the top of the
    atmosphere. shift: spread of the misregistration, pixels. noise: largest standard deviation. mistaken: dates whose
    mask has errors; blind: dates whose mask says that all is clear. drop: samples that lose some of their dates.
    timeless: samples whose days nobody knows.
    """

    own: float = 0.35
    growth: float = 1.2
    paste: float = 0.5
    overcast: float = 0.15
    veil: float = 0.15
    haze: float = 0.004
    gain: float = 0.015
    path: float = 0.09
    shift: float = 0.2
    noise: float = 0.003
    mistaken: float = 0.5
    blind: float = 0.03
    drop: float = 0.6
    timeless: float = 0.15


def clouds(context: HookContext, **options: float) -> Hook:
    """The hook; options are the fields of Sky. Targets must be the first bands; radar bands come last and stay.

    Raises ValueError for a band of unknown wavelength, TypeError for an unknown option.
    """
    sky = Sky(**options)
    names = [n for n in context.channels if n.lower() not in RADAR]
    bands = Bands.of(names)

    def hook(sample: Patches, rng: Rng) -> Patches:
        images = np.array(context.normalizer.decode(sample.inputs.numpy()), np.float32)
        wanted = np.zeros((0, *images.shape[-2:]), np.float32)
        if context.targets is not None and sample.target.shape[0]:
            wanted = np.array(context.targets.decode(sample.target.numpy()), np.float32)
        days: Tensor | None = getattr(sample, "days", None)
        series = Series(
            images[:, : len(names)], sample.quality.numpy().copy(), wanted, sample.target_quality.numpy(),
            None if days is None else days.numpy().copy(),
        )  # fmt: skip
        weather(series, bands, sky, rng)
        images[:, : len(names)] = series.images
        return _put_back(sample, context, images, series)

    return hook


@dataclass
class Series:
    """A sample in reflectance. images (T, C, h, w), quality (T, h, w), wanted (K, h, w): the first K bands of the
    wanted date, clear where wanted_quality (h, w) says so; days (T + 1,) of the dates and the wanted one, or None."""

    images: Field
    quality: Array
    wanted: Field
    wanted_quality: Array
    days: Array | None


@dataclass(frozen=True)
class Bands:
    """What the sky does in each band, all (C,): path reflectance of haze and of clean air against that at 490 nm,
    clouds of water and of ice, share of light that a shadow keeps, what becomes of it where plants grow and where the
    soil brightens."""

    haze: Field
    air: Field
    water: Field
    ice: Field
    diffuse: Field
    green: Field
    bare: Field

    @classmethod
    def of(cls, names: list[str]) -> Bands:
        """Of bands by name or common name. Raises ValueError for an unknown one."""
        known = {**{k.lower(): v for k, v in spectra.WAVELENGTH.items()}, **COMMON}
        unknown = [n for n in names if n.lower() not in known]
        if unknown:
            raise ValueError(f"nobody knows the wavelength of band {', '.join(unknown)}")
        at = np.array([known[n.lower()] for n in names])
        axis = np.array([spectra.WAVELENGTH[b] for b in spectra.BANDS])

        def column(values: Any) -> Field:
            return np.interp(at, axis, np.asarray(values)).astype("f4")

        return cls(
            column([spectra.HAZE[b] for b in spectra.BANDS]), ((at / 0.49) ** -3.8).astype("f4"),
            column(spectra.column("water_cloud", spectra.BANDS)), column(spectra.column("ice_cloud", spectra.BANDS)),
            column([spectra.DIFFUSE[b] for b in spectra.BANDS]), column(GREEN), column(BARE),
        )  # fmt: skip


def weather(s: Series, bands: Bands, sky: Sky, rng: Rng) -> None:
    """Everything above, in place."""
    dates, channels, height, width = s.images.shape
    if s.days is not None:
        _grown(s, bands, sky.growth * float(rng.uniform(0.3, 1)), rng)
    own = -1
    if channels == len(s.wanted) and rng.random() < sky.own and usable(s.wanted_quality).any():
        own = int(rng.integers(dates))
        s.images[own], s.quality[own] = s.wanted, s.wanted_quality
        if s.days is not None:
            s.days[own] = s.days[-1]
    size = max(16, -(-max(height, width) // 16) * 16)
    for t in range(dates):
        if t != own:
            _another_day(s.images[t], bands, sky, rng)
            s.images[t] = _moved(s.images[t], sky.shift * rng.standard_normal(2))
        truth = _covered(s, t, bands, sky, rng, size, t == own)
        s.quality[t] = _as_told(s.quality[t], truth, sky, rng)
    _noisy(s, sky, rng, own)
    _top_of_atmosphere(s, bands, sky, rng)
    if rng.random() < sky.drop:
        lost = rng.permutation(dates)[: int(rng.integers(dates))]
        s.quality[lost] = int(Quality.MISSING)
    if s.days is not None and rng.random() < sky.timeless:
        s.days[:] = np.nan


def usable(quality: Array) -> Array:
    """Where the surface was seen."""
    return np.isin(quality, [int(q) for q in USABLE])


# ---- what is seen -----------------------------------------------------------------------------------------------


def _grown(s: Series, bands: Bands, much: float, rng: Rng) -> None:
    """Change of the ground that goes on with time: a random walk of a few patterns away from the wanted day.

    Half of the patterns follow what a pixel is like (fields keep their shape), the others are patches.
    """
    assert s.days is not None
    away = s.days[:-1] - s.days[-1]
    size = -(-max(s.quality.shape[1:]) // 16) * 16
    part = tuple(slice(n) for n in s.quality.shape[1:])
    like = s.wanted if len(s.wanted) else s.images.mean(0)
    like = (like - like.mean((1, 2), keepdims=True)) / (like.std((1, 2), keepdims=True) + 1e-6)
    for direction in (bands.green, bands.bare) * 2:
        turn = (rng.standard_normal(len(like)) / np.sqrt(len(like))).astype("f4")
        shape = np.sqrt(2.0) * np.sin(1.5 * np.tensordot(turn, like, 1) + rng.uniform(0, 2 * np.pi))
        patches = fractal(rng, size, slope=float(rng.uniform(1.2, 2.2)), outer=3.0)[part]
        pattern = np.sqrt(0.3) * rng.choice((-1, 1)) + np.sqrt(0.4) * shape + np.sqrt(0.3) * patches
        walk = np.zeros(len(away))
        for side in (away < 0, away > 0):
            order = np.flatnonzero(side)[np.argsort(np.abs(away[side]))]
            steps = np.diff(np.abs(away[order]), prepend=0.0)
            walk[order] = np.cumsum(rng.standard_normal(order.size) * np.sqrt(steps / 10))
        step = (much * CHANGE / np.sqrt(2) * walk).astype("f4")[:, None, None, None]
        s.images += step * direction[:, None, None] * pattern.astype("f4")
    np.maximum(s.images, 0.002, out=s.images)


def _another_day(image: Field, bands: Bands, sky: Sky, rng: Rng) -> None:
    """Haze, and a slightly different brightness of all and of each band; image (C, h, w), in place."""
    gain = 1 + sky.gain * (0.7 * rng.standard_normal() + 0.4 * rng.standard_normal(len(image)))
    haze = rng.exponential(sky.haze) * bands.haze
    image *= gain.astype("f4")[:, None, None]
    image += haze.astype("f4")[:, None, None]


def _moved(image: Field, by: Array) -> Field:
    """(C, h, w) moved by a part of a pixel, linearly interpolated."""
    for axis, part in zip((1, 2), np.clip(by, -0.95, 0.95), strict=True):
        step = int(np.sign(part)) or 1
        index = np.clip(np.arange(image.shape[axis]) - step, 0, image.shape[axis] - 1)
        image = image + np.float32(abs(part)) * (np.take(image, index, axis) - image)
    return image


def _layer(rng: Rng, size: int, cover: float, thin: bool) -> Field:
    """Opacity (size, size), 0..1, of a periodic cloud layer that covers about `cover` of the sky."""
    field = fractal(
        rng, size, slope=float(rng.uniform(1.6, 2.5)), outer=float(rng.uniform(0.5, 4.0)),
        stretch=float(rng.uniform(1, 3)), angle=float(rng.uniform(0, np.pi)),
    )  # fmt: skip
    inside = np.maximum(field - np.float32(special.ndtri(1 - np.clip(cover, 1e-3, 0.9999))), 0)
    growth, core = (rng.uniform(0.1, 0.5), 0.0) if thin else (np.exp(rng.uniform(-1, 1)), rng.uniform(0, 3))
    return np.asarray((1 - np.exp(-growth * inside - core * inside**2)) * rng.uniform(0.9, 1.0), np.float32)


def _covered(
    s: Series, t: int, bands: Bands, sky: Sky, rng: Rng, size: int, own: bool
) -> tuple[Array, Array, Array]:
    """Put a layer over date t, perhaps, over the wanted one always: thick cloud, any cloud, shadow, (h, w) bool."""
    height, width = s.quality.shape[1:]
    opacity, shade, bright = (np.zeros((height, width), np.float32) for _ in range(3))
    bright += 1
    part = (slice(height), slice(width))
    if own or rng.random() < sky.paste:
        cover = 0.9999 if rng.random() < sky.overcast else float(rng.beta(0.9, 1.1))
        layer = _layer(rng, size, cover, bool(rng.random() < 0.2))
        move = rng.normal(0, 12, 2).round().astype(int)
        opacity, shade = layer[part], np.roll(layer, move, (0, 1))[part] * np.float32(rng.uniform(0.5, 1))
        bright = (0.7 + 0.4 * rng.random() * opacity + 0.15 * rng.random()).astype("f4")
    if not own and rng.random() < sky.veil:
        veil = _layer(rng, size, float(rng.uniform(0.3, 1)), True)[part] * np.float32(rng.uniform(0.1, 0.8))
        opacity = opacity + veil - opacity * veil
    if opacity.any():
        ice = np.float32(rng.random() < 0.4) * np.float32(rng.random())
        cloud = (bands.water + ice * (bands.ice - bands.water))[:, None, None] * bright
        image = s.images[t] * (1 - (1 - bands.diffuse[:, None, None]) * shade)
        s.images[t] = image + opacity * (cloud - image)
    return opacity > 0.6, opacity > CLOUD, (shade > SHADE) & (opacity < CLOUD)


def _noisy(s: Series, sky: Sky, rng: Rng, own: int) -> None:
    """Noise of the sensor; the wanted date among the inputs has that of the wanted date."""
    level = np.float32(rng.uniform(0, sky.noise))
    noise = level * rng.standard_normal(s.images.shape, dtype=np.float32)
    s.images += noise
    if own >= 0:
        s.wanted += noise[own]
    else:
        s.wanted += level * rng.standard_normal(s.wanted.shape, dtype=np.float32)


def _top_of_atmosphere(s: Series, bands: Bands, sky: Sky, rng: Rng) -> None:
    """The same clean air over all dates, more of it or less; in half of the samples none."""
    path = np.float32(max(0.0, rng.uniform(-sky.path, sky.path))) * bands.air
    keep = 1 - 1.5 * path
    s.images *= keep[:, None, None]
    s.images += path[:, None, None]
    k = len(s.wanted)
    s.wanted *= keep[:k, None, None]
    s.wanted += path[:k, None, None]


# ---- what is said of it -----------------------------------------------------------------------------------------


def _as_told(quality: Array, truth: tuple[Array, Array, Array], sky: Sky, rng: Rng) -> Array:
    """Quality (h, w) of a date under the pasted clouds, with the errors of a detector."""
    thick, thin, shadow = truth
    wrong = rng.random() < sky.mistaken
    cloud = thick if wrong and rng.random() < 0.4 else thin
    out = quality.copy()
    seen = quality > int(Quality.NODATA)
    out[shadow & seen & (out != int(Quality.CLOUD))] = int(Quality.SHADOW)
    out[cloud & seen] = int(Quality.CLOUD)
    if wrong and rng.random() < 0.4:
        out[out == int(Quality.SHADOW)] = int(Quality.CLEAR)
    if wrong:
        marked, steps = out == int(Quality.CLOUD), int(rng.integers(-2, 7))
        if steps > 0 and marked.any():
            out[ndimage.binary_dilation(marked, iterations=steps) & seen] = int(Quality.CLOUD)
        elif steps < 0 and marked.any():
            out[marked & ~ndimage.binary_erosion(marked, iterations=-steps)] = int(Quality.CLEAR)
    if wrong and rng.random() < 0.25:
        size = -(-max(quality.shape) // 16) * 16
        patchy = fractal(rng, size, slope=1.8, outer=4.0)[: quality.shape[0], : quality.shape[1]]
        out[(patchy > rng.uniform(0.8, 2.5)) & seen] = int(Quality.CLOUD)
    if rng.random() < sky.blind:
        out[seen & ~usable(out)] = int(Quality.CLEAR)
    return out


def _put_back(sample: Patches, context: HookContext, images: Field, s: Series) -> Patches:
    """The series as a sample again: normalised, 0 where nothing was seen."""
    import torch

    inputs = np.array(context.normalizer.encode(images), np.float32)
    inputs[np.broadcast_to((s.quality <= int(Quality.NODATA))[:, None], inputs.shape)] = 0
    out = sample._replace(inputs=torch.from_numpy(inputs), quality=torch.from_numpy(s.quality))
    if context.targets is not None and len(s.wanted):
        target = np.array(context.targets.encode(s.wanted), np.float32)
        target[:, s.wanted_quality <= int(Quality.NODATA)] = 0
        out = out._replace(target=torch.from_numpy(target))
    return out if s.days is None else out._replace(days=torch.from_numpy(s.days))  # type: ignore[call-arg]
