"""PMAA: the published size, any image size, no talk between samples, no dead weights, learns image and clouds."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eoflow.models.filling import MedianComposite
from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.pmaa import Pmaa
from eoflow.models.restoration import RestorationLoss

SIGNATURE = ImageSignature(4, 3, 2)
SMALL = {"width": 8, "hidden": 12, "blocks": 1, "scales": 3, "pyramid": 16, "dropout": 0.0, "drop_path": 0.0}


def made(seed=0, signature=SIGNATURE, **options):
    torch.manual_seed(seed)
    return Pmaa(signature, **{**SMALL, **options})


def inputs(height=16, width=20, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 2, 4, height, width, generator=g) * 2 - 1
    return images, torch.rand(batch, 2, height, width, generator=g) < 0.6


def test_size_is_the_paper_s():
    model = Pmaa(ImageSignature(4, 4, 3)).eval()
    assert parameters(model) == 3_444_101
    assert parameters(model) == pytest.approx(3.45e6, rel=0.02)
    images = torch.zeros(1, 3, 4, 256, 256, device="meta")
    assert multiply_adds(model.to("meta"), images) == pytest.approx(92e9, rel=0.02)
    # The published 92.34 G have the auxiliary head, the pooled branch at every pixel, and the normalisations (1 G).
    pixels = 3 * 256**2
    assert multiply_adds(model, images) + pixels * (32 * 4 * 9 + 128 * 32) + 1e9 == pytest.approx(92.34e9, rel=0.005)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 13), (31, 17), (16, 16)])
@pytest.mark.parametrize("base", ["none", "median"])
def test_any_size(height, width, base):
    model = made(base=base, auxiliary=True)
    out = model(*inputs(height, width))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "image": (2, 3, height, width),
        "cloud": (2, 2, height, width),
        "frames": (2, 2, 3, height, width),
    }
    assert all(v.isfinite().all() for v in out.values())
    assert set(model.eval()(*inputs(height, width))) == {"image"}


@pytest.mark.parametrize("options", [{}, {"base": "median", "hide_unusable": True}])
def test_samples_of_a_batch_do_not_see_each_other(options):
    model = made(**options).eval().double()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    images, usable = inputs(batch=3)
    together = model(images.double(), usable)["image"]
    alone = torch.cat([model(images[i : i + 1].double(), usable[i : i + 1])["image"] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_equals_itself_after_saving(tmp_path):
    one, two = made(1, base="mean").eval(), made(2, base="mean").eval()
    torch.nn.init.normal_(one.head.weight)
    save_file(one.state_dict(), tmp_path / "w.safetensors")
    assert not torch.equal(one(*inputs())["image"], two(*inputs())["image"])
    two.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(one(*inputs())["image"], two(*inputs())["image"])


@pytest.mark.parametrize("options", [{}, {"auxiliary": True}, {"base": "median", "hide_unusable": True}])
def test_no_weight_is_dead(options):
    """Gradients are real ones: far above what rounding, or the epsilon of a normalisation, lets through."""
    model = made(**options)
    for name, parameter in model.named_parameters():  # what starts at (nearly) zero, as training moves it
        if name.endswith("attention.scale") or name.startswith("head"):
            torch.nn.init.normal_(parameter)
    outputs = model(*inputs(32, 32))
    sum((v * torch.randn_like(v)).sum() for v in outputs.values()).backward()
    small = {n: float(p.grad.abs().max()) for n, p in model.named_parameters() if p.grad.abs().max() < 1e-2}
    assert not small


def test_auxiliary_weights_exist_only_with_their_loss():
    assert not [n for n, _ in made().named_parameters() if "auxiliary" in n]


@pytest.mark.parametrize("base", ["none", "median"])
def test_learns_one_batch(base):
    model = made(base=base)
    images, _ = inputs()
    usable = images[:, :, 0] < 0.2  # clouds that can be seen
    target = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(5)) - 0.5
    loss = RestorationLoss(l1=1.0, cloud=1.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(70):
        optimiser.zero_grad()
        parts = loss(model(images, usable), target, usable)
        parts["loss"].backward()
        optimiser.step()
        history.append({k: float(v.detach()) for k, v in parts.items()})
    assert history[-1]["l1"] < 0.4 * history[0]["l1"]
    assert history[-1]["cloud"] < 0.5 * history[0]["cloud"]


def test_hidden_pixels_cannot_matter():
    images, usable = inputs()
    model = made(base="median", hide_unusable=True).eval()
    torch.nn.init.normal_(model.head.weight)
    out = model(images, usable)["image"]
    assert torch.equal(model(images.masked_fill(~usable[:, :, None], torch.nan), usable)["image"], out)
    assert not torch.equal(model(images + 0.1 * usable[:, :, None], usable)["image"], out)


def test_as_in_the_paper_the_clouds_are_seen_and_the_mask_is_not():
    images, usable = inputs()
    model = made().eval()
    assert torch.equal(model(images, usable)["image"], model(images)["image"])
    assert not torch.equal(model(images + (~usable)[:, :, None], usable)["image"], model(images, usable)["image"])
    assert model(images * 50)["image"].abs().max() <= 1


def test_with_a_base_it_starts_as_that_composite():
    images, usable = inputs()
    usable[:, 0] = True
    composite = MedianComposite(SIGNATURE)(images, usable)["image"]
    assert torch.equal(made(base="median").eval()(images, usable)["image"], composite)


def test_a_base_keeps_the_level_that_the_paper_s_network_loses():
    """The first instance normalisation takes level and contrast of a date away: stated in the docstring."""
    images, usable = inputs(64, 64)
    plain = made().eval()
    inner = slice(16, 48)
    torch.testing.assert_close(
        plain(2 * images)["image"][..., inner, inner], plain(images)["image"][..., inner, inner], rtol=0, atol=1e-3
    )
    based = made(base="mean").eval()
    usable[:] = True
    torch.testing.assert_close(based(2 * images, usable)["image"], 2 * based(images, usable)["image"])


def test_degenerate_input_is_finite():
    images, usable = inputs()
    for model in (made(), made(base="median", hide_unusable=True)):
        for x, u in ((torch.zeros_like(images), usable), (images, torch.zeros_like(usable)), (images * 0 + 3, usable)):
            out = model(x, u)
            assert all(v.isfinite().all() for v in out.values())
            sum(v.sum() for v in out.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="how many there are"):
        Pmaa(ImageSignature(4, 4, 0))
    with pytest.raises(ValueError, match="built for 2 dates and got 3"):
        made()(torch.zeros(1, 3, 4, 8, 8))
    with pytest.raises(ValueError, match="base 'best'"):
        made(base="best")
    with pytest.raises(TypeError):
        made(depth=3)
