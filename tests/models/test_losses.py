"""Losses against their formulas and against torch; ignored pixels, empty batches, one-logit models."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.models.losses import (
    ANNEALINGS,
    cross_entropy,
    deep_supervision,
    focal,
    foreground_aware,
    soft_dice,
    two_classes,
)

PLAIN = [cross_entropy, soft_dice, focal, partial(foreground_aware, step=3, max_step=10)]


def batch(classes=3, size=(5, 7), seed=0, ignored=0.2):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *size, generator=g)
    target = torch.randint(0, max(classes, 2), (2, *size), generator=g)
    target[torch.rand(2, *size, generator=g) < ignored] = 255
    return logits, target


def pixels(logits, target):
    """Probability of the label and labels of the labelled pixels, in numpy and float64."""
    p = two_classes(logits).double().softmax(1).permute(0, 2, 3, 1).reshape(-1, max(logits.shape[1], 2)).numpy()
    y = target.flatten().numpy()
    return p[y != 255], y[y != 255]


@pytest.mark.parametrize("weights", [None, (1.0, 8.0, 0.5)])
def test_cross_entropy_is_torchs(weights):
    logits, target = batch()
    expected = F.cross_entropy(logits, target, None if weights is None else torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, target, class_weights=weights), expected)


def test_one_logit_is_binary_cross_entropy():
    logits, target = batch(classes=1)
    valid = target != 255
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][valid], target[valid].float())
    torch.testing.assert_close(cross_entropy(logits, target), expected)


@pytest.mark.parametrize("loss", PLAIN)
def test_one_logit_equals_two(loss):
    logits, target = batch(classes=1)
    torch.testing.assert_close(loss(logits, target), loss(two_classes(logits), target))


@pytest.mark.parametrize("per_sample", [False, True])
def test_dice_formula(per_sample):
    logits, target = batch()
    images = [(logits[i : i + 1], target[i : i + 1]) for i in range(2)] if per_sample else [(logits, target)]
    losses = []
    for p, y in (pixels(*image) for image in images):
        for k in range(3):
            q = y == k
            losses.append(1 - (2 * (p[:, k] * q).sum() + 1) / (p[:, k].sum() + q.sum() + 1))
    assert soft_dice(logits, target, per_sample=per_sample).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_dice_of_a_binary_target_is_that_of_water():
    logits, target = batch(classes=2)
    torch.testing.assert_close(soft_dice(logits, target), soft_dice(logits, target, classes=[1]))
    assert not torch.isclose(soft_dice(logits, target), soft_dice(logits, target, classes=[0, 1]))


def test_dice_of_an_absent_class_that_is_not_predicted():
    logits = torch.tensor([20.0, -20.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6)
    assert soft_dice(logits, torch.zeros(1, 6, 6, dtype=torch.long)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, (0.25, 0.75, 2.0)])
def test_focal_formula(gamma, weights):
    logits, target = batch()
    p, y = pixels(logits, target)
    right = p[np.arange(len(y)), y]
    alpha = np.ones(len(y)) if weights is None else np.array(weights)[y]
    expected = (alpha * (1 - right) ** gamma * -np.log(right)).mean()
    assert focal(logits, target, gamma=gamma, class_weights=weights).item() == pytest.approx(expected, rel=1e-5)


def test_focal_without_gamma_is_cross_entropy():
    logits, target = batch()
    torch.testing.assert_close(focal(logits, target, gamma=0.0), cross_entropy(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_a_finite_gradient_at_certainty(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).view(2, 2, 1, 1).requires_grad_()
    focal(logits, torch.tensor([0, 0]).view(2, 1, 1), gamma=gamma).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[1].any()


@pytest.mark.parametrize("annealing", ANNEALINGS)
@pytest.mark.parametrize("step", [0, 1, 17, 99, 100, 5000])
def test_foreground_aware_keeps_the_sum(annealing, step):
    """Z of the paper is there for this: at every step the value is that of plain cross entropy."""
    logits, target = batch()
    p, y = pixels(logits, target)
    expected = -np.log(p[np.arange(len(y)), y]).sum() / (len(y) + 2)
    loss = foreground_aware(logits, target, step=step, max_step=100, annealing=annealing)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("annealing", ANNEALINGS)
@pytest.mark.parametrize("step", [0, 30, 100])
def test_foreground_aware_gradient_is_the_weighted_one(annealing, step):
    logits, target = batch(ignored=0)
    logits.requires_grad_()
    foreground_aware(logits, target, step=step, max_step=100, annealing=annealing).backward()
    p = logits.detach().double().softmax(1)
    q = F.one_hot(target, 3).permute(0, 3, 1, 2)
    right = (p * q).sum(1)
    hard = (1 - right).square()
    hard *= -right.log().sum() / (hard * -right.log()).sum()
    x = step / 100
    share = {"cosine": (1 + math.cos(math.pi * x)) / 2, "poly": (1 - x) ** 0.9, "linear": 1 - x}[annealing]
    expected = (share + (1 - share) * hard)[:, None] * (p - q) / (target.numel() + 2)
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-4, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.sampled_from(list(ANNEALINGS)))
def test_annealing_falls_from_one_to_zero(x, name):
    f = ANNEALINGS[name]
    assert (f(0), f(1)) == (1, pytest.approx(0, abs=1e-12))
    assert -1e-12 <= f(x) <= f(x / 2) <= 1


def test_foreground_aware_where_everything_is_right():
    logits = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    loss = foreground_aware(logits, torch.zeros(1, 4, 4, dtype=torch.long), step=50, max_step=100)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", PLAIN)
def test_ignored_pixels_have_no_say(loss):
    logits, target = batch()
    other = torch.where((target == 255)[:, None], torch.full_like(logits, 40.0), logits)
    other[:, 0] = torch.where(target == 255, -torch.inf, logits[:, 0])
    torch.testing.assert_close(loss(other, target), loss(logits, target))


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("classes", [1, 3])
def test_a_batch_without_labels_trains_nothing(loss, classes):
    logits, target = batch(classes=classes, ignored=2)
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", PLAIN)
def test_another_ignore_index_and_type(loss):
    logits, target = batch()
    uint8, minus = target.to(torch.uint8), torch.where(target == 255, -1, target)
    expected = loss(logits, target)
    torch.testing.assert_close(loss(logits, uint8), expected)
    torch.testing.assert_close(loss(logits, minus, ignore_index=-1), expected)


@pytest.mark.parametrize("loss", PLAIN)
def test_better_logits_cost_less(loss):
    _, target = batch(ignored=0)
    truth = F.one_hot(target, 3).permute(0, 3, 1, 2).float()
    costs = [loss(strength * truth, target).item() for strength in (-2.0, 0.0, 2.0, 6.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.1 * costs[0]


@pytest.mark.parametrize("loss", PLAIN)
def test_half_precision_is_summed_in_single(loss):
    logits, target = batch(size=(64, 64))
    torch.testing.assert_close(loss(logits.half(), target), loss(logits.half().float(), target))


def test_deep_supervision_adds_the_heads():
    target = batch()[1]
    outputs = {name: batch(seed=i)[0] for i, name in enumerate(("logits", "logits_1", "logits_2", "scene"))}
    each = [cross_entropy(outputs[name], target) for name in ("logits", "logits_1", "logits_2")]
    torch.testing.assert_close(deep_supervision(cross_entropy, outputs, target), sum(each))
    torch.testing.assert_close(
        deep_supervision(cross_entropy, outputs, target, weight=0.5), each[0] + 0.5 * (each[1] + each[2])
    )


def test_wrong_options():
    logits, target = batch()
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        cross_entropy(logits, target, class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="annealing 'exp' is not one of cosine, poly, linear"):
        foreground_aware(logits, target, step=0, max_step=1, annealing="exp")
