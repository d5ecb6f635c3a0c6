from __future__ import annotations

import netchecks
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from eoflow.models.images import ImageSignature
from eoflow.models.irmad import IrMad, ir_mad

PAIR = ImageSignature(channels=3, outputs=1, dates=2)


def dates(pixels=4000, bands=3, changed=400, seed=0, noise=0.3):
    """Correlated bands on two dates, (N, C) each, the first `changed` pixels being drawn anew on the second."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(pixels, bands)) @ rng.normal(size=(bands, bands))
    y = x @ rng.normal(size=(bands, bands)) + noise * rng.normal(size=(pixels, bands))
    y[:changed] += rng.normal(size=(changed, bands)) * 6 + 4
    return x, y


def reference(x, y, rounds, consistent):
    """The published iteration by generalised eigenvalue problems: variates, correlations, chi-square, weights."""
    kept = 1.0
    if consistent:  # by numerical integration: E[w z^2] / E[w] of one of n standard normal variates
        w, z2 = scipy.stats.chi2(x.shape[1]), x.shape[1]
        kept = 2 * w.expect(lambda r: w.sf(r) * r / z2)
    w = np.ones(len(x))
    for round_ in range(rounds):
        s = np.cov(np.hstack([x, y]).T, aweights=w, ddof=0)
        n = x.shape[1]
        s11, s22, s12 = s[:n, :n], s[n:, n:], s[:n, n:]
        value, a = scipy.linalg.eigh(s12 @ np.linalg.solve(s22, s12.T), s11)  # ascending squared correlations
        b = np.linalg.solve(s22, s12.T @ a) / np.sqrt(value)
        rho = np.sqrt(value)
        u, v = (x - np.average(x, axis=0, weights=w)) @ a, (y - np.average(y, axis=0, weights=w)) @ b
        chi2 = ((u - v) ** 2 / (2 * (1 - rho) / (kept if round_ else 1))).sum(1)
        w = scipy.stats.chi2.sf(chi2, n)
    return u - v, rho, chi2, w


@pytest.mark.parametrize("rounds", [1, 2, 6])
@pytest.mark.parametrize("consistent", [True, False])
def test_agrees_with_the_eigenvalue_formulation(rounds, consistent):
    x, y = dates()
    mad = ir_mad(torch.tensor(x), torch.tensor(y), rounds=rounds, tolerance=0.0, consistent=consistent)
    variates, rho, chi2, weights = reference(x, y, rounds, consistent)
    assert mad.rounds == rounds
    assert np.allclose(mad.correlations, rho, atol=1e-6)
    assert np.allclose(mad.variates.abs(), np.abs(variates), atol=1e-4)
    assert np.allclose(mad.chi2, chi2, rtol=1e-4, atol=1e-6)
    assert np.allclose(mad.no_change, weights, atol=1e-5)


def test_one_round_is_canonical_correlation():
    """The variates' variances are 2 (1 - rho) and they are uncorrelated (Nielsen 2007, eq. 5)."""
    x, y = dates(changed=0)
    mad = ir_mad(torch.tensor(x), torch.tensor(y), rounds=1)
    cov = np.cov(mad.variates.numpy().T, ddof=0)
    assert np.allclose(cov, np.diag(2 * (1 - mad.correlations.numpy())), atol=1e-6)
    assert np.allclose(mad.chi2.mean(), 3)  # as many as bands


@pytest.mark.parametrize("mix", [False, True])
def test_no_affine_change_of_either_date_matters(mix):
    x, y = dates()
    rng = np.random.default_rng(9)
    plain = ir_mad(torch.tensor(x), torch.tensor(y))
    gain = rng.normal(size=(3, 3)) if mix else np.diag([1e-3, 50.0, -7.0])
    other = ir_mad(torch.tensor(x @ gain + [100, -5, 0.1]), torch.tensor(y * [3.0, 0.01, 1e4] - 77))
    assert torch.allclose(other.chi2, plain.chi2, rtol=1e-3, atol=1e-4)
    assert torch.allclose(other.correlations, plain.correlations, atol=1e-6)


def test_without_change_chi_square_has_its_distribution():
    x, y = dates(pixels=20000, changed=0, seed=3)
    mad = ir_mad(torch.tensor(x), torch.tensor(y), rounds=1)
    assert scipy.stats.kstest(mad.chi2.numpy(), "chi2", args=(3,)).pvalue > 0.01
    assert scipy.stats.kstest(mad.no_change.numpy(), "uniform").pvalue > 0.01


