from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.verify import contract, image_contract, images
from eoflow.verify.image_card import ImageScorecard
from eoflow.verify.image_contract import world
from eoflow.verify.image_counts import (
    BUILTIN,
    F1,
    Accuracy,
    Brier,
    CalibrationError,
    ImageMetric,
    Iou,
    Precision,
    Recall,
    Scene,
    Truth,
    best_threshold,
    metrics_of,
    reliability,
)
from eoflow.verify.image_restoration import RESTORATION
from eoflow.verify.image_scores import Scores, Tally, rows_of

SCENE = Scene(("land", "water"), ("blue", "green", "red"), {"blue": 0, "green": 1, "red": 2})


def truth(labels, target=None, cloudy=None, classes=("land", "water")):
    labels = np.asarray(labels)
    shape = labels.shape if target is None else target.shape[-2:]
    target = np.zeros((0, *shape)) if target is None else target
    cloudy = np.zeros(shape, bool) if cloudy is None else cloudy
    return Truth(labels, target, cloudy, cloudy, classes)


def one(kind, scene=SCENE):
    return kind.of(scene)[0]


@pytest.mark.parametrize("kind", [*BUILTIN, *RESTORATION], ids=lambda k: k.name)
def test_contract_of_every_metric(kind):
    scene = Scene(("a", "b"), ("blue", "green", "red", "nir"), {"blue": 0, "green": 1, "red": 2, "nir": 3})
    for metric in kind.of(scene):
        assert contract.problems(metric) == []


def test_contract_finds_faults():
    class Bad(ImageMetric):
        name, task, better = "bad", ("segmentation",), "higher"

        def counts(self, sample, outputs):
            sample.labels[0, 0] = 5
            return np.array([float("nan"), 1.0])

        def value(self, sums):
            return sums[..., 0].sum()

    said = " ".join(image_contract.problems(Bad()))
    assert "changes its input" in said
    assert "not finite" in said

    class Summed(ImageMetric):
        name, task = "summed", "segmentation"

        def counts(self, sample, outputs):
            return np.array([float((sample.labels == 1).sum())])

        def value(self, sums):
            return np.asarray(sums[..., 0])

    assert "twice" in " ".join(image_contract.problems(Summed()))


def test_class_scores_by_their_definitions():
    rng = np.random.default_rng(0)
    labels, given_ = rng.integers(-1, 2, (40, 30)), rng.integers(0, 2, (40, 30)).astype(np.uint8)
    p = rng.random((40, 30))
    outputs = {"class": given_, "probability": p}
    known = labels >= 0
    tp = ((labels == 1) & (given_ == 1)).sum()
    fp, fn = (known & (labels == 0) & (given_ == 1)).sum(), ((labels == 1) & (given_ == 0)).sum()
    expected = {
        Iou: tp / (tp + fp + fn), F1: 2 * tp / (2 * tp + fp + fn), Precision: tp / (tp + fp), Recall: tp / (tp + fn),
        Accuracy: (labels == given_)[known].mean(), Brier: ((p - (labels == 1)) ** 2)[known].mean(),
    }  # fmt: skip
    for kind, value in expected.items():
        metric = one(kind)
        assert float(metric.value(metric.counts(truth(labels), outputs))) == pytest.approx(value), kind.name
    gaps = [abs((p - (labels == 1))[known & (np.floor(p * 10) == k)].sum()) for k in range(10)]
    metric = one(CalibrationError)
    sums = metric.counts(truth(labels), outputs)
    assert float(metric.value(sums)) == pytest.approx(sum(gaps) / known.sum())
    assert sum(b["pixels"] for b in reliability(sums)) == known.sum()


def test_several_classes_each_by_itself():
    labels = np.array([[0, 1, 2, 2]])
    outputs = {"class": np.array([[0, 2, 2, 1]], np.uint8)}
    found = {m.variable: float(m.value(m.counts(truth(labels, classes=("a", "b", "c")), outputs)))
             for m in Iou.of(Scene(("a", "b", "c")))}  # fmt: skip
    assert found == {"a": 1.0, "b": 0.0, "c": pytest.approx(1 / 3)}


