"""Thresholds of water against brute force and scipy; little water, all water, no water, no data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eoflow.models.images import ImageSignature, parameters
from eoflow.models.layers.bimodal import METHODS, error_criterion, separability, split
from eoflow.models.thresholds import BandThresholds, Otsu, WaterIndex, normalised_difference

S = ImageSignature


def scene(water=0.3, size=128, seed=0, gap=9.0, spread=1.5):
    """(1, 1, 1, H, W) backscatter in dB with one lake, and the lake (H, W)."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size] - size / 2 + 0.5
    lake = row**2 + column**2 < water * size**2 / np.pi
    db = rng.normal(-9.0, spread, (size, size)) - gap * lake
    return torch.tensor(db, dtype=torch.float32)[None, None, None], lake


def iou(logits, lake):
    seen = (logits[0, 0] > 0).numpy() if logits.shape[1] == 1 else logits[0].argmax(0).numpy() == 1
    return (seen & lake).sum() / max((seen | lake).sum(), 1)


def brute_force(values):
    """Otsu by trying every cut between two different values."""
    distinct = np.unique(values)
    cuts = (distinct[1:] + distinct[:-1]) / 2
    scores = []
    for t in cuts:
        low, high = values[values < t], values[values >= t]
        scores.append(len(low) * len(high) / len(values) ** 2 * (low.mean() - high.mean()) ** 2)
    return cuts, np.array(scores)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-40, 10, width=32), min_size=2, max_size=40).filter(lambda v: max(v) - min(v) > 1e-3))
def test_exact_otsu_is_the_best_of_all_cuts(values):
    values = np.array(values, dtype=np.float64)
    found = split(torch.tensor(values), bins=0)
    cuts, scores = brute_force(values)
    best = scores[np.abs(cuts - found.threshold).argmin()]
    assert best == pytest.approx(scores.max(), rel=1e-6)
    assert found.separability == pytest.approx(scores.max() / values.var(), rel=1e-5)


def test_histogram_otsu_is_within_a_bin_of_the_best_cut():
    images, _ = scene(size=40)
    values = images.flatten().double()
    cuts, scores = brute_force(values.numpy())
    found = split(values, bins=256)
    width = float(values.max() - values.min()) / 256
    good = cuts[scores > scores.max() * 0.999]
    assert good.min() - width <= found.threshold <= good.max() + width


def test_otsu_does_not_care_for_units():
    images, _ = scene()
    one, other = split(images.flatten()), split(images.flatten() * 0.02 + 0.7)
    assert other.threshold == pytest.approx(one.threshold * 0.02 + 0.7, abs=1e-4)
    assert other.separability == pytest.approx(one.separability, rel=1e-3)


def test_an_empty_gap_is_cut_in_its_middle():
    values = torch.cat([torch.linspace(-21, -20, 50), torch.linspace(-10, -9, 50)])
    assert split(values, bins=0).threshold == pytest.approx(-15, abs=1e-3)
    for method in METHODS:
        assert split(values, method=method).threshold == pytest.approx(-15, abs=0.2)


def test_separability_of_known_distributions():
    """One Gaussian cut in its middle 2 / pi, a uniform distribution 3 / 4, two Gaussians at +-2: 4 / 5 and a bit."""
    u = torch.linspace(0, 1, 100_002, dtype=torch.float64)[1:-1]
    gauss = torch.tensor(stats.norm.ppf(u.numpy()))
    two = torch.cat([gauss - 2, gauss + 2])
    for values, expected in ((gauss, 2 / np.pi), (u, 0.75), (two, 0.81)):
        assert split(values, bins=1000).separability == pytest.approx(expected, abs=0.005)


def test_separability_of_tiles_is_that_of_each_alone():
    g = torch.Generator().manual_seed(0)
    group = torch.randint(0, 4, (4000,), generator=g)
    values = torch.randn(4000, generator=g) + 4 * (torch.rand(4000, generator=g) < 0.4) * (group == 1)
    values[group == 3] = 1.5
    eta, share = separability(values, group, 5, bins=4096)
    for k in range(3):
        alone = split(values[group == k], bins=0)
        assert eta[k] == pytest.approx(alone.separability, abs=2e-3)
        below = float((values[group == k] < alone.threshold).float().mean())
        assert share[k] == pytest.approx(min(below, 1 - below), abs=0.02)
    assert eta[3:].tolist() == [0, 0]  # all equal, and none


