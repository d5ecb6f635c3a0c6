"""Image metrics against independent formulas: scipy's Gaussian for SSIM, arc cosine for angles, a loop for pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from eoflow.verify.images import (
    PSNR_CEILING,
    coverage,
    mae,
    psnr,
    psnr_rgb_paper,
    rmse,
    sam,
    ssim,
    ssim_rgb_paper,
)

EVERY = [mae, rmse, psnr, sam, ssim, psnr_rgb_paper, ssim_rgb_paper]


def pair(height=40, width=33, bands=4, seed=0, noise=0.03, lead=()):
    """A smooth scene of reflectances and a noisy version of it."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(*lead, bands, height, width)), (*[0] * (len(lead) + 1), 2, 2))
    truth = np.clip(0.12 + 0.3 * smooth, 0.001, 1)
    return np.clip(truth + noise * rng.normal(size=truth.shape), 0.001, 1), truth


def reference_ssim(a, b, data_range):
    """Wang 2004 by scipy's Gaussian filter, cropped to complete windows: (C, H, W) -> (C, H - 10, W - 10)."""

    def blur(x):
        return np.stack([gaussian_filter(band, 1.5, truncate=5 / 1.5) for band in x])

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    s = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return s[:, 5:-5, 5:-5]


@pytest.mark.parametrize("data_range", [1.0, 0.3, 255.0])
def test_ssim_is_wang_s(data_range):
    a, b = pair()
    a, b = a * data_range, b * data_range
    expected = reference_ssim(a, b, data_range)
    assert ssim(a, b, data_range=data_range) == pytest.approx(expected.mean(), abs=1e-9)
    assert 0.2 < expected.mean() < 0.98
    mask = np.zeros(a.shape[1:], bool)
    mask[3:20, 8:25] = True
    part = expected[:, mask[5:-5, 5:-5]].mean()
    assert ssim(a, b, mask, data_range=data_range) == pytest.approx(part, abs=1e-9)
    assert abs(part - expected.mean()) > 1e-6


def test_ssim_of_a_known_case():
    """Two constants: only the luminance term is left, equation 6 of the paper."""
    a, b = np.full((1, 20, 20), 0.2), np.full((1, 20, 20), 0.4)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4), abs=1e-9)


def test_ssim_leaves_unknown_pixels_out_of_the_windows():
    """Around a hole the window is the Gaussian of the known pixels, normalised: by hand at one pixel."""
    a, b = pair(15, 15, bands=1)
    a[0, 6, 7] = np.nan
    one = np.zeros((15, 15), bool)
    one[7, 7] = True
    y, x = np.mgrid[-5:6, -5:6]
    w = np.exp(-(y**2 + x**2) / (2 * 1.5**2))
    w[4, 5] = 0
    w /= w.sum()
    p, q = np.nan_to_num(a[0, 2:13, 2:13]), b[0, 2:13, 2:13]
    mp, mq = (w * p).sum(), (w * q).sum()
    vp, vq, cov = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
    expected = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
    assert ssim(a, b, one) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (10, 40), (11, 11)])
def test_ssim_of_small_images(height, width):
    a, b = pair(height, width)
    assert -1 <= ssim(a, b) < 1
    assert ssim(b, b) == pytest.approx(1, abs=1e-9)
    edge = np.zeros((height, width), bool)
    edge[0, 0] = True
    assert np.isfinite(ssim(a, b, edge))


@pytest.mark.parametrize("masked", [False, True])
def test_errors_and_angle(masked):
    a, b = pair()
    mask = np.random.default_rng(1).random(a.shape[1:]) < 0.3 if masked else None
    keep = np.ones(a.shape[1:], bool) if mask is None else mask
    p, q = a[:, keep], b[:, keep]
    assert mae(a, b, mask) == pytest.approx(np.abs(p - q).mean())
    assert rmse(a, b, mask) == pytest.approx(np.sqrt(((p - q) ** 2).mean()))
    assert psnr(a, b, mask) == pytest.approx(-10 * np.log10(((p - q) ** 2).mean()))
    assert psnr(a, b, mask, peak=0.5) == pytest.approx(psnr(a, b, mask) + 20 * np.log10(0.5))
    cosine = (p * q).sum(0) / np.linalg.norm(p, axis=0) / np.linalg.norm(q, axis=0)
    assert sam(a, b, mask) == pytest.approx(np.degrees(np.arccos(cosine)).mean())


def test_angles_that_are_known():
    a = np.array([1.0, 0.0, 1.0, 1e-8, 0.0])[None] * np.array([1.0, 0.0])[:, None]
    b = np.array([[0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1e-7, 1.0]])
    a, b = a[:, None], b[:, None]

    def at(i):
        mask = np.zeros((1, 5), bool)
        mask[0, i] = True
        return float(sam(a, b, mask))

    assert at(0) == pytest.approx(90)
    assert np.isnan(at(1)), "black has no direction"
    assert at(2) == pytest.approx(45)
    assert at(3) == pytest.approx(np.degrees(1e-7), rel=1e-6), "the arc cosine would say 0"
    assert sam(2 * b, b) == 0
    assert sam(a, b) == pytest.approx((90 + 45 + np.degrees(1e-7)) / 3)


