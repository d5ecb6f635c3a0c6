from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import waters
from chipfiles import changes, floods, radar, series, write
from commandline import CommandLine

import eoflow
from eoflow import checkpoint, registry
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import recipe
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.errors import BadInput
from eoflow.prepare.scenes.trainset import Patches
from eoflow.quality import Quality
from eoflow.verify import image_models
from eoflow.verify.image_card import ImageScorecard
from eoflow.verify.image_counts import Iou
from eoflow.view.image_scores import table
from eoflow.workspace import Workspace

SMALL = ["network.options.width=4", "network.options.depth=2", "patches.patch=16", "training.crop=16",
         "training.steps=30", "training.batch_size=4", "training.lr=1e-2"]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Chips of floods, a cube of radar, and a small U-Net trained on the chips."""
    folder = tmp_path_factory.mktemp("verified")
    ws = Workspace(folder / "workspace")
    floods(folder / "chips", ("Ghana", "India", "Spain", "Peru", "Chad", "Laos", "Mali"))
    floods(folder / "others", ("Rome", "Oslo", "Kiel", "Bonn", "Lyon", "Nice"), seed=9)
    waters.radar(ws)
    with contextlib.chdir(folder):  # verified from elsewhere: the folder is known again
        report = eoflow.train("unet", chips="chips", overrides=SMALL, workspace=ws)
    return ws, folder, report


def test_scorecard_on_chips(world):
    ws, folder, report = world
    card = eoflow.verify(models="unet", chips=folder / "others", workspace=ws)
    assert isinstance(card, ImageScorecard)
    assert (card.asked, card.baselines) == (["unet"], ["otsu", "band-thresholds"])
    assert card.header["groups"] == 6
    assert card.header["models"]["unet"]["hash"] == report.hash
    assert card.header["models"]["unet"]["trained_on"] == "chips"
    assert f"unet: {report.folder}, trained on 'chips'" in table(card).caption
    for model in card.models:
        row = card.get(model, "water", "iou")
        assert row.task == "segmentation"
        assert row.split == "all"
        assert row.n == 6
        assert 0 < row.low <= row.value <= row.high <= 1
    assert any("ndwi" in n for n in card.header["notes"])  # no optical bands
    kept = ws.read_text("products", "scorecards", "others", "segmentation", "scores.json")
    assert ImageScorecard.from_json(kept) == card
    assert sum(b["pixels"] for b in card.header["probabilities"]["unet"]["reliability"]) == 6 * 43 * 48


def test_values_are_those_of_the_pixels(world):
    """Otsu's classes from the model itself, without eoflow's samples, counted by hand."""
    ws, folder, _ = world
    card = eoflow.verify(models=[], chips=folder / "others", task="segmentation", workspace=ws)
    schema = SceneSchema(bands=tuple(BandSpec(name=n, dtype="float32", units="dB") for n in ("VV", "VH")),
                         sensor="sentinel-1", level="", tiles="{}", quality="{}")  # fmt: skip
    otsu = ImageCheckpoint.closed_form("otsu", None, schema).model
    hit = union = 0
    import rasterio

    for path in sorted((folder / "others" / "S1").iterdir()):
        with rasterio.open(path) as ds:
            images = torch.from_numpy(ds.read(1))[None, None, None]
        name = path.name.replace("S1Hand", "LabelHand")
        with rasterio.open(folder / "others" / "Label" / name) as ds:
            labels = ds.read(1)
        water = (otsu(images)["logits"][0, 0] > 0).numpy() & (labels >= 0)
        hit += (water & (labels == 1)).sum()
        union += (water | (labels == 1)).sum()
    assert card.get("otsu", "water", "iou").value == pytest.approx(hit / union, rel=1e-6)


def test_a_model_trained_on_the_folder_is_scored_on_its_test_chips(world):
    ws, folder, report = world
    card = eoflow.verify(models=report.folder, chips=folder / "chips", workspace=ws)
    assert card.header["split"] == "test"
    assert card.header["groups"] == 1
    assert any("only its test chips" in n for n in card.header["notes"])
    assert "no skill can be told" in card.statement("unet", "water", "iou")
    every = eoflow.verify(models=report.folder, chips=folder / "chips", split="all", workspace=ws)
    assert every.header["groups"] == 7
    assert any("flatter" in n for n in every.header["notes"])


def test_scorecard_on_a_dataset(world):
    ws, _, _ = world
    card = eoflow.verify("s1", "unet", workspace=ws)
    assert card.header["split"] == "test"
    assert card.header["group"] == "block"
    assert card.header["groups"] > 1
    assert card.get("unet", "water", "iou") is not None
    assert any("whole scene" in n for n in card.header["notes"])


def test_degenerate_chips_give_a_finite_card(world, tmp_path):
    """All NaN, labels all -1, no water: an honest card; nothing at all: an error that says so."""
    ws = world[0]
    rng = np.random.default_rng(0)
    land = np.zeros((48, 48), np.int16)
    for name, values, labels in (
        ("Nan_1", np.full((2, 48, 48), np.nan, np.float32), land + 1), ("None_2", radar(rng, land), land - 1),
        ("Land_3", radar(rng, land), land),
    ):  # fmt: skip
        write(tmp_path / "S1" / f"{name}_S1Hand.tif", values, names=("VV", "VH"))
        write(tmp_path / "Label" / f"{name}_LabelHand.tif", labels)
    card = eoflow.verify(models="unet", chips=tmp_path, workspace=ws)
    text = json.dumps(card.row_dicts(), allow_nan=False)
    assert "NaN" not in text
    assert card.get("unet", "all", "accuracy").n == 1
    assert any("2 of 3 chips have no pixel that counts" in n for n in card.header["notes"])
    (tmp_path / "S1" / "Land_3_S1Hand.tif").unlink()
    with pytest.raises(BadInput, match="no pixel could be scored"):
        eoflow.verify(models="unet", chips=tmp_path, workspace=ws)


def test_change_against_the_label(tmp_path, workspace):
    changes(tmp_path / "c", 6)
    card = eoflow.verify(models="ir-mad", chips=tmp_path / "c", task="change-detection", workspace=workspace)
    assert card.get("image-difference", "change", "f1").value > 0.95
    assert card.asked == []


def test_cloud_series_by_date(tmp_path, workspace):
    series(tmp_path / "d", days=12, clear=(1, 4, 6, 9))
    how = {"models": "nearest-clear", "chips": tmp_path / "d", "task": "cloud-removal", "workspace": workspace}
    card = eoflow.verify(**how)
    assert card.header["group"] == "date"
    assert card.header["groups"] == 4
    nearest, hidden = (card.get("nearest-clear", "reflectance", f"psnr_{r}") for r in ("all", "hidden"))
    assert nearest.value > 30
    assert hidden is not None
    assert hidden.value < nearest.value
    assert 0 < card.get("nearest-clear", "reflectance", "said").value <= 1
    more = eoflow.verify(dates=9, **how)
    assert more.get("nearest-clear", "reflectance", "psnr_hidden") is None  # some date saw every pixel
    assert any("psnr_hidden of reflectance cannot be told" in n for n in more.header["notes"])


class TwiceIou(Iou):
    """An outside metric."""

    name = "outside_iou"
    shared = "outside"

    def value(self, sums):
        return super().value(sums)


def test_metrics_of_outside_packages(world, monkeypatch):
    ws, folder, _ = world
    names, load = registry.names, registry.load
    monkeypatch.setattr(registry, "names", lambda kind: [*names(kind), *(["outside"] if kind == "metrics" else [])])
    monkeypatch.setattr(registry, "load", lambda kind, n: TwiceIou if n == "outside" else load(kind, n))
    card = eoflow.verify(models="unet", chips=folder / "others", workspace=ws)
    assert card.get("otsu", "water", "outside_iou").value == card.get("otsu", "water", "iou").value
    from eoflow.verify.metrics import defaults

    assert "outside_iou" not in {m.name for m in defaults(False)}


def test_what_cannot_be_is_said(world, tmp_path):
    ws, folder, _ = world
    with pytest.raises(BadInput, match="which task") as e:
        eoflow.verify(chips=folder / "others", split="all", workspace=ws)
    assert "--task" in e.value.todo
    with pytest.raises(BadInput, match="did you mean 'segmentation'"):
        eoflow.verify(chips=folder / "others", task="segmentatoin", workspace=ws)
    with pytest.raises(BadInput, match="no such folder"):
        eoflow.verify(chips=tmp_path / "no", task="segmentation", workspace=ws)
    with pytest.raises(BadInput, match="unetplus"):
        eoflow.verify(models="unetplus", chips=folder / "others", task="segmentation", workspace=ws)
    with pytest.raises(BadInput, match="a period is of forecasts"):
        eoflow.verify("s1", "unet", "2020/2021", workspace=ws)


def test_command_line(world, capsys):
    ws, folder, report = world
    line = CommandLine(ws, capsys)
    rows = line.ok("verify", "--chips", folder / "others", "--model", report.folder, "--json").document
    assert rows[0].keys() == {"dataset", "model", "task", "split", "variable", "metric", "value", "low", "high", "n"}
    done = line("verify", "--chips", folder / "others", "--model", "unet")
    assert done.code == 0
    assert "water, iou: " in done.out
    assert "otsu" in done.out
    assert ws.exists("products", "scorecards", "others", "segmentation", "scores.png")
    done = line("verify", "--chips", folder / "others", "--task", "segmentation", "--set", "bands")
    assert done.code == 2
    assert "KEY=VALUE" in done.err


# -- one model on one sample -------------------------------------------------------------------------------------------


def sample_of(dates, height=20, width=24, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (1, dates, channels, height, width)
    quality = torch.full((1, dates, height, width), int(Quality.CLEAR), dtype=torch.uint8)
    empty = torch.zeros((1, 0, height, width))
    return Patches(torch.from_numpy(rng.random(shape).astype(np.float32)), quality, empty, quality[:, 0], empty.long(),
                   torch.ones(1), torch.zeros(1, dtype=torch.long),
                   torch.arange(dates + 1, dtype=torch.float64)[None])  # fmt: skip


def test_dates_are_the_nearest_and_missing_ones_are_added(world):
    ws, _, _ = world
    found = ImageCheckpoint.from_pretrained(checkpoint.current(ws, "chips", "unet"))
    runner = image_models.runner(found, found.schema, ("VV", "VH"), ())
    times = np.array([0.0, 10, 20, 31])
    for k, expected in ((2, [20, 31]), (3, [10, 20, 31]), (4, list(times))):
        dated, left = replace(runner, dates=k).dated(sample_of(4), times, 26.0)
        assert left.tolist() == expected
        assert dated.inputs.shape[1] == k
    dated, _ = replace(runner, dates=6).dated(sample_of(4), times, 26.0)
    assert (dated.quality[0, 4:] == int(Quality.MISSING)).all()
    assert dated.inputs.shape[1] == 6


def test_a_large_image_in_windows_is_the_whole_one(world, monkeypatch):
    ws, _, _ = world
    found = ImageCheckpoint.from_pretrained(checkpoint.current(ws, "chips", "unet"))
    runner = image_models.runner(found, found.schema, ("VV", "VH"), ())
    sample = sample_of(1, 130, 150)
    whole = runner.run(sample)["probability"]
    monkeypatch.setattr(image_models, "AT_ONCE", 100)
    monkeypatch.setattr(image_models, "CORE", 64)
    cut = runner.run(sample)["probability"]
    # its normalisation takes in the whole of what it sees: equal to that, and without seams
    np.testing.assert_allclose(cut, whole, atol=0.02)


def test_recipes_of_trivial_models_are_whole_scene_where_they_threshold():
    schema = SceneSchema(bands=(BandSpec(name="VV", dtype="float32", units="dB"),), sensor="sentinel-1", level="",
                         tiles="{}", quality="{}")  # fmt: skip
    assert image_models.whole_scene(ImageCheckpoint.closed_form("otsu", None, schema).model)
    assert recipe("otsu").task == "segmentation"
