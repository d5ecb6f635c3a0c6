"""The large-kernel-attention network: any grid, no talk between samples, learns, saves, respects the sphere."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eoflow.models.base import rollout
from eoflow.models.puyun import PuYun

SMALL = {"width": 16, "layers": 2, "blocks": 1, "base": "persistence"}


def inputs(s, batch=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, s.frames, s.channels, s.height, s.width, generator=g),
        torch.rand(batch, s.frames + 1, 2, generator=g),
        torch.randn(s.static, s.height, s.width, generator=g),
    )


def awaken(model):
    """Give the zero-initialised parts some weight, as training would."""
    torch.manual_seed(1)
    for last in (model.head, model.season[2]):
        torch.nn.init.normal_(last.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("height", "width", "sphere"),
    [(6, 9, False), (17, 33, False), (1, 5, False), (32, 64, True), (9, 15, True), (5, 7, True)],
)
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_any_grid_and_patch(height, width, sphere, patch, signature):
    s = signature(height, width, channels=3, static=2, sphere=sphere)
    model = awaken(PuYun(s, patch=patch, **SMALL))
    out = model(*inputs(s))
    assert out.shape == (3, 3, height, width)
    assert out.isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_any_number_of_frames_in_a_rollout(frames, signature):
    s = signature(frames=frames)
    model = awaken(PuYun(s, **SMALL))
    x, _, static = inputs(s)
    assert rollout(model, x, torch.rand(3, frames + 5, 2), static, 5).shape == (3, 5, 2, 6, 9)


def test_an_untrained_network_is_persistence(signature):
    s = signature()
    x = inputs(s)
    assert torch.equal(PuYun(s, **SMALL)(*x), x[0][:, -1])


def test_samples_of_a_batch_do_not_see_each_other(signature):
    s = signature(8, 16, static=1, sphere=True)
    model = awaken(PuYun(s, **SMALL))
    frames, clock, static = inputs(s, batch=4)
    together = model(frames, clock, static)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], model(frames[i : i + 1], clock[i : i + 1], static))


def test_a_turned_sphere_gives_a_turned_forecast(signature):
    """Without the geometry inputs nothing in the network knows where longitude begins."""
    s = signature(8, 16, sphere=True)
    model = awaken(PuYun(s, **SMALL))
    model.geometry.zero_()
    frames, clock, static = inputs(s)
    torch.testing.assert_close(
        model(frames.roll(6, -1), clock, static), model(frames, clock, static).roll(6, -1), rtol=1e-4, atol=1e-5
    )


def test_season_matters(signature):
    s = signature()
    model = awaken(PuYun(s, **SMALL))
    frames, clock, static = inputs(s)
    assert not torch.allclose(model(frames, clock, static), model(frames, (clock + 0.5) % 1, static), atol=1e-3)


def test_overfits_one_batch(signature):
    torch.manual_seed(0)
    s = signature()
    model = PuYun(s, width=32, layers=1, blocks=2, patch=1, base="persistence")
    frames, clock, static = inputs(s, batch=4)
    target = frames[:, -1] + 0.5 * torch.randn(4, 2, 6, 9)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = None
    for _ in range(150):
        loss = (model(frames, clock, static) - target).square().mean()
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.02 * first


@pytest.mark.parametrize("base", ["persistence", "eof-ridge"])
def test_prepare_fits_scales_and_first_guess(base, signature, fit_data, clock_of):
    torch.manual_seed(0)
    s = signature()
    clock = clock_of(500)
    walk = torch.zeros(500, 2, 6, 9)
    for t in range(1, 500):  # red noise: increments have a known standard deviation
        walk[t] = 0.9 * walk[t - 1] + torch.randn(2, 6, 9) * torch.tensor([1.0, 0.2])[:, None, None]
    data = fit_data({"train": [(walk[:400], clock[:400])], "valid": [(walk[400:], clock[400:])]}, torch.ones(6))
    model = PuYun(s, base_options={"harmonics": 0}, **{**SMALL, "base": base})
    model.prepare(data)
    torch.testing.assert_close(model.tendency_scale, (walk[2:400] - walk[1:399]).square().mean((0, 2, 3)).sqrt())
    rows = torch.arange(300)[:, None] + torch.arange(3)
    out = model(walk[rows[:, :2]], clock[rows], torch.zeros(0, 6, 9)).detach()
    error = (out - walk[rows[:, 2]]).square().mean().sqrt()
    still = (walk[rows[:, 1]] - walk[rows[:, 2]]).square().mean().sqrt()
    assert error < still if base == "eof-ridge" else error == pytest.approx(float(still))


@pytest.mark.parametrize("base", ["persistence", "eof-ridge"])
def test_safetensors_hold_everything(base, signature, fit_data, clock_of, tmp_path):
    torch.manual_seed(0)
    s = signature(static=1)
    data = fit_data({"train": [(torch.randn(200, 2, 6, 9), clock_of(200))]}, torch.ones(6))
    model = PuYun(s, position=True, **{**SMALL, "base": base})
    model.prepare(data)
    awaken(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = PuYun(s, position=True, **{**SMALL, "base": base}).eval()
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = inputs(s)
    assert torch.equal(fresh(*x), model(*x))


def test_the_first_guess_is_not_trained(signature, fit_data, clock_of):
    s = signature()
    model = PuYun(s, **{**SMALL, "base": "eof-ridge"})
    model.prepare(fit_data({"train": [(torch.randn(200, 2, 6, 9), clock_of(200))]}, torch.ones(6)))
    assert not [n for n, _ in model.named_parameters() if n.startswith("base")]


def test_parameter_count(signature):
    """Counted by hand for width w, one block: embedding, season, block, norm, head."""
    w, s = 16, signature(channels=2)
    model = PuYun(s, width=w, layers=1, blocks=1, patch=1, base="persistence")
    embedding = (2 * 2 + 2) * w + w
    season = (12 * w + w) + (w * 2 * w + 2 * w)
    attention = (25 * w + w) + (49 * w + w) + 3 * (w * w + w) + 2 * w
    mlp = 2 * w + (w * 2 * w + 2 * w) + (2 * w * w + w)
    norm_and_head, scales = 2 * w + (w * 2 + 2), 2 * w
    want = embedding + season + attention + mlp + scales + norm_and_head
    assert sum(p.numel() for p in model.parameters()) == want


def test_unknown_options_are_refused(signature):
    with pytest.raises(TypeError):
        PuYun(signature(), widht=3)
    with pytest.raises(ValueError, match="persistence, eof-ridge"):
        PuYun(signature(), base="climatology")


def test_stochastic_depth_only_in_training(signature):
    s = signature()
    model = awaken(PuYun(s, drop_path=0.5, **SMALL))
    x = inputs(s)
    assert torch.equal(model(*x), model(*x))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(*x), model(*x))


def test_auto_follows_the_grid(signature):
    small, middle = PuYun(signature(), width=16), PuYun(signature(17, 33), width=16)
    sphere = PuYun(signature(32, 64, sphere=True, step_hours=6.0), width=16)
    assert (small.patch, middle.patch, sphere.patch) == (1, 2, 2)
    assert small.base is not None
    assert sphere.base is None
    assert PuYun(signature(121, 240, sphere=True), width=16).patch == 8


def test_settling_keeps_what_helps_and_drops_what_does_not():
    """Increments that are noise lose their scale; those that are half of the ridge's error keep theirs."""
    from eoflow.contract import SyntheticData, signature_for

    s = signature_for(6, 9, False, 2, channels=2, static=0)
    data = SyntheticData(s, steps=600)
    static = torch.zeros(0, 6, 9)
    noise = PuYun(s, width=16, layers=1, blocks=1, base="eof-ridge")
    random = torch.Generator().manual_seed(0)
    noise.increment = lambda frames, *_: torch.randn(frames[:, 0].shape, generator=random)
    with torch.no_grad():
        noise.prepare(data)
        before = noise.increment_scale.clone()
        noise.settle(data, static)
        assert (noise.increment_scale < 0.1 * before).all()
        kept = noise.increment_scale.clone()
        data.blocks, blocks = (lambda split: iter(())), data.blocks
        noise.settle(data, static)
        assert torch.equal(noise.increment_scale, kept)
        data.blocks = blocks

        helpful = PuYun(s, width=16, layers=1, blocks=1, base="eof-ridge")
        helpful.prepare(data)
        (states, clock), *_ = data.blocks("valid")
        truth = {bytes(c.numpy().tobytes()): x for c, x in zip(clock, states)}

        def half_the_error(frames, clocks, _):
            target = torch.stack([truth[bytes(c.numpy().tobytes())] for c in clocks[:, -1]])
            return 0.5 * (target - helpful.first_guess(frames, clocks)) / helpful.increment_scale[:, None, None]

        helpful.increment = half_the_error
        kept = helpful.increment_scale.clone()
        helpful.settle(data, static)
        assert torch.equal(helpful.increment_scale, kept)
