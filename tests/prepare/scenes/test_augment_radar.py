"""Radar augmentation: what it does to decibels, against formulas, and that it is drawn by the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import polygamma

from eoflow.prepare.scenes.augment import HookContext
from eoflow.prepare.scenes.augment_radar import CROSS, radar
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import Quality

SIZE = 96
OFF = {"offset": 0.0, "between": 0.0, "slope": 0.0, "wind": 0.0, "speckle": 0.0, "edge": 0.0}


def context(units: str = "dB", transform: str | None = None) -> HookContext:
    n = BandNormalizer(("VV", "VH"), (-10.0, -17.0), (4.0, 5.0), (4.0, 5.0), (transform,) * 2, (units,) * 2,
                       ("zscore",) * 2, (None,) * 2, (None,) * 2)  # fmt: skip
    return HookContext(n.channels, n)


def sample(unseen: bool = False) -> Patches:
    quality = torch.full((1, SIZE, SIZE), int(Quality.CLEAR), dtype=torch.uint8)
    if unseen:
        quality[0, :10] = int(Quality.NODATA)
    inputs = torch.randn(1, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    inputs[0, :, quality[0] != int(Quality.CLEAR)] = 0.0
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
    labels[0, :, : SIZE // 3] = 1
    labels[0, :, -5:] = -1
    none = torch.zeros(0, SIZE, SIZE)
    days = torch.zeros(len(inputs) + 1)
    return Patches(inputs, quality, none, quality[0], labels, torch.tensor(1.0), torch.tensor(3), days)


def change(hook, s: Patches, seed: int = 5) -> torch.Tensor:
    """What the hook adds, in dB: (channel, y, x)."""
    out = hook(s, np.random.default_rng(seed))
    return ((out.inputs - s.inputs) * torch.tensor([4.0, 5.0])[:, None, None])[0]


def test_drawn_by_the_generator_alone():
    hook, s = radar(context()), sample()
    a, b = (hook(s, np.random.default_rng(9)) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(a.inputs, hook(s, np.random.default_rng(10)).inputs)
    still = radar(context(), **OFF)(s, np.random.default_rng(9))
    assert torch.equal(still.inputs, s.inputs)


def test_offsets_are_constant_and_slopes_are_planes():
    d = change(radar(context(), **{**OFF, "offset": 2.0}), sample())
    assert d.std() < 1e-5  # the same for both bands
    assert abs(d.mean()) > 0.1
    d = change(radar(context(), **{**OFF, "between": 2.0}), sample())
    assert d[0].std() < 1e-5
    assert abs(d[0].mean() - d[1].mean()) > 0.05
    d = change(radar(context(), **{**OFF, "slope": 3.0}), sample())
    assert torch.allclose(d.diff(dim=1), torch.zeros(()), atol=1e-5)
    assert torch.allclose(d.diff(n=2, dim=2), torch.zeros(()), atol=1e-5)
    assert 0 < float(d.abs().max()) <= 1.5


def test_speckle_has_the_variance_of_a_log_gamma_variable():
    d = change(radar(context(), **{**OFF, "speckle": 1.0, "looks": 4.0}), sample()).numpy()
    looks = 4.0 * 4.0 ** np.array([0.0, 1.0])
    high, low = (10 / np.log(10)) ** 2 * polygamma(1, looks)
    assert low * 0.97 < d[0].var() < high * 1.03
    fixed = [10 / np.log(10)] * 2
    assert d[1].std() / d[0].std() == pytest.approx(fixed[0] / fixed[1], rel=0.05)
    assert abs(np.corrcoef(d[0].ravel(), d[1].ravel())[0, 1]) < 0.05


def test_wind_moves_water_only_and_cross_polarisation_less():
    hook = radar(context(), **{**OFF, "wind": 1.0, "gusts": 1.0})
    found = [change(hook, sample(), seed) for seed in range(30)]
    for d in found:
        assert torch.equal(d[:, :, SIZE // 3 :], torch.zeros_like(d[:, :, SIZE // 3 :]))
        wet = d[:, :, : SIZE // 3]
        assert torch.allclose(wet[1], CROSS * wet[0], atol=1e-4)
    means = np.array([float(d[0, :, : SIZE // 3].mean()) for d in found])
    assert means.min() < 0 < 3 < means.max() < 11
    river = sample()._replace(labels=torch.zeros(1, SIZE, SIZE, dtype=torch.int64))
    river.labels[0, :, 40:46] = 1  # no fetch: narrow water stays calm
    assert float(change(hook, river).abs().max()) == 0.0


def test_what_was_not_seen_stays_so_and_edges_are_cut():
    s = sample(unseen=True)
    out = radar(context(), edge=0.0)(s, np.random.default_rng(1))
    assert (out.inputs[0, :, :10] == 0).all()
    assert (out.inputs[0, :, 10:] != 0).any()
    out = radar(context(), **{**OFF, "edge": 1.0})(sample(), np.random.default_rng(2))
    gone = out.quality[0] == int(Quality.NODATA)
    assert 0 < float(gone.float().mean()) < 0.9
    assert (out.inputs[0, :, gone] == 0).all()
    assert torch.equal(out.labels, sample().labels)


def test_linear_backscatter_is_refused_unless_it_becomes_decibels():
    with pytest.raises(ValueError, match="give backscatter in dB"):
        radar(context("1"))
    radar(context("1", "db"))
