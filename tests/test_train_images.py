from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasters
import waters
from commandline import CommandLine

import eoflow
from eoflow import catalog, checkpoint, validation_images
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.errors import BadInput
from eoflow.prepare.scenes.run import prepare_patches
from eoflow.workspace import Workspace

LEARNT = [*waters.FLOODS, "training.steps=90", "training.save_every=45", "training.lr=1e-2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Radar and optical cubes, and a small U-Net trained on the radar."""
    ws = Workspace(tmp_path_factory.mktemp("waters") / "workspace")
    waters.radar(ws)
    waters.optical(ws)
    said = []
    report = eoflow.train("unet", "s1", overrides=LEARNT, workspace=ws, progress=lambda *a: said.append(a))
    assert said[-1]
    return ws, report


def copy(ws, tmp_path, without="checkpoints"):
    out = Workspace(tmp_path / "copy")
    shutil.copytree(ws.root, out.root, symlinks=True, ignore=shutil.ignore_patterns(without, "locks"))
    return out


def test_a_checkpoint_explains_itself(world):
    ws, report = world
    folder = checkpoint.current(ws, "s1", "unet")
    assert str(folder) == report.folder
    one = ImageCheckpoint.from_pretrained(folder)
    assert one.hash == report.hash
    assert one.recipe.patches.bands == one.normalizer.channels == ("VV", "VH")
    assert {b.name for b in one.schema.bands} == {"VV", "VH"}
    assert one.provenance["cube_snapshot"]
    assert one.provenance["dataset"] == "s1"
    assert one.splits["train"].endswith("samples")
    rows = json.loads((folder / "scores.json").read_text())
    value = {(r["model"], r["metric"]): r for r in rows}
    assert value["unet", "iou"]["value"] > value["otsu", "iou"]["value"] > 0.3
    assert all(r["low"] <= r["value"] <= r["high"] and r["n"] > 0 and r["split"] == "valid" for r in rows)
    card = (folder / "card.md").read_text()
    assert "eoflow train unet --dataset s1" in card
    assert f"{value['unet', 'iou']['value']:.4g}" in card
    assert "better than the trivial models" in card
    assert "Not beside it: ndwi" in card
    assert not list((ws.cache / "training").iterdir())


def test_the_same_training_again_changes_nothing(world):
    ws, report = world
    again = eoflow.train("unet", "s1", overrides=LEARNT, workspace=ws)
    assert again.reused
    assert again.hash == report.hash


def test_killed_at_any_moment_training_ends_with_the_same_weights(world, tmp_path):
    """SIGKILL in the second and in the third segment, then the same command: the weights of the undisturbed run."""
    ws = copy(world[0], tmp_path)
    overrides = [*waters.FLOODS, "training.steps=16"]
    whole = eoflow.train("unet", "s1", overrides=overrides, workspace=copy(world[0], tmp_path / "whole"))
    script = (
        "import eoflow\n"
        f"eoflow.train('unet', 's1', overrides={overrides!r}, workspace={ws.root!r},"
        " progress=lambda d, t, s: print(d, t, s, flush=True))\n"
    )
    for stop_after in (7, 12):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            at = re.match(r"(\d+) 16 loss", line)
            if at and int(at[1]) >= stop_after:
                process.kill()
                break
        assert process.wait() == -9
        assert checkpoint.current(ws, "s1", "unet") is None
    resumed = eoflow.train("unet", "s1", overrides=overrides, resume=True, workspace=ws)
    assert resumed.hash == whole.hash
    with pytest.raises(BadInput, match="no interrupted training"):
        eoflow.train("unet", "s1", overrides=[*overrides, "training.seed=9"], resume=True, workspace=ws)


def test_fine_tuning_keeps_the_normaliser_and_what_is_frozen(world, tmp_path):
    ws = copy(world[0], tmp_path, without="nothing")
    waters.radar(ws, "more", seed=5)
    frozen = [*LEARNT, "training.freeze=[encoder.]", "training.steps=10"]
    report = eoflow.train("unet", "more", overrides=frozen, start="unet", workspace=ws)
    first = ImageCheckpoint.from_pretrained(world[1].folder)
    second = ImageCheckpoint.from_pretrained(report.folder)
    assert second.normalizer == first.normalizer
    assert second.provenance["from"] == f"unet {first.hash}"
    mine, theirs = second.model.state_dict(), first.model.state_dict()
    same = {k for k in mine if np.array_equal(mine[k], theirs[k])}
    assert {k for k in mine if k.startswith("encoder.")} <= same
    assert any(k.startswith("decoder.") for k in mine.keys() - same)


def test_a_blend_lies_between_the_weights_before_and_after_tuning(world, tmp_path):
    ws = copy(world[0], tmp_path, without="nothing")
    some = [*LEARNT, "training.steps=5", "training.lr=1e-2"]
    before = ImageCheckpoint.from_pretrained(world[1].folder)
    whole, quarter = (
        ImageCheckpoint.from_pretrained(
            eoflow.train("unet", "s1", overrides=[*some, *more], start=world[1].folder, workspace=ws).folder
        )
        for more in ([], ["training.blend=0.25", "model=quarter"])
    )
    assert quarter.recipe.training.blend == 0.25
    theirs, all_new = before.model.state_dict(), whole.model.state_dict()
    for name, x in quarter.model.state_dict().items():
        if x.is_floating_point():
            wanted = 0.75 * theirs[name].double() + 0.25 * all_new[name].double()
            np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)
    assert any((theirs[n] - all_new[n]).abs().max() > 1e-3 for n in theirs if theirs[n].is_floating_point())


