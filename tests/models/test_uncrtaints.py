"""The uncertainty-aware network: any dates in any order, hidden pixels, radar, and a spread that is learned."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eoflow.models.filling import MedianComposite
from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.restoration import RestorationLoss, gaussian_nll
from eoflow.models.uncrtaints import LOG_VARIANCE, UncrtainTs

SIGNATURE = ImageSignature(4, 3, 0)
RADAR = ImageSignature(6, 3, 0, groups=(4, 2))
SMALL = {"width": 16, "inner": 16, "heads": 4, "blocks": 2, "dropout": 0.0}


def made(seed=0, signature=SIGNATURE, **options):
    """A network with weights where training would have put them, so that zero starts hide nothing."""
    torch.manual_seed(seed)
    model = UncrtainTs(signature, **{**SMALL, **options})
    for layer in (model.mean, model.spread):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return model


def inputs(height=16, width=24, dates=3, batch=2, channels=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, dates, channels, height, width, generator=g)
    return images, torch.rand(batch, dates, height, width, generator=g) < 0.6


def same(a, b, atol=1e-5):
    for name in ("image", "log_variance"):
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def test_size_is_the_paper_s():
    model = UncrtainTs(ImageSignature(4, 4, 0)).eval()
    assert parameters(model) == 566_344
    assert parameters(model) == pytest.approx(0.56e6, rel=0.02)
    operations = multiply_adds(model.to("meta"), torch.zeros(1, 3, 4, 256, 256, device="meta"))
    assert operations == pytest.approx(35.9e9, rel=0.005)
    # The published 37.16 G count each batch-normalised value of the decoder as four operations and pooling as sums.
    normalised, pooled = 4 * 5 * 768 * 256**2, (5 + 3) * 256 * 256**2
    assert operations + normalised + pooled == pytest.approx(37.16e9, rel=0.01)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 13), (31, 17), (16, 16)])
@pytest.mark.parametrize("dates", [1, 2, 5])
@pytest.mark.parametrize("base", ["none", "median"])
def test_any_size_and_number_of_dates(height, width, dates, base):
    out = made(base=base)(*inputs(height, width, dates))
    assert {k: tuple(v.shape) for k, v in out.items()} == dict.fromkeys(
        ("image", "log_variance"), (2, 3, height, width)
    )
    assert all(v.isfinite().all() for v in out.values())


@pytest.mark.parametrize("options", [{}, {"base": "median"}, {"hide_unusable": False}])
def test_the_order_of_dates_does_not_matter(options):
    model, (images, usable) = made(**options).eval(), inputs(dates=4)
    order = [2, 0, 3, 1]
    same(model(images[:, order], usable[:, order]), model(images, usable))
    assert not torch.allclose(model(images.flip(-1), usable)["image"], model(images, usable)["image"], atol=1e-2)


def test_samples_of_a_batch_do_not_see_each_other():
    model, (images, usable) = made().eval(), inputs(batch=3)
    together = model(images, usable)
    for i in range(3):
        same(model(images[i : i + 1], usable[i : i + 1]), {k: v[i : i + 1] for k, v in together.items()})


def test_equals_itself_after_saving(tmp_path):
    one, two = made(1, RADAR).eval(), made(2, RADAR).eval()
    data = inputs(channels=6)
    save_file(one.state_dict(), tmp_path / "w.safetensors")
    assert not torch.equal(one(*data)["image"], two(*data)["image"])
    two.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(one(*data)["image"], two(*data)["image"])


@pytest.mark.parametrize("signature", [SIGNATURE, RADAR])
def test_no_weight_is_dead(signature):
    model = made(signature=signature)
    outputs = model(*inputs(channels=signature.channels))
    sum((v * torch.randn_like(v)).sum() for v in outputs.values()).backward()
    small = {n: float(p.grad.abs().max()) for n, p in model.named_parameters() if p.grad.abs().max() < 1e-3}
    assert not small


@pytest.mark.parametrize("base", ["none", "median"])
def test_learns_one_batch(base):
    torch.manual_seed(0)
    model = UncrtainTs(SIGNATURE, **SMALL, base=base)
    images, usable = inputs(16, 16)
    target = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    loss = RestorationLoss(l1=0.0, nll=1.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = (model(images, usable)["image"].detach() - target).square().mean()
    for _ in range(150):
        optimiser.zero_grad()
        out = model(images, usable)
        loss(out, target, usable)["loss"].backward()
        optimiser.step()
    assert (out["image"].detach() - target).square().mean() < 0.3 * first
    assert gaussian_nll(out["image"], out["log_variance"], target) < 0.8


def test_the_spread_is_large_where_the_error_is():
    """Half of the target is noise that no input tells: there the written variance must become the noise's."""
    torch.manual_seed(0)
    model = UncrtainTs(SIGNATURE, **SMALL)
    g = torch.Generator().manual_seed(3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    noisy = torch.zeros(1, 1, 16, 16)
    noisy[..., 8:] = 1.0
    for _ in range(150):
        images = torch.randn(2, 2, 4, 16, 16, generator=g) * 0.1
        images[:, :, 3:] += noisy  # a band says which half it is
        target = images[:, :, :3].mean(1) + noisy * torch.randn(2, 3, 16, 16, generator=g)
        out = model(images)
        optimiser.zero_grad()
        gaussian_nll(out["image"], out["log_variance"], target).backward()
        optimiser.step()
    spread = (out["log_variance"] / 2).exp().mean((0, 1, 2))
    assert 0.7 < spread[8:].mean() < 1.4
    assert spread[:8].mean() < 0.4


def test_hidden_pixels_cannot_matter():
    model, (images, usable) = made(base="median").eval(), inputs()
    out = model(images, usable)
    same(model(images.masked_fill(~usable[:, :, None], torch.nan), usable), out, atol=0)
    assert not torch.equal(model(images + 0.1 * usable[:, :, None], usable)["image"], out["image"])


def test_without_hiding_the_clouds_are_seen():
    model, (images, usable) = made(hide_unusable=False).eval(), inputs()
    assert not torch.equal(model(images + (~usable)[:, :, None], usable)["image"], model(images, usable)["image"])


def test_a_date_that_saw_nothing_changes_nothing():
    model, (images, usable) = made(base="median").eval(), inputs(7, 13, dates=4)
    usable[:, 2] = False
    kept = [0, 1, 3]
    same(model(images, usable), model(images[:, kept], usable[:, kept]), atol=1e-5)


def test_all_dates_usable_is_the_same_as_no_mask():
    model, (images, usable) = made().eval(), inputs()
    same(model(images, torch.ones_like(usable)), model(images), atol=0)


def test_radar_sees_through_clouds():
    model, (images, usable) = made(signature=RADAR).eval(), inputs(channels=6)
    usable[:] = False
    out = model(images, usable)
    moved = images.clone()
    moved[:, :, :4] += 1
    same(model(moved, usable), out, atol=0)
    moved[:, :, 4:] += torch.randn(2, 3, 2, 16, 24)
    assert not torch.allclose(model(moved, usable)["image"], out["image"], atol=1e-3)


def test_radar_of_zeros_is_no_radar():
    both, data = made(signature=RADAR).eval(), inputs(channels=6)
    data[0][:, :, 4:] = 0
    alone = UncrtainTs(SIGNATURE, **SMALL).eval()
    alone.load_state_dict({k: v for k, v in both.state_dict().items() if not k.startswith("radar")})
    same(both(*data), alone(data[0][:, :, :4], data[1]), atol=1e-6)


def test_radar_is_dropped_for_whole_samples_in_training_only():
    model = made(signature=RADAR, radar_dropout=0.5)
    images, usable = inputs(8, 8, batch=32, channels=6)
    without = images.clone()
    without[:, :, 4:] = 0
    torch.manual_seed(7)
    dropped = model(images, usable)["image"]
    model.eval()
    near = [(dropped - model(x, usable)["image"]).abs().amax((1, 2, 3)) < 1e-5 for x in (without, images)]
    assert torch.equal(near[0], ~near[1])
    assert 5 < near[0].sum() < 27


def test_with_a_base_it_starts_as_that_composite():
    images, usable = inputs()
    usable[:, 0] = True
    out = UncrtainTs(SIGNATURE, **SMALL, base="median").eval()(images, usable)
    assert torch.equal(out["image"], MedianComposite(SIGNATURE)(images, usable)["image"])
    assert out["log_variance"].unique().numel() == 1


def test_log_variance_stays_in_its_bounds():
    model = made()
    torch.nn.init.normal_(model.spread.weight, std=100)
    out = model(*inputs())["log_variance"]
    assert LOG_VARIANCE[0] <= out.min() < LOG_VARIANCE[0] + 0.1
    assert LOG_VARIANCE[1] - 0.1 < out.max() <= LOG_VARIANCE[1]


def test_degenerate_input_is_finite():
    images, usable = inputs()
    model = made(base="median")
    for x, u in ((images * 0, usable), (images, torch.zeros_like(usable)), (images * 0 + 3, usable)):
        out = model(x, u)
        assert all(v.isfinite().all() for v in out.values())
        sum(v.sum() for v in out.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="groups"):
        UncrtainTs(ImageSignature(6, 3, 0, groups=(4, 1)), **SMALL)
    with pytest.raises(ValueError, match="multiple of heads"):
        UncrtainTs(SIGNATURE, width=20, heads=3)
    with pytest.raises(TypeError):
        made(depth=3)
