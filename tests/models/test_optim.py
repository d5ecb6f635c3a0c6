"""The optimiser against torch's own AdamW, its orthogonalisation, and its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from eoflow.models.optim import MuonAdamW, orthogonalised, parameter_groups
from eoflow.models.puyun import PuYun


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_singular_values_come_close_to_one(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -1.5, 8).repeat_interleave(u.shape[1] // 8)) @ v
    out = orthogonalised(matrix)
    values = torch.linalg.svdvals(out)
    assert values.max() < 1.3
    assert values.min() > 0.5
    torch.testing.assert_close(out @ matrix.T, matrix @ out.T, rtol=1e-4, atol=1e-5)  # same singular vectors


def test_without_muon_it_is_adamw():
    torch.manual_seed(0)
    mine, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    a = MuonAdamW([{"params": list(mine.parameters())}], lr=0.01, weight_decay=0.1)
    b = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))
    for i in range(20):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(i))
        for model, optimiser in ((mine, a), (theirs, b)):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_groups_cover_every_parameter_once_and_muon_only_hidden_matrices(signature):
    model = PuYun(signature(), width=16, layers=1, blocks=1, base="persistence")
    groups = parameter_groups(model, 0.1)
    seen = [id(p) for g in groups for p in g["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters())
    muon = {id(p) for p in groups[0]["params"]}
    assert len(muon) == 5  # two of attention's branch, its mixing, two of the MLP
    assert not muon & {id(model.embed.weight), id(model.head.weight)}
    assert all(p.ndim == 1 for p in groups[2]["params"])


def test_a_saved_state_goes_on_exactly(signature):
    torch.manual_seed(0)
    s = signature()
    model = PuYun(s, width=16, layers=1, blocks=1, base="persistence")
    frames, clock = torch.randn(2, 2, 2, 6, 9), torch.rand(2, 3, 2)

    def steps(net, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            (net(frames, clock, torch.zeros(0, 6, 9)) - 1).square().mean().backward()
            optimiser.step()

    optimiser = MuonAdamW(parameter_groups(model, 0.1), lr=1e-2)
    steps(model, optimiser, 3)
    other = copy.deepcopy(model)
    resumed = MuonAdamW(parameter_groups(other, 0.1), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(model, optimiser, 3)
    steps(other, resumed, 3)
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)