def test_the_iteration_ends_at_the_noise_that_is_there():
    """Chi-square of the unchanged pixels keeps its distribution, which the published iteration loses."""
    x, y = dates(pixels=20000, changed=3000, seed=5)
    ours, published = (ir_mad(torch.tensor(x), torch.tensor(y), consistent=c) for c in (True, False))
    assert ours.rounds < 50
    still = ours.no_change[3000:].numpy()
    assert [np.mean(still < q) for q in (0.01, 0.1, 0.5)] == pytest.approx([0.01, 0.1, 0.5], rel=0.15)
    assert float(ours.no_change[:3000].median()) < 1e-6
    assert np.mean(published.no_change[3000:].numpy() < 0.01) > 0.1


def test_reweighting_tells_change_from_none_better():
    x, y = dates(changed=1500)
    truth = np.arange(4000) < 1500

    def area_under_curve(score):
        rank = scipy.stats.rankdata(score)
        return (rank[truth].sum() - 1500 * 1501 / 2) / (1500 * 2500)

    once, often = (ir_mad(torch.tensor(x), torch.tensor(y), rounds=r) for r in (1, 50))
    assert often.rounds > 3
    assert area_under_curve(often.chi2.numpy()) > area_under_curve(once.chi2.numpy()) + 0.01
    assert float(often.correlations.min()) > float(once.correlations.min())


def images(seed=0, size=40):
    x, y = dates(pixels=size * size, changed=200, seed=seed)
    stack = np.stack([x, y]).reshape(2, size, size, 3).transpose(0, 3, 1, 2)
    truth = torch.zeros(size * size, dtype=torch.bool)
    truth[:200] = True
    return torch.tensor(stack, dtype=torch.float32)[None], truth.reshape(size, size)


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("options", [{}, {"significance": 1e-4}])
def test_the_model_finds_the_change(options):
    pair, truth = images()
    out = IrMad(PAIR, **options)(pair)
    assert iou(out["logits"][0, 0] > 0, truth) > (0.9 if options else 0.85)
    if options:
        assert torch.equal(out["logits"][0, 0] > 0, out["no_change"][0] < 1e-4)


def test_any_size_and_samples_apart():
    netchecks.check_any_size(IrMad(PAIR))
    netchecks.check_samples_apart(IrMad(PAIR))


def test_identical_dates_and_affine_copies_are_no_change():
    first = netchecks.draw(PAIR, (12, 12))[:, :1]
    for second in (first, first * 3 - 5):
        for options in ({"significance": 1e-3}, {}):
            out = IrMad(PAIR, **options)(torch.cat([first, second], dim=1))
            assert bool(out["logits"].isfinite().all())
            assert float(out["score"].max()) < 1e-3
            assert float(out["no_change"].min()) > 0.999
            if options:
                assert bool((out["logits"] < 0).all())


def test_constant_copied_and_missing_bands():
    pair, truth = images()
    wide = IrMad(ImageSignature(channels=5, outputs=1, dates=2), significance=1e-4)
    constant = torch.full_like(pair[:, :, :1], 7.0)
    out = wide(torch.cat([pair, constant, pair[:, :, :1]], dim=2))
    assert all(bool(x.isfinite().all()) for x in out.values())
    assert iou(out["logits"][0, 0] > 0, truth) > 0.85
    flat = IrMad(PAIR)(torch.full((1, 2, 3, 8, 8), 2.0))
    assert bool((flat["logits"] < 0).all())
    assert ir_mad(torch.zeros(0, 3), torch.zeros(0, 3)).chi2.shape == (0,)


def test_unusable_values_do_not_matter():
    pair, _ = images()
    usable = torch.ones(1, 2, 40, 40, dtype=torch.bool)
    usable[0, 1, 20:30, 3:17] = False
    other = pair.clone()
    other[0, 0, :, 20:30, 3:17] = float("nan")
    expected = IrMad(PAIR)(pair, usable)
    netchecks.assert_same(IrMad(PAIR)(other, usable), expected, rtol=0, atol=0)
    assert bool((expected["logits"][0, 0, 20:30, 3:17] < 0).all())
    nothing = IrMad(PAIR)(other, torch.zeros_like(usable))
    assert all(bool(x.isfinite().all()) for x in nothing.values())
    assert bool((nothing["logits"] < 0).all())


def test_refuses_a_significance_that_is_none():
    with pytest.raises(ValueError, match="probability"):
        IrMad(PAIR, significance=1.0)
