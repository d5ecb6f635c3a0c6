from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.catalog import Training
from eoflow.contract import SyntheticData, signature_for
from eoflow.errors import Failure
from eoflow.fitting import Averaged, Plan, SegmentBatches, fit
from eoflow.models.puyun import PuYun
from eoflow.tasks.forecast import ForecastLoss


class Windows:
    """The TrainSet interface over a synthetic series."""

    path = "memory"

    def __init__(self, data: SyntheticData) -> None:
        self.data = data

    def windows(self, length: int) -> int:
        return len(self.data.states) - length + 1

    def batch(self, indices, length):
        rows = torch.as_tensor(np.asarray(indices))[:, None] + torch.arange(length)
        return self.data.states[rows], self.data.clock[rows]


@pytest.fixture
def setting():
    signature = signature_for(6, 8, False, 2)
    data = SyntheticData(signature, steps=200)

    def model():
        torch.manual_seed(0)
        net = PuYun(signature, width=8, layers=1, blocks=1, patch=1, dropout=0.1, drop_path=0.1)
        net.prepare(data)
        return net

    loss = ForecastLoss(data.area_weights, torch.ones(2), torch.ones(2), "mse")
    training = Training(epochs=2, batch_size=16, lr=1e-2, seed=3, rollout=({"epochs": 1, "steps": 2, "lr": 1e-3},))
    plan = Plan.of(training, 198, 1.0)
    plan = Plan(plan.phases, plan.batch_size, plan.seed, segment=8)
    return model, loss, torch.zeros(1, 6, 8), Windows(data), plan, training


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_plan():
    training = Training(epochs=2, batch_size=10, lr=1.0, warmup=0.5, rollout=({"epochs": 1, "steps": 3, "lr": 0.1},))
    plan = Plan.of(training, 100, 5)
    assert plan.total == 30
    assert [plan.at(s)[1].rollout for s in (0, 19, 20, 29)] == [1, 1, 3, 3]
    assert plan.lr(0) == pytest.approx(0.1)
    assert plan.lr(9) == pytest.approx(1.0)
    assert plan.lr(20) == pytest.approx(0.1)
    assert 0.005 < plan.lr(29) < 0.01


def test_every_sample_once_an_epoch_and_ranks_share_a_batch(setting):
    *_, data, plan, _ = setting
    seen = []
    data.batch = lambda i, n: seen.append(np.asarray(i)) or (torch.zeros(1), torch.zeros(1))
    for segment in range(plan.segments):
        list(SegmentBatches(data, 2, plan, segment))
    per_epoch = 198 // 16
    first = np.concatenate(seen[:per_epoch])
    assert len(set(first.tolist())) == len(first)
    both = []
    data.batch = lambda i, n: both.append(np.asarray(i)) or (torch.zeros(1), torch.zeros(1))
    for rank in range(2):
        list(SegmentBatches(data, 2, plan, 0, rank, 2))
    np.testing.assert_array_equal(np.sort(np.concatenate([both[0], both[8]])), np.sort(seen[0]))


def test_same_seed_same_weights_and_it_learns(setting, tmp_path):
    make, loss, static, data, plan, training = setting
    one = fit(make(), loss, static, data, plan, training, tmp_path / "a")
    two = fit(make(), loss, static, data, plan, training, tmp_path / "b")
    assert _same(one, two)
    states, clock = data.batch(np.arange(100), 3)
    with torch.no_grad():
        trained = loss(one(states[:, :2], clock, static)[:, None], states[:, 2:])
        untrained = loss(make().eval()(states[:, :2], clock, static)[:, None], states[:, 2:])
    noise = 0.4**2  # of the series: what no model can predict
    assert trained - noise < 0.5 * (untrained - noise)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 8, 9, 20, 30])
def test_an_interrupted_run_ends_with_the_same_weights(setting, tmp_path, stop_at):
    make, loss, static, data, plan, training = setting
    whole = fit(make(), loss, static, data, plan, training, tmp_path / "whole")

    def die(done, total, text):
        if done == stop_at:
            raise _Stop

    with pytest.raises(_Stop):
        fit(make(), loss, static, data, plan, training, tmp_path / "cut", die)
    again = fit(make(), loss, static, data, plan, training, tmp_path / "cut")
    assert _same(whole, again)


def test_a_diverging_loss_is_a_failure_that_says_so(setting, tmp_path):
    make, loss, static, data, plan, training = setting
    data.data.states[50] = torch.inf
    with pytest.raises(Failure, match="training loss"):
        fit(make(), loss, static, data, plan, training, tmp_path)


def test_averaging_leaves_buffers_alone():
    net = torch.nn.BatchNorm1d(3)
    averaged = Averaged(net, 0.9)
    with torch.no_grad():
        net.weight += 1
        net.running_mean += 5
    averaged.update(net, 10_000)
    torch.testing.assert_close(averaged.shadow["weight"], torch.full((3,), 1.1))
    assert "running_mean" not in averaged.shadow
    assert torch.equal(averaged.model(net).running_mean, net.running_mean)