def picture(reflectance):
    """The 8-bit picture of the papers' scripts, one pixel after the other."""
    dn = np.array([[[min(int(max(v * 10000 + 0.5, 0)), 10000) for v in row] for row in band] for band in reflectance])
    dn = np.minimum(dn, 2000)
    dn = dn - dn.min()
    return np.full_like(dn, 255) if dn.max() == 0 else (255 * (dn / dn.max())).astype(np.uint8).astype(int)


def test_the_papers_rgb_protocol():
    a, b = pair(20, 17, noise=0.02)
    a[:3] *= 1.4
    pa, pb = picture(a[:3]), picture(b[:3])
    mse = ((pa - pb) ** 2).mean()
    assert psnr_rgb_paper(a, b) == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-6)
    expected = reference_ssim(pa.astype(float), pb.astype(float), 255.0).mean()
    assert ssim_rgb_paper(a, b) == pytest.approx(expected, abs=1e-9)
    reordered = (picture(a[[2, 0, 3]]) - picture(b[[2, 0, 3]])) ** 2
    assert psnr_rgb_paper(a, b, bands=(2, 0, 3)) == pytest.approx(10 * np.log10(255**2 / reordered.mean()), abs=1e-6)


def test_the_papers_protocol_forgives_a_dark_image_and_physical_psnr_does_not():
    _, b = pair(20, 17, bands=3)
    b = np.round(np.clip(b, 0.01, 0.19), 2)
    b[0, 0, 0], b[0, 0, 1] = 0.0, 0.19
    assert psnr_rgb_paper(b / 10, b) > 40
    assert psnr(b / 10, b) < 25


def test_black_and_bright_pictures_are_white():
    black, bright = np.zeros((3, 12, 12)), np.full((3, 12, 12), 0.7)
    assert psnr_rgb_paper(black, bright) == PSNR_CEILING, "as the papers' scripts have it"
    assert psnr(black, bright) == pytest.approx(-20 * np.log10(0.7))


@pytest.mark.parametrize("metric", EVERY)
def test_many_images_at_once_are_each_by_itself(metric):
    a, b = pair(18, 16, lead=(2, 3))
    mask = np.random.default_rng(2).random((2, 3, 18, 16)) < 0.6
    a[0, 1, 2, 4:6, 4:6] = np.nan
    for m in (None, mask):
        together = metric(a, b, m)
        assert together.shape == (2, 3)
        alone = [[metric(a[i, j], b[i, j], None if m is None else m[i, j]) for j in range(3)] for i in range(2)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)
        assert len(np.unique(together)) == 6


@pytest.mark.parametrize("metric", EVERY)
def test_torch_is_taken_too(metric):
    a, b = pair(18, 16)
    mask = np.random.default_rng(2).random((18, 16)) < 0.6
    tensors = torch.from_numpy(a).requires_grad_(), torch.from_numpy(b), torch.from_numpy(mask)
    assert metric(*tensors) == metric(a, b, mask)


@pytest.mark.parametrize("metric", EVERY)
def test_equal_images_are_perfect_and_finite(metric):
    _, b = pair()
    best = {"mae": 0, "rmse": 0, "sam": 0, "ssim": 1, "ssim_rgb_paper": 1}.get(metric.__name__, PSNR_CEILING)
    assert metric(b, b) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("metric", EVERY)
def test_nothing_to_count_is_nan_without_a_warning(metric, recwarn):
    a, b = pair(16, 16)
    assert np.isnan(metric(a, b, np.zeros((16, 16), bool)))
    assert np.isnan(metric(np.full_like(a, np.nan), b))
    assert np.isnan(metric(a, np.full_like(b, np.nan), np.ones((16, 16), bool)))
    assert not recwarn.list


@pytest.mark.parametrize("metric", [mae, rmse, psnr, sam])
def test_pixels_that_are_not_finite_do_not_count(metric):
    a, b = pair(16, 16)
    left = np.zeros((16, 16), bool)
    left[:, :9] = True
    expected = metric(a, b, left)
    a[1, :, 9:], b[3, :3, 9:] = np.nan, np.inf
    assert metric(a, b) == expected


def test_coverage_tells_a_model_that_leaves_holes():
    a, b = pair(10, 10)
    b[:, 0] = np.nan
    a[2, :, 5:] = np.nan
    assert coverage(a, b) == 0.5
    mask = np.zeros((10, 10), bool)
    mask[:, 4:6] = True
    mask[:, 0] = True
    assert coverage(a, b, mask) == pytest.approx(2 / 3)
    assert np.isnan(coverage(a, b, np.zeros((10, 10), bool)))


def test_shapes_must_agree():
    a, b = pair()
    with pytest.raises(ValueError, match=r"must have one shape \(\.\.\., C, H, W\)"):
        mae(a[:3], b)