def test_what_a_model_leaves_open_counts_as_nothing_found():
    metric = one(Recall)
    sums = metric.counts(truth(np.ones((2, 2), int)), {"class": np.array([[1, 255], [255, 255]], np.uint8)})
    assert float(metric.value(sums)) == 0.25


def test_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 4000)
    p = np.clip(0.3 * y + rng.random(4000) * 0.5, 0, 0.999)
    sums = one(Brier).counts(truth(y[None]), {"probability": p[None]})
    at, iou = best_threshold(sums)
    every = {t: (y[p >= t] == 1).sum() / ((p >= t) | (y == 1)).sum() for t in np.arange(100) / 100}
    assert iou == pytest.approx(max(every.values()))
    assert every[at] == pytest.approx(iou)
    dry = one(Brier).counts(truth(np.zeros((1, 9), int)), {"probability": np.full((1, 9), 0.5)})
    assert best_threshold(dry) is None


def test_restoration_as_the_functions_of_single_images():
    sample, outputs = world(5)
    scene = Scene((), sample.bands, {b: i for i, b in enumerate(sample.bands)})
    masks = {"all": None, "cloudy": sample.cloudy, "hidden": sample.hidden}
    for kind in RESTORATION:
        if "_" not in kind.name or kind.name.split("_")[-1] not in masks:
            continue
        name, region = kind.name.split("_")
        metric = one(kind, scene)
        value = float(metric.value(metric.counts(sample, outputs)))
        expected = getattr(images, name)(outputs["image"], sample.target, masks[region])
        assert value == pytest.approx(float(expected), rel=1e-9), kind.name
    paper = next(k for k in RESTORATION if k.name == "psnr_rgb_paper")
    metric = one(paper, scene)
    known = np.where(np.isfinite(sample.target).all(0), outputs["image"], np.nan)
    expected = images.psnr_rgb_paper(known, sample.target, bands=(2, 1, 0))
    assert float(metric.value(metric.counts(sample, outputs))) == pytest.approx(float(expected))
    assert not paper.of(Scene((), ("B8A",), {"nir08": 0}))


def test_an_honest_standard_deviation_has_ratio_one():
    rng = np.random.default_rng(0)
    target = rng.random((3, 60, 60))
    std = rng.uniform(0.01, 0.1, target.shape)
    metric = next(k for k in RESTORATION if k.name == "std_ratio")()
    outputs = {"image": target + std * rng.normal(size=target.shape), "std": std}
    assert float(metric.value(metric.counts(truth(np.zeros((60, 60))[..., None][:, :, 0], target), outputs))) == (
        pytest.approx(1, abs=0.03)
    )
    assert metric.counts(truth(np.zeros((60, 60)), target), {"image": target}) is None


# -- sums of groups ----------------------------------------------------------------------------------------------------


def filled(numbers, metrics):
    tally = Tally(metrics)
    for seed in numbers:
        sample, outputs = world(seed)
        tally.add("model", f"g{seed % 3}", sample, outputs)
    return tally


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.data())
def test_merging_is_the_same_in_any_order_and_parts(numbers, data):
    metrics = metrics_of("segmentation", SCENE)
    cut = data.draw(st.integers(0, len(numbers)))
    order = data.draw(st.permutations(numbers))
    whole = filled(numbers, metrics)
    for other in (filled(order, metrics), filled(numbers[cut:], metrics).merge(filled(numbers[:cut], metrics))):
        assert whole.sums.keys() == other.sums.keys()
        for key, groups in whole.sums.items():
            for name, sums in groups.items():
                np.testing.assert_allclose(other.sums[key][name], sums, rtol=1e-12, atol=1e-12)


def card_of(tables, task="segmentation", baselines=("plain",)):
    """tables: model -> list of (labels, class) by chip."""
    metrics = metrics_of(task, SCENE)
    tally = Tally(metrics)
    for model, chips in tables.items():
        for i, (labels, given_) in enumerate(chips):
            tally.add(model, f"chip{i}", truth(labels), {"class": np.asarray(given_, np.uint8)})
    rows, comparisons, notes = rows_of(tally, baselines, dataset="d", task=task, split="test")
    better = {m.name: m.better for m in metrics}
    header = {"task": task, "baselines": list(baselines), "metrics": better, "group": "chip"}
    return ImageScorecard(rows, comparisons, header), notes


