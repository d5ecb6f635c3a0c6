"""Augmentation of reflectance: haze falls with wavelength, silt stays in the water, nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.prepare.scenes.augment import HookContext
from eoflow.prepare.scenes.augment_reflectance import reflectance
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import Quality

BANDS = ("B02", "B03", "B04", "B08", "B11")
OFF = {"gain": 0.0, "each": 0.0, "haze": 0.0, "silt": 0.0, "noise": 0.0}


def context(bands: tuple[str, ...] = BANDS, units: str = "1") -> HookContext:
    k = len(bands)
    n = BandNormalizer(bands, (0.1,) * k, (0.05,) * k, (0.05,) * k, (None,) * k, (units,) * k, ("zscore",) * k,
                       (None,) * k, (None,) * k)  # fmt: skip
    return HookContext(n.channels, n)


def sample() -> Patches:
    quality = torch.full((1, 32, 32), int(Quality.CLEAR), dtype=torch.uint8)
    quality[0, :4] = int(Quality.NODATA)
    inputs = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs[:, :, :4] = 0.0
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[0, :, :10] = 1
    none = torch.zeros(0, 32, 32)
    return Patches(inputs, quality, none, quality[0], labels, torch.tensor(1.0), torch.tensor(3), torch.zeros(1))


def change(seed: int = 1, **options) -> torch.Tensor:
    """Reflectance added where something was seen: (band, y, x)."""
    s = sample()
    out = reflectance(context(), **{**OFF, **options})(s, np.random.default_rng(seed))
    assert (out.inputs[0, :, :4] == 0).all()
    return ((out.inputs - s.inputs) * 0.05)[0, :, 4:]


def test_drawn_by_the_generator_alone():
    hook, s = reflectance(context()), sample()
    a, b, c = (hook(s, np.random.default_rng(k)).inputs for k in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.allclose(change(), torch.zeros(()), atol=1e-6)


def test_haze_falls_with_wavelength_and_adds_the_same_everywhere():
    d = change(haze=0.1)
    assert float(d.std(dim=(1, 2)).max()) < 1e-6
    added = d.mean(dim=(1, 2))
    assert (added.diff() < 0).all()
    ratio = np.log(float(added[0] / added[3])) / np.log(0.842 / 0.49)  # the exponent of the power law
    assert 1.0 <= ratio <= 4.0
    assert 0 < float(added[0]) <= 0.1


def test_silt_changes_the_water_only_and_no_short_wave_load():
    d = change(silt=1.0, seed=3)
    assert torch.allclose(d[:, :, 10:], torch.zeros(()), atol=1e-6)
    assert float(d[0, :, :10].abs().mean()) > 1e-3


def test_a_gain_multiplies():
    s, hook = sample(), reflectance(context(), **{**OFF, "gain": 0.3})
    out = hook(s, np.random.default_rng(4))
    before, after = (x.inputs[0, :, 4:] * 0.05 + 0.1 for x in (s, out))
    factor = (after / before)[before.abs() > 0.02]
    assert float(factor.std()) < 1e-3
    assert abs(float(factor.mean()) - 1) > 0.01


def test_other_bands_and_units_are_refused():
    with pytest.raises(ValueError, match="not VV"):
        reflectance(context(("B02", "VV")))
    with pytest.raises(ValueError, match="reflectance in bands"):
        reflectance(context(units="dB"))
