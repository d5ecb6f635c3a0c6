from __future__ import annotations

import numpy as np
import pytest
from cubes import make_cube

from eoflow.catalog_patches import PatchRecipe, SplitRecipe
from eoflow.prepare.scenes.run import prepare_patches
from eoflow.prepare.scenes.samples import Samples, days, groups, pass_over, target_normalizer

TIMES = np.datetime64("2024-01-01", "ns") + np.arange(4) * np.timedelta64(10, "D")


class Counted:
    def __init__(self, weights):
        self.weights = np.asarray(weights, np.float32)

    def __len__(self):
        return len(self.weights)

    def order(self, seed=0, epoch=0, shuffle=True):
        return np.random.default_rng([seed, epoch]).permutation(len(self))


def test_a_pass_holds_each_as_often_as_its_weight_asks():
    weights = np.array([4, 1, 1, 0.5, 0.5, 1])
    counts = np.zeros(6)
    for epoch in range(400):
        one = pass_over(Counted(weights), 1, epoch)
        assert len(one) == 6
        drawn = np.bincount(one, minlength=6)
        share = weights / weights.sum() * 6
        assert (drawn >= np.floor(share)).all()
        assert (drawn <= np.ceil(share)).all()
        counts += drawn
    np.testing.assert_allclose(counts / 400, weights / weights.sum() * 6, atol=0.1)
    np.testing.assert_array_equal(pass_over(Counted(weights), 1, 3), pass_over(Counted(weights), 1, 3))


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 0, 0], []])
def test_equal_weights_are_a_plain_pass(weights):
    assert sorted(pass_over(Counted(weights), 0, 0)) == list(range(len(weights)))


def test_a_prepared_set_is_one(workspace):
    values = np.random.default_rng(0).integers(1, 9000, (4, 190, 130)).astype("u2")
    make_cube(workspace, "s2", {"t": {"red": values, "nir": values}}, TIMES)
    recipe = PatchRecipe(bands=("nir", "red"), targets=("red",), patch=16, dates=2, pick="clear-target",
                         split=SplitRecipe(block=400, buffer=0))  # fmt: skip
    data = prepare_patches("s2", recipe, workspace=workspace).train
    assert isinstance(data, Samples)
    assert target_normalizer(data).channels == ("red",)
    assert target_normalizer(data).mean == data.normalizer.select(["red"]).mean
    times, when = days(data, [0, 5])
    about = data.describe(5)
    assert times.shape == (2, 2)
    assert when[1] == (np.datetime64(about["target"]) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    assert times[1].tolist() == [(np.datetime64(t) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
                                 for t in about["times"]]  # fmt: skip
    assert set(groups(data)) == {"t"}
