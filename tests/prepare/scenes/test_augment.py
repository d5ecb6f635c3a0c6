from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow import catalog
from eoflow.catalog_images import AugmentRef
from eoflow.contract_images import setting
from eoflow.errors import BadInput
from eoflow.models.unet import UNet
from eoflow.prepare.scenes.augment import HOOKS, HookContext, augment_of, crop, dihedral
from eoflow.prepare.scenes.trainset import Patches

MADE = setting(UNet, catalog.recipe("unet"), "unet")
CONTEXT = HookContext(MADE.normalizer.channels, MADE.normalizer)


def one(size=(20, 24)):
    return Patches(*(x[0] for x in MADE.sample(size)))


def with_(refs, crop_=None):
    training = MADE.recipe.training.model_copy(update={"crop": crop_})
    return MADE.recipe.model_copy(update={"augment": refs, "training": training})


def test_a_crop_is_the_same_window_of_everything():
    sample = one()
    at = torch.arange(20 * 24).reshape(20, 24)
    marked = sample._replace(inputs=at.expand(1, 2, 20, 24).float(), labels=at[None], target_quality=at)
    hook = crop(CONTEXT, size=8)
    corners = set()
    for seed in range(200):
        out = hook(marked, np.random.default_rng(seed))
        assert out.labels.shape == (1, 8, 8)
        assert torch.equal(out.inputs[0, 0].long(), out.labels[0])
        assert torch.equal(out.target_quality, out.labels[0])
        corners.add(divmod(int(out.labels[0, 0, 0]), 24))
    assert {r for r, _ in corners} == set(range(13))
    assert {c for _, c in corners} == set(range(17))


def test_a_crop_finds_what_is_rare():
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[0, 63, 0] = 1
    sample = one((64, 64))._replace(labels=labels)
    hit = [bool((crop(CONTEXT, size=8, labelled=share)(sample, np.random.default_rng(s)).labels == 1).any())
           for share in (0.0, 1.0) for s in range(40)]  # fmt: skip
    assert sum(hit[:40]) < 5
    assert all(hit[40:])


def test_a_rectangle_keeps_its_shape_when_it_is_turned():
    seen = {tuple(dihedral(one(), np.random.default_rng(s)).inputs.flatten()[:3].tolist()) for s in range(60)}
    assert len(seen) == 4
    assert all(dihedral(one(), np.random.default_rng(s)).quality.shape == (1, 20, 24) for s in range(8))


def test_hooks_of_a_recipe_come_in_order_after_the_crop():
    refs = AugmentRef(name="dihedral"), AugmentRef(name=f"{__name__}:doubled", options={"by": 3.0})
    made = augment_of(with_(refs, 8), CONTEXT)
    batch = MADE.sample((20, 24))
    out = made.batch(batch, 0, 0)
    assert out.inputs.shape == (2, 1, 2, 8, 8)
    again = made.batch(Patches(*(x[1:] for x in batch)), 0, 0)
    assert torch.equal(again.inputs[0], out.inputs[1])  # a function of (seed, epoch, sample), not of the batch
    assert not torch.equal(made.batch(batch, 0, 1).inputs, out.inputs)
    plain = augment_of(with_((AugmentRef(name="dihedral"),), 8), CONTEXT)
    torch.testing.assert_close(out.inputs, plain.batch(batch, 0, 0).inputs * 3)
    assert augment_of(with_(()), CONTEXT) is None


def doubled(context, by):
    assert context.channels == ("vv", "vh")
    return lambda sample, rng: sample._replace(inputs=sample.inputs * by)


def test_unknown_hooks_and_options():
    with pytest.raises(BadInput, match="did you mean 'dihedral'"):
        augment_of(with_((AugmentRef(name="dihedrel"),)), CONTEXT)
    with pytest.raises(BadInput, match="cannot be used"):
        augment_of(with_((AugmentRef(name="crop", options={"sise": 3}),)), CONTEXT)


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_registered_hook_can_be_loaded(name):
    import importlib

    module, _, factory = HOOKS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), factory))
