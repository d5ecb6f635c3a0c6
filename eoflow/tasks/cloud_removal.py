"""Cloud removal: several dates of one place in, with clouds, and the bands of one clear date out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eoflow.checkpoint_images import RADAR
from eoflow.errors import BadInput
from eoflow.models.filling import fill_with_mean
from eoflow.models.images import ImageSignature
from eoflow.models.restoration import RestorationLoss
from eoflow.tasks.base import LayerSpec
from eoflow.tasks.images import NODATA, ImageTaskBase, Scored, Summary

if TYPE_CHECKING:
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches

PEAK = 1.0
LOWEST_MSE = 1e-10
"""Mean squared error below which the peak signal-to-noise ratio stays at 100 dB."""


class CloudRemovalTask(ImageTaskBase):
    """See ImageTask. The targets are the first input bands, in their order; radar bands may follow.

    A pixel is cloudy where one of the input dates did not see the ground.
    """

    name = "cloud-removal"
    baselines = ("median-composite", "mean-composite", "last-clear", "nearest-clear", "linear-in-time")
    metrics = ("psnr", "sam", "ssim", "mae")
    lower_is_better = ("sam", "mae")
    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"restoration": RestorationLoss}
    main_output = "image"

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """See ImageTaskBase."""
        super().check_recipe(recipe)
        bands, targets = recipe.patches.bands or (), recipe.patches.targets
        if bands[: len(targets)] != targets:
            raise BadInput("the targets must be the first input bands, in their order",
                           where=f"recipe {recipe.name}: bands {', '.join(bands)}; targets {', '.join(targets)}",
                           todo="reorder patches.bands")  # fmt: skip

    def outputs(self, recipe: ImageRecipe) -> int:
        """One a target band."""
        return len(recipe.patches.targets)

    def signature(self, recipe: ImageRecipe) -> ImageSignature:
        """See ImageTask; radar is a group of its own."""
        plain = super().signature(recipe)
        bands = recipe.patches.bands or ()
        radar = sum(b.lower() in RADAR for b in bands)
        optical = len(bands) - radar
        if not radar:
            return plain
        if not optical or any(b.lower() in RADAR for b in bands[:optical]):
            raise BadInput("radar bands come last, behind the optical ones", where=f"recipe {recipe.name}, bands")
        return ImageSignature(plain.channels, plain.outputs, plain.dates, (optical, radar))

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """RestorationLoss with the recipe's options, in physical units, over the usable pixels of the target."""
        _, usable = self.feed(sample)
        scale = torch.tensor(normalizer.select(recipe.patches.targets).std)
        return RestorationLoss(**self.loss_ref(recipe).options)(
            outputs, sample.target, usable, observed=sample.quality > 1,
            mask=self.is_usable(sample.target_quality), scale=scale,
        )["loss"]  # fmt: skip

    # -- scores ----------------------------------------------------------------------------------------------------

    def score(self, checkpoint: ImageCheckpoint, outputs: dict[str, Tensor], sample: Patches) -> Scored:
        """PSNR, spectral angle and mean absolute error of each sample (B,), over all and over the cloudy pixels.

        In physical units. Where a model says nothing it is taken to say the mean of what it said, or of the band.
        """
        normalizer = checkpoint.target_normalizer
        assert normalizer is not None
        _, usable = self.feed(sample)
        image = fill_with_mean(outputs["image"].float()).nan_to_num(nan=0.0)
        image, target = (normalizer.decode(x.cpu().double().numpy()) for x in (image, sample.target))
        valid = self.is_usable(sample.target_quality).cpu().numpy() & np.isfinite(target).all(1)
        cloudy = self.cloudy(usable).cpu().numpy()
        out: Scored = {}
        for where, mask in (("all", valid), ("cloudy", valid & cloudy)):
            for metric, values in _errors(image, target, mask).items():
                out[f"{metric}_{where}"] = values
        return out

    def cloudy(self, usable: Tensor) -> Tensor:
        """Pixels (B, H, W) that at least one of the dates (B, T, H, W) did not see."""
        return ~usable.all(1)

    def summary(self, checkpoint: ImageCheckpoint, scored: Scored) -> Summary:
        """Mean over the samples that have such a pixel; variable `all` or `cloudy`."""
        rows: Summary = {}
        for name, values in scored.items():
            known = values[np.isfinite(values)]
            rows["reflectance", name] = float(known.mean()) if known.size else math.nan
        return rows

    # -- products --------------------------------------------------------------------------------------------------

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """`image`, `std` where the network says it, `count` and `filled`."""
        bands = checkpoint.recipe.patches.targets
        normalizer = checkpoint.target_normalizer
        assert normalizer is not None
        units = {"units": ", ".join(dict.fromkeys(normalizer.units))}
        said = f"by {checkpoint.name}"
        out = [LayerSpec("image", "float32", None, {"long_name": f"image without clouds {said}", **units}, bands)]
        if checkpoint.tells_uncertainty:
            std = {"long_name": f"standard deviation of the image as estimated {said}", **units}
            out.append(LayerSpec("std", "float32", None, std, bands))
        count = {"long_name": "dates that saw the ground", "units": "1"}
        flags = {"long_name": "where the image comes from", "flag_values": [0, 1], "flag_meanings": "seen filled"}
        return *out, LayerSpec("count", "uint8", None, count), LayerSpec("filled", "uint8", NODATA, flags)

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """image (C, h, w), log_variance if there, and usable (T, h, w) -> image, std, count, filled; see ImageTask."""
        normalizer = checkpoint.target_normalizer
        assert normalizer is not None
        raw = np.asarray(outputs["image"], np.float32)
        image = normalizer.decode(raw).astype(np.float32)
        seen = np.asarray(usable, bool).sum(0)
        known = np.isfinite(image).all(0)
        out = {"image": image}
        if checkpoint.tells_uncertainty:
            spread = np.exp(0.5 * np.asarray(outputs["log_variance"], np.float32))
            out["std"] = _physical_spread(normalizer, raw, spread)
        out["count"] = np.minimum(seen, 254).astype(np.uint8)[None]
        out["filled"] = np.where(known, seen == 0, NODATA).astype(np.uint8)[None]
        return out


