"""The shipped flood models: small, honest about what they are, better than a threshold; and the table that says so."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import chipfiles
import numpy as np
import pytest
import torch

import eoflow
from benchmarks import skill_flood
from eoflow import catalog
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.models.unet import UNet

WEIGHTS = Path(eoflow.__file__).parent / "weights"
THRESHOLDS = ["otsu", "kittler-illingworth", "vv-vh"]


def shipped(name: str) -> ImageCheckpoint:
    if not (WEIGHTS / name / "config.json").is_file():
        pytest.fail(f"no shipped {name}")
    return ImageCheckpoint.from_pretrained(WEIGHTS / name)


@pytest.mark.parametrize(
    ("name", "data", "bands"),
    [("flood-s1", "sample-floods", ["VV", "VH"]),
     ("flood-s2", "sample-floods-optical", ["B02", "B03", "B04", "B08", "B11"])],
)  # fmt: skip
def test_the_shipped_weights_are_small_and_say_where_they_come_from(name, data, bands):
    found = shipped(name)
    size = sum(p.stat().st_size for p in (WEIGHTS / name).iterdir())
    assert size < 2_000_000
    assert found.provenance["dataset"] == data
    assert found.provenance["command"] == f"eoflow train {name} --dataset {data}"
    assert found.provenance["from"] is None
    assert "On real scenes" in found.card or "On a real scene" in found.card
    assert [str(c) for c in found.normalizer.channels] == bands
    recipe = catalog.recipe(name)
    assert recipe.network == found.recipe.network
    assert (recipe.threshold, recipe.training) == (found.recipe.threshold, found.recipe.training)
    assert all(torch.isfinite(t).all() for t in found.tensors().values() if t.is_floating_point())


def test_windows_give_the_picture_of_the_whole_scene():
    model = shipped("flood-s1").model
    assert isinstance(model, UNet)
    x = torch.randn(1, 1, 2, 416, 416, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model(x)["logits"]
        start = 416 - model.halo - 96
        start -= start % model.multiple
        assert start > model.halo
        part = model(x[..., start - model.halo :, start - model.halo :])["logits"]
    inner = part[..., model.halo : model.halo + 64, model.halo : model.halo + 64]
    torch.testing.assert_close(inner, whole[..., start : start + 64, start : start + 64], atol=1e-4, rtol=1e-4)


def test_the_table_of_a_folder(tmp_path):
    labels = chipfiles.floods(tmp_path / "chips", places=("Ghana", "India", "Spain"))
    void = np.full((2, 48, 48), np.nan, "f4")
    chipfiles.write(tmp_path / "chips" / "S1" / "Void_1_S1Hand.tif", void, names=("VV", "VH"))
    chipfiles.write(tmp_path / "chips" / "Label" / "Void_1_LabelHand.tif", np.ones((48, 48), np.int16))
    found = skill_flood.run(str(tmp_path / "chips"), ["flood-s1"], [*THRESHOLDS, "ndwi"], str(tmp_path / "ws"))
    assert {*labels} <= {*found["chips"]}
    assert list(found["mean"]) == ["flood-s1", *THRESHOLDS]  # a water index has no place on radar
    for name in labels:
        row = found["chips"][name]
        assert all(0 <= v <= 1 for v in row.values())
        assert row["otsu"] > 0.9  # two clear levels: the threshold is right
    pooled = {r["model"]: r for r in found["pooled"]}
    assert pooled["otsu"]["value"] > 0.9
    assert found["against"] in THRESHOLDS
    lines = skill_flood.text(found)
    assert "all pixels" in lines
    assert "flood-s1 - otsu" in lines
    assert not np.isfinite(found["chips"].get("Void_1", {"otsu": np.nan})["otsu"])


def test_a_network_that_knows_nothing_does_not_win(tmp_path):
    chipfiles.floods(tmp_path / "chips")
    fool = shipped("flood-s1")
    fool.model.load_state_dict({k: torch.zeros_like(v) for k, v in fool.model.state_dict().items()})
    fool.recipe = fool.recipe.model_copy(update={"model": "fool", "threshold": 0.5})
    dataclasses.replace(fool, card="", scores=[]).save_pretrained(tmp_path / "fool")
    found = skill_flood.run(str(tmp_path / "chips"), [str(tmp_path / "fool")], ["otsu"], str(tmp_path / "ws"))
    pooled = {r["model"]: r["value"] for r in found["pooled"]}
    assert pooled["fool"] == 0.0
    assert pooled["otsu"] > 0.9


def test_every_chip_by_a_model_tuned_to_the_others(tmp_path):
    labels = chipfiles.floods(tmp_path / "chips", places=("Ghana", "India", "Spain"))
    much = ["training.steps=4", "training.lr=1e-2", "training.blend=1"]
    found = skill_flood.tuned(tmp_path / "chips", "flood-s1", 3, much)
    assert {*found} == {*labels}
    for name, x in found.items():
        assert x["before"][2] == x["after"][2] == (labels[name] == 1).sum()
        assert x["before"] != x["after"]
    lines = skill_flood.tuned_text(found).splitlines()
    hit, said, true = (sum(x["after"][i] for x in found.values()) for i in range(3))
    assert lines[-1].split()[-1] == f"{hit / (said + true - hit):.3f}"


@pytest.mark.realdata
def test_better_than_thresholds_on_chips_it_has_never_seen(realdata, tmp_path):
    for part in ("S1", "Label"):
        shutil.copytree(realdata / "flood" / "sen1floods11" / part, tmp_path / "chips" / part)
    found = skill_flood.run(str(tmp_path / "chips"), ["flood-s1"], THRESHOLDS, str(tmp_path / "ws"))
    pooled = {r["model"]: r["value"] for r in found["pooled"]}
    assert pooled["flood-s1"] > max(pooled[t] for t in THRESHOLDS) + 0.05
    assert found["mean"]["flood-s1"] > max(found["mean"][t] for t in THRESHOLDS)
    wet = {c: row for c, row in found["chips"].items() if row["otsu"] > 0.4}
    assert len(wet) >= 3
    for chip, row in wet.items():  # and no chip pays for another
        assert row["flood-s1"] > row["otsu"] - 0.03, chip


@pytest.mark.realdata
def test_optical_better_than_a_water_index(realdata, tmp_path):
    for part, name in (("S2", "Spain_7370579_S2Hand.tif"), ("Label", "Spain_7370579_LabelHand.tif")):
        (tmp_path / "chips" / part).mkdir(parents=True)
        shutil.copy(realdata / "flood" / "sen1floods11" / part / name, tmp_path / "chips" / part / name)
    found = skill_flood.run(str(tmp_path / "chips"), ["flood-s2"], ["otsu", "ndwi"], str(tmp_path / "ws"))
    assert list(found["mean"]) == ["flood-s2", "otsu", "ndwi"]
    assert found["mean"]["flood-s2"] > max(found["mean"]["otsu"], found["mean"]["ndwi"]) + 0.01
