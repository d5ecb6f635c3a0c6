from __future__ import annotations

import math

import netchecks
import numpy as np
import pytest
import torch

from eoflow.models.images import ImageSignature, multiply_adds, parameters
from eoflow.models.merlin import LOWER, UPPER, Merlin, centred, looks_complex, merlin_loss, spectral_offset

SLC = ImageSignature(channels=2, outputs=1)


def small(width=6):
    return Merlin(SLC, width=width)


def speckle(truth, seed=0, batch=1):
    """(B, 1, 2, H, W) single-look complex speckle of a reflectivity (H, W)."""
    normal = torch.randn(batch, 1, 2, *truth.shape, generator=torch.Generator().manual_seed(seed))
    return normal * (truth / 2).sqrt()


def blocks(size=64):
    """Reflectivity of four fields."""
    truth = torch.full((size, size), 2000.0)
    half = size // 2
    truth[:half, half:], truth[half:, :half], truth[half:, half:] = 400.0, 10000.0, 50000.0
    return truth


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_any_size():
    netchecks.check_any_size(small())


def test_samples_apart():
    netchecks.check_samples_apart(small(), size=(33, 40))


def test_reload(tmp_path):
    netchecks.check_reload(small, tmp_path)


def test_alive():
    model = small()
    merlin_loss(model(speckle(blocks()))["log_parts"], speckle(blocks())).backward()
    assert all(bool(p.grad.any()) for p in model.parameters())


def _convolutions():
    """(channels in, out, places as a fraction of the image) of the noise2noise network for one band."""
    encoder = [(1, 48, 1), (48, 48, 1), *((48, 48, 4.0**-i) for i in range(1, 6))]
    decoder = [(96, 96, 4.0**-4), (96, 96, 4.0**-4)]
    for i in (3, 2, 1):
        decoder += [(144, 96, 4.0**-i), (96, 96, 4.0**-i)]
    return [*encoder, *decoder, (97, 64, 1), (64, 32, 1), (32, 1, 1)]


def test_parameters_and_multiply_adds_are_the_papers_layers():
    model = Merlin(SLC).eval()
    assert parameters(model) == sum(9 * a * b + b for a, b, _ in _convolutions()) == 988_609
    once = sum(9 * a * b * p for a, b, p in _convolutions()) * 64 * 64
    assert multiply_adds(model, torch.zeros(1, 1, 2, 64, 64)) == 2 * once  # both parts


def test_nothing_outside_the_halo_matters():
    model = small()
    for p in model.parameters():
        p.data = p.data.abs() if p.ndim > 1 else p.data
    reach = netchecks.reach(model, (448, 64), [(223, 31), (224, 32), (239, 40)], "log_parts")
    assert model.halo / 2 < reach <= model.halo


def test_normalisation_is_the_papers():
    """Without a network, R is the part's own square: amplitude exp(M) is 1, exp(m) is 0 on the normalised scale."""
    model = small()
    seen = []
    model.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.nn.init.zeros_(model.net.out.weight)
    torch.nn.init.zeros_(model.net.out.bias)
    parts = torch.full((1, 1, 2, 32, 32), math.exp(UPPER))
    parts[:, :, 1] = math.sqrt(math.exp(2 * LOWER) - 1e-3)
    out = model(parts)
    assert [float(x.mean()) for x in seen] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert torch.allclose(out["log_parts"].exp(), (parts[:, 0] ** 2 + 1e-3), rtol=1e-4)
    assert torch.allclose(out["image"], (parts[:, 0] ** 2 + 1e-3).mean(1, keepdim=True), rtol=1e-4)


def test_each_part_is_estimated_without_the_other():
    model, images = small(), speckle(blocks(32))
    other = images.clone()
    other[:, :, 1] *= 3
    before, after = (netchecks.evaluate(model, x)["log_parts"] for x in (images, other))
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_the_loss_is_least_at_the_reflectivity():
    """Over one constant R: at log R = log(2 E[b^2]), the maximum-likelihood estimate of a normal variance."""
    images = speckle(torch.full((64, 64), 700.0), batch=4)
    log_r = torch.zeros((), requires_grad=True)
    loss = merlin_loss(log_r.expand(4, 2, 64, 64), images)
    assert float(loss.detach()) == pytest.approx(float((images**2).mean()), rel=1e-3)
    estimate = torch.log(2 * (images**2).mean())
    x = estimate.clone().requires_grad_()
    (grad,) = torch.autograd.grad(merlin_loss(x.expand(4, 2, 64, 64), images), x)
    assert float(grad) == pytest.approx(0, abs=1e-5)
    assert float(estimate.exp()) == pytest.approx(700, rel=0.02)


def test_the_loss_scores_each_estimate_on_the_other_part():
    images = torch.zeros(1, 1, 2, 2, 2)
    images[:, :, 0], images[:, :, 1] = 3.0, 5.0
    log_parts = torch.zeros(1, 2, 2, 2)
    log_parts[:, 0] = math.log(2)  # from the real part: scored on 5^2
    by_hand = (0.5 * math.log(2) + 25 / 2 + 9) / 2
    assert float(merlin_loss(log_parts, images)) == pytest.approx(by_hand, rel=1e-5)