def chips(n, hit, seed=0, size=400):
    """Labels half water; `hit`: share of the pixels that are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 1, size))
    given_ = np.where(rng.random(labels.shape) < hit, labels, 1 - labels)
    return list(zip(labels, given_, strict=True))


def test_pooled_value_counts_every_pixel_once():
    small, large = (np.ones((1, 10), int), np.ones((1, 10))), (np.ones((1, 90), int), np.zeros((1, 90)))
    card, _ = card_of({"net": [small, large]}, baselines=())
    assert card.get("net", "water", "iou").value == pytest.approx(0.1)


def test_interval_holds_the_truth_and_shrinks():
    few, many = (card_of({"net": chips(n, 0.8)}, baselines=())[0].get("net", "all", "accuracy") for n in (6, 60))
    assert few.low < 0.8 < few.high
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(("hit", "verdict"), [(0.9, "skill:"), (0.7, "no skill:"), (0.5, "no skill:")])
def test_sentences_about_skill(hit, verdict):
    tables = {"net": chips(12, hit, 0), "plain": chips(12, 0.7, 0), "poor": chips(12, 0.6, 0)}
    card, _ = card_of(tables, baselines=("plain", "poor"))
    text = card.statement("net", "water", "iou")
    assert text.startswith(f"water, iou: {verdict}")
    assert "of plain" in text
    assert card.skill("net", "water", "iou") is (hit > 0.8)
    assert ("worse than the baseline" in text) == (hit < 0.6)


def test_paired_differences_see_through_what_all_chips_share():
    rng = np.random.default_rng(0)
    net, plain = [], []
    for difficulty in rng.uniform(0.5, 0.95, 12):
        labels = rng.integers(0, 2, (1, 3000))
        wrong = rng.random(labels.shape) > difficulty
        fixed = wrong & (rng.random(labels.shape) < 0.1)
        plain.append((labels, np.where(wrong, 1 - labels, labels)))
        net.append((labels, np.where(wrong & ~fixed, 1 - labels, labels)))
    card, _ = card_of({"net": net, "plain": plain})
    a, b = card.get("net", "water", "iou"), card.get("plain", "water", "iou")
    assert a.low < b.high  # their own intervals overlap
    assert card.compare("net", "plain", "water", "iou").better


def test_few_chips_say_so():
    card, _ = card_of({"net": chips(3, 0.9), "plain": chips(3, 0.6)})
    assert "with 3 chips only the interval means little" in card.statement("net", "water", "iou")
    card, _ = card_of({"net": chips(1, 0.9), "plain": chips(1, 0.6)})
    assert "no skill can be told from 1 chip" in card.statement("net", "water", "iou")


def test_degenerate_groups_are_finite_and_said():
    empty = (np.zeros((1, 50), int), np.zeros((1, 50)))
    unknown = (np.full((1, 50), -1), np.ones((1, 50)))
    card, notes = card_of({"net": [empty, unknown, *chips(3, 0.9)]}, baselines=())
    row = card.get("net", "water", "iou")
    assert row.n == 4
    assert math.isfinite(row.value)
    assert any("1 groups have no water" in n for n in notes)
    card, notes = card_of({"net": [empty, unknown]}, baselines=())
    assert card.get("net", "water", "iou") is None
    assert card.get("net", "all", "accuracy").value == 1.0
    assert any(n.startswith("iou of water cannot be told for net") for n in notes)
    card, _ = card_of({"net": [unknown]}, baselines=())
    assert card.rows == []


def test_scores_share_their_draws():
    tally = Tally([one(Iou)])
    for i, (labels, given_) in enumerate(chips(8, 0.8)):
        for model in ("a", "b"):
            tally.add(model, f"c{i}", truth(labels), {"class": given_.astype(np.uint8)})
    found = Scores(tally, one(Iou)).compare("a", "b")
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert not found.better


def test_card_survives_json():
    card, _ = card_of({"net": chips(4, 0.9), "plain": chips(4, 0.6)})
    again = ImageScorecard.from_json(card.to_json())
    assert again == card
    assert again.row_dicts()[0].keys() == {
        "dataset", "model", "task", "split", "variable", "metric", "value", "low", "high", "n"
    }
