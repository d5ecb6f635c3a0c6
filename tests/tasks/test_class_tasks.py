from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eoflow import catalog
from eoflow.catalog_images import LossRef
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.contract_images import setting
from eoflow.errors import BadInput
from eoflow.models import losses
from eoflow.models.changestar import ChangeStar
from eoflow.models.unet import UNet
from eoflow.quality import Quality
from eoflow.tasks.images import CLASS_LOSSES, classify
from eoflow.tasks.segmentation import SegmentationTask


def made(name="unet", classes=(0, 1), **updates):
    recipe = catalog.recipe(name)
    labels = recipe.patches.labels.model_copy(update={"classes": tuple(classes)})
    names = recipe.classes if len(classes) == 2 else ()
    patches = recipe.patches.model_copy(update={"labels": labels})
    return setting(UNet, recipe.model_copy(update={"patches": patches, "classes": names, **updates}), "unet")


def checkpoint(one):
    return ImageCheckpoint(one.recipe, one.task.signature(one.recipe), one.schema, one.normalizer, None, None)


def one_hot(given, classes):
    """Logits (B, K, H, W) that say exactly `given`."""
    k = 1 if classes == 2 else classes
    if k == 1:
        return (given.float() * 2 - 1)[:, None] * 5
    return torch.nn.functional.one_hot(given, classes).movedim(-1, 1).float() * 9


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_the_reference(classes):
    one = made(classes=range(classes))
    sample = one.sample((20, 30), batch=4)
    sample.labels[0, 0, :5] = -1
    given = torch.randint(0, classes, (4, 20, 30), generator=torch.Generator().manual_seed(2))
    scored = one.task.score(checkpoint(one), {"logits": one_hot(given, classes)}, sample)
    keep = (sample.labels[:, 0] >= 0) & (sample.quality[:, 0] == int(Quality.CLEAR))
    truth, said = sample.labels[:, 0][keep].numpy(), given[keep].numpy()
    table = [[np.sum((truth == t) & (said == s)) for s in range(classes)] for t in range(classes)]
    np.testing.assert_array_equal(scored["confusion"].sum(0), table)
    rows = one.task.summary(checkpoint(one), scored)
    names = one.task.class_names(one.recipe)
    of = (
        [{int(i) for i in np.flatnonzero(truth == c)} for c in range(classes)],
        [{int(i) for i in np.flatnonzero(said == c)} for c in range(classes)],
    )
    references = {
        "iou": lambda t, s: len(t & s) / len(t | s), "f1": lambda t, s: 2 * len(t & s) / (len(t) + len(s)),
        "precision": lambda t, s: len(t & s) / len(s), "recall": lambda t, s: len(t & s) / len(t),
    }  # fmt: skip
    for metric, reference in references.items():
        expected = np.array([reference(t, s) for t, s in zip(*of, strict=True)])
        for c in range(1 if classes == 2 else 0, classes):
            assert rows[names[c], metric] == pytest.approx(expected[c])
        if classes > 2:
            assert rows["mean", metric] == pytest.approx(expected.mean())
    assert rows[names[1] if classes == 2 else "mean", "accuracy"] == pytest.approx((truth == said).mean())


def test_degenerate_labels_give_finite_scores_or_none():
    one = made()
    sample = one.sample((8, 8))
    nothing = sample._replace(labels=torch.full_like(sample.labels, -1))
    dry = sample._replace(labels=torch.zeros_like(sample.labels))
    land = {"logits": torch.full((2, 1, 8, 8), -3.0)}
    summary = one.task.summary(checkpoint(one), one.task.score(checkpoint(one), land, nothing))
    assert all(np.isnan(v) for v in summary.values())
    assert set(one.task.summary(checkpoint(one), one.task.score(checkpoint(one), land, dry)).values()) == {1.0}
    wet = {"logits": torch.full((2, 1, 8, 8), 3.0)}
    summary = one.task.summary(checkpoint(one), one.task.score(checkpoint(one), wet, dry))
    assert set(summary.values()) == {0.0}


def test_a_logit_of_zero_is_no_claim():
    given, chance = classify(torch.tensor([0.0, 1e-3, -1e-3]).reshape(1, 1, 1, 3))
    assert given.flatten().tolist() == [0, 1, 0]
    assert chance[0, 0, 0] == 0.5
    both, same = classify(torch.tensor([[1.0], [3.0]]).reshape(1, 2, 1, 1))
    assert (int(both), float(same)) == (1, pytest.approx(float(torch.sigmoid(torch.tensor(2.0)))))


def test_decode_says_nothing_where_nothing_was_seen():
    one = made()
    seen = np.ones((1, 2, 3), bool)
    seen[0, 0, 0] = False
    logits = np.array([[[9, 9, -9], [np.nan, 9, -9]]], np.float32)
    out = one.task.decode(checkpoint(one), {"logits": logits}, seen)
    assert out["class"].tolist() == [[[255, 1, 0], [255, 1, 0]]]
    assert out["class"].dtype == np.uint8
    assert np.isnan(out["probability"][0]).tolist() == [[True, False, False], [True, False, False]]
    first, second = one.task.layers(checkpoint(one))
    assert first.attrs["flag_meanings"] == "land water"
    assert (first.nodata, second.nodata, second.dtype) == (255, None, "float32")


def test_usable_classes_are_the_recipes():
    task = SegmentationTask((Quality.CLEAR,))
    sample = made().sample((4, 4))
    quality = torch.tensor([7, 6, 3, 1] * 8, dtype=torch.uint8).reshape(sample.quality.shape)
    assert task.feed(sample._replace(quality=quality))[1].flatten().tolist() == [True, False, False, False] * 8
    bad = sample.inputs.clone()
    bad[0, 0, 1, 0, 0] = torch.nan
    images, usable = task.feed(sample._replace(inputs=bad, quality=torch.full_like(quality, 7)))
    assert bool(images.isfinite().all())
    assert int((~usable).sum()) == 1


