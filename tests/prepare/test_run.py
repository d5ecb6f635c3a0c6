from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import eoflow
from eoflow.catalog import NetworkRef, Recipe
from eoflow.errors import BadInput
from eoflow.prepare import build
from eoflow.prepare.run import prepare
from eoflow.prepare.trainset import Store

RECIPE = Recipe(name="r", title="r", network=NetworkRef(name="persistence"))
PERIODS = {"train": "2001-01-01/2001-01-30", "valid": "2001-02-02/2001-02-10"}


def test_the_package_is_the_function(make_archive, world, workspace):
    make_archive(world(170), splits=PERIODS)
    done = eoflow.prepare(RECIPE, "world", workspace=workspace)
    assert done.path == workspace.path("prepared", "world") / f"{done.key}.zarr"
    assert done.to_dict()["rows"] == 156
    assert done.key in done.text()


def test_the_same_again_changes_nothing_and_appending_outside_neither(make_archive, world, workspace, put):
    ds = world(200)
    archive = make_archive(ds.isel(time=slice(0, 170)), splits=PERIODS)
    first = prepare(RECIPE, "world", workspace=workspace)
    assert not first.reused
    stamp = {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}
    snapshot = archive.snapshot
    again = prepare(RECIPE, "world", workspace=workspace)
    assert again.reused
    assert again.key == first.key
    assert archive.snapshot == snapshot
    put(archive, ds.isel(time=slice(170, 200)))
    assert prepare(RECIPE, "world", workspace=workspace).key == first.key
    assert stamp == {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}


def test_changed_data_periods_or_variables_make_another_set(make_archive, world, workspace, put):
    ds = world(170)
    archive = make_archive(ds, splits=PERIODS)
    keys = [prepare(RECIPE, "world", workspace=workspace).key]
    keys.append(prepare(RECIPE, "world", train_period="2001-01-02/2001-01-30", workspace=workspace).key)
    only = prepare(RECIPE.model_copy(update={"variables": ("msl",)}), "world", workspace=workspace)
    assert only.normalizer.channels == ("msl",)
    keys.append(only.key)
    keys.append(prepare(RECIPE, "world", transforms={"msl": "sqrt"}, workspace=workspace).key)
    ds["z"][130] += 1.0  # in the validation period: the normaliser stays, the set does not
    put(archive, ds.isel(time=[130]))
    keys.append(prepare(RECIPE, "world", workspace=workspace).key)
    assert len(set(keys)) == 5


def test_default_splits_touch_nothing_twice(make_archive, world, workspace):
    make_archive(world(400))
    done = prepare(RECIPE, "world", workspace=workspace)
    times = [set(s.times.tolist()) for s in (done.trainset, done.validset)]
    assert not times[0] & times[1]
    assert done.splits.test is not None
    assert np.datetime64(max(times[1]), "ns") < done.splits.test.start


def test_wrong_input(make_archive, world, workspace):
    with pytest.raises(BadInput, match="has no archive"):
        prepare(RECIPE, "nowhere", workspace=workspace)
    make_archive(world(40))
    with pytest.raises(BadInput, match="training period holds 0 times"):
        prepare(RECIPE, "world", train_period="1999", workspace=workspace)
    with pytest.raises(BadInput, match="no variable 'q'"):
        prepare(RECIPE.model_copy(update={"variables": ("q",)}), "world", workspace=workspace)
    assert not workspace.exists("prepared")


def test_a_failed_run_shows_nothing_and_the_next_one_keeps_its_shards(make_archive, world, workspace, monkeypatch):
    make_archive(world(170), splits=PERIODS)
    monkeypatch.setattr(build, "SHARD_BYTES", 12 * 4 * 3 * 60)
    monkeypatch.setattr(build, "CHUNK_BYTES", 4 * 3 * 60)
    real, written = build.write_shard, []

    def dies(partial, group, schema, normalizer, steps, start):
        if len(written) >= 5:
            raise KeyboardInterrupt
        real(partial, group, schema, normalizer, steps, start)
        written.append(start)

    monkeypatch.setattr(build, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, "world", workspace=workspace)
    names = workspace.names("prepared", "world")
    assert len(names) == 1
    assert names[0].endswith(".partial")
    assert written

    def counts(partial, group, schema, normalizer, steps, start):
        assert start not in before
        real(partial, group, schema, normalizer, steps, start)

    before = set(written)
    monkeypatch.setattr(build, "write_shard", counts)
    done = prepare(RECIPE, "world", workspace=workspace)
    assert workspace.names("prepared", "world") == [f"{done.key}.zarr"]
    assert done.trainset.windows(1) == 120
    assert np.isfinite(Store(done.path, 0).span(0, 156)).all()
    assert (np.abs(Store(done.path, 0).span(0, 156)).sum(axis=(1, 2, 3)) > 0).all()


SCRIPT = """
import sys, time
from eoflow.catalog import NetworkRef, Recipe
from eoflow.prepare import build
from eoflow.prepare.run import prepare
build.SHARD_BYTES, build.CHUNK_BYTES = 4 * 4 * 3 * 60, 4 * 3 * 60
print("ready", flush=True)
prepare(Recipe(name="r", title="r", network=NetworkRef(name="persistence")), "world", workspace=sys.argv[1])
"""


def test_killed_anywhere_the_next_run_makes_the_same_set(make_archive, world, workspace, monkeypatch, tmp_path):
    make_archive(world(170), splits=PERIODS)
    for delay in (0.15, 0.4, 0.7):
        p = subprocess.Popen([sys.executable, "-c", SCRIPT, workspace.root], stdout=subprocess.PIPE, text=True)
        assert p.stdout is not None
        p.stdout.readline()
        time.sleep(delay)  # the moment of the kill, not a wait for something
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
    monkeypatch.setattr(build, "SHARD_BYTES", 4 * 4 * 3 * 60)
    monkeypatch.setattr(build, "CHUNK_BYTES", 4 * 3 * 60)
    done = prepare(RECIPE, "world", workspace=workspace)
    survived = done.trainset.store.span(0, 156).copy()
    for path in workspace.path("prepared", "world").iterdir():
        path.rename(tmp_path / path.name)
    again = prepare(RECIPE, "world", workspace=workspace)
    assert again.key == done.key
    np.testing.assert_array_equal(again.trainset.store.span(0, 156), survived)
