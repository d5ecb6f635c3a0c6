from __future__ import annotations

import netchecks
import numpy as np
import pytest
import torch

from eoflow.models.images import ImageSignature
from eoflow.models.lee import Lee

BAND = ImageSignature(channels=1, outputs=1)
TWO = ImageSignature(channels=2, outputs=2)


def speckled(truth, looks, seed=0):
    return truth * np.random.default_rng(seed).gamma(looks, 1 / looks, truth.shape)


def run(model, *bands, usable=None):
    images = torch.tensor(np.stack(bands)[None, None], dtype=torch.float64)
    return model(images, None if usable is None else torch.tensor(usable)[None, None])["image"][0].numpy()


def by_hand(z, looks, window):
    """Lee's formula, pixel by pixel, over what of the window lies inside the image and is a number."""
    reach, out = window // 2, np.full(z.shape, np.nan)
    for i, j in np.ndindex(z.shape):
        part = z[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
        part = part[np.isfinite(part)]
        if part.size == 0:
            continue
        mean, variance = part.mean(), part.var()
        scene = max(0.0, (variance - mean**2 / looks) / (1 + 1 / looks))
        w = scene / variance if variance > 0 else 0.0
        out[i, j] = mean + min(w, 1) * (z[i, j] - mean) if np.isfinite(z[i, j]) else mean
    return out


@pytest.mark.parametrize(("looks", "window"), [(1.0, 7), (4.4, 5)])
def test_agrees_with_the_formula(looks, window):
    truth = np.where(np.arange(24)[:, None] < 12, 1.0, 9.0) * np.ones((24, 19))
    z = speckled(truth, looks)
    z[3, 4] = z[20:, 15:] = np.nan
    assert np.allclose(run(Lee(BAND, looks=looks, window=window), z)[0], by_hand(z, looks, window), equal_nan=True)


@pytest.mark.parametrize("refined", [False, True])
def test_a_flat_area_becomes_flat_and_keeps_its_mean(refined):
    z = speckled(np.full((96, 96), 5.0), 4.0)
    out = run(Lee(BAND, looks=4.0, refined=refined), z)[0][8:-8, 8:-8]
    assert out.mean() == pytest.approx(5.0, rel=0.02)
    assert out.mean() ** 2 / out.var() > 4 * (4 if refined else 10)


def test_a_constant_and_a_strong_point_stay():
    flat = np.full((20, 20), 3.0)
    for refined in (False, True):
        assert np.allclose(run(Lee(BAND, looks=4, refined=refined), flat)[0], 3.0)
    flat[10, 10] = 3000.0
    assert run(Lee(BAND, looks=4), flat)[0, 10, 10] > 2300


def test_the_refined_filter_keeps_edges_that_the_plain_one_smears():
    """Near the edges of rotated fields, error in dB against the truth."""
    rows, columns = np.mgrid[:80, :80]
    errors = {}
    for angle in (0.0, np.pi / 4, np.pi / 2, -np.pi / 4):
        distance = (rows - 40) * np.sin(angle) + (columns - 40) * np.cos(angle)
        truth = np.where(distance < 0, 1.0, 20.0)
        z = speckled(truth, 4.4, seed=3)
        near = (np.abs(distance) < 4) & (rows > 8) & (rows < 72) & (columns > 8) & (columns < 72)
        for refined in (False, True):
            out = run(Lee(BAND, looks=4.4, refined=refined), z)[0]
            errors[angle, refined] = np.sqrt(np.mean((10 * np.log10(out / truth))[near] ** 2))
        noisy = np.sqrt(np.mean((10 * np.log10(z / truth))[near] ** 2))
        assert errors[angle, True] < 0.75 * noisy
        assert errors[angle, True] < 0.8 * errors[angle, False]


def test_the_refined_window_is_on_the_own_side_of_a_clean_edge():
    truth = np.where(np.arange(30)[None, :] < 15, 1.0, 50.0) * np.ones((30, 30))
    out = run(Lee(BAND, looks=10, refined=True), truth)[0]
    assert np.allclose(out, truth)


@pytest.mark.parametrize("refined", [False, True])
def test_nothing_outside_the_halo_matters(refined):
    model = Lee(BAND, looks=4, refined=refined)
    images = torch.tensor(speckled(np.ones((1, 1, 1, 25, 25)), 4))
    before = model(images)["image"]
    farthest = 0
    for value in (0.0, 3.0, 40.0, 1e3):
        other = images.clone()
        other[..., 12, 12] = value
        moved = (model(other)["image"] - before).abs()[0, 0] > 1e-9  # the image's mean is taken off and added again
        farthest = max(farthest, int((torch.nonzero(moved) - 12).abs().max()))
    assert 3 <= farthest <= model.halo


@pytest.mark.parametrize("refined", [False, True])
def test_any_size_samples_and_channels_apart(refined):
    model = Lee(TWO, looks=4, refined=refined)
    for size in ((1, 1), (7, 13), (2, 5)):
        a, b = (speckled(np.ones(size), 4, seed=s) for s in (1, 2))
        both = run(model, a, b)
        assert both.shape == (2, *size)
        assert np.isfinite(both).all()
        assert np.allclose(both[1], run(Lee(BAND, looks=4, refined=refined), b)[0])
    netchecks.check_samples_apart(model)


@pytest.mark.parametrize("refined", [False, True])
def test_unusable_values_do_not_matter_and_are_filled_from_their_window(refined):
    z = speckled(np.full((30, 30), 2.0), 4)
    usable = np.ones((30, 30), dtype=bool)
    usable[10:12, 10:12] = False
    usable[20:, 20:] = False
    outs = []
    for value in (np.nan, 1e6, 0.0):
        other = np.where(usable, z, value)
        outs.append(run(Lee(BAND, looks=4, refined=refined), other, usable=usable)[0])
    assert np.array_equal(outs[0], outs[1], equal_nan=True)
    assert np.array_equal(outs[0], outs[2], equal_nan=True)
    assert np.allclose(outs[0][10:12, 10:12], 2, rtol=0.5)
    assert np.isnan(outs[0][-1, -1])


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="odd"):
        Lee(BAND, window=6)
    with pytest.raises(ValueError, match="positive"):
        Lee(BAND, looks=0)
    with pytest.raises(ValueError, match="7 pixels"):
        Lee(BAND, window=5, refined=True)
    with pytest.raises(ValueError, match="one date"):
        Lee(ImageSignature(channels=1, outputs=1, dates=2))
