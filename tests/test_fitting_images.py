from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.catalog_images import ImageTraining
from eoflow.contract_images import Setting, setting
from eoflow.errors import BadInput, Failure
from eoflow.fitting_images import ImageFitting, StepBatches, fit_images, freeze, learning_rate
from eoflow.models.siamese_unet import SiameseUNet
from eoflow.models.unet import UNet
from eoflow.prepare.scenes.augment import HookContext, augment_of
from eoflow.prepare.scenes.trainset import Patches


class Made:
    """Samples in memory, of a contract setting."""

    split, key = "train", "made"

    def __init__(self, made: Setting, count: int = 10, weights=None) -> None:
        self.all = made.sample((20, 24), batch=count)
        self.normalizer, self.recipe, self.schema = made.normalizer, made.recipe.patches, made.schema
        self.weights = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)

    def __len__(self):
        return len(self.all.number)

    def batch(self, indices):
        return Patches(*(x[torch.as_tensor(np.asarray(indices))] for x in self.all))

    def order(self, seed=0, epoch=0, shuffle=True):
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def describe(self, i):
        return {"tile": str(i)}


def made(network=UNet, **training):
    options = {"width": 4, "dropout": 0.2} if network is SiameseUNet else {"width": 4, "depth": 2, "dropout": 0.2}
    found = setting(network, None, f"{network.__module__}:{network.__name__}")
    keys = {"steps": 14, "batch_size": 4, "save_every": 4, "crop": 16, "seed": 3, "lr": 5e-3, **training}
    ref = found.recipe.network.model_copy(update={"options": options})
    recipe = found.recipe.model_copy(update={"training": ImageTraining(**keys), "network": ref})
    return Setting(recipe, found.schema, found.normalizer, found.task)


def run(one: Setting, folder, progress=None, data=None):
    data = data or Made(one)
    augment = augment_of(one.recipe, HookContext(data.normalizer.channels, data.normalizer))
    return fit_images(one.model(), one.task, one.recipe, data, augment, folder, progress)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_every_sample_once_a_pass_and_ranks_share_a_batch():
    one = made()
    steps = StepBatches(Made(one), None, one.recipe.training, 0, 5)
    seen = torch.cat([b.number for b in steps]).numpy()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])
    for step in range(5):
        shares = [StepBatches(Made(one), None, one.recipe.training, 0, 5, r, 2).batch(step).number for r in range(2)]
        assert sorted(torch.cat(shares).tolist()) == sorted(steps.batch(step).number.tolist())


def test_a_set_smaller_than_a_batch_fills_it_with_different_augmentations():
    one = made()
    data = Made(one, count=2)
    augment = augment_of(one.recipe, HookContext(data.normalizer.channels, data.normalizer))
    batch = StepBatches(data, augment, one.recipe.training, 0, 1).batch(0)
    assert sorted(batch.number.tolist()) == [0, 0, 1, 1]
    twice = [batch.inputs[i] for i in range(4) if batch.number[i] == 0]
    assert not torch.equal(*twice)


def test_weights_draw_a_sample_as_often_as_they_say():
    one = made(batch_size=10)
    data = Made(one, weights=[5, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    steps = StepBatches(data, None, one.recipe.training, 0, 20)
    counts = np.bincount(torch.cat([b.number for b in steps]).numpy(), minlength=10)
    np.testing.assert_allclose(counts / 20, [5, 1, 1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("network", [UNet, SiameseUNet])
@pytest.mark.parametrize("stop_at", [3, 8, 13])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, network, stop_at):
    class Stop(Exception):
        pass

    def die(done, total, text):
        if done == stop_at:
            raise Stop

    one = made(network)
    whole = run(one, tmp_path / "whole")
    with pytest.raises(Stop):
        run(one, tmp_path / "cut", die)
    assert (tmp_path / "cut" / "last.ckpt").exists() == (stop_at > 4)
    again = run(one, tmp_path / "cut")
    assert same(whole, again)
    assert not same(whole, run(made(network, seed=4), tmp_path / "other"))


def test_it_learns(tmp_path):
    one = made(steps=80, save_every=80, crop=None, lr=3e-2, ema=0.9)
    data = Made(one)
    fitted = run(one, tmp_path, data=data)
    batch = data.batch(range(10))

    def loss(model):
        with torch.no_grad():
            return float(one.task.loss(one.recipe, one.normalizer, model(*one.task.feed(batch)), batch, 1.0))

    assert loss(fitted) < 0.7 * loss(one.model().eval())
    assert not fitted.training


def test_frozen_parts_keep_weights_and_statistics(tmp_path):
    one = made(SiameseUNet, freeze=("encoder.",))
    before, after = one.model().state_dict(), run(one, tmp_path).state_dict()
    frozen = [k for k in before if k.startswith("encoder.")]
    assert frozen
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    assert not all(torch.equal(before[k], after[k]) for k in before if k not in frozen)


def test_kept_statistics_stay_while_weights_learn(tmp_path):
    one = made(SiameseUNet, keep_statistics=True)
    before, after = one.model().state_dict(), run(one, tmp_path).state_dict()
    statistics = [k for k in before if "running_" in k]
    assert statistics
    assert all(torch.equal(before[k], after[k]) for k in statistics)
    assert not torch.equal(before["encoder.0.0.weight"], after["encoder.0.0.weight"])


def test_bfloat16_is_a_rounding_of_the_same_training(tmp_path):
    one, coarse = made(), made(precision="bfloat16")
    exact, rounded = run(one, tmp_path / "exact"), run(coarse, tmp_path / "rounded")
    assert not same(exact, rounded)
    assert same(rounded, run(coarse, tmp_path / "again"))
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in rounded.parameters())
    batch = Made(one).batch(range(10))
    with torch.no_grad():
        a, b, new = (m.eval()(*one.task.feed(batch))["logits"] for m in (exact, rounded, one.model()))
    assert float((a - b).abs().mean()) < 0.3 * float((a - new).abs().mean())


def test_what_cannot_be_frozen_is_said():
    model = made().model()
    with pytest.raises(BadInput, match=r"'encodr\.'.*did you mean 'encoder\.'"):
        freeze(model, ("encodr.",))
    with pytest.raises(BadInput, match="every parameter"):
        freeze(model, ("",))


def test_learning_rate():
    training = ImageTraining(steps=100, warmup=0.1, lr=1.0)
    rates = [learning_rate(training, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2, abs=1e-6)
    assert rates[-1] < 0.012


def test_a_diverging_loss_is_a_failure(tmp_path):
    one = made()
    data = Made(one)
    data.all.inputs[:] = 1e30
    data.all.quality[:] = 7
    with pytest.raises(Failure, match="training loss"):
        run(one, tmp_path, data=data)


def test_progress_of_the_loss_runs_from_0_to_1():
    one = made()
    seen = []
    one.task.loss = lambda recipe, normalizer, outputs, sample, progress: seen.append(progress) or torch.zeros(())
    fitting = ImageFitting(one.model(), one.task, one.recipe, one.normalizer)
    batch = Made(one).batch(range(2))
    fitting.training_step(batch, 0)
    assert seen == [0.0]


def test_a_crop_too_large_is_said(tmp_path):
    with pytest.raises(BadInput, match="does not fit"):
        run(made(crop=40), tmp_path)
