"""Composites against numpy: only usable dates count, times matter where they should, nothing known stays unknown."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from eoflow.models.filling import (
    LastClear,
    LinearInTime,
    MeanComposite,
    MedianComposite,
    NearestClear,
    first_guess,
    masked_median,
)
from eoflow.models.images import ImageSignature, parameters

ALL = [MedianComposite, MeanComposite, LastClear, NearestClear, LinearInTime]
SIGNATURE = ImageSignature(3, 2, 0)


def world(dates=5, height=7, width=13, clear=0.5, seed=0):
    """Images (2, T, 3, H, W), usable with clouds, times in a random order, and wanted times."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(2, dates, 3, height, width, generator=g)
    usable = torch.rand(2, dates, height, width, generator=g) < clear
    times = torch.stack([torch.randperm(30, generator=g)[:dates] for _ in range(2)]).double()
    return images, usable, times, torch.tensor([12.0, 15.5], dtype=torch.float64)


def per_pixel(formula, images, usable, times, when):
    """formula(values (n, C), times (n,), when) of the usable dates of each pixel, or NaN; and their number."""
    b, _, _, h, w = images.shape
    out, count = np.full((b, 2, h, w), np.nan), np.zeros((b, h, w))
    for i, y, x in np.ndindex(b, h, w):
        ok = usable[i, :, y, x].numpy()
        count[i, y, x] = ok.sum()
        if ok.any():
            order = np.argsort(times[i, ok].numpy())
            values = images[i, ok, :2, y, x].numpy()[order]
            out[i, :, y, x] = formula(values, times[i, ok].numpy()[order], float(when[i]))
    return out, count


def last(values, times, when):
    before = np.flatnonzero(times <= when)
    return values[before[-1] if len(before) else 0]


FORMULAS = {
    MedianComposite: lambda v, t, w: np.median(v, axis=0),
    MeanComposite: lambda v, t, w: v.mean(0),
    LastClear: last,
    NearestClear: lambda v, t, w: v[np.argmin(np.abs(t - w))],
    LinearInTime: lambda v, t, w: [np.interp(w, t, band) for band in v.T],
}


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize(("dates", "clear"), [(1, 0.7), (4, 0.5), (5, 0.3), (6, 0.9)])
def test_is_the_formula_at_every_pixel(model, dates, clear):
    data = world(dates, clear=clear)
    image, count = per_pixel(FORMULAS[model], *data)
    out = model(SIGNATURE)(*data)
    np.testing.assert_allclose(out["image"], image, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out["count"], count)
    assert np.isnan(image).any() or clear == 0.9, "the case must have pixels that nobody saw"


@pytest.mark.parametrize("model", ALL)
def test_values_that_are_not_usable_do_not_matter(model):
    images, usable, times, when = world()
    out = model(SIGNATURE)(images, usable, times, when)
    for rubbish in (torch.nan, torch.inf, -1e30):
        other = images.masked_fill(~usable[:, :, None], rubbish)
        torch.testing.assert_close(model(SIGNATURE)(other, usable, times, when), out, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("model", ALL)
def test_nan_is_not_usable_in_any_band(model):
    images, usable, times, when = world()
    holes = images.masked_fill(~usable[:, :, None], torch.nan)
    holes[:, :, 0] = images[:, :, 0]
    holes[:, :, 2] = torch.nan  # not an output band: does not count
    expected = model(SIGNATURE)(images, usable, times, when)
    torch.testing.assert_close(model(SIGNATURE)(holes, None, times, when), expected, rtol=0, atol=0, equal_nan=True)


def test_without_times_dates_are_in_order_and_the_last_is_wanted():
    images, usable, _, _ = world()
    plain, timed = LastClear(SIGNATURE)(images, usable), LastClear(SIGNATURE)(images, usable, torch.arange(5) * 7.0)
    torch.testing.assert_close(plain, timed, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(plain["image"].nan_to_num()[:, :, usable[0, -1]][0], images[0, -1, :2][:, usable[0, -1]])


def test_days_since_1970_keep_their_minutes():
    images = torch.stack([torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)], dim=1)
    times = torch.tensor([20000.0, 20000.0 + 3 / 1440], dtype=torch.float64)
    out = LinearInTime(ImageSignature(1, 1, 0))(
        images, None, times, torch.tensor(20000.0 + 1 / 1440, dtype=torch.float64)
    )
    assert out["image"].item() == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13)])
def test_nothing_seen_is_unknown(model, height, width):
    images, usable, times, when = world(3, height, width)
    out = model(SIGNATURE, fallback="mean")(images, torch.zeros_like(usable), times, when)
    assert out["image"].shape == (2, 2, height, width)
    assert out["image"].isnan().all()
    assert not out["count"].any()


def test_fallback_is_the_mean_of_what_is_filled():
    data = world(clear=0.2)
    plain, filled = (MeanComposite(SIGNATURE, fallback=f)(*data)["image"] for f in ("nan", "mean"))
    holes = plain.isnan()
    assert 0 < holes.sum() < holes.numel()
    assert torch.equal(filled[~holes], plain[~holes])
    expected = torch.from_numpy(np.nanmean(plain.numpy(), axis=(-2, -1)))[..., None, None].expand_as(plain)
    torch.testing.assert_close(filled[holes], expected[holes])


def test_first_guess_is_finite_and_the_composite_where_there_is_one():
    images, usable, *_ = world(clear=0.2)
    usable[1] = False
    guess = first_guess(images, usable, 2, "median")
    composite = MedianComposite(SIGNATURE)(images, usable)["image"]
    assert guess.isfinite().all()
    assert torch.equal(guess[composite.isfinite()], composite[composite.isfinite()])
    assert not guess[1].any()


@pytest.mark.parametrize("model", ALL)
def test_has_no_weights_and_sees_each_pixel_by_itself(model):
    data = images, usable, times, when = world()
    made = model(SIGNATURE)
    assert made.closed_form
    assert not parameters(made)
    assert (made.halo, made.multiple) == (0, 1)
    whole = made(*data)["image"]
    window = made(images[:1, ..., 2:5, 3:4], usable[:1, :, 2:5, 3:4], times[:1], when[:1])["image"]
    torch.testing.assert_close(window, whole[:1, :, 2:5, 3:4], rtol=0, atol=1e-6, equal_nan=True)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="fallback 'zero'"):
        MedianComposite(SIGNATURE, fallback="zero")
    with pytest.raises(TypeError):
        MedianComposite(SIGNATURE, colour="blue")


@pytest.mark.parametrize("dates", [*range(1, 10), 16, 17, 31])
def test_the_median_of_any_number_of_dates_is_numpys(dates):
    g = torch.Generator().manual_seed(dates)
    images = torch.randint(0, 4, (2, dates, 3, 16, 16), generator=g).float()  # with ties
    valid = torch.rand(2, dates, 16, 16, generator=g) < torch.rand(2, 1, 16, 16, generator=g)
    holes = images.masked_fill(~valid[:, :, None], torch.nan).numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        wanted = np.nanmedian(holes, axis=1)
    np.testing.assert_array_equal(masked_median(images, valid).numpy(), wanted)
