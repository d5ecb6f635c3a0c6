"""Metrics of restored images (cloud removal): in physical reflectance, by region; and the papers' own RGB protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from eoflow.verify import images
from eoflow.verify.image_counts import F64, Array, ImageMetric, Scene, Truth, ratio

REGIONS = ("all", "cloudy", "hidden")
"""Pixels of a cloud-removal score: all with a clear target; of them what an input date did not see; what none saw."""


class Restoration(ImageMetric):
    """Metrics of an image against its target, in physical units, over a region.

    Sums by region: pixels, squared error, absolute error (both the mean over the bands), pixels with a direction,
    spectral angle (degrees), pixels with a window, SSIM.
    """

    task = ("cloud-removal",)
    shared = "restoration"
    variable = "reflectance"
    region: ClassVar[str] = "all"
    part: ClassVar[tuple[int, int]] = (0, 0)

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(3 * 7,)."""
        image, target = np.asarray(outputs["image"], np.float64), np.asarray(sample.target, np.float64)
        known = np.isfinite(target).all(0)
        masks = [known, known & sample.cloudy, known & sample.hidden]
        a, b = np.where(known, image, 0.0), np.where(known, target, 0.0)
        squared, absolute = ((a - b) ** 2).mean(0), np.abs(a - b).mean(0)
        la, lb = np.sqrt((a**2).sum(0)), np.sqrt((b**2).sum(0))
        # the half-angle form is exact for small angles, where the arc cosine is not
        across, along = (np.sqrt(((a * lb + sign * b * la) ** 2).sum(0)) for sign in (-1, 1))
        angle, directed = np.degrees(2 * np.arctan2(across, along)), (la > 0) & (lb > 0)
        alike = images.ssim_sums(image, np.where(known, target, np.nan), masks)
        rows = [
            [m.sum(), squared[m].sum(), absolute[m].sum(), (m & directed).sum(), angle[m & directed].sum(), n, s]
            for m, (s, n) in zip(masks, alike, strict=True)
        ]
        return np.array(rows, np.float64).ravel()

    def mean(self, sums: F64) -> F64:
        """Sum over count of this metric's part, in its region."""
        table = sums.reshape(*sums.shape[:-1], len(REGIONS), 7)[..., REGIONS.index(self.region), :]
        return ratio(table[..., self.part[1]], table[..., self.part[0]])

    def value(self, sums: F64) -> F64:
        """The mean."""
        return self.mean(sums)


class Psnr(Restoration):
    """Peak signal-to-noise ratio, dB, of the mean squared error over all pixels and bands; peak: reflectance 1."""

    better = "higher"
    part = (0, 1)

    def value(self, sums: F64) -> F64:
        """-10 log10(MSE), at most images.PSNR_CEILING."""
        floor = 10 ** (-images.PSNR_CEILING / 10)
        return np.asarray(-10 * np.log10(np.maximum(self.mean(sums), floor)))


class Mae(Restoration):
    """Mean absolute error over pixels and bands, reflectance."""

    better = "lower"
    bounds = (0.0, np.inf)
    part = (0, 2)


class Sam(Restoration):
    """Mean spectral angle, degrees."""

    better = "lower"
    bounds = (0.0, 180.0)
    part = (3, 4)


class Ssim(Restoration):
    """Mean structural similarity over pixels and bands (see images.ssim)."""

    better = "higher"
    bounds = (-1.0, 1.0)
    part = (5, 6)


def _regional() -> tuple[type[ImageMetric], ...]:
    """Each of the four in each region: psnr_all, psnr_cloudy, psnr_hidden, ..."""
    kinds = {"psnr": Psnr, "sam": Sam, "ssim": Ssim, "mae": Mae}
    return tuple(
        type(f"{kind.__name__}{region.title()}", (kind,), {"name": f"{name}_{region}", "region": region,
                                                          "__doc__": f"{kind.__doc__} Pixels: {region}."})
        for region in REGIONS for name, kind in kinds.items()
    )  # fmt: skip


class PaperRgb(ImageMetric):
    """Mean over the samples of a score of 8-bit pictures, as the papers of CTGAN and PMAA print it (see images.py)."""

    task = ("cloud-removal",)
    better = "higher"
    variable = "red, green, blue"
    shared = "paper-rgb"
    at: ClassVar[int] = 0

    def __init__(self, bands: tuple[int, int, int] = (0, 1, 2)) -> None:
        self.bands = bands

    @classmethod
    def of(cls, scene: Scene) -> Sequence[ImageMetric]:
        """Where red, green and blue are among the targets."""
        found = [scene.common.get(c) for c in ("red", "green", "blue")]
        return () if None in found else (cls(tuple(found)),)  # type: ignore[arg-type]

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(samples, PSNR, SSIM)."""
        known = np.isfinite(sample.target).all(0)
        if not known.any():
            return np.zeros(3)
        image = np.where(known, outputs["image"], np.nan)
        found = [f(image, sample.target, bands=self.bands) for f in (images.psnr_rgb_paper, images.ssim_rgb_paper)]
        return np.array([1.0, *map(float, found)])

    def value(self, sums: F64) -> F64:
        """The mean."""
        return ratio(sums[..., 1 + self.at], sums[..., 0])


class PsnrRgbPaper(PaperRgb):
    """PSNR of the papers' own protocol, dB; not comparable with psnr."""

    name = "psnr_rgb_paper"
    at = 0


class SsimRgbPaper(PaperRgb):
    """SSIM of the papers' own protocol; not comparable with ssim."""

    name = "ssim_rgb_paper"
    at = 1
    bounds = (-1.0, 1.0)


class StdRatio(ImageMetric):
    """Root mean square of error over the standard deviation that the model says: 1 is honest, more is too sure."""

    name = "std_ratio"
    task = ("cloud-removal",)
    variable = "reflectance"
    bounds = (0.0, np.inf)

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(values, squared ratio)."""
        if "std" not in outputs:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            z = ((outputs["image"] - sample.target) / outputs["std"]) ** 2
        good = np.isfinite(z)
        return np.array([good.sum(), z[good].sum()], np.float64)

    def value(self, sums: F64) -> F64:
        """See the class."""
        return np.asarray(np.sqrt(ratio(sums[..., 1], sums[..., 0])))


class Said(ImageMetric):
    """Share of the pixels that count at which the model says something; the rest is scored as its mean colour."""

    name = "said"
    task = ("cloud-removal",)
    variable = "reflectance"
    bounds = (0.0, 1.0)

    def counts(self, sample: Truth, outputs: Mapping[str, Array]) -> F64 | None:
        """(pixels, said)."""
        known = np.isfinite(sample.target).all(0)
        said = outputs.get("said", np.isfinite(outputs["image"]).all(0))
        return np.array([known.sum(), (known & said).sum()], np.float64)

    def value(self, sums: F64) -> F64:
        """See the class."""
        return ratio(sums[..., 1], sums[..., 0])


RESTORATION: tuple[type[ImageMetric], ...] = (*_regional(), PsnrRgbPaper, SsimRgbPaper, StdRatio, Said)
