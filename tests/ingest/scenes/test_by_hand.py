"""Scenes given by hand: all of them or nothing."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import rasters

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.run import gaps, history, ingest

HOW = {"units": "1", "scale": 1e-4, "offset": 0.0, "nodata": 0}
NOW = "2024-01-01"


def day(i: int) -> str:
    return (datetime.date(2022, 1, 1) + datetime.timedelta(days=5 * i)).isoformat()


def write(folder: Path, i: int, seed: int | None = None) -> tuple[Path, np.ndarray]:
    data = np.random.default_rng(i if seed is None else seed).integers(1001, 9000, (2, 96, 96)).astype("u2")
    folder.mkdir(exist_ok=True)
    path = rasters.write(folder / f"field_{day(i)}.tif", data, nodata=0, descriptions=("red", "nir"))
    return path, data


def go(files, workspace, **how):
    return ingest("mine", files, workspace=workspace, now=NOW, overrides=how.pop("overrides", HOW), **how)


def tree(root: str) -> dict[str, bytes]:
    """Every file of a workspace but locks."""
    base = Path(root)
    return {str(p): p.read_bytes() for p in base.rglob("*") if p.is_file() and "locks" not in p.parts}


def test_first_again_and_later(tmp_path, workspace):
    made = [write(tmp_path / "in", i) for i in range(3)]
    files = [p for p, _ in made]
    report = go(files[:2], workspace)
    assert (report.new, report.commits) == (2, 1)
    assert [c.details["what"] for c in history("mine", workspace)] == ["ingest"]
    before = tree(workspace.root)
    report = go(files[:2], workspace)
    assert (report.new, report.skipped, report.commits) == (0, 2, 0)
    assert tree(workspace.root) == before
    report = go([files[2]], workspace)
    assert (report.new, report.skipped) == (1, 0)
    cube = Cube.load(workspace, "mine")
    [tile] = cube.tiles()
    ds = cube.open(tile, chunks=None)
    for i, name in enumerate(cube.schema.names):
        np.testing.assert_array_equal(ds[name].values, np.stack([d[i] for _, d in made]))
    assert len(catalog.entry("mine", workspace).source.args["paths"]) == 3
    assert gaps("mine", workspace, now=NOW).fraction == 1.0
    assert cube.archive.staging_branches() == []
    go([tmp_path / "in"], workspace)  # as a folder: nothing new
    assert len(cube.times(tile)) == 3


def test_other_values_need_rewrite(tmp_path, workspace):
    path, old = write(tmp_path / "in", 0)
    go([path], workspace)
    before = tree(workspace.root)
    _, new = write(tmp_path / "in", 0, seed=99)
    with pytest.raises(BadInput, match="other values") as e:
        go([path], workspace)
    assert "--rewrite" in e.value.text()
    assert tree(workspace.root) == before
    assert go([path], workspace, rewrite=True).rewritten == 1
    cube = Cube.load(workspace, "mine")
    ds = cube.open(cube.tiles()[0], chunks=None)
    np.testing.assert_array_equal(ds[cube.schema.names[0]].values[0], new[0])
    path.touch()  # the same values under another date of the file
    report = go([path], workspace)
    assert (report.skipped, report.commits) == (1, 0)
    assert (old != new).any()


def test_files_that_lie_a_little_apart_share_a_tile(tmp_path, workspace):
    """The tile holds all that are given together; what is given later may be cut, and that is said."""
    data = np.random.default_rng(5).integers(1001, 9000, (3, 96, 96)).astype("u2")
    files = []
    for i, east in enumerate((20.0, 0.0, 90.0)):
        path = tmp_path / f"field_{day(i)}.tif"
        files.append(rasters.write(path, data[i], origin=(500_000.0 + 10 * east, 4_600_000.0), nodata=0))
    how = {**HOW, "tile_by": "name", "tiles": {"margin": 0.0}}
    report = go(files[:2], workspace, overrides=how)
    assert (report.new, report.notes[1:]) == (2, [])
    cube = Cube.load(workspace, "mine")
    [tile] = cube.tiles()
    ds = cube.open(tile, chunks=None)
    (band,) = cube.schema.names
    assert ds.sizes["x"] == 96 + 20
    np.testing.assert_array_equal(ds[band].values[0, :, 20:], data[0])
    np.testing.assert_array_equal(ds[band].values[1, :, :96], data[1])
    report = go(files[2:], workspace, overrides=how)
    assert report.new == 1
    assert f"{70 / 96:.1%}" in report.notes[-1]


@pytest.mark.parametrize("first", [True, False])
def test_bad_input_changes_nothing(tmp_path, workspace, first):
    good, _ = write(tmp_path / "in", 0)
    if not first:
        go([good], workspace)
    before = tree(workspace.root) if Path(workspace.root).exists() else {}
    files = [write(tmp_path / "in", i)[0] for i in range(1, 4)]
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput) as e:
        go(files, workspace)
    assert files[1].name in e.value.text()
    assert e.value.exit_code == 2
    assert (tree(workspace.root) if Path(workspace.root).exists() else {}) == before
    assert not first or not Archive(workspace, "mine").exists()


def test_pixels_that_cannot_be_read(tmp_path, workspace):
    """Headers are fine, so it is noticed in the middle of the work; the store stays as it was."""
    import rasterio

    path, _ = write(tmp_path / "in", 0)
    go([path], workspace)
    before = tree(workspace.root)
    files = [write(tmp_path / "in", i)[0] for i in (1, 2)]
    with rasterio.open(files[1]) as f:
        at = int(f.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", 1))
    raw = files[1].read_bytes()
    files[1].write_bytes(raw[:at] + bytes(64) + raw[at + 64 :])
    with pytest.raises(BadInput) as e:
        go(files, workspace)
    assert files[1].name in e.value.text()
    assert {k for k in tree(workspace.root) if "refs" in k} == {k for k in before if "refs" in k}
    assert Cube.load(workspace, "mine").archive.staging_branches() == []
    assert len(history("mine", workspace)) == 1


def test_fields_and_scenes_are_kept_apart(tmp_path, workspace):
    path, _ = write(tmp_path / "in", 0)
    go([path], workspace)
    import xarray as xr

    ds = xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), np.full((2, 3, 4), 1e5, "f4"), {"units": "Pa"})},
        coords={"time": np.array(["2001-01-01", "2001-01-02"], "M8[ns]"), "latitude": [50.0, 40, 30],
                "longitude": [0.0, 10, 20, 30]},
    )  # fmt: skip
    ds.to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    with pytest.raises(BadInput):
        ingest("mine", [tmp_path / "f.nc"], workspace=workspace, now=NOW)
    ingest("fields", [tmp_path / "f.nc"], workspace=workspace, now=NOW)
    with pytest.raises(BadInput, match="fields"):
        ingest("fields", [path], workspace=workspace, now=NOW, overrides=HOW)
    with pytest.raises(BadInput, match="fields"):
        Cube.load(workspace, "fields")
    with pytest.raises(BadInput, match="cadence"):
        go([path], workspace, cadence="5d")


def test_a_killed_run_goes_on(tmp_path, workspace, monkeypatch):
    from eoflow.ingest.scenes import by_hand, plan

    monkeypatch.setattr(plan, "BATCH_SCENES", 1)
    made = [write(tmp_path / "in", i) for i in range(4)]
    files = [p for p, _ in made]
    go(files[:1], workspace)
    publish, read = by_hand._publish, []

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(by_hand, "_publish", dies)
    with pytest.raises(KeyboardInterrupt):
        go(files, workspace)
    cube = Cube.load(workspace, "mine")
    assert len(cube.times(cube.tiles()[0])) == 1
    assert len(cube.archive.staging_branches()) == 1
    monkeypatch.setattr(by_hand, "_publish", publish)
    from eoflow.ingest.scenes.job import SceneJob

    commit = SceneJob.commit
    monkeypatch.setattr(
        SceneJob, "commit", lambda self, batch, *a, **k: (read.append(batch), commit(self, batch, *a, **k))
    )
    report = go(files, workspace)
    assert (report.new, report.skipped) == (3, 1)
    assert read == []  # everything was on the staging branch already
    cube = Cube.load(workspace, "mine")
    ds = cube.open(cube.tiles()[0], chunks=None)
    np.testing.assert_array_equal(ds[cube.schema.names[1]].values, np.stack([d[1] for _, d in made]))
