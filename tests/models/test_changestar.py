from __future__ import annotations

import itertools

import netchecks
import pytest
import torch
import torch.nn.functional as F

from eoflow.models.changestar import HEADS, ChangeStar, joint_classes
from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.layers.drop import DropPath
from eoflow.models.layers.resnet import DenseEncoder

PAIR = ImageSignature(channels=4, outputs=1, dates=2)


def small(head="1xd", classes=3, signature=PAIR, **options):
    size = {"width": 8, "blocks": (1, 1), "features": 8, "d": 6, "drop_path": 0.0, "difference_blocks": 2}
    return ChangeStar(signature, head=head, classes=classes, **(size | options))


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    return request.param


def test_any_size(head):
    netchecks.check_any_size(small(head))


def test_samples_apart(head):
    netchecks.check_samples_apart(small(head))


def test_reload(head, tmp_path):
    netchecks.check_reload(lambda: small(head), tmp_path)


def test_alive(head):
    netchecks.check_alive(small(head), netchecks.draw(PAIR, (32, 32)))


def test_outputs(head):
    model = small(head)
    images = netchecks.draw(PAIR, (16, 24))
    out = netchecks.evaluate(model, images)
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "logits": (2, 1, 16, 24), "before": (2, 3, 16, 24), "after": (2, 3, 16, 24),
    }  # fmt: skip
    assert set(model.train()(images)) - set(out) == ({"logits_reversed"} if head == "changemixin" else set())
    assert set(netchecks.evaluate(small(head, classes=0), images)) == {"logits"}


def test_the_order_of_the_dates_only_swaps_the_classes(head):
    model = small(head)
    images = netchecks.draw(PAIR, (16, 24))
    there, back = netchecks.evaluate(model, images), netchecks.evaluate(model, images.flip(1))
    torch.testing.assert_close(there["logits"], back["logits"])
    torch.testing.assert_close(there["before"], back["after"])
    torch.testing.assert_close(there["after"], back["before"])


def test_the_changemixins_training_logits_are_of_both_orders():
    torch.manual_seed(0)
    model = small("changemixin").train()
    images = netchecks.draw(PAIR, (16, 16))
    model(images)
    for part in model.modules():  # the same statistics in both passes
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    there, back = model(images), model(images.flip(1))
    assert not torch.allclose(there["logits"], there["logits_reversed"])
    torch.testing.assert_close(there["logits_reversed"], back["logits"], rtol=1e-4, atol=1e-5)


def test_overfits_one_batch(head):
    images = netchecks.draw(PAIR, (32, 32))
    classes = torch.zeros(2, 2, 32, 32, dtype=torch.long)
    classes[0, 0, :16, :16] = 1
    classes[1, :, 16:, 8:24] = 2
    images += classes[:, :, None] * 2.0
    change = (classes[:, 0] != classes[:, 1]).float()[:, None]

    def loss(model):
        out = model(images)
        semantic = F.cross_entropy(out["before"], classes[:, 0]) + F.cross_entropy(out["after"], classes[:, 1])
        return semantic + F.binary_cross_entropy_with_logits(out["logits"], change)

    first, last = netchecks.overfit(small(head, width=16), loss, 60)
    assert last < first / 5


def test_nothing_outside_the_halo_matters_for_1xd():
    torch.manual_seed(0)
    model = small("1xd", blocks=(2, 1))
    for p in model.parameters():
        p.data = p.data.abs() if p.ndim > 1 else p.data
    for output in ("logits", "before"):
        reach = netchecks.reach(model, (192, 192), [(96, 96), (95, 95), (103, 88)], output)
        assert model.halo / 2 < reach <= model.halo


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_a_finer_stem_has_its_own_reach(stem_stride):
    torch.manual_seed(0)
    model = small("1xd", blocks=(1, 1), stem_stride=stem_stride, norm="layer")
    for p in model.parameters():
        p.data = p.data.abs() if p.ndim > 1 else p.data
    assert model.multiple == 2 * stem_stride
    netchecks.check_any_size(model)
    reach = netchecks.reach(model, (128, 128), [(64, 64), (63, 61)])
    assert model.halo / 2 < reach <= model.halo


def test_a_deeper_encoder_has_a_larger_halo():
    halos = [small(blocks=b).halo for b in ((1,), (1, 1), (2, 2), (2, 2, 2, 2))]
    assert halos == sorted(set(halos))
    assert [small(blocks=(1,) * n).multiple for n in (1, 2, 4)] == [4, 8, 32]