def test_minimum_error_criterion_is_the_likelihood_of_two_gaussians():
    """J is, but for constants, the mean -2 ln of the best P_i N(m_i, s_i) of each value's own class."""
    counts = torch.tensor([3.0, 8, 9, 2, 1, 4, 12, 7, 2], dtype=torch.float64)
    edges = torch.linspace(-20, -11, 10, dtype=torch.float64)
    values = np.repeat(((edges[1:] + edges[:-1]) / 2).numpy(), counts.int().numpy())
    found = error_criterion(counts, edges)
    for k, t in enumerate(edges[1:-1]):
        total = 0.0
        for part in (values[values < float(t)], values[values >= float(t)]):
            p, s = len(part) / len(values), np.sqrt(part.var() + 1 / 12)  # values spread evenly within a bin
            logs = stats.norm.logpdf(part, part.mean(), s).sum() - len(part) / 2 * (1 - part.var() / s**2)
            total += -2 * (logs + len(part) * np.log(p)) / len(values)
        assert float(found[k]) == pytest.approx(total - np.log(2 * np.pi), rel=1e-9)


def test_minimum_error_finds_a_small_population_where_otsu_cuts_the_land():
    rng = np.random.default_rng(0)
    values = torch.tensor(np.concatenate([rng.normal(-10, 2.0, 98_000), rng.normal(-22, 1.0, 2_000)]))
    best, otsu = split(values, method="kittler-illingworth"), split(values)
    t = np.linspace(-22, -10, 5000)  # where both densities with their sizes are equal
    ratio = np.log(0.98) + stats.norm.logpdf(t, -10, 2) - np.log(0.02) - stats.norm.logpdf(t, -22, 1)
    assert best.threshold == pytest.approx(t[np.abs(ratio).argmin()], abs=0.7)
    assert (values < best.threshold).double().mean() == pytest.approx(0.02, abs=0.001)
    assert otsu.threshold > -13


@pytest.mark.parametrize("values", [[], [2.0], [3.0] * 50])
@pytest.mark.parametrize("method", METHODS)
def test_one_value_is_no_two_populations(values, method):
    assert split(torch.tensor(values), method=method) is None


def test_one_gaussian_is_no_two_populations():
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert split(values, method="kittler-illingworth") is None


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("options", [{}, {"bins": 0}, {"method": "kittler-illingworth"}, {"tiles": 32}])
def test_otsu_finds_the_lake(outputs, options):
    images, lake = scene()
    model = Otsu(S(1, outputs), **options)
    logits = model(images)["logits"]
    assert logits.shape == (1, outputs, 128, 128)
    assert iou(logits, lake) > 0.97
    assert parameters(model) == 0
    assert model.closed_form


def test_two_outputs_have_the_probability_of_one():
    images, _ = scene()
    one, two = Otsu(S(1, 1))(images)["logits"], Otsu(S(1, 2))(images)["logits"]
    torch.testing.assert_close(two.softmax(1)[:, 1], one.sigmoid()[:, 0])


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (7, 2)])
@pytest.mark.parametrize(
    "model",
    [
        Otsu(S(2, 1)), Otsu(S(2, 1), tiles=4, smooth=3), Otsu(S(2, 1), index=(0, 1)), BandThresholds(S(2, 1)),
        WaterIndex(S(2, 1), first=0, second=1),
    ],
)  # fmt: skip
def test_any_size(size, model):
    out = model(torch.randn(3, 1, 2, *size, generator=torch.Generator().manual_seed(0)))["logits"]
    assert out.shape == (3, 1, *size)
    assert out.isfinite().all()


def test_each_image_has_its_own_threshold():
    images = torch.cat([scene(seed=1)[0], scene(seed=2)[0] + 5])
    model = Otsu(S(1, 1))
    together = model(images)["logits"]
    assert torch.equal(together, torch.cat([model(images[:1])["logits"], model(images[1:])["logits"]]))


def test_a_little_water_needs_tiles():
    """Half a per mille of water: Otsu over the scene cuts the land in two."""
    images, lake = scene(water=0.0005, size=512, spread=1.0)
    assert iou(Otsu(S(1, 1))(images)["logits"], lake) < 0.05
    assert iou(Otsu(S(1, 1), tiles=16)(images)["logits"], lake) > 0.8


@pytest.mark.parametrize("options", [{"bimodality": 0.75}, {"tiles": 32}, {"method": "kittler-illingworth"}])
def test_a_scene_without_water_has_none(options):
    images, _ = scene(water=0)
    assert (Otsu(S(1, 1))(images)["logits"] > 0).float().mean() > 0.2  # plain Otsu always finds some
    assert not (Otsu(S(1, 1), **options)(images)["logits"] > 0).any()


