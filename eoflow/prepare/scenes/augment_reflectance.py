"""Multispectral samples as another sensor, atmosphere and river could have shown them.

Reflectance is multiplied (calibration, sun, topography), path reflectance is added to it, most in the blue: aerosol and
molecules fall with wavelength as a power of about 1 to 4 (Angstrom 1929, Rayleigh 1871). That is also what separates
top-of-atmosphere values from those of the surface. Water is as bright as what floats in it: the label says where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from eoflow.prepare.scenes.augment import Hook, HookContext
from eoflow.quality import Quality

if TYPE_CHECKING:
    from eoflow.prepare.scenes.trainset import Patches

WAVELENGTH = {
    "B01": 0.443, "B02": 0.490, "B03": 0.560, "B04": 0.665, "B05": 0.705, "B06": 0.740, "B07": 0.783, "B08": 0.842,
    "B8A": 0.865, "B09": 0.945, "B11": 1.610, "B12": 2.190,
}  # fmt: skip
"""Micrometres, of Sentinel-2."""


def reflectance(
    context: HookContext,
    *,
    gain: float = 0.15,
    each: float = 0.08,
    haze: float = 0.08,
    silt: float = 0.4,
    noise: float = 0.005,
    water: int = 1,
) -> Hook:
    """The hook, for reflectance in Sentinel-2's bands. ValueError for other units or bands.

    gain, each: standard deviations of the logarithm of a factor on all bands and on each. haze: largest path
    reflectance at 0.49 micrometres. silt: probability that the water carries more or less of it (and shows more in the
    near infrared). noise: largest white noise. water: its number among the labels.
    """
    n = context.normalizer
    unknown = [c for c in n.channels if c.upper() not in WAVELENGTH]
    if unknown or any(u != "1" for u in n.units):
        raise ValueError(f"reflectance in bands of Sentinel-2 is needed, not {', '.join(unknown or n.units)}")
    wave = np.array([WAVELENGTH[c.upper()] for c in n.channels])

    def hook(sample: Patches, rng: np.random.Generator) -> Patches:
        x = np.asarray(n.decode(sample.inputs.numpy()), np.float64)
        shape = (len(wave), 1, 1)
        if rng.random() < silt and sample.labels.shape[0]:
            wet = (sample.labels[0] == water).numpy()
            factor = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.15, shape))
            load = rng.uniform(0, 0.12) * np.clip((1.1 - wave) / 0.5, 0.0, 1.0).reshape(shape)
            x = np.where(wet, x * factor + load, x)
        x = x * np.exp(rng.normal(0, gain) + rng.normal(0, each, shape))
        x = x + rng.uniform(0, haze) * (0.49 / wave.reshape(shape)) ** rng.uniform(1.0, 4.0)
        x = x + rng.standard_normal(x.shape) * rng.uniform(0, noise)
        out = torch.from_numpy(np.ascontiguousarray(n.encode(x.astype(np.float32)), np.float32))
        return sample._replace(inputs=out.masked_fill((sample.quality <= int(Quality.NODATA))[:, None], 0.0))

    return hook
