"""Losses of cloud removal against numpy and torch's own, with masks, scales and nothing to learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eoflow.models.restoration import RestorationLoss, cloud_bce, gaussian_nll, l1, l2, masked_average


def world(seed=0):
    g = torch.Generator().manual_seed(seed)
    image, target = torch.randn(2, 2, 3, 5, 7, generator=g)
    log_variance = torch.randn(2, 3, 5, 7, generator=g)
    mask = torch.rand(2, 5, 7, generator=g) < 0.5
    return image.requires_grad_(), target, log_variance.requires_grad_(), mask


SCALE = torch.tensor([0.1, 0.2, 0.05])


@pytest.mark.parametrize(("loss", "power"), [(l1, 1), (l2, 2)])
def test_errors_are_in_reflectance_over_the_mask(loss, power):
    image, target, _, mask = world()
    error = np.abs((image.detach() - target).numpy() * SCALE.numpy()[:, None, None]) ** power
    assert loss(image, target, SCALE).item() == pytest.approx(error.mean(), rel=1e-5)
    chosen = error.transpose(0, 2, 3, 1)[mask.numpy()]
    assert loss(image, target, SCALE, mask).item() == pytest.approx(chosen.mean(), rel=1e-5)
    weight = torch.where(mask, 3.0, 1.0)
    expected = np.average(error.mean(1), weights=weight.numpy())
    assert loss(image, target, SCALE, weight=weight).item() == pytest.approx(expected, rel=1e-5)


def test_likelihood_is_the_normal_distribution_s():
    image, target, log_variance, mask = world()
    normal = torch.distributions.Normal(image, (log_variance / 2).exp())
    expected = -normal.log_prob(target)
    assert gaussian_nll(image, log_variance, target).item() == pytest.approx(expected.mean().item(), rel=1e-5)
    part = expected.permute(0, 2, 3, 1)[mask].mean().item()
    assert gaussian_nll(image, log_variance, target, mask).item() == pytest.approx(part, rel=1e-5)


def test_beta_weights_by_the_variance_but_gives_it_no_gradient():
    image, target, log_variance, _ = world()
    gaussian_nll(image, log_variance, target, beta=1.0).backward()
    expected = (image - target).detach() / target.numel()  # beta 1: the mean learns by the squared error alone
    torch.testing.assert_close(image.grad, expected)
    wanted = 0.5 * (log_variance.exp() - (image - target).square()).detach() / target.numel()
    torch.testing.assert_close(log_variance.grad, wanted)


def test_cloud_head_is_torch_s_cross_entropy():
    g = torch.Generator().manual_seed(1)
    cloud = torch.randn(2, 3, 5, 7, generator=g)
    usable, observed = torch.rand(2, 2, 3, 5, 7, generator=g) < 0.6
    every = F.binary_cross_entropy_with_logits(cloud, (~usable).float(), pos_weight=torch.tensor(4.0), reduction="none")
    assert cloud_bce(cloud, usable, positive=4.0).item() == pytest.approx(every.mean().item(), rel=1e-5)
    part = every[observed].mean().item()
    assert cloud_bce(cloud, usable, observed, positive=4.0).item() == pytest.approx(part, rel=1e-5)


@pytest.mark.parametrize("nothing", ["mask", "target"])
def test_nothing_to_learn_from_is_zero_with_zero_gradients(nothing):
    image, target, log_variance, mask = world()
    if nothing == "mask":
        mask = torch.zeros_like(mask)
    else:
        target = torch.full_like(target, torch.nan)
    total = l1(image, target, SCALE, mask) + l2(image, target, SCALE, mask)
    total = total + gaussian_nll(image, log_variance, target, mask, beta=0.5)
    total.backward()
    assert total.item() == 0
    assert not image.grad.any()
    assert not log_variance.grad.any()


def test_unknown_targets_are_left_out():
    image, target, log_variance, mask = world()
    holes = target.permute(0, 2, 3, 1).clone()
    holes[~mask] = torch.nan
    holes = holes.permute(0, 3, 1, 2)
    assert gaussian_nll(image, log_variance, holes).item() == gaussian_nll(image, log_variance, target, mask).item()
    loss = l1(image, holes, SCALE)
    assert loss.item() == l1(image, target, SCALE, mask).item()
    loss.backward()
    assert image.grad.isfinite().all()
    assert not image.grad.permute(0, 2, 3, 1)[~mask].any()


def test_masked_average_never_reads_what_is_masked():
    loss = torch.tensor([1.0, torch.nan, 3.0, torch.inf])
    assert masked_average(loss, torch.tensor([True, False, True, False])).item() == 2


def test_the_sum_of_the_parts():
    image, target, log_variance, mask = world()
    usable = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.4
    cloud, frames = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 3, 5, 7)
    outputs = {"image": image, "log_variance": log_variance, "cloud": cloud, "frames": frames}
    loss = RestorationLoss(l1=100.0, l2=2.0, nll=0.5, cloud=3.0, frames=50.0)
    parts = loss(outputs, target, usable, mask=mask, scale=SCALE)
    every = mask[:, None].expand(-1, 3, -1, -1).flatten(0, 1)
    many = target.repeat_interleave(3, 0)
    expected = {
        "l1": l1(image, target, SCALE, mask),
        "l2": l2(image, target, SCALE, mask),
        "nll": gaussian_nll(image, log_variance, target, mask),
        "cloud": cloud_bce(cloud, usable),
        "frames": l1(frames.flatten(0, 1), many, SCALE, every),
    }
    total = sum(w * expected[k] for k, w in zip(expected, (100, 2, 0.5, 3, 50)))
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)
    torch.testing.assert_close(parts["loss"], total)
    assert parts["loss"].requires_grad
    assert not parts["l1"].requires_grad


def test_pixels_that_no_date_saw_count_more():
    image, target, *_ = world()
    usable = torch.zeros(2, 3, 5, 7, dtype=torch.bool)
    usable[:, 1, :3] = True
    parts = RestorationLoss(hidden=4.0)({"image": image}, target, usable)
    error = (image - target).abs().mean(1).detach()
    expected = (error[:, :3].sum() + 4 * error[:, 3:].sum()) / (2 * 3 * 7 + 4 * 2 * 2 * 7)
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_part_that_the_network_does_not_write_is_an_error():
    image, target, _, _ = world()
    with pytest.raises(KeyError, match="log_variance"):
        RestorationLoss(nll=1.0)({"image": image}, target, torch.ones(2, 1, 5, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="no part"):
        RestorationLoss(l1=0.0)({"image": image}, target, torch.ones(2, 1, 5, 7, dtype=torch.bool))
