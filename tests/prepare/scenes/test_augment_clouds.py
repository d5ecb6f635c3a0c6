"""Simulated skies on samples: physics, masks and their errors, the wanted date among the inputs, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.prepare.scenes.augment import HookContext
from eoflow.prepare.scenes.augment_clouds import Bands, Series, Sky, clouds, usable, weather
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import Quality

NAMES = ("B02", "B03", "B04", "B08", "B11")
GROUND = np.array([0.04, 0.07, 0.06, 0.3, 0.2], np.float32)
CALM = {
    "own": 0, "growth": 0, "paste": 0, "overcast": 0, "veil": 0, "haze": 0, "gain": 0, "path": 0, "shift": 0,
    "noise": 0, "mistaken": 0, "blind": 0, "drop": 0, "timeless": 0,
}  # fmt: skip


def normalizer(names=NAMES, mean=0.0, std=1.0):
    n = len(names)
    return BandNormalizer(
        names, (mean,) * n, (std,) * n, (std,) * n, (None,) * n, ("1",) * n, ("none",) * n, (None,) * n, (None,) * n
    )


def context(names=NAMES, targets=None, **scale):
    return HookContext(names, normalizer(names, **scale), normalizer(targets or names, **scale))


def sample(dates=3, size=48, names=NAMES, mean=0.0, std=1.0):
    ground = np.resize(GROUND, len(names))[:, None, None] * (1 + 0.2 * np.random.default_rng(0).random((size, size)))
    one = torch.from_numpy(((ground - mean) / std).astype("f4"))
    clear = torch.full((size, size), int(Quality.CLEAR), dtype=torch.uint8)
    return Patches(
        one.expand(dates, -1, -1, -1).clone(), clear.expand(dates, -1, -1).clone(), one.clone(), clear.clone(),
        torch.zeros(0, size, size, dtype=torch.long), torch.tensor(1.0), torch.tensor(0), torch.arange(dates + 1.0),
    )  # fmt: skip


def series(dates=3, size=48, days=(0.0, 10.0, 20.0, 12.0)):
    s = sample(dates, size)
    return Series(s.inputs.numpy(), s.quality.numpy(), s.target.numpy(), s.target_quality.numpy(), np.array(days))


def sky(**options):
    return Sky(**{**CALM, **options})


def test_a_calm_sky_changes_nothing():
    before = sample()
    after = clouds(context(), **CALM)(before, np.random.default_rng(0))
    for name in ("inputs", "quality", "target"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=1e-6)


def test_the_same_draw_gives_the_same_sample_and_leaves_the_given_one():
    hook, before = clouds(context()), sample()
    a, b = (hook(before, np.random.default_rng(5)) for _ in range(2))
    other = hook(before, np.random.default_rng(6))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(a.inputs, other.inputs)
    assert torch.equal(before.inputs, sample().inputs)
    assert torch.equal(before.quality, sample().quality)


def test_the_normaliser_of_the_recipe_does_not_matter():
    plain = clouds(context())(sample(), np.random.default_rng(3))
    scaled = clouds(context(mean=0.1, std=0.05))(sample(mean=0.1, std=0.05), np.random.default_rng(3))
    seen = (plain.quality > int(Quality.NODATA))[:, None].expand_as(plain.inputs)
    torch.testing.assert_close((scaled.inputs * 0.05 + 0.1)[seen], plain.inputs[seen], rtol=0, atol=1e-5)
    assert bool((scaled.inputs[~seen] == 0).all())


def test_clouds_are_bright_and_shadows_dark_where_the_mask_says_so():
    rng, found = np.random.default_rng(1), {Quality.CLOUD: [], Quality.SHADOW: [], Quality.CLEAR: []}
    for _ in range(12):
        s = series()
        before = s.images.copy()
        weather(s, Bands.of(list(NAMES)), sky(paste=1.0), rng)
        for kind, changes in found.items():
            at = s.quality == int(kind)
            changes.append((s.images - before).transpose(1, 0, 2, 3)[:, at])
    cloud, shadow, clear = (np.concatenate(c, axis=1) for c in found.values())
    assert cloud.shape[1] > 1000 < shadow.shape[1]
    assert cloud[0].min() > 0.05
    assert np.median(shadow[3]) < -0.03
    assert abs(np.median(clear)) < 1e-3
    # blue light reaches shadows from the sky, near infrared does not
    share = np.median(shadow, axis=1) / GROUND
    assert share[3] < share[0] < 0


def test_the_wanted_date_under_clouds_takes_a_place_among_the_inputs():
    rng = np.random.default_rng(2)
    visible = []
    for _ in range(10):
        s = series()
        s.wanted += 0.07
        s.images[:] *= 0.5
        weather(s, Bands.of(list(NAMES)), sky(own=1.0, noise=0.01), rng)
        (own,) = np.flatnonzero(s.days[:-1] == s.days[-1])
        seen = usable(s.quality[own]) & (np.abs(s.images[own] - s.wanted).max(0) < 1e-3)
        visible.append(seen.mean())
        assert not np.array_equal(s.quality[own], s.wanted_quality)
    assert min(visible) < 0.3 < 0.6 < max(visible)


def test_masks_are_wrong_in_both_ways():
    rng, missed, false = np.random.default_rng(3), 0, 0
    for _ in range(30):
        s = series()
        before = s.images.copy()
        weather(s, Bands.of(list(NAMES)), sky(paste=1.0, overcast=0.0, mistaken=1.0), rng)
        changed = np.abs(s.images - before).max(1) > 0.1
        missed += (changed & usable(s.quality)).sum()
        false += (~changed & ~usable(s.quality)).sum()
    assert missed > 500 < false
    s = series()
    weather(s, Bands.of(list(NAMES)), sky(paste=1.0, overcast=1.0, blind=1.0), rng)
    assert usable(s.quality).all()


def test_air_is_over_all_dates_and_the_wanted_one_alike_and_bluest():
    rng, paths = np.random.default_rng(4), []
    for _ in range(20):
        s = series()
        before = s.wanted.copy()
        weather(s, Bands.of(list(NAMES)), sky(path=0.09), rng)
        np.testing.assert_allclose(s.images, np.broadcast_to(s.wanted, s.images.shape), atol=1e-6)
        paths.append((s.wanted - before).mean((1, 2)))
    paths = np.array(paths)
    assert 0.2 < (paths[:, 0] == 0).mean() < 0.8
    risen = paths[paths[:, 0] > 0.02]
    assert (np.diff(risen[:, :3], axis=1) < 0).all()


def test_lost_dates_hold_nothing_and_days_may_be_unknown():
    rng, kept = np.random.default_rng(5), set()
    for _ in range(30):
        s = series()
        weather(s, Bands.of(list(NAMES)), sky(drop=1.0, timeless=1.0), rng)
        gone = (s.quality == int(Quality.MISSING)).all((1, 2))
        kept.add(int((~gone).sum()))
        assert np.isnan(s.days).all()
    assert kept == {1, 2, 3}
    after = clouds(context(), **{**CALM, "drop": 1.0})(sample(), np.random.default_rng(1))
    lost = (after.quality == int(Quality.MISSING)).all(-1).all(-1)
    assert bool(lost.any())
    assert bool((after.inputs[lost] == 0).all())


def test_the_ground_changes_with_the_root_of_time_and_differently_in_each_band():
    rng, change = np.random.default_rng(7), []
    for _ in range(60):
        s = series(days=(-90.0, 10.0, 40.0, 0.0))
        before = s.images.copy()
        weather(s, Bands.of(list(NAMES)), sky(growth=1.0), rng)
        change.append(((s.images - before) ** 2).mean((2, 3)))
    spread = np.sqrt(np.mean(change, axis=0))
    assert 1.5 < spread[2, 3] / spread[1, 3] < 2.25 < spread[0, 3] / spread[1, 3] < 3.6
    assert (spread[:, 3] > 2 * spread[:, 0]).all()
    assert 0.008 < spread[1, 3] < 0.03
    same = series(days=(0.0, 0.0, 0.0, 0.0))
    weather(same, Bands.of(list(NAMES)), sky(growth=1.0), rng)
    np.testing.assert_allclose(same.images, series().images, atol=1e-6)


def test_a_shift_moves_edges_by_less_than_a_pixel():
    s = series()
    s.images[..., :24] = 0.1
    s.images[..., 24:] = 0.3
    weather(s, Bands.of(list(NAMES)), sky(shift=0.4), np.random.default_rng(6))
    moved = np.abs(s.images - np.where(np.arange(48) < 24, 0.1, 0.3)).max((1, 2))
    assert moved[:, [23, 24]].max() > 0.01
    assert moved[:, :22].max() < 1e-6 > moved[:, 27:].max()


def test_radar_stays_and_bands_may_have_common_names():
    names = ("blue", "red", "nir", "vv", "vh")
    before = sample(names=names)
    targets = names[:3]
    ctx = HookContext(names, normalizer(names), normalizer(targets))
    before = before._replace(target=before.target[:3])
    after = clouds(ctx, drop=0.0, paste=1.0)(before, np.random.default_rng(0))
    torch.testing.assert_close(after.inputs[:, 3:], before.inputs[:, 3:])
    assert not torch.allclose(after.inputs[:, :3], before.inputs[:, :3])
    with pytest.raises(ValueError, match="wavelength of band thermal"):
        clouds(context(("red", "thermal")))
    with pytest.raises(TypeError):
        clouds(context(), fog=1.0)


def test_targets_may_be_fewer_than_the_inputs():
    ctx = context(targets=NAMES[:3])
    before = sample()
    before = before._replace(target=before.target[:3])
    after = clouds(ctx, own=1.0)(before, np.random.default_rng(0))
    assert after.target.shape == (3, 48, 48)
    assert bool(after.inputs.isfinite().all())
