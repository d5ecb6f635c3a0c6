"""FarSeg and its encoder: published sizes, any size of picture, the scene relation, learns, saves."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eoflow.models.farseg import FarSeg, SceneRelation
from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.layers.resnet import STEM_STRIDES, FeaturePyramid, ResNet
from eoflow.models.losses import foreground_aware

S = ImageSignature
TWO_DATES = S(2, 3, dates=2)
SMALL = {"encoder": "resnet18", "width": 8, "pyramid": 16, "decoder": 16}


def net(signature=TWO_DATES, seed=0, **options):
    torch.manual_seed(seed)
    return FarSeg(signature, **{**SMALL, **options})


def stack(batch=2, dates=2, channels=2, size=(32, 64), seed=0):
    return torch.randn(batch, dates, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 2)])
@pytest.mark.parametrize("stem_stride", STEM_STRIDES)
def test_any_size(size, stem_stride):
    model = net(stem_stride=stem_stride).eval()
    assert model.multiple == 8 * stem_stride
    out = model(stack(size=size))["logits"]
    assert out.shape == (2, 3, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", ["group", "batch"])
def test_samples_of_a_batch_do_not_see_each_other(kind):
    model, images = net(norm=kind).eval().double(), stack(4).double()
    together = model(images)["logits"]
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1])["logits"], rtol=1e-9, atol=1e-9)


def test_unusable_pixels_have_no_influence():
    model, images = net(usable_channel=True).eval(), stack()
    usable = torch.rand(2, 2, 32, 64, generator=torch.Generator().manual_seed(3)) > 0.4
    spoiled = torch.where(usable[:, :, None], images, torch.full_like(images, torch.nan))
    assert torch.equal(model(images, usable)["logits"], model(spoiled, usable)["logits"])


def test_safetensors_hold_everything(tmp_path):
    model = net(norm="batch").train()
    model(stack(4, seed=5))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = net(norm="batch", seed=9).eval()
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh(stack())["logits"], model.eval()(stack())["logits"])


def test_overfits_one_batch_with_its_own_loss():
    model, images = net(stem_stride=1), stack(size=(16, 16))
    target = torch.zeros(2, 16, 16, dtype=torch.long)
    target[0, 3:6, 4:9], target[1, 10:14, 2:5], target[1, 1:3] = 1, 2, 1
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        loss = foreground_aware(model(images)["logits"], target, step=step, max_step=60)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("options", [{}, {"encoder": "resnet50"}, {"shared_scene": True, "norm": "none"}])
def test_gradient_reaches_every_parameter(options):
    model = net(**options)
    model(stack())["logits"].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("kind", "count"),
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032), ("resnet101", 42_500_160)],
)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_parameters_of_the_encoders(kind, count, norm):
    """As published with a classifier of 1000 classes (11.69, 21.80, 25.56 and 44.55 M), less that classifier."""
    with torch.device("meta"):
        assert parameters(ResNet(3, kind, norm=norm)) == count


@pytest.mark.parametrize(("kind", "giga"), [("resnet18", 1.81), ("resnet50", 4.09)])
def test_multiply_adds_of_the_encoders(kind, giga):
    with torch.device("meta"):
        assert multiply_adds(ResNet(3, kind), torch.empty(1, 3, 224, 224)) == pytest.approx(giga * 1e9, rel=0.02)


def test_encoder_features():
    encoder = ResNet(5, "resnet50", width=4)
    shapes = [tuple(f.shape) for f in encoder(torch.zeros(1, 5, 64, 96))]
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip((16, 32, 64, 128), (4, 8, 16, 32))]
    assert (encoder.channels, encoder.strides) == ((16, 32, 64, 128), (4, 8, 16, 32))


def test_parameters_counted_by_hand():
    """ResNet-50, pyramid, scene relation and decoder after the authors' configuration for iSAID (16 classes)."""
    encoder = 23_508_032
    pyramid = (256 + 512 + 1024 + 2048) * 256 + 4 * 256 + 4 * (9 * 256 * 256 + 256)
    scene = 4 * ((2048 * 256 + 256) + (256 * 256 + 256))
    content = 2 * 4 * (256 * 256 + 256 + 2 * 256)
    decoder = 4 * (9 * 256 * 128 + 256) + 3 * (9 * 128 * 128 + 256)
    with torch.device("meta"):
        model = FarSeg(S(3, 16))
        assert parameters(model) == encoder + pyramid + scene + content + decoder + 128 * 16 + 16
        assert parameters(model) == pytest.approx(31.37e6, rel=0.001)
        assert multiply_adds(model, torch.empty(1, 1, 3, 512, 512)) == pytest.approx(46.87e9, rel=0.001)
        small = FarSeg(S(3, 2), encoder="resnet18", width=32, pyramid=64, decoder=64)
        assert parameters(small) == pytest.approx(3.35e6, rel=0.002)