def test_a_scene_that_is_all_water_needs_the_fallback():
    images = scene(water=0)[0] - 10
    guarded = {"tiles": 32, "bimodality": 0.75}
    assert not (Otsu(S(1, 1), **guarded)(images)["logits"] > 0).any()
    assert (Otsu(S(1, 1), fallback=-14.0, **guarded)(images)["logits"] > 0).float().mean() > 0.99


@pytest.mark.parametrize("fill", [0.0, 99.0, -500.0, float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"tiles": 32}, {"smooth": 3}])
def test_unusable_pixels_have_no_influence_and_are_unknown(fill, options):
    images, lake = scene()
    usable = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(1)) > 0.3
    model = Otsu(S(1, 1), **options)
    spoiled = torch.where(usable[:, :, None], images, fill)
    clean = model(images, usable)["logits"]
    assert torch.equal(model(spoiled, usable)["logits"], clean)
    assert not clean[0, 0][~usable[0, 0]].any()
    assert iou(clean, lake & usable[0, 0].numpy()) > 0.97


@pytest.mark.parametrize(
    "model",
    [
        Otsu(S(2, 2)), Otsu(S(2, 2), tiles=8, fallback=-15), Otsu(S(2, 2), index=(0, 1)), BandThresholds(S(2, 2)),
        WaterIndex(S(2, 2), first=0, second=1),
    ],
)  # fmt: skip
def test_no_data_at_all_is_unknown_everywhere(model):
    images, none = torch.full((1, 1, 2, 16, 16), torch.nan), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    for usable in (none, None):
        assert not model(images, usable)["logits"].any()


def test_an_image_of_one_value_has_no_water():
    assert (Otsu(S(1, 1))(torch.full((1, 1, 1, 9, 9), -20.0))["logits"] < 0).all()


def test_logits_are_those_of_two_gaussians():
    """Far inside the range, the log-odds of the found means and pooled variance: linear, slope gap / variance."""
    images, lake = scene(gap=6.0)
    logits = Otsu(S(1, 1))(images)["logits"][0, 0]
    x, t = images[0, 0, 0], split(images.flatten()).threshold
    near = (logits.abs() < 10) & (logits != 0)
    slope = (logits[near] / (t - x[near])).numpy()
    assert slope == pytest.approx(6.0 / 1.5**2, rel=0.1)
    assert np.ptp(slope) < 1e-2
    probability = logits.sigmoid().numpy()
    assert probability[lake].mean() > 0.95
    assert ((probability > 0.5) == (x.numpy() < t)).all()


def test_softness_is_the_distance_of_one_logit():
    images, _ = scene()
    t = split(images.flatten()).threshold
    logits = Otsu(S(1, 1), softness=2.0)(images)["logits"][0, 0]
    torch.testing.assert_close(logits, ((t - images[0, 0, 0]) / 2).clamp(-16, 16))


