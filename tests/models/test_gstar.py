from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.models.gstar import changed, g_star, partners


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count=4, size=(6, 6), classes=3):
    """Images whose first band is 10 * their number plus their label, so that every pixel says where it is from."""
    labels = torch.randint(0, classes, (count, *size), generator=seeded(5))
    images = torch.stack([labels + 10.0 * torch.arange(count)[:, None, None], torch.rand(count, *size)], dim=1)
    return images, labels


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_everybody_gets_another_one_and_nobody_is_left_out(count, seed):
    partner = partners(count, seeded(seed))
    assert sorted(partner.tolist()) == list(range(count))
    assert bool((partner != torch.arange(count)).all())


def test_self_contrast_has_the_probability_asked_for():
    own = torch.cat([partners(8, seeded(s), shuffled=0.3) == torch.arange(8) for s in range(300)])
    assert float(own.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert torch.equal(partners(1, seeded()), torch.tensor([0]))
    with pytest.raises(ValueError, match="probability"):
        partners(3, shuffled=1.5)


def test_binary_change_is_exclusive_or():
    a = torch.tensor([0, 0, 1, 1, 255, 1, 255])
    b = torch.tensor([0, 1, 0, 1, 0, 255, 255])
    assert changed(a, b).tolist() == [0, 1, 1, 0, 255, 255, 255]
    known = (a != 255) & (b != 255)
    assert torch.equal(changed(a, b)[known], torch.logical_xor(a.bool(), b.bool())[known].long())


@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
@pytest.mark.parametrize("turn", [True, False])
def test_images_and_labels_move_together(size, turn):
    images, labels = batch(size=size)
    seen = torch.zeros(3, dtype=torch.long)
    for seed in range(12):
        pairs = g_star(images, labels, seeded(seed), turn=turn, shuffled=0.6)
        assert pairs.images.shape == (4, 2, 2, *size)
        assert torch.equal(pairs.images[:, 0], images)
        assert torch.equal(pairs.before, labels)
        assert torch.equal(pairs.images[:, 1, 0], pairs.after + 10.0 * pairs.partner[:, None, None])
        assert torch.equal(pairs.change, (pairs.before != pairs.after).long())
        own = pairs.partner == torch.arange(4)
        assert torch.equal(pairs.after[own], labels[own])  # the same place stays where it is
        assert not bool(pairs.change[own].any())
        moved = (pairs.after != labels[pairs.partner]).flatten(1).any(1)
        seen += torch.stack([own.sum(), moved.sum(), (~own & ~moved).sum()])
    assert bool(seen[0] > 0)
    assert bool(seen[1] > 0) == turn


def test_all_eight_turns_occur():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(2, 1, 3, 3)
    labels = torch.zeros(2, 3, 3, dtype=torch.long)
    found = {tuple(g_star(image, labels, seeded(s)).images[0, 1, 0].flatten().tolist()) for s in range(80)}
    assert len(found) == 8


def test_second_view_and_what_is_not_usable():
    images, labels = batch()
    usable = torch.ones(4, 6, 6, dtype=torch.bool)
    usable[1, 2, 3] = False
    labels[2, 0, 0] = 255
    pairs = g_star(images, labels, seeded(3), second_view=images + 0.25, usable=usable, turn=False)
    assert torch.equal(pairs.images[:, 1], (images + 0.25)[pairs.partner])
    assert torch.equal(pairs.usable, torch.stack([usable, usable[pairs.partner]], dim=1))
    unknown = ~pairs.usable.all(1) | (pairs.before == 255) | (pairs.after == 255)
    assert int(unknown.sum()) == 4
    assert torch.equal(pairs.change == 255, unknown)


def test_the_generator_decides_everything():
    images, labels = batch()
    a, b, c = (g_star(images, labels, seeded(s), shuffled=0.5) for s in (7, 7, 8))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.change, b.change)
    assert not torch.equal(a.images, c.images)


def test_wrong_shapes_are_refused():
    images, labels = batch()
    with pytest.raises(ValueError, match="labels"):
        g_star(images, labels[:, :-1])
    with pytest.raises(ValueError, match="second_view"):
        g_star(images, labels, second_view=images[:, :1])
