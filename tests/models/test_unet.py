"""U-Net: any size, no talk between samples, learns, saves, and reaches no farther than it says."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.layers.units import NORMS, UPS, PixelNorm, Up, norm
from eoflow.models.losses import cross_entropy
from eoflow.models.unet import UNet

S = ImageSignature
TWO_DATES = S(2, 3, dates=2)


def net(signature=TWO_DATES, seed=0, **options):
    torch.manual_seed(seed)
    return UNet(signature, **{"width": 8, "depth": 2, **options})


def stack(batch=2, dates=2, channels=2, size=(16, 24), seed=0):
    return torch.randn(batch, dates, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (31, 2), (32, 32)])
@pytest.mark.parametrize("up", UPS)
def test_any_size(size, up):
    out = net(up=up).eval()(stack(size=size))
    assert list(out) == ["logits"]
    assert out["logits"].shape == (2, 3, *size)
    assert out["logits"].isfinite().all()


@pytest.mark.parametrize("kind", NORMS)
def test_samples_of_a_batch_do_not_see_each_other(kind):
    model, images = net(norm=kind).eval().double(), stack(4).double()
    together = model(images)["logits"]
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1])["logits"], rtol=1e-9, atol=1e-9)


def test_not_in_training_either_by_default():
    model = net().train()
    images = stack(3)
    torch.testing.assert_close(model(images)["logits"][:1], model(images[:1])["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("usable_channel", [False, True])
def test_unusable_pixels_have_no_influence(usable_channel):
    model = net(usable_channel=usable_channel).eval()
    images, usable = stack(), torch.rand(2, 2, 16, 24, generator=torch.Generator().manual_seed(3)) > 0.4
    spoiled = torch.where(usable[:, :, None], images, torch.full_like(images, torch.nan))
    with torch.no_grad():
        clean, other, seen = model(images, usable)["logits"], model(spoiled, usable)["logits"], model(images)["logits"]
    assert torch.equal(clean, other)
    assert not torch.allclose(clean, seen, atol=1e-3)


def test_the_network_can_tell_an_unusable_pixel_from_a_mean_one():
    images, usable = torch.zeros(1, 2, 2, 8, 8), torch.ones(1, 2, 8, 8, dtype=torch.bool)
    usable[..., 4] = False
    told, blind = net(usable_channel=True).eval(), net().eval()
    assert not torch.allclose(told(images, usable)["logits"], told(images)["logits"], atol=1e-4)
    assert torch.equal(blind(images, usable)["logits"], blind(images)["logits"])


def test_safetensors_hold_everything(tmp_path):
    model = net(norm="batch").train()
    model(stack(4, seed=5))  # running statistics that are not the initial ones
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = net(norm="batch", seed=9).eval()
    assert not torch.equal(fresh(stack())["logits"], model.eval()(stack())["logits"])
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh(stack())["logits"], model.eval()(stack())["logits"])


@pytest.mark.parametrize("up", UPS)
def test_overfits_one_batch(up):
    model, images = net(up=up), stack()
    target = torch.randint(0, 3, (2, 16, 24), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        loss = cross_entropy(model(images)["logits"], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", NORMS)
def test_gradient_reaches_every_parameter(kind):
    model = net(norm=kind, usable_channel=True)
    model(stack())["logits"].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_parameters_of_the_papers():
    """Ronneberger 2015 (one band, two classes); Zhou 2018, whose code gives the number for widths 32 to 512."""
    assert parameters(UNet(S(1, 1), width=32, norm="none")) == 7_759_521
    assert parameters(UNet(S(1, 2), norm="none")) == 31_030_658
    # a norm of two numbers a channel in place of a bias of one adds one number a convolution
    assert parameters(UNet(S(1, 2))) == 31_030_658 + 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024


def test_multiply_adds_counted_by_hand():
    with torch.device("meta"):
        model, images = UNet(S(3, 2)), torch.empty(1, 1, 3, 256, 256)
        counted = multiply_adds(model, images)
    widths, size = [64, 128, 256, 512, 1024], 256 * 256
    by_hand = size * 64 * 2  # head
    for i, w in enumerate(widths):
        by_hand += size // 4**i * 9 * ((widths[i - 1] if i else 3) * w + w * w)
        if i < 4:
            by_hand += size // 4**i * (9 * (2 * w * w + w * w) + widths[i + 1] * w)
    assert counted == pytest.approx(by_hand, rel=0.02)
    assert counted == pytest.approx(48.2e9, rel=0.01)


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("kind", ["none", "layer", "batch"])
def test_nothing_outside_the_halo_matters(up, kind):
    """The influence of every input pixel on one output pixel, for each place of it in the pooling grid."""
    model = net(S(1, 1), up=up, norm=kind, width=4).eval()
    size, halo = 96, model.halo
    images = stack(1, 1, 1, (size, size)).requires_grad_()
    farthest = 0
    for place in range(size // 2, size // 2 + model.multiple):
        (grad,) = torch.autograd.grad(model(images)["logits"][0, 0, place, place], images)
        rows, columns = torch.nonzero(grad[0, 0, 0], as_tuple=True)
        farthest = max(farthest, int((rows - place).abs().max()), int((columns - place).abs().max()))
    assert halo - model.multiple < farthest <= halo


def test_windows_with_the_halo_give_the_picture_of_the_whole_scene():
    model = net(S(1, 2), norm="layer").eval()
    images, m, halo = stack(1, 1, 1, (96, 96)), net().multiple, net().halo
    assert halo % m == 0
    whole = model(images)["logits"]
    first, last = 9 * m, 14 * m
    window = images[..., first - halo : last + halo, first - halo : last + halo]
    core = model(window)["logits"][..., halo:-halo, halo:-halo]
    torch.testing.assert_close(core, whole[..., first:last, first:last], rtol=1e-4, atol=1e-5)


def test_group_norm_sees_the_whole_picture():
    images = stack(1, 1, 1, (96, 96))
    model = net(S(1, 2)).eval()
    before = model(images)["logits"][..., 0, 0]
    images[..., -1, -1] += 50
    assert not torch.allclose(before, model(images)["logits"][..., 0, 0], atol=1e-5)


def test_pixel_norm_is_layer_norm_over_channels():
    x = stack(2, 1, 5, (3, 4))[:, 0]
    y = PixelNorm(5)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 4), rtol=1e-3, atol=1e-3)


def test_resizing_equals_interpolation_before_the_convolution():
    up, x = Up(6, 4, "resize"), stack(1, 1, 6, (5, 7))[:, 0]
    fine = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(x), up.conv(fine), rtol=1e-4, atol=1e-5)


def test_groups_divide_the_channels():
    for channels in (1, 3, 4, 6, 20, 32, 64):
        g = norm("group", channels).num_groups
        assert channels % g == 0
        assert g == 1 or channels // g >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norm": "instance"}, "norm 'instance'"), ({"up": "cubic"}, "up 'cubic'")],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)


def test_unknown_option():
    with pytest.raises(TypeError):
        net(widht=4)


def test_wrong_inputs():
    with pytest.raises(ValueError, match="fixed number of dates"):
        net(S(2, 1, dates=0))
    with pytest.raises(ValueError, match=r"takes \(B, 2, 2, H, W\)"):
        net()(stack(dates=1))