def test_smoothing_is_the_mean_of_usable_neighbours():
    x = torch.randn(1, 1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    usable = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.3
    model = BandThresholds(S(1, 1), channels=[0], thresholds=[0.0], smooth=3)
    logits = model(x, usable)["logits"][0, 0]
    for row, column in ((0, 0), (4, 4), (8, 3), (2, 7)):
        rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        window, seen = x[0, 0, 0, rows, columns], usable[0, 0, rows, columns]
        expected = -window[seen].mean() if usable[0, 0, row, column] else torch.tensor(0.0)
        torch.testing.assert_close(logits[row, column], expected)
    assert model.halo == 1


@pytest.mark.parametrize("combine", ["all", "any"])
def test_vv_and_vh(combine):
    vv, vh = torch.tensor([-20.0, -20.0, -5.0, -5.0]), torch.tensor([-30.0, -10.0, -30.0, -10.0])
    images = torch.stack([vv, vh])[None, None, :, None]
    logits = BandThresholds(S(2, 1), combine=combine)(images)["logits"][0, 0, 0]
    margins = torch.stack([-15 - vv, -22 - vh])
    expected = margins.amin(0) if combine == "all" else margins.amax(0)
    torch.testing.assert_close(logits, expected)


def test_a_missing_band_has_no_say():
    images = torch.tensor([[-20.0, -20.0], [torch.nan, -10.0]])[None, None, :, None]
    assert BandThresholds(S(2, 1))(images)["logits"].flatten().tolist() == [5.0, -12.0]


def test_scale_and_offset_bring_back_decibels():
    images, _ = scene()
    db = torch.cat([images, images - 7], dim=2)
    mean, std = torch.tensor([-11.0, -17.0]), torch.tensor([4.0, 5.0])
    normalised = (db - mean[:, None, None]) / std[:, None, None]
    model = BandThresholds(S(2, 1), scale=std.tolist(), offset=mean.tolist())
    torch.testing.assert_close(model(normalised)["logits"], BandThresholds(S(2, 1))(db)["logits"], rtol=1e-4, atol=1e-4)
    assert not model.state_dict()


def test_the_chosen_date_counts():
    wet, dry = scene()[0], scene(water=0.01, seed=4)[0]
    both = torch.cat([dry, wet], dim=1)
    alone = BandThresholds(S(1, 1), channels=[0], thresholds=[-14.0])
    last = BandThresholds(S(1, 1, dates=2), channels=[0], thresholds=[-14.0])
    first = BandThresholds(S(1, 1, dates=2), channels=[0], thresholds=[-14.0], date=0)
    assert torch.equal(last(both)["logits"], alone(wet)["logits"])
    assert torch.equal(first(both)["logits"], alone(dry)["logits"])


def test_ndwi():
    green, nir = torch.tensor([0.08, 0.05, 0.10, 0.3]), torch.tensor([0.02, 0.30, 0.10, 0.2])
    images = torch.stack([torch.full((4,), 0.5), green, nir])[None, None, :, None]
    logits = WaterIndex(S(3, 1), first=1, second=2, threshold=0.1)(images)["logits"][0, 0, 0]
    expected = ((green - nir) / (green + nir) - 0.1) / 0.05
    torch.testing.assert_close(logits, expected.clamp(-16, 16))
    assert (logits > 0).tolist() == [True, False, False, True]


def test_an_index_without_light_is_not_defined():
    a, b = torch.tensor([0.0, -0.2, 0.3, 0.2, torch.nan]), torch.tensor([0.0, 0.1, -0.1, 0.2, 0.1])
    value = normalised_difference(a, b)
    assert value.isnan().tolist() == [True, True, False, False, True]
    assert value[2:4].tolist() == [1.0, 0.0]


def test_otsu_on_an_index_takes_water_above():
    _, lake = scene()
    rng = np.random.default_rng(1)
    green = rng.normal(0.08, 0.005, lake.shape)
    nir = np.where(lake, 0.02, 0.3) + rng.normal(0, 0.005, lake.shape)
    images = torch.tensor(np.stack([green, nir]), dtype=torch.float32)[None, None]
    assert iou(Otsu(S(2, 1), index=(0, 1))(images)["logits"], lake) > 0.99
    assert iou(Otsu(S(2, 1), channel=1)(images)["logits"], lake) > 0.99


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Otsu(S(1, 3)), "1 or 2 outputs"),
        (lambda: Otsu(S(1, 1), channel=1), "channel 1 of 1"),
        (lambda: Otsu(S(1, 1), method="triangle"), "method 'triangle'"),
        (lambda: Otsu(S(1, 1), method="kittler-illingworth", bins=0), "0 bins"),
        (lambda: Otsu(S(1, 1), water="left"), "water 'left'"),
        (lambda: Otsu(S(1, 1), smooth=2), "odd number"),
        (lambda: Otsu(S(1, 1), date=1), "date 1 of 1"),
        (lambda: Otsu(S(1, 1), softness=0.0), "softness 0.0 is not positive"),
        (lambda: Otsu(S(2, 1), index=(0,)), "two channel positions"),
        (lambda: Otsu(S(2, 1), scale=[1.0, 2.0, 3.0]), "3 numbers for scale, 2 channels"),
        (lambda: BandThresholds(S(2, 1), thresholds=[1.0]), "2 channels and 1 thresholds"),
        (lambda: BandThresholds(S(2, 1), combine="most"), "combine 'most'"),
        (lambda: WaterIndex(S(2, 1), first=0, second=2), "channel 2 of 2"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("chip", "least"), [("India_900498", 0.75), ("Nigeria_812045", 0.75), ("Paraguay_34417", None)]
)
def test_real_floods(realdata, chip, least):
    """Sentinel-1 chips with hand labels; Paraguay's backscatter is NaN everywhere."""
    import rasterio

    folder = realdata / "flood" / "sen1floods11"
    with rasterio.open(folder / "S1" / f"{chip}_S1Hand.tif") as source:
        images = torch.from_numpy(source.read()).float()[None, None]
    with rasterio.open(folder / "Label" / f"{chip}_LabelHand.tif") as source:
        label = source.read(1)
    logits = Otsu(S(2, 1), smooth=5)(images, images.isfinite().all(2))["logits"]
    if least is None:
        assert not logits.any()
    else:
        seen, water, known = (logits[0, 0] > 0).numpy(), label == 1, label >= 0
        assert (seen & water & known).sum() / ((seen | water) & known).sum() > least