def _physical_spread(normalizer: BandNormalizer, image: Any, spread: Any) -> Any:
    """A standard deviation in normalised units -> physical; through a transform by its slope at the image."""
    if not any(normalizer.transforms):
        return (spread * np.array(normalizer.std, np.float32)[:, None, None]).astype(np.float32)
    return np.abs(normalizer.decode(image + spread) - normalizer.decode(image - spread)).astype(np.float32) / 2


def _errors(image: Any, target: Any, mask: Any) -> dict[str, Any]:
    """psnr (dB), sam (degrees), mae (units of the band) of (B, C, H, W) over mask (B, H, W): (B,), NaN without any."""
    count = mask.sum((-2, -1)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Callable[[Any, Any], Any] = lambda x, m: np.where(m, x, 0.0).sum((-2, -1)) / m.sum((-2, -1))  # noqa: E731
        difference = image - target
        mse = mean((difference**2).mean(1), mask)
        a, b = (np.sqrt((x**2).sum(1)) for x in (image, target))
        # half-angle form: exact for small angles, where the arc cosine is not
        across = np.sqrt(((image * b[:, None] - target * a[:, None]) ** 2).sum(1))
        along = np.sqrt(((image * b[:, None] + target * a[:, None]) ** 2).sum(1))
        angle = mean(np.degrees(2 * np.arctan2(across, along)), mask & (a > 0) & (b > 0))
        psnr = 10 * np.log10(PEAK**2 / np.maximum(mse, LOWEST_MSE))
        mae = mean(np.abs(difference).mean(1), mask)
    return {"psnr": np.where(count > 0, psnr, np.nan), "sam": angle, "mae": mae}
