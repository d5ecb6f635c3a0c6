from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import SMALL_NET, small_world

import eoflow
from eoflow import checkpoint
from eoflow.checkpoint import Checkpoint
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.workspace import Workspace


def folder_of(ws, name="puyun"):
    return checkpoint.current(ws, "small", name)


def test_a_checkpoint_explains_itself(trained):
    folder = folder_of(trained)
    assert sorted(p.name for p in folder.iterdir()) == ["card.md", "config.json", "model.safetensors", "scores.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["network"]["name"] == "puyun"
    assert config["provenance"]["archive_snapshot"]
    assert set(config["splits"]) >= {"train", "valid"}
    card = (folder / "card.md").read_text()
    assert "eoflow train puyun --dataset small" in card
    rows = json.loads((folder / "scores.json").read_text())
    mine = {(r["variable"], r["lead_hours"]): r for r in rows if r["model"] == "puyun"}
    theirs = {(r["variable"], r["lead_hours"]): r for r in rows if r["model"] == "persistence"}
    assert mine[("z500", 24.0)]["value"] < theirs[("z500", 24.0)]["value"]
    assert all(r["low"] <= r["value"] <= r["high"] and r["n"] > 0 for r in rows)
    assert f"{mine[('z500', 24.0)]['value']:.4g}" in card


def test_round_trip_and_tampering(trained, tmp_path):
    one = Checkpoint.from_pretrained(folder_of(trained))
    one.save_pretrained(tmp_path / "copy")
    assert Checkpoint.from_pretrained(tmp_path / "copy").hash == one.hash
    file = tmp_path / "copy" / "config.json"
    config = json.loads(file.read_text())
    config["normalizer"]["mean"][0] += 1
    file.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="changed after"):
        Checkpoint.from_pretrained(tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(BadInput):
        Checkpoint.from_pretrained(tmp_path / "copy")
    with pytest.raises(BadInput, match="not a checkpoint"):
        Checkpoint.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds no checkpoint"):
        one.save_pretrained(tmp_path)


def test_half_precision_survives_its_own_hash(trained, tmp_path):
    one = Checkpoint.from_pretrained(folder_of(trained))
    one.save_pretrained(tmp_path / "half", half=True)
    half = Checkpoint.from_pretrained(tmp_path / "half")
    size = [(p / "model.safetensors").stat().st_size for p in (tmp_path / "half", folder_of(trained))]
    assert size[0] < 0.7 * size[1]
    assert half.hash == one.hash  # saving rounded the model in place


def test_the_same_training_again_changes_nothing(trained):
    before = folder_of(trained)
    report = eoflow.train("puyun", "small", overrides=SMALL_NET, workspace=trained)
    assert report.reused
    assert folder_of(trained) == before


def test_the_same_seed_gives_the_same_weights(trained, trained_copy):
    shutil.rmtree(trained_copy.path("checkpoints"))
    report = eoflow.train("puyun", "small", overrides=SMALL_NET, workspace=trained_copy)
    assert not report.reused
    assert report.hash == Checkpoint.from_pretrained(folder_of(trained)).hash
    other = eoflow.train("puyun", "small", overrides=[*SMALL_NET, "training.seed=5"], workspace=trained_copy)
    assert other.hash != report.hash


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("puyon", [], "did you mean 'puyun'"),
        ("puyun", ["training.epoch=1"], "did you mean 'epochs'"),
        ("puyun", ["network.options.widht=3"], "widht"),
        ("puyun", ["network.options.base=nothing"], "base"),
        ("puyun", ["variables=[nothing]"], "no variable 'nothing'"),
        ("puyun", ["training.variable_weights={q: 1}"], "no variable 'q'"),
    ],
)
def test_bad_recipes(trained, recipe, overrides, message):
    with pytest.raises(BadInput, match=message):
        eoflow.train(recipe, "small", overrides=overrides, workspace=trained)


def test_bad_datasets_and_periods(trained):
    with pytest.raises(BadInput, match="no archive"):
        eoflow.train("puyun", "smal", workspace=trained)
    with pytest.raises(BadInput):
        eoflow.train("puyun", "small", train_period="2001-01-01/2001-01-20", workspace=trained)
    with pytest.raises(BadInput, match=r"nothing|no interrupted"):
        eoflow.train("puyun", "small", overrides=["training.seed=77"], resume=True, workspace=trained)


def test_a_train_period_is_not_left(trained):
    eoflow.train("climatology", "small", train_period="2001-01-01/2002-02-28", workspace=trained)
    splits = Checkpoint.from_pretrained(folder_of(trained, "climatology")).splits
    ends = sorted(np.datetime64(p.split("/")[1]) for p in splits.values())
    assert ends[-1] < np.datetime64("2002-03-01")


def test_a_checkpoint_of_another_grid_is_refused(trained, tmp_path, workspace):
    small_world(60).isel(latitude=slice(0, 4)).to_netcdf(tmp_path / "other.nc")
    eoflow.ingest("other", [str(tmp_path / "other.nc")], workspace=workspace)
    with pytest.raises(SchemaMismatch, match=r"6 x 10.*|grid: 4 x 10"):
        eoflow.forecast("3d", dataset="other", model=str(folder_of(trained)), workspace=workspace)


def test_killed_at_any_moment_training_ends_with_the_same_weights(trained, trained_copy):
    """SIGKILL after the first lines of progress, then the same command: the weights of the undisturbed run."""
    shutil.rmtree(trained_copy.path("checkpoints"))
    overrides = [x for o in [*SMALL_NET, "training.epochs=12"] for x in ("--set", o)]
    script = (
        "import eoflow, sys, eoflow.fitting as f; f.SEGMENT_STEPS = 40\n"
        "from dataclasses import replace\n"
        "of = f.Plan.of.__func__\n"
        "f.Plan.of = classmethod(lambda c, *a: replace(of(c, *a), segment=40))\n"
        f"eoflow.train('puyun', 'small', overrides={overrides[1::2]!r}, workspace={trained_copy.root!r},"
        " progress=lambda d, t, s: print(d, t, flush=True))\n"
        "print('done', flush=True)\n"
    )
    cut = 0
    for stop_after in (30, 90):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            at = re.match(r"(\d+) (\d+)", line)
            if at and int(at[2]) > 100 and int(at[1]) >= stop_after:
                process.kill()
                cut += 1
                break
        process.wait()
        assert folder_of(trained_copy) is None
    assert cut == 2
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    interrupted = Checkpoint.from_pretrained(folder_of(trained_copy)).hash
    fresh = Workspace(str(trained_copy.root) + "-fresh")
    shutil.copytree(trained.root, fresh.root, symlinks=True)
    shutil.rmtree(fresh.path("checkpoints"))
    subprocess.run(
        [sys.executable, "-c", script.replace(trained_copy.root, fresh.root)], check=True, capture_output=True
    )
    assert interrupted == Checkpoint.from_pretrained(folder_of(fresh)).hash