def test_a_blend_needs_a_start(world):
    with pytest.raises(BadInput, match="there is none"):
        eoflow.train("unet", "s1", overrides=[*LEARNT, "training.blend=0.5"], workspace=world[0])


def test_without_a_word_fine_tuning_is_gentler_than_training():
    recipe = catalog.recipe("unet")
    tuned = recipe.tuned().training
    assert tuned.lr == pytest.approx(recipe.training.lr / 10)
    assert (tuned.steps, tuned.keep_statistics, tuned.batch_size) == (200, True, recipe.training.batch_size)
    assert recipe.tuned().network == recipe.network


@pytest.mark.parametrize(
    ("overrides", "start", "message"),
    [
        (["network.options.width=8"], "unet", r"encoder\.0\.0\.weight is 4 x .* there and 8 x .* here"),
        (["patches.bands=[vh]"], "unet", "takes VV, VH, and the recipe VH"),
        ([], "unett", "no trained 'unett'"),
        (["patches.bands=[vv,vx]"], None, "no band 'vx'"),
        (["loss.name=dise"], None, "did you mean 'dice'"),
        (["loss={name: dice, options: {smoth: 1}}"], None, "did you mean 'smooth'"),
        (["augment=[{name: dihedrel}]"], None, "did you mean 'dihedral'"),
        (["augment=[{name: dihedral, options: {x: 1}}]"], None, "cannot be used"),
        (["network.options.widht=3"], None, "widht"),
        (["training.freeze=[nothing]"], None, "begins with 'nothing'"),
        (["training.crop=40"], None, "does not fit"),
        (["threshold=1.5"], None, "threshold: 1.5 is not a probability between 0 and 1"),
        (["threshold=validaton"], None, "threshold: 'validaton' is not a probability"),
        (["threshold=start"], None, "there are none"),
    ],
)
def test_bad_recipes(world, overrides, start, message):
    with pytest.raises(BadInput, match=message):
        eoflow.train("unet", "s1", overrides=[*waters.FLOODS, *overrides], start=start, workspace=world[0])


def test_the_threshold_is_where_f1_is_largest_on_the_validation_split(world, tmp_path):
    """Beside the scores of every other threshold; a fine-tuned model keeps the one of its start, unless told."""
    ws = copy(world[0], tmp_path, without="nothing")
    few = [*waters.FLOODS, "training.steps=20", "threshold=validation", "name=unsure"]
    made = ImageCheckpoint.from_pretrained(eoflow.train("unet", "s1", overrides=few, workspace=ws).folder)
    valid = prepare_patches("s1", made.recipe.patches, workspace=ws).train.with_split("valid")
    best = made.recipe.threshold

    def f1(threshold):
        made.recipe = made.recipe.model_copy(update={"threshold": threshold})
        found = validation_images.scored(made, valid, np.arange(len(valid)))
        return made.task.summary(made, found)["water", "f1"]

    others = {k / 100: f1(k / 100) for k in range(1, 100)}
    assert others[best] == max(others.values())
    assert min(others.values()) < others[best] > others[0.5] - 1e-9
    assert f"above a probability of {best:.2f}" in made.card
    recipe = catalog.apply_overrides(catalog.recipe("unet"), few)
    for asked, kept in (([], True), (["threshold=validation"], False)):
        more = ["training.steps=2", *asked]
        tuned = eoflow.train(recipe, "s1", overrides=more, start=made.location, workspace=ws)
        found = ImageCheckpoint.from_pretrained(tuned.folder)
        assert ("threshold" in found.provenance) != kept
        assert not kept or found.recipe.threshold == best


def test_without_a_pixel_of_the_class_the_threshold_is_a_half(world):
    one = ImageCheckpoint.from_pretrained(world[1].folder)
    dry = prepare_patches("s1", one.recipe.patches, workspace=world[0]).train.with_split("valid")
    batch = dry.batch
    dry.batch = lambda indices: (found := batch(indices))._replace(labels=found.labels.clamp(max=0))
    assert validation_images.chosen_threshold(one, dry) == 0.5


