from __future__ import annotations

import netchecks
import pytest
import torch
import torch.nn.functional as F

from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.siamese_unet import MODES, SiameseUNet

PAIR = ImageSignature(channels=4, outputs=1, dates=2)


def small(mode="diff", signature=PAIR):
    return SiameseUNet(signature, mode=mode, width=4, dropout=0.0)


@pytest.fixture(params=MODES)
def mode(request):
    torch.manual_seed(0)
    return request.param


@pytest.mark.parametrize(("kind", "millions"), [("diff", 1.35), ("conc", 1.55)])
def test_parameters_are_the_papers(kind, millions):
    rgb = SiameseUNet(ImageSignature(channels=3, outputs=2, dates=2), mode=kind)
    assert parameters(rgb) == pytest.approx(millions * 1e6, rel=0.005)


def _published_multiply_adds(size, bands, classes, mode):
    """Counted layer by layer from the paper's figure: kernel area x channels in x channels out x places."""
    encoder = [
        [(bands, 16), (16, 16)],
        [(16, 32), (32, 32)],
        [(32, 64), (64, 64), (64, 64)],
        [(64, 128), (128, 128), (128, 128)],
    ]
    k = 1 if mode == "diff" else 2
    decoder = [
        [(16 + k * 16, 16), (16, classes)],
        [(32 + k * 32, 32), (32, 16)],
        [(64 + k * 64, 64), (64, 64), (64, 32)],
        [(128 + k * 128, 128), (128, 128), (128, 64)],
    ]
    ups = [16, 32, 64, 128]
    places = [(size // 2**i) ** 2 for i in range(5)]
    conv = sum(9 * a * b * p for stage, p in zip(encoder, places) for a, b in stage) * 2
    conv += sum(9 * a * b * p for stage, p in zip(decoder, places) for a, b in stage)
    return conv + sum(9 * c * c * places[i + 1] for i, c in enumerate(ups))


@pytest.mark.parametrize("kind", MODES)
def test_multiply_adds_are_those_of_the_papers_layers(kind):
    model = SiameseUNet(ImageSignature(channels=3, outputs=2, dates=2), mode=kind).eval()
    counted = multiply_adds(model, torch.zeros(1, 2, 3, 96, 96))
    assert counted == pytest.approx(_published_multiply_adds(96, 3, 2, kind), rel=0.02)


def test_any_size(mode):
    netchecks.check_any_size(small(mode))


def test_samples_apart(mode):
    netchecks.check_samples_apart(small(mode))


def test_reload(mode, tmp_path):
    netchecks.check_reload(lambda: small(mode), tmp_path)


def test_alive(mode):
    netchecks.check_alive(small(mode), netchecks.draw(PAIR, (32, 32)))


def test_overfits_one_batch(mode):
    images = netchecks.draw(PAIR, (32, 32))
    target = torch.zeros(2, 1, 32, 32)
    target[0, :, 4:20, 8:24] = 1
    images[0, 1, :, 4:20, 8:24] += 2
    first, last = netchecks.overfit(
        small(mode), lambda m: F.binary_cross_entropy_with_logits(m(images)["logits"], target), 40
    )
    assert last < first / 5


def test_nothing_outside_the_halo_matters(mode):
    model = small(mode)
    for p in model.parameters():  # positive everywhere: nothing dies on its way, so the reach is the largest there is
        p.data = p.data.abs() if p.ndim > 1 else p.data
    pixels = [(160, 160), (159, 159), (144, 175)]
    assert model.halo / 2 < netchecks.reach(model, (320, 320), pixels) <= model.halo


def test_only_the_difference_skips_forget_the_order_of_the_dates(mode):
    """With the way through the coarsest stage shut, |a - b| is all the decoder sees."""
    model, images = small(mode), netchecks.draw(PAIR, (16, 16)) * 20
    torch.nn.init.zeros_(model.up[0].weight)
    there, back = (netchecks.evaluate(model, x)["logits"] for x in (images, images.flip(1)))
    assert torch.allclose(there, back, atol=1e-6) == (mode == "diff")


def test_unusable_values_do_not_matter(mode):
    torch.manual_seed(0)
    images = netchecks.draw(PAIR, (20, 20))
    usable = torch.ones(2, 2, 20, 20, dtype=torch.bool)
    usable[0, 1, 3:9, 4:12] = False
    other = images.clone()
    other[0, :, :, 3:9, 4:12] = float("nan")  # both dates: what is hidden on one is not compared
    model = small(mode)
    expected = netchecks.evaluate(model, images, usable)
    netchecks.assert_same(netchecks.evaluate(model, other, usable), expected, rtol=0, atol=0)
    assert not torch.equal(netchecks.evaluate(model, images)["logits"], expected["logits"])


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="diff, conc"):
        SiameseUNet(PAIR, mode="sum")
    with pytest.raises(ValueError, match="two dates"):
        SiameseUNet(ImageSignature(channels=4, outputs=1, dates=3))
    with pytest.raises(ValueError, match="before and after"):
        small()(torch.zeros(1, 3, 4, 16, 16))
    with pytest.raises(TypeError):
        SiameseUNet(PAIR, depth=3)


def test_in_training_the_same_channels_are_dropped_on_both_dates(mode):
    """Two equal dates are equal all the way down; dropped apart they would differ by what was dropped."""
    net = SiameseUNet(PAIR, mode=mode, width=4, dropout=0.5).train()
    x = torch.randn(3, 4, 32, 32)
    pairs, _ = net._encode(x, x)
    for before, after in pairs:
        assert torch.equal(before, after)
        gone = (before == 0).all(dim=(2, 3))
        assert gone.any()
        assert not gone.all()
