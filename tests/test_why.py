"""Which scene, mask, version and commit made a pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sceneworld import World

from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.run import ingest
from eoflow.tiling import to_degrees
from eoflow.why import why

NOW = "2021-06-01"


@pytest.fixture
def ready(tmp_path, workspace):
    world = World(tmp_path / "provider")
    scl = np.full((128, 192), 4)
    scl[:64] = 8
    world.add("a", "2020-03-01T10:00", void=(slice(0, 32), slice(None)), scl=scl, baseline="04.00")
    world.add("b", "2020-03-01T10:01", void=(slice(0, 16), slice(None)), scl=scl, baseline="05.09", version="7")
    world.add("c", "2020-03-11T10:00", scl=scl)
    world.faults = {"c": "corrupt"}
    world.publish(workspace, quality={"rule": "scl", "source_name": "SCL"})
    ingest("w", workspace=workspace, now=NOW)
    return world


def point(workspace, row, column):
    grid = Cube.load(workspace, "w").grid("T1")
    return to_degrees(grid.crs, grid.x()[column], grid.y()[row])


def test_the_scene_that_made_a_pixel(ready, workspace):
    w = why("w", *point(workspace, 20, 30), "2020-03-01", workspace)
    [p] = w.pixels
    assert (p.tile, p.row, p.column, p.quality) == ("T1", 20, 30, "cloud")
    assert (p.item["id"], p.item["version"], p.item["baseline"]) == ("b", "7", "05.09")
    assert p.others == ("a",)
    stored = int(ready.values["b"]["B04"][20, 30])
    assert p.bands[0].stored == stored
    assert p.bands[0].physical == pytest.approx(stored * 1e-4 - 0.1, abs=1e-6)
    assert p.bands[0].href == ready.scenes["b"].bands["B04"].href
    assert p.bands[0].etag
    archive = Archive.load(workspace, "w")
    assert p.commit["id"] == archive.snapshot
    assert p.commit["eoflow"]
    text = "\n".join(w.lines())
    for word in ("scene     b", "version 7", "baseline 05.09", "SCL.tif", "quality   cloud", p.commit["id"]):
        assert word in text
    json.dumps(w.to_dict())
    assert why("w", *point(workspace, 100, 3), "2020-03", workspace).pixels[0].item is None  # the last of March failed


def test_nodata_and_failed_steps(ready, workspace):
    [p] = why("w", *point(workspace, 5, 5), "2020-03-01", workspace).pixels
    assert p.quality == "nodata"
    assert p.item["id"] == "a"  # the first that covers it
    assert p.bands[0].physical is None
    w = why("w", *point(workspace, 5, 5), "2020-03-11", workspace)
    assert w.pixels[0].quality == "missing"
    text = "\n".join(w.lines())
    assert "failed" in text
    assert "the header is corrupt" in text
    assert "no scene of this time step is stored" in text
    assert "nearest" in "\n".join(why("w", *point(workspace, 5, 5), "2020-03-03", workspace).lines())


def test_as_of_and_the_commit_of_a_rewrite(ready, workspace):
    before = Archive.load(workspace, "w").snapshot
    ready.add("b", "2020-03-01T10:01", version="8", scl=np.full((128, 192), 4))
    ready.faults = {}
    ready.save()
    ingest("w", workspace=workspace, now=NOW)
    at = point(workspace, 20, 30)
    [new], [old] = (
        why("w", *at, "2020-03-01", workspace).pixels,
        why("w", *at, "2020-03-01", workspace, as_of=before).pixels,
    )
    assert (old.item["version"], new.item["version"]) == ("7", "8")
    assert old.commit["id"] == before
    assert new.commit["id"] == Archive.load(workspace, "w").snapshot
    assert new.quality == "clear"


def test_places_that_are_not_there(ready, workspace):
    with pytest.raises(BadInput, match="no tile at"):
        why("w", 0, 0, "2020-03-01", workspace)
    with pytest.raises(BadInput, match="no place"):
        why("w", 0, 95, "2020-03-01", workspace)
    with pytest.raises(BadInput):
        why("nothing", 0, 0, "2020-03-01", workspace)
