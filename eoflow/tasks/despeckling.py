"""Despeckling: one radar image in, its reflectivity without speckle out; learnt without a clean image (MERLIN).

Bands are the real and the imaginary part of single-look complex data, as they are in the product (normalize: none), or
for filters the intensities of one or more polarisations, linear or in dB; what comes out is always linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eoflow.checkpoint_images import RADAR
from eoflow.errors import BadInput
from eoflow.models.images import ImageModel, ImageSignature
from eoflow.models.lee import Lee
from eoflow.models.merlin import looks_complex, merlin_loss
from eoflow.tasks.base import LayerSpec
from eoflow.tasks.images import ImageTaskBase, Scored, Summary

if TYPE_CHECKING:
    from eoflow.bands import SceneSchema
    from eoflow.catalog_images import ImageRecipe
    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.samples import Samples
    from eoflow.prepare.scenes.trainset import Patches

COMPLEX = 2
LOOKED_AT = 16
"""Samples in which the phase is looked at before a training."""


def _merlin() -> None:
    """The likelihood of one part under the reflectivity estimated from the other (models/merlin.py); no options."""


class IntensityOf(ImageModel):
    """A filter of intensity, given the real and the imaginary part (B, 1, 2, H, W)."""

    closed_form = True

    def __init__(self, signature: ImageSignature, inner: ImageModel) -> None:
        super().__init__(signature)
        self.inner, self.halo, self.multiple = inner, inner.halo, inner.multiple

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See ImageModel."""
        return self.inner(images.square().sum(2, keepdim=True), usable)  # type: ignore[no-any-return]


