"""The shipped change models: small, honest about where they come from, better than image difference on real pairs."""

from __future__ import annotations

from pathlib import Path

import chipfiles
import numpy as np
import pytest
import torch

import eoflow
from benchmarks import skill_change
from eoflow import catalog
from eoflow.checkpoint_images import ImageCheckpoint

WEIGHTS = Path(eoflow.__file__).parent / "weights"
SHIPPED = WEIGHTS / "change-aerial"
NAMES = ("change-aerial", "change-coarse")


@pytest.fixture(scope="module", params=NAMES)
def shipped(request) -> ImageCheckpoint:
    if not (WEIGHTS / request.param / "config.json").is_file():
        pytest.fail(f"no shipped {request.param}")
    return ImageCheckpoint.from_pretrained(WEIGHTS / request.param)


def pairs(folder: Path, count: int = 3, size: int = 64) -> Path:
    """Pairs in which a bright square appears, on another one's noise."""
    rng = np.random.default_rng(0)
    for k in range(count):
        before = rng.integers(60, 100, (3, size, size)).astype(np.uint8)
        after, label = before.copy(), np.zeros((size, size), np.uint8)
        label[10 : 30 + k, 20:50] = 255
        after[:, label > 0] = 230
        for part, values in (("A", before), ("B", after), ("label", label)):
            chipfiles.write(folder / part / f"place_{k}.png", values)
    return folder


def test_small_and_from_the_recipe(shipped):
    assert sum(p.stat().st_size for p in Path(shipped.location).iterdir()) < 4_000_000
    assert shipped.provenance["dataset"] == "sample-aerial"
    assert shipped.provenance["command"].startswith(f"eoflow train {shipped.name} --dataset sample-aerial")
    recipe = catalog.recipe(shipped.name)
    assert (shipped.recipe.network, shipped.recipe.training) == (recipe.network, recipe.training)
    assert (shipped.provenance["from"] or shipped.name).startswith(shipped.name)
    assert all(torch.isfinite(t).all() for t in shipped.model.state_dict().values() if t.is_floating_point())


def test_equal_dates_have_not_changed(shipped):
    x = torch.rand(1, 2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = shipped.model(x[:, :1].expand(-1, 2, -1, -1, -1))["logits"].sigmoid()
    assert (same > shipped.recipe.cut).float().mean() < 0.01


def test_the_order_of_the_dates_does_not_matter_to_change_aerial():
    """To change-coarse it does, and its card says so."""
    model = ImageCheckpoint.from_pretrained(SHIPPED).model
    x = torch.rand(1, 2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        there, back = (model(y)["logits"] for y in (x, x.flip(1)))
    assert torch.allclose(there, back, atol=1e-4)


def test_folds_hold_every_pair_once():
    names = [f"place_{k}.png" for k in range(5)]
    found = skill_change.folds(names, 3)
    assert sorted(n for _, test in found for n in test) == names
    assert all(not set(train) & set(test) and len(train) + len(test) == 5 for train, test in found)


def test_the_table_of_a_folder(tmp_path):
    from eoflow.verify.image_run import verify_images
    from eoflow.workspace import Workspace

    folder = pairs(tmp_path / "pairs")
    card = verify_images(chips=folder, task="change-detection", split="all", workspace=Workspace(tmp_path / "ws"))
    assert card.asked == list(NAMES)  # both that fit stand in it
    found = skill_change.scores(card)
    assert found["image-difference"]["f1"]["value"] > 0.95  # one clear step of brightness: the threshold is right
    assert found["image-difference"]["ratio"] == pytest.approx(1.0)
    assert "change-aerial" in skill_change.table({"x": found})
    counts = skill_change.counted(folder, str(SHIPPED))
    hit, said, true = (sum(c[k] for c in counts.values()) for k in range(3))
    assert true == sum((20 + k) * 30 for k in range(3))
    assert found["change-aerial"]["f1"]["value"] == pytest.approx(2 * hit / max(said + true, 1), abs=1e-6)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("levir_cd", {"change-aerial": 1.9, "change-coarse": 1.5}),
        ("dsifn_cd", {"change-aerial": 1.15, "change-coarse": 1.5}),
    ],
)
def test_better_than_image_difference_on_pairs_it_has_never_seen(realdata, tmp_path, kind, least):
    from eoflow.verify.image_run import verify_images
    from eoflow.workspace import Workspace

    folder = realdata / "change" / kind
    card = verify_images(chips=folder, task="change-detection", split="all", workspace=Workspace(tmp_path / "ws"))
    found = skill_change.scores(card)
    for name in NAMES:
        assert found[name]["ratio"] > least[name]
