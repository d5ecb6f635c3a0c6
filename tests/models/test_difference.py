from __future__ import annotations

import netchecks
import numpy as np
import pytest
import torch

from eoflow.models.difference import ChangeVector, ImageDifference, direction_cosines
from eoflow.models.images import ImageSignature
from eoflow.models.layers.otsu import MAX_LOGIT, otsu

PAIR = ImageSignature(channels=3, outputs=1, dates=2)
KINDS = [ImageDifference, ChangeVector]


def scene(seed=0, size=40, shift=(4.0, 0.0, -3.0)):
    """A pair with noise and a changed rectangle, and where it is."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(1, 3, size, size, generator=generator)
    after = before + 0.2 * torch.randn(1, 3, size, size, generator=generator)
    truth = torch.zeros(size, size, dtype=torch.bool)
    truth[5:15, 10:30] = True
    after[0, :, truth] += torch.tensor(shift)[:, None]
    return torch.stack([before, after], dim=1), truth


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_and_samples_apart(kind):
    netchecks.check_any_size(kind(PAIR))
    netchecks.check_samples_apart(kind(PAIR))


def test_scores_are_their_formulas():
    images, _ = scene()
    d = (images[0, 1] - images[0, 0]).numpy()
    assert np.allclose(ImageDifference(PAIR)(images)["score"][0], np.abs(d).mean(0), atol=1e-6)
    out = ChangeVector(PAIR)(images)
    length = np.sqrt((d**2).sum(0))
    assert np.allclose(out["score"][0], length, atol=1e-6)
    assert np.allclose(out["direction"][0], d / length, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_change_is_found_at_otsus_threshold(kind):
    images, truth = scene()
    out = kind(PAIR)(images)
    assert torch.equal(out["logits"][0, 0] > 0, truth)
    assert torch.equal(out["logits"][0, 0] > 0, out["score"][0].double() > otsu(out["score"]).threshold)


def test_directions_tell_kinds_of_change_apart():
    images, truth = scene()
    images[0, 1, :, 30:36, 5:20] += torch.tensor([-4.0, 0.0, 3.0])[:, None, None]  # the opposite change
    direction = ChangeVector(PAIR)(images)["direction"][0]
    one = direction[:, truth].mean(1)
    assert torch.allclose(one, torch.tensor([0.8, 0.0, -0.6]), atol=0.03)
    assert torch.allclose(direction[:, 30:36, 5:20].mean((1, 2)), -torch.tensor([0.8, 0.0, -0.6]), atol=0.05)
    assert not bool(direction_cosines(torch.zeros(1, 3, 2, 2)).any())


@pytest.mark.parametrize("kind", KINDS)
def test_identical_dates_are_no_change(kind):
    same = netchecks.draw(PAIR, (9, 9))[:, :1].expand(-1, 2, -1, -1, -1)
    for out in (kind(PAIR)(same), kind(PAIR, centred=True)(same)):
        assert bool((out["logits"] == -MAX_LOGIT).all())


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_values_do_not_matter_and_show_no_change(kind):
    images, _ = scene()
    usable = torch.ones(1, 2, 40, 40, dtype=torch.bool)
    usable[0, 0, 20:30, 3:17] = False
    other = images.clone()
    other[0, :, :, 20:30, 3:17] = float("nan")
    other[0, 1, :, 20:25, 3:17] = 1e9
    for centred in (False, True):
        model = kind(PAIR, centred=centred)
        expected = model(images, usable)
        netchecks.assert_same(model(other, usable), expected, rtol=0, atol=0)
        assert bool((expected["logits"][0, 0, 20:30, 3:17] < 0).all())
    nothing = kind(PAIR, centred=True)(other, torch.zeros_like(usable))
    assert all(bool(x.isfinite().all()) for x in nothing.values())
    assert bool((nothing["logits"] < 0).all())


def test_centring_takes_off_a_gain_of_the_whole_image():
    images, truth = scene()
    plain = images.clone()
    images[:, 1] += torch.tensor([30.0, -20.0, 10.0])[:, None, None]
    assert torch.equal(ImageDifference(PAIR, centred=True)(images)["logits"][0, 0] > 0, truth)
    centred = [ChangeVector(PAIR, centred=True)(x)["score"] for x in (images, plain)]
    assert torch.allclose(*centred, atol=1e-4)


def test_a_fixed_threshold_and_a_scenes_split():
    images, _ = scene()
    score = ImageDifference(PAIR)(images)["score"]
    fixed = ImageDifference(PAIR, threshold=0.3)(images)["logits"][:, 0]
    assert torch.equal(fixed > 0, score > 0.3)
    whole = ImageDifference(PAIR)(images)["logits"]
    model = ImageDifference(PAIR).with_split(otsu(score))
    windows = [model(x)["logits"] for x in images.split(13, dim=-1)]
    assert torch.equal(torch.cat(windows, dim=-1), whole)  # no seams between windows under one threshold
    assert model.with_split(None).split is None


def test_two_outputs_are_the_same_probability():
    images, _ = scene()
    two = ImageDifference(ImageSignature(channels=3, outputs=2, dates=2))(images)["logits"]
    one = ImageDifference(PAIR)(images)["logits"]
    assert torch.allclose(two.softmax(1)[:, 1:], one.sigmoid())


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="positive"):
        ImageDifference(PAIR, threshold=0.0)
    with pytest.raises(ValueError, match="softmax"):
        ImageDifference(ImageSignature(channels=3, outputs=5, dates=2))(scene()[0])
