"""Ingest of a catalog dataset of scenes: what is stored, mosaicked, skipped, noted, retried."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sceneworld import World

from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.errors import BadInput, Failure
from eoflow.ingest.ledger import Status
from eoflow.ingest.run import backfill, gaps, history, ingest, rollback
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.quality import Quality

NOW = "2021-06-01"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "provider")


def values(workspace, tile="T1", name="w", **how):
    return Cube.load(workspace, name).open(tile, chunks=None, **how)


def test_what_is_stored(world, workspace):
    scl = np.full((128, 192), 4)
    scl[:10], scl[10:20], scl[20:30] = 9, 6, 3
    world.add("a", "2020-03-01T10:00:00.123456", scl=scl, void=(slice(0, 64), slice(0, 64)), baseline="04.00")
    world.add("b", "2020-03-06T10:00", scl=scl)
    world.publish(workspace, quality={"rule": "scl", "source_name": "SCL"})
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.commits) == (2, 0, 1)
    ds = values(workspace)
    assert list(ds) == ["B04", "B08", "quality", "scene"]
    assert ds.sizes == {"time": 2, "y": 128, "x": 192}
    assert str(ds.time.values[0]) == "2020-03-01T10:00:00.123456000"
    for i, s in enumerate("ab"):
        for b in world.bands:
            np.testing.assert_array_equal(ds[b].values[i], world.values[s][b])
            assert ds[b].dtype == np.uint16
    q = ds.quality.values[0]
    assert (q[:64, :64] == Quality.NODATA).all()
    assert (q[:10, 64:] == Quality.CLOUD).all()
    assert (q[10:20, 64:] == Quality.WATER).all()
    assert (q[20:30, 64:] == Quality.SHADOW).all()
    assert (q[64:] == Quality.CLEAR).all()
    assert (ds.scene.values == 1).all()
    cube = Cube.load(workspace, "w")
    [item] = cube.items("T1", 0)
    assert (item["id"], item["baseline"], item["version"]) == ("a", "04.00", "1")
    assert item["hrefs"]["B04"] == world.scenes["a"].bands["B04"].href
    assert item["etags"].keys() == {"B04", "B08", "quality"}
    assert item["valid_fraction"] == pytest.approx(1 - 64 * 64 / (128 * 192), abs=1e-6)
    group = cube.group("T1")
    np.testing.assert_allclose(group["provenance/valid_fraction"][0], [[0, 1, 1], [1, 1, 1]])
    assert group["B04"].chunks == (1, 64, 64)
    ratio = values(workspace, physical=True).B04.values
    assert np.isnan(ratio[0, :64, :64]).all()
    np.testing.assert_allclose(ratio[1], world.values["b"]["B04"] * 1e-4 - 0.1, rtol=1e-6, atol=2e-8)


def test_opens_without_eoflow(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace)
    report = ingest("w", workspace=workspace, now=NOW)
    space: dict = {}
    exec("\n".join(report.opens), space)
    ds = space["ds"]
    import rioxarray  # noqa: F401

    assert ds.rio.crs.to_epsg() == 32633
    assert ds.B04.attrs["units"] == "1"
    np.testing.assert_allclose(ds.B04.values[0], world.values["a"]["B04"] * 1e-4 - 0.1)
    store = Archive.load(workspace, "w").repo.readonly_session("main").store
    small = xr.open_zarr(store, group="tiles/T1/overviews/4", consolidated=False, mask_and_scale=False)
    expected = np.rint(world.values["a"]["B04"].reshape(32, 4, 48, 4).mean(axis=(1, 3)))
    np.testing.assert_array_equal(small.B04.values[0], expected)
    assert small.rio.crs.to_epsg() == 32633
    assert float(small.x[1] - small.x[0]) == 40.0
    assert small.time.values[0] == ds.time.values[0]


def test_first_wins_within_a_solar_day(world, workspace):
    world.add("a", "2020-03-01T10:00", void=(slice(0, 100), slice(None)))
    world.add("b", "2020-03-01T10:01", void=(slice(0, 50), slice(None)))
    world.add("c", "2020-03-02T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    ds = values(workspace)
    assert ds.sizes["time"] == 2
    scene = ds.scene.values[0]
    assert (scene[:50] == 1).all()  # covered by the first, without a value
    assert (scene[50:100] == 2).all()
    assert (scene[100:] == 1).all()
    assert (ds.quality.values[0, :50] == Quality.NODATA).all()
    assert (ds.quality.values[0, 50:] == Quality.CLEAR).all()
    np.testing.assert_array_equal(ds.B04.values[0, 50:100], world.values["b"]["B04"][50:100])
    np.testing.assert_array_equal(ds.B04.values[0, 100:], world.values["a"]["B04"][100:])
    assert [i["id"] for i in Cube.load(workspace, "w").items("T1", 0)] == ["a", "b"]


def test_each_time_its_own_step(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.add("b", "2020-03-01T10:01")
    world.publish(workspace, group_by="time")
    ingest("w", workspace=workspace, now=NOW)
    assert values(workspace).sizes["time"] == 2


def test_nothing_to_do_and_later_scenes(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    before = Archive.load(workspace, "w").snapshot
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.skipped, report.commits) == (0, 1, 0)
    assert Archive.load(workspace, "w").snapshot == before
    world.add("b", "2020-03-11T10:00")
    world.add("late", "2020-02-20T10:00")
    world.save()
    assert ingest("w", workspace=workspace, now=NOW).new == 2
    ds = values(workspace)
    assert (np.diff(ds.time.values) > np.timedelta64(0)).all()
    for i, s in enumerate(("late", "a", "b")):
        np.testing.assert_array_equal(ds.B08.values[i], world.values[s]["B08"])
        assert Cube.load(workspace, "w").items("T1", i)[0]["id"] == s
    coarse = values(workspace, level=4).B08.values
    np.testing.assert_array_equal(
        coarse[1], np.rint(world.values["a"]["B08"].reshape(32, 4, 48, 4).mean(axis=(1, 3)))
    )  # fmt: skip


def test_a_bad_scene_is_named_and_the_rest_goes_on(world, workspace):
    for i in range(5):
        world.add(f"s{i}", f"2020-03-{1 + 5 * i:02d}T10:00")
    whole = world.damage("s1", "B08")
    world.faults = {"s3": "missing"}
    world.publish(workspace)
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.absent) == (3, 1, 1)
    broken = next(p for p in report.problems if "s1" in p.asset)
    assert "B08" in broken.asset
    assert "rows" in broken.asset
    ds = values(workspace)
    assert ds.sizes["time"] == 5  # the failed ones keep their slots
    assert (ds.quality.values[[1, 3]] == Quality.MISSING).all()
    assert (ds.scene.values[[1, 3]] == 0).all()
    assert (ds.B04.values[[1, 3]] == 0).all()
    assert Cube.load(workspace, "w").items("T1", 1) == []
    found = gaps("w", workspace, now=NOW)
    assert (found.expected, found.count(Status.FAILED), found.count(Status.ABSENT_AT_SOURCE)) == (5, 1, 1)
    assert "s1" in found.ranges[0].reason
    assert "scenes" in found.summary()
    before = Archive.load(workspace, "w").snapshot
    assert backfill("w", workspace=workspace, now=NOW).new == 0
    assert Archive.load(workspace, "w").snapshot == before  # nothing new is known
    (world.folder / "s1-1-B08.tif").write_bytes(whole)
    world.faults = {}
    world.save()
    report = backfill("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.absent) == (2, 0, 0)
    assert gaps("w", workspace, now=NOW).fraction == 1.0
    ds = values(workspace)
    for i in range(5):
        np.testing.assert_array_equal(ds.B08.values[i], world.values[f"s{i}"]["B08"])


def test_a_bad_scene_is_not_the_others_loss(world, workspace, monkeypatch):
    """Its batch is not read again for it; what was written of its own step is taken back."""
    from eoflow.ingest.scenes import runners

    for i in range(6):
        world.add(f"s{i}", f"2020-03-{1 + 5 * i:02d}T10:00")
    world.add("pair", "2020-03-06T10:01", void=(slice(0, 64), slice(None)))  # with s1 in one step
    world.damage("s1", "B08")
    world.damage("s4", "B04")
    world.publish(workspace)
    read, begun = runners.read, []

    def counted(scene, *rest):
        begun.append(scene.id)
        return read(scene, *rest)

    monkeypatch.setattr(runners, "read", counted)
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.commits) == (5, 2, 1)
    assert {s: begun.count(s) for s in ("s0", "s2", "s3", "s5", "s4", "s1", "pair")} == {
        "s0": 1, "s2": 1, "s3": 1, "s5": 1, "s4": 1, "s1": 1, "pair": 2,
    }  # fmt: skip
    cube = Cube.load(workspace, "w")
    ds, coarse = values(workspace), values(workspace, level=4)
    assert ds.sizes["time"] == 6
    for i in (0, 2, 3, 5):
        np.testing.assert_array_equal(ds.B04.values[i], world.values[f"s{i}"]["B04"])
        assert [x["id"] for x in cube.items("T1", i)] == [f"s{i}"]
    np.testing.assert_array_equal(ds.B04.values[1], world.values["pair"]["B04"])
    assert [x["id"] for x in cube.items("T1", 1)] == ["pair"]
    for layers in (ds, coarse):
        assert not any(layers[n].values[4].any() for n in ("B04", "B08", "quality", "scene"))
    whole = Cube.load(workspace, "w").group("T1")["provenance/valid_fraction"][:]
    assert np.isnan(whole[4]).all()
    np.testing.assert_allclose(whole[1].mean(), 0.5)
    rows = {r.scene: r for r in SceneLedger.load(Archive.load(workspace, "w")).rows.values()}
    assert sorted(s for s, r in rows.items() if not r.present) == ["s1", "s4"]


def test_what_is_read_ahead_is_what_is_stored(world, workspace, monkeypatch):
    """While a batch is committed, the windows of the next one are read: each once, also across slices of headers."""
    from eoflow.ingest.scenes import plan, runners

    monkeypatch.setattr(plan, "BATCH_SCENES", 2)
    monkeypatch.setattr(plan, "FIRST_SLICE", 3)
    monkeypatch.setattr(plan, "SLICE", 3)
    for i in range(7):
        world.add(f"s{i}", f"2020-03-{1 + 4 * i:02d}T10:00")
    world.damage("s4", "B08")
    world.publish(workspace)
    read, take, begun, taken = runners.read, runners.Ahead.take, [], []

    def counted(scene, *rest):
        begun.append(scene.id)
        return read(scene, *rest)

    def noted(self, scene, grid):
        found = take(self, scene, grid)
        taken.extend([scene.id] if found is not None else [])
        return found

    monkeypatch.setattr(runners, "read", counted)
    monkeypatch.setattr(runners.Ahead, "take", noted)
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed) == (6, 1)
    assert sorted(begun) == [f"s{i}" for i in range(7)]
    assert {"s0", "s2", "s3"} <= set(taken)
    ds = values(workspace)
    for i in (0, 1, 2, 3, 5, 6):
        np.testing.assert_array_equal(ds.B08.values[i], world.values[f"s{i}"]["B08"])


def test_what_is_listed_no_more_is_withdrawn(world, workspace):
    for i in range(4):
        world.add(f"s{i}", f"2020-03-{1 + 5 * i:02d}T10:00")
    world.faults = {"s1": "corrupt", "s2": "missing"}
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    lost = world.scenes.pop("s1")
    del world.scenes["s0"]  # it is stored, so nobody waits for it
    world.save()
    report = backfill("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.absent) == (0, 0, 2)
    [s1, s2] = gaps("w", workspace, now=NOW).ranges
    assert (s1.status, s2.status) == (Status.ABSENT_AT_SOURCE, Status.ABSENT_AT_SOURCE)
    assert "no longer lists it" in s1.reason
    assert "corrupt" in s1.reason  # and why it had failed
    assert "no longer" not in s2.reason
    before = Archive.load(workspace, "w").snapshot
    backfill("w", workspace=workspace, now=NOW)
    assert Archive.load(workspace, "w").snapshot == before
    world.scenes["s1"], world.faults = lost, {}
    world.save()
    assert backfill("w", workspace=workspace, now=NOW).new == 2  # it is listed again
    assert gaps("w", workspace, now=NOW).fraction == 1.0


def test_a_failed_scene_gets_its_slot_when_its_tile_begins(world, workspace):
    world.add("first", "2020-03-01T10:00")
    world.add("other", "2020-03-01T10:00", tile="T2")
    world.faults = {"first": "corrupt"}
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    assert Cube.load(workspace, "w").tiles() == ["T2"]
    world.add("second", "2020-03-06T10:00")
    world.save()
    ingest("w", workspace=workspace, now=NOW)
    ds = values(workspace)
    assert [str(t)[:10] for t in ds.time.values] == ["2020-03-01", "2020-03-06"]
    assert (ds.quality.values[0] == Quality.MISSING).all()


def test_a_scene_published_again_replaces_only_its_step(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.add("b", "2020-03-06T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    cube = Cube.load(workspace, "w")
    before, old = cube.snapshot, values(workspace).B04.values
    world.add("a", "2020-03-01T10:00", version="2", void=(slice(0, 64), slice(0, 64)))
    world.save()
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.rewritten, report.skipped) == (0, 1, 1)
    ds = values(workspace)
    np.testing.assert_array_equal(ds.B04.values[0], world.values["a"]["B04"])
    np.testing.assert_array_equal(ds.B04.values[1], old[1])
    assert cube.items("T1", 0)[0]["version"] == "2"
    np.testing.assert_array_equal(values(workspace, as_of=before).B04.values, old)
    assert rollback("w", before, workspace)
    np.testing.assert_array_equal(values(workspace).B04.values, old)
    assert len(history("w", workspace)) == 4


def test_a_changed_scene_is_rebuilt_with_the_others_of_its_step(world, workspace):
    half = (slice(0, 64), slice(None))
    world.add("a", "2020-03-01T10:00")
    world.add("b", "2020-03-01T10:01")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    assert (values(workspace).scene.values == 1).all()
    world.add("a", "2020-03-01T10:00", version="2", void=half)
    world.save()
    assert ingest("w", workspace=workspace, now=NOW).rewritten == 1
    ds = values(workspace)
    assert (ds.scene.values[0, :64] == 2).all()  # what the new version lacks, the second scene shows
    np.testing.assert_array_equal(ds.B04.values[0, :64], world.values["b"]["B04"][:64])
    np.testing.assert_array_equal(ds.B04.values[0, 64:], world.values["a"]["B04"][64:])


def test_a_changed_scene_that_cannot_be_read_leaves_the_old_one(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    old = values(workspace).B04.values
    world.add("a", "2020-03-01T10:00", version="2")
    world.truncate("a", "B04")
    world.save()
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.rewritten, report.failed) == (0, 1)
    np.testing.assert_array_equal(values(workspace).B04.values, old)
    row = SceneLedger.load(Archive.load(workspace, "w")).get("a", "T1")
    assert (row.present, row.version) == (True, "1")


def test_a_late_scene_of_a_stored_step(world, workspace):
    """In time order it fills what is open, earlier ones go first: as if all had come at once."""
    south, north = (slice(64, 128), slice(None)), (slice(0, 64), slice(None))
    parts = {"a": ("2020-03-01T10:00", None), "b": ("2020-03-01T10:01", south), "c": ("2020-03-01T10:02", north)}
    for order in (("b", "c", "a"), ("c", "b", "a"), ("b", "a", "c")):
        fresh = type(workspace)(f"{workspace.root}-{''.join(order)}")
        for name in order:
            world.scenes.pop(name, None)
        world.scenes = {}
        for name in order:
            world.add(name, parts[name][0], void=parts[name][1])
            world.publish(fresh)
            assert ingest("w", workspace=fresh, now=NOW).new == 1
        ds = values(fresh)
        assert [i["id"] for i in Cube.load(fresh, "w").items("T1", 0)] == ["a", "b", "c"]
        np.testing.assert_array_equal(ds.B04.values[0], world.values["a"]["B04"])


def test_an_older_processing_gives_way(world, workspace):
    world.add("a-0300", "2020-03-01T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    del world.scenes["a-0300"]
    world.add("a-0500", "2020-03-01T10:00", properties={"supersedes": ["a-0300"]})
    world.save()
    ingest("w", workspace=workspace, now=NOW)
    np.testing.assert_array_equal(values(workspace).B04.values[0], world.values["a-0500"]["B04"])
    assert [r.scene for r in SceneLedger.load(Archive.load(workspace, "w")).rows.values()] == ["a-0500"]
    assert gaps("w", workspace, now=NOW).fraction == 1.0


def test_two_baselines_on_one_scale(world, workspace):
    """Stored with offset 0 before baseline 04.00: 1000 is added, nodata stays."""
    world.add("old", "2020-03-01T10:00", pair={"scale": 1e-4, "offset": 0.0}, void=(slice(0, 5), slice(None)))
    world.add("new", "2020-03-06T10:00")
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    ds = values(workspace)
    stored, old = ds.B04.values, world.values["old"]["B04"].astype(int)
    np.testing.assert_array_equal(stored[0], np.where(old == 0, 0, old + 1000))
    np.testing.assert_array_equal(stored[1], world.values["new"]["B04"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pair": {"scale": 2e-4, "offset": 0.0}}, "scale"),
        ({"res": 20.0, "shape": (64, 96)}, "pixels"),
        ({"crs": "EPSG:32634"}, "EPSG:32634"),
    ],
)
def test_what_does_not_fit_is_refused(world, workspace, change, word):
    world.add("good", "2020-03-01T10:00")
    world.add("odd", "2020-03-06T10:00", **change)
    world.publish(workspace)
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed) == (1, 1)
    assert word in report.problems[0].what
    assert (values(workspace).quality.values[1] == Quality.MISSING).all()


def test_a_later_scene_beyond_its_tile_is_said(world, workspace):
    world.add("a", "2020-03-01T10:00")
    world.publish(workspace)
    assert ingest("w", workspace=workspace, now=NOW).notes == []
    world.add("b", "2020-03-06T10:00", origin=(500_100.0, 4_599_950.0))  # 10 pixels east, 5 south
    world.add("c", "2020-03-11T10:00", origin=(500_010.0, 4_600_000.0))  # one pixel is no news
    world.save()
    report = ingest("w", workspace=workspace, now=NOW)
    assert report.new == 2
    ds = values(workspace)
    assert ds.sizes == {"time": 3, "y": 128, "x": 192}
    np.testing.assert_array_equal(ds.B04.values[1, 5:, 10:], world.values["b"]["B04"][:-5, :-10])
    assert (ds.quality.values[1, :5] == Quality.MISSING).all()
    assert (ds.quality.values[1, :, :10] == Quality.MISSING).all()
    assert (ds.quality.values[1, 5:, 10:] == Quality.CLEAR).all()
    share = 1 - (123 * 182) / (128 * 192)
    [note] = report.notes
    assert f"{share:.1%} of the pixels of b" in note
    assert "scheme: grid" in note
    assert note in "\n".join(report.lines())
    cube = Cube.load(workspace, "w")
    assert [cube.items("T1", i)[0].get("outside") for i in range(3)] == [None, round(share, 6), None]
    found = gaps("w", workspace, now=NOW)
    assert found.fraction == 1.0  # they are there, as far as the tile goes
    assert [line.strip() for line in found.lines() if "outside" in line] == [
        f"b, tile T1: {share:.1%} of its pixels lie outside the tile"
    ]
    assert found.to_dict()["cut"] == list(found.cut)
    from pyproj import Transformer

    from eoflow.why import why

    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(500_505.0, 4_599_495.0)
    assert f"{share:.1%}" in "\n".join(why("w", lon, lat, "2020-03-06", workspace).lines())


@pytest.mark.parametrize(("tiles", "room"), [({}, (4, 6)), ({"margin": 0.0}, (0, 0)), ({"margin": 0.1}, (13, 20))])
def test_a_tile_holds_all_scenes_that_are_known_when_it_begins(world, workspace, tiles, room, monkeypatch):
    """Whichever comes first; with some room for later ones, since these frames wander."""
    from eoflow.ingest.scenes import plan

    monkeypatch.setattr(plan, "BATCH_SCENES", 1)
    world.add("a", "2020-03-01T10:00")
    world.add("b", "2020-03-06T10:00", origin=(500_100.0, 4_599_950.0))  # 10 pixels east, 5 south
    world.add("c", "2020-03-11T10:00", origin=(499_930.0, 4_600_020.0))  # 7 west, 2 north
    world.publish(workspace, tiles={"chunk": 64, "overviews": [4], **tiles})
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed, report.notes) == (3, 0, [])
    ds = values(workspace)
    top, left = 2 + room[0], 7 + room[1]
    assert ds.sizes == {"time": 3, "y": top + 128 + 5 + room[0], "x": left + 192 + 10 + room[1]}
    at = {"a": (0, 0), "b": (5, 10), "c": (-2, -7)}
    for i, (name, (row, column)) in enumerate(at.items()):
        rows, columns = slice(top + row, top + row + 128), slice(left + column, left + column + 192)
        for band in world.bands:
            np.testing.assert_array_equal(ds[band].values[i, rows, columns], world.values[name][band])
        assert int((ds.quality.values[i] == Quality.CLEAR).sum()) == 128 * 192
    assert (float(ds.x[left]), float(ds.y[top])) == (500_005.0, 4_599_995.0)
    assert all("outside" not in Cube.load(workspace, "w").items("T1", i)[0] for i in range(3))


def test_a_listing_that_tells_the_grids_sets_the_tile(world, workspace, monkeypatch):
    """As of STAC items: known before a header of the later scenes is read."""
    from eoflow.ingest.scenes import plan
    from eoflow.sources.raster import RasterReader, fill_in

    monkeypatch.setattr(plan, "FIRST_SLICE", 1)
    monkeypatch.setattr(plan, "SLICE", 1)
    reader = RasterReader()
    for i, east in enumerate((0, 30, 60)):
        scene = world.add(f"s{i}", f"2020-0{3 + i}-01T10:00", origin=(500_000.0 + 10 * east, 4_600_000.0))
        world.scenes[scene.id] = scene.with_bands(
            **{n: fill_in(b, reader.header(b.href)) for n, b in scene.bands.items()}
        )  # fmt: skip
    reader.close()
    world.publish(workspace, tiles={"chunk": 64, "overviews": [4], "margin": 0})
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.notes) == (3, [])
    ds = values(workspace)
    assert ds.sizes == {"time": 3, "y": 128, "x": 192 + 60}
    for i in range(3):
        np.testing.assert_array_equal(ds.B08.values[i, :, 30 * i : 30 * i + 192], world.values[f"s{i}"]["B08"])


def test_values_out_of_range_and_missing_bands(world, workspace):
    world.add("a", "2020-03-01T10:00")
    scene = world.add("b", "2020-03-06T10:00")
    world.scenes["b"] = type(scene)(**{**scene.__dict__, "bands": {"B04": scene.bands["B04"]}})
    entry = world.entry()
    bands = {n: b.model_dump(exclude_none=True) for n, b in entry.bands.items()}
    bands["B08"]["valid_range"] = [0.0, 0.5]
    world.publish(workspace, bands=bands)
    report = ingest("w", workspace=workspace, now=NOW)
    assert (report.new, report.failed) == (0, 2)
    said = " ".join(p.what for p in report.problems)
    assert "outside 0 to 0.5" in said
    assert "does not have B08" in said


def test_cells_of_a_grid(world, workspace):
    """A scene across cell edges goes into each cell it touches; the pixels are where they were."""
    world.add("a", "2020-03-01T10:00", origin=(499_800.0, 4_600_320.0))
    world.publish(workspace, tiles={"scheme": "grid", "resolution": 10, "shape": 64, "chunk": 64, "overviews": []})
    report = ingest("w", workspace=workspace, now=NOW)
    assert report.new == 1
    cube = Cube.load(workspace, "w")
    got = np.zeros((128, 192), "u2")
    missing = 0
    for tile in cube.tiles():
        grid = cube.grid(tile)
        assert grid.transform[2] % 640 == 0
        assert grid.transform[5] % 640 == 0
        column, row = int((grid.transform[2] - 499_800) / 10), int((4_600_320 - grid.transform[5]) / 10)
        ds = cube.open(tile, chunks=None)
        inside = ds.quality.values[0] != Quality.MISSING
        missing += (~inside).sum()
        rows, columns = np.nonzero(inside)
        got[rows + row, columns + column] = ds.B04.values[0][inside]
    np.testing.assert_array_equal(got, world.values["a"]["B04"])
    assert missing == len(cube.tiles()) * 64 * 64 - got.size
    assert Archive.load(workspace, "w").attrs()["eoflow_kind"] == "scenes"


def test_a_plan_that_a_kill_cut_short_is_known(world, workspace, monkeypatch):
    """The first commit notes every planned scene, so what never came is a gap, and the next run fetches it."""
    from eoflow.ingest.scenes import plan
    from eoflow.ingest.scenes.job import SceneJob

    monkeypatch.setattr(plan, "BATCH_SCENES", 1)
    for i in range(3):
        world.add(f"s{i}", f"2020-0{3 + 2 * i}-01T10:00")  # more than the lookback apart
    world.publish(workspace)
    whole, calls = SceneJob.commit, []

    def dies(self, *args, **more):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(self, *args, **more)

    monkeypatch.setattr(SceneJob, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        ingest("w", workspace=workspace, now=NOW)
    found = gaps("w", workspace, now=NOW)
    assert (found.expected, found.count(Status.NEVER_TRIED)) == (3, 2)
    monkeypatch.setattr(SceneJob, "commit", whole)
    assert ingest("w", workspace=workspace, now=NOW).new == 2


def test_wrong_entries(world, workspace):
    world.add("a", "2020-03-01T10:00", pair={"scale": None, "offset": None})
    world.publish(workspace, sensor="unheard-of", bands={"B04": {"nodata": 0}})
    with pytest.raises(BadInput, match="units") as e:
        ingest("w", workspace=workspace, now=NOW)
    assert "B04" in e.value.text()
    assert not Archive(workspace, "w").exists()
    world.faults = {"a": "corrupt"}
    world.publish(workspace)
    with pytest.raises(Failure, match="corrupt"):
        ingest("w", workspace=workspace, now=NOW)
    world.faults = {}
    world.publish(workspace)
    ingest("w", workspace=workspace, now=NOW)
    world.publish(workspace, tiles={"chunk": 128})
    with pytest.raises(BadInput, match="tiles"):
        ingest("w", workspace=workspace, now=NOW)
    world.publish(workspace, source={"driver": "sample"})
    with pytest.raises(BadInput, match="gives fields"):
        ingest("w", workspace=workspace, now=NOW)
