"""U-Net++: any size, deep supervision, pruning that changes nothing, no talk between samples, learns, saves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.layers.units import UPS
from eoflow.models.losses import cross_entropy, deep_supervision
from eoflow.models.unetplusplus import UNetPlusPlus, mean_probability

S = ImageSignature
TWO_DATES = S(2, 3, dates=2)


def net(signature=TWO_DATES, seed=0, **options):
    torch.manual_seed(seed)
    return UNetPlusPlus(signature, **{"width": 8, "depth": 3, **options})


def stack(batch=2, dates=2, channels=2, size=(16, 24), seed=0):
    return torch.randn(batch, dates, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (31, 2)])
@pytest.mark.parametrize("up", UPS)
def test_any_size(size, up):
    model = net(up=up)
    trained = model(stack(size=size))
    assert set(trained) == {"logits", "logits_1", "logits_2"}
    assert all(v.shape == (2, 3, *size) and v.isfinite().all() for v in trained.values())
    assert {k: v.shape for k, v in model.eval()(stack(size=size)).items()} == {"logits": (2, 3, *size)}


@pytest.mark.parametrize("kind", ["group", "batch"])
def test_samples_of_a_batch_do_not_see_each_other(kind):
    model, images = net(norm=kind).eval().double(), stack(4).double()
    together = model(images)["logits"]
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1])["logits"], rtol=1e-9, atol=1e-9)


def test_unusable_pixels_have_no_influence():
    model, images = net().eval(), stack()
    usable = torch.rand(2, 2, 16, 24, generator=torch.Generator().manual_seed(3)) > 0.4
    spoiled = torch.where(usable[:, :, None], images, torch.full_like(images, torch.nan))
    assert torch.equal(model(images, usable)["logits"], model(spoiled, usable)["logits"])


@pytest.mark.parametrize("classes", [1, 3])
def test_inference_averages_the_probabilities_of_the_heads(classes):
    model, images = net(S(2, classes, dates=2)), stack()
    heads = model(images).values()
    probability = torch.sigmoid if classes == 1 else (lambda x: x.softmax(1))
    expected = torch.stack([probability(h) for h in heads]).mean(0)
    torch.testing.assert_close(probability(model.eval()(images)["logits"]), expected, rtol=1e-4, atol=1e-6)


def test_averaging_logits_far_from_zero():
    far = [torch.full((1, 1, 1, 1), v) for v in (80.0, -60.0, -70.0)]
    torch.testing.assert_close(mean_probability(far).sigmoid(), torch.full((1, 1, 1, 1), 1 / 3))


def test_the_last_head_alone():
    model, images = net(inference="last"), stack()
    last = model(images)["logits"]
    assert torch.equal(model.eval()(images)["logits"], last)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_pruned_network_gives_the_same_head(depth):
    model, images = net(inference="average"), stack()  # 16 x 24: every depth divides it, so that nothing is padded
    full = model(images)
    cut = model.pruned(depth).eval()
    assert torch.equal(cut(images)["logits"], full["logits" if depth == 3 else f"logits_{depth}"])
    assert set(cut.state_dict()) <= set(model.state_dict())
    if depth < 3:
        assert parameters(cut) < 0.4 * parameters(model)


def test_a_pruned_network_shares_no_weight():
    model = net()
    cut = model.pruned(2)
    with torch.no_grad():
        cut.heads["2"].bias += 1
    assert not model.heads["2"].bias.any()


def test_no_head_to_prune_at():
    with pytest.raises(ValueError, match="no head at depth 2; there are 3"):
        net(deep_supervision=False).pruned(2)


def test_safetensors_hold_everything(tmp_path):
    model = net().eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = net(seed=9).eval()
    assert not torch.equal(fresh(stack())["logits"], model(stack())["logits"])
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh(stack())["logits"], model(stack())["logits"])


def test_overfits_one_batch_with_deep_supervision():
    model, images = net(), stack()
    target = torch.randint(0, 3, (2, 16, 24), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = deep_supervision(cross_entropy, model(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert cross_entropy(model.eval()(images)["logits"], target) < 0.3 * F.cross_entropy(
        torch.zeros(1, 3), target[0, :1, 0]
    )


@pytest.mark.parametrize("kind", ["group", "layer", "batch", "none"])
def test_gradient_reaches_every_parameter(kind):
    model, images = net(norm=kind), stack()
    sum(v.square().sum() for v in model(images).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_deep_supervision_the_last_head_reaches_every_parameter():
    model = net(deep_supervision=False)
    out = model(stack())
    assert list(out) == ["logits"]
    out["logits"].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_parameters_of_the_paper():
    """9.04 M in the paper, 9,041,601 by the authors' code (one band, one output, no norm, one head)."""
    assert parameters(UNetPlusPlus(S(1, 1), norm="none", deep_supervision=False)) == 9_041_601
    assert parameters(UNetPlusPlus(S(1, 1))) == pytest.approx(9.04e6, rel=0.002)


def test_multiply_adds_counted_by_hand():
    with torch.device("meta"):
        counted = multiply_adds(UNetPlusPlus(S(3, 1)).eval(), torch.empty(1, 1, 3, 256, 256))
    widths, size = [32, 64, 128, 256, 512], 256 * 256
    by_hand = size * 32 * 4  # heads
    for i, w in enumerate(widths):
        by_hand += size // 4**i * 9 * ((widths[i - 1] if i else 3) * w + w * w)
        for j in range(1, 5 - i):
            by_hand += size // 4**i * (9 * ((j + 1) * w * w + w * w) + widths[i + 1] * w)
    assert counted == pytest.approx(by_hand, rel=0.02)
    assert counted == pytest.approx(29.8e9, rel=0.01)


@pytest.mark.parametrize("up", UPS)
def test_nothing_outside_the_halo_matters(up):
    model = net(S(1, 1), up=up, norm="layer", width=4, depth=2).eval()
    size = 96
    images = stack(1, 1, 1, (size, size)).requires_grad_()
    farthest = 0
    for place in range(size // 2, size // 2 + model.multiple):
        (grad,) = torch.autograd.grad(model(images)["logits"][0, 0, place, place], images)
        rows, columns = torch.nonzero(grad[0, 0, 0], as_tuple=True)
        farthest = max(farthest, int((rows - place).abs().max()), int((columns - place).abs().max()))
    assert model.halo - model.multiple < farthest <= model.halo


@pytest.mark.parametrize(
    ("options", "message"), [({"inference": "best"}, "inference 'best'"), ({"depth": 0}, "depth of at least 1")]
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)