@pytest.mark.parametrize("name", sorted(CLASS_LOSSES))
def test_losses_ignore_what_has_no_label_or_was_not_seen(name):
    one = made(loss=LossRef(name=name))
    sample = one.sample((12, 12))
    logits = torch.randn(2, 1, 12, 12, requires_grad=True)
    one.task.loss(one.recipe, one.normalizer, {"logits": logits}, sample, 0.3).backward()
    unseen = sample.quality[:, 0] != int(Quality.CLEAR)
    assert bool(unseen.any())
    assert not bool(logits.grad[:, 0][unseen].any())
    assert bool(logits.grad[:, 0][~unseen].any())
    nothing = sample._replace(labels=torch.full_like(sample.labels, -1))
    assert one.task.loss(one.recipe, one.normalizer, {"logits": logits}, nothing, 0.3).item() == 0


def test_deep_heads_are_added_and_foreground_awareness_grows():
    one = made(loss=LossRef(name="cross-entropy"))
    sample = one.sample((12, 12))
    a, b = torch.randn(2, 2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    both = one.task.loss(one.recipe, one.normalizer, {"logits": a, "logits_1": b}, sample, 0.0)
    target = one.task.target(sample, one.task.feed(sample)[1])
    expected = sum(losses.cross_entropy(x, target, ignore_index=-1) for x in (a, b))
    assert float(both) == pytest.approx(float(expected))
    aware = made(loss=LossRef(name="foreground-aware"))
    grads = []
    for progress in (0.0, 1.0):
        x = a.clone().requires_grad_()
        aware.task.loss(aware.recipe, aware.normalizer, {"logits": x}, sample, progress).backward()
        grads.append(x.grad)
    assert not torch.allclose(*grads, rtol=1e-2)


def test_semantic_heads_learn_from_the_classes_of_both_dates():
    recipe = catalog.recipe("changestar")
    options = {"classes": 3, "width": 8, "features": 16, "d": 8}
    ref = recipe.network.model_copy(update={"options": options})
    one = setting(ChangeStar, recipe.model_copy(update={"network": ref}), "changestar")
    sample = one.sample((16, 16))
    model = one.model().train()
    rng = torch.Generator().manual_seed(0)
    ground = torch.randint(-1, 3, (2, 2, 16, 16), generator=rng)

    def learnt(sample):
        model.zero_grad()
        one.task.loss(one.recipe, one.normalizer, model(*one.task.feed(sample)), sample, 0.0).backward()
        return model.semantic.weight.grad is not None and bool(model.semantic.weight.grad.any())

    assert not learnt(sample)
    assert learnt(sample._replace(labels=torch.cat([sample.labels, ground], 1)))


def test_change_needs_two_dates():
    recipe = catalog.recipe("siamese-unet")
    three = recipe.patches.model_copy(update={"dates": 3, "pick": "consecutive"})
    with pytest.raises(BadInput, match="between two dates"):
        setting(UNet, recipe, "unet").task.signature(recipe.model_copy(update={"patches": three}))


@pytest.mark.parametrize("classes", [1, 3])
def test_a_semantic_change_says_from_what_to_what(classes):
    recipe = catalog.recipe("changestar")
    labels = recipe.patches.labels.model_copy(update={"ground": "cover"})
    if classes == 3:
        labels = labels.model_copy(update={"ground_classes": ("water", "forest", "town")})
    patches = recipe.patches.model_copy(update={"labels": labels})
    network = recipe.network.model_copy(update={"options": {**recipe.network.options, "classes": classes}})
    one = setting(ChangeStar, recipe.model_copy(update={"patches": patches, "network": network}), "changestar")
    found = ImageCheckpoint(one.recipe, one.task.signature(one.recipe), one.schema, one.normalizer, None, one.model())
    layers = {layer.name: layer for layer in one.task.layers(found)}
    assert list(layers) == ["class", "probability", "before", "after"]
    assert layers["after"].attrs["flag_meanings"] == ("other cover" if classes == 1 else "water forest town")
    assert layers["after"].attrs["flag_values"] == [0, 1] if classes == 1 else [0, 1, 2]

    wrong = labels.model_copy(update={"ground_classes": ("water",)})
    other = one.recipe.model_copy(update={"patches": patches.model_copy(update={"labels": wrong})})
    with pytest.raises(BadInput, match=f"1 names for the {max(2, classes)} classes"):
        one.task.layers(dataclasses.replace(found, recipe=other))

    count = max(2, classes)
    truth = torch.arange(count * count).reshape(count, count)  # every pair of classes has a pixel
    before, after = truth // count, truth % count
    outputs = {"before": one_hot(before[None], count)[0], "after": one_hot(after[None], count)[0],
               "logits": torch.where(before == after, -5.0, 5.0)[None]}  # fmt: skip
    usable = np.ones((2, count, count), bool)
    usable[1, 0, 1] = False
    got = one.task.decode(found, {k: v.numpy() for k, v in outputs.items()}, usable)
    for name, expected in (("before", before), ("after", after), ("class", (before != after).long())):
        value = expected.numpy().copy()
        value[0, 1] = 255
        np.testing.assert_array_equal(got[name][0], value)
        assert got[name].dtype == np.uint8
    plain = made_change_without_ground()
    assert [layer.name for layer in plain.task.layers(checkpoint(plain))] == ["class", "probability"]


def made_change_without_ground():
    return setting(ChangeStar, catalog.recipe("changestar"), "changestar")
