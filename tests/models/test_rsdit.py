"""RS-DiT and its diffusion: identity before training, any size, labels matter, overfits, kept pixels stay."""

from __future__ import annotations

import math

import pytest
import torch

from eoflow.models import diffusion
from eoflow.models.rsdit import RSDiT, time_features


def small(**options):
    torch.manual_seed(0)
    return RSDiT(3, 2, patch=4, width=32, depth=2, heads=2, window=4, global_every=2, **options)


def test_blocks_are_the_identity_and_the_output_is_zero_before_training():
    net = small()
    x, c = torch.randn(2, 8, 4, 32), torch.randn(2, 8, 4, 32)
    for block in net.blocks:
        assert torch.equal(block(x, c), x)
    image, labels = torch.randn(2, 3, 16, 32), torch.rand(2, 2, 16, 32)
    assert not net(image, torch.tensor([0.1, 0.9]), labels).any()


def test_every_token_has_its_own_modulation():
    net = small()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([0.5])
    labels = torch.zeros(1, 2, 32, 32)
    other = labels.clone()
    other[..., :4, :4] = 1
    moved = (net(x, t, labels) - net(x, t, other)).abs().amax(dim=1)[0]
    assert moved[:4, :4].max() > 10 * moved[24:, 24:].max()


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_any_multiple_of_the_window(size):
    x = torch.randn(1, 3, *size)
    assert small()(x, torch.tensor([0.3]), torch.zeros(1, 2, *size)).shape == x.shape


def test_a_window_does_not_see_its_neighbours_without_global_attention():
    net = RSDiT(1, 1, patch=1, width=16, depth=1, heads=2, window=4, global_every=0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randn(1, 1, 8, 16)
    y = x.clone()
    y[..., 12:] += 1
    same = (net(x, torch.zeros(1), torch.zeros_like(x)) - net(y, torch.zeros(1), torch.zeros_like(x)))[..., :8]
    assert same.abs().max() < 1e-5


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        small()(torch.zeros(1, 3, 20, 16), torch.zeros(1), torch.zeros(1, 2, 20, 16))


def test_time_features_are_of_unit_length_and_differ():
    f = time_features(torch.tensor([0.0, 0.5, 1.0]), 16)
    assert torch.allclose(f.square().sum(1), torch.full((3,), 8.0), atol=1e-4)
    assert (f[0] - f[1]).abs().max() > 0.1


def test_levels_and_velocity_invert():
    x, e, t = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.tensor([0.0, 0.2, 0.7, 1.0])
    a, s = diffusion.levels(t)
    assert torch.allclose(a**2 + s**2, torch.ones_like(a))
    assert a[1].item() == pytest.approx(math.cos(0.1 * math.pi))
    noisy, v = diffusion.noised(x, e, t), diffusion.velocity(x, e, t)
    assert torch.allclose(a * noisy - s * v, x, atol=1e-5)
    assert torch.allclose(s * noisy + a * v, e, atol=1e-5)


def test_sampling_with_the_true_velocity_finds_the_image():
    image = torch.rand(2, 3, 8, 8) * 2 - 1

    def exact(x, t):
        a, s = diffusion.levels(t)
        return a * (x - a * image) / s - s * image

    out = diffusion.sample(exact, torch.randn(2, 3, 8, 8), steps=7)
    assert torch.allclose(out, image, atol=1e-3)


def test_kept_pixels_stay():
    image, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    net = small()
    labels = torch.zeros(1, 2, 16, 16)
    out = diffusion.sample(lambda x, t: net(x, t, labels), torch.randn(1, 3, 16, 16), steps=3, keep=(image, mask))
    assert torch.equal(out[..., :8], image[..., :8])
    assert not torch.equal(out[..., 8:], image[..., 8:])


def test_learns_to_paint_by_labels():
    torch.manual_seed(1)
    net = RSDiT(1, 2, patch=4, width=32, depth=1, heads=2, window=2)
    labels = torch.zeros(4, 2, 8, 8)
    for k in range(4):
        labels[k, 0, :, 4:] = k % 2
        labels[k, 0, :, :4] = k // 2
    labels[:, 1] = 1 - labels[:, 0]
    image = (labels[:, :1] * 2 - 1) * 0.8
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(120):
        value = diffusion.loss(lambda x, t: net(x, t, labels), image, generator)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert sum(values[-20:]) < 0.5 * sum(values[:20])
    noise = torch.randn(4, 1, 8, 8, generator=generator)
    out = diffusion.sample(lambda x, t: net(x, t, labels), noise, steps=10)
    assert ((out > 0) == (image > 0)).float().mean() > 0.9


def test_guidance_goes_further_in_the_direction_of_what_is_told():
    calls = []

    def says(value):
        def network(x, t):
            calls.append(value)
            return torch.full_like(x, value)

        return network

    x, t = torch.zeros(1, 1, 4, 4), torch.tensor([0.5])
    assert diffusion.guided(says(2.0), says(0.5), 3.0)(x, t).unique().tolist() == [5.0]
    assert sorted(calls) == [0.5, 2.0]
    calls.clear()
    assert diffusion.guided(says(2.0), says(0.5), 1.0)(x, t).unique().tolist() == [2.0]
    assert calls == [2.0]
