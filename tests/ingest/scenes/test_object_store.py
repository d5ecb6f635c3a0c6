"""Scenes in an object store: no lock there, commits are conditional; what is stored is what a folder would hold."""

from __future__ import annotations

import numpy as np
from sceneworld import World

from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.ingest.run import backfill, gaps, history, ingest
from eoflow.ingest.scenes.job import SceneJob

NOW = "2021-06-01"


def test_the_same_verbs(tmp_path, bucket, workspace):
    world = World(tmp_path / "provider")
    for i in range(3):
        world.add(f"s{i}", f"2020-03-{1 + 5 * i:02d}T10:00")
    whole = world.damage("s1", "B08")
    for place in (bucket, workspace):
        world.publish(place)
        report = ingest("w", workspace=place, now=NOW)
        assert (report.new, report.failed, report.commits) == (2, 1, 1)
    assert gaps("w", bucket, now=NOW).count(4) == 1
    (world.folder / "s1-1-B08.tif").write_bytes(whole)
    for place in (bucket, workspace):
        assert backfill("w", workspace=place, now=NOW).new == 1
        assert ingest("w", workspace=place, now=NOW).new == 0
    assert len(history("w", bucket)) == len(history("w", workspace))
    one, two = (Cube.load(place, "w") for place in (bucket, workspace))
    for level in (1, 4):
        ours, theirs = (c.open("T1", level=level, chunks=None) for c in (one, two))
        assert list(ours) == list(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name].values, theirs[name].values)
    np.testing.assert_array_equal(one.open("T1", chunks=None).B08.values[1], world.values["s1"]["B08"])


def test_another_writer_was_faster(tmp_path, bucket, monkeypatch):
    """The batch is done again on top of what the other one wrote; nothing is lost, nothing is doubled."""
    world = World(tmp_path / "provider")
    world.add("a", "2020-03-01T10:00")
    world.publish(bucket)
    ingest("w", workspace=bucket, now=NOW)
    world.add("b", "2020-03-06T10:00")
    world.add("c", "2020-03-11T10:00")
    world.save()
    write, met = SceneJob._write, []

    def beaten(self, tx, batch, slots):
        write(self, tx, batch, slots)
        if not met:
            met.append(1)
            with self.archive.transaction("another writer", {"what": "test"}) as other:
                other.group.attrs["note"] = "was here"

    monkeypatch.setattr(SceneJob, "_write", beaten)
    report = ingest("w", workspace=bucket, now=NOW)
    assert met
    assert (report.new, report.failed) == (2, 0)
    cube = Cube.load(bucket, "w")
    ds = cube.open("T1", chunks=None)
    for i, name in enumerate("abc"):
        np.testing.assert_array_equal(ds.B04.values[i], world.values[name]["B04"])
    assert ds.sizes["time"] == 3
    assert [c.message for c in history("w", bucket)].count("another writer") == 1
    assert Archive.load(bucket, "w").attrs()["note"] == "was here"
