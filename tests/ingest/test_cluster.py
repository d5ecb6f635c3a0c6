"""The same ingest on Dask workers gives the same archive."""

from __future__ import annotations

import numpy as np
import xarray as xr
from eoflow_test_ingest import truth, when

import eoflow
from eoflow.archive import Archive
from eoflow.ingest.run import ingest
from eoflow.workspace import Workspace


def test_on_a_cluster_of_threads(workspace, entry, world, write_nc, tmp_path):
    import distributed

    files = [write_nc("a.nc", range(20)), write_nc("b.nc", range(20, 50))]
    world.corrupt = {"a8"}
    quiet = Workspace(tmp_path / "quiet")
    eoflow.ingest("mine", files, workspace=quiet, now="2020")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        r = ingest("mem", workspace=workspace, now=when(23))
        eoflow.ingest("mine", files, workspace=workspace, now="2020")
    assert (r.new, r.failed) == (20, 4)
    archive = Archive.load(workspace, "mem")
    ds = archive.open(chunks=None)
    keep = [*range(8), *range(12, 24)]
    np.testing.assert_array_equal(ds.z.values[keep], truth(range(24))["z"][keep])
    assert np.isnan(ds.z.values[8:12]).all()
    assert archive.staging_branches() == []
    assert [c.details["what"] for c in archive.history()] == ["ingest", "create"]
    for group in (None, "ledger"):
        a, b = (Archive.load(w, "mine").open(group=group).load() for w in (quiet, workspace))
        xr.testing.assert_equal(a, b)