class PowerOf(ImageModel):
    """A filter of linear intensity, given decibel (B, 1, C, H, W) in some of its bands."""

    closed_form = True

    def __init__(self, signature: ImageSignature, inner: ImageModel, decibel: Sequence[bool]) -> None:
        super().__init__(signature)
        self.inner, self.halo, self.multiple, self.decibel = inner, inner.halo, inner.multiple, tuple(decibel)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See ImageModel."""
        return self.inner(linear(images, self.decibel), usable)  # type: ignore[no-any-return]


def linear(images: Tensor, decibel: Sequence[bool]) -> Tensor:
    """(..., C, H, W) with those bands that are decibel as power."""
    where = torch.tensor(tuple(decibel), device=images.device)[:, None, None]
    return torch.where(where, 10 ** (images / 10), images) if any(decibel) else images


class DespecklingTask(ImageTaskBase):
    """See ImageTask. Its scores are of the ratio of the speckled to the despeckled intensity: mean 1, and a variance of
    1 / looks, if speckle and nothing else was taken off."""

    name = "despeckling"
    baselines = ("lee",)
    metrics = ("ratio_variance", "ratio_mean", "nll")
    lower_is_better = ("nll",)
    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"merlin": _merlin}
    main_output = "image"

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """See ImageTaskBase."""
        super().check_recipe(recipe)
        bands = recipe.patches.bands or ()
        if recipe.patches.dates != 1 or not bands:
            raise BadInput("despeckling takes one date: real and imaginary part, or bands of intensity",
                           where=f"recipe {recipe.name}: {recipe.patches.dates} dates of {', '.join(bands)}",
                           todo="patches: {bands: [real, imaginary], dates: 1}")  # fmt: skip

    def outputs(self, recipe: ImageRecipe) -> int:
        """The reflectivity, of each polarisation."""
        return 1 if of_complex(recipe.patches.bands) else len(recipe.patches.bands or ())

    def wrapped(self, model: ImageModel, recipe: ImageRecipe, schema: SceneSchema) -> ImageModel:
        """A filter of intensity gets the squared modulus of complex data, and power instead of decibel.

        Raises BadInput, with the reason, for a network that learns from the phase where there is none."""
        bands = recipe.patches.bands
        if not isinstance(model, Lee):
            if not model.closed_form and not of_complex(bands):
                raise BadInput(f"'{recipe.network.name}' takes single-look complex data: detected images have lost the"
                               " phase, from which it learns", where=f"bands {', '.join(bands or ())}",
                               todo="give the two parts of an SLC product, or despeckle with --model lee")  # fmt: skip
            return model
        if of_complex(bands):
            return IntensityOf(model.signature, model)
        decibel = [schema.band(n).units == "dB" for n in bands or ()]
        return PowerOf(model.signature, model, decibel) if any(decibel) else model

    def check_samples(self, samples: Samples) -> None:
        """Raise BadInput, with the reason, where two bands cannot be the parts of single-look complex data."""
        some = samples.batch(np.linspace(0, len(samples) - 1, min(LOOKED_AT, len(samples))).astype(int))
        if of_complex(samples.recipe.bands):
            require_complex(some.inputs[:, 0])

    def check_scene(self, checkpoint: ImageCheckpoint, values: Any) -> None:
        """As check_samples, of values (C, h, w) of a scene that a network with weights is to be run on.

        Where nothing was seen there is nothing to refuse: the image will say so.
        """
        parts = np.nan_to_num(values)
        if of_complex(checkpoint.recipe.patches.bands) and not checkpoint.model.closed_form and parts.any():
            require_complex(parts)

    def loss(
        self, recipe: ImageRecipe, normalizer: BandNormalizer, outputs: dict[str, Tensor], sample: Patches,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """See merlin_loss."""
        images, usable = self.feed(sample)
        return merlin_loss(outputs["log_parts"], images, usable)

    def score(self, checkpoint: ImageCheckpoint, outputs: dict[str, Tensor], sample: Patches) -> Scored:
        """`ratio`: number, sum and sum of squares of the ratios (B, 3); `nll` (B,) where the network has one."""
        images, usable = self.feed(sample)
        bands, estimate = checkpoint.recipe.patches.bands, outputs["image"]
        noisy = intensity(images[:, 0], bands, [checkpoint.schema.band(b).units for b in bands or ()])
        known = usable & (estimate > 0) & estimate.isfinite()
        ratio = torch.where(known, noisy / estimate.clamp_min(1e-30), 0.0).double()
        parts = [known.sum((1, 2, 3)).double(), ratio.sum((1, 2, 3)), ratio.square().sum((1, 2, 3))]
        out = {"ratio": torch.stack(parts, 1).cpu().numpy()}
        if "log_parts" in outputs:
            nll = [merlin_loss(outputs["log_parts"][[i]], images[[i]], usable[[i]]) for i in range(len(images))]
            out["nll"] = torch.stack(nll).double().cpu().numpy()
        return out

    def summary(self, checkpoint: ImageCheckpoint, scored: Scored) -> Summary:
        """Of all pixels together; nll is the mean of the samples."""
        number, first, second = scored["ratio"].sum(0)
        mean = float(first / number) if number else float("nan")
        variance = float(second / number) - mean**2 if number else float("nan")
        rows = {("intensity", "ratio_variance"): variance, ("intensity", "ratio_mean"): mean}
        return rows | ({("intensity", "nll"): float(scored["nll"].mean())} if "nll" in scored else {})

    def layers(self, checkpoint: ImageCheckpoint) -> tuple[LayerSpec, ...]:
        """`intensity`, of each polarisation."""
        attrs = {"long_name": f"radar intensity without speckle by {checkpoint.name}", "units": "1"}
        bands = checkpoint.recipe.patches.bands or ()
        each = () if of_complex(bands) or len(bands) == 1 else tuple(bands)
        return (LayerSpec("intensity", "float32", None, attrs, each),)

    def decode(self, checkpoint: ImageCheckpoint, outputs: Any, usable: Any) -> Any:
        """image (C, h, w) and usable (1, h, w) -> intensity (C, h, w), NaN where nothing was seen."""
        image = np.asarray(outputs["image"], np.float32)
        return {"intensity": np.where(np.asarray(usable, bool), image, np.float32(np.nan))}


def of_complex(bands: Sequence[str] | None) -> bool:
    """Whether bands are the two parts of complex data, and not intensities of polarisations."""
    return bands is not None and len(bands) == COMPLEX and not any(b.lower() in RADAR for b in bands)


def intensity(images: Tensor, bands: Sequence[str] | None, units: Sequence[str]) -> Tensor:
    """(B, C, H, W) as samples have them -> linear intensity (B, C or 1, H, W)."""
    if of_complex(bands):
        return images.square().sum(1, keepdim=True)
    return linear(images, [u == "dB" for u in units])


def require_complex(parts: Any) -> None:
    """Raise BadInput, with the reason, unless (..., 2, H, W) can be the two parts of single-look complex speckle."""
    found = looks_complex(torch.as_tensor(parts))
    if not found.ok:
        raise BadInput(f"this is no single-look complex image: {found.reason}",
                       where=f"phase of {found.samples} pixels",
                       todo="give the two parts of an SLC product; a GRD product has lost the phase")  # fmt: skip