def test_unusable_values_do_not_matter():
    images = speckle(blocks(32))
    usable = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    usable[:, :, 3:9, 20:30] = False
    other = images.clone()
    other[:, :, :, 3:9, 20:30] = float("nan")
    model = small()
    expected = netchecks.evaluate(model, images, usable)
    found = netchecks.evaluate(model, other, usable)
    netchecks.assert_same(found, expected, rtol=0, atol=0)
    losses = [merlin_loss(expected["log_parts"], x, usable) for x in (images, other)]
    assert float(losses[0]) == float(losses[1])
    assert float(merlin_loss(expected["log_parts"], other, usable & False)) == 0


def test_learns_to_despeckle_without_ever_seeing_the_truth():
    """From speckled images alone, until they score as the reflectivity itself would; new speckle comes out cleaner."""
    truth = blocks(32)
    images = speckle(truth, batch=4)

    def above_truth(model):
        return merlin_loss(model(images)["log_parts"], images) - 0.5 * truth.log().mean()

    model = small(12)
    first, last = netchecks.overfit(model, above_truth, 90, clip=5.0)
    assert last < first / 100
    assert last == pytest.approx(0.5, abs=0.25)  # 0.5 is the expected score of the truth
    unseen = speckle(truth, seed=1, batch=4)
    with torch.no_grad():
        estimate = model.eval()(unseen)["image"][:, 0]
    noisy = unseen[:, 0].square().sum(1)
    errors = [float((x.log() - truth.log()).square().mean().sqrt()) for x in (estimate, noisy)]
    assert errors[0] < 0.6 * errors[1]


def test_looks_complex_takes_speckle_of_any_scene():
    for seed, truth in enumerate((torch.ones(64, 64), blocks(), blocks(128) ** 3)):
        assert looks_complex(speckle(truth, seed)).ok
    sparse = speckle(blocks())
    sparse[..., ::2, :] = 0
    sparse[..., 0, 1] = float("nan")
    assert looks_complex(sparse).ok
    assert looks_complex(sparse).samples == 32 * 64


def test_looks_complex_refuses_detected_images_and_says_why():
    z = speckle(blocks())[0, 0]
    power = z.square().sum(0)
    other = speckle(blocks(), seed=1)[0, 0].square().sum(0)
    for pair in ((power, power * 0), (power.sqrt(), other.sqrt()), (10 * power.log10(), 10 * other.log10() - 7)):
        result = looks_complex(torch.stack(pair))
        assert not result.ok
        assert "detected" in result.reason
    unequal, mixed = torch.stack([z[0], 3 * z[1]]), torch.stack([z[0] + z[1] / 2, z[1] + z[0] / 2])
    for spoilt, why in ((unequal, "variance"), (mixed, "correlated")):
        result = looks_complex(spoilt)
        assert not result.ok
        assert why in result.reason
    assert "pixels" in looks_complex(torch.zeros(2, 30, 30)).reason
    with pytest.raises(ValueError, match="imaginary"):
        looks_complex(torch.zeros(3, 8, 8))


def test_a_moved_spectrum_is_found_and_centred():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(2, 130, 130))
    z = sum(np.roll(white[0] + 1j * white[1], (i, j), (0, 1)) for i in range(2) for j in range(2))[1:129, 1:129]
    rows, columns = np.mgrid[:128, :128]
    moved = z * np.exp(1j * (0.9 * rows - 0.4 * columns))
    x = torch.tensor(np.stack([moved.real, moved.imag]))
    assert spectral_offset(x) == pytest.approx((0.9, -0.4), abs=0.05)
    back = centred(x)
    assert spectral_offset(back) == pytest.approx((0, 0), abs=1e-9)
    assert torch.allclose(back.square().sum(0), x.square().sum(0))

    def neighbours(parts):
        """Largest correlation of one part with the other one's next pixel, 0 for independent parts."""
        a, b = parts.numpy()
        shifted = ((a[1:], b[:-1]), (a[:, 1:], b[:, :-1]))
        return max(abs(np.corrcoef(p.ravel(), q.ravel())[0, 1]) for p, q in shifted)

    assert neighbours(x) > 0.15
    assert neighbours(back) < 0.03


def test_refuses_what_it_cannot_do():
    for signature in (ImageSignature(channels=1, outputs=1), ImageSignature(channels=2, outputs=1, dates=2)):
        with pytest.raises(ValueError, match="imaginary"):
            Merlin(signature)
    with pytest.raises(ValueError, match="lower"):
        Merlin(SLC, upper=1.0, lower=2.0)
    with pytest.raises(ValueError, match="3 must divide"):
        Merlin(SLC, width=8)


@pytest.mark.realdata
def test_the_real_crop_is_complex_but_not_zero_doppler_centred(realdata):
    x = torch.tensor(np.load(realdata / "sar" / "merlin_slc_256x256x2.npy")).permute(2, 0, 1)
    assert looks_complex(x).ok
    assert not looks_complex(torch.stack([x.square().sum(0), x[0].square()])).ok
    down, right = spectral_offset(x)
    assert abs(down) > 1  # processed around another Doppler frequency
    assert abs(right) < 0.2
    assert spectral_offset(centred(x)) == pytest.approx((0, 0), abs=1e-6)
    assert looks_complex(centred(x)).ok
