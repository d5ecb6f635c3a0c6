"""Hooks of change detection: what they change, and what they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.prepare.scenes import augment_change as hooks
from eoflow.prepare.scenes.augment import HOOKS, HookContext
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import Quality

NAMES = ("red", "green", "blue")


def context(mean=0.0, std=1.0):
    n = len(NAMES)
    return HookContext(NAMES, BandNormalizer(NAMES, (mean,) * n, (std,) * n, (std,) * n, (None,) * n, ("1",) * n,
                                             ("none",) * n, (None,) * n, (None,) * n))  # fmt: skip


def sample(dates=2, size=32, layers=1, seed=0):
    gen = np.random.default_rng(seed)
    labels = torch.zeros((layers, size, size), dtype=torch.int64)
    labels[0, 4:14, 6:18] = 1
    if layers == 3:
        labels[2] = labels[0]
    return Patches(
        torch.from_numpy(gen.random((dates, 3, size, size), dtype=np.float32)),
        torch.full((dates, size, size), int(Quality.CLEAR), dtype=torch.uint8),
        torch.zeros((0, size, size)), torch.zeros((size, size), dtype=torch.uint8), labels, torch.tensor(1.0),
        torch.tensor(0), torch.arange(dates + 1.0),
    )  # fmt: skip


def test_all_hooks_are_registered():
    for name in ("colours", "events", "g-star", "shifted-dates", "swapped-dates"):
        module, _, function = HOOKS[name].partition(":")
        assert module == hooks.__name__
        assert callable(getattr(hooks, function))


EVERY = [hooks.colours, hooks.shifted_dates, hooks.swapped_dates, hooks.g_star, hooks.composited_events]


@pytest.mark.parametrize("made", EVERY)
def test_the_same_draws_give_the_same_and_the_sample_stays(made):
    s = sample()
    before = s.inputs.clone()
    hook = made(context())
    a, b = (hook(s, np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert torch.equal(s.inputs, before)


def test_colours_are_a_map_of_each_date_and_leave_labels_and_holes():
    s = sample()
    s.quality[0, :4] = int(Quality.NODATA)
    out = hooks.colours(context(), noise=0.0)(s, np.random.default_rng(1))
    assert torch.equal(out.labels, s.labels)
    assert torch.equal(out.quality, s.quality)
    assert not out.inputs[0, :, :4].any()
    assert (out.inputs[1] - s.inputs[1]).abs().mean() > 0.01
    flat = s._replace(inputs=torch.full_like(s.inputs, 0.4))
    same = hooks.colours(context(), noise=0.0)(flat, np.random.default_rng(1)).inputs[1]
    assert same.std(dim=(1, 2)).max() < 1e-6


def test_colours_of_strength_0_change_nothing():
    none = {**dict.fromkeys(("gamma", "contrast", "gain", "tint", "offset", "noise"), 0.0), "saturation": (1.0, 1.0)}
    s = sample()
    s.inputs.clamp_(min=0.01)
    assert torch.allclose(hooks.colours(context(), **none)(s, np.random.default_rng(0)).inputs, s.inputs, atol=1e-6)


def test_colours_work_in_physical_units():
    s = sample()
    s.inputs.clamp_(min=0.01)
    plain = hooks.colours(context(), noise=0.0)(s, np.random.default_rng(2)).inputs
    coded = s._replace(inputs=(s.inputs - 0.5) / 0.2)
    out = hooks.colours(context(0.5, 0.2), noise=0.0)(coded, np.random.default_rng(2)).inputs
    assert torch.allclose(out * 0.2 + 0.5, plain, atol=1e-5)


def test_shifted_dates_move_the_last_date():
    s = sample()
    seen = set()
    for seed in range(12):
        out = hooks.shifted_dates(context(), pixels=1)(s, np.random.default_rng(seed))
        assert torch.equal(out.inputs[0], s.inputs[0])
        assert torch.equal(out.labels, s.labels)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if torch.equal(out.inputs[1, :, 5, 5], s.inputs[1, :, 5 + dy, 5 + dx]):
                    seen.add((dy, dx))
    assert len(seen) > 4


def test_swapped_dates_swap_their_classes_too():
    s = sample(layers=3)
    out = hooks.swapped_dates(context(), p=1.0)(s, np.random.default_rng(0))
    assert torch.equal(out.inputs, s.inputs.flip(0))
    assert torch.equal(out.labels[0], s.labels[0])
    assert torch.equal(out.labels[1], s.labels[2])
    assert hooks.swapped_dates(context(), p=0.0)(s, np.random.default_rng(0)) is s


def test_g_star_labels_are_what_differs():
    s = sample(dates=1)
    s.labels[0, 0, 0] = -1
    changed = 0
    for seed in range(10):
        out = hooks.g_star(context())(s, np.random.default_rng(seed))
        change, before, after = out.labels
        known = (before >= 0) & (after >= 0)
        assert torch.equal(change[known], (before != after).long()[known])
        assert (change[~known] == -1).all()
        assert out.inputs.shape == (2, *s.inputs.shape[1:])
        assert torch.equal(out.inputs[0], s.inputs[0])
        assert sorted(out.inputs[1].flatten().tolist()) == sorted(s.inputs[0].flatten().tolist())
        changed += bool((change == 1).any())
    assert 3 <= changed <= 10
    alone = hooks.g_star(context(), shuffled=0.0)(s, np.random.default_rng(0))
    assert torch.equal(alone.inputs[0], alone.inputs[1])
    assert not (alone.labels[0] == 1).any()


def test_events_copy_objects_with_their_pixels():
    s = sample(dates=1)
    found = 0
    for seed in range(12):
        out = hooks.composited_events(context(), margin=0)(s, np.random.default_rng(seed))
        change, before, after = out.labels
        moved = (out.inputs[0] != out.inputs[1]).any(0)
        assert torch.equal(change == 1, before != after)
        assert not (moved & (change != 1)).any()
        if change.any():
            found += 1
            assert int(change.sum()) == int((s.labels[0] == 1).sum())
            new = out.inputs[1] if after.sum() > before.sum() else out.inputs[0]
            copied, source = new[:, change == 1], s.inputs[0][:, s.labels[0] == 1]
            assert torch.equal(copied.flatten().sort().values, source.flatten().sort().values)
    assert found >= 4


def test_zoomed_keeps_things_where_they_are():
    s = sample(size=64, layers=3)
    s.inputs[:] = s.labels[0].float()
    for seed in range(6):
        out = hooks.zoomed(context(), size=48, sides=(24, 60))(s, np.random.default_rng(seed))
        assert out.inputs.shape == (2, 3, 48, 48)
        assert out.labels.shape == (3, 48, 48)
        assert out.quality.shape == (2, 48, 48)
        wrong = ((out.inputs[1, 0] > 0.5) != (out.labels[0] > 0)).float().mean()
        assert wrong < 0.06
        assert torch.equal(out.labels[0], out.labels[2])
    same = hooks.zoomed(context(), size=64, sides=(64, 64))(s, np.random.default_rng(0))
    assert torch.allclose(same.inputs, s.inputs, atol=1e-6)
    with pytest.raises(ValueError, match="sides"):
        hooks.zoomed(context(), size=64, sides=(60, 24))


def test_blurred_smooths_or_sharpens():
    s = sample()
    made = [hooks.blurred(context(), p=1.0)(s, np.random.default_rng(k)).inputs[0] for k in range(12)]
    rough = [x.diff(dim=-1).std() for x in made]
    plain = s.inputs[0].diff(dim=-1).std()
    assert min(rough) < 0.8 * plain
    assert max(rough) > 1.05 * plain
    assert torch.equal(hooks.blurred(context(), p=0.0)(s, np.random.default_rng(0)).inputs, s.inputs)
