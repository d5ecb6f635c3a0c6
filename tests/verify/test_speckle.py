from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from eoflow.models.images import ImageSignature
from eoflow.models.lee import Lee
from eoflow.models.looks import enl, estimated_looks
from eoflow.verify.speckle import (
    log_rmse,
    ratio_image,
    ratio_statistics,
    speckled,
    speckled_complex,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def fields(size=128):
    """Reflectivity of fields of 32 pixels."""
    levels = rng(7).uniform(0.1, 10, (size // 32, size // 32))
    return np.kron(levels, np.ones((32, 32)))


@pytest.mark.parametrize("looks", [1.0, 4.4, 12.0])
def test_simulated_speckle_has_its_gamma_distribution_and_enl(looks):
    z = speckled(np.full((200, 200), 3.0), looks, rng(1))
    assert scipy.stats.kstest(z.ravel(), scipy.stats.gamma(looks, scale=3 / looks).cdf).pvalue > 0.01
    assert enl(z) == pytest.approx(looks, rel=0.05)


def test_simulated_complex_speckle_is_circular_and_of_one_look():
    truth = np.full((200, 200), 5.0)
    a, b = speckled_complex(truth, rng(2))
    for part in (a, b):
        assert scipy.stats.kstest(part.ravel(), scipy.stats.norm(0, np.sqrt(2.5)).cdf).pvalue > 0.01
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
    assert enl(a**2 + b**2) == pytest.approx(1, rel=0.05)


def test_the_ratio_of_a_perfect_estimate_is_speckle():
    truth = fields()
    found = ratio_statistics(speckled(truth, 4.4, rng(5)), truth, looks=4.4)
    assert found.mean == pytest.approx(1, abs=0.02)
    assert found.variance == pytest.approx(1 / 4.4, rel=0.06)
    assert found.excess == pytest.approx(1, rel=0.06)
    assert abs(found.bias) < 0.02
    assert abs(found.structure) < 0.03
    assert found.n == truth.size


def test_what_is_wrong_with_an_estimate_shows_in_its_ratio():
    truth = fields()
    noisy = speckled(truth, 4.4, rng(6))
    copied = ratio_statistics(noisy, noisy, looks=4.4)
    assert (copied.mean, copied.variance) == pytest.approx((1, 0))
    assert ratio_statistics(noisy, truth * 1.25, looks=4.4).mean == pytest.approx(0.8, abs=0.02)
    flat = ratio_statistics(noisy, np.full(truth.shape, truth.mean()), looks=4.4)
    assert flat.excess > 1.5  # structure was taken off as well
    lazy = truth**0.7 * 2
    assert ratio_statistics(noisy, lazy, looks=4.4).structure > 0.3


def test_ratio_image_and_its_gaps():
    noisy = np.array([2.0, 3.0, np.nan, 1.0, 5.0])
    estimate = np.array([1.0, 2.0, 1.0, 0.0, np.inf])
    assert np.array_equal(ratio_image(noisy, estimate), [2.0, 1.5, np.nan, np.nan, np.nan], equal_nan=True)
    assert ratio_statistics(noisy, estimate).n == 2
    assert np.isnan(ratio_statistics(noisy, estimate, where=[True, False, True, True, True]).mean)
    with pytest.raises(ValueError, match="shape"):
        ratio_image(noisy, estimate[1:])


def test_log_rmse_is_in_decibels():
    truth = np.array([1.0, 2.0, 5.0, 3.0])
    assert log_rmse(truth * 10, truth) == pytest.approx(10)
    assert log_rmse(truth * [10, 0.1, 1, -1], truth) == pytest.approx(np.sqrt(200 / 3))
    assert np.isnan(log_rmse([0.0], [1.0]))


@pytest.mark.parametrize("refined", [False, True])
def test_lee_on_simulated_speckle_with_known_truth(refined):
    truth = fields()
    noisy = speckled(truth, 4.4, rng(8))
    model = Lee(ImageSignature(channels=1, outputs=1), looks=4.4, refined=refined)
    estimate = model(torch.tensor(noisy)[None, None, None])["image"][0, 0].numpy()
    inside = (slice(8, 24), slice(8, 24))  # of the first field
    assert enl(estimate[inside]) > 5 * enl(noisy[inside])
    found = ratio_statistics(noisy, estimate, looks=4.4)
    assert found.mean == pytest.approx(1, abs=0.06)
    assert 0.6 < found.excess < 1.3
    assert log_rmse(estimate, truth) < 0.6 * log_rmse(noisy, truth)


@pytest.mark.realdata
def test_lee_on_the_real_complex_crop(realdata):
    """One look, correlated, with structure: the ENL of flat blocks is near 1, and the filter raises it."""
    a, b = np.load(realdata / "sar" / "merlin_slc_256x256x2.npy").astype(np.float64).transpose(2, 0, 1)
    intensity = a**2 + b**2
    looks = estimated_looks(intensity)
    assert 0.5 < looks < 1.3
    model = Lee(ImageSignature(channels=1, outputs=1), looks=1.0)
    estimate = model(torch.tensor(intensity)[None, None, None])["image"][0, 0].numpy()
    assert estimated_looks(estimate) > 2 * looks
    found = ratio_statistics(intensity, estimate, looks=1.0)
    assert found.mean == pytest.approx(1, abs=0.1)
    assert 0.4 < found.variance < 1.5
