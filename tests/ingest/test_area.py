"""`--area`: the part of the Earth that a dataset is of, given once."""

from __future__ import annotations

import pytest
from sceneworld import World

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.errors import BadInput, Failure
from eoflow.ingest import area
from eoflow.ingest.run import backfill, ingest

NOW = "2021-06-01"
HERE = "14,41,15.5,42"


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,4,5", "1,50,2,40", "0,0,400,1", "0,-91,1,0", ""])
def test_what_is_no_box(text):
    with pytest.raises(BadInput) as e:
        area.parse(text)
    assert "W,S,E,N" in e.value.text()


@pytest.mark.parametrize(
    ("outer", "inner", "inside"),
    [
        ((0, 0, 10, 10), (1, 1, 9, 9), True),
        ((0, 0, 10, 10), (0, 0, 10, 10), True),
        ((0, 0, 10, 10), (1, 1, 11, 9), False),
        ((0, 0, 10, 10), (1, -1, 9, 9), False),
        ((170, 0, -170, 10), (175, 1, -175, 9), True),
        ((170, 0, -170, 10), (-179, 1, -175, 9), True),
        ((170, 0, -170, 10), (165, 1, -175, 9), False),
        ((-180, -90, 180, 90), (175, 1, -175, 9), True),
        ((350, 0, 10, 10), (-5, 1, 5, 9), True),
    ],
)
def test_a_box_in_another(outer, inner, inside):
    assert area.holds(outer, inner) is inside


def test_scenes(tmp_path, workspace):
    """sceneworld's source passes the area over: only what is kept is looked at here. Sources have their own tests."""
    world = World(tmp_path / "provider")
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace)
    before = workspace.read_text("catalogs", "datasets", "w.yaml")
    world.faults = {"a": "corrupt"}
    world.save()
    with pytest.raises(Failure):
        ingest("w", workspace=workspace, now=NOW, area=HERE)
    assert workspace.read_text("catalogs", "datasets", "w.yaml") == before
    world.faults = {}
    world.save()
    ingest("w", workspace=workspace, now=NOW, area=HERE)
    assert catalog.entry("w", workspace).area == (14, 41, 15.5, 42)
    assert Cube.load(workspace, "w").entry.area == (14, 41, 15.5, 42)
    assert ingest("w", workspace=workspace, now=NOW, area=HERE).skipped == 1
    assert backfill("w", workspace=workspace, now=NOW).new == 0
    state = Archive.load(workspace, "w").snapshot
    for other in ("14,41,15,42", "0,0,90,80"):
        with pytest.raises(BadInput, match="begun for 14,41") as e:
            ingest("w", workspace=workspace, now=NOW, area=other)
        assert e.value.exit_code == 2
    assert Archive.load(workspace, "w").snapshot == state


def test_an_area_beyond_that_of_the_entry(tmp_path, workspace):
    world = World(tmp_path / "provider")
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace, area=[14, 41, 15, 42])
    with pytest.raises(BadInput, match="beyond the area of the entry"):
        ingest("w", workspace=workspace, now=NOW, area=HERE)
    assert not Archive(workspace, "w").exists()
    path = tmp_path / "w.yaml"
    path.write_text(workspace.read_text("catalogs", "datasets", "w.yaml"))
    with pytest.raises(BadInput, match="file's entry"):
        ingest(str(path), workspace=workspace, now=NOW, area=HERE)
    with pytest.raises(BadInput, match="taken whole"):
        ingest("w", [path], workspace=workspace, now=NOW, area=HERE)


def test_fields_of_a_part_of_the_planet(workspace):
    """The sample atmosphere cut to a box; every later run asks for the same."""
    how = {"workspace": workspace, "now": "2020-01-04"}
    ingest("sample-atmosphere", area="0,20,60,70", period="2020-01-01/2020-01-01", **how)
    archive = Archive.load(workspace, "sample-atmosphere")
    grid = archive.schema.grid
    assert min(grid.latitude) >= 20
    assert max(grid.latitude) <= 70
    assert max(grid.longitude) <= 60
    assert ingest("sample-atmosphere", **how).new > 0
    assert Archive.load(workspace, "sample-atmosphere").schema.grid == grid
    with pytest.raises(BadInput, match="begun for"):
        ingest("sample-atmosphere", area="0,20,30,70", **how)


def test_the_sample_land_is_cut(workspace):
    """A source of scenes that minds the area: only the tile that the box touches comes in."""
    from eoflow.sources.land import Tile

    entry = catalog.entry("sample-scenes")
    tiles = entry.source.args["tiles"]
    size = entry.source.args.get("size", 512)
    name = next(iter(tiles))
    west, south, east, north = Tile.parse(name, size).bbox
    x, y = (west + east) / 2, (south + north) / 2
    ingest("sample-scenes", area=f"{x - 1e-3},{y - 1e-3},{x + 1e-3},{y + 1e-3}", period="2020-01-01/2020-01-08",
           workspace=workspace, now="2020-03-01")  # fmt: skip
    assert Cube.load(workspace, "sample-scenes").tiles() == [name]
    assert len(tiles) > 1
