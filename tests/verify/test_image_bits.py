"""A network in fewer bits stands beside itself in the scorecard, with what that costs; else nothing changes."""

from __future__ import annotations

import chipfiles
import numpy as np
import pytest
import torch

from eoflow.checkpoint import SHIPPED
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.verify.image_bits import Padded
from eoflow.verify.image_run import verify_images
from eoflow.workspace import Workspace


def test_what_eight_bits_cost_in_score(tmp_path, run_by):
    pytest.importorskip("onnxruntime")
    chipfiles.floods(tmp_path / "chips", size=50)  # no multiple of what the network takes
    asked = {"chips": tmp_path / "chips", "task": "segmentation", "split": "all", "workspace": Workspace(tmp_path)}
    run_by("onnx")
    plain = verify_images(None, "flood-s1", **asked)
    run_by("int8")
    card = verify_images(None, "flood-s1", **asked)
    assert set(card.models) == {*plain.models, "flood-s1 int8"}
    for row in plain.rows:
        assert card.get(row.model, row.variable, row.metric) == row  # the others are what they were
    found = card.compare("flood-s1 int8", "flood-s1", "water", "iou")
    eight, full = (card.get(n, "water", "iou") for n in ("flood-s1 int8", "flood-s1"))
    assert found.difference == pytest.approx(eight.value - full.value)
    assert abs(found.difference) < 0.1
    assert any(n.startswith("water, iou: flood-s1 int8 differs from 32 bits by") for n in card.header["notes"])
    assert card.compare("flood-s1 int8", "otsu", "water", "iou") is not None
    assert not any("differs from" in n for n in plain.header["notes"])


def test_baselines_have_no_fewer_bits(tmp_path, run_by):
    chipfiles.floods(tmp_path / "chips")
    run_by("int8")
    card = verify_images(None, "otsu", chips=tmp_path / "chips", task="segmentation", workspace=Workspace(tmp_path))
    assert not any("int8" in m for m in card.models)


def test_any_size_is_what_the_network_gives():
    from eoflow.runtime import fast

    pytest.importorskip("onnxruntime")
    model = ImageCheckpoint.from_pretrained(SHIPPED / "flood-s1").model
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 2, 37, 50)).astype("f4"))
    usable = torch.rand(1, 1, 37, 50, generator=torch.Generator().manual_seed(0)) > 0.2
    with torch.inference_mode():
        wanted = model(images, usable)["logits"]
    torch.testing.assert_close(Padded(fast(model))(images, usable)["logits"], wanted, rtol=0, atol=1e-3)