def test_unusable_values_do_not_matter(head):
    images = netchecks.draw(PAIR, (20, 20))
    usable = torch.ones(2, 2, 20, 20, dtype=torch.bool)
    usable[0, 1, 3:9, 4:12] = False
    other = images.clone()
    other[0, :, :, 3:9, 4:12] = float("nan")
    model = small(head)
    expected = netchecks.evaluate(model, images, usable)
    netchecks.assert_same(netchecks.evaluate(model, other, usable), expected, rtol=0, atol=0)


def _resnet18(bands):
    """Parameters of the published ResNet-18 without its classifier: 11,176,512 for three bands."""
    total = bands * 64 * 49 + 2 * 64
    for c_in, c in [(64, 64), (64, 128), (128, 256), (256, 512)]:
        total += 9 * c_in * c + 3 * 9 * c * c + 4 * 2 * c + (c_in * c + 2 * c if c_in != c else 0)
    return total


def test_parameters_are_those_of_the_papers_parts():
    assert _resnet18(3) == 11_176_512
    pyramid = sum(c * 256 + 256 for c in (64, 128, 256, 512)) + 9 * 256 * 256 + 256
    assert parameters(DenseEncoder(3)) == _resnet18(3) + pyramid
    one_by_96 = 9 * 512 * 96 + 2 * 96 + 97
    rgb = ImageSignature(channels=3, outputs=1, dates=2)
    assert parameters(ChangeStar(rgb)) == _resnet18(3) + pyramid + one_by_96 + 257
    assert parameters(ChangeStar(rgb, d=256)) - parameters(ChangeStar(rgb)) == 160 * (9 * 512 + 2 + 1)
    swap = 512 * 16 + 32 + 3 * (9 * 256 + 32)
    convnext = 49 * 16 + 16 + 32 + 16 * 64 + 64 + 64 * 16 + 16 + 16
    mixin = swap + 256 * 16 + 16 + 9 * convnext + 16 * 16 + 16 + 17
    assert parameters(ChangeStar(rgb, head="changemixin")) == _resnet18(3) + pyramid + mixin + 257


def test_multiply_adds_of_the_encoder_are_resnet_18s():
    """1.8 G multiply-adds at 224 x 224 in the published table; the pyramid is counted by hand."""
    places = [56 * 56, 28 * 28, 14 * 14, 7 * 7]
    pyramid = sum(c * 256 * p for c, p in zip((64, 128, 256, 512), places)) + 9 * 256 * 256 * places[0]
    counted = multiply_adds(DenseEncoder(3).eval(), torch.zeros(1, 3, 224, 224))
    assert counted - pyramid == pytest.approx(1.81e9, rel=0.02)


def test_joint_classes_are_the_likeliest_pair():
    generator = torch.Generator().manual_seed(3)
    before, after = (torch.rand(2, 3, 4, 5, generator=generator).softmax(1) for _ in range(2))
    change = torch.rand(2, 4, 5, generator=generator)
    first, second = joint_classes(before, after, change)
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        c = float(change[b, i, j])
        table = {
            (p, q): float(before[b, p, i, j] * after[b, q, i, j]) * (c if p != q else 1 - c)
            for p in range(3)
            for q in range(3)
        }
        assert (int(first[b, i, j]), int(second[b, i, j])) == max(table, key=table.get)
    never, _ = joint_classes(before, after, torch.zeros(2, 4, 5))
    assert torch.equal(*joint_classes(before, after, torch.zeros(2, 4, 5)))
    assert never.shape == (2, 4, 5)
    always = joint_classes(before, after, torch.ones(2, 4, 5))
    assert bool((always[0] != always[1]).all())


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    kept = out[:, 0, 0] != 0
    assert bool((out == out[:, :1, :1]).all())
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert float(out.mean()) == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(torch.ones(3, 2)), torch.ones(3, 2))
    with pytest.raises(ValueError, match="drop_path"):
        DropPath(1.0)


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="1xd, changemixin"):
        small("2xd")
    with pytest.raises(ValueError, match="two dates"):
        small(signature=ImageSignature(channels=4, outputs=1))
    with pytest.raises(ValueError, match="every stage"):
        small(blocks=(2, 0))
    with pytest.raises(ValueError, match="negative"):
        small(classes=-1)