def test_bad_requests(world):
    ws = world[0]
    with pytest.raises(BadInput, match="say what to train on"):
        eoflow.train("unet", workspace=ws)
    with pytest.raises(BadInput, match="training period"):
        eoflow.train("unet", "s1", train_period="2020-01-01/2021-01-01", workspace=ws)
    with pytest.raises(BadInput, match="recipe of forecasts"):
        eoflow.train("puyun", "s1", start="x", workspace=ws)
    with pytest.raises(BadInput, match="is a unet for segmentation"):
        eoflow.train("unetplusplus", "s1", start="unet", overrides=waters.FLOODS, workspace=ws)


CLOUDS = ["patches.patch=16", "patches.split.block=400", "patches.split.buffer=0", "training.steps=6",
          "training.batch_size=4", "patches.dates=2", "training.crop=null"]  # fmt: skip


def test_cloud_removal_beside_its_composites(world):
    overrides = [*CLOUDS, "network.options.width=16", "network.options.blocks=1"]
    report = eoflow.train("uncrtaints", "s2", overrides=overrides, workspace=world[0])
    one = ImageCheckpoint.from_pretrained(report.folder)
    assert one.recipe.patches.targets == one.target_normalizer.channels == ("B02", "B03", "B04", "B08")
    assert one.tells_uncertainty
    metrics = {r["metric"] for r in report.scores if r["model"] == "linear-in-time"}
    assert metrics == {f"{m}_{w}" for m in ("psnr", "sam", "mae") for w in ("all", "cloudy")}
    assert all(np.isfinite(r["value"]) for r in report.scores)


def test_change_detection(world, tmp_path):
    overrides = ["patches.bands=[VV,VH]", "patches.labels.band=water", *CLOUDS[:5], "training.crop=null",
                 "network.options={width: 4}", "training.steps=4"]  # fmt: skip
    report = eoflow.train("siamese-unet", "s1", overrides=overrides, workspace=world[0])
    assert {r["model"] for r in report.scores} == {"siamese-unet", "image-difference", "change-vector", "ir-mad"}
    assert "No skill" in (Path(report.folder) / "card.md").read_text() or report.scores[0]["value"] > 0


def test_a_model_without_weights_is_scored_and_kept(world):
    report = eoflow.train("band-thresholds", "s1", overrides=waters.FLOODS[:3], workspace=world[0])
    assert (report.steps, report.parameters) == (0, 0)
    assert report.scores[0]["value"] > 0.5


def test_the_command_line(world, capsys):
    call = CommandLine(world[0], capsys)
    sets = [x for o in LEARNT for x in ("--set", o)]
    done = call("train", "unet", "--dataset", "s1", *sets)
    assert done.code == 0
    assert "already trained; nothing changed" in done.out
    assert "next: eoflow flood s1 --model unet" in done.out
    document = call("--json", "train", "unet", "--dataset", "s1", *sets).document
    assert document["reused"]
    assert document["task"] == "segmentation"
    refused = call("train", "unet", "--set", "training.stepps=3")
    assert refused.code == 2
    rows = {r["name"]: r for r in call("--json", "models", "list").document}
    assert rows["unet"]["task"] == "segmentation"
    assert any(t.startswith("s1 (") for t in rows["unet"]["trained_on"])
    assert "better than the trivial models" in call("models", "show", "unet").out
    assert "Otsu" in call("models", "show", "otsu").out


def test_chips(world, tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "chips").mkdir()
    for i in range(8):
        water = waters.lakes(rng)[:48, :48]
        level = np.stack([np.where(water, -17, -11), np.where(water, -24, -17)]) + rng.normal(0, 2, (2, 48, 48))
        rasters.write(tmp_path / "chips" / f"Place{i}_S1Hand.tif", level.astype("f4"), nodata=float("nan"))
        rasters.write(tmp_path / "chips" / f"Place{i}_LabelHand.tif", water.astype("i2"), nodata=-1)
    tuned = ["patches.patch=32", "training.steps=10", *waters.FLOODS[3:4], *waters.FLOODS[6:]]
    report = eoflow.train("unet", chips=tmp_path / "chips", start="unet", overrides=tuned, workspace=world[0])
    one = ImageCheckpoint.from_pretrained(report.folder)
    assert one.normalizer.mean == ImageCheckpoint.from_pretrained(world[1].folder).normalizer.mean
    value = {r["model"]: r["value"] for r in report.scores if r["metric"] == "iou"}
    assert value["unet"] > 0.4
    helped = value["unet"] > value["before tuning"]
    assert ("Fine-tuning helped" if helped else "Fine-tuning did not help") in report.verdict
    assert report.verdict in (Path(report.folder) / "card.md").read_text()
