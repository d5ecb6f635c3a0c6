"""Pairs that nobody took: labels and images fit together, a stopped run goes on, a model trains on them."""

from __future__ import annotations

import json
from pathlib import Path

import chipfiles
import numpy as np
import pytest
import torch

import eoflow
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.errors import BadInput
from eoflow.prepare.chips import open_chips
from eoflow.synthesis import PARTS, _read, sample_pairs
from eoflow.workspace import Workspace

SMALL = ["network.options.width=32", "network.options.depth=2", "network.options.heads=2", "patches.patch=64",
         "augment=[{name: dihedral}]", "training.steps=60", "training.batch_size=4", "training.lr=0.003"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workspace, folder of labelled pictures, checkpoint of a small RS-DiT): dark ground, bright roofs."""
    root = tmp_path_factory.mktemp("synthesis")
    rng = np.random.default_rng(0)
    for k in range(12):
        picture, label = rng.integers(40, 60, (3, 64, 64)).astype("u1"), np.zeros((1, 64, 64), "u1")
        for _ in range(3):
            y, x = rng.integers(0, 50, 2)
            label[:, y : y + 10, x : x + 12] = 1
        picture[:, label[0] > 0] = 220
        split = "val" if k > 9 else "train"
        chipfiles.write(root / "chips" / "images" / f"{split}_{k}.png", picture)
        chipfiles.write(root / "chips" / "labels" / f"{split}_{k}.png", label)
    ws = Workspace(root / "ws")
    made = eoflow.train("rsdit", chips=root / "chips", overrides=SMALL, workspace=ws)
    return ws, root / "chips", Path(made.folder)


def pictures(folder, part):
    return {p.name: _read(p) for p in sorted((folder / part).iterdir())}


def test_the_labels_are_heard(trained):
    scores = {r["metric"]: r["value"] for r in ImageCheckpoint.from_pretrained(trained[2]).scores}
    assert scores["label_gain"] > 0.02
    assert 0 < scores["denoising"] < 0.7


def test_pairs_are_what_their_labels_say(trained, tmp_path):
    ws, chips, model = trained
    report = sample_pairs(model, chips=chips, out=tmp_path / "pairs", pairs=10, steps=12, workspace=ws)
    assert (report.pairs, report.made, report.size) == (10, 10, 64)
    before, after, label = (pictures(tmp_path / "pairs", part) for part in PARTS)
    assert sorted(before) == sorted(after) == sorted(label)
    assert sum(n.startswith("val_") for n in before) == 1
    assert 0 < report.changed < 0.5
    for name, change in label.items():
        assert set(np.unique(change)) <= {0, 255}
        same = ~_grown(change[0] > 0)
        np.testing.assert_array_equal(before[name][:, same], after[name][:, same])  # what did not change persists
    changed = np.concatenate([np.abs(before[n].astype(int) - after[n]).mean(0)[label[n][0] > 0] for n in label])
    assert changed.mean() > 20  # and what did is seen
    assert _read(tmp_path / "pairs" / "sheet.png").shape == (3, 3 * 64, 8 * 64)
    note = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert note["checkpoint"] == ImageCheckpoint.from_pretrained(model).hash


def _grown(mask, by=4):
    return torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 2 * by + 1, 1, by)[0].numpy() > 0


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(trained, tmp_path):
    ws, chips, model = trained
    options = {"chips": chips, "pairs": 5, "steps": 4, "workspace": ws}
    sample_pairs(model, out=tmp_path / "whole", **options)
    sample_pairs(model, out=tmp_path / "parts", **options)
    (tmp_path / "parts" / "B" / "train_00002.png").unlink()
    again = sample_pairs(model, out=tmp_path / "parts", **options)
    assert again.made == 1
    for part in PARTS:
        one, two = (pictures(tmp_path / f, part) for f in ("whole", "parts"))
        assert all(np.abs(one[n].astype(int) - two[n]).max() <= 1 for n in one)  # bfloat16, in another batch
    other = sample_pairs(model, out=tmp_path / "other", seed=1, **options)
    assert other.made == 5
    assert not np.array_equal(pictures(tmp_path / "other", "label")["train_00000.png"],
                              pictures(tmp_path / "whole", "label")["train_00000.png"])  # fmt: skip


def test_a_change_model_trains_on_them(trained, tmp_path):
    ws, chips, model = trained
    sample_pairs(model, chips=chips, out=tmp_path / "pairs", pairs=10, steps=4, workspace=ws)
    few = ["patches.patch=64", "training.crop=64", "training.steps=4", "training.batch_size=2"]
    made = eoflow.train("siamese-unet", chips=tmp_path / "pairs", overrides=few, workspace=ws)
    found = ImageCheckpoint.from_pretrained(made.folder)
    assert found.splits["train"] == "9 samples"
    assert len(open_chips(tmp_path / "pairs", found.recipe)["valid"]) == 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("change-aerial", {}, "it makes no images"),
        ("nothing", {}, "no trained 'nothing'"),
        (None, {"pairs": 0}, "at least 1"),
        (None, {"out": "chips"}, "holds something else"),
        (None, {"chips": None}, "a dataset, or a folder of chips"),
    ],
)
def test_bad_requests(trained, tmp_path, model, options, message):
    ws, chips, folder = trained
    asked = {"chips": chips, "out": tmp_path / "pairs", "workspace": ws, **options}
    if asked["out"] == "chips":
        asked["out"] = chips
    with pytest.raises(BadInput, match=message):
        sample_pairs(model or folder, **asked)
    assert not (tmp_path / "pairs").exists()


def test_other_pairs_are_not_mixed_in(trained, tmp_path):
    ws, chips, model = trained
    options = {"chips": chips, "out": tmp_path / "pairs", "pairs": 1, "steps": 2, "workspace": ws}
    sample_pairs(model, **options)
    with pytest.raises(BadInput, match=r"other pairs: guidance 1\.5 there, 2\.0 here"):
        sample_pairs(model, guidance=2.0, **options)