def test_relation_is_the_sigmoid_of_an_inner_product():
    torch.manual_seed(0)
    relation = SceneRelation(6, 4, 2, "none", shared=False)
    scene, features = torch.randn(2, 6, 1, 1), [torch.randn(2, 4, 5, 3), torch.randn(2, 4, 2, 2)]
    out = relation(scene, features)
    for i, (r, x) in enumerate(zip(relation.relations(scene, features), features)):
        content = torch.relu(relation.content[i][0](x))
        expected = torch.sigmoid(torch.einsum("bc,bchw->bhw", relation.scene[i](scene)[..., 0, 0], content))
        torch.testing.assert_close(r[:, 0], expected)
        torch.testing.assert_close(out[i], expected[:, None] * torch.relu(relation.encoded[i][0](x)))


def test_one_scene_projection_for_all_scales():
    own, shared = net(), net(shared_scene=True)
    assert (len(own.relation.scene), len(shared.relation.scene)) == (4, 1)
    assert shared(stack())["logits"].shape == own(stack())["logits"].shape


def test_pyramid_adds_from_the_top_down():
    pyramid = FeaturePyramid((1, 1), 1)
    with torch.no_grad():
        for conv in pyramid.lateral:
            conv.weight.fill_(1)
            conv.bias.zero_()
        for conv in pyramid.smooth:
            conv.weight.zero_()
            conv.weight[..., 1, 1] = 1
            conv.bias.zero_()
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([[[[100.0, 200.0], [300.0, 400.0]]]])
    low, high = pyramid([fine, coarse])
    assert torch.equal(high, coarse)
    assert torch.equal(low, fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_scene_reaches_every_pixel():
    """Also with a norm of no reach: the scene embedding is global, so that no halo is exact."""
    model = net(S(1, 1), norm="none").eval()
    images = stack(1, 1, 1, (256, 256)).requires_grad_()
    (grad,) = torch.autograd.grad(model(images)["logits"][0, 0, 0, 0], images)
    assert grad[..., -32:, -32:].abs().max() > 0


def test_with_a_local_scene_windows_give_the_picture_of_the_whole_scene():
    model = net(S(1, 1), norm="layer", stem_stride=1, scene_cells=3, width=4, pyramid=8, decoder=8).eval()
    halo, m = model.halo, model.multiple
    assert halo % m == 0
    size = 2 * halo + 4 * m
    images = stack(1, 1, 1, (size, size))
    with torch.no_grad():
        whole = model(images)["logits"]
        core = slice(halo + m, halo + 2 * m)
        read = slice(m, 2 * halo + 2 * m)
        window = model(images[..., read, read])["logits"][..., halo:-halo, halo:-halo]
        torch.testing.assert_close(window, whole[..., core, core], rtol=1e-4, atol=1e-5)
        images[..., 0, :] += 50  # the upper neighbour of what the core reads is another one
        images[..., size - 1, :] += 50
        assert torch.equal(model(images)["logits"][..., core, core], whole[..., core, core])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene_cells": 2}, "scene_cells 2"),
        ({"encoder": "vgg16"}, "encoder 'vgg16'"),
        ({"stem_stride": 3}, "stem_stride 3"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)
