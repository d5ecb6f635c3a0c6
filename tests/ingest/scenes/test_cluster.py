"""The same ingest on Dask workers, as threads or as processes of their own, gives the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import rasters
from sceneworld import World
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.ingest.run import ingest
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.workspace import Workspace

NOW = "2024-01-01"
HOW = {"units": "1", "scale": 1e-4, "offset": 0.0, "nodata": 0}


def stored(workspace: Workspace, name: str) -> dict[str, bytes]:
    """Every key of the newest state, as encoded; attributes and ledger times that tell the clock left out."""
    store = Archive.load(workspace, name).repo.readonly_session("main").store

    async def read():
        keys = [k async for k in store.list() if k != "zarr.json" and not k.startswith("ledger/batch/c")]
        return {k: (await store.get(k, default_buffer_prototype())).to_bytes() for k in keys}

    return sync(read())


@pytest.fixture
def files(tmp_path):
    out = []
    for i in range(4):
        data = np.random.default_rng(i).integers(1001, 9000, (2, 300, 400)).astype("u2")
        data[:, : 20 * i] = 0
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        out.append(
            rasters.write(folder / f"f_2022-01-{1 + 5 * i:02d}.tif", data, nodata=0, descriptions=("red", "nir"))
        )
    return out


@pytest.mark.slow
def test_processes_give_the_same_bytes(files, tmp_path, monkeypatch):
    import distributed

    from eoflow.ingest import workers

    monkeypatch.setattr(workers, "block_bytes", lambda: 200_000)  # several windows a scene
    overrides = {**HOW, "tiles": {"chunk": 128, "overviews": [4]}}
    quiet, spread = Workspace(tmp_path / "quiet"), Workspace(tmp_path / "spread")
    ingest("mine", files, workspace=quiet, now=NOW, overrides=overrides)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        report = ingest("mine", files[:3], workspace=spread, now=NOW, overrides=overrides)
        assert report.new == 3
        assert ingest("mine", files[3:], workspace=spread, now=NOW, overrides=overrides).new == 1
    one, two = stored(quiet, "mine"), stored(spread, "mine")
    pixels = {k for k in one if k.startswith("tiles/")}
    assert len(pixels) > 100
    assert {k for k in two if k.startswith("tiles/")} == pixels
    for k in pixels:
        assert one[k] == two[k], k
    assert Archive.load(spread, "mine").staging_branches() == []


def test_threads_of_a_cluster_and_a_bad_scene(tmp_path):
    import distributed

    world = World(tmp_path / "provider")
    for i in range(4):
        world.add(f"s{i}", f"2020-03-{1 + 3 * i:02d}T10:00")
    world.add("s0b", "2020-03-01T10:01")
    world.damage("s2", "B04")
    quiet, spread = Workspace(tmp_path / "quiet"), Workspace(tmp_path / "spread")
    for workspace in (quiet, spread):
        world.publish(workspace)
    ingest("w", workspace=quiet, now=NOW)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        report = ingest("w", workspace=spread, now=NOW)
    assert (report.new, report.failed) == (4, 1)
    one, two = stored(quiet, "w"), stored(spread, "w")
    assert {k: v for k, v in one.items() if k.startswith("tiles/")} == {
        k: v for k, v in two.items() if k.startswith("tiles/")
    }
    a, b = (SceneLedger.load(Archive.load(w, "w")).rows for w in (quiet, spread))
    assert [(r.key, r.status, r.digest) for r in a.values()] == [(r.key, r.status, r.digest) for r in b.values()]
    assert Archive.load(spread, "w").staging_branches() == []
    assert [c.details["what"] for c in Cube.load(spread, "w").archive.history()] == ["ingest", "create"]
